//! No address twice, and a reason for every Service that waits.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::ensure;
use metallb_e2e::observe::{address, addresses, get, kube};

use crate::fixture::{Scene, eventually};

#[test]
fn a_pool_of_four_serves_four_services_and_tells_the_fifth_why_it_waits() {
    let scene = Scene::new("exhausted", "[172.22.0.168/30]");
    let served = ["a", "b", "c", "d"];
    for service in served {
        scene.service(service, "");
    }
    let held: BTreeSet<IpAddr> = served.iter().map(|service| address(scene.name, service).unwrap()).collect();
    assert_eq!(held.len(), 4, "each has an address of its own: {held:?}");

    scene.service("e", "");
    eventually("an Event that says why", 10, || {
        let events = get(&["-n", scene.name, "events", "--field-selector", "involvedObject.name=e"])?;
        let seen: Vec<_> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|event| format!("{} {} {}", event["type"], event["reason"], event["message"]))
            .collect();
        ensure!(
            seen.iter().any(|line| line.starts_with("\"Warning\" \"AllocationFailed\"")
                && line.contains("no available IPs in pool")
                && line.contains("exhausted")),
            "{seen:?}"
        );
        Ok(())
    });
    assert_eq!(addresses(scene.name, "e").unwrap(), Vec::<IpAddr>::new());

    let freed = address(scene.name, "b").unwrap();
    kube(&format!("-n {} delete service b", scene.name)).unwrap();
    assert_eq!(address(scene.name, "e").unwrap(), freed, "the one that waited gets what was released");
}

#[test]
fn a_requested_address_is_given_and_kept_over_a_restart_of_the_controller() {
    let scene = Scene::new("requested", "[172.22.0.172/30]");
    scene.service("web", ", loadBalancerIP: 172.22.0.174");
    let want: IpAddr = "172.22.0.174".parse().unwrap();
    assert_eq!(address(scene.name, "web").unwrap(), want);
    kube("-n metallb-system delete pod -l app=metallb,component=controller").unwrap();
    kube("-n metallb-system rollout status deployment/controller --timeout=60s").unwrap();
    scene.service("next", "");
    assert_eq!(
        address(scene.name, "next").unwrap(),
        "172.22.0.172".parse::<IpAddr>().unwrap(),
        "the new controller serves, and knows what is held"
    );
    assert_eq!(addresses(scene.name, "web").unwrap(), [want]);
}
