//! What an administrator applies to install by OLM v1: namespace, an account that may create what the bundle holds,
//! ClusterCatalog and ClusterExtension.
//!
//! OLM v1 has no rights of its own: it installs as the account that the ClusterExtension names
//! (operator-framework/operator-controller, docs/concepts/permission-model.md and docs/drafts/derive-serviceaccount.md).
//! The account is given each right that the bundle grants, so that it may grant them, and neither `bind` nor `escalate`.

use serde_json::{Value, json};

use super::Problem;
use super::catalog::image;
use super::metadata::DEFAULT_CHANNEL;
use super::objects::{Rendered, group, items, kind, name};
use super::rights::Rights;
use super::subscription::{document, namespace};

/// Account, roles and bindings.
const INSTALLER: &str = "metallb-installer";
const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// Kinds that OLM v1 makes in the namespace, beside those that the bundle holds: of the Deployment with its accounts and
/// webhooks, whose certificate is cert-manager's.
const MADE: [(&str, &str); 5] = [
    ("", "serviceaccounts"),
    ("", "services"),
    ("apps", "deployments"),
    ("cert-manager.io", "certificates"),
    ("cert-manager.io", "issuers"),
];

/// The file.
///
/// # Errors
/// When the ClusterServiceVersion suggests no namespace, or does not tell the registry that the catalog is in.
pub(super) fn file(
    package: &str,
    csv: &Value,
    rendered: &Rendered,
    rights: &Rights,
) -> Result<String, Problem> {
    let namespace = namespace(csv)?;
    let within = json!({ "name": INSTALLER, "namespace": name(&namespace) });
    let whole = json!({ "name": INSTALLER });
    let subjects = json!([{ "kind": "ServiceAccount", "name": INSTALLER, "namespace": name(&namespace) }]);
    let role = |kind: &str, metadata: &Value, rules: Vec<Value>| json!({ "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": metadata, "rules": rules });
    let binding = |of: &str, metadata: &Value| {
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": format!("{of}Binding"), "metadata": metadata,
            "roleRef": { "apiGroup": RBAC, "kind": of, "name": INSTALLER }, "subjects": subjects,
        })
    };
    let catalog = json!({
        "apiVersion": "olm.operatorframework.io/v1", "kind": "ClusterCatalog", "metadata": { "name": package },
        "spec": { "source": {
            "type": "Image",
            "image": { "ref": image(csv, "catalog", DEFAULT_CHANNEL)?, "pollIntervalMinutes": 60 },
        } },
    });
    let extension = json!({
        "apiVersion": "olm.operatorframework.io/v1", "kind": "ClusterExtension", "metadata": { "name": package },
        "spec": {
            "namespace": name(&namespace),
            "serviceAccount": { "name": INSTALLER },
            "source": {
                "sourceType": "Catalog",
                "catalog": {
                    "packageName": package, "channels": [DEFAULT_CHANNEL],
                    "selector": { "matchLabels": { "olm.operatorframework.io/metadata.name": package } },
                },
            },
        },
    });
    let objects = [
        namespace,
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": within }),
        role("ClusterRole", &whole, everywhere(package, rendered, rights)),
        binding("ClusterRole", &whole),
        role("Role", &within, within_namespace(rendered, rights)),
        binding("Role", &within),
        catalog,
        extension,
    ];
    document(&objects.iter().collect::<Vec<_>>())
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn named(group: &str, resource: &str, names: &[&str], verbs: &[&str]) -> Value {
    let mut rule = rule(group, &[resource], verbs);
    rule["resourceNames"] = json!(names);
    rule
}

const FIND: [&str; 3] = ["create", "list", "watch"];
const KEEP: [&str; 4] = ["get", "update", "patch", "delete"];

/// Rights in the whole cluster. The names of roles and webhook configurations are OLM's to make up, so they are not
/// limited; what a role may say is limited by what the account may do itself.
fn everywhere(package: &str, rendered: &Rendered, rights: &Rights) -> Vec<Value> {
    let definitions: Vec<&str> = rendered.definitions.iter().map(name).collect();
    let mut rules = vec![
        named("olm.operatorframework.io", "clusterextensions/finalizers", &[package], &["update"]),
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], &FIND),
        named("apiextensions.k8s.io", "customresourcedefinitions", &definitions, &KEEP),
        rule(RBAC, &["clusterroles", "clusterrolebindings"], &[&FIND[..], &KEEP[..]].concat()),
        rule(ADMISSION, &["validatingwebhookconfigurations"], &[&FIND[..], &KEEP[..]].concat()),
    ];
    // It watches what it installed without regard to the namespace.
    rules.extend(
        kinds(rendered, rights).iter().map(|(group, resource)| rule(group, &[resource], &["list", "watch"])),
    );
    let granted = rights.cluster.iter().flat_map(|permission| items(&permission["rules"])).cloned();
    rules.extend(granted);
    distinct(rules)
}

/// Rights in the namespace.
fn within_namespace(rendered: &Rendered, rights: &Rights) -> Vec<Value> {
    let kinds = kinds(rendered, rights);
    let mut rules: Vec<Value> = kinds
        .iter()
        .map(|(group, resource)| rule(group, &[resource], &[&["create"], &KEEP[..]].concat()))
        .collect();
    let roles = rights.objects.iter().filter(|object| kind(object) == "Role");
    rules.extend(roles.flat_map(|role| items(&role["rules"])).cloned());
    distinct(rules)
}

/// Group and resource of each kind in the namespace.
fn kinds(rendered: &Rendered, rights: &Rights) -> Vec<(String, String)> {
    let mut kinds: Vec<(String, String)> =
        MADE.iter().map(|(group, resource)| ((*group).to_owned(), (*resource).to_owned())).collect();
    for object in rights.objects.iter().chain(&rendered.plain) {
        let kind = kind(object).to_lowercase();
        let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
        kinds.push((group(object).to_owned(), plural));
    }
    kinds.sort();
    kinds.dedup();
    kinds
}

fn distinct(rules: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for rule in rules {
        if !kept.contains(&rule) {
            kept.push(rule);
        }
    }
    kept
}
