//! `fencing: Strict`: for how long this member may go on announcing, by the votes of the others.
//!
//! Each member asks all others whether they count it as a member, again and again. A majority of the nodes that should
//! run a speaker, this one included, lets it announce for [`Fence::bound`] from the moment at which the question was
//! sent: an answer that waited in a buffer counts from then too. Who considers a member down answers it no more, and
//! waits for [`Fence::take_over_wait`], which is longer, before anything is taken over from it. Of two nodes none is a
//! majority alone: the API server is the third voice then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Membership;
use super::event::Action;
use super::message::Message;

/// Questions in one [`Fence::bound`]: so many may be lost in a row.
const QUESTIONS: u32 = 5;
/// Time between two rounds of questions for each member: every member asks every other.
const PER_MEMBER: Duration = Duration::from_millis(2);

/// What a member knows of its right to announce.
#[derive(Debug)]
pub(super) struct Fence {
    enabled: bool,
    heartbeat: Duration,
    /// The nodes that should have a speaker, this one included; `None` until they are known.
    expected: Option<BTreeSet<String>>,
    next: Instant,
    token: u64,
    /// Questions that may still be answered, and when they were sent.
    asked: VecDeque<(u64, Instant)>,
    /// When the last question was sent that each node answered.
    votes: BTreeMap<String, Instant>,
    /// Until when the API server lets this node go on alone.
    witnessed: Option<Instant>,
    held: Option<Instant>,
    wants_witness: bool,
    /// Whether the votes may amount to something else than before.
    changed: bool,
}

impl Fence {
    pub(super) fn new(now: Instant, enabled: bool, heartbeat: Duration) -> Self {
        Self {
            enabled,
            heartbeat,
            expected: None,
            next: now,
            token: 0,
            asked: VecDeque::new(),
            votes: BTreeMap::new(),
            witnessed: None,
            held: None,
            wants_witness: false,
            changed: false,
        }
    }

    fn period(&self) -> Duration {
        let members = self.expected.as_ref().map_or(0, BTreeSet::len);
        self.heartbeat.max(PER_MEMBER * u32::try_from(members).unwrap_or(u32::MAX))
    }

    /// How long votes count from the moment at which they were asked for.
    fn bound(&self) -> Duration {
        self.period() * QUESTIONS
    }

    /// How long nothing is taken over from a member that is down: until its last votes have run out everywhere.
    /// Zero without fencing.
    pub(super) fn take_over_wait(&self) -> Duration {
        if self.enabled { self.bound() + self.period() * 2 } else { Duration::ZERO }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.enabled && self.expected.is_some()).then_some(self.next)
    }

    pub(super) fn expect(&mut self, nodes: BTreeSet<String>) {
        self.expected = Some(nodes);
        self.changed = true;
    }

    pub(super) fn witness(&mut self, until: Instant) {
        self.witnessed = Some(until);
        self.changed = true;
    }

    pub(super) fn voted(&mut self, node: &str, token: u64) {
        let sent = self.asked.iter().find(|(asked, _)| *asked == token).map(|(_, sent)| *sent);
        if let Some(sent) = sent {
            let vote = self.votes.entry(node.to_owned()).or_insert(sent);
            *vote = sent.max(*vote);
            self.changed = true;
        }
    }

    /// The token of a new round of questions, when one is due.
    fn ask(&mut self, now: Instant) -> Option<u64> {
        if self.deadline().is_none_or(|due| due > now) {
            return None;
        }
        self.next = now + self.period();
        self.token += 1;
        self.changed = true;
        self.asked.push_back((self.token, now));
        let bound = self.bound();
        self.asked.retain(|(_, sent)| now.saturating_duration_since(*sent) < bound);
        Some(self.token)
    }

    /// What the votes of `up`, the members but this one, amount to.
    fn judge(&mut self, now: Instant, me: &str, up: &BTreeSet<String>) -> Vec<Action> {
        let Some(expected) = self.expected.as_ref().filter(|_| self.enabled) else { return vec![] };
        // A member whose pod is being replaced counts as one that should be there.
        let others: BTreeSet<&String> = expected.union(up).filter(|node| *node != me).collect();
        self.votes.retain(|node, _| up.contains(node));
        let mut votes: Vec<Instant> = self.votes.values().copied().collect();
        votes.sort_unstable();
        let needed = others.len().div_ceil(2);
        let since = if needed == 0 { Some(now) } else { votes.iter().rev().nth(needed - 1).copied() };
        let by_votes = since.map(|since| since + self.bound());
        let is_pair = others.len() == 1;
        let witnessed = self.witnessed.filter(|_| is_pair);
        let wants = is_pair && since.is_none_or(|since| since + self.bound() / 2 <= now);
        let mut actions = vec![];
        let held = by_votes.max(witnessed);
        if held != self.held {
            self.held = held;
            actions.push(Action::Hold(held.unwrap_or(now)));
        }
        if wants != self.wants_witness {
            self.wants_witness = wants;
            actions.push(Action::Witness(wants));
        }
        actions
    }
}

impl Membership {
    pub(super) fn run_fence(&mut self, now: Instant) {
        if let Some(token) = self.fence.ask(now) {
            let up: Vec<_> = self.peers.values().filter(|peer| peer.up).map(|peer| peer.address).collect();
            up.into_iter().for_each(|address| self.send(address, &Message::Poll { token }));
        }
        if !std::mem::take(&mut self.fence.changed) {
            return;
        }
        let up = self.peers.iter().filter(|(_, peer)| peer.up).map(|(node, _)| node.clone()).collect();
        let actions = self.fence.judge(now, &self.node, &up);
        self.actions.extend(actions);
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
