//! AddressPools and what they become.

use std::collections::BTreeSet;

use ipnet::IpNet;
use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{
    IPAddressPool,
    address_pool::{Protocol, v1beta1::AddressPool},
};
use metallb_core::range::AddressRange;
use serde::Serialize;
use serde_json::Value;

use super::{Change, Plan, Situation, is_labelled, report, seen};
use crate::{
    install::Problem,
    kinds::{Key, Kind},
    neighbours::{Fact, Neighbour},
    pool::{self, Derived, Outcome, Verdict},
    world::Source,
};

const DERIVED: [Kind; 3] = [Kind::IpAddressPool, Kind::L2Advertisement, Kind::BgpAdvertisement];

pub(super) fn plan(situation: Situation<'_>, plan: &mut Plan) {
    let sources = [
        Source::Objects(Kind::AddressPool),
        Source::Objects(Kind::IpAddressPool),
        Source::Objects(Kind::L2Advertisement),
        Source::Objects(Kind::BgpAdvertisement),
    ];
    if !situation.unseen(&sources).is_empty() {
        return;
    }
    // Subnets that are not known yet are waited for, so that a restart tells nothing anew; not those that cannot be seen.
    let of_nodes = [Source::Nodes, Source::Neighbours(Neighbour::Speaker)];
    if situation.unseen(&of_nodes).iter().any(|source| situation.faults(&[*source]).is_empty()) {
        return;
    }
    let pools: Vec<IPAddressPool> = situation
        .world
        .objects(Kind::IpAddressPool)
        .filter_map(|object| object.clone().try_parse().ok())
        .collect();
    let subnets = subnets(situation);
    let (mut objects, mut address_pools) = (Vec::new(), Vec::new());
    for object in situation.world.objects(Kind::AddressPool) {
        if object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match object.clone().try_parse::<AddressPool>() {
            Ok(address_pool) => {
                objects.push(object);
                address_pools.push(address_pool);
            }
            Err(error) => {
                let message = format!("cannot be read: {error}");
                let outcome = Outcome::Invalid(vec![Problem { field: "spec".to_owned(), message }]);
                let usage = pool::usage(None);
                report::pool(situation, object, &pool::conditions(&outcome, &[], &[]), usage, plan);
            }
        }
    }
    let verdicts = pool::judge(&address_pools, &pools);
    for ((object, address_pool), verdict) in objects.into_iter().zip(&address_pools).zip(verdicts) {
        let outcome = match verdict {
            Verdict::Serve(derived) => serve(situation, object, &derived, plan),
            Verdict::Refuse(problems) => Outcome::Invalid(problems),
            Verdict::Conflict => Outcome::Conflict(vec![format!("IPAddressPool {}", object.name_any())]),
            Verdict::Converted => convert(situation, object, plan),
        };
        let mine = pools.iter().find(|pool| {
            pool.name_any() == object.name_any() && pool::is_owned_by(pool.meta(), &object.metadata)
        });
        let reports = match address_pool.spec.protocol {
            Protocol::Layer2 => {
                let outside = outside(address_pool, &subnets);
                pool::conditions(&outcome, &outside, &subnets)
            }
            Protocol::Bgp => pool::conditions(&outcome, &[], &[]),
        };
        report::pool(situation, object, &reports, pool::usage(mine), plan);
    }
}

/// The subnets of the nodes that there are, by what their speakers and network plug-ins say.
fn subnets(situation: Situation<'_>) -> Vec<IpNet> {
    let told = situation.world.facts().filter_map(|fact| match fact {
        Fact::Subnets(node, subnets) => situation.world.node(node).map(|_| subnets),
        _ => None,
    });
    let all: BTreeSet<IpNet> =
        pool::subnets(situation.world.nodes()).into_iter().chain(told.flatten().copied()).collect();
    all.into_iter().collect()
}

fn outside(address_pool: &AddressPool, subnets: &[IpNet]) -> Vec<AddressRange> {
    let blocks: Vec<_> = address_pool.spec.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    pool::outside(&blocks, subnets)
}

/// What is to be done for `derived` to be there. What is no longer part of it goes first: two advertisements of
/// different protocols would otherwise announce the same addresses for a moment.
fn serve(situation: Situation<'_>, owner: &DynamicObject, derived: &Derived, plan: &mut Plan) -> Outcome {
    let mut wanted = vec![wanted(Kind::IpAddressPool, &derived.pool)];
    wanted.extend(derived.l2_advertisement.iter().map(|object| self::wanted(Kind::L2Advertisement, object)));
    wanted
        .extend(derived.bgp_advertisements.iter().map(|object| self::wanted(Kind::BgpAdvertisement, object)));
    let foreign: Vec<_> = wanted
        .iter()
        .filter(|(key, _)| {
            let live = situation.world.object(key);
            live.is_some_and(|live| !pool::belongs_to(&live.metadata, &owner.metadata))
        })
        .map(|(key, _)| named(key))
        .collect();
    if !foreign.is_empty() {
        return Outcome::Conflict(foreign);
    }

    let keys: BTreeSet<Key> = wanted.iter().map(|(key, _)| key.clone()).collect();
    let names = keys.iter().map(named).collect();
    let removals: Vec<Change> = outdated(situation, owner, &keys);
    let mut changes = Vec::new();
    for (key, object) in &wanted {
        match situation.change(key, object.clone()) {
            Some(change) => changes.push(change),
            None => plan.find(situation, key, object),
        }
    }
    if !removals.is_empty() || !changes.is_empty() {
        return carry_out(situation, [removals, changes], plan);
    }
    if pool::is_to_be_converted(&owner.metadata) {
        return convert(situation, owner, plan);
    }
    Outcome::Served(names)
}

/// Hands what the pool became to the user: each object loses its owner and our label, and nothing else changes.
fn convert(situation: Situation<'_>, owner: &DynamicObject, plan: &mut Plan) -> Outcome {
    let mine = || owned(situation, owner);
    if mine().next().is_none() {
        let name = owner.name_any();
        let of_that_name =
            DERIVED.iter().flat_map(|&kind| situation.world.objects(kind).map(move |object| (kind, object)));
        let names = of_that_name.filter(|(_, object)| object.name_any() == name);
        return Outcome::Converted(names.map(|(kind, _)| format!("{kind} {name}")).collect());
    }
    let freed = mine().filter_map(|(key, object)| {
        let types = object.types.as_ref()?;
        let wanted = serde_json::json!({
            "apiVersion": types.api_version, "kind": types.kind, "spec": object.data["spec"],
            "metadata": {"name": key.name, "namespace": key.namespace,
                         "resourceVersion": object.resource_version()},
        });
        situation.change(&key, wanted)
    });
    // The pool first: as long as it is ours, a foreign advertisement is a conflict.
    let (pool, advertisements) = freed.partition(|change| change.key().kind == Kind::IpAddressPool);
    carry_out(situation, [pool, advertisements], plan)
}

/// Plans the changes that are due, stage by stage. What to say of it meanwhile.
fn carry_out(situation: Situation<'_>, stages: [Vec<Change>; 2], plan: &mut Plan) -> Outcome {
    let all = stages.iter().flatten();
    let failures = all.filter_map(|change| situation.attempts.failure(change.key(), change.wanted()));
    let failures: Vec<_> = failures.map(str::to_owned).collect();
    for stage in stages {
        plan.stage(situation, stage);
    }
    if failures.is_empty() { Outcome::Pending } else { Outcome::Failed(failures) }
}

fn named(key: &Key) -> String {
    format!("{} {}", key.kind, key.name)
}

fn wanted<K: Resource<DynamicType = ()> + Serialize>(kind: Kind, object: &K) -> (Key, Value) {
    let key = Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    (key, value)
}

/// Advertisements that the pool owns and that are no longer wanted. Its IPAddressPool always is.
fn outdated(situation: Situation<'_>, owner: &DynamicObject, wanted: &BTreeSet<Key>) -> Vec<Change> {
    owned(situation, owner)
        .filter(|(key, object)| {
            key.kind != Kind::IpAddressPool && is_labelled(object) && !wanted.contains(key)
        })
        .map(|(key, object)| Change::Delete(key, seen(object)))
        .collect()
}

/// Objects that the pool owns, but those that are on their way out.
fn owned<'a>(
    situation: Situation<'a>,
    owner: &'a DynamicObject,
) -> impl Iterator<Item = (Key, &'a DynamicObject)> {
    let all = DERIVED
        .into_iter()
        .flat_map(move |kind| situation.world.objects(kind).map(move |object| (kind, object)));
    let mine = all.filter(|(_, object)| {
        pool::is_owned_by(&object.metadata, &owner.metadata) && object.metadata.deletion_timestamp.is_none()
    });
    mine.map(|(kind, object)| {
        let namespace = object.namespace().unwrap_or_default();
        (Key { kind, namespace, name: object.name_any() }, object)
    })
}
