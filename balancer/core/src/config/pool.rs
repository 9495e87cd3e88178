//! IPAddressPool: addresses, and which Services may have them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use metallb_api as api;

use super::by_age;
use super::{
    duration,
    problem::{Findings, Problem},
};
use crate::range::AddressRange;
use crate::selector::{AnyOf, Labels};

/// A pool that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Name of the IPAddressPool.
    pub name: String,
    /// Blocks in the order in which they are listed; none overlaps another.
    pub ranges: Vec<AddressRange>,
    /// Whether a Service that asks for no pool and no address may be served from here.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy_ips: bool,
    /// Limits to some Services; `None` when the pool is for all.
    pub service_allocation: Option<ServiceAllocation>,
    /// How long a released address rests before another Service may have it.
    pub cooldown: Duration,
    /// Labels of the IPAddressPool, by which advertisements select it.
    pub labels: Labels,
}

/// Which Services a pool is for, and its rank among the pools that fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAllocation {
    /// Lower comes first; 0 comes last.
    pub priority: i64,
    /// Namespaces by name.
    pub namespaces: BTreeSet<String>,
    /// Further namespaces by their labels.
    pub namespace_selectors: AnyOf,
    /// Services by their labels.
    pub service_selectors: AnyOf,
}

impl ServiceAllocation {
    /// Whether a Service of this namespace and with these labels may have an address of the pool.
    ///
    /// Where namespaces are named or selected, the Service's must be one of them: a selector that no namespace matches
    /// lets no Service in.
    pub fn admits(&self, namespace: &str, namespace_labels: &Labels, service_labels: &Labels) -> bool {
        let any_namespace = self.namespaces.is_empty() && self.namespace_selectors.is_everything();
        let selected =
            !self.namespace_selectors.is_everything() && self.namespace_selectors.matches(namespace_labels);
        (any_namespace || selected || self.namespaces.contains(namespace))
            && self.service_selectors.matches(service_labels)
    }
}

/// The pools that an advertisement is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolSelection {
    /// Pools by name; they need not exist.
    pub names: BTreeSet<String>,
    /// Further pools by their labels.
    pub selectors: AnyOf,
}

impl PoolSelection {
    pub(super) fn parse(spec: (&[String], &[LabelSelector]), findings: &mut Findings) -> Self {
        Self {
            names: findings.names("spec.ipAddressPools", spec.0),
            selectors: findings.any_of("spec.ipAddressPoolSelectors", spec.1),
        }
    }

    /// Whether the pool is selected; with neither names nor selectors, every pool is.
    pub fn matches(&self, pool: &Pool) -> bool {
        if self.selectors.is_everything() {
            self.names.is_empty() || self.names.contains(&pool.name)
        } else {
            self.names.contains(&pool.name) || self.selectors.matches(&pool.labels)
        }
    }
}

/// Parses all pools. Of two that overlap, the one created first is served: an address that is in use never changes its
/// pool because another one appeared.
pub(super) fn parse_all(
    objects: &[&api::IPAddressPool],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Pool> {
    let mut pools = BTreeMap::new();
    let mut taken = Taken::default();
    let mut found = BTreeMap::new();
    for object in by_age(objects) {
        let mut findings = Findings::of(object);
        let (pool, placed) = parse(object, &taken, &mut findings);
        if findings.is_usable() {
            taken.extend(placed);
            pools.insert(pool.name.clone(), pool);
        }
        found.insert(findings.name().to_owned(), findings.into_problems());
    }
    problems.extend(found.into_values().flatten());
    pools
}

fn parse(object: &api::IPAddressPool, taken: &Taken, findings: &mut Findings) -> (Pool, Taken) {
    let spec = &object.spec;
    if spec.addresses.is_empty() {
        findings.add("spec.addresses", "a pool needs at least one block of addresses");
    }
    let mut own = Taken::default();
    let mut ranges = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        let range: AddressRange = match text.parse() {
            Ok(range) => range,
            Err(error) => {
                findings.add(field, error);
                continue;
            }
        };
        if let Some(Block { range: other, .. }) = own.overlapping(range) {
            findings.add(&field, format_args!("{range} overlaps {other} of the same pool"));
        } else {
            own.insert(Block { range, pool: findings.name().to_owned() });
            ranges.push(range);
        }
        if let Some(Block { range: other, pool }) = taken.overlapping(range) {
            findings.add(&field, format_args!("{range} overlaps {other} of IPAddressPool {pool:?}"));
        }
    }
    let pool = Pool {
        name: findings.name().to_owned(),
        ranges,
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        service_allocation: spec
            .service_allocation
            .as_ref()
            .map(|allocation| parse_allocation(allocation, findings)),
        cooldown: spec.cooldown.as_ref().map_or(Duration::ZERO, |text| {
            duration::parse(text).unwrap_or_else(|error| {
                findings.add("spec.cooldown", error);
                Duration::ZERO
            })
        }),
        labels: object.metadata.labels.as_ref().into(),
    };
    (pool, own)
}

fn parse_allocation(spec: &api::ServiceAllocation, findings: &mut Findings) -> ServiceAllocation {
    let at = |field: &str| format!("spec.serviceAllocation.{field}");
    ServiceAllocation {
        priority: spec.priority.unwrap_or(0),
        namespaces: findings.names(&at("namespaces"), &spec.namespaces),
        namespace_selectors: findings.any_of(&at("namespaceSelectors"), &spec.namespace_selectors),
        service_selectors: findings.any_of(&at("serviceSelectors"), &spec.service_selectors),
    }
}

/// A range and the pool that it belongs to.
#[derive(Clone, Debug)]
struct Block {
    range: AddressRange,
    pool: String,
}

/// Blocks that do not overlap, by their first address. `IpAddr` orders all of IPv4 before all of IPv6.
#[derive(Default)]
struct Taken(BTreeMap<IpAddr, Block>);

impl Taken {
    fn overlapping(&self, range: AddressRange) -> Option<&Block> {
        // The only candidates are the last block that starts before the range ends: those before it end before it
        // starts.
        let (_, block) = self.0.range(..=range.last()).next_back()?;
        block.range.overlaps(&range).then_some(block)
    }

    fn insert(&mut self, block: Block) {
        self.0.insert(block.range.first(), block);
    }

    fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}
