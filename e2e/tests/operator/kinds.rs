//! Kinds that this cluster does not know.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{apply, get, kube},
};

use crate::fixture::{available, eventually};

/// Makes a kind known whose objects may say anything, and waits until it is served. The name of its definition.
pub(crate) fn define(group: &str, version: &str, kind: &str) -> String {
    let singular = kind.to_lowercase();
    let name = format!("{singular}s.{group}");
    apply(&format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}}}\nspec:\n  \
         group: {group}\n  scope: Namespaced\n  names: {{kind: {kind}, plural: {singular}s, singular: {singular}}}\n  \
         versions:\n  - name: {version}\n    served: true\n    storage: true\n    schema: {{openAPIV3Schema: {{type: \
         object, x-kubernetes-preserve-unknown-fields: true}}}}\n"
    ))
    .unwrap();
    kube(&format!("wait crd/{name} --for=condition=Established --timeout=10s")).unwrap();
    name
}

#[test]
fn monitors_come_once_their_kind_is_known_and_go_when_they_are_not_wanted() {
    const MONITORS: [&str; 2] = ["controller-monitor", "speaker-monitor"];
    available();
    let monitors = |monitors: &str| {
        kube(&format!(
            "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"monitoring\":{monitors}}}}}"
        ))
        .unwrap();
    };
    let services = || kube(&format!("-n {NAMESPACE} get services -l app=metallb -o name"));
    monitors("{\"monitors\":\"ServiceMonitor\"}");
    eventually("what needs no further kind", 10, || {
        ensure!(services()?.contains("controller-monitor-service"), "{}", services()?);
        Ok(())
    });
    available();
    let definition = define("monitoring.coreos.com", "v1", "ServiceMonitor");
    eventually("the monitors", 30, || {
        MONITORS.iter().try_for_each(|name| get(&["-n", NAMESPACE, "servicemonitor", name]).map(drop))
    });
    kube(&format!("-n {NAMESPACE} delete servicemonitor speaker-monitor")).unwrap();
    eventually("the monitor to be made again", 5, || {
        get(&["-n", NAMESPACE, "servicemonitor", "speaker-monitor"]).map(drop)
    });
    monitors("null");
    eventually("what is not wanted to go", 30, || {
        let left = services()? + &kube(&format!("-n {NAMESPACE} get servicemonitors -o name"))?;
        ensure!(!left.contains("monitor"), "{left}");
        Ok(())
    });
    kube(&format!("delete crd {definition}")).unwrap();
    available();
}
