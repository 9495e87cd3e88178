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
/// The longest message, and the longest extended one (RFC 8654).
const STANDARD: usize = 4096;
const EXTENDED: usize = 65_535;

/// Capabilities of routers: both families and four-octet AS numbers; none; and all that this end offers, with extended
/// messages and graceful restart.
const ROUTERS: [&[u8]; 3] = [
    &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 65, 4, 0, 0, 0xfc, 0x01],
    &[],
    &[
        1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 2, 0, 70, 0, 6, 0, 5, 6, 0, 1, 0, 1, 0, 2, 64, 6, 0x40, 120, 0,
        1, 1, 0x80,
    ],
];

/// A message of a type around a body, which is cut to what the session takes.
fn message(kind: u8, body: &[u8], limit: usize) -> Vec<u8> {
    let body = &body[..body.len().min(limit - HEADER)];
    let length = u16::try_from(HEADER + body.len()).unwrap();
    [&[0xff; MARKER][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// A session whose connection to the router, of the same AS or another one, stands.
fn connected(internal: bool) -> Session {
    let now = Instant::now();
    let mut session = Session::new(Settings {
        local_asn: Asn(64512),
        remote_asn: if internal { RemoteAsn::Internal } else { RemoteAsn::External },
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

/// A session that stands: the OPEN of a router with these capabilities was accepted.
fn established(internal: bool, capabilities: &[u8]) -> Session {
    let mut session = connected(internal);
    let asn = if internal { 0x00 } else { 0x01 };
    let mut open = vec![4, 0xfc, asn, 0, 9, 192, 0, 2, 9];
    let mut capabilities = capabilities.to_vec();
    if let [.., 65, 4, _, _, _, last] = &mut capabilities[..] {
        *last = asn;
    }
    let length = u8::try_from(capabilities.len()).unwrap();
    if length > 0 {
        open.extend([length + 2, 2, length]);
    } else {
        open.push(0);
    }
    open.extend(&capabilities);
    for (kind, body) in [(1, &open[..]), (4, &[])] {
        hear(&mut session, &message(kind, body, STANDARD));
    }
    assert_eq!(session.state(), State::Established, "{capabilities:?}");
    session
}

/// One of these, by what is heard: inputs are many, and each is heard in one situation.
fn chosen<T, const COUNT: usize>(situations: [T; COUNT], bytes: &[u8]) -> T {
    let sum = bytes.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
    situations.into_iter().nth(sum % COUNT).unwrap()
}

/// A session that stands, and how long its messages may be.
fn session_for(bytes: &[u8]) -> (Session, usize) {
    let [first, second, third] = ROUTERS;
    let all = [(false, first), (false, second), (false, third), (true, first), (true, second), (true, third)];
    let (internal, router) = chosen(all, bytes);
    let session = established(internal, router);
    let limit = if session.agreed().unwrap().extended_messages { EXTENDED } else { STANDARD };
    (session, limit)
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
    let mut session = connected(chosen([false, true], body));
    hear(&mut session, &message(1, body, STANDARD));
    hear(&mut session, &message(4, &[], STANDARD));
}

/// The body of an UPDATE within a session that stands.
pub(crate) fn update(body: &[u8]) {
    let (mut session, limit) = session_for(body);
    hear(&mut session, &message(2, body, limit));
}

/// The body of a NOTIFICATION within a session that stands: it always ends it.
pub(crate) fn notification(body: &[u8]) {
    let (mut session, limit) = session_for(body);
    hear(&mut session, &message(3, body, limit));
    assert!(session.state() < State::OpenSent, "{:?}", session.state());
}

/// Anything, from the first byte of a connection on, or of two that collide.
pub(crate) fn stream(bytes: &[u8]) {
    let (internal, collides) = chosen([(false, false), (true, false), (false, true), (true, true)], bytes);
    let mut session = connected(internal);
    if !collides {
        return bytes.chunks(7).for_each(|chunk| hear(&mut session, chunk));
    }
    let (now, side) = (Instant::now(), session.room());
    session.handle(now, Event::Connected { side, next_hops: NextHops::default() });
    for (chunk, side) in bytes.chunks(7).flat_map(|chunk| [(chunk, Side::Outgoing), (chunk, side)]) {
        for action in session.handle(now, Event::Received { side, bytes: chunk }) {
            if let Action::Send { bytes, .. } = action {
                whole(&bytes);
            }
        }
    }
}

/// A BFD session, and what its other end said before.
fn bfd_session(reach: bfd::Reach, said: &[bfd::State]) -> bfd::Session {
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
        reach,
        discriminator: 0x0102_0304,
        seed: 0,
    });
    let now = Instant::now();
    session.handle(now, bfd::Event::Start).unwrap();
    session.handle(now, bfd::Event::EchoPath(true)).unwrap();
    for state in said {
        let packet = bfd::Packet {
            diagnostic: bfd::Diagnostic::NONE,
            state: *state,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: 3,
            my_discriminator: 9,
            your_discriminator: 0x0102_0304,
            desired_min_tx: interval,
            required_min_rx: interval,
            required_min_echo_rx: interval,
        };
        session.handle(now, bfd::Event::Datagram { bytes: &packet.encode(), ttl: 255 }).unwrap();
    }
    session
}

/// The payload of a datagram, on sessions of one hop and of several that are down, on their way up, and up. Its first octet,
/// taken off, is the TTL.
pub(crate) fn bfd(bytes: &[u8]) {
    let Some((ttl, bytes)) = bytes.split_first() else { return };
    let far = bfd::Reach::Multihop { minimum_ttl: 200 };
    let near = bfd::Reach::SingleHop;
    let (down, init, up) = (bfd::State::Down, bfd::State::Init, bfd::State::Up);
    let said = [down, up];
    let [nothing, hello, all] = [&said[..0], &said[..1], &said[..]];
    let (reach, said, state) = chosen(
        [
            (near, nothing, down),
            (near, hello, init),
            (near, all, up),
            (far, nothing, down),
            (far, hello, init),
            (far, all, up),
        ],
        bytes,
    );
    let least = if reach == near { 255 } else { 200 };
    let mut session = bfd_session(reach, said);
    assert_eq!(session.state(), state);
    let now = Instant::now();
    let heard = session.handle(now, bfd::Event::Datagram { bytes, ttl: *ttl });
    assert!(*ttl >= least || heard.is_err(), "a packet that took too many hops was accepted");
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
