//! What is told on resources: conditions, and an Event where they change.

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::conditions::{
    self, AVAILABLE, COMPATIBLE, DEGRADED, IN_NODE_SUBNET, IP_FAILOVER_ABSENT, LEGACY_CONFIG_IMPORTED, READY,
    Report, UPGRADEABLE,
};
use serde_json::{Map, Value, json};

use super::{Plan, Pods, Situation, Summary};
use crate::{
    health::Health,
    kinds::{Key, Kind},
    rollout::{Kept, Step},
    status::{self, Observation, Reason},
};

/// Condition types that are there only while there is something to say.
const OPTIONAL: [&str; 2] = [IN_NODE_SUBNET, LEGACY_CONFIG_IMPORTED];

/// A status to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusReport {
    /// The resource.
    pub key: Key,
    /// The version of it that was judged.
    pub resource_version: String,
    /// What its status is to say, as a merge patch.
    pub status: Value,
    /// The resource, as Events refer to it.
    pub regarding: ObjectReference,
    /// Events to be emitted once the status is written.
    pub events: Vec<EventNote>,
}

/// An Event to be emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventNote {
    /// Whether an administrator should look.
    pub warning: bool,
    /// Identifier of the reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

pub(super) fn installation(
    situation: Situation<'_>,
    resource: &DynamicObject,
    seen: &Observation,
    plan: &mut Plan,
) {
    let before = conditions_of(resource);
    let mut reports = status::conditions(seen, &before, resource.metadata.generation);
    // Upgradeable remembers that a rollout has stopped. Who did not look at the rollout does not overwrite that.
    if !seen.is_judged && status::has_stopped(&before, resource.metadata.generation) {
        reports.retain(|report| report.kind != UPGRADEABLE);
    }
    let preflight = matches!(seen.kept, Some(Kept::Preflight(_))).then_some(Step::Preflight);
    let back = matches!(seen.kept, Some(Kept::Failed(_))).then_some(seen.way_back.step).flatten();
    let configuration = (!seen.pending.is_empty()).then_some(Step::Configuration);
    plan.summary = Some(Summary {
        upgradeable: reports.iter().find(|report| report.kind == UPGRADEABLE).cloned(),
        is_managed: seen.unmanaged.is_none(),
        ip_failover: seen.ip_failover.as_ref().map_or(0, |found| found.findings.len()),
        step: seen.rollout.step.or(back).or(preflight).or(configuration),
        works: seen.works,
        is_stalled: seen.rollout.stalled.is_some(),
        objects: seen.objects,
        controller: pods(seen.controller.as_ref()),
        speaker: pods(seen.speaker.as_ref()),
        lacks_pods: [&seen.controller, &seen.speaker]
            .into_iter()
            .flatten()
            .any(|health| health.rolling_out || !health.serves()),
    });
    let components = status::components(seen);
    let fields = Map::from_iter([
        ("components".to_owned(), json!(components)),
        ("version".to_owned(), json!(status::version(&components))),
    ]);
    write(situation, Kind::MetalLb, resource, &before, &reports, fields, plan);
}

fn pods(health: Option<&Health>) -> Pods {
    health.map_or_else(Pods::default, |health| Pods { wanted: health.wanted, ready: health.ready })
}

pub(super) fn misplaced(situation: Situation<'_>, resource: &DynamicObject, plan: &mut Plan) {
    let reports = status::misplaced(&situation.settings.namespace);
    write(situation, Kind::MetalLb, resource, &conditions_of(resource), &reports, Map::new(), plan);
}

pub(super) fn pool(
    situation: Situation<'_>,
    resource: &DynamicObject,
    reports: &[Report],
    usage: Map<String, Value>,
    plan: &mut Plan,
) {
    write(situation, Kind::AddressPool, resource, &conditions_of(resource), reports, usage, plan);
}

fn conditions_of(resource: &DynamicObject) -> Vec<Condition> {
    let conditions = &resource.data["status"]["conditions"];
    serde_json::from_value(conditions.clone()).unwrap_or_default()
}

/// Writes `reports` and the other fields of the status where they say something new. Null is no value.
fn write(
    situation: Situation<'_>,
    kind: Kind,
    resource: &DynamicObject,
    before: &[Condition],
    reports: &[Report],
    fields: Map<String, Value>,
    plan: &mut Plan,
) {
    let mut after = before.to_vec();
    after.retain(|condition| {
        !OPTIONAL.contains(&condition.type_.as_str())
            || reports.iter().any(|report| report.kind == condition.type_)
    });
    let now = Time(jiff::Timestamp::from_second(situation.now.as_second()).unwrap_or(situation.now));
    conditions::set(&mut after, reports, resource.metadata.generation, &now);
    let shown = &resource.data["status"];
    if after == before && fields.iter().all(|(name, value)| shown[name] == *value) {
        return;
    }
    let key = Key { kind, namespace: resource.namespace().unwrap_or_default(), name: resource.name_any() };
    let mut status = Value::Object(fields);
    status["conditions"] = json!(after);
    if let Some(until) = situation.attempts.held_until(&key, &status, situation.now) {
        plan.wake_at(until);
        return;
    }
    // The operator may not write Events to other namespaces, and the conditions say the same.
    let is_near = key.namespace == situation.settings.namespace;
    let told = reports.iter().filter(|_| is_near);
    plan.reports.push(StatusReport {
        key,
        resource_version: resource.resource_version().unwrap_or_default(),
        status,
        regarding: resource.object_ref(&kind.api_resource()),
        events: told.filter_map(|report| event(before, report)).collect(),
    });
}

/// The Event that a change of a condition is worth.
fn event(before: &[Condition], report: &Report) -> Option<EventNote> {
    let before = before.iter().find(|condition| condition.type_ == report.kind);
    let was = before.is_some_and(|condition| condition.status == "True");
    let same_reason = before.is_some_and(|condition| condition.reason == report.reason);
    let (warning, reason) = match (report.kind, was, report.status) {
        (AVAILABLE | READY | LEGACY_CONFIG_IMPORTED, false, true) => (false, report.reason),
        (AVAILABLE, true, false) => (true, report.reason),
        (READY, _, false) if !same_reason && report.reason != Reason::Applying.as_str() => {
            (true, report.reason)
        }
        (IP_FAILOVER_ABSENT | IN_NODE_SUBNET | COMPATIBLE | LEGACY_CONFIG_IMPORTED, _, false)
            if !same_reason =>
        {
            (true, report.reason)
        }
        (DEGRADED, false, true) => (true, report.reason),
        (DEGRADED, true, true) if !same_reason => (true, report.reason),
        (DEGRADED, true, false) => (false, "Recovered"),
        _ => return None,
    };
    let message = match report.message.as_str() {
        "" if reason == "Recovered" => "nothing needs an administrator any more",
        message => message,
    };
    // The API server takes up to 1 kB.
    Some(EventNote { warning, reason: reason.to_owned(), message: message.chars().take(1000 / 4).collect() })
}
