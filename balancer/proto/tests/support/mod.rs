//! A cluster of members under a virtual clock: no socket, no thread, no waiting.
#![allow(dead_code, reason = "each program that includes this uses its own part of it")]

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use metallb_proto::membership::{
    Action, Counters, Event, Facts, Membership, Roster, Secret, Seed, Settings, Timing, Via,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Time that a datagram takes.
const LATENCY: Duration = Duration::from_micros(200);

pub(crate) struct Cluster {
    origin: Instant,
    pub(crate) now: Instant,
    rng: SmallRng,
    nodes: Vec<Node>,
    deadlines: BTreeSet<(Instant, usize)>,
    deliveries: BinaryHeap<Reverse<(Instant, u64, usize, Delivery)>>,
    sequence: u64,
    /// Part of the datagrams that are lost, from 0 to 1.
    pub(crate) loss: f64,
    /// Whether members that are started fence themselves.
    fencing: bool,
    /// How patient they are.
    timing: Timing,
    /// Whether UDP is dropped everywhere, and TCP is not.
    pub(crate) udp_blocked: bool,
    /// How much longer TCP takes.
    pub(crate) stream_delay: Duration,
    /// Every datagram delivered, when recording.
    pub(crate) record: Option<Vec<(usize, SocketAddr, Vec<u8>)>>,
    /// Every removal that some member saw: when, by whom, of whom.
    pub(crate) removals: Vec<(Duration, usize, String)>,
}

struct Node {
    member: Option<Membership>,
    deadline: Option<Instant>,
    pub(crate) roster: Roster,
    host: bool,
    /// Something on it answers for the addresses that it announced, whatever became of its part in the membership.
    announces: bool,
    /// Nodes in different groups do not reach each other.
    group: usize,
    /// Nodes in different networks reach each other through routers, and not at link level.
    network: usize,
    starts: u64,
    secret: &'static str,
    /// Not scheduled until then.
    stalled: Option<Instant>,
    /// The machine stands still until then: its kernel answers nobody before.
    frozen: Option<Instant>,
    /// Until when it may announce.
    hold: Option<Instant>,
    /// Whether it wants the word of the API server.
    wants_witness: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Delivery {
    Datagram(SocketAddr, Vec<u8>, Via),
    HostAnswered(IpAddr),
    HostOutOfReach(IpAddr),
    SpeakerAnswered(String),
}

pub(crate) fn address(index: usize) -> SocketAddr {
    let number = u32::try_from(index + 1).unwrap();
    SocketAddr::new(Ipv4Addr::from(0xac16_0000 + number).into(), 7946)
}

fn index_of(address: IpAddr) -> Option<usize> {
    let IpAddr::V4(ip) = address else { return None };
    usize::try_from(u32::from(ip).checked_sub(0xac16_0001)?).ok()
}

pub(crate) fn name(index: usize) -> String {
    format!("node{}", index + 1)
}

impl Cluster {
    /// `size` nodes that are powered on and whose speakers have not started.
    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        let origin = Instant::now();
        let node = || Node {
            member: None,
            deadline: None,
            roster: Roster::default(),
            host: true,
            announces: false,
            group: 0,
            network: 0,
            starts: 0,
            secret: "shared",
            stalled: None,
            frozen: None,
            hold: None,
            wants_witness: false,
        };
        Self {
            origin,
            now: origin,
            rng: SmallRng::seed_from_u64(seed),
            nodes: (0..size).map(|_| node()).collect(),
            deadlines: BTreeSet::new(),
            deliveries: BinaryHeap::new(),
            sequence: 0,
            loss: 0.0,
            fencing: false,
            timing: Timing::FAST,
            udp_blocked: false,
            stream_delay: Duration::ZERO,
            record: None,
            removals: vec![],
        }
    }

    /// `size` nodes whose speakers have found each other.
    pub(crate) fn joined(size: usize, seed: u64) -> Self {
        Self::new(size, seed).join(size)
    }

    /// The same with `fencing: Strict`.
    pub(crate) fn fenced(size: usize, seed: u64) -> Self {
        Self { fencing: true, ..Self::new(size, seed) }.join(size)
    }

    /// The same with `detection: Tolerant`.
    pub(crate) fn tolerant(size: usize, seed: u64) -> Self {
        Self { timing: Timing::TOLERANT, ..Self::new(size, seed) }.join(size)
    }

    fn join(self, size: usize) -> Self {
        let mut cluster = self;
        for index in 0..size {
            cluster.start(index);
        }
        let everyone: BTreeSet<String> = (0..size).map(name).collect();
        let patience = Duration::from_secs(60);
        assert!(
            cluster.run_until(patience, |cluster| (0..size).all(|index| cluster.knows(index, &everyone))),
            "not joined after {patience:?}: node1 knows {} of {size}",
            cluster.members(0).len()
        );
        // Heartbeats and proofs of the last joins.
        cluster.run(Duration::from_secs(2));
        cluster
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.origin
    }

    pub(crate) fn roster(&self, index: usize) -> &Roster {
        &self.nodes[index].roster
    }

    pub(crate) fn members(&self, index: usize) -> BTreeSet<String> {
        self.nodes[index].roster.members.keys().cloned().collect()
    }

    /// Whether the members that `index` knows are those of `want`.
    pub(crate) fn knows(&self, index: usize, want: &BTreeSet<String>) -> bool {
        self.nodes[index].roster.members.keys().eq(want)
    }

    /// What `index` knows of the node `other`.
    pub(crate) fn facts(&self, index: usize, other: usize) -> Option<Facts> {
        self.nodes[index].roster.members.get(&name(other)).cloned().flatten()
    }

    /// Whether a node may announce now.
    pub(crate) fn may_announce(&self, index: usize) -> bool {
        self.nodes[index].hold.is_some_and(|until| self.now < until)
    }

    pub(crate) fn wants_witness(&self, index: usize) -> bool {
        self.nodes[index].wants_witness
    }

    pub(crate) fn counters(&self, index: usize) -> Counters {
        self.nodes[index].member.as_ref().map(Membership::counters).unwrap_or_default()
    }

    pub(crate) fn start(&mut self, index: usize) {
        self.start_at_epoch(index, 1_000_000 * (self.nodes[index].starts + 1));
    }

    /// Starts the speaker of a node, whose clock says `epoch`.
    pub(crate) fn start_at_epoch(&mut self, index: usize, epoch: u64) {
        let node = &mut self.nodes[index];
        node.starts += 1;
        node.host = true;
        let settings = Settings {
            node: name(index),
            address: address(index),
            epoch,
            secrets: Secret::new(node.secret).into(),
            seed: self.rng.random(),
            timing: self.timing,
            fencing: self.fencing,
        };
        node.member = Some(Membership::new(self.now, settings));
        let seeds = (0..self.nodes.len())
            .map(|other| Seed { node: name(other), address: address(other), ready: true })
            .collect();
        self.handle(index, Event::Expected((0..self.nodes.len()).map(name).collect()));
        self.handle(index, Event::Seeds(seeds));
    }

    pub(crate) fn secret(&mut self, index: usize, secret: &'static str) {
        self.nodes[index].secret = secret;
    }

    /// The speaker ends at once; the kernel of its node goes on.
    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].member = None;
        self.nodes[index].hold = None;
        self.nodes[index].roster = Roster::default();
        if let Some(deadline) = self.nodes[index].deadline.take() {
            self.deadlines.remove(&(deadline, index));
        }
    }

    pub(crate) fn power_off(&mut self, index: usize) {
        self.kill(index);
        self.nodes[index].host = false;
    }

    pub(crate) fn host_gone(&mut self, index: usize) {
        self.nodes[index].host = false;
    }

    pub(crate) fn host_back(&mut self, index: usize) {
        self.nodes[index].host = true;
    }

    /// A node answers for the addresses that it announced, though its part in the membership is over.
    pub(crate) fn announces(&mut self, index: usize) {
        self.nodes[index].announces = true;
    }

    /// Puts a node into a group; groups do not reach each other.
    pub(crate) fn group(&mut self, index: usize, group: usize) {
        self.nodes[index].group = group;
    }

    /// Puts a node into a network; hosts answer at link level in their own.
    pub(crate) fn network(&mut self, index: usize, network: usize) {
        self.nodes[index].network = network;
    }

    /// The speaker of a node is not scheduled for a while; what arrives waits for it.
    pub(crate) fn stall(&mut self, index: usize, time: Duration) {
        self.nodes[index].stalled = Some(self.now + time);
    }

    /// The machine of a node stands still for a while, as one that is migrated: its speaker, and its kernel too.
    pub(crate) fn freeze(&mut self, index: usize, time: Duration) {
        self.stall(index, time);
        self.nodes[index].frozen = self.nodes[index].stalled;
    }

    pub(crate) fn tell(&mut self, index: usize, event: Event<'_>) {
        self.handle(index, event);
    }

    /// Hands a datagram to a node as if it came from `from`.
    pub(crate) fn inject(&mut self, index: usize, from: SocketAddr, bytes: Vec<u8>) {
        self.deliver(index, Delivery::Datagram(from, bytes, Via::Datagram));
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, at most for `limit`; returns whether it was done.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            let delivery = self.deliveries.peek().map(|Reverse((at, ..))| *at);
            let deadline = self.deadlines.first().map(|(at, _)| *at);
            let Some(next) = delivery.into_iter().chain(deadline).min().filter(|next| *next <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            if delivery == Some(next) {
                self.deliver_next();
            } else if let Some((_, index)) = self.deadlines.pop_first() {
                match self.nodes[index].stalled.filter(|until| *until > self.now) {
                    Some(until) => {
                        self.deadlines.insert((until, index));
                        self.nodes[index].deadline = Some(until);
                    }
                    None => {
                        self.nodes[index].deadline = None;
                        self.handle(index, Event::Timeout);
                    }
                }
            }
        }
    }

    fn deliver_next(&mut self) {
        let Some(Reverse((_, sequence, index, delivery))) = self.deliveries.pop() else { return };
        if let Some(until) = self.nodes[index].stalled.filter(|until| *until > self.now) {
            self.deliveries.push(Reverse((until, sequence, index, delivery)));
            return;
        }
        match delivery {
            Delivery::Datagram(from, bytes, via) => {
                if let Some(record) = &mut self.record {
                    record.push((index, from, bytes.clone()));
                }
                self.handle(index, Event::Datagram { from, bytes: &bytes, via });
            }
            Delivery::HostAnswered(host) => self.handle(index, Event::HostAnswered(host)),
            Delivery::HostOutOfReach(host) => self.handle(index, Event::HostOutOfReach(host)),
            Delivery::SpeakerAnswered(node) => self.handle(index, Event::SpeakerAnswered(&node)),
        }
    }

    fn handle(&mut self, index: usize, event: Event<'_>) {
        let Some(member) = self.nodes[index].member.as_mut() else { return };
        let actions = member.handle(self.now, event);
        let deadline = member.deadline();
        if self.nodes[index].deadline != deadline {
            if let Some(former) = self.nodes[index].deadline {
                self.deadlines.remove(&(former, index));
            }
            if let Some(deadline) = deadline {
                self.deadlines.insert((deadline, index));
            }
            self.nodes[index].deadline = deadline;
        }
        for action in actions {
            self.act(index, action);
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::Send { to, bytes, via } => {
                let lost = via == Via::Datagram && (self.udp_blocked || self.rng.random_bool(self.loss));
                let Some(receiver) = self.reached(index, to.ip()).filter(|_| !lost) else { return };
                let (mut from, mut sent) = (address(index), self.now);
                if via == Via::Stream {
                    // The end of a connection that was opened has any port.
                    from.set_port(40_000);
                    sent += self.stream_delay;
                }
                self.deliver_at(sent, receiver, Delivery::Datagram(from, bytes, via));
            }
            Action::AskHost { address: host, .. } if !self.shares_network(index, host) => {
                self.deliver(index, Delivery::HostOutOfReach(host));
            }
            Action::AskHost { address: host, node } => {
                if let Some(asked) = self.reached(index, host).filter(|asked| self.nodes[*asked].host) {
                    let answers = self.nodes[asked].frozen.map_or(self.now, |until| until.max(self.now));
                    self.deliver_at(answers, index, Delivery::HostAnswered(host));
                    if self.nodes[asked].announces {
                        self.deliver_at(answers, index, Delivery::SpeakerAnswered(node));
                    }
                }
            }
            Action::Hold(until) => self.nodes[index].hold = Some(until),
            Action::Witness(wanted) => self.nodes[index].wants_witness = wanted,
            Action::Roster(roster) => {
                let time = self.elapsed();
                let former = self.nodes[index].roster.members.keys();
                let gone = former.filter(|node| !roster.members.contains_key(*node));
                self.removals.extend(gone.map(|gone| (time, index, gone.clone())));
                self.nodes[index].roster = roster;
            }
        }
    }

    fn shares_network(&self, index: usize, host: IpAddr) -> bool {
        let node = |index: usize| self.nodes.get(index).map(|node| node.network);
        index_of(host).is_some_and(|host| node(host) == node(index))
    }

    fn reached(&self, from: usize, to: IpAddr) -> Option<usize> {
        let index = index_of(to)?;
        let node = self.nodes.get(index)?;
        (node.host && node.group == self.nodes[from].group).then_some(index)
    }

    fn deliver(&mut self, index: usize, delivery: Delivery) {
        self.deliver_at(self.now, index, delivery);
    }

    fn deliver_at(&mut self, sent: Instant, index: usize, delivery: Delivery) {
        self.sequence += 1;
        self.deliveries.push(Reverse((sent + LATENCY, self.sequence, index, delivery)));
    }
}
