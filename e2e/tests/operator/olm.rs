//! What OLM is told through its OperatorCondition, which OLM makes and grants to read and patch.

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{apply, condition, get, kube},
};

use crate::{
    fixture::{available, eventually},
    kinds::define,
};

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";

/// What OLM grants.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: metallb.test, namespace: metallb-system}
rules:
- {apiGroups: [operators.coreos.com], resources: [operatorconditions], resourceNames: [metallb.test], verbs: [get, update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: metallb.test, namespace: metallb-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: metallb.test}
subjects: [{kind: ServiceAccount, name: manager-account, namespace: metallb-system}]
";

/// Whether OLM was told that a newer operator may come.
fn told() -> Result<String> {
    let mut object = get(&["-n", NAMESPACE, "operatorcondition", "metallb.test"])?;
    // As `condition` finds them.
    object["status"] = object["spec"].take();
    Ok(condition(&object, "Upgradeable").context("nothing yet")?.0)
}

fn wait_for(status: &str) {
    eventually(&format!("OLM to be told {status}"), 150, || {
        let told = told()?;
        ensure!(told == status, "{told}");
        Ok(())
    });
}

#[test]
fn olm_is_told_to_wait_while_a_rollout_runs() {
    available();
    let definition = define("operators.coreos.com", "v2", "OperatorCondition");
    apply(RIGHTS).unwrap();
    apply(&format!(
        "apiVersion: operators.coreos.com/v2\nkind: OperatorCondition\nmetadata: {{name: metallb.test, namespace: \
         {NAMESPACE}}}\nspec: {{}}\n"
    ))
    .unwrap();
    kube(&format!("-n {NAMESPACE} set env {OPERATOR} OPERATOR_CONDITION_NAME=metallb.test")).unwrap();
    wait_for("True");
    let level = |level: &str| {
        let patch = format!("{{\"spec\":{{\"logLevel\":{level}}}}}");
        // Until kube-proxy has forgotten the operator's former pod, a call of its webhooks may be sent there.
        eventually("the level to be set", 30, || {
            kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {patch}")).map(drop)
        });
    };
    level("\"debug\"");
    wait_for("False");
    wait_for("True");
    level("null");
    wait_for("False");
    wait_for("True");
    kube(&format!("-n {NAMESPACE} set env {OPERATOR} OPERATOR_CONDITION_NAME-")).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    kube(&format!("delete crd {definition}")).unwrap();
    kube(&format!("-n {NAMESPACE} delete role,rolebinding metallb.test")).unwrap();
}
