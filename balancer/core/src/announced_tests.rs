use std::collections::BTreeMap;

use metallb_api::{BGPAdvertisement, IPAddressPool, L2Advertisement as L2Object};
use serde_json::{Value, json};

use super::*;
use crate::{
    config::{Objects, parse},
    plan::{Endpoints, Node},
};

fn objects<T: serde::de::DeserializeOwned>(specs: &Value) -> Vec<T> {
    let named = specs.as_object().unwrap().iter();
    named
        .map(|(name, spec)| {
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
        })
        .collect()
}

/// Two nodes with a speaker each, and a pool that these advertisements are about.
fn world(layer2: &Value, bgp: &Value) -> World {
    let pools: Vec<IPAddressPool> = objects(&json!({ "main": { "addresses": ["192.0.2.0/24"] } }));
    let (layer2, bgp): (Vec<L2Object>, Vec<BGPAdvertisement>) = (objects(layer2), objects(bgp));
    let (config, problems) = parse(&Objects {
        pools: pools.iter().collect(),
        l2_advertisements: layer2.iter().collect(),
        bgp_advertisements: bgp.iter().collect(),
        ..Objects::default()
    });
    assert_eq!(problems, []);
    let node = |name: &str| {
        let labels = [("name", name)].into_iter().collect();
        (name.to_owned(), Node { labels, ..Node::default() })
    };
    World {
        config,
        nodes: BTreeMap::from([node("one"), node("two")]),
        speakers: Some(["one".to_owned(), "two".to_owned()].into()),
        ..World::default()
    }
}

fn service() -> Service {
    Service {
        addresses: vec!["192.0.2.1".parse().unwrap()],
        endpoints: Endpoints { any: true, nodes: ["one"].into_iter().collect() },
        ..Service::default()
    }
}

#[test]
fn what_speakers_say_counts_while_they_are_ready() {
    let layer2 = Announcers { layer2: ["one".to_owned()].into(), ..Announcers::default() };
    let bgp = Announcers { bgp: ["one".to_owned(), "two".to_owned()].into(), ..Announcers::default() };
    let both = Announcers { bgp: bgp.bgp.clone(), ..layer2.clone() };
    let mut world = world(&json!({ "all": {} }), &json!({}));
    for (announcers, want) in [(&layer2, "on layer 2"), (&bgp, "by BGP"), (&both, "on layer 2 and by BGP")] {
        assert_eq!(judge(&world, &service(), announcers), Ok(want));
    }
    let outside = vec!["192.0.2.1/32".parse().unwrap()];
    let message = "announced on layer 2, but no node has an address in the subnet of 192.0.2.1: only hosts with a \
                   route to it over the link of the nodes reach it";
    let unheard = Announcers { outside: outside.clone(), ..layer2.clone() };
    assert_eq!(judge(&world, &service(), &unheard), Err((Reason::OutsideNodeSubnet, message.to_owned())));
    let routed = Announcers { outside, ..both.clone() };
    assert_eq!(judge(&world, &service(), &routed), Ok("on layer 2 and by BGP"));
    world.speakers = Some(["two".to_owned()].into());
    assert_eq!(judge(&world, &service(), &both), Ok("by BGP"));
    assert_eq!(judge(&world, &service(), &layer2).map_err(|(reason, _)| reason), Err(Reason::NoInterface));
}

#[test]
fn what_stands_in_the_way_is_named_in_the_order_in_which_one_would_look() {
    type Change = fn(&mut World, &mut Service);
    let all = || json!({ "all": {} });
    let on_three = || json!({ "three": { "nodeSelectors": [{ "matchLabels": { "name": "three" } }] } });
    let exclude = |world: &mut World, node: &str| {
        let labels = [("name", node), (EXCLUDE_LB_LABEL, "")].into_iter().collect();
        world.nodes.get_mut(node).unwrap().labels = labels;
    };
    let cases: &[(Value, Value, Change, (Reason, &str))] = &[
        (
            json!({}),
            json!({}),
            |_, _| {},
            (Reason::NoAdvertisement, "no L2Advertisement or BGPAdvertisement is about pool \"main\""),
        ),
        (
            all(),
            all(),
            |_, service| service.addresses = vec!["198.51.100.1".parse().unwrap()],
            (Reason::NoAdvertisement, "no pool holds its address"),
        ),
        (
            json!({ "gold": { "serviceSelectors": [{ "matchLabels": { "tier": "gold" } }] } }),
            json!({}),
            |_, _| {},
            (Reason::NoAdvertisement, "the advertisements of pool \"main\" select other Services"),
        ),
        (
            json!({ "gold": { "serviceSelectors": [{ "matchLabels": { "tier": "gold" } }] } }),
            json!({}),
            |_, service| {
                service.shared = true;
                service.labels = [("tier", "gold")].into_iter().collect();
            },
            (
                Reason::NoAdvertisement,
                "it shares its address, and its L2Advertisements select single Services",
            ),
        ),
        (on_three(), on_three(), |_, _| {}, (Reason::NoAdvertisement, "its advertisements select no node")),
        (
            all(),
            all(),
            |_, service| service.endpoints = Endpoints::default(),
            (Reason::NoReadyEndpoint, "no endpoint is ready"),
        ),
        (
            all(),
            json!({}),
            |world, _| world.nodes.values_mut().for_each(|node| node.network_unavailable = true),
            (Reason::NoInterface, "the network of every node that may announce is unavailable"),
        ),
        (
            all(),
            json!({}),
            |world, _| world.speakers = Some(BTreeSet::new()),
            (Reason::NoSpeaker, "no speaker is ready on a node that may announce"),
        ),
        (
            all(),
            json!({}),
            |world, service| {
                service.local = true;
                world.speakers = Some(["two".to_owned()].into());
            },
            (
                Reason::NoReadyEndpoint,
                "externalTrafficPolicy is Local, and no endpoint is ready on a node that may announce",
            ),
        ),
        (all(), all(), |_, _| {}, (Reason::NoInterface, "no node that may announce has an interface for it")),
        (
            json!({}),
            all(),
            |_, _| {},
            (Reason::SessionDown, "no BGP session stands by which it would be announced"),
        ),
    ];
    for (layer2, bgp, change, (reason, message)) in cases {
        let (mut world, mut service) = (world(layer2, bgp), service());
        change(&mut world, &mut service);
        let want = Err((*reason, (*message).to_owned()));
        assert_eq!(judge(&world, &service, &Announcers::default()), want);
    }

    let mut world = world(&all(), &json!({}));
    exclude(&mut world, "one");
    assert_eq!(
        judge(&world, &service(), &Announcers::default()).map_err(|(reason, _)| reason),
        Err(Reason::NoInterface)
    );
    exclude(&mut world, "two");
    let message = format!("label {EXCLUDE_LB_LABEL} excludes every node that its advertisements select");
    assert_eq!(judge(&world, &service(), &Announcers::default()), Err((Reason::ExcludedByLabel, message)));
    world.ignore_exclude_label = true;
    assert_eq!(
        judge(&world, &service(), &Announcers::default()).map_err(|(reason, _)| reason),
        Err(Reason::NoInterface),
        "the label means nothing then"
    );
}

#[test]
fn a_session_counts_while_it_stands_and_when_nobody_knows() {
    let session = |state: &str| {
        let status =
            json!({ "bgpStatus": state, "node": "one", "peerName": "router", "peer": "192.0.2.254" });
        serde_json::from_value::<BGPSessionState>(json!({ "metadata": {}, "status": status })).unwrap()
    };
    let stands = |state: &str| Sessions(Some(Sessions::standing(&session(state)).into_iter().collect()));
    for (sessions, want) in [
        (stands("Established"), true),
        (stands("Active"), false),
        (Sessions(Some(BTreeSet::new())), false),
        (Sessions(None), true),
    ] {
        assert_eq!(sessions.stands("one", "router"), want, "{sessions:?}");
    }
    assert!(!stands("Established").stands("two", "router"));
    assert!(!stands("Established").stands("one", "other"));
}
