//! Routers of one address in two VRFs, in a virtual machine whose kernel has them (`make e2e-vrf`): the API server and BIRD are
//! real, and the speaker is a process of its own.
//!
//! ```text
//!  node  to-red   10.99.0.1, master red    --- mlb-red   10.99.0.2, AS 64513   connected to
//!        to-blue  10.99.0.1, master blue   --- mlb-blue  10.99.0.2, AS 64514   connects
//! ```

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use metallb_e2e::{
    deps,
    exec::run,
    plane::{
        NAMESPACE, Plane, free_port,
        objects::{api, create},
        subject::Subject,
    },
    router::{BIRD, Bird},
    tools, vm,
};
use serde_json::json;

/// Names the speaker's program.
const SPEAKER: &str = "METALLB_SPEAKER";
const V1: &str = "metallb.io/v1beta1";
const V2: &str = "metallb.io/v1beta2";
/// The machine is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// A VRF with a cable to a host of its name.
fn vrf(name: &str, table: u8) -> Result<()> {
    for line in [
        format!("ip link add {name} type vrf table {table}"),
        format!("ip link set {name} up"),
        format!("ip netns add mlb-{name}"),
        format!("ip link add to-{name} type veth peer name eth0 netns mlb-{name}"),
        format!("ip link set to-{name} master {name}"),
        format!("ip addr add 10.99.0.1/24 dev to-{name}"),
        format!("ip link set to-{name} up"),
        format!("ip -n mlb-{name} addr add 10.99.0.2/24 dev eth0"),
        format!("ip -n mlb-{name} link set eth0 up"),
    ] {
        run(&line)?;
    }
    Ok(())
}

fn bird(asn: u32, password: &str, more: &str) -> String {
    format!(
        "router id 10.99.0.2;\nprotocol device {{}}\nprotocol bfd {{ interface \"eth0\" {{ interval 300 ms; }}; }}\n\
         protocol bgp node {{ local 10.99.0.2 as {asn}; neighbor 10.99.0.1 as 64512; password \"{password}\"; bfd; {more} \
         connect retry time 1; error wait time 1, 2; ipv4 {{ import all; export none; }}; }}\n"
    )
}

fn peer(asn: u32, vrf: &str, passive: bool) -> serde_json::Value {
    let spec = json!({
        "myASN": 64512, "peerASN": asn, "peerAddress": "10.99.0.2", "vrf": vrf, "password": format!("{vrf}-1f6e"),
        "bfdProfile": "slow", "connectTime": "1s", "passive": passive,
    });
    json!({ "metadata": { "name": vrf }, "spec": spec })
}

async fn until(bird: &Bird, log: &Path, what: &str, holds: impl Fn(&Bird) -> Result<()>) {
    let started = Instant::now();
    while let Err(error) = holds(bird) {
        let log = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(started.elapsed() < PATIENCE, "{what}: {error:#}\n{}", log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("{what}: after {} s", started.elapsed().as_secs());
}

/// Whether the router has the route of the Service, from a session that BFD watches.
fn holds(bird: &Bird) -> Result<()> {
    let routes = bird.ask("show route for 198.51.100.1")?;
    ensure!(routes.contains("via 10.99.0.1"), "{routes}");
    let bfd = bird.ask("show bfd sessions")?;
    ensure!(bfd.lines().any(|line| line.starts_with("10.99.0.1") && line.contains(" Up ")), "{bfd}");
    Ok(())
}

async fn announce(client: &Client) -> Result<()> {
    create(client, "v1", "Node", "", json!({ "metadata": { "name": "node1" } })).await?;
    let pool = json!({ "metadata": { "name": "pool" }, "spec": { "addresses": ["198.51.100.0/28"] } });
    create(client, V1, "IPAddressPool", NAMESPACE, pool).await?;
    let all = json!({ "metadata": { "name": "all" }, "spec": {} });
    create(client, V1, "BGPAdvertisement", NAMESPACE, all).await?;
    let slow = json!({ "receiveInterval": 300, "transmitInterval": 300, "detectMultiplier": 10 });
    create(client, V1, "BFDProfile", NAMESPACE, json!({ "metadata": { "name": "slow" }, "spec": slow }))
        .await?;
    let slice = json!({
        "metadata": { "name": "web", "labels": { "kubernetes.io/service-name": "web" } }, "addressType": "IPv4",
        "ports": [], "endpoints": [{ "addresses": ["10.0.0.1"], "nodeName": "node1", "conditions": { "ready": true } }],
    });
    create(client, "discovery.k8s.io/v1", "EndpointSlice", "default", slice).await?;
    let spec =
        json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{ "port": 80 }] });
    create(client, "v1", "Service", "default", json!({ "metadata": { "name": "web" }, "spec": spec }))
        .await?;
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1" }] } } });
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    services.patch_status("web", &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

#[test]
#[ignore = "takes minutes; `make e2e-vrf` runs it"]
fn in_a_virtual_machine() {
    // What the machine needs is installed and built outside.
    deps::need(&[BIRD]).unwrap();
    tools::build().unwrap();
    let speaker = format!("{SPEAKER}={}", std::env::var(SPEAKER).expect(SPEAKER));
    let test = std::env::current_exe().unwrap().display().to_string();
    let inside = "routers_of_one_address_in_two_vrfs_have_their_own_sessions";
    vm::run(&["env", &speaker, &test, "--ignored", "--exact", inside, "--nocapture"].map(str::to_owned))
        .unwrap();
}

#[tokio::test]
#[ignore = "needs a kernel with VRFs: `in_a_virtual_machine` runs it"]
async fn routers_of_one_address_in_two_vrfs_have_their_own_sessions() {
    run("ip link set lo up").unwrap();
    vrf("red", 10).context("a VRF").unwrap();
    vrf("blue", 20).unwrap();
    let red = Bird::start("red", &bird(64513, "red-1f6e", "passive;")).unwrap();
    let blue = Bird::start("blue", &bird(64514, "blue-1f6e", "")).unwrap();
    let plane = Plane::start().await.unwrap();
    let client = plane.client().await.unwrap();
    announce(&client).await.unwrap();
    create(&client, V2, "BGPPeer", NAMESPACE, peer(64513, "red", false)).await.unwrap();
    create(&client, V2, "BGPPeer", NAMESPACE, peer(64514, "blue", true)).await.unwrap();
    let port = free_port().unwrap();
    let speaker = std::env::var(SPEAKER).expect(SPEAKER);
    let command = format!("{speaker} --node-name node1 --host 127.0.0.1 --port {port} --bgp-listen");
    let log = plane.path("speaker.log");
    let speaker = Subject::start(&command, &plane.subject_config(), &log).unwrap();
    until(&red, &log, "red, by a connection of ours", holds).await;
    until(&blue, &log, "blue, by a connection of the router", holds).await;

    // Another speaker on this node that has the router of the other VRF is no rival in this one.
    api(&client, V2, "BGPPeer", NAMESPACE).delete("blue", &DeleteParams::default()).await.unwrap();
    blue.configure(&bird(64514, "other-1f6e", "").replace("as 64512", "as 64599")).unwrap();
    run(&format!("ip netns attach mlb-node {}", std::process::id())).unwrap();
    let other = "router id 10.99.0.1;\nprotocol device {}\nprotocol bgp rival { vrf \"blue\"; local 10.99.0.1 as 64599; \
                 neighbor 10.99.0.2 as 64514; password \"other-1f6e\"; connect retry time 1; error wait time 1, 2; \
                 ipv4 { import none; export none; }; }\n";
    let other = Bird::start("node", other).unwrap();
    until(&other, &log, "the other speaker's session in blue", |bird| {
        let protocols = bird.ask("show protocols")?;
        ensure!(protocols.contains("Established"), "{protocols}");
        Ok(())
    })
    .await;
    let since = |bird: &Bird| -> Result<String> {
        let protocols = bird.ask("show protocols node")?;
        protocols.lines().find(|line| line.starts_with("node")).map(str::to_owned).context("no protocol node")
    };
    let before = since(&red).unwrap();
    let edit = json!({ "spec": { "holdTime": "30s" } });
    let peers = api(&client, V2, "BGPPeer", NAMESPACE);
    peers.patch("red", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    until(&red, &log, "red again, beside the other speaker", |bird| {
        ensure!(since(bird)? != before, "it is the session of before");
        holds(bird)
    })
    .await;
    speaker.stop().await.unwrap();
}
