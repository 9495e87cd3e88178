//! What other files show with FRR, with BIRD: three ways and two, silence, a wrong AS, a rollout without graceful restart.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, fetch_from, kube},
    options::Undo,
    power,
    router::Bird,
};
use nix::sys::signal::Signal;

use crate::distance::Silence;
use crate::fixture::{available, eventually};
use crate::others::BIRD;
use crate::peers::{Objects, edit, peer, scene, session, until_sessions};
use crate::restart::roll_out;

/// How long a speaker without graceful restart leaves its routes in place after it asked for other paths, but for the
/// time between two looks at the router.
const DRAIN: Duration = Duration::from_secs(2);

fn next_hops(bird: &Bird, address: IpAddr) -> Result<BTreeSet<String>> {
    let said = bird.ask(&format!("show route all for {address}/32"))?;
    let hops = said.lines().filter_map(|line| line.trim().strip_prefix("BGP.next_hop: "));
    Ok(hops.map(str::to_owned).collect())
}

#[test]
fn a_client_reaches_three_nodes_by_birds_ways_and_two_when_they_are_pinned() {
    available();
    let bird = Bird::start("router", BIRD).unwrap();
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ""))]);
    let name = "bgp-bird-ways";
    let scene = scene(name, "[198.51.100.132/30]", "");
    scene.service("web", ", externalTrafficPolicy: Local");
    let address = address(scene.name, "web").unwrap();
    let pinned =
        "[{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1, node3]}]}]";
    for (more, nodes) in [
        (String::new(), &["node1", "node2", "node3"][..]),
        (format!(", nodeSelectors: {pinned}"), &["node1", "node3"]),
    ] {
        edit("BGPAdvertisement", name, &format!("{{ipAddressPools: [{name}]{more}}}"));
        let hops =
            nodes.iter().map(|node| format!("172.22.0.1{}", node.trim_start_matches("node"))).collect();
        bird.0
            .until(&format!("ways by {nodes:?}"), 30, |_| {
                let found = next_hops(&bird, address)?;
                ensure!(found == hops, "{found:?}");
                Ok(())
            })
            .unwrap();
        let want: BTreeSet<String> = nodes.iter().map(|node| (*node).to_owned()).collect();
        eventually("an answer", 20, || fetch_from("remote", address).map(drop));
        let mut answered = BTreeSet::new();
        // Well more than one of them leaves out by chance.
        for _ in 0..40 {
            let answer = fetch_from("remote", address).unwrap();
            answered.extend(answer.split_once(" on ").map(|(_, node)| node.trim().to_owned()));
        }
        assert_eq!(answered, want);
    }
}

#[test]
fn bird_that_falls_silent_is_given_up_after_the_hold_time_and_a_wrong_as_is_told() {
    available();
    let config = BIRD.replace("  local 172.22.0.1", "  error wait time 1, 2;\n  local 172.22.0.1");
    let bird = Bird::start("router", &config).unwrap();
    let short = ", holdTime: 3s, keepaliveTime: 1s";
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", short))]);
    until_sessions("172.22.0.1", "Established");
    let silence = Silence::of("172.22.0.11");
    eventually("both ends to give up", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(status["bgpStatus"] != "Established" && said.contains("Hold Timer Expired"), "{status}");
        for (node, is_up) in [("node1", false), ("node2", true), ("node3", true)] {
            let said = bird.ask(&format!("show protocols {node}"))?;
            ensure!(said.contains("Established") == is_up, "{said}");
        }
        Ok(())
    });
    drop(silence);
    until_sessions("172.22.0.1", "Established");
    edit("BGPPeer", "router", "{myASN: 64512, peerASN: 64999, peerAddress: 172.22.0.1}");
    eventually("the wrong AS to be told", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(status["bgpStatus"] != "Established" && said.contains("Bad Peer AS"), "{status}");
        Ok(())
    });
}

/// What a router saw of one node's route.
#[derive(Debug, Default)]
struct Seen {
    /// When it was asked to prefer other paths.
    asked: Option<Instant>,
    /// When it held none any more.
    withdrawn: Option<Instant>,
}

#[test]
fn a_rollout_without_graceful_restart_asks_for_other_paths_waits_and_says_why_it_ends() {
    available();
    // A router that does as RFC 8326 asks it to.
    let shuns = "import filter { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; };";
    let config = BIRD.replace("  graceful restart on;\n", "").replacen("import all;", shuns, 1);
    let bird = Bird::start("router", &config).unwrap();
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ""))]);
    let scene = scene("bgp-bird-roll", "[198.51.100.136/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    until_sessions("172.22.0.1", "Established");
    bird.0
        .until("three ways", 30, |_| {
            let found = next_hops(&bird, address)?;
            ensure!(found.len() == 3, "{found:?}");
            Ok(())
        })
        .unwrap();
    eventually("an answer", 20, || fetch_from("remote", address).map(drop));
    roll_out();
    let mut seen: [Seen; 3] = Default::default();
    let mut unanswered = Vec::new();
    eventually("the rollout to end", 120, || {
        for (node, seen) in ["node1", "node2", "node3"].iter().zip(&mut seen) {
            let said = bird.ask(&format!("show route all protocol {node}"))?;
            if said.contains("(65535,0)") {
                seen.asked.get_or_insert_with(Instant::now);
            }
            if !said.contains("BGP.next_hop") {
                seen.withdrawn.get_or_insert_with(Instant::now);
            }
        }
        unanswered.extend(fetch_from("remote", address).err().map(|error| format!("{error:#}")));
        let ended = seen.iter().all(|seen| seen.withdrawn.is_some());
        let said = kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --watch=false"))?;
        ensure!(ended && said.contains("successfully rolled out"), "{seen:?} {said}");
        Ok(())
    });
    for seen in &seen {
        let waited = seen.asked.zip(seen.withdrawn).map(|(asked, withdrawn)| withdrawn - asked);
        assert!(waited.is_some_and(|waited| waited >= DRAIN), "{seen:?}");
    }
    println!("not answered in a rollout without graceful restart: {unanswered:?}");
    assert_eq!(unanswered, Vec::<String>::new());
    let log = std::fs::read_to_string(bird.0.file("bird.log")).unwrap();
    for node in ["node1", "node2", "node3"] {
        let is_reason = |line: &&str| {
            line.contains(&format!("{node}: Received: Administrative shutdown"))
                && line.contains("the speaker is restarted")
        };
        assert!(log.lines().any(|line| is_reason(&line)), "{node}: {}", bird.0.log());
    }
    until_sessions("172.22.0.1", "Established");
}

#[test]
fn a_host_that_shuts_down_without_its_kubelets_word_takes_its_routes_along() {
    available();
    let bird = Bird::start("router", BIRD).unwrap();
    let _objects =
        Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ", enableGracefulRestart: true"))]);
    let scene = scene("bgp-bird-host", "[198.51.100.140/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    until_sessions("172.22.0.1", "Established");
    let ways = |wanted: usize, seconds| {
        bird.0
            .until(&format!("{wanted} ways"), seconds, |_| {
                let found = next_hops(&bird, address)?;
                ensure!(found.len() == wanted, "{found:?}");
                Ok(())
            })
            .unwrap();
    };
    ways(3, 30);
    let back = Undo(|| power::start_kubelet("node3").unwrap());
    // As an init system ends them: services first, then the processes that are left. No pod is deleted.
    power::signal("node3", "kubelet", Signal::SIGTERM).unwrap();
    power::signal("node3", "speaker", Signal::SIGTERM).unwrap();
    // Kept as stale they would stay for the restart time, 40 s.
    ways(2, 15);
    let log = std::fs::read_to_string(bird.0.file("bird.log")).unwrap();
    let told = "node3: Received: Administrative shutdown";
    let is_told = |line: &str| line.contains(told) && line.contains("the speaker leaves this node");
    assert!(log.lines().any(is_told), "{}", bird.0.log());
    drop(back);
    ways(3, 90);
}
