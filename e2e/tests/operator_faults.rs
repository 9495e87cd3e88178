//! The operator as a process of its own against a real etcd and API server: what it does when versions expire, when
//! writes meet those of others, when answers are lost, when a spec makes no sense, when it ends, and beside many objects
//! of others.
//!
//! The program is that of `METALLB_OPERATOR`.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use metallb_e2e::plane::{
    NAMESPACE, Plane, free_port,
    objects::{api, create, fill},
    proxy::{Faults, Proxy},
    subject::{Subject, operator_command},
};
use serde_json::{Value, json};

/// No wait takes longer.
const LIMIT: Duration = Duration::from_secs(60);
const METALLB: &str = "metallb.io/v1beta1";

/// A control plane, a way to it that can be broken, and an operator that takes this way.
struct Scene {
    subject: Subject,
    proxy: Proxy,
    client: Client,
    plane: Plane,
}

impl Scene {
    async fn new() -> Result<Self> {
        let plane = Plane::start().await?;
        let (proxy, config) = plane.subject_proxy().await?;
        let client = plane.client().await?;
        for name in ["metallb-operator-webhook-configuration", "metallb-webhook-configuration"] {
            // Nobody asks this operator anything.
            let metadata = json!({"name": name, "labels": {"app.kubernetes.io/part-of": "metallb"}});
            let (version, kind) = ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration");
            create(&client, version, kind, "", json!({"metadata": metadata})).await?;
        }
        let subject = start(&plane, &config)?;
        Ok(Self { subject, proxy, client, plane })
    }

    /// With a MetalLB resource that was carried out.
    async fn installed() -> Result<Self> {
        let scene = Self::new().await?;
        create(&scene.client, METALLB, "MetalLB", NAMESPACE, json!({"metadata": {"name": "metallb"}}))
            .await?;
        scene.find("apps/v1", "DaemonSet", "speaker", |_| true).await?;
        Ok(scene)
    }

    async fn pool(&self, number: usize) -> Result<()> {
        let spec = json!({"protocol": "layer2", "addresses": [format!("192.0.2.{number}/32")]});
        let pool = json!({"metadata": {"name": format!("p{number}")}, "spec": spec});
        create(&self.client, METALLB, "AddressPool", NAMESPACE, pool).await
    }

    /// Waits until an object is there and right.
    async fn find(
        &self,
        version: &str,
        kind: &str,
        name: &str,
        right: impl Fn(&DynamicObject) -> bool,
    ) -> Result<DynamicObject> {
        let objects = api(&self.client, version, kind, NAMESPACE);
        let look = async || objects.get_opt(name).await;
        let found = until(look, |found| found.as_ref().is_some_and(&right)).await;
        found.with_context(|| format!("{kind} {name}"))?.context("it is there")
    }

    /// Deletes an object and waits until another one has taken its place.
    async fn repaired(&self, version: &str, kind: &str, name: &str) -> Result<()> {
        let before = self.find(version, kind, name, |_| true).await?.uid();
        api(&self.client, version, kind, NAMESPACE).delete(name, &DeleteParams::background()).await?;
        self.find(version, kind, name, |object| object.uid() != before).await?;
        Ok(())
    }

    async fn merge(&self, kind: &str, name: &str, patch: &Value) -> Result<()> {
        let objects = api(&self.client, METALLB, kind, NAMESPACE);
        objects.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until each of `pools` is served and says so.
    async fn serves(&self, pools: std::ops::Range<usize>) -> Result<()> {
        for number in pools {
            let name = format!("p{number}");
            let ready = |object: &DynamicObject| {
                condition(object, "Ready").is_some_and(|(status, _)| status == "True")
            };
            self.find(METALLB, "AddressPool", &name, ready).await?;
            for kind in ["IPAddressPool", "L2Advertisement"] {
                self.find(METALLB, kind, &name, |_| true).await?;
            }
        }
        Ok(())
    }

    /// Starts another operator, in a pod of this name, that waits for the Lease. The one before it.
    async fn succeed(&mut self, pod: &str) -> Result<Subject> {
        let next = start_pod(&self.plane, &self.plane.subject_config(), pod)?;
        let log = self.plane.path(&format!("{pod}.log"));
        let look = async || Ok::<_, anyhow::Error>(std::fs::read_to_string(&log).unwrap_or_default());
        until(look, |log| log.contains("waiting for the lease")).await?;
        Ok(std::mem::replace(&mut self.subject, next))
    }

    async fn acts_within(&self, limit: Duration, after: &str) -> Result<()> {
        let began = Instant::now();
        self.repaired("v1", "ConfigMap", "metallb-excludel2").await?;
        let took = began.elapsed();
        println!("repaired {} ms after {after}", took.as_millis());
        ensure!(took < limit, "{took:?} after {after}");
        Ok(())
    }

    async fn is_at_rest(&self) -> Result<()> {
        let writes = self.plane.writes_at_rest(3).await?;
        ensure!(writes.keys().eq(["update leases"]), "{writes:?}");
        Ok(())
    }
}

fn start(plane: &Plane, config: &Path) -> Result<Subject> {
    start_pod(plane, config, "operator")
}

/// An operator that runs in a pod of this name.
fn start_pod(plane: &Plane, config: &Path, pod: &str) -> Result<Subject> {
    let program = std::env::var("METALLB_OPERATOR").context("METALLB_OPERATOR names no program")?;
    let command = operator_command(&program, NAMESPACE, pod, free_port()?, free_port()?);
    Subject::start(&command, config, &plane.path(&format!("{pod}.log")))
}

/// Looks until what is seen is right.
async fn until<T: Debug, E: Debug>(
    look: impl AsyncFn() -> Result<T, E>,
    right: impl Fn(&T) -> bool,
) -> Result<T> {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(seen) if right(&seen) => return Ok(seen),
            seen if started.elapsed() > LIMIT => bail!("after {} s: {seen:?}", LIMIT.as_secs()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A condition whole.
fn whole(object: &DynamicObject, kind: &str) -> Value {
    let conditions = object.data["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.cloned().unwrap_or_default()
}

/// Status of a condition, and the generation that it speaks of.
fn condition(object: &DynamicObject, kind: &str) -> Option<(String, Option<i64>)> {
    let found = whole(object, kind);
    Some((found["status"].as_str()?.to_owned(), found["observedGeneration"].as_i64()))
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_expire_lose_no_change() -> Result<()> {
    let scene = Scene::installed().await?;
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
    scene.subject.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_and_lost_answers_cost_no_object() -> Result<()> {
    let scene = Scene::new().await?;
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
    scene.subject.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_who_writes_the_same_objects_all_the_time_takes_no_truth_away() -> Result<()> {
    let scene = Scene::installed().await?;
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
    scene.subject.stop().await
}

/// No admission stands before this API server: what it would refuse reaches the operator, as it does from an object that
/// is older than the webhook.
#[tokio::test(flavor = "multi_thread")]
async fn a_spec_with_problems_is_told_once_and_changes_nothing_until_it_is_right() -> Result<()> {
    let scene = Scene::installed().await?;
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
    scene.subject.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_another_writes_again_and_again_is_told_with_its_writer_and_written_ever_less()
-> Result<()> {
    let scene = Scene::installed().await?;
    scene.is_at_rest().await?;
    let daemon_sets = api(&scene.client, "apps/v1", "DaemonSet", NAMESPACE);
    let image =
        |object: &DynamicObject| object.data["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let rival = async {
        let patch = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"template": {"spec": {
            "containers": [{"name": "speaker", "image": "rival:1"}]}}}});
        let params = PatchParams::apply("rival").force();
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for _ in 0_u64.. {
            pace.tick().await;
            if image(&daemon_sets.get("speaker").await?) != "rival:1" {
                daemon_sets.patch("speaker", &params, &Patch::Apply(&patch)).await?;
            }
        }
        anyhow::Ok(())
    };
    let told = async {
        let contested = |object: &DynamicObject| whole(object, "Degraded")["reason"] == "Contested";
        let object = scene.find(METALLB, "MetalLB", "metallb", contested).await?;
        let message = whole(&object, "Degraded")["message"].as_str().unwrap_or_default().to_owned();
        ensure!(
            message.contains("DaemonSet metallb-system/speaker")
                && message.contains("containers[name=speaker].image")
                && message.contains("set by rival"),
            "{message}"
        );
        // What it writes of the object until the Lease was renewed twice more, which takes six seconds.
        let (_, from) = scene.plane.requests(0);
        let look = async || Ok::<_, anyhow::Error>(scene.plane.requests(from).0);
        let done = |requests: &BTreeMap<String, usize>| {
            requests.get("update leases").is_some_and(|count| *count >= 2)
        };
        let requests = until(look, done).await?;
        let writes = requests.get("patch daemonsets").copied().unwrap_or_default();
        ensure!(writes <= 4, "{writes} writes: {requests:?}");
        anyhow::Ok(())
    };
    tokio::select! { result = told => result, result = rival => result }?;
    scene.find("apps/v1", "DaemonSet", "speaker", |object| image(object) == "speaker:1").await?;
    scene.subject.stop().await
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
    scene.subject.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_workloads_of_others_cost_little_memory_and_no_write() -> Result<()> {
    let scene = Scene::installed().await?;
    scene.is_at_rest().await?;
    let alone = scene.subject.usage()?.rss;
    scene.subject.stop().await?;
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
