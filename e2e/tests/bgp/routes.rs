//! From a BGPPeer to the answer that a client behind the router gets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::ensure;
use metallb_e2e::{
    exec::run_on,
    observe::{address, fetch_from},
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
    // Ports count in the choice of the way, as most routers have it.
    for family in ["ipv4", "ipv6"] {
        run_on("router", &format!("sysctl -qw net.{family}.fib_multipath_hash_policy=1")).unwrap();
    }
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
    }
}
