//! The ClusterServiceVersion: what OLM and a console know of the operator.
//!
//! Fields: `operators.coreos.com/v1alpha1` in operator-framework/api, pkg/operators/v1alpha1.

use k8s_openapi::ByteString;
use serde_json::{Map, Value, json};

use super::objects::{Rendered, id, images, items, kind, name, version};
use super::rights::Rights;
use super::{Problem, Release, descriptors, webhooks};

/// Builds the ClusterServiceVersion of `release`, which replaces `before`.
///
/// # Errors
/// When the hand-written part and the definitions do not speak of the same kinds, or a webhook cannot be expressed.
pub(super) fn build(
    rendered: &Rendered,
    rights: &Rights,
    release: &Release,
    before: Option<&Release>,
    icon: &[u8],
) -> Result<Value, Problem> {
    let mut csv = rendered.base.clone();
    let package = name(&csv).to_owned();
    let images = images(&rendered.deployment);
    let image = images.first().map(|(_, image)| image.as_str()).unwrap_or_default();
    let annotations = [
        ("alm-examples", Some(examples(&rendered.examples))),
        ("containerImage", Some(image.to_owned())),
        ("createdAt", release.created_at.clone()),
        ("operatorframework.io/initialization-resource", first_resource(&rendered.examples)),
    ];
    for (key, value) in annotations.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        csv["metadata"]["annotations"][key] = json!(value);
    }
    csv["metadata"]["name"] = json!(bundle_name(&package, release));
    let owned = owned(rendered, &csv["spec"]["customresourcedefinitions"]["owned"])?;
    let deployment = &rendered.deployment;
    let spec = &mut csv["spec"];
    spec["version"] = json!(release.version.to_string());
    if let Some(before) = before {
        spec["replaces"] = json!(bundle_name(&package, before));
    }
    spec["icon"] = json!([{ "base64data": ByteString(icon.to_vec()), "mediatype": "image/svg+xml" }]);
    spec["customresourcedefinitions"]["owned"] = json!(owned);
    let related = images.iter().map(|(name, image)| json!({ "name": name, "image": image }));
    spec["relatedImages"] = related.collect();
    spec["install"] = json!({
        "strategy": "deployment",
        "spec": {
            "clusterPermissions": rights.cluster,
            "deployments": [{
                "name": name(deployment),
                "label": deployment["metadata"]["labels"],
                "spec": deployment["spec"],
            }],
        },
    });
    let webhooks = webhooks::of(rendered)?;
    if !webhooks.is_empty() {
        spec["webhookdefinitions"] = json!(webhooks);
    }
    Ok(csv)
}

/// The name of a version's ClusterServiceVersion and bundle.
pub(super) fn bundle_name(package: &str, release: &Release) -> String {
    format!("{package}.v{}", release.version)
}

/// Kinds in the order in which examples can be applied one after another: each finds what it names.
const ORDER: [&str; 8] = [
    "MetalLB",
    "BFDProfile",
    "Community",
    "AddressPool",
    "IPAddressPool",
    "BGPPeer",
    "L2Advertisement",
    "BGPAdvertisement",
];

fn examples(examples: &[Value]) -> String {
    let place =
        |example: &&Value| ORDER.iter().position(|known| *known == kind(example)).unwrap_or(ORDER.len());
    let mut examples: Vec<&Value> = examples.iter().collect();
    examples.sort_by_key(place);
    serde_json::to_string_pretty(&examples).unwrap_or_default()
}

/// The resource without which the operator does nothing, which a console offers to create after the installation: with
/// nothing in it that only some clusters want.
fn first_resource(examples: &[Value]) -> Option<String> {
    let mut resource = examples.iter().find(|example| kind(example) == "MetalLB")?.clone();
    resource["spec"] = json!({});
    serde_json::to_string_pretty(&resource).ok()
}

/// An entry for every served version of every definition.
fn owned(rendered: &Rendered, described: &Value) -> Result<Vec<Value>, Problem> {
    for entry in items(described) {
        if !rendered.definitions.iter().any(|definition| entry["name"] == name(definition)) {
            let message = format!("spec.customresourcedefinitions.owned: {} is not defined", entry["name"]);
            return Err(Problem::new(id(&rendered.base), message));
        }
    }
    let mut owned = Vec::new();
    for definition in &rendered.definitions {
        let entry = items(described).find(|entry| entry["name"] == name(definition));
        let entry = entry.and_then(Value::as_object).ok_or_else(|| {
            let message = "spec.customresourcedefinitions.owned: has no entry in the ClusterServiceVersion";
            Problem::new(id(definition), message)
        })?;
        let versions = items(&definition["spec"]["versions"]);
        owned.extend(versions.filter(|version| version["served"] == true).map(|version| {
            let mut entry: Map<String, Value> = entry.clone();
            let schema = &version["schema"]["openAPIV3Schema"];
            let displayed = entry.get("displayName").and_then(Value::as_str).unwrap_or_default().to_owned();
            if version["storage"] != true {
                let older = format!("{displayed} ({})", version["name"].as_str().unwrap_or_default());
                entry.insert("displayName".into(), json!(older));
            }
            entry.insert("version".into(), version["name"].clone());
            entry.insert("kind".into(), definition["spec"]["names"]["kind"].clone());
            entry.insert("description".into(), schema["description"].clone());
            let properties = &schema["properties"];
            entry.insert("specDescriptors".into(), json!(descriptors::of_spec(&properties["spec"])));
            entry.insert("statusDescriptors".into(), json!(descriptors::of_status(&properties["status"])));
            Value::Object(entry)
        }));
    }
    Ok(owned)
}

/// Group, version and kind of each owned definition, as the catalog names them.
pub(super) fn provided(csv: &Value) -> impl Iterator<Item = Value> {
    items(&csv["spec"]["customresourcedefinitions"]["owned"]).map(|owned| {
        let group =
            owned["name"].as_str().and_then(|name| name.split_once('.')).map_or("", |(_, group)| group);
        json!({ "group": group, "version": owned["version"], "kind": owned["kind"] })
    })
}

/// Whether `example` is of the owned definition `owned`.
pub(super) fn is_of(example: &Value, owned: &Value) -> bool {
    owned["kind"] == kind(example) && owned["version"] == version(example)
}
