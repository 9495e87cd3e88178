//! Questions that the program answers and ends: why a Service has the address that it has, whether files hold a good
//! configuration, and what they would change.
//!
//! Nothing is written to the cluster, and what is told is found by the very decisions that a controller takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams, core::PartialObjectMeta};
use metallb_api::{
    BGPAdvertisement, Community, IPAddressPool, L2Advertisement, ServiceBGPStatus, ServiceL2Status,
    names::{APP, LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE, MEMBERLIST_PORT, SPEAKER},
};
use metallb_core::{
    allocator::{Allocator, PoolEditPolicy},
    announced::{Announcers, judge},
    claim::ServiceFacts,
    config::{Config, Objects, parse},
    plan::{Verdict, World, plan},
    preview::{Present, preview},
    selector::Labels,
    served::serve,
    service::ServiceKey,
};
use serde::de::DeserializeOwned;

use super::manifests::Manifests;
use crate::speaker::facts;

/// Objects that are asked for at one time.
const PAGE: u32 = 500;

/// Where to look, and on what terms.
pub(super) struct Place {
    /// Access to the cluster.
    pub(super) client: Client,
    /// Namespace of the configuration.
    pub(super) namespace: String,
    /// Class of the Services; `None` for those without one.
    pub(super) class: Option<String>,
    /// What happens to an address whose pool goes.
    pub(super) policy: PoolEditPolicy,
}

/// Judges the files at `path`; `false` when something is wrong with them.
///
/// # Errors
/// When they cannot be read.
pub(super) fn check(path: &Path) -> anyhow::Result<bool> {
    let manifests = Manifests::read(path)?;
    let (_, problems) = parse(&manifests.objects());
    let told = manifests.unreadable.into_iter().chain(problems.iter().map(ToString::to_string));
    let told: Vec<_> = told.inspect(|problem| tell(problem)).collect();
    tell(&format!("{} objects, {} problems", manifests.count, told.len()));
    Ok(told.is_empty())
}

/// Lists the Services that would lose or change their addresses if the files at `path` were applied; `false` when
/// there is one.
///
/// # Errors
/// When the files or the cluster cannot be read.
pub(super) async fn diff(place: &Place, path: &Path) -> anyhow::Result<bool> {
    let manifests = Manifests::read(path)?;
    let live = place.own::<IPAddressPool>().await?;
    let (pools, _) = serve(&live.iter().collect::<Vec<_>>(), &BTreeMap::new());
    let mut applied: BTreeMap<_, _> = live.into_iter().map(|pool| (pool.name_any(), pool)).collect();
    for mut pool in manifests.pools {
        // What is applied over an object keeps its age, by which overlaps are judged.
        pool.metadata.creation_timestamp =
            applied.get(&pool.name_any()).and_then(|live| live.metadata.creation_timestamp.clone());
        applied.insert(pool.name_any(), pool);
    }
    let (after, _) = serve(&applied.values().collect::<Vec<_>>(), &pools);
    let present = Present {
        services: place.services().await?,
        namespaces: place.namespaces().await?,
        pools,
        policy: place.policy,
    };
    let differences = preview(present, after);
    for difference in &differences {
        tell(&difference.to_string());
    }
    let harmed = differences.iter().filter(|difference| !difference.before.is_empty()).count();
    tell(&format!("{harmed} Services would lose or change their address"));
    Ok(harmed == 0)
}

/// Tells all about the address of one Service: `NAMESPACE/NAME`.
///
/// # Errors
/// When there is no such Service, or the cluster cannot be read.
pub(super) async fn explain(place: &Place, service: &str) -> anyhow::Result<()> {
    let Some((namespace, name)) = service.split_once('/') else {
        bail!("--explain: write NAMESPACE/NAME, not {service:?}");
    };
    let services: Api<Service> = Api::namespaced(place.client.clone(), namespace);
    let object = services.get_opt(name).await?.with_context(|| format!("there is no Service {service}"))?;
    let facts = ServiceFacts::of(&object, place.class.as_deref());

    let live = place.own::<IPAddressPool>().await?;
    let (pools, problems) = serve(&live.iter().collect::<Vec<_>>(), &BTreeMap::new());
    let mut allocator = Allocator::new(place.policy);
    allocator.set_pools(pools, Duration::ZERO);
    allocator.set_namespaces(place.namespaces().await?);
    let mut all = place.services().await?;
    all.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    for other in &all {
        if let Err(conflict) = allocator.adopt(other) {
            tell(&format!("{} shows an address that is another's: {conflict}", other.key));
        }
    }
    tell(&format!("Service      {service}"));
    tell(&allocator.explain(&facts).to_string());
    for problem in problems {
        tell(&format!("not served   {problem}"));
    }
    match announcement(place, &object, &live).await {
        Ok(lines) => lines.iter().for_each(|line| tell(line)),
        Err(error) => tell(&format!("announced    cannot be told: {error:#}")),
    }
    Ok(())
}

/// Who should announce the Service, and who does.
async fn announcement(
    place: &Place,
    object: &Service,
    pools: &[IPAddressPool],
) -> anyhow::Result<Vec<String>> {
    let key = ServiceKey::new(&object.namespace().unwrap_or_default(), &object.name_any());
    let labels = format!(
        "{LABEL_STATUS_SERVICE_NAMESPACE}={},{LABEL_STATUS_SERVICE_NAME}={}",
        key.namespace(),
        key.name()
    );
    let on_layer2 = place.labelled::<ServiceL2Status>(&labels).await?;
    let by_bgp = place.labelled::<ServiceBGPStatus>(&labels).await?;
    let by_bgp: Vec<_> = by_bgp.into_iter().filter_map(|status| status.status).collect();
    let told = by_bgp.iter().filter(|status| !status.peers.is_empty());
    let announcers = Announcers {
        layer2: on_layer2.into_iter().filter_map(|status| status.status?.node).collect(),
        bgp: told.filter_map(|status| status.node.clone()).collect(),
    };
    let mut lines = Vec::new();
    match facts::service(object, place.class.as_deref()).service {
        None => lines.push("announced    no: it has no address".to_owned()),
        Some(mut service) => {
            for slice in place.in_namespace::<EndpointSlice>(key.namespace()).await?.iter().map(facts::slice)
            {
                if slice.service == key {
                    service.endpoints.any |= slice.endpoints.any;
                    service.endpoints.nodes.extend(slice.endpoints.nodes);
                }
            }
            let world = world(place, pools, (key.clone(), service.clone())).await?;
            lines.push(match judge(&world, &service, &announcers) {
                Ok(how) => format!("announced    yes: {how}"),
                Err((reason, message)) => format!("announced    no: {}: {message}", reason.as_str()),
            });
            lines.push(format!("layer 2      {}", should(&world, &key)));
        }
    }
    lines.push(format!("             says so: {}", listed(&announcers.layer2)));
    for status in &by_bgp {
        let node = status.node.as_deref().unwrap_or_default();
        lines.push(format!("BGP          node {node} to {}", status.peers.join(", ")));
    }
    Ok(lines)
}

fn listed(nodes: &BTreeSet<String>) -> String {
    if nodes.is_empty() { "nobody".to_owned() } else { nodes.iter().cloned().collect::<Vec<_>>().join(", ") }
}

fn should(world: &World, key: &ServiceKey) -> String {
    // Asked as a node that is none, so that every owner is another.
    match plan(world, "").services.get(key) {
        Some(Verdict::Theirs(node)) => format!("should be announced by {node}"),
        Some(Verdict::Mine(_)) => "should be announced by a node without a name".to_owned(),
        Some(Verdict::Nobody(reason)) => format!("by nobody: {reason}"),
        None => "by nobody".to_owned(),
    }
}

async fn world(
    place: &Place,
    pools: &[IPAddressPool],
    service: (ServiceKey, metallb_core::plan::Service),
) -> anyhow::Result<World> {
    let layer2 = place.own::<L2Advertisement>().await?;
    let bgp = place.own::<BGPAdvertisement>().await?;
    let communities = place.own::<Community>().await?;
    let objects = Objects {
        pools: pools.iter().collect(),
        l2_advertisements: layer2.iter().collect(),
        bgp_advertisements: bgp.iter().collect(),
        communities: communities.iter().collect(),
        ..Objects::default()
    };
    let (config, _): (Config, _) = parse(&objects);
    let nodes = list(Api::<Node>::all(place.client.clone()), "").await?;
    let speakers = place.labelled::<Pod>(&format!("app={APP},component={SPEAKER}")).await?;
    let ready = speakers.iter().filter_map(|pod| facts::speaker(pod, MEMBERLIST_PORT).1);
    Ok(World {
        config,
        services: BTreeMap::from([service]),
        nodes: nodes.iter().map(facts::node).collect(),
        speakers: Some(ready.filter(|seed| seed.ready).map(|seed| seed.node).collect()),
        ignore_exclude_label: false,
    })
}

impl Place {
    async fn own<K>(&self) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        list(Api::namespaced(self.client.clone(), &self.namespace), "").await
    }

    async fn labelled<K>(&self, labels: &str) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        list(Api::namespaced(self.client.clone(), &self.namespace), labels).await
    }

    async fn in_namespace<K>(&self, namespace: &str) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        list(Api::namespaced(self.client.clone(), namespace), "").await
    }

    async fn services(&self) -> anyhow::Result<Vec<ServiceFacts>> {
        let all = list(Api::<Service>::all(self.client.clone()), "").await?;
        Ok(all.iter().map(|service| ServiceFacts::of(service, self.class.as_deref())).collect())
    }

    async fn namespaces(&self) -> anyhow::Result<BTreeMap<String, Labels>> {
        let all = list(Api::<PartialObjectMeta<Namespace>>::all(self.client.clone()), "").await?;
        Ok(all
            .into_iter()
            .map(|namespace| (namespace.name_any(), namespace.metadata.labels.unwrap_or_default()))
            .collect())
    }
}

/// All objects, page by page.
async fn list<K>(api: Api<K>, labels: &str) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
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

/// Says it on standard output, where nothing else of this program goes while it answers.
fn tell(line: &str) {
    println!("{line}");
}
