//! What the operator installed stays as it was installed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{get, kube},
};
use serde_json::Value;

use crate::fixture::{available, eventually};

/// The goal of the test below, for each repair.
const LIMIT: Duration = Duration::from_secs(2);

fn container(kind: &str, name: &str) -> anyhow::Result<Value> {
    let object = get(&["-n", NAMESPACE, kind, name])?;
    Ok(object["spec"]["template"]["spec"]["containers"][0].clone())
}

#[test]
fn what_is_deleted_or_changed_by_hand_is_restored_within_two_seconds() {
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

#[test]
fn deleting_the_resource_removes_what_it_brought() {
    available();
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    eventually("the workloads to go", 30, || {
        let left = kube(&format!(
            "-n {NAMESPACE} get deployment,daemonset,pod,secret,configmap -l app=metallb -o name"
        ))?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
    available();
}
