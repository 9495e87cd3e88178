//! What is told in the cluster about this node's announcements: ServiceL2Status objects, and an Event for each change
//! of owner.
//!
//! Level-triggered: what is there is compared with what is announced, so that a speaker that restarts writes nothing
//! when nothing has changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
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
    let mut reporter = Reporter { client, settings, owner: None, written: None };
    let mut pause = RETRY;
    loop {
        let wanted = announced.borrow_and_update().clone();
        let retry = match &wanted {
            None => None,
            Some(wanted) => match reporter.report(wanted).await {
                Ok(()) => {
                    pause = RETRY;
                    None
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "status of announcements not written");
                    pause = (pause * 2).min(RETRY_LIMIT);
                    Some(pause)
                }
            },
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = announced.changed() => changed.context("the plans ended")?,
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
    /// This node's status objects as they are, by Service, with their names; `None` until they were read.
    written: Option<BTreeMap<ServiceKey, Written>>,
}

struct Written {
    name: String,
    interfaces: Vec<InterfaceInfo>,
}

impl Reporter {
    async fn report(&mut self, wanted: &Announced) -> anyhow::Result<()> {
        if self.written.is_none() {
            self.written = Some(self.read().await?);
        }
        let gone: Vec<ServiceKey> = self
            .written
            .iter()
            .flatten()
            .map(|(key, _)| key.clone())
            .filter(|key| !wanted.0.contains_key(key))
            .collect();
        for key in gone {
            self.remove(&key).await?;
        }
        for (key, announcement) in &wanted.0 {
            let former = self.written.as_ref().and_then(|written| written.get(key));
            match former.map(|former| former.interfaces == announcement.interfaces) {
                Some(true) => {}
                Some(false) => self.update(key, announcement).await?,
                None => self.take_over(key, announcement).await?,
            }
        }
        Ok(())
    }

    fn api(&self) -> Api<ServiceL2Status> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    /// The status objects that speak of this node.
    async fn read(&self) -> anyhow::Result<BTreeMap<ServiceKey, Written>> {
        let labels = format!("{LABEL_STATUS_NODE}={}", self.settings.node);
        let objects = in_time(self.api().list(&ListParams::default().labels(&labels))).await?;
        let mut written = BTreeMap::new();
        for object in objects {
            let name = object.name_any();
            let status = object.status.unwrap_or_default();
            let key = ServiceKey::new(
                &status.service_namespace.unwrap_or_default(),
                &status.service_name.unwrap_or_default(),
            );
            if written.contains_key(&key) || key.name().is_empty() {
                in_time(delete(&self.api(), &name)).await?;
            } else {
                written.insert(key, Written { name, interfaces: status.interfaces });
            }
        }
        Ok(written)
    }

    async fn remove(&mut self, key: &ServiceKey) -> anyhow::Result<()> {
        let name =
            self.written.as_ref().and_then(|written| written.get(key)).map(|written| written.name.clone());
        if let Some(name) = name {
            in_time(delete(&self.api(), &name)).await?;
        }
        if let Some(written) = &mut self.written {
            written.remove(key);
        }
        Ok(())
    }

    /// Writes that this node announces a Service now, in place of whoever did before, and tells it as an Event.
    async fn take_over(&mut self, key: &ServiceKey, announcement: &Announcement) -> anyhow::Result<()> {
        let owner = self.owner().await?;
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
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: ServiceL2StatusSpec::default(),
            status: None,
        };
        let created = in_time(api.create(&PostParams::default(), &object)).await?;
        let name = created.name_any();
        self.written.get_or_insert_default().insert(key.clone(), Written { name, interfaces: vec![] });
        self.update(key, announcement).await?;
        for other in others {
            if other.labels().get(LABEL_STATUS_NODE) != Some(&self.settings.node) {
                in_time(delete(&api, &other.name_any())).await?;
            }
        }
        self.tell(key, announcement).await
    }

    async fn update(&mut self, key: &ServiceKey, announcement: &Announcement) -> anyhow::Result<()> {
        let api = self.api();
        let Some(written) = self.written.as_mut().and_then(|written| written.get_mut(key)) else {
            return Ok(());
        };
        let status = ServiceL2StatusStatus {
            node: Some(self.settings.node.clone()),
            service_name: Some(key.name().to_owned()),
            service_namespace: Some(key.namespace().to_owned()),
            interfaces: announcement.interfaces.clone(),
        };
        let params = PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({ "status": status }));
        match in_time(api.patch_status(&written.name, &params, &patch)).await {
            Ok(_) => written.interfaces.clone_from(&announcement.interfaces),
            Err(error) => {
                // Somebody deleted it, or it never came to be: everything is read again.
                self.written = None;
                return Err(error);
            }
        }
        Ok(())
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
