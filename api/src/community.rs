//! Community: names for BGP communities.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConfiguredStatus;
use crate::optional_spec::optional_spec;

/// Names and what they stand for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "Community",
    plural = "communities",
    namespaced,
    shortname = "comm",
    status = "ConfiguredStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Community gives names to BGP communities, which a BGPAdvertisement can then use."
)]
#[serde(remote = "Self")]
pub struct CommunitySpec {
    /// The names; none may occur twice among all Communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<CommunityAlias>,
}

optional_spec!(CommunitySpec);

/// A name for one community.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommunityAlias {
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `number:number` (RFC 1997) or `large:number:number:number` (RFC 8092).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}
