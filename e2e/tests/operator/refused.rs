//! Pods that the API server refuses.

use std::time::Instant;

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    observe::{get, kube},
};

use crate::{
    fixture::{available, eventually},
    ipfailover::metallb_condition,
};

fn enforce(level: &str) {
    kube(&format!("label namespace {NAMESPACE} pod-security.kubernetes.io/enforce={level} --overwrite"))
        .unwrap();
}

#[test]
fn a_speaker_that_pod_security_refuses_is_named_at_once_and_comes_back_when_it_may() {
    available();
    enforce("baseline");
    let pods = get(&["-n", NAMESPACE, "pods", "-l", "app=metallb,component=speaker"]).unwrap();
    let pod = pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    kube(&format!("-n {NAMESPACE} delete pod {pod}")).unwrap();
    let gone = Instant::now();
    eventually("the refusal to be told", 5, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("True", "PodRefused")
                && message.contains("DaemonSet speaker: ")
                && message.contains("violates PodSecurity \"baseline"),
            "{status} {reason} {message}"
        );
        println!("told after {} ms: {message}", gone.elapsed().as_millis());
        Ok(())
    });
    assert_eq!(metallb_condition("Compatible").unwrap().0, "False");
    enforce("privileged");
    eventually("the speaker to come back", 90, || {
        for (kind, want) in [("Available", "True"), ("Degraded", "False"), ("Compatible", "True")] {
            let found = metallb_condition(kind)?;
            ensure!(found.0 == want, "{kind}: {found:?}");
        }
        Ok(())
    });
}

#[test]
fn a_priority_class_that_is_missing_is_named_and_the_other_speakers_stay() {
    available();
    let class = |name: &str| {
        kube(&format!(
            "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"speakerConfig\":{{\"priorityClassName\":{name}}}}}}}"
        ))
        .unwrap();
    };
    class("\"not-there\"");
    eventually("the missing class to be told", 20, || {
        let (status, reason, message) = metallb_condition("Degraded")?;
        ensure!(
            (status.as_str(), reason.as_str()) == ("True", "PodRefused")
                && message.contains("no PriorityClass with name not-there was found"),
            "{status} {reason} {message}"
        );
        Ok(())
    });
    let daemon_set = get(&["-n", NAMESPACE, "daemonset", "speaker"]).unwrap();
    let status = &daemon_set["status"];
    let (wanted, ready) = (status["desiredNumberScheduled"].as_i64(), status["numberReady"].as_i64());
    assert_eq!(ready, wanted.map(|wanted| wanted - 1), "{status}");
    class("null");
    eventually("the speaker to come back", 90, || {
        for (kind, want) in [("Available", "True"), ("Degraded", "False"), ("Progressing", "False")] {
            let found = metallb_condition(kind)?;
            ensure!(found.0 == want, "{kind}: {found:?}");
        }
        Ok(())
    });
}
