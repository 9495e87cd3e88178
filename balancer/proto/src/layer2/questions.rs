//! What a node asks on the wire by itself, under one pace: probes for addresses that it is to announce, then questions
//! about those that another node announces too, then checks of what others announce, then one question for each address
//! that is announced without having been asked for.

use std::time::Instant;

use super::budget::Budget;
use super::conflict::{Action, Guard};
use super::dispute::Disputes;
use super::wire_check::{Checker, Question};

/// Guard, disputes and checker with the pace that they share. Checks take half of it at most, and nothing while probes
/// wait: they never end, and must keep nothing from being announced.
#[derive(Debug)]
pub struct Questions {
    /// Asks for the addresses of this node.
    pub guard: Guard,
    /// Asks for those of others.
    pub checker: Checker,
    /// Asks for those that another node of the cluster announces too.
    pub disputes: Disputes,
    budget: Budget,
}

impl Questions {
    /// All of them, with `rate` frames a second together.
    pub fn new(guard: Guard, checker: Checker, rate: u32) -> Self {
        Self { guard, checker, disputes: Disputes::new(rate), budget: Budget::new(rate) }
    }

    /// Does what is due, as far as the pace allows.
    pub fn poll(&mut self, now: Instant) -> (Vec<Action>, Option<Question>) {
        let mut actions = self.guard.poll(now, &mut self.budget);
        if self.guard.waits(now) {
            return (actions, None);
        }
        actions.extend(self.disputes.poll(now, &mut self.budget));
        let question = self.checker.poll(now, &mut self.budget);
        actions.extend(self.guard.ask_later(now, &mut self.budget));
        (actions, question)
    }

    /// When [`Questions::poll`] is wanted next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let (checker, disputes) = (self.checker.deadline(), self.disputes.deadline());
        let rest = || checker.into_iter().chain(disputes).chain(self.guard.later()).min();
        let rest = if self.guard.waits(now) { None } else { rest() };
        self.guard.deadline().into_iter().chain(rest).min()
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
