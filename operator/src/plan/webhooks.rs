//! The certificate of the webhooks, and the CA bundles by which the API server trusts it.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{ResourceExt, core::DynamicObject};
use serde_json::{Value, json};

use super::{Change, Plan, Situation, applied};
use crate::{
    certificate::Material,
    kinds::{ADMISSIONS, CERTIFICATE_SECRET, Key, Kind, OLDER_WEBHOOK_SERVICE, WEBHOOK_SERVICE},
    render::MANAGED_BY,
    settings::Settings,
    world::{Source, World},
};

pub(super) fn plan(situation: Situation<'_>, plan: &mut Plan) {
    let mut changes = Vec::new();
    changes.extend(situation.new_certificate.map(|material| certificate(situation, material)));
    if let Some(material) = material(situation.world, situation.settings) {
        let bundle = BASE64_STANDARD.encode(&material.bundle);
        for configuration in configurations(situation.world) {
            let wanted = trust(situation, configuration, &bundle, &[WEBHOOK_SERVICE]);
            let Some((key, object)) = wanted else { continue };
            match situation.change(&key, object.clone()) {
                Some(change) => changes.push(change),
                None => plan.find(situation, &key, &object),
            }
        }
    }
    plan.stage(situation, changes);
}

/// Configurations that the installation brings and that are not there, or are another's. Those of OLM have other names, and
/// OLM looks after them.
pub(super) fn missing(situation: Situation<'_>) -> Vec<String> {
    let is_whole = ADMISSIONS.iter().all(|kind| situation.world.complete(Source::Objects(*kind)));
    if !is_whole {
        return Vec::new();
    }
    let is_olms = situation.settings.operator_condition.is_some();
    let keys = ADMISSIONS.map(configuration_key).into_iter();
    let lacking = keys.filter_map(|key| match situation.world.object(&key) {
        None if is_olms => None,
        None => Some(format!("{key} is missing: nobody checks what is written")),
        Some(object) => asking(object, situation.settings, OLDER_WEBHOOK_SERVICE).next().map(|_| {
            format!("{key} is another installation's: it asks Service {OLDER_WEBHOOK_SERVICE}, not {WEBHOOK_SERVICE}")
        }),
    });
    lacking.collect()
}

pub(super) fn configuration_key(kind: Kind) -> Key {
    Key { kind, namespace: String::new(), name: kind.only().unwrap_or_default().to_owned() }
}

fn configurations(world: &World) -> impl Iterator<Item = (Kind, &DynamicObject)> {
    ADMISSIONS.into_iter().flat_map(|kind| world.objects(kind).map(move |object| (kind, object)))
}

/// Whether the API server asks the webhooks of an older installation.
pub(super) fn asks_older(situation: Situation<'_>) -> bool {
    configurations(situation.world)
        .any(|(_, object)| asking(object, situation.settings, OLDER_WEBHOOK_SERVICE).next().is_some())
}

/// Has the API server ask this operator what it asks the webhooks of an older installation. Nothing, where somebody else
/// brings the certificate and so says whom it trusts.
pub(super) fn redirect(situation: Situation<'_>) -> Vec<Change> {
    let Some(material) = material(situation.world, situation.settings) else { return Vec::new() };
    let bundle = BASE64_STANDARD.encode(&material.bundle);
    let older = configurations(situation.world)
        .filter(|(_, object)| asking(object, situation.settings, OLDER_WEBHOOK_SERVICE).next().is_some());
    let asked = [WEBHOOK_SERVICE, OLDER_WEBHOOK_SERVICE];
    let wanted = older.filter_map(|configuration| trust(situation, configuration, &bundle, &asked));
    wanted.filter_map(|(key, object)| situation.change(&key, object)).collect()
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
    configurations(world)
        .flat_map(|(_, object)| asking(object, settings, WEBHOOK_SERVICE))
        .all(|webhook| webhook["clientConfig"]["caBundle"] == bundle)
}

/// Webhooks of a configuration that ask `service` of the operator's namespace.
fn asking<'a>(
    configuration: &'a DynamicObject,
    settings: &Settings,
    service: &str,
) -> impl Iterator<Item = &'a Value> {
    let webhooks = configuration.data["webhooks"].as_array().into_iter().flatten();
    webhooks.filter(move |webhook| {
        let asked = &webhook["clientConfig"]["service"];
        asked["name"] == service && asked["namespace"] == settings.namespace.as_str()
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

/// Of the webhooks that ask `services`, only the bundles are applied, and whom to ask where that was changed: the rest of the
/// configuration belongs to the installation.
fn trust(
    situation: Situation<'_>,
    (kind, configuration): (Kind, &DynamicObject),
    bundle: &str,
    services: &[&str],
) -> Option<(Key, Value)> {
    let webhooks = services.iter().flat_map(|service| asking(configuration, situation.settings, service));
    let webhooks: Vec<_> = webhooks
        .map(|webhook| {
            let mut client = json!({"caBundle": bundle});
            let asked = &webhook["clientConfig"]["service"];
            if asked["name"] != WEBHOOK_SERVICE || was_redirected(configuration, &webhook["name"]) {
                client["service"] = json!({"name": WEBHOOK_SERVICE, "namespace": asked["namespace"]});
            }
            json!({"name": webhook["name"], "clientConfig": client})
        })
        .collect();
    if webhooks.is_empty() {
        return None;
    }
    let key = configuration_key(kind);
    let resource = kind.api_resource();
    let object = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "webhooks": webhooks,
        "metadata": {"name": key.name, "resourceVersion": configuration.resource_version()},
    });
    Some((key, object))
}

/// Whether the operator said whom `webhook` is to ask: what it applied once and no longer does would go.
fn was_redirected(configuration: &DynamicObject, webhook: &Value) -> bool {
    let item = format!("k:{}", json!({"name": webhook}));
    let mut applied = applied(configuration);
    applied.any(|fields| !fields["f:webhooks"][&item]["f:clientConfig"]["f:service"].is_null())
}
