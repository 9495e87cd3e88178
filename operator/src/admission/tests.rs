use std::collections::BTreeMap;

use super::*;

fn settings() -> Settings {
    let variables: BTreeMap<_, _> = [
        ("OPERATOR_NAMESPACE", "metallb-system"),
        ("POD_NAME", "operator"),
        ("CONTROLLER_IMAGE", "controller:1"),
        ("SPEAKER_IMAGE", "speaker:1"),
    ]
    .into();
    Settings::read(|name| variables.get(name).map(|&value| value.to_owned())).unwrap()
}

fn object(kind: &str, name: &str, spec: &str) -> DynamicObject {
    let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
    serde_saphyr::from_str(&format!(
        "{{apiVersion: metallb.io/{version}, kind: {kind}, metadata: {{name: {name}, namespace: metallb-system, uid: \
         uid-{name}}}, spec: {{{spec}}}}}"
    ))
    .unwrap()
}

fn typed<K: DeserializeOwned + Resource<DynamicType = ()>>(kind: &str, name: &str, spec: &str) -> K {
    object(kind, name, spec).try_parse().unwrap()
}

fn ask(old: Option<&DynamicObject>, new: Option<&DynamicObject>, existing: &Existing) -> Answer {
    let either = new.or(old).unwrap();
    let question = Question {
        kind: &either.types.as_ref().unwrap().kind,
        namespace: either.metadata.namespace.as_deref().unwrap(),
        name: either.metadata.name.as_deref().unwrap(),
        object: new,
        old,
    };
    judge(&question, existing, &settings())
}

fn create(object: &DynamicObject, existing: &Existing) -> Answer {
    ask(None, Some(object), existing)
}

fn denied(reasons: &[&str]) -> Answer {
    Answer { denials: reasons.iter().map(|&reason| reason.to_owned()).collect(), warnings: Vec::new() }
}

fn warned(warnings: &[&str]) -> Answer {
    Answer { denials: Vec::new(), warnings: warnings.iter().map(|&text| text.to_owned()).collect() }
}

#[test]
fn a_resource_in_another_namespace_is_refused_and_one_of_another_name_warned_of() {
    let mut elsewhere = object("MetalLB", "metallb", "");
    elsewhere.metadata.namespace = Some("default".to_owned());
    assert_eq!(
        create(&elsewhere, &Existing::default()),
        denied(&["MetalLB must be created in namespace metallb-system: in default it would have no effect"])
    );
    assert_eq!(
        ask(Some(&elsewhere), Some(&elsewhere), &Existing::default()),
        warned(&["this object has no effect: only those in namespace metallb-system have"])
    );
    assert_eq!(
        create(&object("MetalLB", "second", ""), &Existing::default()),
        warned(&[
            "this resource has no effect: only the one named \"metallb\" has. It is the only one that is needed"
        ])
    );
}

#[test]
fn a_change_of_the_class_is_warned_of() {
    let of = |class: &str| object("MetalLB", "metallb", class);
    let (none, lan) = (of(""), of("loadBalancerClass: example.com/lan"));
    let told = |old: &DynamicObject, new: &DynamicObject| {
        ask(Some(old), Some(new), &Existing::default()).warnings.pop().unwrap_or_default()
    };
    assert!(told(&none, &lan).contains("Services without a class are no longer served"));
    assert!(told(&lan, &none).contains("Services with class \"example.com/lan\" are no longer served"));
    assert_eq!((told(&lan, &lan).as_str(), told(&none, &none).as_str()), ("", ""));
}

#[test]
fn a_problem_is_denied_where_it_comes_in_and_warned_of_where_it_was() {
    let bad = object("MetalLB", "metallb", "bgpBackend: bird");
    let worse = object("MetalLB", "metallb", "bgpBackend: bird, controllerConfig: {replicas: 99}");
    let problem = "spec.bgpBackend: \"bird\" is not one of native, frr, frr-k8s, frr-k8s-external";
    let existing = Existing::default();
    assert_eq!(create(&bad, &existing), denied(&[problem]));
    assert_eq!(ask(Some(&bad), Some(&bad), &existing), warned(&[problem]));
    assert_eq!(
        ask(Some(&bad), Some(&worse), &existing),
        Answer {
            denials: vec!["spec.controllerConfig.replicas: 99 is not between 1 and 10".to_owned()],
            warnings: vec![problem.to_owned()],
        }
    );
    assert_eq!(ask(Some(&bad), Some(&object("MetalLB", "metallb", "")), &existing), Answer::default());
    let frr = object("MetalLB", "metallb", "frrk8sConfig: {alwaysBlock: [192.0.2.1]}");
    let problem = "spec.frrk8sConfig.alwaysBlock[0]: \"192.0.2.1\" is not a CIDR prefix such as 192.0.2.0/24";
    assert_eq!(create(&frr, &existing), denied(&[problem]));
    assert_eq!(ask(Some(&frr), Some(&frr), &existing), warned(&[problem]));
}

#[test]
fn a_problem_that_was_there_is_known_wherever_in_its_list_it_stands() {
    let existing = Existing::default();
    let metallb =
        |blocks: &str| object("MetalLB", "metallb", &format!("frrk8sConfig: {{alwaysBlock: [{blocks}]}}"));
    let problem = |at: usize, block: &str| {
        format!("spec.frrk8sConfig.alwaysBlock[{at}]: \"{block}\" is not a CIDR prefix such as 192.0.2.0/24")
    };
    let before = metallb("192.0.2.1");
    let moved = ask(Some(&before), Some(&metallb("10.0.0.0/8, 192.0.2.1")), &existing);
    assert_eq!(moved, warned(&[&problem(1, "192.0.2.1")]));
    let more = ask(Some(&before), Some(&metallb("192.0.2.2, 192.0.2.1, 192.0.2.1")), &existing);
    let want = Answer {
        denials: vec![problem(0, "192.0.2.2"), problem(2, "192.0.2.1")],
        warnings: vec![problem(1, "192.0.2.1")],
    };
    assert_eq!(more, want, "each counts once");

    let (before, after) = ("addresses: [junk]", "addresses: [192.0.2.0/28, junk]");
    let existing = Existing { pools: vec![typed("IPAddressPool", "p", before)], ..Existing::default() };
    let of = |spec: &str| object("IPAddressPool", "p", spec);
    let answer = ask(Some(&of(before)), Some(&of(after)), &existing);
    assert_eq!((answer.denials.as_slice(), answer.warnings.len()), ([].as_slice(), 1), "{answer:?}");
    assert!(answer.warnings[0].starts_with("spec.addresses[1]: "), "{answer:?}");
}

#[test]
fn what_goes_or_stays_as_it_was_is_denied_nothing() {
    let existing = Existing::default();
    let unreadable = object("IPAddressPool", "p", "addresses: 7");
    let mut leaving = object("IPAddressPool", "p", "addresses: [junk]");
    leaving.metadata.deletion_timestamp = serde_json::from_str("\"2030-01-01T00:00:00Z\"").unwrap();
    let good = object("IPAddressPool", "p", "addresses: [192.0.2.0/28]");
    for (old, new, passes) in [
        (&unreadable, &unreadable, true),
        (&good, &leaving, true),
        (&good, &unreadable, false),
        (&good, &object("IPAddressPool", "p", "addresses: [junk]"), false),
    ] {
        let answer = ask(Some(old), Some(new), &existing);
        assert_eq!(answer.denials.is_empty(), passes, "{answer:?}");
        assert_eq!(answer.warnings.is_empty(), !passes, "{answer:?}");
    }
}

#[test]
fn pools_that_overlap_are_denied_whichever_is_older() {
    let mut older: IPAddressPool = typed("IPAddressPool", "older", "addresses: [192.0.2.0/28]");
    older.metadata.creation_timestamp = serde_json::from_str("\"2020-01-01T00:00:00Z\"").unwrap();
    let mut newer: IPAddressPool = typed("IPAddressPool", "newer", "addresses: [192.0.2.16/28]");
    newer.metadata.creation_timestamp = serde_json::from_str("\"2021-01-01T00:00:00Z\"").unwrap();
    let existing = Existing { pools: vec![older, newer], ..Existing::default() };

    let third = object("IPAddressPool", "third", "addresses: [192.0.2.20-192.0.2.40]");
    assert_eq!(
        create(&third, &existing),
        denied(&[
            "spec.addresses[0]: 192.0.2.20-192.0.2.40 overlaps 192.0.2.16/28 of IPAddressPool \"newer\""
        ])
    );
    let mut grown = object("IPAddressPool", "older", "addresses: [192.0.2.0/24]");
    grown.metadata.creation_timestamp = serde_json::from_str("\"2020-01-01T00:00:00Z\"").unwrap();
    let answer =
        ask(Some(&object("IPAddressPool", "older", "addresses: [192.0.2.0/28]")), Some(&grown), &existing);
    assert_eq!(
        answer,
        denied(&[
            "IPAddressPool \"newer\": spec.addresses[0]: 192.0.2.16/28 overlaps 192.0.2.0/24 of IPAddressPool \
             \"older\""
        ])
    );
    let address_pool = object("AddressPool", "p", "protocol: layer2, addresses: [192.0.2.8/32]");
    assert_eq!(
        create(&address_pool, &existing),
        denied(&["spec.addresses[0]: 192.0.2.8/32 overlaps 192.0.2.0/28 of IPAddressPool \"older\""])
    );
}

#[test]
fn each_kind_is_judged() {
    let existing = Existing::default();
    for (kind, spec, field) in [
        ("IPAddressPool", "addresses: [192.0.2.9-192.0.2.1]", "spec.addresses[0]"),
        ("IPAddressPool", "addresses: []", "spec.addresses"),
        ("IPAddressPool", "addresses: [192.0.2.1-'2001:db8::1']", "spec.addresses[0]"),
        ("AddressPool", "protocol: layer2, addresses: [192.0.2.1]", "spec.addresses[0]"),
        (
            "AddressPool",
            "protocol: layer2, addresses: [192.0.2.0/24], bgpAdvertisements: [{}]",
            "spec.bgpAdvertisements",
        ),
        (
            "L2Advertisement",
            "nodeSelectors: [{matchExpressions: [{key: a, operator: Near}]}]",
            "spec.nodeSelectors[0]",
        ),
        ("AddressPool", "protocol: layer2, addresses: [192.0.2.0/24, 192.0.2.7/32]", "spec.addresses[1]"),
        ("AddressPool", "protocol: layer2, addresses: [192.0.2.9-192.0.2.1]", "spec.addresses[0]"),
        ("AddressPool", "protocol: layer2, addresses: [192.0.2.1-'2001:db8::1']", "spec.addresses[0]"),
        (
            "AddressPool",
            "protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{}, {aggregationLength: 33}]",
            "spec.bgpAdvertisements[1].aggregationLength",
        ),
        (
            "AddressPool",
            "protocol: bgp, addresses: [192.0.2.0/28], bgpAdvertisements: [{aggregationLength: 24}]",
            "spec.bgpAdvertisements[0].aggregationLength",
        ),
        (
            "AddressPool",
            "protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{communities: ['64512:70000']}]",
            "spec.bgpAdvertisements[0].communities",
        ),
        (
            "AddressPool",
            "protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{localPref: -1}]",
            "spec.bgpAdvertisements[0].localPref",
        ),
        ("BGPAdvertisement", "aggregationLength: 33", "spec.aggregationLength"),
        ("BGPPeer", "myASN: 0, peerASN: 64512, peerAddress: 192.0.2.1", "spec.myASN"),
        ("BFDProfile", "receiveInterval: 5", "spec.receiveInterval"),
        ("Community", "communities: [{name: a, value: '1:2:3'}]", "spec.communities[0]"),
    ] {
        let answer = create(&object(kind, "x", spec), &existing);
        assert!(!answer.denials.is_empty(), "{kind} {spec}: {answer:?}");
        assert!(answer.denials.iter().all(|denial| denial.starts_with(field)), "{kind} {spec}: {answer:?}");
    }
}

#[test]
fn what_names_an_object_that_does_not_exist_yet_is_warned_of() {
    let peer =
        object("BGPPeer", "p", "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, bfdProfile: fast");
    let answer = create(&peer, &Existing::default());
    assert_eq!(answer.denials, Vec::<String>::new());
    assert!(answer.warnings[0].starts_with("spec.bfdProfile: "), "{answer:?}");

    let pool = object(
        "AddressPool",
        "p",
        "protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{communities: [fast]}]",
    );
    let mut existing = Existing::default();
    assert_eq!(
        create(&pool, &existing),
        warned(&[
            "spec.bgpAdvertisements[0].communities: \"fast\" is not a community, and no Community defines this name"
        ])
    );
    existing.communities = vec![typed("Community", "c", "communities: [{name: fast, value: '64512:1'}]")];
    assert_eq!(create(&pool, &existing), Answer::default());
}

#[test]
fn address_pools_that_were_not_carried_out_yet_count_too() {
    let existing = Existing {
        address_pools: vec![typed("AddressPool", "first", "protocol: layer2, addresses: [192.0.2.0/28]")],
        ..Existing::default()
    };
    let problem = "spec.addresses[0]: 192.0.2.8/29 overlaps 192.0.2.0/28 of IPAddressPool \"first\"";
    let second = object("AddressPool", "second", "protocol: bgp, addresses: [192.0.2.8/29]");
    assert_eq!(create(&second, &existing), denied(&[problem]));
    assert_eq!(
        create(&object("IPAddressPool", "third", "addresses: [192.0.2.8/29]"), &existing),
        denied(&[problem])
    );
    let own = object("IPAddressPool", "first", "addresses: [192.0.2.0/28]");
    assert_eq!(create(&own, &existing), Answer::default(), "what it becomes does not overlap its source");
}

#[test]
fn an_address_pool_that_grows_over_a_newer_pool_is_denied_and_an_old_overlap_can_be_edited() {
    let created = |mut pool: IPAddressPool, year: u16| {
        pool.metadata.creation_timestamp =
            serde_json::from_str(&format!("\"{year}-01-01T00:00:00Z\"")).unwrap();
        pool
    };
    let source = object("AddressPool", "older", "protocol: layer2, addresses: [192.0.2.0/28]");
    let mut derived: IPAddressPool = typed("IPAddressPool", "older", "addresses: [192.0.2.0/28]");
    derived.metadata.owner_references =
        Some(vec![crate::render::owner_reference(&source.clone().try_parse::<AddressPool>().unwrap())]);
    let existing = Existing {
        address_pools: vec![source.clone().try_parse().unwrap()],
        pools: vec![
            created(derived, 2020),
            created(typed("IPAddressPool", "newer", "addresses: [192.0.2.16/28]"), 2021),
        ],
        ..Existing::default()
    };
    let grown = object("AddressPool", "older", "protocol: layer2, addresses: [192.0.2.0/24]");
    let problem = "spec.addresses[0]: 192.0.2.0/24 overlaps 192.0.2.16/28 of IPAddressPool \"newer\"";
    assert_eq!(ask(Some(&source), Some(&grown), &existing), denied(&[problem]));
    let edited = object("AddressPool", "older", "protocol: bgp, addresses: [192.0.2.0/24]");
    assert_eq!(ask(Some(&grown), Some(&edited), &existing), warned(&[problem]));
}

#[test]
fn a_pool_that_holds_addresses_of_the_cluster_itself_is_warned_of() {
    let network = Network {
        nodes: (1..=12).map(|number| (IpAddr::from([192, 0, 2, number]), format!("node{number}"))).collect(),
        ranges: vec![
            ("10.96.0.0/12".parse().unwrap(), "cluster addresses of Services".to_owned()),
            ("10.244.1.0/24".parse().unwrap(), "pods on node node1".to_owned()),
        ],
    };
    let existing = Existing { network, ..Existing::default() };
    let pool = |addresses: &str| object("IPAddressPool", "p", &format!("addresses: [{addresses}]"));
    assert_eq!(
        create(&pool("192.0.2.2-192.0.2.3, 10.244.0.0/16"), &existing),
        warned(&[
            "192.0.2.2/31 holds addresses of nodes, which no Service is given: node2 (192.0.2.2), node3 \
             (192.0.2.3)",
            "10.244.0.0/16 meets the cluster's own network: 10.244.1.0/24 (pods on node node1)",
        ])
    );
    let answer = create(&pool("192.0.2.0/24"), &existing);
    assert!(answer.warnings[0].ends_with("node10 (192.0.2.10) and 2 more"), "{answer:?}");
    let grown = ask(Some(&pool("192.0.2.0/24")), Some(&pool("192.0.2.0/24, 10.100.0.0/16")), &existing);
    assert_eq!(
        grown,
        warned(&[
            "10.100.0.0/16 meets the cluster's own network: 10.96.0.0/12 (cluster addresses of Services)"
        ])
    );
    let source = object("AddressPool", "q", "protocol: layer2, addresses: [192.0.2.2/32]");
    assert_eq!(create(&source, &existing).warnings.len(), 1);
}

#[test]
fn deleting_what_was_converted_takes_no_address_away() {
    let service: Service = serde_saphyr::from_str(
        "{metadata: {name: s, namespace: web}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}",
    )
    .unwrap();
    let mut source = object("AddressPool", "p", "protocol: layer2, addresses: [192.0.2.0/28]");
    let mut existing = Existing { services: vec![service], ..Existing::default() };
    assert_eq!(ask(Some(&source), None, &existing).warnings.len(), 1);
    source.metadata.annotations =
        Some(BTreeMap::from([("metallb.io/convert".to_owned(), "true".to_owned())]));
    existing.pools = vec![typed("IPAddressPool", "p", "addresses: [192.0.2.0/28]")];
    assert_eq!(ask(Some(&source), None, &existing), Answer::default());
    assert_eq!(
        ask(Some(&source), Some(&source), &existing),
        warned(&["this AddressPool was converted and has no effect any more"])
    );
}

#[test]
fn every_form_of_the_manual_is_accepted() {
    for spec in [
        "protocol: layer2, addresses: [203.0.113.1-203.0.113.10, 203.0.113.65-203.0.113.75]",
        "protocol: layer2, addresses: [10.0.100.0/28], autoAssign: false",
        "protocol: layer2, addresses: ['2002:2:2::1-2002:2:2::100']",
        "protocol: layer2, addresses: [1.1.1.1-1.1.1.1]",
        "protocol: layer2, addresses: [1.1.1.1/32, 'fc00:f853:0ccd:e799::/124', 10.0.100.0-10.0.100.9]",
        "protocol: bgp, addresses: [198.51.100.0/24], bgpAdvertisements: [{aggregationLength: 24}, {localPref: 100}]",
    ] {
        assert_eq!(
            create(&object("AddressPool", "doc-example", spec), &Existing::default()),
            Answer::default(),
            "{spec}"
        );
    }
    let bare =
        create(&object("AddressPool", "p", "protocol: layer2, addresses: [1.1.1.1]"), &Existing::default());
    assert_eq!(bare, denied(&["spec.addresses[0]: 1.1.1.1 is a single address: write 1.1.1.1/32"]));
}

#[test]
fn a_pool_in_use_may_be_deleted_or_shrunk_but_not_unnoticed() {
    let service = |number: u8| -> Service {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: s{number}, namespace: web}}, status: {{loadBalancer: {{ingress: [{{ip: \
             192.0.2.{number}}}, {{hostname: x}}]}}}}}}"
        ))
        .unwrap()
    };
    let pool = object("IPAddressPool", "p", "addresses: [192.0.2.0/24]");
    let mut existing = Existing { services: vec![service(1), service(200)], ..Existing::default() };
    let shrunk = object("IPAddressPool", "p", "addresses: [192.0.2.0/25]");
    assert_eq!(
        ask(Some(&pool), Some(&shrunk), &existing),
        warned(&["1 Service has an address that will no longer be in the pool: web/s200 (192.0.2.200)"])
    );
    existing.services = (1..=12).map(service).collect();
    let answer = ask(Some(&pool), None, &existing);
    assert_eq!(answer.denials, Vec::<String>::new());
    assert!(answer.warnings[0].starts_with("12 Services have"), "{answer:?}");
    assert!(answer.warnings[0].ends_with("web/s10 (192.0.2.10) and 2 more"), "{answer:?}");
}

#[test]
fn a_profile_that_asks_for_echo_packets_names_the_peers_that_it_does_not_reach() {
    let peer =
        |name: &str, more: &str| typed("BGPPeer", name, &format!("myASN: 64512, bfdProfile: fast, {more}"));
    let existing = Existing {
        bgp_peers: vec![
            peer("near", "peerASN: 64513, peerAddress: 192.0.2.1"),
            peer("far", "peerASN: 64513, peerAddress: 192.0.2.1, ebgpMultiHop: true"),
            peer("link", "peerASN: 64513, interface: eth1"),
            typed("BGPPeer", "other", "myASN: 64512, peerASN: 64512, peerAddress: 192.0.2.1"),
        ],
        ..Existing::default()
    };
    let profile = |spec| ask(None, Some(&object("BFDProfile", "fast", spec)), &existing);
    assert_eq!(profile("echoMode: false"), Answer::default());
    let answer = profile("echoMode: true");
    assert_eq!(answer.denials, Vec::<String>::new());
    assert!(answer.warnings[0].ends_with(": far, link"), "{answer:?}");
}

#[test]
fn a_peer_that_the_echo_packets_of_its_profile_do_not_reach_is_told_so() {
    let existing = Existing {
        bfd_profiles: vec![
            typed("BFDProfile", "echo", "echoMode: true"),
            typed("BFDProfile", "plain", "echoMode: false"),
        ],
        ..Existing::default()
    };
    let peer = |more: &str| object("BGPPeer", "p", &format!("myASN: 64512, {more}"));
    let near = peer("peerASN: 64513, peerAddress: 192.0.2.1, bfdProfile: echo");
    assert_eq!(create(&near, &existing), Answer::default());
    let warning = "spec.bfdProfile: echoMode of BFDProfile \"echo\" has no effect on this peer, whose router may be more \
                   than one hop away or has a link-local address";
    let far = |profile: &str| {
        peer(&format!("peerASN: 64513, peerAddress: 192.0.2.1, ebgpMultiHop: true, bfdProfile: {profile}"))
    };
    assert_eq!(create(&far("plain"), &existing), Answer::default());
    assert_eq!(create(&far("echo"), &existing), warned(&[warning]));
    // Also where the edit is what makes it so, of the peer or of its profile's name.
    assert_eq!(ask(Some(&near), Some(&far("echo")), &existing), warned(&[warning]));
    assert_eq!(ask(Some(&far("plain")), Some(&far("echo")), &existing), warned(&[warning]));
}

#[test]
fn a_profile_that_peers_name_is_deleted_with_a_warning() {
    let peer =
        typed("BGPPeer", "p", "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, bfdProfile: fast");
    let existing = Existing { bgp_peers: vec![peer], ..Existing::default() };
    let answer = ask(Some(&object("BFDProfile", "fast", "")), None, &existing);
    assert_eq!(answer, warned(&["these BGPPeers name this profile: p"]));
}
