//! IP failover (keepalived, as `oc adm ipfailover` deploys it) and how it is recognised.
//!
//! Pure. IP failover and the speaker would both claim addresses on the same network, so nothing is installed beside
//! it. What counts as evidence, and why, is told in docs/ipfailover.md.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Resource,
    core::{ApiResource, GroupVersionKind},
};
use metallb_core::{config::Pool, range::AddressRange};
use serde::Deserialize;

/// Kinds of workloads among which IP failover is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// apps/v1.
    Deployment,
    /// apps/v1.
    DaemonSet,
    /// apps/v1.
    StatefulSet,
    /// apps/v1, those that no Deployment owns.
    ReplicaSet,
    /// apps.openshift.io/v1, where the cluster knows it.
    DeploymentConfig,
    /// Pods with the label, which nobody owns.
    LabelledPod,
    /// Pods of the service account, which nobody owns.
    AccountPod,
}

impl WorkloadKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Deployment,
        Self::DaemonSet,
        Self::StatefulSet,
        Self::ReplicaSet,
        Self::DeploymentConfig,
        Self::LabelledPod,
        Self::AccountPod,
    ];

    /// Group, version and plural.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
            Self::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
            Self::ReplicaSet => ApiResource::erase::<ReplicaSet>(&()),
            Self::DeploymentConfig => {
                ApiResource::from_gvk(&GroupVersionKind::gvk("apps.openshift.io", "v1", "DeploymentConfig"))
            }
            Self::LabelledPod | Self::AccountPod => ApiResource::erase::<Pod>(&()),
        }
    }

    /// Whether a cluster need not know the kind.
    #[must_use]
    pub fn optional(self) -> bool {
        self == Self::DeploymentConfig
    }

    /// Label selector, so that the API server leaves everything else out.
    #[must_use]
    pub fn label_selector(self) -> Option<&'static str> {
        (self == Self::LabelledPod).then_some(MARK)
    }

    /// Field selector, so that the API server leaves everything else out.
    #[must_use]
    pub fn field_selector(self) -> Option<&'static str> {
        (self == Self::AccountPod).then_some("spec.serviceAccountName=ipfailover")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::DeploymentConfig => "DeploymentConfig",
            Self::LabelledPod | Self::AccountPod => "Pod",
        }
    }
}

/// Label key and service account of IP failover.
const MARK: &str = "ipfailover";
/// Its image, whatever the registry and tag.
const IMAGE: &str = "keepalived-ipfailover";
/// Name of the group of addresses that it serves.
const CONFIG_NAME: &str = "OPENSHIFT_HA_CONFIG_NAME";
/// Addresses that it serves.
const VIRTUAL_IPS: &str = "OPENSHIFT_HA_VIRTUAL_IPS";

/// A workload, of which only what can be evidence is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Marked {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

/// Of a workload, or of a pod: a pod has no template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    replicas: Option<i32>,
    template: Option<Template>,
    #[serde(deserialize_with = "nullable")]
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    service_account_name: String,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: ObjectMeta,
    spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    #[serde(deserialize_with = "nullable")]
    host_network: bool,
    #[serde(deserialize_with = "nullable")]
    service_account_name: String,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    #[serde(deserialize_with = "nullable")]
    image: String,
    #[serde(deserialize_with = "nullable")]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    value: String,
}

/// One workload with a `null` must not hide all the others.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl Resource for Marked {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn group(api: &ApiResource) -> Cow<'_, str> {
        api.group.as_str().into()
    }
    fn version(api: &ApiResource) -> Cow<'_, str> {
        api.version.as_str().into()
    }
    fn kind(api: &ApiResource) -> Cow<'_, str> {
        api.kind.as_str().into()
    }
    fn plural(api: &ApiResource) -> Cow<'_, str> {
        api.plural.as_str().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot hold an address now: it is scaled to zero or is not on the host's network.
    Warn,
    /// It can hold addresses.
    Block,
}

/// A workload that is, or may be, IP failover.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Kind of the workload.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it was recognised by, for people.
    pub evidence: Vec<String>,
    /// How much it weighs.
    pub severity: Severity,
    /// Addresses that it says it serves, as written there.
    pub virtual_ips: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} ({})", self.kind, self.namespace, self.name, self.evidence.join(", "))
    }
}

impl Marked {
    /// What this workload, of kind `kind`, says about IP failover. `None` without evidence.
    ///
    /// The addresses of the cluster's own API on bare metal are held by static keepalived pods in a namespace
    /// `openshift-*-infra`: they serve other addresses than Services and are no evidence.
    #[must_use]
    pub fn finding(self, kind: WorkloadKind) -> Option<Finding> {
        let namespace = self.metadata.namespace.clone().unwrap_or_default();
        let owned = self.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        let counts_owned =
            matches!(kind, WorkloadKind::ReplicaSet | WorkloadKind::LabelledPod | WorkloadKind::AccountPod);
        if (owned && counts_owned) || (namespace.starts_with("openshift-") && namespace.ends_with("-infra")) {
            return None;
        }
        let Spec { replicas, template, host_network, service_account_name, containers, init_containers } =
            self.spec;
        let pod = PodSpec { host_network, service_account_name, containers, init_containers };
        let template = template.unwrap_or(Template { metadata: ObjectMeta::default(), spec: pod });
        let labels = [self.metadata.labels.as_ref(), template.metadata.labels.as_ref()];
        let pod = template.spec;
        let containers = || pod.containers.iter().chain(&pod.init_containers);
        let variables: BTreeMap<&str, &str> = containers()
            .flat_map(|container| &container.env)
            .filter(|variable| matches!(variable.name.as_str(), CONFIG_NAME | VIRTUAL_IPS))
            .map(|variable| (variable.name.as_str(), variable.value.as_str()))
            .collect();

        let mut evidence: Vec<String> = variables.keys().map(|name| format!("env {name}")).collect();
        if labels.into_iter().flatten().any(|labels| labels.contains_key(MARK)) {
            evidence.push(format!("label {MARK}"));
        }
        if pod.service_account_name == MARK {
            evidence.push(format!("service account {MARK}"));
        }
        if let Some(container) = containers().find(|container| is_ipfailover_image(&container.image)) {
            evidence.push(format!("image {}", container.image));
        }
        if evidence.is_empty() {
            return None;
        }
        // Who may only create pods must not be able to stop the cluster's load balancer: IP failover itself needs
        // the host's network, which is not theirs to ask for.
        let active = pod.host_network && replicas != Some(0);
        let virtual_ips = variables.get(VIRTUAL_IPS).map_or("", |value| value);
        Some(Finding {
            kind: kind.name(),
            namespace,
            name: self.metadata.name.unwrap_or_default(),
            evidence,
            severity: if active { Severity::Block } else { Severity::Warn },
            virtual_ips: virtual_ips
                .split([',', ' '])
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }
}

impl Finding {
    /// Blocks of `pools` that hold an address which this workload serves too, for people.
    pub fn overlaps<'a>(&self, pools: &(impl Iterator<Item = &'a Pool> + Clone)) -> Vec<String> {
        let ranges = self.virtual_ips.iter().filter_map(|text| Some((text, virtual_range(text)?)));
        let overlaps = |(text, range): (&String, AddressRange)| {
            let blocks = pools.clone().flat_map(|pool| pool.ranges.iter().map(move |block| (pool, block)));
            let met = blocks.filter(|(_, block)| block.overlaps(&range));
            met.map(|(pool, block)| format!("{text} of {self} meets {block} of IPAddressPool {}", pool.name))
                .collect::<Vec<_>>()
        };
        ranges.flat_map(overlaps).collect()
    }
}

/// An address or a range as IP failover has them: `192.0.2.4-6` ends at 192.0.2.6.
fn virtual_range(text: &str) -> Option<AddressRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let last = match (last.parse::<u8>(), first.rsplit_once('.')) {
        (Ok(last), Some((network, _))) => format!("{network}.{last}"),
        _ => last.to_owned(),
    };
    format!("{first}-{last}").parse().ok()
}

/// `registry/path/NAME:tag@digest` with the name in NAME.
fn is_ipfailover_image(image: &str) -> bool {
    let without_digest = image.split('@').next().unwrap_or_default();
    without_digest
        .rsplit('/')
        .next()
        .is_some_and(|last| last.split(':').next().is_some_and(|name| name.contains(IMAGE)))
}

#[cfg(test)]
mod tests;
