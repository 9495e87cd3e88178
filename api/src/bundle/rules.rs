//! The published rules for bundles and catalogs, each with its source.
//!
//! OLM, its catalogs and OperatorHub refuse or warn about what breaks them; here a warning counts as much as a refusal.
//! Sources are named by repository and file: `api` is operator-framework/api, `registry` operator-registry, `docs`
//! olm.operatorframework.io.

mod catalog;
mod csv;
mod definitions;
mod install;
mod metadata;
mod objects;
mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::objects::{items, kind, read};

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Short name, for messages.
    pub name: &'static str,
    /// Where it is published.
    pub source: &'static str,
    /// What breaks it.
    check: fn(&Bundle) -> Vec<String>,
}

impl Rule {
    fn broken(&self, bundle: &Bundle) -> impl Iterator<Item = Broken> {
        (self.check)(bundle).into_iter().map(|message| Broken { rule: self.name, message })
    }
}

/// Every rule, in the order in which they are checked.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    [metadata::RULES, csv::RULES, definitions::RULES, install::RULES, objects::RULES, catalog::RULES]
        .into_iter()
        .flatten()
}

/// A rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Name of the rule; `yaml` when a file could not be read at all.
    pub rule: &'static str,
    /// What breaks it: object, field and why.
    pub message: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.message)
    }
}

/// Checks the files of bundle/ and olm/, by their paths from the root of the repository.
pub fn check(files: &BTreeMap<String, String>) -> Vec<Broken> {
    let bundle = match Bundle::read(files) {
        Ok(bundle) => bundle,
        Err(message) => return vec![Broken { rule: "yaml", message }],
    };
    all().flat_map(|rule| rule.broken(&bundle)).collect()
}

/// The same for files that are published, for which more holds: digests, and nothing that stands in for something else.
pub fn check_published(files: &BTreeMap<String, String>) -> Vec<Broken> {
    let mut broken = check(files);
    if let Ok(bundle) = Bundle::read(files) {
        broken.extend(published::RULES.iter().flat_map(|rule| rule.broken(&bundle)));
    }
    broken
}

/// The rule that finds what stands in for something that the project does not have yet.
pub const PLACEHOLDERS: &str = published::PLACEHOLDERS;

/// What the files hold.
struct Bundle {
    /// The ClusterServiceVersions; all rules but the one about their number look at the first.
    csvs: Vec<Value>,
    definitions: Vec<Value>,
    /// Objects of bundle/manifests that are neither.
    objects: Vec<Value>,
    /// The annotations of bundle/metadata/annotations.yaml.
    annotations: Value,
    /// bundle/bundle.Containerfile.
    containerfile: String,
    /// Blobs of olm/catalog.
    catalog: Vec<Value>,
    /// Objects of the files in olm/ that an administrator applies, by file.
    applied: BTreeMap<String, Vec<Value>>,
    /// Bytes of bundle/manifests.
    size: usize,
}

impl Bundle {
    fn read(files: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut bundle = Self {
            csvs: Vec::new(),
            definitions: Vec::new(),
            objects: Vec::new(),
            annotations: Value::Null,
            containerfile: files.get("bundle/bundle.Containerfile").cloned().unwrap_or_default(),
            catalog: Vec::new(),
            applied: BTreeMap::new(),
            size: 0,
        };
        for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".yaml")) {
            let objects = || read(text).map_err(|problem| format!("{path}: {}", problem.message));
            if path.starts_with("bundle/manifests/") {
                bundle.size += text.len();
                for object in objects()? {
                    let list = match kind(&object) {
                        "ClusterServiceVersion" => &mut bundle.csvs,
                        "CustomResourceDefinition" => &mut bundle.definitions,
                        _ => &mut bundle.objects,
                    };
                    list.push(object);
                }
            } else if path == "bundle/metadata/annotations.yaml" {
                let document = objects()?.into_iter().next().unwrap_or_default();
                bundle.annotations = document["annotations"].clone();
            } else if path.starts_with("olm/catalog/") {
                bundle.catalog.extend(objects()?);
            } else if path.strip_prefix("olm/").is_some_and(|file| !file.contains('/')) {
                bundle.applied.insert(path.clone(), objects()?);
            }
        }
        Ok(bundle)
    }

    fn csv(&self) -> &Value {
        self.csvs.first().unwrap_or(&Value::Null)
    }

    fn owned(&self) -> impl Iterator<Item = &Value> {
        items(&self.csv()["spec"]["customresourcedefinitions"]["owned"])
    }

    /// The definition and the version that an owned entry speaks of.
    fn definition(&self, owned: &Value) -> Option<(&Value, &Value)> {
        let definition =
            self.definitions.iter().find(|definition| definition["metadata"]["name"] == owned["name"])?;
        let mut versions = items(&definition["spec"]["versions"]);
        Some((definition, versions.find(|version| version["name"] == owned["version"])?))
    }

    fn deployments(&self) -> impl Iterator<Item = &Value> {
        items(&self.csv()["spec"]["install"]["spec"]["deployments"])
    }

    fn webhooks(&self) -> impl Iterator<Item = &Value> {
        items(&self.csv()["spec"]["webhookdefinitions"])
    }

    fn package(&self) -> &str {
        self.annotations["operators.operatorframework.io.bundle.package.v1"].as_str().unwrap_or_default()
    }
}

/// The text of a field, empty when it is none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Those that are there more than once, each once.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).collect()
}

/// RFC 1123 subdomain, at most 63 characters since it is a label's value too.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let letters =
            part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        letters && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= 63 && name.split('.').all(part)
}
