//! What OLM makes of a bundle: the objects that it creates when it installs the operator for all namespaces.
//!
//! OLM itself does not run here. This follows operator-lifecycle-manager: pkg/controller/install/deployment.go
//! (`deploymentForSpec`), pkg/controller/registry/resolver/rbac.go (`RBACForClusterServiceVersion`),
//! pkg/controller/operators/olm/operatorgroup.go (`ensureSingletonRBAC`) and
//! pkg/controller/operators/{operatorconditiongenerator,operatorcondition}_controller.go.

mod webhooks;

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use metallb_api::bundle::{
    kinds,
    objects::{items, kind, name, read},
};
use serde_json::{Value, json};

use crate::cluster::checkout;

/// Label of every object that OLM makes, so that they can be found and removed together.
pub const MANAGED: &str = "olm.managed=true";

/// The kinds that OLM brings along and that its users write, as this project restates them.
pub const KINDS: [&str; 5] = [
    kinds::CLUSTER_SERVICE_VERSION,
    kinds::CATALOG_SOURCE,
    kinds::OPERATOR_GROUP,
    kinds::SUBSCRIPTION,
    kinds::OPERATOR_CONDITION,
];

/// The name of the package, which is that of the hand-written part of the ClusterServiceVersion.
///
/// # Errors
/// When config/manifests holds no such part, or several.
pub fn package() -> Result<String> {
    let folder = checkout().join("config/manifests/bases");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        names.extend(file.strip_suffix(".clusterserviceversion.yaml").map(str::to_owned));
    }
    match names.as_slice() {
        [name] => Ok(name.clone()),
        names => bail!("{}: {names:?}", folder.display()),
    }
}

/// Label of what belongs to one version: OLM removes what the next version left with it.
#[must_use]
pub fn owned_by(csv: &str) -> String {
    format!("olm.owner={csv}")
}

/// The objects by which OLM installs the bundle in `bundle` into `namespace`, in the order in which it makes them, where
/// the namespace has these OperatorGroups.
///
/// # Errors
/// When the bundle cannot be read or has a webhook that is not a validating one, or when OLM would refuse it beside these
/// groups: with the reason that the ClusterServiceVersion gets.
pub fn objects(bundle: &Path, namespace: &str, groups: &[Value]) -> Result<Vec<Value>> {
    let mut csvs = Vec::new();
    let mut definitions = Vec::new();
    let mut shipped = Vec::new();
    for object in manifests(&bundle.join("manifests"))? {
        match kind(&object) {
            "ClusterServiceVersion" => csvs.push(object),
            "CustomResourceDefinition" => definitions.push(object),
            _ => shipped.push(object),
        }
    }
    let [csv] = csvs.as_slice() else { bail!("{}: {} ClusterServiceVersions", bundle.display(), csvs.len()) };
    may_be_installed(csv, namespace, groups).with_context(|| name(csv).to_owned())?;

    let install = &csv["spec"]["install"]["spec"];
    let mut objects = definitions;
    for permission in items(&install["clusterPermissions"]).chain(items(&install["permissions"])) {
        objects.extend(rights(csv, permission, namespace)?);
    }
    for mut object in shipped {
        if is_namespaced(&object) {
            object["metadata"]["namespace"] = json!(namespace);
        }
        objects.push(object);
    }
    objects.extend(condition(csv, namespace));
    for deployment in items(&install["deployments"]) {
        let mut deployment = self::deployment(csv, deployment, namespace)?;
        let admission = webhooks::objects(csv, &mut deployment, namespace)?;
        objects.push(deployment);
        objects.extend(admission);
    }
    for object in &mut objects {
        object["metadata"]["labels"]["olm.managed"] = json!("true");
        if kind(object) != "CustomResourceDefinition" {
            object["metadata"]["labels"]["olm.owner"] = json!(name(csv));
        }
    }
    Ok(objects)
}

/// Whether OLM goes on with `csv` beside `groups`, of which one must be there and select what the operator supports
/// (`operatorGroupForCSV` and `InstallModeSet.Supports`: pkg/controller/operators/olm/operator.go and operator-framework/api,
/// pkg/operators/v1alpha1/clusterserviceversion.go). A selector that is not empty selects some namespaces.
fn may_be_installed(csv: &Value, namespace: &str, groups: &[Value]) -> Result<()> {
    let group = match groups {
        [group] => group,
        [] => bail!("NoOperatorGroup: namespace {namespace} has none"),
        several => {
            let names: Vec<&str> = several.iter().map(name).collect();
            bail!("TooManyOperatorGroups: namespace {namespace} has {}", names.join(", "));
        }
    };
    let targets: Vec<&str> = items(&group["spec"]["targetNamespaces"]).filter_map(Value::as_str).collect();
    let selects = group["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    let mode = match targets.as_slice() {
        [] if selects => "MultiNamespace",
        [] => "AllNamespaces",
        [own] if *own == namespace => "OwnNamespace",
        [_] => "SingleNamespace",
        _ => "MultiNamespace",
    };
    let supported = |known: &Value| known["type"] == mode && known["supported"] == true;
    ensure!(
        items(&csv["spec"]["installModes"]).any(supported),
        "UnsupportedOperatorGroup: {mode} is not supported, which OperatorGroup {} asks for",
        name(group)
    );
    Ok(())
}

/// The ClusterServiceVersion of the bundle in `bundle`, as OLM puts it into `namespace`.
///
/// # Errors
/// When the bundle cannot be read, or has not one of them.
pub fn csv(bundle: &Path, namespace: &str) -> Result<Value> {
    let mut csvs = manifests(&bundle.join("manifests"))?;
    csvs.retain(|object| kind(object) == "ClusterServiceVersion");
    let [csv] = csvs.as_mut_slice() else {
        bail!("{}: {} ClusterServiceVersions", bundle.display(), csvs.len())
    };
    csv["metadata"]["namespace"] = json!(namespace);
    Ok(csv.take())
}

fn manifests(folder: &Path) -> Result<Vec<Value>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut objects = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        objects.extend(read(&text).with_context(|| path.display().to_string())?);
    }
    Ok(objects)
}

fn is_namespaced(object: &Value) -> bool {
    !matches!(kind(object), "ClusterRole" | "ClusterRoleBinding" | "PriorityClass")
}

/// Account, ClusterRole and binding of one permission. Since the operator serves all namespaces, rights in its own
/// namespace are granted in all.
fn rights(csv: &Value, permission: &Value, namespace: &str) -> Result<[Value; 3]> {
    let account = permission["serviceAccountName"].as_str().context("a permission without an account")?;
    let role = format!("{}-{account}", name(csv));
    let rbac = "rbac.authorization.k8s.io";
    Ok([
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": account, "namespace": namespace },
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole",
            "metadata": { "name": role },
            "rules": permission["rules"],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding",
            "metadata": { "name": role },
            "roleRef": { "apiGroup": rbac, "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
        }),
    ])
}

/// The OperatorCondition of this version, and the right of the operator's accounts to write it.
fn condition(csv: &Value, namespace: &str) -> [Value; 3] {
    let install = &csv["spec"]["install"]["spec"];
    let permissions = items(&install["clusterPermissions"]).chain(items(&install["permissions"]));
    let accounts: BTreeSet<&str> =
        permissions.filter_map(|permission| permission["serviceAccountName"].as_str()).collect();
    let deployments: Vec<&Value> =
        items(&install["deployments"]).map(|deployment| &deployment["name"]).collect();
    let subjects = accounts
        .iter()
        .map(|account| json!({ "kind": "ServiceAccount", "name": account, "namespace": namespace }));
    let (group, rbac) = ("operators.coreos.com", "rbac.authorization.k8s.io");
    let metadata = json!({ "name": name(csv), "namespace": namespace });
    [
        json!({
            "apiVersion": format!("{group}/v2"), "kind": "OperatorCondition", "metadata": metadata,
            "spec": { "deployments": deployments, "serviceAccounts": accounts },
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [{
                "apiGroups": [group], "resources": ["operatorconditions"], "resourceNames": [name(csv)],
                "verbs": ["get", "update", "patch"],
            }],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": rbac, "kind": "Role", "name": name(csv) },
            "subjects": subjects.collect::<Vec<_>>(),
        }),
    ]
}

/// The Deployment: OLM adds the annotations of the ClusterServiceVersion to the pods, tells them which condition is
/// theirs, and keeps one old ReplicaSet.
fn deployment(csv: &Value, described: &Value, namespace: &str) -> Result<Value> {
    let mut spec = described["spec"].clone();
    spec["revisionHistoryLimit"] = json!(1);
    let annotations = &mut spec["template"]["metadata"]["annotations"];
    for (key, value) in csv["metadata"]["annotations"].as_object().into_iter().flatten() {
        annotations[key] = value.clone();
    }
    annotations["olm.operatorNamespace"] = json!(namespace);
    annotations["olm.targetNamespaces"] = json!("");
    let containers = spec.pointer_mut("/template/spec/containers").and_then(Value::as_array_mut);
    for container in containers.with_context(|| format!("Deployment {}: no containers", described["name"]))? {
        let condition = json!({ "name": "OPERATOR_CONDITION_NAME", "value": name(csv) });
        match container.get_mut("env").and_then(Value::as_array_mut) {
            Some(variables) => variables.push(condition),
            None => container["env"] = json!([condition]),
        }
    }
    let mut labels = described["label"].clone();
    labels["olm.owner.kind"] = json!("ClusterServiceVersion");
    labels["olm.owner.namespace"] = json!(namespace);
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": described["name"], "namespace": namespace, "labels": labels },
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, spec: &Value) -> Value {
        json!({ "kind": "OperatorGroup", "metadata": { "name": name }, "spec": spec })
    }

    #[test]
    fn one_group_that_selects_all_namespaces_lets_it_be_installed() {
        let csv = csv(&checkout().join("bundle"), "ns").unwrap();
        let all = || group("all", &json!({}));
        let of = |targets: Value| group("some", &json!({ "targetNamespaces": targets }));
        let unsupported = |mode: &str| {
            Err(format!(
                "UnsupportedOperatorGroup: {mode} is not supported, which OperatorGroup some asks for"
            ))
        };
        for (groups, want) in [
            (vec![all()], Ok(())),
            (vec![], Err("NoOperatorGroup: namespace ns has none".to_owned())),
            (
                vec![all(), group("metallb-operator", &json!({}))],
                Err("TooManyOperatorGroups: namespace ns has all, metallb-operator".to_owned()),
            ),
            (vec![of(json!(["ns"]))], unsupported("OwnNamespace")),
            (vec![of(json!(["other"]))], unsupported("SingleNamespace")),
            (vec![of(json!(["ns", "other"]))], unsupported("MultiNamespace")),
            (vec![group("some", &json!({ "selector": {} }))], Ok(())),
            (
                vec![group("some", &json!({ "selector": { "matchLabels": { "a": "b" } } }))],
                unsupported("MultiNamespace"),
            ),
        ] {
            assert_eq!(
                may_be_installed(&csv, "ns", &groups).map_err(|error| error.to_string()),
                want,
                "{groups:?}"
            );
        }
    }
}
