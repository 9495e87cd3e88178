//! The real Prometheus Operator, which turns the monitors and rules that are in the cluster into the configuration of a
//! Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use metallb_api::bundle::objects::{items, read};
use metallb_e2e::{
    cluster::kubectl,
    exec::{on, output, wait_until},
    layout::kubeconfig,
    observe::{apply, get, kube},
    tools,
};
use serde_json::{Value, json};

use crate::discovery::ROLES;

/// The kinds that it needs to be there.
const KINDS: [&str; 5] = ["podmonitors", "probes", "prometheuses", "prometheusrules", "servicemonitors"];
/// Namespace and name of the Prometheus that is configured.
const NAMESPACE: &str = "watching";
const NAME: &str = "all";
/// Where it answers on host cp.
const LISTEN: &str = "127.0.0.1:9091";

/// The program on host cp, and its definitions. They end with this value.
pub(crate) struct PrometheusOperator {
    process: Option<Child>,
    folder: tempfile::TempDir,
}

/// What Prometheus is to do.
pub(crate) struct Generated {
    /// The configuration: targets are in the files [`file`], and rules in the folder `rules`.
    pub(crate) configuration: Value,
    /// The files of rules.
    pub(crate) rules: BTreeMap<String, String>,
}

/// The file with the targets of a role.
pub(crate) fn file(role: &str) -> String {
    format!("{role}.json")
}

impl PrometheusOperator {
    /// Brings its kinds, and a Prometheus that takes every monitor and rule, but none that names a file of Prometheus' own.
    /// No pod runs: the test does. Then starts the program.
    pub(crate) fn start(version: &str) -> Result<Self> {
        let program = tools::prometheus_operator()?;
        let source = tools::prometheus_operator_source()?;
        let mut started = Self { process: None, folder: tempfile::tempdir()? };
        for kind in KINDS {
            let file = format!("example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml");
            output(kubectl().args(["apply", "--server-side", "-f"]).arg(source.join(file)))?;
        }
        for kind in KINDS {
            kube(&format!(
                "wait crd/{kind}.monitoring.coreos.com --for=condition=Established --timeout=30s"
            ))?;
        }
        let every = json!({});
        let prometheus = json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus",
            "metadata": { "name": NAME, "namespace": NAMESPACE },
            "spec": {
                "version": version, "replicas": 0, "scrapeInterval": "1s", "evaluationInterval": "1s",
                "serviceDiscoveryRole": "EndpointSlice", "arbitraryFSAccessThroughSMs": { "deny": true },
                "serviceMonitorSelector": every, "serviceMonitorNamespaceSelector": every,
                "podMonitorSelector": every, "podMonitorNamespaceSelector": every,
                "ruleSelector": every, "ruleNamespaceSelector": every,
            },
        });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [namespace, prometheus] });
        // A kind is found a moment after it is established.
        wait_until("a Prometheus to be taken", Duration::from_secs(30), || {
            apply(&objects.to_string()).map(|()| None)
        })?;
        let log = File::create(started.log_file())?;
        let child = on("cp", program)
            .arg(format!("--web.listen-address={LISTEN}"))
            .env("KUBECONFIG", kubeconfig())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run the Prometheus Operator")?;
        started.process = Some(child);
        Ok(started)
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// What it logged last, for the message of a failed test.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// Waits until the configuration asks exactly what the monitors named so say, as KIND/NAME, and has rules.
    pub(crate) fn wait_for(&self, monitors: &[String]) -> Result<Generated> {
        let wanted: BTreeSet<String> = monitors
            .iter()
            .filter_map(|monitor| monitor.split_once('/'))
            .map(|(kind, name)| format!("{kind}/{}/{name}/0", metallb_e2e::deploy::NAMESPACE))
            .collect();
        let mut found = None;
        wait_until(&format!("the jobs {wanted:?}"), Duration::from_secs(60), || {
            let generated = self.generated().with_context(|| self.log())?;
            let jobs = items(&generated.configuration["scrape_configs"]).map(|job| &job["job_name"]);
            let jobs: BTreeSet<String> = jobs.filter_map(Value::as_str).map(str::to_owned).collect();
            ensure!(jobs == wanted && !generated.rules.is_empty(), "{jobs:?}\n{}", self.log());
            found = Some(generated);
            Ok(None)
        })?;
        found.context("a configuration")
    }

    fn generated(&self) -> Result<Generated> {
        let secret = get(&["-n", NAMESPACE, "secret", &format!("prometheus-{NAME}")])?;
        let packed = self.folder.path().join("configuration");
        fs::write(&packed, secret["data"]["prometheus.yaml.gz"].as_str().context("no configuration yet")?)?;
        let text = output(Command::new("bash").args(["-c", "base64 -d \"$0\" | gunzip"]).arg(&packed))?;
        // The pod's config-reloader puts these in.
        let text = text.replace("$(SHARD)", "0").replace("$(POD_NAME)", "all-0");
        let mut configuration = read(&text)?.pop().context("an empty configuration")?;
        configuration["rule_files"] = json!(["rules/*.yaml"]);
        let jobs = configuration["scrape_configs"].as_array_mut();
        for job in jobs.into_iter().flatten().filter_map(Value::as_object_mut) {
            let discovery = job.remove("kubernetes_sd_configs").unwrap_or_default();
            let role = discovery[0]["role"].as_str().unwrap_or_default();
            ensure!(ROLES.contains(&role), "{}: role {role:?}", job["job_name"]);
            let namespaces = &discovery[0]["namespaces"]["names"];
            ensure!(*namespaces == json!([metallb_e2e::deploy::NAMESPACE]), "namespaces {namespaces}");
            job.insert("file_sd_configs".to_owned(), json!([{ "files": [file(role)] }]));
        }
        let maps = get(&["-n", NAMESPACE, "configmaps"])?;
        let of_rules = items(&maps["items"])
            .filter(|map| map["metadata"]["name"].as_str().is_some_and(|name| name.contains("rulefiles")));
        let files = of_rules.flat_map(|map| map["data"].as_object().into_iter().flatten());
        let rules = files.map(|(name, text)| (name.clone(), text.as_str().unwrap_or_default().to_owned()));
        Ok(Generated { configuration, rules: rules.collect() })
    }
}

impl Drop for PrometheusOperator {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself; then there is nothing to end.
            let _ = process.kill();
            let _ = process.wait();
        }
        // A cluster that is gone has none of them.
        let _ = kube(&format!("delete namespace {NAMESPACE} --ignore-not-found --timeout=60s"));
        for kind in KINDS {
            let _ = kube(&format!("delete crd {kind}.monitoring.coreos.com --ignore-not-found"));
        }
    }
}
