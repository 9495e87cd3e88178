//! Kinds that this cluster does not know.

use metallb_e2e::observe::{apply, kube};

/// Makes a kind known whose objects may say anything, and waits until it is served. The name of its definition.
pub(crate) fn define(group: &str, version: &str, kind: &str) -> String {
    let singular = kind.to_lowercase();
    let name = format!("{singular}s.{group}");
    apply(&format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}}}\nspec:\n  \
         group: {group}\n  scope: Namespaced\n  names: {{kind: {kind}, plural: {singular}s, singular: {singular}}}\n  \
         versions:\n  - name: {version}\n    served: true\n    storage: true\n    schema: {{openAPIV3Schema: {{type: \
         object, x-kubernetes-preserve-unknown-fields: true}}}}\n"
    ))
    .unwrap();
    kube(&format!("wait crd/{name} --for=condition=Established --timeout=10s")).unwrap();
    name
}
