use metallb_core::config::{Objects, parse};
use metallb_core::plan::World;
use serde_json::{Value, json};

use super::*;

const NODE: Node = Node {
    router_id: RouterId(Ipv4Addr::new(192, 0, 2, 11)),
    backend: Backend::Native,
    listens: false,
    preserved: true,
};

/// What one peer is to be, whose spec is the least that it needs and `more`.
fn wanted(more: &Value, node: Node, secrets: &[(&str, Found)]) -> WantedPeer {
    let mut spec = json!({ "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = |kind: &str, name: &str, spec: &Value| json!({ "apiVersion": "metallb.io/v1beta2", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let peer = serde_json::from_value(object("BGPPeer", "router", &spec)).unwrap();
    let profiles = [("fast", json!({})), ("echo", json!({ "echoMode": true }))]
        .map(|(name, spec)| serde_json::from_value(object("BFDProfile", name, &spec)).unwrap());
    let bfd_profiles = profiles.iter().collect();
    let (config, problems) = parse(&Objects { bgp_peers: vec![&peer], bfd_profiles, ..Objects::default() });
    assert_eq!(problems, []);
    let nodes = [("node1".to_owned(), metallb_core::plan::Node::default())].into();
    let world = World { config, nodes, ..World::default() };
    let secrets = secrets.iter().map(|(name, found)| ((*name).to_owned(), found.clone())).collect();
    let plan = routes::plan(&world, "node1");
    Wanted::of(&world.config, plan, node, &secrets).peers.remove("router").unwrap()
}

fn settings() -> bgp::Settings {
    bgp::Settings {
        local_asn: Asn(64512),
        remote_asn: bgp::RemoteAsn::Exactly(Asn(64513)),
        router_id: NODE.router_id,
        hold_time: Duration::from_secs(90),
        keepalive: None,
        connect_retry: None,
        families: [Family::Ipv4].into(),
        extended_next_hop: false,
        graceful_restart: None,
        passive: false,
        max_prefixes: None,
        drain: Duration::from_secs(3),
        seed: 0,
    }
}

pub(in crate::speaker::bgp) fn least() -> Spec {
    Spec {
        endpoint: Endpoint::Address([192, 0, 2, 1].into()),
        port: 179,
        source: None,
        device: None,
        ttl: Ttl::Default,
        password: None,
        settings: settings(),
    }
}

fn spec_of(more: &Value, node: Node, secrets: &[(&str, Found)]) -> Result<Spec, String> {
    wanted(more, node, secrets).spec.map(|spec| (*spec).clone())
}

#[test]
fn a_peer_is_taken_over_whole() {
    assert_eq!(spec_of(&json!({}), NODE, &[]), Ok(least()));
    let full = json!({
        "localASN": 65000, "sourceAddress": "192.0.2.9", "peerPort": 1790, "holdTime": "30s",
        "keepaliveTime": "5s", "connectTime": "10s", "routerID": "10.0.0.1", "password": "secret",
        "enableGracefulRestart": true, "vrf": "red", "dualStackAddressFamily": true, "ttlSecurityHops": 2,
        "passive": true, "maxPrefixes": 7, "bfdProfile": "fast",
    });
    let listens = Node { listens: true, ..NODE };
    let restart = GracefulRestart { time: RESTART_TIME, restarting: false, preserved: true };
    let want = Spec {
        port: 1790,
        source: Some([192, 0, 2, 9].into()),
        device: Some("red".to_owned()),
        ttl: Ttl::Security { hops: 2 },
        password: Some(Key::new(b"secret")),
        settings: bgp::Settings {
            local_asn: Asn(65000),
            router_id: RouterId([10, 0, 0, 1].into()),
            hold_time: Duration::from_secs(30),
            keepalive: Some(Duration::from_secs(5)),
            connect_retry: Some(Duration::from_secs(10)),
            families: [Family::Ipv4, Family::Ipv6].into(),
            graceful_restart: Some(restart),
            passive: true,
            max_prefixes: Some(7),
            ..settings()
        },
        ..least()
    };
    assert_eq!(spec_of(&full, listens, &[]), Ok(want));
    assert_eq!(wanted(&full, listens, &[]).bfd.map(|profile| profile.name), Some("fast".to_owned()));
}

#[test]
fn what_keeps_a_peer_from_a_session_is_told() {
    let secret = json!({ "passwordSecret": { "name": "pass" } });
    let found = |found: Found| vec![("pass", found)];
    let unusable = Found::Unusable("has no key".to_owned());
    for (more, secrets, want) in [
        (
            &json!({ "passive": true }),
            vec![],
            "passive needs speakerConfig.bgpListen of the MetalLB resource",
        ),
        (&secret, vec![], "Secret \"pass\" was not read yet"),
        (&secret, found(Found::Missing), "there is no Secret \"pass\""),
        (&secret, found(unusable), "Secret \"pass\" has no key"),
    ] {
        assert_eq!(spec_of(more, NODE, &secrets), Err(want.to_owned()));
    }
    let key = Key::new(b"x");
    let spec = spec_of(&secret, NODE, &found(Found::Password(key.clone()))).unwrap();
    assert_eq!(spec.password, Some(key));
    assert!(format!("{spec:?}").contains("Key(..)"));
}

#[test]
fn the_ttl_is_what_users_of_each_backend_have() {
    let native = NODE;
    let frr = Node { backend: Backend::FrrK8s, ..NODE };
    let internal = json!({ "peerASN": 64512 });
    let multihop = json!({ "ebgpMultiHop": true });
    let external = json!({});
    for (more, node, ttl, distance) in [
        (&external, native, Ttl::Default, Distance::OneHop),
        (&external, frr, Ttl::OneHop, Distance::OneHop),
        (&multihop, frr, Ttl::Default, Distance::ManyHops),
        (&internal, frr, Ttl::Default, Distance::AsFound),
        (&json!({ "ttlSecurityHops": 1 }), frr, Ttl::Security { hops: 1 }, Distance::OneHop),
        (&json!({ "ttlSecurityHops": 3 }), frr, Ttl::Security { hops: 3 }, Distance::ManyHops),
    ] {
        let wanted = wanted(more, node, &[]);
        assert_eq!((wanted.spec.unwrap().ttl, wanted.distance), (ttl, distance), "{more}");
    }
}

#[test]
fn bfd_packets_take_as_many_hops_as_those_of_bgp_and_echo_packets_none() {
    for (more, minimum_ttl, echo_mode) in [
        (json!({}), None, true),
        (json!({ "ttlSecurityHops": 1 }), Some(255), true),
        (json!({ "ttlSecurityHops": 3 }), Some(253), false),
        (json!({ "ebgpMultiHop": true }), None, false),
        (json!({ "peerASN": 64512 }), None, true),
    ] {
        let mut spec = more.clone();
        spec["bfdProfile"] = "echo".into();
        let bfd = wanted(&spec, NODE, &[]).bfd.unwrap();
        assert_eq!((bfd.minimum_ttl, bfd.echo_mode), (minimum_ttl, echo_mode), "{more}");
    }
}

#[test]
fn a_session_goes_on_with_what_the_router_does_not_see_of_an_edit() {
    let least = spec_of(&json!({ "holdTime": "90s" }), NODE, &[]).unwrap();
    for (more, continues, leads_elsewhere) in [
        (json!({ "connectTime": "5s" }), true, false),
        (json!({ "maxPrefixes": 9 }), true, false),
        (json!({ "keepaliveTime": "3s" }), true, false),
        (json!({ "passive": true }), true, false),
        (json!({ "disableMP": true }), true, false),
        (json!({ "holdTime": "60s" }), false, false),
        (json!({ "routerID": "9.9.9.9" }), false, false),
        (json!({ "peerASN": 64514 }), false, false),
        (json!({ "password": "secret" }), false, false),
        (json!({ "peerPort": 1790 }), false, false),
        (json!({ "enableGracefulRestart": true }), false, false),
        (json!({ "dualStackAddressFamily": true }), false, false),
        (json!({ "ttlSecurityHops": 2 }), false, false),
        (json!({ "peerAddress": "192.0.2.2" }), false, true),
        (json!({ "sourceAddress": "192.0.2.9" }), false, true),
        (json!({ "vrf": "red" }), false, true),
    ] {
        let mut spec = json!({ "holdTime": "90s" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = spec_of(&spec, Node { listens: true, ..NODE }, &[]).unwrap();
        let said = (spec.continues(&least), spec.leads_elsewhere_than(&least));
        assert_eq!(said, (continues, leads_elsewhere), "{more}");
    }
}

#[test]
fn a_node_is_known_by_its_address_or_by_its_name() {
    let v4 = RouterId([192, 0, 2, 11].into());
    assert_eq!(router_id("192.0.2.11".parse().ok(), "node1"), v4);
    let named = router_id(None, "node1");
    assert_eq!(router_id("2001:db8::1".parse().ok(), "node1"), named);
    assert_eq!(router_id("127.0.0.1".parse().ok(), "node1"), named);
    assert_ne!(named, router_id(None, "node2"));
}

#[test]
fn routes_with_equal_attributes_share_them() {
    let attributes = routes::Attributes {
        local_pref: Some(1),
        med: Some(2),
        prepend: 3,
        communities: [Community::Standard(0xffff, 2), Community::Large(1, 2, 3)].into(),
    };
    let table: routes::Routes = ["198.51.100.1/32", "198.51.100.2/32"]
        .map(|prefix| (prefix.parse().unwrap(), Arc::new(attributes.clone())))
        .into();
    let routes: Vec<_> = on_the_wire(&table).into_values().collect();
    let want = bgp::Attributes {
        local_pref: Some(1),
        med: Some(2),
        prepend: 3,
        communities: [bgp::Community(0xffff_0002)].into(),
        large_communities: [LargeCommunity(1, 2, 3)].into(),
    };
    assert_eq!(*routes[0], want);
    assert!(Arc::ptr_eq(&routes[0], &routes[1]));
}
