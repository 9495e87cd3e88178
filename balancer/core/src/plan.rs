//! What one node announces on layer 2, computed whole from a snapshot of the cluster.
//!
//! Candidates and owner are MetalLB's (`election`), with what it leaves open settled: Services that share an address
//! form one group with one owner, and a node whose interfaces cannot carry the announcement is no candidate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::config::{Config, L2Advertisement, Pool};
use crate::election::{Candidate, elect};
use crate::selector::Labels;
use crate::service::ServiceKey;

/// The facts from which a plan is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Pools and advertisements.
    pub config: Config,
    /// Services with an address.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Nodes with a living speaker; `None` when the speakers do not know of each other, and every node counts.
    pub speakers: Option<BTreeSet<String>>,
    /// Whether label `node.kubernetes.io/exclude-from-external-load-balancers` is ignored.
    pub ignore_exclude_label: bool,
    /// Whether addresses move away from cordoned nodes.
    pub drain: bool,
    /// By address, the nodes whose speakers announce it and keep it, whatever the hash says.
    pub kept: BTreeMap<IpAddr, BTreeSet<String>>,
    /// By Service, the node that announced it last by the record: it keeps it where nobody else does.
    pub recorded: BTreeMap<ServiceKey, String>,
    /// Addresses that were given to a Service just now, or are known to be another host's.
    pub fresh: BTreeSet<IpAddr>,
}

/// What announcing a Service depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `status.loadBalancer.ingress[].ip`, in this order.
    pub addresses: Vec<IpAddr>,
    /// The pool that its addresses were given from, as its annotation says.
    pub pool: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// `externalTrafficPolicy: Local`: only nodes with an endpoint announce.
    pub local: bool,
    /// Whether it asks for an address that others may have too.
    pub shared: bool,
    /// Its endpoints that serve.
    pub endpoints: Endpoints,
}

/// Endpoints of a Service that serve: ready, or terminating and still serving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Whether there is any.
    pub any: bool,
    /// Nodes that have one.
    pub nodes: BTreeSet<String>,
}

/// What announcing from a node depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Condition `NetworkUnavailable` is true.
    pub network_unavailable: bool,
    /// It is shutting down, or has taint `node.kubernetes.io/out-of-service`.
    pub going: bool,
    /// It is cordoned.
    pub unschedulable: bool,
    /// Interfaces that can announce now, by the word of the node's speaker; `None` when unknown, which counts as all.
    pub interfaces: Option<BTreeSet<String>>,
}

/// What one node announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By address, on which interfaces.
    pub announcements: BTreeMap<IpAddr, Interfaces>,
    /// Those of them that nobody may have announced before: other hosts are asked for them first.
    pub fresh: BTreeSet<IpAddr>,
    /// By address, the other node that announces it.
    pub elsewhere: BTreeMap<IpAddr, String>,
    /// By Service, the owner or the reason why there is none.
    pub services: BTreeMap<ServiceKey, Verdict>,
}

/// Interfaces of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// All that can announce.
    All,
    /// Those of these names.
    Named(BTreeSet<String>),
}

impl Interfaces {
    /// Whether the interface of this name is one of them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }

    fn join(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Named(names), Self::Named(more)) => names.extend(more.iter().cloned()),
            _ => *self = Self::All,
        }
    }
}

/// Who announces a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This node, on these interfaces.
    Mine(Interfaces),
    /// Another node.
    Theirs(String),
    /// Nobody.
    Nobody(Reason),
}

/// Why a Service is announced by nobody. Named as in MetalLB's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No pool holds all of its addresses.
    IpNotAllowed,
    /// No L2Advertisement is about its pool and labels.
    NoMatchingAdvertisement,
    /// It shares its address, and its advertisements select single Services.
    SharedIpWithServiceSelector,
    /// No endpoint serves.
    NoEndpoints,
    /// `externalTrafficPolicy: Local`, and no node that may announce has an endpoint.
    NoLocalEndpoints,
    /// No node that its advertisements select can announce.
    NoAvailableNodes,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IpNotAllowed => "ipNotAllowed",
            Self::NoMatchingAdvertisement => "noMatchingAdvertisement",
            Self::SharedIpWithServiceSelector => "sharedIPWithServiceSelector",
            Self::NoEndpoints => "noEndpoints",
            Self::NoLocalEndpoints => "noLocalEndpoints",
            Self::NoAvailableNodes => "noAvailableNodes",
        })
    }
}

/// Plans for the node `me`.
pub fn plan(world: &World, me: &str) -> Plan {
    let mut plan = Plan::default();
    let mut eligible = BTreeMap::new();
    for (key, service) in &world.services {
        match Eligible::of(world, service) {
            Ok(found) => {
                eligible.insert(key, found);
            }
            Err(reason) => {
                plan.services.insert(key.clone(), Verdict::Nobody(reason));
            }
        }
    }
    for group in groups(&eligible) {
        let owner = owner(world, &group);
        for (key, service) in group {
            let verdict = match owner {
                None => Verdict::Nobody(Reason::NoAvailableNodes),
                Some(owner) if !service.nodes.contains(owner) => Verdict::Nobody(Reason::NoLocalEndpoints),
                Some(owner) if owner == me => Verdict::Mine(service.interfaces(world, me)),
                Some(owner) => Verdict::Theirs(owner.to_owned()),
            };
            for address in &service.service.addresses {
                match &verdict {
                    Verdict::Mine(interfaces) => {
                        plan.announcements
                            .entry(*address)
                            .and_modify(|former| former.join(interfaces))
                            .or_insert_with(|| interfaces.clone());
                    }
                    Verdict::Theirs(node) => {
                        plan.elsewhere.insert(*address, node.clone());
                    }
                    Verdict::Nobody(_) => {}
                }
            }
            plan.services.insert(key.clone(), verdict);
        }
    }
    let mine = |address: &&IpAddr| plan.announcements.contains_key(*address);
    plan.fresh = world.fresh.iter().filter(mine).copied().collect();
    plan
}

/// A Service that some node may announce.
struct Eligible<'a> {
    service: &'a Service,
    advertisements: Vec<&'a L2Advertisement>,
    nodes: BTreeSet<&'a str>,
}

impl<'a> Eligible<'a> {
    fn of(world: &'a World, service: &'a Service) -> Result<Self, Reason> {
        let pool = world.pool_of(service).ok_or(Reason::IpNotAllowed)?;
        if !service.endpoints.any {
            return Err(Reason::NoEndpoints);
        }
        let advertisements: Vec<&L2Advertisement> = world
            .config
            .l2_advertisements
            .values()
            .filter(|advertisement| advertisement.pools.matches(pool))
            .filter(|advertisement| advertisement.services.matches(&service.labels))
            .collect();
        if advertisements.is_empty() {
            return Err(Reason::NoMatchingAdvertisement);
        }
        if service.shared
            && advertisements.iter().any(|advertisement| !advertisement.services.is_everything())
        {
            return Err(Reason::SharedIpWithServiceSelector);
        }
        let nodes: BTreeSet<&str> = world
            .nodes
            .iter()
            .filter(|(name, node)| world.may_announce(name, node))
            .filter(|(_, node)| advertisements.iter().any(|advertisement| can_announce(advertisement, node)))
            .map(|(name, _)| name.as_str())
            .collect();
        if nodes.is_empty() {
            return Err(Reason::NoAvailableNodes);
        }
        let has_endpoint = |node: &&str| !service.local || service.endpoints.nodes.contains(*node);
        let nodes: BTreeSet<&str> = nodes.into_iter().filter(has_endpoint).collect();
        if nodes.is_empty() {
            return Err(Reason::NoLocalEndpoints);
        }
        Ok(Self { service, advertisements, nodes })
    }

    fn preference(&self, node: &Node) -> u64 {
        self.advertisements.iter().map(|advertisement| advertisement.preference(&node.labels)).sum()
    }

    /// The interfaces of `node` named by the advertisements that select it.
    fn interfaces(&self, world: &World, node: &str) -> Interfaces {
        let mut interfaces = Interfaces::Named(BTreeSet::new());
        let Some(node) = world.nodes.get(node) else { return interfaces };
        for advertisement in
            self.advertisements.iter().filter(|advertisement| can_announce(advertisement, node))
        {
            let named = if advertisement.interfaces.is_empty() {
                Interfaces::All
            } else {
                Interfaces::Named(advertisement.interfaces.clone())
            };
            interfaces.join(&named);
        }
        interfaces
    }
}

impl World {
    /// The pool whose advertisements are about the Service: the one that holds its addresses; where it keeps them
    /// although no pool holds them any more, the one that they were given from.
    pub(crate) fn pool_of(&self, service: &Service) -> Option<&Pool> {
        let pools = &self.config.pools;
        let marked = service.pool.as_ref().and_then(|name| pools.get(name));
        // No address is in two pools, so that nearly always one look is enough, however many pools there are.
        if let Some(pool) = marked.filter(|pool| holds(pool, &service.addresses)) {
            return Some(pool);
        }
        pools.values().find(|pool| holds(pool, &service.addresses)).or(marked)
    }

    fn may_announce(&self, name: &str, node: &Node) -> bool {
        let excluded = node.labels.contains_key(metallb_api::names::EXCLUDE_LB_LABEL);
        let has_speaker = self.speakers.as_ref().is_none_or(|speakers| speakers.contains(name));
        let usable = !node.network_unavailable && !node.going;
        has_speaker && usable && (self.ignore_exclude_label || !excluded)
    }

    /// Whether the speaker of `node` keeps an address of the group.
    fn keeps(&self, node: &str, group: &Group<'_, '_>) -> bool {
        let mut addresses = group.iter().flat_map(|(_, eligible)| &eligible.service.addresses);
        addresses.any(|address| self.kept.get(address).is_some_and(|keepers| keepers.contains(node)))
    }

    /// Whether addresses stay on `node`: with [`World::drain`] they leave when it is cordoned.
    fn stays(&self, node: &str) -> bool {
        !self.drain || self.nodes.get(node).is_some_and(|node| !node.unschedulable)
    }
}

fn holds(pool: &Pool, addresses: &[IpAddr]) -> bool {
    let within = |address: &IpAddr| pool.ranges.iter().any(|range| range.contains(*address));
    !addresses.is_empty() && addresses.iter().all(within)
}

/// Whether the advertisement selects the node and the node has an interface for it.
fn can_announce(advertisement: &L2Advertisement, node: &Node) -> bool {
    let linked = node.interfaces.as_ref().is_none_or(|available| {
        let wanted = &advertisement.interfaces;
        if wanted.is_empty() { !available.is_empty() } else { !wanted.is_disjoint(available) }
    });
    linked && advertisement.nodes.matches(&node.labels)
}

type Group<'a, 'w> = Vec<(&'w ServiceKey, &'a Eligible<'w>)>;

/// Services by the addresses that they have in common, directly or by way of others.
fn groups<'a, 'w>(services: &'a BTreeMap<&'w ServiceKey, Eligible<'w>>) -> Vec<Group<'a, 'w>> {
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

/// The node that announces all Services of a group.
///
/// It is chosen among those that may announce each of them, by the least first address. Where no node may announce
/// them all, among those that may announce any: one owner that serves some is better than two that fight. A node that
/// keeps the addresses comes before the order of the election.
fn owner<'w>(world: &'w World, group: &Group<'_, 'w>) -> Option<&'w str> {
    let address = group.iter().filter_map(|(_, eligible)| eligible.service.addresses.first()).min()?;
    let all: BTreeSet<&'w str> =
        group.iter().flat_map(|(_, eligible)| eligible.nodes.iter().copied()).collect();
    let by_all = |node: &&str| group.iter().all(|(_, eligible)| eligible.nodes.contains(*node));
    let common: BTreeSet<&'w str> = all.iter().copied().filter(by_all).collect();
    let nodes = if common.is_empty() { all } else { common };
    // An address stays on a cordoned node when there is no other for it.
    let nodes = narrowed(nodes, |node| world.stays(node));
    let keepers: BTreeSet<&'w str> = nodes.iter().copied().filter(|node| world.keeps(node, group)).collect();
    if keepers.is_empty() {
        let mut recorded = group.iter().filter_map(|(key, _)| world.recorded.get(*key));
        if let Some(node) = recorded.find(|node| nodes.contains(node.as_str())) {
            return Some(node);
        }
    }
    let nodes = if keepers.is_empty() { nodes } else { keepers };
    let candidates: Vec<Candidate<'w>> = nodes
        .into_iter()
        .filter_map(|name| {
            let node = world.nodes.get(name)?;
            let preference = group.iter().map(|(_, eligible)| eligible.preference(node)).max()?;
            Some(Candidate { node: name, preference })
        })
        .collect();
    elect(&candidates, *address)
}

/// Those of `nodes` that `choose` likes, or all of them when it likes none.
fn narrowed<'w>(nodes: BTreeSet<&'w str>, choose: impl Fn(&str) -> bool) -> BTreeSet<&'w str> {
    let liked: BTreeSet<&'w str> = nodes.iter().copied().filter(|node| choose(node)).collect();
    if liked.is_empty() { nodes } else { liked }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
