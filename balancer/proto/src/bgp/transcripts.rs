//! Sessions with routers of other makers, recorded and played again: every byte of this end must be the one that the
//! router took, and every byte of the router must be understood.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;

/// What a transcript holds.
enum Line {
    Received(Vec<u8>),
    Sent(Vec<u8>),
    Routes(u32),
    Restart,
}

fn lines(text: &str) -> impl Iterator<Item = Line> {
    let octets = |hex: &str| -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    text.lines().filter(|line| !line.starts_with('#')).map(move |line| match line.split_once(' ').unwrap() {
        ("<", hex) => Line::Received(octets(hex)),
        (">", hex) => Line::Sent(octets(hex)),
        ("!", "restart") => Line::Restart,
        ("!", event) => Line::Routes(event.strip_prefix("routes ").unwrap().parse().unwrap()),
        (other, _) => panic!("{other}"),
    })
}

/// The first route of each family has every attribute, the others have none.
fn routes(count: u32) -> Arc<Routes> {
    let full = Arc::new(Attributes {
        local_pref: Some(300),
        med: Some(50),
        prepend: 2,
        // 64512:1 and NO_EXPORT.
        communities: BTreeSet::from([Community(0xfc00_0001), Community(0xffff_ff01)]),
        large_communities: BTreeSet::from([LargeCommunity(64512, 1, 2)]),
    });
    let mut routes = Routes::new();
    for number in 0..count {
        let attributes = if number == 0 { Arc::clone(&full) } else { Arc::default() };
        let v4 = Ipv4Addr::new(198, 51, 100, u8::try_from(number).unwrap());
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::try_from(number).unwrap());
        routes.insert(ipnet::IpNet::new(v4.into(), 32).unwrap(), Arc::clone(&attributes));
        routes.insert(ipnet::IpNet::new(v6.into(), 128).unwrap(), attributes);
    }
    Arc::new(routes)
}

const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Settings of the recorded sessions with another AS.
fn settings() -> Settings {
    let restart = GracefulRestart { time: Duration::from_secs(60), restarting: false, preserved: true };
    Settings {
        local_asn: Asn(64512),
        remote_asn: RemoteAsn::Exactly(Asn(64513)),
        router_id: RouterId(V4),
        hold_time: Duration::from_secs(9),
        keepalive: None,
        connect_retry: None,
        families: BTreeSet::from(Family::ALL),
        extended_next_hop: false,
        graceful_restart: Some(restart),
        passive: false,
        max_prefixes: None,
        drain: Duration::ZERO,
        seed: 0,
    }
}

fn next_hops() -> NextHops {
    NextHops { v4: Some(V4), v6: Some("2001:db8::1".parse().unwrap()), link_local: None }
}

/// Plays a transcript of a session with another AS, and returns what was agreed on and counted.
fn play(text: &str) -> (Agreed, Counters) {
    play_as(settings(), next_hops(), text)
}

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn play_as(settings: Settings, next_hops: NextHops, text: &str) -> (Agreed, Counters) {
    let mut session = Session::new(settings);
    let side = Side::Outgoing;
    let now = Instant::now();
    let mut sent = std::collections::VecDeque::new();
    let mut agreed = None;
    let mut tell = |event: Event<'_>, sent: &mut std::collections::VecDeque<Vec<u8>>| {
        for action in session.handle(now, event) {
            match action {
                Action::Send { bytes, .. } => sent.push_back(bytes),
                Action::Report(Report::Established(on)) => agreed = Some(on),
                Action::Connect | Action::Close(_) | Action::Report(_) => {}
            }
        }
        session.counters()
    };
    tell(Event::Start, &mut sent);
    let mut counters = tell(Event::Connected { side, next_hops }, &mut sent);
    for line in lines(text) {
        counters = match line {
            Line::Sent(bytes) => {
                assert_eq!(sent.pop_front(), Some(bytes));
                continue;
            }
            Line::Received(bytes) => tell(Event::Received { side, bytes: &bytes }, &mut sent),
            Line::Routes(count) => tell(Event::Routes(routes(count)), &mut sent),
            Line::Restart => tell(Event::Stop(Stop::Restart { text: String::new() }), &mut sent),
        };
    }
    assert!(sent.is_empty(), "{sent:?}");
    (agreed.unwrap(), counters)
}

/// What all three have in common.
fn common() -> Agreed {
    Agreed {
        remote_asn: Asn(64513),
        remote_id: RouterId(Ipv4Addr::new(192, 0, 2, 9)),
        internal: false,
        hold_time: Duration::from_secs(9),
        keepalive: Duration::from_secs(3),
        families: BTreeSet::from(Family::ALL),
        four_octet_asn: true,
        extended_messages: true,
        route_refresh: true,
        enhanced_route_refresh: true,
        extended_next_hop: false,
        graceful_restart: None,
    }
}

fn restart(restarting: bool, seconds: u64, notifications: bool) -> Option<RouterRestart> {
    let families = BTreeMap::from(Family::ALL.map(|family| (family, false)));
    Some(RouterRestart { restarting, time: Duration::from_secs(seconds), notifications, families })
}

#[test]
fn frr() {
    let (agreed, counters) = play(include_str!("transcripts/frr.txt"));
    assert_eq!(agreed, Agreed { graceful_restart: restart(true, 120, true), ..common() });
    // It sends our own routes back.
    let want = Counters {
        opens_sent: 1,
        opens_received: 1,
        updates_sent: 12,
        updates_received: 12,
        keepalives_sent: 1,
        keepalives_received: 2,
        route_refreshes_sent: 4,
        route_refreshes_received: 2,
        routes_received: 10,
        withdrawals_received: 2,
        established: 1,
        ..Counters::default()
    };
    assert_eq!(counters, want);
}

#[test]
fn bird() {
    let (agreed, counters) = play(include_str!("transcripts/bird.txt"));
    assert_eq!(agreed, Agreed { graceful_restart: restart(false, 120, false), ..common() });
    let want = Counters {
        opens_sent: 1,
        opens_received: 1,
        updates_sent: 12,
        updates_received: 4,
        keepalives_sent: 1,
        keepalives_received: 2,
        route_refreshes_sent: 4,
        route_refreshes_received: 2,
        routes_received: 2,
        established: 1,
        ..Counters::default()
    };
    assert_eq!(counters, want);
}

#[test]
fn gobgp() {
    let (agreed, counters) = play(include_str!("transcripts/gobgp.txt"));
    let want = Agreed {
        extended_messages: false,
        enhanced_route_refresh: false,
        graceful_restart: restart(false, 60, false),
        ..common()
    };
    assert_eq!(agreed, want);
    let want = Counters {
        opens_sent: 1,
        opens_received: 1,
        updates_sent: 8,
        updates_received: 2,
        keepalives_sent: 1,
        keepalives_received: 2,
        established: 1,
        ..Counters::default()
    };
    assert_eq!(counters, want);
}

#[test]
fn frr_with_ipv6_next_hops_of_ipv4_routes() {
    let within = Settings { remote_asn: RemoteAsn::Internal, extended_next_hop: true, ..settings() };
    let hops = NextHops { link_local: Some("fe80::1".parse().unwrap()), ..next_hops() };
    let text = include_str!("transcripts/frr_extended_next_hop.txt");
    let (agreed, counters) = play_as(within, hops, text);
    // It had no `bgp graceful-restart`: it only helps others to restart.
    let helps =
        restart(true, 120, true).map(|restart| RouterRestart { families: BTreeMap::new(), ..restart });
    let want = Agreed {
        remote_asn: Asn(64512),
        internal: true,
        extended_next_hop: true,
        graceful_restart: helps,
        ..common()
    };
    assert_eq!((agreed, counters.updates_sent), (want, 6));
}

#[test]
fn a_router_s_bytes_damaged_anywhere_return() {
    for text in [
        include_str!("transcripts/frr.txt"),
        include_str!("transcripts/bird.txt"),
        include_str!("transcripts/gobgp.txt"),
    ] {
        let received: Vec<u8> = lines(text)
            .filter_map(|line| if let Line::Received(bytes) = line { Some(bytes) } else { None })
            .flatten()
            .collect();
        for at in 0..received.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = received.clone();
                bytes[at] ^= change;
                hear(&bytes);
            }
            hear(&received[..at]);
        }
    }
}

/// A session that hears these bytes after it connected.
#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn hear(bytes: &[u8]) {
    let now = Instant::now();
    let mut session = Session::new(Settings {
        remote_asn: RemoteAsn::External,
        extended_next_hop: true,
        graceful_restart: None,
        max_prefixes: Some(5),
        ..settings()
    });
    session.handle(now, Event::Start);
    session.handle(now, Event::Connected { side: Side::Outgoing, next_hops: NextHops::default() });
    session.handle(now, Event::Received { side: Side::Outgoing, bytes });
}
