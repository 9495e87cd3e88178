//! The writes: the status of a Service, and the status of pools.
//!
//! Each write is sent only while the Lease is held, and given no more time than is left of it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use metallb_api::{
    IPAddressPool, IPAddressPoolStatus,
    names::{ANNOTATION_ALLOCATED_FROM_POOL, ANNOTATION_ANNOUNCED_FROM},
};
use metallb_core::{
    announced::{ANNOUNCED, ANNOUNCED_REASON, Judgement},
    assigner::{Outcome, Write},
    claim::{ADDRESS_ASSIGNED, Claim, ServiceFacts, Told},
    decision::Decision,
    report::{Mark, Report, Tell},
    service::ServiceKey,
};
use metallb_runtime::lease::Leadership;
use serde_json::{Value, json};

use super::{
    announcing::Telling,
    configured::{ObjectKey, Validity},
    events::Events,
    lean::LeanService,
    settings::Settings,
};

/// The longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Who writes, in Events and in the record of who wrote which field.
pub(super) const COMPONENT: &str = "metallb-controller";

/// Sends writes to the API server.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    namespace: String,
    class: Option<String>,
    leadership: Leadership,
    events: Events,
}

impl Writer {
    /// Writes about Services anywhere, and about the rest in the namespace of the settings.
    pub(super) fn new(client: Client, settings: &Settings, leadership: Leadership, events: Events) -> Self {
        Self { client, namespace: settings.namespace(), class: settings.class(), leadership, events }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The class of the Services; `None` for those without one.
    pub(super) fn class(&self) -> Option<String> {
        self.class.clone()
    }

    /// Says whether more Services wait than are written about at one time.
    pub(super) fn is_behind(&self, is_behind: bool) {
        self.events.behind(is_behind);
    }

    /// Whether the Lease is held.
    pub(super) fn may_write(&self) -> bool {
        self.leadership.held()
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Writes what was decided about one Service, and with it whether it is announced where that is known.
    pub(super) async fn write(self, write: Write, announced: Option<Judgement>) -> (Write, Outcome) {
        let outcome = self.write_status(&write, announced.as_ref()).await;
        if let Outcome::Written(facts) = &outcome {
            log(&write);
            self.events.tell(facts, &write.report.events);
        }
        (write, outcome)
    }

    /// Writes whether a Service is announced; tells of which, and whether nothing is left to be done about it.
    pub(super) async fn tell(self, telling: Telling) -> (ServiceKey, bool) {
        let (facts, now) = (telling.facts, Timestamp::now());
        let api: Api<LeanService> = Api::namespaced(self.client.clone(), facts.key.namespace());
        let condition = match &telling.judgement {
            Some(judgement) => announced_condition(&facts, judgement, now),
            None => json!({ "$patch": "delete", "type": ANNOUNCED }),
        };
        let patch = json!({ "metadata": { "uid": facts.uid }, "status": { "conditions": [condition] } });
        let patch = Patch::Strategic(patch);
        let done = match self.in_time(api.patch_status(facts.key.name(), &parameters(), &patch)).await {
            Ok(_) => true,
            // It is gone, or another of its name is there, of which the watch tells.
            Err(error) if matches!(code(&error), Some(404 | 409)) => true,
            Err(error) => {
                tracing::warn!(service = %facts.key, %error, "condition not written");
                false
            }
        };
        (facts.key.clone(), done)
    }

    async fn write_status(&self, write: &Write, announced: Option<&Judgement>) -> Outcome {
        let key = &write.facts.key;
        let api: Api<LeanService> = Api::namespaced(self.client.clone(), key.namespace());
        let patch = Patch::Strategic(status_patch(&write.facts, &write.report, announced, Timestamp::now()));
        let error = match self.in_time(api.patch_status(key.name(), &parameters(), &patch)).await {
            Ok(service) => return Outcome::Written(self.facts(service).into()),
            Err(error) => error,
        };
        match code(&error) {
            Some(404) => Outcome::Gone,
            Some(409) => match self.in_time(api.get_opt(key.name())).await {
                Ok(Some(service)) => Outcome::Stale(self.facts(service).into()),
                Ok(None) => Outcome::Gone,
                Err(error) => {
                    tracing::warn!(service = %key, %error, "service not read");
                    failure(&error)
                }
            },
            _ => {
                tracing::warn!(service = %key, %error, "status not written");
                failure(&error)
            }
        }
    }

    fn facts(&self, service: LeanService) -> ServiceFacts {
        ServiceFacts::of(&service.into(), self.class.as_deref())
    }

    /// Writes the statuses of pools; returns those that were written, and whether one could not be.
    pub(super) async fn write_pools(
        self,
        changed: BTreeMap<String, IPAddressPoolStatus>,
    ) -> (BTreeMap<String, IPAddressPoolStatus>, bool) {
        let api: Api<IPAddressPool> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = parameters();
        let (mut written, mut failed) = (BTreeMap::new(), false);
        for (pool, status) in changed {
            let mut patch = json!({ "status": status });
            // A merge patch leaves what it does not name.
            patch["status"]["resting"] =
                if status.resting.is_empty() { Value::Null } else { json!(status.resting) };
            match self.in_time(api.patch_status(&pool, &params, &Patch::Merge(patch))).await {
                Ok(_) => {
                    written.insert(pool, status);
                }
                // A pool that is gone has no status.
                Err(error) if code(&error) == Some(404) => {}
                Err(error) => {
                    tracing::warn!(pool, %error, "pool status not written");
                    failed = true;
                }
            }
        }
        (written, failed)
    }

    /// Writes whether objects of the configuration are used; returns those of which that failed.
    pub(super) async fn write_validity(self, changed: Vec<Validity>) -> Vec<ObjectKey> {
        let mut failed = Vec::new();
        for Validity { key, resource, status } in changed {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            let patch = Patch::Merge(json!({ "status": status }));
            match self.in_time(api.patch_status(&key.1, &parameters(), &patch)).await {
                Ok(_) => {}
                // What is gone has no status.
                Err(error) if code(&error) == Some(404) => {}
                Err(error) => {
                    tracing::warn!(kind = key.0, name = key.1, %error, "condition not written");
                    failed.push(key);
                }
            }
        }
        failed
    }

    /// Tells what is wrong with the configuration in the ConfigurationState; whether that was done.
    pub(super) async fn write_state(self, problems: Vec<String>) -> Option<Vec<String>> {
        let writing = super::state::write(self.client.clone(), &self.namespace, &problems);
        match self.in_time(writing).await {
            Ok(()) => Some(problems),
            Err(error) => {
                tracing::warn!(%error, "configuration state not written");
                None
            }
        }
    }

    async fn in_time<T>(&self, request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
        let remaining = self.leadership.remaining();
        anyhow::ensure!(!remaining.is_zero(), "the lease is not held");
        match tokio::time::timeout(remaining.min(LIMIT), request).await {
            Ok(result) => Ok(result?),
            Err(_) => anyhow::bail!("the API server does not answer"),
        }
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() }
}

/// The status code with which the API server refused.
fn code(error: &anyhow::Error) -> Option<u16> {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// How a write failed: by an answer, or by the lack of one.
fn failure(error: &anyhow::Error) -> Outcome {
    if code(error).is_some() { Outcome::Refused } else { Outcome::Unanswered }
}

fn log(write: &Write) {
    let service = &write.facts.key;
    match &write.decision {
        Decision::Assign { addresses, pool, .. } => {
            let ip: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let pool = pool.as_deref().unwrap_or_default();
            tracing::info!(
                event = "ipAllocated", ip = ip.join(","), %service, pool, "IP address assigned by controller"
            );
        }
        Decision::Clear { loss, .. } => {
            tracing::info!(event = "clearAssignment", %service, reason = %loss, "address cleared");
        }
        Decision::Refuse(refusal) => {
            tracing::warn!(event = "allocationFailed", %service, error = %refusal, "IP allocation failed");
        }
        Decision::Keep { .. } | Decision::Leave => {
            tracing::debug!(event = "serviceUpdated", %service, "updated service object");
        }
    }
}

/// A strategic merge patch of `services/status` that holds only for the version that `facts` were taken from.
/// Conditions are merged by type, so those of others stay.
fn status_patch(
    facts: &ServiceFacts,
    report: &Report,
    announced: Option<&Judgement>,
    now: Timestamp,
) -> Value {
    let mut metadata = json!({ "resourceVersion": facts.resource_version, "uid": facts.uid });
    match &report.mark {
        Mark::Unchanged => {}
        Mark::Set(pool) => metadata["annotations"] = json!({ ANNOTATION_ALLOCATED_FROM_POOL: pool }),
        Mark::Remove => metadata["annotations"] = json!({ ANNOTATION_ALLOCATED_FROM_POOL: null }),
    }
    let mut status = json!({});
    if let Some(ingress) = &report.ingress {
        if !facts.ingress.is_empty() {
            // It tells of the address that was there: of another, nobody has asked the network yet.
            metadata["annotations"][ANNOTATION_ANNOUNCED_FROM] = Value::Null;
        }
        // An absent list rather than an empty one, as the API server itself writes it.
        let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        status["loadBalancer"] = json!({ "ingress": ingress });
    }
    let mut conditions = Vec::new();
    match &report.condition {
        Tell::Unchanged => {}
        Tell::Remove => conditions.push(json!({ "$patch": "delete", "type": ADDRESS_ASSIGNED })),
        Tell::Set(finding) => {
            let said = (ADDRESS_ASSIGNED, finding.holds, finding.reason, finding.message.as_str());
            conditions.push(condition(said, facts.condition.as_ref(), facts.generation, now));
        }
    }
    if matches!(facts.claim, Claim::NotLoadBalancer) && facts.announced.is_some() {
        conditions.push(json!({ "$patch": "delete", "type": ANNOUNCED }));
    }
    conditions.extend(announced.map(|judgement| announced_condition(facts, judgement, now)));
    if !conditions.is_empty() {
        status["conditions"] = json!(conditions);
    }
    json!({ "metadata": metadata, "status": status })
}

fn announced_condition(facts: &ServiceFacts, judgement: &Judgement, now: Timestamp) -> Value {
    let (holds, reason, message) = match judgement {
        Ok(how) => (true, ANNOUNCED_REASON, *how),
        Err((reason, message)) => (false, reason.as_str(), message.as_str()),
    };
    condition((ANNOUNCED, holds, reason, message), facts.announced.as_ref(), facts.generation, now)
}

/// A condition that says type, status, reason and message; its time moves with its status alone.
fn condition(
    (kind, holds, reason, message): (&str, bool, &str, &str),
    before: Option<&Told>,
    generation: Option<i64>,
    now: Timestamp,
) -> Value {
    let state = if holds { "True" } else { "False" };
    let since = before.filter(|before| before.holds == holds);
    let since = since.map_or(Time(now), |before| before.since.clone());
    let mut condition = json!({
        "type": kind, "status": state, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    if let Some(generation) = generation {
        condition["observedGeneration"] = json!(generation);
    }
    condition
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
