use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::*;

const RIVAL: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address() -> IpAddr {
    ip("172.22.0.101")
}

fn decoys() -> [IpAddr; DECOYS] {
    [ip("172.22.0.7"), ip("172.22.0.8")]
}

fn fast(withhold: bool) -> Settings {
    Settings { probe: Some(Pace::FAST), withhold }
}

/// A guard under a virtual clock that starts at zero.
struct Bench {
    origin: Instant,
    now: Duration,
    guard: Guard,
    budget: Budget,
}

impl Bench {
    fn new(settings: Settings, fresh: bool) -> Self {
        let origin = origin();
        let mut guard = Guard::new(settings, [7; 32]);
        guard.assign(origin, &[(address(), fresh)].into());
        Self { origin, now: Duration::ZERO, guard, budget: Budget::new(1000) }
    }

    /// Runs to `until` and tells what was asked for, each with its time in milliseconds.
    fn run(&mut self, until: u64) -> Vec<(u128, Action)> {
        let end = Duration::from_millis(until);
        let mut done = vec![];
        while let Some(due) = self.guard.deadline().map(|due| due - self.origin).filter(|due| *due <= end) {
            self.now = due;
            let actions = self.guard.poll(self.origin + due, &mut self.budget);
            done.extend(actions.into_iter().map(|action| (due.as_millis(), action)));
        }
        self.now = end;
        done
    }

    /// What the rival's claim leads to at once.
    fn claim(&mut self, address: IpAddr) -> Vec<Action> {
        self.claim_of(RIVAL, address)
    }

    fn claim_of(&mut self, mac: MacAddress, address: IpAddr) -> Vec<Action> {
        let now = self.origin + self.now;
        let changed = self.guard.claim(now, Claim { address, mac }, decoys);
        if changed { self.guard.poll(now, &mut self.budget) } else { vec![] }
    }

    fn conflict(&self) -> Option<Conflict> {
        self.guard.conflicts().get(&address()).copied()
    }
}

fn probe(target: IpAddr) -> Action {
    Action::Probe { address: address(), target }
}

#[test]
fn a_fresh_address_is_probed_for_a_tenth_of_a_second_and_then_announced() {
    let mut bench = Bench::new(fast(true), true);
    let own = probe(address());
    assert_eq!(bench.run(99), [(0, own), (20, own), (40, own)]);
    assert!(bench.guard.withholds(address()));
    bench.run(100);
    assert!(!bench.guard.withholds(address()));
    assert_eq!((bench.guard.deadline(), bench.conflict()), (None, None));
}

#[test]
fn an_address_that_was_announced_before_waits_for_nothing_and_neither_does_one_without_probes() {
    assert!(!Bench::new(fast(true), false).guard.withholds(address()));
    let off = Settings { probe: None, withhold: true };
    assert!(!Bench::new(off, true).guard.withholds(address()));
}

#[test]
fn the_times_of_the_rfc_are_kept() {
    for seed in 0..50 {
        let mut bench = Bench::new(fast(true), false);
        bench.guard = Guard::new(Settings { probe: Some(Pace::RFC5227), withhold: true }, [seed; 32]);
        bench.guard.assign(bench.origin, &[(address(), true)].into());
        let at: Vec<u128> = bench.run(60_000).into_iter().map(|(at, _)| at).collect();
        let [first, second, third] = at[..] else { panic!("{at:?}") };
        assert!(first <= 1000, "{at:?}");
        assert!((1000..=2000).contains(&(second - first)), "{at:?}");
        assert!((1000..=2000).contains(&(third - second)), "{at:?}");
        assert!(!bench.guard.withholds(address()));
    }
}

#[test]
fn an_address_of_another_host_is_withheld_and_asked_for_again_until_it_is_free() {
    let mut bench = Bench::new(fast(true), true);
    bench.run(30);
    let [first, second] = decoys().map(probe);
    assert_eq!(bench.claim(address()), [first, second]);
    assert_eq!(bench.run(129), [(50, first), (50, second), (70, first), (70, second)]);
    assert_eq!(bench.conflict(), None, "it may be a proxy");
    let own = probe(address());
    assert_eq!(bench.run(10_169), [(10_130, own), (10_150, own)]);
    let conflict = Conflict { mac: RIVAL, withheld: true };
    assert_eq!(bench.conflict(), Some(conflict), "still, while it is asked again");
    bench.run(10_170);
    bench.claim(address());
    bench.run(10_300);
    assert_eq!(bench.conflict(), Some(conflict));
    // The other host leaves.
    bench.run(20_400);
    assert_eq!((bench.conflict(), bench.guard.withholds(address())), (None, false));
}

#[test]
fn a_conflict_that_is_not_withheld_is_reported() {
    let mut bench = Bench::new(fast(false), true);
    bench.run(0);
    bench.claim(address());
    bench.run(100);
    assert_eq!(bench.conflict(), Some(Conflict { mac: RIVAL, withheld: false }));
    assert!(!bench.guard.withholds(address()));
}

#[test]
fn a_neighbour_that_answers_for_every_free_address_is_a_proxy() {
    let mut bench = Bench::new(fast(true), true);
    bench.run(10);
    bench.claim(address());
    let [first, second] = decoys();
    bench.claim(first);
    assert!(bench.guard.withholds(address()), "one address may be its own");
    bench.claim(second);
    assert_eq!((bench.conflict(), bench.guard.withholds(address())), (None, false));
    assert_eq!(bench.claim(address()), [], "it is known as a proxy from then on");
    assert_eq!(bench.conflict(), None);
}

#[test]
fn an_announced_address_is_defended_once_an_interval_and_the_rival_forgotten_in_time() {
    let mut bench = Bench::new(fast(true), false);
    let mut defended = vec![];
    for second in 0..25 {
        let done = bench.run(second * 1000);
        defended
            .extend(done.iter().filter(|(_, done)| *done == Action::Defend(address())).map(|(at, _)| *at));
        bench.claim(address());
        assert!(!bench.guard.withholds(address()));
    }
    assert_eq!(defended, [100, 11_100, 22_100], "after it was seen to be no proxy");
    let conflict = Some(Conflict { mac: RIVAL, withheld: false });
    assert_eq!((bench.conflict(), bench.guard.withholds(address())), (conflict, false));
    bench.run(24_000 + 59_999);
    assert_eq!(bench.conflict(), conflict);
    bench.run(24_000 + 60_000);
    assert_eq!((bench.conflict(), bench.guard.deadline()), (None, None));
}

#[test]
fn of_many_rivals_one_an_interval_is_told() {
    let mut bench = Bench::new(fast(true), false);
    let mut told = BTreeSet::new();
    for tenth in 0..200_u8 {
        bench.run(u64::from(tenth) * 100);
        bench.claim_of(MacAddress([2, 0, 0, 0, 1, tenth]), address());
        told.extend(bench.conflict().map(|conflict| conflict.mac));
    }
    assert_eq!(told.len(), 2, "in twenty seconds: {told:?}");
}

#[test]
fn a_proxy_is_no_conflict_of_an_announced_address_and_is_tried_again_in_time() {
    let mut bench = Bench::new(fast(true), false);
    let [first, second] = decoys();
    let tried = [probe(first), probe(second)];
    assert_eq!(bench.claim(address()), tried);
    bench.claim(first);
    bench.claim(second);
    bench.run(59_999);
    assert_eq!((bench.claim(address()), bench.conflict()), (vec![], None));
    bench.run(60_000);
    // It has the address by now, and answers for no other.
    assert_eq!(bench.claim(address()), tried);
    bench.run(60_200);
    assert_eq!(bench.conflict(), Some(Conflict { mac: RIVAL, withheld: false }));
}

#[test]
fn a_verification_goes_on_when_plans_are_made() {
    let mut bench = Bench::new(fast(true), false);
    bench.claim(address());
    bench.run(50);
    bench.guard.assign(bench.origin + bench.now, &[(address(), false)].into());
    assert!(bench.run(100).contains(&(100, Action::Defend(address()))));
}

#[test]
fn two_that_probe_at_one_time_both_yield_and_one_has_it_in_the_end() {
    let mut both = [Bench::new(fast(true), true), Bench::new(fast(true), true)];
    both[1].guard = Guard::new(fast(true), [8; 32]);
    both[1].guard.assign(both[1].origin, &[(address(), true)].into());
    let mut had_it = None;
    for at in 0..120_000 {
        let own = probe(address());
        let asks = [0, 1].map(|index: usize| both[index].run(at).iter().any(|(_, action)| *action == own));
        for index in [0, 1].into_iter().filter(|index: &usize| asks[*index]) {
            let other = &mut both[1 - index];
            if other.guard.withholds(address()) {
                let claim = Claim { address: address(), mac: RIVAL };
                other.guard.probed(other.origin + other.now, claim, decoys);
            } else {
                // It is announced, and so answered for.
                both[index].claim(address());
            }
        }
        let have = [0, 1].map(|index: usize| !both[index].guard.withholds(address()));
        assert_ne!(have, [true, true], "both have it after {at} ms");
        assert!(at > 200 || have == [false, false], "one took it while the other asked");
        had_it = had_it.or((have != [false, false]).then_some(at));
    }
    assert!(had_it.is_some_and(|at| at < 60_000), "{had_it:?}");
}

#[test]
fn what_another_node_of_the_cluster_claims_is_said_once_more_an_interval() {
    let mut bench = Bench::new(fast(true), false);
    let again = Some(Action::Again(address()));
    let kin = |bench: &mut Bench, ms| bench.guard.kin(bench.origin + Duration::from_millis(ms), address());
    assert_eq!([0, 100, 9_999, 10_000].map(|ms| kin(&mut bench, ms)), [again, None, None, again]);
    assert_eq!(bench.conflict(), None);
    let mut withheld = Bench::new(fast(true), true);
    assert_eq!(kin(&mut withheld, 0), None, "it is not announced yet");
}

#[test]
fn an_address_that_is_assigned_no_more_is_forgotten_and_one_that_is_fresh_no_more_announced() {
    let mut bench = Bench::new(fast(true), true);
    bench.guard.assign(bench.origin, &[(address(), false)].into());
    assert!(!bench.guard.withholds(address()));
    bench.guard.assign(bench.origin, &BTreeMap::new());
    assert_eq!(bench.claim(address()), []);
    assert_eq!((bench.guard.deadline(), bench.conflict()), (None, None));
}

#[test]
fn a_decoy_is_another_host_of_the_same_network() {
    let net = |text: &str| Some(text.parse::<IpNet>().unwrap());
    for random in (0..2000).chain([u128::MAX]) {
        for (address, network, within) in [
            ("172.22.0.101", net("172.22.0.11/16"), "172.22.0.0/16"),
            ("172.22.0.101", net("172.22.0.11/30"), "172.22.0.100/30"),
            ("172.22.0.101", net("172.22.0.11/32"), "172.22.0.100/30"),
            ("203.0.113.9", None, "203.0.113.0/24"),
            ("fd00:22::101", None, "fd00:22::/64"),
        ] {
            let within: IpNet = within.parse().unwrap();
            let found = decoy(ip(address), network, random);
            assert!(within.contains(&found) && found != ip(address), "{found} for {address}");
            let edges = found.is_ipv4() && (found == within.network() || found == within.broadcast());
            assert!(!edges, "{found} is no host of {within}");
        }
    }
}

/// Many fresh addresses at once, and ten frames a second.
fn crowd(count: u32) -> (Bench, BTreeMap<IpAddr, bool>) {
    let mut bench = Bench::new(fast(true), false);
    let addresses: BTreeMap<IpAddr, bool> =
        (0..count).map(|number| (IpAddr::from(Ipv4Addr::from(0xac16_0000 + number)), true)).collect();
    bench.guard = Guard::new(fast(true), [7; 32]);
    bench.budget = Budget::new(10);
    bench.guard.assign(bench.origin, &addresses);
    (bench, addresses)
}

#[test]
fn probes_for_many_addresses_keep_the_pace_and_each_is_asked_for_in_full() {
    let (mut bench, addresses) = crowd(100);
    let asked = bench.run(30_000);
    let in_window = |start: u128| asked.iter().filter(|(at, _)| (start..start + 1000).contains(at)).count();
    assert!((18..=20).contains(&in_window(0)), "a second's frames are saved at first: {}", in_window(0));
    for start in (1000..28_000).step_by(250) {
        assert!((8..=12).contains(&in_window(start)), "{} from {start} ms on", in_window(start));
    }
    assert_eq!(asked.len(), 300);
    for address in addresses.into_keys() {
        let probe = Action::Probe { address, target: address };
        let at: Vec<u128> = asked.iter().filter(|(_, action)| *action == probe).map(|(at, _)| *at).collect();
        let [first, second, third] = at[..] else { panic!("{address}: {at:?}") };
        assert_eq!((second - first, third - second), (20, 20), "{address}");
    }
}

#[test]
fn what_the_pace_keeps_waiting_for_a_second_is_announced_and_asked_for_later() {
    let (mut bench, addresses) = crowd(100);
    let announced =
        |bench: &Bench| addresses.keys().filter(|address| !bench.guard.withholds(**address)).count();
    bench.run(100);
    assert_eq!((announced(&bench), bench.guard.overdue()), (3, 0), "nine of ten frames are saved for three");
    bench.run(999);
    assert_eq!((announced(&bench), bench.guard.overdue()), (6, 0));
    bench.run(1000);
    assert_eq!((announced(&bench), bench.guard.overdue()), (100, 94));
    // It is written down that they are announced, which takes none from the queue.
    bench
        .guard
        .assign(bench.origin + bench.now, &addresses.keys().map(|address| (*address, false)).collect());
    bench.run(29_000);
    assert_eq!(bench.guard.overdue(), 1);
    bench.run(29_100);
    assert_eq!((announced(&bench), bench.guard.overdue(), bench.guard.deadline()), (100, 0, None));
}

#[test]
fn a_new_address_goes_before_those_that_are_announced_already() {
    let (mut bench, mut addresses) = crowd(100);
    bench.run(5000);
    addresses.insert(address(), true);
    bench.guard.assign(bench.origin + bench.now, &addresses);
    let asked = bench.run(5400);
    assert!(asked.iter().any(|(_, action)| *action == probe(address())), "{asked:?}");
    bench.run(5500);
    assert!(!bench.guard.withholds(address()));
}

#[test]
fn an_address_that_was_announced_unasked_is_withdrawn_when_another_host_has_it() {
    let (mut bench, _) = crowd(100);
    let late = ip("172.22.0.99");
    let claim = Claim { address: late, mac: RIVAL };
    bench.run(20_000);
    assert!(!bench.guard.withholds(late));
    let now = bench.origin + bench.now;
    bench.guard.claim(now, claim, decoys);
    assert!(!bench.guard.withholds(late), "it may be a proxy");
    bench.run(22_000);
    let conflict = Some(&Conflict { mac: RIVAL, withheld: true });
    assert_eq!(bench.guard.conflicts().get(&late), conflict);
    bench.guard.assign(bench.origin + bench.now, &[(late, false)].into());
    bench.run(33_000);
    assert!(!bench.guard.withholds(late), "free after all");
}
