//! What people are told: why a Service has its address, and what another configuration would change.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Service;
use metallb_api::IPAddressPool;
use metallb_core::{
    allocator::{Allocator, PoolEditPolicy},
    claim::ServiceFacts,
    config::Pool,
    preview::{Present, preview},
    served::serve,
};
use serde_json::{Value, json};

fn pools(specs: &Value) -> BTreeMap<String, Pool> {
    let objects: Vec<IPAddressPool> = specs
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, spec)| {
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
        })
        .collect();
    let (pools, problems) = serve(&objects.iter().collect::<Vec<_>>(), &BTreeMap::new());
    assert_eq!(problems, []);
    pools
}

fn service(name: &str, annotations: &Value, shown: &[&str]) -> ServiceFacts {
    let ingress: Vec<_> = shown.iter().map(|address| json!({ "ip": address })).collect();
    let object: Service = serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": name, "annotations": annotations },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }] },
        "status": { "loadBalancer": { "ingress": ingress } },
    }))
    .unwrap();
    ServiceFacts::of(&object, None)
}

#[test]
fn an_explanation_names_every_pool_in_the_order_in_which_it_is_tried() {
    let mut allocator = Allocator::new(PoolEditPolicy::Reference);
    allocator.set_pools(
        pools(&json!({
            "a": { "addresses": ["192.0.2.0/32"] },
            "b": { "addresses": ["192.0.2.1/32"] },
            "manual": { "addresses": ["192.0.2.2/32"], "autoAssign": false },
            "six": { "addresses": ["2001:db8::/126"] },
            "teams": { "addresses": ["192.0.2.3/32"], "serviceAllocation": { "namespaces": ["team"] } },
        })),
        Duration::ZERO,
    );
    allocator.adopt(&service("first", &json!({}), &["192.0.2.0"])).unwrap();
    let told = allocator.explain(&service("web", &json!({}), &[])).to_string();
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        [
            "asks for     one IPv4 address",
            "on ports     TCP/80",
            "shares       with nobody",
            "status       []",
            "holds        []",
            "pools        teams: its serviceAllocation excludes the Service",
            "             a: all its IPv4 addresses are taken",
            "             b: could give [\"192.0.2.1\"]",
            "             six: it has no IPv4 range",
            "             manual: its autoAssign is false",
            "outcome      gets [\"192.0.2.1\"] of pool \"b\"",
        ]
    );

    let asked = service("web", &json!({ "metallb.io/address-pool": "nowhere" }), &["192.0.2.1"]);
    allocator.adopt(&asked).unwrap();
    let told = allocator.explain(&asked).to_string();
    assert!(told.starts_with("asks for     one IPv4 address of pool \"nowhere\"\n"), "{told}");
    assert!(
        told.ends_with("outcome      keeps [\"192.0.2.1\"] of pool \"b\", since unknown pool \"nowhere\""),
        "{told}"
    );
}

#[test]
fn a_preview_lists_who_would_lose_change_or_get_an_address() {
    let mark = |pool: &str| json!({ "metallb.io/ip-allocated-from-pool": pool });
    let present = |policy| Present {
        services: vec![
            service("kept", &mark("a"), &["192.0.2.0"]),
            service("moved", &mark("a"), &["192.0.2.1"]),
            service("named", &json!({ "metallb.io/loadBalancerIPs": "192.0.2.3" }), &["192.0.2.3"]),
            service("waits", &json!({ "metallb.io/address-pool": "new" }), &[]),
        ],
        namespaces: BTreeMap::new(),
        pools: pools(&json!({ "a": { "addresses": ["192.0.2.0/30"] } })),
        policy,
    };
    let after = || {
        pools(&json!({
            "a": { "addresses": ["192.0.2.0/32"] },
            "new": { "addresses": ["198.51.100.0/31"] },
        }))
    };
    let told = |policy| preview(present(policy), after()).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        told(PoolEditPolicy::Reference),
        [
            "ns/moved would change from [\"192.0.2.1\"] to [\"198.51.100.1\"]",
            "ns/named would lose [\"192.0.2.3\"]",
            "ns/waits would get [\"198.51.100.0\"]",
        ]
    );
    assert_eq!(told(PoolEditPolicy::KeepInUse), ["ns/waits would get [\"198.51.100.0\"]"]);
    assert_eq!(preview(present(PoolEditPolicy::Reference), present(PoolEditPolicy::Reference).pools), []);
}
