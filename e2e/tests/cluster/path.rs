//! From a MetalLB resource to the client's answer, through the real kubelet, kube-proxy and containers.

use std::net::IpAddr;

use anyhow::ensure;
use metallb_e2e::observe::{address, announcer, fetch, get, owner};

use crate::fixture::{Scene, eventually};

#[test]
fn a_client_gets_answers_over_ipv4_and_ipv6_from_the_node_that_announces() {
    let scene = Scene::new("path", "[172.22.0.160/30, fd00:22::160/126]");
    scene.service("four", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    for (service, first) in [("four", "172.22.0.160"), ("six", "fd00:22::160")] {
        let address = address(scene.name, service).unwrap();
        assert_eq!(address, first.parse::<IpAddr>().unwrap(), "the lowest address of the pool comes first");
        eventually(&format!("an answer from {address}"), 20, || {
            let answer = fetch(address)?;
            ensure!(answer.starts_with("web-") && answer.contains(" on node"), "{answer:?}");
            Ok(())
        });
        eventually("ServiceL2Status to name the node that answers on the wire", 10, || {
            let (said, seen) = (announcer(scene.name, service)?, owner(address)?);
            ensure!(said.as_deref() == Some(&seen), "said {said:?}, seen {seen}");
            Ok(())
        });
        let object = get(&["-n", scene.name, "service", service]).unwrap();
        assert_eq!(object["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"], scene.name);
    }
}

#[test]
fn the_controllers_log_has_the_line_that_the_documentation_tells_to_look_for() {
    let scene = Scene::new("logline", "[172.22.0.164/32]");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    let want = [
        "\"event\":\"ipAllocated\"".to_owned(),
        format!("\"ip\":\"{address}\""),
        "\"msg\":\"IP address assigned by controller\"".to_owned(),
    ];
    eventually("the line in the log", 10, || {
        let log = metallb_e2e::observe::kube("-n metallb-system logs deployment/controller --tail=200")?;
        ensure!(log.lines().any(|line| want.iter().all(|part| line.contains(part))), "{log}");
        Ok(())
    });
}
