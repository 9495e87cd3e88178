//! What describes the bundle as a whole: its annotations, which are the labels of its image too.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Release;

/// The channel of a Subscription that names none.
pub(super) const DEFAULT_CHANNEL: &str = "stable";
/// Channel of all releases, those that are to be tried included.
pub(super) const CANDIDATE_CHANNEL: &str = "candidate";

/// Annotations by key.
pub(super) type Labels = BTreeMap<&'static str, String>;

/// The annotations.
pub(super) fn labels(package: &str, release: &Release) -> Labels {
    let bundle = [
        ("operators.operatorframework.io.bundle.mediatype.v1", "registry+v1"),
        ("operators.operatorframework.io.bundle.manifests.v1", "manifests/"),
        ("operators.operatorframework.io.bundle.metadata.v1", "metadata/"),
        ("operators.operatorframework.io.bundle.package.v1", package),
        ("operators.operatorframework.io.bundle.channels.v1", &release.channels.join(",")),
        ("operators.operatorframework.io.bundle.channel.default.v1", DEFAULT_CHANNEL),
        ("operators.operatorframework.io.test.mediatype.v1", "scorecard+v1"),
        ("operators.operatorframework.io.test.config.v1", "tests/scorecard/"),
    ];
    bundle.into_iter().map(|(key, value)| (key, value.to_owned())).collect()
}

/// metadata/annotations.yaml.
pub(super) fn annotations(labels: &Labels) -> Value {
    json!({ "annotations": labels })
}

/// The Containerfile of the bundle's image, which is never run.
pub(super) fn containerfile(labels: &Labels) -> String {
    let labels: String = labels.iter().map(|(key, value)| format!("LABEL {key}={value}\n")).collect();
    format!(
        "# Written by `make bundle`. Build it in bundle/.\nFROM scratch\n\n{labels}\n\
         COPY manifests /manifests/\nCOPY metadata /metadata/\nCOPY tests/scorecard /tests/scorecard/\n"
    )
}
