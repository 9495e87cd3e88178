//! Versions that expire, writes that meet those of others, answers that are lost, specs that make no sense, ends, and many
//! objects of others.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::{
    ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams},
};
use metallb_e2e::plane::{
    NAMESPACE,
    objects::{api, create, fill},
    proxy::Faults,
};
use serde_json::json;

use crate::{
    fixture::{METALLB, Scene, condition, start, until, whole},
    heal::{against, backs_off},
};

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_expire_lose_no_change() -> Result<()> {
    let mut scene = Scene::installed().await?;
    for round in 0..5 {
        scene.proxy.expire_watches();
        scene.pool(round).await?;
        scene.repaired("apps/v1", "DaemonSet", "speaker").await?;
        scene.repaired("v1", "ConfigMap", "metallb-excludel2").await?;
        scene.serves(round..round + 1).await?;
        let look = async || Ok::<_, anyhow::Error>(scene.proxy.unexpired());
        until(look, std::collections::BTreeSet::is_empty).await?;
    }
    scene.is_at_rest().await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_lost_answers_cost_no_object() -> Result<()> {
    let mut scene = Scene::new().await?;
    scene.proxy.break_with(Faults { conflict_every: Some(2), ..Faults::default() });
    create(&scene.client, METALLB, "MetalLB", NAMESPACE, json!({"metadata": {"name": "metallb"}})).await?;
    for number in 0..10 {
        scene.pool(number).await?;
    }
    scene.serves(0..10).await?;
    scene.find("apps/v1", "DaemonSet", "speaker", |_| true).await?;

    scene.proxy.break_with(Faults { lose_answer_every: Some(3), ..Faults::default() });
    for kind in ["IPAddressPool", "L2Advertisement"] {
        let all = api(&scene.client, METALLB, kind, NAMESPACE);
        all.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    }
    scene.serves(0..10).await?;
    scene.merge("MetalLB", "metallb", &json!({"spec": {"logLevel": "debug"}})).await?;
    // The speakers come after it, once it is healthy; here nothing runs it.
    scene
        .find("apps/v1", "Deployment", "controller", |object| {
            object.data["spec"]["template"]["spec"]["containers"][0]["args"]
                .to_string()
                .contains("--log-level=debug")
        })
        .await?;

    scene.proxy.break_with(Faults::default());
    let told = |object: &DynamicObject| {
        condition(object, "Degraded") == Some(("False".to_owned(), object.metadata.generation))
    };
    scene.find(METALLB, "MetalLB", "metallb", told).await?;
    scene.is_at_rest().await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_who_writes_the_same_objects_all_the_time_takes_no_truth_away() -> Result<()> {
    let mut scene = Scene::installed().await?;
    scene.pool(1).await?;
    scene.serves(1..2).await?;
    let secret = async || api(&scene.client, "v1", "Secret", NAMESPACE).get("metallb-memberlist").await;
    let key = secret().await?.data["data"]["secretkey"].clone();
    let busy = async {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for turn in 0_usize.. {
            pace.tick().await;
            let note = json!({"metadata": {"annotations": {"example.com/turn": turn.to_string()}}});
            let (kind, name) =
                [("MetalLB", "metallb"), ("AddressPool", "p1"), ("IPAddressPool", "p1")][turn % 3];
            scene.merge(kind, name, &note).await?;
        }
        anyhow::Ok(())
    };
    let work = async {
        for level in ["debug", "warn", "error", "info"] {
            scene.merge("MetalLB", "metallb", &json!({"spec": {"logLevel": level}})).await?;
            let told = |object: &DynamicObject| {
                condition(object, "Degraded") == Some(("False".to_owned(), object.metadata.generation))
            };
            scene.find(METALLB, "MetalLB", "metallb", told).await?;
            scene.repaired("apps/v1", "Deployment", "controller").await?;
        }
        scene.serves(1..2).await
    };
    tokio::select! { result = work => result, result = busy => result }?;
    assert_eq!(secret().await?.data["data"]["secretkey"], key);
    scene.is_at_rest().await?;
    scene.stop().await
}

/// No admission stands before this API server: what it would refuse reaches the operator, as it does from an object that
/// is older than the webhook.
#[tokio::test(flavor = "multi_thread")]
async fn a_spec_with_problems_is_told_once_and_changes_nothing_until_it_is_right() -> Result<()> {
    let mut scene = Scene::installed().await?;
    scene.is_at_rest().await?;
    let daemon_set = async || scene.find("apps/v1", "DaemonSet", "speaker", |_| true).await;
    let before = daemon_set().await?.resource_version();
    let bad = json!({"speakerConfig": {"runtimeClassName": "x\nhostPID: true"}, "bgpBackend": "bird",
                     "controllerConfig": {"priorityClassName": "true\n"}});
    scene.merge("MetalLB", "metallb", &json!({"spec": bad})).await?;
    let told = |object: &DynamicObject| {
        let degraded = whole(object, "Degraded");
        degraded["reason"] == "InvalidSpec"
            && degraded["observedGeneration"] == json!(object.metadata.generation)
    };
    let object = scene.find(METALLB, "MetalLB", "metallb", told).await?;
    let first = whole(&object, "Degraded");
    let message = first["message"].as_str().unwrap_or_default();
    for field in
        ["spec.speakerConfig.runtimeClassName", "spec.bgpBackend", "spec.controllerConfig.priorityClassName"]
    {
        ensure!(message.contains(field), "{field} is not named: {message}");
    }
    scene.is_at_rest().await?;

    // Another edit that leaves the problems: the transition is as old as before.
    scene.merge("MetalLB", "metallb", &json!({"spec": {"logLevel": "debug"}})).await?;
    let object = scene.find(METALLB, "MetalLB", "metallb", told).await?;
    let again = whole(&object, "Degraded");
    assert_eq!(
        (&again["lastTransitionTime"], &again["message"]),
        (&first["lastTransitionTime"], &first["message"])
    );
    assert_eq!(daemon_set().await?.resource_version(), before, "nothing was changed");
    let events =
        api(&scene.client, "events.k8s.io/v1", "Event", NAMESPACE).list(&ListParams::default()).await?;
    let told: Vec<_> = events.iter().filter(|event| event.data["reason"] == "InvalidSpec").collect();
    assert_eq!(told.len(), 1, "{told:?}");

    let right = json!({"speakerConfig": null, "bgpBackend": null, "controllerConfig": null});
    scene.merge("MetalLB", "metallb", &json!({"spec": right})).await?;
    let carried_out = |object: &DynamicObject| {
        object.data["spec"]["template"]["spec"]["containers"][0]["args"]
            .to_string()
            .contains("--log-level=debug")
    };
    // The speakers would follow once it is healthy, which nothing here makes it.
    scene.find("apps/v1", "Deployment", "controller", carried_out).await?;
    let well = |object: &DynamicObject| {
        condition(object, "Degraded") == Some(("False".to_owned(), object.metadata.generation))
    };
    scene.find(METALLB, "MetalLB", "metallb", well).await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_another_writes_again_and_again_is_told_with_its_writer_and_written_ever_less()
-> Result<()> {
    let mut scene = Scene::installed().await?;
    scene.is_at_rest().await?;
    let image =
        |object: &DynamicObject| object.data["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let patch = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"template": {"spec": {
        "containers": [{"name": "speaker", "image": "rival:1"}]}}}});
    let texts = ["DaemonSet metallb-system/speaker", "containers[name=speaker].image", "set by rival"];
    let of = ("apps/v1", "DaemonSet", NAMESPACE, "speaker");
    let is_right = |object: &DynamicObject| image(object) != "rival:1";
    against(&scene, of, is_right, &patch, backs_off(&scene, &texts, "patch daemonsets")).await?;
    scene.find("apps/v1", "DaemonSet", "speaker", |object| image(object) == "speaker:1").await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_operator_acts_within_two_seconds_of_an_end_and_fifteen_of_a_crash() -> Result<()> {
    let mut scene = Scene::installed().await?;
    scene.is_at_rest().await?;
    let first = scene.succeed("second").await?;
    first.stop().await?;
    scene.acts_within(Duration::from_secs(2), "the leader ended").await?;
    let second = scene.succeed("third").await?;
    second.kill()?;
    scene.acts_within(Duration::from_secs(15), "the leader was killed").await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_workloads_of_others_cost_little_memory_and_no_write() -> Result<()> {
    let mut scene = Scene::installed().await?;
    scene.is_at_rest().await?;
    let alone = scene.subject.as_ref().context("no operator runs")?.usage()?.rss;
    scene.stop().await?;
    fill(&scene.client, 5000, 2000, 0).await?;
    let subject = start(&scene.plane, &scene.plane.subject_config())?;
    let (_, from) = scene.plane.requests(0);
    let renewed = async || {
        let (requests, _) = scene.plane.requests(from);
        Ok::<BTreeMap<String, usize>, anyhow::Error>(requests)
    };
    let requests =
        until(renewed, |requests| requests.get("update leases").is_some_and(|count| *count >= 3)).await?;
    let writes: Vec<_> = requests
        .keys()
        .filter(|what| ["create ", "update ", "patch ", "delete "].iter().any(|verb| what.starts_with(verb)))
        .filter(|what| !what.ends_with("reviews") && *what != "update leases")
        .collect();
    assert_eq!(writes, Vec::<&String>::new());
    let beside = subject.usage()?.rss;
    println!("{alone} KiB alone, {beside} KiB beside 5000 pods and 2000 workloads");
    assert!(beside.saturating_sub(alone) < 5 * 1024, "{alone} KiB alone, {beside} KiB beside them");
    subject.stop().await
}
