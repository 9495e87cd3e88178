//! What a Service is made to say, decision by decision: as whole values.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use metallb_core::{
    allocator::Conflict,
    claim::ServiceFacts,
    decision::{Change, Concern, Decision, Loss},
    range::Family,
    refusal::{Lack, Refusal, Tried, Why},
    report::{Finding, Mark, Notice, Report, Tell},
    service::{Port, Protocol, ServiceKey},
};
use serde_json::{Value, json};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Addresses of documentation net 1 are ours.
fn is_ours(address: IpAddr) -> bool {
    address.to_string().starts_with("192.0.2.")
}

fn facts(annotations: &Value, status: &Value) -> ServiceFacts {
    let object: Service = serde_json::from_value(json!({
        "metadata": { "namespace": "ns", "name": "web", "annotations": annotations },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "ports": [{ "port": 80 }] },
        "status": status,
    }))
    .unwrap();
    ServiceFacts::of(&object, None)
}

fn marked() -> Value {
    json!({ "metallb.io/ip-allocated-from-pool": "four" })
}

fn said(status: &str, reason: &str, message: &str) -> Value {
    json!([{
        "type": "metallb.io/AddressAssigned", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }])
}

fn entries(list: &Value) -> Option<Vec<LoadBalancerIngress>> {
    Some(serde_json::from_value(list.clone()).unwrap())
}

fn set(holds: bool, reason: &'static str, message: &str) -> Tell {
    Tell::Set(Finding { holds, reason, message: message.to_owned() })
}

fn notice(warning: bool, reason: &'static str, message: &str) -> Notice {
    Notice { warning, reason, message: message.to_owned() }
}

fn assign(address: &str, change: Change) -> Decision {
    Decision::Assign { addresses: vec![ip(address)], pool: Some("four".to_owned()), change, lack: None }
}

fn keep(concern: Option<Concern>) -> Decision {
    Decision::Keep { addresses: vec![ip("192.0.2.1")], pool: Some("four".to_owned()), concern }
}

fn none_free() -> Refusal {
    let why = Why::Lacks(Lack::NoneFree(Family::V4));
    Refusal::Exhausted(vec![Tried { pool: "four".to_owned(), why }])
}

#[test]
fn each_decision_is_told_once() {
    let full = "no available IPs: pool \"four\": all its IPv4 addresses are taken";
    let held = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } });
    let conflict = Conflict::Sharing {
        address: ip("192.0.2.1"),
        service: ServiceKey::new("ns", "web"),
        others: "ns/other".to_owned(),
    };
    let alone = "192.0.2.1 of pool \"four\", of one family only: it has no IPv6 range";
    let told_alone = || Report {
        ingress: None,
        mark: Mark::Unchanged,
        condition: set(true, "OneFamily", alone),
        events: vec![notice(
            false,
            "AdditionalAssignFailed",
            "cannot assign additional IP in PreferDualStack: pool \"four\": it has no IPv6 range",
        )],
    };
    let nameless = "the Service has no clusterIP, so its IP family is not known";
    let with = |conditions: Value| {
        let mut status = held.clone();
        status["conditions"] = conditions;
        status
    };
    let taken = "can't change sharing key for \"ns/web\", address also in use by ns/other";
    for (name, facts, decision, want) in [
        ("another's Service", facts(&json!({}), &held), Decision::Leave, None),
        (
            "a new address",
            facts(&json!({}), &json!({})),
            assign("192.0.2.1", Change::New),
            Some(Report {
                ingress: entries(&json!([{ "ip": "192.0.2.1" }])),
                mark: Mark::Set("four".to_owned()),
                condition: set(true, "Assigned", "192.0.2.1 of pool \"four\""),
                events: vec![notice(false, "IPAllocated", "Assigned IP [\"192.0.2.1\"]")],
            }),
        ),
        (
            "a new address, asked for by an annotation of old",
            facts(&json!({ "metallb.universe.tf/address-pool": "four" }), &json!({})),
            assign("192.0.2.1", Change::New),
            Some(Report {
                ingress: entries(&json!([{ "ip": "192.0.2.1" }])),
                mark: Mark::Set("four".to_owned()),
                condition: set(true, "Assigned", "192.0.2.1 of pool \"four\""),
                events: vec![
                    notice(false, "IPAllocated", "Assigned IP [\"192.0.2.1\"]"),
                    notice(
                        true,
                        "deprecatedAnnotation",
                        "Service uses deprecated annotation metallb.universe.tf/address-pool",
                    ),
                ],
            }),
        ),
        (
            "nothing free",
            facts(&json!({}), &json!({})),
            Decision::Refuse(none_free()),
            Some(Report {
                ingress: None,
                mark: Mark::Unchanged,
                condition: set(false, "NoAvailableIPs", full),
                events: vec![notice(
                    true,
                    "AllocationFailed",
                    &format!("Failed to allocate IP for \"ns/web\": {full}"),
                )],
            }),
        ),
        (
            "nothing free, and that was said",
            facts(&json!({}), &json!({ "conditions": said("False", "NoAvailableIPs", full) })),
            Decision::Refuse(none_free()),
            None,
        ),
        ("an address is kept", facts(&marked(), &held), keep(None), None),
        (
            "an address given by MetalLB, which sets no condition, gets its mark alone",
            facts(&json!({}), &held),
            keep(None),
            Some(Report {
                ingress: None,
                mark: Mark::Set("four".to_owned()),
                condition: set(true, "Assigned", "192.0.2.1 of pool \"four\""),
                events: vec![],
            }),
        ),
        (
            "a wish that cannot be met",
            facts(&marked(), &held),
            keep(Some(Concern::Unmet(Refusal::UnknownPool("nowhere".to_owned())))),
            Some(Report {
                ingress: None,
                mark: Mark::Unchanged,
                condition: set(false, "UnknownPool", "keeps 192.0.2.1: unknown pool \"nowhere\""),
                events: vec![notice(
                    true,
                    "AllocationFailed",
                    "Failed to allocate IP for \"ns/web\": unknown pool \"nowhere\"",
                )],
            }),
        ),
        (
            "what was asked for is taken by another: the condition names nothing that changes",
            facts(&marked(), &held),
            keep(Some(Concern::Unmet(Refusal::InUse(conflict.clone())))),
            Some(Report {
                ingress: None,
                mark: Mark::Unchanged,
                condition: set(
                    false,
                    "AddressInUse",
                    "keeps 192.0.2.1: another Service holds 192.0.2.1, and their terms do not let the two share it",
                ),
                events: vec![notice(
                    true,
                    "AllocationFailed",
                    &format!("Failed to allocate IP for \"ns/web\": {taken}"),
                )],
            }),
        ),
        (
            "no pool holds it",
            facts(&marked(), &held),
            Decision::Keep {
                addresses: vec![ip("192.0.2.1")],
                pool: None,
                concern: Some(Concern::PoolMissing(vec![ip("192.0.2.1")])),
            },
            Some(Report {
                ingress: None,
                mark: Mark::Unchanged,
                condition: set(true, "PoolMissing", "keeps 192.0.2.1: no pool holds it"),
                events: vec![notice(true, "PoolMissing", "keeping [\"192.0.2.1\"]: no pool holds it")],
            }),
        ),
        (
            "moved because its pool went",
            facts(&marked(), &held),
            assign("192.0.2.9", Change::Lost(Loss::NotInPools(vec![ip("192.0.2.1")]))),
            Some(Report {
                ingress: entries(&json!([{ "ip": "192.0.2.9" }])),
                mark: Mark::Unchanged,
                condition: set(true, "Assigned", "192.0.2.9 of pool \"four\""),
                events: vec![
                    notice(
                        false,
                        "ClearAssignment",
                        "current IP for \"ns/web\" not allowed by config, will attempt for new IP assignment: [\"192.0.2.1\"] is not allowed in config",
                    ),
                    notice(false, "IPAllocated", "Assigned IP [\"192.0.2.9\"]"),
                ],
            }),
        ),
        (
            "cleared for want of another",
            facts(&marked(), &held),
            Decision::Clear { loss: Loss::Conflict(conflict), refusal: Some(none_free()) },
            Some(Report {
                ingress: entries(&json!([])),
                mark: Mark::Remove,
                condition: set(false, "NoAvailableIPs", full),
                events: vec![
                    notice(
                        false,
                        "ClearAssignment",
                        &format!(
                            "current IP for \"ns/web\" not allowed by config, will attempt for new IP assignment: {taken}"
                        ),
                    ),
                    notice(
                        true,
                        "AllocationFailed",
                        &format!("Failed to allocate IP for \"ns/web\": {full}"),
                    ),
                ],
            }),
        ),
        (
            "no load balancer any more",
            facts(
                &marked(),
                &json!({ "conditions": said("True", "Assigned", "192.0.2.1 of pool \"four\"") }),
            ),
            Decision::Clear { loss: Loss::NotLoadBalancer, refusal: None },
            Some(Report { ingress: None, mark: Mark::Remove, condition: Tell::Remove, events: vec![] }),
        ),
        (
            "one address where two are preferred",
            facts(&json!({}), &json!({})),
            Decision::Assign {
                addresses: vec![ip("192.0.2.1")],
                pool: Some("four".to_owned()),
                change: Change::New,
                lack: Some(Lack::NoRange(Family::V6)),
            },
            Some(Report {
                ingress: entries(&json!([{ "ip": "192.0.2.1" }])),
                mark: Mark::Set("four".to_owned()),
                condition: set(true, "OneFamily", alone),
                events: vec![notice(false, "IPAllocated", "Assigned IP [\"192.0.2.1\"]")],
            }),
        ),
        (
            "the second address, which is preferred now, is not to be had",
            facts(&marked(), &with(said("True", "Assigned", "192.0.2.1 of pool \"four\""))),
            keep(Some(Concern::OneFamily(Lack::NoRange(Family::V6)))),
            Some(told_alone()),
        ),
        (
            "the same, said before",
            facts(&marked(), &with(said("True", "OneFamily", alone))),
            keep(Some(Concern::OneFamily(Lack::NoRange(Family::V6)))),
            None,
        ),
        (
            "an address that MetalLB gave, which tells that by an Event each time",
            facts(&marked(), &held),
            keep(Some(Concern::OneFamily(Lack::NoRange(Family::V6)))),
            Some(told_alone()),
        ),
        (
            "its pool may come back: what was said stays",
            facts(&marked(), &with(said("True", "OneFamily", alone))),
            Decision::Keep { addresses: vec![ip("192.0.2.1")], pool: None, concern: Some(Concern::Grace) },
            None,
        ),
        (
            "no cluster address",
            facts(&json!({}), &json!({})),
            Decision::Refuse(Refusal::NoClusterIp),
            Some(Report {
                ingress: None,
                mark: Mark::Unchanged,
                condition: set(false, "NoClusterIP", nameless),
                events: vec![notice(true, "noclusterIPsIPFamily", nameless)],
            }),
        ),
        (
            "somebody wrote a second address of one family",
            facts(
                &marked(),
                &json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "ip": "192.0.2.2" }] } }),
            ),
            keep(None),
            Some(Report {
                ingress: entries(&json!([{ "ip": "192.0.2.1" }])),
                mark: Mark::Unchanged,
                condition: Tell::Unchanged,
                events: vec![notice(
                    true,
                    "nolbIPsIPFamily",
                    "status has more than one address of a family: [\"192.0.2.1\" \"192.0.2.2\"]",
                )],
            }),
        ),
        (
            "an address of somebody else beside ours is none of ours",
            facts(
                &marked(),
                &json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "ip": "203.0.113.7" }] } }),
            ),
            keep(None),
            None,
        ),
    ] {
        assert_eq!(Report::of(&facts, &decision, is_ours), want, "{name}");
    }
}

#[test]
fn each_refusal_has_the_event_that_users_know() {
    let ips = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| ip(text)).collect() };
    let (one, six) = (ips(&["192.0.2.1"]), ips(&["2001:db8::1"]));
    let port = Port { number: 80, protocol: Protocol::Tcp };
    let failed = |tail: &str| ("AllocationFailed", format!("Failed to allocate IP for \"ns/web\": {tail}"));
    let invalid = |tail: &str| ("LoadBalancerFailed", format!("invalid requested loadbalancer IPs: {tail}"));
    let both = "service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP";
    let many = "more than two addresses [\"192.0.2.1\" \"192.0.2.2\" \"2001:db8::1\"]";
    let same = "\"192.0.2.1\" \"192.0.2.2\" has the same family";
    let not_dual = "Service requires dual stack but not enough clusterips [10.96.0.1]";
    for (refusal, new, held) in [
        (Refusal::TwoRequests, failed(both), invalid(both)),
        (Refusal::TooMany(ips(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])), failed(many), invalid(many)),
        (Refusal::SameFamily(ips(&["192.0.2.1", "192.0.2.2"])), failed(same), invalid(same)),
        (
            Refusal::NotAnAddress { source: "spec.loadBalancerIP", text: "x".to_owned() },
            failed("invalid spec.loadBalancerIP: \"x\""),
            invalid("invalid spec.loadBalancerIP: \"x\""),
        ),
        (
            Refusal::WrongFamily(six.clone()),
            failed(
                "requested loadBalancer IP(s) [\"2001:db8::1\"] does not match the ipFamily of the service",
            ),
            failed(
                "requested loadBalancer IP(s) [\"2001:db8::1\"] does not match the ipFamily of the service",
            ),
        ),
        (
            Refusal::OtherPool { addresses: one.clone(), pool: "six".to_owned() },
            failed(
                "requested loadBalancer IP(s) [\"192.0.2.1\"] is not compatible with requested address pool \"six\"",
            ),
            failed(
                "requested loadBalancer IP(s) [\"192.0.2.1\"] is not compatible with requested address pool \"six\"",
            ),
        ),
        (
            Refusal::PoolNotForService("web".to_owned()),
            failed("pool web not compatible for ip assignment"),
            failed("pool web not compatible for ip assignment"),
        ),
        (
            Refusal::NotInPools(one),
            failed("[\"192.0.2.1\"] is not allowed in config"),
            failed("[\"192.0.2.1\"] is not allowed in config"),
        ),
        (
            Refusal::InUse(Conflict::Port { port, address: ip("192.0.2.1") }),
            failed("port TCP/80 is already in use on 192.0.2.1"),
            failed("port TCP/80 is already in use on 192.0.2.1"),
        ),
        (
            Refusal::InUse(Conflict::Resting {
                address: ip("192.0.2.1"),
                holder: ServiceKey::new("ns", "old"),
            }),
            failed("192.0.2.1 rests after its release by \"ns/old\""),
            failed("192.0.2.1 rests after its release by \"ns/old\""),
        ),
        (
            Refusal::NotDualStack { cluster_ips: vec!["10.96.0.1".to_owned()] },
            ("not enough clusterips", not_dual.to_owned()),
            ("not enough clusterips", not_dual.to_owned()),
        ),
    ] {
        let held_facts = facts(&marked(), &json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } }));
        for (facts, decision, (reason, message)) in [
            (facts(&json!({}), &json!({})), Decision::Refuse(refusal.clone()), new),
            (held_facts, keep(Some(Concern::Unmet(refusal.clone()))), held),
        ] {
            let report = Report::of(&facts, &decision, is_ours).unwrap();
            assert_eq!(report.events, [notice(true, reason, &message)], "{refusal:?}");
        }
    }
    let second = Decision::Assign {
        addresses: [ip("192.0.2.1"), six[0]].into(),
        pool: Some("four".to_owned()),
        change: Change::Added(six[0]),
        lack: None,
    };
    let facts = facts(&marked(), &json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } }));
    assert_eq!(
        Report::of(&facts, &second, is_ours).unwrap().events,
        [notice(false, "IPAllocated", "Assigned additional IP \"2001:db8::1\"")]
    );
}

#[test]
fn what_others_wrote_into_the_status_stays() {
    let ingress = json!([
        { "ip": "192.0.2.1", "ipMode": "Proxy", "ports": [{ "port": 80, "protocol": "TCP" }] },
        { "hostname": "lb.example.com" },
        { "ip": "203.0.113.7", "ports": [{ "port": 80, "protocol": "TCP", "error": "x" }] },
        { "ip": "192.0.2.2" },
    ]);
    let facts = facts(&marked(), &json!({ "loadBalancer": { "ingress": ingress } }));
    let after = |decision: &Decision| Report::of(&facts, decision, is_ours).unwrap().ingress;
    assert_eq!(
        after(&keep(None)),
        entries(&json!([ingress[0], ingress[1], ingress[2]])),
        "an entry of ours that is not held goes, and nothing else changes"
    );
    assert_eq!(
        after(&assign("192.0.2.9", Change::Requested)),
        entries(&json!([{ "ip": "192.0.2.9" }, ingress[1], ingress[2]])),
    );
    assert_eq!(
        after(&Decision::Clear { loss: Loss::NotLoadBalancer, refusal: None }),
        entries(&json!([ingress[1], ingress[2]])),
    );
}

#[test]
fn long_texts_and_control_characters_of_users_are_cut_and_escaped() {
    let text = format!("192.0.2.1\u{0}\u{1b}[31m\n{}", "ü".repeat(128 * 1024));
    let object: Service = serde_json::from_value(json!({
        "metadata": {
            "namespace": "ns", "name": "web", "annotations": { "metallb.io/loadBalancerIPs": text },
        },
        "spec": { "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"] },
    }))
    .unwrap();
    let facts = ServiceFacts::of(&object, None);
    let refusal = Refusal::NotAnAddress { source: "metallb.io/loadBalancerIPs", text };
    let report = Report::of(&facts, &Decision::Refuse(refusal), is_ours).unwrap();
    let Tell::Set(Finding { message, .. }) = report.condition else { panic!("{:?}", report.condition) };
    assert!(
        message.starts_with("invalid metallb.io/loadBalancerIPs: \"192.0.2.1\\0\\u{1b}[31m\\nüü"),
        "{message}"
    );
    for message in [&message, &report.events[0].message] {
        assert!(message.chars().count() < 350 && !message.chars().any(char::is_control), "{message}");
    }
}
