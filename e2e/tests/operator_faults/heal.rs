//! What somebody changes is put back, whatever kind it is; who never stops is named; a key that is replaced while no operator
//! runs cuts nobody off.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use metallb_e2e::plane::{
    NAMESPACE,
    objects::{api, create},
};
use serde_json::{Value, json};

use crate::{
    fixture::{ADMISSION, ADMISSIONS, METALLB, Scene, until, whole},
    needs::define,
};

const MONITORING: &str = "monitoring.coreos.com/v1";
/// The goal for a repair.
const LIMIT: Duration = Duration::from_secs(1);

/// Edits an object and then deletes it; each time it is as before within the goal.
async fn is_restored(scene: &Scene, version: &str, kind: &str, name: &str, edit: &Value) -> Result<()> {
    let objects = api(&scene.client, version, kind, NAMESPACE);
    let before = scene.find(version, kind, name, |_| true).await?;
    let same = |object: &DynamicObject| {
        object.data["spec"] == before.data["spec"] && object.metadata.labels == before.metadata.labels
    };
    objects.patch(name, &PatchParams::default(), &Patch::Merge(edit)).await?;
    let edited = Instant::now();
    scene.find(version, kind, name, same).await?;
    let edited = edited.elapsed();
    let deleted = Instant::now();
    scene.repaired(version, kind, name).await?;
    println!("{kind} {name}: {} ms, {} ms", edited.as_millis(), deleted.elapsed().as_millis());
    ensure!(
        edited < LIMIT && deleted.elapsed() < LIMIT,
        "{kind} {name}: {edited:?}, {:?}",
        deleted.elapsed()
    );
    // What the Service got of the API server, such as addresses, is not compared.
    scene.find(version, kind, name, |object| object.metadata.labels == before.metadata.labels).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_services_and_alerts_are_put_back_within_a_second() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    for (kind, plural) in [
        ("ServiceMonitor", "servicemonitors"),
        ("PodMonitor", "podmonitors"),
        ("PrometheusRule", "prometheusrules"),
    ] {
        define(&scene, "monitoring.coreos.com", "v1", kind, plural, "Namespaced").await?;
    }
    scene.admissions().await?;
    let config = scene.plane.operator_config();
    scene.operate(&config)?;
    scene.install(&json!({"monitoring": {"monitors": "ServiceMonitor"}})).await?;
    let relabel = json!({"metadata": {"labels": {"app": "other"}}});
    is_restored(&scene, "v1", "Secret", TOKEN, &relabel).await?;
    fill_token(&scene).await?;
    let endpoints = json!({"spec": {"endpoints": []}});
    for name in ["controller-monitor", "speaker-monitor"] {
        is_restored(&scene, MONITORING, "ServiceMonitor", name, &endpoints).await?;
        let service = format!("{name}-service");
        is_restored(
            &scene,
            "v1",
            "Service",
            &service,
            &json!({"spec": {"selector": {"component": "other"}}}),
        )
        .await?;
        is_restored(&scene, "v1", "Service", &service, &relabel).await?;
    }
    let rules = api(&scene.client, MONITORING, "PrometheusRule", NAMESPACE);
    let look = async || rules.list(&ListParams::default()).await;
    let found = until(look, |list| !list.items.is_empty()).await?.items.remove(0);
    let rule = found.metadata.name.context("a name")?;
    is_restored(&scene, MONITORING, "PrometheusRule", &rule, &json!({"spec": {"groups": []}})).await?;

    scene.merge("MetalLB", "metallb", &json!({"spec": {"monitoring": {"monitors": "PodMonitor"}}})).await?;
    let monitors = api(&scene.client, MONITORING, "PodMonitor", NAMESPACE);
    let look = async || monitors.list(&ListParams::default()).await;
    let found = until(look, |list| list.items.len() >= 2).await?.items;
    for monitor in found {
        let name = monitor.metadata.name.context("a name")?;
        let edit = json!({"spec": {"podMetricsEndpoints": []}});
        is_restored(&scene, MONITORING, "PodMonitor", &name, &edit).await?;
    }
    let services = api(&scene.client, MONITORING, "ServiceMonitor", NAMESPACE);
    let look = async || services.list(&ListParams::default()).await;
    until(look, |list| {
        !list.items.iter().any(|object| object.metadata.name.as_deref() == Some("speaker-monitor"))
    })
    .await?;
    scene.stop().await
}

/// Changes an object whenever it is as the operator wants it, until `work` is done.
pub(crate) async fn against(
    scene: &Scene,
    (version, kind, namespace, name): (&str, &str, &str, &str),
    is_right: impl Fn(&DynamicObject) -> bool,
    patch: &Value,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let objects = api(&scene.client, version, kind, namespace);
    let rival = async {
        let params = PatchParams::apply("rival").force();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for _ in 0_u64.. {
            pace.tick().await;
            if is_right(&objects.get(name).await?) {
                objects.patch(name, &params, &Patch::Apply(patch)).await?;
            }
        }
        anyhow::Ok(())
    };
    tokio::select! { result = work => result, result = rival => result }
}

/// Waits until the quarrel is named, and asserts that it is not taken part in at the rival's pace.
pub(crate) async fn backs_off(scene: &Scene, texts: &[&str], writes: &str) -> Result<()> {
    let named = |degraded: &Value| {
        let message = degraded["message"].as_str().unwrap_or_default();
        degraded["reason"] == "Contested" && texts.iter().all(|text| message.contains(text))
    };
    let (_, message) = scene.degraded(named).await?;
    println!("{message}");
    let (_, from) = scene.plane.requests(0);
    let look = async || Ok::<_, anyhow::Error>(scene.plane.requests(from).0);
    let renewed =
        |requests: &BTreeMap<String, usize>| requests.get("update leases").is_some_and(|count| *count >= 2);
    let requests = until(look, renewed).await?;
    let count = requests.get(writes).copied().unwrap_or_default();
    ensure!(count <= 4, "{count} writes: {requests:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_the_secret_or_the_bundles_again_and_again_is_named() -> Result<()> {
    let mut scene = Scene::installed().await?;
    let version = |object: &DynamicObject| {
        object.metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/version")).cloned()
    };
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
                        "metadata": {"labels": {"app.kubernetes.io/version": "rival"}}});
    let is_right = |object: &DynamicObject| version(object).as_deref() != Some("rival");
    let key = scene.find("v1", "Secret", "metallb-memberlist", |_| true).await?.data["data"].clone();
    let texts = [
        "Secret metallb-system/metallb-memberlist: metadata.labels",
        "is \"rival\" instead of",
        "set by rival",
    ];
    let of = ("v1", "Secret", NAMESPACE, "metallb-memberlist");
    against(&scene, of, is_right, &secret, backs_off(&scene, &texts, "patch secrets")).await?;
    let object = scene.find("v1", "Secret", "metallb-memberlist", is_right).await?;
    ensure!(object.data["data"] == key, "the key was changed");

    let rules = json!([{"apiGroups": ["metallb.io"], "apiVersions": ["v1beta1"], "operations": ["CREATE"],
                        "resources": ["communities"]}]);
    let service = json!({"name": "metallb-operator-webhook-service", "namespace": NAMESPACE, "path": "/v"});
    let webhook = json!({"name": "v.metallb.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                         "clientConfig": {"service": service}, "rules": rules});
    let admissions = api(&scene.client, ADMISSION.0, ADMISSION.1, "");
    let ask = json!({"webhooks": [webhook]});
    admissions.patch(ADMISSIONS[1], &PatchParams::default(), &Patch::Merge(&ask)).await?;
    let bundle = |object: &DynamicObject| object.data["webhooks"][0]["clientConfig"]["caBundle"].clone();
    let ours = async || admissions.get(ADMISSIONS[1]).await;
    let found = until(ours, |object| bundle(object).is_string()).await?;
    let theirs = json!({"apiVersion": ADMISSION.0, "kind": ADMISSION.1, "webhooks": [
        {"name": "v.metallb.io", "clientConfig": {"caBundle": bundle_of_another()}}]});
    let is_right = |object: &DynamicObject| bundle(object) == bundle(&found);
    let texts = ["ValidatingWebhookConfiguration metallb-webhook-configuration", "caBundle", "set by rival"];
    let of = (ADMISSION.0, ADMISSION.1, "", ADMISSIONS[1]);
    let writes = "patch validatingwebhookconfigurations";
    against(&scene, of, is_right, &theirs, backs_off(&scene, &texts, writes)).await?;
    until(async || admissions.get(ADMISSIONS[1]).await, is_right).await?;
    scene.stop().await
}

/// The API server takes what is a certificate only.
fn bundle_of_another() -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    json!(ByteString(authority.pem().into_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_replaced_while_no_operator_runs_stands_beside_the_one_before_it() -> Result<()> {
    let mut scene = Scene::installed().await?;
    let keys = |object: &DynamicObject| {
        let data = &object.data["data"];
        (data["secretkey"].clone(), data["secretkey-previous"].clone())
    };
    let secret =
        scene.find("v1", "Secret", "metallb-memberlist", |object| keys(object).1.is_string()).await?;
    let (before, beside) = keys(&secret);
    ensure!(before == beside, "at rest there is one key");
    scene.stop().await?;
    let secrets = api(&scene.client, "v1", "Secret", NAMESPACE);
    let edit = json!({"stringData": {"secretkey": "another"}});
    let edited = secrets.patch("metallb-memberlist", &PatchParams::default(), &Patch::Merge(&edit)).await?;
    let both = (json!("YW5vdGhlcg=="), before);
    ensure!(keys(&edited) == both, "whoever reads it has both at once: {:?}", keys(&edited));

    let config = scene.plane.subject_config();
    scene.operate(&config)?;
    // It acts, and leaves them as they are.
    scene.repaired("v1", "ConfigMap", "metallb-excludel2").await?;
    scene.recovers().await?;
    ensure!(keys(&secrets.get("metallb-memberlist").await?) == both);
    scene.is_at_rest().await?;
    scene.stop().await
}

/// Secret with the token that monitors name.
const TOKEN: &str = "metallb-metrics-token";

/// The monitors wait for the token that they name, which nobody here but the test makes.
async fn fill_token(scene: &Scene) -> Result<()> {
    let filled = Patch::Merge(json!({"data": {"token": ByteString(b"token".to_vec())}}));
    api(&scene.client, "v1", "Secret", NAMESPACE).patch(TOKEN, &PatchParams::default(), &filled).await?;
    Ok(())
}

/// Definitions, rights and what users made stay; the rest goes with the resource, which the garbage collector sees to: so
/// each object has to say that it is the resource's.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_operator_made_of_the_resource_says_that_it_is_the_resources() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    define(&scene, "monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", "Namespaced").await?;
    let kinds = [
        ("v1", "Secret"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "DaemonSet"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        (MONITORING, "ServiceMonitor"),
    ];
    create(&scene.client, "v1", "ConfigMap", NAMESPACE, json!({"metadata": {"name": "of-a-user"}})).await?;
    scene.admissions().await?;
    let config = scene.plane.subject_config();
    scene.operate(&config)?;
    scene.install(&json!({"monitoring": {"monitors": "ServiceMonitor"}})).await?;
    scene.find("v1", "Secret", TOKEN, |_| true).await?;
    fill_token(&scene).await?;
    scene.find(MONITORING, "ServiceMonitor", "speaker-monitor", |_| true).await?;
    scene.recovers().await?;
    let resource =
        scene.find(METALLB, "MetalLB", "metallb", |object| !whole(object, "Degraded").is_null()).await?;
    let mut seen = 0;
    // The certificate of the webhooks judges what there is without the resource, too.
    let stays = ["of-a-user", "metallb-operator-webhook-server-cert"];
    for (version, kind) in kinds {
        let all = api(&scene.client, version, kind, NAMESPACE).list(&ListParams::default()).await?;
        for object in all.items {
            let name = object.metadata.name.clone().unwrap_or_default();
            let owners = object.metadata.owner_references.unwrap_or_default();
            let is_owned = owners.iter().any(|owner| Some(&owner.uid) == resource.metadata.uid.as_ref());
            ensure!(is_owned != stays.contains(&name.as_str()), "{kind} {name}: {owners:?}");
            seen += usize::from(is_owned);
        }
    }
    ensure!(seen >= 9, "only {seen} objects were seen");
    scene.stop().await
}
