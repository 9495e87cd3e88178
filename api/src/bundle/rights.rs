//! Rights as a bundle states them.
//!
//! Rights in the whole cluster become `clusterPermissions`, for which OLM makes account, ClusterRole and binding. Rights
//! in the operator's namespace stay Roles and RoleBindings of their own: from `permissions` OLM would make ClusterRoles
//! when the operator serves all namespaces (`ensureSingletonRBAC` in operator-lifecycle-manager,
//! pkg/controller/operators/olm/operatorgroup.go), and so let every program read Secrets everywhere.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Problem;
use super::objects::{Rendered, drop_namespace, id, items, kind, name};

/// The rights of all accounts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rights {
    /// Entries of `clusterPermissions`, by the name of the account.
    pub(super) cluster: Vec<Value>,
    /// Roles and RoleBindings.
    pub(super) objects: Vec<Value>,
}

/// Collects the rights.
///
/// # Errors
/// When a binding names a role that is not there, or something else than an account; when rights in the whole cluster are
/// for an account outside the operator's namespace; or when a Role or its binding is for another namespace.
pub(super) fn of(rendered: &Rendered) -> Result<Rights, Problem> {
    let namespace = rendered.namespace();
    let mut cluster: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut objects = Vec::new();
    for object in &rendered.rights {
        match kind(object) {
            "ClusterRoleBinding" => {
                let rules = rules(rendered, object, "ClusterRole")?;
                for account in accounts(object, namespace)? {
                    cluster.entry(account).or_default().extend(rules.iter().cloned());
                }
            }
            "RoleBinding" => {
                rules(rendered, object, "Role")?;
                objects.push(portable(object, namespace)?);
            }
            "Role" => objects.push(portable(object, namespace)?),
            _ => {}
        }
    }
    let cluster = cluster.into_iter();
    let cluster =
        cluster.map(|(account, rules)| json!({ "serviceAccountName": account, "rules": rules })).collect();
    Ok(Rights { cluster, objects })
}

fn rules(rendered: &Rendered, binding: &Value, wanted: &str) -> Result<Vec<Value>, Problem> {
    let reference = &binding["roleRef"];
    let role = rendered.rights.iter().find(|role| {
        kind(role) == wanted && reference["kind"] == wanted && reference["name"] == role["metadata"]["name"]
    });
    let role = role.ok_or_else(|| {
        let message = format!("roleRef: no {wanted} {} is rendered", reference["name"]);
        Problem::new(id(binding), message)
    })?;
    Ok(items(&role["rules"]).cloned().collect())
}

fn accounts(binding: &Value, namespace: &str) -> Result<Vec<String>, Problem> {
    let account = |subject: &Value| {
        let ours = subject["kind"] == "ServiceAccount" && subject["namespace"] == namespace;
        subject["name"].as_str().filter(|_| ours).map(str::to_owned).ok_or_else(|| {
            let message = format!("subjects: {subject} is no ServiceAccount of namespace {namespace}");
            Problem::new(id(binding), message)
        })
    };
    items(&binding["subjects"]).map(account).collect()
}

/// The object without its namespace. A subject without one is of the binding's own namespace
/// (`appliesToUser` in Kubernetes' plugin/pkg/auth/authorizer/rbac); accounts of others, such as Prometheus' own, stay
/// where they are.
fn portable(object: &Value, namespace: &str) -> Result<Value, Problem> {
    if object["metadata"]["namespace"] != namespace {
        let message = format!("metadata.namespace: OLM installs into {namespace} alone");
        return Err(Problem::new(format!("{} {}", kind(object), name(object)), message));
    }
    let mut object = object.clone();
    drop_namespace(&mut object);
    let of = id(&object);
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if subject["kind"] != "ServiceAccount" {
            return Err(Problem::new(of, format!("subjects: {subject} is no ServiceAccount")));
        }
        if subject["namespace"] == namespace
            && let Some(subject) = subject.as_object_mut()
        {
            subject.remove("namespace");
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_changed(from: &str, to: &str) -> Result<Rights, String> {
        let yaml = "\
{kind: ClusterServiceVersion, metadata: {name: p}}
---
{apiVersion: scorecard.operatorframework.io/v1alpha3, kind: Configuration, metadata: {name: config}}
---
{kind: Deployment, metadata: {name: manager, namespace: ns}}
---
{kind: ClusterRole, metadata: {name: wide}, rules: [{resources: [nodes]}]}
---
kind: ClusterRoleBinding
metadata: {name: wide}
roleRef: {kind: ClusterRole, name: wide}
subjects: [{kind: ServiceAccount, name: a, namespace: ns}, {kind: ServiceAccount, name: b, namespace: ns}]
---
{kind: Role, metadata: {name: narrow, namespace: ns}, rules: [{resources: [pods]}]}
---
kind: RoleBinding
metadata: {name: narrow, namespace: ns}
roleRef: {kind: Role, name: narrow}
subjects: [{kind: ServiceAccount, name: a, namespace: ns}, {kind: ServiceAccount, name: reader, namespace: other}]
";
        assert!(yaml.contains(from), "{from}");
        let rendered = Rendered::read(&yaml.replacen(from, to, 1)).map_err(|problem| problem.to_string())?;
        of(&rendered).map_err(|problem| problem.to_string())
    }

    #[test]
    fn wide_rights_are_by_account_and_narrow_ones_stay_roles() {
        assert_eq!(
            of_changed("", ""),
            Ok(Rights {
                cluster: vec![
                    json!({ "serviceAccountName": "a", "rules": [{ "resources": ["nodes"] }] }),
                    json!({ "serviceAccountName": "b", "rules": [{ "resources": ["nodes"] }] }),
                ],
                objects: vec![
                    json!({ "kind": "Role", "metadata": { "name": "narrow" }, "rules": [{ "resources": ["pods"] }] }),
                    json!({ "kind": "RoleBinding", "metadata": { "name": "narrow" },
                        "roleRef": { "kind": "Role", "name": "narrow" },
                        "subjects": [{ "kind": "ServiceAccount", "name": "a" },
                                     { "kind": "ServiceAccount", "name": "reader", "namespace": "other" }] }),
                ],
            })
        );
    }

    #[test]
    fn rights_that_olm_would_change_are_refused() {
        for (from, to, want) in [
            (
                "roleRef: {kind: ClusterRole, name: wide}",
                "roleRef: {kind: ClusterRole, name: admin}",
                "ClusterRoleBinding wide: roleRef: no ClusterRole \"admin\" is rendered",
            ),
            (
                "{name: narrow, namespace: ns}",
                "{name: narrow, namespace: kube-system}",
                "Role narrow: metadata.namespace: OLM installs into ns alone",
            ),
            (
                "name: b, namespace: n",
                "name: b, namespace: m",
                "ClusterRoleBinding wide: subjects: {\"kind\":\"ServiceAccount\",\"name\":\"b\",\"namespace\":\"ms\"} \
                 is no ServiceAccount of namespace ns",
            ),
            (
                "{kind: ServiceAccount, name: reader",
                "{kind: Group, name: reader",
                "RoleBinding narrow: subjects: {\"kind\":\"Group\",\"name\":\"reader\",\"namespace\":\"other\"} is no \
                 ServiceAccount",
            ),
        ] {
            assert_eq!(of_changed(from, to), Err(want.to_owned()));
        }
    }
}
