//! The certificate of the webhooks, and the CA bundles by which the API server trusts it.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{ResourceExt, core::DynamicObject};
use serde_json::{Value, json};

use super::{Change, Plan, Situation};
use crate::{
    certificate::Material,
    kinds::{CERTIFICATE_SECRET, Key, Kind, WEBHOOK_CONFIGURATIONS, WEBHOOK_SERVICE},
    render::MANAGED_BY,
    settings::Settings,
    world::{Source, World},
};

pub(super) fn plan(situation: Situation<'_>, plan: &mut Plan) {
    let mut changes = Vec::new();
    changes.extend(situation.new_certificate.map(|material| certificate(situation, material)));
    if let Some(material) = material(situation.world, situation.settings) {
        let bundle = BASE64_STANDARD.encode(&material.bundle);
        for configuration in situation.world.objects(Kind::WebhookConfiguration) {
            changes.extend(trust(situation, configuration, &bundle));
        }
    }
    plan.stage(situation, changes);
}

/// Configurations that the installation brings and that are not there. Those of OLM have other names, and OLM looks after
/// them.
pub(super) fn missing(situation: Situation<'_>) -> Vec<String> {
    let source = Source::Objects(Kind::WebhookConfiguration);
    if situation.settings.operator_condition.is_some() || !situation.world.complete(source) {
        return Vec::new();
    }
    let keys = WEBHOOK_CONFIGURATIONS.map(configuration_key).into_iter();
    let absent = keys.filter(|key| situation.world.object(key).is_none());
    absent
        .map(|key| {
            format!("{key} is missing, or its label app.kubernetes.io/part-of: nobody checks what is written")
        })
        .collect()
}

fn configuration_key(name: &str) -> Key {
    Key { kind: Kind::WebhookConfiguration, namespace: String::new(), name: name.to_owned() }
}

fn secret_key(settings: &Settings) -> Key {
    Key {
        kind: Kind::Certificate,
        namespace: settings.namespace.clone(),
        name: CERTIFICATE_SECRET.to_owned(),
    }
}

/// What the Secret holds; `None` when it is not there or not usable.
#[must_use]
pub fn material(world: &World, settings: &Settings) -> Option<Material> {
    let secret = world.object(&secret_key(settings))?;
    let data = secret.data["data"].as_object()?;
    let decoded = data.iter().filter_map(|(key, value)| {
        let bytes = BASE64_STANDARD.decode(value.as_str()?).ok()?;
        Some((key.clone(), String::from_utf8(bytes).ok()?))
    });
    Material::from_data(&decoded.collect::<BTreeMap<_, _>>())
}

/// Whether the API server trusts all of `bundle` wherever it asks this operator.
#[must_use]
pub fn is_published(world: &World, settings: &Settings, bundle: &str) -> bool {
    let bundle = BASE64_STANDARD.encode(bundle);
    let configurations = world.objects(Kind::WebhookConfiguration);
    configurations
        .flat_map(|configuration| ours(configuration, settings))
        .all(|webhook| webhook["clientConfig"]["caBundle"] == bundle)
}

/// Webhooks of a configuration that this operator serves.
fn ours<'a>(configuration: &'a DynamicObject, settings: &Settings) -> impl Iterator<Item = &'a Value> {
    let webhooks = configuration.data["webhooks"].as_array().into_iter().flatten();
    webhooks.filter(|webhook| {
        let service = &webhook["clientConfig"]["service"];
        service["name"] == WEBHOOK_SERVICE && service["namespace"] == settings.namespace.as_str()
    })
}

/// Written only over what was seen: whoever wrote it meanwhile knows more.
fn certificate(situation: Situation<'_>, material: &Material) -> Change {
    let key = secret_key(situation.settings);
    let data: BTreeMap<_, _> =
        material.to_data().into_iter().map(|(key, value)| (key, BASE64_STANDARD.encode(value))).collect();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data,
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": {MANAGED_BY.0: MANAGED_BY.1}},
    });
    match situation.world.object(&key) {
        None => Change::Create(key, object),
        Some(live) => {
            object["metadata"]["resourceVersion"] = live.resource_version().unwrap_or_default().into();
            // Its type cannot be changed.
            object["type"] = live.data["type"].clone();
            Change::Apply(key, object, None)
        }
    }
}

/// Only the bundles are applied; the rest of the configuration belongs to the installation.
fn trust(situation: Situation<'_>, configuration: &DynamicObject, bundle: &str) -> Option<Change> {
    let webhooks: Vec<_> = ours(configuration, situation.settings)
        .map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": bundle}}))
        .collect();
    if webhooks.is_empty() {
        return None;
    }
    let key = configuration_key(&configuration.name_any());
    let resource = Kind::WebhookConfiguration.api_resource();
    let object = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "webhooks": webhooks,
        "metadata": {"name": key.name, "resourceVersion": configuration.resource_version()},
    });
    situation.change(&key, object)
}
