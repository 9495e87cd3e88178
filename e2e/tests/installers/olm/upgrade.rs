//! An upgrade as OLM does it: in order, without a change of addresses, and stopped by a version that does not work.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use metallb_api::bundle::{
    objects::{id, items, name, read, write},
    rules,
};
use metallb_e2e::{
    audit::{self, Mark},
    cluster::{self, checkout},
    deploy::{CLUSTER_WIDE, NAMESPACE},
    held::{self, Held},
    observe::{address, addresses, apply, condition, get, kube, owner},
    olm, pages,
};
use serde_json::{Value, json};

use super::{NOW, PROGRAMS, bundle_of, csv, image, install, prepare, until_upgradeable};
use crate::{SERVICE, available, eventually, metallb, none_is_refused, operator_runs, reversed_is_refused};

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
    pages::run_filled("install.md", "overrides", &[("VERSION", version)]).unwrap();
}

/// What config/ renders, with images of `version` and an operator that says so though it is the one at hand.
pub(super) fn at_version(rendered: &str, version: &str) -> String {
    let rendered = rendered.replace(&format!(":{NOW}"), &format!(":{version}"));
    let first = rendered.lines().find(|line| line.trim() == "- name: CONTROLLER_IMAGE").unwrap();
    let own =
        first.replace("- name: CONTROLLER_IMAGE", &format!("- {{name: OPERAND_VERSION, value: {version}}}"));
    rendered.replace(first, &format!("{own}\n{first}"))
}

/// What config/ renders, each object after `change`.
fn changed(rendered: &str, change: fn(&mut Value)) -> String {
    let mut objects = read(rendered).unwrap();
    objects.iter_mut().for_each(change);
    objects.iter().map(|object| write(object).unwrap()).collect::<Vec<_>>().join("---\n")
}

/// What OLM does for an upgrade from `before` to `version`, of which the nodes have the images of `programs` only. It waits
/// until it may.
fn upgrade(before: &str, version: &str, programs: &[&str]) {
    upgrade_to_changed(before, version, programs, |_| {});
}

/// The same where what is installed differs from the version before by `change`.
fn upgrade_to_changed(before: &str, version: &str, programs: &[&str], change: fn(&mut Value)) {
    eventually(&format!("an upgrade from {before} to be allowed"), 30, || lets_upgrade(before));
    for program in programs {
        cluster::tag(&image(program, NOW), &image(program, version)).unwrap();
    }
    let release = format!(
        "- {{version: {version}, createdAt: \"2027-01-01T00:00:00Z\", channels: [candidate, stable]}}\n"
    );
    let next = bundle_of(|rendered| changed(&at_version(&rendered, version), change), &release, rules::check);
    install(next.path());
    operator_runs();
    kube(&format!("-n {NAMESPACE} delete clusterserviceversion {}", csv(before))).unwrap();
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

/// The speakers of `version` were changed only when its controller was ready, and the API server knew. Objects tell whole
/// seconds; the audit log tells in which order things came in one second.
fn came_in_order(mark: Mark, version: &str) {
    let pods = get(&["-n", NAMESPACE, "pods", "-l", "app=metallb"]).unwrap();
    let of = |program: &str| {
        let image = image(program, version);
        let runs = move |pod: &&Value| pod["spec"]["containers"][0]["image"] == image.as_str();
        items(&pods["items"]).filter(runs).cloned().collect::<Vec<_>>()
    };
    let second = |time: &str| time.get(..19).unwrap_or_default().to_owned();
    let made = of("speaker")
        .iter()
        .filter_map(|pod| pod["metadata"]["creationTimestamp"].as_str().map(second))
        .min();
    let made = made.expect("a speaker");
    let changed = audit::times_since(mark, "patch daemonsets", "speaker").unwrap();
    let changed = changed
        .iter()
        .rfind(|time| second(time) <= made)
        .expect("a change of the speakers before one was made");
    let controllers = of("controller");
    assert!(!controllers.is_empty(), "a controller");
    for pod in &controllers {
        let ready =
            items(&pod["status"]["conditions"]).find(|condition| condition["type"] == "Ready").unwrap();
        let ready = second(ready["lastTransitionTime"].as_str().unwrap());
        let told = audit::times_since(mark, "patch pods/status", name(pod)).unwrap();
        let told = told.iter().find(|time| second(time) >= ready);
        assert!(
            told.is_some_and(|told| told < changed),
            "{} was ready in second {ready}, told at {told:?}; the speakers were changed at {changed}",
            name(pod)
        );
    }
}

/// Connections that stay open, to one of two Services that keep their addresses.
pub(super) struct Kept {
    held: Held,
    addresses: [Vec<IpAddr>; 2],
}

impl Kept {
    pub(super) fn open() -> Self {
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
    pub(super) fn still_holds(self) {
        let (answers, broken) = self.held.close().unwrap();
        println!("{answers} answers over 20 connections");
        assert_eq!(broken, Vec::<String>::new());
        assert!(answers > 20, "{answers}");
        assert_eq!(Self::addresses(), self.addresses);
        kube("-n default delete service installers echo").unwrap();
        kube("-n default delete deployment echo").unwrap();
    }
}

/// Gives the controller the right to read what is in `group`.
fn may_read(object: &mut Value, group: &str) {
    if id(object) == "ClusterRole metallb-system:controller" {
        let rule = json!({ "apiGroups": [group], "resources": ["examples"], "verbs": ["get"] });
        object["rules"].as_array_mut().unwrap().push(rule);
    }
}

/// A version whose controller has a right that no later one has.
fn earlier(object: &mut Value) {
    may_read(object, "earlier.example.com");
}

/// A version with another right, a field more, and a webhook of another name.
fn later(object: &mut Value) {
    may_read(object, "later.example.com");
    match id(object).as_str() {
        "CustomResourceDefinition metallbs.metallb.io" => {
            for version in object["spec"]["versions"].as_array_mut().unwrap() {
                version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["later"] = json!({ "type": "string", "description": "A field that the version before did not know." });
            }
        }
        "ValidatingWebhookConfiguration metallb-webhook-configuration" => {
            let name = &mut object["webhooks"][0]["name"];
            *name = json!(format!("later.{}", name.as_str().unwrap()));
        }
        _ => {}
    }
}

/// What differs between the versions is that of the later one, and nothing of the earlier one is left.
fn is_later() {
    let may = |group: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:controller"),
                "resourceAttributes": { "group": group, "resource": "examples", "verb": "get" },
            },
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), review.to_string()).unwrap();
        let said = kube(&format!("create -f {} -o jsonpath={{.status.allowed}}", file.path().display()));
        said.unwrap() == "true"
    };
    assert!(may("later.example.com"));
    assert!(!may("earlier.example.com"), "a right of the version before is left");
    let webhooks = kube("get validatingwebhookconfigurations -o name").unwrap();
    let later: Vec<&str> =
        webhooks.lines().filter_map(|line| line.split_once("/later.")).map(|of| of.1).collect();
    assert_eq!(later.len(), 1, "{webhooks}");
    assert!(
        !webhooks.contains(&format!("/{}", later[0])),
        "a webhook of the version before is left: {webhooks}"
    );
    reversed_is_refused();
    kube(&format!(
        "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"later\":\"kept\"}}}}"
    ))
    .unwrap();
    let object = get(&["-n", NAMESPACE, "metallb/metallb"]).unwrap();
    assert_eq!(object["spec"]["later"], "kept");
}

#[test]
fn olm_upgrades_and_no_connection_breaks() {
    const NEXT: &str = "1000.0.0";
    prepare();
    let mark = audit::mark().unwrap();
    install(bundle_of(|rendered| changed(&rendered, earlier), "", rules::check).path());
    operator_runs();
    metallb();
    available();
    let kept = Kept::open();
    let before = audit::mark().unwrap();
    upgrade_to_changed(NOW, NEXT, &PROGRAMS, later);
    runs(NEXT);
    came_in_order(before, NEXT);
    is_later();
    kept.still_holds();
    none_is_refused(mark);
}

/// Installs what is at hand, which calls a rollout stalled soon.
fn installed_impatiently() {
    prepare();
    install(&checkout());
    operator_runs();
    metallb();
    let policy = r#"{"spec":{"upgradePolicy":{"progressDeadline":"30s"}}}"#;
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {policy}")).unwrap();
    available();
}

/// The rollout is stopped, and what is said about it has these words.
fn stops(words: &[&str]) {
    eventually("the rollout to be stopped", 150, || {
        let object = get(&["-n", NAMESPACE, "metallb/metallb"])?;
        let (status, reason, message) = condition(&object, "Degraded").context("no condition yet")?;
        ensure!((status.as_str(), reason.as_str()) == ("True", "UpgradeStalled"), "{reason}: {message}");
        ensure!(words.iter().all(|word| message.contains(word)), "{message}");
        println!("{message}");
        Ok(())
    });
}

#[test]
fn a_version_that_does_not_work_pauses_and_the_next_one_goes_on() {
    const BAD: &str = "1000.0.1";
    const NEXT: &str = "1000.0.2";
    installed_impatiently();
    let kept = Kept::open();
    upgrade(NOW, BAD, &["operator", "speaker"]);
    stops(&["controller", "mage"]);
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
fn a_speaker_that_crashes_stops_the_upgrade_at_one_node() {
    const BAD: &str = "1000.0.3";
    const NEXT: &str = "1000.0.4";
    installed_impatiently();
    apply(SERVICE).unwrap();
    address("default", "installers").unwrap();
    apply(&held::echo("default", "installers")).unwrap();
    let held = address("default", "echo").unwrap();
    eventually("a node to announce", 30, || owner(held).map(drop));
    // A program that ends at once, since what the speaker is told means nothing to it.
    cluster::tag(&image("operator", NOW), &image("speaker", BAD)).unwrap();
    upgrade(NOW, BAD, &["operator", "controller"]);
    stops(&["speaker"]);
    until_upgradeable(BAD, "False");
    let pods = get(&["-n", NAMESPACE, "pods", "-l", "component=speaker"]).unwrap();
    let (bad, good): (Vec<&Value>, Vec<&Value>) = items(&pods["items"])
        .partition(|pod| pod["spec"]["containers"][0]["image"] == image("speaker", BAD).as_str());
    assert_eq!(bad.len(), 1, "one node at a time");
    assert!(!good.is_empty());
    for pod in good {
        assert_eq!(condition(pod, "Ready").unwrap().0, "True", "{}", name(pod));
    }
    assert_eq!(address("default", "echo").unwrap(), held);
    eventually("a node to announce", 20, || owner(held).map(drop));
    override_upgradeable(BAD);
    upgrade(BAD, NEXT, &PROGRAMS);
    runs(NEXT);
    assert_eq!(address("default", "echo").unwrap(), held);
    kube("-n default delete service/installers service/echo deployment/echo").unwrap();
}
