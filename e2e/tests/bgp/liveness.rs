//! BFD: a path that breaks leaves the router's table at once.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use metallb_e2e::{
    observe::{address, fetch_from},
    power::{self, Mode},
    router::Frr,
};

use crate::fixture::{available, eventually};
use crate::peers::{Objects, frr, metrics, peer, scene, session, until_sessions};

/// A BFDProfile that tells of a broken path after 300 ms.
const FAST: &str = "{receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3}";

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
    power::off("node2", Mode::Dark).unwrap();
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
    println!("a node that was powered off left the router's table after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    until_sessions("172.22.0.1", "Established");
}

/// Checks what a speaker shows while one peer with BFD is told one Service.
fn shown(text: &str, address: &IpAddr) -> anyhow::Result<()> {
    let labels = format!("service=\"bgp-bfd/web\",protocol=\"bgp\",node=\"node1\",ip=\"{address}\"");
    let announced = format!("metallb_speaker_announced{{{labels}}} 1");
    ensure!(text.lines().any(|line| line == announced), "no {announced:?} in {text}");
    let value = |name: &str| -> anyhow::Result<u64> {
        let start = format!("metallb_{name}{{peer=\"172.22.0.1:179\",");
        let sample = text.lines().find(|line| line.starts_with(&start));
        let value = sample.and_then(|line| line.rsplit(' ').next());
        value.with_context(|| format!("no {start:?} in {text}"))?.parse().context("no number")
    };
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
