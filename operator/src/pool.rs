//! AddressPool: what it becomes.
//!
//! Pure. An AddressPool is served as an IPAddressPool and its advertisements, which it owns. One that is not valid
//! leaves everything as it was: what it became before goes on being served.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource, ResourceExt, core::ObjectMeta};
use metallb_api::{
    BGPAdvertisement, BGPAdvertisementSpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement,
    L2AdvertisementSpec,
    address_pool::{LegacyBgpAdvertisement, Protocol, v1beta1::AddressPool},
};
use metallb_core::config;

use crate::{
    install::Problem,
    render::{MANAGED_BY, owner_reference},
};

/// What an AddressPool becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Derived {
    /// Its addresses.
    pub pool: IPAddressPool,
    /// With protocol layer2.
    pub l2_advertisement: Option<L2Advertisement>,
    /// With protocol bgp, at least one.
    pub bgp_advertisements: Vec<BGPAdvertisement>,
}

/// What is to be done about an AddressPool.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is served so.
    Serve(Box<Derived>),
    /// It is not valid: what it became before stays.
    Refuse(Vec<Problem>),
    /// An IPAddressPool of its name exists that it does not own.
    Conflict,
}

/// Judges all `address_pools` together with all `pools` of the cluster, those that are derived included. In the order
/// of `address_pools`.
#[must_use]
pub fn judge(address_pools: &[AddressPool], pools: &[IPAddressPool]) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = address_pools.iter().map(|pool| alone(pool, pools)).collect();
    // A pool that is refused is judged again as it was before, since it goes on being served as that: hence a second
    // round, in which the refusals of the first may make others overlap.
    for _ in 0..2 {
        let problems = overlaps(&verdicts, pools);
        for verdict in &mut verdicts {
            let Verdict::Serve(derived) = verdict else { continue };
            if let Some(problems) = problems.get(&derived.pool.name_any()) {
                *verdict = Verdict::Refuse(problems.clone());
            }
        }
    }
    verdicts
}

/// What can be said of a pool without looking at the others.
fn alone(address_pool: &AddressPool, pools: &[IPAddressPool]) -> Verdict {
    let name = address_pool.name_any();
    if pools.iter().any(|pool| pool.name_any() == name && !is_owned_by(pool.meta(), address_pool.meta())) {
        return Verdict::Conflict;
    }
    let derived = derive(address_pool, pools);
    let mut problems = own_problems(&derived.pool);
    let spec = &address_pool.spec;
    if spec.protocol == Protocol::Layer2 && !spec.bgp_advertisements.is_empty() {
        problems.push(Problem {
            field: "spec.bgpAdvertisements".to_owned(),
            message: "has a meaning with protocol bgp only; this pool has layer2".to_owned(),
        });
    }
    if problems.is_empty() { Verdict::Serve(Box::new(derived)) } else { Verdict::Refuse(problems) }
}

/// Whether `owner` is among the owners of an object.
#[must_use]
pub fn is_owned_by(object: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let uid = owner.uid.as_deref().unwrap_or_default();
    object.owner_references.iter().flatten().any(|reference| reference.uid == uid)
}

fn own_problems(pool: &IPAddressPool) -> Vec<Problem> {
    let objects = config::Objects { pools: vec![pool], ..config::Objects::default() };
    config::parse(&objects).1.into_iter().map(problem).collect()
}

fn problem(problem: config::Problem) -> Problem {
    Problem { field: problem.field, message: problem.message }
}

/// Problems of the pools to be served, by name, that come from the other pools.
fn overlaps(verdicts: &[Verdict], pools: &[IPAddressPool]) -> BTreeMap<String, Vec<Problem>> {
    let served: Vec<&IPAddressPool> = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Serve(derived) => Some(&derived.pool),
            Verdict::Refuse(_) | Verdict::Conflict => None,
        })
        .collect();
    let replaced: BTreeSet<String> = served.iter().map(|pool| pool.name_any()).collect();
    let others = pools.iter().filter(|pool| !replaced.contains(&pool.name_any()));
    let objects = config::Objects {
        pools: served.iter().copied().chain(others).collect(),
        ..config::Objects::default()
    };
    let mut problems = BTreeMap::new();
    for found in config::parse(&objects).1 {
        if replaced.contains(&found.name) {
            problems.entry(found.name.clone()).or_insert_with(Vec::new).push(problem(found));
        }
    }
    problems
}

/// What `address_pool` becomes. It has the creation time by which it takes its place among the pools; that is not
/// applied.
fn derive(address_pool: &AddressPool, pools: &[IPAddressPool]) -> Derived {
    let name = address_pool.name_any();
    let spec = &address_pool.spec;
    let owner = owner_reference(address_pool);
    let mut metadata = metadata(&name, address_pool, &owner);
    let before = pools.iter().find(|pool| pool.name_any() == name);
    metadata.creation_timestamp = match before {
        Some(before) => before.metadata.creation_timestamp.clone(),
        None => address_pool.metadata.creation_timestamp.as_ref().map(after_all_that_exist),
    };
    let pool = IPAddressPool {
        metadata,
        spec: IPAddressPoolSpec {
            addresses: spec.addresses.clone(),
            auto_assign: spec.auto_assign,
            avoid_buggy_ips: false,
            service_allocation: None,
            cooldown: None,
        },
        status: None,
    };
    let layer2 = spec.protocol == Protocol::Layer2;
    let l2_advertisement = layer2.then(|| {
        let selection = L2AdvertisementSpec { ip_address_pools: vec![name.clone()], ..Default::default() };
        let mut advertisement = L2Advertisement::new(&name, selection);
        advertisement.metadata = self::metadata(&name, address_pool, &owner);
        advertisement
    });
    let default = [default_advertisement()];
    let entries = if spec.bgp_advertisements.is_empty() { &default[..] } else { &spec.bgp_advertisements };
    let bgp_advertisements = if layer2 { &[] } else { entries }.iter().enumerate().map(|(at, entry)| {
        let name = if at == 0 { name.clone() } else { format!("{name}-{}", at + 1) };
        let mut advertisement = BGPAdvertisement::new(
            &name,
            BGPAdvertisementSpec {
                aggregation_length: entry.aggregation_length,
                aggregation_length_v6: entry.aggregation_length_v6,
                local_pref: entry.local_pref,
                communities: entry.communities.clone(),
                ip_address_pools: vec![address_pool.name_any()],
                ..BGPAdvertisementSpec::default()
            },
        );
        advertisement.metadata = self::metadata(&name, address_pool, &owner);
        advertisement
    });
    Derived { pool, l2_advertisement, bgp_advertisements: bgp_advertisements.collect() }
}

/// What is yet to be created comes after everything that exists, in the order in which it was asked for: the same
/// order as when it has been created.
fn after_all_that_exist(asked_for: &Time) -> Time {
    let millennium = SignedDuration::from_hours(24 * 365 * 1000);
    Time(asked_for.0.checked_add(millennium).unwrap_or(Timestamp::MAX))
}

/// Every address is a route of its own, without attributes.
fn default_advertisement() -> LegacyBgpAdvertisement {
    let default = BGPAdvertisementSpec::default();
    LegacyBgpAdvertisement {
        aggregation_length: default.aggregation_length,
        aggregation_length_v6: default.aggregation_length_v6,
        local_pref: None,
        communities: Vec::new(),
    }
}

fn metadata(name: &str, address_pool: &AddressPool, owner: &OwnerReference) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: address_pool.namespace(),
        labels: Some(BTreeMap::from([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())])),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
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
        let example = address_pool(
            "doc-example",
            "protocol: layer2, addresses: [203.0.113.1-203.0.113.10, 'fc00::/124']",
        );
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
            objects
                .map(|object| (object["metadata"]["name"].clone(), object["spec"].clone()))
                .collect::<Vec<_>>()
        };
        let default = json!({"aggregationLength": 32, "aggregationLengthV6": 128, "ipAddressPools": ["p"]});
        assert_eq!(
            names_and_specs("protocol: bgp, addresses: [192.0.2.0/24]"),
            [(json!("p"), default.clone())]
        );
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
        assert!(
            problems[0].starts_with("spec.addresses[0]: ") && problems[0].contains("theirs"),
            "{problems:?}"
        );
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
}
