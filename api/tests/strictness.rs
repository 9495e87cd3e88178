//! No definition asks for more than the one that users of MetalLB or its operator have: what was accepted there is here.

mod reference;

use std::collections::{BTreeMap, BTreeSet};

use metallb_api::bundle::objects::read;
use metallb_api::crd;
use reference::known;
use serde_json::{Value, json};

/// Fields whose schemas are those of Kubernetes' own types, there as here.
const BUILT_IN: [&str; 6] = [
    "affinity",
    "conditions",
    "controllerTolerations",
    "matchExpressions",
    "resources",
    "speakerTolerations",
];

/// What says nothing about which values are accepted. Of the extensions, those that are not compared say how values are
/// merged and stored.
const SILENT: [&str; 8] = [
    "additionalProperties",
    "default",
    "description",
    "items",
    "properties",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
];

fn limits() -> BTreeMap<String, Value> {
    let facts = read(include_str!("reference/limits.yaml")).unwrap().remove(0);
    facts.as_object().unwrap().clone().into_iter().collect()
}

/// Least and greatest number that is accepted.
fn range(schema: &Value) -> (f64, f64) {
    let of_format = match schema["format"].as_str() {
        Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let bound = |field: &str, otherwise: f64| schema[field].as_f64().unwrap_or(otherwise);
    (bound("minimum", of_format.0).max(of_format.0), bound("maximum", of_format.1).min(of_format.1))
}

fn set(value: &Value) -> Option<BTreeSet<&str>> {
    Some(value.as_array()?.iter().filter_map(Value::as_str).collect())
}

/// In what `ours` asks for more than `theirs`.
fn stricter(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, value) in ours.as_object().unwrap() {
        let other = &theirs[keyword];
        let more = match keyword.as_str() {
            "minimum" => range(ours).0 > range(theirs).0,
            "maximum" => range(ours).1 < range(theirs).1,
            // Of other formats than those of integers, each refuses something.
            "format" if value == "int32" || value == "int64" => {
                range(ours).0 > range(theirs).0 || range(ours).1 < range(theirs).1
            }
            "format" | "pattern" => value != other,
            "minItems" | "minLength" | "minProperties" => value.as_u64() > Some(other.as_u64().unwrap_or(0)),
            "maxItems" | "maxLength" | "maxProperties" => {
                value.as_u64() < Some(other.as_u64().unwrap_or(u64::MAX))
            }
            "enum" => set(other).is_none_or(|other| !other.is_subset(&set(value).unwrap_or_default())),
            "required" => !set(value).unwrap_or_default().is_subset(&set(other).unwrap_or_default()),
            "x-kubernetes-validations" => {
                value.as_array().map_or(0, Vec::len) as u64 > theirs["rules"].as_u64().unwrap_or(0)
            }
            // Other lists than atomic ones refuse an entry that is there twice.
            "x-kubernetes-list-type" => value != "atomic" && value != other,
            keyword => !SILENT.contains(&keyword),
        };
        if more {
            found.push(format!("{keyword} {value}"));
        }
    }
    found
}

/// Visits the schema at `path` and those below it that users know. `field` is the path from `spec` on, or from `status`
/// with it.
fn visit(
    schema: &Value,
    path: &str,
    field: &str,
    known: &BTreeSet<&str>,
    seen: &mut impl FnMut(&str, &Value),
) {
    seen(path, schema);
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        if BUILT_IN.contains(&name.as_str()) && !path.starts_with("BGPPeer.v1beta1.") {
            continue;
        }
        let field = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
        let parent_lists_fields =
            |parent: &str| known.iter().any(|known| known.starts_with(&format!("{parent}.")));
        // Below a field of which no part is listed, all are known.
        let listed = known.contains(field.as_str())
            || field
                .rsplit_once('.')
                .is_some_and(|(parent, _)| parent != "status" && !parent_lists_fields(parent));
        if listed {
            visit(below, &format!("{path}.{name}"), &field, known, seen);
        }
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            visit(&schema[part], &format!("{path}[]"), field, known, seen);
        }
    }
}

#[test]
fn no_definition_asks_for_more_than_users_know() {
    let (known, limits) = (known(), limits());
    let mut found = Vec::new();
    let mut compared = BTreeSet::new();
    for definition in crd::all().unwrap() {
        let kind = definition.spec.names.kind.as_str();
        for version in &definition.spec.versions {
            let root = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
            let root = &root["openAPIV3Schema"];
            let path = format!("{kind}.{}", version.name);
            let mut seen = |path: &str, schema: &Value| {
                let theirs = limits.get(path).cloned().unwrap_or_else(|| json!({}));
                found.extend(stricter(schema, &theirs).into_iter().map(|more| format!("{path}: {more}")));
                compared.insert(path.to_owned());
            };
            let mut whole = root.clone();
            whole["properties"] = json!({});
            seen(&path, &whole);
            let parts = [("spec", ""), ("status", "status")];
            for (part, field) in parts.into_iter().filter(|(part, _)| root["properties"][part].is_object()) {
                let below = format!("{path}.{part}");
                visit(&root["properties"][part], &below, field, &known[kind], &mut seen);
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
    assert!(compared.len() > 150, "only {} fields were compared", compared.len());
    let strangers: Vec<_> = limits.keys().filter(|path| !compared.contains(*path)).collect();
    assert_eq!(strangers, Vec::<&String>::new(), "no field has these names");
}

#[test]
fn each_thing_more_that_is_asked_for_is_found() {
    let theirs = json!({ "minimum": 0, "maximum": 100, "enum": ["a", "b"], "pattern": "^a$", "required": ["a"],
        "minItems": 1, "maxLength": 9, "rules": 1 });
    let rule = json!({ "rule": "true" });
    for (ours, want) in [
        (json!({ "minimum": 1 }), "minimum 1"),
        (json!({ "maximum": 99 }), "maximum 99"),
        (json!({ "minItems": 2 }), "minItems 2"),
        (json!({ "maxLength": 8 }), "maxLength 8"),
        (json!({ "enum": ["a"] }), "enum [\"a\"]"),
        (json!({ "pattern": "^b$" }), "pattern \"^b$\""),
        (json!({ "required": ["a", "b"] }), "required [\"a\",\"b\"]"),
        (json!({ "format": "ipv4" }), "format \"ipv4\""),
        (json!({ "not": {} }), "not {}"),
        (json!({ "x-kubernetes-list-type": "set" }), "x-kubernetes-list-type \"set\""),
        (
            json!({ "x-kubernetes-validations": [rule, rule] }),
            "x-kubernetes-validations [{\"rule\":\"true\"},{\"rule\":\"true\"}]",
        ),
    ] {
        assert_eq!(stricter(&ours, &theirs), [want]);
    }
    assert_eq!(stricter(&json!({ "format": "int32" }), &json!({ "format": "int64" })), ["format \"int32\""]);
    let same = json!({ "minimum": 0, "maximum": 200, "enum": ["a", "b", "c"], "required": [], "format": "int32",
        "x-kubernetes-validations": [rule], "description": "", "type": "integer",
        "x-kubernetes-list-type": "atomic" });
    assert_eq!(stricter(&same, &theirs), Vec::<String>::new());
}
