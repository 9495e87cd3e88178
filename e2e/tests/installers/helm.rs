//! The Helm chart, by the real Helm.

use std::{fs, process::Command};

use anyhow::Result;
use metallb_e2e::{
    audit,
    cluster::{checkout, image, kubectl},
    deploy::NAMESPACE,
    exec::{on, output},
    layout::kubeconfig,
    observe::{get, kube},
    pages,
    registry::{Access, REGISTRY, Registry, USER},
    tools,
};
use serde_json::json;

use crate::{none_is_refused, operands_are_gone, remove_everything, serves, was_pulled};

fn helm(arguments: &[&str]) -> Result<String> {
    let mut command: Command = on("cp", tools::helm()?);
    command.arg("--kubeconfig").arg(kubeconfig()).args(["--namespace", NAMESPACE]);
    output(command.args(arguments))
}

/// Runs what docs/install.md tells of Helm: the installation, the label of the namespace, the definitions.
fn as_the_page_tells() {
    pages::run_block("install.md", "helm upgrade").unwrap();
    pages::run_block("install.md", "kubectl label namespace").unwrap();
    pages::run_block("install.md", "config/chart/crds").unwrap();
}

#[test]
fn helm_installs_upgrades_and_removes_the_chart() {
    remove_everything();
    let mark = audit::mark().unwrap();
    let chart = checkout().join("config/chart");
    let chart = chart.to_str().unwrap();
    // The names are those of the scripts that users of MetalLB's own chart have.
    let repositories = ["controller", "speaker"].map(|program| {
        let image = image(program, "").unwrap();
        format!("{program}.image.repository={}", image.trim_end_matches(':'))
    });
    let frr = "speaker.frr.image.repository=registry.example/frr";
    let images = ["--set", &repositories[0], "--set", &repositories[1], "--set", frr];
    let upgrade = ["upgrade", "--install", "--create-namespace", "metallb", chart];
    as_the_page_tells();
    serves(|| {});
    let said = helm(&[upgrade.as_slice(), &images, &["--set", "speaker.logLevel=debug"]].concat()).unwrap();
    assert!(
        said.lines().any(|line| line == "- speaker.frr"),
        "a value without meaning is not listed: {said}"
    );
    let spec = &get(&["-n", NAMESPACE, "metallb/metallb"]).unwrap()["spec"];
    assert_eq!(*spec, json!({ "logLevel": "debug" }));
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    none_is_refused(mark);
    pages::run_block("install.md", "helm uninstall").unwrap();
    operands_are_gone();
}

#[test]
fn a_private_registry_is_pulled_from_with_the_secret_that_the_values_name() {
    let registry = Registry::start(Access::Private).unwrap();
    remove_everything();
    kube(&format!("create namespace {NAMESPACE}")).unwrap();
    kube(&format!("label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged")).unwrap();
    let mut secret = kubectl();
    secret.args(["-n", NAMESPACE, "create", "secret", "docker-registry", "registry"]);
    secret.arg(format!("--docker-server={REGISTRY}")).arg(format!("--docker-username={}", USER.0));
    output(secret.arg(format!("--docker-password={}", USER.1))).unwrap();
    let mut values = json!({ "imagePullSecrets": [{ "name": "registry" }] });
    let images = ["operator", "controller", "speaker"].map(|program| {
        let image = registry.push(program).unwrap();
        let (repository, digest) = image.split_once('@').unwrap();
        values[program] = json!({ "image": { "repository": repository, "digest": digest } });
        image
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), values.to_string()).unwrap();
    let chart = checkout().join("config/chart");
    helm(&["install", "metallb", chart.to_str().unwrap(), "--values", file.path().to_str().unwrap()])
        .unwrap();
    serves(|| {});
    images.iter().for_each(|image| was_pulled(image));
    helm(&["uninstall", "metallb"]).unwrap();
    operands_are_gone();
}
