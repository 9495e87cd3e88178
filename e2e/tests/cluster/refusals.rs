//! What is wrong is refused with a reason, and harms nothing else.

use anyhow::{Context, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{address, addresses, apply, condition, get, kube},
};

use crate::{
    fixture::{Scene, available, eventually},
    ipfailover::{IP_FAILOVER, metallb_condition},
};

#[test]
fn a_second_resource_of_another_name_is_degraded_and_the_right_one_unharmed() {
    available();
    let before = get(&["-n", NAMESPACE, "deployment", "controller"]).unwrap()["metadata"]["uid"].clone();
    apply(&include_str!("../../demo/metallb.yaml").replace("name: metallb\n", "name: another\n")).unwrap();
    eventually("the second resource to be Degraded", 1, || {
        let object = get(&["-n", NAMESPACE, "metallb", "another"])?;
        let (status, reason, message) = condition(&object, "Degraded").context("no condition yet")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("True", "IncorrectMetalLBResourceName")
                && message.contains("only the one named \"metallb\" in namespace \"metallb-system\""),
            "{status} {reason} {message}"
        );
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} delete metallb another")).unwrap();
    let right = get(&["-n", NAMESPACE, "metallb", "metallb"]).unwrap();
    assert_eq!(condition(&right, "Available").unwrap().0, "True");
    assert_eq!(get(&["-n", NAMESPACE, "deployment", "controller"]).unwrap()["metadata"]["uid"], before);
}

#[test]
fn a_pool_with_a_bad_range_is_named_and_the_others_are_served() {
    let scene = Scene::new("badrange", "[172.22.0.180/30]");
    scene.service("before", "");
    let held = address(scene.name, "before").unwrap();
    let bad = format!(
        "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: reversed, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [172.22.0.190-172.22.0.185]}}\n"
    );
    // Refused at once, or accepted and told on the object: either way the field is named.
    if let Err(refused) = apply(&bad) {
        let message = format!("{refused:#}");
        assert!(message.contains("spec.addresses[0]"), "{message}");
    } else {
        eventually("the pool to say what is wrong", 5, || {
            let object = get(&["-n", NAMESPACE, "addresspool", "reversed"])?;
            let (status, _, message) = condition(&object, "Ready").context("no condition yet")?;
            ensure!(status == "False" && message.contains("spec.addresses[0]"), "{status} {message}");
            Ok(())
        });
        kube(&format!("-n {NAMESPACE} delete addresspool reversed")).unwrap();
    }
    scene.service("after", "");
    address(scene.name, "after").unwrap();
    assert_eq!(addresses(scene.name, "before").unwrap(), [held]);
}

#[test]
fn an_ip_failover_workload_blocks_an_installation_until_it_is_gone() {
    available();
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    apply(IP_FAILOVER).unwrap();
    kube("-n ipf rollout status deployment/ipfailover --timeout=30s").unwrap();
    apply(include_str!("../../demo/metallb.yaml")).unwrap();
    eventually("the resource to say why nothing is installed", 10, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("True", "IPFailoverPresent")
                && message.contains("ipf/ipfailover"),
            "{status} {reason} {message}"
        );
        Ok(())
    });
    eventually("what the deleted resource had to go, and nothing to come", 30, || {
        let left = kube(&format!("-n {NAMESPACE} get deployment,daemonset -l app=metallb -o name"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
    assert_eq!(metallb_condition("Degraded").unwrap().1, "IPFailoverPresent");
    kube("delete namespace ipf").unwrap();
    eventually("the installation to begin", 2, || {
        kube(&format!("-n {NAMESPACE} get deployment/controller daemonset/speaker")).map(drop)
    });
    available();
}

#[test]
fn an_ip_failover_workload_that_comes_later_is_told_and_tears_nothing_down() {
    available();
    apply(IP_FAILOVER).unwrap();
    eventually("the resource to tell of it", 10, || {
        let (status, _, message) = metallb_condition("IPFailoverAbsent")?;
        ensure!(status == "False" && message.contains("ipf/ipfailover"), "{status} {message}");
        Ok(())
    });
    assert_eq!(metallb_condition("Available").unwrap().0, "True");
    kube("delete namespace ipf").unwrap();
    eventually("the resource to tell that it is gone", 10, || {
        let (status, _, message) = metallb_condition("IPFailoverAbsent")?;
        ensure!(status == "True", "{status} {message}");
        Ok(())
    });
}
