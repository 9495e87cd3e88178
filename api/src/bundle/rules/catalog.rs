//! Rules for the file-based catalog.

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use semver::VersionReq;
use serde_json::Value;

use super::{Bundle, Rule, text, twice};
use crate::bundle::csv::provided;
use crate::bundle::objects::{items, name};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "catalog",
        source: "docs: file-based catalogs, OLM-defined schemas; registry: alpha/model/model.go, Validate",
        check: catalog,
    },
    Rule {
        name: "catalog-bundle",
        source: "docs: file-based catalogs, properties; registry: alpha/property/property.go",
        check: catalog_bundle,
    },
    Rule {
        name: "catalog-entries",
        source: "registry: alpha/declcfg/declcfg_to_model.go, ConvertToModel: each entry has its olm.bundle, and each \
                 olm.bundle is in a channel",
        check: catalog_entries,
    },
    Rule {
        name: "catalog-channels",
        source: "registry: alpha/model/model.go, Channel.validateReplacesChain: no stranded entry, no cycle; \
                 alpha/declcfg/declcfg_to_model.go: duplicates; alpha/model/model.go, Icon.Validate",
        check: catalog_channels,
    },
];

fn blobs<'a>(bundle: &'a Bundle, schema: &'a str) -> impl Iterator<Item = &'a Value> {
    bundle.catalog.iter().filter(move |blob| blob["schema"] == schema)
}

fn catalog(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    let packages: Vec<&Value> = blobs(bundle, "olm.package").collect();
    let [package] = packages.as_slice() else {
        return vec![format!("there are {} blobs of schema olm.package", packages.len())];
    };
    if package["name"] != bundle.package() {
        broken.push(format!("package {}: the bundle is of package {}", package["name"], bundle.package()));
    }
    if !blobs(bundle, "olm.channel").any(|channel| channel["name"] == package["defaultChannel"]) {
        broken.push(format!("package {}: no default channel {}", package["name"], package["defaultChannel"]));
    }
    let csv = name(bundle.csv());
    for channel in blobs(bundle, "olm.channel") {
        let entries: BTreeSet<&str> = items(&channel["entries"]).map(|entry| text(&entry["name"])).collect();
        let replaced: BTreeSet<&str> =
            items(&channel["entries"]).filter_map(|entry| entry["replaces"].as_str()).collect();
        let heads: Vec<&&str> = entries.difference(&replaced).collect();
        if heads.len() != 1 {
            broken.push(format!("channel {}: has the heads {heads:?}, and must have one", channel["name"]));
        }
        if let Some(missing) = replaced.difference(&entries).next() {
            broken.push(format!("channel {}: replaces {missing}, which is not in it", channel["name"]));
        }
    }
    let channels = text(&bundle.annotations["operators.operatorframework.io.bundle.channels.v1"]);
    for channel in channels.split(',') {
        let listed = blobs(bundle, "olm.channel")
            .filter(|blob| blob["name"] == channel)
            .any(|blob| items(&blob["entries"]).any(|entry| entry["name"] == csv));
        if !listed {
            broken.push(format!("channel {channel}: {csv} is not in it, but annotated so"));
        }
    }
    broken
}

fn catalog_bundle(bundle: &Bundle) -> Vec<String> {
    let csv = bundle.csv();
    let Some(blob) = blobs(bundle, "olm.bundle").find(|blob| blob["name"] == name(csv)) else {
        return vec![format!("no blob of schema olm.bundle is called {}", name(csv))];
    };
    let values = |of: &str| {
        let properties = items(&blob["properties"]).filter(move |property| property["type"] == of);
        properties.map(|property| property["value"].clone()).collect::<Vec<_>>()
    };
    let mut broken = Vec::new();
    let package = serde_json::json!({ "packageName": bundle.package(), "version": csv["spec"]["version"] });
    if values("olm.package") != [package.clone()] {
        broken.push(format!("{}: property olm.package must be {package}", name(csv)));
    }
    if values("olm.gvk") != provided(csv).collect::<Vec<_>>() {
        broken.push(format!("{}: properties olm.gvk are not those of the owned kinds", name(csv)));
    }
    if text(&blob["image"]).is_empty() {
        broken.push(format!("{}: image must be set", name(csv)));
    }
    let listed =
        |image: &Value| items(&blob["relatedImages"]).any(|listed| listed["image"] == image["image"]);
    for image in items(&csv["spec"]["relatedImages"]).filter(|image| !listed(image)) {
        broken.push(format!("{}: relatedImages: {} is missing", name(csv), image["image"]));
    }
    broken
}

/// A catalog is loaded whole or not at all: an entry without a blob makes all of it unusable.
fn catalog_entries(bundle: &Bundle) -> Vec<String> {
    let bundles: BTreeSet<&str> = blobs(bundle, "olm.bundle").map(|blob| text(&blob["name"])).collect();
    let mut broken = Vec::new();
    let mut listed = BTreeSet::new();
    for channel in blobs(bundle, "olm.channel") {
        for entry in items(&channel["entries"]).map(|entry| text(&entry["name"])) {
            listed.insert(entry);
            if !bundles.contains(entry) {
                broken.push(format!("channel {}: {entry} has no blob of schema olm.bundle", channel["name"]));
            }
        }
    }
    let stray = bundles.difference(&listed).map(|stray| format!("{stray}: is in no channel"));
    broken.extend(stray);
    broken
}

fn catalog_channels(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for (schema, of) in [("olm.channel", "channel"), ("olm.bundle", "bundle")] {
        let names = twice(blobs(bundle, schema).map(|blob| text(&blob["name"])));
        broken.extend(names.into_iter().map(|name| format!("{of} {name}: is there twice")));
    }
    for blob in bundle.catalog.iter().filter(|blob| blob["schema"] != "olm.package") {
        if blob["package"] != bundle.package() {
            broken.push(format!(
                "{} {}: package {}",
                text(&blob["schema"]),
                text(&blob["name"]),
                blob["package"]
            ));
        }
    }
    for channel in blobs(bundle, "olm.channel") {
        let called = text(&channel["name"]);
        let entries = || items(&channel["entries"]);
        let names = twice(entries().map(|entry| text(&entry["name"])));
        broken.extend(names.into_iter().map(|name| format!("channel {called}: {name} is there twice")));
        for entry in entries() {
            // Ranges are those of blang/semver: comparators with a space between them.
            let range = entry["skipRange"]
                .as_str()
                .map(|range| range.split_whitespace().collect::<Vec<_>>().join(", "));
            if range.is_some_and(|range| VersionReq::parse(&range).is_err()) {
                broken.push(format!(
                    "channel {called}: {}: skipRange: {} is no range",
                    text(&entry["name"]),
                    entry["skipRange"]
                ));
            }
        }
        broken.extend(
            stranded(channel)
                .into_iter()
                .map(|name| format!("channel {called}: no upgrade leads from {name}")),
        );
    }
    for icon in blobs(bundle, "olm.package").map(|package| &package["icon"]).filter(|icon| !icon.is_null()) {
        let read: Result<ByteString, _> = serde_json::from_value(icon["base64data"].clone());
        if read.is_ok_and(|picture| !picture.0.is_empty()) && text(&icon["mediatype"]).starts_with("image/") {
            continue;
        }
        broken.push(format!("package: icon: {} is no picture", icon["mediatype"]));
    }
    broken
}

/// The entries of a channel with one head that cannot be upgraded to it.
fn stranded(channel: &Value) -> Vec<&str> {
    let entries = || items(&channel["entries"]);
    let before = |entry: &'_ Value| -> Vec<String> {
        let skipped = items(&entry["skips"]).chain([&entry["replaces"]]);
        skipped.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let replaced: BTreeSet<String> = entries().flat_map(before).collect();
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = entries()
        .map(|entry| text(&entry["name"]).to_owned())
        .filter(|name| !replaced.contains(name))
        .collect();
    while let Some(name) = next.pop() {
        if found.insert(name.clone()) {
            next.extend(entries().filter(|entry| entry["name"] == *name).flat_map(before));
        }
    }
    entries().map(|entry| text(&entry["name"])).filter(|name| !found.contains(*name)).collect()
}
