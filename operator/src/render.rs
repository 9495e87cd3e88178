//! From an installation to the objects that make it.
//!
//! Pure, and it cannot fail: whatever could be wrong was refused when the resource was read. Objects are written as
//! the API server stores them (`drift` relies on it).

mod configuration;
mod controller;
mod monitoring;
mod network;
mod speaker;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{
            ConfigMap, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference,
            ObjectFieldSelector, Probe, Secret, Service,
        },
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, ResourceExt};
use metallb_api::names;
use serde_json::Value;

pub use configuration::DEFAULT_EXCLUDED_INTERFACES;
pub(crate) use configuration::memberlist;

use crate::{health::MIN_READY, install::Install, kinds::Kind, settings::Settings};

/// Label by which the operator knows what it applied, and its value.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "metallb-operator");

/// All objects of an installation, in the order in which they are needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// Key of the speakers' gossip.
    pub memberlist: Secret,
    /// Interfaces that never announce.
    pub exclude_l2: ConfigMap,
    /// Gives Services their addresses.
    pub controller: Deployment,
    /// Announces them.
    pub speaker: DaemonSet,
    /// What the controller may reach.
    pub network_policy: Option<NetworkPolicy>,
    /// Where the metrics are found.
    pub monitor_services: Vec<Service>,
    /// ServiceMonitors, PodMonitors and PrometheusRules, by kind: they have no Rust type. Before them, the token that
    /// monitors name.
    pub monitors: Vec<(Kind, Value)>,
}

/// What does not come from the spec of the MetalLB resource.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Images, namespace, ports.
    pub settings: &'a Settings,
    /// The MetalLB resource, so that its deletion removes everything.
    pub owner: &'a OwnerReference,
    /// Data of the memberlist Secret as it is, or a new key: a key that is there is never replaced.
    pub memberlist: &'a BTreeMap<String, Vec<u8>>,
}

/// Renders `install`.
#[must_use]
pub fn objects(install: &Install, context: Context<'_>) -> Objects {
    Objects {
        memberlist: memberlist(context),
        exclude_l2: configuration::exclude_l2(install, context),
        controller: controller::deployment(install, context),
        speaker: speaker::daemon_set(install, context),
        network_policy: install.network.map(|network| network::policy(network, context)),
        monitor_services: monitoring::services(install.monitoring, context),
        monitors: monitoring::monitors(install.monitoring, context),
    }
}

/// Labels by which a workload knows its pods. They can never change.
fn selector(component: &str) -> BTreeMap<String, String> {
    strings([("app", names::APP), ("component", component)])
}

fn label_selector(component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(component)), ..LabelSelector::default() }
}

/// Labels of pods: without the version, so that a new operator with the same images restarts nothing.
fn pod_labels(component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(component);
    labels.extend(strings([
        ("app.kubernetes.io/name", names::APP),
        ("app.kubernetes.io/component", component),
    ]));
    labels
}

/// Name, labels and owner of an object that the operator applies.
fn metadata(name: &str, component: Option<&str>, context: Context<'_>) -> ObjectMeta {
    let mut labels = strings([
        ("app", names::APP),
        ("app.kubernetes.io/name", names::APP),
        ("app.kubernetes.io/version", &context.settings.version),
        MANAGED_BY,
    ]);
    labels.extend(component.map(pod_labels).unwrap_or_default());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(context.settings.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![context.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// A reference by which the deletion of `owner` removes what refers to it.
#[must_use]
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The administrator's node selector, on Linux.
fn node_selector(chosen: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut selector = strings([("kubernetes.io/os", "linux")]);
    selector.extend(chosen.clone());
    selector
}

fn image_pull_secrets(install: &Install) -> Option<Vec<LocalObjectReference>> {
    let reference = |name: &String| LocalObjectReference { name: name.clone() };
    let references: Vec<_> = install.image_pull_secrets.iter().map(reference).collect();
    (!references.is_empty()).then_some(references)
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

/// A variable from a field of the pod, such as `status.podIP`.
fn field_variable(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

fn port(name: &str, number: u16, protocol: &str) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    }
}

/// An HTTP probe; `host` only where the port is not open on the pod's own address.
fn probe(path: &str, host: Option<&str>, port: u16, delay_seconds: i32, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            host: host.map(str::to_owned),
            port: IntOrString::Int(i32::from(port)),
            ..HTTPGetAction::default()
        }),
        initial_delay_seconds: (delay_seconds > 0).then_some(delay_seconds),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(1),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// Asked every second, so that a pod counts as ready as soon as it is.
fn readiness(host: Option<&str>, port: u16) -> Probe {
    probe("/readyz", host, port, 0, 1)
}

fn liveness(host: Option<&str>, port: u16) -> Probe {
    probe("/healthz", host, port, 10, 10)
}

fn min_ready_seconds() -> i32 {
    i32::try_from(MIN_READY.as_secs()).unwrap_or(i32::MAX)
}

/// Arguments that both programs take.
fn common_args(install: &Install, settings: &Settings) -> Vec<String> {
    vec![
        format!("--port={}", settings.ports.metrics),
        format!("--health-probe-port={}", settings.ports.probes),
        format!("--log-level={}", install.log_level.as_str()),
    ]
}
