//! What the Go operator made, of 4.9 and of today: the objects that its users have, written from what is known of them.

use super::*;
use crate::{
    certificate,
    kinds::{OLDER_WEBHOOK_SERVICE, WEBHOOK_SERVICE},
    needs::Converter,
};

/// An object that `manager` wrote, which belongs to the MetalLB resource.
fn written(manager: &str, operation: &str, mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(NAMESPACE);
    object["metadata"]["uid"] = format!("go-{}", object["metadata"]["name"].as_str().unwrap()).into();
    object["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "metallb.io/v1beta1", "kind": "MetalLB", "name": "metallb", "uid": "uid-metallb"}]);
    object["metadata"]["managedFields"] =
        json!([{"manager": manager, "operation": operation, "fieldsV1": fields(&object)}]);
    object
}

fn workload(kind: &str, name: &str, component: &str, labels: &Value, container: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": labels},
           "spec": {"selector": {"matchLabels": {"app": "metallb", "component": component}},
                    "template": {"spec": {"containers": [container]}}}})
}

/// What the operator of 4.9 made: no label of an installer, everything by updates of a program that is called `manager`.
/// The key is the controller's.
fn of_4_9(bench: &mut Bench) {
    let labels = json!({"app": "metallb"});
    let speaker = json!({"name": "speaker", "image": "quay.io/openshift/origin-metallb:4.9",
                         "args": ["--port=7472", "--config=config"],
                         "env": [{"name": "METALLB_ML_SECRET_KEY", "valueFrom": {"secretKeyRef": {"name": "memberlist", "key": "secretkey"}}}]});
    let controller = json!({"name": "controller", "image": "quay.io/openshift/origin-metallb:4.9",
                            "env": [{"name": "METALLB_ML_SECRET_NAME", "value": "memberlist"}]});
    bench.put(
        Kind::DaemonSet,
        written("manager", "Update", workload("DaemonSet", "speaker", "speaker", &labels, &speaker)),
    );
    bench.put(
        Kind::Deployment,
        written(
            "manager",
            "Update",
            workload("Deployment", "controller", "controller", &labels, &controller),
        ),
    );
    bench.put(
        Kind::OlderSecret,
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"secretkey": "b2xk"},
               "metadata": {"name": "memberlist", "namespace": NAMESPACE, "uid": "s", "ownerReferences": [
                   {"apiVersion": "apps/v1", "kind": "Deployment", "name": "controller", "uid": "go-controller"}]}}),
    );
    let config = "address-pools:\n- name: pool\n  protocol: layer2\n  addresses:\n  - 192.0.2.0/28\n";
    bench.put(
        Kind::ConfigMap,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config": config},
               "metadata": {"name": "config", "namespace": NAMESPACE, "uid": "c",
                            "managedFields": [{"manager": "manager", "operation": "Update", "fieldsV1": {}}]}}),
    );
    let mut pool = address_pool("pool", "{protocol: layer2, addresses: [192.0.2.0/28]}");
    pool["apiVersion"] = json!("metallb.io/v1alpha1");
    bench.put(Kind::AddressPool, pool);
    bench.put(Kind::MetalLb, metallb("{}"));
}

fn adopt(bench: &mut Bench) {
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
}

#[test]
fn what_the_operator_of_4_9_installed_is_taken_over_with_its_key_and_its_pools() {
    let mut bench = Bench::new();
    of_4_9(&mut bench);
    // Pools are served beside it: its speakers know nothing of what they become.
    assert_eq!(bench.changes(), [["apply IPAddressPool pool", "apply L2Advertisement pool"]]);
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "ForeignLoadBalancer");
    for named in ["Deployment metallb-system/controller", "DaemonSet metallb-system/speaker"] {
        assert!(message.contains(named), "{named}: {message}");
    }
    assert_eq!(bench.image(Kind::DaemonSet, "speaker"), "quay.io/openshift/origin-metallb:4.9");

    adopt(&mut bench);
    assert_eq!(bench.changes(), [["create Secret metallb-memberlist"]], "the key goes first");
    bench.settle();
    let secret = bench.live(Kind::Secret, "metallb-memberlist");
    assert_eq!(secret["data"]["secretkey"], "b2xk");
    assert_eq!(secret["metadata"]["ownerReferences"][0]["kind"], "MetalLB", "it outlives the Deployment");
    bench.run();
    bench.settle();
    assert_eq!(bench.images(), ("controller:1".to_owned(), "speaker:1".to_owned()));
    for (kind, name) in [(Kind::DaemonSet, "speaker"), (Kind::Deployment, "controller")] {
        let live = bench.live(kind, name);
        assert_eq!(
            live["metadata"]["managedFields"].as_array().unwrap().len(),
            1,
            "{name}: nobody else's field"
        );
        assert_eq!(live["metadata"]["uid"], format!("uid-{name}"));
    }
    // What it rendered its pools to is covered by them: it is told, and left alone.
    let config = bench.live(Kind::ConfigMap, "config");
    assert_eq!(config["metadata"]["uid"], "c");
    let (status, reason, message) = bench.of_metallb("LegacyConfigImported");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "LegacyConfigFound"));
    assert!(message.contains("all that it says is there already"), "{message}");
    assert_eq!(bench.degraded().0, "False", "{}", bench.degraded().2);
    bench.assert_idle();
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"component": "webhook-server"}},
           "metadata": {"name": name, "namespace": NAMESPACE, "uid": name}})
}

fn admission(kind: Kind, service: &str) -> Value {
    let name = kind.only().unwrap();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
           "metadata": {"name": name, "uid": name},
           "webhooks": [{"name": "v.metallb.io", "failurePolicy": "Fail", "clientConfig": {
               "caBundle": "b2xk", "service": {"name": service, "namespace": NAMESPACE, "path": "/validate"}}}]})
}

/// The webhooks' certificate is there.
fn with_certificate(bench: &mut Bench) {
    let names = certificate::names(WEBHOOK_SERVICE, NAMESPACE);
    let material = certificate::issue(certificate::Need::All, None, &names, bench.now).unwrap();
    let data: Map<_, _> = material
        .to_data()
        .into_iter()
        .map(|(key, value)| {
            use base64::Engine;
            (key, base64::prelude::BASE64_STANDARD.encode(value).into())
        })
        .collect();
    let metadata = json!({"name": Kind::Certificate.only(), "namespace": NAMESPACE, "uid": "cert"});
    bench.put(
        Kind::Certificate,
        json!({"apiVersion": "v1", "kind": "Secret", "data": data, "metadata": metadata}),
    );
}

/// What the Go operator of today brought: webhooks in a Deployment of their own.
fn with_webhooks(bench: &mut Bench) {
    let labels = json!({"app": "metallb", MANAGED_BY.0: "Helm"});
    for (kind, name) in [("Deployment", "controller"), ("DaemonSet", "speaker")] {
        let container = json!({"name": name, "image": "quay.io/metallb:main"});
        let object = workload(kind, name, name, &labels, &container);
        let kind = if kind == "Deployment" { Kind::Deployment } else { Kind::DaemonSet };
        bench.put(kind, written(FIELD_MANAGER, "Apply", object));
    }
    let server = workload(
        "Deployment",
        "metallb-operator-webhook-server",
        "webhook-server",
        &json!({}),
        &json!({"name": "webhook-server", "image": "quay.io/metallb:main"}),
    );
    let mut server = written("kubectl-client-side-apply", "Update", server);
    server["metadata"]["ownerReferences"] = json!([]);
    bench.put(Kind::Deployment, server);
    bench.put(Kind::Service, service(OLDER_WEBHOOK_SERVICE));
    bench.put(Kind::OperatorAdmission, admission(Kind::OperatorAdmission, WEBHOOK_SERVICE));
    bench.put(Kind::Admission, admission(Kind::Admission, OLDER_WEBHOOK_SERVICE));
    bench.put(Kind::MetalLb, metallb("{}"));
}

fn asked(bench: &Bench, kind: Kind) -> (String, bool) {
    let name = kind.only().unwrap().to_owned();
    let key = Key { kind, namespace: String::new(), name };
    let live = serde_json::to_value(bench.world.object(&key).unwrap()).unwrap();
    let client = &live["webhooks"][0]["clientConfig"];
    (client["service"]["name"].as_str().unwrap_or_default().to_owned(), client["caBundle"] != "b2xk")
}

fn is_there(bench: &Bench, kind: Kind, name: &str) -> bool {
    bench.world.object(&key(kind, name)).is_some()
}

const SERVER: &str = "metallb-operator-webhook-server";

#[test]
fn what_answers_the_api_server_goes_once_nothing_asks_it_any_more() {
    let mut bench = Bench::new();
    with_webhooks(&mut bench);
    with_certificate(&mut bench);
    bench.carry_out();
    bench.settle();
    assert_eq!(
        asked(&bench, Kind::Admission),
        (OLDER_WEBHOOK_SERVICE.to_owned(), false),
        "not before it is told to"
    );
    let (_, _, message) = bench.degraded();
    assert!(message.contains("it asks Service metallb-webhook-service"), "{message}");

    adopt(&mut bench);
    assert_eq!(bench.changes()[0], ["create Secret metallb-memberlist"]);
    let redirects = |bench: &Bench| {
        let changes = bench.plan().stages.concat();
        let change = changes.into_iter().find(|change| change.key().kind == Kind::Admission);
        change.map(|change| change.wanted().clone())
    };
    // The key, and then, before anything is replaced:
    let Change::Create(secret, object) = &bench.plan().stages[0][0] else { panic!("{:?}", bench.plan()) };
    bench.put(secret.kind, stored(object, "Update", bench.now));
    assert_eq!(
        bench.changes(),
        [["repair ValidatingWebhookConfiguration metallb-webhook-configuration: webhooks"]]
    );
    let wanted = redirects(&bench).unwrap();
    assert_eq!(
        wanted["webhooks"][0]["clientConfig"]["service"],
        json!({"name": WEBHOOK_SERVICE, "namespace": NAMESPACE})
    );
    bench.settle();
    assert_eq!(asked(&bench, Kind::Admission), (WEBHOOK_SERVICE.to_owned(), true));
    assert!(!is_there(&bench, Kind::Deployment, SERVER));
    assert!(!is_there(&bench, Kind::Service, OLDER_WEBHOOK_SERVICE));
    bench.run();
    bench.settle();
    bench.assert_idle();
    assert_eq!(bench.degraded().0, "False", "{}", bench.degraded().2);
}

#[test]
fn what_answers_the_api_server_stays_while_anything_asks_it() {
    // A definition has BGPPeers converted.
    let mut bench = Bench::new();
    with_webhooks(&mut bench);
    with_certificate(&mut bench);
    adopt(&mut bench);
    let converter = Converter { namespace: NAMESPACE.to_owned(), name: OLDER_WEBHOOK_SERVICE.to_owned() };
    bench.missing = Some(Found { converter: Some(converter), ..Found::default() });
    bench.settle();
    bench.run();
    bench.settle();
    assert_eq!(bench.images(), ("controller:1".to_owned(), "speaker:1".to_owned()), "the rest is taken over");
    assert!(
        is_there(&bench, Kind::Deployment, SERVER) && is_there(&bench, Kind::Service, OLDER_WEBHOOK_SERVICE)
    );
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "RequirementsMissing");
    assert!(
        message.starts_with("CustomResourceDefinition bgppeers.metallb.io has Service metallb-system/"),
        "{message}"
    );
    // It speaks no BGP, so that nobody's sessions are in the way of a repair.
    bench.put(
        Kind::FrrConfiguration,
        json!({"apiVersion": "frrk8s.metallb.io/v1beta1", "kind": "FRRConfiguration",
               "metadata": {"name": "fabric", "namespace": "cni", "uid": "f"}}),
    );
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    assert_eq!(bench.changes(), [["repair Deployment controller: spec.replicas"]]);
    bench.settle();
    assert_eq!(bench.degraded().1, "RequirementsMissing");
    bench.run_controller();
    bench.missing = Some(Found::default());
    bench.settle();
    assert!(
        !is_there(&bench, Kind::Deployment, SERVER)
            && !is_there(&bench, Kind::Service, OLDER_WEBHOOK_SERVICE)
    );
    assert_eq!(bench.degraded().0, "False", "{}", bench.degraded().2);

    // Somebody else brings the certificate, and says whom it trusts.
    let mut bench = Bench::new();
    with_webhooks(&mut bench);
    adopt(&mut bench);
    bench.settle();
    assert_eq!(asked(&bench, Kind::Admission), (OLDER_WEBHOOK_SERVICE.to_owned(), false));
    assert!(
        is_there(&bench, Kind::Deployment, SERVER) && is_there(&bench, Kind::Service, OLDER_WEBHOOK_SERVICE)
    );
    assert!(bench.degraded().2.contains("is another installation's"), "{}", bench.degraded().2);

    // It cannot be redirected: nothing goes before that is done.
    let mut bench = Bench::new();
    with_webhooks(&mut bench);
    with_certificate(&mut bench);
    bench.settle();
    adopt(&mut bench);
    let Change::Create(secret, object) = &bench.plan().stages[0][0] else { panic!("{:?}", bench.plan()) };
    bench.put(secret.kind, stored(object, "Update", bench.now));
    let plan = bench.plan();
    let change = &plan.stages[0][0];
    bench.attempts.failed(change.key(), change.wanted(), "forbidden".to_owned(), bench.now);
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    assert_eq!(bench.plan().reports[0].status["conditions"][3]["reason"], "RequirementsMissing");
}

/// The parts of frr-k8s, and a monitor that nobody asks for here.
fn frr_k8s(bench: &mut Bench, manager: &str) {
    let labels = json!({"app": "frr-k8s", MANAGED_BY.0: "Helm"});
    let parts = [
        (Kind::Deployment, "Deployment", "statuscleaner"),
        (Kind::ConfigMap, "ConfigMap", "frr-startup"),
        (Kind::Service, "Service", "frr-k8s-webhook-service"),
        (Kind::ServiceMonitor, "ServiceMonitor", "speaker-monitor"),
    ];
    for (kind, text, name) in parts {
        let object = json!({"kind": text, "metadata": {"name": name, "labels": labels}});
        bench.put(kind, written(manager, "Apply", object));
    }
    let mut object = written(manager, "Apply", admission(Kind::FrrAdmission, "frr-k8s-webhook-service"));
    object["metadata"]["ownerReferences"] = json!([]);
    object["metadata"].as_object_mut().unwrap().remove("namespace");
    bench.put(Kind::FrrAdmission, object);
}

#[test]
fn parts_of_frr_k8s_go_where_the_go_operator_applied_them_and_only_there() {
    let mut gone: Vec<String> = [
        "Deployment statuscleaner",
        "ConfigMap frr-startup",
        "Service frr-k8s-webhook-service",
        "ServiceMonitor speaker-monitor",
        "ValidatingWebhookConfiguration frr-k8s-validating-webhook-configuration",
    ]
    .map(|name| format!("delete {name}"))
    .to_vec();
    gone.sort();
    let deletions = |bench: &Bench| {
        let mut all: Vec<String> = bench.changes().concat();
        all.retain(|change| change.starts_with("delete"));
        all.sort();
        all
    };
    let installed = |manager: &str| {
        let mut bench = Bench::installed();
        bench.run();
        bench.settle();
        frr_k8s(&mut bench, manager);
        bench
    };
    let mut bench = installed(FIELD_MANAGER);
    assert_eq!(deletions(&bench), Vec::<String>::new(), "nobody said so");
    adopt(&mut bench);
    assert_eq!(deletions(&bench), gone);
    bench.settle();
    bench.assert_idle();

    // Helm's own, or another operator's.
    let mut bench = installed("helm");
    adopt(&mut bench);
    assert_eq!(deletions(&bench), Vec::<String>::new());

    // Of another resource, and for an frr-k8s of another namespace.
    let mut bench = installed(FIELD_MANAGER);
    adopt(&mut bench);
    for (kind, name) in [
        (Kind::Deployment, "statuscleaner"),
        (Kind::ConfigMap, "frr-startup"),
        (Kind::Service, "frr-k8s-webhook-service"),
        (Kind::ServiceMonitor, "speaker-monitor"),
    ] {
        bench.edit(kind, name, |object| object["metadata"]["ownerReferences"][0]["uid"] = json!("other"));
    }
    let mut elsewhere =
        written(FIELD_MANAGER, "Apply", admission(Kind::FrrAdmission, "frr-k8s-webhook-service"));
    elsewhere["metadata"].as_object_mut().unwrap().remove("namespace");
    elsewhere["webhooks"][0]["clientConfig"]["service"]["namespace"] = json!("frr-k8s-system");
    bench.put(Kind::FrrAdmission, elsewhere);
    assert_eq!(deletions(&bench), Vec::<String>::new());
}
