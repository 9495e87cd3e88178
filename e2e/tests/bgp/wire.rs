//! What packets show, and which way they take.

use std::collections::BTreeSet;

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    held,
    observe::{address, apply, get, kube},
    router::Frr,
};

use crate::counted::Counted;
use crate::fixture::{available, eventually};
use crate::peers::{Objects, edit, frr, peer, scene, until_sessions};
use crate::restart::Connections;

/// Puts another `bgpBackend` into use; `null` is none.
fn backend(value: &str) {
    let quoted = if value == "null" { value.to_owned() } else { format!("\"{value}\"") };
    let patch = format!("{{\"spec\":{{\"bgpBackend\":{quoted}}}}}");
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {patch}")).unwrap();
    eventually("the backend to reach the speakers", 30, || {
        let speaker = get(&["-n", NAMESPACE, "daemonset", "speaker"])?;
        let variables = &speaker["spec"]["template"]["spec"]["containers"][0]["env"];
        let mut its = variables.as_array().into_iter().flatten();
        let found = its.find(|variable| variable["name"] == "METALLB_BGP_TYPE").map(|found| &found["value"]);
        let wanted = if value == "null" { "native" } else { value };
        ensure!(found.is_some_and(|found| found == wanted), "{variables}");
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s")).unwrap();
}

#[test]
fn the_ttl_is_the_one_of_the_backend() {
    available();
    let _frr = Frr::start("router", &frr("")).unwrap();
    let router = |more: &str| peer("172.22.0.1", &format!(", holdTime: 3s, keepaliveTime: 1s{more}"));
    let _objects = Objects::apply(&[("BGPPeer", "router", &router(""))]);
    /// TTLs by `[1, the kernel's own, any other]`.
    fn seen() -> Vec<bool> {
        let from_node = "ip saddr 172.22.0.11 tcp dport 179 ip ttl";
        let expressions = ["1", "64", "!= { 1, 64 }"].map(|ttl| format!("{from_node} {ttl}"));
        let counted = Counted::packets_of("router", &expressions.each_ref().map(String::as_str));
        let mut packets = Vec::new();
        eventually("packets of node1", 20, || {
            packets = counted.packets()?;
            ensure!(packets.iter().sum::<u64>() >= 4, "{packets:?}");
            Ok(())
        });
        packets.into_iter().map(|count| count > 0).collect()
    }
    until_sessions("172.22.0.1", "Established");
    assert_eq!(seen(), [false, true, false], "native");
    backend("frr");
    let shown = std::panic::catch_unwind(|| {
        until_sessions("172.22.0.1", "Established");
        let one_hop = seen();
        edit("BGPPeer", "router", &router(", ebgpMultiHop: true"));
        // A TTL is set as a connection is opened.
        let mut several = Vec::new();
        eventually("the session to be begun anew", 40, || {
            until_sessions("172.22.0.1", "Established");
            several = seen();
            ensure!(several == [false, true, false], "{several:?}");
            Ok(())
        });
        one_hop
    });
    backend("null");
    assert_eq!(shown.unwrap(), [true, false, false], "frr, eBGP");
}

#[test]
fn the_packets_of_a_connection_stay_on_one_node() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ""))]);
    let scene = scene("bgp-stay", "[198.51.100.112/30]", "");
    apply(&held::echo(scene.name, scene.name)).unwrap();
    kube(&format!("-n {} rollout status deployment/echo --timeout=60s", scene.name)).unwrap();
    let address = address(scene.name, "echo").unwrap();
    let paths = |community: Option<&str>| {
        frr.0
            .until("three paths", 30, |_| {
                let paths = frr.paths(&address.to_string())?;
                let same = |path: &serde_json::Value| path["community"]["string"].as_str() == community;
                ensure!(paths.len() == 3 && paths.iter().all(same), "{paths:?}");
                Ok(())
            })
            .unwrap();
    };
    paths(None);
    let expression = format!("ip daddr {address} tcp dport {}", held::PORT);
    let counted = ["node1", "node2", "node3"].map(|node| Counted::ports_of(node, &expression));
    let mut connections = None;
    eventually("200 connections", 20, || {
        connections = Some(Connections::open(address)?);
        Ok(())
    });
    let mut connections = connections.unwrap();
    // From here on: an attempt that failed may have left ports.
    drop(counted);
    let counted = ["node1", "node2", "node3"].map(|node| Counted::ports_of(node, &expression));
    for community in ["64512:1", "64512:2"] {
        connections.speak().unwrap();
        edit(
            "BGPAdvertisement",
            scene.name,
            &format!("{{ipAddressPools: [{}], communities: ['{community}']}}", scene.name),
        );
        paths(Some(community));
    }
    connections.speak().unwrap();
    let seen = counted.each_ref().map(|counted| counted.ports().unwrap());
    let each = seen.each_ref().map(Vec::len);
    let all: BTreeSet<u64> = seen.iter().flatten().copied().collect();
    println!("connections by node: {each:?}");
    assert!(each.iter().all(|count| *count > 0), "{each:?}");
    assert_eq!(all.len(), connections.count(), "{each:?}");
    assert_eq!(each.iter().sum::<usize>(), all.len(), "a connection was seen on two nodes: {seen:?}");
}
