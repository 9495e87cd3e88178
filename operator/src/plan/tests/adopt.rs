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
pub(super) fn manifests(bench: &mut Bench) {
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
            "{{metadata: {{name: node1, labels: {{kubernetes.io/os: linux}}, resourceVersion: '{}'}}, status: {{conditions: [{{type: Ready, status: 'True'}}], \
             images: [{{names: ['{image}']}}]}}}}",
            image.len()
        );
        super::node(serde_saphyr::from_str(&text).unwrap())
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
    let pod = |state: Value| {
        let pod = json!({"metadata": {"name": "metallb-pull-1", "resourceVersion": state.to_string().len().to_string(),
                                      "labels": {"app": "metallb", "component": "pull"}},
                         "spec": {"nodeName": "node1", "containers": []},
                         "status": {"containerStatuses": [{"name": "pull", "image": "", "imageID": "", "ready": false,
                                                           "restartCount": 0, "state": {"waiting": state}}]}});
        world::Change::Pod(Box::new(Event::Apply(serde_json::from_value(pod).unwrap())))
    };
    bench.world.take(pod(json!({"reason": "ErrImagePull"})));
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "ImagePullFailed");
    assert_eq!(message, "pod metallb-pull-1 on node node1: ErrImagePull");
    bench.world.take(pod(json!({"reason": "CrashLoopBackOff"})));
    bench.settle();
    assert_eq!(bench.degraded().0, "False", "it was pulled and has ended, as it should");

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
fn what_comes_between_the_taking_of_the_fields_and_the_exchange_changes_nothing_about_it() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    let Change::Create(secret, object) = &bench.plan().stages[0][0] else { panic!("{:?}", bench.plan()) };
    bench.put(secret.kind, stored(object, "Update", bench.now));
    for change in bench.plan().stages[0].clone() {
        if let Change::TakeFields(key, _, fields) = change {
            bench.edit(key.kind, &key.name, |object| object["metadata"]["managedFields"] = fields);
        }
    }
    // An operator that starts, and finds the fields taken.
    bench.attempts = Attempts::default();
    let exchange = |bench: &mut Bench| loop {
        let stages = bench.plan().stages;
        assert!(!stages.is_empty(), "no exchange");
        for change in stages.concat() {
            match change {
                Change::Apply(key, object, _) if key.name == "speaker" => return object,
                Change::Apply(key, object, _) => bench.put(key.kind, stored(&object, "Apply", bench.now)),
                change => panic!("{change:?}"),
            }
        }
        bench.run_controller();
    };
    let object = exchange(&mut bench);
    assert_eq!(object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");

    // Of what this operator applied, a label alone tells nothing.
    let mut bench = Bench::installed();
    bench.edit(Kind::DaemonSet, "speaker", |object| object["metadata"]["labels"] = json!({}));
    let object = exchange(&mut bench);
    assert_eq!(object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
}

#[test]
fn where_it_is_not_known_what_a_node_has_the_image_is_pulled_first() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    let images: Vec<_> = (0..50).map(|at| json!({"names": [format!("image:{at}")]})).collect();
    let mut full: k8s_openapi::api::core::v1::Node = serde_json::from_value(
        json!({"metadata": {"name": "node1", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": "1"},
               "status": {"conditions": [{"type": "Ready", "status": "True"}], "images": images}}),
    )
    .unwrap();
    crate::health::trim(&mut full);
    bench.world.take(world::Change::Node(Box::new(Event::Apply(full))));
    bench.settle();
    assert!(bench.world.object(&key(Kind::DaemonSet, "metallb-pull")).is_some());
    assert_eq!(bench.image(Kind::DaemonSet, "speaker"), "quay.io/metallb/speaker:v0.14");
    let pod = |version: u8, image: &str, id: &str| {
        let pod = json!({"metadata": {"name": "metallb-pull-1", "resourceVersion": version.to_string(),
                                      "labels": {"app": "metallb", "component": "pull"}},
                         "spec": {"nodeName": "node1", "containers": [{"name": "pull", "image": image}]},
                         "status": {"containerStatuses": [{"name": "pull", "image": image, "imageID": id, "ready": false,
                                                           "restartCount": 0}]}});
        world::Change::Pod(Box::new(Event::Apply(serde_json::from_value(pod).unwrap())))
    };
    for (version, image, id) in [(1, "speaker:1", ""), (2, "speaker:0", "sha256:0")] {
        bench.world.take(pod(version, image, id));
        bench.settle();
        let speaker = bench.image(Kind::DaemonSet, "speaker");
        assert_eq!(speaker, "quay.io/metallb/speaker:v0.14", "{image}, {id:?}");
    }
    bench.world.take(pod(3, "speaker:1", "sha256:1"));
    bench.settle();
    assert_eq!(bench.image(Kind::DaemonSet, "speaker"), "speaker:1");
}

#[test]
fn a_refused_pod_that_is_to_pull_the_image_is_named() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    bench.world.take(node(
        json!({"metadata": {"name": "node1", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": "1"},
               "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
    ));
    let for_pods = vec!["SecurityContextConstraints nonroot-v2 is missing".to_owned()];
    bench.missing = Some(Found { for_pods, ..Found::default() });
    bench.settle();
    assert_eq!(bench.degraded().0, "False");
    bench.world.take(neighbour(
        Neighbour::Refusal,
        json!({"metadata": {"name": "e", "namespace": NAMESPACE, "resourceVersion": "1"},
               "involvedObject": {"kind": "DaemonSet", "name": "metallb-pull"},
               "lastTimestamp": "2030-01-01T00:00:00Z", "message": "Error creating: exceeded quota: pods"}),
    ));
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "RequirementsMissing");
    assert_eq!(
        message,
        "SecurityContextConstraints nonroot-v2 is missing; DaemonSet metallb-pull: exceeded quota: pods"
    );
    bench.missing = Some(Found::default());
    bench.settle();
    assert_eq!(bench.degraded().1, "PodRefused");
    // It was made later.
    bench.world.take(world::Change::Pod(Box::new(Event::Apply(
        serde_json::from_value(json!({"metadata": {"name": "metallb-pull-1", "resourceVersion": "1",
                                "creationTimestamp": "2030-01-01T00:00:01Z",
                                "labels": {"app": "metallb", "component": "pull"}},
                   "spec": {"nodeName": "node1", "containers": []}}))
        .unwrap(),
    ))));
    bench.settle();
    assert_eq!(bench.degraded().0, "False");
}

/// Accounts to which a security context constraint is given.
fn admitted() -> Vec<String> {
    let text = include_str!("../../../../config/rbac/openshift.yaml");
    let bindings = text.split("\n---\n").filter_map(|document| {
        let object: Value = serde_saphyr::from_str(document).unwrap();
        (object["kind"] == "RoleBinding").then(|| object["subjects"].clone())
    });
    let subjects: Vec<Value> = bindings.flat_map(|subjects| subjects.as_array().unwrap().clone()).collect();
    subjects.iter().map(|subject| subject["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn all_pods_run_under_an_account_that_openshift_admits() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    let with_image = |version: &str, images: Value| {
        node(
            json!({"metadata": {"name": "node1", "labels": {"kubernetes.io/os": "linux"}, "resourceVersion": version},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}], "images": [{"names": images}]}}),
        )
    };
    let admitted = admitted();
    let is_admitted = |bench: &Bench, kind, name| {
        let account = bench.live(kind, name)["spec"]["template"]["spec"]["serviceAccountName"]
            .as_str()
            .map(str::to_owned);
        assert!(account.as_ref().is_some_and(|account| admitted.contains(account)), "{name}: {account:?}");
    };
    bench.world.take(with_image("1", json!(["other:1"])));
    bench.settle();
    is_admitted(&bench, Kind::DaemonSet, "metallb-pull");
    bench.world.take(with_image("2", json!(["speaker:1"])));
    bench.settle();
    is_admitted(&bench, Kind::DaemonSet, "speaker");
    is_admitted(&bench, Kind::Deployment, "controller");
}

#[test]
fn the_label_of_another_installer_over_the_operators_own_is_repaired() {
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    let label = format!("f:{}", MANAGED_BY.0);
    for (kind, name) in [(Kind::Deployment, "controller"), (Kind::DaemonSet, "speaker")] {
        bench.edit(kind, name, |object| {
            object["metadata"]["labels"][MANAGED_BY.0] = json!("Helm");
            let metadata = &mut object["metadata"]["managedFields"][0]["fieldsV1"]["f:metadata"];
            metadata["f:labels"].as_object_mut().unwrap().remove(&label).unwrap();
        });
    }
    let field = format!("metadata.labels.{}", MANAGED_BY.0);
    assert_eq!(
        bench.changes(),
        [[format!("repair Deployment controller: {field}"), format!("repair DaemonSet speaker: {field}")]]
    );
    bench.settle();
    bench.run();
    bench.settle();
    assert_eq!(bench.of_metallb("Available").0, "True");
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
            "{{metadata: {{name: node1, labels: {{kubernetes.io/os: linux}}, resourceVersion: '{version}'}}, status: {{conditions: [{{type: Ready, status: \
             'True'}}], images: [{{names: ['{image}']}}]}}}}"
        );
        super::node(serde_saphyr::from_str(&text).unwrap())
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
fn nodes_that_take_no_speaker_are_not_waited_for() {
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    let of = |name: &str, system: &str, taints: Value, image: &str| {
        node(
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": system}, "resourceVersion": "1"},
                    "spec": {"taints": taints},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}], "images": [{"names": [image]}]}}),
        )
    };
    bench.world.take(of("node1", "linux", json!([]), "speaker:1"));
    bench.world.take(of("windows", "windows", json!([]), "other"));
    bench.world.take(of("database", "linux", json!([{"key": "db", "effect": "NoSchedule"}]), "other"));
    bench.settle();
    assert_eq!(bench.image(Kind::DaemonSet, "speaker"), "speaker:1");
    assert!(bench.world.object(&key(Kind::DaemonSet, "metallb-pull")).is_none());
}

fn frr_configuration(name: &str) -> Value {
    json!({"apiVersion": "frrk8s.metallb.io/v1beta1", "kind": "FRRConfiguration",
           "metadata": {"name": name, "namespace": "cni", "uid": name}})
}

#[test]
fn an_installation_whose_bgp_others_use_is_not_taken_over_unless_that_is_accepted() {
    let extras = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"bgpextras.conf": "!"},
                        "metadata": {"name": "bgpextras", "namespace": NAMESPACE, "uid": "b"}});
    let table = [
        (Kind::FrrConfiguration, frr_configuration("fabric"), Some("FRRConfiguration cni/fabric")),
        (
            Kind::FrrConfiguration,
            frr_configuration("metallb-fabric"),
            Some("FRRConfiguration cni/metallb-fabric"),
        ),
        (Kind::ConfigMap, extras, Some("ConfigMap metallb-system/bgpextras")),
        // A speaker's own.
        (Kind::FrrConfiguration, frr_configuration("metallb-node1"), None),
    ];
    for (kind, object, named) in table {
        let mut bench = Bench::new();
        manifests(&mut bench);
        bench.world.take(node(json!({"metadata": {"name": "node1", "resourceVersion": "1"}})));
        bench.put(kind, object);
        bench.edit(Kind::MetalLb, "metallb", |object| {
            object["metadata"]["annotations"] = json!({ADOPT: "true"});
        });
        if let Some(named) = named {
            assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "{named}");
            bench.settle();
            let (_, reason, message) = bench.degraded();
            assert!(reason == "BGPInUse" && message.contains(named), "{named}: {reason}: {message}");
            bench.edit(Kind::MetalLb, "metallb", |object| {
                object["metadata"]["annotations"] =
                    json!({ADOPT: "true", crate::install::ACCEPT_BGP_LOSS: "true"});
            });
        }
        assert_eq!(bench.changes(), [["create Secret metallb-memberlist"]], "{named:?}");
    }
}

#[test]
fn nothing_is_taken_over_before_it_is_known_whose_bgp_would_end() {
    let source = world::Source::Objects(Kind::FrrConfiguration);
    let frr = |event| world::Change::Object(Kind::FrrConfiguration, Box::new(event));
    let refused =
        || world::Change::Fault(source, "cannot watch FRRConfiguration objects: forbidden".to_owned());
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    bench.world.take(world::Change::Absent(source));
    assert_eq!(bench.changes(), [["create Secret metallb-memberlist"]], "a cluster need not know the kind");

    // It has appeared, and is being listed.
    bench.world.take(frr(Event::Init));
    bench.world.take(frr(Event::InitApply(serde_json::from_value(frr_configuration("fabric")).unwrap())));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.world.take(refused());
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let told = ("WatchFailed", "cannot watch FRRConfiguration objects: forbidden");
    assert_eq!((bench.degraded().1.as_str(), bench.degraded().2.as_str()), told);
    bench.world.take(frr(Event::InitDone));
    bench.settle();
    assert_eq!(bench.degraded().1, "BGPInUse");

    // What was seen once may be out of date.
    let mut bench = Bench::new();
    manifests(&mut bench);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    bench.world.take(refused());
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
}
