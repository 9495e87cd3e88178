//! What a node asks on the wire by itself, under one pace: probes for addresses that it is to announce, then checks of
//! what others announce.

use std::time::Instant;

use super::budget::Budget;
use super::conflict::{Action, Guard};
use super::wire_check::{Checker, Question};

/// Guard and checker with the pace that they share. Checks take half of it at most, and nothing while probes wait: they
/// never end, and must keep nothing from being announced.
#[derive(Debug)]
pub struct Questions {
    /// Asks for the addresses of this node.
    pub guard: Guard,
    /// Asks for those of others.
    pub checker: Checker,
    budget: Budget,
}

impl Questions {
    /// Both, with `rate` frames a second together.
    pub fn new(guard: Guard, checker: Checker, rate: u32) -> Self {
        Self { guard, checker, budget: Budget::new(rate) }
    }

    /// Does what is due, as far as the pace allows.
    pub fn poll(&mut self, now: Instant) -> (Vec<Action>, Option<Question>) {
        let actions = self.guard.poll(now, &mut self.budget);
        let waits = self.guard.waits(now);
        (actions, if waits { None } else { self.checker.poll(now, &mut self.budget) })
    }

    /// When [`Questions::poll`] is wanted next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let checker = if self.guard.waits(now) { None } else { self.checker.deadline() };
        self.guard.deadline().into_iter().chain(checker).min()
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
