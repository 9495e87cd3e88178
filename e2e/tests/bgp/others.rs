//! The same with BIRD, and what only one router shows.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, fetch_from, get},
    router::{Bird, Frr},
};

use crate::fixture::{Scene, available, eventually};
use crate::peers::{Objects, peer, scene, session, until_sessions};

/// BIRD with sessions to all nodes, and their routes in the kernel.
pub(crate) const BIRD: &str = "router id 172.22.0.1;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel four { ipv4 { export all; }; merge paths on; }
protocol kernel six { ipv6 { export all; }; merge paths on; }
template bgp node {
  local 172.22.0.1 as 64513;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
  graceful restart on;
}
protocol bgp node1 from node { neighbor 172.22.0.11 as 64512; }
protocol bgp node2 from node { neighbor 172.22.0.12 as 64512; }
protocol bgp node3 from node { neighbor 172.22.0.13 as 64512; }
";

#[test]
fn bird_learns_both_families_over_one_session_asks_again_and_reads_why_it_ends() {
    available();
    let bird = Bird::start("router", BIRD).unwrap();
    let objects =
        Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ", dualStackAddressFamily: true"))]);
    let more = ", communities: ['64512:100', 'large:64512:1:2'], med: 20, asPathPrepend: 2";
    let scene = scene("bgp-bird", "[198.51.100.80/30, 2001:db8:100::80/126]", more);
    scene.service("four", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    for service in ["four", "six"] {
        let address = address(scene.name, service).unwrap();
        bird.0
            .until(&format!("three ways to {address}"), 30, |_| {
                let said = bird.ask(&format!("show route all for {address}"))?;
                let ways = said.matches("BGP.next_hop").count();
                ensure!(
                    ways == 3 && said.contains("(64512,100)") && said.contains("(64512, 1, 2)"),
                    "{said}"
                );
                ensure!(said.contains("BGP.med: 20"), "{said}");
                ensure!(said.matches("BGP.as_path: 64512 64512 64512").count() == 3, "{said}");
                Ok(())
            })
            .unwrap();
        eventually(&format!("an answer from {address}"), 20, || fetch_from("remote", address).map(drop));
    }
    // Asked again, the speaker sends what it sent before: by BIRD's count of what it received, in both families.
    let received = || -> anyhow::Result<Vec<u64>> {
        let said = bird.ask("show protocols all node1")?;
        let lines = said.lines().filter_map(|line| line.trim().strip_prefix("Import updates:"));
        let first = lines.map(|line| line.split_whitespace().next().unwrap_or_default().parse());
        Ok(first.collect::<Result<_, _>>()?)
    };
    let before = received().unwrap();
    bird.ask("reload in node1").unwrap();
    bird.0
        .until("the routes to be sent again", 20, |_| {
            let (now, route) = (received()?, bird.ask("show route all protocol node1")?);
            let again: Vec<u64> = before.iter().map(|count| count + 1).collect();
            ensure!(now == again && route.matches("BGP.next_hop").count() == 2, "{before:?} {now:?} {route}");
            Ok(())
        })
        .unwrap();
    assert_eq!(session("node1", "172.22.0.1").unwrap()["bgpStatus"], "Established");
    drop(objects);
    bird.0
        .until("the reason of the end", 30, |bird| {
            let log = std::fs::read_to_string(bird.file("bird.log"))?;
            let why = "BGPPeer router does not concern this node any more";
            ensure!(
                log.lines().any(|line| line.contains("node1: Received") && line.contains(why)),
                "no such line"
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn frr_learns_ipv4_routes_over_a_link_without_ipv4() {
    available();
    let config = "router bgp 64513\n bgp router-id 172.23.0.1\n no bgp ebgp-requires-policy\n \
                  neighbor eth2 interface v6only remote-as external\n address-family ipv4 unicast\n  neighbor eth2 activate\n \
                  exit-address-family\n address-family ipv6 unicast\n  neighbor eth2 activate\n exit-address-family\n";
    let frr = Frr::start("router", config).unwrap();
    let spec = "{myASN: 64512, dynamicASN: external, interface: eth1, \
                nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]}";
    let _objects = Objects::apply(&[("BGPPeer", "link", spec)]);
    let scene = scene("bgp-link", "[198.51.100.88/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    frr.0
        .until("a path with an IPv6 next hop", 60, |_| {
            let paths = frr.paths(&address.to_string())?;
            let hop = paths.first().and_then(|path| path["nexthops"][0]["afi"].as_str());
            ensure!(hop == Some("ipv6"), "{paths:?}");
            Ok(())
        })
        .unwrap();
    eventually("an answer over the link", 20, || fetch_from("remote", address).map(drop));
    let status = session("node1", "eth1").unwrap();
    assert!(status["capabilities"].to_string().contains("extended next hop"), "{status}");
}

#[test]
fn another_bgp_speaker_on_the_node_is_left_alone() {
    available();
    let config = "router bgp 64513\n bgp router-id 172.22.0.1\n no bgp ebgp-requires-policy\n \
                  neighbor 172.22.0.11 remote-as 64512\n neighbor 172.22.0.12 remote-as 64512\n \
                  neighbor six peer-group\n neighbor six remote-as 64512\n bgp listen range fd00:22::/64 peer-group six\n";
    let frr = Frr::start("router", config).unwrap();
    // As Calico does it: a BIRD of the node's own.
    let other = Bird::start(
        "node1",
        "router id 172.22.0.11;\nprotocol device {}\nprotocol bgp upstream { local 172.22.0.11 as 64512; \
         neighbor 172.22.0.1 as 64513; ipv4 { import none; export none; }; }\n",
    )
    .unwrap();
    other
        .0
        .until("the other speaker's session", 30, |_| {
            let said = other.ask("show protocols")?;
            ensure!(said.contains("Established"), "{said}");
            Ok(())
        })
        .unwrap();
    let _objects = Objects::apply(&[
        ("BGPPeer", "router", &peer("172.22.0.1", "")),
        ("BGPPeer", "second", &peer("fd00:22::1", ", dualStackAddressFamily: true")),
    ]);
    eventually("the conflict to be told", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(said.starts_with("Conflict: another BGP speaker on this node has a session"), "{status}");
        Ok(())
    });
    let conflict = || -> anyhow::Result<String> {
        let peer = get(&["-n", NAMESPACE, "bgppeer", "router"])?;
        let mut conditions = peer["status"]["conditions"].as_array().into_iter().flatten();
        let condition = conditions.find(|condition| condition["type"] == "Conflict");
        Ok(condition
            .map(|condition| format!("{} {}", condition["status"], condition["message"]))
            .unwrap_or_default())
    };
    eventually("the BGPPeer to name the node", 20, || {
        let said = conflict()?;
        ensure!(said.starts_with("\"True\"") && said.contains(" on node1: "), "{said:?}");
        Ok(())
    });
    frr.0
        .until("the session with node2", 30, |_| {
            let mut found = frr.established()?;
            found.retain(|neighbor| neighbor.starts_with("172."));
            ensure!(found == ["172.22.0.11", "172.22.0.12"], "{found:?}");
            Ok(())
        })
        .unwrap();
    // On that very node the session with another router goes on, and so does layer 2.
    until_sessions("fd00:22::1", "Established");
    let beside = Scene::new("bgp-conflict", "[172.22.0.247/32]");
    beside.service("web", "");
    let near = address(beside.name, "web").unwrap();
    eventually("an answer on layer 2", 10, || fetch_from("client", near).map(drop));
    let status = session("node1", "172.22.0.1").unwrap();
    assert!(status["lastError"].as_str().is_some_and(|said| said.starts_with("Conflict")), "{status}");
    let said = other.ask("show protocols").unwrap();
    assert!(said.contains("Established"), "{said}");
    drop(other);
    until_node(&frr);
    eventually("the BGPPeer to say that it is over", 20, || {
        let said = conflict()?;
        ensure!(said.starts_with("\"False\""), "{said:?}");
        Ok(())
    });
}

/// Once the other speaker is gone, ours has the session.
fn until_node(frr: &Frr) {
    eventually("our own session with the router", 60, || {
        let status = session("node1", "172.22.0.1")?;
        ensure!(status["bgpStatus"] == "Established", "{status}, FRR has {:?}", frr.established());
        Ok(())
    });
}

#[test]
fn routes_of_both_families_go_over_either_transport() {
    available();
    let frr = Frr::start("router", &crate::peers::frr("")).unwrap();
    let _objects = Objects::apply(&[
        ("BGPPeer", "four", &peer("172.22.0.1", ", dualStackAddressFamily: true")),
        ("BGPPeer", "six", &peer("fd00:22::1", ", dualStackAddressFamily: true")),
    ]);
    until_sessions("172.22.0.1", "Established");
    until_sessions("fd00:22::1", "Established");
    let scene = scene("bgp-dual", "[198.51.100.92/30, 2001:db8:100::92/126]", "");
    scene.service("four", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    for service in ["four", "six"] {
        let address = address(scene.name, service).unwrap().to_string();
        frr.0
            .until(&format!("six paths to {address}: each node over both transports"), 30, |_| {
                let paths = frr.paths(&address)?;
                ensure!(paths.len() == 6 && paths.iter().all(|path| path["valid"] == true), "{paths:?}");
                Ok(())
            })
            .unwrap();
    }
}
