use serde_json::{Value, json};

use super::*;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn load_balancer() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
        "status": {"loadBalancer": {"ingress": [{"ip": "172.22.0.100"}, {"hostname": "x"}, {"ip": "fd00:22::100"}]}},
    })
}

fn announced() -> plan::Service {
    plan::Service {
        addresses: vec!["172.22.0.100".parse().unwrap(), "fd00:22::100".parse().unwrap()],
        pool: None,
        labels: [("app".to_owned(), "web".to_owned())].into_iter().collect(),
        local: true,
        ..plan::Service::default()
    }
}

#[test]
fn a_service_is_reduced_to_what_a_plan_needs() {
    type Change = fn(&mut Value);
    let cases: &[(&str, Change, Option<&str>, Option<plan::Service>)] = &[
        ("as it is", |_| {}, None, Some(announced())),
        ("no load balancer", |service| service["spec"]["type"] = json!("ClusterIP"), None, None),
        ("no address", |service| service["status"] = json!({}), None, None),
        ("another class", |service| service["spec"]["loadBalancerClass"] = json!("x/y"), None, None),
        (
            "our class",
            |service| service["spec"]["loadBalancerClass"] = json!("x/y"),
            Some("x/y"),
            Some(announced()),
        ),
        ("no class, and one is served", |_| {}, Some("x/y"), None),
        (
            "shares",
            |service| service["metadata"]["annotations"] = json!({"metallb.io/allow-shared-ip": ""}),
            None,
            Some(plan::Service { shared: true, ..announced() }),
        ),
        (
            "shares, by the old key",
            |service| {
                service["metadata"]["annotations"] = json!({"metallb.universe.tf/allow-shared-ip": "k"});
            },
            None,
            Some(plan::Service { shared: true, ..announced() }),
        ),
        (
            "given by us",
            |service| {
                service["metadata"]["annotations"] = json!({"metallb.io/ip-allocated-from-pool": "pool"});
            },
            None,
            Some(plan::Service { pool: Some("pool".to_owned()), ..announced() }),
        ),
        (
            "policy Cluster",
            |service| service["spec"]["externalTrafficPolicy"] = json!("Cluster"),
            None,
            Some(plan::Service { local: false, ..announced() }),
        ),
    ];
    for (name, change, class, want) in cases {
        let mut object = load_balancer();
        change(&mut object);
        let want = ServiceFacts {
            key: ServiceKey::new("shop", "web"),
            uid: "u1".into(),
            record: None,
            condition: None,
            service: want.clone(),
        };
        assert_eq!(service(&parse(object), *class), want, "{name}");
    }
}

#[test]
fn a_service_tells_who_announced_it_and_whether_its_address_is_anothers() {
    let mut object = load_balancer();
    object["metadata"]["annotations"] = json!({"metallb.io/announced-from": "node1,eth0"});
    let condition = |status: &str, reason: &str| json!([{"type": "metallb.io/Announced", "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    for (status, reason, withheld) in
        [("False", "Conflict", true), ("True", "Conflict", false), ("False", "Other", false)]
    {
        object["status"]["conditions"] = condition(status, reason);
        let facts = service(&parse(object.clone()), None);
        assert_eq!(facts.record, Some(("node1".to_owned(), "node1,eth0".to_owned())));
        let finding =
            Finding { announced: status == "True", reason: reason.to_owned(), message: "m".to_owned() };
        assert_eq!((facts.is_withheld(), facts.condition), (withheld, Some(finding)));
    }
}

#[test]
fn endpoints_serve_when_ready_or_still_serving() {
    let endpoint = |conditions: Value, node: &str| json!({"addresses": ["10.0.0.1"], "conditions": conditions, "nodeName": node});
    let object = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            endpoint(json!({}), "unknown-is-ready"),
            endpoint(json!({"ready": true}), "ready"),
            endpoint(json!({"ready": false, "serving": true, "terminating": true}), "terminating"),
            endpoint(json!({"ready": false, "serving": false}), "not-ready"),
            endpoint(json!({"ready": false}), "not-ready-either"),
            {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
        ],
    });
    let nodes = ["unknown-is-ready", "ready", "terminating"].into_iter().collect();
    let want = SliceFacts {
        key: ServiceKey::new("shop", "web-1"),
        service: ServiceKey::new("shop", "web"),
        endpoints: plan::Endpoints { any: true, nodes },
    };
    assert_eq!(slice(&parse(object)), want);
    let empty = slice(&parse(json!({"metadata": {}, "addressType": "IPv4", "endpoints": []})));
    assert_eq!(empty.endpoints, plan::Endpoints::default());
}

#[test]
fn a_node_is_its_labels_and_its_network() {
    let object = |status: &str| {
        json!({
            "metadata": {"name": "node1", "labels": {"zone": "a"}},
            "status": {"conditions": [{"type": "NetworkUnavailable", "status": status}, {"type": "Ready", "status": "False"}]},
        })
    };
    for (status, network_unavailable) in [("True", true), ("False", false), ("Unknown", false)] {
        let labels = [("zone".to_owned(), "a".to_owned())].into_iter().collect();
        let want = plan::Node { labels, network_unavailable, ..plan::Node::default() };
        assert_eq!(node(&parse(object(status))), ("node1".to_owned(), want));
    }
}

#[test]
fn a_node_that_goes_is_told_from_one_that_is_cordoned_or_not_ready() {
    let ready = |status: &str, message: &str| {
        json!({"metadata": {"name": "node1"}, "spec": {}, "status": {"conditions": [
            {"type": "Ready", "status": status, "reason": "KubeletNotReady", "message": message}]}})
    };
    let with = |spec: Value| json!({"metadata": {"name": "node1"}, "spec": spec});
    let taint = json!([{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]);
    for (object, going, unschedulable) in [
        (ready("True", "kubelet is posting ready status"), false, false),
        (ready("Unknown", "Kubelet stopped posting node status."), false, false),
        (ready("False", "node is shutting down"), true, false),
        (with(json!({"taints": taint})), true, false),
        (
            with(
                json!({"unschedulable": true, "taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}),
            ),
            false,
            true,
        ),
    ] {
        let want = plan::Node { going, unschedulable, ..plan::Node::default() };
        assert_eq!(node(&parse(object)).1, want);
    }
    for (provider, stalls) in [("vsphere://4220", true), ("aws:///i-1", false)] {
        assert_eq!(node_facts(&parse(with(json!({"providerID": provider})))).1.stalls, stalls);
    }
}

#[test]
fn a_speaker_is_a_seed_while_it_runs() {
    let object = |status: Value| {
        parse::<Pod>(
            json!({"metadata": {"name": "speaker-x"}, "spec": {"nodeName": "node1", "containers": []}, "status": status}),
        )
    };
    let seed =
        |ready| Some(Seed { node: "node1".into(), address: "172.22.0.11:7946".parse().unwrap(), ready });
    for (status, want) in [
        (
            json!({"phase": "Running", "podIP": "172.22.0.11", "conditions": [{"type": "Ready", "status": "True"}]}),
            seed(true),
        ),
        (json!({"phase": "Running", "podIP": "172.22.0.11"}), seed(false)),
        (json!({"phase": "Pending"}), None),
        (json!({"phase": "Failed", "podIP": "172.22.0.11"}), None),
    ] {
        assert_eq!(speaker(&object(status), 7946), ("speaker-x".to_owned(), want));
    }
}

#[test]
fn the_kubelet_is_looked_for_where_its_node_says() {
    let addresses = json!([
        {"type": "Hostname", "address": "node1"},
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "InternalIP", "address": "2001:db8::1"},
        {"type": "ExternalIP", "address": "198.51.100.1"},
    ]);
    let listens = |status: Value| {
        let (_, facts) = node_facts(&parse(json!({"metadata": {"name": "node1"}, "status": status})));
        facts.kubelet.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let at =
        |port: i32| json!({"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}});
    assert_eq!(listens(at(10_250)), ["192.0.2.1:10250", "[2001:db8::1]:10250", "127.0.0.1:10250"]);
    assert_eq!(listens(at(0)), Vec::<String>::new());
    assert_eq!(listens(json!({"addresses": addresses})), Vec::<String>::new());
}
