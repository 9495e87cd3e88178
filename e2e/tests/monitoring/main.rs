//! Alerts and dashboard: by promtool, and by a real Prometheus that does what the real Prometheus Operator makes of the
//! monitors and the rules that are in the cluster. Each alert is made to fire there, and each query of the dashboard has
//! data.

mod discovery;
mod generated;
mod prometheus;

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use anyhow::Result;
use metallb_e2e::{
    cluster::{self, checkout},
    deploy::{self, NAMESPACE},
    deps,
    exec::{output, run_on, wait_until},
    observe::{address, apply, get, kube, owner},
    pages,
    power::{self, Mode},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use generated::PrometheusOperator;
use prometheus::{DEBIAN, Prometheus, firing};

#[test]
fn each_alert_fires_for_what_it_is_about_and_for_nothing_else() {
    deps::need(&DEBIAN).unwrap();
    let folder = checkout().join("config/monitoring");
    let promtool =
        |arguments: &[&str]| output(Command::new("promtool").current_dir(&folder).args(arguments)).unwrap();
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
    let names = |file: &str, key: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let found = text.split(key).skip(1).filter_map(|rest| rest.split(['\n', ',', '}']).next());
        found.map(|name| name.trim().to_owned()).collect()
    };
    assert_eq!(
        names("alerts_test.yaml", "alertname: "),
        names("alerts.yaml", "- alert: "),
        "each has a test"
    );
}

/// Undoes what the test did, also when it fails, and leaves the installation as `make deploy` does.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = cluster::signal("speaker", Signal::SIGCONT);
        let _ = run_on("node1", "nft delete table ip quiet");
        for index in 1..=cluster::nodes().unwrap_or_default() {
            let _ = power::on(&format!("node{index}"));
        }
        for line in [
            "-n default delete service monitored-0 monitored-1 monitored-2 --ignore-not-found".to_owned(),
            "-n default delete endpointslice monitored-0 monitored-1 monitored-2 --ignore-not-found"
                .to_owned(),
            format!("-n {NAMESPACE} delete addresspool monitored --ignore-not-found"),
            format!("-n {NAMESPACE} delete bgppeer,bgpadvertisement monitored --ignore-not-found"),
            format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {NOTHING}"),
            format!("-n {NAMESPACE} delete configmap metallb-dashboard --ignore-not-found"),
            format!("-n {NAMESPACE} patch {OPERATOR} -p {UNMOUNT}"),
            format!("-n {NAMESPACE} delete secret monitored --ignore-not-found"),
        ] {
            let done = kube(&line);
            if !std::thread::panicking() {
                done.unwrap();
            }
        }
        let deployed = deploy::deploy();
        if !std::thread::panicking() {
            deployed.unwrap();
        }
    }
}

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";
/// Of the MetalLB resource: a controller that no node can take, and no patience with it; and neither.
const IMPOSSIBLE: &str = r#"{"spec":{"upgradePolicy":{"progressDeadline":"5s"},"controllerConfig":{"resources":{"requests":{"cpu":"1000"}}}}}"#;
const NOTHING: &str = r#"{"spec":{"upgradePolicy":null,"controllerConfig":null,"monitoring":null}}"#;
/// Of the MetalLB resource: the other kind of monitors.
const BY_SERVICE: &str = r#"{"spec":{"monitoring":{"monitors":"ServiceMonitor"}}}"#;
/// Of the operator's Deployment: Secret `monitored` as the certificate of the webhooks; and not.
const MOUNT: &str = r#"{"spec":{"template":{"spec":{"volumes":[{"name":"given","secret":{"secretName":"monitored"}}],"containers":[{"name":"manager","volumeMounts":[{"name":"given","mountPath":"/tmp/k8s-webhook-server/serving-certs"}]}]}}}}"#;
const UNMOUNT: &str = r#"{"spec":{"template":{"spec":{"volumes":[{"name":"given","$patch":"delete"}],"containers":[{"name":"manager","volumeMounts":[{"mountPath":"/tmp/k8s-webhook-server/serving-certs","$patch":"delete"}]}]}}}}"#;

/// A pool of two addresses, three Services: one has to wait. An endpoint makes the others be announced. An advertisement
/// names a community that nothing defines, and a router is not there.
fn objects() -> String {
    let mut objects = format!(
        "
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {{name: monitored, namespace: {NAMESPACE}}}
spec: {{protocol: layer2, addresses: [172.22.0.186/31], autoAssign: false}}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {{name: monitored, namespace: {NAMESPACE}}}
spec: {{ipAddressPools: [monitored], communities: [nowhere]}}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {{name: monitored, namespace: {NAMESPACE}}}
spec: {{myASN: 64512, peerASN: 64513, peerAddress: 172.22.0.1}}
"
    );
    for index in 0..3 {
        objects += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: monitored-{index}, namespace: default, annotations: {{metallb.io/address-pool: monitored}}}}
spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: monitored-{index}
  namespace: default
  labels: {{kubernetes.io/service-name: monitored-{index}}}
addressType: IPv4
ports: [{{port: 80}}]
endpoints: [{{addresses: [172.22.0.100], conditions: {{ready: true}}}}]
"
        );
    }
    objects
}

#[test]
fn a_real_prometheus_has_data_for_each_query_and_each_alert_fires() {
    let version = prometheus::version().unwrap();
    deploy::deploy().unwrap();
    let _cleanup = Cleanup;
    let operator = PrometheusOperator::start(&version).unwrap();
    pages::run_block("monitoring.md", "config/monitoring").unwrap();
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    apply(include_str!("../../demo/metallb.yaml")).unwrap();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    let pods = prometheus::pods().unwrap();

    // By the Services first, and then as the overlay has it.
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {BY_SERVICE}")).unwrap();
    let by_service = ["controller-monitor", "speaker-monitor", "operator-monitor"]
        .map(|name| format!("serviceMonitor/{name}"));
    let generated = operator.wait_for(&by_service).unwrap();
    let by_services = Prometheus::start(&generated).unwrap();
    by_services.wait_for(&format!("count(up == 1) == {pods}"));
    drop(by_services);
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {NOTHING}")).unwrap();
    let by_pod = ["controller", "speaker", "operator"].map(|name| format!("podMonitor/{name}"));
    let prometheus = Prometheus::start(&operator.wait_for(&by_pod).unwrap()).unwrap();
    prometheus.wait_for(&format!("count(up == 1) == {pods}"));
    // What is well does not alarm anybody.
    assert_eq!(prometheus.firing(), BTreeSet::new());
    let mut fired: BTreeSet<&str> = BTreeSet::new();
    let mut fires = |alert: &'static str| {
        prometheus.wait_for_alert(alert);
        println!("{alert} fires");
        fired.insert(alert);
    };

    apply(&objects()).unwrap();
    let first = address("default", "monitored-0").unwrap();
    for alert in [
        "MetalLBAddressPoolExhausted",
        "MetalLBAddressPoolUsage75Percent",
        "MetalLBAddressPoolUsage85Percent",
        "MetalLBAddressPoolUsage95Percent",
        "MetalLBServicesWaiting",
        "MetalLBStaleConfig",
        "MetalLBBGPSessionDown",
    ] {
        fires(alert);
    }
    // Somebody deletes the same object again and again.
    let policies = kube(&format!("-n {NAMESPACE} get networkpolicies -l app=metallb -o name")).unwrap();
    let policy = policies.lines().next().unwrap().to_owned();
    prometheus.wait_with(&firing("MetalLBDriftFight"), || {
        kube(&format!("-n {NAMESPACE} delete {policy} --ignore-not-found")).map(drop)
    });
    fires("MetalLBDriftFight");
    // A question on the wire, so that there is one to count.
    wait_until("one node to answer for the address", Duration::from_secs(20), || owner(first).map(|_| None))
        .unwrap();
    let dashboard = fs::read_to_string(checkout().join("config/monitoring/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            prometheus.wait_for(target["expr"].as_str().unwrap());
            asked += 1;
        }
    }
    println!("{asked} queries of the dashboard have data");

    // node1 neither hears nor is heard.
    for rule in [
        "add table ip quiet",
        "add chain ip quiet in { type filter hook input priority 0 ; }",
        "add chain ip quiet out { type filter hook output priority 0 ; }",
        "add rule ip quiet in udp dport 7946 drop",
        "add rule ip quiet in tcp dport 7946 drop",
        "add rule ip quiet out udp dport 7946 drop",
        "add rule ip quiet out tcp dport 7946 drop",
    ] {
        run_on("node1", &format!("nft {rule}")).unwrap();
    }
    fires("MetalLBTwoOwners");
    run_on("node1", "nft delete table ip quiet").unwrap();

    // Of a node that is not Ready no speaker is wanted; of the others, one lacks its own.
    let [away, lacking] = without_others();
    power::off(&away, Mode::Dark).unwrap();
    kube(&format!("wait node/{away} --for=condition=Ready=Unknown --timeout=120s")).unwrap();
    let (wanted, ready) = (
        "max(metallb_operator_pods_wanted{component=\"speaker\"})",
        "max(metallb_operator_pods_ready{component=\"speaker\"})",
    );
    let others = cluster::nodes().unwrap() - 1;
    prometheus.wait_for(&format!("{wanted} == {others} and {ready} == {others}"));
    prometheus.wait_for(&format!("absent({})", firing("MetalLBSpeakerMissing")));
    assert_eq!(cluster::signal_on(&lacking, "speaker", Signal::SIGSTOP).unwrap(), 1);
    fires("MetalLBSpeakerMissing");
    prometheus.wait_for(&format!("{wanted} - {ready} == 1"));
    cluster::signal_on(&lacking, "speaker", Signal::SIGCONT).unwrap();
    power::on(&away).unwrap();
    kube(&format!("wait node/{away} --for=condition=Ready --timeout=60s")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s")).unwrap();

    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {IMPOSSIBLE}")).unwrap();
    fires("MetalLBRolloutStalled");
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {NOTHING}")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status deployment/controller --timeout=60s")).unwrap();

    // A controller that may read nothing; deploying grants it again.
    kube(&format!("-n {NAMESPACE} delete rolebinding controller")).unwrap();
    kube(&format!("-n {NAMESPACE} delete pod -l component=controller")).unwrap();
    fires("MetalLBConfigNotLoaded");

    let secret = certificate(10).unwrap();
    apply(&secret.to_string()).unwrap();
    kube(&format!("-n {NAMESPACE} patch {OPERATOR} -p {MOUNT}")).unwrap();
    fires("MetalLBCertificateExpires");

    let alerts = fs::read_to_string(checkout().join("config/monitoring/alerts.yaml")).unwrap();
    let all: BTreeSet<&str> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(fired, all);
}

/// Two nodes, the first of which runs neither operator nor controller: they are to be seen while it is away.
fn without_others() -> [String; 2] {
    let pods = get(&["-n", NAMESPACE, "pods"]).unwrap();
    let pods = pods["items"].as_array().unwrap().iter();
    let others = pods.filter(|pod| pod["metadata"]["labels"]["component"] != "speaker");
    let busy: BTreeSet<&str> = others.filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    let mut nodes: Vec<String> =
        (1..=cluster::nodes().unwrap()).map(|index| format!("node{index}")).collect();
    nodes.sort_by_key(|node| busy.contains(node.as_str()));
    assert!(!busy.contains(nodes[0].as_str()), "{busy:?}");
    [nodes.remove(0), nodes.remove(0)]
}

/// Secret `monitored` with a certificate that ends in `days`.
fn certificate(days: u32) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=monitored", "-days"]);
    output(openssl.arg(days.to_string()).arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "monitored", "namespace": NAMESPACE },
        "stringData": {
            "tls.crt": fs::read_to_string(certificate)?, "tls.key": fs::read_to_string(key)?,
        },
    }))
}
