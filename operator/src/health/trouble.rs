//! What is wrong with pods.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

/// A program that ran for longer did not fail to start: its node was rebooted, or it met with something later.
const SHORT_RUN: SignedDuration = SignedDuration::from_mins(10);
/// A kubelet waits no longer than five minutes before it starts a program again.
const RECENT: SignedDuration = SignedDuration::from_mins(6);

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
    /// A pod has not been ready for [`super::PATIENCE`].
    NotReady,
}

/// What is wrong with pods, or with a workload that gets none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble.
    pub cause: Cause,
    /// Names the pods with their nodes, and what the cluster says of all of them.
    pub message: String,
}

/// What the cluster says, and of whom, by the kind of trouble: pods with the same trouble are told of together.
pub(super) type Complaints = BTreeMap<(Cause, String), BTreeSet<String>>;

pub(super) fn troubles(complaints: Complaints) -> Vec<Trouble> {
    const SHOWN: usize = 5;
    let told = complaints.into_iter().map(|((cause, says), of)| {
        let shown: Vec<&str> = of.iter().take(SHOWN).map(String::as_str).collect();
        let more = of.len() - shown.len();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        Trouble { cause, message: format!("{}{more}: {says}", shown.join(", ")) }
    });
    told.collect()
}

/// What is wrong with a pod that waiting alone does not mend.
pub(super) fn trouble(pod: &Pod, now: Timestamp) -> Option<(Cause, String)> {
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
        if container.restart_count >= 2
            && !container.ready
            && let Some(end) = last_end(container).filter(|end| failed_to_start(end, now))
        {
            return Some((Cause::CrashLoop, format!("CrashLoopBackOff: {}", told_of(container, end))));
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
            says = format!("{reason}: {}", told_of(container, end));
        }
        Some((cause, says))
    })
}

pub(super) fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

/// How a container ended the last time.
fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.last_state.as_ref()?.terminated.as_ref()
}

/// Whether a program ended just now, soon after it began. The number of restarts alone says nothing: it is kept as long
/// as the pod, over all reboots of its node.
fn failed_to_start(end: &ContainerStateTerminated, now: Timestamp) -> bool {
    let (Some(began), Some(ended)) = (&end.started_at, &end.finished_at) else { return false };
    // One that could not be started at all began at no time: containerd says in 1970.
    let is_short = began.0.as_second() <= 0 || ended.0.duration_since(began.0) < SHORT_RUN;
    is_short && now.duration_since(ended.0) < RECENT
}

fn told_of(container: &ContainerStatus, end: &ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().unwrap_or("ended");
    format!("{reason}, exit code {}, {} restarts", end.exit_code, container.restart_count)
}

pub(super) fn waiting_for(pod: &Pod) -> Option<&str> {
    containers(pod).find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
}
