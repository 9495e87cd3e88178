//! AddressPools: what they become, what admission refuses, and what it only warns of.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    cluster::kubectl,
    deploy::NAMESPACE,
    observe::{address, addresses, apply, condition, get, kube},
    pages,
};
use serde_json::Value;

use crate::fixture::{Scene, available, eventually};

fn object(kind: &str, name: &str) -> Result<Value> {
    get(&["-n", NAMESPACE, kind, name])
}

fn is_condition(kind: &str, name: &str, condition_type: &str, status: &str, reason: &str) -> Result<()> {
    let found = condition(&object(kind, name)?, condition_type).context("no condition yet")?;
    ensure!((found.0.as_str(), found.1.as_str()) == (status, reason), "{found:?}");
    Ok(())
}

#[test]
fn an_address_pool_tells_its_use_is_healed_changes_its_protocol_and_may_be_handed_over() {
    let scene =
        Scene::new("forms", "[172.22.0.160-172.22.0.160, 172.22.0.162/32, 'fd00:22::160-fd00:22::161']");
    scene.service("one", "");
    let held = address(scene.name, "one").unwrap();
    assert_eq!(held.to_string(), "172.22.0.160", "a single address, as the manual writes it");
    eventually("the pool to tell its use", 5, || {
        let status = object("addresspool", "forms")?["status"].clone();
        ensure!(
            status["assigned"] == 1 && status["assignedIPv4"] == 1 && status["services"] == 1,
            "{status}"
        );
        ensure!(status["capacity"]["ipv4"] == "2" && status["capacity"]["ipv6"] == "2", "{status}");
        Ok(())
    });
    eventually("the speakers to have told the subnets of their nodes", 20, || {
        is_condition("addresspool", "forms", "InNodeSubnet", "True", "InNodeSubnet")
    });
    let columns = kube(&format!("-n {NAMESPACE} get addresspool forms")).unwrap();
    assert!(columns.starts_with("NAME    PROTOCOL   AUTO ASSIGN   ADDRESSES"), "{columns}");

    kube(&format!("-n {NAMESPACE} delete l2advertisement forms")).unwrap();
    kube(&format!(
        "-n {NAMESPACE} patch ipaddresspool forms --type=merge -p {{\"spec\":{{\"autoAssign\":true}}}}"
    ))
    .unwrap();
    eventually("what was edited by hand to be put back", 5, || {
        object("l2advertisement", "forms")?;
        let pool = object("ipaddresspool", "forms")?;
        ensure!(pool["spec"]["autoAssign"] == false, "{}", pool["spec"]);
        Ok(())
    });

    for (protocol, there, gone) in
        [("bgp", "bgpadvertisement", "l2advertisement"), ("layer2", "l2advertisement", "bgpadvertisement")]
    {
        kube(&format!(
            "-n {NAMESPACE} patch addresspool forms --type=merge -p {{\"spec\":{{\"protocol\":\"{protocol}\"}}}}"
        ))
        .unwrap();
        eventually(&format!("the objects of protocol {protocol}"), 5, || {
            object(there, "forms")?;
            ensure!(object(gone, "forms").is_err(), "{gone} is still there");
            Ok(())
        });
    }

    pages::run_filled("pools.md", "metallb.io/convert=true", &[("doc-example", "forms")]).unwrap();
    eventually("the pool to be handed over", 5, || {
        is_condition("addresspool", "forms", "Ready", "True", "Converted")
    });
    kube(&format!("-n {NAMESPACE} delete addresspool forms")).unwrap();
    for kind in ["ipaddresspool", "l2advertisement"] {
        let metadata = object(kind, "forms").unwrap()["metadata"].clone();
        assert_eq!(
            (&metadata["ownerReferences"], &metadata["labels"]),
            (&Value::Null, &Value::Null),
            "{kind}"
        );
    }
    assert_eq!(addresses(scene.name, "one").unwrap(), [held], "nothing moved");
    kube(&format!("-n {NAMESPACE} delete ipaddresspool,l2advertisement forms")).unwrap();
}

#[test]
fn the_policy_says_what_becomes_of_an_address_that_its_pool_loses() {
    let scene = Scene::new("policy", "[172.22.0.176/32]");
    scene.service("held", "");
    let held = || Ok::<_, anyhow::Error>(addresses(scene.name, "held")?.first().map(ToString::to_string));
    let edit = |addresses: &str| {
        kube(&format!(
            "-n {NAMESPACE} patch addresspool policy --type=merge -p {{\"spec\":{{\"addresses\":[\"{addresses}\"]}}}}"
        ))
        .unwrap();
    };
    let first = address(scene.name, "held").unwrap().to_string();
    edit("172.22.0.178/32");
    eventually("the address to be replaced", 20, || {
        ensure!(held()?.as_deref() == Some("172.22.0.178"), "{:?}", held()?);
        Ok(())
    });

    let policy = |policy: &str| {
        kube(&format!(
            "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"poolEditPolicy\":{policy}}}}}"
        ))
        .unwrap();
    };
    policy("\"KeepInUse\"");
    eventually("the controller to have the policy", 30, || {
        let variables =
            object("deployment", "controller")?["spec"]["template"]["spec"]["containers"][0]["env"].clone();
        ensure!(variables.to_string().contains("KeepInUse"), "{variables}");
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} rollout status deployment/controller --timeout=60s")).unwrap();
    edit(&format!("{first}/32"));
    // Ten seconds long the pool may yet get it back.
    eventually("the address to be told of", 30, || {
        let service = get(&["-n", scene.name, "service", "held"])?;
        let (_, reason, message) =
            condition(&service, "metallb.io/AddressAssigned").context("no condition yet")?;
        ensure!(reason == "PoolMissing" && message.contains("172.22.0.178"), "{reason}: {message}");
        Ok(())
    });
    // By the other policy it would be gone after 10 s.
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(12) {
        assert_eq!(
            held().unwrap().as_deref(),
            Some("172.22.0.178"),
            "{:?} after it was told of",
            told.elapsed()
        );
    }
    policy("null");
    available();
}

#[test]
fn what_belongs_to_somebody_else_is_not_overwritten() {
    available();
    apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {{name: taken, namespace: {NAMESPACE}}}\n\
         spec: {{ipAddressPools: [another]}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: taken, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [172.22.0.166/32], autoAssign: false}}\n"
    ))
    .unwrap();
    eventually("the conflict to be told", 5, || {
        is_condition("addresspool", "taken", "Conflict", "True", "Conflict")
    });
    assert_eq!(object("l2advertisement", "taken").unwrap()["spec"]["ipAddressPools"][0], "another");
    kube(&format!("-n {NAMESPACE} delete l2advertisement taken")).unwrap();
    eventually("the pool to be served", 5, || is_condition("addresspool", "taken", "Ready", "True", "Ready"));
    kube(&format!("-n {NAMESPACE} delete addresspool taken")).unwrap();
    eventually("what it became to go with it", 10, || {
        ensure!(
            object("ipaddresspool", "taken").is_err() && object("l2advertisement", "taken").is_err(),
            "not yet"
        );
        Ok(())
    });
}

/// What kubectl says, to standard output and error, of `yaml` that is applied or deleted but for the writing.
pub(crate) fn tried(verb: &str, yaml: &str) -> (bool, String) {
    let file = std::env::temp_dir().join(format!("metallb-e2e-tried-{}.yaml", std::process::id()));
    std::fs::write(&file, yaml).unwrap();
    let done =
        kubectl().args([verb, "--dry-run=server", "-f"]).arg(&file).stdin(Stdio::null()).output().unwrap();
    std::fs::remove_file(file).unwrap();
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn admission_refuses_what_cannot_be_and_warns_of_what_should_not() {
    let scene = Scene::new("admits", "[172.22.0.164/31]");
    scene.service("held", "");
    let held = address(scene.name, "held").unwrap();
    eventually("both to be seen by admission", 5, || object("ipaddresspool", "admits").map(drop));
    let pool = |kind: &str, name: &str, spec: &str| {
        format!(
            "{{apiVersion: metallb.io/v1beta1, kind: {kind}, metadata: {{name: {name}, namespace: {NAMESPACE}}}, spec: \
             {{{spec}}}}}"
        )
    };
    let metallb = |namespace: &str, spec: &str| {
        format!(
            "{{apiVersion: metallb.io/v1beta1, kind: MetalLB, metadata: {{name: metallb, namespace: {namespace}}}, spec: \
             {{{spec}}}}}"
        )
    };
    let node = get(&["nodes"]).unwrap()["items"][0].clone();
    let internal = node["status"]["addresses"][0]["address"].as_str().unwrap();
    let cluster_ip =
        get(&["service", "kubernetes"]).unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let layer2 = |addresses: &str| {
        pool("AddressPool", "tried", &format!("protocol: layer2, addresses: [{addresses}]"))
    };
    for (verb, yaml, accepted, text) in [
        (
            "apply",
            layer2("172.22.0.166"),
            false,
            "spec.addresses[0]: 172.22.0.166 is a single address: write 172.22.0.166/32".to_owned(),
        ),
        ("apply", layer2("172.22.0.9-172.22.0.1"), false, "ends before it starts".to_owned()),
        ("apply", layer2("'172.22.0.9-fd00:22::1'"), false, "mixes IPv4 and IPv6".to_owned()),
        ("apply", layer2("172.22.0.165/32"), false, "overlaps 172.22.0.164/31 of IPAddressPool".to_owned()),
        (
            "apply",
            pool("IPAddressPool", "tried", "addresses: [172.22.0.160/28]"),
            false,
            "overlaps 172.22.0.164/31 of IPAddressPool".to_owned(),
        ),
        (
            "apply",
            pool(
                "AddressPool",
                "tried",
                "protocol: bgp, addresses: [198.51.100.0/28], bgpAdvertisements: [{aggregationLength: 24}]",
            ),
            false,
            "spec.bgpAdvertisements[0].aggregationLength".to_owned(),
        ),
        ("apply", metallb("default", ""), false, format!("must be created in namespace {NAMESPACE}")),
        ("apply", metallb(NAMESPACE, "bgpBackend: bird"), false, "spec.bgpBackend: \"bird\"".to_owned()),
        (
            "apply",
            layer2("198.51.100.1-198.51.100.1").replace("v1beta1", "v1alpha1"),
            true,
            "created".to_owned(),
        ),
        (
            "apply",
            layer2(&format!("{internal}-{internal}")),
            true,
            "holds addresses of nodes, which no Service is given".to_owned(),
        ),
        ("apply", layer2(&format!("{cluster_ip}/32")), true, "meets the cluster's own network".to_owned()),
        (
            "apply",
            pool(
                "AddressPool",
                "admits",
                "protocol: layer2, addresses: [172.22.0.168/32], autoAssign: false",
            ),
            true,
            format!("1 Service has an address that will no longer be in the pool: admits/held ({held})"),
        ),
        (
            "delete",
            pool("AddressPool", "admits", ""),
            true,
            format!("1 Service has an address that will no longer be in the pool: admits/held ({held})"),
        ),
    ] {
        let (success, told) = tried(verb, &yaml);
        assert!(success == accepted && told.contains(&text), "{verb} {yaml}\nwanted: {text}\ngot: {told}");
    }
}

#[test]
fn the_configuration_of_an_older_metallb_is_imported_when_asked_for() {
    available();
    let text = "address-pools:\n    - {name: Old Pool, protocol: layer2, addresses: [198.51.100.32/28], auto-assign: false}\n";
    apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config, namespace: {NAMESPACE}}}\ndata:\n  config: |\n    {text}"
    ))
    .unwrap();
    let imported = |status: &str, reason: &str| {
        is_condition("metallb", "metallb", "LegacyConfigImported", status, reason)
    };
    eventually("the ConfigMap to be told of", 5, || imported("False", "LegacyConfigFound"));
    assert!(object("ipaddresspool", "old-pool").is_err(), "nothing is done unasked");
    pages::run_block("pools.md", "metallb.io/import=true").unwrap();
    eventually("the ConfigMap to be imported", 5, || imported("True", "LegacyConfigImported"));
    assert_eq!(object("ipaddresspool", "old-pool").unwrap()["spec"]["addresses"][0], "198.51.100.32/28");
    assert_eq!(object("l2advertisement", "old-pool").unwrap()["spec"]["ipAddressPools"][0], "old-pool");
    kube(&format!("-n {NAMESPACE} delete ipaddresspool,l2advertisement old-pool")).unwrap();

    // The same by the plugin; the operator does it once only.
    pages::run_block("moving.md", "kubectl metallb import").unwrap();
    assert_eq!(object("ipaddresspool", "old-pool").unwrap()["spec"]["addresses"][0], "198.51.100.32/28");
    assert_eq!(object("l2advertisement", "old-pool").unwrap()["spec"]["ipAddressPools"][0], "old-pool");
    kube(&format!("-n {NAMESPACE} delete configmap config")).unwrap();
    kube(&format!("-n {NAMESPACE} delete ipaddresspool,l2advertisement old-pool")).unwrap();
    kube(&format!("-n {NAMESPACE} annotate metallb metallb metallb.io/import-")).unwrap();
}
