//! Two sessions joined under a virtual clock, with a delay between them.

use std::collections::VecDeque;

use super::*;

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

const MS: Duration = Duration::from_millis(1);

fn timers(interval: u32, detect_multiplier: u8) -> Timers {
    Timers {
        transmit_interval: MS * interval,
        receive_interval: MS * interval,
        detect_multiplier,
        echo_transmit_interval: None,
        echo_receive_interval: Duration::ZERO,
    }
}

fn settings(discriminator: u32, timers: Timers) -> Settings {
    Settings { timers, passive: false, reach: Reach::SingleHop, discriminator, seed: discriminator.into() }
}

struct Link {
    now: Instant,
    ends: [Session; 2],
    /// (arrival, receiver, whether it is an echo packet, payload)
    flying: VecDeque<(Instant, usize, bool, Vec<u8>)>,
    changes: [Vec<(State, State, Diagnostic)>; 2],
    /// When each end sent.
    sent: [Vec<Instant>; 2],
    /// When each end sent echo packets.
    echoed: [Vec<Instant>; 2],
    /// Whether each end's forwarding sends back the other one's echo packets.
    loops: [bool; 2],
    /// Whether each end has another link-layer address than the other one knows.
    moved: [bool; 2],
    /// How often each end asked where the other one is. It is told, over a path that is whole.
    asked: [usize; 2],
    stopped: [bool; 2],
    /// Whether datagrams of each end get lost.
    lost: [bool; 2],
}

impl Link {
    fn new(a: Settings, b: Settings) -> Self {
        let mut link = Self {
            now: origin(),
            ends: [Session::new(a), Session::new(b)],
            flying: VecDeque::new(),
            changes: [vec![], vec![]],
            sent: [vec![], vec![]],
            echoed: [vec![], vec![]],
            loops: [true; 2],
            moved: [false; 2],
            asked: [0; 2],
            stopped: [false; 2],
            lost: [false; 2],
        };
        link.tell(0, Event::Start);
        link.tell(1, Event::Start);
        link
    }

    fn configure(&mut self, end: usize, timers: Timers) {
        self.tell(end, Event::Configure(Settings { timers, ..self.ends[end].settings }));
    }

    fn tell(&mut self, end: usize, event: Event<'_>) {
        let asked = self.asked[end];
        for action in self.ends[end].handle(self.now, event).unwrap() {
            match action {
                Action::Send(bytes) => {
                    self.sent[end].push(self.now);
                    if !self.lost[end] {
                        self.flying.push_back((self.now + MS, 1 - end, false, bytes));
                    }
                }
                Action::SendEcho(bytes) => {
                    self.echoed[end].push(self.now);
                    if self.lost == [false; 2] && self.loops[1 - end] && !self.moved[1 - end] {
                        self.flying.push_back((self.now + MS, end, true, bytes));
                    }
                }
                Action::Changed(change) => {
                    self.changes[end].push((change.from, change.to, change.diagnostic));
                }
                Action::LookUp => self.asked[end] += 1,
                Action::Stopped => self.stopped[end] = true,
            }
        }
        if self.asked[end] > asked && self.lost == [false; 2] {
            self.moved[1 - end] = false;
            self.tell(end, Event::EchoPath(true));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.flying.front().map(|(at, ..)| *at);
            let timeout = (0..2).filter_map(|end| Some((self.ends[end].deadline()?, end))).min();
            let at = [arrival, timeout.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(at) = at.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if arrival == Some(at) {
                let (_, to, is_echo, bytes) = self.flying.pop_front().unwrap();
                self.tell(
                    to,
                    if is_echo { Event::Echo(&bytes) } else { Event::Datagram { bytes: &bytes, ttl: 255 } },
                );
            } else if let Some((_, who)) = timeout {
                self.tell(who, Event::Timeout);
            }
        }
        self.now = end;
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    /// Shortest and longest time between packets of an end since the last call.
    fn pace(&mut self, end: usize) -> (Duration, Duration) {
        gaps(&std::mem::take(&mut self.sent[end]))
    }
}

fn gaps(times: &[Instant]) -> (Duration, Duration) {
    let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    (*gaps.iter().min().unwrap(), *gaps.iter().max().unwrap())
}

#[test]
fn a_session_comes_up_slowly_and_then_keeps_the_slower_pace_of_the_two() {
    let mut link = Link::new(settings(1, timers(10, 3)), settings(2, timers(50, 5)));
    link.run(Duration::from_secs(2));
    assert_eq!(link.states(), [State::Up; 2]);
    let up = |end: usize, link: &Link| link.changes[end].last().copied().map(|(_, to, why)| (to, why));
    assert_eq!([up(0, &link), up(1, &link)], [Some((State::Up, Diagnostic::NONE)); 2]);
    assert_eq!(link.ends.each_ref().map(Session::detection_time), [Some(MS * 250), Some(MS * 150)]);
    assert_eq!(link.ends.each_ref().map(Session::transmit_interval), [MS * 50; 2]);
    link.sent = [vec![], vec![]];
    link.run(Duration::from_secs(60));
    for end in 0..2 {
        let (least, most) = link.pace(end);
        assert!(least >= MS.mul_f64(37.5) && most <= MS * 50, "{least:?} to {most:?}");
    }
    assert_eq!(link.states(), [State::Up; 2]);
}

#[test]
fn before_it_is_up_an_end_sends_once_a_second_at_most() {
    let mut session = Session::new(settings(1, timers(10, 3)));
    let mut now = origin();
    session.handle(now, Event::Start).unwrap();
    for _ in 0..100 {
        let due = session.deadline().unwrap();
        assert!((MS * 750..=MS * 1000).contains(&(due - now)), "{:?}", due - now);
        now = due;
        assert_eq!(session.handle(now, Event::Timeout).unwrap().len(), 1);
    }
}

#[test]
fn a_broken_path_is_told_within_the_detection_time() {
    let mut link = Link::new(settings(1, timers(10, 3)), settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    link.changes = [vec![], vec![]];
    link.lost = [true, true];
    link.run(MS * 31);
    let failed = (State::Up, State::Down, Diagnostic::TIME_EXPIRED);
    assert_eq!(link.changes, [vec![failed], vec![failed]]);
    link.lost = [false, false];
    link.run(Duration::from_secs(3));
    assert_eq!(link.states(), [State::Up; 2]);
}

#[test]
fn a_path_that_breaks_in_one_direction_is_told_at_both_ends() {
    let mut link = Link::new(settings(1, timers(10, 3)), settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    link.changes = [vec![], vec![]];
    link.lost = [true, false];
    link.run(MS * 35);
    assert_eq!(link.changes[1], [(State::Up, State::Down, Diagnostic::TIME_EXPIRED)]);
    assert_eq!(link.changes[0][0], (State::Up, State::Down, Diagnostic::NEIGHBOR_DOWN));
}

#[test]
fn an_end_that_is_shut_says_so_and_that_is_no_failure() {
    let mut link = Link::new(settings(1, timers(10, 3)), settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    let now = link.now;
    let shut = link.ends[0].handle(now, Event::Shut).unwrap();
    let Action::Send(bytes) = &shut[1] else { panic!("{shut:?}") };
    assert_eq!(shut[1..], [&shut[1], &shut[1], &shut[1]].map(Clone::clone), "two of them may be lost");
    let heard = link.ends[1].handle(now, Event::Datagram { bytes, ttl: 255 }).unwrap();
    let Action::Changed(change) = heard[0] else { panic!("{heard:?}") };
    assert_eq!(
        change,
        Change {
            from: State::Up,
            to: State::Down,
            remote: State::AdminDown,
            diagnostic: Diagnostic::NEIGHBOR_DOWN
        }
    );
    assert!(!change.is_failure());
    assert!(Change { remote: State::Up, ..change }.is_failure());
    link.run(Duration::from_secs(10));
    assert!(link.stopped[0]);
    assert_eq!((link.ends[0].deadline(), link.states()), (None, [State::AdminDown, State::Down]));
}

#[test]
fn a_passive_end_waits_for_the_first_word() {
    let passive = Settings { passive: true, ..settings(1, timers(10, 3)) };
    let mut alone = Link::new(passive, Settings { passive: true, ..settings(2, timers(10, 3)) });
    alone.run(Duration::from_secs(60));
    assert_eq!((alone.sent.clone(), alone.states()), ([vec![], vec![]], [State::Down; 2]));
    let mut link = Link::new(passive, settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    assert_eq!(link.states(), [State::Up; 2]);
    // Once the other end is gone, the passive one falls silent again.
    link.lost = [true, true];
    link.run(Duration::from_secs(3));
    link.sent = [vec![], vec![]];
    link.run(Duration::from_secs(60));
    assert_eq!(link.sent[0], []);
}

#[test]
fn timers_change_under_a_session_that_stays_up() {
    let mut link = Link::new(settings(1, timers(10, 3)), settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    link.changes = [vec![], vec![]];
    for interval in [200, 10, 1000, 300] {
        link.configure(0, timers(interval, 3));
        link.run(Duration::from_secs(5));
        assert_eq!(link.ends[0].transmit_interval(), MS * interval);
        assert_eq!(link.ends.each_ref().map(Session::detection_time), [Some(MS * interval * 3); 2]);
    }
    assert_eq!(link.changes, [vec![], vec![]]);
}

#[test]
fn role_and_distance_change_under_a_session_that_stays_up() {
    let far =
        |least: u8| Settings { reach: Reach::Multihop { minimum_ttl: least }, ..settings(1, timers(10, 3)) };
    let mut link = Link::new(far(254), settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    link.changes = [vec![], vec![]];
    for passive in [true, false] {
        link.tell(0, Event::Configure(Settings { passive, discriminator: 9, seed: 9, ..far(200) }));
        link.run(Duration::from_secs(5));
        assert_eq!((link.states(), &link.changes), ([State::Up; 2], &[vec![], vec![]]));
        assert_eq!(link.ends[0].settings, Settings { passive, ..far(200) });
    }
}

#[test]
fn a_slower_pace_waits_until_the_other_end_knows() {
    let mut link = Link::new(settings(1, timers(10, 3)), settings(2, timers(10, 3)));
    link.run(Duration::from_secs(3));
    link.lost[1] = true;
    link.configure(0, timers(1000, 3));
    assert_eq!(link.ends[0].transmit_interval(), MS * 10);
}

/// Two ends of which the first one sends echo packets every 20 ms, which the second one takes every 50 ms.
fn echoing() -> Link {
    let echo = |transmit: Option<u32>, receive: u32| Timers {
        echo_transmit_interval: transmit.map(|interval| MS * interval),
        echo_receive_interval: MS * receive,
        ..timers(50, 3)
    };
    let mut link = Link::new(settings(1, echo(Some(20), 0)), settings(2, echo(None, 50)));
    link.tell(0, Event::EchoPath(true));
    link
}

#[test]
fn while_echo_packets_come_back_the_other_end_sends_few_control_packets() {
    let mut link = echoing();
    link.run(Duration::from_secs(5));
    assert_eq!(link.states(), [State::Up; 2]);
    (link.sent, link.echoed) = ([vec![], vec![]], [vec![], vec![]]);
    link.changes = [vec![], vec![]];
    link.run(Duration::from_secs(60));
    let (least, most) = gaps(&link.echoed[0]);
    assert!(least >= MS.mul_f64(37.5) && most <= MS * 50, "{least:?} to {most:?}");
    assert_eq!(link.echoed[1], [], "an end whose echo packets nobody wants sends none");
    // The first end, whose own echo packets nobody sends back, is watched by its control packets as before.
    let (least, most) = link.pace(0);
    assert!(least >= MS.mul_f64(37.5) && most <= MS * 50, "{least:?} to {most:?}");
    let (least, most) = link.pace(1);
    assert!(least >= MS * 750 && most <= MS * 1000, "{least:?} to {most:?}");
    assert_eq!(link.changes, [vec![], vec![]]);
    // A broken path is told as soon as the echo packets say it.
    link.lost = [true, true];
    link.run(MS * 201);
    assert_eq!(link.changes[0], [(State::Up, State::Down, Diagnostic::ECHO_FAILED)]);
    link.lost = [false, false];
    link.run(Duration::from_secs(5));
    assert_eq!(link.states(), [State::Up; 2]);
}

#[test]
fn echo_packets_that_never_come_back_cost_no_session() {
    let mut link = echoing();
    link.loops = [false, false];
    link.run(Duration::from_secs(5));
    link.changes = [vec![], vec![]];
    (link.sent, link.echoed) = ([vec![], vec![]], [vec![], vec![]]);
    link.run(Duration::from_secs(60));
    assert_eq!((link.states(), &link.changes), ([State::Up; 2], &[vec![], vec![]]));
    let (least, most) = gaps(&link.echoed[0]);
    assert!(least >= MS * 750 && most <= MS * 1000, "{least:?} to {most:?}");
    let (_, most) = link.pace(1);
    assert!(most <= MS * 50, "the path is watched by control packets: {most:?}");
}

#[test]
fn an_answer_that_is_lost_when_echo_packets_begin_costs_no_session() {
    let mut link = echoing();
    while link.ends[0].detection_time().is_none_or(|time| time < Duration::from_secs(3))
        || link.echoed[0].len() < 2
    {
        assert!(link.now < origin() + Duration::from_secs(60), "no echo packet came back");
        link.run(MS);
        if link.states() != [State::Up; 2] {
            link.echoed[0].clear();
        }
    }
    // The poll that slows the other end down is on its way; the answer is lost, and the next packet comes a second later.
    link.changes = [vec![], vec![]];
    link.lost = [false, true];
    link.run(MS * 5);
    link.lost = [false, false];
    link.run(Duration::from_secs(3));
    assert_eq!((link.states(), &link.changes), ([State::Up; 2], &[vec![], vec![]]));
}

#[test]
fn echo_packets_that_are_slower_than_control_packets_slow_nothing_down() {
    let slow = |transmit: Option<u32>, receive: u32| Timers {
        echo_transmit_interval: transmit.map(|interval| MS * interval),
        echo_receive_interval: MS * receive,
        ..timers(50, 3)
    };
    let mut link = Link::new(settings(1, slow(Some(60_000), 0)), settings(2, slow(None, 1000)));
    link.tell(0, Event::EchoPath(true));
    link.run(Duration::from_secs(10));
    link.pace(1);
    link.run(Duration::from_secs(10));
    let (_, most) = link.pace(1);
    assert!(most <= MS * 50, "{most:?}");
}

#[test]
fn an_end_that_sends_no_echo_packets_back_any_more_is_watched_by_control_packets_again() {
    let mut link = echoing();
    link.run(Duration::from_secs(5));
    link.changes = [vec![], vec![]];
    link.configure(1, timers(50, 3));
    link.loops = [false, false];
    link.run(Duration::from_secs(5));
    (link.sent, link.echoed) = ([vec![], vec![]], [vec![], vec![]]);
    link.run(Duration::from_secs(5));
    assert_eq!((link.states(), &link.changes), ([State::Up; 2], &[vec![], vec![]]));
    assert_eq!(link.echoed[0], []);
    let (_, most) = link.pace(1);
    assert!(most <= MS * 50, "{most:?}");
}

#[test]
fn an_end_that_gets_another_link_layer_address_is_looked_up_before_it_is_given_up() {
    for multiplier in [1, 2, 3] {
        let mut link = echoing();
        link.configure(0, Timers { detect_multiplier: multiplier, ..link.ends[0].settings.timers });
        link.run(Duration::from_secs(5));
        link.changes = [vec![], vec![]];
        for times in 1..4 {
            link.asked = [0, 0];
            link.moved[1] = true;
            link.run(Duration::from_secs(5));
            assert_eq!((link.states(), &link.changes), ([State::Up; 2], &[vec![], vec![]]));
            assert_eq!((link.asked, link.moved), ([1, 0], [false, false]), "time {times} of {multiplier}");
        }
    }
}

#[test]
fn echo_packets_that_stay_away_wherever_the_other_end_is_end_the_session() {
    let mut link = echoing();
    link.run(Duration::from_secs(5));
    link.changes = [vec![], vec![]];
    // Its control packets go on: only its forwarding is broken (RFC 5880 §6.8.5).
    link.loops = [false, false];
    link.run(MS * 351);
    assert_eq!(link.changes[0].first(), Some(&(State::Up, State::Down, Diagnostic::ECHO_FAILED)));
}

#[test]
fn without_a_path_or_across_routers_no_echo_packets_are_sent_or_asked_for() {
    let mut link = echoing();
    link.tell(0, Event::EchoPath(false));
    link.run(Duration::from_secs(10));
    assert_eq!((link.states(), link.echoed[0].len()), ([State::Up; 2], 0));
    let echoing = Timers { echo_transmit_interval: Some(MS), echo_receive_interval: MS, ..timers(10, 3) };
    let far = |discriminator| Settings {
        reach: Reach::Multihop { minimum_ttl: 250 },
        ..settings(discriminator, echoing)
    };
    let mut link = Link::new(far(1), far(2));
    link.tell(0, Event::EchoPath(true));
    link.run(Duration::from_secs(10));
    assert_eq!((link.states(), link.echoed[0].len()), ([State::Up; 2], 0));
}

#[test]
fn a_poll_is_answered_at_once() {
    let (mut session, now) = (Session::new(settings(1, timers(10, 3))), origin());
    session.handle(now, Event::Start).unwrap();
    let poll = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: true,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 0,
        desired_min_tx: MS * 1000,
        required_min_rx: MS * 300,
        required_min_echo_rx: Duration::ZERO,
    };
    let actions = session.handle(now, Event::Datagram { bytes: &poll.encode(), ttl: 255 }).unwrap();
    let answer = Packet {
        state: State::Init,
        poll: false,
        is_final: true,
        my_discriminator: 1,
        your_discriminator: 9,
        required_min_rx: MS * 10,
        ..poll
    };
    assert_eq!(
        actions,
        [
            Action::Changed(Change {
                from: State::Down,
                to: State::Init,
                remote: State::Down,
                diagnostic: Diagnostic::NONE
            }),
            Action::Send(answer.encode().to_vec())
        ]
    );
}

#[test]
fn strangers_are_not_listened_to() {
    let (mut session, now) = (Session::new(settings(1, timers(10, 3))), origin());
    session.handle(now, Event::Start).unwrap();
    let packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 2,
        desired_min_tx: MS * 1000,
        required_min_rx: MS * 300,
        required_min_echo_rx: Duration::ZERO,
    };
    let mut hear =
        |packet: &Packet, ttl| session.handle(now, Event::Datagram { bytes: &packet.encode(), ttl });
    assert_eq!(hear(&packet, 255), Err(Discarded::YourDiscriminator(2)));
    assert_eq!(hear(&Packet { your_discriminator: 0, ..packet }, 254), Err(Discarded::Ttl(254)));
    assert_eq!(session.state(), State::Down);

    let reach = Reach::Multihop { minimum_ttl: 250 };
    let mut session = Session::new(Settings { reach, ..settings(1, timers(10, 3)) });
    session.handle(now, Event::Start).unwrap();
    let known = Packet { your_discriminator: 1, ..packet }.encode();
    for (ttl, dropped) in [(249, Some(Discarded::Ttl(249))), (250, None)] {
        assert_eq!(session.handle(now, Event::Datagram { bytes: &known, ttl }).err(), dropped);
    }
}

/// A line of a recorded session.
enum Line {
    Heard(&'static str),
    Sent(&'static str),
    Changed(State, State),
    Shut,
}

/// Goes through a session as it was recorded, and returns it as it is in the end.
fn replay(settings: Settings, lines: impl IntoIterator<Item = Line>) -> Session {
    let octets = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let (mut session, now) = (Session::new(settings), origin());
    let mut actions: VecDeque<Action> = session.handle(now, Event::Start).unwrap().into();
    for line in lines {
        match line {
            Line::Heard(hex) => {
                assert_eq!(actions, []);
                let bytes = octets(hex);
                actions = session.handle(now, Event::Datagram { bytes: &bytes, ttl: 255 }).unwrap().into();
            }
            Line::Shut => actions = session.handle(now, Event::Shut).unwrap().into(),
            Line::Sent(hex) => assert_eq!(actions.pop_front(), Some(Action::Send(octets(hex)))),
            Line::Changed(from, to) => {
                let Some(Action::Changed(change)) = actions.pop_front() else { panic!("no change") };
                assert_eq!((change.from, change.to), (from, to));
            }
        }
    }
    assert_eq!(actions, []);
    session
}

/// The beginning and the end of a session with BIRD 2.0.12, which took it up and down as told here. Intervals were 30 ms
/// here, and 20 ms to send and 50 ms to receive there.
#[test]
fn a_session_recorded_with_bird_goes_the_same_way() {
    let settings = Settings { discriminator: 0x0102_0304, ..settings(7, timers(30, 3)) };
    let session = replay(
        settings,
        [
            Line::Sent("204003180102030400000000000f42400000753000000000"),
            Line::Heard("208004186d92694101020304000f42400000c35000000000"),
            Line::Changed(State::Down, State::Up),
            Line::Sent("20e00318010203046d926941000075300000753000000000"),
            Line::Heard("20d004186d9269410102030400004e200000c35000000000"),
            Line::Heard("20e004186d9269410102030400004e200000c35000000000"),
            Line::Sent("20d00318010203046d926941000075300000753000000000"),
            Line::Heard("20c004186d9269410102030400004e200000c35000000000"),
            Line::Shut,
            Line::Changed(State::Up, State::AdminDown),
            Line::Sent("27000318010203046d926941000f42400000753000000000"),
            Line::Sent("27000318010203046d926941000f42400000753000000000"),
            Line::Sent("27000318010203046d926941000f42400000753000000000"),
            Line::Heard("236004186d92694101020304000f42400000c35000000000"),
        ],
    );
    assert_eq!((session.transmit_interval(), session.detection_time()), (MS * 1000, Some(MS * 120)));
}

/// The same with FRR 8.4.4, which was told to end it. Intervals were 100 ms on both ends.
#[test]
fn a_session_recorded_with_frr_goes_the_same_way() {
    let settings = Settings { discriminator: 0x7803_b5c5, ..settings(7, timers(100, 3)) };
    let session = replay(
        settings,
        [
            Line::Sent("204003187803b5c500000000000f4240000186a000000000"),
            Line::Heard("2080031872860eee7803b5c5000f4240000f42400000c350"),
            Line::Changed(State::Down, State::Up),
            Line::Sent("20e003187803b5c572860eee000186a0000186a000000000"),
            Line::Heard("20e0031872860eee7803b5c5000186a0000186a00000c350"),
            Line::Sent("20d003187803b5c572860eee000186a0000186a000000000"),
            Line::Heard("20d0031872860eee7803b5c5000186a0000186a00000c350"),
            Line::Heard("20c0031872860eee7803b5c5000186a0000186a00000c350"),
            Line::Heard("2340031872860eee7803b5c5000186a0000186a00000c350"),
            Line::Changed(State::Up, State::Down),
            Line::Sent("234003187803b5c572860eee000f4240000186a000000000"),
        ],
    );
    assert_eq!((session.transmit_interval(), session.detection_time()), (MS * 1000, Some(MS * 300)));
}
