//! AddressPools.

use super::*;

#[test]
fn a_pool_is_served_and_a_change_of_protocol_removes_before_it_creates() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    assert_eq!(bench.changes(), [["apply IPAddressPool p", "apply L2Advertisement p"]]);
    bench.settle();
    let ready = bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready");
    assert_eq!(ready.2, "served as IPAddressPool p, L2Advertisement p");
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["protocol"] = json!("bgp"));
    assert_eq!(bench.changes(), [["delete L2Advertisement p"], ["apply BGPAdvertisement p"]]);
    bench.settle();
    bench.assert_idle();
}

#[test]
fn that_there_is_no_pool_is_said_until_there_is_one() {
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    let says = |bench: &Bench| bench.of_metallb("Available").2.contains("there is no address pool");
    assert!(says(&bench));
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    assert!(!says(&bench));
}

#[test]
fn a_pool_that_is_not_valid_keeps_what_it_was_and_one_of_somebody_else_is_kept_too() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["addresses"] = json!(["192.0.2.300/28"]));
    let theirs = json!({"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "spec": {},
                        "metadata": {"name": "q", "namespace": NAMESPACE}});
    bench.put(Kind::L2Advertisement, theirs);
    bench.put(Kind::AddressPool, address_pool("q", "{protocol: layer2, addresses: [198.51.100.0/28]}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (status, reason, message) = bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Invalid"));
    assert!(message.starts_with("spec.addresses[0]: "), "{message}");
    assert_eq!(
        bench.condition(Kind::AddressPool, NAMESPACE, "q", "Ready").2,
        "not served: L2Advertisement q exists and belongs to somebody else"
    );
    let (status, _, message) = bench.condition(Kind::AddressPool, NAMESPACE, "q", "Conflict");
    assert_eq!(
        (status.as_str(), message.as_str()),
        (
            "True",
            "L2Advertisement q exists and does not belong to this pool, so it is not overwritten: delete it, or give \
             this pool another name"
        )
    );
    bench.delete(&key(Kind::L2Advertisement, "q"));
    bench.settle();
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "q", "Ready").0, "True");
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "q", "Conflict").0, "False");
}

#[test]
fn a_pool_that_is_made_again_at_once_has_what_the_one_before_became() {
    let mut bench = Bench::new();
    let spec = "{protocol: layer2, addresses: [192.0.2.0/24]}";
    bench.put(Kind::AddressPool, address_pool("p", spec));
    bench.settle();
    let mut again = address_pool("p", spec);
    again["metadata"]["uid"] = json!("uid-next");
    bench.put(Kind::AddressPool, again);
    bench.settle();
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready").0, "True");
    for kind in [Kind::IpAddressPool, Kind::L2Advertisement] {
        let owners = bench.live(kind, "p")["metadata"]["ownerReferences"].clone();
        assert_eq!((owners[0]["uid"].as_str(), owners.as_array().map(Vec::len)), (Some("uid-next"), Some(1)));
    }
}

#[test]
fn each_entry_of_bgp_advertisements_has_its_object_and_what_is_edited_by_hand_is_put_back() {
    let mut bench = Bench::new();
    let two = "{protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{}, {aggregationLength: 24}]}";
    bench.put(Kind::AddressPool, address_pool("p", two));
    bench.settle();
    let ready = bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready");
    assert_eq!(ready.2, "served as IPAddressPool p, BGPAdvertisement p, BGPAdvertisement p-2");
    bench.edit(Kind::BgpAdvertisement, "p-2", |object| object["spec"]["aggregationLength"] = json!(32));
    bench.edit(Kind::IpAddressPool, "p", |object| object["spec"]["autoAssign"] = json!(false));
    bench.delete(&key(Kind::BgpAdvertisement, "p"));
    assert_eq!(
        bench.changes(),
        [[
            "repair IPAddressPool p: spec.autoAssign",
            "apply BGPAdvertisement p",
            "repair BGPAdvertisement p-2: spec.aggregationLength"
        ]]
    );
    bench.settle();
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["bgpAdvertisements"] = json!([]));
    assert_eq!(bench.changes(), [["delete BGPAdvertisement p-2"]]);
}

#[test]
fn a_converted_pool_is_the_users_and_nothing_else_changes() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    let convert =
        |object: &mut Value| object["metadata"]["annotations"] = json!({"metallb.io/convert": "true"});
    bench.edit(Kind::AddressPool, "p", convert);
    assert_eq!(
        bench.changes(),
        [["repair IPAddressPool p: metadata.labels"], ["repair L2Advertisement p: metadata.labels"],]
    );
    let before = bench.live(Kind::IpAddressPool, "p");
    bench.settle();
    let after = bench.live(Kind::IpAddressPool, "p");
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(after["metadata"]["labels"], Value::Null);
    assert_eq!(
        bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready"),
        (
            "True".to_owned(),
            "Converted".to_owned(),
            "IPAddressPool p, L2Advertisement p is yours: this AddressPool has no effect any more and may be deleted"
                .to_owned()
        )
    );
    bench.edit(Kind::IpAddressPool, "p", |object| object["spec"]["addresses"] = json!(["198.51.100.0/24"]));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "their edits are theirs");
    for kind in [Kind::IpAddressPool, Kind::L2Advertisement] {
        bench.delete(&key(kind, "p"));
    }
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "what they delete does not come back");
}

#[test]
fn a_pool_that_is_created_to_be_converted_is_served_first() {
    let mut bench = Bench::new();
    let mut pool = address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}");
    pool["metadata"]["annotations"] = json!({"metallb.io/convert": "true"});
    bench.put(Kind::AddressPool, pool);
    bench.settle();
    assert_eq!(bench.live(Kind::L2Advertisement, "p")["metadata"]["ownerReferences"], Value::Null);
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready").1, "Converted");
}

#[test]
fn a_pool_tells_how_much_of_it_is_used() {
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.settle();
    bench.edit(Kind::IpAddressPool, "p", |object| {
        object["status"] = json!({"assignedIPv4": 2, "assignedIPv6": 0, "availableIPv4": 14, "availableIPv6": 0,
                                  "services": 2, "capacity": {"ipv4": "16", "ipv6": "0"}});
    });
    bench.settle();
    let status = &bench.live(Kind::AddressPool, "p")["status"];
    let shown = ["assigned", "assignedIPv4", "services"].map(|name| status[name].as_i64());
    assert_eq!(shown, [Some(2), Some(2), Some(2)]);
    assert_eq!(status["capacity"], json!({"ipv4": "16", "ipv6": "0"}));
}

#[test]
fn a_layer2_pool_outside_the_subnets_that_plug_ins_or_speakers_tell_says_so() {
    let of = |name: &str| json!({"name": name, "resourceVersion": "900"});
    let mut annotated = of("n");
    annotated["annotations"] = json!({"k8s.ovn.org/host-cidrs": r#"["198.51.100.5/24"]"#});
    let mut state = of("speaker-n");
    state["labels"] = json!({"metallb.io/node-name": "n"});
    let state = json!({"metadata": state, "status": {"subnets": ["198.51.100.0/24"]}});
    for told in [
        vec![node(json!({"metadata": annotated}))],
        vec![node(json!({"metadata": of("n")})), neighbour(Neighbour::Speaker, state.clone())],
    ] {
        let mut bench = Bench::new();
        bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
        bench.settle();
        let conditions = |bench: &Bench| {
            bench.live(Kind::AddressPool, "p")["status"]["conditions"].as_array().unwrap().len()
        };
        assert_eq!(conditions(&bench), 2, "nothing is known of subnets");
        for change in told {
            bench.world.take(change);
        }
        let plan = bench.plan();
        assert_eq!(plan.reports[0].events[0].reason, "OutsideNodeSubnets");
        bench.settle();
        let (status, _, message) = bench.condition(Kind::AddressPool, NAMESPACE, "p", "InNodeSubnet");
        assert_eq!(status, "False");
        assert!(message.starts_with("192.0.2.0/28 is in no subnet of a node (198.51.100.0/24)"), "{message}");
        bench.edit(Kind::AddressPool, "p", |object| object["spec"]["protocol"] = json!("bgp"));
        bench.settle();
        assert_eq!(conditions(&bench), 2);
    }

    // What is left of a node that is gone says nothing, and what is not known yet is waited for.
    let mut bench = Bench::new();
    bench.put(Kind::AddressPool, address_pool("p", "{protocol: layer2, addresses: [192.0.2.0/28]}"));
    bench.world.take(neighbour(Neighbour::Speaker, state));
    bench.settle();
    assert_eq!(bench.condition(Kind::AddressPool, NAMESPACE, "p", "Ready").0, "True");
    assert_eq!(bench.live(Kind::AddressPool, "p")["status"]["conditions"].as_array().unwrap().len(), 2);
    let speakers = world::Source::Neighbours(Neighbour::Speaker);
    let before = std::mem::take(&mut bench.world);
    for kind in Kind::ALL {
        bench.world.take(world::Change::Object(kind, Box::new(Event::Init)));
        for object in before.objects(kind) {
            bench.world.take(world::Change::Object(kind, Box::new(Event::InitApply(object.clone()))));
        }
        bench.world.take(world::Change::Object(kind, Box::new(Event::InitDone)));
    }
    for event in [Event::Init, Event::InitDone] {
        bench.world.take(world::Change::Node(Box::new(event)));
    }
    bench.edit(Kind::AddressPool, "p", |object| object["spec"]["addresses"] = json!(["192.0.2.16/28"]));
    bench.assert_idle();
    bench.world.take(world::Change::Fault(speakers, "cannot watch them".to_owned()));
    assert_eq!(bench.changes().len(), 1, "what cannot be seen is not waited for");
}
