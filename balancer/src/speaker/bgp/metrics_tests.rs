use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metallb_proto::bgp::{
    self, Action, Asn, Event, Family as Afi, NextHops, RemoteAsn, RouterId, Routes, Side,
};
use prometheus_client::encoding::text::encode;

use super::super::spec::Ttl;
use super::*;

fn settings(own: u32, other: u32) -> bgp::Settings {
    bgp::Settings {
        local_asn: Asn(own),
        remote_asn: RemoteAsn::Exactly(Asn(other)),
        router_id: RouterId(std::net::Ipv4Addr::from_bits(own)),
        hold_time: Duration::from_secs(90),
        keepalive: None,
        connect_retry: None,
        families: [Afi::Ipv4].into(),
        extended_next_hop: false,
        graceful_restart: None,
        passive: false,
        max_prefixes: None,
        drain: Duration::ZERO,
        seed: 0,
    }
}

fn spec(device: Option<&str>) -> Spec {
    Spec {
        endpoint: Endpoint::Address([192, 0, 2, 1].into()),
        port: 179,
        source: None,
        device: device.map(str::to_owned),
        ttl: Ttl::Default,
        password: None,
        settings: settings(64512, 64513),
    }
}

/// A session that its router, another one, was told two routes in, and announced one in return.
fn standing() -> Session {
    let routes = |prefixes: &[&str]| -> Arc<Routes> {
        Arc::new(prefixes.iter().map(|prefix| (prefix.parse().unwrap(), Arc::default())).collect())
    };
    let now = Instant::now();
    let mut ends =
        [settings(64512, 64513), bgp::Settings { passive: true, ..settings(64513, 64512) }].map(Session::new);
    let own = [Side::Outgoing, Side::Incoming];
    let mut actions = VecDeque::new();
    for (end, prefixes) in [&["198.51.100.1/32", "198.51.100.2/32"][..], &["0.0.0.0/0"]].iter().enumerate() {
        actions.extend(ends[end].handle(now, Event::Start).into_iter().map(|action| (end, action)));
        actions.extend(
            ends[end].handle(now, Event::Routes(routes(prefixes))).into_iter().map(|action| (end, action)),
        );
    }
    while let Some((from, action)) = actions.pop_front() {
        let mut tell = |end: usize, event| {
            actions.extend(ends[end].handle(now, event).into_iter().map(|action| (end, action)));
        };
        match action {
            Action::Connect => {
                for (end, side) in own.into_iter().enumerate() {
                    let next_hops = NextHops { v4: Some([192, 0, 2, 9].into()), ..NextHops::default() };
                    tell(end, Event::Connected { side, next_hops });
                }
            }
            Action::Send { bytes, .. } => {
                tell(1 - from, Event::Received { side: own[1 - from], bytes: &bytes });
            }
            Action::Close(_) | Action::Report(_) => {}
        }
    }
    let [session, _] = ends;
    session
}

/// The samples of all metrics, without their descriptions.
fn shown(metrics: &BgpMetrics) -> Vec<String> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let mut samples: Vec<String> =
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    samples.sort();
    samples
}

#[test]
fn a_peer_is_shown_by_the_names_that_dashboards_look_for() {
    let metrics = BgpMetrics::default();
    let mut peer = metrics.of_peer(&spec(None));
    let session = standing();
    peer.session(&session);
    let sample =
        |name: &str, value: u64| format!("metallb_{name}{{peer=\"192.0.2.1:179\",vrf=\"\"}} {value}");
    let samples = |count: u64| {
        [
            sample("bgp_announced_prefixes_total", 2),
            sample("bgp_keepalives_received", count),
            sample("bgp_keepalives_sent", count),
            sample("bgp_notifications_sent", 0),
            sample("bgp_opens_received", count),
            sample("bgp_opens_sent", count),
            sample("bgp_pending_prefixes_total", 2),
            sample("bgp_route_refresh_sent", 0),
            sample("bgp_routes_received", count),
            sample("bgp_session_up", 1),
            // An UPDATE with the routes, and the End-of-RIB.
            sample("bgp_total_received", 4 * count),
            sample("bgp_total_sent", 4 * count),
            sample("bgp_updates_total_received", 2 * count),
            sample("bgp_updates_total", 2 * count),
        ]
    };
    assert_eq!(shown(&metrics), samples(1));
    peer.begin(&spec(None));
    peer.session(&session);
    assert_eq!(shown(&metrics), samples(2), "a second session goes on counting");
    drop(peer);
    assert_eq!(shown(&metrics), Vec::<String>::new());
}

#[test]
fn one_address_in_two_vrfs_is_two_routers() {
    let metrics = BgpMetrics::default();
    let mut peer = metrics.of_peer(&spec(None));
    let mut other = metrics.of_peer(&spec(Some("red")));
    for peer in [&mut peer, &mut other] {
        peer.session(&standing());
    }
    drop(peer);
    let left = shown(&metrics);
    assert!(left.iter().all(|sample| sample.contains("vrf=\"red\"")), "{left:?}");
    assert!(left.iter().any(|sample| sample.starts_with("metallb_bgp_session_up{")), "{left:?}");
}

#[test]
fn bfd_is_shown_by_the_names_that_dashboards_look_for() {
    let metrics = BgpMetrics::default();
    let label = Label::of(&spec(None));
    for (index, (_, _, family)) in metrics.bfd.all().into_iter().enumerate() {
        family.get_or_create(&label).set(i64::try_from(index).unwrap());
    }
    let names = [
        "control_packet_dropped",
        "control_packet_input",
        "control_packet_output",
        "echo_packet_input",
        "echo_packet_output",
        "session_down_events",
        "session_up_events",
        "session_up",
    ];
    let found = shown(&metrics);
    for (sample, name) in found.iter().zip(names) {
        assert!(sample.starts_with(&format!("metallb_bfd_{name}{{peer=\"192.0.2.1:179\"")), "{sample}");
    }
    assert_eq!(found.len(), names.len());
    metrics.bfd.remove(&label);
    assert_eq!(shown(&metrics), Vec::<String>::new());
}
