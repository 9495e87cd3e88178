//! Telling the others what this node is able to do.

use std::net::SocketAddr;

use super::Membership;
use super::event::Facts;
use super::message::Message;

/// How many times more a change is told to everybody. Heartbeats carry the version, so that a watcher that missed all
/// of them asks.
const REPEATS: u32 = 2;
/// Most kept addresses that are told: a message must fit behind its length of two bytes (17 bytes for an IPv6 address).
const MOST_KEPT: usize = 3500;

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
            let message = Message::Facts {
                version: self.facts_version,
                interfaces: facts.interfaces.iter().cloned().collect(),
                macs: facts.macs.iter().map(|mac| mac.0).collect(),
                kept: facts.kept.iter().take(MOST_KEPT).copied().collect(),
            };
            self.send(to, &message);
        }
    }

    fn tell_facts(&mut self) {
        let up: Vec<SocketAddr> =
            self.peers.values().filter(|peer| peer.up).map(|peer| peer.address).collect();
        up.into_iter().for_each(|address| self.send_facts(address));
    }
}
