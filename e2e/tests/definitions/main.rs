//! The definitions before a real API server that runs alone: what was stored under earlier ones stays readable and
//! writable, which is what OLM asks before an upgrade, and limits and rules in CEL are those that users know. No cluster.

mod olm;
mod openshift;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use metallb_api::{
    bundle::objects::{id, items, kind, name, read, version},
    crd,
};
use metallb_e2e::{cluster::checkout, exec::wait_until, plane::Plane};
use serde_json::{Value, json};

/// Runs kubectl with `object` as its file.
fn with(plane: &Plane, arguments: &[&str], object: &Value) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), object.to_string())?;
    let path = file.path().display().to_string();
    plane.kubectl(&[arguments, &["-f", &path]].concat())
}

/// What the API server would store of `object`.
fn dry_run(plane: &Plane, object: &Value) -> Result<Value> {
    let create = ["create", "--validate=strict", "--dry-run=server", "-o", "json"];
    Ok(serde_json::from_str(&with(plane, &create, object)?)?)
}

fn definitions() -> Vec<Value> {
    crd::all().unwrap().iter().map(|definition| serde_json::to_value(definition).unwrap()).collect()
}

/// A definition that takes everything, and so stores what any earlier one did.
fn permissive(definition: &Value) -> Value {
    let mut definition = definition.clone();
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        version["schema"] =
            json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
        version["subresources"] = json!({});
    }
    definition
}

/// Waits until each kind keeps what no definition names, or does so no longer: a definition takes effect a moment after
/// it was stored.
async fn until_unknown_fields_are_kept(plane: &Plane, kept: bool) {
    for definition in definitions() {
        let spec = &definition["spec"];
        for version in items(&spec["versions"]) {
            let probe = json!({
                "apiVersion": format!("{}/{}", spec["group"].as_str().unwrap(), version["name"].as_str().unwrap()),
                "kind": spec["names"]["kind"],
                "metadata": { "name": "probe", "namespace": "metallb-system" },
                "spec": { "nobodyKnows": true },
            });
            let create = ["create", "--validate=false", "--dry-run=server", "-o", "json"];
            let started = Instant::now();
            // One that a schema refuses is not kept; of any other failure nothing is concluded.
            let is_kept = || match with(plane, &create, &probe) {
                Ok(stored) => Ok(stored.contains("nobodyKnows")),
                Err(error) if error.to_string().contains("is invalid") => Ok(false),
                Err(error) => Err(error),
            };
            loop {
                let found = is_kept();
                if found.as_ref().is_ok_and(|found| *found == kept) {
                    break;
                }
                assert!(started.elapsed() < Duration::from_secs(30), "{}: {found:?}", id(&probe));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Objects that are valid under earlier definitions, of the files whose names begin so.
fn corpus(of: &str) -> Vec<Value> {
    let folder = checkout().join("api/tests/corpus");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(of));
    files.flat_map(|path| read(&fs::read_to_string(path).unwrap()).unwrap()).collect()
}

/// Stores objects as users and programs do under the definitions that are there.
fn store(plane: &Plane, objects: &[Value]) {
    for object in objects {
        with(plane, &["create", "--validate=strict"], object).with_context(|| id(object)).unwrap();
        if !object["status"].is_null() {
            with(plane, &["replace", "--subresource=status"], object).with_context(|| id(object)).unwrap();
        }
    }
}

/// Whether everything in `part` is in `whole`.
fn is_part(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| is_part(part, whole)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| is_part(part, whole))
        }
        (part, whole) => part == whole,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_earlier_definitions_stored_can_be_read_and_written() {
    let plane = Plane::start().await.unwrap();
    let apply = ["apply", "--server-side", "--force-conflicts"];
    // Of those that others made, nothing is here but what they took. Ours are kept for each release.
    for definition in definitions() {
        with(&plane, &apply, &permissive(&definition)).unwrap();
    }
    until_unknown_fields_are_kept(&plane, true).await;
    let mut corpus = corpus("reference");
    for object in &corpus {
        with(&plane, &["create"], object).unwrap();
    }
    let released = fs::read_to_string(checkout().join("olm/released/crds-v0.1.0.yaml")).unwrap();
    for definition in read(&released).unwrap() {
        with(&plane, &apply, &definition).unwrap();
    }
    until_unknown_fields_are_kept(&plane, false).await;
    let ours = self::corpus("0.1");
    store(&plane, &ours);
    corpus.extend(ours);

    plane.install().await.unwrap();
    until_unknown_fields_are_kept(&plane, false).await;

    for object in &corpus {
        let api_version = object["apiVersion"].as_str().unwrap();
        let (group, _) = api_version.split_once('/').unwrap();
        let of = format!("{}.{}.{group}", kind(object).to_lowercase(), version(object));
        let read = plane.kubectl(&["-n", "metallb-system", "get", &of, name(object), "-o", "json"]).unwrap();
        let read: Value = serde_json::from_str(&read).unwrap();
        for part in ["spec", "status"].into_iter().filter(|part| !object[*part].is_null()) {
            assert!(is_part(&object[part], &read[part]), "{}: {part}: {:#}", id(object), read[part]);
        }
        plane.kubectl(&["-n", "metallb-system", "label", &of, name(object), "upgraded=yes"]).unwrap();
        // What is there already may stay as it is though a rule speaks against it; what is new may not.
        let mut again = object.clone();
        again["metadata"]["name"] = json!(format!("{}-again", name(object)));
        dry_run(&plane, &again).with_context(|| id(object)).unwrap();
    }
}

/// The fields of the definitions that users have where they come from or go to.
#[path = "../../../api/tests/reference/mod.rs"]
mod reference;

/// The definition as users have it elsewhere: without the fields that only this project has.
fn elsewhere(definition: &Value) -> Value {
    let mut definition = definition.clone();
    let known = reference::known();
    let fields = &known[definition["spec"]["names"]["kind"].as_str().unwrap()];
    let has_parts = |name: &str| fields.iter().any(|field| field.starts_with(&format!("{name}.")));
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        let parts = &mut version["schema"]["openAPIV3Schema"]["properties"];
        for (part, prefix) in [("spec", ""), ("status", "status.")] {
            let properties = parts.get_mut(part).and_then(|part| part.get_mut("properties"));
            let Some(properties) = properties.and_then(Value::as_object_mut) else { continue };
            properties.retain(|name, _| fields.contains(format!("{prefix}{name}").as_str()));
            for (name, schema) in properties.iter_mut().filter(|(name, _)| has_parts(name)) {
                let below = schema["properties"].as_object_mut().unwrap();
                below.retain(|field, _| fields.contains(format!("{name}.{field}").as_str()));
            }
        }
    }
    definition
}

/// Objects with each field and annotation that only this project has.
const OURS: &str = "
apiVersion: metallb.io/v1beta1
kind: MetalLB
metadata: {name: metallb, namespace: metallb-system, annotations: {metallb.io/adopt: 'true', metallb.io/import: 'true'}}
spec:
  logLevel: debug
  managementState: Unmanaged
  ipFailoverPolicy: Warn
  poolEditPolicy: Reference
  upgradePolicy: {onFailure: Rollback, progressDeadline: 1m, approval: Manual, approvedVersion: '1'}
  imagePullSecrets: [{name: s}]
  ignoreExcludeLB: true
  excludedInterfaces: [^eth0$]
  monitoring: {monitors: ServiceMonitor, alerts: true}
  networkPolicies: {enabled: true, apiPort: 6443, dns: true}
  controllerConfig: {priorityClassName: high, replicas: 2}
  speakerConfig: {maxUnavailable: 50%, bgpListen: true, priorityClassName: high}
  layer2: {detection: Fast, conflictProbe: 'Off', fencing: Strict, gratuitous: {count: 5, interval: 1s, repeat: 60s}}
status:
  version: '1'
  components: [{name: speaker, image: i, wanted: 1, ready: 1}]
  conditions:
  - {type: IPFailoverAbsent, status: 'True', reason: IPFailoverAbsent, message: '', observedGeneration: 1, lastTransitionTime: '2026-01-01T00:00:00Z'}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: ours, namespace: metallb-system, labels: {app.kubernetes.io/managed-by: metallb-operator}}
spec: {addresses: [192.0.2.0/28], cooldown: 5m}
status: {assignedIPv4: 0, assignedIPv6: 0, availableIPv4: 16, availableIPv6: 0, services: 0}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: ours, namespace: metallb-system}
spec: {ipAddressPools: [ours], electionPolicy: Even}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: ours, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.99, passive: true}
";

/// Fields of their specs that the definitions of others have not.
const OURS_ALONE: [&str; 5] = ["managementState", "layer2", "cooldown", "electionPolicy", "passive"];

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_only_this_project_has_do_no_harm_where_users_go_back_to() {
    let plane = Plane::start().await.unwrap();
    let objects = read(OURS).unwrap();
    for object in &objects {
        with(&plane, &["create"], object).unwrap();
        if !object["status"].is_null() {
            let path = tempfile::NamedTempFile::new().unwrap();
            fs::write(path.path(), json!({ "status": object["status"] }).to_string()).unwrap();
            let of = format!("{}.{}.metallb.io", kind(object).to_lowercase(), version(object));
            let patch =
                ["-n", "metallb-system", "patch", &of, name(object), "--subresource=status", "--type=merge"];
            let file = path.path().display().to_string();
            plane.kubectl(&[&patch[..], &["--patch-file", &file]].concat()).unwrap();
        }
    }
    let mut ours = 0;
    for definition in definitions() {
        let theirs = elsewhere(&definition);
        ours += usize::from(theirs != definition);
        with(&plane, &["apply", "--server-side", "--force-conflicts"], &theirs).unwrap();
    }
    assert!(ours >= 4, "{ours} definitions have fields of their own");
    // Until none of them would be stored with a field that is ours alone. An answer that cannot be had says nothing.
    wait_until("the definitions to take effect", Duration::from_secs(30), || {
        for object in &objects {
            let mut another = object.clone();
            another["metadata"]["name"] = "another".into();
            let create = ["create", "--validate=false", "--dry-run=server", "-o", "json"];
            let stored: Value = serde_json::from_str(&with(&plane, &create, &another)?)?;
            if OURS_ALONE.iter().any(|field| !stored["spec"][field].is_null()) {
                return Ok(Some(stored["spec"].to_string()));
            }
        }
        Ok(None)
    })
    .unwrap();
    for object in &objects {
        let of = format!("{}.{}.metallb.io", kind(object).to_lowercase(), version(object));
        let get = || {
            let read =
                plane.kubectl(&["-n", "metallb-system", "get", &of, name(object), "-o", "json"]).unwrap();
            serde_json::from_str::<Value>(&read).unwrap()
        };
        // Read, edited as people do, and edited by the programs: nobody is refused.
        get();
        plane.kubectl(&["-n", "metallb-system", "label", &of, name(object), "edited=yes"]).unwrap();
        with(&plane, &["replace"], &get()).unwrap();
        let after = get();
        for field in OURS_ALONE {
            assert!(after["spec"][field].is_null(), "{}: {field} means nothing there", id(object));
        }
        let kept: &[&str] = match kind(object) {
            "MetalLB" => &["logLevel"],
            "BGPPeer" => &["myASN", "peerASN", "peerAddress"],
            "L2Advertisement" => &["ipAddressPools"],
            _ => &["addresses"],
        };
        for field in kept {
            assert_eq!(after["spec"][*field], object["spec"][*field], "{}: {field}", id(object));
        }
        let annotations = &object["metadata"]["annotations"];
        assert!(annotations.is_null() || after["metadata"]["annotations"] == *annotations, "{}", id(object));
        plane.kubectl(&["-n", "metallb-system", "delete", &of, name(object)]).unwrap();
    }
}

/// An object with a spec of this YAML.
fn object(of: &str, spec: &str) -> Value {
    let (kind, version) = of.split_once(' ').unwrap();
    json!({
        "apiVersion": format!("metallb.io/{version}"), "kind": kind,
        "metadata": { "name": "limits", "namespace": "metallb-system" },
        "spec": read(&format!("spec: {{{spec}}}")).unwrap()[0]["spec"],
    })
}

const POOL: &str = "AddressPool v1beta1";
const BFD: &str = "BFDProfile v1beta1";
const ADVERTISEMENT: &str = "BGPAdvertisement v1beta1";
const OLD_PEER: &str = "BGPPeer v1beta1";
const PEER: &str = "BGPPeer v1beta2";
const L2: &str = "L2Advertisement v1beta1";
const METALLB: &str = "MetalLB v1beta1";

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_rules_are_those_that_users_know() {
    const OLD: &str = "myASN: 1, peerASN: 1, peerAddress: a";
    let plane = Plane::start().await.unwrap();
    let selector = "serviceSelectors: [{matchLabels: {a: b}}]";
    let accepted: [(&str, &[&str]); 7] = [
        (
            POOL,
            &[
                "protocol: bgp, addresses: [], bgpAdvertisements: [{aggregationLength: 1, aggregationLengthV6: -1}]",
            ],
        ),
        (
            BFD,
            &[
                "receiveInterval: 10, transmitInterval: 10, detectMultiplier: 2, echoInterval: 10, minimumTtl: 1",
                "receiveInterval: 60000, transmitInterval: 60000, detectMultiplier: 255, echoInterval: 60000, minimumTtl: 254",
            ],
        ),
        (
            ADVERTISEMENT,
            &[
                "aggregationLength: 1, aggregationLengthV6: 0, localPref: 2147483647",
                "aggregationLength: 24, serviceSelectors: []",
                selector,
                &format!("{selector}, aggregationLength: 32, aggregationLengthV6: 128"),
            ],
        ),
        (
            OLD_PEER,
            &[
                &format!("{OLD}, peerPort: 0"),
                "myASN: 4294967295, peerASN: 0, peerAddress: '', peerPort: 16384",
            ],
        ),
        (
            PEER,
            &[
                "myASN: 0",
                "myASN: 4294967295, peerASN: 4294967295, localASN: 4294967295, peerPort: 16384",
                "myASN: 1, localASN: 1, dynamicASN: internal, peerPort: 1, connectTime: 1s",
                "myASN: 1, dynamicASN: external, connectTime: 65535s",
                "myASN: 1, connectTime: 1m30s, holdTime: 1ms, keepaliveTime: anything",
            ],
        ),
        (
            L2,
            &[
                "preferredNodeSelectors: [{weight: 1, preference: {}}, {weight: 100, preference: {matchLabels: {a: b}}}]",
            ],
        ),
        (
            METALLB,
            &[
                "logLevel: none, loadBalancerClass: a, bgpBackend: any",
                "loadBalancerClass: Example.com/A_b.c",
            ],
        ),
    ];
    for (of, specs) in accepted {
        for spec in specs {
            dry_run(&plane, &object(of, spec)).with_context(|| format!("{of} {{{spec}}}")).unwrap();
        }
    }
    let refused: [(&str, &[(&str, &str)]); 6] = [
        (POOL, &[("protocol: ospf, addresses: []", "spec.protocol"), ("protocol: bgp", "spec.addresses")]),
        (BFD, &[("receiveInterval: 9", "spec.receiveInterval"), ("minimumTtl: 255", "spec.minimumTtl")]),
        (
            ADVERTISEMENT,
            &[
                ("aggregationLength: 0", "spec.aggregationLength"),
                (&format!("{selector}, aggregationLength: 24"), "serviceSelectors"),
                (&format!("{selector}, aggregationLengthV6: 64"), "serviceSelectors"),
            ],
        ),
        (
            OLD_PEER,
            &[
                ("myASN: 1, peerASN: 1", "spec.peerAddress"),
                (&format!("{OLD}, peerPort: 16385"), "spec.peerPort"),
            ],
        ),
        (
            PEER,
            &[
                ("peerASN: 1", "spec.myASN"),
                ("myASN: 4294967296", "spec.myASN"),
                ("myASN: 1, peerPort: 0", "spec.peerPort"),
                ("myASN: 1, localASN: 0", "spec.localASN"),
                ("myASN: 1, connectTime: 999ms", "spec.connectTime"),
                ("myASN: 1, connectTime: 1500ms", "spec.connectTime"),
                ("myASN: 1, connectTime: 65536s", "spec.connectTime"),
            ],
        ),
        (
            METALLB,
            &[("logLevel: loud", "spec.logLevel"), ("loadBalancerClass: /a", "spec.loadBalancerClass")],
        ),
    ];
    for (of, cases) in refused {
        for (spec, field) in cases {
            let error = dry_run(&plane, &object(of, spec)).expect_err(spec);
            assert!(format!("{error:#}").contains(field), "{of} {{{spec}}}: {error:#}");
        }
    }

    // This one stays what it is.
    let peer = |graceful: bool| object(PEER, &format!("myASN: 1, enableGracefulRestart: {graceful}"));
    with(&plane, &["create"], &peer(true)).unwrap();
    with(&plane, &["apply", "--server-side", "--force-conflicts"], &peer(true)).unwrap();
    let error = with(&plane, &["apply", "--server-side", "--force-conflicts"], &peer(false)).unwrap_err();
    assert!(format!("{error:#}").contains("spec.enableGracefulRestart"), "{error:#}");
}
