//! The reference of the API as Markdown, made from the definitions.

use std::error::Error;
use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use crate::crd;

/// Fields whose types are Kubernetes' own, by their names, and what they are called there.
const FOREIGN: [(&str, &str); 8] = [
    ("affinity", "Affinity"),
    ("conditions", "[]Condition"),
    ("controllerTolerations", "[]Toleration"),
    ("namespaceSelectors", "[]LabelSelector"),
    ("nodeSelectors", "[]LabelSelector"),
    ("resources", "ResourceRequirements"),
    ("serviceSelectors", "[]LabelSelector"),
    ("speakerTolerations", "[]Toleration"),
];

const HEADER: &str = "\
# API reference

Written by `make docs` from the definitions in config/crd. All kinds are of group `metallb.io` and namespaced; those that
are acted on are in the operator's namespace. What is added to MetalLB's kinds, and what differs, is in
[compatibility.md](compatibility.md). Types named in capitals are Kubernetes' own.
";

/// docs/api.md.
///
/// # Errors
/// When a definition cannot be read as JSON.
pub fn markdown() -> Result<String, Box<dyn Error>> {
    let mut text = HEADER.to_owned();
    let mut definitions = crd::all()?;
    definitions.sort_by(|a, b| a.spec.names.kind.cmp(&b.spec.names.kind));
    for definition in &definitions {
        kind(&mut text, definition)?;
    }
    Ok(text)
}

fn kind(text: &mut String, definition: &CustomResourceDefinition) -> Result<(), Box<dyn Error>> {
    let names = &definition.spec.names;
    let mut before: Option<(String, String)> = None;
    for version in &definition.spec.versions {
        let schema = serde_json::to_value(
            version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()),
        )?;
        let mut table = String::new();
        for part in ["spec", "status"] {
            fields(&mut table, part, &schema["properties"][part]);
        }
        writeln!(text, "\n## {} {}\n", names.kind, version.name)?;
        match &before {
            Some((same, name)) if *same == table => writeln!(text, "The fields are those of {name}.")?,
            _ => {
                writeln!(text, "{}", sentence(&schema["description"]))?;
                if !table.is_empty() {
                    write!(text, "\n| field | type | meaning |\n|---|---|---|\n{table}")?;
                }
            }
        }
        before = Some((table, version.name.clone()));
    }
    Ok(())
}

/// A row for each field below `path`, and for `path` itself when it is not a part of the object.
fn fields(table: &mut String, path: &str, schema: &Value) {
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let foreign = FOREIGN.iter().find(|(known, _)| known == name);
        let kind = foreign.map_or_else(|| type_of(field), |(_, kind)| (*kind).to_owned());
        let mut meaning = sentence(&field["description"]);
        if required(name) {
            meaning.push_str(" Required.");
        }
        if !field["default"].is_null() {
            meaning.push_str(&format!(" Default: `{}`.", field["default"].to_string().trim_matches('"')));
        }
        table.push_str(&format!("| `{path}` | {kind} | {} |\n", meaning.trim().replace('|', "\\|")));
        if foreign.is_none() {
            fields(table, &path, field);
            fields(table, &format!("{path}[]"), &field["items"]);
        }
    }
}

fn type_of(field: &Value) -> String {
    let choices: Vec<_> = field["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !choices.is_empty() {
        return choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
    }
    match field["type"].as_str() {
        Some("array") => format!("[]{}", type_of(&field["items"])),
        Some("object") if field["additionalProperties"].is_object() => {
            format!("map of {}", type_of(&field["additionalProperties"]))
        }
        Some(name) => name.to_owned(),
        None if field["x-kubernetes-int-or-string"] == true => "integer or string".to_owned(),
        None => "any".to_owned(),
    }
}

/// A description in one line.
fn sentence(description: &Value) -> String {
    description.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_field_has_a_row_and_kubernetes_own_types_are_named_alone() {
        let schema = json!({ "type": "object", "required": ["addresses"], "properties": {
            "addresses": { "type": "array", "items": { "type": "string" }, "description": "Blocks\nof addresses." },
            "autoAssign": { "type": "boolean", "default": true, "description": "Unasked." },
            "nodeSelectors": { "type": "array", "items": { "properties": { "matchLabels": {} } } },
            "ports": { "type": "array", "items": { "type": "object", "properties": {
                "protocol": { "type": "string", "enum": ["TCP", "UDP"], "description": "A | B." },
            } } },
        } });
        let mut table = String::new();
        fields(&mut table, "spec", &schema);
        assert_eq!(
            table,
            "| `spec.addresses` | []string | Blocks of addresses. Required. |\n\
             | `spec.autoAssign` | boolean | Unasked. Default: `true`. |\n\
             | `spec.nodeSelectors` | []LabelSelector |  |\n\
             | `spec.ports` | []object |  |\n\
             | `spec.ports[].protocol` | `TCP`, `UDP` | A \\| B. |\n"
        );
    }

    #[test]
    fn every_kind_is_there() {
        let text = markdown().unwrap();
        for definition in crd::all().unwrap() {
            assert!(text.contains(&format!("\n## {} ", definition.spec.names.kind)));
        }
    }
}
