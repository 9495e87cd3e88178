//! Nothing hangs when the operator is gone first (`make e2e-full`). On the cluster that is up; leaves it without the
//! installation.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;
use metallb_e2e::{
    cluster::{checkout, kubectl},
    deploy::{self, NAMESPACE},
    exec::{output, wait_until},
    observe::{address, addresses, apply, get, kube},
};

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";

const SERVICE: &str = "orphaned";

/// Makes a Service; the address that it is given.
fn served() -> IpAddr {
    apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {SERVICE}, namespace: default, annotations: \
         {{metallb.io/address-pool: pool}}}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"
    ))
    .unwrap();
    address("default", SERVICE).unwrap()
}

/// Installs everything, with an object of each kind that is asked about, and takes the operator away.
fn without_operator() {
    deploy::deploy().unwrap();
    apply(include_str!("../demo/metallb.yaml")).unwrap();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=90s")).unwrap();
    let objects = [
        ("v1beta1", "AddressPool", "{protocol: layer2, addresses: [198.51.100.0/28]}"),
        ("v1beta1", "IPAddressPool", "{addresses: [203.0.113.0/28]}"),
        ("v1beta1", "L2Advertisement", "{ipAddressPools: [left]}"),
        ("v1beta1", "BGPAdvertisement", "{ipAddressPools: [left]}"),
        ("v1beta2", "BGPPeer", "{myASN: 64512, peerASN: 64512, peerAddress: 192.0.2.1, bfdProfile: left}"),
        ("v1beta1", "BFDProfile", "{}"),
        ("v1beta1", "Community", "{communities: [{name: left, value: '64512:1'}]}"),
    ];
    for (version, kind, spec) in objects {
        // Not the name of what the AddressPool becomes.
        let name = if kind == "AddressPool" { "pool" } else { "left" };
        apply(&format!(
            "{{apiVersion: metallb.io/{version}, kind: {kind}, metadata: {{name: {name}, namespace: {NAMESPACE}}}, spec: \
             {spec}}}"
        ))
        .unwrap();
    }
    wait_until("the AddressPool to be served", Duration::from_secs(10), || {
        get(&["-n", NAMESPACE, "l2advertisement", "pool"]).map(|_| None)
    })
    .unwrap();
    kube(&format!("-n {NAMESPACE} scale {OPERATOR} --replicas=0")).unwrap();
    wait_until("the operator to be gone", Duration::from_secs(40), || {
        let left = kube(&format!("-n {NAMESPACE} get pods -l control-plane=controller-manager -o name"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(None)
    })
    .unwrap();
}

#[test]
fn controller_and_speakers_start_and_serve_without_the_operator() {
    without_operator();
    kube(&format!("-n {NAMESPACE} delete pods -l app=metallb")).unwrap();
    for workload in ["deployment/controller", "daemonset/speaker"] {
        kube(&format!("-n {NAMESPACE} rollout status {workload} --timeout=60s")).unwrap();
    }
    let started = Instant::now();
    let held = served();
    println!("{held} was given {} ms after the Service was made", started.elapsed().as_millis());
    kube(&format!("-n default delete service {SERVICE}")).unwrap();
}

#[test]
fn objects_and_then_the_namespace_go_without_the_operator() {
    without_operator();
    let started = Instant::now();
    kube(&format!("-n {NAMESPACE} label addresspools,bgppeers,metallbs --all edited=yes")).unwrap();
    for kind in
        ["bfdprofile left", "ipaddresspool left", "addresspool pool --cascade=foreground", "metallb metallb"]
    {
        kube(&format!("-n {NAMESPACE} delete {kind} --timeout=30s")).unwrap();
    }
    println!("objects were deleted after {} ms", started.elapsed().as_millis());
    kube(&format!("delete namespace {NAMESPACE} --timeout=90s")).unwrap();
    println!("the namespace was gone after {:.1} s", started.elapsed().as_secs_f32());
}

#[test]
fn the_whole_installation_goes_without_the_operator() {
    without_operator();
    let held = served();
    let started = Instant::now();
    output(kubectl().args(["delete", "--timeout=90s", "-k"]).arg(checkout().join("config/default"))).unwrap();
    println!("the installation was gone after {:.1} s", started.elapsed().as_secs_f32());
    let left = kube("get crd,clusterrole,clusterrolebinding,validatingwebhookconfiguration -o name").unwrap();
    let left: Vec<_> = left.lines().filter(|line| line.contains("metallb")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(addresses("default", SERVICE).unwrap(), [held], "nobody takes it away");
    kube(&format!("-n default delete service {SERVICE}")).unwrap();
}
