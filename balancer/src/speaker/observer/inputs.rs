//! What the observer watches.

use std::collections::BTreeMap;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher;
use kube::{Api, Client};
use metallb_api::names::LABEL_L2_OWNERS;
use metallb_api::{IPAddressPool, L2Advertisement};

use super::Settings;
use crate::speaker::bgp;
use crate::speaker::facts::{self, NodeFacts, ServiceFacts, SliceFacts, SpeakerFacts, WrittenOwners};
use crate::watch::{Change, Unreadable, changes, news, watch_selected};

/// Selects Services of type LoadBalancer.
const LOAD_BALANCERS: &str = "spec.type=LoadBalancer";

/// What the watches bring.
pub(super) enum Input {
    Services(Change<ServiceFacts>),
    Slices(Change<SliceFacts>),
    Nodes(Change<(String, NodeFacts)>),
    Pools(Result<Change<IPAddressPool>, Unreadable>),
    Advertisements(Change<L2Advertisement>),
    Speakers(Change<(String, SpeakerFacts)>),
    /// Who has the addresses that are spread evenly, as it was written down.
    Owners(Result<Change<WrittenOwners>, Unreadable>),
    Bgp(bgp::inputs::Input),
}

pub(super) fn inputs(
    client: &Client,
    settings: &Settings,
    services: watcher::Config,
) -> impl Stream<Item = Input> + use<> {
    let class = settings.class.clone();
    let port = settings.port;
    let all = watcher::Config::default;
    let service = Api::<Service>::all(client.clone());
    let slice = Api::<EndpointSlice>::all(client.clone());
    let node = Api::<Node>::all(client.clone());
    let pool = Api::<IPAddressPool>::namespaced(client.clone(), &settings.namespace);
    let advertisement = Api::<L2Advertisement>::namespaced(client.clone(), &settings.namespace);
    let services = changes("Service", watch_selected(service, services), move |object| {
        facts::service(&object, class.as_deref())
    });
    let slices = changes("EndpointSlice", watch_selected(slice, all()), |object| facts::slice(&object));
    let nodes = changes("Node", watch_selected(node, all()), |object| facts::node_facts(&object));
    let pools = news("IPAddressPool", watch_selected(pool, all()), stripped);
    let advertisements = changes("L2Advertisement", watch_selected(advertisement, all()), stripped);
    let lease = Api::<Lease>::namespaced(client.clone(), &settings.namespace);
    let owners = news("Lease", watch_selected(lease, all().labels(LABEL_L2_OWNERS)), facts::written_owners);
    let mut inputs: Vec<BoxStream<'static, Input>> = vec![
        services.map(Input::Services).boxed(),
        slices.map(Input::Slices).boxed(),
        nodes.map(Input::Nodes).boxed(),
        pools.map(Input::Pools).boxed(),
        advertisements.map(Input::Advertisements).boxed(),
        owners.map(Input::Owners).boxed(),
    ];
    if let Some(labels) = &settings.speakers {
        let pod = Api::<Pod>::namespaced(client.clone(), &settings.namespace);
        let speakers = changes("Pod", watch_selected(pod, all().labels(labels)), move |object| {
            facts::speaker_facts(&object, port)
        });
        inputs.push(speakers.map(Input::Speakers).boxed());
    }
    let by_bgp = bgp::inputs::watched(client, &settings.namespace);
    inputs.extend(by_bgp.into_iter().map(|stream| stream.map(Input::Bgp).boxed()));
    futures::stream::select_all(inputs)
}

/// Asks only for Services of type LoadBalancer where the API server can select by it: it is the difference between a
/// handful and all of a large cluster's.
pub(super) async fn load_balancers(client: &Client) -> watcher::Config {
    let services = Api::<PartialObjectMeta<Service>>::all(client.clone());
    let first = ListParams::default().fields(LOAD_BALANCERS).limit(1);
    match services.list_metadata(&first).await {
        Err(kube::Error::Api(status)) if status.code == 400 => {
            tracing::info!("the API server does not select Services by type: watching all of them");
            watcher::Config::default()
        }
        _ => watcher::Config::default().fields(LOAD_BALANCERS),
    }
}

/// An object without the record of who wrote which field.
pub(in crate::speaker) fn stripped<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

pub(in crate::speaker) fn named<K: kube::ResourceExt>(object: K) -> (String, K) {
    (object.name_any(), object)
}

pub(in crate::speaker) fn take<K: Ord, T, V>(
    map: &mut BTreeMap<K, V>,
    change: Change<T>,
    entry: impl Fn(T) -> (K, V),
) {
    match change {
        Change::All(all) => *map = all.into_iter().map(entry).collect(),
        Change::Set(one) => {
            let (key, value) = entry(one);
            map.insert(key, value);
        }
        Change::Gone(one) => {
            map.remove(&entry(one).0);
        }
    }
}

/// As [`take`]; tells whether anything is another than before.
pub(super) fn update<K: Ord, T, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    change: Change<T>,
    entry: impl Fn(T) -> (K, V),
) -> bool {
    match change {
        Change::All(all) => {
            let before = std::mem::replace(map, all.into_iter().map(entry).collect());
            before != *map
        }
        Change::Set(one) => {
            let (key, value) = entry(one);
            let same = map.get(&key) == Some(&value);
            map.insert(key, value);
            !same
        }
        Change::Gone(one) => map.remove(&entry(one).0).is_some(),
    }
}
