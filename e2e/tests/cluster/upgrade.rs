//! A newer operator replaces what the older one installed, step by step, and is stopped where that does not work.

use std::time::Duration;

use anyhow::{Context, ensure};
use metallb_e2e::{
    cluster,
    deploy::NAMESPACE,
    held::{self, Held},
    observe::{address, addresses, apply, condition, get, kube, owner},
};
use serde_json::Value;

use crate::{
    fixture::{Scene, available, eventually},
    ipfailover::metallb_condition,
};

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";
const IMAGES: [(&str, &str, &str); 2] =
    [("controller", "CONTROLLER_IMAGE", "deployment"), ("speaker", "SPEAKER_IMAGE", "daemonset")];

fn metallb() -> anyhow::Result<Value> {
    get(&["-n", NAMESPACE, "metallb", "metallb"])
}

fn image(kind: &str, name: &str) -> anyhow::Result<String> {
    let object = get(&["-n", NAMESPACE, kind, name])?;
    Ok(object["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned())
}

/// Value of a variable of the operator.
pub(crate) fn variable(name: &str) -> String {
    let object = get(&["-n", NAMESPACE, OPERATOR]).unwrap();
    let env = object["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
    let found = env.iter().find(|variable| variable["name"] == name);
    found.and_then(|variable| variable["value"].as_str()).unwrap_or_default().to_owned()
}

/// The operator as it was, also when the test fails.
pub(crate) struct Operator(Vec<String>);

impl Operator {
    pub(crate) fn remember() -> Self {
        let images = IMAGES.map(|(_, name, _)| format!("{name}={}", variable(name)));
        Self(images.into_iter().chain(["OPERAND_VERSION-".to_owned()]).collect())
    }

    /// Puts an operator in its place that installs `version`, of which only `programs` have an image.
    pub(crate) fn replace(version: &str, programs: &[&str]) {
        let mut set = vec![format!("OPERAND_VERSION={version}")];
        for (program, name, _) in IMAGES {
            let before = variable(name);
            let (repository, _) = before.rsplit_once(':').unwrap();
            let after = format!("{repository}:{version}");
            if programs.contains(&program) {
                cluster::tag(&before, &after).unwrap();
            }
            set.push(format!("{name}={after}"));
        }
        set_variables(&set);
    }
}

pub(crate) fn set_variables(assignments: &[String]) {
    kube(&format!("-n {NAMESPACE} set env {OPERATOR} {}", assignments.join(" "))).unwrap();
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", kube(&format!("-n {NAMESPACE} get metallb metallb -o yaml")).unwrap_or_default());
            println!("{}", kube(&format!("-n {NAMESPACE} get pods -o wide")).unwrap_or_default());
        }
        kube(&format!(
            r#"-n {NAMESPACE} patch metallb metallb --type=merge -p {{"spec":{{"upgradePolicy":null}}}}"#
        ))
        .unwrap();
        set_variables(&self.0);
        kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
        let want = include_str!("../../../config/manager/images.env");
        let want = want.lines().find_map(|line| line.strip_prefix("VERSION=")).unwrap();
        if !std::thread::panicking() {
            runs(want, 150);
            settled();
        }
    }
}

/// Waits until the rollout is over: the last pod has been ready for 10 seconds.
fn settled() {
    eventually("OLM may go on", 30, || {
        let (status, reason, message) = metallb_condition("Upgradeable")?;
        ensure!(status == "True", "{reason}: {message}");
        Ok(())
    });
}

/// Waits until `version` runs everywhere and says so.
pub(crate) fn runs(version: &str, seconds: u64) {
    eventually(&format!("version {version} to run everywhere"), seconds, || {
        let object = metallb()?;
        ensure!(object["status"]["version"] == version, "{}", object["status"]);
        let available = condition(&object, "Available").context("no condition yet")?;
        let degraded = condition(&object, "Degraded").context("no condition yet")?;
        ensure!(available.0 == "True" && degraded.0 == "False", "{available:?} {degraded:?}");
        Ok(())
    });
}

#[test]
fn an_upgrade_moves_no_address_and_resets_no_connection() {
    let scene = Scene::new("upgrade", "[172.22.0.192/30]");
    let operator = Operator::remember();
    apply(&held::echo(scene.name, scene.name)).unwrap();
    kube(&format!("-n {} rollout status deployment/echo --timeout=60s", scene.name)).unwrap();
    let held_address = address(scene.name, "echo").unwrap();
    eventually("a node to announce", 20, || owner(held_address).map(drop));
    let node = owner(held_address).unwrap();
    let held = Held::open(held_address, held::PORT, 200, Duration::from_secs(60)).unwrap();

    Operator::replace("0.2.0", &["controller", "speaker"]);
    let mut steps = Vec::new();
    eventually("version 0.2.0 to run everywhere", 180, || {
        let (controller, speaker) = (image("deployment", "controller")?, image("daemonset", "speaker")?);
        assert!(
            controller.ends_with(":0.2.0") || !speaker.ends_with(":0.2.0"),
            "the speakers go first: {controller}, {speaker}"
        );
        let object = metallb()?;
        let progressing = condition(&object, "Progressing").context("no condition yet")?;
        if steps.last() != Some(&progressing.2) {
            steps.push(progressing.2);
        }
        ensure!(object["status"]["version"] == "0.2.0", "{}", object["status"]);
        Ok(())
    });
    println!("steps: {steps:#?}");
    assert!(steps.iter().any(|step| step.contains("step 4 of 4")), "{steps:?}");
    runs("0.2.0", 30);
    let (answers, broken) = held.close().unwrap();
    println!("{answers} answers over 200 connections during the upgrade; broken: {broken:?}");
    assert!(broken.is_empty(), "{broken:?}");
    assert!(answers > 200, "{answers}");
    assert_eq!(addresses(scene.name, "echo").unwrap(), [held_address]);
    assert_eq!(owner(held_address).unwrap(), node, "the same node announces");
    settled();
    drop(operator);
}

#[test]
#[ignore = "long"]
fn a_version_that_is_to_be_approved_waits_until_it_is() {
    available();
    let operator = Operator::remember();
    let before = image("daemonset", "speaker").unwrap();
    let policy = |policy: &str| {
        kube(&format!(
            "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"upgradePolicy\":{{{policy}}}}}}}"
        ))
        .unwrap();
    };
    policy("\"approval\":\"Manual\"");
    Operator::replace("0.6.0", &["controller", "speaker"]);
    eventually("the version to wait", 60, || {
        let (_, reason, message) = metallb_condition("Progressing")?;
        ensure!(reason == "WaitingForApproval" && message.contains("0.6.0"), "{reason}: {message}");
        Ok(())
    });
    assert_eq!(image("daemonset", "speaker").unwrap(), before);
    assert_eq!(metallb_condition("Upgradeable").unwrap().0, "True");
    policy("\"approvedVersion\":\"0.6.0\"");
    runs("0.6.0", 150);
    drop(operator);
}

#[test]
#[ignore = "long"]
fn an_image_that_is_missing_stops_the_rollout_and_is_taken_back_where_that_is_wanted() {
    available();
    let operator = Operator::remember();
    let before = image("daemonset", "speaker").unwrap();
    let policy = |on_failure: &str| {
        kube(&format!(
            r#"-n {NAMESPACE} patch metallb metallb --type=merge -p {{"spec":{{"upgradePolicy":{{"progressDeadline":"30s","onFailure":"{on_failure}"}}}}}}"#
        ))
        .unwrap();
    };
    let strategy = |want: &str| {
        eventually("the speakers' update strategy", 10, || {
            let speakers = get(&["-n", NAMESPACE, "daemonset", "speaker"])?;
            let strategy = &speakers["spec"]["updateStrategy"]["type"];
            ensure!(strategy == want, "{strategy}");
            Ok(())
        });
    };
    policy("Pause");
    Operator::replace("0.3.0", &["controller"]);
    eventually("the rollout to be stopped", 150, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!((status.as_str(), reason.as_str()) == ("True", "UpgradeStalled"), "{reason}: {message}");
        ensure!(
            message.contains("step 4 of 4, speakers: pod speaker-") && message.contains("mage"),
            "{message}"
        );
        println!("{message}");
        Ok(())
    });
    let pods = get(&["-n", NAMESPACE, "pods", "-l", "app=metallb,component=speaker"]).unwrap();
    let left = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|pod| pod["spec"]["containers"][0]["image"] == before.as_str());
    assert_eq!(left.count(), 2, "one speaker at a time");
    assert_eq!(metallb_condition("Upgradeable").unwrap().0, "False");
    strategy("OnDelete");

    policy("Rollback");
    eventually("the version before it to be put back", 150, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!((status.as_str(), reason.as_str()) == ("True", "UpgradeFailed"), "{reason}: {message}");
        ensure!(metallb_condition("Available")?.0 == "True", "not available yet");
        println!("{message}");
        Ok(())
    });
    strategy("RollingUpdate");
    assert_eq!(image("daemonset", "speaker").unwrap(), before);
    drop(operator);
}
