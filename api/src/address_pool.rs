//! AddressPool: the pool kind of the MetalLB Operator before 4.11, addresses together with how they are announced.
//!
//! Both versions share one schema, so that conversion changes nothing but `apiVersion`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PoolCapacity;

/// How the addresses of an AddressPool are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// ARP and NDP.
    #[default]
    Layer2,
    /// BGP.
    Bgp,
}

/// One announcement of the pool's addresses by BGP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegacyBgpAdvertisement {
    /// Prefix length to which IPv4 addresses are rolled up.
    #[serde(default = "crate::host_v4")]
    #[schemars(range(min = 1))]
    pub aggregation_length: i32,
    /// Prefix length to which IPv6 addresses are rolled up.
    #[serde(default = "crate::host_v6")]
    pub aggregation_length_v6: i32,
    /// LOCAL_PREF of the routes (RFC 4271 §5.1.5); higher is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<i32>,
    /// Communities of the routes: `number:number`, or the name of an alias.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
}

/// What became of the pool, and how many of its addresses are used. Numbers beyond 2^63-1 are shown as 2^63-1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AddressPoolStatus {
    /// Addresses that Services hold, of both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<i64>,
    /// IPv4 addresses that Services hold.
    #[serde(default, rename = "assignedIPv4", skip_serializing_if = "Option::is_none")]
    pub assigned_ipv4: Option<i64>,
    /// IPv6 addresses that Services hold.
    #[serde(default, rename = "assignedIPv6", skip_serializing_if = "Option::is_none")]
    pub assigned_ipv6: Option<i64>,
    /// Services that hold addresses of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<i64>,
    /// All addresses of the pool, used or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<PoolCapacity>,
    /// Whether the pool is in use, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::conditions_by_type")]
    pub conditions: Vec<Condition>,
}

macro_rules! version {
    ($(#[$doc:meta])* $module:ident, $version:literal $(, $attribute:meta)*) => {
        $(#[$doc])*
        pub mod $module {
            use kube::CustomResource;
            use schemars::JsonSchema;
            use serde::{Deserialize, Serialize};

            use super::{AddressPoolStatus, LegacyBgpAdvertisement, Protocol};

            /// The addresses of the pool, and how they are announced.
            #[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
            #[kube(
                group = "metallb.io",
                version = $version,
                kind = "AddressPool",
                namespaced,
                status = "AddressPoolStatus",
                derive = "PartialEq",
                derive = "Default",
                doc = "AddressPool holds addresses for Services of type LoadBalancer, and says how they are announced.",
                printcolumn = r#"{"name":"Protocol","type":"string","jsonPath":".spec.protocol"}"#,
                printcolumn = r#"{"name":"Auto Assign","type":"boolean","jsonPath":".spec.autoAssign"}"#,
                printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.addresses"}"#,
                printcolumn = r#"{"name":"Assigned","type":"integer","description":"Addresses that Services hold","jsonPath":".status.assigned"}"#,
                printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#
                $(, $attribute)*
            )]
            #[serde(rename_all = "camelCase")]
            pub struct AddressPoolSpec {
                /// Has no effect: the pool is called by its `metadata.name`.
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub name: Option<String>,
                /// How the addresses are announced.
                pub protocol: Protocol,
                /// Blocks of addresses, IPv4 and IPv6 in any mixture: a CIDR such as `192.0.2.0/28`, or a range of
                /// first and last address such as `192.0.2.10-192.0.2.20`. A single address is a range that ends
                /// where it starts.
                pub addresses: Vec<String>,
                /// Whether a Service that asks for no pool and no address may be served from here.
                #[serde(default = "crate::yes")]
                pub auto_assign: bool,
                /// How the addresses are announced by BGP; only with protocol `bgp`.
                #[serde(default, skip_serializing_if = "Vec::is_empty")]
                pub bgp_advertisements: Vec<LegacyBgpAdvertisement>,
            }

            impl Default for AddressPoolSpec {
                fn default() -> Self {
                    Self {
                        name: None,
                        protocol: Protocol::Layer2,
                        addresses: Vec::new(),
                        auto_assign: true,
                        bgp_advertisements: Vec::new(),
                    }
                }
            }
        }
    };
}

version!(
    /// The version of 4.9.
    v1alpha1, "v1alpha1", storage = false
);
version!(
    /// The version of 4.10, in which pools are stored.
    v1beta1, "v1beta1"
);
