//! What holds for any bytes that a router sends.
#![allow(dead_code, reason = "each program that includes this uses its own part of it")]
#![allow(clippy::disallowed_methods, reason = "the origins of virtual clocks: only differences count")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metallb_proto::bfd;
use metallb_proto::bgp::{
    Action, Asn, Event, Family, GracefulRestart, NextHops, RemoteAsn, RouterId, Routes, Session, Settings,
    Side, State,
};

/// Octets of the marker of a message, and of its header.
const MARKER: usize = 16;
const HEADER: usize = 19;

/// A message of a type around a body, which is cut to what a header can tell.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(4096 - HEADER)];
    let length = u16::try_from(HEADER + body.len()).unwrap();
    [&[0xff; MARKER][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// A session whose connection to the router stands.
fn connected() -> Session {
    let now = Instant::now();
    let mut session = Session::new(Settings {
        local_asn: Asn(64512),
        remote_asn: RemoteAsn::External,
        router_id: RouterId(Ipv4Addr::new(192, 0, 2, 1)),
        hold_time: Duration::from_secs(9),
        keepalive: None,
        connect_retry: None,
        families: BTreeSet::from(Family::ALL),
        extended_next_hop: true,
        graceful_restart: Some(GracefulRestart {
            time: Duration::from_secs(60),
            restarting: false,
            preserved: true,
        }),
        passive: false,
        max_prefixes: Some(100),
        drain: Duration::ZERO,
        seed: 0,
    });
    session.handle(now, Event::Start);
    let next_hops = NextHops {
        v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        v6: Some("2001:db8::1".parse().unwrap()),
        link_local: None,
    };
    session.handle(now, Event::Connected { side: Side::Outgoing, next_hops });
    let routes: Routes = ["198.51.100.1/32", "2001:db8:1::1/128"]
        .map(|prefix| (prefix.parse().unwrap(), Arc::default()))
        .into();
    session.handle(now, Event::Routes(Arc::new(routes)));
    session
}

/// A session that stands: an OPEN of AS 64513 with both families and four-octet AS numbers was accepted.
fn established() -> Session {
    let mut session = connected();
    let capabilities = [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4, 0, 0, 0xfc, 0x01];
    let mut open = vec![4, 0xfc, 0x01, 0, 9, 192, 0, 2, 9, 20, 2, 18];
    open.extend(capabilities);
    for (kind, body) in [(1, &open[..]), (4, &[])] {
        hear(&mut session, &message(kind, body));
    }
    assert_eq!(session.state(), State::Established);
    session
}

/// Whatever is heard: what is sent are whole messages, and nothing follows the end of a connection.
fn hear(session: &mut Session, bytes: &[u8]) {
    let actions = session.handle(Instant::now(), Event::Received { side: Side::Outgoing, bytes });
    let mut has_closed = false;
    for action in &actions {
        match action {
            Action::Send { bytes, .. } => {
                assert!(!has_closed, "sent after the end: {actions:?}");
                whole(bytes);
            }
            Action::Close(_) => has_closed = true,
            Action::Connect | Action::Report(_) => {}
        }
    }
    assert!(!has_closed || session.state() < State::OpenSent, "{actions:?}");
}

fn whole(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        assert!(bytes.len() >= HEADER && bytes[..MARKER] == [0xff; MARKER], "{bytes:02x?}");
        let length = usize::from(u16::from_be_bytes([bytes[MARKER], bytes[MARKER + 1]]));
        assert!(
            (HEADER..=bytes.len()).contains(&length) && (1..=5).contains(&bytes[MARKER + 2]),
            "{bytes:02x?}"
        );
        bytes = &bytes[length..];
    }
}

/// The body of the OPEN that begins a session.
pub(crate) fn open(body: &[u8]) {
    let mut session = connected();
    hear(&mut session, &message(1, body));
    hear(&mut session, &message(4, &[]));
}

/// The body of an UPDATE within a session that stands.
pub(crate) fn update(body: &[u8]) {
    hear(&mut established(), &message(2, body));
}

/// The body of a NOTIFICATION within a session that stands: it always ends it.
pub(crate) fn notification(body: &[u8]) {
    let mut session = established();
    hear(&mut session, &message(3, body));
    assert!(session.state() < State::OpenSent, "{:?}", session.state());
}

/// Anything, from the first byte of a connection on.
pub(crate) fn stream(bytes: &[u8]) {
    let mut session = connected();
    for chunk in bytes.chunks(7) {
        hear(&mut session, chunk);
    }
}

/// The payload of a datagram. Its first octet, taken off, is the TTL.
pub(crate) fn bfd(bytes: &[u8]) {
    let Some((ttl, bytes)) = bytes.split_first() else { return };
    let interval = Duration::from_millis(300);
    let mut session = bfd::Session::new(bfd::Settings {
        timers: bfd::Timers {
            transmit_interval: interval,
            receive_interval: interval,
            detect_multiplier: 3,
            echo_transmit_interval: Some(interval),
            echo_receive_interval: interval,
        },
        passive: false,
        reach: bfd::Reach::SingleHop,
        discriminator: 0x0102_0304,
        seed: 0,
    });
    let now = Instant::now();
    session.handle(now, bfd::Event::Start).unwrap();
    session.handle(now, bfd::Event::EchoPath(true)).unwrap();
    let heard = session.handle(now, bfd::Event::Datagram { bytes, ttl: *ttl });
    assert!(*ttl == 255 || heard.is_err(), "a packet that took a hop was accepted");
    for action in heard.into_iter().flatten() {
        if let bfd::Action::Send(bytes) = action {
            bfd::Packet::decode(&bytes).unwrap();
        }
    }
    assert_ne!(session.state(), bfd::State::AdminDown);
    session.handle(now, bfd::Event::Echo(bytes)).unwrap();
    if let Some(bfd::echo::Frame::Echo { payload, .. }) = bfd::echo::decode(bytes) {
        session.handle(now, bfd::Event::Echo(&payload)).unwrap();
    }
}
