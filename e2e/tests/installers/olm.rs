//! What OLM makes of the bundle: installed, upgraded, stopped by a version that does not work, and pulled by digest.

mod moving;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use metallb_api::bundle::{
    self, Sources,
    objects::{items, kind, name, read, version},
    rules::{self, Broken},
};
use metallb_e2e::{
    audit,
    cluster::{self, checkout, kubectl},
    deploy::NAMESPACE,
    exec::output,
    observe::{apply, condition, get, kube},
    olm,
    registry::{Access, Registry},
};
use serde_json::{Value, json};

use crate::{
    OPERATOR, eventually, metallb, none_is_refused, operands_go, operator_runs, remove_everything,
    reversed_is_refused, serves, was_pulled,
};

const NOW: &str = env!("CARGO_PKG_VERSION");
const PROGRAMS: [&str; 3] = ["operator", "controller", "speaker"];

fn csv(version: &str) -> String {
    format!("{}.v{version}", olm::package().unwrap())
}

fn image(program: &str, version: &str) -> String {
    cluster::image(program, version).unwrap()
}

fn create(objects: &[Value]) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(file.path(), list.to_string())?;
    output(kubectl().args(["apply", "--server-side", "-f"]).arg(file.path()))
}

/// What the administrator applies.
const SUBSCRIBED: &str = "olm/install-automatic.yaml";

/// What is there before the bundle: the kinds that OLM brings, and what the administrator applies.
fn prepare() {
    remove_everything();
    for kind in olm::KINDS {
        apply(kind).unwrap();
    }
    kube("wait --for=condition=Established --timeout=30s crd --all").unwrap();
    subscribe();
}

fn subscribe() {
    let text = fs::read_to_string(checkout().join(SUBSCRIBED)).unwrap();
    create(&read(&text).unwrap()).unwrap();
}

/// The OperatorGroups of the namespace.
fn groups() -> Vec<Value> {
    items(&get(&["-n", NAMESPACE, "operatorgroups.operators.coreos.com"]).unwrap()["items"])
        .cloned()
        .collect()
}

/// What OLM does with the bundle in `folder`: first the ClusterServiceVersion, and then what that leads to.
fn install(folder: &Path) -> Vec<Value> {
    let bundle = folder.join("bundle");
    create(&[olm::csv(&bundle, NAMESPACE).unwrap()]).unwrap();
    let objects = olm::objects(&bundle, NAMESPACE, &groups()).unwrap();
    create(&objects).unwrap();
    objects
}

/// Whether OLM may upgrade, as the operator of `version` says.
fn upgradeable(version: &str) -> Result<(String, String)> {
    let object = get(&["-n", NAMESPACE, "operatorconditions", &csv(version)])?;
    let conditions = object["spec"]["conditions"].as_array().context("nothing is said")?;
    let said = conditions.iter().find(|condition| condition["type"] == "Upgradeable");
    let said = said.with_context(|| object["spec"].to_string())?;
    let text = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("message")))
}

fn until_upgradeable(version: &str, want: &str) {
    eventually(&format!("OLM to be told {want}"), 30, || {
        let (status, message) = upgradeable(version)?;
        ensure!(status == want, "{status}: {message}");
        println!("version {version}: Upgradeable {status}: {message}");
        Ok(())
    });
}

#[test]
fn olm_installs_the_bundle() {
    prepare();
    let mark = audit::mark().unwrap();
    let objects = install(&checkout());
    serves(metallb);
    let deployment = get(&["-n", NAMESPACE, OPERATOR]).unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["olm.targetNamespaces"], "");
    until_upgradeable(NOW, "True");
    none_is_refused(mark);
    reversed_is_refused();

    operands_go();
    // OLM keeps definitions when the operator is removed: with them the resources of the users would go.
    let (kept, removed): (Vec<&Value>, Vec<&Value>) =
        objects.iter().partition(|object| kind(object) == "CustomResourceDefinition");
    assert_eq!(kept.len(), 12);
    for object in removed {
        let name = object["metadata"]["name"].as_str().unwrap();
        kube(&format!("-n {NAMESPACE} delete {} {name}", kind(object).to_lowercase())).unwrap();
    }
    assert_eq!(
        kube(&format!("-n {NAMESPACE} get addresspools -o name")).unwrap().trim(),
        "addresspool.metallb.io/installers"
    );
}

/// What the condition that an example gets says.
fn said(example: &Value) -> Result<(String, String)> {
    let wanted = match kind(example) {
        "MetalLB" => "Available",
        "AddressPool" | "IPAddressPool" => "Ready",
        _ => "Valid",
    };
    let of = format!("{}.{}.metallb.io", kind(example).to_lowercase(), version(example));
    let object = get(&["-n", NAMESPACE, &of, name(example)])?;
    let (status, reason, message) =
        condition(&object, wanted).with_context(|| object["status"].to_string())?;
    Ok((status, format!("{wanted} {reason}: {message}")))
}

#[test]
fn the_examples_apply_one_after_another_and_each_is_used_at_once() {
    prepare();
    install(&checkout());
    operator_runs();
    let csv = get(&["-n", NAMESPACE, "clusterserviceversions", &csv(NOW)]).unwrap();
    let annotation = |key: &str| -> Value {
        serde_json::from_str(csv["metadata"]["annotations"][key].as_str().unwrap()).unwrap()
    };
    // The first is what a console offers when the operator is installed.
    let first = annotation("operatorframework.io/initialization-resource");
    let examples = annotation("alm-examples");
    let kinds: BTreeSet<&str> = items(&examples).map(kind).collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    for example in [&first].into_iter().chain(items(&examples)) {
        create(std::slice::from_ref(example)).unwrap();
        eventually(&format!("{} {} to be used", kind(example), name(example)), 90, || {
            let (status, said) = said(example)?;
            ensure!(status == "True", "{said}");
            Ok(())
        });
    }
}

/// The rules that a bundle has to obey.
type Check = fn(&BTreeMap<String, String>) -> Vec<Broken>;

/// A bundle in a folder of its own, made of what config/ renders after `edit`; `release` is added to the releases, of which
/// the version of this tree is one then.
fn bundle_of(edit: impl FnOnce(String) -> String, release: &str, check: Check) -> tempfile::TempDir {
    let manifests = checkout().join("config/manifests");
    let rendered = output(kubectl().arg("kustomize").arg(&manifests)).unwrap();
    let mut releases = fs::read_to_string(manifests.join("releases.yaml")).unwrap();
    let is_released = |releases: &str| releases.rsplit("- version:").next().unwrap().contains("createdAt:");
    if !release.is_empty() && !is_released(&releases) {
        releases += "  createdAt: \"2026-12-01T00:00:00Z\"\n";
    }
    let catalog = checkout().join("olm/catalog").join(olm::package().unwrap());
    let earlier = fs::read_dir(catalog).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let version = path.file_stem()?.to_str()?.strip_prefix("bundle-v")?.to_owned();
        Some((version, fs::read_to_string(&path).unwrap()))
    });
    let files = bundle::files(&Sources {
        rendered: &edit(rendered),
        releases: &format!("{releases}{release}"),
        icon: &fs::read(manifests.join("icon.svg")).unwrap(),
        earlier: &earlier.collect(),
    })
    .unwrap();
    assert_eq!(check(&files), []);
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn nodes_pull_the_published_images_by_digest() {
    let registry = Registry::start(Access::Open).unwrap();
    let pushed = PROGRAMS.map(|program| (image(program, NOW), registry.push(program).unwrap()));
    prepare();
    let published = bundle_of(
        |rendered| pushed.iter().fold(rendered, |text, (built, pushed)| text.replace(built, pushed)),
        "",
        |files| {
            // The registry is one of the cluster's, and the project has no home.
            let broken = rules::check_published(files).into_iter();
            broken.filter(|broken| broken.rule != rules::PLACEHOLDERS).collect()
        },
    );
    install(published.path());
    serves(metallb);
    pushed.iter().for_each(|(_, image)| was_pulled(image));
}
