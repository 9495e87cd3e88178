//! What earlier versions stored stays editable: the webhooks deny no change that brings no problem in.

use std::{fs, path::PathBuf};

use kube::{ResourceExt, core::DynamicObject};
use metallb_api::bundle::objects::read;
use metallb_operator::{
    admission::{self, Answer, Existing, Question},
    settings::Settings,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "metallb-system";

/// A field of each kind that has nothing to do with the others, and two values of it.
const UNRELATED: [(&str, &str, [Value; 2]); 8] = [
    ("MetalLB", "logLevel", [Value::Null, Value::Null]),
    ("AddressPool", "autoAssign", [Value::Bool(true), Value::Bool(false)]),
    ("IPAddressPool", "autoAssign", [Value::Bool(true), Value::Bool(false)]),
    ("IPAddressPool", "avoidBuggyIPs", [Value::Bool(true), Value::Bool(false)]),
    ("BGPPeer", "disableMP", [Value::Bool(true), Value::Bool(false)]),
    ("BFDProfile", "passiveMode", [Value::Bool(true), Value::Bool(false)]),
    ("L2Advertisement", "interfaces", [Value::Null, Value::Null]),
    ("BGPAdvertisement", "peers", [Value::Null, Value::Null]),
];

fn corpus() -> Vec<DynamicObject> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../api/tests/corpus");
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let objects = files.flat_map(|text| read(&text).unwrap());
    let objects = objects.map(|object| serde_json::from_value::<DynamicObject>(object).unwrap());
    objects.filter(|object| object.types.as_ref().unwrap().api_version.starts_with("metallb.io/")).collect()
}

fn update(old: &DynamicObject, new: &DynamicObject) -> Answer {
    let required = ["POD_NAME", "CONTROLLER_IMAGE", "SPEAKER_IMAGE"];
    let settings = Settings::read(|name| match name {
        "OPERATOR_NAMESPACE" => Some(NAMESPACE.to_owned()),
        name => required.contains(&name).then(|| "x".to_owned()),
    });
    let name = old.name_any();
    let question = Question {
        kind: &old.types.as_ref().unwrap().kind,
        namespace: NAMESPACE,
        name: &name,
        object: Some(new),
        old: Some(old),
    };
    admission::judge(&question, &beside(old), &settings.unwrap())
}

/// What there is: the object alone, as it was.
fn beside(old: &DynamicObject) -> Existing {
    fn read<K: DeserializeOwned>(old: &DynamicObject, kind: &str) -> Vec<K> {
        let is_it = old.types.as_ref().is_some_and(|types| types.kind == kind);
        is_it
            .then(|| serde_json::to_value(old).and_then(serde_json::from_value).unwrap())
            .into_iter()
            .collect()
    }
    Existing {
        pools: read(old, "IPAddressPool"),
        l2_advertisements: read(old, "L2Advertisement"),
        bgp_advertisements: read(old, "BGPAdvertisement"),
        bgp_peers: read(old, "BGPPeer"),
        bfd_profiles: read(old, "BFDProfile"),
        communities: read(old, "Community"),
        address_pools: read(old, "AddressPool"),
        ..Existing::default()
    }
}

fn with(object: &DynamicObject, field: &str, value: Value) -> DynamicObject {
    let mut changed = object.clone();
    if !changed.data["spec"].is_object() {
        changed.data["spec"] = json!({});
    }
    changed.data["spec"][field] = value;
    changed
}

#[test]
fn every_object_of_earlier_versions_can_be_edited() {
    let objects = corpus();
    assert!(!objects.is_empty());
    let mut edits = 0;
    for old in &objects {
        let mut labelled = old.clone();
        labelled.labels_mut().insert("another".to_owned(), "label".to_owned());
        let kind = &old.types.as_ref().unwrap().kind;
        let changed = UNRELATED.iter().filter(|(of, ..)| of == kind).flat_map(|(_, field, values)| {
            let values = match *field {
                "logLevel" => ["debug", "warn"].map(Value::from),
                "interfaces" => [json!(["eth1"]), json!(["eth2"])],
                "peers" => [json!(["one"]), json!(["two"])],
                _ => values.clone(),
            };
            values.map(|value| with(old, field, value))
        });
        for new in [labelled].into_iter().chain(changed) {
            let answer = update(old, &new);
            assert_eq!(answer.denials, Vec::<String>::new(), "{kind} {}: {new:?}", old.name_any());
            edits += 1;
        }
    }
    assert!(edits > 2 * objects.len(), "{edits} edits of {} objects", objects.len());
}
