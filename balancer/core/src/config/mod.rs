//! Configuration: the metallb.io objects of the cluster, turned into one [`Config`] of safe types.
//!
//! All problems are collected, each naming object and field. An object with a problem is left out, or served without
//! the part that the problem is about, and the others are served: one mistake never takes the load balancer away from
//! everybody. The result depends on the objects alone, not on their order.

mod bfd;
mod bgp;
mod community;
pub mod duration;
mod interfaces;
mod l2;
mod peer;
mod pool;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use metallb_api as api;

pub use bfd::BfdProfile;
pub use bgp::BgpAdvertisement;
pub(crate) use bgp::widest_prefix;
pub use community::{Community, CommunityError};
pub use interfaces::{DEFAULT, InterfaceSelection};
pub use l2::{L2Advertisement, Preference};
pub use peer::{Distance, Endpoint, LONGEST_PASSWORD, Password, Peer, RemoteAsn, Timers};
pub use pool::{Pool, PoolSelection, ServiceAllocation};
pub use problem::{Cause, Problem};

use problem::Findings;

/// The objects that make up the configuration.
#[derive(Clone, Debug, Default)]
pub struct Objects<'a> {
    /// All IPAddressPools.
    pub pools: Vec<&'a api::IPAddressPool>,
    /// All L2Advertisements.
    pub l2_advertisements: Vec<&'a api::L2Advertisement>,
    /// All BGPAdvertisements.
    pub bgp_advertisements: Vec<&'a api::BGPAdvertisement>,
    /// All BGPPeers.
    pub bgp_peers: Vec<&'a api::BGPPeer>,
    /// All BFDProfiles.
    pub bfd_profiles: Vec<&'a api::BFDProfile>,
    /// All Communities.
    pub communities: Vec<&'a api::Community>,
}

/// What is to be served, by object name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Pools, none of which shares an address with another.
    pub pools: BTreeMap<String, Pool>,
    /// Announcements by ARP and NDP.
    pub l2_advertisements: BTreeMap<String, L2Advertisement>,
    /// Announcements by BGP.
    pub bgp_advertisements: BTreeMap<String, BgpAdvertisement>,
    /// Routers to which is announced.
    pub peers: BTreeMap<String, Peer>,
    /// Settings of BFD sessions.
    pub bfd_profiles: BTreeMap<String, BfdProfile>,
}

impl Config {
    /// The BFD session that goes with the session of a peer: its BFDProfile as far as that fits the way to the router.
    #[must_use]
    pub fn bfd_of(&self, peer: &Peer) -> Option<BfdProfile> {
        let profile = self.bfd_profiles.get(peer.bfd_profile.as_ref()?)?;
        Some(BfdProfile {
            echo_mode: profile.echo_mode && peer.takes_echo(),
            // BFD packets take as many hops as those of BGP may.
            minimum_ttl: profile.minimum_ttl.or(peer.ttl_security_hops.map(|hops| u8::MAX - (hops - 1))),
            ..profile.clone()
        })
    }
}

/// Reads the configuration, and lists what is wrong with it by kind, object and field.
pub fn parse(objects: &Objects<'_>) -> (Config, Vec<Problem>) {
    let mut problems = Vec::new();
    let pools = pool::parse_all(&objects.pools, &mut problems);
    let l2_advertisements = collect(&objects.l2_advertisements, l2::parse, &mut problems);
    let aliases = community::parse_all(&objects.communities, &mut problems);
    let bgp_advertisements = collect(
        &objects.bgp_advertisements,
        |object, findings| bgp::parse(object, &pools, &aliases, findings),
        &mut problems,
    );
    let bfd_profiles = collect(&objects.bfd_profiles, bfd::parse, &mut problems);
    let peers = collect(
        &objects.bgp_peers,
        |object, findings| peer::parse(object, &bfd_profiles, findings),
        &mut problems,
    );
    (Config { pools, l2_advertisements, bgp_advertisements, peers, bfd_profiles }, problems)
}

/// The objects in the order in which they were created, those of the same second by name; those that are yet to be
/// created come last. Whatever is first keeps what a later one wants too.
fn by_age<'a, K: api::Resource<DynamicType = ()>>(objects: &[&'a K]) -> Vec<&'a K> {
    let mut objects = objects.to_vec();
    objects.sort_by_key(|object| {
        let created = object.meta().creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, object.meta().name.clone())
    });
    objects
}

/// Parses each object on its own, in the order of their names, and leaves out those with a problem.
fn collect<K, T>(
    objects: &[&K],
    parse: impl Fn(&K, &mut Findings) -> T,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, T>
where
    K: api::Resource<DynamicType = ()>,
{
    let mut objects = objects.to_vec();
    objects.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
    let mut parsed = BTreeMap::new();
    for object in objects {
        let mut findings = Findings::of(object);
        let value = parse(object, &mut findings);
        if findings.is_usable() {
            parsed.insert(findings.name().to_owned(), value);
        }
        problems.extend(findings.into_problems());
    }
    parsed
}
