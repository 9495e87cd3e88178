//! Objects that are stored in an older version of their kind.

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{apply, get, kube},
};
use serde_json::Value;

use crate::fixture::{available, eventually};

/// A kind with an older version, an object of it, and its spec.
const KINDS: [(&str, &str, &str); 2] = [
    ("addresspools", "AddressPool", "{protocol: layer2, addresses: [198.51.100.64/28], autoAssign: false}"),
    (
        "bgppeers",
        "BGPPeer",
        "{myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, nodeSelectors: [{matchLabels: {no: node}}]}",
    ),
];

fn definition(plural: &str) -> Result<Value> {
    get(&["crd", &format!("{plural}.metallb.io")])
}

/// Tells the API server to store objects in the older (0) or newer (1) version of two.
fn store_as(plural: &str, version: usize) {
    let stored = |at: usize| {
        format!("{{\"op\":\"replace\",\"path\":\"/spec/versions/{at}/storage\",\"value\":{}}}", at == version)
    };
    let patch = format!("[{},{}]", stored(0), stored(1));
    kube(&format!("patch crd {plural}.metallb.io --type=json -p {patch}")).unwrap();
}

/// What the API server says of how it stores the kind now.
fn storage_hash(plural: &str, version: &str) -> Result<String> {
    let served: Value = serde_json::from_str(&kube(&format!("get --raw /apis/metallb.io/{version}"))?)?;
    let resources = served["resources"].as_array().context("no resources")?;
    let found = resources.iter().find(|resource| resource["name"] == plural).context("not served")?;
    Ok(found["storageVersionHash"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_was_stored_in_an_older_version_is_stored_anew_by_the_next_operator() {
    available();
    let mut before = Vec::new();
    for (plural, kind, spec) in KINDS {
        let versions = definition(plural).unwrap()["spec"]["versions"].clone();
        let name = |at: usize| versions[at]["name"].as_str().unwrap().to_owned();
        let (older, newer) = (name(0), name(1));
        assert_eq!(
            (&versions[0]["storage"], &versions[1]["storage"]),
            (&false.into(), &true.into()),
            "{plural}"
        );
        let hash = storage_hash(plural, &newer).unwrap();
        store_as(plural, 0);
        eventually("the API server to store the older version", 20, || {
            ensure!(storage_hash(plural, &newer)? != hash, "not yet");
            Ok(())
        });
        apply(&format!(
            "apiVersion: metallb.io/{newer}\nkind: {kind}\nmetadata: {{name: stored, namespace: {NAMESPACE}}}\nspec: {spec}\n"
        ))
        .unwrap();
        if kind == "AddressPool" {
            eventually("the pool to be served", 5, || {
                let status = get(&["-n", NAMESPACE, plural, "stored"])?["status"].to_string();
                ensure!(status.contains("served as"), "{status}");
                Ok(())
            });
        }
        // Before the newer version is stored: whatever is written later is stored in it.
        let object = get(&["-n", NAMESPACE, plural, "stored"]).unwrap();
        store_as(plural, 1);
        eventually("the API server to store the newer version", 20, || {
            ensure!(storage_hash(plural, &newer)? == hash, "not yet");
            Ok(())
        });
        let stored = definition(plural).unwrap()["status"]["storedVersions"].to_string();
        assert!(stored.contains(&older) && stored.contains(&newer), "{plural}: {stored}");
        before.push((plural, newer, object));
    }
    kube(&format!("-n {NAMESPACE} delete pod -l control-plane=controller-manager")).unwrap();
    for (plural, newer, object) in before {
        eventually(&format!("{plural} to be stored in one version"), 60, || {
            let stored = definition(plural)?["status"]["storedVersions"].clone();
            ensure!(stored == serde_json::json!([newer]), "{stored}");
            Ok(())
        });
        let after = get(&["-n", NAMESPACE, plural, "stored"]).unwrap();
        assert_ne!(
            after["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"],
            "{plural}: it was written"
        );
        // The API server adds the defaults of the version that it stores, and counts that as a change.
        let mut spec = after["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            let defaults = ["disableMP", "dualStackAddressFamily"];
            fields.retain(|name, value| !defaults.contains(&name.as_str()) || *value != false);
        }
        assert_eq!(spec, object["spec"], "{plural}");
        if spec == after["spec"] {
            assert_eq!(
                after["metadata"]["generation"], object["metadata"]["generation"],
                "{plural}: nothing changed"
            );
        }
        kube(&format!("-n {NAMESPACE} delete {plural} stored")).unwrap();
    }
}
