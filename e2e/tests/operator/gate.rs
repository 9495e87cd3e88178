//! Policies on IP failover, and DeploymentConfigs, a kind that a cluster need not know.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{apply, kube},
    options::Undo,
};

use crate::{
    fixture::{Scene, available, eventually},
    ipfailover::{IP_FAILOVER, metallb_condition},
    kinds::define,
};

/// Waits until Degraded names each of `workloads` as what nothing is installed beside.
fn blocked_by(workloads: &[&str]) {
    eventually("the resource to name what blocks it", 20, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("True", "IPFailoverPresent")
                && workloads.iter().all(|name| message.contains(name)),
            "{status} {reason} {message}"
        );
        Ok(())
    });
}

#[test]
fn each_policy_on_ip_failover_does_what_it_says_and_deployment_configs_count_once_they_are_known() {
    available();
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    // Left behind, it would block every other test.
    let _gone = Undo(|| drop(kube("delete namespace ipf --ignore-not-found")));
    apply(IP_FAILOVER).unwrap();
    apply(include_str!("../../demo/metallb.yaml")).unwrap();
    blocked_by(&["Deployment ipf/ipfailover"]);
    let definition = define("apps.openshift.io", "v1", "DeploymentConfig");
    apply(DEPLOYMENT_CONFIG).unwrap();
    blocked_by(&["Deployment ipf/ipfailover", "DeploymentConfig ipf/old"]);
    kube("-n ipf delete deployment ipfailover").unwrap();
    eventually("the one that is gone to be forgotten", 5, || {
        let (_, _, message) = metallb_condition("Degraded")?;
        ensure!(!message.contains("Deployment ipf/ipfailover"), "{message}");
        Ok(())
    });
    blocked_by(&["DeploymentConfig ipf/old"]);
    eventually("what the deleted resource had to go, and nothing to come", 30, || {
        let left = kube(&format!("-n {NAMESPACE} get deployment,daemonset -l app=metallb -o name"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
    blocked_by(&["DeploymentConfig ipf/old"]);

    let policy = |policy: &str| {
        kube(&format!(
            "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"ipFailoverPolicy\":\"{policy}\"}}}}"
        ))
        .unwrap();
    };
    policy("Warn");
    available();
    let (status, _, message) = metallb_condition("IPFailoverAbsent").unwrap();
    assert!(status == "False" && message.contains("DeploymentConfig ipf/old"), "{status} {message}");
    policy("Ignore");
    eventually("it to be looked for no longer", 5, || {
        let (status, reason, _) = metallb_condition("IPFailoverAbsent")?;
        ensure!((status.as_str(), reason.as_str()) == ("True", "NotLookedFor"), "{status} {reason}");
        Ok(())
    });
    policy("Block");
    eventually("what is installed to be kept", 5, || {
        ensure!(metallb_condition("IPFailoverAbsent")?.0 == "False", "not told yet");
        Ok(())
    });
    assert_eq!(metallb_condition("Available").unwrap().0, "True");
    assert_eq!(metallb_condition("Degraded").unwrap().0, "False", "no address is claimed twice");

    let scene = Scene::new("twice", "[172.22.0.148/30]");
    eventually("the address that two claim to be named", 5, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("True", "IPFailoverPresent")
                && message.contains("172.22.0.150-151 of DeploymentConfig ipf/old")
                && message.contains("172.22.0.148/30 of IPAddressPool twice"),
            "{status} {reason} {message}"
        );
        Ok(())
    });
    eventually("the installation to be settled", 20, || {
        let (status, reason, message) = metallb_condition("Upgradeable")?;
        ensure!(status == "True", "{reason}: {message}");
        Ok(())
    });
    drop(scene);
    kube(&format!("delete crd {definition}")).unwrap();
    kube("delete namespace ipf").unwrap();
    eventually("the resource to tell that it is gone", 20, || {
        let (status, _, message) = metallb_condition("IPFailoverAbsent")?;
        ensure!(status == "True", "{status} {message}");
        Ok(())
    });
}

const DEPLOYMENT_CONFIG: &str = "
apiVersion: apps.openshift.io/v1
kind: DeploymentConfig
metadata: {name: old, namespace: ipf}
spec:
  replicas: 1
  template:
    metadata: {labels: {ipfailover: old}}
    spec:
      hostNetwork: true
      containers:
      - name: keepalived
        image: registry.example/openshift/origin-keepalived-ipfailover:v3.11
        env: [{name: OPENSHIFT_HA_VIRTUAL_IPS, value: 172.22.0.150-151}]
";
