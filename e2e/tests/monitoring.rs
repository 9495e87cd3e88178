//! Alerts and dashboard: by promtool, and by a real Prometheus that scrapes every pod that the operator's monitors
//! select. Each alert is made to fire there, and each query of the dashboard has data.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    cluster::{self, checkout},
    deploy::{self, NAMESPACE},
    deps,
    exec::{on, output, run_on, wait_until},
    observe::{address, apply, get, kube, owner},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Debian's Prometheus, which has promtool.
const PROMETHEUS: [(&str, &str); 1] = [("prometheus", "/usr/bin/promtool")];
const LISTEN: &str = "127.0.0.1:9090";

#[test]
fn each_alert_fires_for_what_it_is_about_and_for_nothing_else() {
    deps::need(&PROMETHEUS).unwrap();
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

/// The pods that the monitors of the operator select.
const PODS: [&str; 3] =
    ["app=metallb,component=controller", "app=metallb,component=speaker", "control-plane=controller-manager"];

/// A Prometheus on host cp. Ends with this value.
struct Prometheus {
    process: Child,
    folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// Scrapes each second, with the token that the monitors name. The alerts are those of the file, but wait for one
    /// second only. Debian's Prometheus cannot ask Kubernetes for pods: [`Self::look`] names them in a file.
    fn start() -> Result<Self> {
        deps::need(&PROMETHEUS)?;
        let folder = tempfile::tempdir()?;
        let rules = fs::read_to_string(checkout().join("config/monitoring/alerts.yaml"))?;
        let hasty: Vec<_> = rules
            .lines()
            .map(|line| if line.trim_start().starts_with("for: ") { "    for: 1s" } else { line })
            .collect();
        fs::write(folder.path().join("alerts.yaml"), hasty.join("\n"))?;
        let token = kube(&format!("-n {NAMESPACE} create token metrics-reader"))?;
        let configuration = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{
                "job_name": "metallb", "scheme": "https", "honor_labels": true,
                "tls_config": { "insecure_skip_verify": true },
                "authorization": { "credentials": token.trim() },
                "file_sd_configs": [{ "files": ["pods.json"] }],
            }],
        });
        fs::write(folder.path().join("prometheus.yml"), configuration.to_string())?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = on("cp", "prometheus");
        command
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={LISTEN}"))
            .stdout(log.try_clone()?)
            .stderr(log);
        let prometheus = Self { process: command.spawn().context("cannot run prometheus")?, folder };
        prometheus.look()?;
        wait_until("Prometheus to be ready", Duration::from_secs(20), || {
            let ready = output(on("cp", "curl").args(["-sSf", &format!("http://{LISTEN}/-/ready")]));
            let log = fs::read_to_string(prometheus.folder.path().join("log")).unwrap_or_default();
            ready.map(|_| None).context(log)
        })?;
        Ok(prometheus)
    }

    /// Names the pods that run now; how many there are.
    fn look(&self) -> Result<usize> {
        let mut targets = Vec::new();
        for selector in PODS {
            let list = get(&["-n", NAMESPACE, "pods", "-l", selector])?;
            for pod in list["items"].as_array().into_iter().flatten() {
                if !pod["metadata"]["deletionTimestamp"].is_null() || !pod["status"]["podIP"].is_string() {
                    continue;
                }
                let ports = pod["spec"]["containers"][0]["ports"].as_array().into_iter().flatten();
                let mut named = ports.filter(|port| port["name"] == "metricshttps");
                let port = named.next().with_context(|| format!("no port of metrics: {}", pod["spec"]))?;
                let address = pod["status"]["podIP"].as_str().unwrap_or_default();
                targets.push(json!({
                    "targets": [format!("{address}:{}", port["containerPort"])],
                    "labels": { "pod": pod["metadata"]["name"] },
                }));
            }
        }
        // Prometheus must never read half of it.
        let file = self.folder.path().join("pods.json");
        let partial = file.with_extension("partial");
        fs::write(&partial, Value::from(targets.clone()).to_string())?;
        fs::rename(partial, file)?;
        Ok(targets.len())
    }

    /// The result of a query: labels and value of each series.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut curl = on("cp", "curl");
        curl.args(["-sS", "--get", &format!("http://{LISTEN}/api/v1/query"), "--data-urlencode"]);
        let answer: Value = serde_json::from_str(&output(curl.arg(format!("query={expression}")))?)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits for data, and does `meanwhile` before each look. That a value is not a number says nothing about anything.
    fn wait_with(&self, expression: &str, mut meanwhile: impl FnMut() -> Result<()>) {
        wait_until(&format!("{expression} to have data"), Duration::from_secs(60), || {
            meanwhile()?;
            self.look()?;
            let found = self.query(expression)?;
            let is_there = found.iter().any(|series| series["value"][1] != "NaN");
            Ok(if is_there { None } else { Some(format!("{found:?}, of {:?}", self.query("up")?)) })
        })
        .unwrap();
    }

    fn wait_for(&self, expression: &str) {
        self.wait_with(expression, || Ok(()));
    }

    /// Names of the alerts that fire.
    fn firing(&self) -> BTreeSet<String> {
        let firing = self.query("count by (alertname) (ALERTS{alertstate=\"firing\"})").unwrap();
        let name = |series: &Value| series["metric"]["alertname"].as_str().unwrap_or_default().to_owned();
        firing.iter().map(name).collect()
    }

    fn wait_for_alert(&self, alert: &str) {
        self.wait_for(&firing(alert));
    }
}

fn firing(alert: &str) -> String {
    format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}")
}

/// Undoes what the test did, also when it fails, and leaves the installation as `make deploy` does.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = cluster::signal("speaker", Signal::SIGCONT);
        let _ = run_on("node1", "nft delete table ip quiet");
        for line in [
            "-n default delete service monitored-0 monitored-1 monitored-2 --ignore-not-found".to_owned(),
            "-n default delete endpointslice monitored-0 monitored-1 monitored-2 --ignore-not-found"
                .to_owned(),
            format!("-n {NAMESPACE} delete addresspool monitored --ignore-not-found"),
            format!("-n {NAMESPACE} delete bgppeer,bgpadvertisement monitored --ignore-not-found"),
            format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {NOTHING}"),
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
const NOTHING: &str = r#"{"spec":{"upgradePolicy":null,"controllerConfig":null}}"#;
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
    deploy::deploy().unwrap();
    let _cleanup = Cleanup;
    apply(include_str!("../../config/monitoring/reader.yaml")).unwrap();
    apply(include_str!("../demo/metallb.yaml")).unwrap();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s")).unwrap();
    let prometheus = Prometheus::start().unwrap();
    let pods = prometheus.look().unwrap();
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

    assert!(cluster::signal("speaker", Signal::SIGSTOP).unwrap() > 0);
    fires("MetalLBSpeakerMissing");
    cluster::signal("speaker", Signal::SIGCONT).unwrap();

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
