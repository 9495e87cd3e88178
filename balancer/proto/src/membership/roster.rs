//! What the members are told to be.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Membership;
use super::event::{Action, Facts, Roster};
use super::peer::Peer;

impl Membership {
    /// When a member that is down ceases to stand in the way of a take-over.
    pub(super) fn linger_deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.lingers_until).min()
    }

    /// Forgets those for whose end it was waited long enough.
    pub(super) fn end_lingering(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            if peer.lingers_until.is_some_and(|until| until <= now) {
                peer.lingers_until = None;
                self.changed = true;
            }
        }
    }

    pub(super) fn publish(&mut self, now: Instant) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let known = |peer: &Peer| peer.facts.as_ref().map(|(_, facts)| facts.clone());
        let present = || self.peers.iter().filter(|(_, peer)| peer.up || peer.lingers_until.is_some());
        let mut members: BTreeMap<String, Option<Facts>> =
            present().map(|(node, peer)| (node.clone(), known(peer))).collect();
        let hosts = present().map(|(node, peer)| (node.clone(), peer.address.ip())).collect();
        if !self.left {
            members.insert(self.node.clone(), self.facts.clone());
        }
        let never_heard = |node: &String| self.peers.get(node).is_none_or(|peer| peer.identity.is_none());
        let unheard = self.seeds.iter().flatten().filter(|(node, seed)| seed.ready && never_heard(node));
        let (silent, unheard): (Vec<_>, Vec<_>) = unheard.partition(|(_, seed)| seed.host.is_silent(now));
        let names = |seeds: Vec<(&String, _)>| seeds.into_iter().map(|(node, _)| node.clone()).collect();
        let (silent, unheard) = (names(silent), names(unheard));
        let known = self.peers.iter().filter(|(_, peer)| peer.identity.is_some());
        let known = known.map(|(node, _)| node.clone()).collect();
        let macs = self.peers.values().flat_map(|peer| &peer.macs).copied().collect();
        let (settled, link) = (self.settled, self.link);
        let roster = Roster { settled, link, members, hosts, unheard, silent, known, macs };
        if roster != self.roster {
            self.roster = roster.clone();
            self.actions.push(Action::Roster(roster));
        }
    }
}
