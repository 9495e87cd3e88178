//! A real Prometheus on host cp.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use metallb_api::bundle::objects::{items, read};
use metallb_e2e::{
    deploy::NAMESPACE,
    deps,
    exec::{on, output, wait_until},
    observe::get,
};
use serde_json::{Value, json};

use crate::{
    discovery::{ROLES, Seen},
    generated::{Generated, file},
};

/// Debian's Prometheus, which has promtool.
pub(crate) const DEBIAN: [(&str, &str); 1] = [("prometheus", "/usr/bin/promtool")];
const LISTEN: &str = "127.0.0.1:9090";

/// Its version, as the Prometheus Operator takes it.
pub(crate) fn version() -> Result<String> {
    deps::need(&DEBIAN)?;
    let told = output(Command::new("promtool").arg("--version"))?;
    let version = told.split_whitespace().nth(2).with_context(|| told.clone())?;
    Ok(format!("v{}", version.split('+').next().unwrap_or(version)))
}

/// The pods that there are to be asked.
const PODS: [&str; 3] =
    ["app=metallb,component=controller", "app=metallb,component=speaker", "control-plane=controller-manager"];

/// How many there are.
pub(crate) fn pods() -> Result<usize> {
    let mut count = 0;
    for selector in PODS {
        let found = get(&["-n", NAMESPACE, "pods", "-l", selector])?;
        count += items(&found["items"]).filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count();
    }
    Ok(count)
}

/// A Prometheus on host cp. Ends with this value.
pub(crate) struct Prometheus {
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
    /// Does as it is told, but each alert waits for one second only. Debian's Prometheus cannot ask Kubernetes for targets:
    /// [`Self::look`] names them in files.
    pub(crate) fn start(generated: &Generated) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rules = folder.path().join("rules");
        fs::create_dir(&rules)?;
        for (name, text) in &generated.rules {
            fs::write(rules.join(name), hasty(text)?)?;
        }
        let configuration = &generated.configuration;
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

    /// Names the targets that there are now.
    fn look(&self) -> Result<()> {
        let list = |kind: &str| -> Result<Vec<Value>> {
            Ok(items(&get(&["-n", NAMESPACE, kind])?["items"]).cloned().collect())
        };
        let seen = Seen { pods: list("pods")?, services: list("services")?, slices: list("endpointslices")? };
        for role in ROLES {
            // Prometheus must never read half of it.
            let file = self.folder.path().join(file(role));
            let partial = file.with_extension("partial");
            fs::write(&partial, seen.targets(role).to_string())?;
            fs::rename(partial, file)?;
        }
        Ok(())
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
    pub(crate) fn wait_with(&self, expression: &str, mut meanwhile: impl FnMut() -> Result<()>) {
        wait_until(&format!("{expression} to have data"), Duration::from_secs(60), || {
            meanwhile()?;
            self.look()?;
            let found = self.query(expression)?;
            let is_there = found.iter().any(|series| series["value"][1] != "NaN");
            Ok(if is_there { None } else { Some(format!("{found:?}, of {:?}", self.query("up")?)) })
        })
        .unwrap();
    }

    pub(crate) fn wait_for(&self, expression: &str) {
        self.wait_with(expression, || Ok(()));
    }

    /// Names of the alerts that fire.
    pub(crate) fn firing(&self) -> BTreeSet<String> {
        let firing = self.query("count by (alertname) (ALERTS{alertstate=\"firing\"})").unwrap();
        let name = |series: &Value| series["metric"]["alertname"].as_str().unwrap_or_default().to_owned();
        firing.iter().map(name).collect()
    }

    pub(crate) fn wait_for_alert(&self, alert: &str) {
        self.wait_for(&firing(alert));
    }
}

/// The same rules, each of which waits for one second.
fn hasty(rules: &str) -> Result<String> {
    let mut rules = read(rules)?.pop().context("an empty file of rules")?;
    for group in rules["groups"].as_array_mut().into_iter().flatten() {
        for rule in group["rules"].as_array_mut().into_iter().flatten() {
            if rule["for"].is_string() {
                rule["for"] = json!("1s");
            }
        }
    }
    Ok(rules.to_string())
}

/// The query that has data while an alert fires.
pub(crate) fn firing(alert: &str) -> String {
    format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}")
}
