//! What OLM makes of the bundle: installed, upgraded, stopped by a version that does not work, and pulled by digest.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use metallb_api::bundle::{
    self, Sources,
    objects::{items, kind, read},
    rules::{self, Broken},
};
use metallb_e2e::{
    audit,
    cluster::{self, checkout, kubectl},
    deploy::{CLUSTER_WIDE, NAMESPACE},
    exec::output,
    held::{self, Held},
    observe::{address, addresses, apply, condition, get, kube, owner},
    olm, pages,
    registry::{Access, Registry},
};
use serde_json::{Value, json};

use crate::{
    OPERATOR, SERVICE, available, eventually, metallb, none_is_refused, operands_go, operator_runs,
    remove_everything, reversed_is_refused, serves, was_pulled,
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

/// What is there before the bundle: the kind that OLM brings, and the namespace, which the administrator makes by the
/// first document of the files in olm/.
fn prepare() {
    remove_everything();
    apply(olm::OPERATOR_CONDITIONS).unwrap();
    let text = fs::read_to_string(checkout().join("olm/install-automatic.yaml")).unwrap();
    let namespace: Vec<Value> =
        read(&text).unwrap().into_iter().filter(|object| kind(object) == "Namespace").collect();
    create(&namespace).unwrap();
}

fn install(folder: &Path) -> Vec<Value> {
    let objects = olm::objects(&folder.join("bundle"), NAMESPACE).unwrap();
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

/// Whether OLM would go on from `version`: by the override of the administrator, and else by what the operator said.
fn lets_upgrade(version: &str) -> Result<()> {
    let spec = get(&["-n", NAMESPACE, "operatorconditions", &csv(version)])?["spec"].clone();
    let said = |list: &str| items(&spec[list]).find(|said| said["type"] == "Upgradeable").cloned();
    let said = said("overrides").or_else(|| said("conditions")).context("nothing is said")?;
    ensure!(said["status"] == "True", "{said}");
    Ok(())
}

/// Overrides what the operator of `version` says, as docs/install.md tells.
fn override_upgradeable(version: &str) {
    let page = fs::read_to_string(checkout().join("docs/install.md")).unwrap();
    let section = pages::section(&page, "OLM").expect("a section about OLM");
    let block = pages::blocks(section).into_iter().find(|block| block.text.contains("overrides"));
    let script = block.and_then(|block| block.script()).expect("the commands of the override");
    let home = tempfile::tempdir().unwrap();
    pages::run(&script.replace("VERSION", version), home.path()).unwrap();
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

/// The rules that a bundle has to obey.
type Check = fn(&BTreeMap<String, String>) -> Vec<Broken>;

/// A bundle in a folder of its own, made of what config/ renders after `edit`; `release` is added to the releases.
fn bundle_of(edit: impl FnOnce(String) -> String, release: &str, check: Check) -> tempfile::TempDir {
    let manifests = checkout().join("config/manifests");
    let rendered = output(kubectl().arg("kustomize").arg(&manifests)).unwrap();
    let releases = fs::read_to_string(manifests.join("releases.yaml")).unwrap();
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

/// What config/ renders, with images of `version` and an operator that says so though it is the one at hand.
fn at_version(rendered: &str, version: &str) -> String {
    let rendered = rendered.replace(&format!(":{NOW}"), &format!(":{version}"));
    let first = rendered.lines().find(|line| line.trim() == "- name: CONTROLLER_IMAGE").unwrap();
    let own =
        first.replace("- name: CONTROLLER_IMAGE", &format!("- {{name: OPERAND_VERSION, value: {version}}}"));
    rendered.replace(first, &format!("{own}\n{first}"))
}

/// What OLM does for an upgrade from `before` to `version`, of which the nodes have the images of `programs` only. It waits
/// until it may.
fn upgrade(before: &str, version: &str, programs: &[&str]) {
    eventually(&format!("an upgrade from {before} to be allowed"), 30, || lets_upgrade(before));
    for program in programs {
        cluster::tag(&image(program, NOW), &image(program, version)).unwrap();
    }
    let release = format!(
        "- {{version: {version}, createdAt: \"2027-01-01T00:00:00Z\", channels: [candidate, stable]}}\n"
    );
    let next = bundle_of(|rendered| at_version(&rendered, version), &release, rules::check);
    install(next.path());
    operator_runs();
    let kinds = format!("{CLUSTER_WIDE},roles,rolebindings,operatorconditions");
    kube(&format!("-n {NAMESPACE} delete {kinds} -l {}", olm::owned_by(&csv(before)))).unwrap();
}

/// The workloads run `version`, and all is well.
fn runs(version: &str) {
    for (workload, program) in [("deployment/controller", "controller"), ("daemonset/speaker", "speaker")] {
        let path = format!("{{.spec.template.spec.containers[0].image}}={}", image(program, version));
        kube(&format!("-n {NAMESPACE} wait {workload} --for=jsonpath={path} --timeout=60s")).unwrap();
        kube(&format!("-n {NAMESPACE} rollout status {workload} --timeout=120s")).unwrap();
    }
    eventually(&format!("version {version} everywhere"), 60, || {
        let object = get(&["-n", NAMESPACE, "metallb/metallb"])?;
        let well = [("Available", "True"), ("Progressing", "False"), ("Degraded", "False")]
            .into_iter()
            .all(|(name, want)| condition(&object, name).is_some_and(|found| found.0 == want));
        ensure!(well && object["status"]["version"] == version, "{}", object["status"]);
        Ok(())
    });
    until_upgradeable(version, "True");
}

/// The speakers of `version` were made only when its controller was ready. Times are whole seconds.
fn came_in_order(version: &str) {
    let pods = get(&["-n", NAMESPACE, "pods", "-l", "app=metallb"]).unwrap();
    let of = |program: &str| {
        let image = image(program, version);
        let runs = move |pod: &&Value| pod["spec"]["containers"][0]["image"] == image.as_str();
        items(&pods["items"]).filter(runs).cloned().collect::<Vec<_>>()
    };
    let time = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (controllers, speakers) = (of("controller"), of("speaker"));
    let ready = controllers.iter().filter_map(|pod| {
        let ready = items(&pod["status"]["conditions"]).find(|condition| condition["type"] == "Ready")?;
        Some(time(&ready["lastTransitionTime"]))
    });
    let ready = ready.max().expect("a controller");
    let made = speakers.iter().map(|pod| time(&pod["metadata"]["creationTimestamp"])).min();
    let made = made.expect("a speaker");
    assert!(ready <= made, "the controller was ready at {ready}, and a speaker was made at {made}");
}

/// Connections that stay open, to one of two Services that keep their addresses.
struct Kept {
    held: Held,
    addresses: [Vec<IpAddr>; 2],
}

impl Kept {
    fn open() -> Self {
        apply(SERVICE).unwrap();
        address("default", "installers").unwrap();
        apply(&held::echo("default", "installers")).unwrap();
        kube("-n default rollout status deployment/echo --timeout=60s").unwrap();
        let echo = address("default", "echo").unwrap();
        eventually("a node to announce", 20, || owner(echo).map(drop));
        Self {
            held: Held::open(echo, held::PORT, 20, Duration::from_secs(60)).unwrap(),
            addresses: Self::addresses(),
        }
    }

    fn addresses() -> [Vec<IpAddr>; 2] {
        ["installers", "echo"].map(|service| addresses("default", service).unwrap())
    }

    /// No address has changed and no connection has broken.
    fn still_holds(self) {
        let (answers, broken) = self.held.close().unwrap();
        println!("{answers} answers over 20 connections");
        assert_eq!(broken, Vec::<String>::new());
        assert!(answers > 20, "{answers}");
        assert_eq!(Self::addresses(), self.addresses);
        kube("-n default delete service installers echo").unwrap();
        kube("-n default delete deployment echo").unwrap();
    }
}

#[test]
fn olm_upgrades_and_no_connection_breaks() {
    const NEXT: &str = "1000.0.0";
    prepare();
    let mark = audit::mark().unwrap();
    install(&checkout());
    operator_runs();
    metallb();
    available();
    let kept = Kept::open();
    upgrade(NOW, NEXT, &PROGRAMS);
    runs(NEXT);
    came_in_order(NEXT);
    kept.still_holds();
    none_is_refused(mark);
}

#[test]
fn a_version_that_does_not_work_pauses_and_the_next_one_goes_on() {
    const BAD: &str = "1000.0.1";
    const NEXT: &str = "1000.0.2";
    prepare();
    install(&checkout());
    operator_runs();
    metallb();
    let policy = r#"{"spec":{"upgradePolicy":{"progressDeadline":"30s"}}}"#;
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {policy}")).unwrap();
    available();
    let kept = Kept::open();
    upgrade(NOW, BAD, &["operator", "speaker"]);
    eventually("the rollout to be stopped", 150, || {
        let object = get(&["-n", NAMESPACE, "metallb/metallb"])?;
        let (status, reason, message) = condition(&object, "Degraded").context("no condition yet")?;
        ensure!((status.as_str(), reason.as_str()) == ("True", "UpgradeStalled"), "{reason}: {message}");
        ensure!(message.contains("controller") && message.contains("mage"), "{message}");
        println!("{message}");
        Ok(())
    });
    until_upgradeable(BAD, "False");
    let speakers = get(&["-n", NAMESPACE, "daemonset/speaker"]).unwrap();
    let runs_now = &speakers["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(*runs_now, image("speaker", NOW), "the speakers are not touched");
    override_upgradeable(BAD);
    upgrade(BAD, NEXT, &PROGRAMS);
    runs(NEXT);
    kept.still_holds();
}

#[test]
fn nodes_pull_the_published_images_by_digest() {
    let registry = Registry::start(Access::Open).unwrap();
    let pushed = PROGRAMS.map(|program| (image(program, NOW), registry.push(program).unwrap()));
    prepare();
    let published = bundle_of(
        |rendered| pushed.iter().fold(rendered, |text, (built, pushed)| text.replace(built, pushed)),
        "",
        rules::check_published,
    );
    install(published.path());
    serves(metallb);
    pushed.iter().for_each(|(_, image)| was_pulled(image));
}
