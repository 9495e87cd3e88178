//! What a cluster of speakers knows about itself, under a virtual clock.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use metallb_proto::membership::{Event, Facts, Link, Secret, Secrets, Timing};
use support::{Cluster, address, name};

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn nodes(indexes: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    indexes.into_iter().map(name).collect()
}

/// How long it takes until every node in `observers` has exactly `want` as members.
fn agreed(cluster: &mut Cluster, limit: Duration, observers: &[usize], want: &BTreeSet<String>) -> Duration {
    let start = cluster.now;
    let done = cluster.run_until(limit, |cluster| observers.iter().all(|node| cluster.knows(*node, want)));
    let seen: Vec<_> = observers.iter().map(|node| (name(*node), cluster.members(*node))).collect();
    assert!(done, "after {limit:?} wanted {want:?}, seen {seen:?}");
    cluster.now - start
}

#[test]
fn three_speakers_find_each_other_at_once() {
    let mut cluster = Cluster::new(3, 1);
    (0..3).for_each(|node| cluster.start(node));
    let took = agreed(&mut cluster, ms(1000), &[0, 1, 2], &nodes(0..3));
    assert!(took < ms(250), "joined after {took:?}");
    assert!((0..3).all(|node| cluster.roster(node).settled && cluster.roster(node).unheard.is_empty()));
}

#[test]
fn a_node_that_is_powered_off_is_known_to_be_gone_within_500_ms() {
    for (size, rounds) in [(2, 20), (3, 20), (5, 10), (16, 4)] {
        for seed in 0..rounds {
            let mut cluster = Cluster::joined(size, seed);
            cluster.run(ms(seed * 7));
            cluster.power_off(0);
            let others: Vec<usize> = (1..size).collect();
            let took = agreed(&mut cluster, ms(500), &others, &nodes(1..size));
            assert!(took > ms(200), "nobody can know after {took:?}");
        }
    }
}

#[test]
fn a_node_that_comes_back_is_a_member_again_within_a_second() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.power_off(2);
    cluster.run(Duration::from_secs(30));
    cluster.start(2);
    agreed(&mut cluster, ms(1000), &[0, 1, 2], &nodes(0..3));
}

#[test]
fn a_crashed_speaker_on_a_living_node_stays_in_for_two_seconds() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.kill(2);
    cluster.run(ms(1800));
    assert_eq!(cluster.members(0), nodes(0..3));
    agreed(&mut cluster, ms(300), &[0, 1], &nodes(0..2));
}

#[test]
fn a_speaker_that_is_back_soon_never_left() {
    for seed in 0..10 {
        let mut cluster = Cluster::joined(3, seed);
        cluster.kill(2);
        cluster.run(ms(1000 + seed * 77));
        cluster.start(2);
        cluster.run(Duration::from_secs(10));
        assert_eq!(cluster.removals, vec![], "seed {seed}");
        assert!((0..3).all(|node| cluster.members(node) == nodes(0..3)));
    }
}

#[test]
fn a_speaker_that_says_that_it_restarts_may_take_five_seconds() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.tell(2, Event::Restarting);
    cluster.run(ms(50));
    cluster.kill(2);
    cluster.run(ms(4500));
    assert_eq!(cluster.removals, vec![]);
    agreed(&mut cluster, ms(1000), &[0, 1], &nodes(0..2));
}

#[test]
fn a_speaker_that_restarts_while_datagrams_are_lost_may_take_as_long() {
    for seed in 0..20 {
        let mut cluster = Cluster::joined(3, seed);
        cluster.loss = 0.5;
        cluster.tell(2, Event::Restarting);
        cluster.run(ms(50));
        cluster.kill(2);
        cluster.loss = 0.0;
        cluster.run(ms(4500));
        assert_eq!(cluster.removals, vec![], "seed {seed}");
    }
}

#[test]
fn a_node_that_reboots_while_its_speaker_restarts_is_gone_soon() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.tell(2, Event::Restarting);
    cluster.run(ms(50));
    cluster.kill(2);
    cluster.run(ms(1500));
    cluster.host_gone(2);
    agreed(&mut cluster, ms(900), &[0, 1], &nodes(0..2));
}

#[test]
fn a_member_that_leaves_is_gone_at_once() {
    let mut cluster = Cluster::joined(5, 1);
    cluster.tell(4, Event::Leave);
    assert_eq!(cluster.members(4), nodes(0..4), "by its own word too");
    agreed(&mut cluster, ms(50), &[0, 1, 2, 3], &nodes(0..4));
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.members(0), nodes(0..4), "it does not come back by itself");
    cluster.kill(4);
    cluster.run(Duration::from_secs(5));
    cluster.start(4);
    agreed(&mut cluster, ms(1000), &[0, 1, 2, 3, 4], &nodes(0..5));
}

#[test]
fn a_member_that_leaves_while_datagrams_are_lost_is_gone_at_once() {
    for seed in 0..20 {
        let mut cluster = Cluster::joined(3, seed);
        cluster.loss = 0.5;
        cluster.tell(2, Event::Leave);
        agreed(&mut cluster, ms(50), &[0, 1], &nodes(0..2));
    }
}

#[test]
fn a_large_set_of_facts_arrives() {
    let mut cluster = Cluster::joined(3, 1);
    let kept = (0..1000_u32).map(|number| std::net::Ipv4Addr::from(0x0a63_0000 + number).into()).collect();
    let facts = Facts { kept, ..Facts::default() };
    cluster.tell(0, Event::Facts(facts.clone()));
    let known = |cluster: &Cluster| (1..3).all(|node| cluster.facts(node, 0).as_ref() == Some(&facts));
    assert!(cluster.run_until(ms(10), known));
}

#[test]
fn the_link_layer_addresses_of_a_dead_node_are_still_known() {
    let mut cluster = Cluster::joined(2, 1);
    let mac = metallb_proto::layer2::MacAddress([2, 0, 0, 0, 0, 1]);
    cluster.tell(1, Event::Facts(Facts { macs: [mac].into(), ..Facts::default() }));
    cluster.run(ms(10));
    cluster.power_off(1);
    agreed(&mut cluster, ms(500), &[0], &nodes(0..1));
    assert_eq!(cluster.roster(0).macs, [mac].into());
}

#[test]
fn a_node_that_is_deleted_is_forgotten_in_time() {
    let mut cluster = Cluster::joined(2, 1);
    let mac = metallb_proto::layer2::MacAddress([2, 0, 0, 0, 0, 1]);
    cluster.tell(1, Event::Facts(Facts { macs: [mac].into(), ..Facts::default() }));
    cluster.run(ms(10));
    cluster.power_off(1);
    agreed(&mut cluster, ms(500), &[0], &nodes(0..1));
    cluster.tell(0, Event::Seeds(vec![]));
    cluster.run(Duration::from_secs(3500));
    cluster.tell(0, Event::Seeds(vec![]));
    let seen = |cluster: &Cluster| (cluster.roster(0).macs.clone(), cluster.roster(0).known.clone());
    assert_eq!(seen(&cluster), ([mac].into(), nodes([1])));
    cluster.run(Duration::from_secs(200));
    cluster.tell(0, Event::Seeds(vec![]));
    assert_eq!(seen(&cluster), (BTreeSet::new(), nodes([])));
}

#[test]
fn halves_of_a_cluster_part_and_meet_again_within_a_second() {
    for size in [2, 3, 8] {
        let mut cluster = Cluster::joined(size, 1);
        let half = size / 2;
        (0..half).for_each(|node| cluster.group(node, 1));
        agreed(&mut cluster, ms(1000), &(0..half).collect::<Vec<_>>(), &nodes(0..half));
        agreed(&mut cluster, ms(1000), &(half..size).collect::<Vec<_>>(), &nodes(half..size));
        cluster.run(Duration::from_secs(20));
        (0..half).for_each(|node| cluster.group(node, 0));
        agreed(&mut cluster, ms(1000), &(0..size).collect::<Vec<_>>(), &nodes(0..size));
    }
}

#[test]
fn ten_minutes_of_five_percent_loss_remove_nobody() {
    for size in [2, 3] {
        let mut cluster = Cluster::joined(size, 5);
        cluster.loss = 0.05;
        cluster.run(Duration::from_secs(600));
        assert_eq!(cluster.removals, vec![], "{size} members");
    }
}

#[test]
fn machines_that_stand_still_for_three_seconds_are_not_removed_when_tolerant() {
    let stand_still = |cluster: &mut Cluster| {
        for round in 0..9 {
            cluster.freeze(round % 3, ms(3000));
            cluster.run(ms(8000));
        }
        cluster.removals.len()
    };
    // The impatient ones show that the stalls are such that they matter.
    assert_eq!(stand_still(&mut Cluster::tolerant(3, 1)), 0);
    assert!(stand_still(&mut Cluster::joined(3, 1)) > 0);
}

#[test]
fn a_node_that_is_powered_off_is_known_to_be_gone_within_seven_seconds_when_tolerant() {
    for size in [2, 3, 16] {
        let mut cluster = Cluster::tolerant(size, 1);
        cluster.power_off(0);
        agreed(&mut cluster, ms(7000), &(1..size).collect::<Vec<_>>(), &nodes(1..size));
    }
}

#[test]
fn a_member_that_was_not_scheduled_blames_nobody() {
    let mut cluster = Cluster::joined(3, 1);
    for _ in 0..20 {
        cluster.stall(2, ms(1500));
        cluster.run(ms(4000));
    }
    assert_eq!(cluster.removals, vec![]);
}

#[test]
fn a_member_without_carrier_blames_nobody() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.tell(0, Event::Carrier(false));
    cluster.group(0, 1);
    cluster.run(ms(3000));
    assert_eq!(cluster.members(0), nodes(0..3));
    assert_eq!(cluster.members(1), nodes(1..3));
    cluster.group(0, 0);
    cluster.tell(0, Event::Carrier(true));
    agreed(&mut cluster, ms(1000), &[0, 1, 2], &nodes(0..3));
}

/// A member's link dies, and is back after `dark`.
fn relinked(dark: Duration) -> Cluster {
    let mut cluster = Cluster::joined(3, 1);
    cluster.tell(0, Event::Carrier(false));
    cluster.group(0, 1);
    cluster.run(dark);
    assert_eq!(cluster.roster(0).link, Link::Dead);
    cluster.tell(0, Event::Carrier(true));
    assert_eq!(cluster.roster(0).link, Link::Back);
    cluster
}

#[test]
fn a_member_whose_link_is_back_waits_until_the_others_are_members() {
    // After the longer time it takes them for dead.
    for dark in [1, 3, 20].map(Duration::from_secs) {
        let mut cluster = relinked(dark);
        // The switch does not forward yet.
        cluster.run(ms(1500));
        assert_eq!(cluster.roster(0).link, Link::Back);
        cluster.group(0, 0);
        let mut waited = 0;
        while cluster.roster(0).link == Link::Back {
            cluster.run(ms(1));
            waited += 1;
        }
        assert!(waited < 300, "{dark:?}: {waited} ms");
        assert_eq!(cluster.members(0), nodes(0..3), "{dark:?}");
        agreed(&mut cluster, ms(1000), &[0, 1, 2], &nodes(0..3));
    }
}

#[test]
fn a_member_whose_link_is_back_waits_a_moment_for_the_others_once_one_is_there() {
    let mut cluster = relinked(ms(1000));
    // The way to one of them is not there yet.
    cluster.group(2, 2);
    cluster.group(0, 0);
    cluster.run(ms(150));
    assert_eq!(cluster.roster(0).link, Link::Back);
    cluster.run(ms(100));
    assert_eq!(cluster.roster(0).link, Link::Works);
    cluster.group(2, 0);
    agreed(&mut cluster, ms(1500), &[0, 1, 2], &nodes(0..3));
}

#[test]
fn a_member_whose_link_is_back_does_not_wait_for_the_dead_forever() {
    let mut cluster = relinked(ms(1000));
    cluster.run(ms(1990));
    assert_eq!(cluster.roster(0).link, Link::Back);
    cluster.run(ms(20));
    assert_eq!(cluster.roster(0).link, Link::Works);
    agreed(&mut cluster, ms(1000), &[0], &nodes(0..1));
}

#[test]
fn a_member_that_is_alone_waits_for_nobody() {
    let mut cluster = Cluster::joined(1, 1);
    cluster.tell(0, Event::Carrier(false));
    cluster.tell(0, Event::Carrier(true));
    assert_eq!(cluster.roster(0).link, Link::Works);
}

#[test]
fn a_speaker_whose_clock_was_set_back_joins_all_the_same() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.kill(2);
    cluster.run(Duration::from_secs(10));
    cluster.start_at_epoch(2, 5);
    agreed(&mut cluster, ms(1000), &[0, 1, 2], &nodes(0..3));
}

#[test]
fn foreign_speakers_are_kept_out_and_counted() {
    let mut cluster = Cluster::new(3, 1);
    cluster.secret(2, "another");
    (0..3).for_each(|node| cluster.start(node));
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.members(0), nodes(0..2));
    assert_eq!(cluster.members(2), nodes(2..3));
    assert!(cluster.counters(0).foreign > 10, "{:?}", cluster.counters(0));
}

#[test]
fn a_secret_changes_without_a_gap_however_late_each_member_learns_of_it() {
    let secrets = |current: &str, previous: Option<&str>| {
        Event::Secrets(Secrets { current: Secret::new(current), previous: previous.map(Secret::new) })
    };
    let mut cluster = Cluster::joined(5, 1);
    for node in 0..5 {
        cluster.tell(node, secrets("new", Some("shared")));
        cluster.run(Duration::from_secs(3));
    }
    // A speaker that starts in between learns both at its start; here it knows the old one at first.
    cluster.run(Duration::from_secs(30));
    let foreign = cluster.counters(0).foreign;
    for node in 0..5 {
        cluster.tell(node, secrets("new", None));
        cluster.run(Duration::from_secs(3));
    }
    assert_eq!(cluster.removals, vec![]);
    assert_eq!(
        cluster.counters(0).foreign,
        foreign,
        "everybody spoke under the new secret before the old one went"
    );

    // The old one convinces nobody any more.
    cluster.kill(4);
    cluster.run(Duration::from_secs(5));
    cluster.start(4);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.members(0), nodes(0..4));
}

#[test]
fn a_recording_revives_nobody() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.record = Some(vec![]);
    cluster.run(Duration::from_secs(3));
    let record = cluster.record.take().unwrap();
    cluster.power_off(2);
    agreed(&mut cluster, ms(500), &[0, 1], &nodes(0..2));
    let before = cluster.counters(0);
    for (to, from, bytes) in &record {
        cluster.inject(*to, *from, bytes.clone());
    }
    cluster.run(Duration::from_secs(2));
    assert_eq!((cluster.members(0), cluster.members(1)), (nodes(0..2), nodes(0..2)));
    let replays = cluster.counters(0).replayed - before.replayed;
    assert_eq!(usize::try_from(replays).unwrap(), record.iter().filter(|(to, ..)| *to == 0).count());

    // A speaker that starts now has no memory of the recorded sessions: their owners have to show that they live.
    cluster.kill(1);
    cluster.start(1);
    for (to, from, bytes) in record {
        cluster.inject(to, from, bytes);
    }
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.members(1), nodes(0..2));
}

#[test]
fn a_seed_that_is_ready_and_never_heard_stays_a_candidate() {
    let mut cluster = Cluster::new(3, 1);
    cluster.start(0);
    cluster.start(1);
    cluster.run(ms(100));
    assert_eq!(cluster.members(0), nodes(0..2));
    assert!(!cluster.roster(0).settled, "node3 may still answer");
    cluster.run(Timing::FAST.detection());
    assert!(cluster.roster(0).settled);
    assert_eq!(cluster.roster(0).unheard, nodes([2]));
    assert_eq!(cluster.roster(0).candidates().collect::<Vec<_>>(), ["node1", "node2", "node3"]);
}

#[test]
fn a_seed_whose_host_is_off_is_no_candidate_until_it_answers() {
    let mut cluster = Cluster::new(2, 1);
    cluster.power_off(1);
    cluster.start(0);
    assert!(cluster.run_until(ms(600), |cluster| cluster.roster(0).settled));
    let seen = |cluster: &Cluster| (cluster.roster(0).unheard.clone(), cluster.roster(0).silent.clone());
    assert_eq!(seen(&cluster), (nodes([]), nodes([1])), "from the first moment on");
    cluster.run(Duration::from_secs(10));
    assert_eq!(seen(&cluster), (nodes([]), nodes([1])));
    cluster.host_back(1);
    assert!(cluster.run_until(ms(1500), |cluster| seen(cluster) == (nodes([1]), nodes([]))));

    // One that cannot be asked may be alive.
    let mut cluster = Cluster::new(2, 1);
    cluster.network(1, 1);
    cluster.power_off(1);
    cluster.start(0);
    cluster.run(Duration::from_secs(10));
    assert_eq!(seen(&cluster), (nodes([1]), nodes([])));
}

#[test]
fn a_speaker_restarts_though_some_of_its_watchers_are_in_another_network() {
    // Racks of three and four, each with a prefix of its own; what watches a node is in any of them.
    for restarted in 0..11 {
        let mut cluster = Cluster::joined(11, 1);
        (0..11).for_each(|node| cluster.network(node, (node + 1) / 4));
        cluster.tell(restarted, Event::Restarting);
        cluster.run(ms(50));
        cluster.kill(restarted);
        cluster.run(ms(4000));
        cluster.start(restarted);
        cluster.run(ms(2000));
        // A crash, of which nothing is said.
        cluster.kill(restarted);
        cluster.run(ms(1500));
        cluster.start(restarted);
        cluster.run(ms(2000));
        assert_eq!(cluster.removals, vec![], "node{}", restarted + 1);
        // Its host is asked by others, and is off.
        cluster.power_off(restarted);
        let others: Vec<usize> = (0..11).filter(|node| *node != restarted).collect();
        agreed(&mut cluster, ms(500), &others, &nodes(others.iter().copied()));
    }
}

#[test]
fn a_speaker_whose_host_nobody_can_ask_may_restart_if_it_said_so() {
    let mut cluster = Cluster::joined(3, 1);
    (0..3).for_each(|node| cluster.network(node, node));
    cluster.tell(2, Event::Restarting);
    cluster.run(ms(50));
    cluster.kill(2);
    cluster.run(ms(4500));
    assert_eq!(cluster.removals, vec![]);
    agreed(&mut cluster, ms(1000), &[0, 1], &nodes(0..2));
}

#[test]
fn a_new_speaker_learns_who_is_dead_and_waits_for_nobody() {
    let mut cluster = Cluster::joined(3, 1);
    cluster.power_off(2);
    cluster.run(Duration::from_secs(5));
    cluster.kill(1);
    cluster.run(ms(500));
    cluster.start(1);
    assert!(cluster.run_until(ms(50), |cluster| cluster.roster(1).settled), "{:?}", cluster.roster(1));
    assert_eq!((cluster.members(1), &cluster.roster(1).unheard), (nodes(0..2), &BTreeSet::new()));
}

#[test]
fn sixteen_members_send_less_than_three_kilobytes_a_second() {
    let mut cluster = Cluster::joined(16, 1);
    cluster.run(Duration::from_secs(10));
    let bytes = |cluster: &Cluster| {
        let counters = cluster.counters(0);
        // Headers of IPv4 and UDP count too.
        counters.sent_bytes + 28 * counters.sent
    };
    let before = bytes(&cluster);
    cluster.run(Duration::from_secs(60));
    let rate = (bytes(&cluster) - before) / 60;
    assert!((1000..3000).contains(&rate), "{rate} bytes a second");
}

#[test]
fn a_hundred_members_know_of_a_dead_one_within_a_second_and_a_half() {
    let mut cluster = Cluster::joined(100, 1);
    cluster.power_off(50);
    let want: BTreeSet<String> = (0..100).filter(|node| *node != 50).map(name).collect();
    let others: Vec<usize> = (0..100).filter(|node| *node != 50).collect();
    agreed(&mut cluster, ms(1500), &others, &want);
}

#[test]
fn garbage_is_counted_and_ignored() {
    let mut cluster = Cluster::joined(2, 1);
    for length in 0..200_u8 {
        cluster.inject(0, address(1), vec![length; usize::from(length)]);
    }
    cluster.run(ms(10));
    assert_eq!(cluster.counters(0).foreign, 200);
    assert_eq!(cluster.members(0), nodes(0..2));
}

#[test]
fn members_that_lose_all_udp_stay_by_tcp() {
    for size in [2, 3] {
        let mut cluster = Cluster::joined(size, 1);
        cluster.udp_blocked = true;
        cluster.run(Duration::from_secs(600));
        assert_eq!(cluster.removals, vec![], "{size} members");
        cluster.power_off(0);
        let others: Vec<usize> = (1..size).collect();
        agreed(&mut cluster, ms(600), &others, &nodes(1..size));
    }
}

#[test]
fn members_that_never_had_udp_find_each_other_by_tcp() {
    let mut cluster = Cluster::new(3, 1);
    cluster.udp_blocked = true;
    (0..3).for_each(|node| cluster.start(node));
    agreed(&mut cluster, ms(2000), &[0, 1, 2], &nodes(0..3));
    cluster.udp_blocked = false;
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.removals, vec![]);
}

#[test]
fn facts_reach_everybody_and_every_newcomer() {
    let facts = |names: &[&str]| Facts {
        interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Facts::default()
    };
    let everyone_knows = |want: Facts| {
        move |cluster: &Cluster| (0..5).all(|node| cluster.facts(node, 0).as_ref() == Some(&want))
    };
    let mut cluster = Cluster::joined(5, 1);
    cluster.loss = 0.3;
    cluster.tell(0, Event::Facts(facts(&["eth0", "eth1"])));
    assert!(
        cluster.run_until(ms(2000), everyone_knows(facts(&["eth0", "eth1"]))),
        "{:?}",
        (0..5).map(|node| cluster.facts(node, 0)).collect::<Vec<_>>()
    );
    cluster.loss = 0.0;
    cluster.tell(0, Event::Facts(facts(&["eth1"])));
    assert!(cluster.run_until(ms(10), everyone_knows(facts(&["eth1"]))));
    cluster.kill(4);
    cluster.run(ms(500));
    cluster.start(4);
    assert!(cluster.run_until(ms(50), everyone_knows(facts(&["eth1"]))));
    assert_eq!(cluster.facts(0, 4), None, "a new life has said nothing yet");
}

#[test]
fn facts_that_arrive_late_do_not_replace_later_ones() {
    let mut cluster = Cluster::joined(5, 1);
    cluster.stream_delay = ms(250);
    // Too large for a datagram, and a moment later no more.
    let kept = (0..1000_u32).map(|number| std::net::Ipv4Addr::from(0x0a63_0000 + number).into()).collect();
    cluster.tell(0, Event::Facts(Facts { kept, ..Facts::default() }));
    let now = Facts { interfaces: ["eth0".to_owned()].into(), ..Facts::default() };
    cluster.tell(0, Event::Facts(now.clone()));
    let everyone_knows = |cluster: &Cluster| (0..5).all(|node| cluster.facts(node, 0).as_ref() == Some(&now));
    assert!(cluster.run_until(ms(10), everyone_knows));
    for _ in 0..300 {
        cluster.run(ms(10));
        assert!(everyone_knows(&cluster), "after {:?}", cluster.elapsed());
    }
}

#[test]
fn facts_that_a_member_missed_reach_it_whoever_watches_it() {
    for (size, first) in [(5, 1), (16, 14)] {
        for missing in first..size {
            let mut cluster = Cluster::joined(size, 1);
            // Shorter than what counts as silence.
            cluster.group(missing, 1);
            let facts = Facts { interfaces: ["eth7".to_owned()].into(), ..Facts::default() };
            cluster.tell(0, Event::Facts(facts.clone()));
            cluster.run(ms(300));
            cluster.group(missing, 0);
            let knows = |cluster: &Cluster| cluster.facts(missing, 0).as_ref() == Some(&facts);
            assert!(!knows(&cluster));
            assert!(cluster.run_until(ms(1500), knows), "node{} of {size}", missing + 1);
            assert_eq!(cluster.removals, vec![]);
        }
    }
}

#[test]
fn facts_are_told_no_more_once_everybody_has_them() {
    let mut cluster = Cluster::joined(16, 1);
    let facts =
        Facts { macs: [metallb_proto::layer2::MacAddress([2, 0, 0, 0, 0, 1])].into(), ..Facts::default() };
    let sent = |cluster: &mut Cluster| {
        let before = cluster.counters(0).sent_bytes;
        cluster.run(Duration::from_secs(15));
        cluster.counters(0).sent_bytes - before
    };
    let quiet = sent(&mut cluster);
    cluster.tell(0, Event::Facts(facts));
    cluster.run(Duration::from_secs(5));
    let told = sent(&mut cluster);
    assert!(told < quiet + quiet / 10, "{told} bytes in fifteen seconds, and {quiet} before");
}

#[test]
fn a_speaker_that_is_not_heard_and_answers_for_its_addresses_stays_in_as_long_as_that_is_waited_for() {
    for (mut cluster, hold) in [(Cluster::joined(3, 1), 5_000), (Cluster::tolerant(3, 1), 10_000)] {
        cluster.kill(2);
        cluster.announces(2);
        cluster.run(ms(hold - 500));
        assert_eq!(cluster.removals, vec![]);
        agreed(&mut cluster, ms(1500), &[0, 1], &nodes(0..2));
    }
}
