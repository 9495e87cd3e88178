//! Noticing that a member is silent, and making sure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::RngExt;

use super::event::{Action, Via};
use super::message::Message;
use super::watch::Step;
use super::{Membership, ring};

/// Lateness of a timer from which on this member has not been running, rather than the others silent.
const STALL: Duration = Duration::from_millis(60);
/// Members asked about a silent one.
const WITNESSES: usize = 3;

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
            let hold = if restart { self.timing.restart_hold } else { self.timing.crash_hold };
            for step in watch.poll(now, &self.timing, hold) {
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
        for (node, watch) in &mut self.watches {
            if self.peers.get(node).is_some_and(|peer| peer.address.ip() == address) {
                watch.host_heard(now);
            }
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
