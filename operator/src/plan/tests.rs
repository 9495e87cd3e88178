use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use serde_json::{Map, json};

use super::*;
use crate::{workload::WorkloadKind, world};

const NAMESPACE: &str = "metallb-system";
/// When a test begins.
const START: &str = "2030-01-01T00:00:00Z";

/// A cluster of which everything has been seen, and an API server that does what it is told.
struct Bench {
    settings: Settings,
    world: World,
    attempts: Attempts,
    now: Timestamp,
    version: u64,
    gossip: Gossip,
    missing: Option<Vec<String>>,
}

impl Bench {
    fn unseen() -> Self {
        let variables: BTreeMap<_, _> = [
            ("OPERATOR_NAMESPACE", NAMESPACE),
            ("POD_NAME", "operator"),
            ("CONTROLLER_IMAGE", "controller:1"),
            ("SPEAKER_IMAGE", "speaker:1"),
        ]
        .into();
        Self {
            settings: Settings::read(|name| variables.get(name).map(|&value| value.to_owned())).unwrap(),
            world: World::default(),
            attempts: Attempts::default(),
            now: START.parse().unwrap(),
            version: 100,
            gossip: Gossip::new("remembered".to_owned()),
            missing: Some(Vec::new()),
        }
    }

    fn new() -> Self {
        let mut bench = Self::unseen();
        for kind in Kind::ALL {
            for event in [Event::Init, Event::InitDone] {
                bench.world.take(world::Change::Object(kind, Box::new(event)));
            }
        }
        for kind in WorkloadKind::ALL {
            for event in [Event::Init, Event::InitDone] {
                bench.world.take(world::Change::Workload(kind, Box::new(event)));
            }
        }
        for event in [Event::Init, Event::InitDone] {
            bench.world.take(world::Change::Pod(Box::new(event)));
        }
        for event in [Event::Init, Event::InitDone] {
            bench.world.take(world::Change::Node(Box::new(event)));
        }
        bench
    }

    /// With a MetalLB resource that was carried out.
    fn installed() -> Self {
        let mut bench = Self::new();
        bench.put(Kind::MetalLb, metallb("{}"));
        bench.settle();
        bench
    }

    /// Somebody writes an object.
    fn put(&mut self, kind: Kind, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = serde_json::from_value(object).unwrap();
        self.world.take(world::Change::Object(kind, Box::new(Event::Apply(object))));
    }

    fn delete(&mut self, key: &Key) {
        self.world.removed(key);
    }

    fn live(&self, kind: Kind, name: &str) -> Value {
        serde_json::to_value(self.world.object(&key(kind, name)).unwrap()).unwrap()
    }

    fn edit(&mut self, kind: Kind, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.live(kind, name);
        edit(&mut object);
        self.put(kind, object);
    }

    fn plan(&self) -> Plan {
        plan(Situation {
            settings: &self.settings,
            world: &self.world,
            attempts: &self.attempts,
            now: self.now,
            rolling_for: self.now.duration_since(START.parse().unwrap()).try_into().unwrap(),
            gossip: &self.gossip,
            missing: self.missing.as_deref(),
            new_certificate: None,
        })
    }

    /// What is to be changed, stage by stage.
    fn changes(&self) -> Vec<Vec<String>> {
        let verb = |change: &Change| match change {
            Change::Create(key, _) => format!("create {} {}", key.kind, key.name),
            Change::Apply(key, _, None) => format!("apply {} {}", key.kind, key.name),
            Change::Apply(key, _, Some(difference)) => {
                format!("repair {} {}: {}", key.kind, key.name, difference.field)
            }
            Change::Delete(key, _) => format!("delete {} {}", key.kind, key.name),
            Change::TakeFields(key, ..) => format!("take fields of {} {}", key.kind, key.name),
        };
        self.plan().stages.iter().map(|stage| stage.iter().map(verb).collect()).collect()
    }

    fn assert_idle(&self) {
        let plan = self.plan();
        assert_eq!((plan.stages, plan.reports), (Vec::new(), Vec::new()));
    }

    /// Carries plans out until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10 {
            let Plan { stages, reports, .. } = self.plan();
            if stages.is_empty() {
                for report in &reports {
                    let mut object =
                        self.world.object(&report.key).map(serde_json::to_value).unwrap().unwrap();
                    object["status"] = report.status.clone();
                    self.put(report.key.kind, object);
                }
                if reports.is_empty() {
                    return;
                }
            }
            for change in stages.iter().flatten() {
                match change {
                    Change::Create(key, object) => self.put(key.kind, stored(object, "Update", self.now)),
                    Change::Apply(key, object, _) => {
                        let mut stored = stored(object, "Apply", self.now);
                        // What is not applied stays.
                        if let Some(live) = self.world.object(key).filter(|_| object["data"].is_null()) {
                            stored["data"] = live.data["data"].clone();
                        }
                        self.put(key.kind, stored);
                    }
                    Change::Delete(key, _) => self.delete(key),
                    Change::TakeFields(key, _, fields) => {
                        self.edit(key.kind, &key.name, |object| {
                            object["metadata"]["managedFields"] = fields.clone();
                        });
                    }
                }
            }
        }
        panic!("there is no end to it: {:?}", self.plan());
    }

    fn condition(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        condition: &str,
    ) -> (String, String, String) {
        let key = Key { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let object = self.world.object(&key).unwrap();
        let conditions = object.data["status"]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|found| found["type"] == condition).unwrap();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    /// The cluster carries out what the workloads say: the controller runs, and a speaker on the one node.
    fn run(&mut self) {
        let node = serde_saphyr::from_str(
            "{metadata: {name: node1, resourceVersion: '1'}, status: {conditions: [{type: Ready, status: 'True'}]}}",
        );
        self.world.take(world::Change::Node(Box::new(Event::Apply(node.unwrap()))));
        let pod = serde_saphyr::from_str(
            "{metadata: {name: speaker-1, resourceVersion: '1', labels: {app: metallb, component: speaker}}, \
             spec: {nodeName: node1, containers: []}, status: {conditions: [{type: Ready, status: 'True'}]}}",
        );
        self.world.take(world::Change::Pod(Box::new(Event::Apply(pod.unwrap()))));
        self.run_controller();
        self.edit(Kind::DaemonSet, "speaker", |object| {
            object["status"] = json!({"desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0,
                                      "numberReady": 1});
        });
    }

    fn run_controller(&mut self) {
        self.edit(Kind::Deployment, "controller", |object| {
            object["status"] = json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1});
        });
    }

    /// With a MetalLB resource of `spec` that was carried out and works, and then a newer operator.
    fn upgraded(spec: &str) -> Self {
        let mut bench = Self::new();
        bench.put(Kind::MetalLb, metallb(spec));
        bench.settle();
        bench.run();
        bench.settle();
        bench.settings.version = "2".to_owned();
        bench.settings.controller_image = "controller:2".to_owned();
        bench.settings.speaker_image = "speaker:2".to_owned();
        bench
    }

    fn image(&self, kind: Kind, name: &str) -> String {
        self.live(kind, name)["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Images of controller and speaker.
    fn images(&self) -> (String, String) {
        (self.image(Kind::Deployment, "controller"), self.image(Kind::DaemonSet, "speaker"))
    }

    fn of_metallb(&self, condition: &str) -> (String, String, String) {
        self.condition(Kind::MetalLb, NAMESPACE, "metallb", condition)
    }

    fn degraded(&self) -> (String, String, String) {
        self.condition(Kind::MetalLb, NAMESPACE, "metallb", "Degraded")
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: NAMESPACE.to_owned(), name: name.to_owned() }
}

fn metallb(spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    json!({"apiVersion": "metallb.io/v1beta1", "kind": "MetalLB", "spec": spec,
           "metadata": {"name": "metallb", "namespace": NAMESPACE, "uid": "uid-metallb", "generation": 1}})
}

fn address_pool(name: &str, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    json!({"apiVersion": "metallb.io/v1beta1", "kind": "AddressPool", "spec": spec,
           "metadata": {"name": name, "namespace": NAMESPACE, "uid": format!("uid-{name}"), "generation": 1,
                        "creationTimestamp": "2029-01-01T00:00:00Z"}})
}

/// An object as the API server stores it after a write by the operator.
fn stored(object: &Value, operation: &str, now: Timestamp) -> Value {
    let mut stored = object.clone();
    let metadata = stored["metadata"].as_object_mut().unwrap();
    metadata.insert("uid".to_owned(), format!("uid-{}", metadata["name"].as_str().unwrap()).into());
    metadata.insert(
        "managedFields".to_owned(),
        json!([{"manager": FIELD_MANAGER, "operation": operation, "time": now, "fieldsV1": fields(object)}]),
    );
    stored
}

/// Every field is owned; lists are atomic.
fn fields(object: &Value) -> Value {
    let Some(object) = object.as_object() else { return json!({}) };
    let below: Map<_, _> = object.iter().map(|(key, value)| (format!("f:{key}"), fields(value))).collect();
    Value::Object(below)
        .as_object()
        .map(|all| {
            let identity = ["f:apiVersion", "f:kind", "f:name", "f:namespace", "f:resourceVersion"];
            all.iter()
                .filter(|(key, _)| !identity.contains(&key.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        })
        .map(Value::Object)
        .unwrap_or_default()
}

#[test]
fn nothing_is_decided_on_half_a_picture() {
    let mut bench = Bench::unseen();
    bench.put(Kind::MetalLb, metallb("{}"));
    bench.assert_idle();
    let source = world::Source::Objects(Kind::Secret);
    bench.world.take(world::Change::Fault(source, "cannot watch Secret objects: forbidden".to_owned()));
    let plan = bench.plan();
    assert_eq!(plan.stages, Vec::<Vec<Change>>::new());
    let conditions = &plan.reports[0].status["conditions"];
    assert_eq!(conditions[3]["reason"], "WatchFailed");
    assert_eq!(conditions[3]["message"], "cannot watch Secret objects: forbidden");
}

#[test]
fn while_it_is_asked_what_is_missing_nothing_is_installed_and_pools_are_served() {
    let mut bench = Bench::new();
    bench.missing = None;
    bench.put(Kind::MetalLb, metallb("{}"));
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    assert_eq!(bench.changes(), [["apply IPAddressPool p", "apply L2Advertisement p"]]);
    bench.settle();
    assert_eq!(bench.live(Kind::MetalLb, "metallb")["status"], Value::Null, "nor judged");
}

#[test]
fn a_resource_becomes_objects_and_then_there_is_nothing_to_do() {
    let mut bench = Bench::new();
    bench.put(Kind::MetalLb, metallb("{}"));
    assert_eq!(
        bench.changes(),
        [
            vec![
                "create Secret metallb-memberlist",
                "apply ConfigMap metallb-excludel2",
                "apply NetworkPolicy controller"
            ],
            vec!["apply Deployment controller", "apply DaemonSet speaker"],
        ]
    );
    bench.settle();
    bench.assert_idle();
    assert_eq!(bench.degraded().0, "False");
}

#[test]
fn whoever_speaks_bgp_there_is_an_end_to_what_is_to_be_done() {
    for backend in ["native", "frr", "frr-k8s"] {
        let mut bench = Bench::new();
        bench.put(Kind::MetalLb, metallb(&format!("{{bgpBackend: {backend}}}")));
        bench.settle();
        bench.run();
        bench.settle();
        bench.assert_idle();
    }
}

#[test]
fn what_is_changed_or_deleted_is_repaired() {
    let mut bench = Bench::installed();
    bench.edit(Kind::DaemonSet, "speaker", |object| {
        object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(0);
    });
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    bench.edit(Kind::ConfigMap, "metallb-excludel2", |object| object["metadata"]["labels"] = json!({}));
    assert_eq!(
        bench.changes(),
        [
            vec!["repair ConfigMap metallb-excludel2: metadata.labels.app"],
            vec![
                "repair Deployment controller: spec.replicas",
                "repair DaemonSet speaker: spec.template.spec.terminationGracePeriodSeconds"
            ],
        ]
    );
    bench.settle();
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    assert_eq!(bench.changes(), [["apply DaemonSet speaker"]]);
}

#[test]
fn the_key_of_the_gossip_is_never_overwritten() {
    let mut bench = Bench::installed();
    assert_eq!(bench.live(Kind::Secret, "metallb-memberlist")["data"]["secretkey"], "cmVtZW1iZXJlZA==");
    bench.edit(Kind::Secret, "metallb-memberlist", |secret| secret["data"]["secretkey"] = json!("bWluZQ=="));
    bench.settle();
    assert_eq!(bench.live(Kind::Secret, "metallb-memberlist")["data"]["secretkey"], "bWluZQ==");

    let mut bench = Bench::new();
    let theirs = json!({"apiVersion": "v1", "kind": "Secret", "data": {"secretkey": "b2xk"},
                        "metadata": {"name": "metallb-memberlist", "namespace": NAMESPACE}});
    bench.put(Kind::Secret, theirs);
    bench.put(Kind::MetalLb, metallb("{}"));
    let plan = bench.plan();
    let Change::Apply(_, secret, _) = &plan.stages[0][0] else { panic!("{plan:?}") };
    assert_eq!(secret["data"], json!({"secretkey": "b2xk"}));
    assert_eq!(secret["metadata"]["resourceVersion"], "101", "only if it is still what was seen");
}

#[test]
fn a_spec_with_problems_changes_nothing_and_is_told() {
    let mut bench = Bench::installed();
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"] = json!({"logLevel": "debug", "bgpBackend": "bird"});
        object["metadata"]["generation"] = json!(2);
    });
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (status, reason, message) = bench.degraded();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "InvalidSpec"));
    assert!(message.starts_with("spec.bgpBackend: \"bird\" is not one of"), "{message}");
}

#[test]
fn ip_failover_stops_a_first_installation_only() {
    let keepalived = || {
        let text = "{metadata: {name: ha, namespace: ns, resourceVersion: '1'}, spec: {template: {metadata: {labels: \
                    {ipfailover: x}}, spec: {hostNetwork: true}}}}";
        let event = Event::Apply(serde_saphyr::from_str(text).unwrap());
        world::Change::Workload(WorkloadKind::DaemonSet, Box::new(event))
    };
    let mut bench = Bench::new();
    bench.put(Kind::MetalLb, metallb("{}"));
    bench.world.take(keepalived());
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    assert_eq!(bench.degraded().1, "IPFailoverPresent");
    bench.world.take(world::Change::Workload(WorkloadKind::DaemonSet, Box::new(Event::Init)));
    bench.world.take(world::Change::Workload(WorkloadKind::DaemonSet, Box::new(Event::InitDone)));
    assert_eq!(bench.changes().len(), 2, "it is gone");

    let mut bench = Bench::installed();
    bench.world.take(keepalived());
    for (kind, name) in [(Kind::Deployment, "controller"), (Kind::DaemonSet, "speaker")] {
        bench.delete(&key(kind, name));
    }
    assert_eq!(
        bench.changes(),
        [["apply Deployment controller", "apply DaemonSet speaker"]],
        "what was installed is kept"
    );
    bench.settle();
    assert_eq!(bench.degraded().0, "False");
    assert_eq!(bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "IPFailoverAbsent").0, "False");

    for policy in ["Warn", "Ignore"] {
        let mut bench = Bench::new();
        bench.world.take(keepalived());
        bench.put(Kind::MetalLb, metallb(&format!("{{ipFailoverPolicy: {policy}}}")));
        assert_eq!(bench.changes().len(), 2, "{policy}");
        bench.settle();
        let absent = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "IPFailoverAbsent");
        assert_eq!(absent.0, if policy == "Warn" { "False" } else { "True" });
    }
}

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

#[test]
fn what_is_no_longer_part_of_it_is_removed_and_nothing_else() {
    let mut bench = Bench::installed();
    let config_map = |name: &str, labels: Value, owner: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE, "uid": "u",
               "labels": labels, "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner}]}})
    };
    let mine = json!({MANAGED_BY.0: MANAGED_BY.1});
    bench.put(Kind::ConfigMap, config_map("old", mine.clone(), "uid-metallb"));
    bench.put(Kind::ConfigMap, config_map("of-another-resource", mine, "uid-other"));
    bench.put(Kind::ConfigMap, config_map("not-labelled", json!({}), "uid-metallb"));
    assert_eq!(bench.changes(), [["delete ConfigMap old"]]);
}

#[test]
fn a_resource_that_is_being_deleted_is_left_alone() {
    let mut bench = Bench::installed();
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    });
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    bench.assert_idle();
}

#[test]
fn a_resource_of_another_name_or_namespace_is_told_and_harms_nothing() {
    let mut bench = Bench::installed();
    for (name, namespace) in [("second", NAMESPACE), ("metallb", "default")] {
        let mut other = metallb("{logLevel: debug}");
        other["metadata"]["name"] = json!(name);
        other["metadata"]["namespace"] = json!(namespace);
        bench.put(Kind::MetalLb, other);
    }
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    for (name, namespace) in [("second", NAMESPACE), ("metallb", "default")] {
        let (status, reason, message) = bench.condition(Kind::MetalLb, namespace, name, "Degraded");
        assert_eq!((status.as_str(), reason.as_str()), ("True", "IncorrectMetalLBResourceName"));
        assert!(message.contains("\"metallb\" in namespace \"metallb-system\""), "{message}");
    }
    assert_eq!(bench.degraded().0, "False");
}

#[test]
fn a_pool_is_served_and_a_change_of_protocol_removes_before_it_creates() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    assert_eq!(bench.changes(), [["apply IPAddressPool p", "apply L2Advertisement p"]]);
    bench.settle();
    let ready = bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready");
    assert_eq!(ready.2, "served as IPAddressPool p, L2Advertisement p");
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["protocol"] = json!("bgp"));
    assert_eq!(bench.changes(), [["delete L2Advertisement p"], ["apply BGPAdvertisement p"]]);
    bench.settle();
    bench.assert_idle();
}

#[test]
fn a_pool_that_is_not_valid_keeps_what_it_was_and_one_of_somebody_else_is_kept_too() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["addresses"] = json!(["192.0.2.300/28"]));
    let theirs = json!({"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "spec": {},
                        "metadata": {"name": "q", "namespace": NAMESPACE}});
    bench.put(Kind::L2Advertisement, theirs);
    bench.put(Kind::AddressPool, address_pool("q", "{protocol: layer2, addresses: [198.51.100.0/28]}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (status, reason, message) = bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Invalid"));
    assert!(message.starts_with("spec.addresses[0]: "), "{message}");
    assert_eq!(
        bench.condition(Kind::AddressPool, NAMESPACE, "q", "Ready").2,
        "not served: L2Advertisement q exists and belongs to somebody else"
    );
    let (status, _, message) = bench.condition(Kind::AddressPool, NAMESPACE, "q", "Conflict");
    assert_eq!(
        (status.as_str(), message.as_str()),
        (
            "True",
            "L2Advertisement q exists and does not belong to this pool, so it is not overwritten: delete it, or give \
             this pool another name"
        )
    );
    bench.delete(&key(Kind::L2Advertisement, "q"));
    bench.settle();
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "q", "Ready").0, "True");
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "q", "Conflict").0, "False");
}

#[test]
fn each_entry_of_bgp_advertisements_has_its_object_and_what_is_edited_by_hand_is_put_back() {
    let mut bench = Bench::new();
    let two = "{protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{}, {aggregationLength: 24}]}";
    bench.put(Kind::AddressPool, address_pool("p", two));
    bench.settle();
    let ready = bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready");
    assert_eq!(ready.2, "served as IPAddressPool p, BGPAdvertisement p, BGPAdvertisement p-2");
    bench.edit(Kind::BgpAdvertisement, "p-2", |object| object["spec"]["aggregationLength"] = json!(32));
    bench.edit(Kind::IpAddressPool, "p", |object| object["spec"]["autoAssign"] = json!(false));
    bench.delete(&key(Kind::BgpAdvertisement, "p"));
    assert_eq!(
        bench.changes(),
        [[
            "repair IPAddressPool p: spec.autoAssign",
            "apply BGPAdvertisement p",
            "repair BGPAdvertisement p-2: spec.aggregationLength"
        ]]
    );
    bench.settle();
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["bgpAdvertisements"] = json!([]));
    assert_eq!(bench.changes(), [["delete BGPAdvertisement p-2"]]);
}

#[test]
fn a_converted_pool_is_the_users_and_nothing_else_changes() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    let convert =
        |object: &mut Value| object["metadata"]["annotations"] = json!({"metallb.io/convert": "true"});
    bench.edit(Kind::AddressPool, "p", convert);
    assert_eq!(
        bench.changes(),
        [["repair IPAddressPool p: metadata.labels"], ["repair L2Advertisement p: metadata.labels"],]
    );
    let before = bench.live(Kind::IpAddressPool, "p");
    bench.settle();
    let after = bench.live(Kind::IpAddressPool, "p");
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(after["metadata"]["labels"], Value::Null);
    assert_eq!(
        bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready"),
        (
            "True".to_owned(),
            "Converted".to_owned(),
            "IPAddressPool p, L2Advertisement p is yours: this AddressPool has no effect any more and may be deleted"
                .to_owned()
        )
    );
    bench.edit(Kind::IpAddressPool, "p", |object| object["spec"]["addresses"] = json!(["198.51.100.0/24"]));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "their edits are theirs");
    for kind in [Kind::IpAddressPool, Kind::L2Advertisement] {
        bench.delete(&key(kind, "p"));
    }
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "what they delete does not come back");
}

#[test]
fn a_pool_that_is_created_to_be_converted_is_served_first() {
    let mut bench = Bench::new();
    let mut pool = address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}");
    pool["metadata"]["annotations"] = json!({"metallb.io/convert": "true"});
    bench.put(Kind::AddressPool, pool);
    bench.settle();
    assert_eq!(bench.live(Kind::L2Advertisement, "p")["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready").1, "Converted");
}

#[test]
fn a_pool_tells_how_much_of_it_is_used_and_whether_nodes_are_in_its_subnet() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    bench.edit(Kind::IpAddressPool, "p", |object| {
        object["status"] = json!({"assignedIPv4": 2, "assignedIPv6": 0, "availableIPv4": 14, "availableIPv6": 0,
                                  "services": 2, "capacity": {"ipv4": "16", "ipv6": "0"}});
    });
    bench.settle();
    let status = &bench.live(Kind::AddressPool, "p")["status"];
    let shown = ["assigned", "assignedIPv4", "services"].map(|name| status[name].as_i64());
    assert_eq!(shown, [Some(2), Some(2), Some(2)]);
    assert_eq!(status["capacity"], json!({"ipv4": "16", "ipv6": "0"}));
    assert_eq!(status["conditions"].as_array().unwrap().len(), 2, "nothing is known of subnets");

    let node = json!({"metadata": {"name": "n", "resourceVersion": "900",
                                   "annotations": {"k8s.ovn.org/host-cidrs": r#"["198.51.100.5/24"]"#}}});
    let event = Event::Apply(serde_json::from_value(node).unwrap());
    bench.world.take(world::Change::Node(Box::new(event)));
    let plan = bench.plan();
    assert_eq!(plan.reports[0].events[0].reason, "OutsideNodeSubnets");
    bench.settle();
    let (status, _, message) = bench.condition(Kind::AddressPool, NAMESPACE, "p", "InNodeSubnet");
    assert_eq!(status, "False");
    assert!(message.starts_with("192.0.2.0/28 is in no subnet of a node (198.51.100.0/24)"), "{message}");
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["protocol"] = json!("bgp"));
    bench.settle();
    let conditions = &bench.live(Kind::AddressPool, "p")["status"]["conditions"];
    assert_eq!(conditions.as_array().unwrap().len(), 2, "{conditions}");
}

#[test]
fn a_kind_that_appears_later_is_waited_for_before_a_first_installation_only() {
    let source = world::Source::Workloads(WorkloadKind::DeploymentConfig);
    let mut bench = Bench::new();
    bench.world.take(world::Change::Absent(source));
    bench.put(Kind::MetalLb, metallb("{}"));
    assert_eq!(bench.changes().len(), 2, "a cluster need not know it");
    // The definition has just appeared: the list is under way.
    let mut bench = Bench::unseen();
    for kind in Kind::ALL {
        for event in [Event::Init, Event::InitDone] {
            bench.world.take(world::Change::Object(kind, Box::new(event)));
        }
    }
    for kind in WorkloadKind::ALL.into_iter().filter(|kind| !kind.optional()) {
        for event in [Event::Init, Event::InitDone] {
            bench.world.take(world::Change::Workload(kind, Box::new(event)));
        }
    }
    bench.put(Kind::MetalLb, metallb("{}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.world.take(world::Change::Fault(source, "cannot watch: its server is down".to_owned()));
    for event in [Event::Init, Event::InitDone] {
        bench.world.take(world::Change::Pod(Box::new(event)));
    }
    for event in [Event::Init, Event::InitDone] {
        bench.world.take(world::Change::Node(Box::new(event)));
    }
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!((reason.as_str(), message.as_str()), ("WatchFailed", "cannot watch: its server is down"));
    for event in [Event::Init, Event::InitDone] {
        bench.world.take(world::Change::Workload(WorkloadKind::DeploymentConfig, Box::new(event)));
    }
    assert_eq!(bench.changes().len(), 2);
}

#[test]
fn a_write_that_failed_waits_its_time_and_is_told() {
    let mut bench = Bench::installed();
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    let plan = bench.plan();
    let change = &plan.stages[0][0];
    bench.attempts.failed(
        change.key(),
        change.wanted(),
        "Deployment controller: forbidden".to_owned(),
        bench.now,
    );
    let plan = bench.plan();
    assert_eq!(plan.stages, Vec::<Vec<Change>>::new());
    assert_eq!(plan.wake, Some("2030-01-01T00:00:00.5Z".parse().unwrap()));
    assert_eq!(plan.reports[0].status["conditions"][3]["reason"], "ApplyFailed");
    let warning = &plan.reports[0].events[0];
    assert_eq!((warning.warning, warning.message.as_str()), (true, "Deployment controller: forbidden"));
    bench.now = "2030-01-01T00:00:01Z".parse().unwrap();
    assert_eq!(bench.changes(), [["repair Deployment controller: spec.replicas"]]);
}

/// A workload of the cluster, as YAML.
fn workload(kind: WorkloadKind, yaml: &str) -> world::Change {
    world::Change::Workload(kind, Box::new(Event::Apply(serde_saphyr::from_str(yaml).unwrap())))
}

const METALLB_ELSEWHERE: &str = "{metadata: {name: speaker, namespace: other, resourceVersion: '1', labels: {app: metallb, \
                                 component: speaker}}, spec: {template: {spec: {hostNetwork: true}}}}";

#[test]
fn beside_another_metallb_nothing_is_installed_until_it_is_handed_over() {
    let mut bench = Bench::new();
    bench.world.take(workload(WorkloadKind::DaemonSet, METALLB_ELSEWHERE));
    bench.put(Kind::MetalLb, metallb("{}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "ForeignLoadBalancer");
    assert!(message.contains("DaemonSet other/speaker"), "{message}");
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    assert_eq!(bench.changes().len(), 2);

    let mut bench = Bench::installed();
    bench.world.take(workload(WorkloadKind::DaemonSet, METALLB_ELSEWHERE));
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    assert_eq!(bench.changes(), [["apply DaemonSet speaker"]], "what is installed is kept");
    bench.settle();
    assert_eq!(bench.degraded().0, "False");
    let (status, reason, message) = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Incompatible"));
    assert!(message.starts_with("DaemonSet other/speaker: "), "{message}");
}

#[test]
fn its_own_workloads_are_no_other_load_balancer() {
    let mut bench = Bench::installed();
    for (kind, name) in [(WorkloadKind::DaemonSet, "speaker"), (WorkloadKind::Deployment, "controller")] {
        bench.world.take(workload(
            kind,
            &format!(
                "{{metadata: {{name: {name}, namespace: {NAMESPACE}, resourceVersion: '1', labels: {{app: metallb, component: \
                 {name}}}}}, spec: {{template: {{spec: {{hostNetwork: true, containers: [{{ports: [{{containerPort: 7946, \
                 protocol: UDP}}]}}]}}}}}}}}"
            ),
        ));
    }
    bench.settle();
    assert_eq!(bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible").0, "True");
}

#[test]
fn whatever_stands_in_the_way_is_told_with_what_separates_the_two() {
    use crate::neighbours::Neighbour;
    let mut bench = Bench::installed();
    bench.world.take(workload(
        WorkloadKind::DaemonSet,
        "{metadata: {name: svclb-web, namespace: kube-system, resourceVersion: '1'}, spec: {template: {spec: {}}}}",
    ));
    bench.world.take(workload(
        WorkloadKind::Deployment,
        "{metadata: {name: exporter, namespace: m, resourceVersion: '1'}, spec: {template: {spec: {containers: [{ports: \
         [{containerPort: 80, hostPort: 9120}]}]}}}}",
    ));
    let neighbour = |kind: Neighbour, object: Value| {
        world::Change::Neighbour(kind, Box::new(Event::Apply(serde_json::from_value(object).unwrap())))
    };
    let of = |name: &str| json!({"name": name, "resourceVersion": "1"});
    bench.world.take(neighbour(Neighbour::CiliumPool, json!({"metadata": of("blue")})));
    bench.world.take(neighbour(
        Neighbour::KubeProxy,
        json!({"metadata": of("kube-proxy"), "data": {"config.conf": "mode: ipvs"}}),
    ));
    bench.world.take(neighbour(
        Neighbour::CalicoPeer,
        json!({"metadata": of("tor"), "spec": {"peerIP": "192.0.2.1"}}),
    ));
    let mut namespace = of(NAMESPACE);
    namespace["labels"] = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    bench.world.take(neighbour(Neighbour::Namespace, json!({"metadata": namespace})));
    bench.world.take(world::Change::Version("v1.29.3".to_owned()));
    let peer = |address: &str| {
        json!({"apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": {"name": "p", "namespace": NAMESPACE},
               "spec": {"myASN": 64512, "peerASN": 64512, "peerAddress": address}})
    };
    bench.put(Kind::BgpPeer, peer("192.0.2.1"));
    bench.settle();
    let message = || bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible").2;
    let told = message();
    for part in [
        "DaemonSet kube-system/svclb-web: K3s ServiceLB",
        "CiliumLoadBalancerIPPool blue: ",
        "strictARP",
        "BGPPeer tor of Calico speaks BGP with 192.0.2.1",
        "namespace metallb-system enforces Pod Security level baseline",
        "Deployment m/exporter takes port 9120/TCP",
        "Kubernetes v1.29.3 is older than 1.30",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(bench.degraded().0, "False", "it is told, and works all the same");
    bench.put(Kind::BgpPeer, peer("192.0.2.2"));
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"]["loadBalancerClass"] = json!("metallb.io/lan");
    });
    bench.settle();
    let told = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible").2;
    for part in ["svclb-web", "Cilium", "Calico"] {
        assert!(!told.contains(part), "{part}: {told}");
    }
}

fn legacy_config(text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config", "namespace": NAMESPACE},
           "data": {"config": text}})
}

const LEGACY: &str = "
peers: [{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1}]
address-pools:
- {name: Old Pool, protocol: layer2, addresses: [198.51.100.0/28]}
- {name: rendered, protocol: layer2, addresses: [203.0.113.0/28]}
";

fn legacy(bench: &Bench) -> (String, String, String) {
    bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "LegacyConfigImported")
}

#[test]
fn a_configuration_of_an_older_metallb_is_told_and_imported_when_asked_for() {
    let mut bench = Bench::installed();
    bench.put(Kind::AddressPool, address_pool("rendered", "{protocol: layer2, addresses: [203.0.113.0/28]}"));
    bench.settle();
    bench.put(Kind::ConfigMap, legacy_config(LEGACY));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    let plan = bench.plan();
    assert_eq!(plan.reports[0].events.len(), 1);
    assert_eq!(plan.reports[0].events[0].reason, "LegacyConfigFound");
    bench.settle();
    let (status, _, message) = legacy(&bench);
    assert_eq!(
        (status.as_str(), message.as_str()),
        (
            "False",
            "ConfigMap config of an older MetalLB has no effect: set annotation metallb.io/import: \"true\" on this \
             resource to have IPAddressPool old-pool, L2Advertisement old-pool, BGPPeer peer-192-0-2-1 made of it; \
             skipped: pool rendered, whose addresses IPAddressPool rendered has, or delete it"
        )
    );
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["metadata"]["annotations"] = json!({"metallb.io/import": "true"});
    });
    assert_eq!(
        bench.changes(),
        [[
            "create IPAddressPool old-pool",
            "create L2Advertisement old-pool",
            "create BGPPeer peer-192-0-2-1"
        ]]
    );
    bench.settle();
    let pool = bench.live(Kind::IpAddressPool, "old-pool");
    assert_eq!(pool["spec"]["addresses"], json!(["198.51.100.0/28"]));
    assert_eq!(pool["metadata"]["ownerReferences"], Value::Null, "it is the user's");
    let (status, reason, message) = legacy(&bench);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "LegacyConfigImported"));
    assert_eq!(
        message,
        "imported: IPAddressPool old-pool, L2Advertisement old-pool, BGPPeer peer-192-0-2-1; skipped: pool rendered, \
         whose addresses IPAddressPool rendered has"
    );
    bench.delete(&key(Kind::IpAddressPool, "old-pool"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "what the user deletes does not come back");
    bench.delete(&key(Kind::ConfigMap, "config"));
    bench.settle();
    let conditions = &bench.live(Kind::MetalLb, "metallb")["status"]["conditions"];
    assert!(
        conditions.as_array().unwrap().iter().all(|condition| condition["type"] != "LegacyConfigImported")
    );
}

#[test]
fn nothing_is_imported_while_one_entry_has_a_problem() {
    for (text, part) in [
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.0/28]}, {name: b, protocol: ospf}]",
            "ospf",
        ),
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.0/28]}, {name: b, protocol: layer2, \
             addresses: [192.0.2.99]}]",
            "IPAddressPool \"b\": spec.addresses[0]: 192.0.2.99 is a single address: write 192.0.2.99/32",
        ),
        (
            "address-pools: [{name: a, protocol: layer2, addresses: [198.51.100.0/24]}]",
            "198.51.100.0/28 overlaps 198.51.100.0/24 of IPAddressPool \"a\"",
        ),
        (
            "peers: [{my-asn: 64512, peer-asn: 64513, peer-address: 192.0.2.1, hold-time: never}]",
            "spec.holdTime",
        ),
    ] {
        let mut bench = Bench::installed();
        bench
            .put(Kind::AddressPool, address_pool("mine", "{protocol: layer2, addresses: [198.51.100.0/28]}"));
        bench.settle();
        bench.put(Kind::ConfigMap, legacy_config(text));
        bench.edit(Kind::MetalLb, "metallb", |object| {
            object["metadata"]["annotations"] = json!({"metallb.io/import": "true"});
        });
        assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "{text}");
        bench.settle();
        let (status, reason, message) = legacy(&bench);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "LegacyConfigInvalid"), "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_resource_is_made_once_where_the_operator_is_told_to() {
    let mut bench = Bench::new();
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "it was not told to");
    bench.settings.create_metallb = true;
    assert_eq!(bench.changes(), [["create MetalLB metallb"]]);
    bench.settle();
    assert_eq!(bench.live(Kind::MetalLb, "metallb")["spec"], json!({}));
    let record = bench.live(Kind::ConfigMap, create::CREATED);
    assert_eq!(record["metadata"]["ownerReferences"], Value::Null, "it outlives the resource");
    bench.delete(&key(Kind::MetalLb, "metallb"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "what somebody deletes stays deleted");
    bench.delete(&key(Kind::ConfigMap, create::CREATED));
    assert_eq!(bench.changes(), [["create MetalLB metallb"]]);

    let mut bench = Bench::installed();
    bench.settings.create_metallb = true;
    assert_eq!(bench.changes(), [["create ConfigMap metallb-created"]], "one that is there is left alone");

    let mut bench = Bench::unseen();
    bench.settings.create_metallb = true;
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "nothing was seen yet");
}

fn images(number: u8) -> (String, String) {
    (format!("controller:{number}"), format!("speaker:{number}"))
}

#[test]
fn a_new_key_is_written_once_and_a_replaced_one_is_kept_beside_it() {
    let mut bench = Bench::new();
    bench.put(Kind::MetalLb, metallb("{}"));
    let plan = bench.plan();
    let Change::Create(key, secret) = &plan.stages[0][0] else { panic!("{plan:?}") };
    bench.put(key.kind, stored(secret, "Update", bench.now));
    assert!(
        !bench.changes().concat().iter().any(|change| change.contains("Secret")),
        "{:?}",
        bench.changes()
    );
    bench.gossip.see("remembered".to_owned());
    bench.settle();

    bench.edit(Kind::Secret, "metallb-memberlist", |secret| secret["data"]["secretkey"] = json!("bmV3"));
    bench.gossip.see("new".to_owned());
    bench.settle();
    assert_eq!(
        bench.live(Kind::Secret, "metallb-memberlist")["data"],
        json!({"secretkey": "bmV3", "secretkey-previous": "cmVtZW1iZXJlZA=="})
    );
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
    assert_eq!(message, "the rollout of version 2 stopped at step 3 of 4, controller: 0 of 1 pods are ready");
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
    bench.missing = Some(vec!["ServiceAccount speaker may not list nodes".to_owned()]);
    bench.settle();
    assert_eq!(bench.images(), images(1));
    let (_, reason, message) = bench.degraded();
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("RequirementsMissing", "ServiceAccount speaker may not list nodes")
    );
    bench.missing = Some(Vec::new());
    bench.settle();
    assert_eq!(bench.image(Kind::Deployment, "controller"), "controller:2");
}

#[test]
fn what_is_not_managed_is_neither_repaired_nor_upgraded_and_the_difference_is_told() {
    let mut bench = Bench::new();
    bench.put(Kind::MetalLb, metallb("{managementState: Unmanaged}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "nor installed");
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    bench.edit(Kind::MetalLb, "metallb", |object| object["spec"]["managementState"] = json!("Unmanaged"));
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (status, reason, message) = bench.of_metallb("Managed");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Unmanaged"));
    assert!(message.ends_with("not as they would be: Deployment metallb-system/controller"), "{message}");
}
