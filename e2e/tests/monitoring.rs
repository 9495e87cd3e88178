//! Alerts and dashboard: by promtool, and by a real Prometheus that scrapes the real cluster as its PodMonitors say.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    cluster::checkout,
    deploy::NAMESPACE,
    deps,
    exec::{on, output, wait_until},
    layout::kubeconfig,
    observe::{address, apply, get, kube, owner},
};
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
    /// Scrapes each second what the operator's PodMonitors select, with the token that they name. The alerts are those
    /// of the file, but wait for one second only.
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
        let job = |name: &str, labels: &[(&str, &str)], port: &str| {
            let keep = labels.iter().map(|(label, value)| {
                json!({ "source_labels": [format!("__meta_kubernetes_pod_label_{label}")], "regex": value, "action": "keep" })
            });
            let rest = [
                json!({ "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": port, "action": "keep" }),
                json!({ "source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod" }),
            ];
            json!({
                "job_name": name, "scheme": "https", "honor_labels": true,
                "tls_config": { "insecure_skip_verify": true },
                "authorization": { "credentials": token.trim() },
                "kubernetes_sd_configs": [{
                    "role": "pod", "kubeconfig_file": kubeconfig(), "namespaces": { "names": [NAMESPACE] },
                }],
                "relabel_configs": keep.chain(rest).collect::<Vec<_>>(),
            })
        };
        let configuration = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [
                job("controller", &[("app", "metallb"), ("component", "controller")], "metricshttps"),
                job("speaker", &[("app", "metallb"), ("component", "speaker")], "metricshttps"),
            ],
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
        wait_until("Prometheus to be ready", Duration::from_secs(20), || {
            let ready = output(on("cp", "curl").args(["-sSf", &format!("http://{LISTEN}/-/ready")]));
            let log = fs::read_to_string(prometheus.folder.path().join("log")).unwrap_or_default();
            ready.map(|_| None).context(log)
        })?;
        Ok(prometheus)
    }

    /// The result of a query: labels and value of each series.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut curl = on("cp", "curl");
        curl.args(["-sS", "--get", &format!("http://{LISTEN}/api/v1/query"), "--data-urlencode"]);
        let answer: Value = serde_json::from_str(&output(curl.arg(format!("query={expression}")))?)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    fn wait_for(&self, expression: &str) {
        wait_until(&format!("{expression} to have data"), Duration::from_secs(60), || {
            Ok(if self.query(expression)?.is_empty() {
                Some(format!("{:?}", self.query("up")?))
            } else {
                None
            })
        })
        .unwrap();
    }
}

/// Removes what a test made, also when it fails.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        for line in [
            "-n default delete service monitored-0 monitored-1 monitored-2".to_owned(),
            "-n default delete endpointslice monitored-0 monitored-1 monitored-2".to_owned(),
            format!("-n {NAMESPACE} delete addresspool monitored"),
        ] {
            let _ = kube(&line);
        }
    }
}

/// Series that exist only while a router is configured, or something is repaired.
fn is_conditional(expression: &str) -> bool {
    ["metallb_bgp_", "metallb_operator_"].iter().any(|name| expression.contains(name))
}

#[test]
fn a_real_prometheus_sees_the_cluster_and_its_alerts_fire() {
    let _cleanup = Cleanup;
    apply(include_str!("../../config/monitoring/reader.yaml")).unwrap();
    apply(include_str!("../demo/metallb.yaml")).unwrap();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s")).unwrap();
    // A pool of two addresses, three Services: one has to wait. An endpoint makes the others be announced.
    let mut objects = format!(
        "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: monitored, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [172.22.0.186/31], autoAssign: false}}\n"
    );
    for index in 0..3 {
        objects += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: monitored-{index}, namespace: default, \
             annotations: {{metallb.io/address-pool: monitored}}}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: monitored-{index}, namespace: default, \
             labels: {{kubernetes.io/service-name: monitored-{index}}}}}\n\
             addressType: IPv4\nports: [{{port: 80}}]\n\
             endpoints: [{{addresses: [172.22.0.100], conditions: {{ready: true}}}}]\n"
        );
    }
    apply(&objects).unwrap();
    let first = address("default", "monitored-0").unwrap();

    let prometheus = Prometheus::start().unwrap();
    let nodes = get(&["nodes"]).unwrap()["items"].as_array().unwrap().len();
    prometheus.wait_for(&format!("count(up == 1) == {}", nodes + 1));
    for alert in ["MetalLBAddressPoolExhausted", "MetalLBAddressPoolUsage95Percent", "MetalLBServicesWaiting"]
    {
        prometheus.wait_for(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}"));
    }
    // A question on the wire, so that there is one to count.
    wait_until("one node to answer for the address", Duration::from_secs(20), || owner(first).map(|_| None))
        .unwrap();
    let dashboard = fs::read_to_string(checkout().join("config/monitoring/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            asked += 1;
            if is_conditional(expression) {
                prometheus.query(expression).unwrap();
            } else {
                prometheus.wait_for(expression);
            }
        }
    }
    assert!(asked > 15, "{asked}");
    // What is well does not alarm anybody.
    let firing = prometheus.query("count by (alertname) (ALERTS{alertstate=\"firing\"})").unwrap();
    let firing: BTreeSet<_> =
        firing.iter().map(|series| series["metric"]["alertname"].as_str().unwrap().to_owned()).collect();
    for quiet in ["MetalLBTwoOwners", "MetalLBStaleConfig", "MetalLBConfigNotLoaded"] {
        assert!(!firing.contains(quiet), "{firing:?}");
    }
}
