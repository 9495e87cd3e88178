//! BFD: how often packets go, of how many hops a session is, and ports that another program has.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    layout::node,
    observe::kube,
    outage::enter,
    power::{self, Mode},
    router::{Bird, Frr},
};

use crate::counted::Counted;
use crate::distance::FAR;
use crate::fixture::{available, eventually};
use crate::liveness::{FAST, sample};
use crate::others::BIRD;
use crate::peers::{Objects, edit, frr, metrics, peer, session, until_sessions};

#[test]
fn bfd_within_one_as_is_of_one_hop_where_the_router_is_on_a_link() {
    available();
    let _objects = Objects::apply(&[
        ("BFDProfile", "fast", FAST),
        ("BGPPeer", "router", "{myASN: 64512, peerASN: 64512, peerAddress: 172.22.0.1, bfdProfile: fast}"),
    ]);
    let up = |said: &dyn Fn() -> anyhow::Result<String>| {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.22.0.1")?;
            ensure!(status["bfdStatus"] == "up", "{status} {}", said()?);
        }
        Ok(())
    };
    let config = frr(" neighbor nodes bfd\n neighbor nodes bfd 3 100 100");
    let frr = Frr::start("router", &config.replace("router bgp 64513", "router bgp 64512")).unwrap();
    until_sessions("172.22.0.1", "Established");
    eventually("BFD with FRR", 30, || up(&|| frr.ask("show bfd peers")));
    let peers = frr.json("show bfd peers").unwrap();
    let all = peers.as_array().map(Vec::as_slice).unwrap_or_default();
    assert!(all.len() == 3 && all.iter().all(|peer| peer["multihop"] == false), "{peers}");
    drop(frr);
    let config = BIRD
        .replace("local 172.22.0.1 as 64513", "local 172.22.0.1 as 64512")
        .replace("  graceful restart on;\n", "  direct;\n  bfd on;\n  error wait time 1, 2;\n")
        .replace(
            "protocol device {}\n",
            "protocol device {}\nprotocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; }; }\n",
        );
    let bird = Bird::start("router", &config).unwrap();
    eventually("BFD with BIRD", 60, || up(&|| bird.ask("show bfd sessions")));
    power::off("node2", Mode::Dark).unwrap();
    let started = Instant::now();
    let gone = bird.0.until("no session with node2", 20, |_| {
        let said = bird.ask("show protocols node2")?;
        ensure!(!said.contains("Established"), "{said}");
        Ok(())
    });
    let took = started.elapsed();
    power::on("node2").unwrap();
    gone.unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    until_sessions("172.22.0.1", "Established");
}

/// The least interval that BFDProfile allows.
const LEAST: Duration = Duration::from_millis(10);
/// Control packets of one node that are timed.
const TIMED: u32 = 500;

#[test]
fn control_packets_go_both_ways_every_ten_milliseconds() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes bfd\n neighbor nodes bfd profile least")).unwrap();
    let profile = ["profile least", "detect-multiplier 50", "receive-interval 10", "transmit-interval 10"];
    frr.commands(&[&["configure terminal", "bfd"], &profile[..]].concat()).unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "least", "{receiveInterval: 10, transmitInterval: 10, detectMultiplier: 50}"),
        ("BGPPeer", "router", &peer("172.22.0.1", ", bfdProfile: least")),
    ]);
    until_sessions("172.22.0.1", "Established");
    eventually("both ends to agree on 10 ms", 30, || {
        let peers = frr.json("show bfd peers")?;
        let all = peers.as_array().map(Vec::as_slice).unwrap_or_default();
        let agreed = |peer: &serde_json::Value| {
            let intervals = ["transmit-interval", "receive-interval", "remote-transmit-interval"];
            peer["status"] == "up"
                && intervals.iter().all(|interval| peer[*interval] == 10)
                && peer["remote-receive-interval"] == 10
                && peer["remote-detect-multiplier"] == 50
        };
        ensure!(all.len() == 3 && all.iter().all(agreed), "{peers}");
        Ok(())
    });
    // Those of a session before with that router are counted, too.
    let downs = || sample(&metrics("172.22.0.12").unwrap(), "bfd_session_down_events").unwrap_or(0);
    let before = downs();
    let sent = Counted::packets_of("router", &["ip saddr 172.22.0.12 udp dport 3784"]);
    let back = Counted::packets_of("node2", &["ip saddr 172.22.0.1 udp dport 3784"]);
    let started = Instant::now();
    eventually("500 control packets each way", 60, || {
        let counts = (sent.packets()?, back.packets()?);
        let enough = |counts: &[u64]| counts.iter().all(|count| *count >= u64::from(TIMED));
        ensure!(enough(&counts.0) && enough(&counts.1), "{counts:?}");
        Ok(())
    });
    let took = started.elapsed();
    println!("500 control packets each way took {} ms", took.as_millis());
    // Each interval is shortened by up to a quarter (RFC 5880 section 6.8.7), and never lengthened; the machine may be busy.
    assert!(took > LEAST * TIMED * 3 / 4 - LEAST && took < LEAST * TIMED * 2, "{took:?}");
    assert_eq!(downs(), before);
    until_sessions("172.22.0.1", "Established");
}

#[test]
fn a_bfd_port_that_another_program_has_is_told_and_taken_once_it_is_free() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes bfd\n neighbor nodes bfd 3 300 300")).unwrap();
    // A speaker that watched a path before has the port.
    let pod =
        format!("-n {NAMESPACE} get pods -l component=speaker --field-selector spec.nodeName=node1 -o name");
    let former = kube(&pod).unwrap();
    kube(&format!("-n {NAMESPACE} delete {}", former.trim())).unwrap();
    let other =
        Bird::start("node1", "router id 172.22.0.11;\nprotocol device {}\nprotocol bfd {}\n").unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    let far = Bird::start("remote", FAR).unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "slow", "{receiveInterval: 300, transmitInterval: 300}"),
        // BIRD sends with the kernel's TTL of 64, and one hop is on the way.
        ("BFDProfile", "far", "{receiveInterval: 300, transmitInterval: 300, minimumTtl: 63}"),
        ("BGPPeer", "router", &peer("172.22.0.1", ", bfdProfile: slow")),
        ("BGPPeer", "far", &peer("172.24.0.2", ", ebgpMultiHop: true, bfdProfile: far")),
    ]);
    let told = |node: &str, router: &str| -> anyhow::Result<(String, String, String)> {
        let status = session(node, router)?;
        let word = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        Ok((word("bgpStatus"), word("bfdStatus"), word("lastError")))
    };
    // The next hop, and the router behind it.
    let ports = [("172.22.0.1", 3784), ("172.24.0.2", 4784)];
    eventually("the ports to be told", 60, || {
        for (router, port) in ports {
            let (bgp, bfd, said) = told("node1", router)?;
            let why = format!("BFD cannot have UDP port {port}, which another program on this node may use");
            ensure!(bgp == "Established" && bfd == "N/A" && said.contains(&why), "{bgp} {bfd} {said}");
            let (bgp, bfd, said) = told("node2", router)?;
            ensure!(bgp == "Established" && bfd == "up" && !said.contains("BFD"), "{bgp} {bfd} {said}");
        }
        Ok(())
    });
    drop(other);
    eventually("BFD to be up", 40, || {
        for (router, _) in ports {
            let (bgp, bfd, said) = told("node1", router)?;
            ensure!(bgp == "Established" && bfd == "up" && !said.contains("BFD"), "{bgp} {bfd} {said}");
        }
        Ok(())
    });
    let take = || {
        enter(&node(1))?;
        anyhow::Ok(UdpSocket::bind("172.22.0.11:3785")?)
    };
    let taken = std::thread::spawn(take).join().unwrap().unwrap();
    edit("BFDProfile", "slow", "{receiveInterval: 300, transmitInterval: 300, echoMode: true}");
    let echo_port_is_told = |nodes: &[&str]| {
        eventually(&format!("the port of echo packets to be told for {nodes:?}"), 20, || {
            for node in ["node1", "node2"] {
                let (bgp, _, said) = told(node, "172.22.0.1")?;
                let is_told = said.contains("UDP port 3785");
                ensure!(bgp == "Established" && is_told == nodes.contains(&node), "{node} {bgp} {said}");
            }
            Ok(())
        });
    };
    echo_port_is_told(&["node1"]);
    drop(taken);
    echo_port_is_told(&[]);
    drop(far);
    assert_eq!(frr.established().unwrap().len(), 3);
}
