//! What is there of the installation that a MetalLB resource asks for.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{IPAddressPool, MetalLB, names};
use metallb_core::config;

use super::{Plan, Situation, adopt, has_mark, installation::operand};
use crate::{
    gate::{Finding, Severity},
    health,
    kinds::Kind,
    neighbours::Fact,
    status::{IpFailover, Observation},
};

/// How the workloads fare that this installation has.
pub(super) fn workloads(
    situation: Situation<'_>,
    resource: &DynamicObject,
    seen: &mut Observation,
    plan: &mut Plan,
) {
    let live = |kind, name| {
        let object = situation.world.object(&operand(situation, kind, name))?;
        let is_ours = has_mark(object, Some(&resource.metadata)) && !adopt::is_anothers(object);
        (is_ours && !is_left_over(object, resource)).then(|| object.clone())
    };
    let pods =
        |component: &'static str| situation.world.pods().filter(move |pod| is_component(pod, component));
    let node = |name: &str| situation.world.node(name);
    let deployment = live(Kind::Deployment, names::CONTROLLER);
    if let Some(deployment) = deployment.and_then(|object| object.try_parse::<Deployment>().ok()) {
        let health = health::of_deployment(&deployment, pods(names::CONTROLLER), node, situation.now);
        seen.controller = Some(health);
    }
    let daemon_set = live(Kind::DaemonSet, names::SPEAKER);
    if let Some(daemon_set) = daemon_set.and_then(|object| object.try_parse::<DaemonSet>().ok()) {
        let (pods, refusal) = (pods(names::SPEAKER), refusal(situation, names::SPEAKER));
        let health = health::of_daemon_set(&daemon_set, pods, node, refusal, situation.now);
        seen.speaker = Some(health);
    }
    for health in [&seen.controller, &seen.speaker].into_iter().flatten() {
        if let Some(time) = health.patience_ends {
            plan.wake_at(time);
        }
    }
}

/// When a pod of a DaemonSet could not be made the last time, and why.
pub(super) fn refusal<'a>(situation: Situation<'a>, daemon_set: &str) -> Option<(Timestamp, &'a str)> {
    let refusals = situation.world.facts().filter_map(|fact| match fact {
        Fact::Refused { of, time, message } if of == daemon_set => Some((*time, message.as_str())),
        _ => None,
    });
    refusals.max()
}

/// What was found of IP failover, unless it is not to be looked for. Whether it holds addresses of the pools matters
/// to what is installed.
pub(super) fn ip_failover(situation: Situation<'_>, resource: &DynamicObject) -> Option<IpFailover> {
    let policy = &resource.data["spec"]["ipFailoverPolicy"];
    if policy == "Ignore" {
        return None;
    }
    let findings: BTreeSet<Finding> = situation.world.findings().cloned().collect();
    if findings.is_empty() {
        return Some(IpFailover::default());
    }
    let pools: Vec<IPAddressPool> = situation
        .world
        .objects(Kind::IpAddressPool)
        .filter_map(|object| object.clone().try_parse().ok())
        .collect();
    let objects = config::Objects { pools: pools.iter().collect(), ..config::Objects::default() };
    let (config, _) = config::parse(&objects);
    let active = findings.iter().filter(|finding| finding.severity == Severity::Block);
    let overlaps = active.flat_map(|finding| finding.overlaps(&config.pools.values())).collect();
    Some(IpFailover { findings: findings.into_iter().collect(), overlaps })
}

/// Whether there is something to keep: IP failover that comes later never takes the load balancer away. Of the status
/// only the list of programs tells: other operators write conditions, too, and have nothing of ours installed.
pub(super) fn is_installed(owner: &MetalLB, seen: &Observation) -> bool {
    let had_programs = owner.status.as_ref().is_some_and(|status| !status.components.is_empty());
    had_programs || seen.controller.is_some() || seen.speaker.is_some()
}

/// Whether the object belongs to a MetalLB resource that was deleted, so that the garbage collector is about to remove
/// it: it is nothing to keep.
fn is_left_over(object: &DynamicObject, resource: &DynamicObject) -> bool {
    let is_owner = |owner: &OwnerReference| {
        owner.kind == MetalLB::kind(&()) && owner.api_version.starts_with("metallb.io/")
    };
    object.owner_references().iter().any(is_owner)
        && !crate::pool::is_owned_by(&object.metadata, &resource.metadata)
}

pub(super) fn is_component(pod: &Pod, component: &str) -> bool {
    let labels = pod.labels();
    labels.get("app").is_some_and(|app| app == names::APP)
        && labels.get("component").is_some_and(|name| name == component)
}
