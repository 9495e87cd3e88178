//! Taking over what another installer made.

use super::*;

#[test]
fn what_somebody_else_installed_is_taken_over_only_when_told() {
    let theirs = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3},
                        "metadata": {"name": "controller", "namespace": NAMESPACE, "labels": {"app": "metallb"}}});
    let mut bench = Bench::new();
    bench.put(Kind::Deployment, theirs);
    bench.put(Kind::MetalLb, metallb("{}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "ForeignLoadBalancer");
    assert!(message.contains("Deployment metallb-system/controller"), "{message}");
    assert_eq!(bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Available").1, "NotInstalled");
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["annotations"] = json!({ADOPT: "true"});
    });
    assert_eq!(bench.changes(), [["create Secret metallb-memberlist"]], "the key first");
    bench.settle();
    assert_eq!(bench.image(Kind::Deployment, "controller"), "controller:1");
}

/// What MetalLB's manifests made, with FRR beside the speaker.
fn manifests(bench: &mut Bench) {
    let object = |kind: &str, name: &str, containers: Value| {
        let mut object = json!({"apiVersion": "apps/v1", "kind": kind,
               "spec": {"selector": {"matchLabels": {"app": "metallb", "component": name}},
                        "template": {"spec": {"containers": containers}}},
               "metadata": {"name": name, "namespace": NAMESPACE, "uid": "theirs", "labels": {"app": "metallb"}}});
        object["metadata"]["managedFields"] = json!([{"manager": "kubectl-client-side-apply", "operation": "Update", "fieldsV1": fields(&object)}]);
        object
    };
    let container = |name: &str| json!({"name": name, "image": format!("quay.io/metallb/{name}:v0.14")});
    bench.put(Kind::Deployment, object("Deployment", "controller", json!([container("controller")])));
    bench.put(
        Kind::DaemonSet,
        object("DaemonSet", "speaker", json!([container("speaker"), container("frr")])),
    );
    bench.put(Kind::DaemonSet, object("DaemonSet", "metallb-speaker", json!([container("speaker")])));
    bench.put(
        Kind::OlderSecret,
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"secretkey": "b2xk"},
        "metadata": {"name": "memberlist", "namespace": NAMESPACE, "uid": "s"}}),
    );
    bench.put(Kind::MetalLb, metallb("{}"));
}

#[test]
fn taking_over_moves_the_key_then_pulls_the_image_and_then_exchanges_all_speakers_at_once() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    let node = |image: &str| {
        let text = format!(
            "{{metadata: {{name: node1, resourceVersion: '{}'}}, status: {{conditions: [{{type: Ready, status: 'True'}}], \
             images: [{{names: ['{image}']}}]}}}}",
            image.len()
        );
        world::Change::Node(Box::new(Event::Apply(serde_saphyr::from_str(&text).unwrap())))
    };
    bench.world.take(node("x"));
    assert_eq!(bench.changes(), [["create Secret metallb-memberlist"]]);
    bench.settle();
    assert_eq!(
        bench.live(Kind::Secret, "metallb-memberlist")["data"]["secretkey"],
        "b2xk",
        "the key is kept"
    );
    assert!(bench.world.object(&key(Kind::DaemonSet, "metallb-pull")).is_some());
    assert_eq!(
        bench.image(Kind::DaemonSet, "speaker"),
        "quay.io/metallb/speaker:v0.14",
        "not before it is pulled"
    );

    bench.world.take(node("speaker:1"));
    let changes = bench.changes();
    assert_eq!(
        changes[0],
        [
            "take fields of Deployment controller",
            "take fields of DaemonSet speaker",
            "apply DaemonSet metallb-speaker"
        ]
    );
    let plan = bench.plan();
    let exchange = plan.stages.iter().flatten().find_map(|change| match change {
        Change::Apply(key, object, _) if key.name == "speaker" => Some(object),
        _ => None,
    });
    assert_eq!(exchange.unwrap()["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");
    bench.settle();
    assert!(bench.world.object(&key(Kind::DaemonSet, "metallb-speaker")).is_none(), "the chart's is gone");
    assert!(bench.world.object(&key(Kind::DaemonSet, "metallb-pull")).is_none());
    bench.run();
    bench.settle();
    let speaker = bench.live(Kind::DaemonSet, "speaker");
    assert_eq!(
        speaker["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1,
        "one at a time from now on"
    );
    assert_eq!(bench.degraded().0, "False");
}

#[test]
fn workloads_that_know_their_pods_by_other_labels_are_replaced_once_the_image_is_there() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    for (kind, name) in [(Kind::Deployment, "controller"), (Kind::DaemonSet, "speaker")] {
        bench.edit(kind, name, |object| {
            object["spec"]["selector"]["matchLabels"] = json!({"app.kubernetes.io/component": name});
        });
    }
    bench.delete(&key(Kind::DaemonSet, "metallb-speaker"));
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    let node = |version: u8, image: &str| {
        let text = format!(
            "{{metadata: {{name: node1, resourceVersion: '{version}'}}, status: {{conditions: [{{type: Ready, status: \
             'True'}}], images: [{{names: ['{image}']}}]}}}}"
        );
        world::Change::Node(Box::new(Event::Apply(serde_saphyr::from_str(&text).unwrap())))
    };
    bench.world.take(node(1, "other"));
    bench.settle();
    assert_eq!(bench.image(Kind::DaemonSet, "speaker"), "quay.io/metallb/speaker:v0.14", "not pulled yet");
    bench.world.take(node(2, "speaker:1"));
    let changes = bench.changes();
    assert_eq!(changes[0], ["delete Deployment controller", "delete DaemonSet speaker"]);
    bench.settle();
    for (kind, name) in [(Kind::Deployment, "controller"), (Kind::DaemonSet, "speaker")] {
        let live = bench.live(kind, name);
        assert_eq!(live["spec"]["selector"]["matchLabels"], json!({"app": "metallb", "component": name}));
        assert_eq!(live["metadata"]["uid"], format!("uid-{name}"), "it is another object");
    }
}

#[test]
fn an_installation_whose_bgp_others_use_is_not_taken_over_unless_that_is_accepted() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.put(
        Kind::FrrConfiguration,
        json!({"apiVersion": "frrk8s.metallb.io/v1beta1", "kind": "FRRConfiguration",
        "metadata": {"name": "fabric", "namespace": "cni", "uid": "f"}}),
    );
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert!(reason == "BGPInUse" && message.contains("FRRConfiguration cni/fabric"), "{reason}: {message}");
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["annotations"] = json!({ADOPT: "true", crate::install::ACCEPT_BGP_LOSS: "true"});
    });
    assert_eq!(bench.changes(), [["create Secret metallb-memberlist"]]);
}
