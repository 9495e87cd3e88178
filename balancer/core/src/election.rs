//! Election of the node that announces an address on layer 2.
//!
//! Every speaker computes the same owner from the same facts; nobody votes. The order is MetalLB's: the greatest sum of
//! preferred weights first, then the least SHA-256 of the node's name, `#` and the address in its canonical text.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// A node that may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// Sum of the preferred weights of the advertisements.
    pub preference: u64,
}

/// The candidate that announces `address`: the first in the order above.
///
/// Of several addresses with one owner (both families of a Service, Services that share), `address` is the first.
pub fn elect<'a>(candidates: &[Candidate<'a>], address: IpAddr) -> Option<&'a str> {
    let best = candidates.iter().map(|candidate| candidate.preference).max()?;
    let address = address.to_canonical().to_string();
    let favourites = candidates.iter().filter(|candidate| candidate.preference == best);
    favourites.map(|candidate| candidate.node).min_by_key(|node| rank(node, &address))
}

/// Where a node stands in the order for `address`: the least comes first.
pub(crate) fn rank_of(node: &str, address: IpAddr) -> [u8; 32] {
    rank(node, &address.to_canonical().to_string())
}

fn rank(node: &str, address: &str) -> [u8; 32] {
    Sha256::new().chain_update(node).chain_update("#").chain_update(address).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates<'a>(nodes: &[(&'a str, u64)]) -> Vec<Candidate<'a>> {
        nodes.iter().map(|(node, preference)| Candidate { node, preference: *preference }).collect()
    }

    /// The owners were worked out with `printf %s NODE#ADDRESS | sha256sum | sort`.
    #[test]
    fn the_least_hash_wins() {
        let three = candidates(&[("node1", 0), ("node2", 0), ("node3", 0)]);
        for (address, want) in [
            ("172.22.0.100", "node2"),
            ("172.22.0.101", "node3"),
            ("172.22.0.103", "node1"),
            ("fd00:22::100", "node3"),
            ("FD00:0022:0:0::0100", "node3"),
            ("::ffff:172.22.0.100", "node2"),
        ] {
            assert_eq!(elect(&three, address.parse().unwrap()), Some(want), "{address}");
        }
    }

    #[test]
    fn the_order_of_candidates_does_not_matter_and_the_rest_takes_over() {
        let address = "172.22.0.100".parse().unwrap();
        let mut nodes = candidates(&[("node1", 0), ("node2", 0), ("node3", 0)]);
        let owner = elect(&nodes, address);
        nodes.reverse();
        assert_eq!(elect(&nodes, address), owner);
        nodes.retain(|candidate| Some(candidate.node) != owner);
        assert_ne!(elect(&nodes, address), owner);
        assert_eq!(elect(&[], address), None);
    }

    #[test]
    fn weight_comes_before_the_hash() {
        let address = "172.22.0.100".parse().unwrap();
        for favourite in ["node1", "node2", "node3"] {
            let nodes = ["node1", "node2", "node3"].map(|node| (node, u64::from(node == favourite)));
            assert_eq!(elect(&candidates(&nodes), address), Some(favourite));
        }
    }

    /// What a node that is lost costs at most: docs/sizing.md has these figures.
    #[test]
    fn a_thousand_addresses_are_spread_over_the_nodes() {
        let first = u32::from(std::net::Ipv4Addr::new(172, 22, 0, 0));
        let shares = [3, 16, 100, 1000].map(|size| {
            let names: Vec<String> = (1..=size).map(|index| format!("node{index}")).collect();
            let nodes: Vec<Candidate<'_>> =
                names.iter().map(|node| Candidate { node, preference: 0 }).collect();
            let mut held = std::collections::BTreeMap::<&str, usize>::new();
            for address in first..first + 1000 {
                let owner = elect(&nodes, std::net::Ipv4Addr::from(address).into()).unwrap();
                *held.entry(owner).or_default() += 1;
            }
            let of = |node: &String| held.get(node.as_str()).copied().unwrap_or_default();
            (size, names.iter().map(of).min().unwrap(), names.iter().map(of).max().unwrap())
        });
        assert_eq!(shares, [(3, 329, 342), (16, 50, 78), (100, 5, 18), (1000, 0, 5)]);
    }
}
