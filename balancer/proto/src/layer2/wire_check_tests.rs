use super::*;

const OWNER: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
/// A router that answers for every address.
const PROXY: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x77]);
const HOST: &str = "172.22.0.11";
const ROUND: Duration = Duration::from_secs(10);

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn subjects(addresses: &[&str], mac: MacAddress) -> BTreeMap<IpAddr, Subject> {
    let subject = Subject { macs: [mac].into(), host: ip(HOST) };
    addresses.iter().map(|address| (ip(address), subject.clone())).collect()
}

/// A checker under a virtual clock, on a segment where these answer.
struct Bench {
    origin: Instant,
    checker: Checker,
    budget: Budget,
    answers: Vec<(IpAddr, MacAddress)>,
}

impl Bench {
    fn new(round: Option<Duration>, addresses: &[&str], answers: &[(&str, MacAddress)]) -> Self {
        let origin = origin();
        let mut checker = Checker::new(round, 10);
        checker.assign(origin, subjects(addresses, OWNER));
        let answers = answers.iter().map(|(address, mac)| (ip(address), *mac)).collect();
        Self { origin, checker, budget: Budget::new(10), answers }
    }

    /// Runs to `until` milliseconds; tells what was asked for, and when.
    fn run(&mut self, until: u64) -> Vec<(u128, IpAddr)> {
        let end = self.origin + Duration::from_millis(until);
        let mut asked = vec![];
        let mut now = self.origin;
        while let Some(due) = self.checker.deadline().filter(|due| *due <= end) {
            now = now.max(due);
            if let Some(question) = self.checker.poll(now, &mut self.budget) {
                asked.push(((now - self.origin).as_millis(), question.address));
                for (address, mac) in &self.answers {
                    if [question.address, question.host].contains(address) {
                        self.checker.claim(Claim { address: *address, mac: *mac }, *mac == PROXY);
                    }
                }
            }
        }
        asked
    }
}

#[test]
fn a_change_of_owner_is_checked_soon_and_then_round_robin() {
    let (a, b) = (ip("172.22.0.100"), ip("172.22.0.101"));
    let answers = [("172.22.0.100", OWNER), ("172.22.0.101", OWNER)];
    let mut bench = Bench::new(Some(ROUND), &["172.22.0.100", "172.22.0.101"], &answers);
    let asked = bench.run(40_000);
    assert_eq!(asked[..4], [(2000, a), (2100, a), (2200, b), (2600, b)], "half of the pace");
    let rounds: Vec<IpAddr> = asked[4..].iter().map(|(_, address)| *address).collect();
    assert_eq!(rounds, [a, a, b, b, a, a]);
    assert_eq!(bench.checker.outcomes(), [(a, Outcome::Passed), (b, Outcome::Passed)].into());
}

#[test]
fn a_second_answer_and_a_missing_one_fail_when_they_are_seen_twice() {
    let address = ip("172.22.0.100");
    let both: &[(&str, MacAddress)] = &[("172.22.0.100", OWNER), ("172.22.0.100", OTHER), (HOST, OWNER)];
    let wrong: &[(&str, MacAddress)] = &[("172.22.0.100", OTHER)];
    let none: &[(&str, MacAddress)] = &[(HOST, OWNER)];
    for (answers, others) in [(both, vec![OTHER]), (wrong, vec![OTHER]), (none, vec![])] {
        let mut bench = Bench::new(Some(ROUND), &["172.22.0.100"], answers);
        bench.run(2500);
        assert_eq!(bench.checker.outcomes(), BTreeMap::new(), "once may be a hand-over");
        bench.run(4000);
        let want = Outcome::Failed(others.into_iter().collect());
        assert_eq!(bench.checker.outcomes(), [(address, want)].into());
        // It is looked at again soon, however many others there are.
        bench.answers = vec![(address, OWNER)];
        bench.run(14_000);
        assert_eq!(bench.checker.outcomes(), [(address, Outcome::Passed)].into());
    }
}

#[test]
fn a_node_that_does_not_see_the_owner_knows_nothing() {
    // Another host has the owner's address: it is not the owner that is seen.
    for answers in [&[][..], &[(HOST, OTHER)]] {
        let mut bench = Bench::new(Some(ROUND), &["172.22.0.100"], answers);
        bench.run(10_000);
        assert_eq!(bench.checker.outcomes(), [(ip("172.22.0.100"), Outcome::Unknown)].into());
    }
}

#[test]
fn a_failure_is_looked_at_again_before_the_others_had_their_turn() {
    let addresses: Vec<String> = (0..100).map(|host| format!("172.22.0.{}", 100 + host)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut answers: Vec<(&str, MacAddress)> = addresses.iter().map(|address| (*address, OWNER)).collect();
    let lost = answers.remove(0);
    answers.push((HOST, OWNER));
    let mut bench = Bench::new(Some(ROUND), &addresses, &answers);
    bench.run(100_000);
    assert_eq!(bench.checker.outcomes().get(&ip(lost.0)), Some(&Outcome::Failed(BTreeSet::new())));
    bench.answers.push((ip(lost.0), lost.1));
    bench.run(115_000);
    assert_eq!(bench.checker.outcomes().get(&ip(lost.0)), Some(&Outcome::Passed));
}

#[test]
fn a_proxy_that_answers_too_is_no_failure_and_one_that_is_the_owner_counts() {
    let address = ip("172.22.0.100");
    let answers = [("172.22.0.100", OWNER), ("172.22.0.100", PROXY), (HOST, OWNER)];
    let mut bench = Bench::new(Some(ROUND), &["172.22.0.100"], &answers);
    bench.run(10_000);
    assert_eq!(bench.checker.outcomes(), [(address, Outcome::Passed)].into());
    bench.checker.assign(bench.origin, subjects(&["172.22.0.100"], PROXY));
    bench.answers = vec![(address, PROXY)];
    bench.run(20_000);
    assert_eq!(bench.checker.outcomes(), [(address, Outcome::Passed)].into());
}

#[test]
fn another_owner_is_checked_anew_and_an_address_of_others_no_more() {
    let address = ip("172.22.0.100");
    let mut bench = Bench::new(Some(ROUND), &["172.22.0.100"], &[("172.22.0.100", OWNER)]);
    bench.run(3000);
    bench.checker.assign(bench.origin + Duration::from_secs(3), subjects(&["172.22.0.100"], OTHER));
    assert_eq!(bench.run(6000).first(), Some(&(5000, address)));
    bench.run(7000);
    assert_eq!(bench.checker.outcomes(), [(address, Outcome::Failed([OWNER].into()))].into());
    bench.checker.assign(bench.origin + Duration::from_secs(8), BTreeMap::new());
    assert_eq!((bench.checker.outcomes(), bench.checker.deadline()), (BTreeMap::new(), None));
}

#[test]
fn continuous_checks_keep_the_pace_and_off_is_off() {
    let answers = [("172.22.0.100", OWNER)];
    let mut bench = Bench::new(Some(Duration::ZERO), &["172.22.0.100"], &answers);
    let asked = bench.run(62_000);
    assert!((148..=155).contains(&asked.len()), "{} questions in a minute, of two frames each", asked.len());
    assert_eq!(Bench::new(None, &["172.22.0.100"], &answers).run(60_000), []);
}
