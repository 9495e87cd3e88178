//! Nothing is written when nothing changed.

use std::time::Duration;

use anyhow::{Context, ensure};
use metallb_e2e::{
    audit, cluster,
    deploy::NAMESPACE,
    observe::{address, condition, get, kube},
};

use crate::fixture::{Scene, eventually};

/// Waits until a pod that is there now holds the Lease and renewed it three times: by then it has seen everything.
fn settled(lease: &str) {
    let mut renewed = Vec::new();
    eventually(&format!("a new holder of Lease {lease} to settle"), 60, || {
        let object = get(&["-n", NAMESPACE, "lease", lease])?;
        let holder = object["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        kube(&format!("-n {NAMESPACE} get pod {holder}")).context("the holder is gone")?;
        let time = object["spec"]["renewTime"].to_string();
        if renewed.last() != Some(&time) {
            renewed.push(time);
        }
        ensure!(renewed.len() > 3, "{holder} renewed {} times", renewed.len());
        Ok(())
    });
}

/// Waits until the operator has noted that what is installed works: it does so after a minute.
fn noted() {
    eventually("what is installed to have worked for a while", 120, || {
        let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let conditions = object["status"]["conditions"].as_array().context("no condition yet")?;
        let upgradeable = conditions.iter().find(|condition| condition["type"] == "Upgradeable");
        let upgradeable = upgradeable.context("no Upgradeable yet")?;
        let since: jiff::Timestamp =
            upgradeable["lastTransitionTime"].as_str().context("no time")?.parse()?;
        let long_ago = jiff::Timestamp::now() - Duration::from_secs(75);
        ensure!(upgradeable["status"] == "True" && since < long_ago, "{upgradeable}");
        Ok(())
    });
}

#[test]
fn operator_and_controller_restarted_with_no_change_write_nothing_but_leases() {
    if cluster::is_external() {
        println!("skipped: the audit log of an existing cluster is not ours to read");
        return;
    }
    noted();
    let scene = Scene::new("quiet", "[172.22.0.184/30, fd00:22::184/126]");
    scene.service("four", "");
    scene.service("six", ", ipFamilies: [IPv6]");
    address(scene.name, "four").unwrap();
    address(scene.name, "six").unwrap();
    let leases = ["metallb.io.metallboperator", "metallb-controller"];
    leases.iter().for_each(|lease| settled(lease));
    for (selector, deployment, account, lease) in [
        (
            "control-plane=controller-manager",
            "metallb-operator-controller-manager",
            "manager-account",
            leases[0],
        ),
        ("app=metallb,component=controller", "controller", "controller", leases[1]),
    ] {
        // The operator must write what it sees of the controller's restart; its own writes are counted on its turn.
        let mark = audit::mark().unwrap();
        kube(&format!("-n {NAMESPACE} delete pod -l {selector}")).unwrap();
        kube(&format!("-n {NAMESPACE} rollout status deployment/{deployment} --timeout=60s")).unwrap();
        settled(lease);
        let mut writes = audit::writes_since(mark, account).unwrap();
        assert!(writes.remove("update leases").is_some(), "the audit log tells of the Lease: {writes:?}");
        assert!(writes.is_empty(), "{account} wrote {writes:?}");
    }
}

#[test]
fn without_a_pool_the_programs_are_well_and_idle() {
    if cluster::is_external() {
        println!("skipped: the audit log of an existing cluster is not ours to read");
        return;
    }
    let scene = Scene::new("idle", "[172.22.0.188/32]");
    kube(&format!("-n {NAMESPACE} delete addresspool {}", scene.name)).unwrap();
    eventually("the MetalLB resource to say that there is no pool", 20, || {
        let metallb = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let (status, _, message) = condition(&metallb, "Available").context("no condition yet")?;
        ensure!(status == "True" && message.contains("there is no address pool"), "{status}: {message}");
        Ok(())
    });
    let mark = audit::mark().unwrap();
    settled("metallb-controller");
    for account in ["manager-account", "controller", "speaker"] {
        let mut writes = audit::writes_since(mark, account).unwrap();
        writes.remove("update leases");
        assert!(writes.is_empty(), "{account} wrote {writes:?}");
    }
}
