use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use metallb_api::{IPAddressPool, IPAddressPoolSpec};

use super::*;
use crate::config::{Objects, Password, Pool, RemoteAsn, parse};
use crate::plan::{Endpoints, NodeNames};
use crate::selector::{AnyOf, Labels, Selector};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn any_of(key: &str, value: &str) -> AnyOf {
    let match_labels = Some([(key.to_owned(), value.to_owned())].into());
    let selector = LabelSelector { match_labels, match_expressions: None };
    AnyOf([Selector::parse(&selector).unwrap()].into())
}

fn served_on(nodes: &[&str]) -> NodeNames {
    nodes.iter().copied().collect()
}

fn names(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn pool(name: &str, ranges: &[&str]) -> (String, Pool) {
    let addresses = ranges.iter().map(|range| (*range).to_owned()).collect();
    let spec = IPAddressPoolSpec { addresses, ..IPAddressPoolSpec::default() };
    let object = IPAddressPool::new(name, spec);
    let (config, problems) = parse(&Objects { pools: vec![&object], ..Objects::default() });
    assert_eq!(problems, []);
    config.pools.into_iter().next().unwrap()
}

fn peer(name: &str, address: &str) -> Peer {
    Peer {
        name: name.into(),
        my_asn: 64512,
        local_asn: None,
        remote_asn: RemoteAsn::Number(64513),
        endpoint: Endpoint::Address(address.parse().unwrap()),
        port: 179,
        source: None,
        timers: None,
        connect_time: None,
        router_id: None,
        nodes: AnyOf::default(),
        password: Some(Password::Plain("x".into())),
        bfd_profile: None,
        graceful_restart: false,
        ebgp_multi_hop: false,
        vrf: None,
        dual_stack: false,
        ttl_security_hops: None,
        passive: false,
        max_prefixes: None,
    }
}

fn advertisement(name: &str) -> BgpAdvertisement {
    BgpAdvertisement {
        name: name.into(),
        pools: names(&["pool"]),
        nodes: AnyOf::default(),
        services: AnyOf::default(),
        peers: BTreeSet::new(),
        aggregation_length: 32,
        aggregation_length_v6: 128,
        covering: true,
        local_pref: None,
        med: None,
        prepend: 0,
        communities: BTreeSet::new(),
    }
}

fn service(addresses: &[&str]) -> Service {
    Service {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        endpoints: Endpoints { any: true, nodes: served_on(&["node1"]) },
        ..Service::default()
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn told(peers: &[&str], addresses: &[&str]) -> Result<Told, Reason> {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Ok(Told { peers: Arc::new(names(peers)), addresses })
}

/// Two nodes, two routers, and a Service of both families that is announced everywhere.
fn world() -> World {
    let node = |name: &str| (name.to_owned(), Node { labels: labels(&[("name", name)]), ..Node::default() });
    let mut world = World {
        services: Arc::new([(key("web"), service(&["198.51.100.9", "2001:db8::9"]))].into()),
        nodes: [node("node1"), node("node2")].into(),
        ..World::default()
    };
    world.config.pools = [pool("pool", &["198.51.100.0/24", "2001:db8::/64"])].into();
    add_peer(&mut world, peer("one", "192.0.2.1"));
    add_peer(&mut world, peer("two", "192.0.2.2"));
    advertise(&mut world, advertisement("all"));
    world
}

fn add_peer(world: &mut World, peer: Peer) {
    world.config.peers.insert(peer.name.clone(), peer);
}

fn advertise(world: &mut World, advertisement: BgpAdvertisement) {
    world.config.bgp_advertisements.insert(advertisement.name.clone(), advertisement);
}

/// Prefixes by peer.
fn prefixes(plan: &Plan) -> Vec<(&str, Vec<String>)> {
    let words = |routes: &Routes| routes.keys().map(ToString::to_string).collect();
    plan.peers.iter().map(|(name, routes)| (name.as_str(), words(routes))).collect()
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn every_peer_is_told_what_its_family_is_about() {
    let mut world = world();
    add_peer(&mut world, peer("six", "2001:db8:ffff::1"));
    add_peer(&mut world, Peer { dual_stack: true, ..peer("both", "192.0.2.3") });
    let unnumbered = Endpoint::Interface("eth1".into());
    add_peer(&mut world, Peer { endpoint: unnumbered, ..peer("link", "192.0.2.4") });
    let plan = plan(&world, "node1");
    let (v4, v6) = ("198.51.100.9/32", "2001:db8::9/128");
    assert_eq!(
        prefixes(&plan),
        [
            ("both", words(&[v4, v6])),
            ("link", words(&[v4, v6])),
            ("one", words(&[v4])),
            ("six", words(&[v6])),
            ("two", words(&[v4])),
        ]
    );
    assert!(Arc::ptr_eq(&plan.peers["one"], &plan.peers["two"]));
    let both = ["198.51.100.9", "2001:db8::9"];
    assert_eq!(plan.services, [(key("web"), told(&["both", "link", "one", "six", "two"], &both))].into());
    assert_eq!(plan.problems, []);
}

#[test]
fn advertisements_choose_pools_peers_nodes_and_services() {
    let mut world = world();
    world.config.bgp_advertisements.clear();
    world.config.pools.extend([pool("other", &["203.0.113.0/24"])]);
    Arc::make_mut(&mut world.services).insert(key("api"), service(&["203.0.113.1"]));
    let gold = Service { labels: labels(&[("tier", "gold")]), ..service(&["198.51.100.10"]) };
    Arc::make_mut(&mut world.services).insert(key("gold"), gold);
    advertise(&mut world, BgpAdvertisement { peers: names(&["one"]), ..advertisement("to-one") });
    advertise(&mut world, BgpAdvertisement { nodes: any_of("name", "node2"), ..advertisement("from-two") });
    advertise(&mut world, BgpAdvertisement { pools: names(&["other"]), ..advertisement("other") });
    let services = any_of("tier", "gold");
    advertise(&mut world, BgpAdvertisement { services, ..advertisement("gold") });
    let (web, gold, api) = ("198.51.100.9/32", "198.51.100.10/32", "203.0.113.1/32");
    assert_eq!(
        prefixes(&plan(&world, "node1")),
        [("one", words(&[web, gold, api])), ("two", words(&[gold, api]))]
    );
    assert_eq!(
        prefixes(&plan(&world, "node2")),
        [("one", words(&[web, gold, api])), ("two", words(&[web, gold, api]))]
    );
    let services = plan(&world, "node1").services;
    assert_eq!(services[&key("web")], told(&["one"], &["198.51.100.9"]), "no peer takes IPv6");
    let (Ok(gold), Ok(api)) = (&services[&key("gold")], &services[&key("api")]) else {
        panic!("{services:?}");
    };
    assert!(Arc::ptr_eq(&gold.peers, &api.peers), "both peers are told of both");
}

#[test]
fn an_address_that_is_kept_although_it_left_its_pool_is_announced_while_the_pool_is_there() {
    let mut world = world();
    let kept = |pool: &str| Service { pool: Some(pool.to_owned()), ..service(&["203.0.113.9"]) };
    world.services = Arc::new([(key("web"), kept("pool"))].into());
    let planned = plan(&world, "node1");
    let web = words(&["203.0.113.9/32"]);
    assert_eq!(prefixes(&planned), [("one", web.clone()), ("two", web)]);
    assert_eq!(planned.services, [(key("web"), told(&["one", "two"], &["203.0.113.9"]))].into());
    world.services = Arc::new([(key("web"), kept("former"))].into());
    let planned = plan(&world, "node1");
    assert_eq!(prefixes(&planned), [("one", words(&[])), ("two", words(&[]))]);
    assert_eq!(planned.services, [(key("web"), Err(Reason::IpNotAllowed))].into());
}

#[test]
fn addresses_of_one_aggregate_make_one_route() {
    let mut world = world();
    Arc::make_mut(&mut world.services).insert(key("api"), service(&["198.51.100.10"]));
    let wide = BgpAdvertisement { aggregation_length: 28, aggregation_length_v6: 64, ..advertisement("all") };
    advertise(&mut world, wide);
    add_peer(&mut world, Peer { dual_stack: true, ..peer("one", "192.0.2.1") });
    assert_eq!(
        prefixes(&plan(&world, "node1")),
        [("one", words(&["198.51.100.0/28", "2001:db8::/64"])), ("two", words(&["198.51.100.0/28"]))]
    );
}

#[test]
fn without_leave_no_route_reaches_beyond_the_pool() {
    let mut world = world();
    world.config.pools =
        [pool("pool", &["198.51.100.10-198.51.100.20", "2001:db8::1-2001:db8::ffff"])].into();
    let addresses = ["198.51.100.10", "198.51.100.13", "198.51.100.20", "2001:db8::1", "2001:db8::9999"];
    world.services = Arc::new([(key("web"), service(&addresses))].into());
    add_peer(&mut world, Peer { dual_stack: true, ..peer("one", "192.0.2.1") });
    world.config.peers.remove("two");
    for (covering, want) in [
        (
            false,
            [
                "198.51.100.10/31",
                "198.51.100.12/30",
                "198.51.100.20/32",
                "2001:db8::1/128",
                "2001:db8::8000/113",
            ],
        ),
        (
            true,
            [
                "198.51.100.8/30",
                "198.51.100.12/30",
                "198.51.100.20/30",
                "2001:db8::/113",
                "2001:db8::8000/113",
            ],
        ),
    ] {
        let all = BgpAdvertisement {
            aggregation_length: 30,
            aggregation_length_v6: 113,
            covering,
            ..advertisement("all")
        };
        advertise(&mut world, all);
        assert_eq!(prefixes(&plan(&world, "node1")), [("one", words(&want))], "covering: {covering}");
    }
}

#[test]
fn a_node_announces_what_it_can_serve() {
    let none = Endpoints::default();
    let elsewhere = Endpoints { any: true, nodes: served_on(&["node2"]) };
    let web = service(&["198.51.100.9"]);
    for (service, want) in [
        (Service { endpoints: none.clone(), ..web.clone() }, Err(Reason::NoEndpoints)),
        (Service { endpoints: none, local: true, ..web.clone() }, Err(Reason::NoEndpoints)),
        (Service { endpoints: elsewhere.clone(), ..web.clone() }, told(&["one", "two"], &["198.51.100.9"])),
        (Service { endpoints: elsewhere, local: true, ..web.clone() }, Err(Reason::NoLocalEndpoints)),
        (Service { local: true, ..web.clone() }, told(&["one", "two"], &["198.51.100.9"])),
        (Service { addresses: vec![], ..web }, Err(Reason::IpNotAllowed)),
        (super::tests::service(&["203.0.113.1"]), Err(Reason::IpNotAllowed)),
        (super::tests::service(&["2001:db8::1"]), Err(Reason::NoMatchingPeer)),
    ] {
        let mut world = world();
        world.services = Arc::new([(key("web"), service.clone())].into());
        let plan = plan(&world, "node1");
        assert_eq!(plan.services[&key("web")], want, "{service:?}");
        let count = usize::from(want.is_ok());
        assert!(plan.peers.values().all(|routes| routes.len() == count), "{service:?}");
    }
}

#[test]
fn a_node_that_is_left_out_keeps_its_peers_and_tells_them_nothing() {
    let silent = vec![("one", vec![]), ("two", vec![])];
    let mut excluded = world();
    excluded.nodes.get_mut("node1").unwrap().labels = labels(&[(EXCLUDE_LB_LABEL, "")]);
    let left = plan(&excluded, "node1");
    assert_eq!(left.services[&key("web")], Err(Reason::NodeLabeledExcludeBalancers));
    assert_eq!(prefixes(&left), silent);
    excluded.ignore_exclude_label = true;
    assert_eq!(plan(&excluded, "node1").services[&key("web")], told(&["one", "two"], &["198.51.100.9"]));

    let mut unavailable = world();
    unavailable.nodes.get_mut("node1").unwrap().network_unavailable = true;
    let left = plan(&unavailable, "node1");
    assert_eq!(left.services[&key("web")], Err(Reason::NodeNetworkUnavailable));
    assert_eq!(prefixes(&left), silent);

    let mut unmatched = world();
    unmatched.config.bgp_advertisements.clear();
    assert_eq!(plan(&unmatched, "node1").services[&key("web")], Err(Reason::NoMatchingAdvertisement));
    assert_eq!(plan(&world(), "stranger"), Plan::default());
}

#[test]
fn advertisements_of_one_prefix_add_up_and_contradictions_are_told() {
    let mut world = world();
    Arc::make_mut(&mut world.services).insert(key("api"), service(&["198.51.100.10"]));
    let (low, high, large) =
        (Community::Standard(1, 2), Community::Standard(9, 9), Community::Large(1, 2, 3));
    let communities = BTreeSet::from([low, large]);
    advertise(&mut world, BgpAdvertisement { communities, ..advertisement("all") });
    let communities = BTreeSet::from([high]);
    advertise(
        &mut world,
        BgpAdvertisement { local_pref: Some(200), prepend: 3, communities, ..advertisement("b") },
    );
    advertise(
        &mut world,
        BgpAdvertisement { local_pref: Some(200), med: Some(0), prepend: 1, ..advertisement("c") },
    );
    let peers = names(&["one"]);
    advertise(
        &mut world,
        BgpAdvertisement { local_pref: Some(300), med: Some(1), peers, ..advertisement("d") },
    );
    let told = plan(&world, "node1");
    let merged = Attributes {
        local_pref: Some(200),
        med: Some(0),
        prepend: 3,
        communities: BTreeSet::from([low, high, large]),
    };
    for peer in ["one", "two"] {
        let got: Vec<&Attributes> = told.peers[peer].values().map(AsRef::as_ref).collect();
        assert_eq!(got, [&merged, &merged], "{peer}");
    }
    let problems: Vec<String> = told.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "BGPAdvertisement \"d\": spec.localPref: 300 is not used for 198.51.100.9/32: BGPAdvertisement \"b\" sets 200",
            "BGPAdvertisement \"d\": spec.med: 1 is not used for 198.51.100.9/32: BGPAdvertisement \"c\" sets 0"
        ]
    );
}

#[test]
fn a_router_has_one_session_with_a_node() {
    let mut world = world();
    add_peer(&mut world, peer("again", "192.0.2.1"));
    add_peer(&mut world, Peer { port: 1790, ..peer("port", "192.0.2.1") });
    add_peer(&mut world, Peer { vrf: Some("red".into()), ..peer("vrf", "192.0.2.1") });
    add_peer(&mut world, Peer { nodes: any_of("name", "node2"), ..peer("far", "192.0.2.2") });
    let told = plan(&world, "node1");
    assert_eq!(told.peers.keys().collect::<Vec<_>>(), ["again", "port", "two", "vrf"]);
    let problems: Vec<String> = told.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "BGPPeer \"one\": spec.peerAddress: BGPPeer \"again\" has the same router, on a node that both select"
        ]
    );
    let told = plan(&world, "node2");
    assert_eq!(told.peers.keys().collect::<Vec<_>>(), ["again", "far", "port", "vrf"]);
}

#[test]
fn a_peer_that_does_not_exist_is_told() {
    let mut world = world();
    advertise(&mut world, BgpAdvertisement { peers: names(&["one", "none"]), ..advertisement("all") });
    let told = plan(&world, "node1");
    let problems: Vec<_> = told.problems.iter().map(|problem| (problem.to_string(), problem.cause)).collect();
    assert_eq!(
        problems,
        [("BGPAdvertisement \"all\": spec.peers: no usable BGPPeer \"none\"".to_owned(), Cause::Unresolved)]
    );
    assert_eq!(prefixes(&told), [("one", words(&["198.51.100.9/32"])), ("two", vec![])]);
}

/// What is told of a world's configuration, whatever its Services.
fn told_ahead(world: &World) -> Vec<String> {
    contradictions(&world.config, &world.nodes).iter().map(ToString::to_string).collect()
}

#[test]
fn contradictions_are_told_before_a_service_shows_them() {
    let mut world = world();
    Arc::make_mut(&mut world.services).clear();
    advertise(&mut world, BgpAdvertisement { local_pref: Some(100), ..advertisement("all") });
    let peers = names(&["one", "none"]);
    advertise(
        &mut world,
        BgpAdvertisement { local_pref: Some(300), med: Some(1), peers, ..advertisement("b") },
    );
    advertise(&mut world, BgpAdvertisement { local_pref: Some(100), med: Some(2), ..advertisement("c") });
    add_peer(&mut world, peer("three", "192.0.2.1"));
    let also = "is not used for routes that are also of BGPAdvertisement";
    assert_eq!(
        told_ahead(&world),
        [
            "BGPAdvertisement \"b\": spec.peers: no usable BGPPeer \"none\"".to_owned(),
            "BGPPeer \"three\": spec.peerAddress: BGPPeer \"one\" has the same router, on a node that both select"
                .to_owned(),
            format!("BGPAdvertisement \"b\": spec.localPref: 300 {also} \"all\", which sets 100"),
            format!("BGPAdvertisement \"c\": spec.med: 2 {also} \"b\", which sets 1"),
        ]
    );
    world.nodes.clear();
    assert_eq!(told_ahead(&world).len(), 1, "no node has a peer twice or two advertisements");
}

#[test]
fn advertisements_that_never_meet_do_not_contradict() {
    let gold = || any_of("tier", "gold");
    let other = |change: fn(&mut BgpAdvertisement)| {
        let mut other = BgpAdvertisement { local_pref: Some(300), ..advertisement("b") };
        change(&mut other);
        other
    };
    for (mut first, second, meets) in [
        (advertisement("a"), other(|_| ()), true),
        (advertisement("a"), other(|b| b.local_pref = Some(100)), false),
        (advertisement("a"), other(|b| b.local_pref = None), false),
        (advertisement("a"), other(|b| b.pools = names(&["other"])), false),
        (advertisement("a"), other(|b| b.pools = names(&["near"])), false),
        (
            BgpAdvertisement { aggregation_length: 24, ..advertisement("a") },
            other(|b| (b.pools, b.aggregation_length) = (names(&["near"]), 24)),
            true,
        ),
        // They still meet in IPv6, which a peer of both families is told.
        (advertisement("a"), other(|b| b.aggregation_length = 24), true),
        (advertisement("a"), other(|b| (b.aggregation_length, b.aggregation_length_v6) = (24, 64)), false),
        (
            BgpAdvertisement { nodes: any_of("name", "node1"), ..advertisement("a") },
            other(|b| b.nodes = any_of("name", "node2")),
            false,
        ),
        (
            BgpAdvertisement { peers: names(&["one"]), ..advertisement("a") },
            other(|b| b.peers = names(&["two"])),
            false,
        ),
        (BgpAdvertisement { services: gold(), ..advertisement("a") }, other(|_| ()), true),
        (
            BgpAdvertisement { services: gold(), ..advertisement("a") },
            other(|b| b.services = any_of("tier", "gold")),
            true,
        ),
        (
            BgpAdvertisement { services: gold(), ..advertisement("a") },
            other(|b| b.services = any_of("tier", "silver")),
            false,
        ),
    ] {
        let mut world = world();
        world.config.bgp_advertisements.clear();
        world.config.pools.extend([pool("other", &["203.0.113.0/24"]), pool("near", &["198.51.100.0/25"])]);
        // Beside the other pool in one /24, and no address of both.
        world.config.pools.extend([pool("pool", &["198.51.100.128/25", "2001:db8::/64"])]);
        add_peer(&mut world, Peer { dual_stack: true, ..peer("one", "192.0.2.1") });
        first.local_pref = Some(100);
        let text = format!("{first:?} {second:?}");
        advertise(&mut world, first);
        advertise(&mut world, second);
        assert_eq!(told_ahead(&world).len(), usize::from(meets), "{text}");
    }
}

#[test]
fn an_address_that_left_its_pool_is_announced_while_the_pool_is_there() {
    for (mark, want) in [("pool", words(&["203.0.113.9/32"])), ("former", Vec::new())] {
        let mut world = world();
        let kept = Service { pool: Some(mark.into()), ..service(&["203.0.113.9"]) };
        world.services = Arc::new([(key("web"), kept)].into());
        let plan = plan(&world, "node1");
        assert_eq!(prefixes(&plan), [("one", want.clone()), ("two", want)], "{mark}");
    }
}

#[test]
fn routes_to_more_than_one_address_are_told() {
    let mut world = world();
    let of = |world: &World| aggregates(&world.config);
    assert_eq!(of(&world), BTreeMap::new(), "single addresses");
    advertise(&mut world, BgpAdvertisement { aggregation_length: 28, ..advertisement("some") });
    advertise(
        &mut world,
        BgpAdvertisement { aggregation_length: 8, aggregation_length_v6: 64, ..advertisement("wide") },
    );
    let four = |text: &str| format!("IPAddressPool \"pool\" by {text}");
    assert_eq!(
        of(&world),
        BTreeMap::from([
            ("some".to_owned(), vec![four("/28 routes")]),
            ("wide".to_owned(), vec![four("/8 routes reaching beyond it"), four("/64 routes")]),
        ])
    );
}
