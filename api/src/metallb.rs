//! MetalLB: the load balancer as the administrator wants it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, ResourceRequirements, Toleration},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The load balancer of the cluster. One resource, named `metallb`, in the operator's namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "MetalLB",
    plural = "metallbs",
    namespaced,
    status = "MetalLBStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Available","type":"string","description":"Whether the load balancer works","jsonPath":".status.conditions[?(@.type=='Available')].status"}"#,
    printcolumn = r#"{"name":"Degraded","type":"string","description":"Whether an administrator is needed","jsonPath":".status.conditions[?(@.type=='Degraded')].status"}"#,
    printcolumn = r#"{"name":"Progressing","type":"string","description":"Whether a change is being carried out","jsonPath":".status.conditions[?(@.type=='Progressing')].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MetalLBSpec {
    /// Has no effect: images are set in the operator's environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Nodes that run a speaker, in addition to `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Tolerations of the speaker, after those for control-plane nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speaker_tolerations: Vec<Toleration>,
    /// Nodes that may run the controller, in addition to `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub controller_node_selector: BTreeMap<String, String>,
    /// Tolerations of the controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controller_tolerations: Vec<Toleration>,
    /// How much the controller and the speakers log; info when unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Only Services of this class are served; unset: only Services without a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([a-z0-9A-Z]([\w.\-]*[a-z0-9A-Z])?/)?[a-z0-9A-Z]([\w.\-]*[a-z0-9A-Z])?$"))]
    pub load_balancer_class: Option<String>,
    /// The controller's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_config: Option<WorkloadConfig>,
    /// The speakers' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker_config: Option<WorkloadConfig>,
    /// native, frr, frr-k8s or frr-k8s-external.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_backend: Option<String>,
    /// Settings of the frr-k8s modes.
    #[serde(default, rename = "frrk8sConfig", skip_serializing_if = "Option::is_none")]
    pub frrk8s_config: Option<FrrK8sConfig>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    All,
    Debug,
    Info,
    Warn,
    Error,
    None,
}

impl LogLevel {
    /// As the programs' flag `--log-level` takes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::None => "none",
        }
    }
}

/// What may be set of a workload's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadConfig {
    /// Name of a PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Name of a RuntimeClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Requests and limits of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// Settings of the frr-k8s modes, accepted so that existing resources apply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrrK8sConfig {
    /// Prefixes that no peer may teach the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub always_block: Vec<String>,
    /// Namespace of an frr-k8s that is installed by others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Whether password Secrets are handed on by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_passthrough: Option<bool>,
}

/// What the operator saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetalLBStatus {
    /// Available, Upgradeable, Progressing and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
