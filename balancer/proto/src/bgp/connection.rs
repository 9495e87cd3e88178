//! One TCP connection of a session, from OPEN to its end (RFC 4271 §8.2.2: OpenSent, OpenConfirm, Established).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::RngExt;
use rand::rngs::StdRng;

use super::adj_rib_out::{AdjRibOut, Paces};
use super::event::{Action, Counters, Down, Report, Side, State};
use super::frame::{Framer, Kind, encode};
use super::notification::{self, Notification};
use super::open::{self, Agreed};
use super::received;
use super::route::{Family, NextHops, Routes, Unsent};
use super::settings::Settings;
use super::update::Encoder;

/// How long the router may take to send its OPEN (RFC 4271 §8.2.2 suggests four minutes).
const OPEN_WAIT: Duration = Duration::from_secs(240);
/// How long the router may take nothing off our hands: this, or twice the hold time (RFC 9687 §3.3).
const SEND_HOLD: Duration = Duration::from_secs(480);
/// Octets that may wait to be sent before routes are held back, so that changes meanwhile fall together.
const WINDOW: usize = 256 * 1024;
/// Subtypes of a ROUTE-REFRESH: a request, and the demarcation of the answer (RFC 7313 §3.2).
const REQUEST: u8 = 0;
const BEGIN_OF_REFRESH: u8 = 1;
const END_OF_REFRESH: u8 = 2;

/// What a connection works with while it handles something.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) side: Side,
    pub(super) settings: &'a Settings,
    pub(super) rng: &'a mut StdRng,
    pub(super) counters: &'a mut Counters,
    pub(super) out: &'a mut Vec<Action>,
}

/// How far one message brought a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// No whole message is there.
    Wait,
    /// Nothing that others need to know.
    Continue,
    /// The router's OPEN was accepted: now collisions can be judged.
    Opened,
    /// The session stands.
    Established,
}

#[derive(Debug)]
pub(super) struct Connection {
    framer: Framer,
    next_hops: NextHops,
    /// `None` until the router's OPEN was accepted.
    pub(super) agreed: Option<Agreed>,
    /// Since when the session stands.
    pub(super) established: Option<Instant>,
    /// When the session ends unless the router says something.
    hold: Option<Instant>,
    /// When the next KEEPALIVE goes out.
    keepalive: Option<Instant>,
    /// Octets given to [`Action::Send`] since the last flush.
    unflushed: usize,
    /// Since when there are any.
    unflushed_since: Option<Instant>,
    rib: AdjRibOut,
    /// Whether the routes that are wanted have to be compared with those that the router holds.
    stale: bool,
    /// Prefixes that the router announced; kept only while their number is limited.
    received: Option<BTreeSet<IpNet>>,
}

impl Connection {
    /// Begins a connection with an OPEN. `restarting` sets the R bit (RFC 4724 §3).
    pub(super) fn begin(
        context: &mut Context<'_>,
        next_hops: NextHops,
        restarting: bool,
        paces: Paces,
    ) -> Self {
        let mut connection = Self {
            framer: Framer::default(),
            next_hops,
            agreed: None,
            established: None,
            hold: Some(context.now + OPEN_WAIT),
            keepalive: None,
            unflushed: 0,
            unflushed_since: None,
            rib: AdjRibOut::following(paces),
            stale: true,
            received: context.settings.max_prefixes.map(|_| BTreeSet::new()),
        };
        let body = open::encode(context.settings, restarting);
        connection.send(context, Kind::Open, &body);
        connection
    }

    pub(super) fn state(&self) -> State {
        match (&self.agreed, self.established) {
            (None, _) => State::OpenSent,
            (Some(_), None) => State::OpenConfirm,
            (Some(_), Some(_)) => State::Established,
        }
    }

    /// Number of prefixes that the router holds.
    pub(super) fn advertised(&self) -> usize {
        self.rib.len()
    }

    /// What the next connection has to know of the routes that were sent over this one.
    pub(super) fn into_paces(self) -> Paces {
        self.rib.into_paces()
    }

    /// The routes that the router cannot be told.
    pub(super) fn unsent(&self) -> &Unsent {
        self.rib.unsent()
    }

    /// When [`Connection::timeout`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = if self.unflushed < WINDOW { self.rib.deadline() } else { None };
        [self.hold, self.keepalive, self.send_hold(), due].into_iter().flatten().min()
    }

    fn send_hold(&self) -> Option<Instant> {
        let agreed = self.agreed.as_ref().filter(|agreed| !agreed.hold_time.is_zero())?;
        Some(self.unflushed_since? + SEND_HOLD.max(agreed.hold_time * 2))
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.framer.push(bytes);
    }

    pub(super) fn flushed(&mut self) {
        self.unflushed = 0;
        self.unflushed_since = None;
    }

    /// Sends the notification that a session ends with, if there is one.
    pub(super) fn end(&mut self, context: &mut Context<'_>, down: &Down) {
        if let Down::Sent(notification) = down {
            self.send(context, Kind::Notification, &notification.encode());
        }
    }

    /// The notification, as a Hard Reset where a softer one would leave the routes in place (RFC 8538 §3.1).
    pub(super) fn hard(&self, notification: Notification) -> Notification {
        let restart = self.agreed.as_ref().and_then(|agreed| agreed.graceful_restart.as_ref());
        match restart {
            Some(restart) if restart.notifications => notification.hard(),
            _ => notification,
        }
    }

    /// Handles the next message.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(super) fn step(&mut self, context: &mut Context<'_>) -> Result<Step, Down> {
        let Some((kind, body)) = self.framer.next().map_err(Down::Sent)? else { return Ok(Step::Wait) };
        self.count(context, kind);
        if kind == Kind::Notification {
            return Err(Down::Received(Notification::decode(&body)));
        }
        match (self.state(), kind) {
            (State::OpenSent, Kind::Open) => self.opened(context, &body),
            (State::OpenConfirm, Kind::Keepalive) => {
                self.heard(context.now);
                self.established = Some(context.now);
                Ok(Step::Established)
            }
            (State::Established, Kind::Keepalive) => {
                self.heard(context.now);
                Ok(Step::Continue)
            }
            (State::Established, Kind::Update) => self.updated(context, &body),
            (State::Established, Kind::RouteRefresh) => {
                self.heard(context.now);
                self.refresh(context, &body);
                Ok(Step::Continue)
            }
            (state, _) => Err(Down::Sent(unexpected(state))),
        }
    }

    fn opened(&mut self, context: &mut Context<'_>, body: &[u8]) -> Result<Step, Down> {
        let agreed = open::agree(context.settings, body).map_err(Down::Sent)?;
        self.framer.extended = agreed.extended_messages;
        self.agreed = Some(agreed);
        self.heard(context.now);
        self.send(context, Kind::Keepalive, &[]);
        Ok(Step::Opened)
    }

    fn updated(&mut self, context: &mut Context<'_>, body: &[u8]) -> Result<Step, Down> {
        self.heard(context.now);
        let Some(agreed) = &self.agreed else { return Ok(Step::Continue) };
        let update = received::read(agreed, body).map_err(Down::Sent)?;
        let count = |prefixes: &[IpNet]| u64::try_from(prefixes.len()).unwrap_or(u64::MAX);
        context.counters.routes_received += count(&update.announced);
        context.counters.withdrawals_received += count(&update.withdrawn);
        if let Some(problem) = update.malformed {
            context.counters.malformed_received += 1;
            context.out.push(Action::Report(Report::Malformed(problem)));
        }
        if let Some(received) = &mut self.received {
            for prefix in &update.withdrawn {
                received.remove(prefix);
            }
            received.extend(update.announced);
        }
        self.check_number(context)?;
        Ok(Step::Continue)
    }

    /// Whether the router announced no more prefixes than it may.
    fn check_number(&self, context: &Context<'_>) -> Result<(), Down> {
        let (Some(limit), Some(received)) = (context.settings.max_prefixes, &self.received) else {
            return Ok(());
        };
        if u32::try_from(received.len()).is_ok_and(|number| number <= limit) {
            return Ok(());
        }
        Err(Down::Sent(self.hard(Notification::cease(notification::MAXIMUM_PREFIXES))))
    }

    /// Takes over what may change of the settings while the session stands.
    ///
    /// # Errors
    /// When the router announced more prefixes than it may from now on.
    pub(super) fn configure(&mut self, context: &mut Context<'_>) -> Result<(), Down> {
        if let Some(agreed) = &mut self.agreed {
            agreed.keepalive = open::keepalive(context.settings, agreed.hold_time);
            let next = context.now + jitter(context.rng, agreed.keepalive);
            self.keepalive = self.keepalive.map(|planned| planned.min(next));
        }
        if context.settings.max_prefixes.is_none() {
            self.received = None;
        } else if self.received.is_none() {
            self.received = Some(BTreeSet::new());
            self.ask_again(context);
        }
        self.check_number(context)
    }

    /// Asks the router for all its routes, which nobody counted so far (RFC 2918 §3).
    fn ask_again(&mut self, context: &mut Context<'_>) {
        let agreed = self.agreed.as_ref().filter(|agreed| agreed.route_refresh && self.established.is_some());
        let families = agreed.map(|agreed| agreed.families.clone()).unwrap_or_default();
        for family in families {
            self.send(context, Kind::RouteRefresh, &route_refresh(family, REQUEST));
        }
    }

    /// RFC 2918 §4 and RFC 7313 §4: requests for other families, and markers of the router, are ignored.
    fn refresh(&mut self, context: &mut Context<'_>, body: &[u8]) {
        let &[afi_high, afi_low, subtype, safi] = body else { return };
        let Some(agreed) = &self.agreed else { return };
        // Without RFC 7313 the octet is reserved, and means nothing.
        let is_request = subtype == REQUEST || !agreed.enhanced_route_refresh;
        let family = Family::from_numbers(u16::from_be_bytes([afi_high, afi_low]), safi)
            .filter(|family| is_request && agreed.families.contains(family));
        if let Some(family) = family
            && self.rib.refresh(family)
        {
            self.begin_refresh(context, family);
        }
    }

    fn begin_refresh(&mut self, context: &mut Context<'_>, family: Family) {
        if self.agreed.as_ref().is_some_and(|agreed| agreed.enhanced_route_refresh) {
            self.send(context, Kind::RouteRefresh, &route_refresh(family, BEGIN_OF_REFRESH));
        }
        self.stale = true;
    }

    /// Sends what is missing towards the wanted routes, as far as the connection takes it.
    pub(super) fn pump(&mut self, context: &mut Context<'_>, wanted: &Routes, graceful_shutdown: bool) {
        let is_due = self.rib.deadline().is_some_and(|due| due <= context.now);
        if self.established.is_none() || !(self.stale || is_due) {
            return;
        }
        let Some(agreed) = self.agreed.clone() else { return };
        while let Some(budget @ 1..) = WINDOW.checked_sub(self.unflushed) {
            let encoder = Encoder {
                settings: context.settings,
                agreed: &agreed,
                next_hops: &self.next_hops,
                graceful_shutdown,
            };
            let round = self.rib.round(context.now, wanted, &encoder, budget);
            let count = u64::try_from(round.messages.len()).unwrap_or(u64::MAX);
            context.counters.updates_sent += count;
            self.sent(context, round.messages.concat());
            if agreed.enhanced_route_refresh {
                for family in round.refreshed {
                    self.send(context, Kind::RouteRefresh, &route_refresh(family, END_OF_REFRESH));
                }
            }
            self.stale = round.unfinished;
            for family in self.rib.refresh_again() {
                self.begin_refresh(context, family);
            }
            if !self.stale {
                return;
            }
        }
    }

    /// Withdraws every route, however much still waits to be sent.
    pub(super) fn withdraw_all(&mut self, context: &mut Context<'_>) {
        if self.rib.len() > 0 {
            self.flushed();
            self.stale = true;
            self.pump(context, &Routes::new(), false);
        }
    }

    /// The routes that are wanted changed.
    pub(super) fn look_again(&mut self) {
        self.stale = true;
    }

    /// Sends everything again, since the way in which routes are written changed.
    pub(super) fn rewrite(&mut self) {
        for family in Family::ALL {
            self.rib.rewrite(family);
        }
        self.stale = true;
    }

    /// Routes lead to these addresses from now on.
    pub(super) fn lead_to(&mut self, next_hops: NextHops) {
        let former = std::mem::replace(&mut self.next_hops, next_hops);
        let extended = self.agreed.as_ref().is_some_and(|agreed| agreed.extended_next_hop);
        for family in Family::ALL {
            if former.of(family, extended) != next_hops.of(family, extended) {
                self.rib.rewrite(family);
                self.stale = true;
            }
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(super) fn timeout(&mut self, context: &mut Context<'_>) -> Result<(), Down> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= context.now);
        if is_due(self.hold) {
            return Err(Down::Sent(Notification::new(notification::HOLD_TIMER, 0, [])));
        }
        if is_due(self.send_hold()) {
            return Err(Down::Sent(Notification::new(notification::SEND_HOLD_TIMER, 0, [])));
        }
        if is_due(self.keepalive) {
            self.send(context, Kind::Keepalive, &[]);
        }
        Ok(())
    }

    fn heard(&mut self, now: Instant) {
        let hold_time = self.agreed.as_ref().map(|agreed| agreed.hold_time);
        self.hold = hold_time.filter(|time| !time.is_zero()).map(|time| now + time);
    }

    fn send(&mut self, context: &mut Context<'_>, kind: Kind, body: &[u8]) {
        let counters = &mut *context.counters;
        *match kind {
            Kind::Open => &mut counters.opens_sent,
            Kind::Update => &mut counters.updates_sent,
            Kind::Notification => &mut counters.notifications_sent,
            Kind::Keepalive => &mut counters.keepalives_sent,
            Kind::RouteRefresh => &mut counters.route_refreshes_sent,
        } += 1;
        self.sent(context, encode(kind, body));
    }

    fn sent(&mut self, context: &mut Context<'_>, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.unflushed += bytes.len();
        self.unflushed_since.get_or_insert(context.now);
        // RFC 4271 §10: all that is sent counts as a keepalive, and peers shall not fall into step.
        let keepalive = self.agreed.as_ref().map(|agreed| agreed.keepalive).filter(|time| !time.is_zero());
        self.keepalive = keepalive.map(|time| context.now + jitter(context.rng, time));
        context.out.push(Action::Send { side: context.side, bytes });
    }

    fn count(&self, context: &mut Context<'_>, kind: Kind) {
        let counters = &mut *context.counters;
        *match kind {
            Kind::Open => &mut counters.opens_received,
            Kind::Update => &mut counters.updates_received,
            Kind::Notification => &mut counters.notifications_received,
            Kind::Keepalive => &mut counters.keepalives_received,
            Kind::RouteRefresh => &mut counters.route_refreshes_received,
        } += 1;
    }
}

/// Three quarters of a time up to all of it (RFC 4271 §10).
pub(super) fn jitter(rng: &mut StdRng, time: Duration) -> Duration {
    time.mul_f64(rng.random_range(0.75..=1.0))
}

/// RFC 6608: a message that has no place in the state.
fn unexpected(state: State) -> Notification {
    let subcode = match state {
        State::OpenSent => 1,
        State::OpenConfirm => 2,
        State::Established => 3,
        State::Idle | State::Active | State::Connect => 0,
    };
    Notification::new(notification::FSM, subcode, [])
}

fn route_refresh(family: Family, subtype: u8) -> [u8; 4] {
    let afi = match family {
        Family::Ipv4 => 1,
        Family::Ipv6 => 2,
    };
    [0, afi, subtype, 1]
}
