//! Reading from the API server, page by page.

use std::fmt::Debug;

use anyhow::Context;
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::core::v1::{Node, Pod},
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams, core::PartialObjectMeta};
use metallb_api::names::{APP, SPEAKER};
use metallb_core::{allocator::PoolEditPolicy, selector::Labels};
use serde::de::DeserializeOwned;

use super::Configuration;

/// Objects that are asked for at one time.
const PAGE: u32 = 500;

/// Where to look.
pub(crate) struct Cluster {
    /// Access to it.
    pub(crate) client: Client,
    /// Namespace of the load balancer and its configuration.
    pub(crate) namespace: String,
}

/// What the load balancer was told about Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Class of the Services that are served; `None` for those without one.
    pub(crate) class: Option<String>,
    /// What happens to an address whose pool goes.
    pub(crate) policy: PoolEditPolicy,
    /// Whether nodes that are excluded from load balancing announce all the same.
    pub(crate) ignore_exclude_label: bool,
}

/// What can be listed.
pub(crate) trait Object: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned {}

impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned> Object for K {}

impl Cluster {
    /// Objects with these labels in the load balancer's namespace.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn own<K>(&self, labels: &str) -> anyhow::Result<Vec<K>>
    where
        K: Object + Resource<Scope = NamespaceResourceScope>,
    {
        list(Api::namespaced(self.client.clone(), &self.namespace), labels).await
    }

    /// Objects in `namespace`, or in all of them.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn within<K>(&self, namespace: Option<&str>) -> anyhow::Result<Vec<K>>
    where
        K: Object + Resource<Scope = NamespaceResourceScope>,
    {
        let api = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        list(api, "").await
    }

    /// Objects that are in no namespace.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn everywhere<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Object + Resource<Scope = ClusterResourceScope>,
    {
        list(Api::all(self.client.clone()), "").await
    }

    /// Names and labels of objects that are in no namespace.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn labels<K>(&self) -> anyhow::Result<Vec<(String, Labels)>>
    where
        K: Object + Resource<Scope = ClusterResourceScope>,
    {
        let all = list(Api::<PartialObjectMeta<K>>::all(self.client.clone()), "").await?;
        Ok(all
            .into_iter()
            .map(|object| (object.name_any(), object.metadata.labels.as_ref().into()))
            .collect())
    }

    /// The whole configuration.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(crate) async fn configuration(&self) -> anyhow::Result<Configuration> {
        Ok(Configuration {
            pools: self.own("").await?,
            made: Vec::new(),
            l2_advertisements: self.own("").await?,
            bgp_advertisements: self.own("").await?,
            bgp_peers: self.own("").await?,
            bfd_profiles: self.own("").await?,
            communities: self.own("").await?,
        })
    }

    /// The pods of the speakers.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn speakers(&self) -> anyhow::Result<Vec<Pod>> {
        self.own(&format!("app={APP},component={SPEAKER}")).await
    }

    /// The nodes.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub(crate) async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        self.everywhere().await
    }
}

async fn list<K: Object>(api: Api<K>, labels: &str) -> anyhow::Result<Vec<K>> {
    let mut params = ListParams::default().limit(PAGE).labels(labels);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await.with_context(|| format!("cannot list {}", K::plural(&())))?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}
