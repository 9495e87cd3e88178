//! The committed bundle and install.yaml are made from config/, and obey the published rules; each rule can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use metallb_api::bundle::objects::{items, kind, name, read, write};
use metallb_api::bundle::rules::{self, Broken};
use metallb_api::crd;
use serde_json::{Value, json};

/// The version of this tree.
const NOW: &str = env!("CARGO_PKG_VERSION");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The name of the package: that of the part of the ClusterServiceVersion that is written by hand.
fn package() -> String {
    let objects = config("manifests/bases");
    let [base] = objects.as_slice() else { panic!("{objects:?}") };
    name(base).to_owned()
}

/// Path of the ClusterServiceVersion.
fn csv_path() -> String {
    format!("bundle/manifests/{}.clusterserviceversion.yaml", package())
}

/// Path of a file of the catalog.
fn catalog(file: &str) -> String {
    format!("olm/catalog/{}/{file}", package())
}

/// Name of the ClusterServiceVersion of this tree.
fn current() -> String {
    format!("{}.v{NOW}", package())
}

/// The value of `key` in config/manager/images.env.
fn setting(key: &str) -> String {
    let settings = fs::read_to_string(root().join("config/manager/images.env")).unwrap();
    settings.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().to_owned()
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
    let (prefix, version) = (setting("IMAGE_PREFIX"), setting("VERSION"));
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

    let policies = |objects: &[Value]| -> Vec<(String, Value)> {
        of_kind(objects, "NetworkPolicy")
            .map(|policy| (name(policy).to_owned(), policy["spec"].clone()))
            .collect()
    };
    assert_eq!(policies(&manifests), policies(&manager), "NetworkPolicies: run make bundle");

    let admission = config("webhook");
    let asked: Vec<Value> = of_kind(&admission, "ValidatingWebhookConfiguration")
        .flat_map(|configuration| items(&configuration["webhooks"]))
        .map(|webhook| {
            let path = &webhook["clientConfig"]["service"]["path"];
            json!([
                webhook["name"],
                path,
                webhook["failurePolicy"],
                webhook["timeoutSeconds"],
                webhook["rules"]
            ])
        })
        .collect();
    let described: Vec<Value> = items(&csv["spec"]["webhookdefinitions"])
        .map(|webhook| {
            let (name, path) = (&webhook["generateName"], &webhook["webhookPath"]);
            json!([name, path, webhook["failurePolicy"], webhook["timeoutSeconds"], webhook["rules"]])
        })
        .collect();
    assert!(!asked.is_empty());
    assert_eq!(described, asked, "webhooks: run make bundle");

    let mut examples: Vec<Value> =
        serde_json::from_str(csv["metadata"]["annotations"]["alm-examples"].as_str().unwrap()).unwrap();
    let mut samples = config("samples");
    for objects in [&mut examples, &mut samples] {
        objects.sort_by_key(ToString::to_string);
    }
    assert_eq!(examples, samples, "examples: run make bundle");
    assert_eq!(csv["spec"]["version"], NOW, "releases.yaml and Cargo.toml differ");
}

#[test]
fn the_bundle_claims_only_what_is_shown() {
    let claims = [
        // Level 2 asks for upgrades from every earlier version, and only one has been released.
        ("capabilities", "Basic Install"),
        // Nobody has certified anything.
        ("certified", "false"),
        ("features.operators.openshift.io/cnf", "false"),
        // It is neither a plugin of the network nor of storage.
        ("features.operators.openshift.io/cni", "false"),
        ("features.operators.openshift.io/csi", "false"),
        // The images of this repository are in no registry that could be mirrored.
        ("features.operators.openshift.io/disconnected", "false"),
        // The cryptography is that of `ring`, which is not validated.
        ("features.operators.openshift.io/fips-compliant", "false"),
        // It speaks to the API server alone, and never by way of a proxy.
        ("features.operators.openshift.io/proxy-aware", "false"),
        // The profile of OpenShift's apiservers.config is not read.
        ("features.operators.openshift.io/tls-profiles", "false"),
        // It calls no cloud.
        ("features.operators.openshift.io/token-auth-aws", "false"),
        ("features.operators.openshift.io/token-auth-azure", "false"),
        ("features.operators.openshift.io/token-auth-gcp", "false"),
        ("support", "Community"),
    ];
    let csv = read(&committed()[&csv_path()]).unwrap().remove(0);
    let annotations = csv["metadata"]["annotations"].as_object().unwrap();
    let is_claim = |key: &str| {
        ["capabilities", "certified", "support"].contains(&key) || key.starts_with("features.operators.")
    };
    let found: BTreeMap<&str, &str> = annotations
        .iter()
        .filter(|(key, _)| is_claim(key))
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap()))
        .collect();
    assert_eq!(found, BTreeMap::from(claims));
    let modes: Vec<&str> = items(&csv["spec"]["installModes"])
        .filter(|mode| mode["supported"] == true)
        .filter_map(|mode| mode["type"].as_str())
        .collect();
    assert_eq!(modes, ["AllNamespaces"], "its pools serve the Services of all namespaces");
    assert_eq!(csv["spec"]["maturity"], "alpha", "until a release is used by others");
    let architectures: Vec<&String> = csv["metadata"]["labels"].as_object().unwrap().keys().collect();
    assert_eq!(
        architectures,
        ["operatorframework.io/arch.amd64", "operatorframework.io/os.linux"],
        "`make artifacts` adds the others for which it builds images"
    );
}

#[test]
fn the_package_has_one_name() {
    let package = package();
    let text = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    assert!(root().join(format!("config/manifests/bases/{package}.clusterserviceversion.yaml")).exists());
    assert_eq!(read(&text("config/chart/Chart.yaml")).unwrap()[0]["name"], *package);
    let dashboard: Value = serde_json::from_str(&text("config/monitoring/dashboard.json")).unwrap();
    assert_eq!(dashboard["uid"], *package);
    for file in ["olm/install-automatic.yaml", "olm/install-manual.yaml"] {
        let objects = read(&text(file)).unwrap();
        let subscription = of_kind(&objects, "Subscription").next().unwrap();
        assert_eq!(subscription["spec"]["name"], *package, "{file}");
    }
    assert!(text("README.md").starts_with(&format!("# {package}\n")));
    assert!(text("docs/install.md").contains(&format!("The package is called `{package}`")));
}

#[test]
fn a_subscription_follows_its_channel_or_waits_for_approval() {
    let package = package();
    let csv = read(&committed()[&csv_path()]).unwrap().remove(0);
    let template =
        csv["metadata"]["annotations"]["operatorframework.io/suggested-namespace-template"].as_str();
    let namespace: Value = serde_json::from_str(template.unwrap()).unwrap();
    // The speaker uses the network of its node, which Pod Security calls privileged.
    let level = "privileged";
    let labels = json!({
        "pod-security.kubernetes.io/enforce": level,
        "pod-security.kubernetes.io/audit": level,
        "pod-security.kubernetes.io/warn": level,
    });
    assert_eq!(namespace["metadata"], json!({ "name": "metallb-system", "labels": labels }));
    let suggested = &csv["metadata"]["annotations"]["operatorframework.io/suggested-namespace"];
    assert_eq!(*suggested, "metallb-system");
    for (file, approval, starting) in
        [("automatic", "Automatic", Value::Null), ("manual", "Manual", json!(current()))]
    {
        let objects = read(&committed()[&format!("olm/install-{file}.yaml")]).unwrap();
        let kinds: Vec<&str> = objects.iter().map(kind).collect();
        assert_eq!(kinds, ["Namespace", "CatalogSource", "OperatorGroup", "Subscription"]);
        let [made, source, group, subscription] = objects.as_slice() else { unreachable!() };
        assert_eq!(*made, namespace, "with the labels of Pod Security");
        assert_eq!(group["spec"].get("targetNamespaces"), None, "all namespaces");
        let spec = &subscription["spec"];
        // What it starts with must be in the channel.
        let is_tried = !starting.is_null() && NOW.contains('-');
        let channel = if is_tried { "candidate" } else { "stable" };
        assert_eq!(
            (&spec["name"], &spec["channel"], &spec["installPlanApproval"], &spec["startingCSV"]),
            (&json!(package), &json!(channel), &json!(approval), &starting)
        );
        // A tag that each release moves: by a fixed one OLM would poll for nothing.
        let image = format!("{}/catalog:{channel}", setting("IMAGE_PREFIX"));
        let interval = &source["spec"]["updateStrategy"]["registryPoll"]["interval"];
        assert_eq!((&source["spec"]["image"], interval), (&json!(image), &json!("60m")));
        assert_eq!((&spec["source"], &spec["sourceNamespace"]), (&json!(name(source)), &json!(name(made))));
        for object in [source, group, subscription] {
            assert_eq!(object["metadata"]["namespace"], *name(made), "{}", kind(object));
        }
    }
}

#[test]
fn what_is_published_names_images_by_digest() {
    let prefix = setting("IMAGE_PREFIX");
    let images = ["controller", "operator", "speaker"].map(|image| format!("{prefix}/{image}:{NOW}"));
    let want = images
        .each_ref()
        .map(|image| Broken { rule: "digests", message: format!("image \"{image}\" has no digest") });
    assert_eq!(rules::check_published(&committed()), want);

    let mut files = committed();
    for text in files.values_mut() {
        for (index, image) in images.iter().enumerate() {
            let digest = format!("sha256:{index:064x}");
            *text = text.replace(image, &format!("{}@{digest}", image.rsplit_once(':').unwrap().0));
        }
    }
    assert_eq!(rules::check_published(&files), []);
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
    changed(&csv_path(), |csv| {
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
    two.insert("bundle/manifests/two.yaml".into(), two[&csv_path()].clone());
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
            csv("/metadata/name", json!("MetalLB.v1")),
            vec![
                "metadata.name: \"MetalLB.v1\" must be \"PACKAGE.vNOW\"",
                "metadata.name: \"MetalLB.v1\" is not the name of an object",
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
            "maturity",
            csv("/spec/maturity", json!("ripe")),
            vec!["spec.maturity: \"ripe\" is none that is known"],
        ),
        (
            "maturity",
            changed(&csv_path(), |csv| {
                csv["spec"]["version"] = json!("0.9.0");
                csv["spec"]["maturity"] = json!("stable");
            }),
            vec!["spec.maturity: version \"0.9.0\" is not stable"],
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
            changed(&csv_path(), |csv| {
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
            csv(&format!("{install}/clusterPermissions/3/serviceAccountName"), json!("talker")),
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
            changed(&catalog("channel-stable.yaml"), |channel| {
                channel["entries"] = json!([
                    { "name": current() },
                    { "name": "next", "replaces": "lost" },
                ]);
            }),
            vec![
                "channel \"stable\": has the heads [\"PACKAGE.vNOW\", \"next\"], and must have one",
                "channel \"stable\": replaces lost, which is not in it",
            ],
        ),
        (
            "catalog-bundle",
            changed(&catalog(&format!("bundle-v{NOW}.yaml")), |blob| {
                blob["properties"] = json!([]);
                blob["relatedImages"] = json!([]);
                blob["image"] = json!("");
            }),
            vec![
                "PACKAGE.vNOW: property olm.package must be {\"packageName\":\"PACKAGE\",\"version\":\"NOW\"}",
                "PACKAGE.vNOW: properties olm.gvk are not those of the owned kinds",
                "PACKAGE.vNOW: image must be set",
                "PACKAGE.vNOW: relatedImages: \"PREFIX/operator:NOW\" is missing",
                "PACKAGE.vNOW: relatedImages: \"PREFIX/controller:NOW\" is missing",
                "PACKAGE.vNOW: relatedImages: \"PREFIX/speaker:NOW\" is missing",
            ],
        ),
        (
            "catalog-entries",
            changed(&catalog("channel-stable.yaml"), |channel| {
                channel["entries"] = json!([
                    { "name": current() },
                    { "name": "next", "replaces": current() },
                ]);
            }),
            vec!["channel \"stable\": next has no blob of schema olm.bundle"],
        ),
        (
            "catalog-entries",
            added(&catalog("bundle-v0.0.1.yaml"), &json!({ "schema": "olm.bundle", "name": "left over" })),
            vec!["left over: is in no channel"],
        ),
    ];
    let mut broken = BTreeSet::new();
    for (rule, files, want) in cases {
        let found: Vec<Broken> =
            rules::check(&files).into_iter().filter(|found| found.rule == rule).collect();
        let message = |text: &str| {
            text.replace("PACKAGE", &package())
                .replace("NOW", NOW)
                .replace("PREFIX", &setting("IMAGE_PREFIX"))
        };
        let want: Vec<_> = want.into_iter().map(|text| Broken { rule, message: message(text) }).collect();
        assert_eq!(found, want);
        broken.insert(rule);
    }
    assert_eq!(broken, rules::all().map(|rule| rule.name).collect());
}
