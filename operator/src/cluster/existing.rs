//! What admission has to know of the cluster, read anew for each request: two objects that are written one after the
//! other are judged in the light of each other.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind, NamespaceResourceScope},
};
use metallb_core::range::AddressRange;
use serde::de::DeserializeOwned;

use super::set_type;
use crate::{
    admission::{Existing, Network},
    settings::Settings,
};

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
    tokio::try_join!(
        read(client, settings, &mut existing.pools),
        read(client, settings, &mut existing.l2_advertisements),
        read(client, settings, &mut existing.bgp_advertisements),
        read(client, settings, &mut existing.bgp_peers),
        read(client, settings, &mut existing.bfd_profiles),
        read(client, settings, &mut existing.communities),
        read(client, settings, &mut existing.address_pools),
        async {
            existing.services = load_balancers(client, scope.services).await?;
            Ok(())
        },
        async {
            existing.network = network(client, scope.network).await?;
            Ok(())
        },
    )?;
    Ok(existing)
}

/// Reads all of a kind into `found`. Objects that cannot be read are left out: they have no effect either.
async fn read<K>(client: &Client, settings: &Settings, found: &mut Vec<K>) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &settings.namespace, &resource);
    let objects = api.list(&ListParams::default()).await?.items.into_iter();
    found.extend(objects.filter_map(|mut object| {
        set_type(&mut object, &resource);
        object.try_parse().ok()
    }));
    Ok(())
}

async fn load_balancers(client: &Client, wanted: bool) -> kube::Result<Vec<Service>> {
    if !wanted {
        return Ok(Vec::new());
    }
    let api: Api<Service> = Api::all(client.clone());
    Ok(api.list(&ListParams::default().fields("spec.type=LoadBalancer")).await?.items)
}

async fn network(client: &Client, wanted: bool) -> kube::Result<Network> {
    if !wanted {
        return Ok(Network::default());
    }
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    let mut network = Network::default();
    for node in &nodes {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let addresses = addresses.filter_map(|address| address.address.parse().ok());
        network.nodes.extend(addresses.map(|address| (address, node.name_any())));
        let ranges = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
        let ranges = ranges.filter_map(|range| range.parse().ok());
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
