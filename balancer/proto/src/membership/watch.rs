//! One watched member: from its silence to the verdict.
//!
//! Silence is verified before anybody acts on it: the member is probed, others are asked, and its host is asked at
//! link level, which tells a dead node from a dead speaker. A watcher in another network than the host has members that
//! are nearer to it ask.

use std::time::{Duration, Instant};

use super::settings::Timing;

/// Probes that verify a silence.
const PROBES: u32 = 3;
/// How often a held member's host is asked again.
const HOST_INTERVAL: Duration = Duration::from_millis(200);
/// Silence of a held member's host that ends the hold: the node has gone after all.
const HOST_SILENCE: Duration = Duration::from_millis(500);

/// What a watcher knows about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watch {
    heard: Instant,
    host_heard: Option<Instant>,
    /// The speaker answered for an address that it announces.
    answered: Option<Instant>,
    /// The host cannot be asked from here.
    out_of_reach: Option<Instant>,
    /// Another member asked the host, and it was silent.
    host_silent: Option<Instant>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listening,
    Verifying { since: Instant, probes: u32 },
    Held { next: Instant },
}

/// What a watcher does about a silent member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the member itself and its host.
    Probe,
    /// Ask other members.
    Ask,
    /// It is gone.
    Gone,
}

impl Watch {
    /// Begins to watch a member that was heard just now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            host_heard: None,
            answered: None,
            out_of_reach: None,
            host_silent: None,
            phase: Phase::Listening,
        }
    }

    /// The member gave a sign of life.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
        self.phase = Phase::Listening;
    }

    /// Another member heard it at `at`. That is when its silence began, and not now.
    pub(super) fn vouched(&mut self, at: Instant, now: Instant, timing: &Timing) {
        self.heard = self.heard.max(at);
        if now < self.heard + timing.silence {
            self.phase = Phase::Listening;
        }
    }

    /// The member's host answered for its own address.
    pub(super) fn host_heard(&mut self, now: Instant) {
        self.host_heard = Some(now);
    }

    /// This member is in no network with the host, so that it cannot ask it. Returns whether others are to be asked: not
    /// when that was found a moment ago, by a question that this member was asked by them.
    pub(super) fn host_out_of_reach(&mut self, now: Instant, timing: &Timing) -> bool {
        let again = self.out_of_reach.is_some_and(|at| now < at + timing.probe_gap / 2);
        if !again {
            self.out_of_reach = Some(now);
        }
        !again
    }

    /// Whether it was found lately that this member cannot ask the host.
    pub(super) fn is_out_of_reach(&self, now: Instant) -> bool {
        self.out_of_reach.is_some_and(|at| at + HOST_SILENCE >= now)
    }

    /// Another member asked the host in vain.
    pub(super) fn host_silent(&mut self, now: Instant) {
        self.host_silent = Some(now);
    }

    /// The member's speaker answered for an address that it announces, so its host lives too.
    pub(super) fn answered(&mut self, now: Instant) {
        self.host_heard = Some(now);
        self.answered = Some(now);
    }

    /// Time passed in which nobody could have been heard: it does not count as silence.
    pub(super) fn forgive(&mut self, lost: Duration, now: Instant) {
        self.heard = (self.heard + lost).min(now);
        self.phase = Phase::Listening;
    }

    /// When [`Watch::poll`] wants to be called next.
    pub(super) fn deadline(&self, timing: &Timing) -> Instant {
        match self.phase {
            Phase::Listening => self.heard + timing.silence,
            Phase::Verifying { since, probes } if probes < PROBES => since + timing.probe_gap * probes,
            Phase::Verifying { since, .. } => since + timing.verification,
            Phase::Held { next } => next,
        }
    }

    /// What to do now. `restarts` tells whether the member said that it restarts, and may be silent for it.
    pub(super) fn poll(&mut self, now: Instant, timing: &Timing, restarts: bool) -> Vec<Step> {
        if now < self.deadline(timing) {
            return vec![];
        }
        match self.phase {
            Phase::Listening => {
                self.phase = Phase::Verifying { since: now, probes: 1 };
                vec![Step::Probe, Step::Ask]
            }
            Phase::Verifying { since, .. } if now >= since + timing.verification => {
                let host_lives = self.host_heard.is_some_and(|heard| heard >= since);
                self.hold_or_end(now, timing, host_lives, restarts)
            }
            Phase::Verifying { since, probes } => {
                self.phase = Phase::Verifying { since, probes: probes + 1 };
                vec![Step::Probe]
            }
            Phase::Held { .. } => {
                let host_lives = self.host_heard.is_some_and(|heard| heard + HOST_SILENCE >= now);
                self.hold_or_end(now, timing, host_lives, restarts)
            }
        }
    }

    /// For how long a member stays in depends on what it said, on its host, and on whether it answers for addresses.
    fn hold_or_end(&mut self, now: Instant, timing: &Timing, host_lives: bool, restarts: bool) -> Vec<Step> {
        let hold = if restarts { timing.restart_hold } else { timing.crash_hold };
        let answers = self.answered.is_some_and(|answered| answered + HOST_SILENCE >= now);
        let hold = if answers { hold.max(timing.answering_hold) } else { hold };
        let end = self.heard + hold;
        let recent = |at: Instant| at + HOST_SILENCE >= now;
        // Where nobody can ask the host, the word of its speaker is all that there is.
        let is_unseen = self.out_of_reach.is_some_and(recent) && !self.host_silent.is_some_and(recent);
        if (host_lives || restarts && is_unseen) && now < end {
            self.phase = Phase::Held { next: (now + HOST_INTERVAL).min(end) };
            vec![Step::Probe]
        } else {
            vec![Step::Gone]
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
