//! The file-based catalog: one package, its channels, and the bundle of the current version. The blobs of earlier
//! versions are carried over as they were when they were released.
//!
//! Schemas: <https://olm.operatorframework.io/docs/reference/file-based-catalogs/>; properties: operator-registry,
//! alpha/property.

use std::collections::BTreeMap;

use semver::Version;
use serde_json::{Value, json};

use super::csv::{bundle_name, provided};
use super::metadata::DEFAULT_CHANNEL;
use super::{Problem, Release, Releases};

/// The Containerfile of the catalog's image. `opm` serves the files by gRPC, and builds its cache when the image is
/// made.
pub(super) const CONTAINERFILE: &str = "\
# Written by `make bundle`. Build it in olm/.
ARG OPM=quay.io/operator-framework/opm:v1.73.0
FROM ${OPM}
COPY catalog /configs
RUN [\"/bin/opm\", \"serve\", \"/configs\", \"--cache-dir=/tmp/cache\", \"--cache-only\"]
LABEL operators.operatorframework.io.index.configs.v1=/configs
ENTRYPOINT [\"/bin/opm\"]
CMD [\"serve\", \"/configs\", \"--cache-dir=/tmp/cache\"]
";

/// Fields of a ClusterServiceVersion's spec that a catalog shows, and what `olm.csv.metadata` calls them.
const SHOWN: [(&str, &str); 10] = [
    ("customresourcedefinitions", "crdDescriptions"),
    ("description", "description"),
    ("displayName", "displayName"),
    ("installModes", "installModes"),
    ("keywords", "keywords"),
    ("links", "links"),
    ("maintainers", "maintainers"),
    ("maturity", "maturity"),
    ("minKubeVersion", "minKubeVersion"),
    ("provider", "provider"),
];

/// The files by name, for the ClusterServiceVersion of the current release.
///
/// # Errors
/// When the operator's image does not tell the registry that the bundle is in, or no release is in the default channel.
pub(super) fn files(
    package: &str,
    csv: &Value,
    releases: &Releases,
) -> Result<Vec<(String, Value)>, Problem> {
    let channels = channels(releases);
    if !channels.contains_key(DEFAULT_CHANNEL) {
        let message = format!("no release is in the default channel {DEFAULT_CHANNEL}");
        return Err(Problem::new("releases.yaml", message));
    }
    let spec = &csv["spec"];
    let icon = &spec["icon"][0];
    let mut files = vec![(
        "package.yaml".to_owned(),
        json!({
            "schema": "olm.package",
            "name": package,
            "defaultChannel": DEFAULT_CHANNEL,
            "description": spec["description"],
            "icon": { "base64data": icon["base64data"], "mediatype": icon["mediatype"] },
        }),
    )];
    for (channel, releases) in channels {
        let entries = entries(package, &releases);
        let blob =
            json!({ "schema": "olm.channel", "package": package, "name": channel, "entries": entries });
        files.push((format!("channel-{channel}.yaml"), blob));
    }
    let current = releases.current();
    files.push((format!("bundle-v{}.yaml", current.version), bundle(package, csv, &current.version)?));
    Ok(files)
}

fn channels(releases: &Releases) -> BTreeMap<&str, Vec<&Release>> {
    let mut channels: BTreeMap<&str, Vec<&Release>> = BTreeMap::new();
    for release in releases.all() {
        for channel in &release.channels {
            channels.entry(channel).or_default().push(release);
        }
    }
    channels
}

/// Each version replaces the one before it, and may be reached from any earlier one of the channel at once.
fn entries(package: &str, releases: &[&Release]) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut before: Option<&Release> = None;
    for release in releases {
        let mut entry = json!({ "name": bundle_name(package, release) });
        if let (Some(before), Some(first)) = (before, releases.first()) {
            entry["replaces"] = json!(bundle_name(package, before));
            entry["skipRange"] = json!(format!(">={} <{}", first.version, release.version));
        }
        entries.push(entry);
        before = Some(release);
    }
    entries
}

fn bundle(package: &str, csv: &Value, version: &Version) -> Result<Value, Problem> {
    let image = image(csv, "bundle", &version.to_string())?;
    let mut shown =
        json!({ "annotations": csv["metadata"]["annotations"], "labels": csv["metadata"]["labels"] });
    for (field, name) in SHOWN {
        shown[name] = csv["spec"][field].clone();
    }
    let mut properties = vec![
        json!({ "type": "olm.package", "value": { "packageName": package, "version": version.to_string() } }),
    ];
    properties.extend(provided(csv).map(|kind| json!({ "type": "olm.gvk", "value": kind })));
    properties.push(json!({ "type": "olm.csv.metadata", "value": shown }));
    let mut images = vec![json!({ "name": "bundle", "image": image })];
    images.extend(super::objects::items(&csv["spec"]["relatedImages"]).cloned());
    Ok(json!({
        "schema": "olm.bundle",
        "package": package,
        "name": csv["metadata"]["name"],
        "image": image,
        "properties": properties,
        "relatedImages": images,
    }))
}

/// The image `name` under `tag`, beside the operator's own.
///
/// # Errors
/// When the operator's image is not called `operator`.
pub(super) fn image(csv: &Value, name: &str, tag: &str) -> Result<String, Problem> {
    let operator = csv["metadata"]["annotations"]["containerImage"].as_str().unwrap_or_default();
    let prefix = operator.rsplit_once('/').filter(|(_, image)| image.starts_with("operator"));
    let (prefix, _) = prefix.ok_or_else(|| {
        Problem::new(
            "Deployment",
            format!("the operator's image {operator:?} is not PREFIX/operator:VERSION"),
        )
    })?;
    Ok(format!("{prefix}/{name}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_is_a_chain_with_shortcuts() {
        let releases = Releases::read(
            "- {version: 0.1.0, createdAt: '', channels: [candidate, stable]}\n\
             - {version: 0.2.0-rc.1, createdAt: '', channels: [candidate]}\n\
             - {version: 0.2.0, createdAt: '', channels: [candidate, stable]}\n",
        )
        .unwrap();
        let chains: Vec<_> =
            channels(&releases).into_iter().map(|(name, releases)| (name, entries("p", &releases))).collect();
        let first = json!({ "name": "p.v0.1.0" });
        assert_eq!(
            chains,
            [
                (
                    "candidate",
                    vec![
                        first.clone(),
                        json!({ "name": "p.v0.2.0-rc.1", "replaces": "p.v0.1.0", "skipRange": ">=0.1.0 <0.2.0-rc.1" }),
                        json!({ "name": "p.v0.2.0", "replaces": "p.v0.2.0-rc.1", "skipRange": ">=0.1.0 <0.2.0" }),
                    ]
                ),
                (
                    "stable",
                    vec![
                        first,
                        json!({ "name": "p.v0.2.0", "replaces": "p.v0.1.0", "skipRange": ">=0.1.0 <0.2.0" })
                    ]
                ),
            ]
        );
        assert_eq!(
            releases.before().map(|release| release.version.to_string()).as_deref(),
            Some("0.2.0-rc.1")
        );
    }
}
