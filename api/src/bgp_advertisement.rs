//! BGPAdvertisement: which pools' addresses are announced to BGP peers, and with which attributes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConfiguredStatus;
use crate::optional_spec::optional_spec;

/// What is announced by BGP, from where, and with which attributes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "BGPAdvertisement",
    namespaced,
    status = "ConfiguredStatus",
    shortname = "bgpadv",
    derive = "PartialEq",
    derive = "Default",
    doc = "BGPAdvertisement announces the addresses of pools by BGP, and sets the attributes of their routes.",
    printcolumn = r#"{"name":"IPAddressPools","type":"string","jsonPath":".spec.ipAddressPools"}"#,
    printcolumn = r#"{"name":"IPAddressPool Selectors","type":"string","jsonPath":".spec.ipAddressPoolSelectors"}"#,
    printcolumn = r#"{"name":"Peers","type":"string","jsonPath":".spec.peers"}"#,
    printcolumn = r#"{"name":"Node Selectors","type":"string","priority":10,"jsonPath":".spec.nodeSelectors"}"#
)]
#[serde(rename_all = "camelCase", remote = "Self")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.serviceSelectors) || size(self.serviceSelectors) == 0 || \
        ((!has(self.aggregationLength) || self.aggregationLength == 32) && \
        (!has(self.aggregationLengthV6) || self.aggregationLengthV6 == 128))",
    "message": "serviceSelectors can only be used with aggregationLength 32 and aggregationLengthV6 128",
}]))]
pub struct BGPAdvertisementSpec {
    /// Prefix length to which IPv4 addresses are rolled up: 1 to 32.
    #[serde(default = "crate::host_v4")]
    #[schemars(range(min = 1))]
    pub aggregation_length: i32,
    /// Prefix length to which IPv6 addresses are rolled up: up to 128.
    #[serde(default = "crate::host_v6")]
    pub aggregation_length_v6: i32,
    /// LOCAL_PREF of the routes (RFC 4271 §5.1.5); higher is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<i32>,
    /// MULTI_EXIT_DISC of the routes (RFC 4271 §5.1.4); lower is preferred. Not sent unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::unsigned")]
    pub med: Option<u32>,
    /// How many more times this end's AS number stands in the AS path: up to 10. Has no effect within an AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub as_path_prepend: Option<i32>,
    /// Whether a route may reach beyond the pool. Without it, a pool that holds no prefix of the aggregation length is
    /// not announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_covering: Option<bool>,
    /// Communities of the routes: `number:number` (RFC 1997), `large:number:number:number` (RFC 8092), or the name of
    /// an alias in a Community.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
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
    /// Names of the BGPPeers to announce to. With none, to every peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// Announces only Services whose labels match one of these selectors. With none, all Services of the pools. Needs
    /// both aggregation lengths at their defaults.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

optional_spec!(BGPAdvertisementSpec);

impl Default for BGPAdvertisementSpec {
    fn default() -> Self {
        Self {
            aggregation_length: crate::host_v4(),
            aggregation_length_v6: crate::host_v6(),
            local_pref: None,
            med: None,
            as_path_prepend: None,
            allow_covering: None,
            communities: Vec::new(),
            ip_address_pools: Vec::new(),
            ip_address_pool_selectors: Vec::new(),
            node_selectors: Vec::new(),
            peers: Vec::new(),
            service_selectors: Vec::new(),
        }
    }
}
