use std::time::{Duration, Instant};

use super::*;

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([172, 22, 0, last])
}

/// Runs the clock from deadline to deadline and tells, in milliseconds, when each address was announced.
fn run(schedule: &mut Schedule, origin: Instant, until: Duration) -> Vec<(u128, u8)> {
    let mut sent = vec![];
    while let Some(deadline) = schedule.deadline().filter(|deadline| *deadline <= origin + until) {
        for address in schedule.due(deadline) {
            let IpAddr::V4(address) = address else { panic!("no IPv6 address was scheduled") };
            sent.push(((deadline - origin).as_millis(), address.octets()[3]));
        }
    }
    sent
}

#[test]
fn a_take_over_is_announced_at_once_and_then_every_interval() {
    let (origin, mut schedule) = (origin(), Schedule::new(Settings::default()));
    schedule.start(origin, address(1));
    let sent = run(&mut schedule, origin, Duration::from_secs(3600));
    assert_eq!(sent, vec![(0, 1), (1100, 1), (2200, 1), (3300, 1), (4400, 1)]);
    assert_eq!(schedule.deadline(), None);
}

#[test]
fn first_rounds_wait_for_nothing_and_later_rounds_keep_the_pace() {
    let settings = Settings { count: 2, rate: 10, ..Settings::default() };
    let (origin, mut schedule) = (origin(), Schedule::new(settings));
    for last in 1..=4 {
        schedule.start(origin, address(last));
    }
    let sent = run(&mut schedule, origin, Duration::from_secs(3600));
    assert_eq!(sent, vec![(0, 1), (0, 2), (0, 3), (0, 4), (1100, 1), (1300, 2), (1500, 3), (1700, 4)],);
}

#[test]
fn repetition_goes_on_until_the_address_is_given_up() {
    let settings = Settings { count: 1, repeat: Some(Duration::from_secs(60)), ..Settings::default() };
    let (origin, mut schedule) = (origin(), Schedule::new(settings));
    schedule.start(origin, address(1));
    let sent = run(&mut schedule, origin, Duration::from_secs(150));
    assert_eq!(sent, vec![(0, 1), (60_000, 1), (120_000, 1)]);
    schedule.stop(address(1));
    assert_eq!(schedule.deadline(), None);
}

#[test]
fn one_round_more_is_said_when_it_is_due_and_repetition_goes_on() {
    let settings = Settings { count: 1, repeat: Some(Duration::from_secs(60)), ..Settings::default() };
    let (origin, mut schedule) = (origin(), Schedule::new(settings));
    schedule.start(origin, address(1));
    run(&mut schedule, origin, Duration::from_secs(5));
    schedule.once(origin + Duration::from_secs(6), address(1));
    schedule.once(origin + Duration::from_secs(7), address(1));
    assert_eq!(run(&mut schedule, origin, Duration::from_secs(70)), vec![(6_000, 1), (66_000, 1)]);
    schedule.once(origin + Duration::from_secs(80), address(1));
    schedule.stop(address(1));
    assert_eq!(schedule.deadline(), None);
}

#[test]
fn other_frames_are_paid_by_announcements_that_may_wait() {
    let settings = Settings { count: 2, rate: 10, ..Settings::default() };
    let (origin, mut schedule) = (origin(), Schedule::new(settings));
    schedule.start(origin, address(1));
    (0..15).for_each(|_| schedule.spend(origin));
    let sent = run(&mut schedule, origin, Duration::from_secs(3600));
    assert_eq!(sent, vec![(0, 1), (1500, 1)]);
}

#[test]
fn a_count_of_zero_turns_announcements_off() {
    let (origin, mut schedule) = (origin(), Schedule::new(Settings { count: 0, ..Settings::default() }));
    schedule.start(origin, address(1));
    assert_eq!((schedule.deadline(), schedule.due(origin)), (None, vec![]));
}

#[test]
fn a_thousand_addresses_share_the_pace_fairly() {
    let settings = Settings { count: 2, rate: 10, ..Settings::default() };
    let (origin, mut schedule) = (origin(), Schedule::new(settings));
    for number in 0..1000_u32 {
        let address = IpAddr::from((0xac16_0000_u32 + number).to_be_bytes());
        schedule.start(origin, address);
    }
    assert_eq!(schedule.due(origin).len(), 1000);
    let mut second = BTreeMap::new();
    while let Some(deadline) = schedule.deadline() {
        for address in schedule.due(deadline) {
            *second.entry(address).or_insert(0) += 1;
        }
        assert!(
            deadline <= origin + Duration::from_millis(1100 + 1000 * 200),
            "still busy after {:?}",
            deadline - origin
        );
    }
    assert_eq!(second.len(), 1000);
    assert!(second.values().all(|times| *times == 1));
}

#[test]
fn a_first_round_that_the_interface_could_not_take_waits_for_no_pace() {
    let settings = Settings { count: 2, rate: 10, ..Settings::default() };
    let (origin, mut schedule) = (origin(), Schedule::new(settings));
    for last in 1..=4 {
        schedule.start(origin, address(last));
    }
    let (full, later) = (Duration::from_millis(5), Duration::from_secs(10));
    // Two go at a time.
    let mut sent = vec![];
    while let Some(deadline) = schedule.deadline().filter(|deadline| *deadline <= origin + later) {
        for (index, address) in schedule.due(deadline).into_iter().enumerate() {
            if index < 2 {
                sent.push(((deadline - origin).as_millis(), address));
            } else {
                schedule.unsent(deadline + full, address);
            }
        }
    }
    let want = [(0, 1), (0, 2), (5, 3), (5, 4), (1100, 1), (1300, 2), (1500, 3), (1700, 4)];
    assert_eq!(sent, want.map(|(at, last)| (at, address(last))));
    assert_eq!(schedule.deadline(), None);
    // One whose burst is a single round.
    let mut schedule = Schedule::new(Settings { count: 1, ..settings });
    schedule.start(origin, address(1));
    assert_eq!(schedule.due(origin), [address(1)]);
    schedule.unsent(origin + full, address(1));
    assert_eq!((schedule.due(origin), schedule.due(origin + full)), (vec![], vec![address(1)]));
}
