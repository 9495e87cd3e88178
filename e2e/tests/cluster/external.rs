//! An existing cluster, used from outside: here it is this one, seen from its host client.

use std::process::Output;

use metallb_e2e::{
    cluster,
    deploy::NAMESPACE,
    exec::on,
    layout::{bin, kubeconfig},
    observe::kube,
};

/// The command line, run on host client as on an administrator's machine.
fn e2e(arguments: &[&str]) -> Output {
    let programs = bin("kubectl").parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap();
    let mut command = on("client", env!("CARGO_BIN_EXE_e2e"));
    command.args(arguments).env("CLUSTER", "external").env("KUBECONFIG", kubeconfig());
    command.env("PATH", format!("{programs}:{path}")).output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let done = e2e(arguments);
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn an_existing_cluster_is_used_and_its_nodes_are_left_alone() {
    if cluster::is_external() {
        return;
    }
    crate::fixture::available();
    succeeds(&["up"]);
    assert!(succeeds(&["deploy"]).contains("the operator runs"));
    assert!(succeeds(&["status"]).contains("node3"));
    assert_eq!(succeeds(&["kubeconfig"]).trim(), kubeconfig().display().to_string());
    let demo = succeeds(&["demo"]);
    assert!(demo.contains("ten answers that this machine got") && demo.contains(" on node"), "{demo}");
    assert!(!demo.contains("powering off"), "{demo}");
    for breaks in [&["down"][..], &["power-off", "node2"], &["load", "image.tar"], &["audit-log"]] {
        let refused = e2e(breaks);
        let message = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{breaks:?}");
        assert!(message.contains("only for the cluster that `make cluster` makes"), "{breaks:?}: {message}");
    }
    kube("delete namespace demo").unwrap();
    kube(&format!("-n {NAMESPACE} delete -f {}/demo/pools.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
}
