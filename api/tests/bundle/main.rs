//! The committed bundle and install.yaml are made from config/, and obey the published rules; each rule can fail.

mod broken;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use metallb_api::bundle::objects::{items, kind, name, read, write};
use metallb_api::bundle::rules;
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
    // An account may have several roles, and their order means nothing.
    rights.values_mut().for_each(|rules| rules.sort_by_key(ToString::to_string));
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
        let mut rules: Vec<Value> = items(&permission["rules"]).cloned().collect();
        rules.sort_by_key(ToString::to_string);
        found.insert(("ClusterRole".to_owned(), account), rules);
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
        // Level 2 asks for upgrades from every earlier version, and none has been released.
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
fn what_is_published_names_images_by_digest_and_has_a_home() {
    let prefix = setting("IMAGE_PREFIX");
    let images = ["controller", "operator", "speaker"].map(|image| format!("{prefix}/{image}:{NOW}"));
    let broken_by = |files: &BTreeMap<String, String>, rule: &str| -> Vec<String> {
        let broken = rules::check_published(files).into_iter();
        broken.filter(|broken| broken.rule == rule).map(|broken| broken.message).collect()
    };
    let tagged = images.each_ref().map(|image| format!("image \"{image}\" has no digest"));
    assert_eq!(broken_by(&committed(), "digests"), tagged);

    let mut files = committed();
    for text in files.values_mut() {
        for (index, image) in images.iter().enumerate() {
            let digest = format!("sha256:{index:064x}");
            *text = text.replace(image, &format!("{}@{digest}", image.rsplit_once(':').unwrap().0));
        }
    }
    let put = |files: &mut BTreeMap<String, String>, from: &str, to: &str| {
        files.values_mut().for_each(|text| *text = text.replace(from, to));
    };
    assert_eq!(broken_by(&files, "digests"), Vec::<String>::new());
    if prefix.starts_with("localhost/") {
        let refused = broken_by(&files, rules::PLACEHOLDERS);
        assert!(
            refused[0].ends_with("is in no registry: set IMAGE_PREFIX in config/manager/images.env"),
            "{refused:?}"
        );
    }
    put(&mut files, "localhost/", "registry.example:5000/");

    // As long as the project has no home.
    let mut csv = read(&files[&csv_path()]).unwrap().remove(0);
    csv["metadata"]["annotations"]["createdAt"] = Value::Null;
    for (field, value) in [
        ("provider", json!({ "name": "a", "url": "https://a.invalid/" })),
        ("links", json!([{ "name": "a", "url": "https://a.invalid" }])),
    ] {
        csv["spec"][field] = value;
    }
    csv["spec"]["maintainers"][0]["email"] = json!("a@b.invalid");
    csv["metadata"]["annotations"]["repository"] = json!("https://a.invalid/b");
    files.insert(csv_path(), write(&csv).unwrap());
    let home = "stands in for the project's own: config/manifests/project.env";
    assert_eq!(
        broken_by(&files, rules::PLACEHOLDERS),
        [
            format!("metadata.annotations.repository: \"https://a.invalid/b\" {home}"),
            format!("spec.provider.url: \"https://a.invalid/\" {home}"),
            format!("spec.links: a: \"https://a.invalid\" {home}"),
            format!("spec.maintainers: metallb-operator-rs maintainers: \"a@b.invalid\" {home}"),
            "metadata.annotations: createdAt must be set: the version is not released".to_owned(),
        ]
    );
    csv["metadata"]["annotations"]["createdAt"] = json!("2026-12-01T00:00:00Z");
    files.insert(csv_path(), write(&csv).unwrap());
    put(&mut files, ".invalid", ".example");
    assert_eq!(rules::check_published(&files), []);
}

/// The setting of a console's links is the project's, and said in one place.
#[test]
fn the_links_are_those_of_the_project() {
    let settings = fs::read_to_string(root().join("config/manifests/project.env")).unwrap();
    let of = |key: &str| settings.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    let csv = read(&committed()[&csv_path()]).unwrap().remove(0);
    let spec = &csv["spec"];
    assert_eq!(csv["metadata"]["annotations"]["repository"], of("HOME"));
    assert_eq!(spec["provider"]["url"], of("HOME"));
    assert_eq!(spec["maintainers"][0]["email"], of("MAINTAINERS"));
    let links: BTreeMap<&str, &str> = items(&spec["links"])
        .map(|link| (link["name"].as_str().unwrap(), link["url"].as_str().unwrap()))
        .collect();
    assert_eq!((links["Sources"], links["Documentation"]), (of("HOME"), of("DOCUMENTATION")));
}

/// What a console offers first has nothing in it that only some clusters want, and the examples come in an order in which
/// each finds what it names.
#[test]
fn examples_can_be_applied_one_after_another() {
    let csv = read(&committed()[&csv_path()]).unwrap().remove(0);
    let annotation = |key: &str| -> Value {
        serde_json::from_str(csv["metadata"]["annotations"][key].as_str().unwrap()).unwrap()
    };
    let first = annotation("operatorframework.io/initialization-resource");
    assert_eq!((kind(&first), name(&first), &first["spec"]), ("MetalLB", "metallb", &json!({})));
    let examples = annotation("alm-examples");
    let mut there: BTreeSet<(&str, &str)> = BTreeSet::new();
    for example in items(&examples) {
        let spec = &example["spec"];
        let names = [("ipAddressPools", "IPAddressPool"), ("peers", "BGPPeer")];
        let named =
            names.into_iter().flat_map(|(field, kind)| items(&spec[field]).map(move |name| (kind, name)));
        for (kind, named) in
            named.chain([("BFDProfile", &spec["bfdProfile"])].into_iter().filter(|(_, name)| !name.is_null()))
        {
            let named = named.as_str().unwrap();
            assert!(there.contains(&(kind, named)), "{}: {kind} {named} comes later", name(example));
        }
        for community in items(&spec["communities"]) {
            there.extend(community["name"].as_str().map(|alias| ("alias", alias)));
            let alias = community.as_str();
            assert!(
                alias.is_none_or(|alias| there.contains(&("alias", alias))),
                "{}: {community}",
                name(example)
            );
        }
        there.insert((kind(example), name(example)));
    }
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
