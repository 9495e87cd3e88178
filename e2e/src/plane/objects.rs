//! Objects of any kind, and many of others.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client,
    api::{DynamicObject, GroupVersionKind, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};

/// Requests that are under way at one time.
const PARALLEL: usize = 32;

/// An API of any kind; cluster-wide when `namespace` is empty.
#[must_use]
pub fn api(client: &Client, version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        "" => Api::all_with(client.clone(), &resource),
        namespace => Api::namespaced_with(client.clone(), namespace, &resource),
    }
}

/// Creates an object.
///
/// # Errors
/// When the API server does not take it.
pub async fn create(
    client: &Client,
    version: &str,
    kind: &str,
    namespace: &str,
    mut object: Value,
) -> Result<()> {
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    let object: DynamicObject = serde_json::from_value(object)?;
    api(client, version, kind, namespace).create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Makes pods, Deployments and Services of others, so many of each.
///
/// # Errors
/// When the API server does not take one.
pub async fn fill(client: &Client, pods: usize, deployments: usize, services: usize) -> Result<()> {
    create(client, "v1", "ServiceAccount", "default", json!({"metadata": {"name": "default"}})).await?;
    let pod = json!({"automountServiceAccountToken": false, "containers": [{
        "name": "app", "image": "registry.example/some/application:1.2.3",
        "env": [{"name": "A", "value": "some value"}, {"name": "B", "value": "another value"}]}]});
    let labels = |at: usize| json!({"app": format!("app-{at}")});
    let all = (0..pods)
        .map(|at| {
            ("v1", "Pod", json!({"metadata": {"name": format!("p{at}"), "labels": labels(at)}, "spec": pod}))
        })
        .chain((0..deployments).map(|at| {
            let template = json!({"metadata": {"labels": labels(at)}, "spec": pod});
            let spec = json!({"selector": {"matchLabels": labels(at)}, "template": template});
            ("apps/v1", "Deployment", json!({"metadata": {"name": format!("d{at}")}, "spec": spec}))
        }))
        .chain((0..services).map(|at| {
            let spec = json!({"selector": labels(at), "ports": [{"port": 80}]});
            ("v1", "Service", json!({"metadata": {"name": format!("s{at}")}, "spec": spec}))
        }));
    stream::iter(all)
        .map(|(version, kind, object)| create(client, version, kind, "default", object))
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await
}
