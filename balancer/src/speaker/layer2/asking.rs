//! What is asked on the wire, unasked by anybody: whether other hosts have an address, whether a node lives, and whether
//! exactly the owner of an address answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use metallb_core::plan::Plan;
use metallb_proto::layer2::conflict::{self, Action};
use metallb_proto::layer2::wire_check::Outcome;
use metallb_proto::membership::Roster;
use tokio::sync::watch;

use super::{Answer, Layer2, Question};
use crate::speaker::announcer::{Order, Probe, Sighting};
use crate::speaker::links::Snapshot;
use crate::speaker::wire;

impl Layer2 {
    /// Asks what is due.
    pub(super) fn poll(
        &mut self,
        links: &Snapshot,
        plan: &Plan,
        checks: &watch::Sender<BTreeMap<IpAddr, Outcome>>,
    ) {
        let now = Instant::now();
        for action in self.guard.poll(now, &mut self.budget) {
            self.act(plan, action);
        }
        if let Some(question) = self.checker.poll(now, &mut self.budget) {
            for (index, running) in &self.announcers {
                for probe in wire::probes(links, *index, question) {
                    // Full when the interface is busy: the check is made again.
                    let _ = running.orders.try_send(Order::Ask(probe));
                }
            }
        }
        let overdue = self.guard.overdue();
        if overdue > 0 && self.overdue == 0 {
            tracing::warn!(
                event = "probesOverdue",
                addresses = overdue,
                "announced before other hosts could be asked for these addresses"
            );
        }
        self.overdue = overdue;
        self.metrics.overdue(overdue);
        let seen = self.checker.outcomes();
        checks.send_if_modified(|former| {
            let changed = *former != seen;
            if changed {
                self.metrics.wire_check(&seen);
                *former = seen;
            }
            changed
        });
    }

    /// Takes note of a claim, and tells whose sign of life it is.
    pub(super) fn saw(
        &mut self,
        links: &Snapshot,
        plan: &Plan,
        roster: Option<&Roster>,
        sighting: Sighting,
    ) -> Option<Answer> {
        let Sighting { interface, claim } = sighting;
        self.checker.claim(claim);
        let known = [Some(&links.macs), roster.map(|roster| &roster.macs), Some(&self.settings.ignored)];
        if !known.into_iter().flatten().any(|macs| macs.contains(&claim.mac)) {
            let decoys = || decoys(links, interface, plan, claim.address);
            for action in self.guard.claim(Instant::now(), claim, &mut self.budget, decoys) {
                self.act(plan, action);
            }
        }
        match plan.elsewhere.get(&claim.address) {
            // An answer of another host is no sign of life of the owner.
            Some(node) => {
                let facts = roster.and_then(|roster| roster.members.get(node)?.as_ref());
                let its_own =
                    facts.is_none_or(|facts| facts.macs.is_empty() || facts.macs.contains(&claim.mac));
                its_own.then(|| Answer::Speaker(node.clone()))
            }
            None => Some(Answer::Host(claim.address)),
        }
    }

    /// Asks a node on each interface that has an address in a network with it, and its speaker on every interface.
    pub(super) fn ask(&self, links: &Snapshot, plan: &Plan, question: &Question) {
        let announced = plan.elsewhere.iter().find(|(_, node)| **node == question.node);
        for (index, running) in &self.announcers {
            let from = links.links.addresses(*index).find(|net| net.contains(&question.address));
            if let Some(from) = from.map(|net| net.addr()) {
                // Full when the interface is busy: the question comes again.
                let _ = running.orders.try_send(Order::Ask(Probe { target: question.address, from }));
            }
            if let Some((target, _)) = announced {
                let probe = Probe { target: *target, from: unspecified(*target) };
                let _ = running.orders.try_send(Order::Ask(probe));
            }
        }
    }

    /// Does what guarding an address takes, on the interfaces that it is for.
    fn act(&self, plan: &Plan, action: Action) {
        let (address, order) = match action {
            Action::Probe { address, target } => {
                (address, Order::Ask(Probe { target, from: unspecified(target) }))
            }
            Action::Defend(address) => (address, Order::Defend(address)),
        };
        let wanted = plan.announcements.get(&address);
        for running in self.announcers.values() {
            if wanted.is_some_and(|interfaces| interfaces.contains(&running.name)) {
                // Full when the interface is busy: a probe comes again, and so does a claim.
                let _ = running.orders.try_send(order);
            }
        }
    }
}

/// Addresses that are probably free in the network that `address` belongs to on an interface.
fn decoys(links: &Snapshot, interface: u32, plan: &Plan, address: IpAddr) -> [IpAddr; conflict::DECOYS] {
    let network = links.links.addresses(interface).find(|net| net.contains(&address));
    let taken = |decoy: &IpAddr| {
        plan.announcements.contains_key(decoy)
            || plan.elsewhere.contains_key(decoy)
            || links.links.addresses(interface).any(|net| net.addr() == *decoy)
    };
    [(); conflict::DECOYS].map(|()| {
        let draw = || conflict::decoy(address, network, rand::random());
        // A network that is full of our own addresses yields one of them in the end.
        (0..16).map(|_| draw()).find(|decoy| !taken(decoy)).unwrap_or_else(draw)
    })
}

pub(in crate::speaker) fn unspecified(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
