//! The committed bundle and install.yaml are made from config/, and obey the published rules; each rule can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use metallb_api::bundle::objects::{items, kind, name, read, write};
use metallb_api::bundle::rules::{self, Broken};
use metallb_api::crd;
use serde_json::{Value, json};

const CSV: &str = "bundle/manifests/metallb-operator-rs.clusterserviceversion.yaml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn collect(folder: &str, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(&path, files);
        } else {
            files.insert(path, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// The committed files of bundle/ and olm/.
fn committed() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    collect("bundle", &mut files);
    collect("olm", &mut files);
    files
}

/// The objects of a folder of config/, with the images that config/manager/images.env names.
fn config(folder: &str) -> Vec<Value> {
    let mut files = BTreeMap::new();
    collect(&format!("config/{folder}"), &mut files);
    let images = fs::read_to_string(root().join("config/manager/images.env")).unwrap();
    let image = |key: &str| {
        let line = images.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap().to_owned()
    };
    let (prefix, version) = (image("IMAGE_PREFIX"), image("VERSION"));
    files
        .iter()
        .filter(|(path, _)| path.ends_with(".yaml") && !path.ends_with("/kustomization.yaml"))
        .flat_map(|(_, text)| {
            read(&text.replace("IMAGE_PREFIX", &prefix).replace(":VERSION", &format!(":{version}")))
        })
        .flatten()
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], wanted: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| kind(object) == wanted)
}

/// Rules by account: those in the whole cluster, and those in the operator's namespace.
fn rights(objects: &[Value]) -> BTreeMap<(String, String), Vec<Value>> {
    let mut rights: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    for role in ["ClusterRole", "Role"] {
        for binding in of_kind(objects, &format!("{role}Binding")) {
            let bound = of_kind(objects, role).find(|role| binding["roleRef"]["name"] == name(role)).unwrap();
            for subject in items(&binding["subjects"]) {
                let account = subject["name"].as_str().unwrap().to_owned();
                rights.entry((role.to_owned(), account)).or_default().extend(items(&bound["rules"]).cloned());
            }
        }
    }
    rights
}

fn definitions(objects: &[Value]) -> Vec<CustomResourceDefinition> {
    let mut definitions: Vec<CustomResourceDefinition> = of_kind(objects, "CustomResourceDefinition")
        .map(|object| serde_json::from_value(object.clone()).unwrap())
        .collect();
    definitions.iter_mut().for_each(|definition| definition.metadata.labels = None);
    definitions.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    definitions
}

#[test]
fn the_committed_bundle_obeys_every_rule() {
    assert_eq!(rules::check(&committed()), []);
}

#[test]
fn the_committed_bundle_is_made_from_config() {
    let files = committed();
    let manifests: Vec<Value> = files
        .iter()
        .filter(|(path, _)| path.starts_with("bundle/manifests/"))
        .flat_map(|(_, text)| read(text).unwrap())
        .collect();
    let csv = of_kind(&manifests, "ClusterServiceVersion").next().unwrap();
    let install = &csv["spec"]["install"]["spec"];

    assert!(definitions(&manifests) == crd::all().unwrap(), "definitions: run make bundle");

    let mut found = rights(&manifests);
    for permission in items(&install["clusterPermissions"]) {
        let account = permission["serviceAccountName"].as_str().unwrap().to_owned();
        found.insert(("ClusterRole".to_owned(), account), items(&permission["rules"]).cloned().collect());
    }
    assert_eq!(found, rights(&config("rbac")), "rights: run make bundle");

    let manager = config("manager");
    let deployment = of_kind(&manager, "Deployment").next().unwrap();
    assert_eq!(install["deployments"][0]["spec"], deployment["spec"], "Deployment: run make bundle");

    let mut examples: Vec<Value> =
        serde_json::from_str(csv["metadata"]["annotations"]["alm-examples"].as_str().unwrap()).unwrap();
    let mut samples = config("samples");
    for objects in [&mut examples, &mut samples] {
        objects.sort_by_key(ToString::to_string);
    }
    assert_eq!(examples, samples, "examples: run make bundle");
    assert_eq!(csv["spec"]["version"], env!("CARGO_PKG_VERSION"), "releases.yaml and Cargo.toml differ");
}

#[test]
fn install_yaml_is_made_from_config() {
    let objects = read(&fs::read_to_string(root().join("dist/install.yaml")).unwrap()).unwrap();
    assert!(definitions(&objects) == crd::all().unwrap(), "definitions: run make dist");
    assert_eq!(rights(&objects), rights(&config("rbac")), "rights: run make dist");
    let manager = config("manager");
    let of = |objects: &[Value]| of_kind(objects, "Deployment").next().unwrap()["spec"].clone();
    assert_eq!(of(&objects), of(&manager), "Deployment: run make dist");
    // A resource of a kind that the same file defines would be refused at the first apply.
    let groups: BTreeSet<&str> =
        objects.iter().map(|object| object["apiVersion"].as_str().unwrap()).collect();
    let wanted = [
        "admissionregistration.k8s.io/v1",
        "apiextensions.k8s.io/v1",
        "apps/v1",
        "networking.k8s.io/v1",
        "rbac.authorization.k8s.io/v1",
        "v1",
    ];
    assert_eq!(groups, BTreeSet::from(wanted));
}

/// The committed files with one object changed.
fn changed(path: &str, change: impl FnOnce(&mut Value)) -> BTreeMap<String, String> {
    let mut files = committed();
    let mut object = read(&files[path]).unwrap().remove(0);
    change(&mut object);
    files.insert(path.to_owned(), write(&object).unwrap());
    files
}

/// As [`changed`], for the value at a JSON pointer of the ClusterServiceVersion.
fn csv(pointer: &str, value: Value) -> BTreeMap<String, String> {
    changed(CSV, |csv| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = csv.pointer_mut(parent).unwrap();
        match field.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[field.replace("~1", "/")] = value,
        }
    })
}

fn added(path: &str, object: &Value) -> BTreeMap<String, String> {
    let mut files = committed();
    files.insert(path.to_owned(), write(object).unwrap());
    files
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let install = "/spec/install/spec";
    let container = format!("{install}/deployments/0/spec/template/spec/containers/0");
    let mut two = committed();
    two.insert("bundle/manifests/two.yaml".into(), two[CSV].clone());
    let pool = json!([{ "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": "a" },
        "spec": { "addresses": "192.0.2.0/24", "autoassign": true } }]);
    let internal = json!(
        r#"["addresspools.metallb.io","bfdprofiles.metallb.io","bgpadvertisements.metallb.io",
        "bgppeers.metallb.io","bgpsessionstates.frrk8s.metallb.io","communities.metallb.io","configurationstates.metallb.io","l2advertisements.metallb.io",
        "servicebgpstatuses.metallb.io","servicel2statuses.metallb.io"]"#
    );
    let hook = json!([{ "generateName": "w.metallb.io", "type": "ValidatingAdmissionWebhook", "sideEffects": "Some",
        "admissionReviewVersions": ["v1"], "deploymentName": "other", "rules": [{ "apiGroups": ["*"] }] }]);
    let secret_reader = json!({ "serviceAccountName": "speaker",
        "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }] });
    let cases = [
        ("one-csv", two, vec!["bundle/manifests holds 2 ClusterServiceVersions"]),
        (
            "kinds",
            added(
                "bundle/manifests/job.yaml",
                &json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "a" } }),
            ),
            vec!["Job a: OLM installs no such kind"],
        ),
        (
            "size",
            added(
                "bundle/manifests/big.yaml",
                &json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "a", "resourceVersion": "0".repeat(900_000) } }),
            ),
            vec!["bundle/manifests has more than 1048576 bytes"],
        ),
        (
            "annotations",
            changed("bundle/metadata/annotations.yaml", |file| {
                file["annotations"]["operators.operatorframework.io.bundle.mediatype.v1"] = json!("plain");
            }),
            vec![
                "annotations.yaml: operators.operatorframework.io.bundle.mediatype.v1 must be \"registry+v1\"",
                "bundle.Containerfile: `LABEL operators.operatorframework.io.bundle.mediatype.v1=plain` is missing",
            ],
        ),
        (
            "channels",
            changed("bundle/metadata/annotations.yaml", |file| {
                file["annotations"]["operators.operatorframework.io.bundle.channels.v1"] = json!("alpha");
            }),
            vec!["annotations.yaml: channel \"alpha\" is not called candidate, fast or stable"],
        ),
        (
            "csv-name",
            csv("/metadata/name", json!("MetalLB.v0.1.0")),
            vec![
                "metadata.name: \"MetalLB.v0.1.0\" must be \"metallb-operator-rs.v0.1.0\"",
                "metadata.name: \"MetalLB.v0.1.0\" is not the name of an object",
            ],
        ),
        (
            "required-fields",
            csv("/spec/install/strategy", json!("helm")),
            vec!["spec.install.strategy: \"helm\" must be \"deployment\""],
        ),
        (
            "versions",
            csv("/spec/minKubeVersion", json!("1.30")),
            vec![
                "spec.minKubeVersion: \"1.30\" is not a semantic version: unexpected end of input while parsing minor version number",
            ],
        ),
        (
            "install-modes",
            csv("/spec/installModes/3", json!({ "type": "OwnNamespace", "supported": false })),
            vec![
                "spec.installModes: AllNamespaces is there 0 times",
                "spec.installModes: OwnNamespace is there 2 times",
                "spec.installModes: none is supported",
            ],
        ),
        (
            "capabilities",
            csv("/metadata/annotations/capabilities", json!("Autopilot")),
            vec!["metadata.annotations: capabilities: \"Autopilot\" is not a level"],
        ),
        (
            "presentation",
            csv("/spec/links", json!([{ "name": "Concepts", "url": "metallb.io" }])),
            vec![
                "spec.links: {\"name\":\"Concepts\",\"url\":\"metallb.io\"} needs a name and an https address",
            ],
        ),
        (
            "features",
            csv("/metadata/annotations/features.operators.openshift.io~1disconnected", json!("yes")),
            vec![
                "metadata.annotations: features.operators.openshift.io/disconnected: \"yes\" must be \"true\" or \"false\"",
            ],
        ),
        (
            "owned",
            csv("/spec/customresourcedefinitions/owned/0/description", json!("")),
            vec!["owned: addresspools.metallb.io v1alpha1: description must be set"],
        ),
        (
            "owned",
            csv("/spec/customresourcedefinitions/owned/2/resources", json!([])),
            vec!["owned: bfdprofiles.metallb.io v1beta1: resources must be set"],
        ),
        (
            "owned",
            csv("/spec/customresourcedefinitions/owned/2/resources", json!([{ "kind": "BGPPeer" }])),
            vec![
                "owned: bfdprofiles.metallb.io v1beta1: resources: {\"kind\":\"BGPPeer\"} needs kind and version",
            ],
        ),
        (
            "descriptors",
            csv("/spec/customresourcedefinitions/owned/0/specDescriptors/0/path", json!("address")),
            vec![
                "AddressPool v1alpha1: specDescriptors: spec.address is not a field",
                "AddressPool v1alpha1: specDescriptors: spec.addresses has no descriptor",
            ],
        ),
        (
            "examples",
            changed(CSV, |csv| {
                let annotations = &mut csv["metadata"]["annotations"];
                annotations["alm-examples"] = json!(pool.to_string());
                annotations["operators.operatorframework.io/internal-objects"] = internal;
            }),
            vec![
                "alm-examples: IPAddressPool a: spec.addresses: \"192.0.2.0/24\" is no array",
                "alm-examples: IPAddressPool a: spec.autoassign: no such field",
                "alm-examples: MetalLB has no example and is not internal",
            ],
        ),
        (
            "requests",
            csv(&format!("{container}/resources"), json!({ "requests": { "cpu": "50m" } })),
            vec!["container manager: no requests of cpu and memory"],
        ),
        (
            "images",
            csv(&format!("{container}/image"), json!("localhost/metallb/operator:latest")),
            vec![
                "spec.relatedImages: \"localhost/metallb/operator:latest\" is either used or listed, but not both",
                "image \"localhost/metallb/operator:latest\" has neither a digest nor a version as its tag",
            ],
        ),
        (
            "accounts",
            csv(&format!("{install}/clusterPermissions/2/serviceAccountName"), json!("talker")),
            vec!["RoleBinding speaker: OLM makes no account \"speaker\": it has no clusterPermissions"],
        ),
        (
            "rights",
            csv(&format!("{install}/permissions"), json!([secret_reader])),
            vec!["permissions of speaker: would be granted in all namespaces; ship a Role"],
        ),
        (
            "webhooks",
            csv("/spec/webhookdefinitions", hook),
            vec![
                "webhook w.metallb.io: sideEffects must be none",
                "webhook w.metallb.io: deploymentName is not a Deployment of the bundle",
                "webhook w.metallb.io: must not take every group",
            ],
        ),
        (
            "catalog",
            changed("olm/catalog/metallb-operator-rs/channel-stable.yaml", |channel| {
                channel["entries"] = json!([
                    { "name": "metallb-operator-rs.v0.1.0" },
                    { "name": "metallb-operator-rs.v0.2.0", "replaces": "metallb-operator-rs.v0.1.5" },
                ]);
            }),
            vec![
                "channel \"stable\": has the heads [\"metallb-operator-rs.v0.1.0\", \"metallb-operator-rs.v0.2.0\"], and must have one",
                "channel \"stable\": replaces metallb-operator-rs.v0.1.5, which is not in it",
            ],
        ),
        (
            "catalog-bundle",
            changed("olm/catalog/metallb-operator-rs/bundle-v0.1.0.yaml", |blob| {
                blob["properties"] = json!([]);
                blob["relatedImages"] = json!([]);
                blob["image"] = json!("");
            }),
            vec![
                "metallb-operator-rs.v0.1.0: property olm.package must be {\"packageName\":\"metallb-operator-rs\",\"version\":\"0.1.0\"}",
                "metallb-operator-rs.v0.1.0: properties olm.gvk are not those of the owned kinds",
                "metallb-operator-rs.v0.1.0: image must be set",
                "metallb-operator-rs.v0.1.0: relatedImages: \"localhost/metallb/operator:0.1.0\" is missing",
                "metallb-operator-rs.v0.1.0: relatedImages: \"localhost/metallb/controller:0.1.0\" is missing",
                "metallb-operator-rs.v0.1.0: relatedImages: \"localhost/metallb/speaker:0.1.0\" is missing",
            ],
        ),
        (
            "catalog-entries",
            changed("olm/catalog/metallb-operator-rs/channel-stable.yaml", |channel| {
                channel["entries"] = json!([
                    { "name": "metallb-operator-rs.v0.1.0" },
                    { "name": "metallb-operator-rs.v0.2.0", "replaces": "metallb-operator-rs.v0.1.0" },
                ]);
            }),
            vec!["channel \"stable\": metallb-operator-rs.v0.2.0 has no blob of schema olm.bundle"],
        ),
        (
            "catalog-entries",
            added(
                "olm/catalog/metallb-operator-rs/bundle-v0.0.1.yaml",
                &json!({ "schema": "olm.bundle", "name": "metallb-operator-rs.v0.0.1" }),
            ),
            vec!["metallb-operator-rs.v0.0.1: is in no channel"],
        ),
    ];
    let mut broken = BTreeSet::new();
    for (rule, files, want) in cases {
        let found: Vec<Broken> =
            rules::check(&files).into_iter().filter(|found| found.rule == rule).collect();
        let want: Vec<_> =
            want.into_iter().map(|message| Broken { rule, message: message.to_owned() }).collect();
        assert_eq!(found, want);
        broken.insert(rule);
    }
    assert_eq!(broken, rules::all().map(|rule| rule.name).collect());
}
