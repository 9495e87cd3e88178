//! One BFD session in asynchronous mode (RFC 5880 §6).

mod echoing;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::echo::Echo;
use super::event::{Action, Change, Event};
use super::packet::{Diagnostic, Discarded, Packet, State};
use super::settings::{Reach, Settings, Timers};
use super::wire::TTL;

/// The fastest pace while a session is not up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);
/// Packets that say AdminDown at once.
const FAREWELLS: u8 = 3;

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
    /// When the last packet came.
    heard: Option<Instant>,
    expire: Option<Instant>,
    /// After [`Event::Shut`]: until when AdminDown is told.
    stop: Option<Instant>,
    echo: Echo,
}

/// What the last packet of the other end said.
#[derive(Debug, Clone, Copy)]
struct Remote {
    /// 0 once the other end has been silent for a detection time.
    discriminator: u32,
    state: State,
    required_min_rx: Duration,
    desired_min_tx: Duration,
    required_min_echo_rx: Duration,
    detect_multiplier: u8,
    demand: bool,
}

impl Session {
    /// A session that has not begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        Self {
            echo: Echo::new(settings.discriminator, rng.random()),
            rng,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            running: false,
            remote: None,
            polling: false,
            transmitting: settings.timers.transmit_interval.max(SLOW),
            receiving: settings.timers.receive_interval,
            transmit: None,
            heard: None,
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
            Event::EchoPath(is_there) => {
                if std::mem::replace(&mut self.echo.has_path, is_there) && is_there {
                    self.echo.moved(now);
                }
            }
            Event::Echo(bytes) => self.echo_returned(now, bytes, &mut out),
            Event::Configure(settings) => self.configure(now, settings, &mut out),
            Event::Shut => self.shut(now, &mut out),
            Event::Timeout => self.timeout(now, &mut out),
        }
        self.follow_echo(now, &mut out);
        Ok(out)
    }

    /// When [`Event::Timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.transmit, self.expire, self.stop, self.echo.deadline()].into_iter().flatten().min()
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether an administrator has shut the other end, as far as it was heard (RFC 5882 §3.2).
    #[must_use]
    pub fn is_shut_there(&self) -> bool {
        self.remote.is_some_and(|remote| remote.state == State::AdminDown)
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
            Reach::SingleHop => TTL,
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
            required_min_echo_rx: packet.required_min_echo_rx,
            detect_multiplier: packet.detect_multiplier,
            demand: packet.demand,
        });
        if packet.is_final && self.polling {
            self.polling = false;
            self.transmitting = self.wanted_transmit_interval();
            self.receiving = self.wanted_receive_interval();
        }
        self.heard = Some(now);
        self.expire = self.detection_time().map(|time| now + time);
        if before != (self.transmit_interval(), self.is_silent()) || self.transmit.is_none() {
            // A packet goes out as soon as the new pace allows, counted from now.
            self.plan(now);
        }
    }

    fn configure(&mut self, now: Instant, settings: Settings, out: &mut Vec<Action>) {
        let Settings { discriminator, seed, .. } = self.settings;
        let former = std::mem::replace(&mut self.settings, Settings { discriminator, seed, ..settings });
        if former == self.settings {
            return;
        }
        if former.timers != self.settings.timers {
            self.adopt_timers();
        }
        if self.running && self.stop.is_none() {
            self.send(now, false, out);
        }
    }

    /// Puts changed timers into use, as far as that need not wait for their confirmation (RFC 5880 §6.8.3).
    fn adopt_timers(&mut self) {
        let wanted = self.wanted_transmit_interval();
        let receive = self.wanted_receive_interval();
        self.polling = self.state == State::Up;
        self.transmitting = if self.polling { self.transmitting.min(wanted) } else { wanted };
        self.receiving = if self.polling { self.receiving.max(receive) } else { receive };
        // The other end may be slower from the very next packet on.
        if let (Some(expire), Some(heard), Some(time)) = (self.expire, self.heard, self.detection_time()) {
            self.expire = Some(expire.max(heard + time));
        }
    }

    fn wanted_transmit_interval(&self) -> Duration {
        let configured = self.settings.timers.transmit_interval;
        if self.state == State::Up { configured } else { configured.max(SLOW) }
    }

    /// While echo packets tell whether the path is there, control packets need not come often (RFC 5880 §6.8.3).
    fn wanted_receive_interval(&self) -> Duration {
        let configured = self.settings.timers.receive_interval;
        // Where they come no faster than control packets, they tell nothing sooner.
        let is_quick = self.echo_interval().is_some_and(|interval| interval <= configured);
        if self.echo.is_active() && is_quick { configured.max(SLOW) } else { configured }
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
            // The program may end before the next one is due, and one that is lost leaves a path that looks broken.
            for _ in 0..FAREWELLS {
                self.send(now, false, out);
            }
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
        if self.echo.has_failed(now) && self.enter(now, State::Down, Diagnostic::ECHO_FAILED, out) {
            return self.send(now, false, out);
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
        if to != State::Up {
            self.echo.stop();
        }
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
        let part = self.rng.random_range(0.75..=longest_part(self.settings.timers.detect_multiplier));
        let wait = self.transmit_interval().mul_f64(part);
        self.transmit = (self.running && !self.is_silent()).then(|| now + wait);
    }

    fn send(&mut self, now: Instant, is_final: bool, out: &mut Vec<Action>) {
        self.plan(now);
        if self.is_silent() && !is_final {
            return;
        }
        let Timers { detect_multiplier, echo_receive_interval, .. } = self.settings.timers;
        // Across routers there is no echo function (RFC 5883 §5).
        let echo_receive_interval = match self.settings.reach {
            Reach::SingleHop => echo_receive_interval,
            Reach::Multihop { .. } => Duration::ZERO,
        };
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
            required_min_rx: self.wanted_receive_interval(),
            required_min_echo_rx: echo_receive_interval,
        };
        out.push(Action::Send(packet.encode().to_vec()));
    }
}

/// The most of an interval that may pass between two packets (RFC 5880 §6.8.7).
fn longest_part(detect_multiplier: u8) -> f64 {
    if detect_multiplier == 1 { 0.9 } else { 1.0 }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
