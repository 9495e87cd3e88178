//! Objects of the configuration in YAML files, as they would be applied.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use metallb_api::names::GROUP;
use serde_json::Value;

use super::Configuration;

/// Kinds of the group that say nothing of what is announced.
const OTHER_KINDS: [&str; 4] = ["ConfigurationState", "MetalLB", "ServiceBGPStatus", "ServiceL2Status"];

/// The objects in some files, and what could not be read of them.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// Those of the configuration.
    pub(super) configuration: Configuration,
    /// What could not be read, each with its file.
    pub(super) unreadable: Vec<String>,
    /// How many objects of the configuration there are.
    pub(super) count: usize,
}

impl Manifests {
    /// Reads the file `path`, or all files of the folder `path` that end in .yaml, .yml or .json.
    ///
    /// # Errors
    /// When a file cannot be read at all. What is wrong *in* a file is noted in the result.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut manifests = Self::default();
        for file in files(path)? {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            manifests.take_file(&file.display().to_string(), &text);
        }
        Ok(manifests)
    }

    fn take_file(&mut self, file: &str, text: &str) {
        match serde_saphyr::from_multiple::<Value>(text) {
            Ok(documents) => documents.into_iter().for_each(|document| self.take(file, document)),
            Err(error) => self.unreadable.push(format!("{file}: {error}")),
        }
    }

    /// Takes one document. Those of other groups and kinds are none of ours.
    fn take(&mut self, file: &str, mut document: Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&document["kind"]);
        if kind == "List" || kind.ends_with("List") && document["items"].is_array() {
            if let Value::Array(items) = document["items"].take() {
                items.into_iter().for_each(|item| self.take(file, item));
            }
            return;
        }
        let name = text(&document["metadata"]["name"]);
        let group = document["apiVersion"].as_str().unwrap_or_default().split('/').next() == Some(GROUP);
        let Some(read) = self.configuration.take(document) else {
            if group && !OTHER_KINDS.contains(&kind.as_str()) {
                self.unreadable.push(format!("{file}: {kind} {name:?}: there is no such kind in {GROUP}"));
            }
            return;
        };
        self.count += 1;
        if let Err(error) = read {
            self.unreadable.push(format!("{file}: {kind} {name:?}: {error}"));
        }
    }
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
        let file = entry?.path();
        let ending = file.extension().and_then(|ending| ending.to_str());
        if matches!(ending, Some("yaml" | "yml" | "json")) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use metallb_core::config::parse;
    use serde_json::json;

    use super::*;

    const TWO_POOLS: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: good, namespace: metallb-system}
spec: {addresses: [192.0.2.0/28]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: bad}
spec: {addresses: [192.0.2.1]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
";
    const OTHERS: &str = "
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: old}
spec: {protocol: layer2, addresses: [192.0.2.8-192.0.2.1]}
---
apiVersion: metallb.io/v1beta1
kind: IPAdressPool
metadata: {name: slip}
---
apiVersion: metallb.io/v1beta1
kind: MetalLB
metadata: {name: metallb}
";
    const LIST: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: all}
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: odd}
  spec: {addresses: 7}
";

    #[test]
    fn each_kind_of_the_group_is_known() {
        for definition in metallb_api::crd::all().unwrap() {
            let (group, names) = (&definition.spec.group, &definition.spec.names);
            let object = json!({ "apiVersion": format!("{group}/v1"), "kind": names.kind });
            let is_known = OTHER_KINDS.contains(&names.kind.as_str());
            let is_taken = Configuration::default().take(object).is_some();
            assert!(group != GROUP || is_known != is_taken, "{}", names.kind);
        }
    }

    #[test]
    fn an_address_pool_does_not_overlap_the_one_that_was_made_of_it() {
        let pool = |kind: &str, range: &str| {
            json!({
                "apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": { "name": "p" },
                "spec": { "protocol": "layer2", "addresses": [range] },
            })
        };
        // A dump of a cluster has both.
        for kinds in [["AddressPool", "IPAddressPool"], ["IPAddressPool", "AddressPool"]] {
            let mut configuration = Configuration::default();
            for kind in kinds {
                configuration.take(pool(kind, "192.0.2.0/28")).unwrap().unwrap();
            }
            assert_eq!(configuration.problems(), [], "{kinds:?}");
            assert_eq!(configuration.all_pools().count(), 1, "{kinds:?}");
        }
    }

    #[test]
    fn files_are_judged_as_they_would_be_in_the_cluster() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.yaml", TWO_POOLS),
            ("b.yml", LIST),
            ("c.yaml", "a: [b"),
            ("e.yaml", OTHERS),
            ("d.txt", "not looked at: ["),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let manifests = Manifests::read(folder.path()).unwrap();
        let (config, _) = parse(&manifests.configuration.objects());
        let problems = manifests.configuration.problems();
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "IPAddressPool \"bad\": spec.addresses[0]: 192.0.2.1 is a single address: write 192.0.2.1/32",
                "AddressPool \"old\": spec.addresses[0]: 192.0.2.8-192.0.2.1 ends before it starts",
            ]
        );
        assert_eq!(config.pools.keys().collect::<Vec<_>>(), ["good"]);
        assert_eq!(config.l2_advertisements.keys().collect::<Vec<_>>(), ["all"]);
        assert_eq!(manifests.count, 5);
        let at = |name: &str| folder.path().join(name).display().to_string();
        assert_eq!(manifests.unreadable.len(), 3, "{:?}", manifests.unreadable);
        assert!(manifests.unreadable[0].starts_with(&format!("{}: IPAddressPool \"odd\": ", at("b.yml"))));
        assert!(manifests.unreadable[1].starts_with(&format!("{}: ", at("c.yaml"))));
        let slip = format!("{}: IPAdressPool \"slip\": there is no such kind in metallb.io", at("e.yaml"));
        assert_eq!(manifests.unreadable[2], slip);
    }
}
