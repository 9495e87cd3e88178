//! Adj-RIB-Out: what the router holds of us, and how that becomes what is wanted (RFC 4271 §9.2).
//!
//! Only differences are sent. Withdrawals come first and never wait; a prefix that changes again and again is
//! announced at growing intervals, since routers shut out routes that flap (RFC 2439).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::route::{Attributes, Family, Routes, Unsent};
use super::update::{Encoder, is_announceable};

/// Wait after the second announcement of a prefix; it doubles from one to the next.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two announcements of a prefix.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A prefix that was left alone for so long is as good as new.
const QUIET: Duration = Duration::from_secs(60);

/// Routes sent over one connection.
#[derive(Debug, Default)]
pub(super) struct AdjRibOut {
    /// What the router holds; `None` for attributes that have to be sent again.
    held: BTreeMap<IpNet, Option<Arc<Attributes>>>,
    pace: BTreeMap<IpNet, Pace>,
    /// When the first of the announcements that wait may go.
    due: Option<Instant>,
    /// Families whose End-of-RIB was sent.
    ended: BTreeSet<Family>,
    /// Families to mark as complete once they are, in answer to a route refresh (RFC 7313).
    refreshing: BTreeSet<Family>,
    /// Those that the router asked for once more meanwhile, however often.
    again: BTreeSet<Family>,
    /// As of the last round.
    unsent: Unsent,
}

/// Announcements of one prefix.
#[derive(Debug, Clone, Copy)]
struct Pace {
    last: Instant,
    /// How long the next one has to wait after the last.
    wait: Duration,
}

/// Messages of one round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Whole messages, in order.
    pub(super) messages: Vec<Vec<u8>>,
    /// Families of which everything that may go now has gone, after a refresh.
    pub(super) refreshed: Vec<Family>,
    /// Whether something is left that did not fit into the budget.
    pub(super) unfinished: bool,
}

/// The prefixes that changed again and again of late, for the connection that follows.
#[derive(Debug, Clone, Default)]
pub(super) struct Paces(BTreeMap<IpNet, Pace>);

impl AdjRibOut {
    /// One of a connection that follows another. The router holds nothing, so nothing waits; but what changed again and
    /// again goes on to do so at its pace.
    pub(super) fn following(former: Paces) -> Self {
        // As one that is due. With the announcement that comes first the wait is what it was.
        let due = |(prefix, Pace { last, wait }): (IpNet, Pace)| {
            Some((prefix, Pace { last: last.checked_sub(wait)?, wait: wait / 2 }))
        };
        Self { pace: former.0.into_iter().filter_map(due).collect(), ..Self::default() }
    }

    /// What the next connection has to know.
    pub(super) fn into_paces(self) -> Paces {
        Paces(self.pace.into_iter().filter(|(_, pace)| !pace.wait.is_zero()).collect())
    }

    /// Number of prefixes that the router holds.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The routes that the router cannot be told.
    pub(super) fn unsent(&self) -> &Unsent {
        &self.unsent
    }

    /// When an announcement that waits may go.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Sends all routes of a family again, as the router asked. Returns whether that begins now: a router that asks
    /// while it is being answered is answered once more after that, so that it cannot make work without end.
    pub(super) fn refresh(&mut self, family: Family) -> bool {
        let begins = self.refreshing.insert(family);
        if begins {
            self.rewrite(family);
        } else {
            self.again.insert(family);
        }
        begins
    }

    /// Begins the refreshes that were asked for while another one was underway.
    pub(super) fn refresh_again(&mut self) -> BTreeSet<Family> {
        if !self.refreshing.is_empty() {
            return BTreeSet::new();
        }
        let again = std::mem::take(&mut self.again);
        for family in &again {
            self.refresh(*family);
        }
        again
    }

    /// Sends all routes of a family again, since the way in which they are written changed.
    pub(super) fn rewrite(&mut self, family: Family) {
        for (prefix, attributes) in self.held.iter_mut().filter(|(prefix, _)| Family::of(prefix) == family) {
            *attributes = None;
            self.pace.remove(prefix);
        }
    }

    /// Messages towards what is wanted, of about `budget` octets at most.
    pub(super) fn round(
        &mut self,
        now: Instant,
        wanted: &Routes,
        encoder: &Encoder<'_>,
        budget: usize,
    ) -> Round {
        let mut round = Round::default();
        let mut room = budget;
        self.due = None;
        self.pace.retain(|_, pace| now.saturating_duration_since(pace.last) < QUIET);
        self.withdraw(wanted, encoder, &mut round, &mut room);
        self.announce(now, wanted, encoder, &mut round, &mut room);
        if !round.unfinished {
            for family in &encoder.agreed.families {
                if self.ended.insert(*family) {
                    round.messages.push(Encoder::end_of_rib(*family));
                }
            }
            round.refreshed = std::mem::take(&mut self.refreshing).into_iter().collect();
        }
        round
    }

    fn withdraw(&mut self, wanted: &Routes, encoder: &Encoder<'_>, round: &mut Round, room: &mut usize) {
        let mut gone: BTreeMap<Family, Vec<IpNet>> = BTreeMap::new();
        // Routes of a family that has lost its next hop lead nowhere.
        let lost: Vec<Family> =
            Family::ALL.into_iter().filter(|family| !encoder.can_announce(*family)).collect();
        // Both are in order, and nearly all that is held is wanted.
        let mut still = wanted.keys().peekable();
        for prefix in self.held.keys() {
            while still.next_if(|other| *other < prefix).is_some() {}
            let family = Family::of(prefix);
            if lost.contains(&family) || still.next_if(|other| *other == prefix).is_none() {
                gone.entry(family).or_default().push(*prefix);
            }
        }
        for (family, prefixes) in gone {
            for chunk in prefixes.chunks(CHUNK) {
                if !spend(encoder.withdraw(family, chunk), round, room) {
                    return;
                }
                for prefix in chunk {
                    self.held.remove(prefix);
                }
            }
        }
    }

    fn announce(
        &mut self,
        now: Instant,
        wanted: &Routes,
        encoder: &Encoder<'_>,
        round: &mut Round,
        room: &mut usize,
    ) {
        self.unsent = Unsent::default();
        let mut groups: BTreeMap<(Family, &Arc<Attributes>), Vec<IpNet>> = BTreeMap::new();
        // Both are in order, and nearly all that is wanted is held.
        let mut held = self.held.iter().peekable();
        for (prefix, attributes) in wanted {
            while held.next_if(|(other, _)| *other < prefix).is_some() {}
            let same = held.next_if(|(other, _)| *other == prefix);
            let is_held = same.is_some_and(|(_, held)| held.as_ref() == Some(attributes));
            if is_held || !is_announceable(prefix) {
                continue;
            }
            let family = Family::of(prefix);
            if !encoder.can_announce(family) {
                let is_agreed = encoder.agreed.families.contains(&family);
                let Unsent { not_agreed, no_next_hop, .. } = &mut self.unsent;
                *(if is_agreed { no_next_hop } else { not_agreed }).entry(family).or_default() += 1;
                continue;
            }
            if let Some(wait_until) = self.pace.get(prefix).map(|pace| pace.last + pace.wait)
                && wait_until > now
            {
                self.due = Some(self.due.map_or(wait_until, |due| due.min(wait_until)));
                continue;
            }
            groups.entry((family, attributes)).or_default().push(*prefix);
        }
        for ((family, attributes), prefixes) in groups {
            for chunk in prefixes.chunks(CHUNK) {
                let mut messages = encoder.announce(family, attributes, chunk);
                let sent = !messages.is_empty();
                if !sent {
                    self.unsent.too_large += chunk.len();
                    // The router must not go on with what the routes were before.
                    let held = chunk.iter().filter(|prefix| self.held.contains_key(prefix)).copied();
                    messages = encoder.withdraw(family, &held.collect::<Vec<_>>());
                }
                if !spend(messages, round, room) {
                    return;
                }
                for prefix in chunk.iter().filter(|_| !sent) {
                    self.held.remove(prefix);
                }
                for prefix in chunk.iter().filter(|_| sent) {
                    self.held.insert(*prefix, Some(Arc::clone(attributes)));
                    let wait = match self.pace.get(prefix) {
                        None => Duration::ZERO,
                        Some(pace) if pace.wait.is_zero() => FIRST_WAIT,
                        Some(pace) => (pace.wait * 2).min(LONGEST_WAIT),
                    };
                    self.pace.insert(*prefix, Pace { last: now, wait });
                }
            }
        }
    }
}

/// Prefixes that are written before the budget is looked at again; they fill a few extended messages.
const CHUNK: usize = 16_384;

/// Adds messages, unless the budget was used up before.
fn spend(messages: Vec<Vec<u8>>, round: &mut Round, room: &mut usize) -> bool {
    if *room == 0 {
        round.unfinished = true;
        return false;
    }
    let size = messages.iter().map(Vec::len).sum();
    *room = room.saturating_sub(size);
    round.messages.extend(messages);
    true
}

#[cfg(test)]
#[path = "adj_rib_out_tests.rs"]
mod tests;
