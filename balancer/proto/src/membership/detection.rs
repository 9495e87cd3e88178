//! Noticing that a member is silent, and making sure.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngExt;

use super::event::{Action, Link, Via};
use super::message::Message;
use super::watch::{Step, Watch};
use super::{Membership, ring};

/// Lateness of a timer from which on this member has not been running, rather than the others silent.
const STALL: Duration = Duration::from_millis(60);
/// Members asked about a silent one.
const WITNESSES: usize = 3;

/// Questions for others that are open at once.
const INQUIRIES: usize = 64;

/// A host that is asked for a member in another network.
#[derive(Debug)]
pub(super) struct Inquiry {
    node: String,
    host: IpAddr,
    from: SocketAddr,
    /// When its silence is told.
    pub(super) until: Instant,
}

impl Membership {
    /// A timer that fires late says that this process was not running: others' silence meanwhile is no news.
    pub(super) fn forgive_stall(&mut self, now: Instant) {
        let lost = self.deadline().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if lost > STALL {
            self.watches.values_mut().for_each(|watch| watch.forgive(lost, now));
        }
    }

    pub(super) fn poll_watches(&mut self, now: Instant) {
        let mut gone = vec![];
        let mut steps = vec![];
        for (node, watch) in &mut self.watches {
            let Some(peer) = self.peers.get(node) else { continue };
            let restart = peer.restart_until.is_some_and(|until| now < until);
            for step in watch.poll(now, &self.timing, restart) {
                match step {
                    Step::Gone => gone.extend(peer.identity.clone()),
                    Step::Probe | Step::Ask => steps.push((node.clone(), peer.address, step)),
                }
            }
        }
        for (node, address, step) in steps {
            if step == Step::Probe {
                self.send_via(address, &Message::Probe, Via::Datagram);
                self.send_via(address, &Message::Probe, Via::Stream);
                self.actions.push(Action::AskHost { node, address: address.ip() });
            } else {
                self.ask_witnesses(&node);
            }
        }
        if !gone.is_empty() {
            let effects = self.swim.declare_down(now, gone);
            self.apply(now, effects);
        }
    }

    fn ask_witnesses(&mut self, about: &str) {
        let others: Vec<SocketAddr> = self
            .peers
            .iter()
            .filter(|(node, peer)| peer.up && node.as_str() != about)
            .map(|(_, peer)| peer.address)
            .collect();
        let start = self.rng.random_range(0..others.len().max(1));
        for address in others.iter().cycle().skip(start).take(WITNESSES.min(others.len())) {
            self.send(*address, &Message::Ask { node: about.to_owned() });
        }
    }

    pub(super) fn host_answered(&mut self, now: Instant, address: IpAddr) {
        self.is_no_silence(address);
        self.watches_of(address).for_each(|(_, watch)| watch.host_heard(now));
        for Inquiry { node, from, .. } in
            self.inquiries.extract_if(.., |inquiry| inquiry.host == address).collect::<Vec<_>>()
        {
            self.send(from, &Message::HostAnswers { node, answers: true });
        }
    }

    /// Has those who are nearest to the host ask it.
    pub(super) fn host_out_of_reach(&mut self, now: Instant, address: IpAddr) {
        self.is_no_silence(address);
        self.inquiries.retain(|inquiry| inquiry.host != address);
        let timing = self.timing;
        let watched: Vec<String> = self
            .watches_of(address)
            .filter_map(|(node, watch)| watch.host_out_of_reach(now, &timing).then(|| node.clone()))
            .collect();
        for node in watched {
            for to in self.nearest(address, &node) {
                self.send(to, &Message::AskHost { node: node.clone() });
            }
        }
    }

    fn watches_of(&mut self, address: IpAddr) -> impl Iterator<Item = (&String, &mut Watch)> {
        let peers = &self.peers;
        let is_of = move |node: &String| peers.get(node).is_some_and(|peer| peer.address.ip() == address);
        self.watches.iter_mut().filter(move |(node, _)| is_of(node))
    }

    /// Of the members other than `about`, those whose addresses have most in common with `address`: where it is in a
    /// network with any, then with them.
    fn nearest(&self, address: IpAddr, about: &str) -> Vec<SocketAddr> {
        let others = self.peers.iter().filter(|(node, peer)| peer.up && node.as_str() != about);
        let mut others: Vec<_> = others
            .map(|(node, peer)| (Reverse(common_bits(address, peer.address.ip())), node, peer.address))
            .collect();
        others.sort_unstable();
        others.into_iter().take(WITNESSES).map(|(.., address)| address).collect()
    }

    /// Asks a host for a member that cannot.
    pub(super) fn inquire(&mut self, now: Instant, node: String, from: SocketAddr) {
        // Two that cannot ask it must not ask each other without end.
        if self.watches.get(&node).is_some_and(|watch| watch.is_out_of_reach(now)) {
            return;
        }
        let Some(host) =
            self.peers.get(&node).map(|peer| peer.address.ip()).filter(|_| self.link != Link::Dead)
        else {
            return;
        };
        self.actions.push(Action::AskHost { node: node.clone(), address: host });
        let is_open = self.inquiries.iter().any(|open| open.node == node && open.from == from);
        if !is_open && self.inquiries.len() < INQUIRIES {
            let until = now + self.timing.probe_gap * 2;
            self.inquiries.push(Inquiry { node, host, from, until });
        }
    }

    /// Tells of hosts that left the questions of others without an answer.
    pub(super) fn end_inquiries(&mut self, now: Instant) {
        for Inquiry { node, from, .. } in
            self.inquiries.extract_if(.., |inquiry| inquiry.until <= now).collect::<Vec<_>>()
        {
            self.send(from, &Message::HostAnswers { node, answers: false });
        }
    }

    pub(super) fn speaker_answered(&mut self, now: Instant, node: &str) {
        if let Some(watch) = self.watches.get_mut(node) {
            watch.answered(now);
        }
    }

    pub(super) fn choose_targets(&mut self) {
        let up = self.peers.iter().filter(|(_, peer)| peer.up).map(|(node, _)| node.as_str());
        let targets: BTreeSet<String> =
            ring::successors(&self.node, up).into_iter().map(str::to_owned).collect();
        for left in self.targets.difference(&targets).cloned().collect::<Vec<_>>() {
            self.send_to_node(&left, &Message::Unwatch);
        }
        for joined in targets.difference(&self.targets).cloned().collect::<Vec<_>>() {
            let heartbeat = self.heartbeat();
            self.send_to_node(&joined, &heartbeat);
        }
        self.targets = targets;
    }
}

/// Leading bits that two addresses of one family have in common.
fn common_bits(one: IpAddr, other: IpAddr) -> u32 {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        _ => 0,
    }
}
