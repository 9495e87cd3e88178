//! docs/compatibility.md names every field and key that is added to what users of MetalLB and its operator know.

mod reference;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use metallb_api::crd;
use reference::known;

/// Annotations and labels that MetalLB has, too.
const KNOWN_KEYS: [&str; 9] = [
    "metallb.io/address-pool",
    "metallb.io/loadBalancerIPs",
    "metallb.io/allow-shared-ip",
    "metallb.io/ip-allocated-from-pool",
    "metallb.io/node",
    "metallb.io/service-name",
    "metallb.io/service-namespace",
    "metallb.io/component-type",
    "metallb.io/node-name",
];

/// The fields below `path` that are not known. What is below a known field is looked at only where fields below it are
/// known, and so are those of added objects.
fn added(schema: &JSONSchemaProps, path: &str, known: &BTreeSet<&str>, found: &mut BTreeSet<String>) {
    for (field, schema) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
        if !known.contains(path.as_str()) {
            found.insert(path.clone());
        } else if !known.iter().any(|field| field.starts_with(&format!("{path}."))) {
            continue;
        }
        added(schema, &path, known, found);
    }
}

fn page() -> String {
    fs::read_to_string(root().join("docs/compatibility.md")).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether a row of a table is about a kind and names a field of it.
fn is_named(page: &str, kind: &str, field: &str) -> bool {
    page.lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .any(|(kinds, row)| kinds.split(", ").any(|its| its == kind) && row.contains(&format!("`{field}`")))
}

#[test]
fn every_field_that_is_added_is_named() {
    let (page, known) = (page(), known());
    let mut missing = Vec::new();
    let mut kinds = BTreeSet::new();
    for definition in crd::all().unwrap() {
        let kind = definition.spec.names.kind.as_str();
        kinds.insert(kind.to_owned());
        let mut found = BTreeSet::new();
        for version in &definition.spec.versions {
            let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            let parts = schema.properties.as_ref().unwrap();
            for (part, path) in [("spec", ""), ("status", "status")] {
                if let Some(schema) = parts.get(part) {
                    added(schema, path, &known[kind], &mut found);
                }
            }
        }
        missing.extend(
            found
                .iter()
                .filter(|field| !is_named(&page, kind, field))
                .map(|field| format!("{kind}: {field}")),
        );
    }
    assert_eq!(missing, Vec::<String>::new(), "not named in docs/compatibility.md");
    assert_eq!(kinds, known.keys().map(|kind| (*kind).to_owned()).collect());
}

#[test]
fn a_field_that_nobody_names_is_found() {
    let (page, known) = (page(), known());
    let definition = crd::all().unwrap().into_iter().find(|it| it.spec.names.kind == "BGPPeer").unwrap();
    let version = definition.spec.versions.iter().find(|version| version.name == "v1beta2").unwrap();
    let schema = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    let mut found = BTreeSet::new();
    added(&schema.properties.as_ref().unwrap()["spec"], "", &known["BGPPeer"], &mut found);
    assert_eq!(found, ["maxPrefixes", "passive", "ttlSecurityHops"].map(str::to_owned).into());
    assert!(is_named(&page, "BGPPeer", "passive") && is_named(&page, "Community", "status.conditions"));
    assert!(!is_named(&page, "BGPPeer", "passively") && !is_named(&page, "L2Advertisement", "passive"));
}

/// Every `"metallb.io/..."` of the sources of a crate, but for those of tests and versions of the group.
fn keys(folder: &Path, keys: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.contains("tests") {
            continue;
        }
        if path.is_dir() {
            self::keys(&path, keys);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            let literals = code.split('"');
            let is_key = |text: &&str| {
                text.strip_prefix("metallb.io/").is_some_and(|key| {
                    !key.is_empty()
                        && !key.starts_with("v1")
                        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                })
            };
            keys.extend(literals.filter(is_key).map(str::to_owned));
        }
    }
}

#[test]
fn every_annotation_label_and_condition_that_is_added_is_named() {
    let mut found = BTreeSet::new();
    for folder in ["api/src", "operator/src", "balancer/src", "balancer/core/src"] {
        keys(&root().join(folder), &mut found);
    }
    assert!(found.contains("metallb.io/adopt") && found.contains("metallb.io/Announced"), "{found:?}");
    let page = page();
    let missing: Vec<String> = found
        .into_iter()
        .filter(|key| !KNOWN_KEYS.contains(&key.as_str()) && !page.contains(&format!("`{key}`")))
        .collect();
    assert_eq!(missing, Vec::<String>::new(), "not named in docs/compatibility.md");
}
