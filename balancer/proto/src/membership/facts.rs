//! Telling the others what this node is able to do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Membership;
use super::event::Facts;
use super::message::Message;
use super::peer::Peer;

/// Longest pause before a member that did not confirm the facts is told again.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes for addresses in a message, which must fit behind its length of two bytes.
const ROOM: usize = 60_000;
/// Bytes of an IPv6 address.
const KEPT: usize = 17;
/// The same with an epoch and whether it is held.
const CLAIMED: usize = 23;

impl Membership {
    pub(super) fn set_facts(&mut self, now: Instant, facts: Facts) {
        if self.facts.as_ref() == Some(&facts) {
            return;
        }
        self.facts = Some(facts);
        self.facts_version = self.facts_version.wrapping_add(1).max(1);
        self.facts_pause = self.timing.heartbeat;
        self.facts_again = now + self.facts_pause;
        self.changed = true;
        self.tell_facts();
    }

    /// Tells the facts again to those who did not confirm them: a message may be lost, and most members are watched by
    /// others, whose heartbeats carry the version.
    pub(super) fn repeat_facts(&mut self, now: Instant) {
        if now >= self.facts_again {
            self.facts_pause = (self.facts_pause * 2).min(PAUSE);
            self.facts_again = now + self.facts_pause;
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
                no_ipv6: list(&facts.no_ipv6),
            };
            self.send(to, &message);
        }
    }

    /// Takes the facts of a member, unless later ones of the same life came before, by another way. Returns the version
    /// that is known now.
    pub(super) fn learn_facts(&mut self, node: &str, version: u32, facts: Facts) -> u32 {
        let Some(peer) = self.peers.get_mut(node) else { return version };
        if let Some((known, _)) = peer.facts.as_ref().filter(|(known, _)| *known >= version) {
            return *known;
        }
        self.macs.extend(&facts.macs);
        peer.facts = Some((version, facts));
        self.changed = true;
        version
    }

    fn tell_facts(&mut self) {
        let version = self.facts_version;
        let behind = |peer: &&Peer| peer.up && peer.confirmed != version;
        let behind: Vec<SocketAddr> = self.peers.values().filter(behind).map(|peer| peer.address).collect();
        behind.into_iter().for_each(|address| self.send_facts(address));
    }
}
