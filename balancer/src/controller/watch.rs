//! The watches, each turned into a stream of [`Change`]s that holds only what is needed of an object.

use futures::{Stream, StreamExt, stream::BoxStream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Resource, core::PartialObjectMeta, runtime::watcher};
use metallb_api::{
    IPAddressPool, ServiceBGPStatus, ServiceL2Status,
    names::{APP, MEMBERLIST_PORT, SPEAKER},
};
use metallb_core::{claim::ServiceFacts, selector::Labels};
use serde::de::DeserializeOwned;

use super::{
    lean::LeanService,
    news::{News, NodeFacts, Protocol, Said},
};
use crate::{
    speaker::facts,
    watch::{Change, Unreadable, changes, news, watch_anew, watch_selected},
};

/// Services, reduced to what allocation needs.
pub(super) fn services(
    api: Api<LeanService>,
    class: Option<String>,
) -> impl Stream<Item = Change<ServiceFacts>> {
    changes("Service", watch_anew(api), move |service| ServiceFacts::of(&service.into(), class.as_deref()))
}

/// IPAddressPools without the record of who wrote which field; and when it cannot be told which there are.
pub(super) fn pools(
    api: Api<IPAddressPool>,
) -> impl Stream<Item = Result<Change<IPAddressPool>, Unreadable>> {
    news("IPAddressPool", watch_anew(api), |mut pool: IPAddressPool| {
        pool.metadata.managed_fields = None;
        pool
    })
}

/// Names and labels of namespaces; nothing else of them is asked for.
pub(super) fn namespaces(
    api: Api<PartialObjectMeta<Namespace>>,
) -> impl Stream<Item = Change<(String, Labels)>> {
    changes("Namespace", watch_anew(api), |namespace: PartialObjectMeta<Namespace>| {
        (namespace.metadata.name.unwrap_or_default(), namespace.metadata.labels.unwrap_or_default())
    })
}

/// All that announcing depends on but for pools and Services, in `namespace` or of the whole cluster.
pub(super) fn announcing(client: &Client, namespace: &str) -> impl Stream<Item = News> + use<> {
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
        Said::of(object.metadata, object.status.and_then(|status| status.node))
    });
    let by_bgp = changes("ServiceBGPStatus", own(client, namespace), |object: ServiceBGPStatus| {
        let announcing = object.status.filter(|status| !status.peers.is_empty());
        Said::of(object.metadata, announcing.and_then(|status| status.node))
    });
    let streams: [BoxStream<'static, News>; 8] = [
        configuration("L2Advertisement", client, namespace).map(News::Layer2).boxed(),
        configuration("BGPAdvertisement", client, namespace).map(News::Bgp).boxed(),
        configuration("Community", client, namespace).map(News::Communities).boxed(),
        nodes.map(News::Nodes).boxed(),
        slices.map(News::Slices).boxed(),
        speakers.map(News::Speakers).boxed(),
        on_layer2.map(|change| News::Said(Protocol::Layer2, change)).boxed(),
        by_bgp.map(|change| News::Said(Protocol::Bgp, change)).boxed(),
    ];
    futures::stream::select_all(streams)
}

fn node_facts(node: Node) -> NodeFacts {
    let (name, facts) = facts::node(&node);
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let addresses = addresses.iter().filter_map(|address| address.address.parse().ok()).collect();
    NodeFacts { name, facts, addresses }
}

/// Objects of the configuration without the record of who wrote which field.
fn configuration<K>(
    kind: &'static str,
    client: &Client,
    namespace: &str,
) -> impl Stream<Item = Change<K>> + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    changes(kind, own(client, namespace), |mut object: K| {
        object.meta_mut().managed_fields = None;
        object
    })
}

fn own<K>(client: &Client, namespace: &str) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + 'static,
{
    watch_anew(Api::namespaced(client.clone(), namespace))
}
