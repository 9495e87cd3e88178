//! The condition `metallb.io/Announced`, as nodes, speakers and endpoints come and go.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::World;

impl World {
    fn apply(&self, object: &Value) -> Result<()> {
        let path = self.plane.path("object.json");
        std::fs::write(&path, object.to_string())?;
        self.plane.kubectl(&["apply", "-f", &path.display().to_string()]).map(drop)
    }

    fn patch_status(&self, what: &str, status: &Value) -> Result<()> {
        let patch = json!({ "status": status }).to_string();
        let arguments = ["-n", "metallb-system", "patch", what, "--subresource=status", "--type=merge", "-p"];
        self.plane.kubectl(&[&arguments[..], &[&patch]].concat()).map(drop)
    }

    async fn announced(&self, reason: &str) -> Result<String> {
        self.condition_reason("web-0", "metallb.io/Announced", reason).await
    }
}

fn own(kind: &str, name: &str, rest: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "metallb.io/v1beta1", "kind": kind,
        "metadata": { "name": name, "namespace": "metallb-system" },
    });
    for (key, value) in rest.as_object().into_iter().flatten() {
        object[key] = value.clone();
    }
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_announcing_is_said_one_after_another() -> Result<()> {
    let world = World::new().await?;
    let controller = world.controller()?;
    world.load.create("web", 0..1).await?;
    world.announced("NoAdvertisement").await?;
    let writes = || world.plane.requests(0).0.get("patch services/status").copied().unwrap_or_default();
    assert_eq!(writes(), 1, "said in the write that gave the address");

    world.apply(&own("L2Advertisement", "all", &json!({})))?;
    assert_eq!(world.announced("NoReadyEndpoint").await?, "no endpoint is ready");
    world.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web", "labels": { "kubernetes.io/service-name": "web-0" } },
        "endpoints": [{ "addresses": ["10.0.0.1"], "nodeName": "node1", "conditions": { "ready": true } }],
    }))?;
    assert_eq!(world.announced("NoAdvertisement").await?, "its advertisements select no node");
    let excluded = "node.kubernetes.io/exclude-from-external-load-balancers";
    world.apply(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node1", "labels": { excluded: "" } },
    }))?;
    world.announced("ExcludedByLabel").await?;
    world.plane.kubectl(&["label", "node", "node1", &format!("{excluded}-")])?;
    world.announced("NoSpeaker").await?;

    world.plane.kubectl(&["-n", "metallb-system", "create", "serviceaccount", "default"])?;
    world.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "speaker-1", "namespace": "metallb-system",
            "labels": { "app": "metallb", "component": "speaker" },
        },
        "spec": { "nodeName": "node1", "containers": [{ "name": "speaker", "image": "speaker" }] },
    }))?;
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    world.patch_status("pod/speaker-1", &json!({ "podIP": "192.0.2.1", "conditions": ready }))?;
    world.announced("NoInterface").await?;

    let labels = json!({ "metallb.io/node": "node1", "metallb.io/service-name": "web-0", "metallb.io/service-namespace": "default" });
    let mut said = own("ServiceL2Status", "l2-1", &json!({}));
    said["metadata"]["labels"] = labels;
    world.apply(&said)?;
    world.patch_status("servicel2status/l2-1", &json!({ "node": "node1" }))?;
    assert_eq!(world.announced("Announced").await?, "on layer 2");
    assert_eq!(writes(), 7, "one for each change");
    controller.stop().await
}
