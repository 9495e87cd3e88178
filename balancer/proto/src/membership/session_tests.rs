use super::*;

const S: SessionId = [1; 16];
const T: SessionId = [2; 16];

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

fn admitted() -> Sessions {
    let mut sessions = Sessions::default();
    assert_eq!(sessions.challenge(origin(), S, 7), Some(7));
    assert!(sessions.prove(S, 0, 7, "a"));
    sessions
}

#[test]
fn a_session_is_admitted_by_its_own_fresh_token_only() {
    let now = origin();
    let mut sessions = Sessions::default();
    assert_eq!(sessions.admit(S, 0), Admission::Unknown);
    assert!(!sessions.prove(S, 0, 7, "a"), "nobody asked");
    assert_eq!(sessions.challenge(now, S, 7), Some(7));
    assert_eq!(sessions.challenge(now, S, 8), None, "asked a moment ago");
    assert_eq!(
        sessions.challenge(now + CHALLENGE_INTERVAL, S, 8),
        Some(7),
        "the open token is asked for again"
    );
    assert!(!sessions.prove(S, 0, 9, "a"), "wrong token");
    assert!(!sessions.prove(T, 0, 7, "a"), "another session's token");
    assert!(sessions.prove(S, 3, 7, "a"));
    assert!(!sessions.prove(S, 3, 7, "a"), "a recorded proof");
    assert_eq!(sessions.admit(S, 3), Admission::Replayed, "the proof's own counter");
    assert_eq!(sessions.admit(S, 4), Admission::Fresh("a"));
}

#[test]
fn a_new_session_of_a_node_ends_the_former() {
    let mut sessions = admitted();
    sessions.challenge(origin(), T, 8);
    assert!(sessions.prove(T, 0, 8, "a"));
    assert_eq!(sessions.admit(S, 100), Admission::Unknown);
    assert_eq!(sessions.admit(T, 1), Admission::Fresh("a"));
}

#[test]
fn counters_may_come_out_of_order_and_never_twice() {
    let mut sessions = admitted();
    for (counter, fresh) in [
        (5, true),
        (3, true),
        (5, false),
        (3, false),
        (4, true),
        (0, false),
        (200, true),
        (73, true),
        (72, false),
        (200, false),
        (u64::MAX, true),
        (u64::MAX, false),
        (201, false),
    ] {
        let want = if fresh { Admission::Fresh("a") } else { Admission::Replayed };
        assert_eq!(sessions.admit(S, counter), want, "counter {counter}");
    }
}

#[test]
fn open_challenges_are_bounded() {
    let now = origin();
    let mut sessions = Sessions::default();
    for number in 0..1000_u64 {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&number.to_be_bytes());
        assert_eq!(sessions.challenge(now, session, number), Some(number));
    }
    assert_eq!(sessions.challenges.len(), OPEN_CHALLENGES);
}
