//! Finding the other members, and knowing when everybody has been heard or waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Membership;
use super::event::{Action, Seed, Via};
use super::message::Message;
use super::swim::MEMORY;

/// Seeds asked for the first time in one attempt to join.
const NEW_SEEDS_AT_ONCE: usize = 64;
/// Seeds asked again in one attempt to join.
const OLD_SEEDS_AT_ONCE: usize = 8;

/// Questions that a host has to leave without an answer before it counts as off.
const HOST_QUESTIONS: u32 = 3;
/// How long an answer of a host is waited for.
const HOST_PATIENCE: Duration = Duration::from_millis(100);
/// Time between two questions to a host that counts as off.
const HOST_INTERVAL: Duration = Duration::from_secs(1);

/// What is known at link level of a node whose speaker was never heard.
#[derive(Default)]
pub(super) struct Host {
    /// Questions since it answered, or since it turned out that it cannot be asked.
    asked: u32,
    last: Option<Instant>,
}

impl Host {
    /// Whether it is to be asked now, which counts as a question.
    fn ask(&mut self, now: Instant) -> bool {
        let pause = if self.asked < HOST_QUESTIONS { Duration::ZERO } else { HOST_INTERVAL };
        let due = self.last.is_none_or(|last| last + pause <= now);
        if due {
            self.asked = self.asked.saturating_add(1);
            self.last = Some(now);
        }
        due
    }

    /// Whether it was asked often enough, and in vain.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let open = self.last.is_some_and(|last| now < last + HOST_PATIENCE);
        self.asked.saturating_sub(u32::from(open)) >= HOST_QUESTIONS
    }
}

/// A seed, and since when it is asked.
pub(super) struct KnownSeed {
    pub(super) address: SocketAddr,
    pub(super) ready: bool,
    pub(super) first_tried: Option<Instant>,
    pub(super) host: Host,
}

impl Membership {
    pub(super) fn learn_seeds(&mut self, now: Instant, seeds: Vec<Seed>) {
        let mut known = self.seeds.take().unwrap_or_default();
        self.seeds = Some(
            seeds
                .into_iter()
                .filter(|seed| seed.node != self.node)
                .map(|Seed { node, address, ready }| {
                    let former = known.remove(&node);
                    let first_tried = former.as_ref().and_then(|seed| seed.first_tried);
                    let host = former.filter(|seed| seed.address == address).map(|seed| seed.host);
                    (node, KnownSeed { address, ready, first_tried, host: host.unwrap_or_default() })
                })
                .collect(),
        );
        self.forget(now);
        self.list_absent();
        self.next_join = now;
    }

    /// Forgets nodes that have been no members, and should have had no speaker, for as long as SWIM remembers the dead.
    fn forget(&mut self, now: Instant) {
        let seeds = self.seeds.as_ref();
        self.peers.retain(|node, peer| {
            let is_wanted = peer.up || seeds.is_some_and(|seeds| seeds.contains_key(node));
            peer.unwanted = if is_wanted { None } else { peer.unwanted.or(Some(now)) };
            peer.unwanted.is_none_or(|since| now < since + MEMORY)
        });
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
            let is_unheard = self.peers.get(&node).is_none_or(|peer| peer.identity.is_none());
            if seed.ready && is_unheard && seed.host.ask(now) {
                self.actions.push(Action::AskHost { node: node.clone(), address: address.ip() });
            }
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

    /// A host answered, or cannot be asked: it does not count as off.
    pub(super) fn is_no_silence(&mut self, address: IpAddr) {
        for seed in self.seeds.iter_mut().flat_map(BTreeMap::values_mut) {
            if seed.address.ip() == address {
                self.changed |= seed.host.asked >= HOST_QUESTIONS;
                seed.host.asked = 0;
            }
        }
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
