//! When an address is announced unasked: a burst after a take-over, and a slow repetition where asked for.
//!
//! Frames after the first round, and repetitions, are paced per interface, since switches shut ports that speak too
//! much ARP. The first round of a take-over goes out at once: it is what ends an outage.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::budget::Budget;

/// How an address is announced unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Rounds after a take-over, the first at once; 0 turns unasked announcements off.
    pub count: u32,
    /// Time between two rounds.
    pub interval: Duration,
    /// Time between two repetitions for as long as an address is announced; `None` for no repetition.
    pub repeat: Option<Duration>,
    /// Frames a second, those of first rounds aside; at least 1.
    pub rate: u32,
}

impl Default for Settings {
    /// Five rounds within five seconds, as MetalLB does.
    fn default() -> Self {
        Self { count: 5, interval: Duration::from_millis(1100), repeat: None, rate: 10 }
    }
}

/// What is still to be announced on one interface, and when.
#[derive(Debug, Clone)]
pub struct Schedule {
    settings: Settings,
    pending: BTreeMap<IpAddr, Pending>,
    /// For all but first rounds.
    budget: Budget,
    /// What [`Schedule::deadline`] found, until something changes: thousands of addresses may wait for their later rounds
    /// while frames come in.
    next: Option<Option<Instant>>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    due: Instant,
    /// Rounds of the burst that are left, this one included; 0 in repetition.
    left: u32,
    /// Whether this is the first round of a take-over.
    first: bool,
}

impl Schedule {
    /// An empty schedule.
    pub fn new(settings: Settings) -> Self {
        Self { settings, pending: BTreeMap::new(), budget: Budget::spaced(settings.rate), next: None }
    }

    /// Begins the burst for an address that was taken over, or whose interface came back.
    pub fn start(&mut self, now: Instant, address: IpAddr) {
        if self.settings.count > 0 {
            self.next = None;
            self.pending.insert(address, Pending { due: now, left: self.settings.count, first: true });
        }
    }

    /// Adds one round, at `due`, for an address that is announced already.
    pub fn once(&mut self, due: Instant, address: IpAddr) {
        if self.settings.count > 0 {
            self.next = None;
            let round = Pending { due, left: 1, first: false };
            let pending = self.pending.entry(address).or_insert(round);
            pending.due = pending.due.min(due);
        }
    }

    /// Counts a frame that was sent unasked for another reason: announcements wait for it.
    pub fn spend(&mut self, now: Instant) {
        self.next = None;
        self.budget.spend(now, 1);
    }

    /// Ends every announcement of an address.
    pub fn stop(&mut self, address: IpAddr) {
        self.next = None;
        self.pending.remove(&address);
    }

    /// When [`Schedule::due`] has something next; `None` when nothing is left to send.
    pub fn deadline(&mut self) -> Option<Instant> {
        let first = || self.pending.iter().map(|(address, pending)| self.earliest(*address, pending)).min();
        let next = self.next.unwrap_or_else(first);
        self.next = Some(next);
        next
    }

    /// The addresses to announce now, each with one round of frames.
    pub fn due(&mut self, now: Instant) -> Vec<IpAddr> {
        if self.deadline().is_none_or(|next| next > now) {
            return vec![];
        }
        self.next = None;
        let mut due: Vec<(Instant, IpAddr)> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.due <= now)
            .map(|(address, pending)| (pending.due, *address))
            .collect();
        // The longest waiting first, so that no address starves behind the pace.
        due.sort_unstable();
        let mut send = vec![];
        for (_, address) in due {
            let Some(pending) = self.pending.get_mut(&address) else { continue };
            if !pending.first && !self.budget.take(now, frames(address)) {
                continue;
            }
            send.push(address);
            pending.first = false;
            pending.left = pending.left.saturating_sub(1);
            match (pending.left, self.settings.repeat) {
                (1.., _) => pending.due = now + self.settings.interval,
                (0, Some(repeat)) => pending.due = now + repeat,
                (0, None) => {
                    self.pending.remove(&address);
                }
            }
        }
        send
    }

    /// The interface could not take the round of an address that was due: it is to go at `due`, and a first one still
    /// waits for no pace.
    pub fn unsent(&mut self, due: Instant, address: IpAddr) {
        self.next = None;
        let pending = self.pending.entry(address).or_insert(Pending { due, left: 0, first: false });
        pending.due = due;
        pending.left += 1;
        pending.first = pending.left == self.settings.count;
    }

    fn earliest(&self, address: IpAddr, pending: &Pending) -> Instant {
        if pending.first { pending.due } else { self.budget.next(pending.due, frames(address)) }
    }
}

/// Frames of one round: by ARP a request and a reply, by NDP one advertisement.
fn frames(address: IpAddr) -> u32 {
    if address.is_ipv4() { 2 } else { 1 }
}

#[cfg(test)]
#[path = "gratuitous_tests.rs"]
mod tests;
