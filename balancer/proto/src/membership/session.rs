//! Which sessions are alive: a recorded datagram is never acted on twice, nor after its sender has gone.
//!
//! A session is admitted once its member has answered a fresh challenge, and each of its counters is accepted once
//! (window as in RFC 6479). Challenges and their answers are the only messages that need no admission.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::seal::SessionId;

/// Challenges kept open at once; the oldest makes room.
const OPEN_CHALLENGES: usize = 256;
/// Time between two challenges to one session.
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(20);

/// The sessions of the other members.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// By session: whose it is and which counters it used.
    admitted: HashMap<SessionId, Session>,
    /// By node: its session. A member has one at a time.
    of_node: HashMap<String, SessionId>,
    challenges: Vec<Challenge>,
}

#[derive(Debug)]
struct Challenge {
    session: SessionId,
    token: u64,
    sent: Instant,
}

#[derive(Debug)]
struct Session {
    node: String,
    window: Window,
}

/// What to make of a datagram's session and counter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission<'a> {
    /// It is new and from this node.
    Fresh(&'a str),
    /// It was accepted before, or is too old to tell.
    Replayed,
    /// Its sender has not shown yet that it is alive.
    Unknown,
}

impl Sessions {
    /// Judges a datagram, and marks its counter as used.
    pub(super) fn admit(&mut self, session: SessionId, counter: u64) -> Admission<'_> {
        let Some(session) = self.admitted.get_mut(&session) else { return Admission::Unknown };
        if session.window.accept(counter) { Admission::Fresh(&session.node) } else { Admission::Replayed }
    }

    /// The token that the owner of a session has to send back: the open one if there is one, else `fresh`. `None` when
    /// it was asked for a moment ago, so that two members that fail to convince each other do not flood the network.
    pub(super) fn challenge(&mut self, now: Instant, session: SessionId, fresh: u64) -> Option<u64> {
        if let Some(open) = self.challenges.iter_mut().find(|open| open.session == session) {
            if now.saturating_duration_since(open.sent) < CHALLENGE_INTERVAL {
                return None;
            }
            open.sent = now;
            return Some(open.token);
        }
        if self.challenges.len() >= OPEN_CHALLENGES {
            self.challenges.remove(0);
        }
        self.challenges.push(Challenge { session, token: fresh, sent: now });
        Some(fresh)
    }

    /// Whether a session has proved that it is alive.
    pub(super) fn is_admitted(&self, session: SessionId) -> bool {
        self.admitted.contains_key(&session)
    }

    /// Admits a session whose owner says that it is `node` and sent back `token`. Returns whether the token is right.
    pub(super) fn prove(&mut self, session: SessionId, counter: u64, token: u64, node: &str) -> bool {
        let right = |open: &Challenge| (open.session, open.token) == (session, token);
        let Some(at) = self.challenges.iter().position(right) else { return false };
        self.challenges.remove(at);
        if let Some(former) = self.of_node.insert(node.to_owned(), session) {
            self.admitted.remove(&former);
        }
        let mut window = Window::default();
        window.accept(counter);
        self.admitted.insert(session, Session { node: node.to_owned(), window });
        true
    }
}

/// Counters seen: the highest and the 127 below it.
#[derive(Debug, Default)]
struct Window {
    highest: Option<u64>,
    /// Bit `n` stands for counter `highest - n`.
    seen: u128,
}

impl Window {
    fn accept(&mut self, counter: u64) -> bool {
        let highest = self.highest.unwrap_or(0);
        if counter > highest || self.highest.is_none() {
            let shift = u32::try_from(counter - highest).ok();
            self.seen = shift.and_then(|by| self.seen.checked_shl(by)).unwrap_or(0) | 1;
            self.highest = Some(counter);
            return true;
        }
        let behind = u32::try_from(highest - counter).ok();
        let Some(bit) = behind.and_then(|by| 1_u128.checked_shl(by)) else { return false };
        let fresh = self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
