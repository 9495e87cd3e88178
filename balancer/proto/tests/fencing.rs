//! `fencing: Strict` in a cluster of speakers under a virtual clock: who has lost the majority announces no more before
//! anybody takes over from it.

mod support;

use std::time::Duration;

use metallb_proto::membership::Event;
use support::{Cluster, name};

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Runs until `observer` takes over from node1, watching that node1 does not announce by then any more.
fn taken_over(cluster: &mut Cluster, observer: usize, limit: Duration) -> Duration {
    let start = cluster.now;
    let done = cluster.run_until(limit, |cluster| !cluster.members(observer).contains(&name(0)));
    assert!(done, "{} still counts node1 after {limit:?}", name(observer));
    assert!(!cluster.may_announce(0), "node1 announces when {} takes over", name(observer));
    cluster.now - start
}

#[test]
fn a_minority_stops_before_anybody_takes_over_from_it() {
    for (size, seeds, limit) in [(3, 8, 1300), (4, 8, 1300), (5, 8, 1300), (16, 1, 1300), (64, 1, 2000)] {
        for seed in 0..seeds {
            let mut cluster = Cluster::fenced(size, seed);
            assert!((0..size).all(|node| cluster.may_announce(node)), "{size} members that are whole");
            cluster.run(ms(seed * 13));
            cluster.group(0, 1);
            let took = taken_over(&mut cluster, size / 2, ms(limit));
            assert!(took > ms(600), "{size} members: taken over after {took:?}");
            assert!(cluster.may_announce(size - 1), "the majority goes on");
            // Many members say much, which takes its time here.
            cluster.run(Duration::from_secs(if size > 5 { 1 } else { 30 }));
            cluster.group(0, 0);
            let back = cluster.run_until(ms(2000), |cluster| cluster.may_announce(0));
            assert!(back, "{size} members: node1 has its majority back");
        }
    }
}

#[test]
fn halves_of_equal_size_both_stop() {
    let mut cluster = Cluster::fenced(4, 1);
    cluster.group(0, 1);
    cluster.group(1, 1);
    cluster.run(ms(600));
    assert!((0..4).all(|node| !cluster.may_announce(node)));
}

#[test]
fn a_member_that_stood_still_does_not_announce_what_was_taken_over() {
    for seed in 0..10 {
        let mut cluster = Cluster::fenced(3, seed);
        // What reaches it meanwhile waits in its buffers, and must not count as news when it goes on.
        cluster.stall(0, ms(3000));
        cluster.run(ms(500));
        cluster.group(0, 1);
        cluster.host_gone(0);
        taken_over(&mut cluster, 1, ms(2000));
        cluster.run_until(ms(4000), |cluster| cluster.may_announce(0));
        assert!(!cluster.may_announce(0), "seed {seed}");
    }
}

#[test]
fn of_two_members_the_one_that_has_the_witness_goes_on() {
    let mut cluster = Cluster::fenced(2, 1);
    assert!(!cluster.wants_witness(0) && cluster.may_announce(0));
    cluster.group(0, 1);
    assert!(cluster.run_until(ms(400), |cluster| cluster.wants_witness(0) && cluster.wants_witness(1)));
    assert!(cluster.may_announce(0) && cluster.may_announce(1), "there is time for the API server to answer");
    cluster.tell(1, Event::Witnessed(cluster.now + ms(5000)));
    taken_over(&mut cluster, 1, ms(1300));
    assert!(cluster.may_announce(1));
    cluster.run(ms(5000));
    assert!(!cluster.may_announce(1), "the word of the API server has run out");
    cluster.group(0, 0);
    assert!(cluster.run_until(ms(2000), |cluster| cluster.may_announce(0) && cluster.may_announce(1)));
    assert!(!cluster.wants_witness(0) && !cluster.wants_witness(1));
}

#[test]
fn a_dead_member_is_replaced_and_one_that_leaves_at_once() {
    let mut cluster = Cluster::fenced(3, 1);
    cluster.power_off(0);
    let took = taken_over(&mut cluster, 1, ms(1300));
    assert!(took > ms(900), "others wait longer than node1 may go on: {took:?}");
    let mut cluster = Cluster::fenced(3, 1);
    cluster.tell(0, Event::Leave);
    assert!(cluster.run_until(ms(50), |cluster| !cluster.members(1).contains(&name(0))));
}

#[test]
fn ten_minutes_of_five_percent_loss_stop_nobody() {
    let mut cluster = Cluster::fenced(3, 3);
    cluster.loss = 0.05;
    for _ in 0..12_000 {
        cluster.run(ms(50));
        assert!((0..3).all(|node| cluster.may_announce(node)), "after {:?}", cluster.elapsed());
    }
    assert_eq!(cluster.removals, vec![]);
}
