//! config/crd holds what the types say, in a form that every way of applying it takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use metallb_api::crd;
use serde_json::{Value, json};

/// The API server refuses annotations beyond 256 KiB, and `kubectl apply` keeps the whole object in one.
const SIZE_LIMIT: usize = 200 << 10;

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/crd");
    let committed: BTreeMap<String, String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    let generated = crd::files().unwrap();
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&committed), names(&generated), "run: make generate");
    for (name, text) in &generated {
        assert!(committed[name] == *text, "{name} differs: run make generate");
        assert!(text.len() < SIZE_LIMIT, "{name} has {} bytes", text.len());
    }
}

#[test]
fn the_yaml_says_what_the_definition_says() {
    let files = crd::files().unwrap();
    for definition in crd::all().unwrap() {
        let text = &files[&format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural)];
        let read: CustomResourceDefinition = serde_saphyr::from_str(text).unwrap();
        assert_eq!(read, definition);
    }
}

#[test]
fn kinds_of_several_versions_say_that_no_webhook_converts_them() {
    let converted = crd::all().unwrap().into_iter().filter_map(|definition| {
        let conversion = definition.spec.conversion?;
        Some((definition.spec.names.kind, conversion.strategy, conversion.webhook))
    });
    let none = |kind: &str| (kind.to_owned(), "None".to_owned(), None);
    assert_eq!(converted.collect::<Vec<_>>(), [none("AddressPool"), none("BGPPeer")]);
}

/// What each version is called, whether it is stored, and its columns; `@` stands for the path of a condition's status.
fn outline() -> Vec<String> {
    let version = |definition: &CustomResourceDefinition| {
        let names = &definition.spec.names;
        let versions = definition.spec.versions.iter().map(|version| {
            let stored = if version.storage { "stored" } else { "served" };
            let columns = version.additional_printer_columns.iter().flatten();
            let columns: Vec<_> = columns
                .map(|column| {
                    let path = column.json_path.replace(".status.conditions[?(@.type=='", "@");
                    format!("{}:{}={}", column.name, column.type_, path.replace("')].status", ""))
                })
                .collect();
            format!("{}.{} {stored} {}", names.kind, version.name, columns.join(", "))
        });
        versions.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
    };
    crd::all().unwrap().iter().flat_map(version).collect()
}

#[test]
fn kinds_have_short_names() {
    let names: Vec<_> = crd::all()
        .unwrap()
        .into_iter()
        .map(|definition| definition.spec.names)
        .map(|names| format!("{} {}", names.kind, names.short_names.unwrap_or_default().join(" ")))
        .collect();
    assert_eq!(
        names,
        [
            "AddressPool ",
            "BFDProfile bfdp",
            "BGPAdvertisement bgpadv",
            "BGPPeer bgpp",
            "BGPSessionState ",
            "Community comm",
            "ConfigurationState cfgstate",
            "IPAddressPool ipap",
            "L2Advertisement l2adv",
            "MetalLB ",
            "ServiceBGPStatus svcbgp",
            "ServiceL2Status svcl2",
        ]
    );
}

#[test]
fn versions_and_columns_are_those_that_users_know() {
    let pool_columns = "Protocol:string=.spec.protocol, Auto Assign:boolean=.spec.autoAssign, \
        Addresses:string=.spec.addresses, Assigned:integer=.status.assigned, Ready:string=@Ready";
    let peer_columns = "Address:string=.spec.peerAddress, ASN:string=.spec.peerASN, \
        BFD Profile:string=.spec.bfdProfile, Multi Hops:string=.spec.ebgpMultiHop";
    let of_service =
        "Service Name:string=.status.serviceName, Service Namespace:string=.status.serviceNamespace";
    let selection = "IPAddressPools:string=.spec.ipAddressPools, IPAddressPool Selectors:string=.spec.ipAddressPoolSelectors";
    assert_eq!(
        outline(),
        [
            format!("AddressPool.v1alpha1 served {pool_columns}"),
            format!("AddressPool.v1beta1 stored {pool_columns}"),
            "BFDProfile.v1beta1 stored Passive Mode:boolean=.spec.passiveMode, \
                Transmit Interval:integer=.spec.transmitInterval, Receive Interval:integer=.spec.receiveInterval, \
                Multiplier:integer=.spec.detectMultiplier"
                .into(),
            format!(
                "BGPAdvertisement.v1beta1 stored {selection}, Peers:string=.spec.peers, \
                Node Selectors:string=.spec.nodeSelectors"
            ),
            format!("BGPPeer.v1beta1 served {peer_columns}"),
            format!("BGPPeer.v1beta2 stored {peer_columns}"),
            "BGPSessionState.v1beta1 stored Node:string=.status.node, Peer:string=.status.peer, \
                VRF:string=.status.vrf, BGP:string=.status.bgpStatus, BFD:string=.status.bfdStatus"
                .into(),
            "Community.v1beta1 stored".into(),
            "ConfigurationState.v1beta1 stored Result:string=.status.result, \
                ErrorSummary:string=.status.errorSummary, Age:date=.metadata.creationTimestamp"
                .into(),
            "IPAddressPool.v1beta1 stored Auto Assign:boolean=.spec.autoAssign, \
                Avoid Buggy IPs:boolean=.spec.avoidBuggyIPs, Addresses:string=.spec.addresses"
                .into(),
            format!(
                "L2Advertisement.v1beta1 stored {selection}, Interfaces:string=.spec.interfaces, \
                Node Selectors:string=.spec.nodeSelectors"
            ),
            "MetalLB.v1beta1 stored Available:string=@Available, Degraded:string=@Degraded, \
                Progressing:string=@Progressing, Version:string=.status.version, Age:date=.metadata.creationTimestamp"
                .into(),
            format!("ServiceBGPStatus.v1beta1 stored Node:string=.status.node, {of_service}"),
            format!("ServiceL2Status.v1beta1 stored Allocated Node:string=.status.node, {of_service}"),
        ]
    );
}

/// Calls `visit` with the path of each part of a schema.
fn walk<'a>(schema: &'a Value, path: &str, visit: &mut impl FnMut(&str, &'a Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for part in ["items", "additionalProperties"] {
        if schema[part].is_object() {
            walk(&schema[part], path, visit);
        }
    }
}

fn schemas() -> BTreeMap<String, Value> {
    let mut schemas = BTreeMap::new();
    for definition in crd::all().unwrap() {
        for version in &definition.spec.versions {
            let schema = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
            let name = format!("{}.{}", definition.spec.names.kind, version.name);
            schemas.insert(name, schema["openAPIV3Schema"].clone());
        }
    }
    schemas
}

#[test]
fn the_defaults_are_those_that_users_know() {
    let mut defaults = BTreeMap::new();
    for (name, schema) in &schemas() {
        walk(schema, name, &mut |path, part| {
            if let Some(default) = part.get("default") {
                defaults.insert(path.to_owned(), default.clone());
            }
        });
    }
    let of_pool = |version: &str| {
        [
            (format!("AddressPool.{version}.spec.autoAssign"), json!(true)),
            (format!("AddressPool.{version}.spec.bgpAdvertisements.aggregationLength"), json!(32)),
            (format!("AddressPool.{version}.spec.bgpAdvertisements.aggregationLengthV6"), json!(128)),
        ]
    };
    let others = [
        ("BGPAdvertisement.v1beta1.spec.aggregationLength".to_owned(), json!(32)),
        ("BGPAdvertisement.v1beta1.spec.aggregationLengthV6".to_owned(), json!(128)),
        ("BGPPeer.v1beta2.spec.disableMP".to_owned(), json!(false)),
        ("BGPPeer.v1beta2.spec.dualStackAddressFamily".to_owned(), json!(false)),
        ("BGPPeer.v1beta2.spec.peerPort".to_owned(), json!(179)),
        ("IPAddressPool.v1beta1.spec.autoAssign".to_owned(), json!(true)),
        ("IPAddressPool.v1beta1.spec.avoidBuggyIPs".to_owned(), json!(false)),
    ];
    assert_eq!(
        defaults,
        of_pool("v1alpha1").into_iter().chain(of_pool("v1beta1")).chain(others).collect::<BTreeMap<_, _>>()
    );
}

#[test]
fn nothing_is_required_but_what_upstream_requires() {
    let mut required = BTreeMap::new();
    for (name, schema) in &schemas() {
        walk(schema, name, &mut |path, part| {
            // Parts of built-in types are theirs to decide.
            let ours = !["ffinity", "electors", "conditions", ".resources", "preference."]
                .iter()
                .any(|built_in| path.contains(built_in));
            if let Some(fields) = part.get("required").filter(|_| ours) {
                required.insert(path.to_owned(), fields.clone());
            }
        });
    }
    let counters = json!(["assignedIPv4", "assignedIPv6", "availableIPv4", "availableIPv6"]);
    let want = [
        ("AddressPool.v1alpha1", json!(["spec"])),
        ("AddressPool.v1alpha1.spec", json!(["addresses", "protocol"])),
        ("AddressPool.v1alpha1.status.capacity", json!(["ipv4", "ipv6"])),
        ("AddressPool.v1beta1", json!(["spec"])),
        ("AddressPool.v1beta1.spec", json!(["addresses", "protocol"])),
        ("AddressPool.v1beta1.status.capacity", json!(["ipv4", "ipv6"])),
        ("BGPPeer.v1beta1.spec", json!(["myASN", "peerASN", "peerAddress"])),
        ("BGPPeer.v1beta2.spec", json!(["myASN"])),
        ("IPAddressPool.v1beta1", json!(["spec"])),
        ("IPAddressPool.v1beta1.spec", json!(["addresses"])),
        ("IPAddressPool.v1beta1.status", counters),
        // Ours, in the status, written by the controller and the operator alone.
        ("IPAddressPool.v1beta1.status.capacity", json!(["ipv4", "ipv6"])),
        ("IPAddressPool.v1beta1.status.resting", json!(["address", "service", "until"])),
        ("MetalLB.v1beta1.status.components", json!(["name", "ready", "wanted"])),
    ];
    assert_eq!(required, want.into_iter().map(|(path, fields)| (path.to_owned(), fields)).collect());
}

#[test]
fn lists_and_selectors_of_built_in_types_merge_as_they_do_there() {
    let schemas = schemas();
    let metallb = &schemas["MetalLB.v1beta1"]["properties"]["spec"]["properties"];
    let limits = &metallb["controllerConfig"]["properties"]["resources"]["properties"]["limits"];
    let claims = &metallb["speakerConfig"]["properties"]["resources"]["properties"]["claims"];
    let selector = &schemas["L2Advertisement.v1beta1"]["properties"]["spec"]["properties"]["nodeSelectors"];
    assert_eq!(limits["additionalProperties"]["x-kubernetes-int-or-string"], json!(true));
    assert_eq!(
        (&claims["x-kubernetes-list-type"], &claims["x-kubernetes-list-map-keys"]),
        (&json!("map"), &json!(["name"]))
    );
    assert_eq!(selector["items"]["x-kubernetes-map-type"], json!("atomic"));
    assert_eq!(selector.get("x-kubernetes-list-type"), None);

    walk(&metallb["speakerConfig"]["properties"]["affinity"], "affinity", &mut |path, part| {
        if part["type"] == "array" {
            assert_eq!(part["x-kubernetes-list-type"], json!("atomic"), "{path}");
        }
        if part["properties"].get("matchExpressions").is_some() {
            assert_eq!(part["x-kubernetes-map-type"], json!("atomic"), "{path}");
        }
    });
    for (name, schema) in &schemas {
        walk(schema, name, &mut |path, part| {
            assert_eq!(part.get("nullable"), None, "{path}: a null would be stored instead of pruned");
        });
    }
}
