//! The only place that calls the API server.
//!
//! Watches turn into [`crate::world::Change`]s; planned changes turn into requests. A write is sent only while the Lease is
//! held and is given up before the Lease may be lost.

mod existing;
mod needs;
mod stored;
mod watches;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use metallb_api::conditions::{self, Report};
use metallb_runtime::lease::Leadership;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    plan::{self, FIELD_MANAGER, StatusReport},
    settings::REQUEST_TIMEOUT,
};

pub use existing::{Scope, existing};
pub use needs::{has, missing, missing_for_pods};
pub use watches::watch;

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// The object as it is now.
    Written(Box<DynamicObject>),
    /// The object is gone.
    Removed,
    /// What was seen is out of date: the watch will tell.
    Outdated,
    /// It did not work.
    Failed(String),
    /// The Lease is not held: nothing was sent.
    NotLeading,
}

/// Items of a list do not say what they are.
fn set_type(object: &mut DynamicObject, resource: &ApiResource) {
    object.types.get_or_insert_with(|| TypeMeta {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
    });
}

/// Writes to the cluster for as long as it leads.
pub struct Cluster {
    client: Client,
    leadership: Leadership,
    recorder: Recorder,
    doubt: Arc<Notify>,
}

impl Cluster {
    /// Writes through `client` while `leadership` is held; Events name the pod `pod_name`.
    #[must_use]
    pub fn new(client: Client, leadership: Leadership, pod_name: &str) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(pod_name.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { recorder, client, leadership, doubt: Arc::default() }
    }

    /// Notifies `doubt` when the API server says that the operator may not do what it asks.
    #[must_use]
    pub fn notifying(self, doubt: Arc<Notify>) -> Self {
        Self { doubt, ..self }
    }

    /// Carries a planned change out.
    pub async fn perform(&self, change: &plan::Change) -> Outcome {
        let key = change.key();
        let resource = key.kind.api_resource();
        let api: Api<DynamicObject> = match key.namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let outcome = match change {
            plan::Change::Create(_, object) => {
                let params =
                    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                self.send(async {
                    let object: DynamicObject =
                        serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
                    api.create(&params, &object).await.map(Some)
                })
                .await
            }
            plan::Change::Apply(_, object, _) => {
                let params = PatchParams::apply(FIELD_MANAGER).force();
                self.send(async { api.patch(&key.name, &params, &Patch::Apply(object)).await.map(Some) })
                    .await
            }
            plan::Change::TakeFields(_, seen, fields) => {
                let patch = json!({"metadata": {
                    "uid": seen.uid, "resourceVersion": seen.resource_version, "managedFields": fields,
                }});
                let params = PatchParams::default();
                self.send(async { api.patch(&key.name, &params, &Patch::Merge(&patch)).await.map(Some) })
                    .await
            }
            plan::Change::Delete(_, seen) => {
                let preconditions = Preconditions {
                    uid: Some(seen.uid.clone()),
                    resource_version: Some(seen.resource_version.clone()),
                };
                let params = DeleteParams::background().preconditions(preconditions);
                self.send(async { api.delete(&key.name, &params).await.map(|_| None) }).await
            }
        };
        match (outcome, change) {
            (Outcome::Failed(message), _) => Outcome::Failed(format!("{key}: {message}")),
            (Outcome::Written(mut object), _) => {
                set_type(&mut object, &resource);
                Outcome::Written(object)
            }
            (outcome, _) => outcome,
        }
    }

    /// Writes a status if it is still that of the version that was judged, then emits its Events.
    pub async fn report(&self, report: &StatusReport) -> Outcome {
        let key = &report.key;
        let resource = key.kind.api_resource();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        let patch = json!({
            "metadata": {"resourceVersion": report.resource_version},
            "status": report.status,
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let write = async { api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await.map(Some) };
        match self.send(write).await {
            Outcome::Written(mut object) => {
                set_type(&mut object, &resource);
                for note in &report.events {
                    self.emit(report, note).await;
                }
                Outcome::Written(object)
            }
            Outcome::Failed(message) => Outcome::Failed(format!("{key}: status: {message}")),
            outcome => outcome,
        }
    }

    /// Says in OLM's OperatorCondition `name` whether the operator may be upgraded
    /// (<https://olm.operatorframework.io/docs/concepts/crds/operatorcondition/>). OLM grants to read and patch it,
    /// not to watch it. `Removed` when it says so already, or there is none.
    pub async fn tell_olm(&self, namespace: &str, name: &str, report: &Report) -> Outcome {
        let resource =
            ApiResource::from_gvk(&GroupVersionKind::gvk("operators.coreos.com", "v2", "OperatorCondition"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        self.send(async {
            let Some(object) = api.get_opt(name).await? else { return Ok(None) };
            let present = &object.data["spec"]["conditions"];
            let before: Vec<Condition> = serde_json::from_value(present.clone()).unwrap_or_default();
            let mut after = before.clone();
            let now = Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default());
            conditions::set(&mut after, std::slice::from_ref(report), object.metadata.generation, &now);
            // Its own generation counts its own changes.
            let says = |all: &[Condition]| {
                let report = all.iter().find(|condition| condition.type_ == report.kind);
                report.map(|report| (report.status.clone(), report.reason.clone(), report.message.clone()))
            };
            if says(&before) == says(&after) {
                return Ok(None);
            }
            let patch = json!({
                "metadata": {"resourceVersion": object.metadata.resource_version}, "spec": {"conditions": after},
            });
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
            api.patch(name, &params, &Patch::Merge(&patch)).await.map(Some)
        })
        .await
    }

    /// Emits an Event. One that cannot be written is logged: the condition says the same.
    async fn emit(&self, report: &StatusReport, note: &plan::EventNote) {
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.clone(),
            note: Some(note.message.clone()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let write = async { self.recorder.publish(&event, &report.regarding).await.map(|()| None) };
        if let Outcome::Failed(message) = self.send(write).await {
            tracing::warn!(object = %report.key, reason = note.reason, message, "event not written");
        }
    }

    /// Sends a write while the Lease is held, and no longer than it surely is.
    async fn send(&self, write: impl Future<Output = kube::Result<Option<DynamicObject>>>) -> Outcome {
        let limit = REQUEST_TIMEOUT.min(self.leadership.remaining());
        if limit.is_zero() {
            return Outcome::NotLeading;
        }
        match tokio::time::timeout(limit, write).await {
            Ok(result) => {
                if matches!(&result, Err(kube::Error::Api(status)) if status.is_forbidden()) {
                    self.doubt.notify_one();
                }
                outcome(result)
            }
            Err(_) => Outcome::Failed(format!("the API server did not answer within {} s", limit.as_secs())),
        }
    }
}

fn outcome(result: kube::Result<Option<DynamicObject>>) -> Outcome {
    match result {
        Ok(Some(object)) => Outcome::Written(Box::new(object)),
        Ok(None) => Outcome::Removed,
        Err(kube::Error::Api(status)) => match (status.code, status.reason.as_str()) {
            // Of an object that is not there any more, or is there by now, or is another version.
            (404, "NotFound") if status.details.as_ref().is_some_and(|details| !details.name.is_empty()) => {
                Outcome::Outdated
            }
            (409, _) => Outcome::Outdated,
            _ => Outcome::Failed(status.message.clone()),
        },
        Err(error) => Outcome::Failed(error.to_string()),
    }
}
