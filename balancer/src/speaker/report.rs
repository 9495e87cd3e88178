//! What is told in the cluster about this node's announcements: ServiceL2Status objects, and an Event for each change
//! of owner.
//!
//! Level-triggered: what is there, by a watch, is compared with what is announced, so that an object that is deleted
//! comes back, and nothing is written when nothing has changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use metallb_api::names::{
    L2_STATUS_GENERATE_NAME, LABEL_STATUS_NODE, LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE,
};
use metallb_api::{InterfaceInfo, ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus};
use metallb_core::plan::{Interfaces, Plan, Verdict};
use metallb_core::service::ServiceKey;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::facts::ServiceFacts;
use crate::watch::{Change, changes};

/// Who writes, in Events and in the record of who wrote which field.
const COMPONENT: &str = "metallb-speaker";
/// Pause before what could not be written is tried again; doubled each time.
const RETRY: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The Services that this node announces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Announced(BTreeMap<ServiceKey, Announcement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Announcement {
    uid: String,
    interfaces: Vec<InterfaceInfo>,
}

impl Announced {
    /// What a plan lets this node announce.
    pub(super) fn of(plan: &Plan, services: &BTreeMap<ServiceKey, ServiceFacts>) -> Self {
        let mine = plan.services.iter().filter_map(|(key, verdict)| match verdict {
            Verdict::Mine(interfaces) => Some((key, interfaces)),
            Verdict::Theirs(_) | Verdict::Nobody(_) => None,
        });
        Self(
            mine.map(|(key, interfaces)| {
                let uid = services.get(key).map(|facts| facts.uid.clone()).unwrap_or_default();
                (key.clone(), Announcement { uid, interfaces: listed(interfaces) })
            })
            .collect(),
        )
    }

    /// The Services, in order.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.0.keys()
    }
}

fn listed(interfaces: &Interfaces) -> Vec<InterfaceInfo> {
    match interfaces {
        Interfaces::All => vec![],
        Interfaces::Named(names) => {
            names.iter().map(|name| InterfaceInfo { name: Some(name.clone()) }).collect()
        }
    }
}

/// Where reports go, and in whose name.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Namespace of the status objects and of this pod.
    pub(super) namespace: String,
    /// Name of this pod, which owns the status objects.
    pub(super) pod: String,
    /// Name of this node.
    pub(super) node: String,
}

/// Reports until `cancel`.
///
/// # Errors
/// When the plans end. What cannot be written is logged and tried again: announcing does not depend on it.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    mut announced: watch::Receiver<Option<Arc<Announced>>>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut reporter = Reporter { client, settings, owner: None, objects: None };
    let mut changes = std::pin::pin!(reporter.changes());
    let mut pause = RETRY;
    loop {
        let wanted = announced.borrow_and_update().clone();
        let mut retry = None;
        if let (Some(wanted), Some(_)) = (&wanted, &reporter.objects) {
            // A report that hangs while the plan changes speaks of the past: a node that was cut off must not write,
            // once it is back, what it believed meanwhile.
            let result = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = announced.changed() => {
                    changed.context("the plans ended")?;
                    continue;
                }
                result = reporter.report(wanted) => result,
            };
            match result {
                Ok(()) => pause = RETRY,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "status of announcements not written");
                    pause = (pause * 2).min(RETRY_LIMIT);
                    retry = Some(pause);
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = announced.changed() => changed.context("the plans ended")?,
            change = changes.next() => reporter.learn(change.context("the watch of status objects ended")?),
            () = sleep(retry) => {}
        }
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

struct Reporter {
    client: Client,
    settings: Settings,
    /// This pod, once it was read.
    owner: Option<OwnerReference>,
    /// The status objects that speak of this node, by name; `None` until they were listed.
    objects: Option<BTreeMap<String, Object>>,
}

/// A status object as it is in the cluster.
#[derive(Clone, Debug)]
struct Object {
    name: String,
    key: ServiceKey,
    owner: Option<String>,
    status: Option<ServiceL2StatusStatus>,
}

impl Object {
    fn of(object: ServiceL2Status) -> Self {
        let label = |name: &str| object.labels().get(name).cloned().unwrap_or_default();
        Self {
            name: object.name_any(),
            key: ServiceKey::new(&label(LABEL_STATUS_SERVICE_NAMESPACE), &label(LABEL_STATUS_SERVICE_NAME)),
            owner: object.owner_references().first().map(|owner| owner.uid.clone()),
            status: object.status,
        }
    }
}

impl Reporter {
    fn api(&self) -> Api<ServiceL2Status> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    fn changes(&self) -> impl Stream<Item = Change<Object>> + use<> {
        let labels = format!("{LABEL_STATUS_NODE}={}", self.settings.node);
        let events = watcher(self.api(), watcher::Config::default().labels(&labels));
        changes("ServiceL2Status", events, Object::of)
    }

    fn learn(&mut self, change: Change<Object>) {
        match change {
            Change::All(all) => {
                self.objects = Some(all.into_iter().map(|object| (object.name.clone(), object)).collect());
            }
            Change::Set(object) => {
                let objects = self.objects.get_or_insert_default();
                // The echo of a creation says less than the status that was written after it.
                let is_echo = object.status.is_none()
                    && objects.get(&object.name).is_some_and(|known| known.status.is_some());
                if !is_echo {
                    objects.insert(object.name.clone(), object);
                }
            }
            Change::Gone(object) => {
                self.objects.get_or_insert_default().remove(&object.name);
            }
        }
    }

    async fn report(&mut self, wanted: &Announced) -> anyhow::Result<()> {
        let mut mine = BTreeMap::new();
        let mut superfluous = Vec::new();
        for object in self.objects.iter().flat_map(BTreeMap::values) {
            if !wanted.0.contains_key(&object.key)
                || mine.insert(object.key.clone(), object.clone()).is_some()
            {
                superfluous.push(object.name.clone());
            }
        }
        for name in superfluous {
            in_time(delete(&self.api(), &name)).await?;
            self.objects.get_or_insert_default().remove(&name);
        }
        let owner = self.owner().await?;
        for (key, announcement) in &wanted.0 {
            let Some(object) = mine.get(key) else {
                self.take_over(key, announcement, &owner).await?;
                continue;
            };
            if object.owner.as_ref() != Some(&owner.uid) {
                self.own(&object.name, &owner).await?;
            }
            if object.status.as_ref() != Some(&self.status(key, announcement)) {
                self.update(&object.name, key, announcement).await?;
            }
        }
        Ok(())
    }

    fn status(&self, key: &ServiceKey, announcement: &Announcement) -> ServiceL2StatusStatus {
        ServiceL2StatusStatus {
            node: Some(self.settings.node.clone()),
            service_name: Some(key.name().to_owned()),
            service_namespace: Some(key.namespace().to_owned()),
            interfaces: announcement.interfaces.clone(),
        }
    }

    /// Makes this pod the owner of an object that the node's former speaker wrote: with that pod it would go.
    async fn own(&mut self, name: &str, owner: &OwnerReference) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner]}}));
        self.learn_written(in_time(self.api().patch(name, &parameters(), &patch)).await?);
        Ok(())
    }

    /// Writes that this node announces a Service now, in place of whoever did before, and tells it as an Event.
    async fn take_over(
        &mut self,
        key: &ServiceKey,
        announcement: &Announcement,
        owner: &OwnerReference,
    ) -> anyhow::Result<()> {
        let api = self.api();
        let labels = [
            (LABEL_STATUS_NODE, self.settings.node.as_str()),
            (LABEL_STATUS_SERVICE_NAME, key.name()),
            (LABEL_STATUS_SERVICE_NAMESPACE, key.namespace()),
        ];
        let of_service = format!(
            "{LABEL_STATUS_SERVICE_NAME}={},{LABEL_STATUS_SERVICE_NAMESPACE}={}",
            key.name(),
            key.namespace()
        );
        let others = in_time(api.list(&ListParams::default().labels(&of_service))).await?;
        let object = ServiceL2Status {
            metadata: ObjectMeta {
                generate_name: Some(L2_STATUS_GENERATE_NAME.to_owned()),
                labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: ServiceL2StatusSpec::default(),
            status: None,
        };
        let created = in_time(api.create(&PostParams::default(), &object)).await?;
        let name = created.name_any();
        self.learn_written(created);
        self.update(&name, key, announcement).await?;
        for other in others {
            if other.labels().get(LABEL_STATUS_NODE) != Some(&self.settings.node) {
                in_time(delete(&api, &other.name_any())).await?;
            }
        }
        self.tell(key, announcement).await
    }

    async fn update(
        &mut self,
        name: &str,
        key: &ServiceKey,
        announcement: &Announcement,
    ) -> anyhow::Result<()> {
        let mut status = json!(self.status(key, announcement));
        // An empty list is written too: a merge would keep the former one.
        status["interfaces"] = json!(announcement.interfaces);
        let patch = Patch::Merge(json!({ "status": status }));
        self.learn_written(in_time(self.api().patch_status(name, &parameters(), &patch)).await?);
        Ok(())
    }

    fn learn_written(&mut self, object: ServiceL2Status) {
        self.learn(Change::Set(Object::of(object)));
    }

    async fn tell(&self, key: &ServiceKey, announcement: &Announcement) -> anyhow::Result<()> {
        let node = &self.settings.node;
        tracing::info!(event = "serviceAnnounced", service = %key, node, protocol = "layer2", "service has IP, announcing");
        let message = format!("announcing from node {node:?} with protocol \"layer2\"");
        let api: Api<Event> = Api::namespaced(self.client.clone(), key.namespace());
        let event = event(key, &announcement.uid, "nodeAssigned", message, Timestamp::now());
        in_time(api.create(&PostParams::default(), &event)).await.context("Event nodeAssigned")?;
        Ok(())
    }

    async fn owner(&mut self) -> anyhow::Result<OwnerReference> {
        if let Some(owner) = &self.owner {
            return Ok(owner.clone());
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let pod = in_time(pods.get(&self.settings.pod)).await.context("this speaker's own pod")?;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        self.owner = Some(owner.clone());
        Ok(owner)
    }
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() }
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(LIMIT, request).await.context("the API server does not answer")??)
}

/// Deletes a status object; one that is gone is as good.
async fn delete(api: &Api<ServiceL2Status>, name: &str) -> kube::Result<()> {
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

fn event(key: &ServiceKey, uid: &str, reason: &str, message: String, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            // The name of a Service has at most 63 characters, so this is always a valid name.
            name: Some(format!("{}.{:x}", key.name(), now.as_nanosecond())),
            namespace: Some(key.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(key.namespace().to_owned()),
            name: Some(key.name().to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        },
        type_: Some("Normal".to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        reporting_component: Some(COMPONENT.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}
