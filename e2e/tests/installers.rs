//! Each published way of installing, on a cluster that has nothing of MetalLB: by install.yaml, by what OLM makes of the
//! bundle, by Helm. Each time a Service gets its address, no call is refused for want of rights, and removal is complete.
//! What is installed before is removed; the images must be on the nodes (`make e2e-installers` sees to both).

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::Result;
use metallb_api::bundle::objects::{kind, read};
use metallb_e2e::{
    audit::{self, Mark},
    cluster::{checkout, kubectl},
    deploy::NAMESPACE,
    exec::{on, output},
    layout::kubeconfig,
    observe::{address, apply, get, kube},
    olm, tools,
};
use serde_json::{Value, json};

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";

/// Removes everything of MetalLB, in the order in which an administrator does: first the resource, so that the operator
/// takes its parts away.
fn remove_everything() {
    let definition = kube("get crd metallbs.metallb.io --ignore-not-found -o name").unwrap();
    if !definition.is_empty() {
        kube("delete metallbs --all --all-namespaces --timeout=60s").unwrap();
    }
    kube(&format!("delete namespace {NAMESPACE} --ignore-not-found --timeout=120s")).unwrap();
    let roles = kube("get clusterroles,clusterrolebindings -o name").unwrap();
    for role in roles.lines().filter(|role| role.contains("metallb")) {
        kube(&format!("delete {role}")).unwrap();
    }
    let definitions = kube("get crd -o name").unwrap();
    for definition in definitions.lines().filter(|name| name.ends_with(".metallb.io")) {
        kube(&format!("delete {definition} --timeout=60s")).unwrap();
    }
}

/// With the operator there and the MetalLB resource made by `create`, a Service gets the first address of its pool.
fn serves(create: impl FnOnce()) {
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    create();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=90s")).unwrap();
    apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: installers, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [172.22.0.190/31]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: installers, namespace: default}}\n\
         spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n"
    ))
    .unwrap();
    assert_eq!(address("default", "installers").unwrap().to_string(), "172.22.0.190");
    kube("-n default delete service installers").unwrap();
}

fn metallb() {
    apply(include_str!("../../config/samples/metallb.yaml")).unwrap();
}

/// The rights are enough for all that was done since `mark`. After a removal they are not: a program that ends gives its
/// Lease back when its rights may be gone already.
fn none_is_refused(mark: Mark) {
    assert_eq!(audit::refused_since(mark).unwrap(), BTreeSet::new());
}

/// Names of the workloads and rights that carry MetalLB's name or are in its namespace.
fn left() -> Vec<String> {
    let cluster = kube("get clusterroles,clusterrolebindings -o name").unwrap();
    let namespaced = "deployments,daemonsets,serviceaccounts,roles,rolebindings,configmaps,secrets";
    let namespaced = kube(&format!("-n {NAMESPACE} get {namespaced} -o name --ignore-not-found")).unwrap();
    let cluster = cluster.lines().filter(|name| name.contains("metallb"));
    let own = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
    cluster.chain(namespaced.lines().filter(|name| !own.contains(name))).map(str::to_owned).collect()
}

/// Waits until nothing of the operands is left, which the garbage collector removes after the resource.
fn operands_go() {
    kube("delete metallbs --all --all-namespaces --timeout=60s").unwrap();
    for object in ["deployment/controller", "daemonset/speaker"] {
        kube(&format!("-n {NAMESPACE} wait {object} --for=delete --timeout=60s")).unwrap();
    }
}

#[test]
fn install_yaml_is_right_at_the_first_apply() {
    remove_everything();
    let mark = audit::mark().unwrap();
    output(kubectl().args(["apply", "-f"]).arg(checkout().join("dist/install.yaml"))).unwrap();
    serves(metallb);
    none_is_refused(mark);
    operands_go();
    output(kubectl().args(["delete", "-f"]).arg(checkout().join("dist/install.yaml"))).unwrap();
    assert_eq!(left(), Vec::<String>::new());
}

fn create(objects: &[Value]) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(file.path(), list.to_string())?;
    output(kubectl().args(["apply", "--server-side", "-f"]).arg(file.path()))
}

#[test]
fn olm_installs_the_bundle() {
    remove_everything();
    let mark = audit::mark().unwrap();
    // The administrator makes the namespace, by the first document of the files in olm/.
    let text = fs::read_to_string(checkout().join("olm/install-automatic.yaml")).unwrap();
    let namespace: Vec<Value> =
        read(&text).unwrap().into_iter().filter(|object| kind(object) == "Namespace").collect();
    create(&namespace).unwrap();
    let objects = olm::objects(&checkout().join("bundle"), NAMESPACE).unwrap();
    create(&objects).unwrap();
    serves(metallb);
    let deployment = get(&["-n", NAMESPACE, OPERATOR]).unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["olm.targetNamespaces"], "");
    none_is_refused(mark);

    operands_go();
    // OLM keeps definitions when the operator is removed: with them the resources of the users would go.
    let (kept, removed): (Vec<&Value>, Vec<&Value>) =
        objects.iter().partition(|object| kind(object) == "CustomResourceDefinition");
    assert_eq!(kept.len(), 11);
    for object in removed {
        let name = object["metadata"]["name"].as_str().unwrap();
        kube(&format!("-n {NAMESPACE} delete {} {name}", kind(object).to_lowercase())).unwrap();
    }
    assert_eq!(
        kube(&format!("-n {NAMESPACE} get addresspools -o name")).unwrap().trim(),
        "addresspool.metallb.io/installers"
    );
}

fn helm(arguments: &[&str]) -> Result<String> {
    let mut command: Command = on("cp", tools::helm()?);
    command.arg("--kubeconfig").arg(kubeconfig()).args(["--namespace", NAMESPACE]);
    output(command.args(arguments))
}

#[test]
fn helm_installs_upgrades_and_removes_the_chart() {
    remove_everything();
    let mark = audit::mark().unwrap();
    let chart = checkout().join("config/chart");
    let chart = chart.to_str().unwrap();
    // The names are those of the scripts that users of MetalLB's own chart have.
    let images = [
        "--set",
        "controller.image.repository=localhost/metallb/controller",
        "--set",
        "speaker.image.repository=localhost/metallb/speaker",
    ];
    let upgrade = ["upgrade", "--install", "--create-namespace", "metallb", chart];
    helm(&[upgrade.as_slice(), &images].concat()).unwrap();
    kube(&format!("label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged")).unwrap();
    serves(|| {});
    let definitions = checkout().join("config/chart/crds");
    output(kubectl().args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(definitions)).unwrap();
    helm(&[upgrade.as_slice(), &images, &["--set", "speaker.logLevel=debug"]].concat()).unwrap();
    let spec = &get(&["-n", NAMESPACE, "metallb/metallb"]).unwrap()["spec"];
    assert_eq!(*spec, json!({ "logLevel": "debug" }));
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    none_is_refused(mark);
    helm(&["uninstall", "metallb"]).unwrap();
    for object in ["deployment/controller", "daemonset/speaker"] {
        kube(&format!("-n {NAMESPACE} wait {object} --for=delete --timeout=60s")).unwrap();
    }
}
