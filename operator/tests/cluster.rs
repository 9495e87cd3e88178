//! Requests and what is made of the answers: an API server that answers from a script.

use std::sync::{Arc, Mutex};

use kube::{
    Client,
    client::Body,
    core::{DynamicObject, Status},
};
use metallb_operator::{
    cluster::{Cluster, Outcome},
    kinds::{Key, Kind},
    plan::{Change, EventNote, Seen, StatusReport},
};
use metallb_runtime::lease::{Leadership, Lease};
use serde_json::{Value, json};
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
