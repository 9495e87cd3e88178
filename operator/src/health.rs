//! How the workloads fare, from what the cluster says about them.
//!
//! Pure: the time comes in. A pod on a node that is not Ready is never a fault of the load balancer: it is excused and
//! named. Nor does a rollout wait for it, or for a pod on a node that is cordoned or still pulls the image.

mod images;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, DeploymentCondition},
        core::v1::{ContainerStatus, Node, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::ResourceExt;

use crate::plan::FIELD_MANAGER;

pub use images::{lacks, trim};

/// How long a pod on a Ready node may be not ready before an administrator is asked to look.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Why a workload needs an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// An image cannot be pulled.
    ImagePull,
    /// A program ends again and again.
    CrashLoop,
    /// A container cannot be made as it is described.
    ContainerConfig,
    /// No node takes the pod.
    Unschedulable,
    /// The API server or the kubelet refused the pod.
    PodRefused,
    /// A pod has not been ready for [`PATIENCE`].
    NotReady,
}

/// A pod, or a workload that gets no pods, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// What kind of trouble.
    pub cause: Cause,
    /// Names the pod, its node and what the cluster says.
    pub message: String,
}

/// How far a rollout has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When something moved last: the workload was applied, a pod was made or became ready.
    pub last: Option<Timestamp>,
    /// Whether it is held up by something else than nodes that are not Ready, are cordoned or pull the image.
    pub lags: bool,
}

/// How one workload fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The image that its pods are to run.
    pub image: String,
    /// The version that was applied, whether or not its pods run it yet.
    pub version: Option<String>,
    /// Pods that should be ready now: those on nodes that are not Ready are left out.
    pub wanted: usize,
    /// Of them, those that are.
    pub ready: usize,
    /// Whether pods of an older version are still to be replaced, or the change has not been taken up yet.
    pub rolling_out: bool,
    /// What needs an administrator.
    pub troubles: Vec<Trouble>,
    /// Nodes that are not Ready and would run a pod.
    pub excused: BTreeSet<String>,
    /// When a pod that is not ready becomes a trouble, if it does not become ready before.
    pub patience_ends: Option<Timestamp>,
    /// How far the rollout has come that is under way, if one is.
    pub progress: Progress,
}

/// What one pod means for its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is being removed.
    Leaving,
    /// Its node is not Ready.
    Excused,
    /// It is ready.
    Ready,
    /// It is not, but nobody can hurry it: its node is cordoned or pulls the image.
    Waiting,
    /// It is not, and should be.
    Lagging,
}

impl Health {
    /// Whether the workload does its work everywhere where it can.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.wanted > 0 && self.ready >= self.wanted
    }
}

/// How the controller fares.
pub fn of_deployment<'a>(
    deployment: &Deployment,
    pods: impl Iterator<Item = &'a Pod>,
    node: impl Fn(&str) -> Option<&'a Node>,
    now: Timestamp,
) -> Health {
    let spec = deployment.spec.as_ref();
    let status = deployment.status.clone().unwrap_or_default();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let observed = is_observed(&deployment.metadata, status.observed_generation);
    let updated = status.updated_replicas.unwrap_or_default();
    let surplus = status.replicas.unwrap_or_default() > updated;
    let template = spec.map(|spec| &spec.template);
    let mut health = Health::of(&deployment.metadata, template);
    health.rolling_out = !observed || updated < replicas || surplus;
    let mut standings = Vec::new();
    for pod in pods {
        standings.push(health.take(pod, &node, now));
    }
    let waiting = standings.iter().any(|standing| matches!(standing, Standing::Waiting | Standing::Excused));
    health.progress.lags = !waiting || standings.contains(&Standing::Lagging);
    // A controller on a lost node is replaced on another one, so it is wanted all the same.
    health.excused.clear();
    health.wanted = count(replicas);
    // Counted by the cluster: a pod of an older version serves too, but the change is not carried out yet.
    let ready = if observed { count(status.ready_replicas.unwrap_or_default()) } else { 0 };
    health.ready = ready.min(count(updated));
    // The condition outlives its cause by as long as an older ReplicaSet is kept.
    let failed =
        |condition: &&DeploymentCondition| condition.type_ == "ReplicaFailure" && condition.status == "True";
    let refusal = status.conditions.iter().flatten().find(failed);
    if let Some(refusal) = refusal.filter(|_| !health.serves()) {
        let says = refusal.message.as_deref().unwrap_or_default();
        let message = format!("Deployment {}: {says}", deployment.name_any());
        health.troubles.push(Trouble { cause: Cause::PodRefused, message });
    }
    health.sorted()
}

/// How the speakers fare.
pub fn of_daemon_set<'a>(
    daemon_set: &DaemonSet,
    pods: impl Iterator<Item = &'a Pod>,
    node: impl Fn(&str) -> Option<&'a Node>,
    now: Timestamp,
) -> Health {
    let status = daemon_set.status.clone().unwrap_or_default();
    let observed = is_observed(&daemon_set.metadata, status.observed_generation);
    let desired = count(status.desired_number_scheduled);
    let mut health = Health::of(&daemon_set.metadata, daemon_set.spec.as_ref().map(|spec| &spec.template));
    let mut standings = Vec::new();
    for pod in pods {
        let generation = pod.labels().get("pod-template-generation");
        let current = daemon_set.annotations().get("deprecated.daemonset.template.generation");
        let outdated = generation.zip(current).is_some_and(|(pod, set)| pod != set);
        standings.push((health.take(pod, &node, now), outdated));
    }
    let outdated = standings.iter().any(|&(standing, outdated)| outdated && standing != Standing::Excused);
    let waiting =
        standings.iter().any(|(standing, _)| matches!(standing, Standing::Waiting | Standing::Excused));
    let lagging = standings.iter().any(|&(standing, outdated)| !outdated && standing == Standing::Lagging);
    health.wanted = if observed { desired.saturating_sub(health.excused.len()) } else { desired.max(1) };
    health.ready = if observed { health.ready } else { 0 };
    health.rolling_out = !observed || outdated || standings.len() < desired;
    health.progress.lags = lagging || !waiting;
    health.sorted()
}

/// Whether the status speaks of the newest spec.
fn is_observed(metadata: &ObjectMeta, observed: Option<i64>) -> bool {
    observed.unwrap_or_default() >= metadata.generation.unwrap_or_default()
}

fn count(number: i32) -> usize {
    usize::try_from(number).unwrap_or_default()
}

/// Whether the kubelet of the node says that it works.
#[must_use]
pub fn is_ready_node(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Health {
    fn of(metadata: &ObjectMeta, template: Option<&PodTemplateSpec>) -> Self {
        let container = template.and_then(|template| template.spec.as_ref()?.containers.first());
        let version = metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/version"));
        let applied =
            metadata.managed_fields.iter().flatten().filter(|entry| {
                entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none()
            });
        let last = applied.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
        Self {
            image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
            version: version.cloned(),
            progress: Progress { last, lags: false },
            ..Self::default()
        }
    }

    fn sorted(mut self) -> Self {
        self.troubles.sort();
        self.troubles.dedup();
        self
    }

    fn take<'a>(&mut self, pod: &Pod, node: &impl Fn(&str) -> Option<&'a Node>, now: Timestamp) -> Standing {
        if pod.metadata.deletion_timestamp.is_some() {
            return Standing::Leaving;
        }
        let node_name = node_of(pod);
        let placed = node_name.and_then(node);
        if let Some(name) = node_name
            && !placed.is_some_and(is_ready_node)
        {
            self.excused.insert(name.to_owned());
            return Standing::Excused;
        }
        let ready = condition(pod, "Ready");
        let is_ready = ready.is_some_and(|(status, _)| status == "True");
        let became_ready = ready.and_then(|(_, since)| since).filter(|_| is_ready);
        let moved = [pod.metadata.creation_timestamp.as_ref(), became_ready].into_iter().flatten();
        self.progress.last = moved.map(|time| time.0).chain(self.progress.last).max();
        if is_ready {
            self.ready += 1;
            return Standing::Ready;
        }
        let standing = match placed {
            Some(node) if is_cordoned(node) => Standing::Waiting,
            Some(node)
                if trouble(pod).is_none() && images::of_pod(pod).any(|image| images::lacks(node, image)) =>
            {
                Standing::Waiting
            }
            _ => Standing::Lagging,
        };
        let place = node_name.map(|node| format!(" on node {node}")).unwrap_or_default();
        let pod_name = pod.name_any();
        if let Some((cause, says)) = trouble(pod) {
            self.troubles.push(Trouble { cause, message: format!("pod {pod_name}{place}: {says}") });
            return standing;
        }
        let since = ready.and_then(|(_, since)| since).or(pod.metadata.creation_timestamp.as_ref());
        let Some(ends) = since.and_then(|since| since.0.checked_add(PATIENCE).ok()) else { return standing };
        if now >= ends {
            let message = format!(
                "pod {pod_name}{place}: not ready for more than {} s{}",
                PATIENCE.as_secs(),
                waiting_for(pod).map(|reason| format!(": {reason}")).unwrap_or_default()
            );
            self.troubles.push(Trouble { cause: Cause::NotReady, message });
        } else {
            self.patience_ends = Some(self.patience_ends.map_or(ends, |before| before.min(ends)));
        }
        standing
    }
}

fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, Option<&'a Time>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((condition.status.as_str(), condition.last_transition_time.as_ref()))
}

/// The node that runs the pod, or the one that a DaemonSet made it for.
fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &required.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names =
        fields.filter(|field| field.key == "metadata.name").flat_map(|field| field.values.iter().flatten());
    names.next().map(String::as_str)
}

/// What is wrong with a pod that waiting alone does not mend.
fn trouble(pod: &Pod) -> Option<(Cause, String)> {
    let status = pod.status.as_ref()?;
    let said = |reason: &str, message: Option<&str>| match message.filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    };
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        return Some((Cause::PodRefused, said(reason, status.message.as_deref())));
    }
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        return Some((Cause::Unschedulable, said("Unschedulable", condition.message.as_deref())));
    }
    containers(pod).find_map(|container| {
        // Between two restarts the program runs for a moment: it is no better for that.
        if let Some(end) = last_end(container).filter(|_| container.restart_count >= 2 && !container.ready) {
            return Some((Cause::CrashLoop, format!("CrashLoopBackOff: {end}")));
        }
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let cause = match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable"
            | "SignatureValidationFailed" => Cause::ImagePull,
            "CrashLoopBackOff" => Cause::CrashLoop,
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Cause::ContainerConfig
            }
            _ => return None,
        };
        let mut says = said(reason, waiting.message.as_deref());
        if let (Cause::CrashLoop, Some(end)) = (cause, last_end(container)) {
            says = format!("{reason}: {end}");
        }
        Some((cause, says))
    })
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

/// How a container ended the last time.
fn last_end(container: &ContainerStatus) -> Option<String> {
    let end = container.last_state.as_ref()?.terminated.as_ref()?;
    let reason = end.reason.as_deref().unwrap_or("ended");
    Some(format!("{reason}, exit code {}, {} restarts", end.exit_code, container.restart_count))
}

fn waiting_for(pod: &Pod) -> Option<&str> {
    containers(pod).find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
}

#[cfg(test)]
mod tests;
