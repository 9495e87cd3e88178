//! Pods that do not start: Degraded says so, with what the cluster says of them, within five seconds.

use std::time::{Duration, Instant};

use anyhow::ensure;
use metallb_e2e::{
    cluster,
    deploy::NAMESPACE,
    observe::{get, kube},
    options::Undo,
};
use serde_json::Value;

use crate::{
    fixture::{available, eventually},
    ipfailover::metallb_condition,
    upgrade::{Operator, set_variables, variable},
};

/// From the moment at which a pod shows it.
const LIMIT: Duration = Duration::from_secs(5);

/// Waits until Degraded has `reason` and says `text`, and asserts that this is soon after a pod of `component` is first seen
/// to show it.
fn is_told(component: &str, shows: impl Fn(&Value) -> bool, reason: &str, text: &str) {
    let selector = format!("app=metallb,component={component}");
    let (mut shown, mut told) = (None, None);
    eventually(&format!("{reason} to be told"), 120, || {
        let pods = get(&["-n", NAMESPACE, "pods", "-l", &selector])?;
        if pods["items"].as_array().is_some_and(|pods| pods.iter().any(&shows)) {
            shown.get_or_insert_with(Instant::now);
        }
        let degraded = metallb_condition("Degraded")?;
        if degraded.1 == reason && degraded.2.contains(text) {
            told.get_or_insert_with(Instant::now);
        }
        ensure!(told.is_some(), "{degraded:?}");
        ensure!(shown.is_some(), "it was told, and no pod shows it: {pods}");
        Ok(())
    });
    // It may have been told before anybody else looked.
    let took = told.unwrap().saturating_duration_since(shown.unwrap());
    println!("{reason} was told {} ms after a pod showed it", took.as_millis());
    assert!(took < LIMIT, "{reason}: {took:?}");
}

fn waits_for(reasons: &'static [&'static str]) -> impl Fn(&Value) -> bool {
    move |pod| {
        let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        let mut waiting = containers.map(|container| &container["state"]["waiting"]["reason"]);
        waiting.any(|reason| reasons.iter().any(|known| reason == known))
    }
}

/// Has the operator install a controller of this image and version.
fn controller(image: &str, version: &str) {
    set_variables(&[format!("OPERAND_VERSION={version}"), format!("CONTROLLER_IMAGE={image}")]);
}

fn controller_image(version: &str) -> String {
    let before = variable("CONTROLLER_IMAGE");
    let (repository, _) = before.rsplit_once(':').unwrap();
    format!("{repository}:{version}")
}

#[test]
fn an_image_that_cannot_be_pulled_is_told_within_five_seconds() {
    available();
    let operator = Operator::remember();
    let image = controller_image("0.7.0");
    controller(&image, "0.7.0");
    is_told("controller", waits_for(&["ErrImagePull", "ImagePullBackOff"]), "ImagePullFailed", &image);
    assert_eq!(metallb_condition("Available").unwrap().0, "True", "the one before it serves");
    drop(operator);
}

#[test]
fn a_program_that_ends_again_and_again_is_told_within_five_seconds() {
    available();
    let operator = Operator::remember();
    let image = controller_image("0.7.1");
    // A program that makes nothing of the controller's arguments.
    cluster::tag(&variable("SPEAKER_IMAGE"), &image).unwrap();
    controller(&image, "0.7.1");
    is_told("controller", waits_for(&["CrashLoopBackOff"]), "CrashLooping", "exit code");
    assert_eq!(metallb_condition("Available").unwrap().0, "True", "the one before it serves");
    drop(operator);
}

#[test]
fn a_speaker_that_no_node_takes_is_told_within_five_seconds() {
    available();
    let resources = |resources: &str| {
        let spec = format!("{{\"spec\":{{\"speakerConfig\":{{\"resources\":{resources}}}}}}}");
        kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {spec}"))
    };
    // Also when the test fails: the others share the resource.
    let unset = Undo(move || drop(resources("null")));
    resources("{\"requests\":{\"cpu\":\"1k\"}}").unwrap();
    let shows = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| condition["reason"] == "Unschedulable")
    };
    is_told("speaker", shows, "PodUnschedulable", "Insufficient cpu");
    drop(unset);
    eventually("the speakers to be well again", 120, || {
        for (kind, want) in [("Available", "True"), ("Degraded", "False"), ("Progressing", "False")] {
            let found = metallb_condition(kind)?;
            ensure!(found.0 == want, "{kind}: {found:?}");
        }
        Ok(())
    });
}
