//! What a node keeps although the election prefers another: everything with `failback: Never`, and else what went back
//! and forth too often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::plan::{Plan, World, plan};

/// Unforced moves of an address after which it stays where it is.
const MOVES: usize = 4;
/// The time within which they count.
const WINDOW: Duration = Duration::from_secs(180);

/// What one node remembers of the addresses that it gave away unforced.
#[derive(Clone, Debug, Default)]
pub struct Failback {
    never: bool,
    given_away: BTreeMap<IpAddr, Vec<Instant>>,
}

impl Failback {
    /// With `never`, an address never leaves a node that can go on announcing it.
    pub fn new(never: bool) -> Self {
        Self { never, ..Self::default() }
    }

    /// Whether the record of who announced last counts.
    pub fn is_never(&self) -> bool {
        self.never
    }

    /// Notes that the plan of the node `me` is `next` after `former`.
    pub fn observe(&mut self, now: Instant, world: &World, me: &str, former: &Plan, next: &Plan) {
        for moves in self.given_away.values_mut() {
            moves.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        }
        self.given_away.retain(|_, moves| !moves.is_empty());
        let moved: Vec<IpAddr> = former
            .announcements
            .keys()
            .filter(|address| next.elsewhere.contains_key(*address))
            .copied()
            .collect();
        if moved.is_empty() {
            return;
        }
        // A move is unforced when this node could have gone on.
        let mut kept = world.clone();
        for address in &moved {
            kept.kept.entry(*address).or_default().insert(me.to_owned());
        }
        let kept = plan(&kept, me);
        for address in moved.iter().filter(|address| kept.announcements.contains_key(*address)) {
            self.given_away.entry(*address).or_default().push(now);
        }
    }

    /// The addresses of `plan` that its node keeps from now on.
    pub fn kept(&self, now: Instant, plan: &Plan) -> BTreeSet<IpAddr> {
        let keeps = |address: &&IpAddr| self.never || self.release(now, address).is_some();
        plan.announcements.keys().filter(keeps).copied().collect()
    }

    /// When an address that is kept now is free to move again.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.given_away.keys().filter_map(|address| self.release(now, address)).min()
    }

    fn release(&self, now: Instant, address: &IpAddr) -> Option<Instant> {
        let moves = self.given_away.get(address)?;
        let first = moves.iter().rev().nth(MOVES - 1)?;
        let release = *first + WINDOW;
        (release > now).then_some(release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, L2Advertisement, Pool};
    use crate::plan::{Endpoints, Node, Service};
    use crate::selector::Labels;
    use crate::service::ServiceKey;

    const ADDRESS: &str = "172.22.0.100";

    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn origin() -> Instant {
        Instant::now()
    }

    /// One Service on three nodes; by hash, its owners are node2, node1, node3 in this order.
    fn world(speakers: &[&str]) -> World {
        let pool = Pool {
            name: "pool".into(),
            ranges: vec!["172.22.0.100/32".parse().unwrap()],
            auto_assign: true,
            avoid_buggy_ips: false,
            service_allocation: None,
            cooldown: Duration::ZERO,
            labels: Labels::new(),
        };
        let nodes = ["node1", "node2", "node3"].map(|name| (name.to_owned(), Node::default()));
        let service = Service {
            addresses: vec![ADDRESS.parse().unwrap()],
            endpoints: Endpoints { any: true, nodes: BTreeSet::new() },
            ..Service::default()
        };
        World {
            config: Config {
                pools: [("pool".to_owned(), pool)].into(),
                l2_advertisements: [("all".to_owned(), L2Advertisement::default())].into(),
                ..Config::default()
            },
            services: [(ServiceKey::new("default", "web"), service)].into(),
            nodes: nodes.into(),
            speakers: Some(speakers.iter().map(|node| (*node).to_owned()).collect()),
            ..World::default()
        }
    }

    const ALL: &[&str] = &["node1", "node2", "node3"];
    const WITHOUT_2: &[&str] = &["node1", "node3"];

    /// Lives as node1 through changes of the speakers and tells whether it announces after each.
    fn live(failback: &mut Failback, steps: &[(u64, &[&str])]) -> Vec<bool> {
        let origin = origin();
        let (mut former, mut kept) = (Plan::default(), BTreeSet::new());
        let mut announced = vec![];
        for (second, speakers) in steps {
            let now = origin + Duration::from_secs(*second);
            let mut world = world(speakers);
            for address in failback.kept(now, &former).union(&kept) {
                world.kept.entry(*address).or_default().insert("node1".into());
            }
            let next = plan(&world, "node1");
            failback.observe(now, &world, "node1", &former, &next);
            kept = failback.kept(now, &next);
            announced.push(next.announcements.contains_key(&ADDRESS.parse::<IpAddr>().unwrap()));
            former = next;
        }
        announced
    }

    #[test]
    fn an_address_returns_four_times_and_then_stays_until_the_window_has_passed() {
        let mut failback = Failback::new(false);
        let flapping: Vec<(u64, &[&str])> =
            (0..12).map(|step| (step * 10, if step % 2 == 0 { WITHOUT_2 } else { ALL })).collect();
        let announced = live(&mut failback, &flapping);
        let want = [true, false, true, false, true, false, true, false, true, true, true, true];
        assert_eq!(announced, want);
        let moves = failback.given_away.values().next().unwrap();
        assert_eq!(failback.deadline(moves[3]), Some(moves[0] + WINDOW));
        assert_eq!(failback.deadline(moves[0] + WINDOW), None);
    }

    #[test]
    fn with_never_an_address_stays_and_without_it_returns() {
        let steps: &[(u64, &[&str])] =
            &[(0, ALL), (1, WITHOUT_2), (2, ALL), (3, &["node2", "node3"]), (4, ALL)];
        assert_eq!(live(&mut Failback::new(true), steps), [false, true, true, false, false]);
        assert_eq!(live(&mut Failback::new(false), steps), [false, true, false, false, false]);
    }

    #[test]
    fn a_move_that_is_forced_is_not_counted() {
        let mut failback = Failback::new(false);
        let steps: Vec<(u64, &[&str])> = (0..12)
            .map(|step| (step, if step % 2 == 0 { WITHOUT_2 } else { &["node2", "node3"] as &[&str] }))
            .collect();
        live(&mut failback, &steps);
        assert!(failback.given_away.is_empty(), "{failback:?}");
    }
}
