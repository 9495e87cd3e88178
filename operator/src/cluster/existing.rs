//! What admission has to know of the cluster, read anew for each request: two objects that are written one after the
//! other are judged in the light of each other.

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Resource,
    api::ListParams,
    core::{DynamicObject, NamespaceResourceScope},
};
use serde::de::DeserializeOwned;

use super::set_type;
use crate::{admission::Existing, settings::Settings};

/// Reads the objects of metallb.io and, if `services`, the Services of type LoadBalancer.
///
/// # Errors
/// When the API server does not answer or refuses.
pub async fn existing(client: &Client, settings: &Settings, services: bool) -> kube::Result<Existing> {
    let (pools, l2_advertisements, bgp_advertisements, bgp_peers, bfd_profiles, communities, services) = tokio::try_join!(
        list(client, settings),
        list(client, settings),
        list(client, settings),
        list(client, settings),
        list(client, settings),
        list(client, settings),
        load_balancers(client, services),
    )?;
    Ok(Existing {
        pools,
        l2_advertisements,
        bgp_advertisements,
        bgp_peers,
        bfd_profiles,
        communities,
        services,
    })
}

/// Objects that cannot be read are left out: they have no effect either.
async fn list<K>(client: &Client, settings: &Settings) -> kube::Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let resource = kube::core::ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &settings.namespace, &resource);
    let objects = api.list(&ListParams::default()).await?.items.into_iter();
    let typed = objects.filter_map(|mut object| {
        set_type(&mut object, &resource);
        object.try_parse().ok()
    });
    Ok(typed.collect())
}

async fn load_balancers(client: &Client, wanted: bool) -> kube::Result<Vec<Service>> {
    if !wanted {
        return Ok(Vec::new());
    }
    let api: Api<Service> = Api::all(client.clone());
    Ok(api.list(&ListParams::default().fields("spec.type=LoadBalancer")).await?.items)
}
