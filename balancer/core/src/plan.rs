//! What one node announces on layer 2, computed whole from a snapshot of the cluster.
//!
//! Candidates and owner are MetalLB's (`election`), with what it leaves open settled: Services that share an address
//! form one group with one owner, and a node whose interfaces cannot carry the announcement is no candidate.

mod endpoints;
mod node;
mod owners;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Config, L2Advertisement, Pool};
use crate::selector::Labels;
use crate::service::ServiceKey;
use crate::spread::Claims;
pub use endpoints::{Endpoints, NodeNames};
use node::can_announce;
pub use node::{DefaultRoutes, Node};
use owners::{Group, groups, owners};

/// The facts from which a plan is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Pools and advertisements.
    pub config: Config,
    /// Services with an address. Shared with whoever keeps them: there may be many, and few change between two plans.
    pub services: Arc<BTreeMap<ServiceKey, Service>>,
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
    /// By Service, the node that announced it last by the record.
    pub recorded: BTreeMap<ServiceKey, String>,
    /// `failback: Never`: the node of the record keeps a Service where nobody else does.
    pub never_fail_back: bool,
    /// Nodes whose speaker this one never heard, though it should be there: they are candidates, and nothing goes to them
    /// that by the record a living node has.
    pub unheard: BTreeSet<String>,
    /// Nodes that the API server does not answer while it answers others: they announce what they announced last by the
    /// record, and nothing else.
    pub uninformed: BTreeSet<String>,
    /// By address with `electionPolicy: Even`, what living nodes say of it.
    pub claims: BTreeMap<IpAddr, Claims>,
    /// The same as it was written down: it counts for nodes that have said nothing later.
    pub written_claims: BTreeMap<IpAddr, Claims>,
    /// Whether some living node may yet have to say what it claims: nothing that is free is taken so far.
    pub undecided: bool,
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
    /// Addresses with `electionPolicy: Even`, of each group of Services the first.
    pub even: BTreeMap<IpAddr, Even>,
    /// Addresses that this node checks on the wire, and who announces them.
    pub checks: BTreeMap<IpAddr, String>,
    /// L2Advertisements that differ in how the owner is chosen, and an address that all of them are about.
    pub mixed: BTreeMap<BTreeSet<String>, IpAddr>,
    /// By L2Advertisement with `electionPolicy: Even`, how many groups of Services have no owner since each node has as
    /// many as it can have.
    pub crowded: BTreeMap<String, usize>,
}

/// An address with `electionPolicy: Even`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Even {
    /// The L2Advertisement by which its owner is written down.
    pub advertisement: String,
    /// Whether this node announces it.
    pub mine: bool,
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
    for (key, service) in &*world.services {
        match Eligible::of(world, service) {
            Ok(found) => {
                eligible.insert(key, found);
            }
            Err(reason) => {
                plan.services.insert(key.clone(), Verdict::Nobody(reason));
            }
        }
    }
    let groups = groups(&eligible);
    let owners = owners(world, &groups, me);
    for (group, found) in groups.into_iter().zip(owners) {
        let owner = found.node;
        if let Some(even) = found.even {
            let advertisement = even.advertisement.to_owned();
            if found.crowded {
                *plan.crowded.entry(advertisement.clone()).or_default() += 1;
            }
            plan.even.insert(even.address, Even { advertisement, mine: owner == Some(me) });
        }
        let mut addresses = group.iter().flat_map(|(_, eligible)| &eligible.service.addresses);
        if let Some(address) = addresses.next().filter(|_| !found.mixed.is_empty()) {
            plan.mixed.entry(found.mixed).or_insert(*address);
        }
        if let Some(owner) = owner.filter(|owner| world.checker(&group, owner) == Some(me)) {
            let addresses = group.iter().flat_map(|(_, eligible)| &eligible.service.addresses);
            plan.checks.extend(addresses.map(|address| (*address, owner.to_owned())));
        }
        for (key, service) in group {
            let verdict = match owner {
                None => Verdict::Nobody(Reason::NoAvailableNodes),
                Some(owner) if !service.nodes.contains(owner) => Verdict::Nobody(Reason::NoLocalEndpoints),
                Some(owner) if owner == me => {
                    Verdict::Mine(service.interfaces(world, me, &service.service.addresses))
                }
                Some(owner) => Verdict::Theirs(owner.to_owned()),
            };
            for address in &service.service.addresses {
                match &verdict {
                    Verdict::Mine(_) => {
                        let interfaces = service.interfaces(world, me, &[*address]);
                        plan.announcements
                            .entry(*address)
                            .and_modify(|former| former.join(&interfaces))
                            .or_insert(interfaces);
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

/// What the node `me` announces before it knows which speakers live: that which nobody has taken over from it, since
/// `records` name it as the node that announced last. A speaker that starts anew goes on with it at once.
pub fn resumed(world: &World, records: &BTreeMap<ServiceKey, String>, me: &str) -> Plan {
    let alone = World { speakers: Some([me.to_owned()].into()), ..world.clone() };
    let plan = plan(&alone, me);
    let last = |key: &&ServiceKey| records.get(*key).is_some_and(|node| node == me);
    let addresses = |service: &Service| service.addresses.clone();
    let mine: BTreeSet<IpAddr> =
        records.keys().filter(last).filter_map(|key| world.services.get(key)).flat_map(addresses).collect();
    let announcements =
        plan.announcements.into_iter().filter(|(address, _)| mine.contains(address)).collect();
    Plan { announcements, ..Plan::default() }
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
            .filter(|(_, node)| {
                advertisements
                    .iter()
                    .any(|advertisement| can_announce(advertisement, node, &service.addresses))
            })
            .map(|(name, _)| name.as_str())
            .collect();
        if nodes.is_empty() {
            return Err(Reason::NoAvailableNodes);
        }
        let has_endpoint = |node: &&str| !service.local || service.endpoints.nodes.contains(node);
        let nodes: BTreeSet<&str> = nodes.into_iter().filter(has_endpoint).collect();
        if nodes.is_empty() {
            return Err(Reason::NoLocalEndpoints);
        }
        Ok(Self { service, advertisements, nodes })
    }

    /// Whether `node` can announce each of the addresses, and not some of them alone.
    fn is_whole_on(&self, world: &World, node: &str) -> bool {
        if self.service.addresses.len() < 2 {
            return true;
        }
        let Some(node) = world.nodes.get(node) else { return false };
        let carried =
            |address: &IpAddr| self.advertisements.iter().any(|ad| can_announce(ad, node, &[*address]));
        self.service.addresses.iter().all(carried)
    }

    fn preference(&self, node: &Node) -> u64 {
        self.advertisements.iter().map(|advertisement| advertisement.preference(&node.labels)).sum()
    }

    /// The interfaces of `node` named for `addresses` by the advertisements that select it.
    fn interfaces(&self, world: &World, node: &str, addresses: &[IpAddr]) -> Interfaces {
        let mut interfaces = Interfaces::Named(BTreeSet::new());
        let Some(node) = world.nodes.get(node) else { return interfaces };
        let selecting = self.advertisements.iter().filter(|ad| can_announce(ad, node, addresses));
        let carries = |name: &String| addresses.iter().any(|address| node.carries(name, *address));
        let carry_all = node.no_ipv6.iter().all(carries);
        for selection in selecting.map(|ad| &ad.interfaces) {
            if selection.is_everything() && (carry_all || node.interfaces.is_none()) {
                return Interfaces::All;
            }
            let known = node.interfaces.iter().flatten();
            let selected = known.filter(|name| {
                addresses
                    .iter()
                    .any(|address| selection.selects(name, node.default_routes.of(*address).contains(*name)))
            });
            let names =
                selection.names().iter().chain(selected).filter(|name| carries(name)).cloned().collect();
            interfaces.join(&Interfaces::Named(names));
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

    /// Who checks on the wire that the owner of a group answers for it, and nobody else: the next of those that could
    /// announce it too, and so see it; where there is none the next of all.
    fn checker<'w>(&'w self, group: &Group<'_, 'w>, owner: &str) -> Option<&'w str> {
        let able: BTreeSet<&'w str> =
            group.iter().flat_map(|(_, eligible)| eligible.nodes.iter().copied()).collect();
        let alive = || self.speakers.iter().flatten().map(String::as_str).collect();
        next(&able, owner).or_else(|| next(&alive(), owner))
    }

    /// Whether addresses stay on `node`: with [`World::drain`] they leave when it is cordoned.
    fn stays(&self, node: &str) -> bool {
        !self.drain || self.nodes.get(node).is_some_and(|node| !node.unschedulable)
    }
}

/// The node after `node` in a ring of nodes; `None` when there is no other.
fn next<'w>(ring: &BTreeSet<&'w str>, node: &str) -> Option<&'w str> {
    let after = ring.iter().find(|other| **other > node);
    after.or_else(|| ring.first()).copied().filter(|other| *other != node)
}

fn holds(pool: &Pool, addresses: &[IpAddr]) -> bool {
    let within = |address: &IpAddr| pool.ranges.iter().any(|range| range.contains(*address));
    !addresses.is_empty() && addresses.iter().all(within)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
