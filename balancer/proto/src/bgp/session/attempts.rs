//! Attempts to connect to the router, and the waits between them (RFC 4271 §8.2.1.1, §10).

use std::time::{Duration, Instant};

use super::{Phase, Session};
use crate::bgp::connection::jitter;
use crate::bgp::event::{Action, Down, Report, Side};

/// How long an attempt to connect may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// The longest wait between attempts, unless a time is configured.
const LONGEST_RETRY: u64 = 30;

/// Attempts to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dial {
    Off,
    /// The next one begins then.
    At(Instant),
    /// One is under way, until then.
    Until(Instant),
}

/// The wait after so many attempts in a row, or sessions, that came to nothing.
pub(super) fn growing(times: u32) -> Duration {
    let doubled = 1_u64.checked_shl(times.saturating_sub(1)).unwrap_or(LONGEST_RETRY);
    Duration::from_secs(doubled.clamp(1, LONGEST_RETRY))
}

impl Session {
    pub(super) fn connect(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.dial = Dial::Until(now + CONNECT_WAIT);
        out.push(Action::Connect);
    }

    /// Gives up an attempt to connect, and plans no other.
    pub(super) fn hang_up(&mut self, out: &mut Vec<Action>) {
        if let Dial::Until(_) = self.dial {
            out.push(Action::Close(Side::Outgoing));
        }
        self.dial = Dial::Off;
    }

    /// Plans the next attempt, unless another connection stands or is on its way.
    pub(super) fn retry(&mut self, now: Instant) {
        let is_wanted = self.phase == Phase::Running && !self.settings.passive;
        let is_free = !self.connections.contains_key(&Side::Outgoing) && self.standing().is_none();
        if is_wanted && is_free && self.dial == Dial::Off {
            let time = match self.settings.connect_retry {
                None => growing(self.failures.max(self.flaps)),
                // A path that flaps is held off all the same.
                Some(time) if self.flaps > 0 => time.max(growing(self.flaps)),
                Some(time) => time,
            };
            self.dial = Dial::At(now + jitter(&mut self.rng, time));
        }
    }

    /// Begins the attempt that is due, or gives up the one that took too long.
    pub(super) fn dial_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        match self.dial {
            Dial::At(at) if at <= now => self.connect(now, out),
            Dial::Until(until) if until <= now => {
                self.dial = Dial::Off;
                self.failures = self.failures.saturating_add(1);
                out.push(Action::Close(Side::Outgoing));
                out.push(Action::Report(Report::Down(Down::ConnectTimeout)));
                self.retry(now);
            }
            _ => {}
        }
    }
}
