//! From a BGPPeer to the answer that a client behind the router gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, fetch_from, get, kube},
    router::Frr,
};

use crate::fixture::{available, eventually};
use crate::peers::{Objects, frr, peer, scene};

/// Addresses of the next hops that FRR has for a prefix.
fn next_hops(frr: &Frr, prefix: &str) -> anyhow::Result<BTreeSet<String>> {
    let paths = frr.paths(prefix)?;
    Ok(paths.iter().filter_map(|path| path["nexthops"][0]["ip"].as_str().map(str::to_owned)).collect())
}

#[test]
fn a_client_behind_the_router_reaches_three_nodes_through_three_next_hops() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let _peers = Objects::apply(&[
        ("BGPPeer", "four", &peer("172.22.0.1", "")),
        ("BGPPeer", "six", &peer("fd00:22::1", "")),
    ]);
    let scene = scene("bgp-path", "[198.51.100.16/30, 2001:db8:100::10/126]", "");
    scene.service("four", ", externalTrafficPolicy: Local");
    scene.service("six", ", externalTrafficPolicy: Local, ipFamilies: [IPv6]");
    for (service, first, hops) in [
        ("four", "198.51.100.16", ["172.22.0.11", "172.22.0.12", "172.22.0.13"]),
        ("six", "2001:db8:100::10", ["fd00:22::11", "fd00:22::12", "fd00:22::13"]),
    ] {
        let address = address(scene.name, service).unwrap();
        assert_eq!(address, first.parse::<IpAddr>().unwrap());
        let want = BTreeSet::from(hops.map(str::to_owned));
        frr.0
            .until(&format!("three paths to {address}"), 30, |_| {
                let found = next_hops(&frr, &address.to_string())?;
                ensure!(found == want, "{found:?}");
                Ok(())
            })
            .unwrap();
        // Each connection takes one of the three ways by its ports, and each node answers itself.
        let mut nodes = BTreeSet::new();
        eventually(&format!("answers from three nodes at {address}"), 30, || {
            let answer = fetch_from("remote", address)?;
            let node = answer.split_once(" on ").map(|(_, node)| node.to_owned());
            nodes.extend(node);
            ensure!(nodes.len() == 3, "{nodes:?} after {answer:?}");
            Ok(())
        });
        // Peers have the names of the Services that they are told of here.
        let all = ["node1", "node2", "node3"].map(|node| (node.to_owned(), vec![service.to_owned()]));
        until_told(scene.name, service, &BTreeMap::from(all));
        kube(&format!("-n {} delete service {service}", scene.name)).unwrap();
        until_told(scene.name, service, &BTreeMap::new());
    }
}

/// Waits until the ServiceBGPStatuses of a Service say which nodes tell which peers.
fn until_told(namespace: &str, service: &str, want: &BTreeMap<String, Vec<String>>) {
    eventually(&format!("who is told of {service}"), 20, || {
        let list = get(&["-n", NAMESPACE, "servicebgpstatuses"])?;
        let statuses = list["items"].as_array().into_iter().flatten().map(|item| &item["status"]);
        let its = statuses
            .filter(|status| status["serviceName"] == service && status["serviceNamespace"] == namespace);
        let told = its.map(|status| {
            Ok((
                status["node"].as_str().unwrap_or_default().to_owned(),
                serde_json::from_value(status["peers"].clone())?,
            ))
        });
        let told: BTreeMap<String, Vec<String>> = told.collect::<anyhow::Result<_>>()?;
        ensure!(told == *want, "{told:?}");
        Ok(())
    });
}
