//! What happens to a Service, case by case: the decision as a whole value.
#![expect(clippy::needless_pass_by_value, reason = "JSON literals are handed over where they are written")]

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use k8s_openapi::api::core::v1::Service;
use metallb_api::IPAddressPool;
use metallb_core::{
    allocator::{Allocator, Conflict, GRACE, PoolEditPolicy, Rest},
    claim::ServiceFacts,
    config::Pool,
    decision::{Change, Concern, Decision, Loss},
    range::Family,
    refusal::{Lack, Refusal, Tried, Why},
    served::serve,
    service::{Port, Protocol, ServiceKey},
};
use serde_json::{Value, json};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn pools(specs: Value) -> BTreeMap<String, Pool> {
    let objects: Vec<IPAddressPool> = specs
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, spec)| {
            serde_json::from_value(json!({
                "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": name }, "spec": spec,
            }))
            .unwrap()
        })
        .collect();
    let (pools, problems) = serve(&objects.iter().collect::<Vec<_>>(), &BTreeMap::new());
    assert_eq!(problems, []);
    pools
}

/// A Service of type LoadBalancer with one IPv4 cluster address and port 80; `changes` is merged into it.
fn service(name: &str, changes: Value) -> ServiceFacts {
    fn merge(into: &mut Value, changes: Value) {
        match (into, changes) {
            (Value::Object(into), Value::Object(changes)) => {
                for (key, change) in changes {
                    merge(into.entry(key).or_insert(Value::Null), change);
                }
            }
            (into, change) => *into = change,
        }
    }
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "ns", "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": {
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ipFamilyPolicy": "SingleStack",
            "ports": [{ "port": 80 }],
        },
    });
    merge(&mut object, changes);
    ServiceFacts::of(&serde_json::from_value::<Service>(object).unwrap(), None)
}

fn dual(policy: &str) -> Value {
    json!({ "spec": { "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilyPolicy": policy } })
}

fn annotated(pairs: Value) -> Value {
    json!({ "metadata": { "annotations": pairs } })
}

/// An allocator with these pools.
fn allocator(specs: Value) -> Allocator {
    let mut allocator = Allocator::new(PoolEditPolicy::Reference);
    allocator.set_pools(pools(specs), Duration::ZERO);
    allocator
}

/// Decides about the Service, and carries the decision out.
fn serve_one(allocator: &mut Allocator, facts: &ServiceFacts) -> Decision {
    let decision = allocator.decide(facts);
    allocator.commit(facts, &decision).unwrap();
    allocator.settle(&facts.key, Duration::ZERO);
    decision
}

fn given(addresses: &[&str], pool: &str, change: Change) -> Decision {
    Decision::Assign { addresses: ips(addresses), pool: Some(pool.to_owned()), change, lack: None }
}

fn alone(addresses: &[&str], pool: &str, change: Change, lack: Lack) -> Decision {
    Decision::Assign { addresses: ips(addresses), pool: Some(pool.to_owned()), change, lack: Some(lack) }
}

fn kept(addresses: &[&str], pool: &str, concern: Option<Concern>) -> Decision {
    Decision::Keep { addresses: ips(addresses), pool: Some(pool.to_owned()), concern }
}

fn none_of(pools: &[(&str, Why)]) -> Refusal {
    Refusal::Exhausted(
        pools.iter().map(|(pool, why)| Tried { pool: (*pool).to_owned(), why: *why }).collect(),
    )
}

/// Pools for most cases: `four` and `six` of one family, `both` of two and only on request, `web` for labelled Services.
fn typical() -> Value {
    json!({
        "four": { "addresses": ["192.0.2.0/30"] },
        "six": { "addresses": ["2001:db8:6::/126"] },
        "both": { "addresses": ["198.51.100.0/30", "2001:db8:b::/126"], "autoAssign": false },
        "web": {
            "addresses": ["203.0.113.0/30"],
            "serviceAllocation": { "priority": 10, "serviceSelectors": [{ "matchLabels": { "tier": "web" } }] },
        },
    })
}

#[test]
fn a_new_service_gets_what_it_asks_for_or_is_told_why_not() {
    let lacks_six = Why::Lacks(Lack::NoRange(Family::V6));
    let lacks_four = Why::Lacks(Lack::NoRange(Family::V4));
    for (name, changes, want) in [
        ("the lowest of the first pool that fits", json!({}), given(&["192.0.2.0"], "four", Change::New)),
        (
            "IPv6 by its cluster address",
            json!({ "spec": { "clusterIPs": ["fd00:96::1"] } }),
            given(&["2001:db8:6::"], "six", Change::New),
        ),
        (
            "a pinned pool before the others",
            json!({ "metadata": { "labels": { "tier": "web" } } }),
            given(&["203.0.113.0"], "web", Change::New),
        ),
        (
            "the pool of the annotation, automatic or not",
            annotated(json!({ "metallb.io/address-pool": "both" })),
            given(&["198.51.100.0"], "both", Change::New),
        ),
        (
            "the old prefix",
            annotated(json!({ "metallb.universe.tf/address-pool": "both" })),
            given(&["198.51.100.0"], "both", Change::New),
        ),
        (
            "the new prefix wins, even when empty",
            annotated(json!({ "metallb.universe.tf/address-pool": "both", "metallb.io/address-pool": "" })),
            given(&["192.0.2.0"], "four", Change::New),
        ),
        (
            "the field",
            json!({ "spec": { "loadBalancerIP": "192.0.2.3" } }),
            given(&["192.0.2.3"], "four", Change::New),
        ),
        (
            "both families from one pool",
            json!({
                "metadata": { "annotations": { "metallb.io/address-pool": "both" } },
                "spec": { "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilyPolicy": "RequireDualStack" },
            }),
            given(&["198.51.100.0", "2001:db8:b::"], "both", Change::New),
        ),
        (
            "the two addresses named, in their order",
            json!({
                "metadata": { "annotations": { "metallb.io/loadBalancerIPs": "2001:db8:b::2, 198.51.100.2" } },
                "spec": { "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilyPolicy": "RequireDualStack" },
            }),
            given(&["2001:db8:b::2", "198.51.100.2"], "both", Change::New),
        ),
        (
            "one family is better than none where two are preferred",
            dual("PreferDualStack"),
            alone(&["192.0.2.0"], "four", Change::New, Lack::NoRange(Family::V6)),
        ),
        (
            "the first cluster address names the better family",
            json!({ "spec": { "clusterIPs": ["fd00:96::1", "10.96.0.1"], "ipFamilyPolicy": "PreferDualStack" } }),
            alone(&["2001:db8:6::"], "six", Change::New, Lack::NoRange(Family::V4)),
        ),
        (
            "two families are required and no pool has both",
            dual("RequireDualStack"),
            Decision::Refuse(none_of(&[("four", lacks_six), ("six", lacks_four)])),
        ),
        (
            "two families without two cluster addresses",
            json!({ "spec": { "ipFamilyPolicy": "RequireDualStack" } }),
            Decision::Refuse(Refusal::NotDualStack { cluster_ips: vec!["10.96.0.1".to_owned()] }),
        ),
        (
            "an unknown pool",
            annotated(json!({ "metallb.io/address-pool": "nowhere" })),
            Decision::Refuse(Refusal::UnknownPool("nowhere".to_owned())),
        ),
        (
            "a pool for others",
            annotated(json!({ "metallb.io/address-pool": "web" })),
            Decision::Refuse(Refusal::PoolNotForService("web".to_owned())),
        ),
        (
            "a pool without the family",
            annotated(json!({ "metallb.io/address-pool": "six" })),
            Decision::Refuse(Refusal::PoolExhausted {
                pool: "six".to_owned(),
                lack: Lack::NoRange(Family::V4),
            }),
        ),
        (
            "an address outside of the pools",
            annotated(json!({ "metallb.io/loadBalancerIPs": "10.0.0.1" })),
            Decision::Refuse(Refusal::NotInPools(ips(&["10.0.0.1"]))),
        ),
        (
            "an address of another pool than the one asked for",
            annotated(
                json!({ "metallb.io/loadBalancerIPs": "192.0.2.1", "metallb.io/address-pool": "both" }),
            ),
            Decision::Refuse(Refusal::OtherPool { addresses: ips(&["192.0.2.1"]), pool: "both".to_owned() }),
        ),
        (
            "an address of the wrong family",
            annotated(json!({ "metallb.io/loadBalancerIPs": "2001:db8:b::1" })),
            Decision::Refuse(Refusal::WrongFamily(ips(&["2001:db8:b::1"]))),
        ),
        (
            "two addresses of one family",
            annotated(json!({ "metallb.io/loadBalancerIPs": "192.0.2.1,192.0.2.2" })),
            Decision::Refuse(Refusal::SameFamily(ips(&["192.0.2.1", "192.0.2.2"]))),
        ),
        (
            "three addresses",
            annotated(json!({ "metallb.io/loadBalancerIPs": "192.0.2.1,192.0.2.2,2001:db8:b::1" })),
            Decision::Refuse(Refusal::TooMany(ips(&["192.0.2.1", "192.0.2.2", "2001:db8:b::1"]))),
        ),
        (
            "no address at all",
            annotated(json!({ "metallb.io/loadBalancerIPs": "192.0.2.1,web" })),
            Decision::Refuse(Refusal::NotAnAddress {
                source: "metallb.io/loadBalancerIPs",
                text: "192.0.2.1,web".to_owned(),
            }),
        ),
        (
            "asked for twice",
            json!({
                "metadata": { "annotations": { "metallb.io/loadBalancerIPs": "192.0.2.1" } },
                "spec": { "loadBalancerIP": "192.0.2.1" },
            }),
            Decision::Refuse(Refusal::TwoRequests),
        ),
        (
            "no cluster address",
            json!({ "spec": { "clusterIPs": [] } }),
            Decision::Refuse(Refusal::NoClusterIp),
        ),
        ("another class", json!({ "spec": { "loadBalancerClass": "example.com/other" } }), Decision::Leave),
        ("not a load balancer", json!({ "spec": { "type": "NodePort" } }), Decision::Leave),
        (
            "served by somebody else",
            json!({ "status": { "loadBalancer": { "ingress": [{ "hostname": "lb.example.com" }] } } }),
            Decision::Leave,
        ),
    ] {
        assert_eq!(serve_one(&mut allocator(typical()), &service("a", changes)), want, "{name}");
    }
}

#[test]
fn an_address_is_kept_until_what_is_newly_asked_for_is_there() {
    let unmet = |refusal| Some(Concern::Unmet(refusal));
    let plain = || json!({});
    for (name, first, then, want) in [
        ("nothing changed", plain(), plain(), kept(&["192.0.2.0"], "four", None)),
        (
            "an annotation was removed",
            annotated(json!({ "metallb.io/address-pool": "both" })),
            plain(),
            kept(&["198.51.100.0"], "both", None),
        ),
        (
            "another pool that has an address",
            plain(),
            annotated(json!({ "metallb.io/address-pool": "both" })),
            given(&["198.51.100.0"], "both", Change::Requested),
        ),
        (
            "an unknown pool",
            plain(),
            annotated(json!({ "metallb.io/address-pool": "nowhere" })),
            kept(&["192.0.2.0"], "four", unmet(Refusal::UnknownPool("nowhere".to_owned()))),
        ),
        (
            "another address",
            plain(),
            json!({ "spec": { "loadBalancerIP": "192.0.2.2" } }),
            given(&["192.0.2.2"], "four", Change::Requested),
        ),
        (
            "an address outside of the pools",
            plain(),
            json!({ "spec": { "loadBalancerIP": "10.0.0.1" } }),
            kept(&["192.0.2.0"], "four", unmet(Refusal::NotInPools(ips(&["10.0.0.1"])))),
        ),
        (
            "nonsense",
            plain(),
            json!({ "spec": { "loadBalancerIP": "web" } }),
            kept(
                &["192.0.2.0"],
                "four",
                unmet(Refusal::NotAnAddress { source: "spec.loadBalancerIP", text: "web".to_owned() }),
            ),
        ),
        (
            "a pool for labelled Services, and the label went",
            json!({ "metadata": { "labels": { "tier": "web" } } }),
            plain(),
            given(&["192.0.2.0"], "four", Change::Requested),
        ),
        (
            "two families preferred, and the pool has only one",
            plain(),
            dual("PreferDualStack"),
            kept(&["192.0.2.0"], "four", Some(Concern::OneFamily(Lack::NoRange(Family::V6)))),
        ),
        (
            "two families required, and the pool has only one",
            plain(),
            dual("RequireDualStack"),
            kept(
                &["192.0.2.0"],
                "four",
                unmet(none_of(&[
                    ("four", Why::Lacks(Lack::NoRange(Family::V6))),
                    ("six", Why::Lacks(Lack::NoRange(Family::V4))),
                ])),
            ),
        ),
    ] {
        let mut allocator = allocator(typical());
        serve_one(&mut allocator, &service("a", first));
        assert_eq!(serve_one(&mut allocator, &service("a", then)), want, "{name}");
    }
}

#[test]
fn another_order_of_the_same_two_addresses_changes_nothing() {
    let mut allocator = allocator(json!({ "both": { "addresses": ["192.0.2.0/29", "2001:db8::/125"] } }));
    let asks = |order: &str| {
        let mut changes = dual("RequireDualStack");
        changes["metadata"] = json!({ "annotations": { "metallb.io/loadBalancerIPs": order } });
        service("a", changes)
    };
    let both = ["192.0.2.3", "2001:db8::3"];
    assert_eq!(serve_one(&mut allocator, &asks("192.0.2.3,2001:db8::3")), given(&both, "both", Change::New));
    assert_eq!(serve_one(&mut allocator, &asks("2001:db8::3,192.0.2.3")), kept(&both, "both", None));
}

#[test]
fn every_change_between_one_family_and_two_keeps_the_address_that_can_stay() {
    let both = || json!({ "both": { "addresses": ["198.51.100.0/30", "2001:db8:b::/126"] } });
    let single = || json!({});
    let (four, six) = ("198.51.100.0", "2001:db8:b::");
    let added = |address| Change::Added(ip(address));
    for (name, first, then, want) in [
        ("single to prefer", single(), dual("PreferDualStack"), given(&[four, six], "both", added(six))),
        ("single to require", single(), dual("RequireDualStack"), given(&[four, six], "both", added(six))),
        (
            "prefer to require",
            dual("PreferDualStack"),
            dual("RequireDualStack"),
            kept(&[four, six], "both", None),
        ),
        (
            "require to prefer",
            dual("RequireDualStack"),
            dual("PreferDualStack"),
            kept(&[four, six], "both", None),
        ),
        ("require to single", dual("RequireDualStack"), single(), given(&[four], "both", Change::Reduced)),
        (
            "prefer to single IPv6",
            dual("PreferDualStack"),
            json!({ "spec": { "clusterIPs": ["fd00:96::1"] } }),
            given(&[six], "both", Change::Reduced),
        ),
        (
            "IPv4 to IPv6",
            single(),
            json!({ "spec": { "clusterIPs": ["fd00:96::1"] } }),
            given(&[six], "both", Change::Requested),
        ),
    ] {
        let mut allocator = allocator(both());
        serve_one(&mut allocator, &service("a", first));
        assert_eq!(serve_one(&mut allocator, &service("a", then)), want, "{name}");
    }
}

#[test]
fn a_pool_that_gains_or_loses_a_family_leaves_the_address_that_can_stay() {
    let (four, six) = ("198.51.100.0", "2001:db8:b::");
    let of = |addresses: &[&str]| json!({ "both": { "addresses": addresses } });
    let (v4, v6) = (|| of(&["198.51.100.0/30"]), || of(&["2001:db8:b::/126"]));
    let dual_pool = || of(&["198.51.100.0/30", "2001:db8:b::/126"]);
    let lost = |address: &str| Change::Lost(Loss::NotInPools(ips(&[address])));
    let lack = |family| Concern::OneFamily(Lack::NoRange(family));
    for (name, policy, before, after, want) in [
        (
            "gains IPv6",
            "PreferDualStack",
            v4(),
            dual_pool(),
            given(&[four, six], "both", Change::Added(ip(six))),
        ),
        (
            "gains IPv4",
            "PreferDualStack",
            v6(),
            dual_pool(),
            given(&[six, four], "both", Change::Added(ip(four))),
        ),
        (
            "another pool has both families",
            "PreferDualStack",
            v4(),
            json!({
                "both": { "addresses": ["198.51.100.0/30"] },
                "new": { "addresses": ["203.0.113.0/30", "2001:db8:c::/126"] },
            }),
            kept(&[four], "both", Some(lack(Family::V6))),
        ),
        (
            "loses IPv6",
            "PreferDualStack",
            dual_pool(),
            v4(),
            alone(&[four], "both", lost(six), Lack::NoRange(Family::V6)),
        ),
        (
            "loses IPv4",
            "PreferDualStack",
            dual_pool(),
            v6(),
            alone(&[six], "both", lost(four), Lack::NoRange(Family::V4)),
        ),
        (
            "loses IPv6 where both are required",
            "RequireDualStack",
            dual_pool(),
            v4(),
            given(&[four], "both", lost(six)),
        ),
    ] {
        let mut allocator = allocator(before);
        let facts = service("a", dual(policy));
        serve_one(&mut allocator, &facts);
        allocator.set_pools(pools(after), Duration::from_secs(100));
        allocator.end_grace(Duration::from_secs(100) + GRACE);
        assert_eq!(serve_one(&mut allocator, &facts), want, "{name}");
    }
}

#[test]
fn an_address_is_shared_only_on_equal_terms() {
    let key = |key: &str, port: u16| {
        json!({
            "metadata": { "annotations": { "metallb.io/allow-shared-ip": key } },
            "spec": { "ports": [{ "port": port }] },
        })
    };
    let local = |key: &str, port: u16, app: &str| {
        json!({
            "metadata": { "annotations": { "metallb.io/allow-shared-ip": key } },
            "spec": {
                "ports": [{ "port": port }], "externalTrafficPolicy": "Local", "selector": { "app": app },
            },
        })
    };
    for (name, first, second, together) in [
        ("equal keys, other ports", key("k", 80), key("k", 443), true),
        ("equal keys, equal ports", key("k", 80), key("k", 80), false),
        ("other keys", key("k", 80), key("l", 443), false),
        ("no key", json!({}), json!({ "spec": { "ports": [{ "port": 443 }] } }), false),
        ("an empty key", key("", 80), key("", 443), false),
        ("local with the same pods", local("k", 80, "web"), local("k", 443, "web"), true),
        ("local with other pods", local("k", 80, "web"), local("k", 443, "db"), false),
        ("local and cluster", local("k", 80, "web"), key("k", 443), false),
        (
            "local without a selector and cluster",
            json!({
                "metadata": { "annotations": { "metallb.io/allow-shared-ip": "k" } },
                "spec": { "ports": [{ "port": 80 }], "externalTrafficPolicy": "Local" },
            }),
            key("k", 443),
            true,
        ),
        (
            "equal ports of other protocols",
            key("k", 53),
            json!({
                "metadata": { "annotations": { "metallb.io/allow-shared-ip": "k" } },
                "spec": { "ports": [{ "port": 53, "protocol": "UDP" }] },
            }),
            true,
        ),
    ] {
        let mut allocator = allocator(typical());
        serve_one(&mut allocator, &service("a", first));
        let want = if together { "192.0.2.0" } else { "192.0.2.1" };
        let got = serve_one(&mut allocator, &service("b", second));
        assert_eq!(got, given(&[want], "four", Change::New), "{name}");
    }
}

#[test]
fn a_service_whose_terms_do_not_fit_any_more_moves_and_the_others_stay() {
    let mut allocator = allocator(typical());
    let key = |name, key: &str, port: u16| {
        service(
            name,
            json!({
                "metadata": { "annotations": { "metallb.io/allow-shared-ip": key } },
                "spec": { "ports": [{ "port": port }] },
            }),
        )
    };
    serve_one(&mut allocator, &key("a", "k", 80));
    serve_one(&mut allocator, &key("b", "k", 443));
    let conflict = Conflict::Sharing {
        address: ip("192.0.2.0"),
        service: ServiceKey::new("ns", "b"),
        others: "ns/a".to_owned(),
    };
    assert_eq!(
        serve_one(&mut allocator, &key("b", "l", 443)),
        given(&["192.0.2.1"], "four", Change::Lost(Loss::Conflict(conflict)))
    );
    assert_eq!(serve_one(&mut allocator, &key("a", "k", 80)), kept(&["192.0.2.0"], "four", None));

    serve_one(&mut allocator, &key("c", "k", 443));
    let conflict =
        Conflict::Port { port: Port { protocol: Protocol::Tcp, number: 80 }, address: ip("192.0.2.0") };
    assert_eq!(
        serve_one(&mut allocator, &key("c", "k", 80)),
        given(&["192.0.2.2"], "four", Change::Lost(Loss::Conflict(conflict)))
    );
    assert_eq!(
        serve_one(&mut allocator, &key("a", "other", 80)),
        kept(&["192.0.2.0"], "four", None),
        "alone on its address, a Service may change its key in place"
    );
}

#[test]
fn a_full_pool_says_so_and_a_released_address_is_given_out_again() {
    let mut allocator = allocator(json!({ "four": { "addresses": ["192.0.2.0/31"] } }));
    for (name, want) in [("a", "192.0.2.0"), ("b", "192.0.2.1")] {
        let got = serve_one(&mut allocator, &service(name, json!({})));
        assert_eq!(got, given(&[want], "four", Change::New));
    }
    let waiting = service("c", json!({}));
    let full = none_of(&[("four", Why::Lacks(Lack::NoneFree(Family::V4)))]);
    assert_eq!(serve_one(&mut allocator, &waiting), Decision::Refuse(full.clone()));
    assert_eq!(full.to_string(), "no available IPs: pool \"four\": all its IPv4 addresses are taken");
    allocator.forget(&ServiceKey::new("ns", "a"), Duration::ZERO);
    assert_eq!(serve_one(&mut allocator, &waiting), given(&["192.0.2.0"], "four", Change::New));
}

#[test]
fn what_is_given_up_is_free_only_when_the_status_says_so() {
    let mut allocator = allocator(json!({ "four": { "addresses": ["192.0.2.0/31"] } }));
    serve_one(&mut allocator, &service("a", json!({})));
    let moved = service("a", json!({ "spec": { "loadBalancerIP": "192.0.2.1" } }));
    let decision = allocator.decide(&moved);
    assert_eq!(decision, given(&["192.0.2.1"], "four", Change::Requested));
    allocator.commit(&moved, &decision).unwrap();
    let full = Decision::Refuse(none_of(&[("four", Why::Lacks(Lack::NoneFree(Family::V4)))]));
    assert_eq!(allocator.decide(&service("b", json!({}))), full);
    assert_eq!(allocator.settle(&moved.key, Duration::ZERO), ips(&["192.0.2.0"]));
    assert_eq!(allocator.decide(&service("b", json!({}))), given(&["192.0.2.0"], "four", Change::New));
}

#[test]
fn an_address_whose_pool_goes_is_replaced_after_a_while_unless_it_is_to_be_kept() {
    let keep = || annotated(json!({ "metallb.io/keep-address": "true" }));
    let lost = |addresses: &[&str]| Loss::NotInPools(ips(addresses));
    let at = Duration::from_secs;
    let other = || json!({ "other": { "addresses": ["198.51.100.0/30"] } });
    let missing = Decision::Keep {
        addresses: ips(&["192.0.2.0"]),
        pool: None,
        concern: Some(Concern::PoolMissing(ips(&["192.0.2.0"]))),
    };
    for (name, policy, changes, pools_then, want) in [
        (
            "another pool has an address",
            PoolEditPolicy::Reference,
            json!({}),
            other(),
            given(&["198.51.100.0"], "other", Change::Lost(lost(&["192.0.2.0"]))),
        ),
        (
            "no pool has one",
            PoolEditPolicy::Reference,
            json!({}),
            json!({}),
            Decision::Clear { loss: lost(&["192.0.2.0"]), refusal: Some(Refusal::Exhausted(vec![])) },
        ),
        ("kept by policy", PoolEditPolicy::KeepInUse, json!({}), other(), missing.clone()),
        ("kept by annotation", PoolEditPolicy::Reference, keep(), other(), missing),
        (
            "renamed",
            PoolEditPolicy::Reference,
            json!({}),
            json!({ "renamed": { "addresses": ["192.0.2.0/24"] } }),
            kept(&["192.0.2.0"], "renamed", None),
        ),
    ] {
        let mut allocator = Allocator::new(policy);
        allocator.set_pools(pools(typical()), at(0));
        let facts = service("a", changes);
        serve_one(&mut allocator, &facts);
        allocator.set_pools(pools(pools_then), at(100));
        if allocator.deadline().is_some() {
            assert_eq!(allocator.deadline(), Some(at(100) + GRACE), "{name}");
            assert_eq!(allocator.end_grace(at(109)), [], "{name}");
            let untouched =
                Decision::Keep { addresses: ips(&["192.0.2.0"]), pool: None, concern: Some(Concern::Grace) };
            assert_eq!(serve_one(&mut allocator, &facts), untouched, "{name}");
            assert_eq!(allocator.end_grace(at(110)), [ServiceKey::new("ns", "a")], "{name}");
        }
        assert_eq!(serve_one(&mut allocator, &facts), want, "{name}");
        assert_eq!(allocator.deadline(), None, "{name}");
    }
}

#[test]
fn a_pool_that_comes_back_in_time_moves_nothing() {
    let mut allocator = allocator(typical());
    let facts = service("a", json!({}));
    serve_one(&mut allocator, &facts);
    allocator.set_pools(BTreeMap::new(), Duration::from_secs(100));
    allocator.set_pools(pools(typical()), Duration::from_secs(109));
    assert_eq!(allocator.deadline(), None);
    assert_eq!(allocator.end_grace(Duration::from_secs(200)), []);
    assert_eq!(serve_one(&mut allocator, &facts), kept(&["192.0.2.0"], "four", None));
}

#[test]
fn an_address_that_no_pool_holds_at_start_is_kept_and_reported_and_never_given_to_another() {
    let held = |name, mark: Value| {
        service(
            name,
            json!({
                "metadata": { "annotations": mark },
                "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.0" }] } },
            }),
        )
    };
    let mut allocator = Allocator::new(PoolEditPolicy::Reference);
    let (ours, others) =
        (held("a", json!({ "metallb.io/ip-allocated-from-pool": "four" })), held("b", json!({})));
    assert_eq!((allocator.adopt(&ours), allocator.adopt(&others)), (Ok(true), Ok(false)));
    let missing = Decision::Keep {
        addresses: ips(&["192.0.2.0"]),
        pool: None,
        concern: Some(Concern::PoolMissing(ips(&["192.0.2.0"]))),
    };
    assert_eq!(serve_one(&mut allocator, &ours), missing);
    assert_eq!(serve_one(&mut allocator, &others), Decision::Leave);

    allocator.set_pools(pools(typical()), Duration::from_secs(30));
    assert_eq!(serve_one(&mut allocator, &ours), kept(&["192.0.2.0"], "four", None));
    assert_eq!(
        serve_one(&mut allocator, &service("c", json!({}))),
        given(&["192.0.2.1"], "four", Change::New)
    );
}

#[test]
fn what_another_controller_shows_beside_ours_is_never_taken_for_ours() {
    let shows = |name: &str, entries: &[&str]| {
        let ingress: Vec<_> = entries.iter().map(|entry| json!({ "ip": entry })).collect();
        service(
            name,
            json!({
                "metadata": { "annotations": { "metallb.io/ip-allocated-from-pool": "four" } },
                "status": { "loadBalancer": { "ingress": ingress } },
            }),
        )
    };
    for entries in [
        ["203.0.113.7", "192.0.2.1"],
        ["192.0.2.1", "203.0.113.7"],
        ["2001:db8:ff::7", "192.0.2.1"],
        ["192.0.2.1", "2001:db8:ff::7"],
    ] {
        let mut allocator = allocator(typical());
        let facts = shows("a", &entries);
        assert_eq!(allocator.adopt(&facts), Ok(true));
        assert_eq!(serve_one(&mut allocator, &facts), kept(&["192.0.2.1"], "four", None), "{entries:?}");
        let others = entries.iter().filter(|entry| **entry != "192.0.2.1");
        assert!(others.into_iter().all(|entry| !allocator.is_ours(&facts.key, ip(entry))), "{entries:?}");
    }
    // It shows one address for two Services of ours.
    let mut allocator = allocator(typical());
    let both = [shows("a", &["203.0.113.7", "192.0.2.1"]), shows("b", &["203.0.113.7", "192.0.2.2"])];
    for (facts, address) in both.iter().zip(["192.0.2.1", "192.0.2.2"]) {
        assert_eq!(allocator.adopt(facts), Ok(true));
        assert_eq!(serve_one(&mut allocator, facts), kept(&[address], "four", None));
    }
}

#[test]
fn of_two_addresses_one_of_which_is_anothers_the_own_one_is_held() {
    let shows = |name: &str, entries: [&str; 2]| {
        let ingress = entries.map(|entry| json!({ "ip": entry }));
        let mut changes = dual("RequireDualStack");
        changes["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        service(name, changes)
    };
    let specs = json!({ "both": { "addresses": ["192.0.2.0/29", "2001:db8::/125"] } });
    let mut allocator = allocator(specs);
    let (first, second) = (shows("a", ["192.0.2.0", "2001:db8::"]), shows("b", ["192.0.2.1", "2001:db8::"]));
    assert_eq!(allocator.adopt(&first), Ok(true));
    assert!(allocator.adopt(&second).is_err());
    assert_eq!(
        serve_one(&mut allocator, &service("c", json!({}))),
        given(&["192.0.2.2"], "both", Change::New),
        "what a Service shows is given to no other"
    );
    assert_eq!(
        serve_one(&mut allocator, &second),
        given(&["192.0.2.1", "2001:db8::1"], "both", Change::Added(ip("2001:db8::1")))
    );
}

#[test]
fn a_service_that_is_no_load_balancer_any_more_gives_its_address_back() {
    let mut allocator = allocator(typical());
    serve_one(&mut allocator, &service("a", json!({})));
    let then = service("a", json!({ "spec": { "type": "ClusterIP" } }));
    let cleared = Decision::Clear { loss: Loss::NotLoadBalancer, refusal: None };
    assert_eq!(serve_one(&mut allocator, &then), cleared);
    assert_eq!(serve_one(&mut allocator, &then), Decision::Leave);
    assert_eq!(
        serve_one(&mut allocator, &service("b", json!({}))),
        given(&["192.0.2.0"], "four", Change::New)
    );
}

#[test]
fn an_address_of_a_node_is_given_to_nobody_but_who_holds_it_already() {
    let now = Duration::from_secs(1);
    let mut allocator = allocator(typical());
    allocator.reserve(ips(&["192.0.2.0", "192.0.2.2"]).into_iter().collect(), now);
    let first = service("a", json!({}));
    assert_eq!(serve_one(&mut allocator, &first), given(&["192.0.2.1"], "four", Change::New));
    let asks = service("b", annotated(json!({ "metallb.io/loadBalancerIPs": "192.0.2.2" })));
    assert_eq!(serve_one(&mut allocator, &asks), Decision::Refuse(Refusal::NotInPools(ips(&["192.0.2.2"]))));
    let total = allocator.ledger().counters("four").unwrap().total.ipv4;
    assert_eq!(total.to_string(), "2");

    // A node comes up with the address of a Service: the Service keeps it, and nobody has it after.
    allocator.reserve(ips(&["192.0.2.1"]).into_iter().collect(), now);
    assert_eq!(serve_one(&mut allocator, &first), kept(&["192.0.2.1"], "four", None));
    assert_eq!(allocator.deadline(), None);
    assert_eq!(allocator.forget(&first.key, now), ips(&["192.0.2.1"]));
    let second = service("c", json!({}));
    assert_eq!(serve_one(&mut allocator, &second), given(&["192.0.2.0"], "four", Change::New));
    assert_eq!(allocator.ledger().pool_of(ip("192.0.2.1")), None);
    allocator.reserve(ips(&[]).into_iter().collect(), now);
    assert_eq!(allocator.ledger().pool_of(ip("192.0.2.1")), Some("four"), "the node is gone");
}

#[test]
fn pools_are_tried_by_priority_then_by_name() {
    let pinned = |priority: i64, block: &str| json!({ "addresses": [block], "serviceAllocation": { "priority": priority, "namespaces": ["ns"] } });
    let mut allocator = allocator(json!({
        "a-general": { "addresses": ["192.0.2.0/32"] },
        "b-last": pinned(0, "192.0.2.1/32"),
        "c-second": pinned(20, "192.0.2.2/32"),
        "d-second": pinned(20, "192.0.2.3/32"),
        "e-first": pinned(10, "192.0.2.4/32"),
        "f-elsewhere": { "addresses": ["192.0.2.5/32"], "serviceAllocation": { "namespaces": ["other"] } },
        "g-nowhere": {
            "addresses": ["192.0.2.6/32"],
            "serviceAllocation": { "namespaceSelectors": [{ "matchLabels": { "no": "such" } }] },
        },
    }));
    for (name, pool, address) in [
        ("s1", "e-first", "192.0.2.4"),
        ("s2", "c-second", "192.0.2.2"),
        ("s3", "d-second", "192.0.2.3"),
        ("s4", "b-last", "192.0.2.1"),
        ("s5", "a-general", "192.0.2.0"),
    ] {
        assert_eq!(
            serve_one(&mut allocator, &service(name, json!({}))),
            given(&[address], pool, Change::New)
        );
    }
    let full = Why::Lacks(Lack::NoneFree(Family::V4));
    let tried = ["e-first", "c-second", "d-second", "b-last", "a-general"].map(|pool| (pool, full));
    assert_eq!(serve_one(&mut allocator, &service("s6", json!({}))), Decision::Refuse(none_of(&tried)));
}

#[test]
fn a_released_address_rests_and_goes_back_to_the_service_of_its_name() {
    let at = Duration::from_secs;
    let spec = || json!({ "four": { "addresses": ["192.0.2.0/31"], "cooldown": "30s" } });
    let (a, b, c) = (service("a", json!({})), service("b", json!({})), service("c", json!({})));
    let mut allocator = allocator(spec());
    serve_one(&mut allocator, &a);
    serve_one(&mut allocator, &b);
    allocator.forget(&b.key, at(100));
    allocator.forget(&a.key, at(101));

    let full = Decision::Refuse(none_of(&[("four", Why::Lacks(Lack::NoneFree(Family::V4)))]));
    assert_eq!(serve_one(&mut allocator, &c), full);
    let asked = service("c", json!({ "spec": { "loadBalancerIP": "192.0.2.1" } }));
    let resting = Conflict::Resting { address: ip("192.0.2.1"), holder: b.key.clone() };
    assert_eq!(serve_one(&mut allocator, &asked), Decision::Refuse(Refusal::InUse(resting)));
    let counters = allocator.ledger().counters("four").unwrap();
    assert_eq!(
        (counters.assigned.ipv4.to_string(), counters.available.ipv4.to_string()),
        ("0".into(), "0".into())
    );

    assert_eq!(serve_one(&mut allocator, &b), given(&["192.0.2.1"], "four", Change::New), "its own again");

    let rests: Vec<_> =
        allocator.ledger().resting_in("four").map(|(address, rest)| (address, rest.clone())).collect();
    assert_eq!(rests, [(ip("192.0.2.0"), Rest { service: a.key.clone(), until: at(131) })]);
    let mut restarted = self::allocator(spec());
    restarted.rest(rests[0].0, rests[0].1.clone());
    for allocator in [&mut allocator, &mut restarted] {
        assert_eq!(allocator.deadline(), Some(at(131)));
        assert!(!allocator.wake(at(130)));
        assert!(allocator.ledger().admits(ip("192.0.2.0"), &c.key, &Default::default()).is_err());
        assert!(allocator.wake(at(131)));
        assert_eq!(serve_one(allocator, &c), given(&["192.0.2.0"], "four", Change::New));
    }
}
