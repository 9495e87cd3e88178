//! The support archive: what somebody far away needs to see, without secrets.
//!
//! Secrets are never asked for. Passwords in what is asked for are concealed, also within the files that ConfigMaps
//! hold, and so are the copies of objects that kubectl keeps in an annotation.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
};
use metallb_api::names::{APP, GROUP};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{place::Place, pools::Pools, services::Services, sessions, status::Status};

/// Lines of a log that are taken.
const LOG_LINES: i64 = 10_000;
/// Objects that are asked for at one time.
const PAGE: u32 = 500;
/// Stands where something is not shown.
const CONCEALED: &str = "(concealed)";
/// Names of what may be a secret itself end so.
const SECRETS: [&str; 7] =
    ["password", "passwd", "token", "secretkey", "secret_key", "private_key", "privatekey"];
/// The annotation in which kubectl keeps a copy of what was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Kinds of the load balancer's namespace: API version, kind, plural.
const OWN: [(&str, &str, &str); 23] = [
    ("metallb.io/v1beta1", "MetalLB", "metallbs"),
    ("metallb.io/v1beta1", "AddressPool", "addresspools"),
    ("metallb.io/v1beta1", "IPAddressPool", "ipaddresspools"),
    ("metallb.io/v1beta1", "L2Advertisement", "l2advertisements"),
    ("metallb.io/v1beta1", "BGPAdvertisement", "bgpadvertisements"),
    ("metallb.io/v1beta2", "BGPPeer", "bgppeers"),
    ("metallb.io/v1beta1", "BFDProfile", "bfdprofiles"),
    ("metallb.io/v1beta1", "Community", "communities"),
    ("metallb.io/v1beta1", "ConfigurationState", "configurationstates"),
    ("metallb.io/v1beta1", "ServiceL2Status", "servicel2statuses"),
    ("metallb.io/v1beta1", "ServiceBGPStatus", "servicebgpstatuses"),
    ("frrk8s.metallb.io/v1beta1", "BGPSessionState", "bgpsessionstates"),
    ("v1", "Pod", "pods"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Event", "events"),
    ("v1", "Service", "services"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("coordination.k8s.io/v1", "Lease", "leases"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
];

/// Kinds of the same namespace that a cluster need not know: those of the Prometheus Operator and of OLM.
const OTHERS: [(&str, &str, &str); 6] = [
    ("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com/v1", "PodMonitor", "podmonitors"),
    ("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules"),
    ("operators.coreos.com/v1alpha1", "ClusterServiceVersion", "clusterserviceversions"),
    ("operators.coreos.com/v1alpha1", "Subscription", "subscriptions"),
    ("operators.coreos.com/v2", "OperatorCondition", "operatorconditions"),
];

/// Kinds of the whole cluster, of which only what concerns the load balancer is kept.
const CLUSTER: [(&str, &str, &str); 8] = [
    ("v1", "Service", "services"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ("v1", "Node", "nodes"),
    ("v1", "Namespace", "namespaces"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions"),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
];

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Written {
    file: PathBuf,
    entries: usize,
    /// What could not be read; it is in the archive too.
    missing: Vec<String>,
}

impl Written {
    /// Whether everything is in it.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for missing in &self.missing {
            writeln!(f, "not in it: {missing}")?;
        }
        write!(f, "{}: {} files", self.file.display(), self.entries)
    }
}

/// Writes the archive `file`.
///
/// # Errors
/// When the file cannot be written. What cannot be read is listed in the result.
pub(super) async fn write(place: &Place, file: Option<&Path>) -> anyhow::Result<Written> {
    let now = Timestamp::now();
    let named = || PathBuf::from(format!("metallb-support-{}.tar", now.strftime("%Y%m%dT%H%M%SZ")));
    let file = file.map_or_else(named, Path::to_owned);
    let mut archive = Archive::create(&file, now)?;
    archive.text("plugin.txt", &format!("kubectl-metallb {}, {now}\n", env!("CARGO_PKG_VERSION")))?;
    let server = place.cluster.client.apiserver_version().await;
    archive.answer("server.yaml", server.map_err(Into::into))?;
    answers(&mut archive, place).await?;
    for kind in OWN {
        let listed = list(place, kind, Some(&place.cluster.namespace)).await;
        archive.answer(&format!("namespace/{}.yaml", kind.2), listed)?;
    }
    for kind in OTHERS {
        match list(place, kind, Some(&place.cluster.namespace)).await {
            Err(error) if is_unknown(&error) => {}
            listed => archive.answer(&format!("namespace/{}.yaml", kind.2), listed)?,
        }
    }
    for kind in CLUSTER {
        let listed = list(place, kind, None).await;
        let listed = listed.map(|objects| concerning(objects, &place.cluster.namespace));
        archive.answer(&format!("cluster/{}.yaml", kind.2), listed)?;
    }
    logs(&mut archive, place).await?;
    archive.finish(file)
}

/// What the plugin itself says.
async fn answers(archive: &mut Archive, place: &Place) -> anyhow::Result<()> {
    let allocation = place.allocation().await;
    let announcing = place.announcing().await;
    match (&allocation, &announcing) {
        (Ok(allocation), Ok(announcing)) => {
            let states = place.states().await.unwrap_or_default();
            let sessions = sessions::of_all(allocation, announcing);
            let of = (place.cluster.namespace.as_str(), place.metallb.as_ref());
            let status = Status::of(of, &states, allocation, &sessions);
            archive.answer("status.yaml", Ok(&status))?;
            archive.answer("pools.yaml", Ok(&Pools::of(allocation, announcing)))?;
            archive.answer("services.yaml", Ok(&Services::of(allocation, announcing, None)))
        }
        (Err(error), _) | (_, Err(error)) => {
            archive.missing.push(format!("status, pools and services: {error:#}"));
            Ok(())
        }
    }
}

/// All objects of a kind, as values without what is concealed.
async fn list(
    place: &Place,
    (version, kind, plural): (&str, &str, &str),
    namespace: Option<&str>,
) -> anyhow::Result<Vec<Value>> {
    let (group, name) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: name.to_owned(),
        api_version: version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    let client = place.cluster.client.clone();
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await?;
        for object in page.items {
            let mut value = serde_json::to_value(object)?;
            value["apiVersion"] = json!(version);
            value["kind"] = json!(kind);
            conceal(&mut value);
            all.push(value);
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

/// Whether the cluster does not know the kind that was asked for.
fn is_unknown(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404)
}

/// Of the objects of the whole cluster, those that concern the load balancer. Of definitions only what is served and
/// stored: their schemas are known by the version.
fn concerning(objects: Vec<Value>, namespace: &str) -> Vec<Value> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut kept = Vec::new();
    for mut object in objects {
        let concerns = match object["kind"].as_str().unwrap_or_default() {
            "Service" => object["spec"]["type"] == "LoadBalancer",
            "CustomResourceDefinition" => name(&object).ends_with(&format!(".{GROUP}")),
            "ValidatingWebhookConfiguration" | "ClusterRole" | "ClusterRoleBinding" => {
                name(&object).contains("metallb")
            }
            // Its labels say what Pod Security allows.
            "Namespace" => name(&object) == namespace,
            _ => true,
        };
        if !concerns {
            continue;
        }
        for version in object["spec"].get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if let Some(version) = version.as_object_mut() {
                version.remove("schema");
            }
        }
        kept.push(object);
    }
    kept
}

/// Takes out what must not be shown, at any depth.
fn conceal(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            fields.remove(LAST_APPLIED);
            if fields.get("kind").and_then(Value::as_str) == Some("ConfigMap") {
                conceal_files(fields);
            }
            // A variable of a container is an object of name and value.
            let is_secret = fields.get("name").and_then(Value::as_str).is_some_and(names_a_secret);
            for (name, field) in fields.iter_mut() {
                if field.is_string() && (names_a_secret(name) || is_secret && name == "value") {
                    *field = json!(CONCEALED);
                } else {
                    conceal(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(conceal),
        Value::String(text) if text.contains('\n') => *text = without_secrets(text),
        _ => {}
    }
}

/// Takes out what must not be shown of the files in a ConfigMap: those of one line too, and all that is no text.
fn conceal_files(map: &mut Map<String, Value>) {
    for text in map.get_mut("data").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        if let Value::String(text) = text {
            *text = without_secrets(text);
        }
    }
    for bytes in
        map.get_mut("binaryData").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
    {
        *bytes = json!(CONCEALED);
    }
}

/// A file without what follows the name of a secret: the rest of the line, and the deeper lines below, over which YAML
/// lets a value go on. Where a value ends within its line depends on the file's language, and a setting that is not
/// shown does less harm than the rest of a password.
fn without_secrets(text: &str) -> String {
    let mut lines = Vec::new();
    // The depth of the line whose value is left out.
    let mut above: Option<usize> = None;
    for line in text.split('\n') {
        let depth = line.find(|first: char| !" \t-".contains(first)).unwrap_or(line.len());
        let is_blank = line.trim().is_empty();
        if !is_blank && above.is_some_and(|above| depth > above) {
            continue;
        }
        match behind_a_secret(line).and_then(|end| line.get(..end)) {
            Some(shown) => {
                above = Some(depth);
                lines.push(format!("{shown} {CONCEALED}"));
            }
            None => {
                // A value may have blank lines in it.
                above = above.filter(|_| is_blank);
                lines.push(line.to_owned());
            }
        }
    }
    lines.join("\n")
}

/// Where the first name of a secret in a line ends.
fn behind_a_secret(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let ends = SECRETS
        .into_iter()
        .flat_map(|word| lower.match_indices(word).map(|(start, word)| start + word.len()))
        .filter(|end| {
            let next = lower.get(*end..).and_then(|rest| rest.chars().next());
            next.is_none_or(|next| !next.is_alphanumeric() && !"_-".contains(next))
        });
    ends.min()
}

/// Whether what is called so may be a secret itself; `secretName` and the like only name one.
fn names_a_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRETS.into_iter().any(|word| name.ends_with(word))
}

/// The logs of every container of the load balancer, and of its last life where it had one.
async fn logs(archive: &mut Archive, place: &Place) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(place.cluster.client.clone(), &place.cluster.namespace);
    let pods: Vec<Pod> = match place.cluster.own("").await {
        Ok(pods) => pods,
        Err(error) => {
            archive.missing.push(format!("logs: {error:#}"));
            return Ok(());
        }
    };
    let is_ours = |pod: &&Pod| {
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        label("app") == Some(APP) || label("control-plane") == Some("controller-manager")
    };
    for pod in pods.iter().filter(is_ours) {
        let status = pod.status.clone().unwrap_or_default();
        for container in status.container_statuses.iter().flatten() {
            for previous in [false, true].into_iter().take(if container.restart_count > 0 { 2 } else { 1 }) {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    tail_lines: Some(LOG_LINES),
                    previous,
                    ..LogParams::default()
                };
                let which = if previous { "-previous" } else { "" };
                let path = format!("logs/{}/{}{which}.log", pod.name_any(), container.name);
                match api.logs(&pod.name_any(), &params).await {
                    Ok(log) => archive.text(&path, &log)?,
                    Err(kube::Error::Api(status)) => {
                        archive.missing.push(format!("{path}: {}", status.message));
                    }
                    Err(error) => archive.missing.push(format!("{path}: {error}")),
                }
            }
        }
    }
    Ok(())
}

/// A tar file that is being written.
struct Archive {
    tar: tar::Builder<File>,
    /// Time of every entry, in seconds since 1970.
    time: u64,
    entries: usize,
    missing: Vec<String>,
}

impl Archive {
    fn create(path: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let time = u64::try_from(now.as_second()).unwrap_or_default();
        Ok(Self { tar: tar::Builder::new(file), time, entries: 0, missing: Vec::new() })
    }

    fn text(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        self.tar
            .append_data(&mut header, format!("metallb-support/{path}"), text.as_bytes())
            .with_context(|| format!("cannot write {path} into the archive"))?;
        self.entries += 1;
        Ok(())
    }

    /// Writes what was found as YAML, or notes why there is nothing.
    fn answer<T: Serialize>(&mut self, path: &str, found: anyhow::Result<T>) -> anyhow::Result<()> {
        match found {
            Ok(value) => {
                let yaml = serde_saphyr::to_string(&value).with_context(|| path.to_owned())?;
                self.text(path, &yaml)
            }
            Err(error) => {
                self.missing.push(format!("{path}: {error:#}"));
                Ok(())
            }
        }
    }

    fn finish(mut self, file: PathBuf) -> anyhow::Result<Written> {
        if !self.missing.is_empty() {
            let missing = self.missing.join("\n") + "\n";
            self.text("missing.txt", &missing)?;
        }
        self.tar.into_inner().and_then(|file| file.sync_all()).with_context(|| file.display().to_string())?;
        Ok(Written { file, entries: self.entries, missing: self.missing })
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
