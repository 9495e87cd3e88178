//! What is linked into the programs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The bill of materials of the packages `roots`, from what `cargo metadata` says and the text of Cargo.lock.
///
/// Of the dependencies only those count that are linked: not those of tests and of build scripts.
///
/// # Errors
/// When the metadata has not the form of version 1.
pub fn bill(metadata: &Value, lock: &str, roots: &[&str]) -> Result<Value, String> {
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let root = |name: &&str| {
        let mut found = packages.iter().filter(|(_, package)| package["name"] == **name);
        found.next().map(|(id, _)| *id).ok_or_else(|| format!("there is no package {name}"))
    };
    let roots = roots.iter().map(root).collect::<Result<Vec<_>, _>>()?;
    let mut linked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut open = roots.clone();
    while let Some(id) = open.pop() {
        if linked.contains_key(id) {
            continue;
        }
        let node = nodes.get(id).ok_or_else(|| format!("{id}: is not resolved"))?;
        let needs = list(&node["deps"]).filter(|dependency| is_linked(dependency));
        let needs: BTreeSet<&str> = needs.filter_map(|dependency| dependency["pkg"].as_str()).collect();
        open.extend(&needs);
        linked.insert(id, needs);
    }
    let checksums = checksums(lock);
    let described: BTreeMap<&str, Value> = linked
        .keys()
        .map(|id| {
            let package = packages.get(id).copied().unwrap_or(&Value::Null);
            (*id, component(package, &checksums, roots.contains(id)))
        })
        .collect();
    let reference = |id: &str| described.get(id).map(|component| component["bom-ref"].clone());
    let dependencies: Vec<Value> = linked
        .iter()
        .map(|(id, needs)| {
            let needs: Vec<_> = needs.iter().filter_map(|id| reference(id)).collect();
            json!({ "ref": reference(id), "dependsOn": needs })
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": described.values().collect::<Vec<_>>(),
        "dependencies": dependencies,
    }))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a dependency is a normal one for some target.
fn is_linked(dependency: &Value) -> bool {
    list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
}

/// One package. Those of this repository are in no registry and so have neither purl nor checksum.
fn component(package: &Value, checksums: &BTreeMap<(String, String), String>, is_program: bool) -> Value {
    let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let (name, version) = (text("name"), text("version"));
    let url = format!("pkg:cargo/{name}@{version}");
    let mut component = json!({
        "type": if is_program { "application" } else { "library" },
        "bom-ref": url,
        "name": name,
        "version": version,
    });
    if !package["license"].is_null() {
        component["licenses"] = json!([{ "expression": package["license"] }]);
    }
    if let Some(checksum) = checksums.get(&(name, version)) {
        component["purl"] = json!(url);
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// The checksum of each package of a registry, by name and version, as Cargo.lock has them.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |block: &str, name: &str| {
        let mut lines = block.lines().filter_map(|line| line.strip_prefix(&format!("{name} = \"")));
        lines.next().map(|value| value.trim_end_matches('"').to_owned())
    };
    let of =
        |block: &str| Some(((field(block, "name")?, field(block, "version")?), field(block, "checksum")?));
    lock.split("[[package]]").filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_linked_is_listed_with_its_licence_and_checksum() {
        let package =
            |id: &str, license: &str| json!({ "id": id, "name": id, "version": "1.0.0", "license": license });
        let needs = |id: &str, kind: &Value| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("program", "Apache-2.0"), package("linked", "MIT"), package("tests", "MIT"), package("build", "MIT")],
            "resolve": { "nodes": [
                { "id": "program", "deps": [
                    needs("linked", &Value::Null), needs("tests", &json!("dev")), needs("build", &json!("build")),
                ] },
                { "id": "linked", "deps": [] },
            ] },
        });
        let lock =
            "[[package]]\nname = \"linked\"\nversion = \"1.0.0\"\nsource = \"registry\"\nchecksum = \"0a\"\n";
        assert_eq!(
            bill(&metadata, lock, &["program"]).unwrap(),
            json!({
                "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
                "components": [
                    {
                        "type": "library", "bom-ref": "pkg:cargo/linked@1.0.0", "name": "linked", "version": "1.0.0",
                        "licenses": [{ "expression": "MIT" }], "purl": "pkg:cargo/linked@1.0.0",
                        "hashes": [{ "alg": "SHA-256", "content": "0a" }],
                    },
                    {
                        "type": "application", "bom-ref": "pkg:cargo/program@1.0.0", "name": "program",
                        "version": "1.0.0", "licenses": [{ "expression": "Apache-2.0" }],
                    },
                ],
                "dependencies": [
                    { "ref": "pkg:cargo/linked@1.0.0", "dependsOn": [] },
                    { "ref": "pkg:cargo/program@1.0.0", "dependsOn": ["pkg:cargo/linked@1.0.0"] },
                ],
            })
        );
        assert_eq!(bill(&metadata, lock, &["other"]), Err("there is no package other".to_owned()));
    }
}
