//! Installing what was built: images on every node, then `config/default`.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{
    cluster::{self, checkout, kubectl, refuse_external},
    exec::output,
    layout::state,
    observe::kube,
};

/// Namespace of the installation.
pub const NAMESPACE: &str = "metallb-system";
/// Kinds of the objects of an installation that are in no namespace, but for the definitions.
pub const CLUSTER_WIDE: &str = "validatingwebhookconfigurations,clusterroles,clusterrolebindings";
/// Programs, and the labels of the pods that run them.
const PROGRAMS: [(&str, &str); 3] = [
    ("operator", "control-plane=controller-manager"),
    ("controller", "app=metallb,component=controller"),
    ("speaker", "app=metallb,component=speaker"),
];

/// Loads the images that changed since they were loaded last, applies `config/default`, replaces pods that run an
/// older image, and waits for the operator.
///
/// # Errors
/// When `make images` was not run, or the installation fails.
pub fn deploy() -> Result<()> {
    let started = Instant::now();
    let mut changed = Vec::new();
    if !cluster::is_external() {
        for (program, selector) in PROGRAMS {
            if load(program)? {
                changed.push(selector);
            }
        }
    }
    output(kubectl().args(["apply", "-k"]).arg(checkout().join("config/default")))?;
    for selector in changed {
        output(kubectl().args(["-n", NAMESPACE, "delete", "pod", "-l", selector]))?;
    }
    let operator = "deployment/metallb-operator-controller-manager";
    output(kubectl().args(["-n", NAMESPACE, "rollout", "status", operator, "--timeout=60s"]))?;
    println!("deploy: the operator runs after {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

/// Removes everything of MetalLB, however it was installed, in the order in which an administrator does: first the
/// resource, so that the operator takes its parts away. Images stay on the nodes.
///
/// # Errors
/// When something is not gone in time.
pub fn remove() -> Result<()> {
    refuse_external("removing every MetalLB")?;
    if !kube("get crd metallbs.metallb.io --ignore-not-found -o name")?.is_empty() {
        kube("delete metallbs --all --all-namespaces --timeout=60s")?;
    }
    kube(&format!("delete namespace {NAMESPACE} --ignore-not-found --timeout=120s"))?;
    let others = kube(&format!("get {CLUSTER_WIDE} -o name"))?;
    for object in others.lines().filter(|name| name.contains("metallb")) {
        kube(&format!("delete {object}"))?;
    }
    let definitions = kube("get crd -o name")?;
    for definition in definitions.lines().filter(|name| name.ends_with(".metallb.io")) {
        kube(&format!("delete {definition} --timeout=60s"))?;
    }
    Ok(())
}

/// Whether the archive was new to the cluster.
fn load(program: &str) -> Result<bool> {
    let archive = archive(program);
    let bytes =
        fs::read(&archive).with_context(|| format!("{}: run `make images` first", archive.display()))?;
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let record = state("loaded").join(program);
    if fs::read_to_string(&record).is_ok_and(|loaded| loaded == digest) {
        return Ok(false);
    }
    cluster::load(&archive)?;
    fs::create_dir_all(state("loaded"))?;
    fs::write(record, digest)?;
    Ok(true)
}

fn archive(program: &str) -> PathBuf {
    checkout().join(format!("target/images/{program}.tar"))
}
