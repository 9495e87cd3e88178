mod adopt;
mod beside;
mod compatibility;
mod import;
mod keys;
mod older;
mod pools;
mod replay;
mod upgrade;

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use serde_json::{Map, json};

use super::*;
use crate::{neighbours::Neighbour, workload::WorkloadKind, world};

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
    missing: Option<Found>,
    unstored: Vec<String>,
    /// When the operator began to see a rollout.
    began: Timestamp,
    /// For how long it has seen all work.
    works_for: Duration,
    /// How often the operator wrote.
    writes: usize,
    /// After how many of them it is killed.
    dies_after: Option<usize>,
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
            missing: Some(Found::default()),
            unstored: Vec::new(),
            began: START.parse().unwrap(),
            works_for: Duration::from_secs(3600),
            writes: 0,
            dies_after: None,
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
        for kind in Neighbour::ALL {
            for event in [Event::Init, Event::InitDone] {
                bench.world.take(world::Change::Neighbour(kind, Box::new(event)));
            }
        }
        for event in [Event::Init, Event::InitDone] {
            bench.world.take(world::Change::Pod(Box::new(event)));
        }
        for event in [Event::Init, Event::InitDone] {
            bench.world.take(world::Change::Node(Box::new(event)));
        }
        bench.see_webhooks();
        bench
    }

    /// The webhook configurations are there that the installation brings.
    fn see_webhooks(&mut self) {
        for kind in crate::kinds::ADMISSIONS {
            let name = kind.only();
            let object =
                json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "webhooks": []});
            let event = Event::Apply(serde_json::from_value(object).unwrap());
            self.world.take(world::Change::Object(kind, Box::new(event)));
        }
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
            rolling_for: self.now.duration_since(self.began).try_into().unwrap(),
            works_for: self.works_for,
            gossip: &self.gossip,
            missing: self.missing.as_ref(),
            unstored: &self.unstored,
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

    /// What is to be told in Events.
    fn events(&self) -> Vec<EventNote> {
        self.plan().reports.into_iter().flat_map(|report| report.events).collect()
    }

    /// Carries plans out until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10 {
            let reports = self.carry_out();
            for report in &reports {
                let mut object = self.world.object(&report.key).map(serde_json::to_value).unwrap().unwrap();
                object["status"] = report.status.clone();
                self.put(report.key.kind, object);
            }
            if reports.is_empty() {
                return;
            }
        }
        panic!("there is no end to it: {:?}", self.plan());
    }

    /// Carries plans out until nothing is left but to tell what is returned.
    fn carry_out(&mut self) -> Vec<StatusReport> {
        'plans: for _ in 0..10 {
            let Plan { stages, reports, .. } = self.plan();
            if stages.is_empty() {
                return reports;
            }
            for change in stages.iter().flatten() {
                match change {
                    Change::Create(key, object) => self.put(key.kind, stored(object, "Update", self.now)),
                    Change::Apply(key, object, _) if key.kind.is_admission() => {
                        let live = serde_json::to_value(self.world.object(key).unwrap()).unwrap();
                        self.put(key.kind, merged(live, object));
                    }
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
                self.writes += 1;
                if self.dies_after == Some(self.writes) {
                    self.restart();
                    continue 'plans;
                }
            }
        }
        panic!("there is no end to it: {:?}", self.plan());
    }

    /// Another operator takes over, which knows nothing but what is there.
    fn restart(&mut self) {
        self.attempts = Attempts::default();
        self.gossip = Gossip::new("another".to_owned());
        (self.began, self.works_for) = (self.now, Duration::ZERO);
        let secret = self.world.object(&key(Kind::Secret, "metallb-memberlist"));
        if let Some(secret) = secret.and_then(|secret| secret.data["data"]["secretkey"].as_str()) {
            self.gossip.see(secret.to_owned(), None);
        }
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
            "{metadata: {name: node1, labels: {kubernetes.io/os: linux}, resourceVersion: '1'}, status: {conditions: [{type: Ready, status: 'True'}]}}",
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
                                      "numberReady": 1, "numberAvailable": 1});
        });
    }

    fn run_controller(&mut self) {
        self.edit(Kind::Deployment, "controller", |object| {
            object["status"] = json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
                                      "availableReplicas": 1});
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

/// How it is told that nothing is installed because of IP failover.
const REFUSED: &str =
    "nothing is installed beside IP failover, which claims addresses on the same network: remove ";

fn warning(reason: &str, message: &str) -> EventNote {
    EventNote { warning: true, reason: reason.to_owned(), message: message.to_owned() }
}

fn key(kind: Kind, name: &str) -> Key {
    Key { kind, namespace: NAMESPACE.to_owned(), name: name.to_owned() }
}

fn metallb(spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    json!({"apiVersion": "metallb.io/v1beta1", "kind": "MetalLB", "spec": spec,
           "metadata": {"name": "metallb", "namespace": NAMESPACE, "uid": "uid-metallb", "generation": 1}})
}

fn neighbour(kind: Neighbour, object: Value) -> world::Change {
    world::Change::Neighbour(kind, Box::new(Event::Apply(serde_json::from_value(object).unwrap())))
}

fn node(object: Value) -> world::Change {
    let mut node = serde_json::from_value(object).unwrap();
    crate::health::trim(&mut node);
    world::Change::Node(Box::new(Event::Apply(node)))
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

/// A webhook configuration as the API server stores it once the operator has applied a part of it: webhooks are known by
/// their names.
fn merged(mut live: Value, applied: &Value) -> Value {
    let mut owned = Map::new();
    for webhook in applied["webhooks"].as_array().unwrap() {
        let mut webhooks = live["webhooks"].as_array_mut().unwrap().iter_mut();
        let found = webhooks.find(|found| found["name"] == webhook["name"]).unwrap();
        for (field, value) in webhook["clientConfig"].as_object().unwrap() {
            for (name, value) in value.as_object().into_iter().flatten() {
                found["clientConfig"][field][name] = value.clone();
            }
            if !value.is_object() {
                found["clientConfig"][field] = value.clone();
            }
        }
        let mut client = json!({"f:caBundle": {}});
        if webhook["clientConfig"]["service"].is_object() {
            client["f:service"] = json!({"f:name": {}, "f:namespace": {}});
        }
        let key = format!("k:{}", json!({"name": webhook["name"]}));
        owned.insert(key, json!({".": {}, "f:name": {}, "f:clientConfig": client}));
    }
    let entry = json!({"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:webhooks": owned}});
    live["metadata"]["managedFields"] = json!([entry]);
    live
}

/// Every field is owned but what names the object; lists are atomic.
fn fields(object: &Value) -> Value {
    let mut all = owned(object);
    for name in ["apiVersion", "kind"] {
        all.remove(&format!("f:{name}"));
    }
    if let Some(metadata) = all.get_mut("f:metadata").and_then(Value::as_object_mut) {
        for name in ["name", "namespace", "resourceVersion"] {
            metadata.remove(&format!("f:{name}"));
        }
    }
    Value::Object(all)
}

fn owned(object: &Value) -> Map<String, Value> {
    let all = object.as_object().into_iter().flatten();
    all.map(|(key, value)| (format!("f:{key}"), owned(value).into())).collect()
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
fn of_what_was_there_at_the_start_it_is_known_that_it_was_as_wanted() {
    let mut bench = Bench::installed();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    bench.delete(&key(Kind::NetworkPolicy, "controller"));
    // The next operator.
    bench.attempts = Attempts::default();
    let found: BTreeMap<Key, Value> = bench.plan().found.into_iter().collect();
    let names: Vec<_> = found.keys().map(ToString::to_string).collect();
    assert_eq!(
        names,
        [
            "IPAddressPool metallb-system/p",
            "L2Advertisement metallb-system/p",
            "Secret metallb-system/metallb-memberlist",
            "ConfigMap metallb-system/metallb-excludel2",
            "Deployment metallb-system/controller",
            "DaemonSet metallb-system/speaker",
        ]
    );
    for (key, object) in found {
        bench.attempts.found(key, &object);
    }
    assert_eq!(bench.plan().found, [], "once is enough");
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    bench.delete(&key(Kind::L2Advertisement, "p"));
    let repaired = |bench: &mut Bench| {
        let changes = bench.plan().stages.concat();
        let succeeded = |change: &Change| {
            bench.attempts.succeeded(change.key(), change.wanted(), None, None, START.parse().unwrap())
        };
        let mut all: Vec<_> = changes
            .iter()
            .map(|change| change.key().to_string())
            .zip(changes.iter().map(succeeded))
            .collect();
        all.sort();
        all
    };
    let want = [
        ("Deployment metallb-system/controller".to_owned(), true),
        ("L2Advertisement metallb-system/p".to_owned(), true),
        // It was gone already.
        ("NetworkPolicy metallb-system/controller".to_owned(), false),
    ];
    assert_eq!(repaired(&mut bench), want);
}

#[test]
fn what_a_cluster_need_not_know_and_the_operator_may_not_see_is_named() {
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    let sources = [
        world::Source::Objects(Kind::ServiceMonitor),
        world::Source::Objects(Kind::FrrConfiguration),
        world::Source::Workloads(WorkloadKind::DeploymentConfig),
    ];
    for source in sources {
        let text = format!("cannot watch {source}: forbidden");
        bench.world.take(world::Change::Refused(source, text.clone()));
        bench.settle();
        let (_, reason, message) = bench.degraded();
        assert_eq!((reason.as_str(), message.as_str()), ("WatchFailed", text.as_str()));
        bench.world.take(world::Change::Absent(source));
        bench.settle();
        assert_eq!(bench.degraded().0, "False");
        bench.world.take(world::Change::Fault(source, "its server is down".to_owned()));
        bench.settle();
        assert_eq!(bench.degraded().0, "False", "that passes");
    }
}

#[test]
fn what_cannot_be_stored_anew_is_told() {
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    bench.unstored = vec!["objects of addresspools.metallb.io are still stored".to_owned()];
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!((reason.as_str(), message.as_str()), ("ApplyFailed", bench.unstored[0].as_str()));
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
fn while_a_spec_has_problems_what_worked_before_is_repaired_and_what_did_not_is_left_alone() {
    let break_spec = |bench: &mut Bench| {
        bench.edit(Kind::MetalLb, "metallb", |object| {
            object["spec"] = json!({"logLevel": "debug", "bgpBackend": "bird"});
            object["metadata"]["generation"] = json!(3);
        });
    };
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    break_spec(&mut bench);
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    bench.delete(&key(Kind::ConfigMap, "metallb-excludel2"));
    assert_eq!(bench.changes(), [["apply ConfigMap metallb-excludel2"], ["apply DaemonSet speaker"]]);
    bench.settle();
    let arguments =
        &bench.live(Kind::DaemonSet, "speaker")["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(arguments.to_string().contains("--log-level=info"), "{arguments}");

    // Changed, not known to work yet, and then broken.
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"] = json!({"logLevel": "debug"});
        object["metadata"]["generation"] = json!(2);
    });
    bench.settle();
    break_spec(&mut bench);
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
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
    let found = "DaemonSet ns/ha (label ipfailover)";
    assert_eq!(
        bench.events(),
        [
            warning("IPFailoverPresent", &format!("{REFUSED}{found}")),
            warning("IPFailoverPresent", &format!("IP failover is there: {found}")),
        ]
    );
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

    let mut bench = Bench::installed();
    bench.world.take(keepalived());
    let mut again = metallb("{}");
    again["metadata"]["uid"] = json!("uid-next");
    bench.put(Kind::MetalLb, again);
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "what is left of a deleted one is not installed");
    bench.settle();
    assert_eq!(bench.degraded().1, "IPFailoverPresent");

    for policy in ["Warn", "Ignore"] {
        let mut bench = Bench::new();
        bench.world.take(keepalived());
        bench.put(Kind::MetalLb, metallb(&format!("{{ipFailoverPolicy: {policy}}}")));
        assert_eq!(bench.changes().len(), 2, "{policy}");
        bench.carry_out();
        let there = format!("IP failover is there: {found}; what is installed goes on running beside it");
        let told = if policy == "Warn" { vec![warning("IPFailoverPresent", &there)] } else { Vec::new() };
        assert_eq!(bench.events(), told, "{policy}");
        bench.settle();
        let absent = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "IPFailoverAbsent");
        assert_eq!(absent.0, if policy == "Warn" { "False" } else { "True" });
    }
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
    // An frr-k8s that somebody else installed has objects of these names.
    bench.put(Kind::ConfigMap, config_map("frr-startup", json!({}), "uid-frr-k8s"));
    let frr = json!({"name": "frr-k8s-validating-webhook-configuration", "uid": "frr",
                     "labels": {"app.kubernetes.io/part-of": "metallb"}});
    bench.put(Kind::FrrAdmission, json!({"metadata": frr, "webhooks": []}));
    bench.put(
        Kind::DaemonSet,
        json!({"metadata": {"name": "frr-k8s", "namespace": "frr-k8s-system", "uid": "frr"}}),
    );
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
fn events_are_written_only_where_the_operator_may() {
    let mut bench = Bench::installed();
    for (name, namespace) in [("second", NAMESPACE), ("metallb", "default")] {
        let mut other = metallb("{}");
        other["metadata"]["name"] = json!(name);
        other["metadata"]["namespace"] = json!(namespace);
        bench.put(Kind::MetalLb, other);
    }
    let mut told: Vec<_> = Vec::new();
    for report in bench.plan().reports {
        told.push((report.key.namespace.clone(), report.events.len()));
    }
    told.sort();
    assert_eq!(told, [("default".to_owned(), 0), (NAMESPACE.to_owned(), 1)]);
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
    bench.see_webhooks();
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
