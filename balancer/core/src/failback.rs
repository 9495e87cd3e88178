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

/// What one node remembers of the unforced moves that it saw, of any node's addresses: whoever has an address after the
/// last of them keeps it.
#[derive(Clone, Debug, Default)]
pub struct Failback {
    never: bool,
    moves: BTreeMap<IpAddr, Vec<Instant>>,
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
        for moves in self.moves.values_mut() {
            moves.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        }
        self.moves.retain(|_, moves| !moves.is_empty());
        let moved: BTreeMap<IpAddr, &str> = owners(former, me)
            .filter(|(address, before)| owner(next, me, address).is_some_and(|after| after != *before))
            .collect();
        if moved.is_empty() {
            return;
        }
        // A move is unforced when the former owner could have gone on.
        let mut kept = world.clone();
        for (address, before) in &moved {
            kept.kept.entry(*address).or_default().insert((*before).to_owned());
        }
        let kept = plan(&kept, me);
        for (address, _) in
            moved.iter().filter(|(address, before)| owner(&kept, me, address) == Some(**before))
        {
            self.moves.entry(*address).or_default().push(now);
        }
    }

    /// The addresses of `plan` that its node keeps from now on.
    pub fn kept(&self, now: Instant, plan: &Plan) -> BTreeSet<IpAddr> {
        let keeps = |address: &&IpAddr| self.never || self.release(now, address).is_some();
        plan.announcements.keys().filter(keeps).copied().collect()
    }

    /// The addresses of `plan` that moved too often, and the nodes that they stay on. Each node tells all that it saw, so that
    /// one whose speaker starts anew learns what it keeps.
    pub fn stays(&self, now: Instant, plan: &Plan, me: &str) -> BTreeMap<IpAddr, String> {
        let stays = self.moves.keys().filter(|address| self.release(now, address).is_some());
        stays.filter_map(|address| Some((*address, owner(plan, me, address)?.to_owned()))).collect()
    }

    /// When an address that is kept now is free to move again.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        self.moves.keys().filter_map(|address| self.release(now, address)).min()
    }

    fn release(&self, now: Instant, address: &IpAddr) -> Option<Instant> {
        let moves = self.moves.get(address)?;
        let first = moves.iter().rev().nth(MOVES - 1)?;
        let release = *first + WINDOW;
        (release > now).then_some(release)
    }
}

/// The addresses that somebody announces by a plan of the node `me`, each with its node.
fn owners<'a>(plan: &'a Plan, me: &'a str) -> impl Iterator<Item = (IpAddr, &'a str)> {
    let mine = plan.announcements.keys().map(move |address| (*address, me));
    mine.chain(plan.elsewhere.iter().map(|(address, node)| (*address, node.as_str())))
}

fn owner<'a>(plan: &'a Plan, me: &'a str, address: &IpAddr) -> Option<&'a str> {
    let mine = plan.announcements.contains_key(address).then_some(me);
    mine.or_else(|| plan.elsewhere.get(address).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, L2Advertisement, Pool, Preference};
    use crate::plan::{Endpoints, Node, Service};
    use crate::selector::{Labels, Selector};
    use crate::service::ServiceKey;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

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
            endpoints: Endpoints { any: true, ..Endpoints::default() },
            ..Service::default()
        };
        World {
            config: Config {
                pools: [("pool".to_owned(), pool)].into(),
                l2_advertisements: [("all".to_owned(), L2Advertisement::default())].into(),
                ..Config::default()
            },
            services: Arc::new([(ServiceKey::new("default", "web"), service)].into()),
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
        let moves = failback.moves.values().next().unwrap();
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
    fn moves_to_and_fro_count_on_both_nodes() {
        // With weights that change, the address goes from node to node though both can announce it.
        let origin = origin();
        let address: IpAddr = ADDRESS.parse().unwrap();
        let mut nodes = ["node1", "node2"].map(|node| (node, Failback::new(false), Plan::default()));
        let mut owners = vec![];
        for second in 0..10 {
            let now = origin + Duration::from_secs(second);
            let mut world = world(&["node1", "node2"]);
            let preferred = if second % 2 == 0 { "node1" } else { "node2" };
            world.nodes.entry(preferred.into()).or_default().labels =
                [("preferred", "yes")].into_iter().collect();
            let match_labels = Some([("preferred".to_owned(), "yes".to_owned())].into());
            let nodes_preferred =
                Selector::parse(&LabelSelector { match_labels, match_expressions: None }).unwrap();
            let advertisement = L2Advertisement {
                preferences: vec![Preference { weight: 1, nodes: nodes_preferred }],
                ..L2Advertisement::default()
            };
            world.config.l2_advertisements = [("all".to_owned(), advertisement)].into();
            for (node, failback, former) in &nodes {
                for address in failback.kept(now, former) {
                    world.kept.entry(address).or_default().insert((*node).to_owned());
                }
            }
            for (node, failback, former) in &mut nodes {
                let next = plan(&world, node);
                failback.observe(now, &world, node, former, &next);
                *former = next;
            }
            owners.extend(
                nodes
                    .iter()
                    .find(|(.., plan)| plan.announcements.contains_key(&address))
                    .map(|(node, ..)| *node),
            );
        }
        let want = ["node1", "node2", "node1", "node2", "node1", "node1", "node1", "node1", "node1", "node1"];
        assert_eq!(owners, want, "four moves");
    }

    #[test]
    fn a_speaker_that_starts_anew_learns_what_it_keeps() {
        let (origin, me) = (origin(), "node1");
        let address: IpAddr = ADDRESS.parse().unwrap();
        let (mut mine, mut other) = (Failback::new(false), Failback::new(false));
        let (mut my_plan, mut their_plan) = (Plan::default(), Plan::default());
        let mut owners = vec![];
        for step in 0..12 {
            let now = origin + Duration::from_secs(step * 10);
            let mut world = world(if step % 2 == 0 { WITHOUT_2 } else { ALL });
            if step == 9 {
                mine = Failback::new(false);
                my_plan = Plan::default();
            }
            let told = [mine.stays(now, &my_plan, me), other.stays(now, &their_plan, "node3")];
            for (address, node) in told.into_iter().flatten() {
                world.kept.entry(address).or_default().insert(node);
            }
            for (failback, former, node) in
                [(&mut mine, &mut my_plan, me), (&mut other, &mut their_plan, "node3")]
            {
                let next = plan(&world, node);
                failback.observe(now, &world, node, former, &next);
                *former = next;
            }
            owners.push(owner(&my_plan, me, &address).unwrap().to_owned());
        }
        let flapping = ["node1", "node2"].repeat(4);
        assert_eq!(owners[..8], flapping[..], "node1 has it after the last of the moves");
        assert_eq!(owners[8..], ["node1"; 4], "and keeps it, as node3 saw");
    }

    #[test]
    fn a_move_that_is_forced_is_not_counted() {
        let mut failback = Failback::new(false);
        let steps: Vec<(u64, &[&str])> = (0..12)
            .map(|step| (step, if step % 2 == 0 { WITHOUT_2 } else { &["node2", "node3"] as &[&str] }))
            .collect();
        live(&mut failback, &steps);
        assert!(failback.moves.is_empty(), "{failback:?}");
    }
}
