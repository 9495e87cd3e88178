//! OpenShift lets in the pods of an installation by OLM. What its admission decides is restated as a policy (OpenShift
//! documentation: managing security context constraints; openshift/apiserver-library-go,
//! pkg/securitycontextconstraints): without the right to use other constraints a pod is judged by `restricted-v2`.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use metallb_api::bundle::objects::{items, kind, name, read};
use metallb_e2e::{
    cluster::checkout,
    exec::wait_until,
    olm,
    plane::{NAMESPACE, Plane},
};
use serde_json::{Value, json};

use crate::{olm::groups, with};

/// Constraints, and what of a pod they refuse, in CEL. Of `restricted-v2` everybody has the use; it takes users of the range of
/// the namespace alone, so that no pod may choose one.
const CONSTRAINTS: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: constraints}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}
  variables:
  - name: account
    expression: object.spec.?serviceAccountName.orValue('default')
  - name: nonRoot
    expression: >-
      authorizer.serviceAccount(request.namespace, variables.account).group('security.openshift.io')
      .resource('securitycontextconstraints').namespace(request.namespace).name('nonroot-v2').check('use').allowed()
  - name: speaker
    expression: >-
      authorizer.serviceAccount(request.namespace, variables.account).group('security.openshift.io')
      .resource('securitycontextconstraints').namespace(request.namespace).name('metallb-speaker').check('use').allowed()
  - name: users
    expression: >-
      (has(object.spec.securityContext) && has(object.spec.securityContext.runAsUser) ? [object.spec.securityContext.runAsUser] : [])
      + object.spec.containers.filter(c, has(c.securityContext) && has(c.securityContext.runAsUser))
      .map(c, c.securityContext.runAsUser)
  - name: onHost
    expression: object.spec.?hostNetwork.orValue(false)
  - name: added
    expression: object.spec.containers.exists(c, c.?securityContext.?capabilities.?add.hasValue())
  validations:
  - expression: >-
      (variables.users.size() == 0 && !variables.onHost && !variables.added)
      || (variables.nonRoot && variables.users.all(user, user != 0) && !variables.onHost && !variables.added)
      || variables.speaker
    message: unable to validate against any security context constraint
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: constraints}
spec: {policyName: constraints, validationActions: [Deny]}
";

/// A pod of a workload.
fn pod(workload: &Value) -> Value {
    let template = &workload["spec"]["template"];
    let metadata = json!({ "name": format!("{}-pod", name(workload)), "namespace": NAMESPACE });
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

/// The operator as OLM makes it of the bundle, and what the operator makes.
fn workloads() -> Vec<Value> {
    let mut objects = olm::objects(&checkout().join("bundle"), NAMESPACE, &groups()).unwrap();
    let golden = checkout().join("operator/tests/golden/default.yaml");
    objects.extend(read(&fs::read_to_string(golden).unwrap()).unwrap());
    objects.retain(|object| ["Deployment", "DaemonSet"].contains(&kind(object)));
    objects
}

fn create(plane: &Plane, object: &Value) -> Result<String> {
    with(plane, &["create", "--dry-run=server"], object)
}

#[tokio::test(flavor = "multi_thread")]
async fn openshift_lets_the_pods_in_by_rights_that_the_bundle_holds() {
    let plane = Plane::start().await.unwrap();
    // Rights come from the bundle alone.
    for kind in ["roles", "rolebindings"] {
        plane.kubectl(&["-n", NAMESPACE, "delete", kind, "--all"]).unwrap();
    }
    for object in read(CONSTRAINTS).unwrap() {
        with(&plane, &["create"], &object).unwrap();
    }
    let pods: Vec<Value> = workloads().iter().map(pod).collect();
    let names: Vec<&str> = pods.iter().map(name).collect();
    assert_eq!(names, ["metallb-operator-controller-manager-pod", "controller-pod", "speaker-pod"]);
    let all = |let_in: bool| {
        wait_until(&format!("pods to be let in: {let_in}"), Duration::from_secs(30), || {
            for pod in &pods {
                match create(&plane, pod) {
                    Ok(said) => ensure!(let_in, "{said}"),
                    Err(error) => {
                        let refused = error.to_string().contains("any security context constraint");
                        ensure!(refused && !let_in, "{}: {error:#}", name(pod));
                    }
                }
            }
            Ok(None::<String>)
        })
        .unwrap();
    };
    all(false);
    let objects = olm::objects(&checkout().join("bundle"), NAMESPACE, &groups()).unwrap();
    for object in objects.iter().filter(|object| ["Role", "RoleBinding"].contains(&kind(object))) {
        if !items(&object["rules"]).any(|rule| rule["apiGroups"][0] == "operators.coreos.com") {
            with(&plane, &["create"], object).unwrap();
        }
    }
    all(true);
}
