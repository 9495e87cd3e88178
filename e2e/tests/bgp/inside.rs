//! Routers of the nodes' own AS, and passwords: BIRD and GoBGP.

use anyhow::{Context, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, fetch_from, kube},
    router::{Bird, GoBgp},
};
use serde_json::{Value, json};

use crate::fixture::{available, eventually};
use crate::gobgp::{gobgp, paths};
use crate::peers::{ASN, Objects, nobody_tells, password, scene, session, until_sessions};
use crate::restart::roll_out;

/// A peer of the nodes' own AS; `more` is more YAML of its spec.
fn internal(address: &str, more: &str) -> String {
    format!("{{myASN: {ASN}, peerASN: {ASN}, peerAddress: '{address}'{more}}}")
}

/// BIRD in the nodes' AS: over IPv4 with a password for each node, over IPv6 with none.
fn bird(passwords: [&str; 3]) -> String {
    let nodes: String = (1..)
        .zip(passwords)
        .map(|(node, password)| {
            format!(
                "protocol bgp node{node} from node {{ local 172.22.0.1 as {ASN}; \
                 neighbor 172.22.0.1{node} as {ASN}; password \"{password}\"; }}\n"
            )
        })
        .collect();
    format!(
        "router id 172.22.0.1;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n\
         protocol kernel four {{ ipv4 {{ export all; }}; merge paths on; }}\n\
         template bgp node {{ ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n\
         {nodes}protocol bgp six from node {{ local fd00:22::1 as {ASN}; neighbor range fd00:22::/64 as {ASN}; \
         dynamic name \"six\"; }}\n"
    )
}

/// Since when each node has the state of its session with the router.
fn since(router: &str) -> anyhow::Result<Vec<Value>> {
    ["node1", "node2", "node3"].iter().map(|node| Ok(session(node, router)?["since"].clone())).collect()
}

#[test]
fn bird_of_the_same_as_reads_local_pref_and_an_aggregate_and_has_its_password() {
    available();
    let (old, new, wrong) = ("inside-old-52c1", "inside-new-77e4", "inside-wrong-1b9f");
    password("bgp-inside", old);
    let router = Bird::start("router", &bird([old, wrong, old])).unwrap();
    let _objects = Objects::apply(&[
        ("BGPPeer", "four", &internal("172.22.0.1", ", passwordSecret: {name: bgp-inside}")),
        ("BGPPeer", "six", &internal("fd00:22::1", "")),
    ]);
    let scene =
        scene("bgp-inside", "[198.51.100.116/30]", ", localPref: 150, med: 20, aggregationLength: 30");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    let ways = |want: usize| {
        router
            .0
            .until(&format!("{want} ways to the aggregate"), 60, |_| {
                let said = router.ask("show route all for 198.51.100.116/30")?;
                let count = |text: &str| said.matches(text).count();
                let found = ["BGP.next_hop", "BGP.local_pref: 150", "BGP.med: 20"].map(count);
                ensure!(found == [want; 3] && !said.contains("/32"), "{said}");
                ensure!(said.contains("BGP.as_path: \n"), "a path within the AS is empty: {said}");
                Ok(())
            })
            .unwrap();
    };
    ways(2);
    until_sessions("fd00:22::1", "Established");
    eventually("the session with the wrong password to be told of", 40, || {
        let status = session("node2", "172.22.0.1")?;
        ensure!(status["lastError"] == "no answer to the attempt to connect", "{status}");
        Ok(())
    });
    // Mended at the router: the one session comes up, the others stand as they did.
    let before = (session("node1", "172.22.0.1").unwrap()["since"].clone(), since("fd00:22::1").unwrap());
    router.configure(&bird([old, old, old])).unwrap();
    ways(3);
    until_sessions("172.22.0.1", "Established");
    assert_eq!(
        (session("node1", "172.22.0.1").unwrap()["since"].clone(), since("fd00:22::1").unwrap()),
        before
    );
    eventually("an answer by way of the aggregate", 20, || fetch_from("remote", address).map(drop));

    // Another password ends a standing session, which comes back once the router has it, too.
    password("bgp-inside", new);
    eventually("no session with the router", 30, || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.22.0.1")?;
            ensure!(status["bgpStatus"] != "Established", "{status}");
        }
        Ok(())
    });
    router
        .0
        .until("the router to be told why", 20, |bird| {
            let log = std::fs::read_to_string(bird.file("bird.log"))?.to_lowercase();
            let told = |node: usize| {
                let start = format!("node{node}: received");
                log.lines().any(|line| line.contains(&start) && line.contains("configuration change"))
            };
            ensure!((1..=3).all(told), "no such lines");
            Ok(())
        })
        .unwrap();
    router.configure(&bird([new, new, new])).unwrap();
    ways(3);
    until_sessions("172.22.0.1", "Established");
    assert_eq!(since("fd00:22::1").unwrap(), before.1, "the sessions without a password were not touched");
    nobody_tells(&[old, new, wrong]);
    kube(&format!("-n {NAMESPACE} delete secret bgp-inside")).unwrap();
}

/// GoBGP in the nodes' AS, with a password for each node.
fn inside(passwords: [&str; 3]) -> String {
    let restart = "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 120\n";
    let nodes: Vec<_> = (1..)
        .zip(passwords)
        .map(|(node, password)| {
            (format!("172.22.0.1{node}"), format!("auth-password = \"{password}\"\n{restart}"))
        })
        .collect();
    gobgp(ASN, &nodes)
}

/// The value of an attribute of a path, by its number (RFC 4271 §5).
fn attribute(path: &Value, number: u64) -> Value {
    let mut attributes = path["attrs"].as_array().into_iter().flatten();
    attributes.find(|attribute| attribute["type"] == number).cloned().unwrap_or_default()
}

#[test]
fn gobgp_of_the_same_as_reads_both_families_and_keeps_them_in_a_rollout() {
    available();
    let (right, wrong) = ("inside-gobgp-0d3a", "inside-gobgp-wrong");
    let router = GoBgp::start("router", &inside([right, wrong, right])).unwrap();
    let more = format!(", password: {right}, dualStackAddressFamily: true, enableGracefulRestart: true");
    let _objects = Objects::apply(&[("BGPPeer", "router", &internal("172.22.0.1", &more))]);
    let more = ", localPref: 150, med: 20, communities: ['64512:100', 'large:64512:1:2']";
    let scene = scene("bgp-gobgp-in", "[198.51.100.120/30, 2001:db8:100::120/126]", more);
    scene.service("four", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    let prefixes = [("four", 32), ("six", 128)]
        .map(|(service, length)| format!("{}/{length}", address(scene.name, service).unwrap()));
    for prefix in &prefixes {
        router
            .0
            .until(&format!("two paths to {prefix} with their attributes"), 60, |_| {
                let found = paths(&router, prefix)?;
                ensure!(found.len() == 2, "{found:?}");
                for path in &found {
                    // MED, LOCAL_PREF, COMMUNITIES, LARGE_COMMUNITY; the path is empty within the AS.
                    ensure!(attribute(path, 4)["metric"] == 20, "{path}");
                    ensure!(attribute(path, 5)["value"] == 150, "{path}");
                    ensure!(attribute(path, 8)["communities"] == json!([64512_u32 << 16 | 100]), "{path}");
                    let large = json!([{ "ASN": 64512, "LocalData1": 1, "LocalData2": 2 }]);
                    ensure!(attribute(path, 32)["value"] == large, "{path}");
                    ensure!(attribute(path, 2)["as_paths"].as_array().is_none_or(Vec::is_empty), "{path}");
                }
                Ok(())
            })
            .unwrap();
    }
    eventually("the session with the wrong password to be told of", 40, || {
        let status = session("node2", "172.22.0.1")?;
        ensure!(status["lastError"] == "no answer to the attempt to connect", "{status}");
        Ok(())
    });
    let said = router.ask("neighbor 172.22.0.11").unwrap().to_lowercase();
    let line = said.lines().find(|line| line.contains("graceful-restart")).unwrap_or_default().to_owned();
    assert!(line.contains("advertised and received"), "{said}");

    // A rollout: GoBGP marks the paths of the session that is away as stale, and keeps them.
    roll_out();
    let mut least = 2;
    let mut was_stale = false;
    eventually("the rollout to end", 150, || {
        for prefix in &prefixes {
            let found = paths(&router, prefix)?;
            least = least.min(found.len());
            was_stale |= found.iter().any(|path| path["stale"] == true);
        }
        let said = kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --watch=false"))?;
        ensure!(said.contains("successfully rolled out"), "{said}");
        Ok(())
    });
    router
        .0
        .until("fresh paths", 60, |_| {
            for prefix in &prefixes {
                let found = paths(&router, prefix)?;
                least = least.min(found.len());
                was_stale |= found.iter().any(|path| path["stale"] == true);
                let fresh = found.iter().filter(|path| path["stale"] != true).count();
                ensure!(fresh == 2, "{found:?}");
            }
            let state = session("node1", "172.22.0.1")?;
            ensure!(state["bgpStatus"] == "Established", "{state}");
            Ok(())
        })
        .context("after the rollout")
        .unwrap();
    assert_eq!(least, 2, "paths at the worst moment");
    assert!(was_stale, "GoBGP never saw a restart");
    nobody_tells(&[right, wrong]);
}
