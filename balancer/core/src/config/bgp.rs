//! BGPAdvertisement: which addresses are announced by BGP, and with which attributes.

use std::collections::{BTreeMap, BTreeSet};

use metallb_api as api;

use super::community::{Community, CommunityError};
use super::pool::{Pool, PoolSelection};
use super::problem::Findings;
use crate::range::{AddressRange, Family, to_number};
use crate::selector::AnyOf;

/// An announcement by BGP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpAdvertisement {
    /// Name of the BGPAdvertisement.
    pub name: String,
    /// Names of the pools whose addresses are announced.
    pub pools: BTreeSet<String>,
    /// Nodes that announce.
    pub nodes: AnyOf,
    /// Services that are announced.
    pub services: AnyOf,
    /// Names of the peers that are told; all when empty.
    pub peers: BTreeSet<String>,
    /// Prefix length of IPv4 routes: 1 to 32.
    pub aggregation_length: u8,
    /// Prefix length of IPv6 routes: 0 to 128.
    pub aggregation_length_v6: u8,
    /// Whether routes may reach beyond their pool.
    pub covering: bool,
    /// LOCAL_PREF (RFC 4271 §5.1.5).
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC (RFC 4271 §5.1.4).
    pub med: Option<u32>,
    /// How many more times this end's AS number stands in the AS path: 0 to 10.
    pub prepend: u8,
    /// Communities of the routes.
    pub communities: BTreeSet<Community>,
}

/// Parses one advertisement. `aliases` are the names that Communities define.
pub(super) fn parse(
    object: &api::BGPAdvertisement,
    pools: &BTreeMap<String, Pool>,
    aliases: &BTreeMap<String, Community>,
    findings: &mut Findings,
) -> BgpAdvertisement {
    let spec = &object.spec;
    let within = |field: &str, value: i32, min: u8, max: u8, findings: &mut Findings| {
        let fits = u8::try_from(value).ok().filter(|value| (min..=max).contains(value));
        if fits.is_none() {
            findings.add(format!("spec.{field}"), format_args!("{value} is not in the range {min} to {max}"));
        }
        fits.unwrap_or(max)
    };
    let selection = PoolSelection::parse((&spec.ip_address_pools, &spec.ip_address_pool_selectors), findings);
    let mut advertisement = BgpAdvertisement {
        name: findings.name().to_owned(),
        pools: BTreeSet::new(),
        nodes: findings.any_of("spec.nodeSelectors", &spec.node_selectors),
        services: findings.any_of("spec.serviceSelectors", &spec.service_selectors),
        peers: findings.names("spec.peers", &spec.peers),
        aggregation_length: within("aggregationLength", spec.aggregation_length, 1, 32, findings),
        aggregation_length_v6: within("aggregationLengthV6", spec.aggregation_length_v6, 0, 128, findings),
        covering: spec.allow_covering.unwrap_or(false),
        local_pref: spec.local_pref.and_then(|value| {
            let parsed = u32::try_from(value).ok();
            if parsed.is_none() {
                findings.add("spec.localPref", format_args!("{value} is negative"));
            }
            parsed
        }),
        med: spec.med,
        prepend: within("asPathPrepend", spec.as_path_prepend.unwrap_or(0), 0, 10, findings),
        communities: communities(&spec.communities, aliases, findings),
    };
    let BgpAdvertisement { aggregation_length, aggregation_length_v6, .. } = advertisement;
    if !advertisement.services.is_everything() && (aggregation_length, aggregation_length_v6) != (32, 128) {
        findings.add(
            "spec.serviceSelectors",
            "can only be used with aggregationLength 32 and aggregationLengthV6 128",
        );
    }
    let selected = pools.values().filter(|pool| selection.matches(pool));
    let suitable =
        selected.filter(|pool| advertisement.covering || is_wide_enough(pool, &advertisement, findings));
    advertisement.pools = suitable.map(|pool| pool.name.clone()).collect();
    advertisement
}

fn communities(
    texts: &[String],
    aliases: &BTreeMap<String, Community>,
    findings: &mut Findings,
) -> BTreeSet<Community> {
    let names = findings.names("spec.communities", texts);
    let mut communities = BTreeSet::new();
    for text in names {
        let named = aliases.get(&text).copied().or_else(|| Community::well_known(&text));
        match named.map_or_else(|| text.parse(), Ok) {
            Ok(community) => {
                communities.insert(community);
            }
            Err(CommunityError::Form(_)) => findings.unresolved(
                "spec.communities",
                format_args!("{text:?} is not a community, and no Community defines this name"),
            ),
            Err(error) => findings.add("spec.communities", error),
        }
    }
    communities
}

/// Whether each block of the pool holds a prefix of the aggregation length, so that no route leads here for addresses
/// around the pool. A pool that does not is left out of the advertisement, not the advertisement for its sake.
fn is_wide_enough(pool: &Pool, advertisement: &BgpAdvertisement, findings: &mut Findings) -> bool {
    let mut wide_enough = true;
    for range in &pool.ranges {
        let (field, length) = match range.family() {
            Family::V4 => ("spec.aggregationLength", advertisement.aggregation_length),
            Family::V6 => ("spec.aggregationLengthV6", advertisement.aggregation_length_v6),
        };
        let widest = widest_prefix(range);
        if length < widest {
            wide_enough = false;
            let pool = &pool.name;
            findings.restrict(
                field,
                format_args!(
                    "IPAddressPool {pool:?} is not announced: a /{length} route would reach beyond {range}, use at \
                     least {widest}, or allowCovering"
                ),
            );
        }
    }
    wide_enough
}

/// Length of the widest prefix within a range.
pub(crate) fn widest_prefix(range: &AddressRange) -> u8 {
    let bits: u8 = if range.family() == Family::V4 { 32 } else { 128 };
    let (first, last) = (to_number(range.first()), to_number(range.last()));
    let holds = |length: &u8| {
        // The host part of a prefix, all ones; its start is the first address from `first` on with a host part of 0.
        let host = u128::MAX.checked_shr(128 - u32::from(bits - length)).unwrap_or(0);
        first.checked_add(host).map(|end| end & !host).is_some_and(|start| start | host <= last)
    };
    (0..bits).find(holds).unwrap_or(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_widest_prefix_lies_within_the_range() {
        for (range, length) in [
            ("0.0.0.0/0", 0),
            ("0.0.0.1-255.255.255.255", 1),
            ("192.0.2.0/24", 24),
            ("192.0.2.10-192.0.2.20", 30),
            ("192.0.2.1-192.0.2.2", 32),
            ("255.255.255.255/32", 32),
            ("::/0", 0),
            ("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1),
            ("2001:db8::1/128", 128),
            ("2001:db8::-2001:db8::ffff", 112),
        ] {
            assert_eq!(widest_prefix(&range.parse().unwrap()), length, "{range}");
        }
    }

    proptest! {
        #[test]
        fn no_wider_prefix_fits(a: u32, b: u32) {
            let (first, last) = (a.min(b), a.max(b));
            let range = AddressRange::new(
                std::net::Ipv4Addr::from_bits(first).into(),
                std::net::Ipv4Addr::from_bits(last).into(),
            ).unwrap();
            let fits = |length: u32| {
                let size = 1u64 << (32 - length);
                let start = u64::from(first).div_ceil(size) * size;
                start + size - 1 <= u64::from(last)
            };
            let length = u32::from(widest_prefix(&range));
            prop_assert!(fits(length));
            prop_assert!(length == 0 || !fits(length - 1));
        }
    }
}
