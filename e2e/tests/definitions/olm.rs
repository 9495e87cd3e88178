//! What is written for OLM, before an API server that has OLM's kinds: every field is known, and the account of an
//! installation by OLM v1 may create what the bundle holds.

use std::fs;

use metallb_api::bundle::{
    kinds,
    objects::{group, id, kind, name, read},
};
use metallb_e2e::{
    cluster::checkout,
    olm,
    plane::{NAMESPACE, Plane},
};
use serde_json::Value;

use crate::with;

/// The objects of a file of the repository.
fn objects(path: &str) -> Vec<Value> {
    read(&fs::read_to_string(checkout().join(path)).unwrap()).unwrap()
}

/// The OperatorGroup that an administrator applies.
pub(crate) fn groups() -> Vec<Value> {
    let mut objects = objects("olm/install-automatic.yaml");
    objects.retain(|object| kind(object) == "OperatorGroup");
    objects
}

/// An API server with the kinds of both OLMs.
async fn plane() -> Plane {
    let plane = Plane::start().await.unwrap();
    for text in kinds::ALL {
        for definition in read(text).unwrap() {
            with(&plane, &["create"], &definition).unwrap();
        }
    }
    plane.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"]).unwrap();
    plane
}

const STRICTLY: [&str; 4] = ["apply", "--server-side", "--force-conflicts", "--validate=strict"];

#[tokio::test(flavor = "multi_thread")]
async fn every_field_that_is_written_for_olm_is_known() {
    let plane = plane().await;
    let mut all = vec![olm::csv(&checkout().join("bundle"), NAMESPACE).unwrap()];
    for file in ["olm/install-automatic.yaml", "olm/install-manual.yaml", "olm/v1.yaml"] {
        all.extend(objects(file));
    }
    all.extend(olm::objects(&checkout().join("bundle"), NAMESPACE, &groups()).unwrap());
    for object in &all {
        with(&plane, &STRICTLY, object).unwrap_or_else(|error| panic!("{}: {error:#}", id(object)));
    }
    // What would be seen if one were not.
    let mut misspelt = all[0].clone();
    misspelt["spec"]["installmodes"] = misspelt["spec"]["installModes"].take();
    let refused = with(&plane, &STRICTLY, &misspelt).unwrap_err().to_string();
    assert!(refused.contains("installmodes"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_of_olm_v1_may_create_what_the_bundle_holds_and_no_other_rights() {
    let plane = plane().await;
    // Nothing is there that would only have to be patched.
    plane.kubectl(&["-n", NAMESPACE, "delete", "roles,rolebindings,serviceaccounts", "--all"]).unwrap();
    for wide in ["clusterroles", "clusterrolebindings"] {
        let names = plane.kubectl(&["get", wide, "-o", "name"]).unwrap();
        for of_ours in names.lines().filter(|name| name.contains("metallb")) {
            plane.kubectl(&["delete", of_ours]).unwrap();
        }
    }
    for object in objects("olm/v1.yaml") {
        with(&plane, &STRICTLY, &object).unwrap();
    }
    let installer = format!("--as=system:serviceaccount:{NAMESPACE}:metallb-installer");
    let apply = [&STRICTLY[..], &[installer.as_str()]].concat();
    // Of OLM v0 alone: its condition, and the Secret of a certificate, which cert-manager makes for OLM v1.
    let csv = olm::csv(&checkout().join("bundle"), NAMESPACE).unwrap();
    let made = olm::objects(&checkout().join("bundle"), NAMESPACE, &groups()).unwrap().into_iter().filter(
        |object| {
            let of_v0 = group(object) == "operators.coreos.com" || name(object) == name(&csv);
            !of_v0 && kind(object) != "Secret"
        },
    );
    let mut count = 0;
    for object in made {
        with(&plane, &apply, &object).unwrap_or_else(|error| panic!("{}: {error:#}", id(&object)));
        count += 1;
    }
    assert!(count > 30, "{count}");

    for (rights, what) in [
        ("rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]", "ClusterRole"),
        ("rules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]", "ClusterRole"),
    ] {
        let text = format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {what}\nmetadata: {{name: more}}\n{rights}\n"
        );
        let refused = with(&plane, &apply, &read(&text).unwrap()[0]).unwrap_err().to_string();
        assert!(refused.contains("attempting to grant RBAC permissions not currently held"), "{refused}");
    }
}
