//! What is wrong with advertisements and peers together, whatever Services there are: their authors learn of it before a
//! Service shows it.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{families, peers, unresolved_peers};
use crate::config::{BgpAdvertisement, Cause, Config, Peer, Problem, widest_prefix};
use crate::plan::Node;
use crate::range::{AddressRange, Family};

/// Peers that advertisements name and that are not there, routers of two peers, and attributes that two advertisements
/// set differently for the same routes, on some node of these.
///
/// Two advertisements that select Services differently are taken to be about different ones: whether a Service is of
/// both is known to the [`plan`](super::plan) of a node only.
#[must_use]
pub fn contradictions(config: &Config, nodes: &BTreeMap<String, Node>) -> Vec<Problem> {
    let mut problems = unresolved_peers(config);
    let mut doubled = Vec::new();
    let by_node: Vec<(&Node, Vec<&Peer>)> =
        nodes.values().map(|node| (node, peers(config, node, &mut doubled))).collect();
    for problem in doubled {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    let advertisements: Vec<&BgpAdvertisement> = config.bgp_advertisements.values().collect();
    for (index, later) in advertisements.iter().enumerate() {
        for (field, value) in ATTRIBUTES {
            let Some(wanted) = value(later) else { continue };
            let meets = |a: &BgpAdvertisement, b: &BgpAdvertisement| meet(config, &by_node, a, b);
            let other = advertisements.iter().take(index).enumerate().find_map(|(place, other)| {
                let set = value(other).filter(|set| *set != wanted && meets(other, later))?;
                // What comes before both and agrees with the later one lets that have its way.
                let mut before = advertisements.iter().take(place);
                let agrees =
                    before.any(|it| value(it) == Some(wanted) && meets(it, other) && meets(it, later));
                (!agrees).then_some((&other.name, set))
            });
            let Some((name, set)) = other else { continue };
            problems.push(Problem {
                kind: "BGPAdvertisement".to_owned(),
                name: later.name.clone(),
                field: field.to_owned(),
                message: format!(
                    "{wanted} is not used for routes that are also of BGPAdvertisement {name:?}, which sets {set}"
                ),
                cause: Cause::Invalid,
            });
        }
    }
    problems
}

type Value = fn(&BgpAdvertisement) -> Option<u32>;

/// Attributes of which a route has one value.
const ATTRIBUTES: [(&str, Value); 2] =
    [("spec.localPref", |its| its.local_pref), ("spec.med", |its| its.med)];

/// Whether two advertisements make one route of some address, for some peer of some node.
fn meet(config: &Config, nodes: &[(&Node, Vec<&Peer>)], a: &BgpAdvertisement, b: &BgpAdvertisement) -> bool {
    if !(a.services.is_everything() || b.services.is_everything() || a.services == b.services) {
        return false;
    }
    let shared = shared(config, a, b);
    let tells = |its: &BgpAdvertisement, peer: &Peer| its.peers.is_empty() || its.peers.contains(&peer.name);
    nodes.iter().any(|(node, peers)| {
        let told = |peer: &&Peer| tells(a, peer) && tells(b, peer) && !families(peer).is_disjoint(&shared);
        a.nodes.matches(&node.labels) && b.nodes.matches(&node.labels) && peers.iter().any(told)
    })
}

/// Families in which some prefix is of both.
fn shared(config: &Config, a: &BgpAdvertisement, b: &BgpAdvertisement) -> BTreeSet<Family> {
    let is_shared = |family: &Family| {
        let theirs: Vec<(IpNet, IpNet)> = prefixes(config, b, *family).collect();
        length(a, *family) == length(b, *family)
            && prefixes(config, a, *family).any(|(first, last)| {
                theirs.iter().any(|(from, to)| first.addr() <= to.addr() && from.addr() <= last.addr())
            })
    };
    [Family::V4, Family::V6].into_iter().filter(is_shared).collect()
}

/// The first and the last prefix by which each range of the pools of an advertisement is announced.
fn prefixes<'a>(
    config: &'a Config,
    advertisement: &'a BgpAdvertisement,
    family: Family,
) -> impl Iterator<Item = (IpNet, IpNet)> + 'a {
    let prefix = move |address| Some(IpNet::new(address, length(advertisement, family)).ok()?.trunc());
    ranges(config, advertisement)
        .filter(move |(_, range)| range.family() == family)
        .filter_map(move |(_, range)| Some((prefix(range.first())?, prefix(range.last())?)))
}

fn ranges<'a>(
    config: &'a Config,
    advertisement: &'a BgpAdvertisement,
) -> impl Iterator<Item = (&'a str, &'a AddressRange)> {
    let pools = advertisement.pools.iter().filter_map(|name| config.pools.get(name));
    pools.flat_map(|pool| pool.ranges.iter().map(|range| (pool.name.as_str(), range)))
}

fn length(advertisement: &BgpAdvertisement, family: Family) -> u8 {
    match family {
        Family::V4 => advertisement.aggregation_length,
        Family::V6 => advertisement.aggregation_length_v6,
    }
}

/// By advertisement whose routes cover more than single addresses, what they cover, for people: a packet to an address
/// of such a route that no Service has goes back to the router by the default route of the node, and comes again, until
/// its TTL ends.
#[must_use]
pub fn aggregates(config: &Config) -> BTreeMap<String, Vec<String>> {
    let mut aggregates: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for advertisement in config.bgp_advertisements.values() {
        // By pool and family, whether a route reaches beyond a range of the pool.
        let mut wide: BTreeMap<(&str, Family), bool> = BTreeMap::new();
        for (pool, range) in ranges(config, advertisement) {
            let family = range.family();
            let (length, host) = (length(advertisement, family), if family == Family::V4 { 32 } else { 128 });
            if length < host {
                *wide.entry((pool, family)).or_default() |= length < widest_prefix(range);
            }
        }
        for ((pool, family), is_beyond) in wide {
            let (length, beyond) =
                (length(advertisement, family), if is_beyond { " reaching beyond it" } else { "" });
            let text = format!("IPAddressPool {pool:?} by /{length} routes{beyond}");
            aggregates.entry(advertisement.name.clone()).or_default().push(text);
        }
    }
    aggregates
}
