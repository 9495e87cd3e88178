//! AddressPool: the older way to write a pool and its advertisement in one resource. The operator turns each into
//! an IPAddressPool and an L2Advertisement or BGPAdvertisement that it owns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the addresses of an AddressPool are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// By ARP and NDP.
    #[default]
    Layer2,
    /// By routes.
    Bgp,
}

/// Attributes of the routes of an AddressPool with protocol `bgp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegacyBgpAdvertisement {
    /// Prefix length to which IPv4 addresses are gathered into one route.
    #[serde(default = "host_v4")]
    #[schemars(range(min = 1))]
    pub aggregation_length: i32,
    /// Prefix length to which IPv6 addresses are gathered into one route.
    #[serde(default = "host_v6")]
    pub aggregation_length_v6: i32,
    /// LOCAL_PREF of the routes; higher is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub local_pref: Option<u32>,
    /// Communities by value or by the name of an alias.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
}

/// What became of an AddressPool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// `Ready`: whether the pool is served, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

pub(crate) fn host_v4() -> i32 {
    32
}

pub(crate) fn host_v6() -> i32 {
    128
}

/// The version with which clusters began; it is served, not stored.
pub mod v1alpha1 {
    use super::{AddressPoolStatus, LegacyBgpAdvertisement, Protocol};
    use kube::CustomResource;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// A pool of addresses and the way in which they are announced.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[kube(
        group = "metallb.io",
        version = "v1alpha1",
        kind = "AddressPool",
        plural = "addresspools",
        namespaced,
        deprecated = "metallb.io/v1alpha1 AddressPool is deprecated: use metallb.io/v1beta1 IPAddressPool",
        storage = false,
        status = "AddressPoolStatus",
        derive = "PartialEq"
    )]
    #[serde(rename_all = "camelCase")]
    pub struct AddressPoolSpec {
        /// Not used: the pool has the name of the resource.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// layer2 or bgp.
        pub protocol: Protocol,
        /// Blocks of addresses, each a CIDR prefix or a range `first-last`.
        pub addresses: Vec<String>,
        /// Whether a Service that names no pool may get an address of this one.
        #[serde(default = "crate::yes")]
        pub auto_assign: bool,
        /// Attributes of the routes, with protocol bgp.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub bgp_advertisements: Vec<LegacyBgpAdvertisement>,
    }
}

/// The stored version.
pub mod v1beta1 {
    use super::{AddressPoolStatus, LegacyBgpAdvertisement, Protocol};
    use kube::CustomResource;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    /// A pool of addresses and the way in which they are announced.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[kube(
        group = "metallb.io",
        version = "v1beta1",
        kind = "AddressPool",
        plural = "addresspools",
        namespaced,
        deprecated = "metallb.io/v1beta1 AddressPool is deprecated: use metallb.io/v1beta1 IPAddressPool",
        status = "AddressPoolStatus",
        derive = "PartialEq"
    )]
    #[serde(rename_all = "camelCase")]
    pub struct AddressPoolSpec {
        /// layer2 or bgp.
        pub protocol: Protocol,
        /// Blocks of addresses, each a CIDR prefix or a range `first-last`.
        pub addresses: Vec<String>,
        /// Whether a Service that names no pool may get an address of this one.
        #[serde(default = "crate::yes")]
        pub auto_assign: bool,
        /// Attributes of the routes, with protocol bgp.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub bgp_advertisements: Vec<LegacyBgpAdvertisement>,
    }
}
