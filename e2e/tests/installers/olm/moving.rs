//! The move from another package of OLM to this one, as docs/moving.md tells it.

use anyhow::{Context, ensure};
use metallb_api::bundle::{objects::kind, rules};
use metallb_e2e::{
    cluster::{self, checkout},
    deploy::{CLUSTER_WIDE, NAMESPACE},
    observe::{condition, get, kube},
    olm, pages,
};
use serde_json::{Value, json};

use super::{
    NOW, PROGRAMS, bundle_of, create, groups, image, install, prepare, subscribe,
    upgrade::{Kept, at_version},
};
use crate::{available, eventually, metallb, operator_runs, serves};

/// Another operator for MetalLB, by the words of its own package: its ClusterServiceVersion, and an OperatorGroup as the
/// console of OpenShift 4.10 made it. Its programs are ours, since those of others are not here.
const OTHERS: &str = "metallb-operator.v4.10.0";
/// What its programs call themselves.
const OLDER: &str = "0.0.9";

fn install_others() {
    for program in PROGRAMS {
        cluster::tag(&image(program, NOW), &image(program, OLDER)).unwrap();
    }
    let older = bundle_of(|rendered| at_version(&rendered, OLDER), "", rules::check);
    let bundle = older.path().join("bundle");
    kube(&format!("-n {NAMESPACE} delete subscriptions,operatorgroups,catalogsources --all")).unwrap();
    let metadata = |name: &str| json!({ "name": name, "namespace": NAMESPACE });
    let group = |spec: Value| {
        json!({ "apiVersion": "operators.coreos.com/v1", "kind": "OperatorGroup",
            "metadata": metadata("metallb-system-x7k2p"), "spec": spec })
    };
    let mut csv = olm::csv(&bundle, NAMESPACE).unwrap();
    csv["metadata"]["name"] = json!(OTHERS);
    csv["metadata"]["labels"] = json!({ "operators.coreos.com/metallb-operator.metallb-system": "" });
    let subscription = json!({
        "apiVersion": "operators.coreos.com/v1alpha1", "kind": "Subscription",
        "metadata": metadata("metallb-operator"),
        "spec": { "name": "metallb-operator", "channel": "stable", "source": "redhat-operators", "sourceNamespace": "olm" },
    });
    create(&[group(json!({ "targetNamespaces": [NAMESPACE] })), csv, subscription]).unwrap();
    let mut objects = olm::objects(&bundle, NAMESPACE, &[group(json!({}))]).unwrap();
    for object in objects.iter_mut().filter(|object| kind(object) != "CustomResourceDefinition") {
        object["metadata"]["labels"]["olm.owner"] = json!(OTHERS);
    }
    create(&objects).unwrap();
    operator_runs();
}

/// Collects, as OLM and the garbage collector do, what belongs to a ClusterServiceVersion that is gone.
fn collect(csv: &str) {
    assert_eq!(kube(&format!("-n {NAMESPACE} get clusterserviceversions -o name")).unwrap(), "");
    let namespaced =
        "deployments,services,secrets,serviceaccounts,roles,rolebindings,networkpolicies,operatorconditions";
    kube(&format!("-n {NAMESPACE} delete {CLUSTER_WIDE},{namespaced} -l {}", olm::owned_by(csv))).unwrap();
}

#[test]
fn a_move_from_another_package_needs_its_group_gone_and_costs_no_address() {
    prepare();
    install_others();
    metallb();
    available();
    let kept = Kept::open();

    pages::run_block("moving.md", "clusterserviceversion").unwrap();
    collect(OTHERS);
    subscribe();
    let bundle = checkout().join("bundle");
    let refused = olm::objects(&bundle, NAMESPACE, &groups()).unwrap_err();
    assert!(format!("{refused:#}").contains("TooManyOperatorGroups"), "{refused:#}");
    kube(&format!("-n {NAMESPACE} delete operatorgroup {}", olm::package().unwrap())).unwrap();
    let refused = olm::objects(&bundle, NAMESPACE, &groups()).unwrap_err();
    assert!(format!("{refused:#}").contains("UnsupportedOperatorGroup"), "{refused:#}");

    pages::run_block("moving.md", "delete operatorgroups").unwrap();
    subscribe();
    install(&checkout());
    operator_runs();
    available();
    eventually("the operator to be content", 60, || {
        let object = get(&["-n", NAMESPACE, "metallb/metallb"])?;
        let degraded = condition(&object, "Degraded").context("no condition yet")?;
        ensure!(degraded.0 == "False", "{}: {}", degraded.1, degraded.2);
        Ok(())
    });
    kept.still_holds();
    serves(|| {});
}
