//! Configuration: the metallb.io objects of the cluster, turned into one [`Config`] of safe types.
//!
//! All problems are collected, each naming object and field. An object with a problem is left out and the others are
//! served, so that one mistake never takes the load balancer away from everybody. The result depends on the objects
//! alone, not on their order.

mod l2;
mod pool;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use metallb_api as api;

pub use l2::{L2Advertisement, Preference};
pub use pool::{Pool, PoolSelection, ServiceAllocation};
pub use problem::Problem;

use problem::Findings;

/// The objects that make up the configuration.
#[derive(Clone, Debug, Default)]
pub struct Objects<'a> {
    /// All IPAddressPools.
    pub pools: Vec<&'a api::IPAddressPool>,
    /// All L2Advertisements.
    pub l2_advertisements: Vec<&'a api::L2Advertisement>,
}

/// What is to be served, by object name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Pools, none of which shares an address with another.
    pub pools: BTreeMap<String, Pool>,
    /// Announcements by ARP and NDP.
    pub l2_advertisements: BTreeMap<String, L2Advertisement>,
}

/// Reads the configuration, and lists what is wrong with it in the order of kind, object and field.
pub fn parse(objects: &Objects<'_>) -> (Config, Vec<Problem>) {
    let mut problems = Vec::new();
    let config = Config {
        pools: pool::parse_all(&objects.pools, &mut problems),
        l2_advertisements: collect(&objects.l2_advertisements, l2::parse, &mut problems),
    };
    (config, problems)
}

/// Parses each object on its own, in the order of their names, and leaves out those with a problem.
fn collect<K, T>(
    objects: &[&K],
    parse: impl Fn(&K, &mut Findings) -> T,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, T>
where
    K: metallb_api::Resource<DynamicType = ()>,
{
    let mut objects = objects.to_vec();
    objects.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
    let mut parsed = BTreeMap::new();
    for object in objects {
        let mut findings = Findings::of(object);
        let value = parse(object, &mut findings);
        if findings.is_empty() {
            parsed.insert(findings.name().to_owned(), value);
        }
        problems.extend(findings.into_problems());
    }
    parsed
}
