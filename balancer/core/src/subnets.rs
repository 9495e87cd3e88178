//! The nodes' subnets, and which blocks of a pool lie in none of them.
//!
//! The Node object has addresses without a prefix length. The node's speaker tells it in its ConfigurationState, and some
//! network plug-ins in annotations. Where neither does, nothing is known and nothing is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use metallb_api::{ConfigurationStateStatus, names::LABEL_NODE_NAME};

use crate::range::{AddressRange, Family};

/// Annotations with one address and its prefix length.
const ONE: [&str; 2] = ["projectcalico.org/IPv4Address", "projectcalico.org/IPv6Address"];
/// Annotation with a JSON list of them.
const LIST: &str = "k8s.ovn.org/host-cidrs";
/// Annotation with a JSON object of them, by family.
const BY_FAMILY: &str = "k8s.ovn.org/node-primary-ifaddr";

/// Annotations of a node that are read.
pub const ANNOTATIONS: [&str; 4] = [ONE[0], ONE[1], LIST, BY_FAMILY];

/// The subnet that a node with `address` is connected to. An address that is alone in its subnet, or is used on its link
/// alone, says nothing about that.
#[must_use]
pub fn subnet_of(address: IpNet) -> Option<IpNet> {
    let link_local = match address.addr() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (address.prefix_len() < address.max_prefix_len() && !link_local).then(|| address.trunc())
}

/// The subnets of `nodes`, as far as annotations tell them.
#[must_use]
pub fn subnets<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<IpNet> {
    let mut found = BTreeSet::new();
    for node in nodes {
        let annotations = node.metadata.annotations.as_ref();
        let annotation = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str);
        let mut texts: Vec<String> =
            ONE.iter().filter_map(|name| annotation(name)).map(str::to_owned).collect();
        let list = annotation(LIST).and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
        texts.extend(list.into_iter().flatten());
        let families = annotation(BY_FAMILY)
            .and_then(|text| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
        texts.extend(families.into_iter().flat_map(BTreeMap::into_values));
        let addresses = texts.iter().filter_map(|text| text.parse::<IpNet>().ok());
        found.extend(addresses.filter_map(subnet_of));
    }
    found.into_iter().collect()
}

/// The node of a speaker's ConfigurationState, and the subnets that it tells; `None` of the controller's.
#[must_use]
pub fn told(
    metadata: &ObjectMeta,
    status: Option<&ConfigurationStateStatus>,
) -> Option<(String, Vec<IpNet>)> {
    let node = metadata.labels.as_ref()?.get(LABEL_NODE_NAME)?.clone();
    let subnets = status.iter().flat_map(|status| &status.subnets);
    Some((node, subnets.filter_map(|text| text.parse().ok()).collect()))
}

/// The blocks that no subnet holds whole. A family of which no subnet is known is not judged.
#[must_use]
pub fn outside(blocks: &[AddressRange], subnets: &[IpNet]) -> Vec<AddressRange> {
    let of_family = |family| subnets.iter().filter(move |subnet| Family::of(subnet.addr()) == family);
    let is_outside = |block: &&AddressRange| {
        let mut known = of_family(block.family()).peekable();
        known.peek().is_some()
            && !known.any(|subnet| subnet.contains(&block.first()) && subnet.contains(&block.last()))
    };
    blocks.iter().filter(is_outside).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(annotations: &serde_json::Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "annotations": annotations}})).unwrap()
    }

    #[test]
    fn network_plug_ins_tell_the_prefix_lengths() {
        let nodes = [
            node(
                &json!({"k8s.ovn.org/host-cidrs": r#"["192.0.2.5/24","2001:db8::5/64","169.254.0.2/32","169.254.0.2/17","x"]"#}),
            ),
            node(
                &json!({"k8s.ovn.org/node-primary-ifaddr": r#"{"ipv4":"192.0.2.6/24","ipv6":"2001:db8:1::6/64"}"#}),
            ),
            node(&json!({"projectcalico.org/IPv4Address": "198.51.100.7/25"})),
            node(&json!({"k8s.ovn.org/host-cidrs": "nonsense"})),
        ];
        let found: Vec<_> = subnets(nodes.iter()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.0/24", "198.51.100.0/25", "2001:db8::/64", "2001:db8:1::/64"]);
    }

    #[test]
    fn speakers_tell_the_subnets_of_their_nodes() {
        let texts = ["192.0.2.0/24", "2001:db8::/64", "nonsense"].map(str::to_owned).to_vec();
        let status = ConfigurationStateStatus { subnets: texts, ..ConfigurationStateStatus::default() };
        let metadata = |labels: &[(&str, &str)]| ObjectMeta {
            labels: Some(
                labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ),
            ..ObjectMeta::default()
        };
        let speakers = metadata(&[(LABEL_NODE_NAME, "node1")]);
        let subnets = ["192.0.2.0/24", "2001:db8::/64"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(told(&speakers, Some(&status)), Some(("node1".to_owned(), subnets)));
        assert_eq!(told(&speakers, None), Some(("node1".to_owned(), Vec::new())));
        assert_eq!(told(&metadata(&[]), Some(&status)), None);
    }

    #[test]
    fn a_block_is_outside_when_no_subnet_holds_it_whole() {
        let blocks: Vec<AddressRange> =
            ["192.0.2.0/28", "192.0.2.250-192.0.3.5", "203.0.113.0/28", "2001:db8::/64"]
                .map(|text| text.parse().unwrap())
                .to_vec();
        let outside = |subnets: &[&str]| -> Vec<String> {
            let subnets: Vec<IpNet> = subnets.iter().map(|text| text.parse().unwrap()).collect();
            super::outside(&blocks, &subnets).iter().map(ToString::to_string).collect()
        };
        assert_eq!(outside(&["192.0.2.0/24"]), ["192.0.2.250-192.0.3.5", "203.0.113.0/28"]);
        assert_eq!(outside(&["2001:db8:1::/64"]), ["2001:db8::/64"], "IPv4 is not judged");
        assert_eq!(outside(&[]), Vec::<String>::new());
    }
}
