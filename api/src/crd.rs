//! CustomResourceDefinitions from the Rust types.

use std::collections::BTreeMap;
use std::error::Error;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceSubresourceStatus, JSONSchemaProps,
    JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use kube::core::crd::{MergeError, merge_crds};

use crate::{
    BFDProfile, BGPAdvertisement, BGPSessionState, Community, ConfigurationState, IPAddressPool,
    L2Advertisement, MetalLB, ServiceBGPStatus, ServiceL2Status, address_pool, bgp_peer,
};

/// Syntax of a Kubernetes quantity.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Kinds of which an object without `spec` is not accepted.
const SPEC_REQUIRED: [&str; 2] = ["AddressPool", "IPAddressPool"];

/// The definitions of all kinds, in the order of their names.
///
/// # Errors
/// When the versions of one kind do not fit together.
pub fn all() -> Result<Vec<CustomResourceDefinition>, MergeError> {
    let mut definitions = vec![
        merge_crds(
            vec![address_pool::v1alpha1::AddressPool::crd(), address_pool::v1beta1::AddressPool::crd()],
            "v1beta1",
        )?,
        BFDProfile::crd(),
        BGPAdvertisement::crd(),
        merge_crds(vec![bgp_peer::v1beta1::BGPPeer::crd(), bgp_peer::v1beta2::BGPPeer::crd()], "v1beta2")?,
        BGPSessionState::crd(),
        Community::crd(),
        ConfigurationState::crd(),
        IPAddressPool::crd(),
        L2Advertisement::crd(),
        MetalLB::crd(),
        ServiceBGPStatus::crd(),
        ServiceL2Status::crd(),
    ];
    definitions.iter_mut().for_each(complete);
    Ok(definitions)
}

/// The files of config/crd by name: one definition each, and the kustomization that lists them.
///
/// # Errors
/// As [`all`], or when a definition cannot be written as YAML.
pub fn files() -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    for definition in all()? {
        let name = format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural);
        files.insert(name, serde_saphyr::to_string(&definition)?);
    }
    let resources: String = files.keys().map(|name| format!("- {name}\n")).collect();
    let header = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n";
    files.insert("kustomization.yaml".into(), format!("{header}{resources}"));
    Ok(files)
}

/// Adds what the derived definition leaves out, and takes out what it has beyond upstream's.
fn complete(definition: &mut CustomResourceDefinition) {
    let names = &mut definition.spec.names;
    names.list_kind = Some(format!("{}List", names.kind));
    let spec_required = SPEC_REQUIRED.contains(&names.kind.as_str());
    if definition.spec.versions.len() > 1 {
        // Said although it is the default: a definition of upstream's may be there whose conversion asks a webhook that
        // is no longer served, and what is not said is kept.
        let strategy = "None".to_owned();
        definition.spec.conversion = Some(CustomResourceConversion { strategy, webhook: None });
    }
    definition.spec.versions.sort_by(|a, b| a.name.cmp(&b.name));
    for version in &mut definition.spec.versions {
        let status = || CustomResourceSubresourceStatus(serde_json::json!({}));
        version.subresources.get_or_insert_default().status.get_or_insert_with(status);
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        let Some(root) = schema else { continue };
        root.title = None;
        normalise(root);
        if !spec_required {
            root.required = None;
        }
        let status = || JSONSchemaProps {
            type_: Some("object".into()),
            description: Some("Nothing is reported here.".into()),
            ..Default::default()
        };
        root.properties.get_or_insert_default().entry("status".into()).or_insert_with(status);
    }
}

/// Drops `nullable` throughout, so that the API server prunes a null instead of storing it, and states the syntax of
/// quantities.
fn normalise(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.x_kubernetes_int_or_string == Some(true) {
        let of = |kind: &str| JSONSchemaProps { type_: Some(kind.into()), ..Default::default() };
        schema.any_of = Some(vec![of("integer"), of("string")]);
        if schema.pattern.is_none() {
            // The text is a page long and would be repeated for each list of resources.
            schema.description = None;
            schema.pattern = Some(QUANTITY.into());
        }
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        normalise(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        normalise(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        normalise(values);
    }
}
