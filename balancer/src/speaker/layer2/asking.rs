//! What is asked on the wire, unasked by anybody: whether other hosts have an address, whether a node lives, and whether
//! exactly the owner of an address answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use metallb_core::plan::Plan;
use metallb_proto::layer2::MacAddress;
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
        let (actions, question) = self.questions.poll(Instant::now());
        for action in actions {
            self.act(links, plan, action);
        }
        if let Some(question) = question {
            for (index, running) in &self.announcers {
                for probe in wire::probes(links, *index, question) {
                    // Full when the interface is busy: the check is made again.
                    let _ = running.orders.try_send(Order::Ask(probe));
                }
            }
        }
        let overdue = self.questions.guard.overdue();
        if overdue > 0 && self.overdue == 0 {
            tracing::warn!(
                event = "probesOverdue",
                addresses = overdue,
                "announced before other hosts could be asked for these addresses"
            );
        }
        self.overdue = overdue;
        self.metrics.overdue(overdue);
        let seen = self.questions.checker.outcomes();
        checks.send_if_modified(|former| {
            let changed = *former != seen;
            if changed {
                self.metrics.wire_check(&seen);
                *former = seen;
            }
            changed
        });
    }

    /// Takes note of a claim. Tells whether that may change anything, and whose sign of life it is.
    pub(super) fn saw(
        &mut self,
        links: &Snapshot,
        plan: &Plan,
        roster: Option<&Roster>,
        sighting: Sighting,
    ) -> (bool, Option<Answer>) {
        let Sighting { interface, claim, is_probe } = sighting;
        let (now, guard) = (Instant::now(), &mut self.questions.guard);
        let known = [Some(&links.macs), roster.map(|roster| &roster.macs), Some(&self.settings.ignored)];
        let decoys = || decoys(links, interface, plan, claim.address);
        let changed = if known.into_iter().flatten().any(|macs| macs.contains(&claim.mac)) {
            false
        } else if is_probe {
            guard.probed(now, claim, decoys)
        } else {
            guard.claim(now, claim, decoys)
        };
        if is_probe {
            return (changed, None);
        }
        let ignored = self.settings.ignored.contains(&claim.mac) || guard.is_proxy(now, claim.mac);
        self.questions.checker.claim(claim, ignored);
        if plan.announcements.contains_key(&claim.address) {
            // Another interface of this node on the same segment hears what this one says.
            let is_kin = !links.macs.contains(&claim.mac) && is_member(roster, claim.mac);
            if !is_kin {
                return (changed, None);
            }
            let own = links.eligible.get(&interface).map(|interface| interface.mac);
            let own = own.filter(|_| !self.settings.ignored.contains(&claim.mac));
            let disputes = &mut self.questions.disputes;
            let news = own.is_some_and(|own| disputes.claim(now, claim.address, claim.mac, own));
            if let Some(action) = self.questions.guard.kin(now, claim.address) {
                self.act(links, plan, action);
            }
            return (news, None);
        }
        // An answer of another host, such as a proxy, is no sign of life of the owner.
        let is_of = |node: &String| {
            let facts = roster.and_then(|roster| roster.members.get(node)?.as_ref());
            facts.is_none_or(|facts| facts.macs.is_empty() || facts.macs.contains(&claim.mac))
        };
        let answer = match plan.elsewhere.get(&claim.address) {
            Some(node) => is_of(node).then(|| Answer::Speaker(node.clone())),
            None => {
                let hosts = roster.into_iter().flat_map(|roster| &roster.hosts);
                let mut named = hosts.filter(|(_, host)| **host == claim.address).map(|(node, _)| node);
                named.all(is_of).then_some(Answer::Host(claim.address))
            }
        };
        (changed, answer)
    }

    /// Forgets disputes that are settled by the plan, or by the end of the other node.
    pub(super) fn settle_disputes(&mut self, plan: &Plan, roster: Option<&Roster>) {
        let lasts = |address: &IpAddr, by| plan.announcements.contains_key(address) && is_member(roster, by);
        self.questions.disputes.retain(lasts);
    }

    /// Leaves addresses to other nodes that keep on announcing them unless this one `is_informed`: of two that know
    /// the same, one would have given way. They are left for as long as the other goes on: what this node learns after
    /// that is in its plan first. Tells whether there is any dispute.
    pub(super) fn judge_disputes(&mut self, plan: &Plan, doubts: &watch::Sender<bool>, is_informed: bool) {
        let disputes = &self.questions.disputes;
        let open = !disputes.is_empty();
        doubts.send_if_modified(|former| std::mem::replace(former, open) != open);
        let lasting = plan.announcements.keys().filter(|address| disputes.is_lasting(**address));
        let yielded: BTreeSet<IpAddr> =
            lasting.filter(|address| !is_informed || self.yielded.contains(*address)).copied().collect();
        for address in yielded.difference(&self.yielded) {
            tracing::warn!(
                event = "yielding",
                %address,
                "another node announces it too, and the API server does not tell whose it is: left to that node"
            );
        }
        for address in self.yielded.difference(&yielded) {
            tracing::info!(event = "yielded", %address, "no other node answers for it, or it is not to be announced here");
        }
        self.yielded = yielded;
    }

    /// Asks a node on each interface that has an address in a network with it, and its speaker on every interface. Returns
    /// whether there is an interface to ask the node on.
    pub(super) fn ask(&self, links: &Snapshot, plan: &Plan, question: &Question) -> bool {
        let mut is_in_reach = false;
        let announced = plan.elsewhere.iter().find(|(_, node)| **node == question.node);
        for (index, running) in &self.announcers {
            let from = links.links.addresses(*index).find(|net| net.contains(&question.address));
            let has_carrier = links.eligible.get(index).is_some_and(|interface| interface.carrier);
            if let Some(from) = from.map(|net| net.addr()).filter(|_| has_carrier) {
                is_in_reach = true;
                // Full when the interface is busy: the question comes again.
                let _ = running.orders.try_send(Order::Ask(Probe {
                    target: question.address,
                    from,
                    is_wanted: false,
                }));
            }
            if let Some((target, _)) = announced {
                let probe = Probe { target: *target, from: unspecified(*target), is_wanted: false };
                let _ = running.orders.try_send(Order::Ask(probe));
            }
        }
        is_in_reach
    }

    /// Does what guarding an address takes, on the interfaces that it is for.
    fn act(&self, links: &Snapshot, plan: &Plan, action: Action) {
        let address = match action {
            Action::Probe { address, .. } => address,
            Action::Defend(address) | Action::Again(address) | Action::Contest(address) => address,
        };
        let wanted = plan.announcements.get(&address);
        for (index, running) in &self.announcers {
            if !wanted.is_some_and(|interfaces| interfaces.contains(&running.name)) {
                continue;
            }
            let order = match action {
                Action::Probe { target, .. } => {
                    Order::Ask(Probe { target, from: unspecified(target), is_wanted: target == address })
                }
                Action::Defend(address) => Order::Defend(address),
                Action::Again(address) => Order::Again(address),
                Action::Contest(target) => {
                    let Some(from) = asker(links, *index, target) else { continue };
                    Order::Ask(Probe { target, from, is_wanted: false })
                }
            };
            // Full when the interface is busy: a probe comes again, and so does a claim.
            let _ = running.orders.try_send(order);
        }
    }
}

/// Whose question for an address only the asker hears the answer to: in IPv6, an answer to nobody would have all
/// neighbours believe it.
fn asker(links: &Snapshot, interface: u32, target: IpAddr) -> Option<IpAddr> {
    match target {
        IpAddr::V4(_) => Some(unspecified(target)),
        IpAddr::V6(_) => links.links.addresses(interface).map(|net| net.addr()).find(IpAddr::is_ipv6),
    }
}

/// Whether a link-layer address is that of a node whose speaker lives.
fn is_member(roster: Option<&Roster>, mac: MacAddress) -> bool {
    let mut facts = roster.into_iter().flat_map(|roster| roster.members.values().flatten());
    facts.any(|facts| facts.macs.contains(&mac))
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
