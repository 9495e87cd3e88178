//! Each published way of installing, on a cluster that has nothing of MetalLB: by install.yaml, by what OLM makes of the
//! bundle, by Helm. Each time a Service gets its address, no call is refused for want of rights, and removal is complete.
//! What is installed before is removed; the images must be on the nodes (`make e2e-installers` sees to both).

mod certificate;
mod helm;
mod olm;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use metallb_e2e::{
    audit::{self, Mark},
    cluster::{checkout, kubectl},
    deploy::{self, CLUSTER_WIDE, NAMESPACE},
    exec::{output, wait_until},
    observe::{address, apply, condition, get, kube},
    pages,
};

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";

/// A pool, and a Service that is given its first address.
const SERVICE: &str = "\
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: installers, namespace: metallb-system}
spec: {protocol: layer2, addresses: [172.22.0.190/31]}
---
apiVersion: v1
kind: Service
metadata: {name: installers, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
";

/// Removes everything of MetalLB.
fn remove_everything() {
    deploy::remove().unwrap();
}

/// Waits until `check` succeeds, or fails the test with what was there instead.
fn eventually(what: &str, seconds: u64, mut check: impl FnMut() -> Result<()>) {
    wait_until(what, Duration::from_secs(seconds), || check().map(|()| None)).unwrap();
}

const METALLB: &str = include_str!("../../../config/samples/metallb.yaml");

/// Waits until the operator runs and the API server can ask it: that is told of an endpoint a moment after the pod is ready.
fn operator_runs() {
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), METALLB).unwrap();
    let tried = format!("apply --dry-run=server -f {}", file.path().display());
    eventually("the webhooks to be asked", 20, || kube(&tried).map(drop));
}

fn available() {
    eventually("a MetalLB resource", 30, || get(&["-n", NAMESPACE, "metallb/metallb"]).map(drop));
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=90s")).unwrap();
}

/// With the operator there and the MetalLB resource made by `create`, a Service gets the first address of its pool.
fn serves(create: impl FnOnce()) {
    operator_runs();
    create();
    available();
    apply(SERVICE).unwrap();
    assert_eq!(address("default", "installers").unwrap().to_string(), "172.22.0.190");
    kube("-n default delete service installers").unwrap();
}

fn metallb() {
    apply(METALLB).unwrap();
}

/// The operator judges what is written: a range that ends before it begins.
fn reversed_is_refused() {
    let refused = apply(
        "apiVersion: metallb.io/v1beta1\nkind: AddressPool\n\
         metadata: {name: reversed, namespace: metallb-system}\n\
         spec: {protocol: layer2, addresses: [172.22.0.199-172.22.0.190]}\n",
    );
    let refused = format!("{:#}", refused.unwrap_err());
    assert!(refused.contains("spec.addresses[0]"), "the operator was not asked: {refused}");
}

/// The rights are enough for all that was done since `mark`. After a removal they are not: a program that ends gives its
/// Lease back when its rights may be gone already.
fn none_is_refused(mark: Mark) {
    assert_eq!(audit::refused_since(mark).unwrap(), BTreeSet::new());
}

/// Names of the workloads and rights that carry MetalLB's name or are in its namespace.
fn left() -> Vec<String> {
    let cluster = kube(&format!("get {CLUSTER_WIDE} -o name")).unwrap();
    let namespaced = "deployments,daemonsets,serviceaccounts,roles,rolebindings,configmaps,secrets";
    let namespaced = kube(&format!("-n {NAMESPACE} get {namespaced} -o name --ignore-not-found")).unwrap();
    let cluster = cluster.lines().filter(|name| name.contains("metallb"));
    let own = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
    cluster.chain(namespaced.lines().filter(|name| !own.contains(name))).map(str::to_owned).collect()
}

/// Waits until nothing of the operands is left, which the garbage collector removes after the resource.
fn operands_go() {
    kube("delete metallbs --all --all-namespaces --timeout=60s").unwrap();
    operands_are_gone();
}

fn operands_are_gone() {
    for object in ["deployment/controller", "daemonset/speaker"] {
        kube(&format!("-n {NAMESPACE} wait {object} --for=delete --timeout=60s")).unwrap();
    }
}

/// A node has pulled the image from its registry.
fn was_pulled(image: &str) {
    let path = "jsonpath={..message}";
    let events =
        kube(&format!("-n {NAMESPACE} get events --field-selector reason=Pulled -o {path}")).unwrap();
    assert!(events.contains(&format!("Successfully pulled image \"{image}\"")), "{image}: {events}");
}

#[test]
fn install_yaml_is_right_at_the_first_apply() {
    remove_everything();
    let mark = audit::mark().unwrap();
    pages::run_block("install.md", "kubectl apply -f dist/install.yaml").unwrap();
    serves(|| {});
    none_is_refused(mark);
    pages::run_block("install.md", "kubectl delete -f dist/install.yaml").unwrap();
    assert_eq!(left(), Vec::<String>::new());
}

#[test]
fn the_readme_installs_by_kustomize() {
    remove_everything();
    let mark = audit::mark().unwrap();
    pages::run_block("README.md", "kubectl apply -k config/default").unwrap();
    serves(|| {});
    none_is_refused(mark);
}

#[test]
fn the_default_resource_is_made_once_where_that_is_asked_for() {
    remove_everything();
    let mark = audit::mark().unwrap();
    output(kubectl().args(["apply", "-f"]).arg(checkout().join("dist/install.yaml"))).unwrap();
    pages::run_block("install.md", "CREATE_METALLB=true").unwrap();
    serves(|| {});
    operands_go();

    // Whoever leads now has not seen the resource.
    kube(&format!("-n {NAMESPACE} rollout restart {OPERATOR}")).unwrap();
    operator_runs();
    kube(&format!("-n {NAMESPACE} delete addresspool installers")).unwrap();
    apply(SERVICE).unwrap();
    eventually("the operator to have looked", 30, || {
        let pool = get(&["-n", NAMESPACE, "addresspool/installers"])?;
        ensure!(condition(&pool, "Ready").is_some_and(|ready| ready.0 == "True"), "{}", pool["status"]);
        Ok(())
    });
    assert_eq!(kube("get metallbs --all-namespaces -o name").unwrap(), "", "it stays deleted");
    kube("-n default delete service installers").unwrap();

    kube(&format!("-n {NAMESPACE} delete configmap metallb-created")).unwrap();
    available();
    none_is_refused(mark);
}
