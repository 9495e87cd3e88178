use serde_json::{Value, json};

use super::*;

fn object<K: serde::de::DeserializeOwned>(name: &str, generation: i64, spec: &Value) -> K {
    let metadata = json!({ "name": name, "uid": name, "generation": generation });
    serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
}

fn peer(generation: i64, profile: &str) -> BGPPeer {
    let spec = json!({ "myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "bfdProfile": profile });
    object("router", generation, &spec)
}

/// A configuration of which everything is known: one peer.
fn complete(peer: BGPPeer) -> Configured {
    let mut configured = Configured::default();
    configured.take(Edit::Layer2(Change::All(vec![])));
    configured.take(Edit::Bgp(Change::All(vec![])));
    configured.take(Edit::Communities(Change::All(vec![])));
    configured.take(Edit::Profiles(Change::All(vec![])));
    assert!(!configured.is_complete());
    configured.take(Edit::Peers(Change::All(vec![peer])));
    configured
}

/// Kind, name, status, reason, message and generation of what is to be written at `now`.
fn changed(configured: &mut Configured, now: u64) -> Vec<String> {
    let told = |validity: Validity| {
        let condition = &validity.status.conditions[0];
        let (kind, name) = &validity.key;
        format!(
            "{kind} {name} {}={} {} {} {:?}",
            condition.type_,
            condition.status,
            condition.reason,
            condition.message,
            condition.observed_generation
        )
    };
    configured.changed(Duration::from_secs(now)).into_iter().map(told).collect()
}

#[test]
fn a_mistake_is_told_at_its_object_and_taken_back_when_it_is_mended() {
    let mut configured = complete(peer(1, "fast"));
    configured.read(std::iter::empty());
    let missing = "spec.bfdProfile: no usable BFDProfile \"fast\"";
    assert_eq!(configured.problems().collect::<Vec<_>>(), [format!("BGPPeer \"router\": {missing}")]);
    let said = changed(&mut configured, 1);
    assert_eq!(said, [format!("BGPPeer router Valid=False UnresolvedReference {missing} Some(1)")]);
    assert!(changed(&mut configured, 1).is_empty(), "until the watch shows it");

    // The profile comes, and the peer, whose spec has not changed, is right now.
    assert!(configured.take(Edit::Profiles(Change::Set(object("fast", 1, &json!({}))))));
    configured.take(Edit::Peers(Change::Set(peer(1, "fast"))));
    configured.read(std::iter::empty());
    assert_eq!(
        changed(&mut configured, 2),
        ["BGPPeer router Valid=True Used  Some(1)", "BFDProfile fast Valid=True Used  Some(1)"]
    );
    assert_eq!(configured.problems().count(), 0);
}

#[test]
fn what_was_written_is_no_news_and_what_was_not_is_tried_again() {
    let mut configured = complete(peer(1, ""));
    configured.read(std::iter::empty());
    assert_eq!(changed(&mut configured, 1).len(), 1);
    configured.failed(&[("BGPPeer".to_owned(), "router".to_owned())], Duration::from_secs(1));
    assert_eq!(configured.deadline(), Some(Duration::from_secs(3)));
    assert!(changed(&mut configured, 2).is_empty());
    let again = configured.changed(Duration::from_secs(3)).remove(0);

    let mut echo = peer(1, "");
    echo.status = Some(again.status);
    assert!(!configured.take(Edit::Peers(Change::Set(echo.clone()))), "a status is no configuration");
    assert!(changed(&mut configured, 4).is_empty());
    echo.status = None;
    assert!(!configured.take(Edit::Peers(Change::Set(echo))));
    assert_eq!(changed(&mut configured, 5).len(), 1, "what another wiped is said again");
    assert!(configured.take(Edit::Peers(Change::Set(peer(2, "")))));
    assert!(configured.take(Edit::Peers(Change::Gone(peer(2, "")))));
    assert!(changed(&mut configured, 6).is_empty());
}

#[test]
fn a_peer_says_on_which_nodes_another_speaker_has_its_session_until_none_has() {
    let mut configured = complete(peer(1, "fast"));
    configured.take(Edit::Profiles(Change::Set(object("fast", 1, &json!({})))));
    configured.read(std::iter::empty());
    let session = |node: &str, state: &str, error: &str| {
        let status = json!({ "node": node, "peerName": "router", "bgpStatus": state, "lastError": error });
        let object = json!({ "metadata": { "name": format!("bgp-{node}") }, "spec": {}, "status": status });
        Session::of(serde_json::from_value(object).unwrap())
    };
    let conditions = |configured: &mut Configured, now: u64| {
        let mut changed = configured.changed(Duration::from_secs(now)).into_iter();
        let its = changed.find(|validity| validity.key.0 == "BGPPeer")?;
        let told = its.status.conditions.iter().map(|it| format!("{}={} {}", it.type_, it.status, it.reason));
        let told: Vec<_> = told.collect();
        let mut shown = peer(1, "fast");
        shown.status = Some(its.status);
        configured.take(Edit::Peers(Change::Set(shown)));
        Some(told)
    };
    configured.take_sessions(&Change::All(vec![
        session("node1", "Established", "Conflict: it was so before"),
        session("node2", "Active", "no answer to the attempt to connect"),
    ]));
    assert_eq!(conditions(&mut configured, 1).unwrap(), ["Valid=True Used"]);
    configured.take_sessions(&Change::Set(session("node2", "Active", "Conflict: another BGP speaker")));
    assert_eq!(conditions(&mut configured, 2).unwrap(), ["Valid=True Used", "Conflict=True AnotherSpeaker"]);
    assert_eq!(conditions(&mut configured, 3), None);
    configured.take_sessions(&Change::Gone(session("node2", "", "")));
    assert_eq!(conditions(&mut configured, 4).unwrap(), ["Valid=True Used", "Conflict=False NoConflict"]);
}

#[test]
fn a_passive_peer_says_which_nodes_no_router_can_connect_to() {
    let mut configured = complete(peer(1, ""));
    configured.read(std::iter::empty());
    let session = |error: &str| {
        let status =
            json!({ "node": "node1", "peerName": "router", "bgpStatus": "Idle", "lastError": error });
        let object = json!({ "metadata": { "name": "bgp-1" }, "spec": {}, "status": status });
        Session::of(serde_json::from_value(object).unwrap())
    };
    let said = |configured: &mut Configured, now: u64| {
        let its = configured.changed(Duration::from_secs(now)).remove(0).status;
        let last = its.conditions.last().unwrap().clone();
        configured.take(Edit::Peers(Change::Set(BGPPeer { status: Some(its), ..peer(1, "") })));
        (last.type_, last.status, last.reason, last.message)
    };
    let words = |kind: &str, status: &str, reason: &str, message: &str| {
        (kind.to_owned(), status.to_owned(), reason.to_owned(), message.to_owned())
    };
    configured.take_sessions(&Change::Set(session(crate::speaker::NOT_LISTENING)));
    let message = "passive waits for the router, which cannot connect to node1: set speakerConfig.bgpListen of the \
                   MetalLB resource, or passive to false";
    assert_eq!(said(&mut configured, 1), words("NotListening", "True", "BGPListenOff", message));
    let error = format!("{} on \"red\": there is no such interface", crate::speaker::CANNOT_LISTEN);
    configured.take_sessions(&Change::Set(session(&error)));
    let message = "passive waits for the router, which cannot connect to node1 yet: lastError of the BGPSessionState says \
                   why";
    assert_eq!(said(&mut configured, 2), words("NotListening", "True", "CannotListen", message));
    configured.take_sessions(&Change::Set(session("")));
    assert_eq!(said(&mut configured, 3), words("NotListening", "False", "Listening", ""));
}

#[test]
fn a_peer_says_which_nodes_have_routes_that_its_router_cannot_be_told() {
    let mut configured = complete(peer(1, ""));
    configured.read(std::iter::empty());
    let session = |unsent: Option<&str>| {
        let status = json!({
            "node": "node1", "peerName": "router", "bgpStatus": "Established", "routesNotSent": unsent,
        });
        let object = json!({ "metadata": { "name": "bgp-1" }, "spec": {}, "status": status });
        Change::Set(Session::of(serde_json::from_value(object).unwrap()))
    };
    let said = |configured: &mut Configured, now: u64| {
        let its = configured.changed(Duration::from_secs(now)).remove(0).status;
        let last = its.conditions.last().unwrap().clone();
        configured.take(Edit::Peers(Change::Set(BGPPeer { status: Some(its), ..peer(1, "") })));
        format!("{}={} {} {}", last.type_, last.status, last.reason, last.message)
    };
    configured.take_sessions(&session(Some("2 IPv6 routes, since the router does not take IPv6 unicast")));
    assert_eq!(
        said(&mut configured, 1),
        "RoutesNotSent=True RouterCannotBeTold there are routes that the router is not told by node1: routesNotSent of \
         the BGPSessionState says why"
    );
    configured.take_sessions(&session(None));
    assert_eq!(said(&mut configured, 2), "RoutesNotSent=False AllSent ");
}

#[test]
fn what_objects_say_together_is_told_at_the_one_that_does_not_get_its_way() {
    let mut configured = complete(peer(1, ""));
    let advertisement = |status| {
        let advertisement: BGPAdvertisement = object("routes", 1, &json!({}));
        Edit::Bgp(Change::Set(BGPAdvertisement { status, ..advertisement }))
    };
    configured.take(advertisement(None));
    configured.read(std::iter::empty());
    let problem = Problem {
        kind: "BGPAdvertisement".to_owned(),
        name: "routes".to_owned(),
        field: "spec.med".to_owned(),
        message: "1 is not used".to_owned(),
        cause: metallb_core::config::Cause::Invalid,
    };
    let pools = vec!["IPAddressPool \"a\" by /24 routes".to_owned()];
    let judged = || Together {
        problems: vec![problem.clone()],
        aggregates: BTreeMap::from([("routes".to_owned(), pools.clone())]),
    };
    let said = |configured: &mut Configured, now: u64| {
        let changed = configured.changed(Duration::from_secs(now));
        let its = changed.into_iter().find(|validity| validity.key.1 == "routes")?.status;
        let words = |it: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}={} {} {}", it.type_, it.status, it.reason, it.message)
        };
        let told: Vec<String> = its.conditions.iter().map(words).collect();
        configured.take(advertisement(Some(its)));
        Some(told)
    };
    configured.judge(judged());
    let looping = "UnusedAddressesLoop=True Aggregated announced are IPAddressPool \"a\" by /24 routes: a packet to an \
                   address of these routes that no Service has goes back and forth between the router and a node whose \
                   default route leads there, until its TTL ends";
    assert_eq!(
        said(&mut configured, 1).unwrap(),
        ["Valid=False InvalidSpec spec.med: 1 is not used", looping]
    );
    assert_eq!(
        configured.problems().collect::<Vec<_>>(),
        ["BGPAdvertisement \"routes\": spec.med: 1 is not used"]
    );
    configured.judge(judged());
    assert_eq!(configured.deadline(), Some(Duration::ZERO), "the status that was written came back");
    assert_eq!(said(&mut configured, 2), None);
    configured.judge(judged());
    assert_eq!(configured.deadline(), None, "nothing new");
    configured.judge(Together::default());
    let free = ["Valid=True Used ", "UnusedAddressesLoop=False SingleAddresses "];
    assert_eq!(said(&mut configured, 3).unwrap(), free);
}
