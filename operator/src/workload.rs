//! Workloads of the whole cluster, of which only what matters to this operator is read: whether they are IP failover
//! or another load balancer, and which ports of the nodes they take.
//!
//! Pure. Thousands of workloads are seen and next to nothing is kept of them.

use std::{borrow::Cow, collections::BTreeMap};

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
use serde::Deserialize;

use crate::{
    balancers::{self, Balancer, TakenPort},
    gate::{self, Finding},
};

/// Kinds of workloads that are looked at.
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
    /// Static pods of kube-vip, looked for by their names: a watch would be of all pods.
    StaticPod,
}

impl WorkloadKind {
    /// All kinds that are watched.
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
            Self::LabelledPod | Self::AccountPod | Self::StaticPod => ApiResource::erase::<Pod>(&()),
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
        (self == Self::LabelledPod).then_some(gate::MARK)
    }

    /// Field selector, so that the API server leaves everything else out.
    #[must_use]
    pub fn field_selector(self) -> Option<&'static str> {
        (self == Self::AccountPod).then_some("spec.serviceAccountName=ipfailover")
    }

    /// Kind of the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::DeploymentConfig => "DeploymentConfig",
            Self::LabelledPod | Self::AccountPod | Self::StaticPod => "Pod",
        }
    }
}

/// A workload, of which only what is looked at is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Marked {
    pub(crate) metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

/// Of a workload, or of a pod: a pod has no template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    replicas: Option<i32>,
    template: Option<Template>,
    #[serde(flatten)]
    pod: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    /// Of a pod.
    phase: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: ObjectMeta,
    spec: PodSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(deserialize_with = "nullable")]
    pub(crate) host_network: bool,
    #[serde(deserialize_with = "nullable")]
    pub(crate) service_account_name: String,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "nullable")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Container {
    #[serde(deserialize_with = "nullable")]
    pub(crate) image: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) env: Vec<Variable>,
    #[serde(deserialize_with = "nullable")]
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Variable {
    #[serde(deserialize_with = "nullable")]
    pub(crate) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) container_port: Option<u16>,
    pub(crate) host_port: Option<u16>,
    pub(crate) protocol: Option<String>,
}

/// One workload with a `null` must not hide all the others.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl PodSpec {
    /// All containers, those that only prepare included.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().chain(&self.init_containers)
    }
}

/// What a workload is to this operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// IP failover, or what may be.
    pub failover: Option<Finding>,
    /// Another load balancer.
    pub balancer: Option<Balancer>,
    /// Ports of the nodes that it takes.
    pub ports: Vec<TakenPort>,
}

impl Marked {
    /// What this workload, of kind `kind`, is to this operator; `None` when it is nothing.
    #[must_use]
    pub fn sighting(&self, kind: WorkloadKind) -> Option<Sighting> {
        let sighting = Sighting {
            failover: gate::finding(self, kind),
            balancer: balancers::recognise(self, kind),
            ports: balancers::taken_ports(self, kind),
        };
        let Sighting { failover, balancer, ports } = &sighting;
        (failover.is_some() || balancer.is_some() || !ports.is_empty()).then_some(sighting)
    }

    /// The spec of its pods.
    pub(crate) fn pod(&self) -> &PodSpec {
        self.spec.template.as_ref().map_or(&self.spec.pod, |template| &template.spec)
    }

    /// Its labels and those of its pods.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &BTreeMap<String, String>> {
        let pods = self.spec.template.as_ref().and_then(|template| template.metadata.labels.as_ref());
        self.metadata.labels.iter().chain(pods)
    }

    /// Whether it has, or is, a pod that runs or may yet.
    pub(crate) fn is_active(&self) -> bool {
        self.spec.replicas != Some(0) && !matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether another object that is looked at, too, stands for it.
    pub(crate) fn is_part_of_another(&self, kind: WorkloadKind) -> bool {
        let is_owned = self.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
        is_owned
            && matches!(
                kind,
                WorkloadKind::ReplicaSet
                    | WorkloadKind::LabelledPod
                    | WorkloadKind::AccountPod
                    | WorkloadKind::StaticPod
            )
    }

    pub(crate) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
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
