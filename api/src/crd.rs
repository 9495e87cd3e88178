//! CustomResourceDefinitions from the Rust types.
//!
//! The schemas of embedded Kubernetes types come without their list and map markers: [`all`] puts them back, since
//! server-side apply merges by them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResourceExt, core::crd::merge_crds};

use crate::{BGPAdvertisement, IPAddressPool, L2Advertisement, MetalLB, address_pool};

/// Syntax of a Kubernetes quantity, as apimachinery writes it.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Lists within embedded Kubernetes types that are replaced as a whole.
const ATOMIC_LISTS: [&str; 9] = [
    "matchExpressions",
    "matchFields",
    "matchLabelKeys",
    "mismatchLabelKeys",
    "namespaces",
    "nodeSelectorTerms",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "values",
];

/// All definitions, by file name.
///
/// # Errors
/// When the versions of one kind do not fit together.
pub fn all() -> Result<Vec<CustomResourceDefinition>, kube::core::crd::MergeError> {
    let address_pool = merge_crds(
        vec![address_pool::v1alpha1::AddressPool::crd(), address_pool::v1beta1::AddressPool::crd()],
        "v1beta1",
    )?;
    let mut definitions = vec![
        address_pool,
        BGPAdvertisement::crd(),
        IPAddressPool::crd(),
        L2Advertisement::crd(),
        MetalLB::crd(),
    ];
    for definition in &mut definitions {
        for version in &mut definition.spec.versions {
            // Every kind of the reference has one, also those with nothing in it.
            let subresources = version.subresources.get_or_insert_default();
            subresources.status.get_or_insert_with(Default::default);
            if let Some(root) =
                version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut())
            {
                complete(root);
                mark(root, None);
            }
        }
    }
    Ok(definitions)
}

/// A spec without required fields may be left out, as in the reference.
fn complete(root: &mut JSONSchemaProps) {
    let Some(properties) = root.properties.as_mut() else { return };
    let Some(spec) = properties.get_mut("spec") else { return };
    if spec.required.as_ref().is_none_or(Vec::is_empty) {
        spec.default = Some(JSON(serde_json::json!({})));
        root.required = None;
    }
    properties.entry("status".to_owned()).or_insert_with(|| JSONSchemaProps {
        type_: Some("object".to_owned()),
        description: Some("Nothing is reported.".to_owned()),
        ..JSONSchemaProps::default()
    });
}

fn mark(schema: &mut JSONSchemaProps, name: Option<&str>) {
    if schema.x_kubernetes_int_or_string == Some(true) {
        // Ports have their own short text; a quantity's is long and repeated in every workload.
        schema.description = None;
        schema.pattern = Some(QUANTITY.to_owned());
        let kind = |kind: &str| JSONSchemaProps { type_: Some(kind.to_owned()), ..JSONSchemaProps::default() };
        schema.any_of = Some(vec![kind("integer"), kind("string")]);
    }
    let is_list = schema.type_.as_deref() == Some("array");
    match name {
        Some("claims") if is_list => {
            schema.x_kubernetes_list_type = Some("map".to_owned());
            schema.x_kubernetes_list_map_keys = Some(vec!["name".to_owned()]);
        }
        Some(name) if is_list && ATOMIC_LISTS.contains(&name) => {
            schema.x_kubernetes_list_type = Some("atomic".to_owned());
        }
        _ => {}
    }
    if let Some(properties) = &schema.properties {
        let is_selector = properties.contains_key("matchExpressions")
            && (properties.contains_key("matchLabels") || properties.contains_key("matchFields"));
        if is_selector || properties.contains_key("nodeSelectorTerms") {
            schema.x_kubernetes_map_type = Some("atomic".to_owned());
        }
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        mark(property, Some(name));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = schema.items.as_mut() {
        mark(items, None);
    }
    if let Some(
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrBool::Schema(values),
    ) = schema.additional_properties.as_mut()
    {
        mark(values, None);
    }
}
