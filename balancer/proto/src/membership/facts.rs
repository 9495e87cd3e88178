//! Telling the others what this node is able to do.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Membership;
use super::event::Facts;
use super::message::Message;

/// How many times more a change is told to everybody. Heartbeats carry the version, so that a watcher that missed all
/// of them asks.
const REPEATS: u32 = 2;
/// Bytes for addresses in a message, which must fit behind its length of two bytes.
const ROOM: usize = 60_000;
/// Bytes of an IPv6 address.
const KEPT: usize = 17;
/// The same with an epoch and whether it is held.
const CLAIMED: usize = 23;

impl Membership {
    pub(super) fn set_facts(&mut self, facts: Facts) {
        if self.facts.as_ref() == Some(&facts) {
            return;
        }
        self.facts = Some(facts);
        self.facts_version = self.facts_version.wrapping_add(1).max(1);
        self.facts_repeats = REPEATS;
        self.changed = true;
        self.tell_facts();
    }

    pub(super) fn repeat_facts(&mut self) {
        if self.facts_repeats > 0 {
            self.facts_repeats -= 1;
            self.tell_facts();
        }
    }

    pub(super) fn heartbeat(&self) -> Message {
        Message::Heartbeat { facts: self.facts_version }
    }

    pub(super) fn send_facts(&mut self, to: SocketAddr) {
        if let Some(facts) = &self.facts {
            let list = |names: &BTreeSet<String>| names.iter().cloned().collect();
            // What is not told of claims would be taken by others: they come first.
            let kept = (ROOM.saturating_sub(facts.claims.len() * CLAIMED)) / KEPT;
            let claims = facts.claims.iter().map(|(address, (epoch, held))| (*address, *epoch, *held));
            let message = Message::Facts {
                version: self.facts_version,
                interfaces: list(&facts.interfaces),
                macs: facts.macs.iter().map(|mac| mac.0).collect(),
                kept: facts.kept.iter().take(kept).copied().collect(),
                default_v4: list(&facts.default_v4),
                default_v6: list(&facts.default_v6),
                claims: claims.take(ROOM / CLAIMED).collect(),
            };
            self.send(to, &message);
        }
    }

    pub(super) fn learn_facts(&mut self, node: &str, version: u32, facts: Facts) {
        if let Some(peer) = self.peers.get_mut(node) {
            self.macs.extend(&facts.macs);
            peer.facts = Some((version, facts));
            self.changed = true;
        }
    }

    fn tell_facts(&mut self) {
        let up: Vec<SocketAddr> =
            self.peers.values().filter(|peer| peer.up).map(|peer| peer.address).collect();
        up.into_iter().for_each(|address| self.send_facts(address));
    }
}
