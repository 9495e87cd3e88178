//! Reports against a scripted API server: what is there in the end, whatever interrupts them.

use kube::client::Body;
use metallb_api::names::{LABEL_STATUS_NODE, LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE};
use serde_json::Value;
use tower_test::mock;

use super::*;

const NAMESPACE: &str = "metallb-system";

/// What the API server holds.
#[derive(Default)]
struct Server {
    statuses: BTreeMap<String, Value>,
    /// By Service, what its annotation says.
    records: BTreeMap<String, String>,
    /// The Services of Events nodeAssigned.
    assigned: Vec<String>,
    made: usize,
    /// Writes of a status that fail.
    failures: usize,
}

impl Server {
    fn add_status(&mut self, name: &str, node: &str, service: &str) {
        let object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status", "spec": {},
            "metadata": {
                "name": name, "namespace": NAMESPACE,
                "labels": {
                    LABEL_STATUS_NODE: node, LABEL_STATUS_SERVICE_NAME: service,
                    LABEL_STATUS_SERVICE_NAMESPACE: "ns",
                },
            },
        });
        self.statuses.insert(name.to_owned(), object);
    }

    fn answer(&mut self, method: &str, path: &str, query: &str, body: &Value) -> Value {
        let last = path.rsplit('/').find(|part| *part != "status").unwrap_or_default().to_owned();
        match (method, path) {
            ("GET", path) if path.contains("/pods/") => json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": last, "uid": "pod" }, "spec": null,
            }),
            ("GET", path) if path.ends_with("/servicel2statuses") => {
                let of_service = |object: &&Value| {
                    let service = object["metadata"]["labels"][LABEL_STATUS_SERVICE_NAME].as_str();
                    // As it stands in the query, with `=` and `,` escaped.
                    service.is_some_and(|service| query.contains(&format!("%3D{service}%2C")))
                };
                let items: Vec<&Value> = self.statuses.values().filter(of_service).collect();
                json!({ "apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2StatusList", "metadata": {}, "items": items })
            }
            ("POST", path) if path.ends_with("/servicel2statuses") => {
                self.made += 1;
                let (mut object, name) = (body.clone(), format!("l2-{}", self.made));
                object["metadata"]["name"] = json!(name);
                self.statuses.insert(name, object.clone());
                object
            }
            ("PATCH", path) if path.contains("/servicel2statuses/") => {
                if path.ends_with("/status") && self.failures > 0 {
                    self.failures -= 1;
                    return Value::Null;
                }
                let object = self.statuses.get_mut(&last).expect("an object that is there");
                for (field, value) in body.as_object().expect("a patch") {
                    if field == "status" {
                        object["status"] = value.clone();
                    } else {
                        object["metadata"]["ownerReferences"] = value["ownerReferences"].clone();
                    }
                }
                object.clone()
            }
            ("DELETE", _) => {
                self.statuses.remove(&last);
                json!({ "apiVersion": "v1", "kind": "Status", "status": "Success" })
            }
            ("POST", path) if path.ends_with("/events") => {
                assert_eq!(body["reason"], "nodeAssigned");
                self.assigned.push(body["involvedObject"]["name"].as_str().expect("a name").to_owned());
                json!({ "metadata": {}, "involvedObject": {} })
            }
            ("PATCH", path) if path.contains("/services/") => {
                let record = body["metadata"]["annotations"][ANNOTATION_ANNOUNCED_FROM].as_str();
                self.records.insert(last.clone(), record.expect("a record").to_owned());
                json!({
                    "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": { "name": last },
                })
            }
            other => panic!("{other:?}"),
        }
    }

    /// What the watches tell of it.
    fn tell(&self, reporter: &mut Reporter) {
        let mine = self.statuses.values().filter(|object| {
            object["metadata"]["labels"][LABEL_STATUS_NODE] == reporter.settings.node.as_str()
        });
        let object = |object: &Value| Object::of(serde_json::from_value(object.clone()).expect("an object"));
        reporter.learn(crate::watch::Change::All(mine.map(object).collect()));
        let mark = |record: &String| Mark { record: Some(record.clone()), condition: None };
        let records = self.records.iter();
        reporter.read(records.map(|(name, record)| (ServiceKey::new("ns", name), mark(record))).collect());
    }
}

fn reporter() -> (Reporter, mock::Handle<http::Request<Body>, http::Response<Body>>) {
    let (client, server) = mock::pair::<http::Request<Body>, http::Response<Body>>();
    let settings =
        Settings { namespace: NAMESPACE.to_owned(), pod: "speaker-1".to_owned(), node: "node1".to_owned() };
    let reporter = Reporter {
        client: Client::new(client, "default"),
        settings,
        owner: None,
        objects: None,
        marks: Marks::new(),
        written: Marks::new(),
        told: BTreeSet::new(),
        claims: BTreeMap::new(),
        failures: Failures::default(),
    };
    (reporter, server)
}

/// What node1 announces: so many Services.
fn planned(count: u8) -> (Announced, Standing) {
    let (mut announced, mut standing) = (Announced::default(), Standing::default());
    for number in 1..=count {
        let address = std::net::IpAddr::from([172, 22, 0, number]);
        let announcement = Announcement {
            uid: "u".to_owned(),
            addresses: vec![address],
            interfaces: vec![],
            record: "node1,eth0".to_owned(),
        };
        announced.services.insert(ServiceKey::new("ns", &format!("web-{number}")), announcement);
        standing.announced.insert(address);
    }
    (announced, standing)
}

/// Reports once; broken off when the server has answered `requests`, which the reporter does not learn of the last.
async fn report(
    reporter: &mut Reporter,
    (announced, standing): &(Announced, Standing),
    handle: &mut mock::Handle<http::Request<Body>, http::Response<Body>>,
    server: &mut Server,
    requests: usize,
) -> Option<anyhow::Result<()>> {
    let mut reporting = std::pin::pin!(reporter.report(announced, standing));
    for number in 1.. {
        let (request, send) = tokio::select! {
            result = &mut reporting => return Some(result),
            request = handle.next_request() => request.expect("the client is there"),
        };
        let (head, sent) = request.into_parts();
        let bytes = sent.collect_bytes().await.expect("a body");
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
        let answer = server.answer(head.method.as_str(), path, query, &body);
        let code = if answer.is_null() { 500 } else { 200 };
        let body = Body::from(answer.to_string().into_bytes());
        send.send_response(http::Response::builder().status(code).body(body).expect("a response"));
        if number == requests {
            return None;
        }
    }
    None
}

/// What each Service is left with: the nodes of its status objects, and how often a change was told.
fn outcome(server: &Server) -> BTreeMap<String, (Vec<String>, usize)> {
    let mut found: BTreeMap<String, (Vec<String>, usize)> = BTreeMap::new();
    for object in server.statuses.values() {
        let label = |name: &str| object["metadata"]["labels"][name].as_str().unwrap_or_default().to_owned();
        assert_eq!(object["status"]["node"], label(LABEL_STATUS_NODE));
        found.entry(label(LABEL_STATUS_SERVICE_NAME)).or_default().0.push(label(LABEL_STATUS_NODE));
    }
    for service in &server.assigned {
        found.entry(service.clone()).or_default().1 += 1;
    }
    found
}

#[tokio::test]
async fn a_report_that_fails_once_ends_with_one_status_and_one_event() {
    let (mut reporter, mut handle) = reporter();
    let mut server = Server { failures: 1, ..Server::default() };
    server.add_status("former", "node2", "web-1");
    server.records.insert("web-1".to_owned(), "node2,eth0".to_owned());
    server.tell(&mut reporter);
    let planned = planned(1);
    let first = report(&mut reporter, &planned, &mut handle, &mut server, usize::MAX).await;
    assert!(first.is_some_and(|result| result.is_err()));
    for _ in 0..2 {
        server.tell(&mut reporter);
        report(&mut reporter, &planned, &mut handle, &mut server, usize::MAX).await.unwrap().unwrap();
    }
    assert_eq!(outcome(&server), [("web-1".to_owned(), (vec!["node1".to_owned()], 1))].into());
    assert_eq!(server.records, [("web-1".to_owned(), "node1,eth0".to_owned())].into());
}

#[tokio::test]
async fn reports_that_are_broken_off_again_and_again_leave_nothing_out() {
    for requests in 3..8 {
        let (mut reporter, mut handle) = reporter();
        let mut server = Server::default();
        for number in 1..=50 {
            server.add_status(&format!("former-{number}"), "node2", &format!("web-{number}"));
            server.records.insert(format!("web-{number}"), "node2,eth0".to_owned());
        }
        let planned = planned(50);
        let mut passes = 0;
        loop {
            server.tell(&mut reporter);
            if let Some(result) = report(&mut reporter, &planned, &mut handle, &mut server, requests).await {
                break result.unwrap();
            }
            passes += 1;
            assert!(passes < 500, "no end with {requests} requests a pass");
        }
        let outcome = outcome(&server);
        assert_eq!(outcome.len(), 50);
        for (service, (nodes, told)) in outcome {
            assert_eq!(nodes, ["node1"], "{service} with {requests} requests a pass");
            // Twice when it was broken off while it was told.
            assert!((1..=2).contains(&told), "{service} was told {told} times");
        }
    }
}

#[tokio::test]
async fn a_node_that_announced_a_service_before_tells_nothing_of_it() {
    let (mut reporter, mut handle) = reporter();
    let mut server = Server::default();
    server.records.insert("web-1".to_owned(), "node1,eth0".to_owned());
    server.tell(&mut reporter);
    report(&mut reporter, &planned(1), &mut handle, &mut server, usize::MAX).await.unwrap().unwrap();
    assert_eq!(outcome(&server), [("web-1".to_owned(), (vec!["node1".to_owned()], 0))].into());
}
