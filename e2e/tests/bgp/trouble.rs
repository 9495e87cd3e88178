//! What goes wrong is told, ends where it is mended, and hurts nobody else.

use std::collections::BTreeSet;

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{on, output, run_on},
    observe::{OPERATOR, address, fetch_from, get, kube, node_beside},
    options::Undo,
    power,
    router::{Frr, Program},
};

use crate::fixture::{Scene, available, eventually};
use crate::peers::{ASN, Objects, edit, frr, nobody_tells, password, peer, scene, session, until_sessions};

/// Passwords that are found in a log only if they were written there.
const RIGHT: &str = "right-3f9c2a71";
const WRONG: &str = "wrong-84d0e6b5";
/// How long a working router waits for its session at most, whatever others do.
const SOON: u64 = 5;

#[test]
fn a_wrong_password_keeps_the_session_down_until_the_secret_is_mended() {
    available();
    let frr = Frr::start("router", &frr(&format!(" neighbor nodes password {RIGHT}"))).unwrap();
    let secret = ", passwordSecret: {name: bgp-password}";
    let _objects = Objects::apply(&[
        ("BGPPeer", "router", &peer("172.22.0.1", secret)),
        ("BGPPeer", "six", &peer("fd00:22::1", secret)),
    ]);
    eventually("the missing Secret to be told", 20, || {
        let status = session("node1", "172.22.0.1")?;
        ensure!(status["lastError"] == "there is no Secret \"bgp-password\"", "{status}");
        Ok(())
    });
    password("bgp-password", WRONG);
    eventually("an attempt with the wrong password to fail", 40, || {
        for router in ["172.22.0.1", "fd00:22::1"] {
            let status = session("node1", router)?;
            ensure!(status["lastError"] == "no answer to the attempt to connect", "{status}");
        }
        Ok(())
    });
    assert_eq!(frr.established().unwrap(), Vec::<String>::new());
    password("bgp-password", RIGHT);
    until_sessions("172.22.0.1", "Established");
    until_sessions("fd00:22::1", "Established");
    let events = kube(&format!("-n {NAMESPACE} get events --field-selector reason=SessionUp")).unwrap();
    assert!(
        events.contains("bgppeer/router") && events.contains("has a session with router 172.22.0.1"),
        "{events}"
    );
    nobody_tells(&[RIGHT, WRONG]);
    kube(&format!("-n {NAMESPACE} delete secret bgp-password")).unwrap();
}

#[test]
fn a_router_of_another_as_than_configured_is_told_and_a_black_hole_delays_nobody() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let beside = Scene::new("bgp-beside", "[172.22.0.246/32]");
    // Takes connections, and never says a word.
    let _mute =
        Program::start(on("client", "busybox").args(["nc", "-ll", "-p", "179", "-e", "sleep", "3600"]))
            .unwrap();
    let _hole = Hole::at("172.24.0.66");
    let wrong = format!("{{myASN: {ASN}, peerASN: 64999, peerAddress: 'fd00:22::1'}}");
    let _objects = Objects::apply(&[
        ("BGPPeer", "a-mute", &peer("172.22.0.100", "")),
        ("BGPPeer", "b-hole", &peer("172.24.0.66", "")),
        ("BGPPeer", "c-wrong", &wrong),
    ]);
    eventually("the silent routers to be tried", 20, || {
        let status = session("node1", "172.22.0.100")?;
        ensure!(status["bgpStatus"] == "OpenSent", "{status}");
        Ok(())
    });
    let _working = Objects::apply(&[("BGPPeer", "d-router", &peer("172.22.0.1", ""))]);
    frr.0
        .until("sessions with the working router", SOON, |_| {
            let found = frr.established()?;
            ensure!(found == ["172.22.0.11", "172.22.0.12", "172.22.0.13"], "{found:?}");
            Ok(())
        })
        .unwrap();
    // Layer 2 goes on beside them: each question is answered at once.
    beside.service("web", "");
    let near = address(beside.name, "web").unwrap();
    eventually("an answer on layer 2", SOON, || fetch_from("client", near).map(drop));
    let asked =
        output(on("client", "arping").args(["-c", "10", "-W", "0.1", "-I", "eth0"]).arg(near.to_string()));
    let asked = asked.unwrap();
    let mut times: Vec<f64> = asked.lines().filter_map(milliseconds).collect();
    times.sort_by(f64::total_cmp);
    println!("answers on layer 2 beside a black hole, in ms: {times:?}");
    // Of ten the seventh: the machine may be busy for a moment.
    assert!(times.len() == 10 && times[6] < 50.0, "{asked}");
    let scene = scene("bgp-trouble", "[198.51.100.48/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    eventually("an answer over the working router", 20, || fetch_from("remote", address).map(drop));
    until_sessions("172.22.0.1", "Established");
    eventually("the reasons to be told", 60, || {
        for (router, state, error) in [
            ("172.22.0.100", "OpenSent", None),
            ("172.24.0.66", "", Some("no answer to the attempt to connect")),
            ("fd00:22::1", "", Some("sent OPEN Message Error: Bad Peer AS")),
        ] {
            let status = session("node1", router)?;
            ensure!(state.is_empty() || status["bgpStatus"] == state, "{status}");
            let said = status["lastError"].as_str().unwrap_or_default();
            ensure!(error.is_none_or(|error| said.contains(error)), "{status}");
        }
        Ok(())
    });
}

/// How long an answer took, by a line of arping.
fn milliseconds(line: &str) -> Option<f64> {
    let mut words = line.split_once("time=")?.1.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    Some(match words.next()? {
        "usec" => number / 1000.0,
        "msec" => number,
        _ => number * 1000.0,
    })
}

/// An address of host remote that answers nothing at all, until this value ends.
struct Hole(&'static str);

impl Hole {
    fn at(address: &'static str) -> Self {
        let hole = Self(address);
        for line in [
            &format!("ip addr add {address}/32 dev lo"),
            "nft add table ip hole",
            "nft add chain ip hole in { type filter hook input priority 0 ; }",
            &format!("nft add rule ip hole in ip daddr {address} drop"),
        ] {
            run_on("remote", line).unwrap();
        }
        hole
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        let removed = [
            run_on("remote", "nft delete table ip hole"),
            run_on("remote", &format!("ip addr del {}/32 dev lo", self.0)),
        ];
        if !std::thread::panicking() {
            removed.into_iter().for_each(Result::unwrap);
        }
    }
}

#[test]
fn an_edit_that_asks_for_more_than_a_node_selector_allows_moves_the_sessions_and_the_traffic() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    // Connections, not addresses, are spread over the next hops.
    let on = |nodes: &str| {
        let expression = format!("{{key: kubernetes.io/hostname, operator: In, values: [{nodes}]}}");
        peer("172.22.0.1", &format!(", nodeSelectors: [{{matchExpressions: [{expression}]}}]"))
    };
    let _objects = Objects::apply(&[("BGPPeer", "router", &on("node1, node2"))]);
    let established = |want: &[&str]| {
        frr.0.until(&format!("sessions with {want:?}"), 40, |_| {
            let found = frr.established()?;
            ensure!(found == want, "{found:?}");
            Ok(())
        })
    };
    established(&["172.22.0.11", "172.22.0.12"]).unwrap();
    edit("BGPPeer", "router", &on("node2, node3"));
    established(&["172.22.0.12", "172.22.0.13"]).unwrap();
    let scene = scene("bgp-two", "[198.51.100.52/30]", "");
    scene.service("web", ", externalTrafficPolicy: Local");
    let address = address(scene.name, "web").unwrap();
    let mut nodes = BTreeSet::new();
    eventually("answers of the two nodes", 30, || {
        let answer = fetch_from("remote", address)?;
        nodes.extend(answer.split_once(" on ").map(|(_, node)| node.trim().to_owned()));
        ensure!(nodes.len() == 2, "{nodes:?} after {answer:?}");
        Ok(())
    });
    for _ in 0..20 {
        let answer = fetch_from("remote", address).unwrap();
        nodes.extend(answer.split_once(" on ").map(|(_, node)| node.trim().to_owned()));
    }
    assert_eq!(nodes, BTreeSet::from(["node2", "node3"].map(str::to_owned)));
}

#[test]
fn routes_of_a_family_that_the_router_does_not_take_are_told_of_the_peer() {
    available();
    let config = "router bgp 64513\n bgp router-id 172.22.0.1\n no bgp ebgp-requires-policy\n neighbor nodes peer-group\n \
                  neighbor nodes remote-as 64512\n bgp listen range 172.22.0.0/24 peer-group nodes\n";
    let _frr = Frr::start("router", config).unwrap();
    let _objects =
        Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ", dualStackAddressFamily: true"))]);
    let scene = scene("bgp-unsent", "[198.51.100.148/30, 2001:db8:100::148/126]", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    address(scene.name, "six").unwrap();
    until_sessions("172.22.0.1", "Established");
    let condition = || -> anyhow::Result<String> {
        let peer = get(&["-n", NAMESPACE, "bgppeer", "router"])?;
        let mut conditions = peer["status"]["conditions"].as_array().into_iter().flatten();
        let its = conditions.find(|condition| condition["type"] == "RoutesNotSent");
        Ok(its.map(|its| format!("{} {}", its["status"], its["message"])).unwrap_or_default())
    };
    eventually("the routes that are not sent to be told", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let why = "1 IPv6 route, since the router does not take IPv6 unicast";
        ensure!(status["routesNotSent"] == why, "{status}");
        let said = condition()?;
        ensure!(said.starts_with("\"True\"") && said.contains("node1, node2, node3"), "{said}");
        Ok(())
    });
    scene.service("four", "");
    kube(&format!("-n {} delete service six", scene.name)).unwrap();
    eventually("all routes to be sent", 30, || {
        let status = session("node1", "172.22.0.1")?;
        ensure!(status["routesNotSent"].is_null() && status["prefixesSent"] == 1, "{status}");
        let said = condition()?;
        ensure!(said.starts_with("\"False\""), "{said}");
        Ok(())
    });
}

#[test]
fn what_changed_while_the_api_server_did_not_answer_is_told_to_routers_soon_after() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ""))]);
    let scene = scene("bgp-unaware", "[198.51.100.48/30]", ", communities: ['64512:1']");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap().to_string();
    let until = |seconds: u64, want: [&str; 3]| {
        let told = frr.0.until(&format!("communities {want:?} of the three nodes"), seconds, |_| {
            let paths = frr.paths(&address)?;
            let told = paths
                .iter()
                .map(|path| (path["nexthops"][0]["ip"].as_str(), path["community"]["string"].as_str()));
            let nodes = ["172.22.0.11", "172.22.0.12", "172.22.0.13"].map(Some);
            let want: BTreeSet<_> = nodes.into_iter().zip(want.map(Some)).collect();
            ensure!(told.collect::<BTreeSet<_>>() == want, "{paths:?}");
            Ok(())
        });
        told.unwrap();
    };
    let node = node_beside(OPERATOR).unwrap();
    let others = |told| ["node1", "node2", "node3"].map(|name| if name == node { "64512:1" } else { told });
    until(30, others("64512:1"));
    power::blind(node).unwrap();
    let inform = Undo(|| drop(power::inform()));
    edit("BGPAdvertisement", scene.name, "{ipAddressPools: [bgp-unaware], communities: ['64512:2']}");
    until(10, others("64512:2"));
    // By then the kernel of the API server's host tries only rarely to send the news on the connection of the watch.
    kube(&format!("wait node/{node} --for=condition=Ready=Unknown --timeout=90s")).unwrap();
    until(1, others("64512:2"));
    drop(inform);
    until(10, ["64512:2"; 3]);
    kube(&format!("wait node/{node} --for=condition=Ready --timeout=60s")).unwrap();
}
