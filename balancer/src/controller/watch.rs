//! The watches, each turned into a stream of [`Change`]s that holds only what is needed of an object.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Resource, core::PartialObjectMeta, runtime::watcher};
use metallb_api::{
    ConfigurationState, IPAddressPool, ServiceBGPStatus, ServiceL2Status,
    names::{APP, MEMBERLIST_PORT, SPEAKER},
};
use metallb_core::{claim::ServiceFacts, selector::Labels, subnets};
use serde::de::DeserializeOwned;

use super::{
    configured::Edit,
    lean::LeanService,
    news::{Input, Network, News, NodeFacts, Protocol, Said, Session, Subnets, Word},
};
use crate::{
    speaker::facts,
    watch::{Change, Unreadable, changes, news, watch_anew, watch_selected},
};

/// Changes that are taken in before the next write is sought.
const BATCH: usize = 256;

/// All watches: Services of `class` anywhere, and what is told of them in `namespace`.
pub(super) fn inputs(
    client: &Client,
    namespace: &str,
    class: Option<String>,
) -> BoxStream<'static, Vec<Input>> {
    futures::stream::select_all([
        services(Api::all(client.clone()), class).map(Input::Services).boxed(),
        pools(Api::namespaced(client.clone(), namespace)).map(Input::Pools).boxed(),
        namespaces(Api::all(client.clone())).map(Input::Namespaces).boxed(),
        configured(client, namespace).map(Input::Configured).boxed(),
        announcing(client, namespace).map(Input::Announcing).boxed(),
    ])
    .ready_chunks(BATCH)
    .boxed()
}

/// Services, reduced to what allocation needs.
fn services(api: Api<LeanService>, class: Option<String>) -> impl Stream<Item = Change<Arc<ServiceFacts>>> {
    changes("Service", watch_anew(api), move |service| {
        Arc::new(ServiceFacts::of(&service.into(), class.as_deref()))
    })
}

/// IPAddressPools without the record of who wrote which field; and when it cannot be told which there are.
fn pools(api: Api<IPAddressPool>) -> impl Stream<Item = Result<Change<IPAddressPool>, Unreadable>> {
    news("IPAddressPool", watch_anew(api), |mut pool: IPAddressPool| {
        pool.metadata.managed_fields = None;
        pool
    })
}

/// Names and labels of namespaces; nothing else of them is asked for.
fn namespaces(api: Api<PartialObjectMeta<Namespace>>) -> impl Stream<Item = Change<(String, Labels)>> {
    changes("Namespace", watch_anew(api), |namespace: PartialObjectMeta<Namespace>| {
        (namespace.metadata.name.unwrap_or_default(), namespace.metadata.labels.as_ref().into())
    })
}

/// The configuration but for pools, in `namespace`.
fn configured(client: &Client, namespace: &str) -> impl Stream<Item = Edit> + use<> {
    let streams: [BoxStream<'static, Edit>; 5] = [
        objects("L2Advertisement", client, namespace).map(Edit::Layer2).boxed(),
        objects("BGPAdvertisement", client, namespace).map(Edit::Bgp).boxed(),
        objects("Community", client, namespace).map(Edit::Communities).boxed(),
        objects("BGPPeer", client, namespace).map(Edit::Peers).boxed(),
        objects("BFDProfile", client, namespace).map(Edit::Profiles).boxed(),
    ];
    futures::stream::select_all(streams)
}

/// All that announcing depends on but for the configuration and Services, in `namespace` or of the whole cluster.
fn announcing(client: &Client, namespace: &str) -> impl Stream<Item = News> + use<> {
    let speakers = format!("app={APP},component={SPEAKER}");
    let speakers = watch_selected(
        Api::<Pod>::namespaced(client.clone(), namespace),
        watcher::Config::default().labels(&speakers),
    );
    let nodes = changes("Node", watch_anew(Api::<Node>::all(client.clone())), node_facts);
    let slices = watch_anew(Api::<EndpointSlice>::all(client.clone()));
    let slices = changes("EndpointSlice", slices, |slice| facts::slice(&slice));
    let speakers = changes("Pod", speakers, |pod| facts::speaker(&pod, MEMBERLIST_PORT));
    let on_layer2 = changes("ServiceL2Status", own(client, namespace), |object: ServiceL2Status| {
        let node = object.status.and_then(|status| status.node);
        Said::of(object.metadata, Word { node, peers: Vec::new() })
    });
    let by_bgp = changes("ServiceBGPStatus", own(client, namespace), |object: ServiceBGPStatus| {
        let status = object.status.unwrap_or_default();
        Said::of(object.metadata, Word { node: status.node, peers: status.peers })
    });
    let subnets = changes("ConfigurationState", own(client, namespace), |state: ConfigurationState| {
        let told = subnets::told(&state.metadata, state.status.as_ref());
        Subnets { object: state.metadata.name.unwrap_or_default(), told }
    });
    let sessions = news("BGPSessionState", own(client, namespace), Session::of);
    let streams: [BoxStream<'static, News>; 7] = [
        nodes.map(News::Nodes).boxed(),
        slices.map(News::Slices).boxed(),
        speakers.map(News::Speakers).boxed(),
        on_layer2.map(|change| News::Said(Protocol::Layer2, change)).boxed(),
        by_bgp.map(|change| News::Said(Protocol::Bgp, change)).boxed(),
        sessions.map(News::Sessions).boxed(),
        subnets.map(News::Subnets).boxed(),
    ];
    futures::stream::select_all(streams)
}

fn node_facts(node: Node) -> NodeFacts {
    let (name, facts) = facts::node(&node);
    let subnets = subnets::subnets(std::iter::once(&node));
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let addresses = addresses.iter().filter_map(|address| address.address.parse().ok()).collect();
    NodeFacts { name, facts, network: Network { addresses, subnets } }
}

/// What is watched in the namespace of the configuration.
trait Own:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + 'static
{
}

impl<K> Own for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static
{
}

/// Objects of the configuration without the record of who wrote which field.
fn objects<K: Own>(
    kind: &'static str,
    client: &Client,
    namespace: &str,
) -> impl Stream<Item = Change<K>> + use<K> {
    changes(kind, own(client, namespace), |mut object: K| {
        object.meta_mut().managed_fields = None;
        object
    })
}

fn own<K: Own>(
    client: &Client,
    namespace: &str,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + use<K> {
    watch_anew(Api::namespaced(client.clone(), namespace))
}
