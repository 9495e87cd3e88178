//! The load: Services made and deleted as fast as the API server takes them, and when each got its address.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::ApiResource,
    runtime::watcher::{self, Event, watcher},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::NAMESPACE;

/// Requests of the generator that are under way at one time.
const PARALLEL: usize = 16;
/// The namespace of the Services.
const SERVICES: &str = "default";

/// When each Service was first seen with an address.
#[derive(Clone, Default)]
struct Sightings(Arc<Mutex<BTreeMap<String, Instant>>>);

/// Makes load and watches what comes of it.
pub struct Load {
    client: Client,
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
    pub fn new(client: Client) -> Self {
        let seen = Sightings::default();
        let (turn, turned) = watch::channel(0);
        let (api, sightings) = (Api::<Service>::namespaced(client.clone(), SERVICES), seen.clone());
        let watching = tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                let mut seen = sightings.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                match event {
                    Ok(Event::Apply(service) | Event::InitApply(service)) => {
                        if has_address(&service) {
                            seen.entry(service.name_any()).or_insert_with(Instant::now);
                        }
                    }
                    Ok(Event::Delete(service)) => {
                        seen.remove(&service.name_any());
                    }
                    Ok(Event::Init | Event::InitDone) | Err(_) => {}
                }
                drop(seen);
                turn.send_modify(|turns| *turns += 1);
            }
        });
        Self { client, seen, turned, watching }
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), SERVICES)
    }

    /// Makes or changes an IPAddressPool.
    pub async fn pool(&self, name: &str, spec: &Value) -> Result<()> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("metallb.io", "v1beta1", "IPAddressPool"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), NAMESPACE, &kind);
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": name }, "spec": spec,
        });
        api.patch(name, &PatchParams::apply("bench").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Creates the Services `PREFIX-N` with N in `numbers`; returns when the API server had taken each.
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
                    let service = service(&name)?;
                    api.create(&PostParams::default(), &service).await.with_context(|| name.clone())?;
                    anyhow::Ok((name, Instant::now()))
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Deletes the Services with these names.
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
    pub fn addressed(&self) -> usize {
        self.seen.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len()
    }

    /// Waits until all of `names` have an address; returns when each was first seen with one.
    pub async fn wait_for(
        &self,
        names: &BTreeSet<String>,
        limit: Duration,
    ) -> Result<BTreeMap<String, Instant>> {
        let all = self.wait(limit, |seen| names.iter().all(|name| seen.contains_key(name))).await?;
        Ok(all.into_iter().filter(|(name, _)| names.contains(name)).collect())
    }

    /// Waits until `count` Services have an address; returns when each was first seen with one.
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
                let seen = self.seen.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if done(&seen) {
                    return Ok(seen.clone());
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

fn has_address(service: &Service) -> bool {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.and_then(|status| status.ingress.as_ref()).is_some_and(|ingress| !ingress.is_empty())
}

/// A Service without pods and without node ports: nothing but its address costs anything.
fn service(name: &str) -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{ "port": 80, "protocol": "TCP" }],
        },
    }))?)
}
