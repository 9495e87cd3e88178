//! The kinds of OLM that this project writes or reads, restated as definitions of our own: strict, and no larger than what is
//! needed. Each file says which upstream file it follows. An API server takes them in tests, and [`misfits`] judges by
//! them what `make bundle` writes.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::objects::{group, items, kind, name, read, version};
use super::schema;

/// `clusterserviceversions.operators.coreos.com`.
pub const CLUSTER_SERVICE_VERSION: &str = include_str!("kinds/clusterserviceversions.yaml");
/// `catalogsources.operators.coreos.com`.
pub const CATALOG_SOURCE: &str = include_str!("kinds/catalogsources.yaml");
/// `operatorgroups.operators.coreos.com`.
pub const OPERATOR_GROUP: &str = include_str!("kinds/operatorgroups.yaml");
/// `subscriptions.operators.coreos.com`.
pub const SUBSCRIPTION: &str = include_str!("kinds/subscriptions.yaml");
/// `operatorconditions.operators.coreos.com`.
pub const OPERATOR_CONDITION: &str = include_str!("kinds/operatorconditions.yaml");
/// `clustercatalogs.olm.operatorframework.io`, of OLM v1.
pub const CLUSTER_CATALOG: &str = include_str!("kinds/clustercatalogs.yaml");
/// `clusterextensions.olm.operatorframework.io`, of OLM v1.
pub const CLUSTER_EXTENSION: &str = include_str!("kinds/clusterextensions.yaml");

/// All of them.
pub const ALL: [&str; 7] = [
    CLUSTER_SERVICE_VERSION,
    CATALOG_SOURCE,
    OPERATOR_GROUP,
    SUBSCRIPTION,
    OPERATOR_CONDITION,
    CLUSTER_CATALOG,
    CLUSTER_EXTENSION,
];

static DEFINITIONS: LazyLock<Vec<Value>> =
    LazyLock::new(|| ALL.iter().flat_map(|text| read(text).unwrap_or_default()).collect());

/// The schema of the kind and version that `object` is of, if it is one of OLM's.
fn schema(object: &Value) -> Option<&'static Value> {
    let mut of_kind = DEFINITIONS.iter().filter(|definition| {
        definition["spec"]["group"] == group(object) && definition["spec"]["names"]["kind"] == kind(object)
    });
    let definition = of_kind.next()?;
    let mut versions = items(&definition["spec"]["versions"]);
    Some(&versions.find(|served| served["name"] == version(object))?["schema"]["openAPIV3Schema"])
}

/// What of `object` does not fit the kind of OLM that it is of, as `path: why`; none when the kind is not OLM's.
pub fn misfits(object: &Value) -> Option<Vec<String>> {
    let mut object = object.clone();
    let schema = schema(&object)?;
    let named = !name(&object).is_empty();
    let fields = object.as_object_mut()?;
    fields.remove("apiVersion");
    fields.remove("kind");
    // The API server judges metadata by itself.
    fields.insert("metadata".to_owned(), json!({}));
    let mut misfits = schema::misfits(schema, &object);
    if !named {
        misfits.push("metadata.name: is missing".to_owned());
    }
    Some(misfits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_one_and_strict() {
        for text in ALL {
            let definitions = read(text).unwrap();
            let [definition] = definitions.as_slice() else { panic!("{definitions:?}") };
            assert!(text.starts_with("# "), "{}: says where it comes from", name(definition));
            let of = json!({
                "apiVersion": format!(
                    "{}/{}",
                    definition["spec"]["group"].as_str().unwrap(),
                    definition["spec"]["versions"][0]["name"].as_str().unwrap()
                ),
                "kind": definition["spec"]["names"]["kind"],
                "metadata": { "name": "a" },
                "spec": { "nobodyKnows": true },
            });
            let misfits = misfits(&of).unwrap();
            assert!(misfits.contains(&"spec.nobodyKnows: no such field".to_owned()), "{misfits:?}");
        }
    }

    #[test]
    fn other_kinds_are_not_judged() {
        for api_version in ["operators.coreos.com/v2", "v1"] {
            assert_eq!(misfits(&json!({ "apiVersion": api_version, "kind": "Subscription" })), None);
        }
    }
}
