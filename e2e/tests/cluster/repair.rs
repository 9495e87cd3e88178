//! What the operator installed stays as it was installed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use metallb_e2e::{
    audit,
    deploy::NAMESPACE,
    observe::{condition, get, kube},
};
use serde_json::Value;

use crate::fixture::{available, eventually};

/// The goal of the test below, for each repair.
const LIMIT: Duration = Duration::from_secs(1);

fn container(kind: &str, name: &str) -> anyhow::Result<Value> {
    let object = get(&["-n", NAMESPACE, kind, name])?;
    Ok(object["spec"]["template"]["spec"]["containers"][0].clone())
}

#[test]
fn what_is_deleted_or_changed_by_hand_is_restored_within_a_second() {
    available();
    for (kind, name) in [("deployment", "controller"), ("daemonset", "speaker")] {
        let want = container(kind, name).unwrap();
        let target = format!("-n {NAMESPACE} patch {kind} {name} --type=json -p");
        let replace = |path: &str| {
            format!(
                r#"{target} [{{"op":"replace","path":"/spec/template/spec/containers/0/{path}","value":"--log-level=error"}}]"#
            )
        };
        let changes = [format!("-n {NAMESPACE} delete {kind} {name}"), replace("image"), replace("args/0")];
        for change in changes {
            kube(&change).unwrap();
            let changed = Instant::now();
            eventually(&format!("{kind} {name} after: {change}"), 10, || {
                let seen = container(kind, name)?;
                ensure!(seen == want, "{seen}");
                Ok(())
            });
            let took = changed.elapsed();
            println!("{kind} {name} was restored {} ms after: {change}", took.as_millis());
            assert!(took < LIMIT, "{took:?}");
        }
    }
    available();
}

#[test]
fn the_memberlist_key_is_made_once_and_never_overwritten() {
    available();
    let key =
        || Ok::<_, anyhow::Error>(get(&["-n", NAMESPACE, "secret", "metallb-memberlist"])?["data"].clone());
    let made = key().unwrap();
    kube(&format!("-n {NAMESPACE} annotate metallb metallb e2e/touched={} --overwrite", std::process::id()))
        .unwrap();
    kube(&format!("-n {NAMESPACE} delete pod -l control-plane=controller-manager")).unwrap();
    kube(&format!(
        "-n {NAMESPACE} rollout status deployment/metallb-operator-controller-manager --timeout=60s"
    ))
    .unwrap();
    available();
    assert_eq!(key().unwrap(), made);
}

/// What is in the namespace beside what came with the operator, and what users may have made: kind and name.
fn left() -> anyhow::Result<Vec<String>> {
    let mut kinds = "deployment,daemonset,replicaset,pod,secret,configmap,service,networkpolicy,lease,configurationstate,\
                     servicel2status,servicebgpstatus,bgpsessionstate"
        .to_owned();
    if get(&["crd", "servicemonitors.monitoring.coreos.com"]).is_ok() {
        kinds.push_str(",servicemonitor,podmonitor,prometheusrule");
    }
    let all = kube(&format!("-n {NAMESPACE} get {kinds} -o name"))?;
    // The operator's own, the certificate of its webhooks, the Lease of its election, and what Kubernetes puts into every
    // namespace.
    let stays = |name: &&str| {
        let (kind, name) = name.split_once('/').unwrap_or_default();
        name.starts_with("metallb-operator")
            || (kind.starts_with("lease.") && name == "metallb.io.metallboperator")
            || (kind == "configmap" && name == "kube-root-ca.crt")
    };
    Ok(all.lines().filter(|name| !stays(name)).map(str::to_owned).collect())
}

#[test]
fn deleting_the_resource_removes_what_it_brought() {
    available();
    let lease = || anyhow::Ok(get(&["-n", NAMESPACE, "lease", "metallb-controller"])?["metadata"].clone());
    let resource = get(&["-n", NAMESPACE, "metallb", "metallb"]).unwrap()["metadata"]["uid"].clone();
    assert_eq!(
        lease().unwrap()["ownerReferences"][0]["uid"],
        resource,
        "the controller's Lease goes with it"
    );
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    eventually("everything to go", 60, || {
        let left = left()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    let made = Instant::now();
    available();
    println!(
        "Available {} ms after the resource was made, with the images present",
        made.elapsed().as_millis()
    );
    let resource = get(&["-n", NAMESPACE, "metallb", "metallb"]).unwrap()["metadata"]["uid"].clone();
    assert_eq!(lease().unwrap()["ownerReferences"][0]["uid"], resource, "and with the next one");
}

/// Waits until `check` holds again after `change`, and asserts that it took no longer than the goal.
fn restored(change: &str, mut check: impl FnMut() -> anyhow::Result<()>) {
    let changed = Instant::now();
    eventually(&format!("what it was before: {change}"), 10, &mut check);
    let took = changed.elapsed();
    println!("restored {} ms after: {change}", took.as_millis());
    assert!(took < LIMIT, "{took:?}");
}

#[test]
fn every_kind_of_object_is_restored_and_so_is_the_number_of_controllers() {
    available();
    for (kind, name, field, edit) in [
        ("configmap", "metallb-excludel2", "data", r#"{"data":{"excludel2.yaml":"x"}}"#),
        ("networkpolicy", "controller", "spec", r#"{"spec":{"egress":[]}}"#),
        ("secret", "metallb-memberlist", "data", ""),
        ("deployment", "controller", "spec", r#"{"spec":{"replicas":0}}"#),
    ] {
        let read = || anyhow::Ok(get(&["-n", NAMESPACE, kind, name])?[field].clone());
        let want = read().unwrap();
        let same = || {
            let seen = read()?;
            ensure!(seen == want, "{seen}");
            Ok(())
        };
        if !edit.is_empty() {
            kube(&format!("-n {NAMESPACE} patch {kind} {name} --type=merge -p {edit}")).unwrap();
            restored(&format!("an edit of {kind} {name}"), same);
        }
        kube(&format!("-n {NAMESPACE} delete {kind} {name}")).unwrap();
        restored(&format!("the deletion of {kind} {name}"), same);
    }
    available();
}

#[test]
fn what_others_own_is_left_alone() {
    available();
    let mark = audit::mark().unwrap();
    kube(&format!("-n {NAMESPACE} label daemonset speaker injected=yes --overwrite")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout restart deployment/controller")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status deployment/controller --timeout=60s")).unwrap();
    available();
    let daemon_set = get(&["-n", NAMESPACE, "daemonset", "speaker"]).unwrap();
    assert_eq!(daemon_set["metadata"]["labels"]["injected"], "yes");
    let deployment = get(&["-n", NAMESPACE, "deployment", "controller"]).unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string(), "{annotations}");
    let writes = audit::writes_since(mark, "manager-account").unwrap();
    assert!(
        !writes.keys().any(|write| write.contains("daemonsets") || write.contains("deployments")),
        "{writes:?}"
    );
    kube(&format!("-n {NAMESPACE} label daemonset speaker injected-")).unwrap();
}

#[test]
fn a_key_that_is_replaced_is_kept_beside_the_new_one() {
    available();
    let data =
        || Ok::<_, anyhow::Error>(get(&["-n", NAMESPACE, "secret", "metallb-memberlist"])?["data"].clone());
    let before = data().unwrap();
    kube(&format!(
        r#"-n {NAMESPACE} patch secret metallb-memberlist --type=merge -p {{"stringData":{{"secretkey":"another"}}}}"#
    ))
    .unwrap();
    restored("the replacement of the key", || {
        let seen = data()?;
        ensure!(seen["secretkey"] == "YW5vdGhlcg==", "the new key is kept");
        ensure!(seen["secretkey-previous"] == before["secretkey"], "the one before it is not there");
        Ok(())
    });
    available();
}

#[test]
fn a_right_that_is_missing_is_named_and_not_written() {
    available();
    let account = "metallb-system:speaker";
    kube(&format!("delete clusterrolebinding {account}")).unwrap();
    eventually("the missing right to be named", 15, || {
        let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let (_, reason, message) = condition(&object, "Degraded").context("no condition yet")?;
        ensure!(
            reason == "RequirementsMissing"
                && message.contains("ServiceAccount speaker may not list, watch nodes in the cluster"),
            "{reason}: {message}"
        );
        println!("{message}");
        Ok(())
    });
    assert!(get(&["clusterrolebinding", account]).is_err(), "the operator does not grant rights");
    metallb_e2e::deploy::deploy().unwrap();
    eventually("the resource to recover", 30, || {
        let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let (status, reason, message) = condition(&object, "Degraded").context("no condition yet")?;
        ensure!(status == "False", "{reason}: {message}");
        Ok(())
    });
}

#[test]
fn what_is_not_managed_is_left_as_it_is_until_it_is_managed_again() {
    available();
    let manage = |state: &str| {
        kube(&format!(
            r#"-n {NAMESPACE} patch metallb metallb --type=merge -p {{"spec":{{"managementState":{state}}}}}"#
        ))
        .unwrap();
    };
    manage("\"Unmanaged\"");
    let managed = || {
        let object = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        condition(&object, "Managed").context("no condition yet")
    };
    eventually("the resource to say that it is not managed", 5, || {
        ensure!(managed()?.1 == "Unmanaged", "{:?}", managed()?);
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} delete networkpolicy controller")).unwrap();
    eventually("the difference to be told", 5, || {
        let (_, _, message) = managed()?;
        ensure!(message.contains("NetworkPolicy metallb-system/controller"), "{message}");
        Ok(())
    });
    assert!(get(&["-n", NAMESPACE, "networkpolicy", "controller"]).is_err(), "it was made again");
    manage("null");
    restored("the deletion, once managed again", || {
        get(&["-n", NAMESPACE, "networkpolicy", "controller"]).map(drop)
    });
    available();
}
