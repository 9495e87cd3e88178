//! What `speaker --router-config` prints is what the routers take.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, kube},
    router::{Bird, Frr},
};

use crate::fixture::available;
use crate::peers::{Objects, peer, scene, until_sessions};

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
    let frr = Frr::start("router", &advice("frr")).unwrap();
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
    let unknown = kube(&format!("-n {NAMESPACE} exec daemonset/speaker -- /speaker --router-config ios"));
    let said = format!("{:#}", unknown.unwrap_err());
    assert!(said.contains("none of frr, bird, junos, eos, routeros"), "{said}");
}
