//! What `speaker --router-config` prints is what the routers take.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, kube},
    pages,
    router::{Bird, Frr},
};

use crate::fixture::available;
use crate::peers::{Objects, edit, peer, scene, until_sessions};

fn advice(router: &str) -> String {
    kube(&format!("-n {NAMESPACE} exec daemonset/speaker -- /speaker --router-config {router}")).unwrap()
}

#[test]
fn frr_and_bird_take_the_configuration_that_is_printed_for_them() {
    available();
    let more = ", dualStackAddressFamily: true, enableGracefulRestart: true, bfdProfile: slow";
    let _objects = Objects::apply(&[
        ("BFDProfile", "slow", "{receiveInterval: 300, transmitInterval: 300}"),
        ("BGPPeer", "advice", &peer("172.22.0.1", more)),
    ]);
    let scene = scene("bgp-advice", "[198.51.100.100/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    let printed = pages::run_block("bgp.md", "--router-config frr").unwrap();
    let frr = Frr::start("router", &printed).unwrap();
    until_sessions("172.22.0.1", "Established");
    frr.0
        .until("three paths in FRR", 30, |_| {
            let paths = frr.paths(&address.to_string())?;
            ensure!(paths.len() == 3 && paths.iter().all(|path| path["valid"] == true), "{paths:?}");
            Ok(())
        })
        .unwrap();
    drop(frr);
    let around = "router id 172.22.0.1;\nprotocol device {}\nprotocol direct { ipv4; ipv6; }\n\
                  protocol bfd { interface \"*\" { min rx interval 300 ms; min tx interval 300 ms; }; }\n";
    let bird = Bird::start("router", &format!("{around}{}", advice("bird"))).unwrap();
    bird.0
        .until("three ways in BIRD", 60, |_| {
            let said = bird.ask(&format!("show route all for {address}/32"))?;
            ensure!(said.matches("BGP.next_hop").count() == 3, "{said}");
            Ok(())
        })
        .unwrap();
    drop(bird);
    // With echo packets FRR has a profile of BFD to itself: typed in, as an administrator does it.
    edit(
        "BFDProfile",
        "slow",
        "{receiveInterval: 300, transmitInterval: 300, echoMode: true, echoInterval: 100}",
    );
    let frr = Frr::start("router", "").unwrap();
    let lines = advice("frr");
    let lines: Vec<&str> = ["configure terminal"].into_iter().chain(lines.lines()).collect();
    frr.commands(&lines).unwrap();
    until_sessions("172.22.0.1", "Established");
    frr.0
        .until("BFD with echo packets", 30, |_| {
            let peers = frr.json("show bfd peers")?;
            let all: Vec<_> = peers.as_array().into_iter().flatten().collect();
            let echoes = |peer: &&&serde_json::Value| {
                peer["status"] == "up"
                    && ["echo-transmit-interval", "remote-echo-receive-interval"]
                        .iter()
                        .all(|field| peer[*field] == 100)
            };
            ensure!(all.len() == 3 && all.iter().filter(echoes).count() == 3, "{peers}");
            Ok(())
        })
        .unwrap();
    let unknown = kube(&format!("-n {NAMESPACE} exec daemonset/speaker -- /speaker --router-config ios"));
    let said = format!("{:#}", unknown.unwrap_err());
    assert!(said.contains("none of frr, bird, junos, eos, routeros"), "{said}");
}
