//! How the workloads fare, from what the cluster says about them.
//!
//! Pure: the time comes in. A pod on a node that is not Ready is never a fault of the load balancer: it is excused and
//! named. Nor does a rollout wait for it, or for a pod on a node that is cordoned or still pulls the image. A change that
//! the cluster has not taken up yet takes no pod away: those that are ready count until they are not.

mod images;
mod trouble;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, DeploymentCondition},
        core::v1::{Node, Pod, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::ResourceExt;
use metallb_runtime::placement::takes;

use self::trouble::{Complaints, containers, trouble, troubles, waiting_for};
use crate::plan::FIELD_MANAGER;

pub use images::{has_run, is_listed, lacks, trim};
pub use trouble::{Cause, Trouble};

/// How long a pod on a Ready node may be not ready before an administrator is asked to look.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long a pod has to be ready before the next one is replaced: a program that ends soon after it began is not let
/// through.
pub const MIN_READY: Duration = Duration::from_secs(10);

/// How far a rollout has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When something moved last: the workload was applied, a pod was made, or had been ready for [`MIN_READY`] after
    /// it became so for the first time.
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
    /// Of them, those that are, of whatever version.
    pub ready: usize,
    /// Whether pods of an older version are still to be replaced, or the change has not been taken up yet. A pod that a
    /// new node is still to get is no change.
    pub rolling_out: bool,
    /// Whether pods are ready that have not been so for as long as their workload asks for.
    pub settling: bool,
    /// What needs an administrator.
    pub troubles: Vec<Trouble>,
    /// Nodes that are not Ready and would run a pod.
    pub excused: BTreeSet<String>,
    /// When a pod that is not ready becomes a trouble, or holds a rollout up, if it does not become ready before.
    pub patience_ends: Option<Timestamp>,
    /// How far the rollout has come that is under way, if one is.
    pub progress: Progress,
}

/// What one pod means for its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is being removed.
    Leaving,
    /// Its node is not Ready, or is gone.
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
    // A pod that leaves a lost node has been replaced already.
    let staying: Vec<&Pod> = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    // Nobody removes one that was evicted, or that a node ended when it was shut down.
    let living = staying.iter().filter(|pod| !has_ended(pod));
    let newest = living.map(|pod| pod.creation_timestamp()).max();
    let is_replaced = |pod: &&Pod| {
        has_ended(pod) && newest.as_ref().is_some_and(|newest| *newest >= pod.creation_timestamp())
    };
    let staying = staying.into_iter().filter(|pod| !is_replaced(pod));
    let mut complaints = Complaints::new();
    let standings: Vec<_> =
        staying.map(|pod| health.take(pod, &node, |_| true, now, &mut complaints)).collect();
    let waiting = standings.iter().any(|standing| matches!(standing, Standing::Waiting | Standing::Excused));
    health.progress.lags = !waiting || standings.contains(&Standing::Lagging);
    // A controller on a lost node is replaced on another one, so it is wanted all the same.
    health.excused.clear();
    health.wanted = count(replicas);
    // A pod of an older version serves, too.
    health.ready = count(status.ready_replicas.unwrap_or_default());
    health.settling = count(status.available_replicas.unwrap_or_default()) < health.ready;
    // The condition outlives its cause by as long as an older ReplicaSet is kept.
    let failed =
        |condition: &&DeploymentCondition| condition.type_ == "ReplicaFailure" && condition.status == "True";
    let refusal = status.conditions.iter().flatten().find(failed);
    if let Some(refusal) = refusal.filter(|_| !health.serves()) {
        let says = refusal.message.as_deref().unwrap_or_default();
        let of = format!("Deployment {}", deployment.name_any());
        complaints.entry((Cause::PodRefused, says.to_owned())).or_default().insert(of);
    }
    health.troubles = troubles(complaints);
    health
}

/// How the speakers fare. `refusal` is when a pod could not be made the last time, and why: the status does not say.
pub fn of_daemon_set<'a>(
    daemon_set: &DaemonSet,
    pods: impl Iterator<Item = &'a Pod>,
    node: impl Fn(&str) -> Option<&'a Node>,
    refusal: Option<(Timestamp, &str)>,
    now: Timestamp,
) -> Health {
    let status = daemon_set.status.clone().unwrap_or_default();
    let observed = is_observed(&daemon_set.metadata, status.observed_generation);
    let desired = count(status.desired_number_scheduled);
    let mut health = Health::of(&daemon_set.metadata, daemon_set.spec.as_ref().map(|spec| &spec.template));
    let pods: Vec<&Pod> = pods.collect();
    let replaced = observed && count(status.updated_number_scheduled.unwrap_or_default()) >= desired;
    let outdated = if replaced { BTreeSet::new() } else { outdated(daemon_set, &pods) };
    let mut complaints = Complaints::new();
    // Which nodes the numbers are about that the cluster tells: those that the spec before took, as long as it has not
    // looked at this one.
    let template = daemon_set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let template = template.filter(|_| observed);
    let is_taken = |node: &Node| template.is_none_or(|pod: &PodSpec| takes(node, pod));
    let standings: Vec<_> = pods
        .iter()
        .map(|pod| {
            let standing = health.take(pod, &node, is_taken, now, &mut complaints);
            (standing, outdated.contains(pod.name_any().as_str()))
        })
        .collect();
    let outdated = standings.iter().any(|&(standing, outdated)| outdated && standing != Standing::Excused);
    let waiting =
        standings.iter().any(|(standing, _)| matches!(standing, Standing::Waiting | Standing::Excused));
    let lagging = standings.iter().any(|&(standing, outdated)| !outdated && standing == Standing::Lagging);
    health.wanted = desired.saturating_sub(health.excused.len());
    if !observed {
        health.wanted = health.wanted.max(1);
    }
    let counts = |pod: &&&Pod| node_of(pod).is_none_or(|name| node(name).is_some_and(is_taken));
    let lacks_pods = pods.iter().filter(counts).count() < desired;
    health.rolling_out = !observed || outdated;
    health.settling = status.number_available.unwrap_or_default() < status.number_ready;
    health.progress.lags = lagging || !waiting;
    if lacks_pods {
        complain_of_refusal(&daemon_set.name_any(), &pods, refusal, &mut complaints);
    }
    health.troubles = troubles(complaints);
    health
}

/// Names of pods that are not what `daemon_set` describes now. After a change was taken back, pods that were not
/// replaced meanwhile keep the older number of the template and are right all the same: their revision tells.
fn outdated<'a>(daemon_set: &DaemonSet, pods: &[&'a Pod]) -> BTreeSet<&'a str> {
    let Some(current) = daemon_set.annotations().get("deprecated.daemonset.template.generation") else {
        return BTreeSet::new();
    };
    let revision = |pod: &&'a Pod| pod.labels().get("controller-revision-hash");
    let is_other =
        |pod: &&'a Pod| pod.labels().get("pod-template-generation").is_some_and(|own| own != current);
    let (others, newest): (Vec<&Pod>, Vec<&Pod>) = pods.iter().copied().partition(is_other);
    let right: BTreeSet<_> = newest.iter().filter_map(revision).collect();
    let wrong = others.iter().filter(|pod| revision(pod).is_none_or(|revision| !right.contains(revision)));
    wrong.filter_map(|pod| pod.metadata.name.as_deref()).collect()
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

    fn take<'a>(
        &mut self,
        pod: &Pod,
        node: &impl Fn(&str) -> Option<&'a Node>,
        is_taken: impl Fn(&Node) -> bool,
        now: Timestamp,
        complaints: &mut Complaints,
    ) -> Standing {
        let node_name = node_of(pod);
        let placed = node_name.and_then(node);
        if let Some(name) = node_name
            && !placed.is_some_and(is_ready_node)
        {
            // On a node that is gone, or takes no pod any more, none is wanted that could be excused.
            if placed.is_some_and(&is_taken) {
                self.excused.insert(name.to_owned());
            }
            return Standing::Excused;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Standing::Leaving;
        }
        let ready = condition(pod, "Ready");
        let is_ready = ready.is_some_and(|(status, _)| status == "True");
        // One that comes and goes makes no progress.
        let became_ready =
            ready.and_then(|(_, since)| since).filter(|since| is_ready && is_first(pod, since.0));
        let settle = |since: Timestamp| since.checked_add(MIN_READY).unwrap_or(Timestamp::MAX);
        // What the clock of a node that runs ahead says would put every stall off.
        let settled = became_ready.map(|since| settle(since.0)).filter(|time| *time <= settle(now));
        let moved =
            [pod.metadata.creation_timestamp.as_ref().map(|time| time.0), settled].into_iter().flatten();
        self.progress.last = moved.chain(self.progress.last).max();
        if is_ready {
            // One that is left on a node that takes none any more stands in for no other.
            self.ready += usize::from(placed.is_none_or(is_taken));
            return Standing::Ready;
        }
        let standing = match placed {
            Some(node) if is_cordoned(node) => Standing::Waiting,
            Some(node) if trouble(pod, now).is_none() => match images::pulling(node, pod) {
                Some(until) if until > now => {
                    self.wake_at(until);
                    Standing::Waiting
                }
                _ => Standing::Lagging,
            },
            _ => Standing::Lagging,
        };
        let of = told(pod);
        if let Some((cause, says)) = trouble(pod, now) {
            complaints.entry((cause, says)).or_default().insert(of);
            return standing;
        }
        let since = ready.and_then(|(_, since)| since).or(pod.metadata.creation_timestamp.as_ref());
        let Some(ends) = since.and_then(|since| since.0.checked_add(PATIENCE).ok()) else { return standing };
        if now >= ends {
            let says = format!(
                "not ready for more than {} s{}",
                PATIENCE.as_secs(),
                waiting_for(pod).map(|reason| format!(": {reason}")).unwrap_or_default()
            );
            complaints.entry((Cause::NotReady, says)).or_default().insert(of);
        } else {
            self.wake_at(ends);
        }
        standing
    }

    fn wake_at(&mut self, time: Timestamp) {
        // What never ends is not waited for.
        if time < Timestamp::MAX {
            self.patience_ends = Some(self.patience_ends.map_or(time, |before| before.min(time)));
        }
    }
}

/// What keeps `pods` of DaemonSet `of` from beginning, of which nothing else is wanted: that they end is no trouble.
/// `refusal`, where pods are lacking, is when one could not be made the last time, and why.
pub fn not_begun(
    of: &str,
    pods: &[&Pod],
    refusal: Option<(Timestamp, &str)>,
    now: Timestamp,
) -> Vec<Trouble> {
    let mut complaints = Complaints::new();
    complain_of_refusal(of, pods, refusal, &mut complaints);
    for pod in pods {
        if let Some((cause, says)) = trouble(pod, now).filter(|(cause, _)| *cause != Cause::CrashLoop) {
            complaints.entry((cause, says)).or_default().insert(told(pod));
        }
    }
    troubles(complaints)
}

/// Tells that a pod of DaemonSet `of` could not be made, unless one was made later.
fn complain_of_refusal(
    of: &str,
    pods: &[&Pod],
    refusal: Option<(Timestamp, &str)>,
    complaints: &mut Complaints,
) {
    let made_later =
        |time: Timestamp| pods.iter().any(|pod| pod.creation_timestamp().is_some_and(|made| made.0 > time));
    if let Some((_, says)) = refusal.filter(|(time, _)| !made_later(*time)) {
        let of = format!("DaemonSet {of}");
        complaints.entry((Cause::PodRefused, says.to_owned())).or_default().insert(of);
    }
}

/// Whether the pod has done all that it will ever do.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether a pod that became ready at `since` did so for the first time, as far as it tells: no container of it was
/// restarted, and it began not long before.
fn is_first(pod: &Pod, since: Timestamp) -> bool {
    containers(pod).all(|container| {
        let running = container.state.as_ref().and_then(|state| state.running.as_ref());
        let began = running.and_then(|running| running.started_at.as_ref());
        let is_late = |began: &Time| began.0.checked_add(PATIENCE).is_ok_and(|end| since > end);
        container.restart_count == 0 && !began.is_some_and(is_late)
    })
}

/// A pod and its node, for people.
fn told(pod: &Pod) -> String {
    let place = node_of(pod).map(|node| format!(" on node {node}")).unwrap_or_default();
    format!("pod {}{place}", pod.name_any())
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
pub fn node_of(pod: &Pod) -> Option<&str> {
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

#[cfg(test)]
mod tests;
