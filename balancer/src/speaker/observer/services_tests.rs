use metallb_core::plan::NodeNames;

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("ns", name)
}

fn facts(name: &str, address: Option<&str>, record: Option<&str>) -> ServiceFacts {
    ServiceFacts {
        key: key(name),
        uid: format!("uid-{name}"),
        record: record.map(|node| (node.to_owned(), node.to_owned())),
        condition: None,
        service: address.map(|address| plan::Service {
            addresses: vec![address.parse().expect("an address")],
            pool: Some("main".to_owned()),
            ..plan::Service::default()
        }),
    }
}

fn slice(service: &str, nodes: &[&str]) -> SliceFacts {
    let nodes: NodeNames = nodes.iter().copied().collect();
    SliceFacts {
        key: key(&format!("{service}-x")),
        service: key(service),
        endpoints: Endpoints { any: !nodes.is_empty(), nodes },
    }
}

/// What is planned from is kept with each change, and must be what would be joined now.
fn assert_joined(services: &Services, what: &str) {
    let joined = services.facts.keys().filter_map(|key| Some((key.clone(), services.joined(key)?)));
    assert_eq!(*services.planned(), joined.collect(), "{what}");
}

#[test]
fn only_what_is_announced_leads_to_another_plan() {
    let mut services = Services::default();
    let (address, other) = (Some("192.0.2.1"), Some("192.0.2.2"));
    for (what, change, matters) in [
        ("a Service that waits", Change::Set(facts("a", None, None)), false),
        ("its address", Change::Set(facts("a", address, None)), true),
        ("nothing new", Change::Set(facts("a", address, None)), false),
        ("where it is announced", Change::Set(facts("a", address, Some("node1"))), true),
        ("another address", Change::Set(facts("a", other, Some("node1"))), true),
        ("its address goes, the record stays", Change::Set(facts("a", None, Some("node1"))), true),
        ("the record goes", Change::Set(facts("a", None, None)), true),
        ("a Service that waits goes", Change::Gone(facts("a", None, None)), false),
        ("a Service that was never there goes", Change::Gone(facts("b", address, None)), false),
        ("a list", Change::All(vec![facts("a", address, None), facts("b", None, None)]), true),
        ("the same list", Change::All(vec![facts("a", address, None), facts("b", None, None)]), false),
    ] {
        assert_eq!(services.take(change), matters, "{what}");
        assert_joined(&services, what);
    }
    for (what, change, matters) in [
        ("endpoints of a Service that waits", Change::Set(slice("b", &["node1"])), false),
        ("endpoints of none that is known", Change::Set(slice("c", &["node1"])), false),
        ("endpoints of one with an address", Change::Set(slice("a", &["node1"])), true),
        ("the same", Change::Set(slice("a", &["node1"])), false),
        ("others", Change::Set(slice("a", &["node2"])), true),
        ("they go", Change::Gone(slice("a", &["node2"])), true),
        ("they go again", Change::Gone(slice("a", &["node2"])), false),
        ("a list", Change::All(vec![slice("a", &["node3"]), slice("b", &["node1"])]), true),
        ("a shorter one", Change::All(vec![slice("b", &["node1"])]), true),
    ] {
        assert_eq!(services.take_slices(change), matters, "{what}");
        assert_joined(&services, what);
    }
    // What came while it did not matter is there when it does.
    assert!(services.take(Change::Set(facts("b", other, None))));
    let nodes = |name: &str| services.planned()[&key(name)].endpoints.nodes.clone();
    assert_eq!((nodes("a"), nodes("b")), (NodeNames::default(), ["node1"].into_iter().collect()));
}

#[test]
fn an_address_that_was_given_just_now_is_asked_for_and_one_that_was_announced_is_not() {
    let mut services = Services::default();
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    services.take(Change::All(vec![facts("listed", Some("192.0.2.1"), None)]));
    services.take(Change::Set(facts("new", Some("192.0.2.2"), None)));
    services.take(Change::Set(facts("moved", Some("192.0.2.3"), Some("node1"))));
    assert_eq!(services.fresh(), BTreeSet::from([ip("192.0.2.2")]));
    services.take(Change::Set(facts("new", Some("192.0.2.2"), Some("node1"))));
    assert_eq!(services.fresh(), BTreeSet::new(), "it is announced by now");
}

#[test]
fn what_was_given_while_nothing_was_heard_is_asked_for_too() {
    let mut services = Services::default();
    let listed = || facts("listed", Some("192.0.2.1"), None);
    services.take(Change::All(vec![listed()]));
    // The watch broke, and the next list tells what came meanwhile.
    let announced = facts("announced", Some("192.0.2.5"), Some("node2"));
    services.take(Change::All(vec![listed(), facts("new", Some("192.0.2.4"), None), announced]));
    let fresh: IpAddr = "192.0.2.4".parse().expect("an address");
    assert_eq!(services.fresh(), BTreeSet::from([fresh]));
}
