//! Rules for the bundle as a whole.

use super::{Bundle, Rule, is_name, text};
use crate::bundle::objects::{id, kind};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "one-csv",
        source: "docs: creating an operator bundle, `a directory of files with one ClusterServiceVersion`",
        check: one_csv,
    },
    Rule { name: "kinds", source: "registry: pkg/lib/bundle/supported_resources.go", check: kinds },
    Rule { name: "size", source: "api: pkg/validation/internal/bundle.go, validateBundleSize", check: size },
    Rule {
        name: "annotations",
        source: "docs: creating an operator bundle, annotations.yaml; registry: pkg/lib/bundle/validate.go",
        check: annotations,
    },
    Rule {
        name: "channels",
        source: "api: pkg/validation/internal/good_practices.go, validateHubChannels; docs: channel naming",
        check: channels,
    },
];

/// Bytes of a ConfigMap, in which OLM unpacks the bundle. Its limit is for the compressed size, so this is stricter.
const LARGEST: usize = 1 << 20;

/// Kinds beside ClusterServiceVersion and CustomResourceDefinition.
const KINDS: [&str; 20] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "ConsoleCLIDownload",
    "ConsoleLink",
    "ConsolePlugin",
    "ConsoleQuickStart",
    "ConsoleYAMLSample",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodMonitor",
    "PriorityClass",
    "PrometheusRule",
    "Role",
    "RoleBinding",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "VerticalPodAutoscaler",
];

const FIXED: [(&str, &str); 3] = [
    ("operators.operatorframework.io.bundle.mediatype.v1", "registry+v1"),
    ("operators.operatorframework.io.bundle.manifests.v1", "manifests/"),
    ("operators.operatorframework.io.bundle.metadata.v1", "metadata/"),
];

fn one_csv(bundle: &Bundle) -> Vec<String> {
    match bundle.csvs.len() {
        1 => Vec::new(),
        count => vec![format!("bundle/manifests holds {count} ClusterServiceVersions")],
    }
}

fn kinds(bundle: &Bundle) -> Vec<String> {
    let unknown = bundle.objects.iter().filter(|object| !KINDS.contains(&kind(object)));
    unknown.map(|object| format!("{}: OLM installs no such kind", id(object))).collect()
}

fn size(bundle: &Bundle) -> Vec<String> {
    let found = (bundle.size > LARGEST).then(|| format!("bundle/manifests has more than {LARGEST} bytes"));
    found.into_iter().collect()
}

fn annotations(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for (key, wanted) in FIXED {
        if bundle.annotations[key] != wanted {
            broken.push(format!("annotations.yaml: {key} must be {wanted:?}"));
        }
    }
    if !is_name(bundle.package()) {
        broken.push(format!("annotations.yaml: {:?} is not the name of a package", bundle.package()));
    }
    for (key, value) in bundle.annotations.as_object().into_iter().flatten() {
        let label = format!("LABEL {key}={}", text(value));
        if !bundle.containerfile.lines().any(|line| line == label) {
            broken.push(format!("bundle.Containerfile: `{label}` is missing"));
        }
    }
    broken
}

fn channels(bundle: &Bundle) -> Vec<String> {
    let channels = text(&bundle.annotations["operators.operatorframework.io.bundle.channels.v1"]);
    let default = text(&bundle.annotations["operators.operatorframework.io.bundle.channel.default.v1"]);
    let mut broken = Vec::new();
    for channel in channels.split(',') {
        if !["candidate", "fast", "stable"].iter().any(|known| channel.starts_with(known)) {
            broken.push(format!(
                "annotations.yaml: channel {channel:?} is not called candidate, fast or stable"
            ));
        }
    }
    if default.is_empty() {
        broken.push("annotations.yaml: no default channel".to_owned());
    }
    broken
}
