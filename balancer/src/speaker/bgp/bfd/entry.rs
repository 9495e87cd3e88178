//! One BFD session: what it wants done on its socket, and what is told of it.

use std::time::{Duration, Instant};

use metallb_proto::bfd::wire::TTL as SINGLE_HOP_TTL;
use metallb_proto::bfd::{self, Action, Discarded, Event, Session, Settings, State, Timers};
use socket2::Socket;
use tokio::sync::watch;

use super::echo::{Path, is_taken};
use super::monitor::{Reach, Told, Watch};
use super::sockets::{self, port};
use crate::speaker::bgp::metrics::{BfdMetrics, Label};

/// Least TTL of packets on a multihop session unless the profile says otherwise: FRR's.
const MINIMUM_TTL: u8 = 254;

/// What there is to say where another program has the port of echo packets.
const ECHO_RIVAL: &str =
    "another program on this node has UDP port 3785 and may take or answer echo packets, too";

/// One session, and what goes with it.
pub(super) struct Entry {
    pub(super) peer: String,
    pub(super) label: Label,
    pub(super) reach: Reach,
    pub(super) settings: Settings,
    pub(super) session: Session,
    pub(super) socket: Socket,
    pub(super) tell: watch::Sender<Told>,
    /// The way of echo packets.
    pub(super) path: Option<Path>,
    /// Whether another program on this node has the port of echo packets.
    pub(super) has_rival: bool,
    /// Why the last packet of the router was dropped.
    pub(super) dropped: Option<Discarded>,
    /// Whether it ends and only lets the other end know.
    pub(super) is_shut: bool,
}

/// The settings of a session as its profile wants them; `accepts` is the time between echo packets of the router.
pub(super) fn settings(wanted: &Watch, accepts: Duration, discriminator: u32, seed: u64) -> Settings {
    let profile = &wanted.profile;
    Settings {
        timers: Timers {
            transmit_interval: profile.transmit_interval,
            receive_interval: profile.receive_interval,
            detect_multiplier: profile.detect_multiplier,
            echo_transmit_interval: (profile.echo_mode && !wanted.reach.is_multihop)
                .then_some(profile.echo_interval),
            echo_receive_interval: accepts,
        },
        passive: profile.passive_mode,
        reach: if wanted.reach.is_multihop {
            bfd::Reach::Multihop { minimum_ttl: profile.minimum_ttl.unwrap_or(MINIMUM_TTL) }
        } else {
            bfd::Reach::SingleHop
        },
        discriminator,
        seed,
    }
}

/// What becomes of a router's packets, for people.
fn dropping(why: Discarded, settings: &Settings) -> String {
    let least = match (why, settings.reach) {
        (Discarded::Ttl(_), bfd::Reach::SingleHop) => {
            format!(" ({SINGLE_HOP_TTL}: the router is on the same link)")
        }
        (Discarded::Ttl(_), bfd::Reach::Multihop { minimum_ttl }) => {
            format!(" (minimumTtl of the BFDProfile: {minimum_ttl})")
        }
        _ => String::new(),
    };
    format!("BFD packets of the router are dropped: {why}{least}")
}

impl Entry {
    /// A session as it is `wanted`, with the socket that it sends on.
    ///
    /// # Errors
    /// When that socket cannot be opened.
    pub(super) fn new(wanted: Watch, settings: Settings, path: Option<Path>) -> anyhow::Result<Self> {
        let Watch { peer, label, reach, tell, profile: _ } = wanted;
        Ok(Self {
            socket: sockets::sending(&reach)?,
            session: Session::new(settings),
            peer,
            label,
            reach,
            settings,
            tell,
            path,
            has_rival: false,
            dropped: None,
            is_shut: false,
        })
    }

    pub(super) fn handle(&mut self, event: Event<'_>, metrics: &BfdMetrics) {
        let is_packet = matches!(event, Event::Datagram { .. });
        let actions = match self.session.handle(Instant::now(), event) {
            Ok(actions) => {
                self.dropped = self.dropped.take().filter(|_| !is_packet);
                actions
            }
            Err(why) => {
                tracing::debug!(peer = self.peer, %why, "BFD packet dropped");
                metrics.control_packet_dropped.get_or_create(&self.label).inc();
                self.dropped = Some(why);
                vec![]
            }
        };
        let mut has_failed = false;
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
                Action::SendEcho(payload) => {
                    let sent = self.path.as_ref().map(|path| path.send(self.reach.local.ip(), &payload));
                    match sent {
                        Some(Ok(())) => drop(metrics.echo_packet_output.get_or_create(&self.label).inc()),
                        Some(Err(error)) => tracing::debug!(peer = self.peer, %error, "echo packet not sent"),
                        None => {}
                    }
                }
                Action::LookUp => {
                    let (own, router) = (self.reach.local.ip(), self.reach.router.ip());
                    let asked = self.path.as_mut().map(|path| path.look_up(own, router));
                    if let Some(Err(error)) = asked {
                        tracing::debug!(peer = self.peer, %error, "the router was not looked up");
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
                    has_failed |= change.is_failure();
                }
                // It is forgotten in its turn.
                Action::Stopped => {}
            }
        }
        // A session that was shut may have a successor, which is what is told of then.
        if !self.is_shut {
            self.tell(has_failed);
        }
    }

    /// Says what state the session is in, and whether the path broke.
    pub(super) fn tell(&mut self, has_failed: bool) {
        let state = Some(self.session.state()).filter(|_| !self.is_shut);
        let is_down = matches!(state, Some(State::Down | State::Init));
        let dropping = self.dropped.filter(|_| is_down).map(|why| dropping(why, &self.settings));
        let has_rival = self.has_rival && self.sends_echo();
        let problem = dropping.or_else(|| has_rival.then(|| ECHO_RIVAL.to_owned()));
        let is_shut_there = is_down && self.session.is_shut_there();
        self.tell.send_if_modified(|told| {
            let failures = told.failures + u64::from(has_failed);
            let now = Told { state, is_shut_there, problem: problem.clone(), failures };
            std::mem::replace(told, now.clone()) != now
        });
    }

    /// Sends echo packets another way; on the same one the ends stay known.
    pub(super) fn use_path(&mut self, path: Option<Path>, metrics: &BfdMetrics) {
        let at = |path: &Option<Path>| path.as_ref().map(|path| path.at);
        if at(&self.path) != at(&path) {
            self.path = path;
            self.handle(Event::EchoPath(false), metrics);
        }
        self.look_for_rival();
    }

    /// Says whether another program has the port of echo packets now.
    pub(super) fn look_for_rival(&mut self) {
        self.has_rival = self.sends_echo() && is_taken(self.reach.local.ip().to_canonical());
        self.tell(false);
    }

    /// Whether it is to send echo packets.
    pub(super) fn sends_echo(&self) -> bool {
        self.path.is_some() && !self.is_shut
    }

    pub(super) fn shut(&mut self, metrics: &BfdMetrics) {
        if !self.is_shut {
            self.is_shut = true;
            self.handle(Event::Shut, metrics);
            self.tell(false);
        }
    }

    /// Whether nothing is left to say.
    pub(super) fn has_ended(&self) -> bool {
        self.is_shut && self.session.deadline().is_none()
    }
}
