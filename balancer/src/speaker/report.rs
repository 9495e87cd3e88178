//! What is told in the cluster about this node's announcements: ServiceL2Status objects, an annotation of the Service,
//! an Event for each change of owner, and addresses that another host has.
//!
//! Level-triggered: what is there, by a watch, is compared with what is announced, so that an object that is deleted
//! comes back, and nothing is written when nothing has changed.

mod events;
mod objects;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use metallb_api::names::ANNOTATION_ANNOUNCED_FROM;
use metallb_core::announced::ANNOUNCED;
use metallb_core::service::ServiceKey;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::facts::{CONFLICT, Finding};
use super::layer2::Standing;
use super::metrics::Metrics;
use super::sleep_until;
use events::{NORMAL, Notice, WARNING};
use objects::{Object, delete};
pub(super) use told::{Announced, Mark, Marks};
use told::{Announcement, Failures, claims, finding};

/// Who writes, in Events and in the record of who wrote which field.
const COMPONENT: &str = "metallb-speaker";
/// Pause before what could not be written is tried again; doubled each time.
const RETRY: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What reports are made from.
pub(super) struct Ports {
    /// What this node is to announce.
    pub(super) announced: watch::Receiver<Option<Arc<Announced>>>,
    /// What the Services say of that.
    pub(super) marks: watch::Receiver<Marks>,
    /// What it announces.
    pub(super) standing: watch::Receiver<Standing>,
    /// Whether this node knows all that the API server has.
    pub(super) informed: watch::Receiver<bool>,
    pub(super) metrics: Metrics,
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
    mut ports: Ports,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut reporter = Reporter {
        client,
        settings,
        owner: None,
        objects: None,
        marks: Marks::new(),
        written: Marks::new(),
        told: BTreeSet::new(),
        claims: BTreeMap::new(),
        failures: Failures::default(),
    };
    let mut shown = None;
    let mut changes = std::pin::pin!(reporter.changes());
    let mut pause = RETRY;
    loop {
        let wanted = ports.announced.borrow_and_update().clone();
        let standing = ports.standing.borrow_and_update().clone();
        reporter.read(ports.marks.borrow_and_update().clone());
        let on_wire = wanted.as_ref().map(|wanted| wanted.addresses(&standing));
        if let Some(on_wire) = on_wire.filter(|on_wire| shown.as_ref() != Some(on_wire)) {
            let addresses = on_wire.iter().map(|(key, address)| (key, *address));
            ports.metrics.announced(&reporter.settings.node, addresses);
            shown = Some(on_wire);
        }
        let mut retry = None;
        // A node that was cut off must not write, once it is back, what it believed meanwhile: not before it has learnt all,
        // and not to the end what hung while its plan changed.
        let is_informed = *ports.informed.borrow_and_update();
        if let (Some(wanted), Some(_), true) = (&wanted, &reporter.objects, is_informed) {
            let result = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = ports.announced.changed() => {
                    changed.context("the plans ended")?;
                    continue;
                }
                changed = ports.informed.changed() => {
                    changed.context("the watches ended")?;
                    continue;
                }
                result = reporter.report(wanted, &standing) => result,
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
            changed = ports.announced.changed() => changed.context("the plans ended")?,
            changed = ports.marks.changed() => changed.context("the plans ended")?,
            changed = ports.standing.changed() => changed.context("layer 2 ended")?,
            changed = ports.informed.changed() => changed.context("the watches ended")?,
            () = sleep_until(reporter.failures.deadline().filter(|_| retry.is_none())) => {}
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
    /// What the Services said last.
    marks: Marks,
    /// What was written into them since.
    written: Marks,
    /// Services of which it was told that this node announces them now, and not yet written into them.
    told: BTreeSet<ServiceKey>,
    /// Claims of other hosts that were told while their addresses are announced.
    claims: BTreeMap<ServiceKey, String>,
    failures: Failures,
}

impl Reporter {
    /// Takes what the Services say. What was written into one counts until it says something else than before.
    fn read(&mut self, marks: Marks) {
        self.written.retain(|key, _| marks.get(key) == self.marks.get(key));
        self.marks = marks;
    }

    fn mark(&self, key: &ServiceKey) -> Mark {
        self.written.get(key).or_else(|| self.marks.get(key)).cloned().unwrap_or_default()
    }

    async fn report(&mut self, planned: &Announced, standing: &Standing) -> anyhow::Result<()> {
        let wanted = planned.on_wire(standing);
        let mut mine = BTreeMap::new();
        let mut superfluous = Vec::new();
        for object in self.objects.iter().flat_map(BTreeMap::values) {
            if !wanted.contains_key(&object.key) || mine.insert(object.key.clone(), object.clone()).is_some()
            {
                superfluous.push(object.name.clone());
            }
        }
        for name in superfluous {
            in_time(delete(&self.api(), &name)).await?;
            self.objects.get_or_insert_default().remove(&name);
        }
        let owner = self.owner().await?;
        self.told.retain(|key| wanted.contains_key(key));
        for (key, announcement) in &wanted {
            let object = mine.get(key);
            let name = match object {
                Some(object) => object.name.clone(),
                None => self.create(key, &owner).await?,
            };
            if object.is_some_and(|object| object.owner.as_ref() != Some(&owner.uid)) {
                self.own(&name, &owner).await?;
            }
            let status = object.and_then(|object| object.status.as_ref());
            if status != Some(&self.status(key, announcement)) {
                self.update(&name, key, announcement).await?;
            }
            if self.announcer(key).as_ref() != Some(&self.settings.node) {
                self.succeed(key, announcement).await?;
            }
        }
        let records = wanted.iter().map(|(key, announcement)| (key, Some(announcement.record.clone())));
        for (key, record) in records.chain(planned.dropped.iter().map(|key| (key, None))) {
            if self.mark(key).record != record {
                self.record(key, record).await?;
            }
        }
        for (key, announcement) in &planned.services {
            if let Some(finding) = finding(self.mark(key).condition.as_ref(), announcement, standing) {
                self.tell_conflict(key, announcement, finding).await?;
            }
            let claims = claims(announcement, standing, |conflict| !conflict.withheld).join(", ");
            if claims.is_empty() {
                self.claims.remove(key);
            } else if self.claims.get(key) != Some(&claims) {
                self.tell_claim(key, announcement, format!("{claims}: announced all the same")).await?;
                self.claims.insert(key.clone(), claims);
            }
        }
        self.claims.retain(|key, _| planned.services.contains_key(key));
        let now = Instant::now();
        self.failures.follow(now, planned, standing);
        for key in self.failures.due(now) {
            if let Some(announcement) = planned.services.get(&key) {
                self.tell_failure(&key, announcement, standing).await?;
            }
            self.failures.told(&key);
        }
        Ok(())
    }

    /// The node that announces a Service by what it says itself.
    fn announcer(&self, key: &ServiceKey) -> Option<String> {
        self.mark(key).record?.split(',').next().map(str::to_owned)
    }

    /// Takes the place of whoever announced a Service before. What the Service says comes last: until then this is to be
    /// done, whatever interrupts it. After a rollout the node is the same, and nothing is told.
    async fn succeed(&mut self, key: &ServiceKey, announcement: &Announcement) -> anyhow::Result<()> {
        self.delete_others(key).await?;
        if !self.told.contains(key) {
            self.tell(key, announcement).await?;
            self.told.insert(key.clone());
        }
        self.record(key, Some(announcement.record.clone())).await?;
        self.told.remove(key);
        Ok(())
    }

    /// Tells that this node is to announce addresses of a Service and cannot.
    async fn tell_failure(
        &self,
        key: &ServiceKey,
        announcement: &Announcement,
        standing: &Standing,
    ) -> anyhow::Result<()> {
        let node = &self.settings.node;
        tracing::warn!(event = "announceFailed", service = %key, node, "no interface can announce the service");
        let failed = announcement.addresses.iter().filter(|address| standing.failed.contains(address));
        let addresses: Vec<String> = failed.map(ToString::to_string).collect();
        let message = format!("no interface of node {node:?} can announce {}", addresses.join(", "));
        let (reason, uid) = ("announceFailed", &announcement.uid);
        events::tell(&self.client, Notice { key, uid, kind: WARNING, reason, message }).await
    }

    /// Writes into a Service who announces it.
    async fn record(&mut self, key: &ServiceKey, record: Option<String>) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_ANNOUNCED_FROM: record}}}));
        let api: Api<Service> = Api::namespaced(self.client.clone(), key.namespace());
        unless_gone(in_time(api.patch_metadata(key.name(), &parameters(), &patch)).await)?;
        let mark = Mark { record, ..self.mark(key) };
        self.written.insert(key.clone(), mark);
        Ok(())
    }

    /// Says at the Service that another host has its address, or has no more.
    async fn tell_conflict(
        &mut self,
        key: &ServiceKey,
        announcement: &Announcement,
        finding: Finding,
    ) -> anyhow::Result<()> {
        let status = if finding.announced { "True" } else { "False" };
        let now = Timestamp::now();
        let patch = Patch::Strategic(json!({"status": {"conditions": [{
            "type": ANNOUNCED, "status": status, "reason": finding.reason, "message": finding.message,
            "lastTransitionTime": Time(now),
        }]}}));
        let api: Api<Service> = Api::namespaced(self.client.clone(), key.namespace());
        unless_gone(in_time(api.patch_status(key.name(), &parameters(), &patch)).await)?;
        if finding.reason == CONFLICT {
            self.tell_claim(key, announcement, finding.message.clone()).await?;
        }
        let mark = Mark { condition: Some(finding), ..self.mark(key) };
        self.written.insert(key.clone(), mark);
        Ok(())
    }

    async fn tell_claim(
        &self,
        key: &ServiceKey,
        announcement: &Announcement,
        message: String,
    ) -> anyhow::Result<()> {
        tracing::warn!(event = "addressConflict", service = %key, claim = message, "another host has the address");
        let (reason, uid) = ("addressConflict", &announcement.uid);
        events::tell(&self.client, Notice { key, uid, kind: WARNING, reason, message }).await
    }

    async fn tell(&self, key: &ServiceKey, announcement: &Announcement) -> anyhow::Result<()> {
        let node = &self.settings.node;
        tracing::info!(event = "serviceAnnounced", service = %key, node, protocol = "layer2", "service has IP, announcing");
        let message = format!("announcing from node {node:?} with protocol \"layer2\"");
        let (reason, uid) = ("nodeAssigned", &announcement.uid);
        events::tell(&self.client, Notice { key, uid, kind: NORMAL, reason, message }).await
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

/// A Service that was deleted meanwhile has nothing to be told.
fn unless_gone<T>(result: anyhow::Result<T>) -> anyhow::Result<()> {
    match result {
        Err(error) if matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404) => {
            Ok(())
        }
        result => result.map(drop),
    }
}

#[cfg(test)]
#[path = "report/report_tests.rs"]
mod tests;
