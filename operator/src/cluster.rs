//! The only place that calls the API server.
//!
//! Watches turn into [`world::Change`]s; planned changes turn into requests. A write is sent only while the Lease is
//! held and is given up before the Lease may be lost.

mod existing;
mod needs;

use std::time::{Duration, Instant};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeSpec, NodeStatus, Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ApiResource, DynamicObject, GroupVersionKind, TypeMeta},
    runtime::{
        WatchStreamExt,
        events::{Event, EventType, Recorder, Reporter},
        utils::Backoff,
        watcher::{self, watcher},
    },
};
use metallb_api::conditions::{self, Report};
use metallb_runtime::lease::Leadership;
use rand::RngExt;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    health,
    kinds::Kind,
    neighbours::Neighbour,
    plan::{self, FIELD_MANAGER, StatusReport},
    pool,
    settings::{REQUEST_TIMEOUT, Settings},
    workload::{Marked, WorkloadKind},
    world::{self, Source},
};

pub use existing::{Scope, existing};
pub use needs::missing;

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

/// Everything that the operator watches, from now on. Each stream goes on after faults.
pub fn watch(client: &Client, settings: &Settings) -> impl Stream<Item = world::Change> + Send + use<> {
    let mut streams: Vec<BoxStream<'static, world::Change>> = Vec::new();
    for kind in Kind::ALL {
        let resource = kind.api_resource();
        let api = if kind.everywhere() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), &settings.namespace, &resource)
        };
        let mut config = watcher::Config::default();
        if let Some(name) = kind.only() {
            config = config.fields(&format!("metadata.name={name}"));
        }
        config.label_selector = kind.labels().map(str::to_owned);
        let typed = move |object: &mut DynamicObject| set_type(object, &resource);
        streams.push(source(Source::Objects(kind), api, config, typed, move |event| {
            world::Change::Object(kind, Box::new(event))
        }));
    }
    for kind in WorkloadKind::ALL {
        let api: Api<Marked> = Api::all_with(client.clone(), &kind.api_resource());
        // Small pages: only a few fields of each object are kept.
        let mut config = watcher::Config::default().page_size(100);
        config.label_selector = kind.label_selector().map(str::to_owned);
        config.field_selector = kind.field_selector().map(str::to_owned);
        streams.push(source(Source::Workloads(kind), api, config, drop_managed_fields, move |event| {
            world::Change::Workload(kind, Box::new(event))
        }));
    }
    for kind in Neighbour::ALL {
        let resource = kind.api_resource();
        let mut config = watcher::Config::default().page_size(100);
        let mut api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        if let Some((namespace, name)) = kind.only(&settings.namespace) {
            config = config.fields(&format!("metadata.name={name}"));
            if let Some(namespace) = namespace {
                api = Api::namespaced_with(client.clone(), namespace, &resource);
            }
        }
        streams.push(source(Source::Neighbours(kind), api, config, drop_managed_fields, move |event| {
            world::Change::Neighbour(kind, Box::new(event))
        }));
    }
    streams.push(versions(client.clone()));
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    let operands = watcher::Config::default().labels("app=metallb,component in (controller, speaker)");
    streams.push(source(Source::Pods, pods, operands, drop_managed_fields, |event| {
        world::Change::Pod(Box::new(event))
    }));
    let nodes: Api<Node> = Api::all(client.clone());
    let config = watcher::Config::default().page_size(100);
    let images = [settings.controller_image.clone(), settings.speaker_image.clone()];
    let trim = move |node: &mut Node| trim_node(node, &images.each_ref().map(String::as_str));
    streams.push(source(Source::Nodes, nodes, config, trim, |event| world::Change::Node(Box::new(event))));
    stream::select_all(streams)
}

/// The API server's version, asked for again now and then, since it is upgraded while the operator runs.
fn versions(client: Client) -> BoxStream<'static, world::Change> {
    const PAUSE: Duration = Duration::from_secs(3600);
    let asked = stream::unfold((client, false), async |(client, again)| {
        if again {
            tokio::time::sleep(PAUSE).await;
        }
        let version = client.apiserver_version().await.map(|info| world::Change::Version(info.git_version));
        Some((version.ok(), (client, true)))
    });
    asked.filter_map(std::future::ready).boxed()
}

fn source<K>(
    source: Source,
    api: Api<K>,
    config: watcher::Config,
    trim: impl Fn(&mut K) + Send + Clone + 'static,
    change: impl Fn(watcher::Event<K>) -> world::Change + Send + 'static,
) -> BoxStream<'static, world::Change>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let events = watcher(api, config).backoff(Pauses::of(source));
    let changes = events.filter_map(move |event| {
        let change = match event {
            Ok(event) => Some(change(event.modify(trim.clone()))),
            Err(error) => fault(source, &error),
        };
        std::future::ready(change)
    });
    changes.boxed()
}

/// What is worth knowing: that the API server refuses, or does not know the kind. That it does not answer passes,
/// and could not be told anyway.
fn fault(source: Source, error: &watcher::Error) -> Option<world::Change> {
    tracing::debug!(%source, %error, "watch interrupted");
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        _ => return None,
    };
    match status.code {
        404 if source.optional() => Some(world::Change::Absent(source)),
        // 503 comes of an aggregated API whose own server is down, of which nothing else would tell.
        code if matches!(code, 401 | 403 | 404) || (code == 503 && source.optional()) => {
            tracing::warn!(%source, message = status.message, code = status.code, "watch refused");
            Some(world::Change::Fault(source, format!("cannot watch {source}: {}", status.message)))
        }
        _ => None,
    }
}

/// Items of a list do not say what they are.
fn set_type(object: &mut DynamicObject, resource: &ApiResource) {
    object.types.get_or_insert_with(|| TypeMeta {
        api_version: resource.api_version.clone(),
        kind: resource.kind.clone(),
    });
}

fn drop_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of a node, only these are read: its conditions, what tells its subnets, whether it is cordoned, and which of images
/// like `images` it has.
fn trim_node(node: &mut Node, images: &[&str]) {
    drop_managed_fields(node);
    if let Some(annotations) = &mut node.metadata.annotations {
        annotations.retain(|name, _| pool::ANNOTATIONS.contains(&name.as_str()));
    }
    let unschedulable = node.spec.take().and_then(|spec| spec.unschedulable);
    node.spec = Some(NodeSpec { unschedulable, ..NodeSpec::default() });
    health::trim(node, images);
    if let Some(status) = &mut node.status {
        let (conditions, images) = (status.conditions.take(), status.images.take());
        *status = NodeStatus { conditions, images, ..NodeStatus::default() };
    }
}

/// Pauses between attempts of a watch: short at first, so that a restart of the API server is hardly noticed.
#[derive(Debug)]
struct Pauses {
    attempts: u32,
    last: Option<Instant>,
    longest: Duration,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(100);
    /// A watch that has worked for this long starts afresh.
    const CALM: Duration = Duration::from_secs(60);

    /// A kind that the cluster need not know is asked for again less often.
    fn of(source: Source) -> Self {
        let longest = Duration::from_secs(match source {
            Source::Neighbours(kind) if kind.optional() => 60,
            source if source.optional() => 15,
            _ => 5,
        });
        Self { attempts: 0, last: None, longest }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.is_none_or(|last| last.elapsed() > Self::CALM) {
            self.attempts = 0;
        }
        self.last = Some(Instant::now());
        let pause = Self::FIRST.saturating_mul(2_u32.saturating_pow(self.attempts)).min(self.longest);
        self.attempts = self.attempts.saturating_add(1);
        Some(pause.mul_f64(rand::rng().random_range(0.5..1.0)))
    }
}

impl Backoff for Pauses {
    /// Does nothing: the start of an attempt counts as success to the watcher.
    fn reset(&mut self) {}
}

/// Writes to the cluster for as long as it leads.
pub struct Cluster {
    client: Client,
    leadership: Leadership,
    recorder: Recorder,
}

impl Cluster {
    /// Writes through `client` while `leadership` is held; Events name the pod `pod_name`.
    #[must_use]
    pub fn new(client: Client, leadership: Leadership, pod_name: &str) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(pod_name.to_owned()) };
        Self { recorder: Recorder::new(client.clone(), reporter), client, leadership }
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
            Ok(result) => outcome(result),
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
