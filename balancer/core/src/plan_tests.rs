use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::*;
use crate::config::{PoolSelection, Preference};
use crate::selector::{AnyOf, Selector};

// By hash, the owners of this address among the three nodes are node2, node1, node3 in this order.
const FIRST: &str = "172.22.0.100";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn selector(key: &str, value: &str) -> Selector {
    let match_labels = Some([(key.to_owned(), value.to_owned())].into());
    Selector::parse(&LabelSelector { match_labels, match_expressions: None }).unwrap()
}

fn any_of(key: &str, value: &str) -> AnyOf {
    AnyOf([selector(key, value)].into())
}

fn served_on(nodes: &[&str]) -> NodeNames {
    nodes.iter().copied().collect()
}

fn names(nodes: &[&str]) -> BTreeSet<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.into(),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        service_allocation: None,
        cooldown: std::time::Duration::ZERO,
        labels: Labels::new(),
    }
}

fn service(addresses: &[&str]) -> Service {
    Service {
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        endpoints: Endpoints { any: true, nodes: served_on(&["node1"]) },
        ..Service::default()
    }
}

/// Three nodes with speakers, a dual-stack pool that is announced everywhere, and one Service.
fn world() -> World {
    let pools =
        [("pool".to_owned(), pool("pool", &["172.22.0.100-172.22.0.199", "fd00:22::100-fd00:22::199"]))];
    let advertisement = L2Advertisement { name: "all".into(), ..L2Advertisement::default() };
    World {
        config: Config {
            pools: pools.into(),
            l2_advertisements: [("all".to_owned(), advertisement)].into(),
            ..Config::default()
        },
        services: Arc::new([(key("web"), service(&[FIRST]))].into()),
        nodes: ["node1", "node2", "node3"]
            .map(|name| (name.to_owned(), Node { labels: labels(&[("name", name)]), ..Node::default() }))
            .into(),
        speakers: Some(names(&["node1", "node2", "node3"])),
        ..World::default()
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

/// Who announces each Service, as every node sees it; fails when they do not agree.
fn owners(world: &World) -> BTreeMap<String, Result<String, Reason>> {
    let mut owners: BTreeMap<String, Result<String, Reason>> = BTreeMap::new();
    for me in world.nodes.keys() {
        for (key, verdict) in plan(world, me).services {
            let owner = match verdict {
                Verdict::Mine(_) => Ok(me.clone()),
                Verdict::Theirs(node) => Ok(node),
                Verdict::Nobody(reason) => Err(reason),
            };
            let former = owners.entry(key.name().to_owned()).or_insert_with(|| owner.clone());
            assert_eq!(*former, owner, "{key} as {me} sees it");
        }
    }
    owners
}

fn owner_of_web(change: impl FnOnce(&mut World)) -> Result<String, Reason> {
    let mut world = world();
    change(&mut world);
    owners(&world).remove("web").unwrap()
}

#[test]
fn one_node_announces_and_the_others_know_it() {
    let announcements = [(ip(FIRST), Interfaces::All)].into();
    let services = |verdict| [(key("web"), verdict)].into();
    assert_eq!(
        plan(&world(), "node2"),
        Plan { announcements, services: services(Verdict::Mine(Interfaces::All)), ..Plan::default() }
    );
    for other in ["node1", "node3"] {
        let elsewhere = [(ip(FIRST), "node2".to_owned())].into();
        let theirs = services(Verdict::Theirs("node2".into()));
        // The next of those that could announce it looks after it.
        let checked = (other == "node3").then(|| (ip(FIRST), "node2".to_owned()));
        let checks = checked.into_iter().collect();
        assert_eq!(plan(&world(), other), Plan { elsewhere, services: theirs, checks, ..Plan::default() });
    }
}

#[test]
fn a_node_without_ipv6_on_its_link_is_no_candidate_for_ipv6() {
    let owner = |addresses: &[&str], without: &[&str]| {
        let mut world = world();
        world.services = Arc::new([(key("web"), service(addresses))].into());
        for name in ["node1", "node2", "node3"] {
            of(&mut world, name).interfaces = Some(names(&["eth0"]));
        }
        for name in without {
            of(&mut world, name).no_ipv6 = names(&["eth0"]);
        }
        owners(&world).remove("web").unwrap()
    };
    let v6 = "fd00:22::100";
    let first = owner(&[v6], &[]).unwrap();
    let second = owner(&[v6], &[&first]).unwrap();
    assert_ne!(second, first);
    assert_eq!(owner(&[v6], &["node1", "node2", "node3"]), Err(Reason::NoAvailableNodes));
    assert_eq!(owner(&[FIRST], &["node2"]), Ok("node2".into()), "it is as good as another for IPv4");
    // Both families are on one node: on one that can have both, and where there is none, on any.
    assert_eq!(owner(&[FIRST, v6], &["node2"]), Ok("node1".into()));
    assert_eq!(owner(&[FIRST, v6], &["node1", "node2", "node3"]), Ok("node2".into()));
}

#[test]
fn an_owner_that_alone_may_announce_is_checked_by_another_all_the_same() {
    let mut world = world();
    advertisement(&mut world).nodes = any_of("name", "node2");
    assert_eq!(plan(&world, "node3").checks, [(ip(FIRST), "node2".to_owned())].into());
    world.speakers = Some(names(&["node2"]));
    assert_eq!(plan(&world, "node2").checks, BTreeMap::new());
}

#[test]
fn the_interface_of_the_default_route_is_that_of_each_family() {
    let mut world = world();
    let mut interfaces = crate::config::InterfaceSelection::default();
    interfaces.add("default").unwrap();
    advertisement(&mut world).interfaces = interfaces;
    world.services = Arc::new([(key("web"), service(&[FIRST, "fd00:22::100"]))].into());
    for name in ["node1", "node2", "node3"] {
        of(&mut world, name).interfaces = Some(names(&["eth0", "eth1"]));
    }
    assert_eq!(owners(&world)["web"], Err(Reason::NoAvailableNodes), "no node has a default route");
    let routes = DefaultRoutes { v4: names(&["eth0"]), v6: names(&["eth1"]) };
    of(&mut world, "node3").default_routes = routes;
    let on = |name: &str| Interfaces::Named(names(&[name]));
    let announced = plan(&world, "node3").announcements;
    assert_eq!(announced, [(ip(FIRST), on("eth0")), (ip("fd00:22::100"), on("eth1"))].into());
    let both = Verdict::Mine(Interfaces::Named(names(&["eth0", "eth1"])));
    assert_eq!(plan(&world, "node3").services[&key("web")], both);
}

#[test]
fn a_pattern_means_the_interfaces_that_match() {
    let mut world = world();
    let mut interfaces = crate::config::InterfaceSelection::default();
    interfaces.add("eth[0-9]").unwrap();
    interfaces.add("bond7").unwrap();
    advertisement(&mut world).interfaces = interfaces;
    of(&mut world, "node2").interfaces = Some(names(&["wlan0"]));
    of(&mut world, "node1").interfaces = Some(names(&["eth0", "eth10", "wlan0"]));
    let want = Interfaces::Named(names(&["eth0", "bond7"]));
    assert_eq!(plan(&world, "node1").announcements, [(ip(FIRST), want)].into());
}

#[test]
fn advertisements_that_differ_in_policy_leave_the_hash_and_are_named() {
    let mut world = world();
    let even = L2Advertisement {
        name: "even".into(),
        election: metallb_api::ElectionPolicy::Even,
        ..L2Advertisement::default()
    };
    world.config.l2_advertisements.insert("even".into(), even);
    assert_eq!(owners(&world)["web"], Ok("node2".into()));
    let plan = plan(&world, "node1");
    assert_eq!(plan.mixed, [(names(&["all", "even"]), ip(FIRST))].into());
    assert_eq!(plan.even, BTreeMap::new());
}

type Change = fn(&mut World);

fn of<'w>(world: &'w mut World, node: &str) -> &'w mut Node {
    world.nodes.get_mut(node).unwrap()
}

fn advertisement(world: &mut World) -> &mut L2Advertisement {
    world.config.l2_advertisements.get_mut("all").unwrap()
}

fn web(world: &mut World) -> &mut Service {
    Arc::make_mut(&mut world.services).get_mut(&key("web")).unwrap()
}

fn keep(world: &mut World, nodes: &[&str]) {
    world.kept.insert(ip(FIRST), names(nodes));
}

fn record(world: &mut World, node: &str) {
    world.recorded.insert(key("web"), node.to_owned());
}

fn record_and_stay(world: &mut World, node: &str) {
    record(world, node);
    world.never_fail_back = true;
}

#[test]
fn the_owner_follows_from_the_facts() {
    let cases: &[(&str, Change, Result<&str, Reason>)] = &[
        ("hash", |_| {}, Ok("node2")),
        ("no speaker on the first", |world| world.speakers = Some(names(&["node1", "node3"])), Ok("node1")),
        ("speakers unknown: every node counts", |world| world.speakers = None, Ok("node2")),
        ("no speaker at all", |world| world.speakers = Some(names(&[])), Err(Reason::NoAvailableNodes)),
        (
            "a speaker on a node that is not known",
            |world| world.speakers = Some(names(&["node9"])),
            Err(Reason::NoAvailableNodes),
        ),
        ("network unavailable", |world| of(world, "node2").network_unavailable = true, Ok("node1")),
        ("shutting down, or out of service", |world| of(world, "node2").going = true, Ok("node1")),
        ("cordoned", |world| of(world, "node2").unschedulable = true, Ok("node2")),
        (
            "cordoned, and addresses move",
            |world| {
                world.drain = true;
                of(world, "node2").unschedulable = true;
            },
            Ok("node1"),
        ),
        (
            "cordoned, and there is no other node",
            |world| {
                world.drain = true;
                world.nodes.values_mut().for_each(|node| node.unschedulable = true);
            },
            Ok("node2"),
        ),
        (
            "cordoned, and the only one with an endpoint",
            |world| {
                world.drain = true;
                web(world).local = true;
                of(world, "node1").unschedulable = true;
            },
            Ok("node1"),
        ),
        ("kept by another", |world| keep(world, &["node3"]), Ok("node3")),
        ("kept by two: the hash decides between them", |world| keep(world, &["node1", "node3"]), Ok("node1")),
        (
            "kept by one without a speaker",
            |world| {
                keep(world, &["node3"]);
                world.speakers = Some(names(&["node1", "node2"]));
            },
            Ok("node2"),
        ),
        ("recorded at another, and addresses return", |world| record(world, "node3"), Ok("node2")),
        (
            "recorded at another, and the first was never heard",
            |world| {
                record(world, "node3");
                world.unheard = names(&["node2"]);
            },
            Ok("node3"),
        ),
        (
            "recorded at another that was never heard either",
            |world| {
                record(world, "node3");
                world.unheard = names(&["node2", "node3"]);
            },
            Ok("node2"),
        ),
        (
            "recorded at one that was never heard, and the first was",
            |world| {
                record(world, "node3");
                world.unheard = names(&["node3"]);
            },
            Ok("node2"),
        ),
        ("never heard, and recorded nowhere", |world| world.unheard = names(&["node2"]), Ok("node2")),
        (
            "uninformed, and it has it by the record",
            |world| {
                world.uninformed = names(&["node2"]);
                record(world, "node2");
            },
            Ok("node2"),
        ),
        (
            "uninformed, and another has it by the record",
            |world| {
                world.uninformed = names(&["node2"]);
                record(world, "node3");
            },
            Ok("node1"),
        ),
        (
            "uninformed, and nobody has announced it yet",
            |world| world.uninformed = names(&["node2"]),
            Ok("node1"),
        ),
        ("nobody is informed", |world| world.uninformed = names(&["node1", "node2", "node3"]), Ok("node2")),
        ("recorded at another, and it stays", |world| record_and_stay(world, "node3"), Ok("node3")),
        ("recorded at a node that is gone", |world| record_and_stay(world, "node9"), Ok("node2")),
        (
            "recorded at one and kept by another",
            |world| {
                record_and_stay(world, "node3");
                keep(world, &["node1"]);
            },
            Ok("node1"),
        ),
        (
            "excluded by label, whatever its value",
            |world| {
                of(world, "node2").labels = labels(&[(metallb_api::names::EXCLUDE_LB_LABEL, "false")]);
            },
            Ok("node1"),
        ),
        (
            "excluded by label, and that is ignored",
            |world| {
                world.ignore_exclude_label = true;
                of(world, "node2").labels = labels(&[(metallb_api::names::EXCLUDE_LB_LABEL, "")]);
            },
            Ok("node2"),
        ),
        (
            "kept although it left its pool, which is there",
            |world| {
                web(world).addresses = vec![ip("172.22.9.9")];
                web(world).pool = Some("pool".into());
            },
            Ok("node3"),
        ),
        (
            "kept although its pool is gone",
            |world| {
                web(world).addresses = vec![ip("172.22.9.9")];
                web(world).pool = Some("former".into());
            },
            Err(Reason::IpNotAllowed),
        ),
        ("node selector", |world| advertisement(world).nodes = any_of("name", "node1"), Ok("node1")),
        (
            "node selector without a node",
            |world| advertisement(world).nodes = any_of("name", "node9"),
            Err(Reason::NoAvailableNodes),
        ),
        (
            "a preferred node before the hash",
            |world| {
                let nodes = selector("name", "node1");
                advertisement(world).preferences = vec![Preference { weight: 1, nodes }];
            },
            Ok("node1"),
        ),
        (
            "weights of two advertisements add up",
            |world| {
                let prefer = |weight, node| Preference { weight, nodes: selector("name", node) };
                let mut second = L2Advertisement { name: "second".into(), ..L2Advertisement::default() };
                second.preferences = vec![prefer(3, "node1"), prefer(1, "node3")];
                advertisement(world).preferences = vec![prefer(3, "node3")];
                world.config.l2_advertisements.insert("second".into(), second);
            },
            Ok("node3"),
        ),
        (
            "a preferred node without a speaker",
            |world| {
                let nodes = selector("name", "node1");
                advertisement(world).preferences = vec![Preference { weight: 100, nodes }];
                world.speakers = Some(names(&["node2", "node3"]));
            },
            Ok("node2"),
        ),
        ("Local: only nodes with an endpoint", |world| web(world).local = true, Ok("node1")),
        (
            "Local: no endpoint where a speaker is",
            |world| {
                web(world).local = true;
                web(world).endpoints.nodes = served_on(&["node9"]);
            },
            Err(Reason::NoLocalEndpoints),
        ),
        ("no endpoint", |world| web(world).endpoints = Endpoints::default(), Err(Reason::NoEndpoints)),
        ("no pool", |world| world.config.pools.clear(), Err(Reason::IpNotAllowed)),
        (
            "address outside of the pool",
            |world| web(world).addresses.push(ip("192.0.2.1")),
            Err(Reason::IpNotAllowed),
        ),
        (
            "no advertisement",
            |world| world.config.l2_advertisements.clear(),
            Err(Reason::NoMatchingAdvertisement),
        ),
        (
            "advertisement of another pool",
            |world| {
                advertisement(world).pools =
                    PoolSelection { names: names(&["other"]), ..PoolSelection::default() }
            },
            Err(Reason::NoMatchingAdvertisement),
        ),
        (
            "advertisement of other Services",
            |world| advertisement(world).services = any_of("app", "db"),
            Err(Reason::NoMatchingAdvertisement),
        ),
        (
            "advertisement of this Service",
            |world| {
                advertisement(world).services = any_of("app", "web");
                web(world).labels = labels(&[("app", "web")]);
            },
            Ok("node2"),
        ),
        (
            "advertisement of this Service, which shares",
            |world| {
                advertisement(world).services = any_of("app", "web");
                web(world).labels = labels(&[("app", "web")]);
                web(world).shared = true;
            },
            Err(Reason::SharedIpWithServiceSelector),
        ),
        (
            "the wanted interface is missing on the first",
            |world| {
                advertisement(world).interfaces = names(&["eth1"]).into();
                of(world, "node1").interfaces = Some(names(&["eth0"]));
                of(world, "node2").interfaces = Some(names(&["eth0"]));
                of(world, "node3").interfaces = Some(names(&["eth0", "eth1"]));
            },
            Ok("node3"),
        ),
        (
            "no interface left on the first",
            |world| of(world, "node2").interfaces = Some(names(&[])),
            Ok("node1"),
        ),
    ];
    for (name, change, want) in cases {
        assert_eq!(owner_of_web(*change), want.map(str::to_owned), "{name}");
    }
}

#[test]
fn both_families_are_on_the_owner_of_the_first_address() {
    let mut world = world();
    let both = ["fd00:22::100", FIRST];
    world.services = Arc::new([(key("web"), service(&both))].into());
    assert_eq!(owners(&world)["web"], Ok("node3".into()), "owner by hash of fd00:22::100");
    let announced = plan(&world, "node3").announcements;
    assert_eq!(announced, both.map(|address| (ip(address), Interfaces::All)).into());
}

#[test]
fn a_fresh_address_is_fresh_for_its_owner_alone() {
    let mut world = world();
    world.fresh = [ip(FIRST), ip("172.22.0.199")].into();
    assert_eq!(plan(&world, "node2").fresh, [ip(FIRST)].into());
    assert_eq!(plan(&world, "node1").fresh, BTreeSet::new());
}

#[test]
fn services_that_share_an_address_have_one_owner() {
    // Alone, a would be on node2 and b, by the hash of its IPv6 address, on node3.
    let mut world = world();
    let services = [
        (key("a"), service(&[FIRST, "fd00:22::100"])),
        (key("b"), service(&["fd00:22::100"])),
        (key("c"), service(&["172.22.0.103"])),
    ];
    world.services = Arc::new(services.into());
    let want = [("a", "node2"), ("b", "node2"), ("c", "node1")];
    assert_eq!(owners(&world), want.map(|(name, node)| (name.to_owned(), Ok(node.to_owned()))).into());
    let announced = plan(&world, "node2").announcements;
    assert_eq!(announced, [FIRST, "fd00:22::100"].map(|address| (ip(address), Interfaces::All)).into());
}

#[test]
fn services_that_share_are_on_a_node_that_serves_them_all() {
    let mut world = world();
    let local = |nodes: &[&str]| Service {
        local: true,
        endpoints: Endpoints { any: true, nodes: served_on(nodes) },
        ..service(&[FIRST])
    };
    world.services =
        Arc::new([(key("a"), local(&["node1", "node3"])), (key("b"), local(&["node1", "node2"]))].into());
    let owner = |name: &str| (name.to_owned(), Ok("node1".to_owned()));
    assert_eq!(owners(&world), [owner("a"), owner("b")].into());

    world.services = Arc::new([(key("a"), local(&["node1"])), (key("b"), local(&["node2"]))].into());
    let want = [("a".to_owned(), Err(Reason::NoLocalEndpoints)), ("b".to_owned(), Ok("node2".to_owned()))];
    assert_eq!(owners(&world), want.into());
}

#[test]
fn interfaces_come_from_the_advertisements_that_select_the_node() {
    let mut world = world();
    let on = |interfaces: &[&str], nodes| L2Advertisement {
        interfaces: names(interfaces).into(),
        nodes,
        ..L2Advertisement::default()
    };
    world.config.l2_advertisements = [
        ("a".to_owned(), on(&["eth1"], AnyOf::default())),
        ("b".to_owned(), on(&["eth2"], any_of("name", "node2"))),
        ("c".to_owned(), on(&[], any_of("name", "node1"))),
    ]
    .into();
    let want = Interfaces::Named(names(&["eth1", "eth2"]));
    assert_eq!(plan(&world, "node2").announcements, [(ip(FIRST), want)].into());
    world.speakers = Some(names(&["node1"]));
    assert_eq!(plan(&world, "node1").announcements, [(ip(FIRST), Interfaces::All)].into());
}

#[test]
fn a_thousand_services_move_only_from_the_node_that_is_lost() {
    let mut world = world();
    world.config.pools = [("pool".to_owned(), pool("pool", &["10.99.0.0/18"]))].into();
    let services = (0..1000_u32).map(|number| {
        let address = std::net::Ipv4Addr::from(0x0a63_0000 + number).to_string();
        (key(&format!("s{number}")), service(&[&address]))
    });
    world.services = Arc::new(services.collect());
    let before = owners(&world);
    world.speakers = Some(names(&["node1", "node3"]));
    let after = owners(&world);
    for (name, owner) in &before {
        assert!(owner.as_deref() == Ok("node2") || after[name] == *owner, "{name} moved from {owner:?}");
    }
    let share = before.values().filter(|owner| owner.as_deref() == Ok("node1")).count();
    assert!((250..420).contains(&share), "node1 has {share} of 1000");
}

#[test]
fn a_speaker_that_starts_anew_goes_on_with_what_the_records_say_it_announced_last() {
    let mut world = World { speakers: None, ..world() };
    Arc::make_mut(&mut world.services).insert(key("other"), service(&["172.22.0.101"]));
    Arc::make_mut(&mut world.services)
        .insert(key("idle"), Service { endpoints: Endpoints::default(), ..service(&["172.22.0.102"]) });
    Arc::make_mut(&mut world.services).insert(key("fresh"), service(&["172.22.0.103"]));
    let record = |name: &str, node: &str| (key(name), node.to_owned());
    let records =
        [record("web", "node3"), record("other", "node1"), record("idle", "node3"), record("gone", "node3")]
            .into();
    let announcements = [(ip(FIRST), Interfaces::All)].into();
    assert_eq!(
        resumed(&world, &records, "node3"),
        Plan { announcements, ..Plan::default() },
        "whatever the hash says"
    );
    assert_eq!(resumed(&world, &records, "node2"), Plan::default());
    // What may announce no more does not resume either.
    world.nodes.get_mut("node3").unwrap().going = true;
    assert_eq!(resumed(&world, &records, "node3"), Plan::default());
}
