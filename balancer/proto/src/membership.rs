//! Membership of speakers: which nodes have a living speaker.
//!
//! SWIM (by foca) keeps the list of members and spreads its changes. On top of it each member sends heartbeats to its
//! three followers on a ring, which bounds the time until a death is noticed; a silent member is probed, others are
//! asked about it, and its host is asked at link level before it is declared down. Datagrams are sealed with the
//! cluster's secret; replays and foreign packets are dropped and counted.
//!
//! [`Membership`] owns no socket and no clock: [`Membership::handle`] takes events and returns actions, and wants to
//! be called with [`Event::Timeout`] at [`Membership::deadline`].

mod dead;
mod detection;
mod event;
mod facts;
mod fence;
mod identity;
mod intake;
mod joining;
mod link;
mod message;
mod outlet;
mod peer;
mod ring;
mod roster;
mod seal;
mod session;
mod settings;
mod swim;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::layer2::MacAddress;

use detection::Inquiry;
use fence::Fence;
use identity::Identity;
use joining::KnownSeed;
use link::Wait;
use message::Message;
use peer::Peer;
use seal::Seal;
use session::Sessions;
use swim::{Change, Effects, Swim};
use watch::Watch;

pub use event::{Action, Counters, Event, Facts, Link, Roster, Seed, Via};
pub use seal::{Secret, Secrets};
pub use settings::{Settings, Timing};

/// One speaker's part in the membership.
pub struct Membership {
    node: String,
    address: SocketAddr,
    timing: Timing,
    rng: StdRng,
    seal: Seal,
    /// Members that are known to have the current secret.
    current: BTreeSet<SocketAddr>,
    sessions: Sessions,
    fence: Fence,
    swim: Swim,
    peers: BTreeMap<String, Peer>,
    watches: BTreeMap<String, Watch>,
    /// Hosts that are asked for members that cannot.
    inquiries: Vec<Inquiry>,
    /// Whom this member sends heartbeats.
    targets: BTreeSet<String>,
    next_heartbeat: Instant,
    link: Link,
    /// For whom is waited since it is back.
    wait: Option<Wait>,
    seeds: Option<BTreeMap<String, KnownSeed>>,
    /// Seeds that are no members, in the order in which they are tried.
    absent: Vec<String>,
    next_join: Instant,
    settled: bool,
    /// Whether this member has given up its part.
    left: bool,
    roster: Roster,
    /// Whether the roster may have changed since it was last told.
    changed: bool,
    /// Members that are reached by TCP, until when: their datagrams came that way.
    streams: BTreeMap<SocketAddr, Instant>,
    /// What this node is able to do; `None` until it is known.
    facts: Option<Facts>,
    facts_version: u32,
    /// When whoever did not confirm the facts is told again, and the pause before that.
    facts_again: Instant,
    facts_pause: Duration,
    counters: Counters,
    actions: Vec<Action>,
}

impl Membership {
    /// A member that knows nobody yet.
    pub fn new(now: Instant, settings: Settings) -> Self {
        let Settings { node, address, epoch, secrets, seed, timing, fencing } = settings;
        let mut rng = StdRng::from_seed(seed);
        let identity = Identity { node: node.clone(), address, epoch };
        Self {
            seal: Seal::new(&secrets, rng.random()),
            current: BTreeSet::new(),
            sessions: Sessions::default(),
            fence: Fence::new(now, fencing, timing.heartbeat),
            swim: Swim::new(identity, &timing, rng.random()),
            node,
            address,
            timing,
            rng,
            peers: BTreeMap::new(),
            watches: BTreeMap::new(),
            inquiries: vec![],
            targets: BTreeSet::new(),
            next_heartbeat: now,
            link: Link::Works,
            wait: None,
            seeds: None,
            absent: vec![],
            next_join: now,
            settled: false,
            left: false,
            roster: Roster::default(),
            changed: true,
            streams: BTreeMap::new(),
            facts: None,
            facts_version: 0,
            facts_again: now,
            facts_pause: timing.heartbeat,
            counters: Counters::default(),
            actions: vec![],
        }
    }

    /// Takes one event in and does what is due.
    pub fn handle(&mut self, now: Instant, event: Event<'_>) -> Vec<Action> {
        if self.left {
            return vec![];
        }
        self.forgive_stall(now);
        match event {
            Event::Datagram { from, bytes, via } => self.datagram(now, from, bytes, via),
            Event::Seeds(seeds) => self.learn_seeds(now, seeds),
            Event::Timeout => {}
            Event::HostAnswered(address) => self.host_answered(now, address),
            Event::HostOutOfReach(address) => self.host_out_of_reach(now, address),
            Event::SpeakerAnswered(node) => self.speaker_answered(now, node),
            Event::Facts(facts) => self.set_facts(now, facts),
            Event::Secrets(secrets) => {
                self.seal.replace(&secrets);
                self.current.clear();
            }
            Event::Carrier(carrier) => self.set_carrier(now, carrier),
            Event::Restarting => self.tell_everybody(&Message::Restarting),
            Event::Leave => self.leave(now),
            Event::Expected(nodes) => self.fence.expect(nodes),
            Event::Witnessed(until) => self.fence.witness(until),
        }
        if !self.left {
            self.run_timers(now);
            self.settle(now);
        }
        self.publish(now);
        std::mem::take(&mut self.actions)
    }

    /// When [`Event::Timeout`] is wanted next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        let heartbeat = (!self.targets.is_empty()).then_some(self.next_heartbeat);
        let join = (!self.absent.is_empty()).then_some(self.next_join);
        let watches = self
            .watches
            .values()
            .filter(|_| self.link == Link::Works)
            .map(|watch| watch.deadline(&self.timing));
        let settle = self.settle_deadline();
        let inquiries = self.inquiries.iter().map(|inquiry| inquiry.until).min();
        let others = self.fence.deadline().into_iter().chain(self.linger_deadline()).chain(inquiries);
        let others = others.chain(self.link_deadline());
        watches.chain(heartbeat).chain(join).chain(settle).chain(others).chain(self.swim.deadline()).min()
    }

    /// What was sent and received.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn run_timers(&mut self, now: Instant) {
        self.streams.retain(|_, until| *until > now);
        self.end_lingering(now);
        self.end_inquiries(now);
        self.run_fence(now);
        let effects = self.swim.expire(now);
        self.apply(now, effects);
        self.run_link(now);
        if self.link == Link::Works {
            self.poll_watches(now);
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.timing.heartbeat;
            let heartbeat = self.heartbeat();
            for target in self.targets.clone() {
                self.send_to_node(&target, &heartbeat);
            }
            self.repeat_facts(now);
        }
        if now >= self.next_join && !self.absent.is_empty() {
            self.join(now);
        }
    }

    fn message(&mut self, now: Instant, from: SocketAddr, node: &str, message: Message) {
        let hint = !matches!(message, Message::Stale { .. } | Message::Leaving);
        match message {
            Message::Swim(packet) => match self.swim.receive(now, &packet) {
                Some(effects) => self.apply(now, effects),
                None => self.counters.malformed += 1,
            },
            Message::Heartbeat { facts } => {
                let Some(peer) = self.peers.get(node).filter(|peer| peer.up) else { return };
                let known = peer.facts.as_ref().map(|(version, _)| *version);
                self.watches.entry(node.to_owned()).or_insert_with(|| Watch::new(now));
                if facts > 0 && known != Some(facts) {
                    self.send(from, &Message::FactsWanted);
                }
            }
            Message::FactsWanted => self.send_facts(from),
            Message::Facts {
                version,
                interfaces,
                macs,
                kept,
                default_v4,
                default_v6,
                claims,
                no_ipv6,
                stays,
                uninformed,
            } => {
                let facts = Facts {
                    interfaces: interfaces.into_iter().collect(),
                    no_ipv6: no_ipv6.into_iter().collect(),
                    default_v4: default_v4.into_iter().collect(),
                    default_v6: default_v6.into_iter().collect(),
                    macs: macs.into_iter().map(MacAddress).collect(),
                    kept: kept.into_iter().collect(),
                    claims: claims
                        .into_iter()
                        .map(|(address, epoch, held)| (address, (epoch, held)))
                        .collect(),
                    stays: stays.into_iter().collect(),
                    uninformed,
                };
                let facts = self.learn_facts(node, version, facts);
                self.send(from, &Message::Known { facts });
            }
            Message::Known { facts } => {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.confirmed = facts;
                }
            }
            Message::Poll { token } => {
                if self.peers.get(node).is_some_and(|peer| peer.up) {
                    self.send(from, &Message::Vote { token });
                }
            }
            Message::Vote { token } => self.fence.voted(node, token),
            Message::Unwatch | Message::Alive { watched: false } => {
                self.watches.remove(node);
            }
            Message::Probe => {
                let watched = self.targets.contains(node);
                self.send(from, &Message::Alive { watched });
            }
            Message::Ask { node: about } => {
                let heard = self.peers.get(&about).and_then(|peer| peer.heard);
                let silence = heard.map(|heard| now.saturating_duration_since(heard));
                if let Some(silence) = silence.filter(|silence| *silence < self.timing.silence) {
                    let age = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
                    self.send(from, &Message::Vouch { node: about, age });
                }
            }
            Message::Vouch { node: about, age } => {
                let heard = now.checked_sub(Duration::from_millis(age.into()));
                if let Some((watch, heard)) = self.watches.get_mut(&about).zip(heard) {
                    watch.vouched(heard, now, &self.timing);
                }
            }
            Message::Stale { epoch } => {
                let mut effects = Effects::default();
                if let Some(later) = epoch.checked_add(1).filter(|later| *later > self.swim.me().epoch) {
                    effects.extend(self.swim.renew(now, later));
                }
                effects.extend(self.swim.announce(now, node, from));
                self.apply(now, effects);
            }
            Message::Down { nodes } => {
                let down = nodes
                    .into_iter()
                    .filter(|(node, ..)| *node != self.node)
                    .filter(|(node, ..)| self.peers.get(node).is_none_or(|peer| peer.identity.is_none()))
                    .map(|(node, address, epoch)| Identity { node, address, epoch })
                    .collect();
                self.learn_down(now, down);
            }
            Message::Restarting => {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.restart_until = Some(now + self.timing.restart_hold);
                }
            }
            Message::Leaving => {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.left = true;
                    // Others may have told already that it is down: nothing is waited for now.
                    self.changed |= peer.lingers_until.take().is_some();
                }
                if let Some(identity) =
                    self.peers.get(node).filter(|peer| peer.up).and_then(|peer| peer.identity.clone())
                {
                    let effects = self.swim.declare_down(now, vec![identity]);
                    self.apply(now, effects);
                }
            }
            Message::AskHost { node: about } => self.inquire(now, about, from),
            Message::HostAnswers { node: about, answers } => {
                if let Some(watch) = self.watches.get_mut(&about) {
                    if answers { watch.host_heard(now) } else { watch.host_silent(now) }
                }
            }
            Message::Alive { watched: true } | Message::Challenge { .. } | Message::Proof { .. } => {}
        }
        if hint {
            self.hint_stale(now, node);
        }
    }

    /// A member that was declared down and speaks all the same learns that it needs a new life, or that its new
    /// life is not known here.
    fn hint_stale(&mut self, now: Instant, node: &str) {
        let Some(peer) = self.peers.get_mut(node) else { return };
        let address = peer.address;
        if let Some(epoch) = peer.stale_epoch(now) {
            self.send(address, &Message::Stale { epoch });
        }
    }

    fn apply(&mut self, now: Instant, effects: Effects) {
        for (to, packet) in effects.packets {
            self.send(to, &Message::Swim(packet));
        }
        if effects.changes.is_empty() {
            return;
        }
        for change in effects.changes {
            self.change(now, &change);
        }
        self.choose_targets();
        self.list_absent();
    }

    fn change(&mut self, now: Instant, change: &Change) {
        let (Change::Up(identity) | Change::Down(identity) | Change::Renewed(identity)) = change;
        let node = identity.node.clone();
        let peer = self.peers.entry(node.clone()).or_insert_with(|| Peer::new(identity.address));
        peer.address = identity.address;
        peer.identity = Some(identity.clone());
        match change {
            Change::Up(_) => {
                peer.up = true;
                peer.restart_until = None;
                peer.left = false;
                peer.lingers_until = None;
                peer.confirmed = 0;
                let address = peer.address;
                // Brings the two to know each other before the first heartbeat counts.
                self.send(address, &Message::Probe);
                self.send_facts(address);
                self.report_down(address);
            }
            Change::Down(_) => {
                let wait = self.fence.take_over_wait();
                peer.lingers_until = (!peer.left && !wait.is_zero()).then(|| now + wait);
                peer.up = false;
                peer.heard = None;
                self.watches.remove(&node);
            }
            Change::Renewed(_) => {
                peer.restart_until = None;
                peer.confirmed = 0;
                let address = peer.address;
                if let Some(watch) = self.watches.get_mut(&node) {
                    watch.heard(now);
                }
                self.send_facts(address);
                self.report_down(address);
            }
        }
    }
}
