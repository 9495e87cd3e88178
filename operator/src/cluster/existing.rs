//! What admission has to know of the cluster, read anew for each request: two objects that are written one after the
//! other are judged in the light of each other.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::{Node, NodeAddress, Service};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind, NamespaceResourceScope, Object},
};
use metallb_core::range::AddressRange;
use serde::{Deserialize, de::DeserializeOwned};

use super::set_type;
use crate::{
    admission::{Existing, Network},
    settings::Settings,
};

/// How long is waited for what is only told of: the API server waits three seconds for warnings about a deletion.
const PATIENCE: Duration = Duration::from_secs(2);
/// Objects that are listed at one time.
const PAGE: u32 = 500;

/// What is to be read besides the objects of metallb.io.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The Services of type LoadBalancer.
    pub services: bool,
    /// The cluster's own addresses.
    pub network: bool,
}

/// Reads the objects of metallb.io and what `scope` names.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn existing(client: &Client, settings: &Settings, scope: Scope) -> kube::Result<Existing> {
    let mut existing = Existing::default();
    let (mut services, mut addresses) = (Ok(Vec::new()), Ok(Network::default()));
    tokio::try_join!(
        read(client, settings, &mut existing.pools),
        read(client, settings, &mut existing.l2_advertisements),
        read(client, settings, &mut existing.bgp_advertisements),
        read(client, settings, &mut existing.bgp_peers),
        read(client, settings, &mut existing.bfd_profiles),
        read(client, settings, &mut existing.communities),
        read(client, settings, &mut existing.address_pools),
        async {
            services = told(scope.services, "Services", load_balancers(client)).await;
            Ok(())
        },
        async {
            addresses = told(scope.network, "the cluster's own addresses", network(client)).await;
            Ok(())
        },
    )?;
    let unread = [services.as_ref().err(), addresses.as_ref().err()].into_iter().flatten();
    existing.unread = unread.cloned().collect();
    existing.services = services.unwrap_or_default();
    existing.network = addresses.unwrap_or_default();
    Ok(existing)
}

/// What is only told of: that it cannot be read is told as well, and denies nothing.
async fn told<T: Default>(
    wanted: bool,
    what: &str,
    reading: impl Future<Output = kube::Result<T>>,
) -> Result<T, String> {
    if !wanted {
        return Ok(T::default());
    }
    let unread = |error: String| format!("{what} cannot be read, so nothing is told of them: {error}");
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => read.map_err(|error| unread(error.to_string())),
        Err(_) => Err(unread(format!("no answer within {} s", PATIENCE.as_secs()))),
    }
}

/// Reads all of a kind into `found`. Objects that cannot be read are left out: they have no effect either.
async fn read<K>(client: &Client, settings: &Settings, found: &mut Vec<K>) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &settings.namespace, &resource);
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        found.extend(list.items.into_iter().filter_map(|mut object| {
            set_type(&mut object, &resource);
            object.try_parse().ok()
        }));
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            return Ok(());
        }
    }
}

/// What the API server has in its memory: it is told only, and there may be very much of it.
fn remembered() -> ListParams {
    ListParams::default().match_any()
}

async fn load_balancers(client: &Client) -> kube::Result<Vec<Service>> {
    let api: Api<Service> = Api::all(client.clone());
    Ok(api.list(&remembered().fields("spec.type=LoadBalancer")).await?.items)
}

/// Of a node, only these are read.
type Placed = Object<PodRanges, Addresses>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodRanges {
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Addresses {
    addresses: Vec<NodeAddress>,
}

async fn network(client: &Client) -> kube::Result<Network> {
    let nodes: Api<Placed> = Api::all_with(client.clone(), &ApiResource::erase::<Node>(&()));
    let nodes = nodes.list(&remembered()).await?.items;
    let mut network = Network::default();
    for node in &nodes {
        let addresses = node.status.iter().flat_map(|status| &status.addresses);
        let addresses = addresses.filter_map(|address| address.address.parse().ok());
        network.nodes.extend(addresses.map(|address| (address, node.name_any())));
        let ranges = node.spec.pod_cidrs.iter().filter_map(|range| range.parse().ok());
        network.ranges.extend(ranges.map(|range| (range, format!("pods on node {}", node.name_any()))));
    }
    network.ranges.extend(service_ranges(client).await?);
    Ok(network)
}

/// Where Services get their cluster addresses. Before Kubernetes 1.33 the API does not tell; one such address is known.
async fn service_ranges(client: &Client) -> kube::Result<Vec<(AddressRange, String)>> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("networking.k8s.io", "v1", "ServiceCIDR"));
    let ranges =
        match Api::<DynamicObject>::all_with(client.clone(), &kind).list(&ListParams::default()).await {
            Ok(list) => list.items,
            Err(kube::Error::Api(status)) if status.code == 404 => return one_cluster_address(client).await,
            Err(error) => return Err(error),
        };
    let texts = ranges.iter().flat_map(|range| range.data["spec"]["cidrs"].as_array().into_iter().flatten());
    let ranges = texts.filter_map(|text| text.as_str()?.parse().ok());
    Ok(ranges.map(|range| (range, "cluster addresses of Services".to_owned())).collect())
}

async fn one_cluster_address(client: &Client) -> kube::Result<Vec<(AddressRange, String)>> {
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    let found = api.list(&ListParams::default().fields("metadata.name=kubernetes")).await?.items;
    let addresses = found.iter().filter_map(|service| service.spec.as_ref()?.cluster_ips.as_ref()).flatten();
    let addresses = addresses.filter_map(|text| text.parse::<IpAddr>().ok());
    let what = "cluster address of Service default/kubernetes";
    Ok(addresses.map(|address| (AddressRange::from(address), what.to_owned())).collect())
}
