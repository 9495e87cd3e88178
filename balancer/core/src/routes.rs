//! Routes that one node announces by BGP, to each of its peers, computed whole from a snapshot of the cluster.
//!
//! Advertisements that speak of one prefix to one peer are merged: communities add up, the longest AS path counts, and
//! LOCAL_PREF and MED count from the one that sets them. Where two set different ones, the first by name counts, and
//! the other is told.

mod contradictions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use metallb_api::names::EXCLUDE_LB_LABEL;

use crate::config::{BgpAdvertisement, Cause, Community, Config, Endpoint, Peer, Pool, Problem};
use crate::plan::{Node, Service, World};
use crate::range::Family;
use crate::service::ServiceKey;

pub use contradictions::{aggregates, contradictions};

/// Attributes of a route, as advertisements set them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// LOCAL_PREF (RFC 4271 §5.1.5).
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC (RFC 4271 §5.1.4).
    pub med: Option<u32>,
    /// How many more times this end's AS number stands in the AS path.
    pub prepend: u8,
    /// Communities of all kinds.
    pub communities: BTreeSet<Community>,
}

/// Routes by prefix. Those of the same advertisements share their attributes.
pub type Routes = BTreeMap<IpNet, Arc<Attributes>>;

/// What one node announces by BGP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By name, the peers of this node and what they are told. Peers that are told the same share it.
    pub peers: BTreeMap<String, Arc<Routes>>,
    /// By Service, who is told of it, or why nobody is.
    pub services: BTreeMap<ServiceKey, Result<Told, Reason>>,
    /// What advertisements and peers contradict each other in, as this node sees it.
    pub problems: Vec<Problem>,
}

/// Who is told of a Service, and of which of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Names of the peers. Services that the same peers are told of share them.
    pub peers: Arc<BTreeSet<String>>,
    /// Those of its addresses that at least one of them is told, in the order of the Service.
    pub addresses: Vec<IpAddr>,
}

/// Why a Service is not announced from a node. Named as in MetalLB's logs where it has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No pool holds all of its addresses.
    IpNotAllowed,
    /// The network of the node is not available.
    NodeNetworkUnavailable,
    /// The node is excluded from load balancing by its label.
    NodeLabeledExcludeBalancers,
    /// No endpoint serves.
    NoEndpoints,
    /// `externalTrafficPolicy: Local`, and no endpoint on this node serves.
    NoLocalEndpoints,
    /// No BGPAdvertisement of this node is about its pool and labels.
    NoMatchingAdvertisement,
    /// No BGPPeer of this node is told of its advertisements and takes its family.
    NoMatchingPeer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IpNotAllowed => "ipNotAllowed",
            Self::NodeNetworkUnavailable => "nodeNetworkUnavailable",
            Self::NodeLabeledExcludeBalancers => "nodeLabeledExcludeBalancers",
            Self::NoEndpoints => "noEndpoints",
            Self::NoLocalEndpoints => "noLocalEndpoints",
            Self::NoMatchingAdvertisement => "noMatchingAdvertisement",
            Self::NoMatchingPeer => "noMatchingPeer",
        })
    }
}

/// Families whose routes a peer is told: that of its address, or both where it asks for both or has no address.
#[must_use]
pub fn families(peer: &Peer) -> BTreeSet<Family> {
    match peer.endpoint {
        Endpoint::Address(address) if !peer.dual_stack => BTreeSet::from([Family::of(address)]),
        _ => BTreeSet::from([Family::V4, Family::V6]),
    }
}

/// Plans for the node `me`.
#[must_use]
pub fn plan(world: &World, me: &str) -> Plan {
    let Some(node) = world.nodes.get(me) else { return Plan::default() };
    let mut problems = unresolved_peers(&world.config);
    let peers = peers(&world.config, node, &mut problems);
    let advertisements: Vec<&BgpAdvertisement> =
        world.config.bgp_advertisements.values().filter(|ad| ad.nodes.matches(&node.labels)).collect();
    let found: Vec<(&ServiceKey, Result<Eligible, Reason>)> = world
        .services
        .iter()
        .map(|(key, service)| (key, Eligible::of(world, (me, node), service, &advertisements)))
        .collect();
    let audiences = audiences(&peers, &advertisements);
    let mut routes = BTreeMap::new();
    let mut conflicts = BTreeMap::new();
    // As many as `found`: places of the audiences that are told of each.
    let mut told: Vec<Vec<usize>> = vec![Vec::new(); found.len()];
    for (place, (audience, names)) in audiences.iter().enumerate() {
        let mut table = Table::default();
        for ((_, service), told) in found.iter().zip(&mut told) {
            if service.as_ref().is_ok_and(|service| table.add(audience, &advertisements, service)) {
                told.push(place);
            }
        }
        let shared = Arc::new(table.routes(&advertisements, &mut conflicts));
        routes.extend(names.iter().map(|name| ((*name).to_owned(), Arc::clone(&shared))));
    }
    let mut circles = BTreeMap::new();
    let verdicts = found.into_iter().zip(told).map(|((key, service), its)| {
        let verdict = match service {
            Ok(_) if its.is_empty() => Err(Reason::NoMatchingPeer),
            Ok(found) => Ok(Told::of(found.service, &its, &audiences, &mut circles)),
            Err(reason) => Err(reason),
        };
        (key.clone(), verdict)
    });
    let services = verdicts.collect();
    problems.extend(conflicts.into_values());
    Plan { peers: routes, services, problems }
}

impl Told {
    /// A Service that the peers of the audiences in these places are told of. `circles` has the peers of those seen
    /// before.
    fn of(
        service: &Service,
        places: &[usize],
        audiences: &[(Audience, Vec<&str>)],
        circles: &mut BTreeMap<Vec<usize>, Arc<BTreeSet<String>>>,
    ) -> Self {
        let its = || places.iter().filter_map(|place| audiences.get(*place));
        let takes = |address: &&IpAddr| its().any(|(its, _)| its.families.contains(&Family::of(**address)));
        let addresses = service.addresses.iter().filter(takes).copied().collect();
        let names = || its().flat_map(|(_, names)| names).map(|name| (*name).to_owned());
        let peers = match circles.get(places) {
            Some(peers) => Arc::clone(peers),
            None => {
                let peers = Arc::new(names().collect());
                circles.insert(places.to_owned(), Arc::clone(&peers));
                peers
            }
        };
        Self { peers, addresses }
    }
}

/// Peers that advertisements name and that are not served.
fn unresolved_peers(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for advertisement in config.bgp_advertisements.values() {
        for peer in advertisement.peers.iter().filter(|peer| !config.peers.contains_key(*peer)) {
            problems.push(Problem {
                kind: "BGPAdvertisement".to_owned(),
                name: advertisement.name.clone(),
                field: "spec.peers".to_owned(),
                message: format!("no usable BGPPeer {peer:?}"),
                cause: Cause::Unresolved,
            });
        }
    }
    problems
}

/// The peers of a node. A router has one session with a node: of two peers with one address, the first by name counts.
fn peers<'a>(config: &'a Config, node: &Node, problems: &mut Vec<Problem>) -> Vec<&'a Peer> {
    let mut taken: BTreeMap<_, &str> = BTreeMap::new();
    let mut peers = Vec::new();
    for peer in config.peers.values().filter(|peer| peer.nodes.matches(&node.labels)) {
        let (field, place) = match &peer.endpoint {
            Endpoint::Address(address) => ("spec.peerAddress", (Some(*address), None)),
            Endpoint::Interface(interface) => ("spec.interface", (None, Some(interface))),
        };
        let former = taken.entry((place, peer.port, &peer.vrf)).or_insert(&peer.name);
        if *former == peer.name {
            peers.push(peer);
            continue;
        }
        problems.push(Problem {
            kind: "BGPPeer".to_owned(),
            name: peer.name.clone(),
            field: field.to_owned(),
            message: format!("BGPPeer {former:?} has the same router, on a node that both select"),
            cause: Cause::Invalid,
        });
    }
    peers
}

/// What makes one peer's routes differ from another's: families, and indices of advertisements.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Audience {
    families: BTreeSet<Family>,
    advertisements: Vec<usize>,
}

/// The peers by audience, so that routes are worked out once for all that are told the same.
fn audiences<'a>(peers: &[&'a Peer], advertisements: &[&BgpAdvertisement]) -> Vec<(Audience, Vec<&'a str>)> {
    let mut audiences: BTreeMap<Audience, Vec<&str>> = BTreeMap::new();
    for peer in peers {
        let concerns = |ad: &BgpAdvertisement| ad.peers.is_empty() || ad.peers.contains(&peer.name);
        let concerned = advertisements.iter().enumerate().filter(|(_, ad)| concerns(ad));
        let advertisements = concerned.map(|(index, _)| index).collect();
        audiences.entry(Audience { families: families(peer), advertisements }).or_default().push(&peer.name);
    }
    audiences.into_iter().collect()
}

/// A Service that this node may announce.
struct Eligible<'a> {
    service: &'a Service,
    pool: &'a Pool,
    /// Indices of the advertisements that are about it, in order.
    advertisements: Vec<usize>,
}

impl<'a> Eligible<'a> {
    fn of(
        world: &'a World,
        (me, node): (&str, &Node),
        service: &'a Service,
        advertisements: &[&BgpAdvertisement],
    ) -> Result<Self, Reason> {
        let pool = world.pool_of(service).ok_or(Reason::IpNotAllowed)?;
        if node.network_unavailable {
            return Err(Reason::NodeNetworkUnavailable);
        }
        if !world.ignore_exclude_label && node.labels.contains_key(EXCLUDE_LB_LABEL) {
            return Err(Reason::NodeLabeledExcludeBalancers);
        }
        if !service.endpoints.any {
            return Err(Reason::NoEndpoints);
        }
        if service.local && !service.endpoints.nodes.contains(me) {
            return Err(Reason::NoLocalEndpoints);
        }
        let concerns =
            |ad: &BgpAdvertisement| ad.pools.contains(&pool.name) && ad.services.matches(&service.labels);
        let concerned = advertisements.iter().enumerate().filter(|(_, ad)| concerns(ad));
        let advertisements: Vec<usize> = concerned.map(|(index, _)| index).collect();
        if advertisements.is_empty() {
            return Err(Reason::NoMatchingAdvertisement);
        }
        Ok(Self { service, pool, advertisements })
    }
}

/// What one audience is told: each prefix with an advertisement, by its index, that makes a route of it.
#[derive(Default)]
struct Table(Vec<(IpNet, usize)>);

/// By field, the advertisement that does not get its way, and the one that does.
type Conflicts = BTreeMap<(&'static str, String, String), Problem>;

impl Table {
    /// Adds a Service; tells whether the audience is told of it.
    fn add(
        &mut self,
        audience: &Audience,
        advertisements: &[&BgpAdvertisement],
        service: &Eligible<'_>,
    ) -> bool {
        let before = self.0.len();
        let takes = |address: &&IpAddr| audience.families.contains(&Family::of(**address));
        for address in service.service.addresses.iter().filter(takes) {
            let its = service.advertisements.iter().filter(|index| audience.advertisements.contains(index));
            self.0.extend(its.filter_map(|index| {
                let advertisement = advertisements.get(*index)?;
                Some((aggregate(advertisement, service.pool, *address)?, *index))
            }));
        }
        self.0.len() > before
    }

    fn routes(mut self, advertisements: &[&BgpAdvertisement], conflicts: &mut Conflicts) -> Routes {
        self.0.sort_unstable();
        self.0.dedup();
        // Few sets of advertisements make many routes.
        let mut merged: BTreeMap<Vec<usize>, Arc<Attributes>> = BTreeMap::new();
        let mut sources = Vec::new();
        let by_prefix = self.0.chunk_by(|(one, _), (other, _)| one == other);
        let routes = by_prefix.filter_map(|entries| {
            let (prefix, _) = entries.first()?;
            sources.clear();
            sources.extend(entries.iter().map(|(_, index)| *index));
            let attributes = match merged.get(&sources) {
                Some(attributes) => Arc::clone(attributes),
                None => {
                    let its = sources.iter().filter_map(|index| advertisements.get(*index).copied());
                    let attributes = Arc::new(merge(*prefix, its, conflicts));
                    merged.insert(sources.clone(), Arc::clone(&attributes));
                    attributes
                }
            };
            Some((*prefix, attributes))
        });
        routes.collect()
    }
}

/// The attributes that advertisements give to a route together.
fn merge<'b>(
    prefix: IpNet,
    advertisements: impl Iterator<Item = &'b BgpAdvertisement>,
    conflicts: &mut Conflicts,
) -> Attributes {
    let mut attributes = Attributes::default();
    let (mut local_pref_by, mut med_by) = (None, None);
    for advertisement in advertisements {
        attributes.communities.extend(&advertisement.communities);
        attributes.prepend = attributes.prepend.max(advertisement.prepend);
        for (field, chosen, by, wanted) in [
            ("spec.localPref", &mut attributes.local_pref, &mut local_pref_by, advertisement.local_pref),
            ("spec.med", &mut attributes.med, &mut med_by, advertisement.med),
        ] {
            let Some(wanted) = wanted else { continue };
            let (Some(chosen), Some(other)) = (*chosen, *by) else {
                *chosen = Some(wanted);
                *by = Some(&advertisement.name);
                continue;
            };
            if chosen != wanted {
                let name = &advertisement.name;
                conflicts.entry((field, name.clone(), other.clone())).or_insert_with(|| Problem {
                    kind: "BGPAdvertisement".to_owned(),
                    name: name.clone(),
                    field: field.to_owned(),
                    message: format!(
                        "{wanted} is not used for {prefix}: BGPAdvertisement {other:?} sets {chosen}"
                    ),
                    cause: Cause::Invalid,
                });
            }
        }
    }
    attributes
}

/// The prefix by which an address of a pool is announced. Where that of the aggregation length reaches beyond the pool, as at
/// its ends, it is the widest that does not: nobody is to lose addresses beside the pool unasked.
fn aggregate(advertisement: &BgpAdvertisement, pool: &Pool, address: IpAddr) -> Option<IpNet> {
    let (length, host) = match Family::of(address) {
        Family::V4 => (advertisement.aggregation_length, 32),
        Family::V6 => (advertisement.aggregation_length_v6, 128),
    };
    let route = |length| IpNet::new(address, length).ok().map(|prefix| prefix.trunc());
    if advertisement.covering || length == host {
        return route(length);
    }
    let Some(range) = pool.ranges.iter().find(|range| range.contains(address)) else { return route(host) };
    let mut routes = (length..=host).filter_map(route);
    routes.find(|route| range.contains(route.network()) && range.contains(route.broadcast()))
}

#[cfg(test)]
#[path = "routes_tests.rs"]
mod tests;
