//! L2Advertisement: which pools' addresses are announced by ARP and NDP, from which nodes and interfaces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConfiguredStatus;
use crate::optional_spec::optional_spec;

/// What is announced on layer 2, and from where.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "L2Advertisement",
    namespaced,
    status = "ConfiguredStatus",
    shortname = "l2adv",
    derive = "PartialEq",
    derive = "Default",
    doc = "L2Advertisement announces the addresses of pools on layer 2: by ARP for IPv4 and NDP for IPv6.",
    printcolumn = r#"{"name":"IPAddressPools","type":"string","jsonPath":".spec.ipAddressPools"}"#,
    printcolumn = r#"{"name":"IPAddressPool Selectors","type":"string","jsonPath":".spec.ipAddressPoolSelectors"}"#,
    printcolumn = r#"{"name":"Interfaces","type":"string","jsonPath":".spec.interfaces"}"#,
    printcolumn = r#"{"name":"Node Selectors","type":"string","priority":10,"jsonPath":".spec.nodeSelectors"}"#
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct L2AdvertisementSpec {
    /// Names of the IPAddressPools to announce. With no name and no selector, every pool is announced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_address_pools: Vec<String>,
    /// Announces the IPAddressPools whose labels match one of these selectors, besides those that are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::label_selectors")]
    pub ip_address_pool_selectors: Vec<LabelSelector>,
    /// Announces only from nodes whose labels match one of these selectors. With none, from every node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::label_selectors")]
    pub node_selectors: Vec<LabelSelector>,
    /// Interfaces to announce on: exact names, regular expressions of whole names, or `default` for the interface of the
    /// default route. With none, on every interface of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Announces only Services whose labels match one of these selectors. With none, all Services of the pools. A
    /// Service that is matched by a selector must not share its address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,
    /// Soft preferences among the nodes that may announce: the node with the greatest sum of matching weights is
    /// chosen. When no preferred node can announce, any other that may does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferred_node_selectors: Vec<PreferredNodeSelector>,
    /// How the node is chosen among the most preferred of those that may announce an address; `Hash` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_policy: Option<ElectionPolicy>,
}

optional_spec!(L2AdvertisementSpec);

/// One soft preference for the nodes that match a selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferredNodeSelector {
    /// Added to the score of each matching node: 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
    /// The nodes that get the weight. An empty selector matches every node.
    #[schemars(schema_with = "crate::embedded::label_selector")]
    pub preference: LabelSelector,
}

/// How the node is chosen that announces an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ElectionPolicy {
    /// By a hash of node and address, as upstream: without any state, and unevenly where addresses are few.
    #[default]
    Hash,
    /// The node with the fewest addresses: no node has two more than another that could take one, and an address moves
    /// only for that, or because its node is lost.
    Even,
}
