//! MetalLB: the one resource by which MetalLB is installed and configured.

mod layer2;
mod network;
mod policy;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::optional_spec::optional_spec;

pub use layer2::{
    ConflictPolicy, ConflictProbe, Detection, DrainPolicy, Failback, Fencing, Gratuitous, Layer2, WireCheck,
};
pub use network::{Monitoring, Monitors, NetworkPolicies};
pub use policy::{Approval, IpFailoverPolicy, ManagementState, OnFailure, PoolEditPolicy, UpgradePolicy};

/// How MetalLB is to run.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "metallb.io",
    version = "v1beta1",
    kind = "MetalLB",
    namespaced,
    status = "MetalLBStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "MetalLB installs and configures MetalLB in the namespace of the operator. The one that counts is named `metallb`.",
    printcolumn = r#"{"name":"Available","type":"string","description":"Available condition status","jsonPath":".status.conditions[?(@.type=='Available')].status"}"#,
    printcolumn = r#"{"name":"Degraded","type":"string","description":"Degraded condition status","jsonPath":".status.conditions[?(@.type=='Degraded')].status"}"#,
    printcolumn = r#"{"name":"Progressing","type":"string","description":"Progressing condition status","jsonPath":".status.conditions[?(@.type=='Progressing')].status"}"#,
    printcolumn = r#"{"name":"Version","type":"string","description":"Version that runs","jsonPath":".status.version"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct MetalLBSpec {
    /// Has no effect; accepted so that old resources stay valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Labels that a node must have for a speaker to run there, besides `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the speaker tolerates, besides those of control plane nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub speaker_tolerations: Vec<Toleration>,
    /// Labels that a node must have for the controller to run there, besides `kubernetes.io/os: linux`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub controller_node_selector: BTreeMap<String, String>,
    /// Taints that the controller tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controller_tolerations: Vec<Toleration>,
    /// How much controller and speaker log; `info` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Only Services with this `spec.loadBalancerClass` are served. When not set, only Services without a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = r"^([a-z0-9A-Z]([\w.\-]*[a-z0-9A-Z])?/)?[a-z0-9A-Z]([\w.\-]*[a-z0-9A-Z])?$"
    ))]
    pub load_balancer_class: Option<String>,
    /// Further settings of the controller's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_config: Option<ControllerConfig>,
    /// Further settings of the speakers' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker_config: Option<SpeakerConfig>,
    /// Which program speaks BGP: `native`, `frr`, `frr-k8s` or `frr-k8s-external`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_backend: Option<String>,
    /// Settings for frr-k8s.
    #[serde(default, rename = "frrk8sConfig", skip_serializing_if = "Option::is_none")]
    pub frrk8s_config: Option<FrrK8sConfig>,
    /// Time after which an address is announced once more by ARP or NDP, for as long as it is announced, such as `60s`;
    /// not at all when not set or 0. `layer2.gratuitous.repeat` is the same and goes before it.
    #[serde(default, rename = "speakerGratuitousARPInterval", skip_serializing_if = "Option::is_none")]
    pub speaker_gratuitous_arp_interval: Option<String>,
    /// Whether the operator looks after MetalLB; `Managed` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_state: Option<ManagementState>,
    /// What happens beside IP failover (keepalived); `Block` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_failover_policy: Option<IpFailoverPolicy>,
    /// What happens to a Service's address when its pool is edited so that it no longer holds the address;
    /// `Reference` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_edit_policy: Option<PoolEditPolicy>,
    /// How a new version is rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_policy: Option<UpgradePolicy>,
    /// Secrets in the operator's namespace with which images are pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::local_references")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Announces also from nodes with label `node.kubernetes.io/exclude-from-external-load-balancers`.
    #[serde(default, rename = "ignoreExcludeLB", skip_serializing_if = "Option::is_none")]
    pub ignore_exclude_lb: Option<bool>,
    /// Interfaces that never announce, as regular expressions of their names; replaces the default list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub excluded_interfaces: Option<Vec<String>>,
    /// Objects of the Prometheus Operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// NetworkPolicies of MetalLB's own pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policies: Option<NetworkPolicies>,
    /// Settings of the announcements by ARP and NDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer2: Option<Layer2>,
}

optional_spec!(MetalLBSpec);

/// Settings of one component's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadConfig {
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Runtime class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Scheduling constraints of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::affinity")]
    pub affinity: Option<Affinity>,
    /// Requests and limits of the component's own container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::resources")]
    pub resources: Option<ResourceRequirements>,
}

/// Settings of the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerConfig {
    /// Its pods.
    #[serde(flatten)]
    pub pod: WorkloadConfig,
    /// How many controllers run, one of which is at work; 1 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub replicas: Option<i32>,
}

/// Settings of the speakers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpeakerConfig {
    /// Their pods.
    #[serde(flatten)]
    pub pod: WorkloadConfig,
    /// How many speakers, as a number or a percentage, may be replaced at a time; 1 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::embedded::number_or_percentage")]
    pub max_unavailable: Option<IntOrString>,
    /// Whether the speakers listen on TCP port 179, for BGPPeers that are `passive`. It adds the capability
    /// NET_BIND_SERVICE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_listen: Option<bool>,
}

/// Settings for frr-k8s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrrK8sConfig {
    /// CIDRs of which no route is ever accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub always_block: Vec<String>,
    /// Namespace of an frr-k8s that is installed separately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Passes references to BGP password Secrets on instead of their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_passthrough: Option<bool>,
}

/// How much a program logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    All,
    /// Details for finding faults.
    Debug,
    /// What an administrator acts on.
    #[default]
    Info,
    /// What may need attention.
    Warn,
    /// Failures.
    Error,
    /// Nothing.
    None,
}

impl LogLevel {
    /// The value as it stands in the resource and in `--log-level`.
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

/// What the operator saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetalLBStatus {
    /// Available, Upgradeable, Progressing and Degraded, and further ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::conditions")]
    pub conditions: Vec<Condition>,
    /// The programs, and how they fare.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
    /// Version that runs everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A program, and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// `controller` or `speaker`.
    pub name: String,
    /// The image that its pods are to run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The version that all its pods run; none while they are being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Pods that should be ready.
    pub wanted: i32,
    /// Of them, those that are.
    pub ready: i32,
    /// What there is to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
