//! Telling the others what this node is able to do.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Membership;
use super::event::Facts;
use super::message::Message;
use super::peer::Peer;

/// Longest pause before a member that did not confirm the facts is told again.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes for names and addresses in a message, which must fit behind its length of two bytes with what else is in it.
const ROOM: usize = 65_000;
/// Bytes of the longest number of 32 bits, as postcard writes it; also of the length of a list.
const NUMBER: usize = 5;

/// What of a node's facts goes into a message.
struct Told {
    claims: Vec<(IpAddr, u32, bool)>,
    kept: Vec<IpAddr>,
    stays: Vec<(IpAddr, String)>,
    /// How many of these find no room.
    untold: usize,
}

impl Facts {
    /// How many claims and addresses that are kept find no room in a message, so that the others never learn of them.
    pub fn untold(&self) -> usize {
        self.told().untold
    }

    /// What is not told of claims would be taken by others: they come first.
    fn told(&self) -> Told {
        let names = [&self.interfaces, &self.no_ipv6, &self.default_v4, &self.default_v6];
        let names: usize = names.into_iter().flatten().map(|name| NUMBER + name.len()).sum();
        let mut room = ROOM.saturating_sub(names + self.macs.len() * 6);
        let mut untold = 0;
        let mut fits = |size: usize| {
            let rest = room.checked_sub(size);
            room = rest.unwrap_or(0);
            untold += usize::from(rest.is_none());
            rest.is_some()
        };
        let claims = |held| self.claims.iter().filter(move |(_, claim)| claim.1 == held);
        let claim = |(address, (epoch, held)): (&IpAddr, &(u32, bool))| (*address, *epoch, *held);
        let size = |claim: &(IpAddr, u32, bool)| bytes_of(claim.0) + NUMBER + 1;
        let mut told: Vec<_> = claims(true).map(claim).filter(|claim| fits(size(claim))).collect();
        let kept = self.kept.iter().copied().filter(|address| fits(bytes_of(*address))).collect();
        told.extend(claims(false).map(claim).filter(|claim| fits(size(claim))));
        let stays =
            self.stays.iter().filter(|(address, node)| fits(bytes_of(**address) + NUMBER + node.len()));
        let stays = stays.map(|(address, node)| (*address, node.clone())).collect();
        Told { claims: told, kept, stays, untold }
    }
}

/// Bytes of an address, as postcard writes it.
fn bytes_of(address: IpAddr) -> usize {
    1 + if address.is_ipv4() { 4 } else { 16 }
}

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
            let Told { claims, kept, stays, .. } = facts.told();
            let message = Message::Facts {
                version: self.facts_version,
                interfaces: list(&facts.interfaces),
                macs: facts.macs.iter().map(|mac| mac.0).collect(),
                kept,
                default_v4: list(&facts.default_v4),
                default_v6: list(&facts.default_v6),
                claims,
                no_ipv6: list(&facts.no_ipv6),
                stays,
                uninformed: facts.uninformed,
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
        peer.macs.extend(&facts.macs);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::layer2::MacAddress;

    #[test]
    fn what_finds_no_room_is_counted_and_claims_that_are_held_come_first() {
        let address = |number: u128| IpAddr::from(Ipv6Addr::from((0x2001_0db8 << 96) + number));
        let all = |from: u128, count: u128| (from..from + count).map(address);
        let names = |prefix: &str| (0..200).map(|number| format!("{prefix}{number:08}")).collect();
        let facts = Facts {
            interfaces: names("uplink."),
            no_ipv6: names("uplink."),
            macs: [MacAddress([2, 0, 0, 0, 0, 1])].into(),
            kept: all(10_000, 3000).collect(),
            claims: all(0, 2500)
                .map(|address| (address, (u32::MAX, address.to_string().len() % 2 == 0)))
                .collect(),
            stays: all(20_000, 10).map(|address| (address, "node1".to_owned())).collect(),
            ..Facts::default()
        };
        let told = facts.told();
        let held = |claims: &[(IpAddr, u32, bool)]| claims.iter().filter(|(.., held)| *held).count();
        assert_eq!(held(&told.claims), facts.claims.values().filter(|(_, held)| *held).count());
        let lost = |all: usize, told: usize| all - told;
        let missing = lost(facts.claims.len(), told.claims.len())
            + lost(facts.kept.len(), told.kept.len())
            + lost(facts.stays.len(), told.stays.len());
        assert_eq!(facts.untold(), missing);
        assert!(missing > 0);
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
        let message = Message::Facts {
            version: u32::MAX,
            interfaces: list(&facts.interfaces),
            macs: facts.macs.iter().map(|mac| mac.0).collect(),
            kept: told.kept,
            default_v4: vec![],
            default_v6: vec![],
            claims: told.claims,
            no_ipv6: list(&facts.no_ipv6),
            stays: told.stays,
            uninformed: true,
        };
        let length = postcard::to_stdvec(&message).unwrap().len() + super::super::seal::OVERHEAD;
        assert!((ROOM - 2000..usize::from(u16::MAX)).contains(&length), "{length} bytes");
        assert_eq!(Facts { kept: all(0, 1000).collect(), ..Facts::default() }.untold(), 0);
    }
}
