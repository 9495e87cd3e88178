//! What OLM makes of a bundle: the objects that it creates when it installs the operator for all namespaces.
//!
//! OLM itself does not run here. This follows operator-lifecycle-manager: pkg/controller/install/deployment.go
//! (`deploymentForSpec`), pkg/controller/registry/resolver/rbac.go (`RBACForClusterServiceVersion`),
//! pkg/controller/operators/olm/operatorgroup.go (`ensureSingletonRBAC`) and
//! pkg/controller/operators/{operatorconditiongenerator,operatorcondition}_controller.go.

mod webhooks;

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use metallb_api::bundle::objects::{items, kind, name, read};
use serde_json::{Value, json};

use crate::cluster::checkout;

/// Label of every object that OLM makes, so that they can be found and removed together.
pub const MANAGED: &str = "olm.managed=true";

/// The kind OperatorCondition, which comes with OLM.
pub const OPERATOR_CONDITIONS: &str = include_str!("olm/operatorconditions.yaml");

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

/// The objects by which OLM installs the bundle in `bundle` into `namespace`, in the order in which it makes them.
/// The OperatorGroup is the one of olm/: it selects all namespaces.
///
/// # Errors
/// When the bundle cannot be read, does not support all namespaces, or has a webhook that is not a validating one.
pub fn objects(bundle: &Path, namespace: &str) -> Result<Vec<Value>> {
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
    let mode = |mode: &Value| mode["type"] == "AllNamespaces" && mode["supported"] == true;
    ensure!(items(&csv["spec"]["installModes"]).any(mode), "{}: does not support all namespaces", name(csv));

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
