//! What was stored under earlier definitions fits those of today: OLM refuses an upgrade otherwise.

use std::{collections::BTreeSet, fs, path::PathBuf};

use metallb_api::{
    bundle::{
        objects::{id, items, kind, name, read, version},
        schema::misfits,
        upgrade::breaks,
    },
    crd,
};
use serde_json::Value;

/// The parts of an object that a definition describes.
const PARTS: [&str; 2] = ["spec", "status"];

fn definitions() -> Vec<Value> {
    crd::all().unwrap().iter().map(|definition| serde_json::to_value(definition).unwrap()).collect()
}

/// The definitions of each release, by the name of the file.
fn released() -> Vec<(String, Vec<Value>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../olm/released");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut released: Vec<(String, Vec<Value>)> = files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path))
        .filter(|(name, _)| name.starts_with("crds-v"))
        .map(|(name, path)| (name, read(&fs::read_to_string(path).unwrap()).unwrap()))
        .collect();
    released.sort_by(|a, b| a.0.cmp(&b.0));
    released
}

#[test]
fn the_definitions_of_today_can_take_the_place_of_those_of_every_release() {
    let (released, today) = (released(), definitions());
    assert!(released.iter().any(|(file, _)| file == "crds-v0.1.0.yaml"));
    for (file, definitions) in released {
        assert!(!definitions.is_empty(), "{file}");
        for before in definitions {
            let after = today.iter().find(|definition| name(definition) == name(&before));
            let after = after.unwrap_or_else(|| panic!("{file}: {} is no longer there", name(&before)));
            assert_eq!(breaks(&before, after), Vec::<String>::new(), "{file}: {}", name(&before));
        }
    }
}

/// The objects of each file.
fn corpus() -> Vec<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    files.flat_map(|text| read(&text).unwrap()).collect()
}

/// The schema of the version that `object` is of.
fn schema<'a>(definitions: &'a [Value], object: &Value) -> &'a Value {
    let of = |definition: &&Value| definition["spec"]["names"]["kind"] == kind(object);
    let definition = definitions.iter().find(of).unwrap_or_else(|| panic!("{}: no such kind", id(object)));
    let mut versions = items(&definition["spec"]["versions"]);
    let served = versions.find(|served| served["name"] == version(object));
    let served = served.unwrap_or_else(|| panic!("{}: no such version", id(object)));
    assert_eq!(served["served"], true, "{}", id(object));
    &served["schema"]["openAPIV3Schema"]
}

/// The fields below `path` of which `schema` tells. Lists and maps have no step of their own in a path.
fn fields(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        fields(schema, &path, found);
        found.insert(path);
    }
    for elements in ["items", "additionalProperties"] {
        if schema[elements].is_object() {
            fields(&schema[elements], path, found);
        }
    }
}

/// Those of them that `value` has.
fn fields_in(schema: &Value, value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(value) => {
            for (field, value) in value {
                match schema["properties"].get(field) {
                    Some(schema) => {
                        let path = format!("{path}.{field}");
                        fields_in(schema, value, &path, found);
                        found.insert(path);
                    }
                    None => fields_in(&schema["additionalProperties"], value, path, found),
                }
            }
        }
        Value::Array(elements) => {
            elements.iter().for_each(|element| fields_in(&schema["items"], element, path, found));
        }
        _ => {}
    }
}

#[test]
fn every_object_of_earlier_versions_is_still_valid() {
    let definitions = definitions();
    let mut names = BTreeSet::new();
    for object in corpus() {
        let schema = schema(&definitions, &object);
        for part in PARTS.into_iter().filter(|part| !object[part].is_null()) {
            assert_eq!(
                misfits(&schema["properties"][part], &object[part]),
                Vec::<String>::new(),
                "{}",
                id(&object)
            );
        }
        let is_new = names.insert((kind(&object).to_owned(), name(&object).to_owned()));
        assert!(is_new, "{}: is there twice", id(&object));
    }
}

#[test]
fn each_field_of_each_kind_is_in_an_object() {
    let definitions = definitions();
    let mut there = BTreeSet::new();
    for object in corpus() {
        let schema = schema(&definitions, &object);
        let path = format!("{} {}", kind(&object), version(&object));
        for part in PARTS.into_iter().filter(|part| !object[part].is_null()) {
            let path = format!("{path}.{part}");
            fields_in(&schema["properties"][part], &object[part], &path, &mut there);
            there.insert(path);
        }
    }
    let mut wanted = BTreeSet::new();
    for definition in &definitions {
        for version in items(&definition["spec"]["versions"]).filter(|version| version["served"] == true) {
            let names = (&definition["spec"]["names"]["kind"], &version["name"]);
            let (Some(kind), Some(version_name)) = (names.0.as_str(), names.1.as_str()) else {
                panic!("{names:?}")
            };
            let parts = &version["schema"]["openAPIV3Schema"]["properties"];
            for part in PARTS.into_iter().filter(|part| parts[part].is_object()) {
                let path = format!("{kind} {version_name}.{part}");
                fields(&parts[part], &path, &mut wanted);
                wanted.insert(path);
            }
        }
    }
    let missing: Vec<&String> = wanted.difference(&there).collect();
    assert_eq!(missing, Vec::<&String>::new(), "put them into an object of a new file in tests/corpus");
}
