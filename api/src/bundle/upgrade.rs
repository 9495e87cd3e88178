//! Whether a definition may take the place of an earlier one: every object that was valid stays so, and nothing that was
//! stored is lost.
//!
//! OLM v1 refuses an upgrade otherwise (operator-framework/operator-controller, docs/concepts/crd-upgrade-safety.md), and OLM v0
//! one whose stored objects do not fit (operator-lifecycle-manager, pkg/controller/operators/catalog/step.go,
//! `validateExistingCRs`). What only makes a definition ask for less is no matter.

use std::collections::BTreeSet;

use serde_json::Value;

use super::objects::items;

/// Keywords by which a schema asks for no less than a number says, and no more.
const LEAST: [&str; 4] = ["minimum", "minItems", "minLength", "minProperties"];
const MOST: [&str; 4] = ["maximum", "maxItems", "maxLength", "maxProperties"];

/// What speaks against `after` in the place of `before`, as `path: why`.
pub fn breaks(before: &Value, after: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for field in ["group", "scope"] {
        if before["spec"][field] != after["spec"][field] {
            broken.push(format!("spec.{field}: {} was {}", after["spec"][field], before["spec"][field]));
        }
    }
    for version in items(&before["spec"]["versions"]) {
        let name = version["name"].as_str().unwrap_or_default();
        let Some(now) = items(&after["spec"]["versions"]).find(|now| now["name"] == name) else {
            broken.push(format!("{name}: is no longer there"));
            continue;
        };
        if version["served"] == true && now["served"] != true {
            broken.push(format!("{name}: is no longer served"));
        }
        let schema = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
        visit(&schema(version), &schema(now), name, &mut broken);
    }
    broken
}

fn texts(value: &Value) -> BTreeSet<String> {
    items(value).map(ToString::to_string).collect()
}

fn visit(before: &Value, after: &Value, path: &str, broken: &mut Vec<String>) {
    let mut need = |met: bool, message: String| {
        if !met {
            broken.push(format!("{path}: {message}"));
        }
    };
    for field in ["type", "default", "format"] {
        need(after[field] == before[field], format!("{field}: {} was {}", after[field], before[field]));
    }
    for field in ["pattern", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
        let asks = !after[field].is_null() && after[field] != before[field];
        need(!asks, format!("{field}: {} was {}", after[field], before[field]));
    }
    for field in LEAST {
        let more =
            after[field].as_f64().is_some_and(|now| before[field].as_f64().is_none_or(|then| now > then));
        // Nothing is shorter than this.
        let none = field != "minimum" && after[field] == 0;
        need(!more || none, format!("{field}: {} was {}", after[field], before[field]));
    }
    for field in MOST {
        let less =
            after[field].as_f64().is_some_and(|now| before[field].as_f64().is_none_or(|then| now < then));
        need(!less, format!("{field}: {} was {}", after[field], before[field]));
    }
    if after["enum"].is_array() {
        let allowed = texts(&after["enum"]);
        let lost: Vec<String> = texts(&before["enum"]).difference(&allowed).cloned().collect();
        need(before["enum"].is_array() && lost.is_empty(), format!("enum: no longer takes {lost:?}"));
    }
    let required = texts(&after["required"]);
    let more: Vec<&String> =
        required.iter().filter(|field| !texts(&before["required"]).contains(*field)).collect();
    need(more.is_empty(), format!("required: {more:?} were not"));
    let rules = |schema: &Value| -> BTreeSet<String> {
        items(&schema["x-kubernetes-validations"]).map(|rule| rule["rule"].to_string()).collect()
    };
    let known = rules(before);
    let further: Vec<String> = rules(after).difference(&known).cloned().collect();
    need(further.is_empty(), format!("x-kubernetes-validations: {further:?} are new"));
    let kept = "x-kubernetes-preserve-unknown-fields";
    need(before[kept] != true || after[kept] == true, format!("{kept}: is no longer true"));
    for (field, schema) in before["properties"].as_object().into_iter().flatten() {
        match after["properties"].get(field) {
            Some(now) => visit(schema, now, &format!("{path}.{field}"), broken),
            None => broken.push(format!("{path}.{field}: is no longer there")),
        }
    }
    for part in ["items", "additionalProperties"] {
        if before[part].is_object() {
            visit(&before[part], &after[part], &format!("{path}[]"), broken);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(of: &Value) -> Value {
        let schema = json!({ "type": "object", "properties": { "spec": {
            "type": "object", "required": ["a"], "properties": {
                "a": { "type": "string", "enum": ["x", "y"], "default": "x" },
                "list": { "type": "array", "maxItems": 3, "items": { "type": "integer", "format": "int32", "minimum": 1 } },
                "map": { "type": "object", "additionalProperties": { "type": "string" } },
            },
        } } });
        let mut definition = json!({ "spec": { "group": "metallb.io", "scope": "Namespaced", "versions": [
            { "name": "v1", "served": true, "storage": false, "schema": { "openAPIV3Schema": schema } },
            { "name": "v2", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } },
        ] } });
        for (path, value) in of.as_object().into_iter().flatten() {
            let path = path.replace("SPEC", "/spec/versions/1/schema/openAPIV3Schema/properties/spec");
            let (parent, field) = path.rsplit_once('/').unwrap();
            match definition.pointer_mut(parent).unwrap() {
                Value::Array(list) => list[field.parse::<usize>().unwrap()] = value.clone(),
                parent => parent[field] = value.clone(),
            }
        }
        definition
    }

    #[test]
    fn a_definition_may_ask_for_less_and_know_more() {
        let after = definition(&json!({
            "SPEC/required": [],
            "SPEC/properties/a/enum": ["x", "y", "z"],
            "SPEC/properties/b": { "type": "string", "minLength": 1 },
            "SPEC/properties/list/maxItems": 4,
            "SPEC/properties/list/minItems": 0,
            "SPEC/properties/list/items/minimum": 0,
        }));
        assert_eq!(breaks(&definition(&json!({})), &after), Vec::<String>::new());
    }

    #[test]
    fn what_would_refuse_or_lose_stored_objects_is_named() {
        for (change, want) in [
            (json!({ "/spec/scope": "Cluster" }), "spec.scope: \"Cluster\" was \"Namespaced\""),
            (json!({ "/spec/versions/0/served": false }), "v1: is no longer served"),
            (json!({ "/spec/versions/0/name": "v3" }), "v1: is no longer there"),
            (json!({ "SPEC/required": ["a", "list"] }), "v2.spec: required: [\"\\\"list\\\"\"] were not"),
            (json!({ "SPEC/properties/a/enum": ["x"] }), "v2.spec.a: enum: no longer takes [\"\\\"y\\\"\"]"),
            (json!({ "SPEC/properties/a/default": "y" }), "v2.spec.a: default: \"y\" was \"x\""),
            (json!({ "SPEC/properties/a/pattern": "^x" }), "v2.spec.a: pattern: \"^x\" was null"),
            (
                json!({ "SPEC/properties/map/additionalProperties/type": "integer" }),
                "v2.spec.map[]: type: \"integer\" was \"string\"",
            ),
            (
                json!({ "SPEC/properties/map/additionalProperties/enum": ["x"] }),
                "v2.spec.map[]: enum: no longer takes []",
            ),
            (json!({ "SPEC/properties/list/maxItems": 2 }), "v2.spec.list: maxItems: 2 was 3"),
            (json!({ "SPEC/properties/list/minItems": 1 }), "v2.spec.list: minItems: 1 was null"),
            (json!({ "SPEC/properties/list/items/minimum": 2 }), "v2.spec.list[]: minimum: 2 was 1"),
            (
                json!({ "SPEC/properties/list/items/format": "int64" }),
                "v2.spec.list[]: format: \"int64\" was \"int32\"",
            ),
            (
                json!({ "SPEC/x-kubernetes-validations": [{ "rule": "has(self.a)" }] }),
                "v2.spec: x-kubernetes-validations: [\"\\\"has(self.a)\\\"\"] are new",
            ),
            (
                json!({ "SPEC/properties": { "a": { "type": "string", "enum": ["x", "y"], "default": "x" },
                    "list": definition(&json!({}))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
                        ["properties"]["list"] } }),
                "v2.spec.map: is no longer there",
            ),
        ] {
            assert_eq!(breaks(&definition(&json!({})), &definition(&change)), [want]);
        }
    }
}
