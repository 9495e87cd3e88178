//! The load: Services made and deleted as fast as the API server takes them, and when each got its address.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::ApiResource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::NAMESPACE;

/// Requests of the generator that are under way at one time.
const PARALLEL: usize = 16;
/// The namespace of the Services.
const SERVICES: &str = "default";

/// Between two attempts to watch while the API server is away. The usual pauses grow to half a minute, and what comes
/// meanwhile would be seen that much too late.
struct Pause;

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {}
}

/// What was seen of the Services that have an address.
#[derive(Clone, Default)]
struct Sightings(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// When each was first seen with one.
    first: BTreeMap<String, Instant>,
    /// What each shows.
    shown: BTreeMap<String, Vec<String>>,
    /// Services that showed one address and then another or none, in words.
    changes: Vec<String>,
}

impl Seen {
    fn note(&mut self, service: &Service) {
        let (name, now) = (service.name_any(), addresses(service));
        let before = self.shown.get(&name).cloned().unwrap_or_default();
        if !before.is_empty() && before != now {
            self.changes.push(format!("{name} showed {before:?} and then {now:?}"));
        }
        if !now.is_empty() {
            self.first.entry(name.clone()).or_insert_with(Instant::now);
            self.shown.insert(name, now);
        }
    }

    fn forget(&mut self, name: &str) {
        self.first.remove(name);
        self.shown.remove(name);
    }
}

impl Sightings {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes load and watches what comes of it.
pub struct Load {
    client: Client,
    /// The IP families of the Services; none leaves them to the API server.
    families: Vec<&'static str>,
    seen: Sightings,
    /// Turns with each change of a Service.
    turned: watch::Receiver<u64>,
    watching: tokio::task::JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Load {
    /// Watches Services from now on.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let seen = Sightings::default();
        let (turn, turned) = watch::channel(0);
        let (api, sightings) = (Api::<Service>::namespaced(client.clone(), SERVICES), seen.clone());
        let watching = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).backoff(Pause).boxed();
            while let Some(event) = events.next().await {
                let mut seen = sightings.lock();
                match event {
                    Ok(Event::Apply(service) | Event::InitApply(service)) => seen.note(&service),
                    Ok(Event::Delete(service)) => seen.forget(&service.name_any()),
                    Ok(Event::Init | Event::InitDone) | Err(_) => {}
                }
                drop(seen);
                turn.send_modify(|turns| *turns += 1);
            }
        });
        Self { client, families: Vec::new(), seen, turned, watching }
    }

    /// Asks for these IP families, `IPv4` or `IPv6`, in each Service that is made from now on.
    #[must_use]
    pub fn of_families(mut self, families: &[&'static str]) -> Self {
        self.families = families.to_vec();
        self
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), SERVICES)
    }

    /// Makes or changes an IPAddressPool.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn pool(&self, name: &str, spec: &Value) -> Result<()> {
        self.configure("IPAddressPool", name, spec).await
    }

    /// Makes or changes an object of the configuration, of a `kind` of metallb.io/v1beta1.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn configure(&self, kind: &str, name: &str, spec: &Value) -> Result<()> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("metallb.io", "v1beta1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), NAMESPACE, &resource);
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": { "name": name }, "spec": spec,
        });
        api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Makes or changes IPAddressPools by name and `spec`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn pools(&self, pools: Vec<(String, Value)>) -> Result<()> {
        stream::iter(pools)
            .map(|(name, spec)| async move { self.pool(&name, &spec).await })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Creates the Services `PREFIX-N` with N in `numbers`; returns when the API server had taken each.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create(
        &self,
        prefix: &str,
        numbers: std::ops::Range<usize>,
    ) -> Result<BTreeMap<String, Instant>> {
        let api = self.services();
        stream::iter(numbers)
            .map(|number| {
                let (api, name) = (api.clone(), format!("{prefix}-{number}"));
                async move {
                    let service = service(&name, &self.families)?;
                    api.create(&PostParams::default(), &service).await.with_context(|| name.clone())?;
                    anyhow::Ok((name, Instant::now()))
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Deletes the Services with these names.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, names: Vec<String>) -> Result<()> {
        let api = self.services();
        stream::iter(names)
            .map(|name| {
                let api = api.clone();
                async move { api.delete(&name, &DeleteParams::default()).await.map(drop) }
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    /// How many Services have an address now.
    #[must_use]
    pub fn addressed(&self) -> usize {
        self.seen.lock().first.len()
    }

    /// What each Service with an address shows.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<String, Vec<String>> {
        self.seen.lock().shown.clone()
    }

    /// What no Service may ever show, in words: an address of another, or another than before.
    #[must_use]
    pub fn surprises(&self) -> Vec<String> {
        let seen = self.seen.lock();
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        let mut surprises = seen.changes.clone();
        for (service, addresses) in &seen.shown {
            for address in addresses {
                if let Some(other) = owners.insert(address, service) {
                    surprises.push(format!("{address} is shown by {other} and {service}"));
                }
            }
        }
        surprises
    }

    /// Waits until all of `names` have an address; returns when each was first seen with one.
    ///
    /// # Errors
    /// When `limit` passes first, with how many have one.
    pub async fn wait_for(
        &self,
        names: &BTreeSet<String>,
        limit: Duration,
    ) -> Result<BTreeMap<String, Instant>> {
        let all = self.wait(limit, |seen| names.iter().all(|name| seen.contains_key(name))).await?;
        Ok(all.into_iter().filter(|(name, _)| names.contains(name)).collect())
    }

    /// Waits until `count` Services have an address; returns when each was first seen with one.
    ///
    /// # Errors
    /// When `limit` passes first, with how many have one.
    pub async fn wait_for_count(&self, count: usize, limit: Duration) -> Result<BTreeMap<String, Instant>> {
        self.wait(limit, |seen| seen.len() >= count).await
    }

    async fn wait(
        &self,
        limit: Duration,
        done: impl Fn(&BTreeMap<String, Instant>) -> bool,
    ) -> Result<BTreeMap<String, Instant>> {
        let mut turned = self.turned.clone();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            {
                let seen = self.seen.lock();
                if done(&seen.first) {
                    return Ok(seen.first.clone());
                }
            }
            tokio::select! {
                turned = turned.changed() => turned?,
                () = tokio::time::sleep_until(deadline) => {
                    bail!("after {} s {} Services have an address", limit.as_secs(), self.addressed());
                }
            }
            // Many changes are looked at together: looking costs time that the measured program could use.
            tokio::time::sleep(Duration::from_millis(1)).await;
            turned.borrow_and_update();
        }
    }
}

/// The addresses that a Service shows.
#[must_use]
pub fn addresses(service: &Service) -> Vec<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|entry| entry.ip.clone()).collect()
}

/// A Service without pods and without node ports: nothing but its address costs anything.
fn service(name: &str, families: &[&str]) -> Result<Service> {
    let mut service = json!({
        "metadata": { "name": name, "labels": { "bench": "load" } },
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{ "port": 80, "protocol": "TCP" }],
        },
    });
    if !families.is_empty() {
        service["spec"]["ipFamilies"] = json!(families);
    }
    Ok(serde_json::from_value(service)?)
}
