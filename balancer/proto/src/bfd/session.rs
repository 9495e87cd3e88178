//! One BFD session in asynchronous mode (RFC 5880 §6).

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::packet::{Diagnostic, Discarded, Packet, State};

/// The fastest pace while a session is not up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// TTL of packets that took no hop (RFC 5881 §5).
const NO_HOP: u8 = 255;

/// Timers, each of which can be changed while the session is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// This end does not want to send faster.
    pub transmit_interval: Duration,
    /// This end cannot receive faster.
    pub receive_interval: Duration,
    /// How many packets of this end may be lost; at least 1.
    pub detect_multiplier: u8,
}

/// How far away the other end may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On the same link (RFC 5881): packets that took a hop are dropped.
    SingleHop,
    /// Behind routers (RFC 5883): packets below this TTL are dropped.
    Multihop {
        /// 0 accepts all.
        minimum_ttl: u8,
    },
}

/// All that a session needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Timers to begin with.
    pub timers: Timers,
    /// Whether this end waits for the other one's first packet (RFC 5880 §6.1).
    pub passive: bool,
    /// How far away the other end may be.
    pub reach: Reach,
    /// This end's number for the session: not 0, unique on the node, and unpredictable.
    pub discriminator: u32,
    /// Source of the session's random choices.
    pub seed: u64,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The session may begin.
    Start,
    /// A datagram from the other end.
    Datagram {
        /// Its payload.
        bytes: &'a [u8],
        /// TTL or hop limit with which it arrived.
        ttl: u8,
    },
    /// The timers are to change.
    Configure(Timers),
    /// The session is to end without saying anything about the path.
    Shut,
    /// The deadline has come.
    Timeout,
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a datagram, with TTL 255.
    Send(Vec<u8>),
    /// Tell about a change of state.
    Changed(Change),
    /// After [`Event::Shut`]: the other end had the time to learn of it, nothing is left to do.
    Stopped,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// State before.
    pub from: State,
    /// State now.
    pub to: State,
    /// State of the other end as last heard.
    pub remote: State,
    /// Why, where the session left Up.
    pub diagnostic: Diagnostic,
}

impl Change {
    /// Whether the path broke: not so when either end was shut by an administrator (RFC 5882 §3.2).
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && self.to == State::Down && self.remote != State::AdminDown
    }
}

/// A session with one other end. Variables are those of RFC 5880 §6.8.1.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    rng: StdRng,
    state: State,
    diagnostic: Diagnostic,
    running: bool,
    remote: Option<Remote>,
    /// Whether a change of timers awaits its confirmation.
    polling: bool,
    /// The interval at which this end sends, which a slower one replaces only once it is confirmed.
    transmitting: Duration,
    /// The interval that the other end may use, which a faster one replaces only once it is confirmed.
    receiving: Duration,
    transmit: Option<Instant>,
    expire: Option<Instant>,
    /// After [`Event::Shut`]: until when AdminDown is told.
    stop: Option<Instant>,
}

/// What the last packet of the other end said.
#[derive(Debug, Clone, Copy)]
struct Remote {
    /// 0 once the other end has been silent for a detection time.
    discriminator: u32,
    state: State,
    required_min_rx: Duration,
    desired_min_tx: Duration,
    detect_multiplier: u8,
    demand: bool,
}

impl Session {
    /// A session that has not begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            rng: StdRng::seed_from_u64(settings.seed),
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            running: false,
            remote: None,
            polling: false,
            transmitting: settings.timers.transmit_interval.max(SLOW),
            receiving: settings.timers.receive_interval,
            transmit: None,
            expire: None,
            stop: None,
            settings,
        }
    }

    /// Handles an event.
    ///
    /// # Errors
    /// Why a datagram was dropped.
    pub fn handle(&mut self, now: Instant, event: Event<'_>) -> Result<Vec<Action>, Discarded> {
        let mut out = Vec::new();
        match event {
            Event::Start => self.start(now, &mut out),
            Event::Datagram { bytes, ttl } if self.running => self.datagram(now, bytes, ttl, &mut out)?,
            Event::Datagram { .. } => {}
            Event::Configure(timers) => self.configure(now, timers, &mut out),
            Event::Shut => self.shut(now, &mut out),
            Event::Timeout => self.timeout(now, &mut out),
        }
        Ok(out)
    }

    /// When [`Event::Timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.transmit, self.expire, self.stop].into_iter().flatten().min()
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Time without a packet after which the path counts as broken; `None` until one was received (RFC 5880 §6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote?;
        Some(self.receiving.max(remote.desired_min_tx) * u32::from(remote.detect_multiplier))
    }

    /// Time between two packets of this end, jitter aside (RFC 5880 §6.8.7).
    #[must_use]
    pub fn transmit_interval(&self) -> Duration {
        self.transmitting.max(self.remote.map_or(Duration::ZERO, |remote| remote.required_min_rx))
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.running && self.state == State::Down {
            self.running = true;
            if !self.settings.passive {
                self.send(now, false, out);
            }
        }
    }

    fn datagram(
        &mut self,
        now: Instant,
        bytes: &[u8],
        ttl: u8,
        out: &mut Vec<Action>,
    ) -> Result<(), Discarded> {
        let least = match self.settings.reach {
            Reach::SingleHop => NO_HOP,
            Reach::Multihop { minimum_ttl } => minimum_ttl,
        };
        if ttl < least {
            return Err(Discarded::Ttl(ttl));
        }
        let packet = Packet::decode(bytes)?;
        if packet.your_discriminator != 0 && packet.your_discriminator != self.settings.discriminator {
            return Err(Discarded::YourDiscriminator(packet.your_discriminator));
        }
        if self.state == State::AdminDown {
            return Ok(());
        }
        self.heard(now, &packet);
        let next = match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => State::Down,
            (State::Down, State::Down) => State::Init,
            (State::Down | State::Init, State::Init) | (State::Init, State::Up) => State::Up,
            (same, _) => same,
        };
        let diagnostic = match (self.state, next) {
            (State::Init | State::Up, State::Down) => Diagnostic::NEIGHBOR_DOWN,
            _ => self.diagnostic,
        };
        let changed = self.enter(now, next, diagnostic, out);
        // The other end waits for the answer to its poll, and learns of a new state at once.
        if packet.poll {
            self.send(now, true, out);
        } else if changed {
            self.send(now, false, out);
        }
        Ok(())
    }

    /// Takes over what a packet says of its sender (RFC 5880 §6.8.6).
    fn heard(&mut self, now: Instant, packet: &Packet) {
        let before = (self.transmit_interval(), self.is_silent());
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            required_min_rx: packet.required_min_rx,
            desired_min_tx: packet.desired_min_tx,
            detect_multiplier: packet.detect_multiplier,
            demand: packet.demand,
        });
        if packet.is_final && self.polling {
            self.polling = false;
            self.transmitting = self.wanted_transmit_interval();
            self.receiving = self.settings.timers.receive_interval;
        }
        self.expire = self.detection_time().map(|time| now + time);
        if before != (self.transmit_interval(), self.is_silent()) || self.transmit.is_none() {
            // A packet goes out as soon as the new pace allows, counted from now.
            self.plan(now);
        }
    }

    fn configure(&mut self, now: Instant, timers: Timers, out: &mut Vec<Action>) {
        if timers == self.settings.timers {
            return;
        }
        self.settings.timers = timers;
        self.adopt_timers();
        if self.running && self.stop.is_none() {
            self.send(now, false, out);
        }
    }

    /// Puts changed timers into use, as far as that need not wait for their confirmation (RFC 5880 §6.8.3).
    fn adopt_timers(&mut self) {
        let wanted = self.wanted_transmit_interval();
        let receive = self.settings.timers.receive_interval;
        self.polling = self.state == State::Up;
        self.transmitting = if self.polling { self.transmitting.min(wanted) } else { wanted };
        self.receiving = if self.polling { self.receiving.max(receive) } else { receive };
    }

    fn wanted_transmit_interval(&self) -> Duration {
        let configured = self.settings.timers.transmit_interval;
        if self.state == State::Up { configured } else { configured.max(SLOW) }
    }

    fn shut(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.stop.is_some() || !self.running {
            return;
        }
        self.enter(now, State::AdminDown, Diagnostic::ADMIN_DOWN, out);
        self.expire = None;
        // RFC 5880 §6.8.16: long enough for the other end to hear of it.
        let detection = self.transmit_interval() * u32::from(self.settings.timers.detect_multiplier);
        self.stop = Some(now + detection);
        if self.remote.is_some() || !self.settings.passive {
            self.send(now, false, out);
        }
    }

    fn timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_due(self.stop) {
            self.stop = None;
            self.transmit = None;
            self.running = false;
            out.push(Action::Stopped);
            return;
        }
        if is_due(self.expire) {
            self.expire = None;
            if let Some(remote) = &mut self.remote {
                remote.discriminator = 0;
            }
            if matches!(self.state, State::Init | State::Up)
                && self.enter(now, State::Down, Diagnostic::TIME_EXPIRED, out)
            {
                return self.send(now, false, out);
            }
        }
        if is_due(self.transmit) {
            self.send(now, false, out);
        }
    }

    /// Returns whether the state changed.
    fn enter(&mut self, now: Instant, to: State, diagnostic: Diagnostic, out: &mut Vec<Action>) -> bool {
        let from = self.state;
        if from == to {
            return false;
        }
        self.state = to;
        self.diagnostic = if to == State::Up { Diagnostic::NONE } else { diagnostic };
        self.adopt_timers();
        self.plan(now);
        let remote = self.remote.map_or(State::Down, |remote| remote.state);
        out.push(Action::Changed(Change { from, to, remote, diagnostic: self.diagnostic }));
        true
    }

    /// Whether no packets go out unasked (RFC 5880 §6.8.7).
    fn is_silent(&self) -> bool {
        match &self.remote {
            None => self.settings.passive,
            Some(remote) => {
                let passive = self.settings.passive && remote.discriminator == 0;
                let both_up = self.state == State::Up && remote.state == State::Up;
                passive || remote.required_min_rx.is_zero() || (remote.demand && both_up && !self.polling)
            }
        }
    }

    /// Sets the time of the next packet.
    fn plan(&mut self, now: Instant) {
        let most = if self.settings.timers.detect_multiplier == 1 { 0.9 } else { 1.0 };
        let part = self.rng.random_range(0.75..=most);
        let wait = self.transmit_interval().mul_f64(part);
        self.transmit = (self.running && !self.is_silent()).then(|| now + wait);
    }

    fn send(&mut self, now: Instant, is_final: bool, out: &mut Vec<Action>) {
        self.plan(now);
        if self.is_silent() && !is_final {
            return;
        }
        let Timers { receive_interval, detect_multiplier, .. } = self.settings.timers;
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // A packet has one of the two at most.
            poll: self.polling && !is_final,
            is_final,
            control_plane_independent: false,
            demand: false,
            detect_multiplier,
            my_discriminator: self.settings.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator),
            desired_min_tx: self.wanted_transmit_interval(),
            required_min_rx: receive_interval,
            required_min_echo_rx: Duration::ZERO,
        };
        out.push(Action::Send(packet.encode().to_vec()));
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
