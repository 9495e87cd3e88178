//! Schemas of the Kubernetes types that our kinds embed, with the `x-kubernetes-*` markers that the types' own Rust
//! definitions do not carry.
//!
//! The markers decide how server-side apply merges the fields, so they are the same as on the built-in kinds:
//! <https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy>.

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, SecretReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_MAP_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";

/// Properties by which the types that are replaced as a whole are known.
const ATOMIC_MAPS: [&[&str]; 4] = [
    &["matchExpressions", "matchLabels"], // LabelSelector
    &["matchExpressions", "matchFields"], // NodeSelectorTerm
    &["nodeSelectorTerms"],               // NodeSelector
    &["name", "namespace"],               // SecretReference
];

/// Marks every list, and every object in [`ATOMIC_MAPS`], as replaced as a whole.
struct Atomic;

impl Transform for Atomic {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let is_list = schema.get("type") == Some(&json!("array"));
        let is_map = schema
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|properties| ATOMIC_MAPS.iter().any(|keys| properties.keys().eq(keys.iter())));
        if is_list {
            schema.insert(LIST_TYPE.into(), json!("atomic"));
        }
        if is_map {
            schema.insert(MAP_TYPE.into(), json!("atomic"));
        }
    }
}

fn atomic<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<T>();
    Atomic.transform(&mut schema);
    schema
}

pub(crate) fn label_selector(generator: &mut SchemaGenerator) -> Schema {
    atomic::<LabelSelector>(generator)
}

pub(crate) fn label_selectors(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": label_selector(generator) })
}

pub(crate) fn secret_reference(generator: &mut SchemaGenerator) -> Schema {
    atomic::<SecretReference>(generator)
}

pub(crate) fn affinity(generator: &mut SchemaGenerator) -> Schema {
    atomic::<Affinity>(generator)
}

pub(crate) fn resources(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<ResourceRequirements>();
    if let Some(claims) = schema.pointer_mut("/properties/claims").and_then(Value::as_object_mut) {
        claims.insert(LIST_TYPE.into(), json!("map"));
        claims.insert(LIST_MAP_KEYS.into(), json!(["name"]));
    }
    schema
}

/// Names of objects in the same namespace.
pub(crate) fn local_references(generator: &mut SchemaGenerator) -> Schema {
    let mut reference = generator.subschema_for::<LocalObjectReference>();
    reference.insert(MAP_TYPE.into(), json!("atomic"));
    reference.remove("required");
    json_schema!({ "type": "array", "items": reference })
}

/// A number of pods, or a percentage of them.
pub(crate) fn number_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true, "pattern": "^[0-9]+%?$" })
}

/// An integer without a format: the API server takes it for 64 bits wide.
pub(crate) fn integer(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer" })
}

/// A whole number of four octets. The API server has no unsigned ones, so its limits are those of the schema.
pub(crate) fn unsigned(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX })
}

/// A string that cannot be changed once it is set.
pub(crate) fn immutable_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "x-kubernetes-validations": [{ "rule": "self == oldSelf", "message": "Value is immutable" }],
    })
}

/// Conditions, with the constraints of the built-in type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut condition = generator.subschema_for::<Condition>();
    let constraints = json!({
        "message": { "maxLength": 32768 },
        "observedGeneration": { "minimum": 0 },
        "reason": {
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "status": { "enum": ["True", "False", "Unknown"] },
        "type": {
            "maxLength": 316,
            "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        },
    });
    for (property, added) in constraints.as_object().into_iter().flatten() {
        let target = condition.pointer_mut(&format!("/properties/{property}")).and_then(Value::as_object_mut);
        if let (Some(target), Some(added)) = (target, added.as_object()) {
            target.extend(added.clone());
        }
    }
    json_schema!({ "type": "array", "items": condition })
}

/// [`conditions`] of which each is owned on its own, keyed by its type.
pub(crate) fn conditions_by_type(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = conditions(generator);
    schema.insert(LIST_TYPE.into(), json!("map"));
    schema.insert(LIST_MAP_KEYS.into(), json!(["type"]));
    schema
}
