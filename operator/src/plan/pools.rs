//! AddressPools and what they become.

use std::collections::BTreeSet;

use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{IPAddressPool, address_pool::v1beta1::AddressPool};
use serde::Serialize;
use serde_json::Value;

use super::{Change, Plan, Situation, report, seen};
use crate::{
    install::Problem,
    kinds::{Key, Kind},
    pool::{self, Derived, Verdict},
    render::MANAGED_BY,
    status::PoolOutcome,
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
    let mut address_pools = Vec::new();
    for object in situation.world.objects(Kind::AddressPool) {
        if object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match object.clone().try_parse::<AddressPool>() {
            Ok(address_pool) => address_pools.push((object, address_pool)),
            Err(error) => {
                let message = format!("cannot be read: {error}");
                let problem = Problem { field: "spec".to_owned(), message };
                report::pool(situation, object, &PoolOutcome::Invalid(vec![problem]), plan);
            }
        }
    }
    let pools: Vec<IPAddressPool> = situation
        .world
        .objects(Kind::IpAddressPool)
        .filter_map(|object| object.clone().try_parse().ok())
        .collect();
    let (objects, address_pools): (Vec<_>, Vec<_>) = address_pools.into_iter().unzip();
    for (object, verdict) in objects.into_iter().zip(pool::judge(&address_pools, &pools)) {
        let outcome = match verdict {
            Verdict::Serve(derived) => serve(situation, object, &derived, plan),
            Verdict::Refuse(problems) => PoolOutcome::Invalid(problems),
            Verdict::Conflict => PoolOutcome::Conflict(vec![format!("IPAddressPool {}", object.name_any())]),
        };
        report::pool(situation, object, &outcome, plan);
    }
}

/// What is to be done for `derived` to be there. What is no longer part of it goes first: two advertisements of
/// different protocols would otherwise announce the same addresses for a moment.
fn serve(situation: Situation<'_>, owner: &DynamicObject, derived: &Derived, plan: &mut Plan) -> PoolOutcome {
    let mut wanted = vec![wanted(Kind::IpAddressPool, &derived.pool)];
    wanted.extend(derived.l2_advertisement.iter().map(|object| self::wanted(Kind::L2Advertisement, object)));
    wanted
        .extend(derived.bgp_advertisements.iter().map(|object| self::wanted(Kind::BgpAdvertisement, object)));
    let foreign: Vec<_> = wanted
        .iter()
        .filter(|(key, _)| {
            let live = situation.world.object(key);
            live.is_some_and(|live| !pool::is_owned_by(&live.metadata, &owner.metadata))
        })
        .map(|(key, _)| format!("{} {}", key.kind, key.name))
        .collect();
    if !foreign.is_empty() {
        return PoolOutcome::Conflict(foreign);
    }

    let keys: BTreeSet<Key> = wanted.iter().map(|(key, _)| key.clone()).collect();
    let names = wanted.iter().map(|(key, _)| format!("{} {}", key.kind, key.name)).collect();
    let removals: Vec<Change> = outdated(situation, owner, &keys);
    let changes: Vec<Change> =
        wanted.into_iter().filter_map(|(key, object)| situation.change(&key, object)).collect();
    if removals.is_empty() && changes.is_empty() {
        return PoolOutcome::Served(names);
    }
    let failures = removals.iter().chain(&changes);
    let failures = failures.filter_map(|change| situation.attempts.failure(change.key(), change.wanted()));
    let failures: Vec<_> = failures.map(str::to_owned).collect();
    for stage in [removals, changes] {
        let mut due = Vec::new();
        for change in stage {
            match situation.held_until(&change) {
                Some(until) => plan.wake_at(until),
                None => due.push(change),
            }
        }
        plan.stages.push(due);
    }
    if failures.is_empty() { PoolOutcome::Pending } else { PoolOutcome::Failed(failures) }
}

fn wanted<K: Resource<DynamicType = ()> + Serialize>(kind: Kind, object: &K) -> (Key, Value) {
    let key = Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
    }
    (key, value)
}

/// Objects that the pool owns and that are no longer wanted.
fn outdated(situation: Situation<'_>, owner: &DynamicObject, wanted: &BTreeSet<Key>) -> Vec<Change> {
    let mut changes = Vec::new();
    for kind in DERIVED {
        for object in situation.world.objects(kind) {
            let mine = object.labels().get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1)
                && pool::is_owned_by(&object.metadata, &owner.metadata)
                && object.metadata.deletion_timestamp.is_none();
            let key =
                Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
            if mine && !wanted.contains(&key) {
                changes.push(Change::Delete(key, seen(object)));
            }
        }
    }
    changes
}
