//! When Events are written, against an API server that a test plays, on a clock that stands still.

use std::{pin::pin, task::Poll};

use futures::poll;
use kube::client::Body;
use metallb_runtime::lease::Lease;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower_test::mock::{self, SendResponse};

use super::*;

type Handle = mock::Handle<http::Request<Body>, http::Response<Body>>;

fn facts() -> ServiceFacts {
    let service = json!({
        "metadata": { "namespace": "ns", "name": "web", "uid": "u1", "resourceVersion": "1" },
        "spec": { "type": "LoadBalancer" },
    });
    ServiceFacts::of(&serde_json::from_value(service).expect("a Service"), None)
}

fn answered(send: SendResponse<http::Response<Body>>, code: u16, body: &serde_json::Value) {
    let body = Body::from(body.to_string().into_bytes());
    send.send_response(http::Response::builder().status(code).body(body).expect("a response"));
}

/// Events for which the Lease is held, and the server that they go to.
async fn events() -> (Events, Handle) {
    let (client, mut server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let client = Client::new(client, "default");
    let lease = Lease::new(client.clone(), "metallb-system", "metallb-controller", "me");
    let acquiring = tokio::spawn(async move { lease.acquire(&CancellationToken::new()).await });
    let absent = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "",
    });
    let held = json!({ "metadata": { "name": "metallb-controller", "resourceVersion": "1" } });
    for (code, body) in [(404, absent), (201, held)] {
        let (_, send) = server.next_request().await.expect("a request");
        answered(send, code, &body);
    }
    let leadership = acquiring.await.expect("no panic").expect("no fault").expect("the Lease");
    let (events, writing) = Events::new(client, leadership);
    tokio::spawn(writing);
    (events, server)
}

/// The Events that have come by now; the Lease is renewed as well.
async fn come(server: &mut Handle) -> Vec<SendResponse<http::Response<Body>>> {
    let mut come = Vec::new();
    // Each task that may run does so before the test goes on.
    for _ in 0..100 {
        tokio::task::yield_now().await;
        if let Poll::Ready(Some((request, send))) = poll!(pin!(server.next_request()))
            && request.uri().path().ends_with("/events")
        {
            come.push(send);
        }
    }
    come
}

fn five() -> Vec<Notice> {
    (0..5).map(|_| Notice { warning: false, reason: "IPAllocated", message: String::new() }).collect()
}

#[tokio::test]
async fn while_no_service_waits_four_are_written_at_one_time() {
    let (events, mut server) = events().await;
    tokio::time::pause();
    events.tell(&facts(), &five());
    let first = come(&mut server).await;
    assert_eq!(first.len(), 4);
    first.into_iter().for_each(|send| answered(send, 201, &json!({})));
    assert_eq!(come(&mut server).await.len(), 1);
}

#[tokio::test]
async fn while_services_wait_none_is_written_and_later_one_by_one() {
    let (events, mut server) = events().await;
    tokio::time::pause();
    events.behind(true);
    events.tell(&facts(), &five());
    assert_eq!(come(&mut server).await.len(), 0);
    tokio::time::advance(HOLD - Duration::from_millis(10)).await;
    assert_eq!(come(&mut server).await.len(), 0);
    tokio::time::advance(Duration::from_millis(20)).await;
    for number in 0..2 {
        let mut one = come(&mut server).await;
        assert_eq!(one.len(), 1, "number {number}");
        answered(one.remove(0), 201, &json!({}));
    }
    let held = come(&mut server).await;
    assert_eq!(held.len(), 1, "one by one for as long as Services wait");
}

#[tokio::test]
async fn once_no_service_waits_any_more_they_are_written_at_once() {
    let (events, mut server) = events().await;
    tokio::time::pause();
    events.behind(true);
    events.tell(&facts(), &five());
    assert_eq!(come(&mut server).await.len(), 0);
    events.behind(false);
    assert_eq!(come(&mut server).await.len(), 4);
}
