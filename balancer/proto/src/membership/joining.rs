//! Finding the other members, and knowing when everybody has been heard or waited for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use super::Membership;
use super::event::{Seed, Via};
use super::message::Message;

/// Seeds asked for the first time in one attempt to join.
const NEW_SEEDS_AT_ONCE: usize = 64;
/// Seeds asked again in one attempt to join.
const OLD_SEEDS_AT_ONCE: usize = 8;

/// A seed, and since when it is asked.
pub(super) struct KnownSeed {
    pub(super) address: SocketAddr,
    pub(super) ready: bool,
    pub(super) first_tried: Option<Instant>,
}

impl Membership {
    pub(super) fn learn_seeds(&mut self, now: Instant, seeds: Vec<Seed>) {
        let mut known = self.seeds.take().unwrap_or_default();
        self.seeds = Some(
            seeds
                .into_iter()
                .filter(|seed| seed.node != self.node)
                .map(|Seed { node, address, ready }| {
                    let first_tried = known.remove(&node).and_then(|seed| seed.first_tried);
                    (node, KnownSeed { address, ready, first_tried })
                })
                .collect(),
        );
        self.list_absent();
        self.next_join = now;
    }

    pub(super) fn list_absent(&mut self) {
        let up = |node: &String| self.peers.get(node).is_some_and(|peer| peer.up);
        let absent: BTreeSet<&String> =
            self.seeds.iter().flatten().map(|(node, _)| node).filter(|node| !up(node)).collect();
        let mut kept: Vec<String> =
            self.absent.iter().filter(|node| absent.contains(node)).cloned().collect();
        kept.extend(absent.into_iter().filter(|node| !self.absent.contains(node)).cloned());
        self.absent = kept;
        self.changed = true;
    }

    pub(super) fn join(&mut self, now: Instant) {
        self.next_join = now + self.timing.join;
        let (mut new, mut old) = (NEW_SEEDS_AT_ONCE, OLD_SEEDS_AT_ONCE);
        for node in std::mem::take(&mut self.absent) {
            let Some(seed) = self.seeds.as_mut().and_then(|seeds| seeds.get_mut(&node)) else { continue };
            let left = if seed.first_tried.is_none() { &mut new } else { &mut old };
            if *left == 0 {
                self.absent.push(node);
                continue;
            }
            *left -= 1;
            let (address, first) = (seed.address, *seed.first_tried.get_or_insert(now));
            let mut effects = self.swim.announce(now, &node, address);
            if now.saturating_duration_since(first) >= self.timing.detection() {
                // UDP may be what is lost.
                for (to, packet) in std::mem::take(&mut effects.packets) {
                    self.send_via(to, &Message::Swim(packet.clone()), Via::Datagram);
                    self.send_via(to, &Message::Swim(packet), Via::Stream);
                }
            }
            self.apply(now, effects);
        }
        self.list_absent();
    }

    /// The time at which each seed that was not heard has been waited for long enough.
    pub(super) fn settle_deadline(&self) -> Option<Instant> {
        if self.settled {
            return None;
        }
        let patience = self.timing.detection();
        self.waiting().map(|seed| seed.first_tried.map(|tried| tried + patience)).max().flatten()
    }

    fn waiting(&self) -> impl Iterator<Item = &KnownSeed> {
        self.seeds.iter().flatten().filter_map(|(node, seed)| {
            let known = self.peers.get(node).is_some_and(|peer| peer.identity.is_some());
            (!known).then_some(seed)
        })
    }

    pub(super) fn settle(&mut self, now: Instant) {
        if self.settled || self.seeds.is_none() {
            return;
        }
        let patience = self.timing.detection();
        let heard_enough = |seed: &KnownSeed| seed.first_tried.is_some_and(|tried| tried + patience <= now);
        let settled = self.waiting().all(heard_enough);
        self.settled = settled;
        self.changed |= self.settled;
    }
}
