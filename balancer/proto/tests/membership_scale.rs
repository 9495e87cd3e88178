//! Membership of 1 to 1,000 speakers for long: what is removed wrongly, how soon a death is known, and what it sends.
//! Takes minutes, so it runs when it is asked for: `make bench-membership`.

#![allow(clippy::disallowed_macros, reason = "the figures are what a run is for")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{Cluster, name};

/// Bytes a second that a member sends, headers of IPv4 and UDP included.
fn rate(cluster: &mut Cluster, member: usize, seconds: u64) -> u64 {
    let bytes = |cluster: &Cluster| {
        let counters = cluster.counters(member);
        counters.sent_bytes + 28 * counters.sent
    };
    let before = bytes(cluster);
    cluster.run(Duration::from_secs(seconds));
    (bytes(cluster) - before) / seconds
}

#[test]
#[ignore = "takes minutes"]
fn a_death_is_known_in_time_at_every_size_and_little_is_sent() {
    for (size, limit, bytes) in [
        (1, 500, 3000),
        (2, 500, 3000),
        (3, 500, 3000),
        (16, 500, 3000),
        (100, 1500, 20_000),
        (1000, 3000, 20_000),
    ] {
        let mut cluster = Cluster::joined(size, 1);
        let rate = rate(&mut cluster, 0, 20);
        cluster.power_off(size / 2);
        let want: BTreeSet<String> = (0..size).filter(|node| *node != size / 2).map(name).collect();
        let start = cluster.now;
        let others = || (0..size).filter(|node| *node != size / 2);
        let all = cluster.run_until(Duration::from_millis(limit), |cluster| {
            others().all(|node| cluster.knows(node, &want))
        });
        let took = cluster.now - start;
        println!(
            "{size} members: a death is known by all after {} ms; {rate} bytes a second each",
            took.as_millis()
        );
        assert!(all, "{size} members: not known to all after {took:?}");
        assert!(rate < bytes, "{size} members: {rate} bytes a second");
    }
}

#[test]
#[ignore = "takes minutes"]
fn a_day_of_one_percent_loss_removes_nobody() {
    for size in [3, 16] {
        let mut cluster = Cluster::joined(size, 1);
        cluster.loss = 0.01;
        cluster.run(Duration::from_secs(24 * 3600));
        println!("{size} members in 24 hours of 1 % loss: {} removals", cluster.removals.len());
        assert_eq!(cluster.removals, vec![], "{size} members");
    }
}

#[test]
#[ignore = "takes minutes"]
fn false_removals_at_five_percent_loss_are_few() {
    for size in [3, 16] {
        let mut cluster = Cluster::joined(size, 1);
        cluster.loss = 0.05;
        cluster.run(Duration::from_secs(3600));
        let removals = cluster.removals.len();
        println!("{size} members in an hour of 5 % loss: {removals} removals");
        assert!(removals < size, "{:?}", cluster.removals);
    }
}

#[test]
#[ignore = "takes minutes"]
fn ten_minutes_of_standstills_remove_nobody_when_tolerant() {
    for size in [3, 16] {
        let mut cluster = Cluster::tolerant(size, 1);
        for round in 0..75 {
            cluster.freeze(round % size, Duration::from_secs(3));
            cluster.run(Duration::from_secs(8));
        }
        println!("{size} members in ten minutes of standstills of 3 s: {} removals", cluster.removals.len());
        assert_eq!(cluster.removals, vec![], "{size} members");
    }
}
