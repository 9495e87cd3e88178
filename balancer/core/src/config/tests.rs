//! Tables of objects and what becomes of them.

mod bgp;

use std::collections::{BTreeMap, BTreeSet};

use metallb_api as api;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::selector::{AnyOf, Labels, Selector};

/// An object of type `K`, named and created at a second of some minute.
fn object<K: DeserializeOwned>(name: &str, second: u8, spec: &Value) -> K {
    let metadata = json!({ "name": name, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z") });
    let version = "metallb.io/v1beta1";
    serde_json::from_value(json!({ "apiVersion": version, "kind": "", "metadata": metadata, "spec": spec }))
        .unwrap()
}

fn pool(name: &str, second: u8, addresses: &[&str]) -> api::IPAddressPool {
    object(name, second, &json!({ "addresses": addresses }))
}

fn parsed_pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.into(),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        auto_assign: true,
        avoid_buggy_ips: false,
        service_allocation: None,
        cooldown: std::time::Duration::ZERO,
        labels: Labels::new(),
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn selector(key: &str, value: &str) -> Selector {
    Selector::parse(&serde_json::from_value(json!({ "matchLabels": { key: value } })).unwrap()).unwrap()
}

fn any_of(key: &str, value: &str) -> AnyOf {
    AnyOf(BTreeSet::from([selector(key, value)]))
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Ranges of the pools that are served, and the problems.
fn serve(pools: &[api::IPAddressPool]) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let (config, problems) = parse(&Objects { pools: pools.iter().collect(), ..Default::default() });
    let ranges = |pool: &Pool| pool.ranges.iter().map(ToString::to_string).collect();
    (config.pools.iter().map(|(name, pool)| (name.clone(), ranges(pool))).collect(), lines(&problems))
}

#[test]
fn nothing_is_a_valid_configuration() {
    assert_eq!(parse(&Objects::default()), (Config::default(), vec![]));
}

#[test]
fn a_pool_keeps_everything_that_it_says() {
    let mut object: api::IPAddressPool = object(
        "blue",
        0,
        &json!({
            "addresses": ["192.0.2.0/28", "2001:db8::1-2001:db8::9", "192.0.2.99/32"],
            "autoAssign": false,
            "avoidBuggyIPs": true,
            "serviceAllocation": {
                "priority": 7,
                "namespaces": ["a", "b"],
                "namespaceSelectors": [{ "matchLabels": { "team": "blue" } }],
                "serviceSelectors": [{ "matchLabels": { "app": "web" } }],
            },
        }),
    );
    object.metadata.labels = Some([("zone".to_owned(), "lan".to_owned())].into());
    let (config, problems) = parse(&Objects { pools: vec![&object], ..Default::default() });
    let want = Pool {
        auto_assign: false,
        avoid_buggy_ips: true,
        service_allocation: Some(ServiceAllocation {
            priority: 7,
            namespaces: BTreeSet::from(["a".into(), "b".into()]),
            namespace_selectors: any_of("team", "blue"),
            service_selectors: any_of("app", "web"),
        }),
        labels: labels(&[("zone", "lan")]),
        ..parsed_pool("blue", &["192.0.2.0/28", "2001:db8::1-2001:db8::9", "192.0.2.99/32"])
    };
    assert_eq!((config.pools, problems), (BTreeMap::from([("blue".into(), want)]), vec![]));
}

#[test]
fn a_bad_pool_is_left_out_and_the_rest_is_served() {
    for (name, pools, served, problems) in [
        (
            "every bad block is named",
            vec![pool("bad", 0, &["192.0.2.1", "192.0.2.0/30", "x"]), pool("good", 1, &["192.0.2.0/24"])],
            vec![("good", vec!["192.0.2.0/24"])],
            vec![
                "IPAddressPool \"bad\": spec.addresses[0]: 192.0.2.1 is a single address: write 192.0.2.1/32",
                "IPAddressPool \"bad\": spec.addresses[2]: \"x\" is neither a prefix (address/length) nor a range \
                 (first-last)",
            ],
        ),
        (
            "a pool without addresses",
            vec![pool("empty", 0, &[])],
            vec![],
            vec!["IPAddressPool \"empty\": spec.addresses: a pool needs at least one block of addresses"],
        ),
        (
            "overlap within a pool",
            vec![pool("twice", 0, &["192.0.2.0/24", "192.0.3.0/24", "192.0.2.255-192.0.3.0"])],
            vec![],
            vec![
                "IPAddressPool \"twice\": spec.addresses[2]: 192.0.2.255-192.0.3.0 overlaps 192.0.3.0/24 of the same \
                 pool",
            ],
        ),
        (
            "of two that overlap, the older is served, whatever its name",
            vec![pool("a", 9, &["192.0.2.128-192.0.2.200"]), pool("b", 5, &["192.0.2.0/24"])],
            vec![("b", vec!["192.0.2.0/24"])],
            vec![
                "IPAddressPool \"a\": spec.addresses[0]: 192.0.2.128-192.0.2.200 overlaps 192.0.2.0/24 of IPAddressPool \
                 \"b\"",
            ],
        ),
        (
            "of the same age, the first by name",
            vec![pool("b", 5, &["::/0"]), pool("a", 5, &["2001:db8::/64"])],
            vec![("a", vec!["2001:db8::/64"])],
            vec![
                "IPAddressPool \"b\": spec.addresses[0]: ::/0 overlaps 2001:db8::/64 of IPAddressPool \"a\"",
            ],
        ),
        (
            "a pool that is refused takes no addresses from others",
            vec![
                pool("1", 1, &["192.0.2.0/25"]),
                pool("2", 2, &["192.0.2.0/24"]),
                pool("3", 3, &["192.0.2.128/25"]),
            ],
            vec![("1", vec!["192.0.2.0/25"]), ("3", vec!["192.0.2.128/25"])],
            vec![
                "IPAddressPool \"2\": spec.addresses[0]: 192.0.2.0/24 overlaps 192.0.2.0/25 of IPAddressPool \"1\"",
            ],
        ),
        (
            "neighbours and other families do not overlap",
            vec![pool("all4", 1, &["0.0.0.0/1", "128.0.0.0-255.255.255.255"]), pool("all6", 1, &["::/0"])],
            vec![("all4", vec!["0.0.0.0/1", "128.0.0.0/1"]), ("all6", vec!["::/0"])],
            vec![],
        ),
    ] {
        let served: BTreeMap<String, Vec<String>> = served
            .into_iter()
            .map(|(name, ranges)| (name.into(), ranges.into_iter().map(Into::into).collect()))
            .collect();
        let want = (served, problems.into_iter().map(String::from).collect());
        assert_eq!(serve(&pools), want, "{name}");
        let reversed: Vec<_> = pools.into_iter().rev().collect();
        assert_eq!(serve(&reversed), want, "{name}, in the other order");
    }
}

#[test]
fn an_object_that_is_yet_to_be_created_gives_way() {
    let mut new = pool("a", 0, &["192.0.2.0/30"]);
    new.metadata.creation_timestamp = None;
    let (served, problems) = serve(&[new, pool("b", 1, &["192.0.2.0/24"])]);
    assert_eq!(served, BTreeMap::from([("b".into(), vec!["192.0.2.0/24".into()])]));
    assert_eq!(
        problems,
        ["IPAddressPool \"a\": spec.addresses[0]: 192.0.2.0/30 overlaps 192.0.2.0/24 of IPAddressPool \"b\""]
    );
}

#[test]
fn what_is_listed_twice_or_cannot_be_matched_is_refused() {
    let allocation = json!({
        "namespaces": ["a", "b", "a"],
        "namespaceSelectors": [{ "matchLabels": { "x": "y" } }, { "matchLabels": { "x": "y" } }],
        "serviceSelectors": [{ "matchExpressions": [{ "key": "k", "operator": "Is" }] }],
    });
    let object: api::IPAddressPool =
        object("p", 0, &json!({ "addresses": ["192.0.2.0/24"], "serviceAllocation": allocation }));
    let (served, problems) = serve(&[object]);
    assert_eq!(served, BTreeMap::new());
    assert_eq!(
        problems,
        [
            "IPAddressPool \"p\": spec.serviceAllocation.namespaces[2]: \"a\" is listed before",
            "IPAddressPool \"p\": spec.serviceAllocation.namespaceSelectors[1]: the same selector is listed before",
            "IPAddressPool \"p\": spec.serviceAllocation.serviceSelectors[0].matchExpressions[0].operator: unknown \
             operator \"Is\": use In, NotIn, Exists or DoesNotExist",
        ]
    );
}

#[test]
fn an_allocation_admits_the_services_that_it_describes() {
    let blue = labels(&[("team", "blue")]);
    let web = labels(&[("app", "web")]);
    let none = Labels::new();
    let named = ServiceAllocation { namespaces: BTreeSet::from(["a".into()]), ..Default::default() };
    let selected = ServiceAllocation { namespace_selectors: any_of("team", "blue"), ..Default::default() };
    let either = ServiceAllocation { namespaces: named.namespaces.clone(), ..selected.clone() };
    let service = ServiceAllocation { service_selectors: any_of("app", "web"), ..Default::default() };
    let both = ServiceAllocation { service_selectors: any_of("app", "web"), ..named.clone() };
    for (name, allocation, want) in [
        ("priority only", ServiceAllocation { priority: 3, ..Default::default() }, [true, true, true, true]),
        ("namespaces by name", named, [true, true, false, false]),
        ("a namespace selector that nothing matches admits nothing", selected, [false, false, true, false]),
        ("by name or by selector", either, [true, true, true, false]),
        ("Services by label", service, [false, true, false, true]),
        ("both must hold", both, [false, true, false, false]),
    ] {
        let admitted = [
            allocation.admits("a", &none, &none),
            allocation.admits("a", &none, &web),
            allocation.admits("b", &blue, &none),
            allocation.admits("c", &none, &web),
        ];
        assert_eq!(admitted, want, "{name}");
    }
}

#[test]
fn an_l2_advertisement_keeps_everything_that_it_says() {
    let object: api::L2Advertisement = object(
        "rack",
        0,
        &json!({
            "ipAddressPools": ["a", "not-there"],
            "ipAddressPoolSelectors": [{ "matchLabels": { "zone": "lan" } }],
            "nodeSelectors": [{ "matchLabels": { "rack": "1" } }],
            "interfaces": ["eth1", "eth0", "eth1"],
            "electionPolicy": "Even",
            "serviceSelectors": [{ "matchLabels": { "app": "web" } }],
            "preferredNodeSelectors": [
                { "weight": 100, "preference": { "matchLabels": { "link": "fast" } } },
                { "weight": 1, "preference": {} },
            ],
        }),
    );
    let bare: api::L2Advertisement = self::object("all", 0, &Value::Null);
    let (config, problems) =
        parse(&Objects { l2_advertisements: vec![&object, &bare], ..Default::default() });
    let rack = L2Advertisement {
        name: "rack".into(),
        pools: PoolSelection {
            names: BTreeSet::from(["a".into(), "not-there".into()]),
            selectors: any_of("zone", "lan"),
        },
        nodes: any_of("rack", "1"),
        interfaces: BTreeSet::from(["eth0".into(), "eth1".into()]).into(),
        services: any_of("app", "web"),
        preferences: vec![
            Preference { weight: 100, nodes: selector("link", "fast") },
            Preference { weight: 1, nodes: Selector::default() },
        ],
        election: api::ElectionPolicy::Even,
    };
    assert_eq!([rack.preference(&labels(&[("link", "fast")])), rack.preference(&Labels::new())], [101, 1]);
    let all = L2Advertisement { name: "all".into(), ..Default::default() };
    let want = BTreeMap::from([("all".into(), all), ("rack".into(), rack)]);
    assert_eq!((config.l2_advertisements, problems), (want, vec![]));
}

#[test]
fn a_bad_l2_advertisement_is_left_out() {
    let bad: api::L2Advertisement = object(
        "bad",
        0,
        &json!({
            "ipAddressPools": ["a", "a"],
            "nodeSelectors": [{ "matchExpressions": [{ "key": "k", "operator": "In" }] }],
            "interfaces": ["eth0", "eth["],
            "preferredNodeSelectors": [
                { "weight": 101, "preference": {} },
                { "weight": -1, "preference": { "matchLabels": { "": "x" } } },
            ],
        }),
    );
    let good: api::L2Advertisement = object("good", 0, &json!({}));
    let (config, problems) = parse(&Objects { l2_advertisements: vec![&bad, &good], ..Default::default() });
    assert_eq!(config.l2_advertisements.keys().collect::<Vec<_>>(), ["good"]);
    assert_eq!(
        lines(&problems),
        [
            "L2Advertisement \"bad\": spec.preferredNodeSelectors[0].weight: 101 is not in the range 1 to 100",
            "L2Advertisement \"bad\": spec.preferredNodeSelectors[1].preference.matchLabels: \"\" is not a label key",
            "L2Advertisement \"bad\": spec.preferredNodeSelectors[1].weight: -1 is not in the range 1 to 100",
            "L2Advertisement \"bad\": spec.interfaces[1]: \"eth[\" is neither a name nor a regular expression",
            "L2Advertisement \"bad\": spec.ipAddressPools[1]: \"a\" is listed before",
            "L2Advertisement \"bad\": spec.nodeSelectors[0].matchExpressions[0].values: In needs at least one value",
        ]
    );
}

#[test]
fn pools_are_selected_by_name_or_label_and_all_when_neither_is_given() {
    let plain = parsed_pool("plain", &[]);
    let lan = Pool { labels: labels(&[("zone", "lan")]), ..parsed_pool("lan", &[]) };
    let names = || BTreeSet::from(["plain".to_owned()]);
    for (name, selection, want) in [
        ("neither", PoolSelection::default(), [true, true]),
        ("by name", PoolSelection { names: names(), ..Default::default() }, [true, false]),
        ("by label", PoolSelection { selectors: any_of("zone", "lan"), ..Default::default() }, [false, true]),
        ("by either", PoolSelection { names: names(), selectors: any_of("zone", "lan") }, [true, true]),
    ] {
        assert_eq!([selection.matches(&plain), selection.matches(&lan)], want, "{name}");
    }
}
