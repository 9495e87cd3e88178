//! BFD sessions with routers. One task owns all of them.

mod sockets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_core::config::BfdProfile;
use metallb_proto::bfd::{self, Action, Event, Packet, Session, Settings, State, Timers};
use socket2::Socket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::metrics::{BfdMetrics, Label};
use crate::speaker::{sleep_until, sys};
use sockets::{Arrival, ListenAt, listen, port, receive};

/// Datagrams that wait to be looked at.
const BACKLOG: usize = 1024;
/// Longest time to send the last packet of a session.
const SHUT: Duration = Duration::from_millis(200);
/// How long routers are told at most, when the program ends, that the silence to come is meant.
const FAREWELL: Duration = Duration::from_secs(1);
/// Least TTL of packets on a multihop session unless the profile says otherwise: FRR's.
const MINIMUM_TTL: u8 = 254;

/// The path to a router: the two ends of the BGP connection over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) local: SocketAddr,
    pub(super) router: SocketAddr,
    /// Interface (a VRF) that sockets are bound to.
    pub(super) device: Option<String>,
    pub(super) is_multihop: bool,
}

/// What is told about a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Told {
    state: Option<State>,
    /// Why there is no session.
    problem: Option<String>,
    /// Times that the path broke.
    failures: u64,
}

/// What is asked of the task.
#[derive(Debug)]
enum Command {
    /// Watch a path; a session that watches another one for this peer ends.
    Watch { peer: String, label: Label, reach: Reach, profile: BfdProfile, tell: watch::Sender<Told> },
    /// Tell the router that the silence to come is meant, and end the session. Answered once that was sent.
    Shut { peer: String, done: Option<oneshot::Sender<()>> },
}

/// The way to the task.
#[derive(Clone, Debug)]
pub(super) struct Sender(mpsc::UnboundedSender<Command>);

impl Sender {
    /// The BFD of one peer.
    pub(super) fn monitor(&self, peer: &str, label: Label) -> Monitor {
        let (tell, told) = watch::channel(Told::default());
        Monitor {
            commands: self.0.clone(),
            peer: peer.to_owned(),
            label,
            profile: None,
            reach: None,
            tell,
            told,
            failures: 0,
        }
    }
}

/// The BFD of one peer, as the peer's task sees it.
pub(super) struct Monitor {
    commands: mpsc::UnboundedSender<Command>,
    peer: String,
    label: Label,
    profile: Option<BfdProfile>,
    reach: Option<Reach>,
    tell: watch::Sender<Told>,
    told: watch::Receiver<Told>,
    /// Failures that are known to the peer's session.
    failures: u64,
}

impl Monitor {
    /// Sets how the path is watched; not at all without a profile.
    pub(super) fn configure(&mut self, profile: Option<&BfdProfile>) {
        if self.profile.as_ref() == profile {
            return;
        }
        self.profile = profile.cloned();
        match profile {
            Some(_) => self.ask(),
            None => self.command(Command::Shut { peer: self.peer.clone(), done: None }),
        }
    }

    /// Sets which path is watched.
    pub(super) fn watch(&mut self, reach: Reach) {
        // The port of this end is another one with each connection, and means nothing to BFD.
        let reach = Reach { local: without_port(reach.local), router: without_port(reach.router), ..reach };
        if self.reach.as_ref() != Some(&reach) || self.told.borrow().problem.is_some() {
            self.reach = Some(reach);
            self.ask();
        }
    }

    /// Waits for news; returns whether the path broke.
    pub(super) async fn changed(&mut self) -> bool {
        // The sender is this value's own.
        let _ = self.told.changed().await;
        let failures = self.told.borrow_and_update().failures;
        std::mem::replace(&mut self.failures, failures) < failures
    }

    /// State of the session, where there is one.
    pub(super) fn state(&self) -> Option<State> {
        self.told.borrow().state
    }

    /// Why there is no session in spite of the profile.
    pub(super) fn problem(&self) -> Option<String> {
        self.told.borrow().problem.clone()
    }

    /// Ends the session, and returns once the router was told.
    pub(super) async fn shut(&mut self) {
        if self.reach.take().is_none() {
            return;
        }
        let (done, sent) = oneshot::channel();
        self.command(Command::Shut { peer: self.peer.clone(), done: Some(done) });
        // Without an answer the router hears the silence only, as after a crash.
        let _ = tokio::time::timeout(SHUT, sent).await;
    }

    fn ask(&self) {
        if let (Some(profile), Some(reach)) = (&self.profile, &self.reach) {
            self.command(Command::Watch {
                peer: self.peer.clone(),
                label: self.label.clone(),
                reach: reach.clone(),
                profile: profile.clone(),
                tell: self.tell.clone(),
            });
        }
    }

    fn command(&self, command: Command) {
        // The task ends with the program only.
        let _ = self.commands.send(command);
    }
}

fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

/// The task, and the way to it. The task ends a moment after the last [`Sender`] and [`Monitor`] are gone.
pub(super) fn task(
    metrics: BfdMetrics,
) -> (Sender, impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let (commands, asked) = mpsc::unbounded_channel();
    (Sender(commands), run(asked, metrics))
}

async fn run(mut commands: mpsc::UnboundedReceiver<Command>, metrics: BfdMetrics) -> anyhow::Result<()> {
    let (arrive, mut arrivals) = mpsc::channel(BACKLOG);
    let mut sessions = Sessions { entries: Vec::new(), listeners: HashMap::new(), arrive, metrics };
    let mut ending = None;
    while ending.is_none() || !sessions.entries.is_empty() {
        let deadline = sessions.entries.iter().filter_map(|entry| entry.session.deadline()).min();
        tokio::select! {
            () = sleep_until(ending), if ending.is_some() => break,
            () = sleep_until(deadline) => sessions.timeout(),
            Some(arrival) = arrivals.recv() => sessions.arrived(&arrival),
            command = commands.recv(), if ending.is_none() => match command {
                Some(command) => sessions.obey(command),
                None => ending = Some(Instant::now() + FAREWELL),
            },
        }
    }
    Ok(())
}

/// All sessions, and the sockets on which packets for them arrive.
struct Sessions {
    entries: Vec<Entry>,
    listeners: HashMap<ListenAt, JoinHandle<()>>,
    arrive: mpsc::Sender<Arrival>,
    metrics: BfdMetrics,
}

struct Entry {
    peer: String,
    label: Label,
    reach: Reach,
    settings: Settings,
    session: Session,
    socket: Socket,
    tell: watch::Sender<Told>,
    /// Whether it ends and only lets the other end know.
    is_shut: bool,
}

impl Sessions {
    fn obey(&mut self, command: Command) {
        match command {
            Command::Watch { peer, label, reach, profile, tell } => {
                let timers = Timers {
                    transmit_interval: profile.transmit_interval,
                    receive_interval: profile.receive_interval,
                    detect_multiplier: profile.detect_multiplier,
                };
                let known = self.entries.iter_mut().find(|entry| entry.peer == peer && !entry.is_shut);
                if let Some(entry) = known {
                    let kept =
                        Settings { timers, ..entry.settings } == settings(&profile, &reach, entry.settings);
                    if entry.reach == reach && kept {
                        entry.settings.timers = timers;
                        entry.handle(Event::Configure(timers), &self.metrics);
                        return;
                    }
                    entry.shut(&self.metrics);
                }
                if let Err(error) = self.open(&peer, label, reach, &profile, &tell) {
                    let problem = format!("{error:#}");
                    tracing::warn!(peer, error = problem, "the path to the router is not watched by BFD");
                    tell.send_modify(|told| *told = Told { problem: Some(problem), ..told.clone() });
                }
            }
            Command::Shut { peer, done } => {
                for entry in self.entries.iter_mut().filter(|entry| entry.peer == peer) {
                    entry.shut(&self.metrics);
                }
                if let Some(done) = done {
                    // Who asked may have given up waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    fn open(
        &mut self,
        peer: &str,
        label: Label,
        reach: Reach,
        profile: &BfdProfile,
        tell: &watch::Sender<Told>,
    ) -> anyhow::Result<()> {
        let at = ListenAt {
            is_v4: reach.router.is_ipv4(),
            port: port(reach.is_multihop),
            device: reach.device.clone(),
        };
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.listeners.entry(at.clone()) {
            let socket = listen(&at).with_context(|| {
                format!("BFD cannot have UDP port {}, which another program on this node may use", at.port)
            })?;
            let socket = sys::register(socket)?;
            vacant.insert(tokio::spawn(receive(socket, at, self.arrive.clone())));
        }
        let socket = sockets::sending(&reach)?;
        let fresh = Settings {
            timers: Timers {
                transmit_interval: profile.transmit_interval,
                receive_interval: profile.receive_interval,
                detect_multiplier: profile.detect_multiplier,
            },
            passive: profile.passive_mode,
            reach: bfd::Reach::SingleHop,
            discriminator: self.discriminator(),
            seed: rand::random(),
        };
        let settings = settings(profile, &reach, fresh);
        let mut entry = Entry {
            peer: peer.to_owned(),
            label,
            reach,
            settings,
            session: Session::new(settings),
            socket,
            tell: tell.clone(),
            is_shut: false,
        };
        entry.tell();
        self.metrics.session_up.get_or_create(&entry.label).set(0);
        entry.handle(Event::Start, &self.metrics);
        self.entries.push(entry);
        Ok(())
    }

    /// A number that no session has.
    fn discriminator(&self) -> u32 {
        loop {
            let number: u32 = rand::random();
            if number != 0 && self.entries.iter().all(|entry| entry.settings.discriminator != number) {
                return number;
            }
        }
    }

    fn timeout(&mut self) {
        let now = Instant::now();
        for entry in &mut self.entries {
            if entry.session.deadline().is_some_and(|deadline| deadline <= now) {
                entry.handle(Event::Timeout, &self.metrics);
            }
        }
        self.entries.retain(|entry| !entry.has_ended());
    }

    fn arrived(&mut self, arrival: &Arrival) {
        // The other end's choice of the session: by its number once it knows it, and by the address before (§6.8.6).
        let number = Packet::decode(&arrival.bytes).map_or(0, |packet| packet.your_discriminator);
        let from = self.entries.iter_mut().filter(|entry| {
            entry.reach.router.ip() == arrival.from
                && port(entry.reach.is_multihop) == arrival.at.port
                && entry.reach.device == arrival.at.device
        });
        let mut known = from.filter(|entry| match number {
            0 => !entry.is_shut,
            number => entry.settings.discriminator == number,
        });
        let Some(entry) = known.next() else {
            return tracing::debug!(from = %arrival.from, "BFD packet of a stranger dropped");
        };
        self.metrics.control_packet_input.get_or_create(&entry.label).inc();
        entry.handle(Event::Datagram { bytes: &arrival.bytes, ttl: arrival.ttl }, &self.metrics);
    }
}

/// The settings of a session as a profile wants them; timers, number and seed are those of `base`.
fn settings(profile: &BfdProfile, reach: &Reach, base: Settings) -> Settings {
    Settings {
        passive: profile.passive_mode,
        reach: if reach.is_multihop {
            bfd::Reach::Multihop { minimum_ttl: profile.minimum_ttl.unwrap_or(MINIMUM_TTL) }
        } else {
            bfd::Reach::SingleHop
        },
        ..base
    }
}

impl Entry {
    fn handle(&mut self, event: Event<'_>, metrics: &BfdMetrics) {
        let actions = match self.session.handle(Instant::now(), event) {
            Ok(actions) => actions,
            Err(why) => return tracing::debug!(peer = self.peer, %why, "BFD packet dropped"),
        };
        for action in actions {
            match action {
                Action::Send(bytes) => {
                    let mut to = self.reach.router;
                    to.set_port(port(self.reach.is_multihop));
                    match self.socket.send_to(&bytes, &to.into()) {
                        Ok(_) => drop(metrics.control_packet_output.get_or_create(&self.label).inc()),
                        // As good as lost on the way: the other end will notice.
                        Err(error) => tracing::debug!(peer = self.peer, %error, "BFD packet not sent"),
                    }
                }
                Action::Changed(change) => {
                    let (peer, from, to) = (&self.peer, change.from, change.to);
                    tracing::info!(event = "bfd", peer, ?from, ?to, diagnostic = %change.diagnostic, "BFD session");
                    metrics.session_up.get_or_create(&self.label).set(i64::from(to == State::Up));
                    if to == State::Up {
                        metrics.session_up_events.get_or_create(&self.label).inc();
                    } else if from == State::Up {
                        metrics.session_down_events.get_or_create(&self.label).inc();
                    }
                    if change.is_failure() {
                        self.tell.send_modify(|told| told.failures += 1);
                    }
                    self.tell();
                }
                Action::Stopped => metrics.remove(&self.label),
            }
        }
    }

    /// Says what state the session is in.
    fn tell(&mut self) {
        let state = Some(self.session.state()).filter(|_| !self.is_shut);
        self.tell.send_if_modified(|told| {
            let now = Told { state, problem: None, failures: told.failures };
            std::mem::replace(told, now.clone()) != now
        });
    }

    fn shut(&mut self, metrics: &BfdMetrics) {
        if !self.is_shut {
            self.is_shut = true;
            self.handle(Event::Shut, metrics);
        }
    }

    /// Whether nothing is left to say.
    fn has_ended(&self) -> bool {
        self.is_shut && self.session.deadline().is_none()
    }
}
