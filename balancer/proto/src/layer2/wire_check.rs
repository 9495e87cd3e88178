//! Whether exactly the owner of an address answers for it, as another node of the segment sees it.
//!
//! The owner's host is asked for its own address beside: where it does not answer, this node does not see the segment,
//! and knows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::MacAddress;
use super::budget::Budget;
use super::responder::Claim;

/// Time after a change of owner in which two nodes may answer, or none.
const CALM: Duration = Duration::from_secs(2);
/// Time after which a check that failed for the first time is made again, before anybody is told.
const AGAIN: Duration = Duration::from_secs(1);
/// Time after which an address that failed is looked at again.
const RECHECK: Duration = Duration::from_secs(10);
/// Rounds of questions in one check.
const ROUNDS: u32 = 2;
/// Time for answers after each.
const LISTEN: Duration = Duration::from_millis(100);
/// Frames of a round: for the address, and for the owner's host.
const FRAMES: u32 = 2;

/// An address that this node checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Link-layer addresses of the owner.
    pub macs: BTreeSet<MacAddress>,
    /// The owner's own address.
    pub host: IpAddr,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The owner answers, and nobody else.
    Passed,
    /// Others answer, or nobody does, though the owner's host is seen.
    Failed(BTreeSet<MacAddress>),
    /// This node does not see the owner's segment.
    Unknown,
}

impl Outcome {
    /// As it stands in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed => "Passed",
            Self::Failed(_) => "Failed",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is to be asked, on every interface that may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The address in question.
    pub address: IpAddr,
    /// The owner's own address.
    pub host: IpAddr,
}

/// Checks addresses that other nodes announce, one at a time.
#[derive(Debug)]
pub struct Checker {
    /// Time between two checks where nothing changed; `None` for no checks at all.
    round: Option<Duration>,
    /// Half of what may be sent unasked: the other half is for what is announced again and again.
    pace: Budget,
    duties: BTreeMap<IpAddr, Duty>,
    check: Option<Check>,
    next_round: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Duty {
    subject: Subject,
    /// When it is to be checked because something changed.
    due: Option<Instant>,
    checked: Option<Instant>,
    failed_once: bool,
    outcome: Option<Outcome>,
}

#[derive(Debug, Clone)]
struct Check {
    address: IpAddr,
    rounds: u32,
    next: Instant,
    answers: BTreeSet<MacAddress>,
    host_seen: bool,
}

impl Checker {
    /// A checker of nothing yet, which looks after one address each `round`; `None` turns it off. It asks with half of
    /// `rate` frames a second at most.
    pub fn new(round: Option<Duration>, rate: u32) -> Self {
        let pace = Budget::half(rate);
        Self { round, pace, duties: BTreeMap::new(), check: None, next_round: None }
    }

    /// Takes the addresses that this node checks. One with another owner than before is checked soon.
    pub fn assign(&mut self, now: Instant, subjects: BTreeMap<IpAddr, Subject>) {
        if self.round.is_none() {
            return;
        }
        self.duties.retain(|address, _| subjects.contains_key(address));
        let duties = &self.duties;
        self.check.take_if(|check| !duties.contains_key(&check.address));
        for (address, subject) in subjects {
            let known = self.duties.get(&address).filter(|duty| duty.subject == subject);
            if known.is_none() {
                let due = Some(now + CALM);
                // What was seen of the former owner stands until the new one is seen.
                let outcome = self.duties.remove(&address).and_then(|duty| duty.outcome);
                self.check.take_if(|check| check.address == address);
                let duty = Duty { subject, due, checked: None, failed_once: false, outcome };
                self.duties.insert(address, duty);
            }
        }
    }

    /// A neighbour says that it has an address. Of one that is `ignored`, a proxy such as routers are, that says nothing
    /// unless it is the owner.
    pub fn claim(&mut self, claim: Claim, ignored: bool) {
        let Some(check) = &mut self.check else { return };
        let Some(Duty { subject, .. }) = self.duties.get(&check.address) else { return };
        let is_owner = subject.macs.contains(&claim.mac);
        if claim.address == check.address && (is_owner || !ignored) {
            check.answers.insert(claim.mac);
        }
        check.host_seen |= subject.host == claim.address && is_owner;
    }

    /// Does what is due, as far as the budget allows.
    pub fn poll(&mut self, now: Instant, budget: &mut Budget) -> Option<Question> {
        if self.check.as_ref().is_some_and(|check| check.rounds == ROUNDS && check.next <= now) {
            self.conclude(now);
        }
        if self.check.is_none() {
            let address = self.wanted(now)?;
            self.check =
                Some(Check { address, rounds: 0, next: now, answers: BTreeSet::new(), host_seen: false });
        }
        let check = self.check.as_mut().filter(|check| check.rounds < ROUNDS && check.next <= now)?;
        let next = budget.next(now, FRAMES).max(self.pace.next(now, FRAMES));
        if next > now {
            check.next = next;
            return None;
        }
        budget.spend(now, FRAMES);
        self.pace.spend(now, FRAMES);
        check.rounds += 1;
        check.next = now + LISTEN;
        let host = self.duties.get(&check.address)?.subject.host;
        Some(Question { address: check.address, host })
    }

    /// The address to check now: one that changed, else at each round the one that was not checked for longest.
    fn wanted(&mut self, now: Instant) -> Option<IpAddr> {
        let due = self.duties.iter().filter_map(|(address, duty)| Some((duty.due?, *address)));
        if let Some((_, address)) = due.min().filter(|(due, _)| *due <= now) {
            return Some(address);
        }
        let calm = self.duties.iter().filter(|(_, duty)| duty.due.is_none());
        let (address, _) = calm.min_by_key(|(_, duty)| duty.checked)?;
        let next = *self.next_round.get_or_insert(now + self.round?);
        if next > now {
            return None;
        }
        self.next_round = Some(now + self.round?);
        Some(*address)
    }

    fn conclude(&mut self, now: Instant) {
        let Some(check) = self.check.take() else { return };
        let Some(duty) = self.duties.get_mut(&check.address) else { return };
        let others: BTreeSet<MacAddress> = check.answers.difference(&duty.subject.macs).copied().collect();
        let found = match (check.answers.is_empty(), others.is_empty()) {
            (true, _) if !check.host_seen => Outcome::Unknown,
            (false, true) => Outcome::Passed,
            _ => Outcome::Failed(others),
        };
        duty.checked = Some(now);
        let failed = matches!(found, Outcome::Failed(_));
        if failed && !duty.failed_once {
            (duty.failed_once, duty.due) = (true, Some(now + AGAIN));
            return;
        }
        (duty.failed_once, duty.due) = (failed, failed.then_some(now + RECHECK));
        duty.outcome = Some(found);
    }

    /// When [`Checker::poll`] is wanted next.
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(check) = &self.check {
            return Some(check.next);
        }
        let due = self.duties.values().filter_map(|duty| duty.due).min();
        let rest = self.duties.values().any(|duty| duty.due.is_none());
        due.into_iter().chain(self.next_round.filter(|_| rest)).min()
    }

    /// What was seen last of each address that this node checks.
    pub fn outcomes(&self) -> BTreeMap<IpAddr, Outcome> {
        let seen = self.duties.iter();
        seen.filter_map(|(address, duty)| Some((*address, duty.outcome.clone()?))).collect()
    }
}

#[cfg(test)]
#[path = "wire_check_tests.rs"]
mod tests;
