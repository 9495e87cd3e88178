//! `electionPolicy: Even`: addresses spread over the nodes with bounded load, and few of them move.
//!
//! Unlike the hash, an even spread has a memory: who has an address is a claim with an epoch, told by the node that
//! announces it and written down for speakers that start anew. A node takes an address only when nobody alive claims it;
//! one that is to give an address away releases it first. Every speaker computes the same from the same claims, and
//! where two views differ for a moment the later epoch wins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::election::rank_of;

/// The most shares that a node is given: it has to tell all that it has in one message.
pub const MOST: usize = 2600;

/// What a node says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Grows by one each time the address is taken from another node.
    pub epoch: u32,
    /// Whether the node announces the address, or has released it.
    pub held: bool,
}

/// Who says what of one address, by node.
pub type Claims = BTreeMap<String, Claim>;

/// The node that holds an address by these claims: the one with the latest epoch, of several the one that the hash
/// prefers.
pub fn holder<'a>(address: IpAddr, claims: impl Iterator<Item = (&'a str, Claim)>) -> Option<&'a str> {
    let held = claims.filter(|(_, claim)| claim.held);
    held.min_by_key(|(node, claim)| (Reverse(claim.epoch), rank_of(node, address))).map(|(node, _)| node)
}

/// Addresses that go together, and who may announce them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share<'a> {
    /// The address by which they are known.
    pub address: IpAddr,
    /// The nodes that may announce them, none of which is preferred to another.
    pub nodes: BTreeSet<&'a str>,
    /// The living node that holds them.
    pub holder: Option<&'a str>,
    /// Whether they stay with their holder whatever its load.
    pub pinned: bool,
}

/// The node for each share, in the same order; `None` where no node may announce it, or each that may has `most`.
///
/// A holder that may keep a share keeps it, free ones go to the node with the fewest, and then shares move from nodes
/// that have two more than another.
pub fn spread<'a>(shares: &[Share<'a>], most: usize) -> Vec<Option<&'a str>> {
    let mut loads: BTreeMap<&'a str, usize> =
        shares.iter().flat_map(|share| &share.nodes).map(|node| (*node, 0)).collect();
    let mut owners: Vec<Option<&'a str>> =
        shares.iter().map(|share| share.holder.filter(|holder| share.nodes.contains(holder))).collect();
    for owner in owners.iter().flatten() {
        *loads.entry(owner).or_default() += 1;
    }
    for (share, owner) in shares.iter().zip(&mut owners).filter(|(_, owner)| owner.is_none()) {
        let load = |node: &&'a str| loads.get(*node).copied().unwrap_or_default();
        let nodes = share.nodes.iter().copied().filter(|node| load(node) < most);
        *owner = nodes.min_by_key(|node| (load(node), rank_of(node, share.address)));
        if let Some(owner) = owner {
            *loads.entry(owner).or_default() += 1;
        }
    }
    // Each move makes the loads more even, so there are never more moves than shares.
    for _ in shares {
        let Some((index, from, to)) = next_move(shares, &owners, &loads) else { break };
        if let Some(owner) = owners.get_mut(index) {
            *owner = Some(to);
        }
        *loads.entry(to).or_default() += 1;
        loads.entry(from).and_modify(|load| *load -= 1);
    }
    owners
}

/// The first share of the most loaded node that can go to a node with at least two fewer, to the least loaded of them.
fn next_move<'a>(
    shares: &[Share<'a>],
    owners: &[Option<&'a str>],
    loads: &BTreeMap<&'a str, usize>,
) -> Option<(usize, &'a str, &'a str)> {
    let mut by_load: Vec<(usize, &'a str)> = loads.iter().map(|(node, load)| (*load, *node)).collect();
    by_load.sort_unstable();
    let least = by_load.first()?.0;
    for (load, from) in by_load.iter().rev().take_while(|(load, _)| *load >= least + 2) {
        let held = || {
            let owned = shares.iter().zip(owners).enumerate();
            owned.filter(|(_, (share, owner))| **owner == Some(from) && !share.pinned)
        };
        for (_, to) in by_load.iter().take_while(|(other, _)| other + 2 <= *load) {
            if let Some((index, _)) = held().find(|(_, (share, _))| share.nodes.contains(to)) {
                return Some((index, from, to));
            }
        }
    }
    None
}

#[cfg(test)]
#[path = "spread_tests.rs"]
mod tests;
