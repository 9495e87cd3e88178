//! What is linked into the programs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// What is linked into every program beside crates, and what the programs are shipped in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Version of Rust, whose standard library is linked.
    pub rust: String,
    /// Version of Debian's C library, which is linked statically.
    pub libc: String,
    /// Images by name: their digests, as `sha256:...`.
    pub images: BTreeMap<String, String>,
}

impl Built {
    /// The components that are no crates.
    fn linked(&self) -> [Value; 2] {
        let library = |name: &str, version: &str, url: String, license: &str| {
            json!({
                "type": "library", "bom-ref": url, "name": name, "version": version, "purl": url,
                "licenses": [{ "expression": license }],
            })
        };
        // `+` of a version is a blank in an address.
        let libc = self.libc.replace('+', "%2B");
        [
            library("std", &self.rust, format!("pkg:generic/rust-std@{}", self.rust), "MIT OR Apache-2.0"),
            library("glibc", &self.libc, format!("pkg:deb/debian/glibc@{libc}"), "LGPL-2.1-or-later"),
        ]
    }

    /// What the bill is about: the images, by their digests.
    fn about(&self) -> Value {
        let image = |(name, digest): (&String, &String)| {
            json!({
                "type": "container", "bom-ref": format!("{name}@{digest}"), "name": name, "version": digest,
                "hashes": [{ "alg": "SHA-256", "content": digest.trim_start_matches("sha256:") }],
            })
        };
        let images: Vec<Value> = self.images.iter().map(image).collect();
        json!({ "component": { "type": "application", "bom-ref": "images", "name": "images", "components": images } })
    }
}

/// The bill of materials of the packages `roots`, from what `cargo metadata` says and the text of Cargo.lock.
///
/// Of the dependencies only those count that are linked: not those of tests and of build scripts.
///
/// # Errors
/// When the metadata has not the form of version 1.
pub fn bill(metadata: &Value, lock: &str, roots: &[&str], built: &Built) -> Result<Value, String> {
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
            let mut needs: Vec<_> = needs.iter().filter_map(|id| reference(id)).collect();
            if roots.contains(id) {
                needs.extend(built.linked().map(|component| component["bom-ref"].clone()));
            }
            json!({ "ref": reference(id), "dependsOn": needs })
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": built.about(),
        "components": described.into_values().chain(built.linked()).collect::<Vec<_>>(),
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
        let built = Built {
            rust: "1.95.0".to_owned(),
            libc: "2.36-9+deb12u1".to_owned(),
            images: BTreeMap::from([("speaker".to_owned(), "sha256:0b".to_owned())]),
        };
        assert_eq!(
            bill(&metadata, lock, &["program"], &built).unwrap(),
            json!({
                "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
                "metadata": { "component": {
                    "type": "application", "bom-ref": "images", "name": "images",
                    "components": [{
                        "type": "container", "bom-ref": "speaker@sha256:0b", "name": "speaker", "version": "sha256:0b",
                        "hashes": [{ "alg": "SHA-256", "content": "0b" }],
                    }],
                } },
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
                    {
                        "type": "library", "bom-ref": "pkg:generic/rust-std@1.95.0", "name": "std", "version": "1.95.0",
                        "purl": "pkg:generic/rust-std@1.95.0", "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                    },
                    {
                        "type": "library", "bom-ref": "pkg:deb/debian/glibc@2.36-9%2Bdeb12u1", "name": "glibc",
                        "version": "2.36-9+deb12u1", "purl": "pkg:deb/debian/glibc@2.36-9%2Bdeb12u1",
                        "licenses": [{ "expression": "LGPL-2.1-or-later" }],
                    },
                ],
                "dependencies": [
                    { "ref": "pkg:cargo/linked@1.0.0", "dependsOn": [] },
                    { "ref": "pkg:cargo/program@1.0.0", "dependsOn": [
                        "pkg:cargo/linked@1.0.0", "pkg:generic/rust-std@1.95.0", "pkg:deb/debian/glibc@2.36-9%2Bdeb12u1",
                    ] },
                ],
            })
        );
        assert_eq!(bill(&metadata, lock, &["other"], &built), Err("there is no package other".to_owned()));
    }
}
