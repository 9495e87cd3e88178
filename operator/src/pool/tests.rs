use super::*;
use serde_json::{Value, json};

fn address_pool(name: &str, spec: &str) -> AddressPool {
    let metadata = format!("{{name: {name}, namespace: metallb-system, uid: uid-{name}}}");
    serde_saphyr::from_str(&format!(
        "{{apiVersion: metallb.io/v1beta1, kind: AddressPool, metadata: {metadata}, spec: {{{spec}}}}}"
    ))
    .unwrap()
}

fn pool(name: &str, addresses: &str) -> IPAddressPool {
    serde_saphyr::from_str(&format!(
        "{{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {{name: {name}, namespace: \
         metallb-system, creationTimestamp: '2020-01-01T00:00:00Z'}}, spec: {{addresses: [{addresses}]}}}}"
    ))
    .unwrap()
}

fn served(verdict: &Verdict) -> Vec<Value> {
    let Verdict::Serve(derived) = verdict else { panic!("{verdict:?}") };
    let mut objects = vec![serde_json::to_value(&derived.pool).unwrap()];
    objects.extend(derived.l2_advertisement.iter().map(|object| serde_json::to_value(object).unwrap()));
    objects.extend(derived.bgp_advertisements.iter().map(|object| serde_json::to_value(object).unwrap()));
    objects
}

fn refused(verdict: &Verdict) -> Vec<String> {
    let Verdict::Refuse(problems) = verdict else { panic!("{verdict:?}") };
    problems.iter().map(Problem::to_string).collect()
}

#[test]
fn a_layer2_pool_becomes_a_pool_and_an_advertisement() {
    let example =
        address_pool("doc-example", "protocol: layer2, addresses: [203.0.113.1-203.0.113.10, 'fc00::/124']");
    let metadata = json!({
        "name": "doc-example", "namespace": "metallb-system",
        "labels": {"app.kubernetes.io/managed-by": "metallb-operator"},
        "ownerReferences": [{"apiVersion": "metallb.io/v1beta1", "kind": "AddressPool", "name": "doc-example",
                             "uid": "uid-doc-example", "controller": true, "blockOwnerDeletion": true}],
    });
    assert_eq!(
        served(&judge(&[example], &[])[0]),
        [
            json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": metadata,
                   "spec": {"addresses": ["203.0.113.1-203.0.113.10", "fc00::/124"], "autoAssign": true,
                            "avoidBuggyIPs": false}}),
            json!({"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": metadata,
                   "spec": {"ipAddressPools": ["doc-example"]}}),
        ]
    );
}

#[test]
fn each_bgp_entry_becomes_an_advertisement_and_none_becomes_one() {
    let names_and_specs = |spec: &str| {
        let verdicts = judge(&[address_pool("p", spec)], &[]);
        let objects = served(&verdicts[0]).into_iter().skip(1);
        objects.map(|object| (object["metadata"]["name"].clone(), object["spec"].clone())).collect::<Vec<_>>()
    };
    let default = json!({"aggregationLength": 32, "aggregationLengthV6": 128, "ipAddressPools": ["p"]});
    assert_eq!(names_and_specs("protocol: bgp, addresses: [192.0.2.0/24]"), [(json!("p"), default.clone())]);
    assert_eq!(
        names_and_specs(
            "protocol: bgp, addresses: [192.0.2.0/24], bgpAdvertisements: [{}, {aggregationLength: 24, localPref: \
             100, communities: ['64512:1']}]"
        ),
        [
            (json!("p"), default),
            (
                json!("p-2"),
                json!({"aggregationLength": 24, "aggregationLengthV6": 128, "localPref": 100,
                       "communities": ["64512:1"], "ipAddressPools": ["p"]})
            ),
        ]
    );
}

#[test]
fn a_pool_that_makes_no_sense_is_refused_by_field_and_harms_no_other() {
    let verdicts = judge(
        &[
            address_pool(
                "bad",
                "protocol: layer2, addresses: [192.0.2.1, 192.0.2.9-192.0.2.3], bgpAdvertisements: [{}]",
            ),
            address_pool("good", "protocol: layer2, addresses: [198.51.100.0/28]"),
        ],
        &[],
    );
    let problems = refused(&verdicts[0]);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(
        problems[0].starts_with("spec.addresses[0]: ") && problems[0].contains("192.0.2.1/32"),
        "{problems:?}"
    );
    assert!(problems[1].starts_with("spec.addresses[1]: "), "{problems:?}");
    assert_eq!(
        problems[2],
        "spec.bgpAdvertisements: has a meaning with protocol bgp only; this pool has layer2"
    );
    assert_eq!(served(&verdicts[1]).len(), 2);
}

#[test]
fn of_two_that_overlap_the_older_is_served() {
    let verdicts = judge(
        &[address_pool("mine", "protocol: layer2, addresses: [192.0.2.0/25]")],
        &[pool("theirs", "192.0.2.100-192.0.2.200")],
    );
    let problems = refused(&verdicts[0]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("spec.addresses[0]: ") && problems[0].contains("theirs"), "{problems:?}");
}

#[test]
fn what_it_became_before_is_not_another_pool_and_stays_when_it_is_refused() {
    let before = |addresses| {
        let mut pool = pool("p", addresses);
        pool.metadata.owner_references =
            Some(vec![owner_reference(&address_pool("p", "protocol: bgp, addresses: []"))]);
        pool
    };
    let grown = address_pool("p", "protocol: layer2, addresses: [192.0.2.0/24]");
    assert_eq!(served(&judge(&[grown], &[before("192.0.2.0/25")])[0]).len(), 2);

    let broken = address_pool("p", "protocol: layer2, addresses: [nonsense]");
    let other = address_pool("q", "protocol: layer2, addresses: [192.0.2.0/28]");
    let verdicts = judge(&[broken, other], &[before("192.0.2.0/25")]);
    assert_eq!(refused(&verdicts[0]).len(), 1);
    assert!(refused(&verdicts[1])[0].contains("IPAddressPool \"p\""), "p is still served as it was");
}

#[test]
fn which_of_two_is_served_does_not_change_when_it_is_created_or_deleted_by_hand() {
    let created = |second: i64| Some(Time(Timestamp::from_second(second).unwrap()));
    let asked_for = |name: &str, second| {
        let mut pool = address_pool(name, "protocol: layer2, addresses: [192.0.2.0/24]");
        pool.metadata.creation_timestamp = created(second);
        pool
    };
    let (first, second) = (asked_for("z", 5), asked_for("a", 6));
    let mut derived = pool("z", "192.0.2.0/24");
    derived.metadata.owner_references = Some(vec![owner_reference(&first)]);
    derived.metadata.creation_timestamp = created(9);
    for existing in [vec![], vec![derived]] {
        let verdicts = judge(&[second.clone(), first.clone()], &existing);
        assert!(matches!(verdicts[0], Verdict::Refuse(_)), "{verdicts:?}");
        assert!(matches!(verdicts[1], Verdict::Serve(_)), "{verdicts:?}");
    }
}

#[test]
fn a_pool_of_somebody_else_is_never_overwritten() {
    let mine = address_pool("p", "protocol: layer2, addresses: [192.0.2.0/24]");
    assert_eq!(judge(&[mine], &[pool("p", "198.51.100.0/24")]), [Verdict::Conflict]);
}
