//! What becomes of a session's peer, metrics and place when it ends, on loopback, where no packet need arrive.

use metallb_core::config::BfdProfile;
use metallb_proto::bfd::{self, State};
use tokio::sync::watch;

use super::monitor::Told;
use super::*;
use crate::speaker::bgp::metrics::{BgpMetrics, Label};

fn sessions() -> Sessions {
    let (arrive, _) = mpsc::channel(1);
    let (hear, _) = mpsc::channel(1);
    Sessions {
        entries: Vec::new(),
        refused: BTreeMap::new(),
        retry: None,
        listeners: HashMap::new(),
        arrive,
        links: Links::new(hear),
        metrics: BgpMetrics::default().bfd,
    }
}

/// A path on loopback, from an address of this node, or from one that it does not have.
fn wanted(peer: &str, own: [u8; 4]) -> (Watch, watch::Receiver<Told>) {
    let (tell, told) = watch::channel(Told::default());
    let router = ([127, 0, 0, 1], 0).into();
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
    let watch = Watch {
        peer: peer.to_owned(),
        label: Label::at(peer),
        reach: Reach { local: (own, 0).into(), router, device: None, is_multihop: false },
        profile,
        tell,
    };
    (watch, told)
}

/// Adds a session without the sockets on which packets arrive: another program of the machine may have the port.
fn add(sessions: &mut Sessions, wanted: Watch) {
    let settings = settings(&wanted, Duration::ZERO, sessions.discriminator(), 0);
    let mut entry = Entry::new(wanted, settings, None).unwrap();
    entry.handle(Event::Start, &sessions.metrics);
    sessions.metrics.control_packet_output.get_or_create(&entry.label).set(7);
    sessions.entries.push(entry);
}

#[tokio::test]
async fn a_path_that_is_watched_no_more_is_nobodys_trouble() {
    let mut sessions = sessions();
    let (watch, told) = wanted("a", [192, 0, 2, 1]);
    sessions.obey(Command::Watch(Box::new(watch)));
    assert!(told.borrow().problem.is_some(), "this node has no such address");
    sessions.obey(Command::Shut { peer: "a".to_owned(), done: None });
    assert_eq!(*told.borrow(), Told::default());
    assert!(sessions.refused.is_empty());
}

#[tokio::test]
async fn two_peers_of_one_router_have_one_session() {
    let mut sessions = sessions();
    add(&mut sessions, wanted("a", [127, 0, 0, 1]).0);
    let (second, told) = wanted("b", [127, 0, 0, 1]);
    sessions.obey(Command::Watch(Box::new(second)));
    let problem = told.borrow().problem.clone();
    assert_eq!(problem.as_deref(), Some("BGPPeer \"a\" has the BFD session with this router"));
    assert_eq!(sessions.entries.len(), 1);
}

#[tokio::test]
async fn metrics_go_with_the_last_session_of_a_router() {
    let mut sessions = sessions();
    let (first, second) = (wanted("a", [127, 0, 0, 1]).0, wanted("a", [127, 0, 0, 1]).0);
    let label = first.label.clone();
    let sent = |sessions: &Sessions| sessions.metrics.control_packet_output.get_or_create(&label).get();
    add(&mut sessions, first);
    sessions.obey(Command::Shut { peer: "a".to_owned(), done: None });
    add(&mut sessions, second);
    sessions.forget(|entry| entry.is_shut);
    assert_eq!((sessions.entries.len(), sent(&sessions)), (1, 7));
    sessions.forget(|_| true);
    assert_eq!(sent(&sessions), 0);
}

#[tokio::test]
async fn packets_that_are_dropped_are_told_while_the_session_is_not_up() {
    let mut sessions = sessions();
    let (mut watch, told) = wanted("a", [127, 0, 0, 1]);
    watch.reach.is_multihop = true;
    let label = watch.label.clone();
    add(&mut sessions, watch);
    let at = ListenAt::of(&sessions.entries[0].reach);
    let mut hear = |state: State, ttl: u8| {
        let packet = Packet {
            diagnostic: bfd::Diagnostic::NONE,
            state,
            poll: false,
            is_final: false,
            control_plane_independent: false,
            demand: false,
            detect_multiplier: 3,
            my_discriminator: 7,
            your_discriminator: sessions.entries[0].settings.discriminator,
            desired_min_tx: Duration::from_secs(1),
            required_min_rx: Duration::from_secs(1),
            required_min_echo_rx: Duration::ZERO,
        };
        let from = ([127, 0, 0, 1], 49_152).into();
        sessions.arrived(&Arrival { at: at.clone(), from, ttl, bytes: packet.encode().to_vec() });
        told.borrow().clone()
    };
    let far = hear(State::Down, 63);
    let why = "BFD packets of the router are dropped: TTL 63 is below the least that is accepted (minimumTtl of the \
               BFDProfile: 254)";
    assert_eq!((far.state, far.problem.as_deref()), (Some(State::Down), Some(why)));
    assert_eq!(hear(State::Init, 254).problem, None);
    assert_eq!(
        hear(State::Up, 63).problem,
        None,
        "a stranger's packet is no trouble of a session that is up"
    );
    let broken = hear(State::Down, 254);
    assert_eq!((broken.state, broken.failures, broken.is_shut_there), (Some(State::Down), 1, false));
    let shut = hear(State::AdminDown, 254);
    assert_eq!((shut.state, shut.failures, shut.is_shut_there), (Some(State::Down), 1, true));
    assert_eq!(sessions.metrics.control_packet_dropped.get_or_create(&label).get(), 2);
}
