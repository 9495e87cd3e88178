//! The session with one router: attempts to connect, collisions, and how it ends (RFC 4271 §6.8, §8).
//!
//! Each connection has its own states, as the RFC wants it; the session is established when one of them is.

mod attempts;
mod ending;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::adj_rib_out::Paces;
use super::connection::{Connection, Context, Step};
use super::event::{Action, Counters, Down, Event, Report, Side, State};
use super::notification::{self, Notification};
use super::open::Agreed;
use super::route::{NextHops, Routes, Unsent};
use super::settings::Settings;
use attempts::Dial;

/// A session that stood for so long ended for a new reason: attempts begin with the shortest wait again.
const STABLE: Duration = Duration::from_secs(10);
/// The same for a session that BFD ends: a path that breaks sooner than after this, again and again, is held off longer
/// each time, since each session on it brings routes and takes them away.
const QUIET: Duration = Duration::from_secs(120);
/// The BFD session that a router had before it was started anew ends within this time after the BGP session stands again:
/// longer than the detection time of any usual profile.
const RETURNED: Duration = Duration::from_secs(10);

/// The session with one router.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    rng: StdRng,
    dial: Dial,
    connections: BTreeMap<Side, Connection>,
    wanted: Option<Arc<Routes>>,
    /// Of the last connection on which the session stood.
    paces: Paces,
    /// Attempts in a row that led nowhere.
    failures: u32,
    /// Sessions in a row that BFD ended before they had stood for [`QUIET`].
    flaps: u32,
    /// Until when the router is not let in, since the path flaps.
    held_off: Option<Instant>,
    /// The router said that it was started anew: until then, the end of its former BFD session is no broken path.
    returned: Option<Instant>,
    /// BFD ended meanwhile: when the path counts as broken unless BFD is up again.
    excused: Option<Instant>,
    bfd_is_up: bool,
    /// Whether BFD ended since the last session was established.
    bfd_ended: bool,
    /// Whether the next OPEN has the R bit.
    restarting: bool,
    phase: Phase,
    counters: Counters,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    New,
    Running,
    /// The router was asked to prefer other paths.
    Draining {
        until: Instant,
        text: String,
    },
    Stopped,
}

impl Session {
    /// A session that has not begun.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            rng: StdRng::seed_from_u64(settings.seed),
            restarting: settings.graceful_restart.is_some_and(|restart| restart.restarting),
            settings,
            dial: Dial::Off,
            connections: BTreeMap::new(),
            wanted: None,
            paces: Paces::default(),
            failures: 0,
            flaps: 0,
            held_off: None,
            returned: None,
            excused: None,
            bfd_is_up: false,
            bfd_ended: false,
            phase: Phase::New,
            counters: Counters::default(),
        }
    }

    /// A session that has not begun, with the router of `former`, which has ended: what flapped is held off as before.
    #[must_use]
    pub fn following(former: Self, settings: Settings) -> Self {
        let Self { paces, flaps, held_off, .. } = former;
        Self { paces, flaps, held_off, ..Self::new(settings) }
    }

    /// Handles an event. Actions are to be carried out in their order.
    pub fn handle(&mut self, now: Instant, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        let before = self.state();
        let had_stopped = self.phase == Phase::Stopped;
        match event {
            Event::Start => self.start(now, &mut out),
            Event::Connected { side, next_hops } => self.connected(now, side, next_hops, &mut out),
            Event::Received { side, bytes } => self.received(now, side, bytes, &mut out),
            Event::Flushed(side) => {
                if let Some(connection) = self.connections.get_mut(&side) {
                    connection.flushed();
                }
            }
            Event::Closed { side, reason } => self.closed(now, side, reason, &mut out),
            Event::Routes(routes) => self.want(routes),
            Event::NextHops { side, next_hops } => {
                if let Some(connection) = self.connections.get_mut(&side) {
                    connection.lead_to(next_hops);
                }
            }
            Event::Configure(settings) => self.configure(now, settings, &mut out),
            Event::Bfd(bfd) => self.bfd(now, bfd, &mut out),
            Event::Stop(stop) => self.stop(now, stop, &mut out),
            Event::Timeout => self.timeout(now, &mut out),
        }
        self.pump(now, &mut out);
        let after = self.state();
        if before != after {
            out.push(Action::Report(Report::State(after)));
        }
        if self.phase == Phase::Stopped && !had_stopped {
            out.push(Action::Report(Report::Stopped));
        }
        out
    }

    /// When [`Event::Timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let dial = match self.dial {
            Dial::Off => None,
            Dial::At(at) | Dial::Until(at) => Some(at),
        };
        let drain = match self.phase {
            Phase::Draining { until, .. } => Some(until),
            _ => None,
        };
        let connections = self.connections.values().map(Connection::deadline);
        [dial, drain, self.excused].into_iter().chain(connections).flatten().min()
    }

    /// The state (RFC 4271 §8.2.2).
    #[must_use]
    pub fn state(&self) -> State {
        let connections = self.connections.values().map(Connection::state);
        let waiting = match (&self.phase, self.dial) {
            (Phase::New | Phase::Stopped, _) => State::Idle,
            (_, Dial::Until(_)) => State::Connect,
            (_, Dial::Off | Dial::At(_)) => State::Active,
        };
        connections.max().map_or(waiting, |state| state.max(waiting))
    }

    /// What the two ends agreed on, while the session stands.
    #[must_use]
    pub fn agreed(&self) -> Option<&Agreed> {
        self.standing().and_then(|connection| connection.agreed.as_ref())
    }

    /// Number of prefixes that the router holds.
    #[must_use]
    pub fn advertised(&self) -> usize {
        self.standing().map_or(0, Connection::advertised)
    }

    /// The routes that the router cannot be told, while the session stands.
    #[must_use]
    pub fn unsent(&self) -> Option<&Unsent> {
        self.standing().map(Connection::unsent)
    }

    /// Number of prefixes that the router is to hold.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted.as_ref().map_or(0, |routes| routes.len())
    }

    /// The side of a connection that the router opened just now. One on which its OPEN was accepted is not given up for
    /// another before that one's OPEN is there (RFC 4271 §6.8): else anybody at the router's address ends the session.
    #[must_use]
    pub fn room(&self) -> Side {
        let incoming = self.connections.get(&Side::Incoming);
        let is_in_use = incoming.is_some_and(|connection| connection.agreed.is_some());
        if is_in_use { Side::Second } else { Side::Incoming }
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn standing(&self) -> Option<&Connection> {
        self.connections.get(&self.side()?)
    }

    /// The connection that the session stands on.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        let mut connections = self.connections.iter();
        connections.find(|(_, connection)| connection.established.is_some()).map(|(side, _)| *side)
    }

    /// Lets `work` handle something on a connection, if there is one.
    fn with<T>(
        &mut self,
        now: Instant,
        side: Side,
        out: &mut Vec<Action>,
        work: impl FnOnce(&mut Connection, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let Self { settings, rng, counters, connections, .. } = self;
        let mut context = Context { now, side, settings, rng, counters, out };
        connections.get_mut(&side).map(|connection| work(connection, &mut context))
    }

    fn want(&mut self, routes: Arc<Routes>) {
        self.wanted = Some(routes);
        for connection in self.connections.values_mut() {
            connection.look_again();
        }
    }

    /// Takes over what the router does not see of the settings.
    fn configure(&mut self, now: Instant, settings: &Settings, out: &mut Vec<Action>) {
        self.settings = self.settings.with_habits_of(settings);
        for side in Side::ALL {
            if let Some(Err(down)) = self.with(now, side, out, Connection::configure) {
                self.end(now, side, down, out);
            }
        }
        if self.settings.passive {
            self.hang_up(out);
        } else if !matches!(self.dial, Dial::Until(_)) {
            self.dial = Dial::Off;
            self.retry(now);
        }
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.phase == Phase::New {
            self.phase = Phase::Running;
            if !self.settings.passive {
                self.connect(now, out);
            }
        }
    }

    fn connected(&mut self, now: Instant, side: Side, next_hops: NextHops, out: &mut Vec<Action>) {
        if side == Side::Outgoing && !matches!(self.dial, Dial::Until(_)) {
            return out.push(Action::Close(side));
        }
        if side == Side::Outgoing {
            self.dial = Dial::Off;
        }
        if self.connections.contains_key(&side) {
            // The router opens a second connection only when it has lost the first.
            self.forget(now, side, Down::Replaced, out);
        }
        let is_held_off = side != Side::Outgoing && self.held_off.is_some_and(|until| now < until);
        if self.phase != Phase::Running || is_held_off {
            return out.push(Action::Close(side));
        }
        let (restarting, paces) = (self.restarting, self.paces.clone());
        let Self { settings, rng, counters, .. } = self;
        let mut context = Context { now, side, settings, rng, counters, out };
        let connection = Connection::begin(&mut context, next_hops, restarting, paces);
        self.connections.insert(side, connection);
    }

    fn received(&mut self, now: Instant, side: Side, bytes: &[u8], out: &mut Vec<Action>) {
        if let Some(connection) = self.connections.get_mut(&side) {
            connection.push(bytes);
        }
        // A connection that loses against another is gone, and the rest of its bytes with it.
        while let Some(step) = self.with(now, side, out, Connection::step) {
            match step {
                Ok(Step::Wait) => return,
                Ok(Step::Continue) => {}
                Ok(Step::Opened) => self.collide(now, side, out),
                Ok(Step::Established) => self.established(now, side, out),
                Err(down) => self.end(now, side, down, out),
            }
        }
    }

    /// RFC 4271 §6.8: of two connections, the one that the end with the higher identifier opened stays.
    fn collide(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        for rival in Side::ALL.into_iter().filter(|rival| *rival != side) {
            let agreed = self.connections.get(&side).and_then(|connection| connection.agreed.as_ref());
            let (Some(agreed), Some(other)) = (agreed, self.connections.get(&rival)) else { continue };
            // RFC 4724 §5: of a router that lists a family, the new connection means that it was started anew.
            let restart = agreed.graceful_restart.as_ref();
            let restarts =
                side != Side::Outgoing && restart.is_some_and(|restart| !restart.families.is_empty());
            let (loser, is_replaced) = match other.state() {
                State::Established if restarts => (rival, true),
                State::Established => (side, false),
                // The router opens a second connection only when it has lost the first.
                State::OpenConfirm if side != Side::Outgoing && rival != Side::Outgoing => (rival, true),
                State::OpenConfirm => {
                    let own = (self.settings.router_id, self.settings.local_asn);
                    // RFC 6286 §2.3: equal identifiers are told apart by the AS number.
                    let stays = own > (agreed.remote_id, agreed.remote_asn);
                    (if stays == (side == Side::Outgoing) { rival } else { side }, false)
                }
                _ => continue,
            };
            let down = if is_replaced {
                Down::Replaced
            } else {
                Down::Sent(Notification::cease(notification::COLLISION))
            };
            self.end(now, loser, down, out);
        }
    }

    fn established(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        for rival in Side::ALL.into_iter().filter(|rival| *rival != side) {
            self.end(now, rival, Down::Sent(Notification::cease(notification::COLLISION)), out);
        }
        self.hang_up(out);
        self.restarting = false;
        if let Some(restart) = &mut self.settings.graceful_restart {
            // The node has been forwarding since, whatever becomes of the session (RFC 4724 §4.2).
            restart.preserved = true;
        }
        self.counters.established += 1;
        if let Some(agreed) = self.agreed().cloned() {
            let restarted = agreed.graceful_restart.as_ref().is_some_and(|restart| restart.restarting);
            // Only the BFD session that the router had before its restart can end with that.
            let is_former = !std::mem::take(&mut self.bfd_ended) && self.bfd_is_up;
            self.returned = (restarted && is_former).then(|| now + RETURNED);
            out.push(Action::Report(Report::Established(agreed)));
        }
    }

    fn closed(&mut self, now: Instant, side: Side, reason: &str, out: &mut Vec<Action>) {
        let down = Down::Closed(reason.to_owned());
        if self.connections.contains_key(&side) {
            self.forget(now, side, down, out);
        } else if side == Side::Outgoing && matches!(self.dial, Dial::Until(_)) {
            self.dial = Dial::Off;
            self.failures = self.failures.saturating_add(1);
            out.push(Action::Report(Report::Down(down)));
            self.retry(now);
        }
    }

    /// Ends a connection from this side.
    fn end(&mut self, now: Instant, side: Side, down: Down, out: &mut Vec<Action>) {
        if self.with(now, side, out, |connection, context| connection.end(context, &down)).is_some() {
            out.push(Action::Close(side));
            self.forget(now, side, down, out);
        }
    }

    /// Takes note that a connection is gone.
    fn forget(&mut self, now: Instant, side: Side, down: Down, out: &mut Vec<Action>) {
        let ended = self.connections.remove(&side);
        let since = ended.as_ref().and_then(|connection| connection.established);
        if let Some(ended) = ended.filter(|_| since.is_some()) {
            self.paces = ended.into_paces();
        }
        let stood = since.map(|since| now.saturating_duration_since(since));
        if since.is_some() {
            self.returned = None;
            self.excused = None;
        }
        if stood.is_some_and(|stood| stood >= QUIET) {
            self.flaps = 0;
        }
        if stood.is_some_and(|_| down.is_bfd()) {
            self.flaps = self.flaps.saturating_add(1);
            // Once may happen, and the router may be long in coming back.
            self.held_off = (self.flaps > 1).then(|| now + attempts::growing(self.flaps));
        }
        let stands = self.standing().is_some();
        let is_spare = stands || (down.is_collision() && !self.connections.is_empty());
        if stood.is_some_and(|stood| stood >= STABLE) {
            self.failures = 0;
        } else if !is_spare && (stood.is_some() || side == Side::Outgoing) {
            // What others open at the router's address says nothing of the attempts of this end.
            self.failures = self.failures.saturating_add(1);
        }
        out.push(Action::Report(if is_spare { Report::Spare(down) } else { Report::Down(down) }));
        if matches!(self.phase, Phase::Draining { .. }) && !stands {
            self.phase = Phase::Stopped;
            out.extend(std::mem::take(&mut self.connections).into_keys().map(Action::Close));
        }
        self.retry(now);
    }

    fn timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.dial_timeout(now, out);
        for side in Side::ALL {
            if let Some(Err(down)) = self.with(now, side, out, Connection::timeout) {
                self.end(now, side, down, out);
            }
        }
        if self.excused.take_if(|until| *until <= now).is_some() {
            self.path_broke(now, out);
        }
        if let Phase::Draining { until, text } = &self.phase
            && *until <= now
        {
            let text = text.clone();
            self.leave(now, &text, out);
        }
    }

    fn pump(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(wanted) = self.wanted.clone() else { return };
        let graceful_shutdown = matches!(self.phase, Phase::Draining { .. });
        for side in Side::ALL {
            self.with(now, side, out, |connection, context| {
                connection.pump(context, &wanted, graceful_shutdown);
            });
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
