//! The condition `metallb.io/Announced`, as nodes, speakers and endpoints come and go.

use anyhow::Result;
use serde_json::{Value, json};

use crate::fixture::{World, own, until};

impl World {
    fn patch_status(&self, what: &str, status: &Value) -> Result<()> {
        let patch = json!({ "status": status }).to_string();
        let arguments = ["-n", "metallb-system", "patch", what, "--subresource=status", "--type=merge", "-p"];
        self.plane.kubectl(&[&arguments[..], &[&patch]].concat()).map(drop)
    }

    async fn announced(&self, reason: &str) -> Result<String> {
        self.condition_reason("web-0", "metallb.io/Announced", reason).await
    }
}

/// What the speaker of node1 says about the Service.
fn said(kind: &str, name: &str) -> Value {
    let mut said = own(kind, name, &json!({}));
    said["metadata"]["labels"] = json!({
        "metallb.io/node": "node1", "metallb.io/service-name": "web-0", "metallb.io/service-namespace": "default",
    });
    said
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

    world.apply(&said("ServiceL2Status", "l2-1"))?;
    world.patch_status("servicel2status/l2-1", &json!({ "node": "node1" }))?;
    assert_eq!(world.announced("Announced").await?, "on layer 2");
    assert_eq!(writes(), 7, "one for each change");

    // A network plug-in tells the subnet of the node.
    let subnet = |cidr: &str| {
        let annotation = format!("k8s.ovn.org/host-cidrs=[\"{cidr}\"]");
        world.plane.kubectl(&["annotate", "--overwrite", "node", "node1", &annotation])
    };
    subnet("192.0.2.7/24")?;
    let outside = world.announced("OutsideNodeSubnet").await?;
    assert!(outside.contains("in the subnet of 10.99.0.0:"), "{outside}");
    subnet("10.99.255.254/16")?;
    assert_eq!(world.announced("Announced").await?, "on layer 2");

    world.apply(&own("BGPAdvertisement", "all", &json!({})))?;
    world.apply(&said("ServiceBGPStatus", "bgp-1"))?;
    world.patch_status("servicebgpstatus/bgp-1", &json!({ "node": "node1", "peers": ["router"] }))?;
    let mut session = own("BGPSessionState", "bgp-2", &json!({ "apiVersion": "frrk8s.metallb.io/v1beta1" }));
    session["spec"] = json!({});
    world.apply(&session)?;
    let is = |state: &str| {
        let status = json!({ "node": "node1", "peerName": "router", "bgpStatus": state });
        world.patch_status("bgpsessionstate.frrk8s.metallb.io/bgp-2", &status)
    };
    is("Established")?;
    let said = || world.condition("web-0", "metallb.io/Announced");
    let by = async |how: &str| {
        until(said, |said| said.as_ref().is_some_and(|(_, message)| message == how)).await.map(drop)
    };
    by("on layer 2 and by BGP").await?;
    world.plane.kubectl(&[
        "-n",
        "metallb-system",
        "delete",
        "l2advertisement/all",
        "servicel2status/l2-1",
    ])?;
    by("by BGP").await?;
    is("Active")?;
    world.announced("SessionDown").await?;
    is("Established")?;
    by("by BGP").await?;
    assert_eq!(writes(), 13, "one for each change");
    controller.stop().await
}
