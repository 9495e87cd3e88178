//! Rules for definitions, descriptors and examples.

use serde_json::Value;

use super::{Bundle, Rule, text};
use crate::bundle::csv::is_of;
use crate::bundle::objects::{id, items, kind, name, version};
use crate::bundle::schema::{has_path, misfits};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "owned",
        source: "api: pkg/validation/internal/bundle.go, validateOwnedCRDs; good_practices.go, validateCrdDescriptions; \
                 operator-sdk: scorecard test olm-crds-have-resources",
        check: owned,
    },
    Rule {
        name: "descriptors",
        source: "operator-sdk: scorecard tests olm-spec-descriptors, olm-status-descriptors; docs: CSV descriptors",
        check: descriptors,
    },
    Rule {
        name: "examples",
        source: "api: pkg/validation/internal/csv.go, validateExamplesAnnotations; operator-sdk: basic-check-spec",
        check: examples,
    },
];

fn owned(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for owned in bundle.owned() {
        let entry = format!("{} {}", text(&owned["name"]), text(&owned["version"]));
        match bundle.definition(owned) {
            Some((definition, _)) if definition["spec"]["names"]["kind"] == owned["kind"] => {}
            _ => broken.push(format!("owned: {entry} is not among the definitions")),
        }
        for field in ["displayName", "description"] {
            if text(&owned[field]).is_empty() {
                broken.push(format!("owned: {entry}: {field} must be set"));
            }
        }
        // What the console shows as the resources that belong to an object.
        let resources: Vec<&Value> = items(&owned["resources"]).collect();
        if resources.is_empty() {
            broken.push(format!("owned: {entry}: resources must be set"));
        }
        for resource in
            resources.iter().filter(|it| text(&it["kind"]).is_empty() || text(&it["version"]).is_empty())
        {
            broken.push(format!("owned: {entry}: resources: {resource} needs kind and version"));
        }
    }
    for definition in &bundle.definitions {
        for version in items(&definition["spec"]["versions"]).filter(|version| version["served"] == true) {
            let owned =
                |owned: &Value| owned["name"] == name(definition) && owned["version"] == version["name"];
            if !bundle.owned().any(owned) {
                broken.push(format!("owned: {} {} has no entry", name(definition), text(&version["name"])));
            }
        }
    }
    broken
}

fn descriptors(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for owned in bundle.owned() {
        let Some((_, version)) = bundle.definition(owned) else { continue };
        let entry = format!("{} {}", text(&owned["kind"]), text(&owned["version"]));
        for (list, part) in [("specDescriptors", "spec"), ("statusDescriptors", "status")] {
            let schema = &version["schema"]["openAPIV3Schema"]["properties"][part];
            for descriptor in items(&owned[list]) {
                let path = text(&descriptor["path"]);
                if !has_path(schema, path) {
                    broken.push(format!("{entry}: {list}: {part}.{path} is not a field"));
                }
                if text(&descriptor["displayName"]).is_empty() || text(&descriptor["description"]).is_empty()
                {
                    broken.push(format!("{entry}: {list}: {path} needs displayName and description"));
                }
            }
            for field in schema["properties"].as_object().into_iter().flatten().map(|(field, _)| field) {
                let described = items(&owned[list]).any(|descriptor| {
                    text(&descriptor["path"]).split(['.', '[']).next() == Some(field.as_str())
                });
                if !described {
                    broken.push(format!("{entry}: {list}: {part}.{field} has no descriptor"));
                }
            }
        }
    }
    broken
}

fn examples(bundle: &Bundle) -> Vec<String> {
    let annotations = &bundle.csv()["metadata"]["annotations"];
    let examples: Vec<Value> = match serde_json::from_str(text(&annotations["alm-examples"])) {
        Ok(examples) => examples,
        Err(error) => return vec![format!("alm-examples: {error}")],
    };
    let internal = &annotations["operators.operatorframework.io/internal-objects"];
    let internal: Vec<String> = serde_json::from_str(text(internal)).unwrap_or_default();
    let mut broken = Vec::new();
    for example in &examples {
        let owned = bundle.owned().find(|owned| is_of(example, owned));
        let Some((_, of)) = owned.and_then(|owned| bundle.definition(owned)) else {
            broken.push(format!("alm-examples: {} {} is not owned", kind(example), version(example)));
            continue;
        };
        let mut object = example.clone();
        for field in ["apiVersion", "kind", "metadata"] {
            object.as_object_mut().and_then(|fields| fields.remove(field));
        }
        let misfits = misfits(&of["schema"]["openAPIV3Schema"], &object);
        broken.extend(misfits.into_iter().map(|misfit| format!("alm-examples: {}: {misfit}", id(example))));
        if object.get("spec").is_none() {
            broken.push(format!("alm-examples: {}: spec is missing", id(example)));
        }
    }
    for definition in &bundle.definitions {
        let kind = text(&definition["spec"]["names"]["kind"]);
        let shown = examples.iter().any(|example| example["kind"] == kind);
        if !shown && !internal.iter().any(|name| definition["metadata"]["name"] == name.as_str()) {
            broken.push(format!("alm-examples: {kind} has no example and is not internal"));
        }
    }
    broken
}
