//! The writes: the status of a Service, and the status of pools.
//!
//! Each write is sent only while the Lease is held, and given no more time than is left of it.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use metallb_api::{IPAddressPool, IPAddressPoolStatus, names::ANNOTATION_ALLOCATED_FROM_POOL};
use metallb_core::{
    assigner::{Outcome, Write},
    claim::{ADDRESS_ASSIGNED, ServiceFacts},
    decision::Decision,
    report::{Mark, Report, Tell},
};
use metallb_runtime::lease::Leadership;
use serde_json::{Value, json};

use super::{events::Events, settings::Settings};

/// The longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Who writes, in Events and in the record of who wrote which field.
pub(super) const COMPONENT: &str = "metallb-controller";

/// Sends writes to the API server.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    namespace: String,
    pod: String,
    class: Option<String>,
    leadership: Leadership,
    events: Events,
}

impl Writer {
    /// Writes about Services anywhere, and about the rest in the namespace of the settings.
    pub(super) fn new(client: Client, settings: &Settings, leadership: Leadership, events: Events) -> Self {
        Self {
            client,
            namespace: settings.namespace(),
            pod: settings.identity(),
            class: settings.class(),
            leadership,
            events,
        }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The class of the Services; `None` for those without one.
    pub(super) fn class(&self) -> Option<String> {
        self.class.clone()
    }

    /// Whether the Lease is held.
    pub(super) fn may_write(&self) -> bool {
        self.leadership.held()
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Writes what was decided about one Service.
    pub(super) async fn write(self, write: Write) -> (Write, Outcome) {
        let outcome = self.write_status(&write).await;
        if let Outcome::Written(facts) = &outcome {
            log(&write);
            self.events.tell(facts, &write.report.events);
        }
        (write, outcome)
    }

    async fn write_status(&self, write: &Write) -> Outcome {
        let key = &write.facts.key;
        let api: Api<Service> = Api::namespaced(self.client.clone(), key.namespace());
        let params = PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() };
        let patch = Patch::Strategic(status_patch(&write.facts, &write.report, Timestamp::now()));
        let error = match self.in_time(api.patch_status(key.name(), &params, &patch)).await {
            Ok(service) => return Outcome::Written(Box::new(self.facts(&service))),
            Err(error) => error,
        };
        match code(&error) {
            Some(404) => Outcome::Gone,
            Some(409) => match self.in_time(api.get_opt(key.name())).await {
                Ok(Some(service)) => Outcome::Stale(Box::new(self.facts(&service))),
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

    fn facts(&self, service: &Service) -> ServiceFacts {
        ServiceFacts::of(service, self.class.as_deref())
    }

    /// Writes the statuses of pools; returns those that were written.
    pub(super) async fn write_pools(
        self,
        changed: BTreeMap<String, IPAddressPoolStatus>,
    ) -> BTreeMap<String, IPAddressPoolStatus> {
        let api: Api<IPAddressPool> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() };
        let mut written = BTreeMap::new();
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
                Err(error) => tracing::warn!(pool, %error, "pool status not written"),
            }
        }
        written
    }

    /// Tells what is wrong with the pools in the ConfigurationState; whether that was done.
    pub(super) async fn write_state(self, problems: Vec<String>) -> Option<Vec<String>> {
        let writing = super::state::write(self.client.clone(), &self.namespace, &self.pod, &problems);
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
fn status_patch(facts: &ServiceFacts, report: &Report, now: Timestamp) -> Value {
    let mut metadata = json!({ "resourceVersion": facts.resource_version, "uid": facts.uid });
    match &report.mark {
        Mark::Unchanged => {}
        Mark::Set(pool) => metadata["annotations"] = json!({ ANNOTATION_ALLOCATED_FROM_POOL: pool }),
        Mark::Remove => metadata["annotations"] = json!({ ANNOTATION_ALLOCATED_FROM_POOL: null }),
    }
    let mut status = json!({});
    if let Some(ingress) = &report.ingress {
        // An absent list rather than an empty one, as the API server itself writes it.
        let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        status["loadBalancer"] = json!({ "ingress": ingress });
    }
    match &report.condition {
        Tell::Unchanged => {}
        Tell::Remove => status["conditions"] = json!([{ "$patch": "delete", "type": ADDRESS_ASSIGNED }]),
        Tell::Set(finding) => {
            let state = if finding.holds { "True" } else { "False" };
            let since = facts.condition.as_ref().filter(|before| before.status == state);
            let since = since.map_or(Time(now), |before| before.last_transition_time.clone());
            let mut condition = json!({
                "type": ADDRESS_ASSIGNED,
                "status": state,
                "reason": finding.reason,
                "message": finding.message,
                "lastTransitionTime": since,
            });
            if let Some(generation) = facts.generation {
                condition["observedGeneration"] = json!(generation);
            }
            status["conditions"] = json!([condition]);
        }
    }
    json!({ "metadata": metadata, "status": status })
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
