//! Requests and what is made of the answers: an API server that answers from a script.

use std::sync::{Arc, Mutex};

use kube::{
    Client,
    client::Body,
    core::{DynamicObject, Status},
};
use metallb_api::conditions::Report;
use metallb_operator::{
    cluster::{Cluster, Outcome},
    kinds::{Key, Kind},
    plan::{Change, EventNote, Seen, StatusReport},
};
use metallb_runtime::lease::{Leadership, Lease};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_test::mock;

/// An answer of the script: status code and body. `None` leaves the request without an answer.
type Answer = Option<(u16, Value)>;

/// What was asked besides the Lease: method, path with query, body.
type Log = Arc<Mutex<Vec<(String, String, Value)>>>;

/// A client whose requests for Leases are granted, until `taken` says that somebody else holds it; all others get
/// the answers of `script` in turn.
fn api_server(script: Vec<Answer>, taken: &CancellationToken) -> (Client, Log) {
    let (service, mut handle) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let log = Log::default();
    let (requests, taken) = (log.clone(), taken.clone());
    tokio::spawn(async move {
        let mut script = script.into_iter();
        let mut unanswered = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let path = parts.uri.path_and_query().unwrap().to_string();
            let (code, answer) = if path.contains("/leases") {
                lease(parts.method.as_str(), body, taken.is_cancelled())
            } else {
                requests.lock().unwrap().push((parts.method.to_string(), path, body));
                match script.next() {
                    Some(Some(answer)) => answer,
                    Some(None) => {
                        unanswered.push(send);
                        continue;
                    }
                    None => panic!("the script ends before the requests"),
                }
            };
            let response =
                http::Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap()));
            send.send_response(response.unwrap());
        }
    });
    (Client::new(service, "default"), log)
}

fn lease(method: &str, mut asked: Value, taken: bool) -> (u16, Value) {
    let object = |holder: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
               "metadata": {"name": "l", "namespace": "ns", "resourceVersion": "7"},
               "spec": {"holderIdentity": holder, "leaseDurationSeconds": 10}})
    };
    match (method, taken) {
        ("GET", true) => (200, object("other")),
        ("GET", false) => (404, refusal(404, "NotFound", "no such Lease")),
        (_, true) => (409, refusal(409, "Conflict", "somebody else wrote it")),
        (_, false) => {
            asked["metadata"]["resourceVersion"] = json!("7");
            (200, asked)
        }
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> Value {
    let status = Status { code, reason: reason.to_owned(), message: message.to_owned(), ..Status::default() };
    let mut status = serde_json::to_value(status).unwrap();
    status["status"] = json!("Failure");
    status["details"] = json!({"name": "controller"});
    status
}

async fn leading(client: &Client) -> Leadership {
    let lease = Lease::new(client.clone(), "ns", "l", "me");
    lease.acquire(&CancellationToken::new()).await.unwrap().unwrap()
}

fn key() -> Key {
    Key { kind: Kind::Deployment, namespace: "ns".to_owned(), name: "controller".to_owned() }
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "controller", "namespace": "ns"},
           "spec": {"replicas": 1}})
}

/// What comes of one apply that is answered so.
async fn apply(answer: Answer) -> (Outcome, Log) {
    let (client, log) = api_server(vec![answer], &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    (cluster.perform(&Change::Apply(key(), deployment(), None)).await, log)
}

#[tokio::test]
async fn an_apply_is_forced_under_the_operators_name() {
    let (outcome, log) = apply(Some((200, deployment()))).await;
    assert!(
        matches!(outcome, Outcome::Written(object) if object.metadata.name.as_deref() == Some("controller"))
    );
    let path = "/apis/apps/v1/namespaces/ns/deployments/controller?&force=true&fieldManager=metallb-operator";
    assert_eq!(*log.lock().unwrap(), [("PATCH".to_owned(), path.to_owned(), deployment())]);
}

#[tokio::test]
async fn conflict_and_not_found_mean_that_what_was_seen_is_outdated() {
    for (code, reason) in [(409, "Conflict"), (409, "AlreadyExists"), (404, "NotFound")] {
        let (outcome, _) = apply(Some((code, refusal(code, reason, "no")))).await;
        assert!(matches!(outcome, Outcome::Outdated), "{code} {reason}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_the_object_and_the_servers_words() {
    let (outcome, _) = apply(Some((422, refusal(422, "Invalid", "spec.selector: field is immutable")))).await;
    let Outcome::Failed(message) = outcome else { panic!("{outcome:?}") };
    assert_eq!(message, "Deployment ns/controller: spec.selector: field is immutable");
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_a_failure_and_not_an_outdated_object() {
    let mut missing = refusal(404, "NotFound", "the server could not find the requested resource");
    missing["details"] = json!({});
    let (outcome, _) = apply(Some((404, missing))).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up() {
    let (outcome, _) = apply(None).await;
    let Outcome::Failed(message) = outcome else { panic!("{outcome:?}") };
    assert_eq!(message, "Deployment ns/controller: the API server did not answer within 5 s");
}

#[tokio::test]
async fn only_the_object_that_was_seen_is_deleted() {
    let answer =
        json!({"apiVersion": "v1", "kind": "Status", "status": "Success", "metadata": {}, "code": 200});
    let (client, log) = api_server(vec![Some((200, answer))], &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    let seen = Seen { uid: "u".to_owned(), resource_version: "3".to_owned() };
    let outcome = cluster.perform(&Change::Delete(key(), seen)).await;
    assert!(matches!(outcome, Outcome::Removed), "{outcome:?}");
    let (method, _, body) = log.lock().unwrap()[0].clone();
    assert_eq!(method, "DELETE");
    assert_eq!(body["preconditions"], json!({"uid": "u", "resourceVersion": "3"}));
    assert_eq!(body["propagationPolicy"], "Background");
}

fn report() -> StatusReport {
    StatusReport {
        key: Key { kind: Kind::MetalLb, namespace: "ns".to_owned(), name: "metallb".to_owned() },
        resource_version: "5".to_owned(),
        status: json!({"conditions": []}),
        regarding: serde_json::from_value(json!({"kind": "MetalLB", "name": "metallb", "namespace": "ns"}))
            .unwrap(),
        events: vec![EventNote {
            warning: true,
            reason: "CrashLooping".to_owned(),
            message: "pod x".to_owned(),
        }],
    }
}

#[tokio::test]
async fn a_status_is_written_for_the_version_that_was_judged_and_then_its_event() {
    let object: DynamicObject = serde_json::from_value(json!({"metadata": {"name": "metallb"}})).unwrap();
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": null});
    let script = vec![Some((200, serde_json::to_value(object).unwrap())), Some((201, event))];
    let (client, log) = api_server(script, &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    let outcome = cluster.report(&report()).await;
    assert!(matches!(outcome, Outcome::Written(_)), "{outcome:?}");
    let log = log.lock().unwrap();
    assert_eq!(log[0].2, json!({"metadata": {"resourceVersion": "5"}, "status": {"conditions": []}}));
    let told = (&log[1].2["type"], &log[1].2["reason"], &log[1].2["note"], &log[1].2["reportingController"]);
    assert_eq!(
        told,
        (&json!("Warning"), &json!("CrashLooping"), &json!("pod x"), &json!("metallb-operator"))
    );
}

#[tokio::test]
async fn a_status_of_another_version_tells_no_event() {
    let (client, log) =
        api_server(vec![Some((409, refusal(409, "Conflict", "no")))], &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    assert!(matches!(cluster.report(&report()).await, Outcome::Outdated));
    assert_eq!(log.lock().unwrap().len(), 1);
}

fn report_of(status: bool) -> Report {
    let message = if status { "" } else { "a change is being carried out" };
    Report { kind: "Upgradeable", status, reason: "Upgradeable", message: message.to_owned() }
}

#[tokio::test]
async fn olm_is_told_what_it_has_not_been_told_yet() {
    let condition = |status: &str, message: &str| {
        json!({"type": "Upgradeable", "status": status, "reason": "Upgradeable", "message": message,
               "lastTransitionTime": "2030-01-01T00:00:00Z"})
    };
    let object = |conditions: Value| {
        json!({"apiVersion": "operators.coreos.com/v2", "kind": "OperatorCondition", "spec": {"conditions": conditions},
               "metadata": {"name": "metallb.v1", "namespace": "ns", "resourceVersion": "9", "generation": 4}})
    };
    let others = json!({"type": "Other", "status": "True", "reason": "R", "message": "",
                        "lastTransitionTime": "2030-01-01T00:00:00Z"});
    let busy = "a change is being carried out";
    let table = [
        ("nothing was told", json!([others]), false, Some(2)),
        ("the same was told", json!([condition("False", busy)]), false, None),
        ("the opposite was told", json!([condition("False", busy), others]), true, Some(2)),
    ];
    for (name, before, status, want) in table {
        let mut script = vec![Some((200, object(before)))];
        script.extend(want.map(|_| Some((200, object(json!([]))))));
        let (client, log) = api_server(script, &CancellationToken::new());
        let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
        cluster.tell_olm("ns", "metallb.v1", &report_of(status)).await;
        let log = log.lock().unwrap();
        let path = "/apis/operators.coreos.com/v2/namespaces/ns/operatorconditions/metallb.v1";
        assert!(log.iter().all(|(_, asked, _)| asked.starts_with(path)), "{name}: {log:?}");
        let written = log.get(1).map(|(method, _, body)| {
            assert_eq!(
                (method.as_str(), &body["metadata"]["resourceVersion"]),
                ("PATCH", &json!("9")),
                "{name}"
            );
            let conditions = body["spec"]["conditions"].as_array().unwrap();
            let told = conditions.iter().find(|told| told["type"] == "Upgradeable").unwrap();
            assert_eq!(told["status"], if status { "True" } else { "False" }, "{name}");
            conditions.len()
        });
        assert_eq!(written, want, "{name}");
    }
    let missing = refusal(404, "NotFound", "no such OperatorCondition");
    let (client, _) = api_server(vec![Some((404, missing))], &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    let outcome = cluster.tell_olm("ns", "metallb.v1", &report_of(true)).await;
    assert!(matches!(outcome, Outcome::Removed), "{outcome:?}");
}

/// A definition whose objects are stored as v1beta2, and were stored as `stored`.
fn definition(name: &str, stored: &[&str]) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let version =
        |name: &str| json!({"name": name, "served": true, "storage": name == "v1beta2", "schema": schema});
    let (plural, group) = name.split_once('.').unwrap();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
           "metadata": {"name": name, "resourceVersion": "3"},
           "spec": {"group": group, "scope": "Namespaced", "names": {"kind": "BGPPeer", "plural": plural},
                    "versions": [version("v1beta1"), version("v1beta2")]},
           "status": {"storedVersions": stored}})
}

#[tokio::test]
async fn what_is_stored_in_an_older_version_is_stored_anew_and_then_that_is_noted() {
    let peer = |name: &str| {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
               "metadata": {"name": name, "namespace": "elsewhere", "resourceVersion": "5"}})
    };
    let list = |items: Value, token: &str| {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": items,
               "metadata": {"continue": token}})
    };
    let script = vec![
        Some((200, definition("addresspools.metallb.io", &["v1beta2"]))),
        Some((200, definition("bgppeers.metallb.io", &["v1beta1", "v1beta2"]))),
        Some((200, list(json!([peer("a")]), "more"))),
        Some((200, peer("a"))),
        Some((200, list(json!([peer("b")]), ""))),
        Some((409, refusal(409, "Conflict", "somebody wrote it"))),
        Some((200, definition("bgppeers.metallb.io", &["v1beta2"]))),
    ];
    let (client, log) = api_server(script, &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    let (told, is_told) = watch::channel(Vec::new());
    cluster.store_anew(&CancellationToken::new(), &told).await;
    assert_eq!(*is_told.borrow(), Vec::<String>::new());
    let log = log.lock().unwrap();
    let asked: Vec<_> =
        log.iter().map(|(method, path, _)| format!("{method} {}", path.split('?').next().unwrap())).collect();
    let peers = "/apis/metallb.io/v1beta2";
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(
        asked,
        [
            format!("GET {definitions}/addresspools.metallb.io"),
            format!("GET {definitions}/bgppeers.metallb.io"),
            format!("GET {peers}/bgppeers"),
            format!("PATCH {peers}/namespaces/elsewhere/bgppeers/a"),
            format!("GET {peers}/bgppeers"),
            format!("PATCH {peers}/namespaces/elsewhere/bgppeers/b"),
            format!("PATCH {definitions}/bgppeers.metallb.io/status"),
        ]
    );
    assert_eq!(log[3].2, json!({"metadata": {"resourceVersion": "5"}}), "nothing is changed");
    assert!(log[4].1.contains("continue=more"), "{}", log[4].1);
    assert_eq!(
        log[6].2,
        json!({"metadata": {"resourceVersion": "3"}, "status": {"storedVersions": ["v1beta2"]}})
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_stored_anew_is_tried_again_and_noted_only_then() {
    let nothing = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": [], "metadata": {}});
    let outdated = definition("addresspools.metallb.io", &["v1beta1", "v1beta2"]);
    let current = |name: &str| Some((200, definition(name, &["v1beta2"])));
    let script = vec![
        Some((200, outdated.clone())),
        Some((403, refusal(403, "Forbidden", "may not list"))),
        // The other kind does not wait for this one.
        current("bgppeers.metallb.io"),
        Some((200, outdated)),
        Some((200, nothing)),
        current("addresspools.metallb.io"),
        current("bgppeers.metallb.io"),
    ];
    let (client, log) = api_server(script, &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    let (told, is_told) = watch::channel(Vec::new());
    cluster.store_anew(&CancellationToken::new(), &told).await;
    let methods: Vec<_> = log.lock().unwrap().iter().map(|(method, ..)| method.clone()).collect();
    assert_eq!(methods, ["GET", "GET", "GET", "GET", "GET", "PATCH", "GET"]);
    assert!(!is_told.has_changed().unwrap(), "it passed");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_stored_anew_holds_no_other_up_and_is_told() {
    let object = |name: &str| json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": "5"}});
    let list = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {},
                      "items": [object("a"), object("b"), object("c")]});
    let round = {
        let refused = || Some((422, refusal(422, "Invalid", "spec.addresses: Required value")));
        let outdated = Some((200, definition("addresspools.metallb.io", &["v1beta1", "v1beta2"])));
        [
            outdated,
            Some((200, list.clone())),
            refused(),
            Some((200, object("b"))),
            refused(),
            Some((200, definition("bgppeers.metallb.io", &["v1beta2"]))),
        ]
    };
    let script: Vec<_> = round.into_iter().chain([None]).collect();
    let (client, log) = api_server(script, &CancellationToken::new());
    let cluster = Cluster::new(client.clone(), leading(&client).await, "me");
    let (told, mut is_told) = watch::channel(Vec::new());
    let cancel = CancellationToken::new();
    tokio::select! {
        () = cluster.store_anew(&cancel, &told) => panic!("it is not done"),
        changed = is_told.changed() => changed.unwrap(),
    }
    assert_eq!(
        *is_told.borrow(),
        [
            "objects of addresspools.metallb.io are still stored in an older version: ns/a: spec.addresses: Required value, \
          and 1 more"
        ]
    );
    let methods: Vec<_> = log.lock().unwrap().iter().map(|(method, ..)| method.clone()).collect();
    assert_eq!(methods, ["GET", "GET", "PATCH", "PATCH", "PATCH", "GET"]);
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nothing_is_sent() {
    let taken = CancellationToken::new();
    let (client, log) = api_server(Vec::new(), &taken);
    let leadership = leading(&client).await;
    let cluster = Cluster::new(client, leadership.clone(), "me");
    taken.cancel();
    leadership.lost().await;
    let outcome = cluster.perform(&Change::Apply(key(), deployment(), None)).await;
    assert!(matches!(outcome, Outcome::NotLeading), "{outcome:?}");
    assert!(log.lock().unwrap().is_empty());
}
