//! New versions.

use super::*;
use crate::render::MANAGED_BY;

fn images(number: u8) -> (String, String) {
    (format!("controller:{number}"), format!("speaker:{number}"))
}

#[test]
fn a_new_version_reaches_the_speakers_once_the_controller_is_healthy() {
    let mut bench = Bench::upgraded("{}");
    let first = bench.changes();
    assert_eq!(first.concat().iter().filter(|change| change.contains("speaker")).count(), 0, "{first:?}");
    bench.settle();
    assert_eq!(bench.images(), ("controller:2".to_owned(), "speaker:1".to_owned()));
    let progressing = bench.of_metallb("Progressing");
    assert_eq!(progressing.1, "RollingOut");
    assert_eq!(progressing.2, "version 2, step 3 of 4, controller: controller: 0 of 1 ready");
    assert_eq!(bench.of_metallb("Upgradeable").0, "False");
    assert_eq!(bench.live(Kind::MetalLb, "metallb")["status"]["version"], Value::Null);

    bench.run_controller();
    bench.settle();
    assert_eq!(bench.images(), images(2));
    assert!(bench.of_metallb("Progressing").2.starts_with("version 2, step 4 of 4, speakers"));
    bench.run();
    bench.settle();
    bench.assert_idle();
    assert_eq!(bench.of_metallb("Progressing").0, "False");
    assert_eq!(bench.of_metallb("Upgradeable").0, "True");
    let status = &bench.live(Kind::MetalLb, "metallb")["status"];
    assert_eq!(status["version"], "2");
    assert_eq!(
        status["components"][1],
        json!({"name": "speaker", "image": "speaker:2", "version": "2", "wanted": 1, "ready": 1})
    );
    assert_eq!(bench.live(Kind::ConfigMap, "metallb-last-good")["data"]["version"], "2");
}

#[test]
fn while_a_rollout_waits_what_is_changed_by_hand_or_missing_is_repaired_all_the_same() {
    let mut bench = Bench::upgraded("{}");
    bench.settle();
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    assert_eq!(bench.changes(), [["apply DaemonSet speaker"]], "missing: made at once");

    let mut bench = Bench::upgraded("{upgradePolicy: {approval: Manual}}");
    bench.edit(Kind::DaemonSet, "speaker", |object| {
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("mine");
    });
    bench.settle();
    assert_eq!(bench.images(), images(1), "the version before it, as it was");
}

#[test]
fn a_rollout_that_makes_no_progress_stops_and_names_its_cause() {
    let mut bench = Bench::upgraded("{upgradePolicy: {progressDeadline: 5m}}");
    bench.settle();
    assert_eq!(bench.plan().wake, Some("2030-01-01T00:05:00Z".parse().unwrap()));
    bench.now = "2030-01-01T00:05:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.images(), ("controller:2".to_owned(), "speaker:1".to_owned()));
    let (status, reason, message) = bench.degraded();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "UpgradeStalled"));
    assert_eq!(
        message,
        "the rollout of version 2 stopped at step 3 of 4, controller: 0 of 1 pods are ready; it goes on when the spec or \
         the operator changes, or with annotation metallb.io/resume: \"2\" on this resource"
    );
}

/// A rollout of version 2 that has stopped at the speakers, of which the one cannot begin.
fn stopped_at_the_speakers(spec: &str) -> Bench {
    let mut bench = Bench::upgraded(spec);
    bench.settle();
    bench.run_controller();
    bench.settle();
    assert_eq!(bench.images(), images(2));
    rolls(&mut bench, 0);
    bench.now = "2030-01-01T00:05:00Z".parse().unwrap();
    let wake = bench.plan().wake.unwrap();
    assert!(wake <= bench.now + Duration::from_secs(1), "the plan that holds the speakers is made at {wake}");
    bench.settle();
    assert_eq!(bench.degraded().1, "UpgradeStalled");
    bench
}

/// Of two nodes, the speaker of one is still to be replaced, and as many others as said are ready.
fn rolls(bench: &mut Bench, ready: u8) {
    bench.edit(Kind::DaemonSet, "speaker", |object| {
        object["metadata"]["generation"] = json!(2);
        object["status"] = json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0,
            "observedGeneration": 2, "updatedNumberScheduled": 1, "numberReady": 1 + ready, "numberAvailable": 1 + ready});
        object["metadata"]["annotations"]["deprecated.daemonset.template.generation"] = json!("2");
    });
    for (number, generation) in [("1", "1"), ("2", "2")] {
        let name = format!("node{number}");
        bench.version += 1;
        let version = bench.version.to_string();
        bench.world.take(node(
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": version},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}], "images": [{"names": ["speaker:1",
                              "controller:1", "speaker:2", "controller:2"]}]}}),
        ));
        let is_ready = if number == "1" || ready == 1 { "True" } else { "False" };
        let pod = json!({"metadata": {"name": format!("speaker-{number}"), "resourceVersion": version, "labels":
                         {"app": "metallb", "component": "speaker", "pod-template-generation": generation}},
                         "spec": {"nodeName": name, "containers": []},
                         "status": {"conditions": [{"type": "Ready", "status": is_ready}]}});
        bench.world.take(world::Change::Pod(Box::new(Event::Apply(serde_json::from_value(pod).unwrap()))));
    }
}

fn strategy(bench: &Bench) -> Value {
    bench.live(Kind::DaemonSet, "speaker")["spec"]["updateStrategy"]["type"].clone()
}

#[test]
fn a_rollout_that_has_stopped_goes_on_when_it_is_told_to_and_not_when_the_cause_is_gone() {
    let spec = "{upgradePolicy: {progressDeadline: 5m}}";
    let mut bench = stopped_at_the_speakers(spec);
    assert_eq!(strategy(&bench), "OnDelete", "Kubernetes replaces no other speaker");
    rolls(&mut bench, 1);
    bench.settle();
    assert_eq!((strategy(&bench), bench.degraded().1.as_str()), (json!("OnDelete"), "UpgradeStalled"));
    let (_, _, message) = bench.degraded();
    assert!(message.contains("stopped at step 4 of 4, speakers: "), "{message}");
    bench.began = bench.now;
    bench.assert_idle();

    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/resume": "1"});
    });
    bench.settle();
    assert_eq!(strategy(&bench), "OnDelete", "that is of another version");
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/resume": "2"});
    });
    bench.settle();
    assert_eq!((strategy(&bench), bench.degraded().0.as_str()), (json!("RollingUpdate"), "False"));

    let mut bench = stopped_at_the_speakers(spec);
    rolls(&mut bench, 1);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["generation"] = json!(2));
    bench.settle();
    assert_eq!(
        (strategy(&bench), bench.degraded().0.as_str()),
        (json!("RollingUpdate"), "False"),
        "another spec"
    );
}

#[test]
fn a_controller_that_recovers_lets_no_speaker_go_once_the_rollout_has_stopped() {
    let mut bench = Bench::upgraded("{upgradePolicy: {progressDeadline: 5m}}");
    bench.settle();
    bench.now = "2030-01-01T00:05:00Z".parse().unwrap();
    bench.settle();
    bench.run_controller();
    bench.settle();
    assert_eq!(bench.images(), ("controller:2".to_owned(), "speaker:1".to_owned()));
    assert_eq!(bench.degraded().1, "UpgradeStalled");
}

#[test]
fn the_next_version_has_its_time_although_the_one_before_it_has_stopped() {
    let mut bench = Bench::upgraded("{upgradePolicy: {progressDeadline: 5m}}");
    bench.settle();
    bench.now = "2030-01-01T00:05:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.degraded().1, "UpgradeStalled");
    bench.settings.version = "3".to_owned();
    bench.settings.controller_image = "controller:3".to_owned();
    bench.began = bench.now;
    bench.settle();
    assert_eq!(bench.degraded().0, "False", "{}", bench.degraded().2);
    assert_eq!(bench.image(Kind::Deployment, "controller"), "controller:3");
}

#[test]
fn a_version_after_one_that_stopped_at_the_speakers_stalls_at_its_controller_too() {
    let mut bench = stopped_at_the_speakers("{upgradePolicy: {progressDeadline: 5m}}");
    bench.settings.version = "3".to_owned();
    bench.settings.controller_image = "controller:3".to_owned();
    bench.settings.speaker_image = "speaker:3".to_owned();
    bench.began = bench.now;
    bench.settle();
    assert_eq!(bench.images(), ("controller:3".to_owned(), "speaker:2".to_owned()));
    assert_eq!(bench.degraded().0, "False", "{}", bench.degraded().2);
    bench.now = "2030-01-01T00:10:00Z".parse().unwrap();
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "UpgradeStalled");
    assert!(message.contains("version 3 stopped at step 3 of 4, controller"), "{message}");
    assert_eq!(strategy(&bench), "OnDelete", "no speaker of version 2 goes on either");
}

#[test]
fn half_a_picture_makes_nobody_forget_that_a_rollout_has_stopped() {
    let mut bench = stopped_at_the_speakers("{upgradePolicy: {progressDeadline: 5m}}");
    let told = bench.of_metallb("Upgradeable");
    let live = bench.live(Kind::MetalLb, "metallb");
    bench.world = world::World::default();
    bench.put(Kind::MetalLb, live);
    let text = "cannot watch ConfigMap: forbidden".to_owned();
    bench.world.take(world::Change::Refused(world::Source::Objects(Kind::ConfigMap), text));
    bench.settle();
    assert_eq!(bench.of_metallb("Upgradeable"), told);
    assert!(bench.plan().summary.unwrap().upgradeable.is_none_or(|report| !report.status));
}

#[test]
fn a_deadline_is_never_so_short_that_a_healthy_rollout_misses_it() {
    let mut bench = Bench::upgraded("{upgradePolicy: {progressDeadline: 5s}}");
    bench.settle();
    assert_eq!(bench.plan().wake, Some("2030-01-01T00:00:30Z".parse().unwrap()));
}

#[test]
fn a_stall_of_the_controller_holds_no_speakers_that_do_not_change() {
    let mut bench = Bench::upgraded("{}");
    for _ in 0..2 {
        bench.settle();
        bench.run();
    }
    bench.settle();
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["generation"] = json!(2);
        object["spec"]["controllerConfig"] = json!({"resources": {"requests": {"cpu": "1000"}}});
    });
    bench.settle();
    bench.now = "2030-01-01T00:20:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.degraded().1, "UpgradeStalled");
    assert_eq!(strategy(&bench), "RollingUpdate");
}

#[test]
fn a_version_is_the_last_good_one_after_it_has_worked_for_a_minute() {
    let known = |bench: &Bench| bench.live(Kind::ConfigMap, "metallb-last-good")["data"]["version"].clone();
    let mut bench = Bench::upgraded("{}");
    bench.works_for = Duration::ZERO;
    for _ in 0..2 {
        bench.settle();
        bench.run();
    }
    bench.settle();
    assert_eq!(bench.images(), images(2));
    assert_eq!(bench.of_metallb("Upgradeable").0, "True");
    assert_eq!(known(&bench), env!("CARGO_PKG_VERSION"));
    assert_eq!(bench.plan().wake, Some("2030-01-01T00:01:00Z".parse().unwrap()));
    assert!(bench.plan().summary.unwrap().works);
    bench.works_for = Duration::from_secs(60);
    bench.settle();
    assert_eq!(known(&bench), "2");
}

#[test]
fn what_is_missing_in_the_middle_of_a_rollout_is_told_and_turns_nothing_back() {
    let mut bench = Bench::upgraded("{}");
    bench.settle();
    assert_eq!(bench.images(), ("controller:2".to_owned(), "speaker:1".to_owned()));
    bench.missing = Some(Found { missing: vec!["no rule".to_owned()], ..Found::default() });
    bench.settle();
    assert_eq!(bench.images(), ("controller:2".to_owned(), "speaker:1".to_owned()));
    assert_eq!(bench.degraded().1, "RequirementsMissing");
}

#[test]
fn what_only_the_version_before_has_stays_until_its_speakers_are_gone() {
    let mut bench = Bench::upgraded("{}");
    let older = key(Kind::ConfigMap, "older");
    let record = bench.live(Kind::ConfigMap, "metallb-last-good");
    let object: kube::core::DynamicObject = serde_json::from_value(record).unwrap();
    let mut known = crate::last_good::LastGood::read(&object, "uid-metallb").unwrap();
    let mut all: Vec<_> = known.set.iter().cloned().collect();
    let owner = json!({"apiVersion": "metallb.io/v1beta1", "kind": "MetalLB", "name": "metallb", "uid": "uid-metallb",
                       "controller": true, "blockOwnerDeletion": true});
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {}, "metadata": {"name": "older", "namespace":
                     NAMESPACE, "labels": {MANAGED_BY.0: MANAGED_BY.1}, "ownerReferences": [owner]}});
    all.push((older.clone(), map.clone()));
    known.set = crate::last_good::Set::new(all);
    let (_, record) = known.config_map(NAMESPACE, &owner);
    bench.put(Kind::ConfigMap, stored(&record, "Apply", bench.now));
    bench.put(Kind::ConfigMap, stored(&map, "Apply", bench.now));
    bench.settle();
    assert_eq!(bench.image(Kind::DaemonSet, "speaker"), "speaker:1");
    assert!(bench.world.object(&older).is_some(), "a speaker that restarts reads it");
    bench.run_controller();
    bench.settle();
    assert!(bench.world.object(&older).is_some());
    bench.run();
    bench.settle();
    assert_eq!(bench.images(), images(2));
    assert!(bench.world.object(&older).is_none());
}

#[test]
fn what_only_the_version_that_failed_has_stays_until_the_way_back_is_at_its_end() {
    let mut bench = Bench::upgraded("{upgradePolicy: {onFailure: Rollback}}");
    let record = bench.live(Kind::ConfigMap, "metallb-last-good");
    let object: kube::core::DynamicObject = serde_json::from_value(record.clone()).unwrap();
    let mut known = crate::last_good::LastGood::read(&object, "uid-metallb").unwrap();
    let all = known.set.iter().filter(|(key, _)| key.kind != Kind::NetworkPolicy).cloned().collect();
    known.set = crate::last_good::Set::new(all);
    let (_, record) = known.config_map(NAMESPACE, &record["metadata"]["ownerReferences"][0]);
    bench.put(Kind::ConfigMap, stored(&record, "Apply", bench.now));
    bench.settle();
    bench.now = "2030-01-01T00:10:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.images(), images(1));
    let policies = |bench: &Bench| bench.world.objects(Kind::NetworkPolicy).count();
    assert!(policies(&bench) > 0, "its pods are still there");
    bench.run();
    bench.settle();
    assert_eq!((bench.degraded().1.as_str(), policies(&bench)), ("UpgradeFailed", 0));
}

#[test]
fn the_way_back_is_judged_too_and_waits_for_no_lost_node() {
    let mut bench = Bench::upgraded("{upgradePolicy: {onFailure: Rollback}}");
    bench.settle();
    bench.run_controller();
    bench.settle();
    rolls(&mut bench, 0);
    bench.now = "2030-01-01T00:10:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.images(), images(1));
    let lost = json!({"metadata": {"name": "node1", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": "9999"},
                      "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    bench.world.take(node(lost));
    bench.settle();
    let allowed = |bench: &Bench| {
        let set = bench.live(Kind::DaemonSet, "speaker");
        set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].clone()
    };
    assert_eq!(allowed(&bench), 2, "one more for the lost one");
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "UpgradeFailed");
    assert!(message.contains("is being put back as it was; it is tried again"), "{message}");
    let (status, _, progress) = bench.of_metallb("Progressing");
    assert_eq!(status, "True");
    assert!(progress.contains(" is put back, step "), "{progress}");
    bench.now = "2030-01-01T00:30:00Z".parse().unwrap();
    bench.settle();
    let (_, _, message) = bench.degraded();
    assert!(message.contains("is being put back as it was, which makes no progress: "), "{message}");
}

#[test]
fn a_rollout_that_has_stopped_has_stopped_for_the_next_operator_too() {
    let mut bench = Bench::upgraded("{upgradePolicy: {progressDeadline: 5m}}");
    bench.settle();
    bench.now = "2030-01-01T00:05:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.degraded().1, "UpgradeStalled");
    bench.began = bench.now;
    bench.assert_idle();
    // A new spec has its time.
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["generation"] = json!(2));
    bench.settle();
    assert_eq!(bench.degraded().0, "False", "{}", bench.degraded().2);
}

#[test]
fn a_rollout_that_makes_no_progress_is_taken_back_and_not_tried_again() {
    let mut bench = Bench::upgraded("{upgradePolicy: {onFailure: Rollback}}");
    bench.settle();
    bench.now = "2030-01-01T00:10:00Z".parse().unwrap();
    assert_eq!(bench.changes(), [["repair ConfigMap metallb-last-good: data.failedDigest"]], "noted first");
    bench.settle();
    bench.run();
    bench.settle();
    bench.assert_idle();
    assert_eq!(bench.images(), images(1));
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "UpgradeFailed");
    assert!(message.ends_with("It failed of: 0 of 1 pods are ready"), "{message}");
    assert_eq!(bench.of_metallb("Upgradeable").1, "UpgradeFailed");
    assert_eq!(
        bench.live(Kind::MetalLb, "metallb")["status"]["version"],
        bench.live(Kind::ConfigMap, "metallb-last-good")["data"]["version"]
    );

    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["generation"] = json!(2));
    bench.settle();
    assert_eq!(
        bench.image(Kind::Deployment, "controller"),
        "controller:2",
        "tried again once the spec changed"
    );
}

#[test]
fn a_version_whose_images_are_gone_is_not_put_back_and_it_is_told_why() {
    let has = |bench: &mut Bench, version: &str, images: Value| {
        bench.world.take(node(
            json!({"metadata": {"name": "node1", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": version},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}], "images": [{"names": images}]}}),
        ));
    };
    let mut bench = Bench::upgraded("{upgradePolicy: {onFailure: Rollback}}");
    has(&mut bench, "2", json!(["controller:2"]));
    bench.settle();
    bench.now = "2030-01-01T00:10:00Z".parse().unwrap();
    bench.settle();
    assert_eq!(bench.images(), ("controller:2".to_owned(), "speaker:1".to_owned()), "it stays where it is");
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "UpgradeStalled");
    let why = "is not put back, because no node has controller:1";
    assert!(message.contains(why) && message.contains("node1 lacks speaker:1"), "{message}");

    // They are there again, and so the version is.
    has(&mut bench, "3", json!(["controller:1", "controller:2", "speaker:1"]));
    bench.settle();
    assert_eq!(bench.images(), images(1));
    assert_eq!(bench.degraded().1, "UpgradeFailed");
}

#[test]
fn olm_is_told_that_a_newer_operator_may_come_except_during_a_rollout() {
    let told = |bench: &Bench| {
        let upgradeable = bench.plan().summary.and_then(|summary| summary.upgradeable);
        upgradeable.map(|report| (report.status, report.reason))
    };
    let mut bench = Bench::upgraded("{}");
    bench.settle();
    assert_eq!(told(&bench), Some((false, "RollingOut")));
    bench.run_controller();
    bench.settle();
    bench.run();
    bench.settle();
    assert_eq!(told(&bench), Some((true, "Upgradeable")));
    bench.settings.controller_image = "controller:3".to_owned();
    bench.settle();
    assert_eq!(told(&bench), Some((false, "RollingOut")));
    bench.delete(&key(Kind::MetalLb, "metallb"));
    assert_eq!(told(&bench), Some((true, "Upgradeable")), "nothing is installed any more");
    assert_eq!(told(&Bench::unseen()), None, "nothing is known yet");
}

#[test]
fn an_installation_that_has_never_worked_is_healed_whatever_it_lacks() {
    let lacks = |bench: &mut Bench| {
        bench.missing = Some(Found { missing: vec!["no rule".to_owned()], ..Found::default() });
    };
    let mut bench = Bench::installed();
    lacks(&mut bench);
    bench.settle();
    assert_eq!(bench.degraded().1, "RequirementsMissing");
    bench.delete(&key(Kind::ConfigMap, "metallb-excludel2"));
    assert_eq!(bench.changes(), [["apply ConfigMap metallb-excludel2"]]);
    bench.settle();
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"] = json!({"logLevel": "debug"});
        object["metadata"]["generation"] = json!(2);
    });
    bench.settle();
    let arguments = |bench: &Bench| {
        let live = bench.live(Kind::Deployment, "controller");
        live["spec"]["template"]["spec"]["containers"][0]["args"].to_string()
    };
    assert!(arguments(&bench).contains("--log-level=debug"), "{}", arguments(&bench));

    // Of another version than this operator's, it is kept as it is.
    let mut bench = Bench::installed();
    lacks(&mut bench);
    bench.settings.version = "2".to_owned();
    bench.settings.controller_image = "controller:2".to_owned();
    bench.settle();
    assert_eq!(bench.image(Kind::Deployment, "controller"), "controller:1");
}

#[test]
fn a_kind_of_monitors_that_appears_or_goes_is_no_reason_to_try_a_failed_version_again() {
    let mut bench = Bench::new();
    for kind in [Kind::ServiceMonitor, Kind::PodMonitor, Kind::PrometheusRule] {
        bench.world.take(world::Change::Absent(world::Source::Objects(kind)));
    }
    bench.put(
        Kind::MetalLb,
        metallb("{monitoring: {monitors: ServiceMonitor}, upgradePolicy: {onFailure: Rollback}}"),
    );
    bench.settle();
    bench.run();
    bench.settle();
    bench.settings.version = "2".to_owned();
    bench.settings.controller_image = "controller:2".to_owned();
    bench.settle();
    bench.now = "2030-01-01T00:10:00Z".parse().unwrap();
    bench.settle();
    bench.run();
    bench.settle();
    assert_eq!(bench.degraded().1, "UpgradeFailed");
    for event in [Event::Init, Event::InitDone] {
        bench.world.take(world::Change::Object(Kind::ServiceMonitor, Box::new(event)));
    }
    bench.settle();
    assert_eq!(bench.image(Kind::Deployment, "controller"), "controller:1");
    assert_eq!(bench.degraded().1, "UpgradeFailed");
}

#[test]
fn the_token_of_the_metrics_comes_and_goes_with_the_monitors() {
    let mut bench = Bench::new();
    bench.world.take(world::Change::Absent(world::Source::Objects(Kind::PodMonitor)));
    bench.put(Kind::MetalLb, metallb("{monitoring: {monitors: PodMonitor}}"));
    bench.settle();
    let token = key(Kind::MetricsToken, "metallb-metrics-token");
    assert!(bench.world.object(&token).is_none(), "nobody would read it");
    for event in [Event::Init, Event::InitDone] {
        bench.world.take(world::Change::Object(Kind::PodMonitor, Box::new(event)));
    }
    bench.settle();
    let live = bench.live(Kind::MetricsToken, "metallb-metrics-token");
    let annotations = &live["metadata"]["annotations"];
    assert_eq!(
        (&live["type"], &annotations["kubernetes.io/service-account.name"]),
        (&json!("kubernetes.io/service-account-token"), &json!("metrics-reader"))
    );
    let monitor = key(Kind::PodMonitor, "speaker");
    assert!(bench.world.object(&monitor).is_none(), "the Prometheus Operator would drop it");
    // Kubernetes fills it in.
    bench.edit(Kind::MetricsToken, "metallb-metrics-token", |object| {
        object["data"] = json!({"token": "YWJj"});
    });
    bench.settle();
    assert!(bench.world.object(&monitor).is_some());
    bench.assert_idle();
    bench.delete(&token);
    assert_eq!(bench.changes(), [["apply Secret metallb-metrics-token"]], "monitors that are there stay");
    bench.settle();
    bench.edit(Kind::MetalLb, "metallb", |object| object["spec"]["monitoring"] = json!({"monitors": "None"}));
    bench.settle();
    assert!(bench.world.object(&token).is_none(), "no monitor names it any more");
    bench.assert_idle();
}

#[test]
fn a_version_waits_for_approval_and_for_what_it_needs() {
    let mut bench = Bench::upgraded("{upgradePolicy: {approval: Manual}}");
    bench.settle();
    bench.assert_idle();
    assert_eq!(bench.images(), images(1));
    assert_eq!(bench.of_metallb("Progressing").1, "WaitingForApproval");
    assert_eq!(bench.of_metallb("Upgradeable").0, "True");
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"]["upgradePolicy"]["approvedVersion"] = json!("2");
    });
    let missing = vec!["ServiceAccount speaker may not list nodes".to_owned()];
    bench.missing = Some(Found { missing, ..Found::default() });
    bench.settle();
    assert_eq!(bench.images(), images(1));
    let (_, reason, message) = bench.degraded();
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("RequirementsMissing", "ServiceAccount speaker may not list nodes")
    );
    bench.missing = Some(Found::default());
    bench.settle();
    assert_eq!(bench.image(Kind::Deployment, "controller"), "controller:2");
}
