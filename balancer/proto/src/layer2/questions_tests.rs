use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::layer2::MacAddress;
use crate::layer2::conflict::{Pace, Settings};
use crate::layer2::gratuitous::{self, Schedule};
use crate::layer2::responder::Claim;
use crate::layer2::wire_check::Subject;

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn address(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from(0xac16_0000 + number).into()
}

const RATE: u32 = 10;
/// Number of the address that others announce.
const THEIRS: u32 = 1000;

/// One node on one interface: it checks one address of another without pause.
struct Bench {
    origin: Instant,
    now: Instant,
    questions: Questions,
    schedule: Schedule,
    /// Frames sent unasked, first rounds aside, and when.
    frames: Vec<(u128, u32)>,
    probes: BTreeMap<IpAddr, u32>,
    checks: u32,
    rounds: u32,
}

impl Bench {
    fn new() -> Self {
        let origin = origin();
        let settings = Settings { probe: Some(Pace::FAST), withhold: true };
        let mut checker = Checker::new(Some(Duration::ZERO), RATE);
        let subject = Subject { macs: [MacAddress([2, 0, 0, 0, 0, 2])].into(), host: address(2) };
        checker.assign(origin, [(address(THEIRS), subject)].into());
        let repeat = gratuitous::Settings { rate: RATE, ..gratuitous::Settings::default() };
        Self {
            origin,
            now: origin,
            questions: Questions::new(Guard::new(settings, [7; 32]), checker, RATE),
            schedule: Schedule::new(repeat),
            frames: vec![],
            probes: BTreeMap::new(),
            checks: 0,
            rounds: 0,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.questions.deadline(self.now).into_iter().chain(self.schedule.deadline()).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            let at = (self.now - self.origin).as_millis();
            let (actions, question) = self.questions.poll(self.now);
            for action in actions {
                let Action::Probe { address, .. } = action else { panic!("{action:?}") };
                *self.probes.entry(address).or_default() += 1;
                self.schedule.spend(self.now);
                self.frames.push((at, 1));
            }
            if question.is_some() {
                self.checks += 1;
                (0..2).for_each(|_| self.schedule.spend(self.now));
                self.frames.push((at, 2));
            }
            let rounds = self.schedule.due(self.now);
            self.rounds += u32::try_from(rounds.len()).unwrap();
            self.frames.extend(rounds.iter().map(|_| (at, 2)));
        }
        self.now = end;
    }
}

#[test]
fn checks_without_end_keep_neither_probes_nor_announcements_waiting() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(60));
    assert!(bench.checks > 100, "{} checks in a minute", bench.checks);

    // An address that is new, and one that was announced before.
    bench.questions.guard.assign(bench.now, &[(address(1), true), (address(2), false)].into());
    bench.schedule.start(bench.now, address(2));
    bench.run(Duration::from_millis(900));
    assert_eq!(bench.probes, [(address(1), 3)].into());
    assert!(!bench.questions.guard.withholds(address(1)));
    assert_eq!(bench.questions.guard.overdue(), 0);
    bench.schedule.start(bench.now, address(1));
    bench.run(Duration::from_secs(9));
    assert_eq!(bench.rounds, 10, "five of each");

    // One that another host had is asked for again, and announced once it is free.
    bench.questions.guard.assign(bench.now, &[(address(3), true)].into());
    bench.run(Duration::from_millis(900));
    let decoys = [address(4), address(5)];
    let rival = Claim { address: address(3), mac: MacAddress([2, 0, 0, 0, 0, 9]) };
    bench.questions.guard.assign(bench.now, &[(address(6), true)].into());
    bench.questions.guard.claim(bench.now, Claim { address: address(6), ..rival }, || decoys);
    bench.run(Duration::from_secs(5));
    assert!(bench.questions.guard.withholds(address(6)));
    bench.run(Duration::from_secs(8));
    assert!(!bench.questions.guard.withholds(address(6)));

    let checks = bench.checks;
    bench.run(Duration::from_secs(10));
    assert!(bench.checks > checks, "checks go on");
    // Both budgets start with what was saved; from then on the pace holds on the whole.
    let sent: u32 = bench.frames.iter().filter(|(at, _)| *at > 10_000).map(|(_, frames)| *frames).sum();
    let seconds = u32::try_from((bench.now - bench.origin).as_secs()).unwrap() - 10;
    assert!(sent <= seconds * RATE + 2 * RATE, "{sent} frames in {seconds} s");
}

#[test]
fn what_is_announced_at_once_is_asked_for_once_when_nothing_else_waits() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(10));
    let at_once: BTreeMap<IpAddr, bool> = (0..20).map(|number| (address(number), false)).collect();
    bench.questions.guard.assign(bench.now, &at_once);
    bench.run(Duration::from_millis(2900));
    assert_eq!(bench.probes, BTreeMap::new(), "a former owner may still answer");
    // A new one goes first.
    let fresh = address(100);
    let all = at_once.into_iter().chain([(fresh, true)]).collect();
    bench.questions.guard.assign(bench.now, &all);
    let checks = bench.checks;
    bench.run(Duration::from_millis(900));
    assert_eq!(bench.probes.get(&fresh), Some(&3));
    bench.run(Duration::from_secs(20));
    assert_eq!(bench.probes.remove(&fresh), Some(3));
    assert_eq!(bench.probes, (0..20).map(|number| (address(number), 1)).collect());
    assert!(bench.checks > checks + 20, "checks go on beside");
    // Whoever answers is told of, and the address stays.
    let rival = Claim { address: address(3), mac: MacAddress([2, 0, 0, 0, 0, 9]) };
    assert!(bench.questions.guard.claim(bench.now, rival, || [address(200), address(201)]));
    let mut defended = vec![];
    for _ in 0..100 {
        bench.now += Duration::from_millis(10);
        let (actions, _) = bench.questions.poll(bench.now);
        defended.extend(actions.into_iter().filter(|action| matches!(action, Action::Defend(_))));
    }
    assert_eq!(defended, [Action::Defend(address(3))]);
    let conflict = bench.questions.guard.conflicts()[&address(3)];
    assert_eq!((conflict.mac, conflict.withheld), (rival.mac, false));
}

#[test]
fn checks_wait_while_probes_do() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(10));
    let addresses = (0..100).map(|number| (address(number), true)).collect();
    bench.questions.guard.assign(bench.now, &addresses);
    let checks = bench.checks;
    bench.run(Duration::from_secs(25));
    assert_eq!(bench.checks, checks, "as many probes as the pace allows");
    assert!(bench.probes.values().filter(|probes| **probes == 3).count() >= 75, "{:?}", bench.probes);
    bench.run(Duration::from_secs(20));
    assert!(bench.checks > checks);
}
