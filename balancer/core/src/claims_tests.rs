//! Several nodes, each with its own plan and claims, which hear each other or not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metallb_api::ElectionPolicy;

use super::*;
use crate::config::{Config, L2Advertisement, Pool};
use crate::plan::{Endpoints, Node, Service, plan};
use crate::selector::Labels;
use crate::service::ServiceKey;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn ip(last: usize) -> IpAddr {
    IpAddr::from([172, 22, 0, u8::try_from(last).unwrap()])
}

/// Services of the addresses from .1 on; all nodes may announce them.
fn world(services: usize) -> World {
    let pool = Pool {
        name: "pool".into(),
        ranges: vec!["172.22.0.0/24".parse().unwrap()],
        auto_assign: true,
        avoid_buggy_ips: false,
        service_allocation: None,
        cooldown: Duration::ZERO,
        labels: Labels::new(),
    };
    let advertisement =
        L2Advertisement { name: "all".into(), election: ElectionPolicy::Even, ..L2Advertisement::default() };
    let service = |number: usize| Service {
        addresses: vec![ip(number)],
        endpoints: Endpoints { any: true, ..Endpoints::default() },
        ..Service::default()
    };
    World {
        config: Config {
            pools: [("pool".to_owned(), pool)].into(),
            l2_advertisements: [("all".to_owned(), advertisement)].into(),
            ..Config::default()
        },
        services: Arc::new(
            (1..=services)
                .map(|number| (ServiceKey::new("default", &number.to_string()), service(number)))
                .collect(),
        ),
        nodes: NODES.map(|name| (name.to_owned(), Node::default())).into(),
        ..World::default()
    }
}

/// Speakers and what was written down.
struct Cluster {
    world: World,
    claims: BTreeMap<&'static str, OwnClaims>,
    record: Record,
    /// Who is alive and hears whom: those of the same group.
    groups: Vec<Vec<&'static str>>,
    /// Most nodes that announced one address at the same time.
    contested: usize,
}

impl Cluster {
    fn new(services: usize) -> Self {
        Self {
            world: world(services),
            claims: NODES.map(|node| (node, OwnClaims::default())).into(),
            record: Record::new(),
            groups: vec![NODES.into()],
            contested: 0,
        }
    }

    fn world_of(&self, group: &[&str]) -> World {
        let mut world = World {
            speakers: Some(group.iter().map(|node| (*node).to_owned()).collect()),
            ..self.world.clone()
        };
        for node in group {
            for (address, claim) in self.claims[node].told() {
                world.claims.entry(*address).or_default().insert((*node).to_owned(), *claim);
            }
        }
        for (address, (node, epoch)) in self.record.values().flatten() {
            let claim = Claim { epoch: *epoch, held: true };
            world.written_claims.entry(*address).or_default().insert(node.clone(), claim);
        }
        world
    }

    /// Each speaker in turn plans and tells; returns who announces how much.
    fn round(&mut self) -> Vec<usize> {
        let mut announced: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        for group in self.groups.clone() {
            for me in &group {
                let world = self.world_of(&group);
                let plan = plan(&world, me);
                announced.insert(*me, plan.announcements.keys().copied().collect());
                self.claims.get_mut(me).unwrap().follow(&world, &plan, me);
                if group.first() == Some(me) {
                    let world = self.world_of(&group);
                    self.record = record(&world.claims, &world.written_claims, &plan);
                }
            }
        }
        let of = |address: &IpAddr| announced.values().filter(|all| all.contains(address)).count();
        let addresses: BTreeSet<IpAddr> = announced.values().flatten().copied().collect();
        self.contested = addresses.iter().map(of).max().unwrap_or(0);
        NODES.map(|node| announced.get(node).map_or(0, BTreeSet::len)).into()
    }

    /// Rounds until nothing changes, neither what is claimed nor what is written down.
    fn settle(&mut self) -> Vec<usize> {
        let mut before = self.round();
        for _ in 0..20 {
            let told = |cluster: &Self| -> Vec<_> {
                cluster.claims.values().map(|claims| claims.told().clone()).collect()
            };
            let former = (told(self), self.record.clone());
            let after = self.round();
            if after == before && (told(self), self.record.clone()) == former {
                return after;
            }
            before = after;
        }
        panic!("never settled: {:?} {:?}", self.claims, self.record);
    }
}

#[test]
fn addresses_are_spread_claimed_and_written_down() {
    let mut cluster = Cluster::new(9);
    assert_eq!(cluster.settle(), [3, 3, 3]);
    assert_eq!(cluster.contested, 1);
    let owners = &cluster.record["all"];
    assert_eq!(owners.len(), 9);
    assert!(owners.values().all(|(_, epoch)| *epoch == 1), "{owners:?}");
    assert_eq!(read_text(&written_text(owners)), *owners);
}

#[test]
fn a_lost_node_is_replaced_and_a_returned_one_gets_no_more_than_its_share() {
    let mut cluster = Cluster::new(9);
    cluster.settle();
    let before = cluster.record["all"].clone();
    cluster.groups = vec![vec!["node1", "node3"]];
    let mut counts = cluster.settle();
    counts.sort_unstable();
    assert_eq!(counts, [0, 4, 5]);
    let without = cluster.record["all"].clone();
    for (address, (node, _)) in before.iter().filter(|(_, (node, _))| node != "node2") {
        assert_eq!(without[address].0, *node, "{address} moved");
    }
    // It comes back believing what it believed, and learns better by the epochs.
    cluster.groups = vec![NODES.into()];
    assert_eq!(cluster.settle(), [3, 3, 3]);
    assert_eq!(cluster.contested, 1);
    let moved = without.iter().filter(|(address, owner)| cluster.record["all"][*address] != **owner);
    assert_eq!(moved.count(), 3);
}

#[test]
fn a_node_gives_an_address_away_before_another_takes_it() {
    let mut cluster = Cluster::new(6);
    cluster.groups = vec![vec!["node1", "node3"]];
    cluster.settle();
    cluster.groups = vec![vec!["node2", "node1", "node3"]];
    for _ in 0..10 {
        cluster.round();
        assert_eq!(cluster.contested, 1);
    }
    assert_eq!(cluster.settle(), [2, 2, 2]);
}

#[test]
fn speakers_that_all_start_anew_leave_every_address_where_it_was() {
    let mut cluster = Cluster::new(7);
    cluster.settle();
    cluster.groups = vec![vec!["node1", "node3"]];
    cluster.settle();
    cluster.groups = vec![NODES.into()];
    cluster.settle();
    let before = cluster.record.clone();
    cluster.claims = NODES.map(|node| (node, OwnClaims::default())).into();
    cluster.settle();
    assert_eq!(cluster.record, before, "and nothing is written anew");
}

#[test]
fn parted_halves_meet_again_with_one_owner_each() {
    let mut cluster = Cluster::new(6);
    cluster.settle();
    cluster.groups = vec![vec!["node1"], vec!["node2", "node3"]];
    assert_eq!(cluster.settle(), [6, 3, 3]);
    assert_eq!(cluster.contested, 2, "availability comes first");
    cluster.groups = vec![NODES.into()];
    assert_eq!(cluster.settle().iter().sum::<usize>(), 6);
    assert_eq!(cluster.contested, 1);
}

#[test]
fn nothing_free_is_taken_while_a_node_may_yet_say_what_it_claims() {
    let mut world = World { undecided: true, ..world(3) };
    assert_eq!(plan(&world, "node1").announcements, BTreeMap::new());
    let claim = Claim { epoch: 1, held: true };
    world.written_claims = [(ip(1), [("node1".to_owned(), claim)].into())].into();
    let kept: Vec<IpAddr> = plan(&world, "node1").announcements.into_keys().collect();
    assert_eq!(kept, [ip(1)]);
}

#[test]
fn what_an_uninformed_node_claims_and_may_not_announce_is_free() {
    let mut world = world(3);
    let claim = Claim { epoch: 7, held: true };
    world.claims = [(ip(1), [("node1".to_owned(), claim)].into())].into();
    Arc::make_mut(&mut world.services).values_mut().for_each(|service| {
        service.local = true;
        service.endpoints.nodes = ["node2"].into_iter().collect();
    });
    let taken = |world: &World| plan(world, "node2").announcements.contains_key(&ip(1));
    assert!(!taken(&world), "it will release it");
    world.uninformed = ["node1".to_owned()].into();
    assert!(taken(&world));
}

#[test]
fn what_is_not_written_like_a_record_is_left_out() {
    let owner = |node: &str, epoch| (node.to_owned(), epoch);
    let want = [(ip(1), owner("node1", 3)), ("fd00::1".parse().unwrap(), owner("node2", 1))].into();
    assert_eq!(read_text("172.22.0.1=node1/3 nonsense 172.22.0.2=node1/x fd00::1=node2/1 x=node1/1"), want);
}
