//! What the operator watches.

use std::time::{Duration, Instant};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::DynamicObject,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, watcher},
    },
};
use rand::RngExt;
use serde::de::DeserializeOwned;

use super::set_type;
use crate::{
    health,
    kinds::Kind,
    neighbours::Neighbour,
    pool,
    settings::Settings,
    workload::{Marked, WorkloadKind},
    world::{self, Source},
};

/// Everything that the operator watches, from now on. Each stream goes on after faults.
pub fn watch(client: &Client, settings: &Settings) -> impl Stream<Item = world::Change> + Send + use<> {
    let mut streams: Vec<BoxStream<'static, world::Change>> = Vec::new();
    for kind in Kind::ALL {
        let resource = kind.api_resource();
        let mut config = watcher::Config::default();
        if let Some(name) = kind.only() {
            config = config.fields(&format!("metadata.name={name}"));
        }
        let api = if kind.everywhere() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), &settings.namespace, &resource)
        };
        let typed = move |object: &mut DynamicObject| {
            set_type(object, &resource);
            if kind.by_name_only() {
                object.data = serde_json::Value::Null;
                object.metadata.managed_fields = None;
            }
        };
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
        config.field_selector = kind.fields(&settings.namespace);
        if let Some(namespace) = kind.namespace(&settings.namespace) {
            api = Api::namespaced_with(client.clone(), namespace, &resource);
        }
        streams.push(source(Source::Neighbours(kind), api, config, drop_managed_fields, move |event| {
            world::Change::Neighbour(kind, Box::new(event))
        }));
    }
    streams.push(versions(client.clone()));
    streams.push(static_pods(client.clone()));
    let pods: Api<Pod> = Api::namespaced(client.clone(), &settings.namespace);
    let operands = watcher::Config::default().labels("app=metallb,component in (controller, speaker, pull)");
    streams.push(source(Source::Pods, pods, operands, drop_managed_fields, |event| {
        world::Change::Pod(Box::new(event))
    }));
    let nodes: Api<Node> = Api::all(client.clone());
    let config = watcher::Config::default().page_size(100);
    streams
        .push(source(Source::Nodes, nodes, config, trim_node, |event| world::Change::Node(Box::new(event))));
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

/// Static pods of kube-vip, looked for now and then: nothing selects them but their names, which end with their node's.
fn static_pods(client: Client) -> BoxStream<'static, world::Change> {
    const PAUSE: Duration = Duration::from_secs(600);
    let looked = stream::unfold((client, false), async |(client, again)| {
        if again {
            tokio::time::sleep(PAUSE).await;
        }
        let found = kube_vip(&client).await;
        if let Err(error) = &found {
            tracing::debug!(%error, "static pods cannot be looked for");
        }
        Some((found.unwrap_or_default(), (client, true)))
    });
    let kind = WorkloadKind::StaticPod;
    let events = looked.flat_map(stream::iter);
    events.map(move |event| world::Change::Workload(kind, Box::new(event))).boxed()
}

async fn kube_vip(client: &Client) -> kube::Result<Vec<watcher::Event<Marked>>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let label = ListParams::default().labels("node-role.kubernetes.io/control-plane");
    let pods: Api<Marked> =
        Api::namespaced_with(client.clone(), "kube-system", &WorkloadKind::StaticPod.api_resource());
    let mut events = vec![watcher::Event::Init];
    for node in nodes.list_metadata(&label).await?.items {
        let name = format!("metadata.name=kube-vip-{}", node.name_any());
        let found = pods.list(&ListParams::default().fields(&name)).await?.items;
        events.extend(found.into_iter().map(watcher::Event::InitApply));
    }
    events.push(watcher::Event::InitDone);
    Ok(events)
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
            let message = format!("cannot watch {source}: {}", status.message);
            let change = if code == 403 { world::Change::Refused } else { world::Change::Fault };
            Some(change(source, message))
        }
        _ => None,
    }
}

fn drop_managed_fields<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of a node, only these are read: its labels and taints, its conditions, what tells its subnets, whether it is cordoned,
/// and which images it has.
fn trim_node(node: &mut Node) {
    drop_managed_fields(node);
    if let Some(annotations) = &mut node.metadata.annotations {
        annotations.retain(|name, _| pool::ANNOTATIONS.contains(&name.as_str()));
    }
    let NodeSpec { unschedulable, taints, .. } = node.spec.take().unwrap_or_default();
    node.spec = Some(NodeSpec { unschedulable, taints, ..NodeSpec::default() });
    health::trim(node);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_node_is_kept_what_tells_whether_a_speaker_is_wanted_and_can_run() {
        let mut node: Node = serde_saphyr::from_str(
            "{metadata: {name: n, labels: {zone: a}, annotations: {other: x}}, spec: {podCIDR: 10.0.0.0/24, \
             unschedulable: true, taints: [{key: dedicated, effect: NoSchedule}]}, status: {conditions: [{type: Ready, \
             status: 'True'}], addresses: [{type: InternalIP, address: 192.0.2.1}], images: [{names: ['speaker:1', \
             'other:1']}]}}",
        )
        .unwrap();
        trim_node(&mut node);
        assert!(health::lacks(&node, "speaker:2") && !health::lacks(&node, "speaker:1"));
        node.status.as_mut().unwrap().images = None;
        let want: Node = serde_saphyr::from_str(
            "{metadata: {name: n, labels: {zone: a}, annotations: {}}, spec: {unschedulable: true, taints: [{key: \
             dedicated, effect: NoSchedule}]}, status: {conditions: [{type: Ready, status: 'True'}]}}",
        )
        .unwrap();
        assert_eq!(node, want);
    }
}
