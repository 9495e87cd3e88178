//! Who announces each group of Services that go together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use metallb_api::ElectionPolicy;

use super::{Eligible, World};
use crate::election::{Candidate, elect};
use crate::service::ServiceKey;
use crate::spread::{Claim, MOST, Share, holder, spread};

/// Services that share addresses, directly or by way of others.
pub(super) type Group<'a, 'w> = Vec<(&'w ServiceKey, &'a Eligible<'w>)>;

/// Who announces a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner<'w> {
    /// The node, when there is one.
    pub(super) node: Option<&'w str>,
    /// How it was chosen, with `electionPolicy: Even`.
    pub(super) even: Option<Even<'w>>,
    /// The advertisements of the group where they differ in how the owner is chosen; the hash decides then.
    pub(super) mixed: BTreeSet<String>,
    /// Whether there is none since each that could be has as many addresses with `electionPolicy: Even` as it can have.
    pub(super) crowded: bool,
}

/// A group whose advertisements all have `electionPolicy: Even`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Even<'w> {
    /// The address by which the group is known.
    pub(super) address: IpAddr,
    /// The first of its advertisements by name.
    pub(super) advertisement: &'w str,
}

/// Services by the addresses that they have in common.
pub(super) fn groups<'a, 'w>(services: &'a BTreeMap<&'w ServiceKey, Eligible<'w>>) -> Vec<Group<'a, 'w>> {
    let mut group_of: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut groups: Vec<Group<'a, 'w>> = vec![];
    for (key, eligible) in services {
        let addresses = &eligible.service.addresses;
        let met: BTreeSet<usize> =
            addresses.iter().filter_map(|address| group_of.get(address)).copied().collect();
        let mut group = vec![];
        for index in met {
            group.extend(groups.get_mut(index).map(std::mem::take).unwrap_or_default());
        }
        group.push((*key, eligible));
        let index = groups.len();
        for address in group.iter().flat_map(|(_, eligible)| &eligible.service.addresses) {
            group_of.insert(*address, index);
        }
        groups.push(group);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// The owner of each group as the node `me` sees it, in the same order.
///
/// An address with `electionPolicy: Even` stays with its holder until that has released it, whatever the spread wants;
/// the holder itself sees the new owner, and releases it by that.
pub(super) fn owners<'w>(world: &'w World, groups: &[Group<'_, 'w>], me: &str) -> Vec<Owner<'w>> {
    let mut owners: Vec<Owner<'w>> = groups.iter().map(|group| by_hash(world, group)).collect();
    let evenly: Vec<(&mut Owner<'w>, Share<'w>)> = owners
        .iter_mut()
        .zip(groups)
        .filter_map(|(owner, group)| {
            let address = owner.even.as_ref()?.address;
            Some((owner, share(world, group, address)))
        })
        .collect();
    let (evenly, shares): (Vec<_>, Vec<_>) = evenly.into_iter().unzip();
    for ((owner, share), wanted) in evenly.into_iter().zip(&shares).zip(spread(&shares, MOST)) {
        owner.crowded = wanted.is_none() && !share.nodes.is_empty();
        let released = share.holder.is_none_or(|holder| holder == me || wanted == Some(holder));
        owner.node = match (released, share.holder) {
            (true, None) if wanted == Some(me) && world.undecided => None,
            (true, _) => wanted,
            (false, holder) => holder,
        };
    }
    owners
}

/// Chooses by weight and hash, and tells whether another way is asked for.
fn by_hash<'w>(world: &'w World, group: &Group<'_, 'w>) -> Owner<'w> {
    let Some(address) = first_address(group) else { return Owner::default() };
    let advertisements = || group.iter().flat_map(|(_, eligible)| &eligible.advertisements);
    let even = advertisements().filter(|ad| ad.election == ElectionPolicy::Even).count();
    let all = advertisements().count();
    let node = || {
        let nodes = narrowed(candidates(world, group), |node| world.keeps(node, group));
        let keeps = nodes.first().is_some_and(|node| world.keeps(node.node, group));
        let elected = elect(&nodes, address);
        let is_heard = |node: &str| !world.unheard.contains(node);
        let mut recorded = group.iter().filter_map(|(key, _)| world.recorded.get(*key));
        let recorded = recorded.find_map(|node| nodes.iter().find(|candidate| candidate.node == node));
        let stays = |node: &str| world.never_fail_back || is_heard(node) && !elected.is_some_and(is_heard);
        match recorded.filter(|recorded| !keeps && stays(recorded.node)) {
            Some(recorded) => Some(recorded.node),
            None => elected,
        }
    };
    if even == 0 || even < all {
        let names = advertisements().map(|ad| ad.name.clone());
        let mixed = if even == 0 { BTreeSet::new() } else { names.collect() };
        return Owner { node: node(), mixed, ..Owner::default() };
    }
    let first = advertisements().map(|ad| ad.name.as_str()).min().unwrap_or_default();
    Owner { even: Some(Even { address, advertisement: first }), ..Owner::default() }
}

/// The address by which a group is known, and its owner chosen.
fn first_address(group: &Group<'_, '_>) -> Option<IpAddr> {
    group.iter().filter_map(|(_, eligible)| eligible.service.addresses.first()).min().copied()
}

/// The nodes that may announce all Services of a group. Where there is none, those that may announce any: one owner that
/// serves some is better than two that fight; likewise one that lacks the link for a family of addresses, and one that may
/// not know of the group. An address stays on a cordoned node when there is no other for it.
fn candidates<'w>(world: &'w World, group: &Group<'_, 'w>) -> Vec<Candidate<'w>> {
    let all: BTreeSet<&'w str> =
        group.iter().flat_map(|(_, eligible)| eligible.nodes.iter().copied()).collect();
    let weighed = |name: &'w str| {
        let node = world.nodes.get(name)?;
        let preference = group.iter().map(|(_, eligible)| eligible.preference(node)).max()?;
        Some(Candidate { node: name, preference })
    };
    let all = all.into_iter().filter_map(weighed).collect();
    let by_all = |node: &str| group.iter().all(|(_, eligible)| eligible.nodes.contains(node));
    let whole = |node: &str| group.iter().all(|(_, eligible)| eligible.is_whole_on(world, node));
    let has = |node: &str, key| world.recorded.get(key).is_some_and(|recorded| recorded == node);
    let knows = |node: &str| !world.uninformed.contains(node) || group.iter().all(|(key, _)| has(node, *key));
    narrowed(narrowed(narrowed(narrowed(all, knows), by_all), whole), |node| world.stays(node))
}

/// Those that `choose` likes, or all of them when it likes none.
fn narrowed<'w>(nodes: Vec<Candidate<'w>>, choose: impl Fn(&str) -> bool) -> Vec<Candidate<'w>> {
    let liked: Vec<Candidate<'w>> =
        nodes.iter().copied().filter(|candidate| choose(candidate.node)).collect();
    if liked.is_empty() { nodes } else { liked }
}

/// A group as the even spread sees it: its most preferred nodes, and who holds it.
fn share<'w>(world: &'w World, group: &Group<'_, 'w>, address: IpAddr) -> Share<'w> {
    let candidates = candidates(world, group);
    let best = candidates.iter().map(|candidate| candidate.preference).max();
    let favourites = candidates.iter().filter(|candidate| Some(candidate.preference) == best);
    let nodes: BTreeSet<&'w str> = favourites.map(|candidate| candidate.node).collect();
    let is_candidate = |node: &str| candidates.iter().any(|candidate| candidate.node == node);
    let mut claims: BTreeMap<&'w str, Claim> = BTreeMap::new();
    let mut hear = |node: &'w str, claim: Claim| {
        let known = claims.entry(node).or_insert(claim);
        if known.epoch <= claim.epoch {
            *known = claim;
        }
    };
    // Several addresses lead to a group, since Services come to it and leave it.
    for address in group.iter().flat_map(|(_, eligible)| &eligible.service.addresses) {
        for (node, claim) in world.written_claims.get(address).into_iter().flatten() {
            if is_candidate(node) {
                hear(node, *claim);
            }
        }
        // A node that does not know that it is no candidate any more would release nothing.
        for (node, claim) in world.claims.get(address).into_iter().flatten() {
            if is_candidate(node) || !world.uninformed.contains(node) {
                hear(node, *claim);
            }
        }
    }
    let holder = holder(address, claims.into_iter());
    let pinned = holder.is_some_and(|holder| world.keeps(holder, group));
    Share { address, nodes, holder, pinned }
}
