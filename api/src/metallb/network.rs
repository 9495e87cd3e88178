//! NetworkPolicies and monitoring.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// NetworkPolicies of MetalLB's own pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicies {
    /// Whether there are any; by default as the operator's environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Port of the API server; 6443 when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub api_port: Option<u16>,
    /// Whether DNS may be asked; `true` when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<bool>,
}

/// Objects of the Prometheus Operator. They are made where its kinds exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// How metrics are found; by default as the operator's environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitors: Option<Monitors>,
    /// Whether alerts are defined; `true` where there are monitors, when not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<bool>,
}

/// Which kind of object tells Prometheus where the metrics are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Monitors {
    /// None.
    #[default]
    None,
    /// ServiceMonitors, each with a Service.
    ServiceMonitor,
    /// PodMonitors.
    PodMonitor,
}
