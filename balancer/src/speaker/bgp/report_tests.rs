use std::collections::BTreeSet;

use metallb_core::config::Distance;
use metallb_core::routes::Told;
use metallb_core::service::ServiceKey;
use metallb_proto::bgp::{Asn, Family, RouterId, RouterRestart, State};

use super::super::spec::WantedPeer;
use super::*;

fn peer(endpoint: Endpoint) -> WantedPeer {
    WantedPeer {
        endpoint,
        vrf: Some("red".to_owned()),
        spec: Err("no reason".to_owned()),
        bfd: None,
        distance: Distance::OneHop,
        routes: Arc::default(),
    }
}

fn agreed() -> Agreed {
    Agreed {
        remote_asn: Asn(64513),
        remote_id: RouterId([192, 0, 2, 1].into()),
        internal: false,
        hold_time: Duration::from_secs(90),
        keepalive: Duration::from_secs(30),
        families: [Family::Ipv4, Family::Ipv6].into(),
        four_octet_asn: true,
        extended_messages: false,
        route_refresh: true,
        enhanced_route_refresh: false,
        extended_next_hop: false,
        graceful_restart: Some(RouterRestart {
            restarting: false,
            time: Duration::from_secs(120),
            notifications: true,
            families: BTreeMap::new(),
        }),
    }
}

fn status() -> Status {
    Status {
        state: State::Established,
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
        last_error: Some("the router closed the connection".to_owned()),
        stopped: None,
        unheard: None,
        agreed: Some(agreed()),
        prefixes: 7,
        unsent: Some("1 IPv6 route, since".to_owned()),
        bfd: Some(bfd::State::Up),
        bfd_error: None,
    }
}

fn told(service: &str, peers: &[&str], address: &str) -> (ServiceKey, Told) {
    let peers: BTreeSet<String> = peers.iter().map(|peer| (*peer).to_owned()).collect();
    let told = Told { peers: Arc::new(peers), addresses: vec![address.parse().unwrap()] };
    (ServiceKey::new("shop", service), told)
}

#[test]
fn a_service_is_announced_while_a_peer_that_is_told_has_a_session() {
    let services = [
        told("api", &["a"], "198.51.100.1"),
        told("db", &["b", "c"], "198.51.100.2"),
        told("web", &["b"], "198.51.100.3"),
    ];
    let wanted = Wanted { services: services.into(), ..Wanted::default() };
    let down = Status { agreed: None, ..status() };
    let statuses = [("a".to_owned(), status()), ("b".to_owned(), down), ("c".to_owned(), status())].into();
    let announced: Vec<String> =
        announced(&wanted, &statuses).map(|(key, ip)| format!("{key} {ip}")).collect();
    assert_eq!(announced, ["shop/api 198.51.100.1", "shop/db 198.51.100.2"]);
}

#[test]
fn each_service_tells_its_peers_and_each_peer_its_session() {
    let services = [told("web", &["b", "a"], "198.51.100.1")];
    let address = Endpoint::Address("2001:db8::1".parse().unwrap());
    let peers =
        [("a".to_owned(), peer(address)), ("b".to_owned(), peer(Endpoint::Interface("eth1".to_owned())))];
    let wanted = Wanted { peers: peers.into(), services: services.into(), problems: vec![] };
    let status_of_service = ServiceBGPStatusStatus {
        node: Some("node1".to_owned()),
        service_name: Some("web".to_owned()),
        service_namespace: Some("shop".to_owned()),
        peers: vec!["a".to_owned(), "b".to_owned()],
    };
    assert_eq!(super::services("node1", &wanted).into_values().collect::<Vec<_>>(), [status_of_service]);

    let unheard = Some("CannotListen: routers cannot connect to this node".to_owned());
    let idle = Status { state: State::Idle, agreed: None, bfd: None, prefixes: 0, unheard, ..status() };
    let statuses = [("a".to_owned(), status()), ("b".to_owned(), idle)].into();
    let told = sessions("node1", &wanted, &statuses);
    let labels: Vec<_> = told.keys().map(|labels| labels[1].as_str()).collect();
    assert_eq!(labels, ["2001-db8--1", "eth1"]);
    let first = BGPSessionStateStatus {
        bgp_status: Some("Established".to_owned()),
        bfd_status: Some("up".to_owned()),
        node: Some("node1".to_owned()),
        peer: Some("2001:db8::1".to_owned()),
        vrf: Some("red".to_owned()),
        peer_name: Some("a".to_owned()),
        since: Some("2026-01-01T00:00:00Z".to_owned()),
        last_error: Some("the router closed the connection".to_owned()),
        capabilities: [
            "IPv4 unicast",
            "IPv6 unicast",
            "four-octet AS",
            "route refresh",
            "graceful restart",
            "graceful notification",
        ]
        .map(str::to_owned)
        .to_vec(),
        prefixes_sent: Some(7),
        routes_not_sent: Some("1 IPv6 route, since".to_owned()),
    };
    let second = BGPSessionStateStatus {
        bgp_status: Some("Idle".to_owned()),
        bfd_status: Some("N/A".to_owned()),
        peer: Some("eth1".to_owned()),
        peer_name: Some("b".to_owned()),
        last_error: Some(
            "CannotListen: routers cannot connect to this node; the router closed the connection".to_owned(),
        ),
        capabilities: vec![],
        prefixes_sent: Some(0),
        ..first.clone()
    };
    assert_eq!(told.into_values().collect::<Vec<_>>(), [first, second]);
}

#[test]
fn two_sessions_with_one_router_and_one_without_bfd_are_each_told() {
    let router = Endpoint::Address([192, 0, 2, 1].into());
    let spec = |port| {
        let mut spec = crate::speaker::bgp::spec::tests::least();
        spec.port = port;
        Ok(Arc::new(spec))
    };
    let peers = [("a", 179), ("b", 1790)]
        .map(|(name, port)| (name.to_owned(), WantedPeer { spec: spec(port), ..peer(router.clone()) }));
    let wanted = Wanted { peers: peers.into(), ..Wanted::default() };
    let unwatched = Status { bfd: Some(bfd::State::Down), last_error: None, ..status() };
    let statuses = [("a".to_owned(), status()), ("b".to_owned(), unwatched)].into();
    let told = sessions("node1", &wanted, &statuses);
    let said = told.iter().map(|(labels, status)| {
        (labels[1].as_str(), status.peer_name.as_deref().unwrap(), status.last_error.as_deref().unwrap())
    });
    assert_eq!(
        said.collect::<Vec<_>>(),
        [
            ("192.0.2.1", "a", "the router closed the connection"),
            ("192.0.2.1_1790", "b", "BFD is not up: nothing watches the path of the session"),
        ]
    );
}

#[test]
fn every_router_makes_a_label() {
    for (router, want) in [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001-db8--1"),
        ("2001:db8:1::", "2001-db8-1--0"),
        ("::1", "0--1"),
        ("::", "0--0"),
    ] {
        assert_eq!(label(router), want);
    }
}

#[test]
fn the_coming_and_going_of_a_session_are_events_of_its_peer() {
    let settings = Settings {
        namespace: "metallb-system".to_owned(),
        pod: "speaker-x".to_owned(),
        node: "node1".to_owned(),
    };
    let words = |turn: Turn<'_>| {
        let event = event(&settings, "router", &turn, status().since);
        (event.reason.unwrap(), event.type_.unwrap(), event.message.unwrap())
    };
    let told =
        |reason: &str, kind: &str, message: &str| (reason.to_owned(), kind.to_owned(), message.to_owned());
    let up = "node \"node1\" has a session with router 192.0.2.1 of AS 64513";
    assert_eq!(words(Turn::Up(&agreed())), told("SessionUp", "Normal", up));
    let down = "node \"node1\" lost its session: the router closed the connection";
    assert_eq!(words(Turn::Down("the router closed the connection")), told("SessionDown", "Warning", down));
    let ended = "node \"node1\" ended its session: its settings changed";
    assert_eq!(words(Turn::Ended("its settings changed")), told("SessionDown", "Normal", ended));
    let now = status().since;
    let time = format!("{:x}", now.as_nanosecond());
    assert_eq!(event_name("router", now), format!("router.{time}"));
    let long = format!("{}.{}", "a".repeat(LONGEST_NAME - 2 - time.len()), "b".repeat(9));
    let name = event_name(&long, now);
    assert!(name.len() < LONGEST_NAME && name.ends_with(&format!("a.{time}")), "{name}");
}

#[test]
fn a_session_that_went_and_came_while_nobody_looked_is_told() {
    let at = |up: bool, minute: u8| -> Statuses {
        let since = format!("2026-01-01T00:{minute:02}:00Z").parse().unwrap();
        [("a".to_owned(), Status { agreed: up.then(agreed), since, ..status() })].into()
    };
    let agreed = agreed();
    let up = || ("a", Turn::Up(&agreed));
    let down = || ("a", Turn::Down("the router closed the connection"));
    let ended = |why| ("a", Turn::Ended(why));
    let stopped = |mut statuses: Statuses| {
        statuses.values_mut().for_each(|status| status.stopped = Some("why".to_owned()));
        statuses
    };
    for (before, now, want) in [
        (Statuses::new(), at(false, 0), vec![]),
        (Statuses::new(), at(true, 0), vec![up()]),
        (at(false, 0), at(true, 1), vec![up()]),
        (at(true, 1), at(true, 1), vec![]),
        (at(true, 1), at(false, 2), vec![down()]),
        (at(true, 1), at(true, 3), vec![down(), up()]),
        (at(false, 2), at(false, 4), vec![]),
        (at(true, 1), stopped(at(false, 2)), vec![ended("why")]),
        (at(true, 1), stopped(at(true, 3)), vec![ended("why"), up()]),
        (stopped(at(true, 1)), Statuses::new(), vec![ended("why")]),
        (
            at(true, 1),
            Statuses::new(),
            vec![ended("the BGPPeer is gone or does not concern this node any more")],
        ),
    ] {
        assert_eq!(turns(&before, &now), want, "{before:?} to {now:?}");
    }
}
