//! The samples are read by the types, with no field lost.

use std::fs;
use std::path::Path;

use metallb_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, MetalLB, address_pool,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Each object of config/samples.
fn samples() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/samples");
    let kustomization: Value =
        serde_saphyr::from_str(&fs::read_to_string(folder.join("kustomization.yaml")).unwrap()).unwrap();
    let mut listed: Vec<String> = serde_json::from_value(kustomization["resources"].clone()).unwrap();
    let mut present: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    listed.sort();
    present.sort();
    assert_eq!(listed, present, "the kustomization lists every sample");
    let text = |name: &String| fs::read_to_string(folder.join(name)).unwrap();
    listed.iter().flat_map(|name| serde_saphyr::from_multiple::<Value>(&text(name)).unwrap()).collect()
}

/// What the type `K` makes of an object.
fn through<K: DeserializeOwned + Serialize>(object: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<K>(object.clone()).unwrap()).unwrap()
}

fn read(object: &Value) -> Value {
    let of = |field: &str| object[field].as_str().unwrap_or_default();
    match (of("apiVersion"), of("kind")) {
        ("metallb.io/v1beta1", "MetalLB") => through::<MetalLB>(object),
        ("metallb.io/v1alpha1", "AddressPool") => through::<address_pool::v1alpha1::AddressPool>(object),
        ("metallb.io/v1beta1", "AddressPool") => through::<address_pool::v1beta1::AddressPool>(object),
        ("metallb.io/v1beta1", "IPAddressPool") => through::<IPAddressPool>(object),
        ("metallb.io/v1beta1", "L2Advertisement") => through::<L2Advertisement>(object),
        ("metallb.io/v1beta1", "BGPAdvertisement") => through::<BGPAdvertisement>(object),
        ("metallb.io/v1beta2", "BGPPeer") => through::<BGPPeer>(object),
        ("metallb.io/v1beta1", "BFDProfile") => through::<BFDProfile>(object),
        ("metallb.io/v1beta1", "Community") => through::<Community>(object),
        (version, kind) => panic!("a sample of unknown kind {version} {kind}"),
    }
}

/// Paths of `object` that `read` lacks or has otherwise.
fn lost(object: &Value, read: &Value, path: &str, paths: &mut Vec<String>) {
    match (object, read) {
        (Value::Object(fields), Value::Object(_)) => {
            for (name, value) in fields {
                lost(value, &read[name.as_str()], &format!("{path}.{name}"), paths);
            }
        }
        _ if object == read => {}
        _ => paths.push(path.to_owned()),
    }
}

#[test]
fn every_field_of_every_sample_is_known() {
    let samples = samples();
    let mut names = Vec::new();
    for object in &samples {
        let mut paths = Vec::new();
        let name = object["metadata"]["name"].as_str().unwrap();
        lost(object, &read(object), name, &mut paths);
        assert_eq!(paths, Vec::<String>::new());
        names.push(format!("{}/{name}", object["kind"].as_str().unwrap()));
    }
    names.sort();
    assert_eq!(
        names,
        [
            "AddressPool/addresspool-sample1",
            "AddressPool/addresspool-sample2",
            "AddressPool/addresspool-sample3",
            "AddressPool/doc-example",
            "AddressPool/doc-example-ipv6",
            "AddressPool/doc-example-reserved",
            "BFDProfile/fast",
            "BGPAdvertisement/metallb-advertisment",
            "BGPPeer/firewall",
            "Community/well-known",
            "IPAddressPool/firewall-bgp",
            "IPAddressPool/firewall-lan-p28",
            "IPAddressPool/team-blue",
            "L2Advertisement/firewall-lan-p28",
            "L2Advertisement/rack-1",
            "MetalLB/metallb",
        ]
    );
}

#[test]
fn an_absent_or_null_spec_reads_as_an_empty_one() {
    let object = |kind: &str, spec: Option<Value>| {
        let mut object =
            json!({ "apiVersion": "metallb.io/v1beta1", "kind": kind, "metadata": { "name": "a" } });
        if let Some(spec) = spec {
            object["spec"] = spec;
        }
        object
    };
    for spec in [None, Some(Value::Null), Some(json!({}))] {
        let name = || k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("a".into()),
            ..Default::default()
        };
        assert_eq!(
            serde_json::from_value::<L2Advertisement>(object("L2Advertisement", spec.clone())).unwrap(),
            L2Advertisement { metadata: name(), ..Default::default() }
        );
        assert_eq!(
            serde_json::from_value::<BGPAdvertisement>(object("BGPAdvertisement", spec.clone())).unwrap(),
            BGPAdvertisement { metadata: name(), ..Default::default() }
        );
        assert_eq!(
            serde_json::from_value::<MetalLB>(object("MetalLB", spec)).unwrap(),
            MetalLB { metadata: name(), ..Default::default() }
        );
    }
}

#[test]
fn quantities_may_be_numbers() {
    let object = json!({
        "apiVersion": "metallb.io/v1beta1",
        "kind": "MetalLB",
        "metadata": { "name": "metallb" },
        "spec": { "speakerConfig": { "resources": { "limits": { "cpu": 1, "memory": "64Mi" } } } },
    });
    let read: MetalLB = serde_json::from_value(object).unwrap();
    let limits = read.spec.speaker_config.unwrap().pod.resources.unwrap().limits.unwrap();
    let quantities: Vec<_> =
        limits.iter().map(|(name, quantity)| (name.as_str(), quantity.0.as_str())).collect();
    assert_eq!(quantities, [("cpu", "1"), ("memory", "64Mi")]);
}
