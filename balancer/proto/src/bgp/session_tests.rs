//! Two sessions joined under a virtual clock, and single events where the other end misbehaves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::super::event::{Bfd, Stop};
use super::super::frame::{Kind, encode};
use super::super::route::{Attributes, Community, Family};
use super::super::settings::{Asn, GracefulRestart, RemoteAsn, RouterId};
use super::super::{open, received};
use super::*;

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn settings(asn: u32, remote: u32, id: u8) -> Settings {
    Settings {
        local_asn: Asn(asn),
        remote_asn: RemoteAsn::Exactly(Asn(remote)),
        router_id: RouterId(Ipv4Addr::new(192, 0, 2, id)),
        hold_time: Duration::from_secs(90),
        keepalive: None,
        connect_retry: None,
        families: BTreeSet::from(Family::ALL),
        extended_next_hop: false,
        graceful_restart: None,
        passive: false,
        max_prefixes: None,
        drain: Duration::from_secs(5),
        seed: id.into(),
    }
}

fn restartable(settings: Settings, restarting: bool) -> Settings {
    let restart = GracefulRestart { time: Duration::from_secs(120), restarting, preserved: true };
    Settings { graceful_restart: Some(restart), ..settings }
}

fn next_hops(id: u8) -> NextHops {
    NextHops {
        v4: Some(Ipv4Addr::new(192, 0, 2, id)),
        v6: Some(format!("2001:db8::{id}").parse().unwrap()),
        link_local: None,
    }
}

fn routes(prefixes: &[&str]) -> Arc<Routes> {
    Arc::new(prefixes.iter().map(|prefix| (prefix.parse().unwrap(), Arc::default())).collect())
}

/// Two sessions, one the router of the other, and the network between them.
struct Link {
    now: Instant,
    ends: [Session; 2],
    reports: [Vec<Report>; 2],
    /// Whether an end lets the other connect.
    listens: [bool; 2],
    /// Whether the network swallows everything.
    cut: bool,
    /// (receiver, event) in flight.
    queue: VecDeque<(usize, Flight)>,
    /// Bytes sent by each end.
    sent: [Vec<u8>; 2],
}

enum Flight {
    Connected(Side),
    Bytes(Side, Vec<u8>),
    Closed(Side, &'static str),
    Flushed(Side),
}

/// How the other end sees a connection; neither opens a second one here.
fn opposite(side: Side) -> Side {
    if side == Side::Outgoing { Side::Incoming } else { Side::Outgoing }
}

impl Link {
    fn new(a: Settings, b: Settings) -> Self {
        Self {
            now: origin(),
            ends: [Session::new(a), Session::new(b)],
            reports: [vec![], vec![]],
            listens: [true, true],
            cut: false,
            queue: VecDeque::new(),
            sent: [vec![], vec![]],
        }
    }

    /// Ends of which only the first connects.
    fn one_way(a: Settings, b: Settings) -> Self {
        let mut link = Self::new(a, Settings { passive: true, ..b });
        link.start();
        link
    }

    fn start(&mut self) {
        self.event(0, Event::Start);
        self.event(1, Event::Start);
        self.settle();
    }

    fn event(&mut self, end: usize, event: Event<'_>) {
        for action in self.ends[end].handle(self.now, event) {
            let other = 1 - end;
            match action {
                Action::Connect if self.cut => {}
                Action::Connect if self.listens[other] => {
                    self.queue.push_back((end, Flight::Connected(Side::Outgoing)));
                    self.queue.push_back((other, Flight::Connected(Side::Incoming)));
                }
                Action::Connect => self.queue.push_back((end, Flight::Closed(Side::Outgoing, "refused"))),
                Action::Send { side, bytes } => {
                    self.sent[end].extend(&bytes);
                    self.queue.push_back((end, Flight::Flushed(side)));
                    if !self.cut {
                        self.queue.push_back((other, Flight::Bytes(opposite(side), bytes)));
                    }
                }
                Action::Close(side) if !self.cut => {
                    self.queue.push_back((other, Flight::Closed(opposite(side), "closed by the other end")));
                }
                Action::Close(_) => {}
                Action::Report(report) => self.reports[end].push(report),
            }
        }
    }

    fn settle(&mut self) {
        while let Some((end, flight)) = self.queue.pop_front() {
            match flight {
                Flight::Connected(side) => {
                    self.event(
                        end,
                        Event::Connected { side, next_hops: next_hops(u8::try_from(end).unwrap() + 1) },
                    );
                }
                Flight::Bytes(side, bytes) => self.event(end, Event::Received { side, bytes: &bytes }),
                Flight::Closed(side, reason) => self.event(end, Event::Closed { side, reason }),
                Flight::Flushed(side) => self.event(end, Event::Flushed(side)),
            }
        }
    }

    fn tell(&mut self, end: usize, event: Event<'_>) {
        self.event(end, event);
        self.settle();
    }

    /// Lets time pass, stopping at every deadline.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = (0..2).filter_map(|end| Some((self.ends[end].deadline()?, end))).min();
            let Some((at, who)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.tell(who, Event::Timeout);
        }
        self.now = end;
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn downs(&mut self, end: usize) -> Vec<Down> {
        let reports = std::mem::take(&mut self.reports[end]);
        reports
            .into_iter()
            .filter_map(|report| if let Report::Down(down) = report { Some(down) } else { None })
            .collect()
    }

    /// Messages that an end sent since the last call, by type and body.
    fn messages(&mut self, end: usize) -> Vec<(u8, Vec<u8>)> {
        let bytes = std::mem::take(&mut self.sent[end]);
        let mut rest = bytes.as_slice();
        let mut messages = vec![];
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
            messages.push((rest[18], rest[19..length].to_vec()));
            rest = &rest[length..];
        }
        messages
    }

    /// What an end announced and withdrew since the last call, in messages.
    fn updates(&mut self, end: usize) -> Vec<(Vec<String>, Vec<String>)> {
        let agreed = self.ends[end].agreed().cloned().unwrap();
        let words = |prefixes: Vec<ipnet::IpNet>| prefixes.iter().map(ToString::to_string).collect();
        let updates = self.messages(end).into_iter().filter(|(kind, _)| *kind == 2);
        let read = updates.map(|(_, body)| received::read(&agreed, &body).unwrap());
        read.map(|update| (words(update.announced), words(update.withdrawn))).collect()
    }
}

const NONE: [&str; 0] = [];

fn update(announced: &[&str], withdrawn: &[&str]) -> (Vec<String>, Vec<String>) {
    let words = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    (words(announced), words(withdrawn))
}

#[test]
fn a_session_comes_up_and_stays_up() {
    let mut link = Link::one_way(settings(64512, 64513, 1), settings(64513, 64512, 2));
    assert_eq!(link.states(), [State::Established; 2]);
    let states = |link: &Link, end: usize| -> Vec<State> {
        let states = link.reports[end].iter();
        states
            .filter_map(|report| if let Report::State(state) = report { Some(*state) } else { None })
            .collect()
    };
    assert_eq!(states(&link, 0), [State::Connect, State::OpenSent, State::OpenConfirm, State::Established]);
    assert_eq!(states(&link, 1), [State::Active, State::OpenSent, State::OpenConfirm, State::Established]);
    let agreed = link.ends[0].agreed().unwrap();
    assert_eq!(
        (agreed.remote_asn, agreed.internal, agreed.keepalive),
        (Asn(64513), false, Duration::from_secs(30))
    );
    link.reports = [vec![], vec![]];
    link.run(Duration::from_secs(3600));
    assert_eq!((link.states(), &link.reports), ([State::Established; 2], &[vec![], vec![]]));
    // Keepalives every 22.5 to 30 s.
    let sent = link.ends[0].counters().keepalives_sent;
    assert!((120..=162).contains(&sent), "{sent}");
}

#[test]
fn of_two_connections_the_one_from_the_higher_identifier_stays() {
    for (ids, winner) in [([1, 2], 1), ([2, 1], 0)] {
        let mut link = Link::new(settings(64512, 64513, ids[0]), settings(64513, 64512, ids[1]));
        link.start();
        assert_eq!(link.states(), [State::Established; 2]);
        let sides = |end: usize| link.ends[end].connections.keys().copied().collect::<Vec<_>>();
        assert_eq!((sides(winner), sides(1 - winner)), (vec![Side::Outgoing], vec![Side::Incoming]));
        link.run(Duration::from_secs(600));
        assert_eq!(link.ends.each_ref().map(|end| end.counters().established), [1, 1]);
    }
}

#[test]
fn routes_are_sent_once_and_then_only_what_changed() {
    let mut link = Link::one_way(settings(64512, 64512, 1), settings(64512, 64512, 2));
    assert_eq!(link.updates(0), [], "nothing before the routes are known, and no End-of-RIB");
    link.tell(0, Event::Routes(routes(&["198.51.100.1/32", "198.51.100.2/32", "2001:db8:1::1/128"])));
    assert_eq!(
        link.updates(0),
        [
            update(&["198.51.100.1/32", "198.51.100.2/32"], &NONE),
            update(&["2001:db8:1::1/128"], &NONE),
            update(&NONE, &NONE),
            update(&NONE, &NONE),
        ]
    );
    link.tell(0, Event::Routes(routes(&["198.51.100.2/32", "198.51.100.3/32", "2001:db8:1::1/128"])));
    assert_eq!(link.updates(0), [update(&NONE, &["198.51.100.1/32"]), update(&["198.51.100.3/32"], &NONE)]);
    link.tell(0, Event::Routes(routes(&["198.51.100.2/32", "198.51.100.3/32", "2001:db8:1::1/128"])));
    assert_eq!((link.updates(0), link.ends[0].advertised()), (vec![], 3));
    assert_eq!(link.ends[1].counters().routes_received, 4);
}

#[test]
fn a_silent_router_is_given_up_after_the_hold_time() {
    let mut link = Link::one_way(settings(64512, 64513, 1), settings(64513, 64512, 2));
    link.downs(0);
    link.cut = true;
    link.run(Duration::from_secs(59));
    assert_eq!(link.states()[0], State::Established);
    link.run(Duration::from_secs(32));
    assert_eq!(link.downs(0)[0], Down::Sent(Notification::new(notification::HOLD_TIMER, 0, [])));
    link.cut = false;
    link.run(Duration::from_secs(60));
    assert_eq!(link.states(), [State::Established; 2]);
}

#[test]
fn without_a_hold_time_silence_is_borne() {
    let forever = |settings: Settings| Settings { hold_time: Duration::ZERO, ..settings };
    let mut link = Link::one_way(forever(settings(64512, 64513, 1)), settings(64513, 64512, 2));
    link.sent = [vec![], vec![]];
    link.cut = true;
    link.run(Duration::from_secs(86_400));
    assert_eq!(link.states(), [State::Established; 2]);
    assert_eq!([link.messages(0), link.messages(1)], [vec![], vec![]]);
}

#[test]
fn attempts_grow_apart_up_to_half_a_minute_and_are_jittered() {
    let mut link = Link::new(settings(64512, 64513, 1), settings(64513, 64512, 2));
    link.listens = [false, false];
    link.event(0, Event::Start);
    link.settle();
    let mut waits = vec![];
    for _ in 0..8 {
        let due = link.ends[0].deadline().unwrap();
        waits.push(due - link.now);
        link.now = due;
        link.tell(0, Event::Timeout);
    }
    for (wait, longest) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30, 30]) {
        let longest = Duration::from_secs(longest);
        assert!((longest.mul_f64(0.75)..=longest).contains(wait), "{wait:?} of {longest:?}");
    }
    assert!(waits[5] != waits[6] && waits[6] != waits[7], "{waits:?}");
}

#[test]
fn a_configured_retry_time_does_not_grow() {
    let every = Duration::from_secs(7);
    let mut link = Link::new(
        Settings { connect_retry: Some(every), ..settings(64512, 64513, 1) },
        settings(64513, 64512, 2),
    );
    link.listens = [false, false];
    link.event(0, Event::Start);
    link.settle();
    for _ in 0..5 {
        let due = link.ends[0].deadline().unwrap();
        assert!((every.mul_f64(0.75)..=every).contains(&(due - link.now)));
        link.now = due;
        link.tell(0, Event::Timeout);
    }
}

#[test]
fn a_router_that_does_not_answer_is_tried_again() {
    let mut session = Session::new(settings(64512, 64513, 1));
    let now = origin();
    assert_eq!(
        session.handle(now, Event::Start),
        [Action::Connect, Action::Report(Report::State(State::Connect))]
    );
    let at = session.deadline().unwrap();
    assert_eq!(at - now, Duration::from_secs(10));
    assert_eq!(
        session.handle(at, Event::Timeout),
        [
            Action::Close(Side::Outgoing),
            Action::Report(Report::Down(Down::ConnectTimeout)),
            Action::Report(Report::State(State::Active))
        ]
    );
    let at = session.deadline().unwrap();
    assert_eq!(
        session.handle(at, Event::Timeout),
        [Action::Connect, Action::Report(Report::State(State::Connect))]
    );
}

/// A session that stands, without a router behind it.
fn standing(settings: Settings) -> (Session, Instant) {
    let now = origin();
    let mut session = Session::new(settings.clone());
    session.handle(now, Event::Start);
    session.handle(now, Event::Connected { side: Side::Outgoing, next_hops: next_hops(1) });
    let RemoteAsn::Exactly(remote) = settings.remote_asn else { panic!("no number") };
    let router = Settings { local_asn: remote, router_id: RouterId(Ipv4Addr::new(192, 0, 2, 9)), ..settings };
    for bytes in [encode(Kind::Open, &open::encode(&router, false)), encode(Kind::Keepalive, &[])] {
        session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes });
    }
    assert_eq!(session.state(), State::Established);
    session.handle(now, Event::Flushed(Side::Outgoing));
    (session, now)
}

fn notice(notification: &Notification) -> Action {
    Action::Send { side: Side::Outgoing, bytes: encode(Kind::Notification, &notification.encode()) }
}

#[test]
fn every_fault_of_the_router_has_its_notification() {
    for (bytes, want) in [
        (vec![0; 19], Notification::new(1, 1, [])),
        (encode(Kind::Open, &[4; 10]), Notification::new(5, 3, [])),
        (encode(Kind::Update, &[0, 9, 0, 0]), Notification::new(3, 1, [])),
        (encode(Kind::Update, &[0, 1, 33, 0, 0]), Notification::new(3, 10, [])),
    ] {
        let (mut session, now) = standing(settings(64512, 64513, 1));
        assert_eq!(
            session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes }),
            [
                notice(&want),
                Action::Close(Side::Outgoing),
                Action::Report(Report::Down(Down::Sent(want))),
                Action::Report(Report::State(State::Active)),
            ]
        );
    }
}

#[test]
fn messages_out_of_place_are_told_by_state() {
    let now = origin();
    for (first, second, want) in [
        (None, Kind::Keepalive, Notification::new(5, 1, [])),
        (None, Kind::Update, Notification::new(5, 1, [])),
        (Some(()), Kind::Update, Notification::new(5, 2, [])),
    ] {
        let mut session = Session::new(settings(64512, 64513, 1));
        session.handle(now, Event::Start);
        session.handle(now, Event::Connected { side: Side::Outgoing, next_hops: next_hops(1) });
        if first.is_some() {
            let bytes = encode(Kind::Open, &open::encode(&settings(64513, 64512, 2), false));
            session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes });
        }
        let body = if second == Kind::Update { vec![0; 4] } else { vec![] };
        let bytes = encode(second, &body);
        let actions = session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes });
        assert_eq!(actions[0], notice(&want), "{second:?}");
    }
}

#[test]
fn the_router_s_own_word_is_reported() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    let bye = Notification::shutdown("maintenance until noon");
    let bytes = encode(Kind::Notification, &bye.encode());
    assert_eq!(
        session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes }),
        [
            Action::Close(Side::Outgoing),
            Action::Report(Report::Down(Down::Received(bye))),
            Action::Report(Report::State(State::Active)),
        ]
    );
}

#[test]
fn without_graceful_restart_the_router_is_asked_before_the_routes_go() {
    let mut link = Link::one_way(settings(64512, 64512, 1), settings(64512, 64512, 2));
    link.tell(0, Event::Routes(routes(&["198.51.100.1/32"])));
    link.messages(0);
    link.tell(0, Event::Stop(Stop::Restart { text: "rollout".into() }));
    let encoder_says = link.messages(0);
    assert_eq!(encoder_says.len(), 1);
    let mut attributes = Attributes::default();
    attributes.communities.insert(Community::GRACEFUL_SHUTDOWN);
    attributes.local_pref = Some(0);
    let agreed = link.ends[0].agreed().unwrap().clone();
    let encoder = super::super::update::Encoder {
        settings: &settings(64512, 64512, 1),
        agreed: &agreed,
        next_hops: &next_hops(1),
        graceful_shutdown: false,
    };
    let want = encoder.announce(Family::Ipv4, &attributes, &["198.51.100.1/32".parse().unwrap()]);
    assert_eq!(encoder_says, [(2, want[0][19..].to_vec())]);
    link.run(Duration::from_millis(4999));
    assert_eq!(link.messages(0), []);
    assert_eq!(link.states(), [State::Established; 2]);
    link.downs(0);
    link.run(Duration::from_millis(2));
    let goodbye = Notification::shutdown("rollout");
    assert_eq!(link.messages(0), [(2, vec![0, 5, 32, 198, 51, 100, 1, 0, 0]), (3, goodbye.encode())]);
    assert_eq!(
        link.reports[0],
        [Report::Down(Down::Sent(goodbye.clone())), Report::State(State::Idle), Report::Stopped]
    );
    assert!(link.downs(1).contains(&Down::Received(goodbye)));
    link.run(Duration::from_secs(600));
    assert_eq!(link.states(), [State::Idle, State::Active]);
}

#[test]
fn with_graceful_restart_a_rollout_is_silent_and_a_return_says_so() {
    let mut link = Link::one_way(
        restartable(settings(64512, 64513, 1), false),
        restartable(settings(64513, 64512, 2), false),
    );
    link.tell(0, Event::Routes(routes(&["198.51.100.1/32"])));
    link.messages(0);
    link.downs(1);
    link.tell(0, Event::Stop(Stop::Restart { text: "rollout".into() }));
    assert_eq!(link.messages(0), [], "no UPDATE and no NOTIFICATION");
    assert_eq!(link.downs(1), [Down::Closed("closed by the other end".into())]);
    assert_eq!(link.states(), [State::Idle, State::Active]);

    link.ends[0] = Session::new(restartable(settings(64512, 64513, 1), true));
    link.event(0, Event::Start);
    link.settle();
    let restart = link.ends[1].agreed().unwrap().graceful_restart.clone().unwrap();
    assert_eq!(
        (restart.restarting, restart.families),
        (true, BTreeMap::from([(Family::Ipv4, true), (Family::Ipv6, true)]))
    );
    link.messages(0);
    link.tell(0, Event::Routes(routes(&["198.51.100.1/32"])));
    assert_eq!(
        link.updates(0),
        [update(&["198.51.100.1/32"], &NONE), update(&NONE, &NONE), update(&NONE, &NONE)]
    );
}

#[test]
fn a_node_that_leaves_resets_hard_so_that_nothing_is_kept() {
    let mut link = Link::one_way(
        restartable(settings(64512, 64513, 1), false),
        restartable(settings(64513, 64512, 2), false),
    );
    link.tell(0, Event::Routes(routes(&["198.51.100.1/32"])));
    link.tell(0, Event::Stop(Stop::Leave { text: "drained".into() }));
    assert_eq!(link.states(), [State::Established; 2]);
    link.messages(0);
    // The second request does not wait.
    link.tell(0, Event::Stop(Stop::Leave { text: "drained".into() }));
    assert_eq!(link.messages(0).last().unwrap(), &(3, Notification::shutdown("drained").hard().encode()));
    assert_eq!(link.states()[0], State::Idle);
}

#[test]
fn a_change_of_settings_lets_a_restarting_router_keep_its_routes() {
    let mut link = Link::one_way(
        restartable(settings(64512, 64513, 1), false),
        restartable(settings(64513, 64512, 2), false),
    );
    link.messages(0);
    link.tell(0, Event::Stop(Stop::Reset));
    assert_eq!(link.messages(0), [(3, vec![6, 6])]);
    assert_eq!(link.reports[0].last(), Some(&Report::Stopped));
}

#[test]
fn a_session_that_never_began_stops_at_once() {
    let mut session = Session::new(settings(64512, 64513, 1));
    let now = origin();
    assert_eq!(
        session.handle(now, Event::Stop(Stop::Leave { text: String::new() })),
        [Action::Report(Report::Stopped)]
    );
    assert_eq!(session.handle(now, Event::Stop(Stop::Reset)), []);
    assert_eq!((session.handle(now, Event::Start), session.deadline()), (vec![], None));
}

#[test]
fn bfd_ends_the_session_at_once_and_keeps_nothing() {
    for (restart, want) in [
        (false, Notification::cease(notification::BFD_DOWN)),
        (true, Notification::cease(notification::BFD_DOWN).hard()),
    ] {
        let plain = settings(64512, 64513, 1);
        let (mut session, now) = standing(if restart { restartable(plain, false) } else { plain });
        assert_eq!(
            session.handle(now, Event::Bfd(Bfd::Down)),
            [
                notice(&want),
                Action::Close(Side::Outgoing),
                Action::Report(Report::Down(Down::Sent(want))),
                Action::Report(Report::State(State::Active)),
            ]
        );
    }
}

/// Lets the router connect, with the R bit, and waits until the session stands.
fn come_back(session: &mut Session, now: Instant) -> Side {
    let side = session.room();
    session.handle(now, Event::Connected { side, next_hops: next_hops(1) });
    let router = restartable(settings(64513, 64512, 9), true);
    for bytes in [encode(Kind::Open, &open::encode(&router, true)), encode(Kind::Keepalive, &[])] {
        session.handle(now, Event::Received { side, bytes: &bytes });
    }
    session.handle(now, Event::Flushed(side));
    assert_eq!(session.state(), State::Established);
    side
}

/// Messages of this type in what is to be sent.
fn count(actions: &[Action], kind: u8) -> usize {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send { bytes, .. } => Some(bytes.as_slice()),
        _ => None,
    });
    let mut stream = sent.collect::<Vec<_>>().concat();
    let mut found = 0;
    while let [_, ..] = stream[..] {
        found += usize::from(stream[18] == kind);
        stream.drain(..usize::from(u16::from_be_bytes([stream[16], stream[17]])));
    }
    found
}

#[test]
fn a_connection_without_an_open_ends_no_session() {
    let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
    assert_eq!(come_back(&mut session, now), Side::Incoming);
    for _ in 0..2 {
        let side = session.room();
        let actions = session.handle(now, Event::Connected { side, next_hops: next_hops(1) });
        assert_eq!((side, count(&actions, 1)), (Side::Second, 1), "it is offered a session all the same");
        assert_eq!(session.state(), State::Established);
    }
    let closed = session.handle(now, Event::Closed { side: Side::Second, reason: "closed" });
    assert_eq!(closed, [Action::Report(Report::Spare(Down::Closed("closed".into())))]);
    assert_eq!(session.state(), State::Established);
    // Of a router that helps others to restart only, the standing one stays (RFC 4271 §6.8).
    session.handle(now, Event::Connected { side: Side::Second, next_hops: next_hops(1) });
    let bytes = encode(Kind::Open, &open::encode(&settings(64513, 64512, 9), false));
    let actions = session.handle(now, Event::Received { side: Side::Second, bytes: &bytes });
    let refusal = Notification::cease(notification::COLLISION);
    assert_eq!(actions.last(), Some(&Action::Report(Report::Spare(Down::Sent(refusal)))));
    assert_eq!(session.state(), State::Established);
    // One that was started anew takes its place, again and again.
    assert_eq!(come_back(&mut session, now), Side::Second);
    assert_eq!(come_back(&mut session, now), Side::Incoming);
    assert_eq!(session.connections.len(), 1);
}

#[test]
fn a_connection_beside_the_session_does_not_cut_its_end_short() {
    let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
    let beside = Side::Incoming;
    session.handle(now, Event::Connected { side: beside, next_hops: next_hops(1) });
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32"])));
    session.handle(now, Event::Stop(Stop::Leave { text: "bye".into() }));
    session.handle(now, Event::Closed { side: beside, reason: "closed" });
    assert_eq!(session.state(), State::Established, "routes are asked to be avoided, and not withdrawn yet");
    let late = session.handle(now, Event::Connected { side: beside, next_hops: next_hops(1) });
    assert_eq!((late, session.state()), (vec![Action::Close(beside)], State::Established));
    let end = session.handle(now + Duration::from_secs(5), Event::Timeout);
    assert_eq!((count(&end, 2), count(&end, 3)), (1, 1), "a withdrawal and a Cease");
    assert_eq!(end.last(), Some(&Action::Report(Report::Stopped)));
    // Where the session itself goes meanwhile, nothing is left to be done.
    let (mut session, now) = standing(settings(64512, 64513, 1));
    session.handle(now, Event::Connected { side: beside, next_hops: next_hops(1) });
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32"])));
    session.handle(now, Event::Stop(Stop::Leave { text: "bye".into() }));
    let end = session.handle(now, Event::Closed { side: Side::Outgoing, reason: "closed" });
    assert!(
        end.contains(&Action::Close(beside)) && end.contains(&Action::Report(Report::Stopped)),
        "{end:?}"
    );
}

#[test]
fn edits_that_the_router_does_not_see_leave_the_session_alone() {
    let before = settings(64512, 64513, 1);
    let second = Duration::from_secs(1);
    let keepalive = Settings { keepalive: Some(3 * second), ..before.clone() };
    for after in [
        keepalive.clone(),
        Settings { connect_retry: Some(second), ..before.clone() },
        Settings { passive: true, ..before.clone() },
        Settings { drain: second, ..before.clone() },
        Settings { max_prefixes: Some(10), ..before.clone() },
        // What needs another OPEN is not looked at.
        Settings { hold_time: 30 * second, router_id: RouterId([9, 9, 9, 9].into()), ..before.clone() },
    ] {
        let (mut session, now) = standing(before.clone());
        let actions = session.handle(now, Event::Configure(&after));
        // A limit needs the routes that came before it.
        let asks = if after.max_prefixes.is_some() { 2 } else { 0 };
        assert_eq!((session.state(), actions.len(), count(&actions, 5)), (State::Established, asks, asks));
        assert_eq!(session.settings, before.with_habits_of(&after));
    }
    let (mut session, now) = standing(before);
    session.handle(now, Event::Configure(&keepalive));
    assert!(session.deadline().is_some_and(|due| due <= now + 3 * second), "the next KEEPALIVE comes sooner");
    assert_eq!(count(&session.handle(now + 3 * second, Event::Timeout), 4), 1);
}

#[test]
fn a_limit_that_is_lowered_counts_at_once() {
    let limited = |most: u32| Settings { max_prefixes: Some(most), ..settings(64512, 64513, 1) };
    let (mut session, now) = standing(limited(2));
    let attributes = [64, 1, 1, 0, 64, 2, 6, 2, 1, 0, 0, 252, 1, 64, 3, 4, 192, 0, 2, 9];
    let body = [&[0, 0, 0, 20][..], &attributes, &[32, 203, 0, 113, 1, 32, 203, 0, 113, 2]].concat();
    session.handle(now, Event::Received { side: Side::Outgoing, bytes: &encode(Kind::Update, &body) });
    assert_eq!(session.handle(now, Event::Configure(&limited(3))), []);
    let actions = session.handle(now, Event::Configure(&limited(1)));
    assert_eq!(actions[0], notice(&Notification::cease(notification::MAXIMUM_PREFIXES)));
}

#[test]
fn a_peer_that_is_to_wait_waits_and_one_that_is_not_connects() {
    let passive = |passive: bool| Settings { passive, ..settings(64512, 64513, 1) };
    let now = origin();
    let mut session = Session::new(passive(false));
    session.handle(now, Event::Start);
    let given_up = session.handle(now, Event::Configure(&passive(true)));
    assert_eq!(given_up, [Action::Close(Side::Outgoing), Action::Report(Report::State(State::Active))]);
    assert_eq!(session.deadline(), None);
    session.handle(now, Event::Configure(&passive(false)));
    let due = session.deadline().unwrap();
    assert_eq!(session.handle(due, Event::Timeout)[0], Action::Connect);
}

#[test]
fn routes_are_told_anew_when_they_lead_elsewhere() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32", "2001:db8:1::1/128"])));
    let side = Side::Outgoing;
    let lost = NextHops { v6: None, ..next_hops(1) };
    let moved = NextHops { v6: next_hops(2).v6, ..next_hops(1) };
    for (next_hops, updates, held) in [(next_hops(1), 0, 2), (moved, 1, 2), (lost, 1, 1), (moved, 1, 2)] {
        let actions = session.handle(now, Event::NextHops { side, next_hops });
        assert_eq!((count(&actions, 2), session.advertised()), (updates, held), "{next_hops:?}");
    }
}

#[test]
fn after_the_first_session_the_node_went_on_forwarding() {
    let mut fresh = restartable(settings(64512, 64513, 1), false);
    if let Some(restart) = &mut fresh.graceful_restart {
        restart.preserved = false;
    }
    let mut link = Link::one_way(fresh, restartable(settings(64513, 64512, 2), false));
    let kept = |link: &Link| {
        let restart = link.ends[1].agreed().unwrap().graceful_restart.clone().unwrap();
        (restart.restarting, restart.families.into_values().collect::<Vec<_>>())
    };
    assert_eq!(kept(&link), (false, vec![false; 2]));
    link.tell(0, Event::Closed { side: Side::Outgoing, reason: "reset" });
    link.tell(1, Event::Closed { side: Side::Incoming, reason: "reset" });
    link.run(Duration::from_secs(2));
    assert_eq!(kept(&link), (false, vec![true; 2]));
}

#[test]
fn bfd_that_ends_with_a_router_s_restart_does_not_end_the_session_after_it() {
    let second = Duration::from_secs(1);
    let watched = || {
        let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
        assert_eq!(session.handle(now, Event::Bfd(Bfd::Up)), []);
        (session, now)
    };
    let (mut session, now) = watched();
    come_back(&mut session, now);
    assert_eq!(
        session.handle(now + second, Event::Bfd(Bfd::Down)),
        [],
        "the BFD session from before the restart"
    );
    assert_eq!(session.state(), State::Established);
    session.handle(now + second, Event::Bfd(Bfd::Down));
    assert_eq!(session.state(), State::Active, "the path broke after that");

    let (mut session, now) = watched();
    come_back(&mut session, now);
    session.handle(now + second, Event::Bfd(Bfd::Down));
    assert_eq!(session.deadline(), Some(now + 10 * second));
    let down = session.handle(now + 10 * second, Event::Timeout);
    assert_eq!((count(&down, 3), session.state()), (1, State::Active), "BFD did not come back");

    let (mut session, now) = watched();
    come_back(&mut session, now);
    session.handle(now + second, Event::Bfd(Bfd::Down));
    session.handle(now + 2 * second, Event::Bfd(Bfd::Up));
    session.handle(now + 10 * second, Event::Timeout);
    assert_eq!(session.state(), State::Established, "BFD is up again");

    let (mut session, now) = watched();
    come_back(&mut session, now);
    session.handle(now + second, Event::Bfd(Bfd::Down));
    assert_eq!(session.handle(now + 2 * second, Event::Bfd(Bfd::Nothing)), [], "BFD is not wanted any more");
    session.handle(now + 10 * second, Event::Timeout);
    assert_eq!(session.state(), State::Established);

    let (mut session, now) = watched();
    session.handle(now, Event::Bfd(Bfd::Nothing));
    come_back(&mut session, now);
    session.handle(now + second, Event::Bfd(Bfd::Down));
    assert_eq!(session.state(), State::Active, "BFD watched nothing when the router came back");

    let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
    come_back(&mut session, now);
    session.handle(now + second, Event::Bfd(Bfd::Up));
    session.handle(now + second, Event::Bfd(Bfd::Down));
    assert_eq!(session.state(), State::Active, "BFD was not up before the restart");

    let (mut session, now) = watched();
    come_back(&mut session, now);
    session.handle(now + 10 * second, Event::Bfd(Bfd::Down));
    assert_eq!(session.state(), State::Active, "the restart is long over");

    let (mut session, now) = watched();
    session.handle(now, Event::Bfd(Bfd::Down));
    come_back(&mut session, now + second);
    session.handle(now + 2 * second, Event::Bfd(Bfd::Down));
    assert_eq!(session.state(), State::Active, "the BFD session from before has ended already");
}

#[test]
fn bfd_says_nothing_about_a_restart_of_this_end() {
    let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
    session.handle(now, Event::Stop(Stop::Restart { text: "rollout".into() }));
    assert_eq!(session.handle(now, Event::Bfd(Bfd::Down)), []);
}

#[test]
fn a_path_that_flaps_is_held_off_longer_each_time() {
    let (mut session, mut now) = standing(settings(64512, 64513, 1));
    let mut hold = |stood: u64, longest: u64| {
        now += Duration::from_secs(stood);
        session.handle(now, Event::Bfd(Bfd::Down));
        let wait = session.deadline().unwrap() - now;
        let longest = Duration::from_secs(longest);
        assert!((longest.mul_f64(0.75)..=longest).contains(&wait), "{wait:?} of {longest:?}");
        now += wait;
        session.handle(now, Event::Timeout);
        session.handle(now, Event::Connected { side: Side::Outgoing, next_hops: next_hops(1) });
        let router = settings(64513, 64512, 9);
        for bytes in [encode(Kind::Open, &open::encode(&router, false)), encode(Kind::Keepalive, &[])] {
            session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes });
        }
        assert_eq!(session.state(), State::Established);
    };
    for longest in [1, 2, 4, 8, 16, 30, 30] {
        hold(15, longest);
    }
    hold(119, 30);
    hold(120, 1);
    hold(15, 2);
}

#[test]
fn connections_beside_the_session_do_not_delay_the_next_attempt() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    for _ in 0..9 {
        let side = session.room();
        session.handle(now, Event::Connected { side, next_hops: next_hops(1) });
        session.handle(now, Event::Closed { side, reason: "nothing to say" });
    }
    session.handle(now, Event::Closed { side: Side::Outgoing, reason: "reset" });
    let wait = session.deadline().unwrap() - now;
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    for _ in 0..9 {
        session.handle(now, Event::Connected { side: Side::Incoming, next_hops: next_hops(1) });
        session.handle(now, Event::Closed { side: Side::Incoming, reason: "nothing to say" });
    }
    let wait = session.deadline().unwrap() - now;
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
}

#[test]
fn what_flapped_is_held_off_by_the_session_that_follows() {
    let (former, now) = flapping(settings(64512, 64513, 1), 5);
    let mut session = Session::following(former, settings(64512, 64513, 1));
    assert_eq!(session.handle(now, Event::Start)[0], Action::Connect, "at once: somebody edited the peer");
    let incoming = Event::Connected { side: Side::Incoming, next_hops: next_hops(1) };
    assert_eq!(session.handle(now, incoming), [Action::Close(Side::Incoming)]);
    let reason = "refused";
    session.handle(now, Event::Closed { side: Side::Outgoing, reason });
    let wait = session.deadline().unwrap() - now;
    assert!(wait >= Duration::from_secs(12), "{wait:?}");
}

#[test]
fn a_prefix_that_changes_again_and_again_keeps_its_pace_across_connections() {
    let (mut session, mut now) = standing(settings(64512, 64513, 1));
    let side = Side::Outgoing;
    let told = |session: &mut Session, now: Instant, hosts: &[u8]| {
        let prefix = |host: &u8| format!("198.51.100.{host}/32").parse().unwrap();
        let routes = hosts.iter().map(|host| (prefix(host), Arc::default())).collect();
        session.handle(now, Event::Routes(Arc::new(routes)));
        session.handle(now, Event::Flushed(side));
        session.advertised()
    };
    // The first one comes at once, the others after 1 and 2 s.
    for (seconds, want) in [(0, 1), (1, 1), (3, 1)] {
        let at = now + Duration::from_secs(seconds);
        told(&mut session, at, &[]);
        assert_eq!(told(&mut session, at, &[1]), want, "after {seconds} s");
    }
    now += Duration::from_secs(4);
    session.handle(now, Event::Closed { side, reason: "reset" });
    now = session.deadline().unwrap();
    session.handle(now, Event::Timeout);
    session.handle(now, Event::Connected { side, next_hops: next_hops(1) });
    let open = encode(Kind::Open, &open::encode(&settings(64513, 64512, 9), false));
    for bytes in [open, encode(Kind::Keepalive, &[])] {
        session.handle(now, Event::Received { side, bytes: &bytes });
    }
    assert_eq!(session.advertised(), 1, "the router gets what it lost at once");
    told(&mut session, now, &[]);
    assert_eq!(told(&mut session, now, &[1, 2]), 1, "the one that changes waits, another does not");
    now += Duration::from_secs(2);
    session.handle(now, Event::Timeout);
    assert_eq!(session.advertised(), 2);
}

/// A session that BFD ends as soon as it stands, so many times.
fn flapping(settings: Settings, times: u32) -> (Session, Instant) {
    let (mut session, mut now) = standing(settings);
    for time in 1..=times {
        session.handle(now, Event::Bfd(Bfd::Down));
        if time == times {
            break;
        }
        now = session.deadline().unwrap();
        session.handle(now, Event::Timeout);
        session.handle(now, Event::Connected { side: Side::Outgoing, next_hops: next_hops(1) });
        let open = encode(Kind::Open, &open::encode(&self::settings(64513, 64512, 9), false));
        for bytes in [open, encode(Kind::Keepalive, &[])] {
            session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes });
        }
    }
    (session, now)
}

#[test]
fn a_path_that_flaps_is_held_off_whoever_connects_and_however_often() {
    let impatient = Settings { connect_retry: Some(Duration::from_secs(1)), ..settings(64512, 64513, 1) };
    let (session, now) = flapping(impatient, 5);
    let wait = session.deadline().unwrap() - now;
    assert!((Duration::from_secs(12)..=Duration::from_secs(16)).contains(&wait), "{wait:?}");
    let connected = Event::Connected { side: Side::Incoming, next_hops: next_hops(1) };
    for (times, held_off) in [(1, 0), (2, 2), (3, 4)] {
        for (seconds, is_refused) in [(0, held_off > 0), (held_off, false)] {
            let (mut session, now) = flapping(settings(64512, 64513, 1), times);
            let actions = session.handle(now + Duration::from_secs(seconds), connected.clone());
            let refused = actions.contains(&Action::Close(Side::Incoming));
            assert_eq!(refused, is_refused, "{times} times, after {seconds} s");
        }
    }
}

#[test]
fn a_router_that_comes_back_without_a_word_replaces_its_connection() {
    let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
    session.handle(now, Event::Connected { side: Side::Incoming, next_hops: next_hops(1) });
    let router = restartable(settings(64513, 64512, 9), true);
    let bytes = encode(Kind::Open, &open::encode(&router, true));
    let actions = session.handle(now, Event::Received { side: Side::Incoming, bytes: &bytes });
    assert!(actions.contains(&Action::Close(Side::Outgoing)), "{actions:?}");
    assert!(actions.contains(&Action::Report(Report::Down(Down::Replaced))));
    session.handle(now, Event::Received { side: Side::Incoming, bytes: &encode(Kind::Keepalive, &[]) });
    assert_eq!(session.state(), State::Established);
}

/// RFC 4724 §5 lets a connection replace another where the router restarts with routes of its own. FRR and BIRD, which only
/// help others to restart, list no family: of their two connections the standing one stays (RFC 4271 §6.8).
#[test]
fn a_router_that_lists_no_family_does_not_replace_its_connection() {
    let (mut session, now) = standing(restartable(settings(64512, 64513, 1), false));
    session.handle(now, Event::Connected { side: Side::Incoming, next_hops: next_hops(1) });
    let [as_high, as_low] = 64513_u16.to_be_bytes();
    let multiprotocol = [1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
    let restarted_in_two_minutes = [64, 2, 0x80, 120];
    let capabilities = [&multiprotocol[..], &restarted_in_two_minutes].concat();
    let head = [4, as_high, as_low, 0, 90, 192, 0, 2, 9, 18, 2, 16];
    let bytes = encode(Kind::Open, &[&head[..], &capabilities].concat());
    let actions = session.handle(now, Event::Received { side: Side::Incoming, bytes: &bytes });
    let refusal = Notification::cease(notification::COLLISION).encode();
    let refusal = Action::Send { side: Side::Incoming, bytes: encode(Kind::Notification, &refusal) };
    assert!(actions.contains(&refusal) && actions.contains(&Action::Close(Side::Incoming)), "{actions:?}");
    assert!(!actions.contains(&Action::Close(Side::Outgoing)), "{actions:?}");
    assert_eq!(session.state(), State::Established);
}

#[test]
fn without_graceful_restart_a_second_connection_is_refused() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    session.handle(now, Event::Connected { side: Side::Incoming, next_hops: next_hops(1) });
    let bytes = encode(Kind::Open, &open::encode(&settings(64513, 64512, 9), false));
    let actions = session.handle(now, Event::Received { side: Side::Incoming, bytes: &bytes });
    let refusal = Notification::cease(notification::COLLISION).encode();
    let refusal = Action::Send { side: Side::Incoming, bytes: encode(Kind::Notification, &refusal) };
    assert!(actions.contains(&refusal) && actions.contains(&Action::Close(Side::Incoming)), "{actions:?}");
    assert_eq!(session.state(), State::Established);
}

#[test]
fn a_route_refresh_is_answered_between_its_markers() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32", "2001:db8:1::1/128"])));
    let ask = encode(Kind::RouteRefresh, &[0, 2, 0, 1]);
    let actions = session.handle(now, Event::Received { side: Side::Outgoing, bytes: &ask });
    let sent: Vec<(u8, usize)> = actions
        .iter()
        .map(|action| if let Action::Send { bytes, .. } = action { (bytes[18], bytes.len()) } else { (0, 0) })
        .collect();
    assert_eq!(sent.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [5, 2, 5]);
    for (at, subtype) in [(0, 1), (2, 2)] {
        let want = encode(Kind::RouteRefresh, &[0, 2, subtype, 1]);
        assert_eq!(actions[at], Action::Send { side: Side::Outgoing, bytes: want });
    }
    // A family that was not agreed on, and markers of the router's own, ask for nothing.
    for body in [[0, 25, 0, 70], [0, 2, 1, 1], [0, 2, 2, 1]] {
        let bytes = encode(Kind::RouteRefresh, &body);
        assert_eq!(session.handle(now, Event::Received { side: Side::Outgoing, bytes: &bytes }), []);
    }
}

#[test]
fn a_flood_of_requests_makes_work_for_two_answers() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32", "2001:db8:1::1/128"])));
    session.handle(now, Event::Flushed(Side::Outgoing));
    let flood = encode(Kind::RouteRefresh, &[0, 1, 0, 1]).repeat(3000);
    let actions = session.handle(now, Event::Received { side: Side::Outgoing, bytes: &flood });
    assert_eq!((count(&actions, 2), count(&actions, 5)), (2, 4), "each between its markers");
    // Without RFC 7313 the third octet is reserved: it says nothing of a request.
    let (mut session, now) = standing(settings(64512, 64513, 1));
    let plain = session.connections.get_mut(&Side::Outgoing).unwrap().agreed.as_mut().unwrap();
    plain.enhanced_route_refresh = false;
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32"])));
    let ask = encode(Kind::RouteRefresh, &[0, 1, 7, 1]);
    let actions = session.handle(now, Event::Received { side: Side::Outgoing, bytes: &ask });
    assert_eq!((count(&actions, 2), count(&actions, 5)), (1, 0));
}

#[test]
fn a_router_that_takes_nothing_is_given_up() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    session.handle(now, Event::Routes(routes(&["198.51.100.1/32"])));
    let mut at = now;
    let keepalive = encode(Kind::Keepalive, &[]);
    let end = loop {
        at += Duration::from_secs(10);
        session.handle(at, Event::Received { side: Side::Outgoing, bytes: &keepalive });
        let actions = session.handle(at, Event::Timeout);
        if actions.contains(&Action::Close(Side::Outgoing)) {
            break actions;
        }
    };
    assert_eq!(at - now, Duration::from_secs(480));
    assert_eq!(end[0], notice(&Notification::new(notification::SEND_HOLD_TIMER, 0, [])));
}

#[test]
fn too_many_prefixes_end_the_session_and_the_same_one_twice_does_not() {
    let (mut session, now) = standing(Settings { max_prefixes: Some(2), ..settings(64512, 64513, 1) });
    let announce = |last: u8| {
        let attributes = [64, 1, 1, 0, 64, 2, 6, 2, 1, 0, 0, 252, 1, 64, 3, 4, 192, 0, 2, 9];
        let body = [&[0, 0, 0, 20][..], &attributes, &[32, 203, 0, 113, last]].concat();
        encode(Kind::Update, &body)
    };
    for last in [1, 1, 2, 2, 1] {
        assert_eq!(session.handle(now, Event::Received { side: Side::Outgoing, bytes: &announce(last) }), []);
    }
    let actions = session.handle(now, Event::Received { side: Side::Outgoing, bytes: &announce(3) });
    assert_eq!(actions[0], notice(&Notification::cease(notification::MAXIMUM_PREFIXES)));
}

#[test]
fn a_million_routes_are_counted_and_nothing_of_them_is_kept() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    let attributes = [64, 1, 1, 0, 64, 2, 6, 2, 1, 0, 0, 252, 1, 64, 3, 4, 192, 0, 2, 9];
    let prefixes: Vec<u8> = (0..1_000_000_u32)
        .flat_map(|number| {
            let [_, high, middle, low] = number.to_be_bytes();
            [24, high + 1, middle, low]
        })
        .collect();
    // 1000 prefixes a message, and as much of them at once as is read from a connection.
    let messages = prefixes
        .chunks(4000)
        .flat_map(|chunk| encode(Kind::Update, &[&[0, 0, 0, 20][..], &attributes, chunk].concat()));
    let stream: Vec<u8> = messages.collect();
    for bytes in stream.chunks(65_536) {
        assert_eq!(session.handle(now, Event::Received { side: Side::Outgoing, bytes }), []);
    }
    assert_eq!(session.counters().routes_received, 1_000_000);
    assert_eq!(session.counters().updates_received, 1000);
    assert_eq!(session.state(), State::Established);
    // Written out, a session shows all that it holds: at most what was read last, at up to five characters an octet.
    let held = format!("{session:?}").len();
    assert!(held < 5 * (65_536 + 4096), "{held} characters");
}

#[test]
fn routes_wait_while_the_router_takes_nothing() {
    let (mut session, now) = standing(settings(64512, 64513, 1));
    let prefix = |number: u128| IpNet::new(Ipv6Addr::from(0x2001_0db8 << 96 | number).into(), 128).unwrap();
    let wanted: Routes = (0..100_000).map(|number| (prefix(number), Arc::default())).collect();
    let octets = |actions: &[Action]| -> usize {
        let sizes = actions
            .iter()
            .map(|action| if let Action::Send { bytes, .. } = action { bytes.len() } else { 0 });
        sizes.sum()
    };
    let mut waiting = octets(&session.handle(now, Event::Routes(Arc::new(wanted))));
    let mut rounds = 0;
    while waiting > 0 {
        // The window, and the last of the prefixes that are written together: 17 octets each.
        assert!(waiting < 256 * 1024 + 16_384 * 18, "{waiting} octets wait");
        waiting = octets(&session.handle(now, Event::Flushed(Side::Outgoing)));
        rounds += 1;
    }
    assert_eq!(session.advertised(), 100_000);
    assert!(rounds > 3, "all was sent in {rounds} rounds");
}

#[test]
fn a_wrong_as_number_is_refused_by_both() {
    let mut link = Link::one_way(settings(64512, 64999, 1), settings(64513, 64512, 2));
    assert_eq!(link.downs(0), [Down::Sent(Notification::new(2, 2, []))]);
    assert_eq!(link.downs(1), [Down::Received(Notification::new(2, 2, []))]);
}

#[test]
fn a_restart_before_the_session_stands_is_silent_too() {
    let mut session = Session::new(restartable(settings(64512, 64513, 1), true));
    let now = origin();
    session.handle(now, Event::Start);
    session.handle(now, Event::Connected { side: Side::Outgoing, next_hops: next_hops(1) });
    assert_eq!(
        session.handle(now, Event::Stop(Stop::Restart { text: "rollout".into() })),
        [
            Action::Close(Side::Outgoing),
            Action::Report(Report::Down(Down::Restart)),
            Action::Report(Report::State(State::Idle)),
            Action::Report(Report::Stopped),
        ]
    );
}

/// Anything that can happen to a session.
#[derive(Debug, Clone)]
enum Happening {
    Connected(Side),
    Open(Side),
    Message(Side, Kind, Vec<u8>),
    Bytes(Side, Vec<u8>),
    Flushed(Side),
    Closed(Side),
    Routes(Vec<u8>),
    Bfd(Bfd),
    Configure(Option<u32>, bool),
    NextHops(Side, u8),
    Wait(u64),
    Stop(Stop),
}

fn happening() -> impl Strategy<Value = Happening> {
    let side = prop_oneof![Just(Side::Outgoing), Just(Side::Incoming), Just(Side::Second)];
    let kind =
        prop_oneof![Just(Kind::Update), Just(Kind::Notification), Just(Kind::RouteRefresh), Just(Kind::Open)];
    let octets = || proptest::collection::vec(any::<u8>(), 4..40);
    let text = String::from("text");
    let stop = prop_oneof![
        Just(Stop::Restart { text: text.clone() }),
        Just(Stop::Leave { text }),
        Just(Stop::Reset)
    ];
    prop_oneof![
        4 => side.clone().prop_map(Happening::Connected),
        4 => side.clone().prop_map(Happening::Open),
        6 => side.clone().prop_map(|side| Happening::Message(side, Kind::Keepalive, vec![])),
        1 => (side.clone(), kind, octets()).prop_map(|(side, kind, body)| Happening::Message(side, kind, body)),
        1 => (side.clone(), octets()).prop_map(|(side, bytes)| Happening::Bytes(side, bytes)),
        3 => side.clone().prop_map(Happening::Flushed),
        1 => side.clone().prop_map(Happening::Closed),
        3 => octets().prop_map(Happening::Routes),
        1 => prop_oneof![Just(Bfd::Up), Just(Bfd::Down), Just(Bfd::Nothing)].prop_map(Happening::Bfd),
        1 => (proptest::option::of(0..20_u32), any::<bool>())
            .prop_map(|(limit, passive)| Happening::Configure(limit, passive)),
        1 => (side, 1..4_u8).prop_map(|(side, id)| Happening::NextHops(side, id)),
        5 => (0u64..40_000).prop_map(Happening::Wait),
        1 => stop.prop_map(Happening::Stop),
    ]
}

/// The network of one session: what may be sent where.
#[derive(Default)]
struct Watcher {
    connecting: bool,
    open: BTreeSet<Side>,
    stopped: bool,
}

impl Watcher {
    fn check(&mut self, actions: Vec<Action>) {
        for action in actions {
            // Only a connection that comes too late has to be closed.
            assert!(!self.stopped || matches!(action, Action::Close(_)), "{action:?} after Stopped");
            match action {
                Action::Connect => {
                    assert!(!self.connecting && !self.open.contains(&Side::Outgoing), "a second attempt");
                    self.connecting = true;
                }
                Action::Send { side, .. } => assert!(self.open.contains(&side), "{side:?} is not open"),
                Action::Close(side) => {
                    let was_open = self.open.remove(&side);
                    assert!(was_open || (side == Side::Outgoing && self.connecting), "{side:?} is not open");
                    self.connecting &= side != Side::Outgoing || was_open;
                }
                Action::Report(Report::Stopped) => self.stopped = true,
                Action::Report(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_actions_make_sense_and_deadlines_pass(
        happenings in proptest::collection::vec(happening(), 1..60),
        restarts: bool,
        passive: bool,
    ) {
        let plain = Settings { passive, max_prefixes: Some(10), ..settings(64512, 64513, 1) };
        let mut session = Session::new(if restarts { restartable(plain, true) } else { plain });
        let router = encode(Kind::Open, &open::encode(&restartable(settings(64513, 64512, 2), false), false));
        let mut now = origin();
        let mut watcher = Watcher::default();
        watcher.check(session.handle(now, Event::Start));
        for happening in happenings {
            let actions = match happening {
                Happening::Connected(side) => {
                    if side == Side::Outgoing && !std::mem::take(&mut watcher.connecting) {
                        continue;
                    }
                    watcher.open.insert(side);
                    session.handle(now, Event::Connected { side, next_hops: next_hops(1) })
                }
                Happening::Open(side) => session.handle(now, Event::Received { side, bytes: &router }),
                Happening::Message(side, kind, body) => {
                    session.handle(now, Event::Received { side, bytes: &encode(kind, &body) })
                }
                Happening::Bytes(side, bytes) => session.handle(now, Event::Received { side, bytes: &bytes }),
                Happening::Flushed(side) => session.handle(now, Event::Flushed(side)),
                Happening::Closed(side) => {
                    let known = watcher.open.remove(&side)
                        || (side == Side::Outgoing && std::mem::take(&mut watcher.connecting));
                    if !known {
                        continue;
                    }
                    session.handle(now, Event::Closed { side, reason: "closed" })
                }
                Happening::Routes(hosts) => {
                    let prefix = |host: &u8| format!("198.51.100.{host}/32").parse().unwrap();
                    let routes = hosts.iter().map(|host| (prefix(host), Arc::default())).collect();
                    session.handle(now, Event::Routes(Arc::new(routes)))
                }
                Happening::Bfd(bfd) => session.handle(now, Event::Bfd(bfd)),
                Happening::Configure(max_prefixes, passive) => {
                    let keepalive = max_prefixes.map(|limit| Duration::from_secs(limit.into()));
                    let other = Settings { max_prefixes, passive, keepalive, ..settings(64512, 64513, 1) };
                    session.handle(now, Event::Configure(&other))
                }
                Happening::NextHops(side, id) => {
                    session.handle(now, Event::NextHops { side, next_hops: next_hops(id) })
                }
                Happening::Stop(stop) => session.handle(now, Event::Stop(stop)),
                Happening::Wait(milliseconds) => {
                    let end = now + Duration::from_millis(milliseconds);
                    while let Some(due) = session.deadline().filter(|due| *due <= end) {
                        now = now.max(due);
                        watcher.check(session.handle(now, Event::Timeout));
                        let next = session.deadline();
                        prop_assert!(next.is_none_or(|next| next > now), "{:?} is due again at once", session);
                    }
                    now = end;
                    continue;
                }
            };
            watcher.check(actions);
        }
    }
}
