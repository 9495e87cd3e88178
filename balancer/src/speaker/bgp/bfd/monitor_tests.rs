//! What a peer's task asks of BFD, and when, with a router on loopback that is a session of the same protocol.

#[path = "ends_tests.rs"]
mod ends;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;

use metallb_core::config::{Distance, Endpoint};
use metallb_proto::bgp::{
    self, Action, Asn, Event, Family, GracefulRestart, RemoteAsn, RouterId, Session, Side, Stop,
};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::speaker::bgp::metrics::BgpMetrics;
use crate::speaker::bgp::peer::{self, Order, Ports};
use crate::speaker::bgp::spec::{Spec, Ttl};
use crate::speaker::bgp::status::Statuses;

/// A hold time that no test waits for.
const HOLD: Duration = Duration::from_secs(90);
/// Types of a NOTIFICATION and of a KEEPALIVE, and where a message has its length and type (RFC 4271 §4.1).
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;
const LENGTH_AT: usize = 16;
const TYPE_AT: usize = 18;

fn settings(own: u32, other: u32) -> bgp::Settings {
    let restart = GracefulRestart { time: Duration::from_secs(120), restarting: false, preserved: true };
    bgp::Settings {
        local_asn: Asn(own),
        remote_asn: RemoteAsn::Exactly(Asn(other)),
        router_id: RouterId(std::net::Ipv4Addr::from_bits(own)),
        hold_time: Duration::from_secs(90),
        keepalive: None,
        connect_retry: None,
        families: [Family::Ipv4].into(),
        extended_next_hop: false,
        graceful_restart: Some(restart),
        passive: own == 64513,
        max_prefixes: None,
        drain: Duration::ZERO,
        seed: 0,
    }
}

fn order(port: u16) -> Order {
    let spec = Spec {
        endpoint: Endpoint::Address([127, 0, 0, 1].into()),
        port,
        source: None,
        device: None,
        ttl: Ttl::Default,
        password: None,
        settings: settings(64512, 64513),
    };
    let milliseconds = Duration::from_millis;
    let profile = BfdProfile {
        name: "fast".into(),
        receive_interval: milliseconds(100),
        transmit_interval: milliseconds(100),
        detect_multiplier: 3,
        echo_interval: milliseconds(50),
        echo_mode: false,
        passive_mode: false,
        minimum_ttl: None,
    };
    Order {
        spec: Arc::new(spec),
        bfd: Some(profile),
        distance: Distance::AsFound,
        routes: Arc::default(),
        unheard: None,
        stop: None,
    }
}

/// Speaks as the router until its end of the session stands.
async fn establish(stream: &mut TcpStream) {
    let mut router = Session::new(settings(64513, 64512));
    let mut actions = router.handle(Instant::now(), Event::Start);
    let connected = Event::Connected { side: Side::Incoming, next_hops: bgp::NextHops::default() };
    actions.extend(router.handle(Instant::now(), connected));
    let mut buffer = [0; 4096];
    loop {
        for action in actions.drain(..) {
            if let Action::Send { bytes, .. } = action {
                stream.write_all(&bytes).await.unwrap();
            }
        }
        if router.state() == bgp::State::Established {
            return;
        }
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "the peer closed the connection");
        let received = Event::Received { side: Side::Incoming, bytes: &buffer[..count] };
        actions = router.handle(Instant::now(), received);
    }
}

/// Types of the messages in what was received.
fn types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = vec![];
    while let [_, ..] = bytes {
        types.push(bytes[TYPE_AT]);
        let length = u16::from_be_bytes([bytes[LENGTH_AT], bytes[LENGTH_AT + 1]]);
        bytes = &bytes[usize::from(length)..];
    }
    types
}

/// A peer whose session stands, and the router's end.
struct Begun {
    orders: watch::Sender<Order>,
    asked: mpsc::UnboundedReceiver<Command>,
    stream: TcpStream,
    listener: TcpListener,
    task: tokio::task::JoinHandle<()>,
    _accept: mpsc::Sender<TcpStream>,
}

async fn begun(hold: Duration) -> Begun {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut order = order(listener.local_addr().unwrap().port());
    Arc::make_mut(&mut order.spec).settings.hold_time = hold;
    let (sender, mut asked) = Sender::new();
    let metrics = BgpMetrics::default().of_peer(&order.spec);
    let (orders, ordered) = watch::channel(order.clone());
    let (accept, incoming) = mpsc::channel(1);
    let (statuses, mut told) = watch::channel(Statuses::new());
    let ports = Ports {
        name: "router".into(),
        orders: ordered,
        incoming,
        statuses,
        monitor: sender.monitor("router", metrics.label.clone()),
        metrics,
        addresses: watch::channel(Vec::new()).1,
        restarting: false,
        has_stood: false,
    };
    let task = tokio::spawn(peer::run(ports));
    let (mut stream, _) = listener.accept().await.unwrap();
    establish(&mut stream).await;
    let is_up = |statuses: &Statuses| {
        statuses.get("router").is_some_and(|status| status.state == bgp::State::Established)
    };
    told.wait_for(is_up).await.unwrap();
    let Some(Command::Watch(watched)) = asked.recv().await else { panic!("the path is not watched") };
    assert_eq!(watched.reach.router.ip(), std::net::Ipv4Addr::LOCALHOST);
    assert!(!watched.reach.is_multihop, "the router is on the same link");
    Begun { orders, asked, stream, listener, task, _accept: accept }
}

#[tokio::test]
async fn bfd_goes_another_way_and_the_session_stays() {
    let Begun { orders, mut asked, stream, listener, .. } = begun(HOLD).await;
    // Nothing of this is on the wire but where BFD packets go.
    orders.send_modify(|order| {
        let settings = &mut Arc::make_mut(&mut order.spec).settings;
        settings.connect_retry = Some(Duration::from_secs(1));
        settings.keepalive = Some(Duration::from_secs(5));
        settings.max_prefixes = Some(7);
        order.distance = Distance::ManyHops;
    });
    let Some(Command::Watch(watched)) = asked.recv().await else { panic!("the path is not watched") };
    assert!(watched.reach.is_multihop);
    let mut received = [0; 4096];
    let count = stream.try_read(&mut received).unwrap_or_default();
    assert!(!types(&received[..count]).contains(&NOTIFICATION));
    // A session with another router is none of this one's, and neither is its BFD.
    orders.send_modify(|order| {
        Arc::make_mut(&mut order.spec).endpoint = Endpoint::Address([127, 0, 0, 2].into());
    });
    let Some(Command::Shut { .. }) = asked.recv().await else { panic!("the former router is watched") };
    drop(listener);
}

#[tokio::test]
async fn a_machine_that_stood_still_hears_first_what_came_meanwhile() {
    let hold = Duration::from_secs(3);
    let Begun { orders, mut stream, .. } = begun(hold).await;
    let mut received = [0; 4096];
    let _ = stream.try_read(&mut received);
    let keepalive = [&[0xff; LENGTH_AT][..], &[0, 19, KEEPALIVE]].concat();
    stream.write_all(&keepalive).await.unwrap();
    // Nothing runs for longer than the hold time.
    std::thread::sleep(hold + Duration::from_millis(50));
    let count = stream.read(&mut received).await.unwrap();
    let types = types(&received[..count]);
    assert!(types.contains(&KEEPALIVE) && !types.contains(&NOTIFICATION), "{types:?}");
    drop(orders);
}

#[tokio::test]
async fn before_the_silence_of_a_restart_bfd_says_that_it_is_meant() {
    let Begun { orders, mut asked, mut stream, task, .. } = begun(HOLD).await;
    orders.send_modify(|order| order.stop = Some(Stop::Restart { text: "the speaker is restarted".into() }));
    let Some(Command::Shut { done: Some(done), .. }) = asked.recv().await else { panic!("BFD is not told") };
    // All that the peer does of its own accord is done.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let (mut received, mut buffer) = (vec![], [0; 4096]);
    loop {
        match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => panic!("the connection ended before BFD had said a word"),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(Errno::EWOULDBLOCK) => break,
            Err(error) => panic!("{error}"),
        }
    }
    done.send(()).unwrap();
    stream.read_to_end(&mut received).await.unwrap();
    let types = types(&received);
    assert!(!types.contains(&NOTIFICATION), "{types:?}");
    drop(stream);
    task.await.unwrap();
}
