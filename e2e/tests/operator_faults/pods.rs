//! Pods that do not start: what the cluster says of them is in Degraded within five seconds.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams};
use metallb_e2e::plane::{
    NAMESPACE,
    objects::{api, create},
};
use serde_json::{Value, json};

use crate::fixture::{METALLB, Scene, condition, whole};

/// From the moment at which the pod shows it.
const LIMIT: Duration = Duration::from_secs(5);

async fn node(scene: &Scene, name: &str) -> Result<()> {
    let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}});
    create(&scene.client, "v1", "Node", "", node).await?;
    let ready =
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
    let nodes = api(&scene.client, "v1", "Node", "");
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&ready)).await?;
    // The API server gives it one that says it is not ready, and nobody takes that back here.
    let untainted = json!({"spec": {"taints": null}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&untainted)).await?;
    Ok(())
}

/// A pod of `component`, which a DaemonSet made for `node`, or which runs there.
async fn pod(scene: &Scene, component: &str, name: &str, node: Option<&str>) -> Result<()> {
    let mut spec = json!({"serviceAccountName": component, "automountServiceAccountToken": false,
                          "containers": [{"name": component, "image": format!("{component}:1")}]});
    match node {
        Some(node) => spec["nodeName"] = node.into(),
        None => {
            let field = json!({"key": "metadata.name", "operator": "In", "values": ["node1"]});
            spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        }
    }
    let labels = json!({"app": "metallb", "component": component});
    let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
    create(&scene.client, "v1", "Pod", NAMESPACE, pod).await
}

async fn shows(scene: &Scene, pod: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status});
    let pods = api(&scene.client, "v1", "Pod", NAMESPACE);
    pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

fn container(name: &str, restarts: usize, state: &Value, last: &Value) -> Value {
    json!({"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
           "containerStatuses": [{"name": name, "image": format!("{name}:1"), "imageID": "", "ready": false,
                                  "restartCount": restarts, "state": state, "lastState": last}]})
}

/// Says of a workload that it is as it is to be.
async fn runs(scene: &Scene, kind: &str, name: &str, mut status: Value) -> Result<()> {
    let objects = api(&scene.client, "apps/v1", kind, NAMESPACE);
    status["observedGeneration"] = objects.get(name).await?.metadata.generation.into();
    let patch = json!({"status": status});
    objects.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_is_not_taken_up_yet_takes_no_availability_away() -> Result<()> {
    let mut scene = Scene::installed().await?;
    node(&scene, "node1").await?;
    pod(&scene, "speaker", "speaker-x", Some("node1")).await?;
    shows(&scene, "speaker-x", &json!({"conditions": [{"type": "Ready", "status": "True"}]})).await?;
    let status = json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
    runs(&scene, "Deployment", "controller", status).await?;
    let status = json!({"desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0,
                        "numberReady": 1, "numberAvailable": 1, "updatedNumberScheduled": 1});
    runs(&scene, "DaemonSet", "speaker", status).await?;
    let is = |object: &DynamicObject, kind: &str, wanted: &str| whole(object, kind)["status"] == wanted;
    let well = |object: &DynamicObject| is(object, "Available", "True") && is(object, "Progressing", "False");
    let before = scene.find(METALLB, "MetalLB", "metallb", well).await?;

    for (kind, name) in [("Deployment", "controller"), ("DaemonSet", "speaker")] {
        let edit = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 77}}}});
        let objects = api(&scene.client, "apps/v1", kind, NAMESPACE);
        objects.patch(name, &PatchParams::default(), &Patch::Merge(&edit)).await?;
        let grace = |object: &DynamicObject| {
            object.data["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] != 77
        };
        scene.find("apps/v1", kind, name, grace).await?;
    }
    // Nobody carries the repairs out here.
    let rolling = |object: &DynamicObject| {
        let message = whole(object, "Progressing")["message"].to_string();
        is(object, "Progressing", "True") && message.contains("controller") && message.contains("speaker")
    };
    let object = scene.find(METALLB, "MetalLB", "metallb", rolling).await?;
    let available = |object: &DynamicObject| whole(object, "Available");
    ensure!(available(&object) == available(&before), "{:?}", available(&object));
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_pod_from_starting_is_named_within_five_seconds() -> Result<()> {
    let mut scene = Scene::installed().await?;
    node(&scene, "node1").await?;
    for (component, pod) in [("speaker", "speaker-x"), ("controller", "controller-x")] {
        self::pod(&scene, component, pod, Some("node1")).await?;
        let pull =
            json!({"waiting": {"reason": "ErrImagePull", "message": format!("{component}:1: not found")}});
        let ended = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let wait = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let table = [
            (container(component, 0, &pull, &json!({})), "ImagePullFailed", "ErrImagePull".to_owned()),
            (container(component, 3, &wait, &ended), "CrashLooping", "exit code 3, 3 restarts".to_owned()),
        ];
        for (status, reason, text) in table {
            shows(&scene, pod, &status).await?;
            scene.names(reason, &[&format!("pod {pod} on node node1"), &text], LIMIT).await?;
            let well = json!({"containerStatuses": null,
                              "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]});
            shows(&scene, pod, &well).await?;
            scene.recovers().await?;
        }
    }
    for component in ["speaker", "controller"] {
        let name = format!("{component}-y");
        pod(&scene, component, &name, None).await?;
        let says = "0/1 nodes are available: 1 Insufficient memory.";
        let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                                 "message": says}]});
        shows(&scene, &name, &unscheduled).await?;
        scene.names("PodUnschedulable", &[&format!("pod {name}"), says], LIMIT).await?;
        shows(&scene, &name, &json!({"conditions": [{"type": "PodScheduled", "status": "True"}]})).await?;
        scene.recovers().await?;
    }
    let object = scene.find(METALLB, "MetalLB", "metallb", |_| true).await?;
    let available = condition(&object, "Available").map(|(status, _)| status);
    ensure!(available.as_deref() == Some("False"), "{available:?}");
    scene.stop().await
}
