//! GoBGP, a router that sets no routes in its kernel: what it learns, and what it and the speakers tell of trouble.

use anyhow::{Result, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, kube},
    router::GoBgp,
};
use serde_json::Value;

use crate::distance::Silence;
use crate::fixture::{available, eventually};
use crate::peers::{
    ASN, Objects, ROUTER_ASN, edit, nobody_tells, password, peer, scene, session, until_sessions,
};

/// GoBGP of an AS, with sessions of both families to nodes: their addresses, and what is configured for each beyond that.
pub(crate) fn gobgp(asn: u32, nodes: &[(String, String)]) -> String {
    let family = |name: &str| {
        format!("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}-unicast\"\n")
    };
    let families = family("ipv4") + &family("ipv6");
    let neighbors: String = nodes
        .iter()
        .map(|(address, more)| {
            format!(
                "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {ASN}\n{more}{families}"
            )
        })
        .collect();
    format!("[global.config]\nas = {asn}\nrouter-id = \"172.22.0.1\"\n{neighbors}")
}

/// The paths that GoBGP holds of a prefix, as JSON.
pub(crate) fn paths(router: &GoBgp, prefix: &str) -> anyhow::Result<Vec<Value>> {
    let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
    let found = router.json(&format!("global rib -a {family}"))?;
    Ok(found[prefix].as_array().cloned().unwrap_or_default())
}

/// Whether GoBGP has a session with each of the nodes.
fn established(router: &GoBgp, nodes: [&str; 3]) -> Result<[bool; 3]> {
    let found = router.json("neighbor")?;
    // 6 is ESTABLISHED.
    let is_up = |node: &str| {
        let mut all = found.as_array().into_iter().flatten().map(|neighbor| &neighbor["state"]);
        all.any(|state| state["neighbor_address"] == node && state["session_state"] == 6)
    };
    Ok(nodes.map(is_up))
}

#[test]
fn gobgp_learns_routes_with_their_attributes() {
    available();
    let nodes = [11, 12, 13].map(|node| (format!("172.22.0.{node}"), String::new()));
    let gobgp = GoBgp::start("router", &gobgp(ROUTER_ASN, &nodes)).unwrap();
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ""))]);
    let scene =
        scene("bgp-gobgp", "[198.51.100.84/30]", ", communities: ['64512:100'], med: 20, asPathPrepend: 1");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    gobgp
        .0
        .until("three paths", 40, |_| {
            let said = gobgp.ask("global rib")?;
            let paths: Vec<_> = said.lines().filter(|line| line.contains(&format!("{address}/32"))).collect();
            let same = |line: &&&str| {
                line.contains("64512 64512")
                    && line.contains("{Med: 20}")
                    && line.contains("{Communities: 64512:100}")
            };
            // The best path names the prefix; the others stand below it.
            ensure!(paths.iter().any(|line| same(&line)) && said.matches("{Med: 20}").count() == 3, "{said}");
            Ok(())
        })
        .unwrap();
}

/// What GoBGP was told as a node ended its session.
fn reasons(router: &GoBgp, node: &str) -> Result<Vec<String>> {
    let log = std::fs::read_to_string(router.0.file("gobgpd.out"))?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let its = lines.filter(|line| line["Key"] == node);
    Ok(its.filter_map(|line| line["Communicated-Reason"].as_str().map(str::to_owned)).collect())
}

#[test]
fn gobgp_learns_both_families_over_ipv6_and_reads_why_a_session_ends() {
    available();
    let nodes = [11, 12, 13].map(|node| (format!("fd00:22::{node}"), String::new()));
    let router = GoBgp::start("router", &gobgp(ROUTER_ASN, &nodes)).unwrap();
    let objects =
        Objects::apply(&[("BGPPeer", "router", &peer("fd00:22::1", ", dualStackAddressFamily: true"))]);
    let scene = scene("bgp-gobgp-six", "[198.51.100.144/30, 2001:db8:100::144/126]", "");
    scene.service("four", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    let prefixes = [("four", 32), ("six", 128)]
        .map(|(service, length)| format!("{}/{length}", address(scene.name, service).unwrap()));
    router
        .0
        .until("three paths of both families", 60, |_| {
            for prefix in &prefixes {
                let found = paths(&router, prefix)?;
                ensure!(found.len() == 3, "{prefix}: {found:?}");
            }
            Ok(())
        })
        .unwrap();
    until_sessions("fd00:22::1", "Established");
    drop(objects);
    router
        .0
        .until("the reason of the end", 30, |_| {
            let said = reasons(&router, "fd00:22::11")?;
            ensure!(said == ["BGPPeer router does not concern this node any more"], "{said:?}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn gobgp_that_falls_silent_is_given_up_and_a_wrong_as_or_another_password_is_told() {
    available();
    const NODES: [&str; 3] = ["172.22.0.11", "172.22.0.12", "172.22.0.13"];
    let (old, new) = ("gobgp-old-61c2", "gobgp-new-9e07");
    let restless = |password: &str| {
        let timers = "[neighbors.timers.config]\nconnect-retry = 5\nidle-hold-time-after-reset = 5\n";
        NODES.map(|node| (node.to_owned(), format!("auth-password = \"{password}\"\n{timers}")))
    };
    let router = GoBgp::start("router", &gobgp(ROUTER_ASN, &restless(old))).unwrap();
    password("bgp-gobgp", old);
    let secret = ", passwordSecret: {name: bgp-gobgp}";
    let short = format!("{secret}, holdTime: 3s, keepaliveTime: 1s");
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", &short))]);
    until_sessions("172.22.0.1", "Established");

    let silence = Silence::of(NODES[0]);
    eventually("both ends to give up", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(status["bgpStatus"] != "Established" && said.contains("Hold Timer Expired"), "{status}");
        let found = established(&router, NODES)?;
        ensure!(found == [false, true, true], "{found:?}");
        Ok(())
    });
    drop(silence);
    until_sessions("172.22.0.1", "Established");

    // Another password ends a standing session, which comes back with a router that has it, too.
    password("bgp-gobgp", new);
    eventually("no session with the router", 40, || {
        let found = established(&router, NODES)?;
        ensure!(found == [false; 3], "{found:?}");
        Ok(())
    });
    drop(router);
    let router = GoBgp::start("router", &gobgp(ROUTER_ASN, &restless(new))).unwrap();
    until_sessions("172.22.0.1", "Established");
    assert_eq!(established(&router, NODES).unwrap(), [true; 3]);

    edit("BGPPeer", "router", &format!("{{myASN: {ASN}, peerASN: 64999, peerAddress: 172.22.0.1{secret}}}"));
    eventually("the wrong AS to be told", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(status["bgpStatus"] != "Established" && said.contains("Bad Peer AS"), "{status}");
        Ok(())
    });
    nobody_tells(&[old, new]);
    kube(&format!("-n {NAMESPACE} delete secret bgp-gobgp")).unwrap();
}
