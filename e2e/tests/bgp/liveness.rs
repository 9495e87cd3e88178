//! BFD: a path that breaks leaves the router's table at once.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{on, output, run_on},
    observe::{address, fetch_from, kube},
    power::{self, Mode},
    router::{Bird, Frr},
};

use crate::fixture::{available, eventually};
use crate::others::BIRD;
use crate::peers::{Objects, frr, metrics, peer, scene, session, until_sessions};

/// A BFDProfile that tells of a broken path after 300 ms.
pub(crate) const FAST: &str = "{receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3}";

/// Cuts node2 off until FRR holds its path to the address no more, which takes less than a second, and others answer.
fn node2_leaves_the_table_of(frr: &Frr, address: IpAddr, mode: Mode) {
    power::off("node2", mode).unwrap();
    let started = Instant::now();
    let gone = frr.0.until("two paths", 20, |_| {
        let paths = frr.paths(&address.to_string())?;
        ensure!(paths.len() == 2, "{paths:?}");
        Ok(())
    });
    let took = started.elapsed();
    let answers = (0..20).map(|_| fetch_from("remote", address)).collect::<Vec<_>>();
    power::on("node2").unwrap();
    gone.unwrap();
    println!("a node that was lost ({mode:?}) left FRR's table for {address} after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[test]
fn a_node_that_is_powered_off_leaves_the_routers_table_in_under_a_second() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes bfd\n neighbor nodes bfd 3 100 100")).unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "fast", FAST),
        ("BGPPeer", "router", &peer("172.22.0.1", ", bfdProfile: fast")),
    ]);
    let scene = scene("bgp-bfd", "[198.51.100.56/30]", "");
    // No node passes a connection on to a pod of the node that is off.
    scene.service("web", ", externalTrafficPolicy: Local");
    let address = address(scene.name, "web").unwrap();
    until_sessions("172.22.0.1", "Established");
    eventually("BFD to be up on both sides", 30, || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.22.0.1")?;
            ensure!(status["bfdStatus"] == "up", "{status}");
        }
        let peers = frr.json("show bfd peers")?;
        let up = peers.as_array().into_iter().flatten().filter(|peer| peer["status"] == "up").count();
        ensure!(up == 3 && frr.paths(&address.to_string())?.len() == 3, "{peers}");
        Ok(())
    });
    eventually("node1 to show its session, and what it announces, to a scraper", 20, || {
        shown(&metrics("172.22.0.11")?, &address)
    });
    node2_leaves_the_table_of(&frr, address, Mode::Dark);
    until_sessions("172.22.0.1", "Established");
}

#[test]
fn a_node_that_is_unplugged_leaves_frrs_ipv6_table_in_under_a_second_and_comes_back() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes bfd\n neighbor nodes bfd 3 100 100")).unwrap();
    let more = ", bfdProfile: fast, dualStackAddressFamily: true";
    let _objects =
        Objects::apply(&[("BFDProfile", "fast", FAST), ("BGPPeer", "router", &peer("fd00:22::1", more))]);
    let scene = scene("bgp-bfd-six", "[2001:db8:100::164/126]", "");
    scene.service("web", ", externalTrafficPolicy: Local, ipFamilies: [IPv6]");
    let address = address(scene.name, "web").unwrap();
    until_sessions("fd00:22::1", "Established");
    let up = || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "fd00:22::1")?;
            ensure!(status["bfdStatus"] == "up", "{status}");
        }
        let peers = frr.json("show bfd peers")?;
        let up = peers.as_array().into_iter().flatten().filter(|peer| peer["status"] == "up").count();
        ensure!(up == 3 && frr.paths(&address.to_string())?.len() == 3, "{peers}");
        Ok(())
    };
    eventually("BFD to be up on both sides", 30, up);
    node2_leaves_the_table_of(&frr, address, Mode::Link);
    eventually("the node to be back, with BFD", 60, up);
}

#[test]
fn a_node_that_is_powered_off_leaves_birds_table_in_under_a_second_and_comes_back() {
    available();
    // Left alone, BIRD takes no connection for a minute after a session ended in an error.
    let config = BIRD.replace("  graceful restart on;\n", "  bfd on;\n  error wait time 1, 2;\n").replace(
        "protocol device {}\n",
        "protocol device {}\nprotocol bfd { interface \"*\" { min rx interval 100 ms; min tx interval 100 ms; \
         multiplier 3; }; }\n",
    );
    let bird = Bird::start("router", &config).unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "fast", FAST),
        ("BGPPeer", "router", &peer("172.22.0.1", ", bfdProfile: fast")),
    ]);
    let scene = scene("bgp-bfd-bird", "[198.51.100.124/30]", "");
    scene.service("web", ", externalTrafficPolicy: Local");
    let address = address(scene.name, "web").unwrap();
    until_sessions("172.22.0.1", "Established");
    let ways = || -> anyhow::Result<usize> {
        Ok(bird.ask(&format!("show route all for {address}"))?.matches("BGP.next_hop").count())
    };
    let up = || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.22.0.1")?;
            ensure!(status["bfdStatus"] == "up", "{status}");
        }
        let said = bird.ask("show bfd sessions")?;
        let up = said.lines().filter(|line| line.split_whitespace().nth(2) == Some("Up")).count();
        ensure!(up == 3 && ways()? == 3, "{said}");
        Ok(())
    };
    eventually("BFD to be up on both sides", 40, up);
    let twenty = || (0..20).map(|_| fetch_from("remote", address)).collect::<Vec<_>>();
    // A node whose kube-proxy does not know the Service yet refuses.
    eventually("an answer by each way", 20, || twenty().into_iter().try_for_each(|answer| answer.map(drop)));
    power::off("node2", Mode::Dark).unwrap();
    let started = Instant::now();
    let gone = bird.0.until("two ways", 20, |_| {
        let found = ways()?;
        ensure!(found == 2, "{found} ways");
        Ok(())
    });
    let took = started.elapsed();
    let answers = twenty();
    power::on("node2").unwrap();
    gone.unwrap();
    println!("a node that was powered off left BIRD's table after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    eventually("the node to be back, with BFD", 60, up);
}

/// Control packets alone would need 3 times 5 s.
const ECHO: &str =
    "{receiveInterval: 5000, transmitInterval: 5000, detectMultiplier: 3, echoMode: true, echoInterval: 100}";

#[test]
fn echo_packets_go_both_ways_and_tell_of_a_broken_path() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes bfd\n neighbor nodes bfd profile echo")).unwrap();
    frr.commands(&[
        "configure terminal",
        "bfd",
        "profile echo",
        "receive-interval 5000",
        "transmit-interval 5000",
        "echo transmit-interval 100",
        "echo receive-interval 100",
        "echo-mode",
    ])
    .unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "echo", ECHO),
        ("BGPPeer", "router", &peer("172.22.0.1", ", bfdProfile: echo")),
        ("BGPPeer", "six", &peer("fd00:22::1", ", bfdProfile: echo")),
    ]);
    let scene = scene("bgp-echo", "[198.51.100.128/30]", "");
    scene.service("web", ", externalTrafficPolicy: Local");
    let address = address(scene.name, "web").unwrap().to_string();
    until_sessions("172.22.0.1", "Established");
    eventually("echo packets of both ends to come back", 60, || {
        let text = metrics("172.22.0.12")?;
        for counted in ["bfd_echo_packet_output", "bfd_echo_packet_input"] {
            ensure!(sample(&text, counted)? > 20, "{counted} is {}", sample(&text, counted)?);
        }
        ensure!(sample(&text, "bfd_session_up")? == 1, "BFD is down");
        let counters = frr.json("show bfd peers counters")?;
        let of_node2 = |counters: &serde_json::Value| {
            counters.as_array()?.iter().find(|peer| peer["peer"] == "172.22.0.12").cloned()
        };
        let its = of_node2(&counters).with_context(|| counters.to_string())?;
        for counted in ["echo-packet-output", "echo-packet-input"] {
            ensure!(its[counted].as_u64() > Some(20), "{its}");
        }
        ensure!(its["session-down"] == 0, "{its}");
        Ok(())
    });
    // In IPv6 it is told to send none: it would send them to a program of the node.
    eventually("BFD over IPv6, without echo packets of the router", 30, || {
        let peers = frr.json("show bfd peers")?;
        let six = |peer: &&serde_json::Value| peer["peer"].as_str().is_some_and(|peer| peer.contains(':'));
        let told =
            |peer: &serde_json::Value| peer["status"] == "up" && peer["remote-echo-receive-interval"] == 0;
        let its: Vec<_> = peers.as_array().into_iter().flatten().filter(six).collect();
        ensure!(its.len() == 3 && its.iter().all(|peer| told(peer)), "{peers}");
        Ok(())
    });
    // The router gets another link-layer address, as when its part is taken by a spare: no session takes note of it.
    let since =
        || ["node1", "node2", "node3"].map(|node| session(node, "172.22.0.1").unwrap()["since"].clone());
    let before = since();
    // Those of a session before with that router are counted, too.
    let downs = || sample(&metrics("172.22.0.12").unwrap(), "bfd_session_down_events").unwrap_or(0);
    let downs_before = downs();
    let elsewhere = Elsewhere::router();
    until_more_echoes(60);
    drop(elsewhere);
    until_more_echoes(60);
    assert_eq!(downs(), downs_before);
    assert_eq!(since(), before, "the sessions stood");
    power::off("node2", Mode::Dark).unwrap();
    let started = Instant::now();
    let gone = frr.0.until("two paths", 20, |_| {
        let paths = frr.paths(&address)?;
        ensure!(paths.len() == 2, "{paths:?}");
        Ok(())
    });
    let took = started.elapsed();
    power::on("node2").unwrap();
    gone.unwrap();
    println!("with echo packets, a node that was powered off left FRR's table after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    until_sessions("172.22.0.1", "Established");
    let log = kube(&format!("-n {NAMESPACE} logs -l component=speaker --tail=-1")).unwrap();
    assert!(log.contains("echo function failed"), "the speaker of node2 saw it by its own echo packets");
}

/// Waits until so many more of the echo packets of node2 have come back.
fn until_more_echoes(count: u64) {
    let echoes = || sample(&metrics("172.22.0.12")?, "bfd_echo_packet_input");
    let before = echoes().unwrap();
    eventually("more echo packets to come back", 30, || {
        let now = echoes()?;
        ensure!(now >= before + count, "{before}, {now}");
        Ok(())
    });
}

/// Another link-layer address of the router, until this value ends.
struct Elsewhere(String);

impl Elsewhere {
    fn router() -> Self {
        let former = output(on("router", "cat").arg("/sys/class/net/eth0/address")).unwrap();
        let elsewhere = Self(former.trim().to_owned());
        run_on("router", "ip link set eth0 address 02:00:5e:00:53:99").unwrap();
        elsewhere
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let done = run_on("router", &format!("ip link set eth0 address {}", self.0));
        if !std::thread::panicking() {
            done.unwrap();
        }
    }
}

/// The value of a metric of the session with the router.
pub(crate) fn sample(text: &str, name: &str) -> anyhow::Result<u64> {
    let start = format!("metallb_{name}{{peer=\"172.22.0.1:179\",");
    let sample = text.lines().find(|line| line.starts_with(&start));
    let value = sample.and_then(|line| line.rsplit(' ').next());
    value.with_context(|| format!("no {start:?} in {text}"))?.parse().context("no number")
}

/// Checks what a speaker shows while one peer with BFD is told one Service.
fn shown(text: &str, address: &IpAddr) -> anyhow::Result<()> {
    let labels = format!("service=\"bgp-bfd/web\",protocol=\"bgp\",node=\"node1\",ip=\"{address}\"");
    let announced = format!("metallb_speaker_announced{{{labels}}} 1");
    ensure!(text.lines().any(|line| line == announced), "no {announced:?} in {text}");
    let value = |name: &str| sample(text, name);
    for one in
        ["bgp_session_up", "bgp_announced_prefixes_total", "bgp_pending_prefixes_total", "bfd_session_up"]
    {
        ensure!(value(one)? == 1, "{one} is {}", value(one)?);
    }
    for counted in [
        "bgp_updates_total",
        "bgp_keepalives_received",
        "bfd_control_packet_input",
        "bfd_control_packet_output",
    ] {
        ensure!(value(counted)? > 0, "{counted} is 0");
    }
    Ok(())
}
