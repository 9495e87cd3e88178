//! The writes against a scripted API server: what is asked, and what each answer leads to.

use std::time::Duration;

use kube::client::Body;
use metallb_core::{allocator::PoolEditPolicy, assigner::Assigner, served::serve};
use metallb_runtime::lease::Lease;
use tokio_util::sync::CancellationToken;
use tower_test::mock;

use super::*;

type Handle = mock::Handle<http::Request<Body>, http::Response<Body>>;

/// A request as the API server sees it: method, path with query, body.
#[derive(Debug, PartialEq)]
struct Asked {
    method: String,
    path: String,
    body: Value,
}

/// Takes the next request and answers it.
async fn answer(server: &mut Handle, code: u16, body: &Value) -> Asked {
    let (request, send) = server.next_request().await.expect("a request");
    let (head, sent) = request.into_parts();
    let bytes = sent.collect_bytes().await.expect("a body");
    send.send_response(
        http::Response::builder()
            .status(code)
            .body(Body::from(body.to_string().into_bytes()))
            .expect("a response"),
    );
    Asked {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason })
}

fn service(version: &str, ingress: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "namespace": "ns", "name": "web", "uid": "u1", "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }] },
        "status": { "loadBalancer": { "ingress": ingress } },
    })
}

fn facts(object: &Value) -> ServiceFacts {
    ServiceFacts::of(&serde_json::from_value(object.clone()).expect("a Service"), None)
}

/// The write that gives a new Service its address.
fn assignment() -> Write {
    let pool = serde_json::from_value(json!({
        "metadata": { "name": "four" }, "spec": { "addresses": ["192.0.2.7/32"] },
    }))
    .expect("a pool");
    let mut assigner = Assigner::new(PoolEditPolicy::Reference);
    assigner.set_pools(serve(&[&pool], &BTreeMap::new()).0, Duration::ZERO);
    assigner.load(vec![facts(&service("41", &json!([])))], Duration::ZERO);
    assigner.next(Duration::ZERO).expect("an assignment")
}

/// A writer that holds the Lease, and the server that it writes to.
async fn writer() -> (Writer, Handle) {
    let (client, mut server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let client = Client::new(client, "default");
    let lease = Lease::new(client.clone(), "metallb-system", "metallb-controller", "me");
    let acquiring = tokio::spawn(async move { lease.acquire(&CancellationToken::new()).await });
    answer(&mut server, 404, &refusal(404, "NotFound")).await;
    let held = json!({ "metadata": { "name": "metallb-controller", "resourceVersion": "1" } });
    answer(&mut server, 201, &held).await;
    let leadership = acquiring.await.expect("no panic").expect("no fault").expect("the Lease");
    let (events, writing) = Events::new(client.clone(), leadership.clone());
    tokio::spawn(writing);
    let settings =
        Settings::from_args(["controller", "--namespace=metallb-system", "--pod-name=me"].map(Into::into));
    (Writer::new(client, &settings, leadership, events), server)
}

#[tokio::test]
async fn an_address_is_one_patch_for_one_version_and_then_an_event() {
    let (writer, mut server) = writer().await;
    let writing = tokio::spawn(writer.write(assignment(), None));
    let after = service("42", &json!([{ "ip": "192.0.2.7", "ipMode": "VIP" }]));
    let mut patch = answer(&mut server, 200, &after).await;
    let since = patch.body["status"]["conditions"][0]["lastTransitionTime"].take();
    assert!(since.is_string());
    assert_eq!(
        patch,
        Asked {
            method: "PATCH".to_owned(),
            path: "/api/v1/namespaces/ns/services/web/status?&fieldManager=metallb-controller".to_owned(),
            body: json!({
                "metadata": {
                    "resourceVersion": "41", "uid": "u1",
                    "annotations": { "metallb.io/ip-allocated-from-pool": "four" },
                },
                "status": {
                    "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] },
                    "conditions": [{
                        "type": "metallb.io/AddressAssigned", "status": "True", "reason": "Assigned",
                        "message": "192.0.2.7 of pool \"four\"", "lastTransitionTime": null,
                    }],
                },
            }),
        }
    );
    let mut event = answer(&mut server, 201, &json!({ "metadata": {}, "involvedObject": {} })).await;
    for varying in ["firstTimestamp", "lastTimestamp"] {
        assert!(event.body[varying].take().is_string());
    }
    assert!(event.body["metadata"]["name"].take().as_str().is_some_and(|name| name.starts_with("web.")));
    assert_eq!(
        event,
        Asked {
            method: "POST".to_owned(),
            path: "/api/v1/namespaces/ns/events?".to_owned(),
            body: json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": { "name": null, "namespace": "ns" },
                "involvedObject": {
                    "apiVersion": "v1", "kind": "Service", "namespace": "ns", "name": "web", "uid": "u1",
                    "resourceVersion": "42",
                },
                "type": "Normal", "reason": "IPAllocated", "message": "Assigned IP [\"192.0.2.7\"]", "count": 1,
                "source": { "component": "metallb-controller" }, "reportingComponent": "metallb-controller",
                "firstTimestamp": null, "lastTimestamp": null,
            }),
        }
    );
    let (_, outcome) = writing.await.expect("no panic");
    assert!(matches!(outcome, Outcome::Written(written) if *written == facts(&after)));
}

#[test]
fn what_tells_of_a_former_address_goes_with_it() {
    let now = Timestamp::UNIX_EPOCH;
    let moved = facts(&service("41", &json!([{ "ip": "192.0.2.1" }])));
    let annotations = &status_patch(&moved, &assignment().report, None, now)["metadata"]["annotations"];
    assert_eq!(
        *annotations,
        json!({ "metallb.io/ip-allocated-from-pool": "four", "metallb.io/announced-from": null })
    );

    let mut retired = service("41", &json!([]));
    retired["spec"]["type"] = json!("ClusterIP");
    retired["status"]["conditions"] = json!([{
        "type": "metallb.io/Announced", "status": "True", "reason": "Announced", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    let report =
        Report { mark: Mark::Remove, ingress: None, condition: Tell::Unchanged, ..assignment().report };
    let patch = status_patch(&facts(&retired), &report, None, now);
    assert_eq!(
        patch["status"]["conditions"],
        json!([{ "$patch": "delete", "type": "metallb.io/Announced" }])
    );
}

#[tokio::test]
async fn a_service_that_has_changed_is_read_and_not_written() {
    let (writer, mut server) = writer().await;
    let writing = tokio::spawn(writer.write(assignment(), None));
    answer(&mut server, 409, &refusal(409, "Conflict")).await;
    let changed = service("50", &json!([{ "ip": "203.0.113.1" }]));
    let read = answer(&mut server, 200, &changed).await;
    assert_eq!((read.method.as_str(), read.path.as_str()), ("GET", "/api/v1/namespaces/ns/services/web"));
    let (_, outcome) = writing.await.expect("no panic");
    assert!(matches!(outcome, Outcome::Stale(known) if *known == facts(&changed)));
}

#[tokio::test]
async fn a_service_that_is_gone_is_told_from_a_fault() {
    for (code, reason, gone) in
        [(404, "NotFound", true), (500, "InternalError", false), (403, "Forbidden", false)]
    {
        let (writer, mut server) = writer().await;
        let writing = tokio::spawn(writer.write(assignment(), None));
        answer(&mut server, code, &refusal(code, reason)).await;
        let (_, outcome) = writing.await.expect("no panic");
        assert!(
            matches!((&outcome, gone), (Outcome::Gone, true) | (Outcome::Refused, false)),
            "{code}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_waited_for_only_so_long() {
    let (writer, mut server) = writer().await;
    tokio::time::pause();
    let writing = tokio::spawn(writer.write(assignment(), None));
    let unanswered = server.next_request().await.expect("a request");
    let (_, outcome) = writing.await.expect("no panic");
    assert!(matches!(outcome, Outcome::Unanswered), "{outcome:?}");
    drop(unanswered);
}

#[tokio::test]
async fn the_lease_goes_with_the_metallb_resource_and_is_not_made_again_once_that_is_gone() {
    let (client, mut server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let client = Client::new(client, "default");
    let owner = crate::controller::state::installation(client.clone(), "metallb-system");
    let acquire = || {
        let lease = Lease::new(client.clone(), "metallb-system", "metallb-controller", "me");
        let lease = lease.going_with(owner.clone());
        tokio::spawn(async move { lease.acquire(&CancellationToken::new()).await })
    };
    let absent = refusal(404, "NotFound");
    let resource = json!({ "metadata": { "name": "metallb", "uid": "m1" } });
    let acquiring = acquire();
    let looked = answer(&mut server, 200, &resource).await;
    assert_eq!(looked.path, "/apis/metallb.io/v1beta1/namespaces/metallb-system/metallbs/metallb");
    answer(&mut server, 404, &absent).await;
    answer(&mut server, 200, &resource).await;
    let held = json!({ "metadata": { "name": "metallb-controller", "resourceVersion": "1" } });
    let made = answer(&mut server, 201, &held).await;
    assert_eq!(
        made.body["metadata"]["ownerReferences"],
        json!([{ "apiVersion": "metallb.io/v1beta1", "kind": "MetalLB", "name": "metallb", "uid": "m1" }])
    );
    acquiring.await.expect("no panic").expect("no fault").expect("the Lease").release().await;

    let acquiring = acquire();
    for _ in 0..2 {
        let asked = [answer(&mut server, 404, &absent).await, answer(&mut server, 404, &absent).await];
        let asked = asked.map(|asked| (asked.method, asked.path));
        let get = |path: &str| ("GET".to_owned(), path.to_owned());
        assert_eq!(
            asked,
            [
                get("/apis/coordination.k8s.io/v1/namespaces/metallb-system/leases/metallb-controller"),
                get("/apis/metallb.io/v1beta1/namespaces/metallb-system/metallbs/metallb"),
            ]
        );
    }
    acquiring.abort();
}
