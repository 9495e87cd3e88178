//! What the Go operator left, of 4.9 and of today, is taken over: object sets that are written from what is known of them,
//! by the same ways of writing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use metallb_e2e::plane::{
    NAMESPACE,
    objects::{api, create},
};
use serde_json::{Value, json};

use crate::{
    fixture::{ADMISSION, ADMISSIONS, METALLB, Scene, until, whole},
    needs::define,
};

const APPS: &str = "apps/v1";
const SERVER: &str = "metallb-operator-webhook-server";
const SERVICE: &str = "metallb-webhook-service";

/// Creates an object as `manager` does, with updates.
async fn update(
    scene: &Scene,
    manager: &str,
    version: &str,
    kind: &str,
    mut object: Value,
) -> Result<DynamicObject> {
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    let object: DynamicObject = serde_json::from_value(object)?;
    let namespace = if kind == ADMISSION.1 { "" } else { NAMESPACE };
    let params = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
    Ok(api(&scene.client, version, kind, namespace).create(&params, &object).await?)
}

/// Applies an object as the Go operator of today does: under the name that this operator has, too.
async fn applied(scene: &Scene, version: &str, kind: &str, mut object: Value) -> Result<DynamicObject> {
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
    let namespace = if kind == ADMISSION.1 { "" } else { NAMESPACE };
    let params = PatchParams::apply("metallb-operator").force();
    Ok(api(&scene.client, version, kind, namespace).patch(&name, &params, &Patch::Apply(&object)).await?)
}

/// The MetalLB resource of the users, as an owner of what was made of it.
async fn resource(scene: &Scene) -> Result<Value> {
    create(&scene.client, METALLB, "MetalLB", NAMESPACE, json!({"metadata": {"name": "metallb"}})).await?;
    let object = scene.find(METALLB, "MetalLB", "metallb", |_| true).await?;
    Ok(json!([{"apiVersion": METALLB, "kind": "MetalLB", "name": "metallb", "uid": object.metadata.uid,
               "controller": true, "blockOwnerDeletion": true}]))
}

async fn adopt(scene: &Scene) -> Result<()> {
    scene
        .merge("MetalLB", "metallb", &json!({"metadata": {"annotations": {"metallb.io/adopt": "true"}}}))
        .await
}

/// A workload whose pods are known by `component`.
fn workload(name: &str, component: &str, labels: &Value, template: &Value, spec: &Value) -> Value {
    let mut pods = labels.clone();
    pods["app"] = "metallb".into();
    pods["component"] = component.into();
    let mut template = json!({"metadata": template, "spec": spec});
    template["metadata"]["labels"] = pods.clone();
    json!({"metadata": {"name": name, "labels": pods}, "spec": {
        "selector": {"matchLabels": {"app": "metallb", "component": component}}, "template": template}})
}

/// What the operator of 4.9 made of the resource, with the Secret that its controller made.
async fn install_4_9(scene: &Scene) -> Result<()> {
    let owner = resource(scene).await?;
    let scraped = json!({"annotations": {"prometheus.io/port": "7472", "prometheus.io/scrape": "true"}});
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let security = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                          "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}});
    let secret = json!({"secretKeyRef": {"name": "memberlist", "key": "secretkey"}});
    let mut speaker = workload(
        "speaker",
        "speaker",
        &json!({}),
        &scraped,
        &json!({
        "serviceAccountName": "speaker", "hostNetwork": true, "terminationGracePeriodSeconds": 2,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"effect": "NoSchedule", "key": "node-role.kubernetes.io/master", "operator": "Exists"}],
        "containers": [{"name": "speaker", "image": "quay.io/openshift/origin-metallb:4.9",
                        "args": ["--port=7472", "--config=config"], "securityContext": security,
                        "env": [field("METALLB_NODE_NAME", "spec.nodeName"), field("METALLB_HOST", "status.hostIP"),
                                field("METALLB_ML_BIND_ADDR", "status.podIP"),
                                {"name": "METALLB_ML_LABELS", "value": "app=metallb,component=speaker"},
                                {"name": "METALLB_ML_SECRET_KEY", "valueFrom": secret}],
                        "ports": [{"name": "monitoring", "containerPort": 7472},
                                  {"name": "memberlist-tcp", "containerPort": 7946},
                                  {"name": "memberlist-udp", "containerPort": 7946, "protocol": "UDP"}]}]}),
    );
    speaker["metadata"]["ownerReferences"] = owner.clone();
    update(scene, "manager", APPS, "DaemonSet", speaker).await?;
    let mut controller = workload(
        "controller",
        "controller",
        &json!({}),
        &scraped,
        &json!({
        "serviceAccountName": "controller", "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65534},
        "containers": [{"name": "controller", "image": "quay.io/openshift/origin-metallb:4.9",
                        "args": ["--port=7472", "--config=config"],
                        "env": [{"name": "METALLB_ML_SECRET_NAME", "value": "memberlist"},
                                {"name": "METALLB_DEPLOYMENT", "value": "controller"}],
                        "ports": [{"name": "monitoring", "containerPort": 7472}]}]}),
    );
    controller["metadata"]["ownerReferences"] = owner;
    controller["spec"]["revisionHistoryLimit"] = json!(3);
    let controller = update(scene, "manager", APPS, "Deployment", controller).await?;
    let owner = json!([{"apiVersion": APPS, "kind": "Deployment", "name": "controller", "uid": controller.metadata.uid}]);
    let secret = json!({"metadata": {"name": "memberlist", "ownerReferences": owner}, "stringData": {"secretkey": "older"}});
    update(scene, "controller", "v1", "Secret", secret).await?;
    let text = "address-pools:\n- name: gold\n  protocol: layer2\n  addresses:\n  - 192.0.2.0-192.0.2.9\n";
    let config = json!({"metadata": {"name": "config"}, "data": {"config": text}});
    update(scene, "manager", "v1", "ConfigMap", config).await?;
    let spec = json!({"protocol": "layer2", "addresses": ["192.0.2.0-192.0.2.9"]});
    let pool = json!({"metadata": {"name": "gold"}, "spec": spec});
    update(scene, "kubectl-client-side-apply", "metallb.io/v1alpha1", "AddressPool", pool).await?;
    Ok(())
}

fn image(object: &DynamicObject) -> &Value {
    &object.data["spec"]["template"]["spec"]["containers"][0]["image"]
}

/// Somebody who manages fields of an object beside the operator, its status left out.
fn others(object: &DynamicObject) -> Vec<String> {
    let entries = object.metadata.managed_fields.iter().flatten().filter(|entry| entry.subresource.is_none());
    let managers = entries.filter_map(|entry| entry.manager.clone());
    managers.filter(|manager| manager != "metallb-operator").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_of_4_9_installed_is_taken_over_and_nothing_of_it_stays_behind() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    scene.admissions().await?;
    install_4_9(&scene).await?;
    let before = scene.find(APPS, "DaemonSet", "speaker", |_| true).await?;
    let config = scene.plane.operator_config();
    scene.operate(&config)?;
    let named = ["Deployment metallb-system/controller", "DaemonSet metallb-system/speaker"];
    scene.names("ForeignLoadBalancer", &named, Duration::from_secs(10)).await?;
    let untouched = scene.find(APPS, "DaemonSet", "speaker", |_| true).await?;
    ensure!(untouched.metadata.generation == before.metadata.generation, "it was changed");

    adopt(&scene).await?;
    let controller =
        scene.find(APPS, "Deployment", "controller", |object| image(object) == "controller:1").await?;
    ensure!(others(&controller).is_empty(), "{:?}", others(&controller));
    let secret = scene.find("v1", "Secret", "metallb-memberlist", |_| true).await?;
    ensure!(secret.data["data"]["secretkey"] == "b2xkZXI=", "the key is kept");
    ensure!(secret.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "MetalLB"));
    let speaker = scene.find(APPS, "DaemonSet", "speaker", |object| image(object) == "speaker:1").await?;
    ensure!(speaker.metadata.uid == before.metadata.uid, "its selector is ours: it need not go");
    ensure!(others(&speaker).is_empty(), "{:?}", others(&speaker));
    let template = &speaker.data["spec"]["template"];
    let text = template.to_string();
    for stale in [
        "--port=7472",
        ":7472",
        "--config",
        "METALLB_ML_SECRET_KEY\"",
        "prometheus.io",
        "monitoring",
        "memberlist-tcp",
    ] {
        ensure!(!text.contains(stale), "{stale} is left: {text}");
    }
    ensure!(template["spec"]["terminationGracePeriodSeconds"] != 2, "{text}");
    ensure!(
        speaker.data["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "100%",
        "all at once"
    );

    // Its pools are served; the ConfigMap that it rendered them to is told of, and left as it is.
    scene.find(METALLB, "IPAddressPool", "gold", |_| true).await?;
    let imported =
        |object: &DynamicObject| whole(object, "LegacyConfigImported")["reason"] == "LegacyConfigFound";
    let object = scene.find(METALLB, "MetalLB", "metallb", imported).await?;
    let message = whole(&object, "LegacyConfigImported")["message"].to_string();
    ensure!(message.contains("all that it says is there already"), "{message}");
    ensure!(others(&scene.find("v1", "ConfigMap", "config", |_| true).await?) == ["manager"]);
    scene.stop().await
}

/// Whom the API server asks about pools.
async fn asked(scene: &Scene) -> Result<Value> {
    let object = api(&scene.client, ADMISSION.0, ADMISSION.1, "").get(ADMISSIONS[1]).await?;
    Ok(object.data["webhooks"][0]["clientConfig"].clone())
}

/// What today's Go operator has: webhooks in a Deployment of their own, frr-k8s, and monitors.
async fn install_main(scene: &Scene) -> Result<()> {
    let owner = resource(scene).await?;
    let labels = json!({"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "metallb-0.0.0"});
    let container = |name: &str| json!({"name": name, "image": format!("quay.io/metallb/{name}:main")});
    let speaker = json!({"serviceAccountName": "speaker", "hostNetwork": true, "shareProcessNamespace": true,
                         "containers": [container("speaker"), container("frr")]});
    let controller = json!({"serviceAccountName": "controller", "containers": [container("controller")]});
    let frr = json!({"hostNetwork": true, "containers": [container("frr")]});
    for (kind, name, component, spec) in [
        ("DaemonSet", "speaker", "speaker", &speaker),
        ("Deployment", "controller", "controller", &controller),
        ("DaemonSet", "frr-k8s", "frr-k8s", &frr),
        ("Deployment", "statuscleaner", "statuscleaner", &frr),
    ] {
        let mut object = workload(name, component, &labels, &json!({}), spec);
        object["metadata"]["ownerReferences"] = owner.clone();
        applied(scene, APPS, kind, object).await?;
    }
    let of_frr = |name: &str| json!({"metadata": {"name": name, "labels": labels, "ownerReferences": owner}});
    let mut startup = of_frr("frr-startup");
    startup["data"] = json!({"daemons": "bgpd=yes"});
    applied(scene, "v1", "ConfigMap", startup).await?;
    let mut service = of_frr("frr-k8s-webhook-service");
    service["spec"] =
        json!({"selector": {"component": "statuscleaner"}, "ports": [{"port": 443, "targetPort": 19443}]});
    applied(scene, "v1", "Service", service).await?;
    // Nobody is asked anything while this runs but about kinds that this test does not write.
    let webhooks = |service: &str, group: &str, resource: &str| {
        let service = json!({"name": service, "namespace": NAMESPACE, "path": "/validate-metallb-io-v1beta1-community"});
        let rules = json!([{"apiGroups": [group], "apiVersions": ["v1beta1"], "operations": ["CREATE"], "resources": [resource]}]);
        json!([{"name": "v.metallb.io", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
                "clientConfig": {"service": service}, "rules": rules}])
    };
    let frr = json!({"metadata": {"name": "frr-k8s-validating-webhook-configuration", "labels": labels},
                     "webhooks": webhooks("frr-k8s-webhook-service", "frrk8s.metallb.io", "frrconfigurations")});
    applied(scene, ADMISSION.0, ADMISSION.1, frr).await?;

    // What its manifests brought.
    let kubectl = "kubectl-client-side-apply";
    for (name, service, resource) in [
        (ADMISSIONS[0], "metallb-operator-webhook-service", "metallbs/status"),
        (ADMISSIONS[1], SERVICE, "communities"),
    ] {
        let object =
            json!({"metadata": {"name": name}, "webhooks": webhooks(service, "metallb.io", resource)});
        update(scene, kubectl, ADMISSION.0, ADMISSION.1, object).await?;
    }
    let service = json!({"metadata": {"name": SERVICE}, "spec": {"selector": {"component": "webhook-server"},
                         "ports": [{"port": 443, "targetPort": 9443}]}});
    update(scene, kubectl, "v1", "Service", service).await?;
    let spec = json!({"serviceAccountName": "controller", "containers": [container("webhook-server")]});
    let server = workload(SERVER, "webhook-server", &json!({}), &json!({}), &spec);
    update(scene, kubectl, APPS, "Deployment", server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_of_the_go_operator_are_taken_over_before_who_answers_them_goes() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    define(&scene, "frrk8s.metallb.io", "v1beta1", "FRRConfiguration", "frrconfigurations", "Namespaced")
        .await?;
    // Somebody else's frr-k8s has objects of the same names.
    create(&scene.client, "v1", "Namespace", "", json!({"metadata": {"name": "frr-k8s-system"}})).await?;
    let theirs = json!({"metadata": {"name": "frr-startup"}, "data": {"daemons": "bgpd=yes"}});
    create(&scene.client, "v1", "ConfigMap", "frr-k8s-system", theirs).await?;
    let configuration = json!({"metadata": {"name": "fabric"}, "spec": {}});
    create(&scene.client, "frrk8s.metallb.io/v1beta1", "FRRConfiguration", "frr-k8s-system", configuration)
        .await?;
    install_main(&scene).await?;
    let config = scene.plane.operator_config();
    scene.operate(&config)?;
    let named =
        ["Deployment metallb-system/controller", "Deployment metallb-system/metallb-operator-webhook-server"];
    scene.names("ForeignLoadBalancer", &named, Duration::from_secs(10)).await?;
    ensure!(asked(&scene).await?["service"]["name"] == SERVICE, "it was told nothing");

    // Of an FRRConfiguration no more than its name is read.
    adopt(&scene).await?;
    scene.names("BGPInUse", &["FRRConfiguration frr-k8s-system/fabric"], Duration::from_secs(10)).await?;
    let accept = json!({"metadata": {"annotations": {"metallb.io/accept-bgp-loss": "true"}}});
    let watch = async {
        let servers = api(&scene.client, APPS, "Deployment", NAMESPACE);
        let services = api(&scene.client, "v1", "Service", NAMESPACE);
        loop {
            let is_gone =
                servers.get_opt(SERVER).await?.is_none() || services.get_opt(SERVICE).await?.is_none();
            let asks = asked(&scene).await?;
            ensure!(!(is_gone && asks["service"]["name"] == SERVICE), "who is asked is gone: {asks}");
            if is_gone {
                return anyhow::Ok(asks);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    scene.merge("MetalLB", "metallb", &accept).await?;
    let asks = tokio::time::timeout(Duration::from_secs(30), watch).await.context("nothing goes")??;
    ensure!(asks["service"]["name"] == "metallb-operator-webhook-service", "{asks}");
    ensure!(asks["service"]["path"] == "/validate-metallb-io-v1beta1-community", "{asks}");
    ensure!(asks["caBundle"].is_string(), "the operator's authority is trusted: {asks}");

    for (version, kind, namespace, name) in [
        (APPS, "Deployment", NAMESPACE, SERVER),
        ("v1", "Service", NAMESPACE, SERVICE),
        (APPS, "DaemonSet", NAMESPACE, "frr-k8s"),
        (APPS, "Deployment", NAMESPACE, "statuscleaner"),
        ("v1", "ConfigMap", NAMESPACE, "frr-startup"),
        ("v1", "Service", NAMESPACE, "frr-k8s-webhook-service"),
        (ADMISSION.0, ADMISSION.1, "", "frr-k8s-validating-webhook-configuration"),
    ] {
        let objects = api(&scene.client, version, kind, namespace);
        let look = async || objects.get_opt(name).await;
        until(look, |found| found.as_ref().is_none_or(|object| object.metadata.deletion_timestamp.is_some()))
            .await
            .with_context(|| format!("{kind} {name}"))?;
    }
    let left = api(&scene.client, "v1", "ConfigMap", "frr-k8s-system").get_opt("frr-startup").await?;
    ensure!(left.is_some(), "it was somebody else's");
    let speaker = scene.find(APPS, "DaemonSet", "speaker", |object| image(object) == "speaker:1").await?;
    let spec = &speaker.data["spec"]["template"]["spec"];
    ensure!(spec["containers"].as_array().is_some_and(|all| all.len() == 1), "the side-car is gone: {spec}");
    // What it says once it applied what it says: the same.
    scene.recovers().await?;
    ensure!(asked(&scene).await? == asks, "{}", asked(&scene).await?);
    scene.is_at_rest().await?;
    scene.stop().await
}
