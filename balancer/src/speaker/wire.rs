//! Checks on the wire: what this node is to look at, and whom it asks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use metallb_core::plan::Plan;
use metallb_proto::layer2::wire_check::{Question, Subject};
use metallb_proto::membership::Roster;

use super::announcer::Probe;
use super::layer2::unspecified;
use super::links::Snapshot;

/// The addresses that this node checks, as far as their owners told their link-layer addresses.
pub(super) fn subjects(plan: &Plan, roster: Option<&Roster>) -> BTreeMap<IpAddr, Subject> {
    let Some(roster) = roster else { return BTreeMap::new() };
    let subject = |node: &String| {
        let facts = roster.members.get(node)?.as_ref()?;
        Some(Subject { macs: facts.macs.clone(), host: *roster.hosts.get(node)? })
    };
    plan.checks.iter().filter_map(|(address, node)| Some((*address, subject(node)?))).collect()
}

/// What an interface asks for one check: nothing where it is in no network with the address or with its owner.
pub(super) fn probes(links: &Snapshot, interface: u32, question: Question) -> Vec<Probe> {
    let own = |target: IpAddr| {
        let net = links.links.addresses(interface).find(|net| net.contains(&target));
        net.map(|net| Probe { target, from: net.addr(), is_wanted: false })
    };
    let (address, host) = (own(question.address), own(question.host));
    let address = address.or_else(|| {
        // Seen from the owner's network, though the address is in none of this node's.
        host.map(|_| Probe {
            target: question.address,
            from: unspecified(question.address),
            is_wanted: false,
        })
    });
    address.into_iter().chain(host).collect()
}
