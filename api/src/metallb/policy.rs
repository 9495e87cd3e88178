//! What the operator may do by itself, and when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether the operator looks after MetalLB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ManagementState {
    /// It installs, repairs and upgrades.
    #[default]
    Managed,
    /// It only reports: nothing is changed, repaired or upgraded.
    Unmanaged,
}

/// What happens beside IP failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFailoverPolicy {
    /// Nothing is installed beside it.
    #[default]
    Block,
    /// It is reported.
    Warn,
    /// It is not looked for.
    Ignore,
}

/// What happens to a Service's address when its pool is edited so that it no longer holds the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PoolEditPolicy {
    /// It is replaced, as upstream does.
    #[default]
    Reference,
    /// The Service keeps it.
    KeepInUse,
}

impl PoolEditPolicy {
    /// The value as it stands in the resource and in `--pool-edit-policy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "Reference",
            Self::KeepInUse => "KeepInUse",
        }
    }
}

/// How a new version is rolled out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradePolicy {
    /// What happens when an upgrade makes no progress; `Pause` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// How long an upgrade may make no progress, such as `10m`, which is also the value when not set. Pods on nodes
    /// that are not Ready or are cordoned do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<String>,
    /// Whether an upgrade waits for `approvedVersion`; `Automatic` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// With approval `Manual`, the version that may be rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_version: Option<String>,
}

/// What happens when an upgrade makes no progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// It stops where it is.
    #[default]
    Pause,
    /// The last version that worked is put back.
    Rollback,
}

/// Whether an upgrade waits for an administrator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    /// It does not.
    #[default]
    Automatic,
    /// It waits until `approvedVersion` names it.
    Manual,
}
