//! BGP peers and advertisements, BFD profiles and communities.

use std::net::IpAddr;
use std::time::Duration;

use super::*;

fn peer(spec: &Value) -> api::BGPPeer {
    object("router", 0, spec)
}

fn parse_peer(spec: &Value) -> (BTreeMap<String, Peer>, Vec<Problem>) {
    let profile: api::BFDProfile = object("fast", 0, &json!({}));
    let peer = peer(spec);
    let objects = Objects { bgp_peers: vec![&peer], bfd_profiles: vec![&profile], ..Default::default() };
    let (config, problems) = parse(&objects);
    (config.peers, problems)
}

fn parsed_peer() -> Peer {
    Peer {
        name: "router".into(),
        my_asn: 64512,
        local_asn: None,
        remote_asn: RemoteAsn::Number(64513),
        endpoint: Endpoint::Address(IpAddr::from([192, 0, 2, 1])),
        port: 179,
        source: None,
        timers: None,
        connect_time: None,
        router_id: None,
        nodes: AnyOf::default(),
        password: None,
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

/// The least that a peer needs, with `more` put over it.
fn spec(more: &Value) -> Value {
    let mut spec = json!({ "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn a_peer_keeps_everything_that_it_says() {
    let full = json!({
        "localASN": 65000,
        "sourceAddress": "192.0.2.9",
        "peerPort": 1790,
        "holdTime": "1m30s",
        "keepaliveTime": "30s",
        "connectTime": "10s",
        "routerID": "10.0.0.1",
        "nodeSelectors": [{ "matchLabels": { "rack": "1" } }],
        "passwordSecret": { "name": "secret" },
        "bfdProfile": "fast",
        "enableGracefulRestart": true,
        "vrf": "red",
        "dualStackAddressFamily": true,
        "ttlSecurityHops": 254,
        "passive": true,
        "maxPrefixes": 4_294_967_295_u32,
    });
    let want = Peer {
        local_asn: Some(65000),
        source: Some(IpAddr::from([192, 0, 2, 9])),
        port: 1790,
        timers: Some(Timers { hold: Duration::from_secs(90), keepalive: Duration::from_secs(30) }),
        connect_time: Some(Duration::from_secs(10)),
        router_id: Some([10, 0, 0, 1].into()),
        nodes: any_of("rack", "1"),
        password: Some(Password::Secret("secret".into())),
        bfd_profile: Some("fast".into()),
        graceful_restart: true,
        vrf: Some("red".into()),
        dual_stack: true,
        ttl_security_hops: Some(254),
        passive: true,
        max_prefixes: Some(u32::MAX),
        ..parsed_peer()
    };
    let named = |peer| BTreeMap::from([("router".to_owned(), peer)]);
    assert_eq!(parse_peer(&spec(&full)), (named(want), vec![]));
    assert_eq!(parse_peer(&spec(&json!({}))), (named(parsed_peer()), vec![]));
    let unnumbered = json!({ "myASN": 64512, "dynamicASN": "external", "interface": "eth0" });
    let want = Peer {
        remote_asn: RemoteAsn::External,
        endpoint: Endpoint::Interface("eth0".into()),
        ..parsed_peer()
    };
    assert_eq!(parse_peer(&unnumbered), (named(want), vec![]));
}

#[test]
fn what_is_empty_in_a_peer_counts_as_absent() {
    let empty = json!({
        "interface": "", "sourceAddress": "", "routerID": "", "vrf": "", "bfdProfile": "", "password": "",
        "passwordSecret": {}, "peerPort": 0,
    });
    assert_eq!(parse_peer(&spec(&empty)), parse_peer(&spec(&json!({}))));
}

#[test]
fn timers_fill_each_other_in() {
    let seconds = |hold, keepalive| {
        Some(Timers { hold: Duration::from_secs(hold), keepalive: Duration::from_millis(keepalive) })
    };
    for (hold, keepalive, want) in [
        (None, None, None),
        (Some("90s"), None, seconds(90, 30_000)),
        (None, Some("20s"), seconds(60, 20_000)),
        (Some("3s"), Some("500ms"), seconds(3, 500)),
        (Some("9.9s"), Some("3s"), seconds(9, 3_000)),
        (Some("0s"), None, seconds(0, 0)),
        (Some("0.9s"), Some("300ms"), seconds(0, 0)),
        (Some("65535s"), Some("65535s"), seconds(65_535, 65_535_000)),
    ] {
        let timers = json!({ "holdTime": hold, "keepaliveTime": keepalive });
        let (peers, problems) = parse_peer(&spec(&timers));
        assert_eq!((peers["router"].timers, problems), (want, vec![]), "{hold:?} {keepalive:?}");
    }
}

#[test]
fn a_bad_peer_is_left_out_and_every_mistake_is_named() {
    for (more, problems) in [
        (json!({ "myASN": 0 }), vec!["spec.myASN: must not be 0"]),
        (json!({ "peerASN": 0 }), vec!["spec.peerASN: either peerASN or dynamicASN is needed"]),
        (json!({ "dynamicASN": "internal" }), vec!["spec.dynamicASN: cannot be set together with peerASN"]),
        (
            json!({ "peerASN": 64512, "ebgpMultiHop": true }),
            vec!["spec.ebgpMultiHop: can only be set for a router of another AS"],
        ),
        (json!({ "peerAddress": "" }), vec!["spec.peerAddress: either peerAddress or interface is needed"]),
        (json!({ "peerAddress": "192.0.2" }), vec!["spec.peerAddress: \"192.0.2\" is not an address"]),
        (json!({ "interface": "eth0" }), vec!["spec.interface: cannot be set together with peerAddress"]),
        (json!({ "sourceAddress": "me" }), vec!["spec.sourceAddress: \"me\" is not an address"]),
        (json!({ "routerID": "2001:db8::1" }), vec!["spec.routerID: \"2001:db8::1\" is not an IPv4 address"]),
        (
            json!({ "holdTime": "2s" }),
            vec!["spec.holdTime: a hold time of 2s is neither 0 nor from 3s to 65535s"],
        ),
        (
            json!({ "keepaliveTime": "7h" }),
            vec!["spec.keepaliveTime: a hold time of 75600s is neither 0 nor from 3s to 65535s"],
        ),
        (
            json!({ "holdTime": "10s", "keepaliveTime": "11s" }),
            vec!["spec.keepaliveTime: 11s is longer than the hold time of 10s"],
        ),
        (
            json!({ "holdTime": "ten", "keepaliveTime": "-1s" }),
            vec![
                "spec.holdTime: \"ten\" is not a duration: write for example 90s or 1m30s",
                "spec.keepaliveTime: \"-1s\" is negative",
            ],
        ),
        (
            json!({ "connectTime": "1500ms" }),
            vec!["spec.connectTime: 1.5s is not a whole number of seconds from 1 to 65535"],
        ),
        (
            json!({ "password": "x", "passwordSecret": { "name": "y" } }),
            vec!["spec.passwordSecret: cannot be set together with password"],
        ),
        (
            json!({ "nodeSelectors": [{ "matchExpressions": [{ "key": "k", "operator": "?" }] }] }),
            vec![
                "spec.nodeSelectors[0].matchExpressions[0].operator: unknown operator \"?\": use In, NotIn, Exists or \
                 DoesNotExist",
            ],
        ),
        (json!({ "ttlSecurityHops": 0 }), vec!["spec.ttlSecurityHops: 0 is not in the range 1 to 254"]),
        (
            json!({ "ttlSecurityHops": 2, "ebgpMultiHop": true }),
            vec!["spec.ttlSecurityHops: cannot be set together with ebgpMultiHop"],
        ),
        (json!({ "bfdProfile": "slow" }), vec!["spec.bfdProfile: no usable BFDProfile \"slow\""]),
    ] {
        let (peers, found) = parse_peer(&spec(&more));
        let problems: Vec<_> = problems.iter().map(|line| format!("BGPPeer \"router\": {line}")).collect();
        assert_eq!((peers, lines(&found)), (BTreeMap::new(), problems), "{more}");
    }
}

#[test]
fn a_reference_to_what_does_not_exist_is_told_from_a_mistake() {
    let peer = peer(&spec(&json!({ "bfdProfile": "slow" })));
    let advertisement: api::BGPAdvertisement =
        object("routes", 0, &json!({ "communities": ["later", "65536:1"] }));
    let (config, problems) = parse(&Objects {
        bgp_peers: vec![&peer],
        bgp_advertisements: vec![&advertisement],
        ..Default::default()
    });
    let causes: Vec<_> = problems.iter().map(|problem| (problem.to_string(), problem.cause)).collect();
    assert_eq!(
        causes,
        [
            (
                "BGPAdvertisement \"routes\": spec.communities: \"65536:1\" is not a community: \"65536\" is not a \
                 number from 0 to 65535"
                    .to_owned(),
                Cause::Invalid
            ),
            (
                "BGPAdvertisement \"routes\": spec.communities: \"later\" is not a community, and no Community \
                 defines this name"
                    .to_owned(),
                Cause::Unresolved
            ),
            ("BGPPeer \"router\": spec.bfdProfile: no usable BFDProfile \"slow\"".to_owned(), Cause::Unresolved),
        ]
    );
    assert_eq!(config, Config::default());
}

#[test]
fn how_far_a_router_may_be_and_whether_echo_packets_reach_it() {
    use Distance::{AsFound, ManyHops, OneHop};
    let interface = json!({ "myASN": 64512, "peerASN": 64513, "interface": "eth1" });
    let dynamic = |asn: &str| json!({ "myASN": 64512, "dynamicASN": asn, "peerAddress": "192.0.2.1" });
    for (spec, distance, takes_echo) in [
        (spec(&json!({})), OneHop, true),
        (spec(&json!({ "peerAddress": "2001:db8::1" })), OneHop, true),
        (spec(&json!({ "peerAddress": "fe80::1" })), OneHop, false),
        (interface, OneHop, false),
        (spec(&json!({ "peerASN": 64512 })), AsFound, true),
        (spec(&json!({ "localASN": 64513 })), AsFound, true),
        (dynamic("internal"), AsFound, true),
        (dynamic("external"), OneHop, true),
        (spec(&json!({ "ebgpMultiHop": true })), ManyHops, false),
        (spec(&json!({ "ttlSecurityHops": 1 })), OneHop, true),
        (spec(&json!({ "ttlSecurityHops": 1, "peerASN": 64512 })), OneHop, true),
        (spec(&json!({ "ttlSecurityHops": 2 })), ManyHops, false),
    ] {
        let (peers, problems) = parse_peer(&spec);
        assert_eq!(problems, [], "{spec}");
        let peer = &peers["router"];
        assert_eq!((peer.distance(), peer.takes_echo()), (distance, takes_echo), "{spec}");
    }
    for (distance, on_link, elsewhere) in
        [(OneHop, false, false), (ManyHops, true, true), (AsFound, false, true)]
    {
        let is_multihop = [true, false].map(|on_link| distance.is_multihop(on_link));
        assert_eq!(is_multihop, [on_link, elsewhere], "{distance:?}");
    }
}

#[test]
fn a_password_fits_into_its_signature() {
    for (length, want) in [
        (80, vec![]),
        (81, vec!["BGPPeer \"router\": spec.password: has 81 octets: TCP MD5 takes at most 80"]),
    ] {
        let (_, problems) = parse_peer(&spec(&json!({ "password": "x".repeat(length) })));
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), want);
    }
}

#[test]
fn a_password_is_not_printed() {
    let (peers, _) = parse_peer(&spec(&json!({ "password": "hunter2" })));
    assert_eq!(peers["router"].password, Some(Password::Plain("hunter2".into())));
    assert!(!format!("{peers:?}").contains("hunter2"));
}

#[test]
fn a_bfd_profile_has_its_defaults_and_limits() {
    let profile = |name, spec: &Value| object::<api::BFDProfile>(name, 0, spec);
    let full = json!({
        "receiveInterval": 10, "transmitInterval": 60000, "detectMultiplier": 255, "echoInterval": 100,
        "echoMode": true, "passiveMode": true, "minimumTtl": 254,
    });
    let bad =
        json!({ "receiveInterval": 9, "transmitInterval": 60001, "detectMultiplier": 1, "minimumTtl": -1 });
    let objects = [profile("bad", &bad), profile("defaults", &Value::Null), profile("full", &full)];
    let (config, problems) = parse(&Objects { bfd_profiles: objects.iter().collect(), ..Default::default() });
    let milliseconds = Duration::from_millis;
    let defaults = BfdProfile {
        name: "defaults".into(),
        receive_interval: milliseconds(300),
        transmit_interval: milliseconds(300),
        detect_multiplier: 3,
        echo_interval: milliseconds(50),
        echo_mode: false,
        passive_mode: false,
        minimum_ttl: None,
    };
    let full = BfdProfile {
        name: "full".into(),
        receive_interval: milliseconds(10),
        transmit_interval: milliseconds(60_000),
        detect_multiplier: 255,
        echo_interval: milliseconds(100),
        echo_mode: true,
        passive_mode: true,
        minimum_ttl: Some(254),
    };
    assert_eq!(config.bfd_profiles, BTreeMap::from([("defaults".into(), defaults), ("full".into(), full)]));
    assert_eq!(
        lines(&problems),
        [
            "BFDProfile \"bad\": spec.receiveInterval: 9 is not in the range 10 to 60000",
            "BFDProfile \"bad\": spec.transmitInterval: 60001 is not in the range 10 to 60000",
            "BFDProfile \"bad\": spec.detectMultiplier: 1 is not in the range 2 to 255",
            "BFDProfile \"bad\": spec.minimumTtl: -1 is not in the range 1 to 254",
        ]
    );
}

fn community(name: &str, second: u8, aliases: &[(&str, &str)]) -> api::Community {
    let aliases: Vec<_> =
        aliases.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    object(name, second, &json!({ "communities": aliases }))
}

/// An advertisement of the pools `lan` (192.0.2.0/26 and 2001:db8::/64) and `wan` (198.51.100.0/24).
fn advertise(
    spec: &Value,
    communities: &[api::Community],
) -> (BTreeMap<String, BgpAdvertisement>, Vec<String>) {
    let pools = [pool("lan", 0, &["192.0.2.0/26", "2001:db8::/64"]), pool("wan", 1, &["198.51.100.0/24"])];
    let advertisement: api::BGPAdvertisement = object("routes", 0, spec);
    let (config, problems) = parse(&Objects {
        pools: pools.iter().collect(),
        bgp_advertisements: vec![&advertisement],
        communities: communities.iter().collect(),
        ..Default::default()
    });
    (config.bgp_advertisements, lines(&problems))
}

fn advertised(pools: &[&str]) -> BgpAdvertisement {
    BgpAdvertisement {
        name: "routes".into(),
        pools: pools.iter().map(|name| (*name).to_owned()).collect(),
        nodes: AnyOf::default(),
        services: AnyOf::default(),
        peers: BTreeSet::new(),
        aggregation_length: 32,
        aggregation_length_v6: 128,
        covering: false,
        local_pref: None,
        med: None,
        prepend: 0,
        communities: BTreeSet::new(),
    }
}

fn routes(advertisement: BgpAdvertisement) -> BTreeMap<String, BgpAdvertisement> {
    BTreeMap::from([("routes".into(), advertisement)])
}

#[test]
fn a_bgp_advertisement_keeps_everything_that_it_says() {
    let full = json!({
        "aggregationLength": 26,
        "aggregationLengthV6": 64,
        "localPref": 100,
        "med": 4_294_967_295_u32,
        "asPathPrepend": 10,
        "allowCovering": true,
        "communities": ["no-export", "no-advertise", "64512:7", "large:1:2:3", "colour"],
        "ipAddressPools": ["lan", "not-there"],
        "nodeSelectors": [{ "matchLabels": { "rack": "1" } }],
        "peers": ["router"],
    });
    let aliases = [community("names", 0, &[("no-export", "1:1"), ("colour", "large:9:9:9")])];
    let want = BgpAdvertisement {
        aggregation_length: 26,
        aggregation_length_v6: 64,
        covering: true,
        local_pref: Some(100),
        med: Some(u32::MAX),
        prepend: 10,
        communities: BTreeSet::from([
            Community::Standard(1, 1),
            Community::Standard(65535, 65282),
            Community::Standard(64512, 7),
            Community::Large(1, 2, 3),
            Community::Large(9, 9, 9),
        ]),
        nodes: any_of("rack", "1"),
        peers: BTreeSet::from(["router".into()]),
        ..advertised(&["lan"])
    };
    assert_eq!(advertise(&full, &aliases), (routes(want), vec![]));
    assert_eq!(advertise(&Value::Null, &[]), (routes(advertised(&["lan", "wan"])), vec![]));
    let of_services = json!({ "serviceSelectors": [{ "matchLabels": { "app": "web" } }] });
    let want = BgpAdvertisement { services: any_of("app", "web"), ..advertised(&["lan", "wan"]) };
    assert_eq!(advertise(&of_services, &[]), (routes(want), vec![]));
}

#[test]
fn a_bad_bgp_advertisement_is_left_out() {
    let bad = json!({
        "aggregationLength": 33,
        "aggregationLengthV6": -1,
        "localPref": -5,
        "asPathPrepend": 11,
        "communities": ["1:1", "1:1"],
        "peers": ["a", "b", "a"],
    });
    let problems = [
        "spec.peers[2]: \"a\" is listed before",
        "spec.aggregationLength: 33 is not in the range 1 to 32",
        "spec.aggregationLengthV6: -1 is not in the range 0 to 128",
        "spec.localPref: -5 is negative",
        "spec.asPathPrepend: 11 is not in the range 0 to 10",
        "spec.communities[1]: \"1:1\" is listed before",
    ];
    let problems = problems.map(|line| format!("BGPAdvertisement \"routes\": {line}")).to_vec();
    assert_eq!(advertise(&bad, &[]), (BTreeMap::new(), problems));
    let (served, problems) = advertise(
        &json!({ "aggregationLength": 24, "ipAddressPools": ["wan"], "serviceSelectors": [{}] }),
        &[],
    );
    assert_eq!(served, BTreeMap::new());
    assert_eq!(
        problems,
        [
            "BGPAdvertisement \"routes\": spec.serviceSelectors: can only be used with aggregationLength 32 and \
             aggregationLengthV6 128"
        ]
    );
}

#[test]
fn a_pool_that_is_narrower_than_its_route_does_not_stop_the_others() {
    let want = BgpAdvertisement { aggregation_length: 24, ..advertised(&["wan"]) };
    assert_eq!(
        advertise(&json!({ "aggregationLength": 24 }), &[]),
        (
            routes(want),
            vec![
                "BGPAdvertisement \"routes\": spec.aggregationLength: IPAddressPool \"lan\" is not announced: a /24 \
                 route would reach beyond 192.0.2.0/26, use at least 26, or allowCovering"
                    .to_owned()
            ]
        )
    );
}

#[test]
fn a_route_may_cover_more_than_its_pool_when_that_is_asked_for() {
    let want = BgpAdvertisement { aggregation_length: 8, covering: true, ..advertised(&["lan", "wan"]) };
    let spec = json!({ "aggregationLength": 8, "allowCovering": true });
    assert_eq!(advertise(&spec, &[]), (routes(want), vec![]));
}

#[test]
fn of_two_communities_with_one_name_the_older_counts() {
    let communities = [
        community("a", 9, &[("x", "2:2"), ("y", "3:3")]),
        community("b", 5, &[("x", "1:1")]),
        community("c", 0, &[("", "1:1"), ("z", "1"), ("z", "1:1"), ("z", "2:2")]),
    ];
    let want = BgpAdvertisement {
        communities: BTreeSet::from([Community::Standard(1, 1)]),
        ..advertised(&["lan", "wan"])
    };
    let problems = [
        "Community \"a\": spec.communities[0].name: \"x\" is defined before",
        "Community \"c\": spec.communities[0].name: a name is needed",
        "Community \"c\": spec.communities[1].value: \"1\" is not a community: write number:number or \
         large:number:number:number",
        "Community \"c\": spec.communities[3].name: \"z\" is defined before",
    ];
    assert_eq!(
        advertise(&json!({ "communities": ["x"] }), &communities),
        (routes(want), problems.map(String::from).to_vec())
    );
}
