//! The MetalLB resource that the operator makes by itself where it was told to (`CREATE_METALLB`).
//!
//! It is made once: ConfigMap [`CREATED`] remembers it, so that a resource that somebody deletes stays deleted.

use metallb_api::names::METALLB_NAME;
use serde_json::json;

use super::{Change, Plan, Situation};
use crate::{
    kinds::{Key, Kind},
    world::Source,
};

/// ConfigMap that is there once a MetalLB resource was.
pub(super) const CREATED: &str = "metallb-created";

pub(super) fn plan(situation: Situation<'_>, plan: &mut Plan) {
    let seen = [Kind::MetalLb, Kind::ConfigMap].map(Source::Objects);
    if !situation.settings.create_metallb || !seen.iter().all(|source| situation.world.complete(*source)) {
        return;
    }
    let namespace = &situation.settings.namespace;
    let key = |kind, name: &str| Key { kind, namespace: namespace.clone(), name: name.to_owned() };
    let (record, resource) = (key(Kind::ConfigMap, CREATED), key(Kind::MetalLb, METALLB_NAME));
    if situation.world.object(&record).is_some() {
        return;
    }
    let (key, mut object) = if situation.world.object(&resource).is_some() {
        let note = "A MetalLB resource was here. Delete this ConfigMap to have one made again.";
        (record, json!({"data": {"note": note}}))
    } else {
        (resource, json!({"spec": {}}))
    };
    let kind = key.kind.api_resource();
    object["apiVersion"] = kind.api_version.into();
    object["kind"] = kind.kind.into();
    object["metadata"] = json!({"name": key.name, "namespace": key.namespace});
    plan.stage(situation, [Change::Create(key, object)]);
}
