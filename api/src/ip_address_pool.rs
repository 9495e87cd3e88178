//! IPAddressPool: addresses that Services may be given, and by which Services.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The addresses of the pool, and who may have them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "IPAddressPool",
    namespaced,
    status = "IPAddressPoolStatus",
    shortname = "ipap",
    derive = "PartialEq",
    derive = "Default",
    doc = "IPAddressPool holds addresses that Services of type LoadBalancer are given.",
    printcolumn = r#"{"name":"Auto Assign","type":"boolean","jsonPath":".spec.autoAssign"}"#,
    printcolumn = r#"{"name":"Avoid Buggy IPs","type":"boolean","jsonPath":".spec.avoidBuggyIPs"}"#,
    printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.addresses"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IPAddressPoolSpec {
    /// Blocks of addresses, IPv4 and IPv6 in any mixture: a CIDR such as `192.0.2.0/28`, or a range of first and last
    /// address such as `192.0.2.10-192.0.2.20`. A single address is written `192.0.2.10/32` or with itself as the end
    /// of the range. Every address of a CIDR is used.
    pub addresses: Vec<String>,
    /// Whether a Service that asks for no pool and no address may be served from here.
    #[serde(default = "crate::yes")]
    pub auto_assign: bool,
    /// Leaves out IPv4 addresses that end in .0 or .255, which some old equipment takes for broadcast addresses.
    #[serde(default, rename = "avoidBuggyIPs")]
    pub avoid_buggy_ips: bool,
    /// Limits the pool to some namespaces or Services, and ranks it among the pools that fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_allocation: Option<ServiceAllocation>,
    /// How long an address that is released rests before another Service may have it, such as `30s` or `5m`. A Service
    /// that is created again under the same name gets its resting address back. No rest when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<String>,
}

impl Default for IPAddressPoolSpec {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            auto_assign: true,
            avoid_buggy_ips: false,
            service_allocation: None,
            cooldown: None,
        }
    }
}

/// Which Services a pool is for, and its rank among those that fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAllocation {
    /// Pools with a lower number are tried first; 0, or none, comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::integer")]
    pub priority: Option<i64>,
    /// Namespaces whose Services the pool is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Selects further namespaces by their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::label_selectors")]
    pub namespace_selectors: Vec<LabelSelector>,
    /// Selects the Services that the pool is for by their labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::label_selectors")]
    pub service_selectors: Vec<LabelSelector>,
}

/// How many addresses of the pool are used and free. Numbers beyond 2^63-1 are shown as 2^63-1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IPAddressPoolStatus {
    /// IPv4 addresses that Services hold.
    #[serde(rename = "assignedIPv4")]
    pub assigned_ipv4: i64,
    /// IPv6 addresses that Services hold.
    #[serde(rename = "assignedIPv6")]
    pub assigned_ipv6: i64,
    /// IPv4 addresses that are free.
    #[serde(rename = "availableIPv4")]
    pub available_ipv4: i64,
    /// IPv6 addresses that are free.
    #[serde(rename = "availableIPv6")]
    pub available_ipv6: i64,
    /// Services that hold addresses of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<i64>,
    /// All addresses of the pool, used or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<PoolCapacity>,
    /// Released addresses that no other Service may have yet; not all of them when they are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resting: Vec<RestingAddress>,
    /// Whether the pool is served, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::conditions_by_type")]
    pub conditions: Vec<Condition>,
}

/// Numbers of addresses, exact in decimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolCapacity {
    /// IPv4 addresses.
    pub ipv4: String,
    /// IPv6 addresses.
    pub ipv6: String,
}

/// A released address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestingAddress {
    /// The address.
    pub address: String,
    /// The Service that held it, as `namespace/name`.
    pub service: String,
    /// When it may be given to another.
    pub until: Time,
}
