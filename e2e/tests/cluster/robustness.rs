//! What breaks around the operator costs no object, no address and no true word. Long: `make e2e-full` runs these.

use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use metallb_e2e::{
    cluster,
    deploy::{self, NAMESPACE},
    observe::{address, addresses, apply, condition, fetch, get, kube},
};
use nix::sys::signal::Signal;

use crate::{
    fixture::{Scene, eventually},
    upgrade::{Operator, runs},
};

/// A Service that answers; its address is to stay.
fn served(scene: &Scene) -> IpAddr {
    scene.service("web", ", externalTrafficPolicy: Local");
    let address = address(scene.name, "web").unwrap();
    eventually("an answer", 20, || fetch(address).map(drop));
    address
}

/// Whether all is as it was: the conditions say so, and it is so.
fn unharmed(scene: &Scene, held: IpAddr) {
    eventually("the conditions to be true again", 90, || {
        let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        for (kind, want) in [("Available", "True"), ("Degraded", "False"), ("Progressing", "False")] {
            let seen = condition(&object, kind).context("no condition yet")?;
            ensure!(seen.0 == want, "{kind}: {seen:?}");
        }
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} get deployment/controller daemonset/speaker secret/metallb-memberlist"))
        .unwrap();
    assert_eq!(addresses(scene.name, "web").unwrap(), [held]);
    eventually("an answer", 20, || fetch(held).map(drop));
}

/// Waits until the API server answers again. The controller manager begins anew then: it ends when it cannot renew its
/// Lease, and this cluster's, which is alone and has none, would go on with watches that never recover.
fn answers_again() {
    eventually("the API server", 60, || kube("get --raw /readyz").map(drop));
    cluster::restart("kube-controller-manager").unwrap();
}

#[test]
#[ignore = "long"]
fn a_restart_of_the_api_server_is_survived() {
    let scene = Scene::new("apiserver", "[172.22.0.196/32]");
    let held = served(&scene);
    cluster::restart("kube-apiserver").unwrap();
    answers_again();
    // What happens after it is seen again.
    eventually("a deletion to be possible", 30, || {
        kube(&format!("-n {NAMESPACE} delete daemonset speaker")).map(drop)
    });
    unharmed(&scene, held);
}

#[test]
#[ignore = "long"]
fn an_etcd_that_stands_still_for_thirty_seconds_is_survived() {
    let scene = Scene::new("etcd", "[172.22.0.197/32]");
    let held = served(&scene);
    assert_eq!(cluster::signal("etcd", Signal::SIGSTOP).unwrap(), 1);
    sleep(Duration::from_secs(30));
    cluster::signal("etcd", Signal::SIGCONT).unwrap();
    answers_again();
    unharmed(&scene, held);
}

#[test]
#[ignore = "long"]
fn a_definition_that_is_removed_and_put_back_brings_everything_back() {
    let scene = Scene::new("crd", "[172.22.0.198/32]");
    let held = served(&scene);
    kube("delete crd metallbs.metallb.io --timeout=60s").unwrap();
    eventually("the workloads to go with the resource", 60, || {
        let left = kube(&format!("-n {NAMESPACE} get deployment,daemonset -l app=metallb -o name"))?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
    assert_eq!(addresses(scene.name, "web").unwrap(), [held], "without a controller nothing is taken away");
    deploy::deploy().unwrap();
    eventually("the resource to be accepted", 60, || apply(include_str!("../../demo/metallb.yaml")));
    unharmed(&scene, held);
}

#[test]
#[ignore = "long"]
fn an_operator_that_is_killed_at_each_step_of_an_upgrade_finishes_it() {
    let scene = Scene::new("killed", "[172.22.0.199/32]");
    let held = served(&scene);
    let operator = Operator::remember();
    Operator::replace("0.4.0", &["controller", "speaker"]);
    let mut killed = Vec::new();
    let began = Instant::now();
    eventually("version 0.4.0 to run everywhere", 240, || {
        let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let (_, _, message) = condition(&object, "Progressing").context("no condition yet")?;
        let step = ["step 2", "step 3", "step 4"].into_iter().find(|step| message.contains(step));
        if let Some(step) = step.filter(|step| !killed.contains(step)) {
            killed.push(step);
            println!("killed after {} ms at {message}", began.elapsed().as_millis());
            cluster::signal("operator", Signal::SIGKILL)?;
        }
        ensure!(object["status"]["version"] == "0.4.0", "{}", object["status"]);
        Ok(())
    });
    assert!(killed.contains(&"step 3") && killed.contains(&"step 4"), "{killed:?}");
    runs("0.4.0", 60);
    unharmed(&scene, held);
    drop(operator);
}
