//! IP failover that nothing looks after but a pod of its own: found where the API server selects it, and told in an Event.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, ListParams};
use metallb_e2e::plane::{
    NAMESPACE,
    objects::{api, create},
};
use serde_json::{Value, json};

use crate::fixture::{METALLB, Scene, until};

/// A pod on the host's network that runs under `account` with `labels`.
async fn pod(scene: &Scene, namespace: &str, name: &str, account: &str, labels: &Value) -> Result<()> {
    let spec = json!({"serviceAccountName": account, "automountServiceAccountToken": false, "hostNetwork": true,
                      "containers": [{"name": "keepalived", "image": "registry.example/keepalived:1"}]});
    create(
        &scene.client,
        "v1",
        "Pod",
        namespace,
        json!({"metadata": {"name": name, "labels": labels}, "spec": spec}),
    )
    .await
}

async fn namespace(scene: &Scene, name: &str, accounts: &[&str]) -> Result<()> {
    create(&scene.client, "v1", "Namespace", "", json!({"metadata": {"name": name}})).await?;
    for account in accounts {
        create(&scene.client, "v1", "ServiceAccount", name, json!({"metadata": {"name": account}})).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_without_an_owner_are_found_and_the_last_to_go_lets_the_installation_begin() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    scene.admissions().await?;
    namespace(&scene, "ha", &["ipfailover", "other"]).await?;
    namespace(&scene, "openshift-kni-infra", &["ipfailover"]).await?;
    pod(&scene, "ha", "by-label", "other", &json!({"ipfailover": "x"})).await?;
    pod(&scene, "ha", "by-account", "ipfailover", &json!({})).await?;
    pod(&scene, "ha", "another", "other", &json!({"app": "x"})).await?;
    // The cluster's own, which holds the addresses of the API.
    pod(&scene, "openshift-kni-infra", "keepalived-node1", "ipfailover", &json!({"ipfailover": "x"})).await?;
    let config = scene.plane.operator_config();
    scene.operate(&config)?;
    create(&scene.client, METALLB, "MetalLB", NAMESPACE, json!({"metadata": {"name": "metallb"}})).await?;
    let found = ["Pod ha/by-label (label ipfailover)", "Pod ha/by-account (service account ipfailover)"];
    let named = |degraded: &Value| {
        let message = degraded["message"].as_str().unwrap_or_default();
        degraded["reason"] == "IPFailoverPresent" && found.iter().all(|found| message.contains(found))
    };
    let (_, message) = scene.degraded(named).await?;
    ensure!(!message.contains("another") && !message.contains("keepalived-node1"), "{message}");
    let events = api(&scene.client, "events.k8s.io/v1", "Event", NAMESPACE);
    let look = async || events.list(&ListParams::default()).await;
    let told =
        until(look, |list| list.iter().any(|event| event.data["reason"] == "IPFailoverPresent")).await?;
    let told = told.iter().find(|event| event.data["reason"] == "IPFailoverPresent");
    ensure!(told.is_some_and(|event| event.data["type"] == "Warning"), "{told:?}");

    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    api(&scene.client, "v1", "Pod", "ha").delete("by-label", &now).await?;
    scene.degraded(|degraded| !degraded["message"].as_str().unwrap_or_default().contains("by-label")).await?;
    let workloads = api(&scene.client, "apps/v1", "DaemonSet", NAMESPACE);
    ensure!(workloads.get_opt("speaker").await?.is_none(), "one is left");
    api(&scene.client, "v1", "Pod", "ha").delete("by-account", &now).await?;
    let gone = Instant::now();
    scene.find("apps/v1", "DaemonSet", "speaker", |_| true).await?;
    println!("installed {} ms after the last went", gone.elapsed().as_millis());
    ensure!(gone.elapsed() < Duration::from_secs(2), "{:?}", gone.elapsed());
    scene.stop().await
}
