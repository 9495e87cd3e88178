//! The session with one router: attempts to connect, collisions, and how it ends (RFC 4271 §6.8, §8).
//!
//! Each connection has its own states, as the RFC wants it; the session is established when one of them is.

mod attempts;
mod ending;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::connection::{Connection, Context, Step};
use super::event::{Action, Counters, Down, Event, Report, Side, State};
use super::notification::{self, Notification};
use super::open::Agreed;
use super::route::{NextHops, Routes};
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
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    wanted: Option<Arc<Routes>>,
    /// Attempts in a row that led nowhere.
    failures: u32,
    /// Sessions in a row that BFD ended before they had stood for [`QUIET`].
    flaps: u32,
    /// The router said that it was started anew: until then, the end of its former BFD session is no broken path.
    returned: Option<Instant>,
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
            outgoing: None,
            incoming: None,
            wanted: None,
            failures: 0,
            flaps: 0,
            returned: None,
            bfd_ended: false,
            phase: Phase::New,
            counters: Counters::default(),
        }
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
                if let Some(connection) = self.slot(side) {
                    connection.flushed();
                }
            }
            Event::Closed { side, reason } => self.closed(now, side, reason, &mut out),
            Event::Routes(routes) => self.want(routes),
            Event::BfdDown => self.bfd_down(now, &mut out),
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
        let connections = [&self.outgoing, &self.incoming].map(|slot| slot.as_ref()?.deadline());
        [dial, drain].into_iter().chain(connections).flatten().min()
    }

    /// The state (RFC 4271 §8.2.2).
    #[must_use]
    pub fn state(&self) -> State {
        let connections = [&self.outgoing, &self.incoming].into_iter().flatten().map(Connection::state);
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

    /// Number of prefixes that the router is to hold.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted.as_ref().map_or(0, |routes| routes.len())
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn standing(&self) -> Option<&Connection> {
        [&self.outgoing, &self.incoming]
            .into_iter()
            .flatten()
            .find(|connection| connection.established.is_some())
    }

    fn slot(&mut self, side: Side) -> &mut Option<Connection> {
        match side {
            Side::Outgoing => &mut self.outgoing,
            Side::Incoming => &mut self.incoming,
        }
    }

    /// Lets `work` handle something on a connection, if there is one.
    fn with<T>(
        &mut self,
        now: Instant,
        side: Side,
        out: &mut Vec<Action>,
        work: impl FnOnce(&mut Connection, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let Self { settings, rng, counters, outgoing, incoming, .. } = self;
        let slot = match side {
            Side::Outgoing => outgoing,
            Side::Incoming => incoming,
        };
        let mut context = Context { now, side, settings, rng, counters, out };
        slot.as_mut().map(|connection| work(connection, &mut context))
    }

    fn want(&mut self, routes: Arc<Routes>) {
        self.wanted = Some(routes);
        for connection in [&mut self.outgoing, &mut self.incoming].into_iter().flatten() {
            connection.look_again();
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
        if self.slot(side).is_some() {
            // The router opens a second connection only when it has lost the first.
            self.forget(now, side, Down::Replaced, out);
        }
        if self.phase != Phase::Running {
            return out.push(Action::Close(side));
        }
        let restarting = self.restarting;
        let Self { settings, rng, counters, .. } = self;
        let mut context = Context { now, side, settings, rng, counters, out };
        let connection = Connection::begin(&mut context, next_hops, restarting);
        *self.slot(side) = Some(connection);
    }

    fn received(&mut self, now: Instant, side: Side, bytes: &[u8], out: &mut Vec<Action>) {
        if let Some(connection) = self.slot(side) {
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
        let other = side.other();
        let Some(rival) = self.slot(other).as_ref() else { return };
        let rival_state = rival.state();
        let Some(agreed) = self.slot(side).as_ref().and_then(|connection| connection.agreed.clone()) else {
            return;
        };
        // RFC 4724 §5: of a router that lists a family, the new connection means that it was started anew.
        let restarts = agreed.graceful_restart.as_ref().is_some_and(|restart| !restart.families.is_empty());
        let loser = match rival_state {
            State::Established if restarts && side == Side::Incoming => {
                return self.end(now, other, Down::Replaced, out);
            }
            State::Established => side,
            State::OpenConfirm => {
                let own = (self.settings.router_id, self.settings.local_asn);
                // RFC 6286 §2.3: equal identifiers are told apart by the AS number.
                if own > (agreed.remote_id, agreed.remote_asn) { Side::Incoming } else { Side::Outgoing }
            }
            _ => return,
        };
        self.end(now, loser, Down::Sent(Notification::cease(notification::COLLISION)), out);
    }

    fn established(&mut self, now: Instant, side: Side, out: &mut Vec<Action>) {
        let other = side.other();
        if self.slot(other).is_some() {
            self.end(now, other, Down::Sent(Notification::cease(notification::COLLISION)), out);
        }
        self.hang_up(out);
        self.restarting = false;
        self.counters.established += 1;
        if let Some(agreed) = self.agreed().cloned() {
            let restarted = agreed.graceful_restart.as_ref().is_some_and(|restart| restart.restarting);
            let is_watched = !std::mem::take(&mut self.bfd_ended);
            self.returned = (restarted && is_watched).then(|| now + RETURNED);
            out.push(Action::Report(Report::Established(agreed)));
        }
    }

    fn closed(&mut self, now: Instant, side: Side, reason: &str, out: &mut Vec<Action>) {
        let down = Down::Closed(reason.to_owned());
        if self.slot(side).is_some() {
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
        let since = self.slot(side).take().and_then(|connection| connection.established);
        let stood = since.map(|since| now.saturating_duration_since(since));
        if since.is_some() {
            self.returned = None;
        }
        if stood.is_some_and(|stood| stood >= QUIET) {
            self.flaps = 0;
        }
        if stood.is_some_and(|_| down.is_bfd()) {
            self.flaps = self.flaps.saturating_add(1);
        }
        if stood.is_some_and(|stood| stood >= STABLE) {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        out.push(Action::Report(Report::Down(down)));
        if matches!(self.phase, Phase::Draining { .. }) {
            self.phase = Phase::Stopped;
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
