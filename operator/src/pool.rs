//! AddressPool: what it becomes.
//!
//! Pure. An AddressPool is served as an IPAddressPool and its advertisements, which it owns. One that is not valid
//! leaves everything as it was: what it became before goes on being served. One that is converted is handed to the
//! user as what it became, and has no effect any more.

mod outcome;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource, ResourceExt, core::ObjectMeta};
use metallb_api::{
    BGPAdvertisement, Community, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec,
    address_pool::{Protocol, v1beta1::AddressPool},
    conditions::READY,
    names::ANNOTATION_CONVERT,
};
use metallb_core::{
    config::{self, Cause},
    legacy::bgp_advertisements,
};

use crate::{
    install::Problem,
    render::{MANAGED_BY, owner_reference},
    status::Reason,
};

pub use metallb_core::subnets::{ANNOTATIONS, outside, subnets};
pub use outcome::{Outcome, conditions, usage};

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
    /// What it became belongs to the user.
    Converted,
}

/// Whether the pool is to be handed to the user as what it became.
#[must_use]
pub fn is_to_be_converted(address_pool: &ObjectMeta) -> bool {
    let annotations = address_pool.annotations.as_ref();
    annotations.and_then(|all| all.get(ANNOTATION_CONVERT)).is_some_and(|value| value == "true")
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

/// What AddressPools are about to become: the IPAddressPools that are not there yet.
#[must_use]
pub fn pending(address_pools: &[AddressPool], pools: &[IPAddressPool]) -> Vec<IPAddressPool> {
    let served = judge(address_pools, pools).into_iter().filter_map(|verdict| match verdict {
        Verdict::Serve(derived) => Some(derived.pool),
        Verdict::Refuse(_) | Verdict::Conflict | Verdict::Converted => None,
    });
    served.filter(|new| !pools.iter().any(|pool| pool.name_any() == new.name_any())).collect()
}

/// What can be said of a pool without looking at the others.
fn alone(address_pool: &AddressPool, pools: &[IPAddressPool]) -> Verdict {
    let name = address_pool.name_any();
    let foreign =
        pools.iter().any(|pool| pool.name_any() == name && !belongs_to(pool.meta(), address_pool.meta()));
    if is_to_be_converted(address_pool.meta()) && (foreign || was_converted(address_pool)) {
        return Verdict::Converted;
    }
    if foreign {
        return Verdict::Conflict;
    }
    let derived = derive(address_pool, pools);
    let mut problems: Vec<Problem> = derived
        .problems(&[])
        .into_iter()
        .filter(|problem| problem.cause == Cause::Invalid)
        .map(|problem| Problem { field: problem.field, message: problem.message })
        .collect();
    let spec = &address_pool.spec;
    if spec.protocol == Protocol::Layer2 && !spec.bgp_advertisements.is_empty() {
        problems.push(Problem {
            field: "spec.bgpAdvertisements".to_owned(),
            message: "has a meaning with protocol bgp only; this pool has layer2".to_owned(),
        });
    }
    if problems.is_empty() { Verdict::Serve(Box::new(derived)) } else { Verdict::Refuse(problems) }
}

/// Whether the user has the pool already: one that was deleted since does not come back.
fn was_converted(address_pool: &AddressPool) -> bool {
    let conditions = address_pool.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == READY);
    ready.any(|condition| condition.reason == Reason::Converted.as_str())
}

/// Whether `owner` is among the owners of an object.
#[must_use]
pub fn is_owned_by(object: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let uid = owner.uid.as_deref().unwrap_or_default();
    object.owner_references.iter().flatten().any(|reference| reference.uid == uid)
}

/// Whether an object is of the AddressPool `owner`, or of one of its name that was there before: that was deleted and made
/// again, and the garbage collector has not come yet.
#[must_use]
pub fn belongs_to(object: &ObjectMeta, owner: &ObjectMeta) -> bool {
    let mut owners = object.owner_references.iter().flatten();
    is_owned_by(object, owner)
        || owners
            .any(|other| other.kind == AddressPool::kind(&()) && Some(&other.name) == owner.name.as_ref())
}

impl Derived {
    /// What is wrong with the pool by itself, named by the fields of the AddressPool. `communities` are those that
    /// define names.
    #[must_use]
    pub fn problems(&self, communities: &[Community]) -> Vec<config::Problem> {
        let objects = config::Objects {
            pools: vec![&self.pool],
            bgp_advertisements: self.bgp_advertisements.iter().collect(),
            communities: communities.iter().collect(),
            ..config::Objects::default()
        };
        let (_, mut problems) = config::parse(&objects);
        problems.retain(|problem| problem.kind != Community::kind(&()));
        for problem in &mut problems {
            let mut advertisements = self.bgp_advertisements.iter();
            let at = advertisements.position(|advertisement| advertisement.name_any() == problem.name);
            if let (Some(at), true) = (at, problem.kind == BGPAdvertisement::kind(&())) {
                let field = problem.field.strip_prefix("spec.").unwrap_or(&problem.field);
                problem.field = format!("spec.bgpAdvertisements[{at}].{field}");
            }
        }
        problems
    }
}

/// Problems of the pools to be served, by name, that come from the other pools.
fn overlaps(verdicts: &[Verdict], pools: &[IPAddressPool]) -> BTreeMap<String, Vec<Problem>> {
    let served: Vec<&IPAddressPool> = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Serve(derived) => Some(&derived.pool),
            Verdict::Refuse(_) | Verdict::Conflict | Verdict::Converted => None,
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
            let problem = Problem { field: found.field, message: found.message };
            problems.entry(found.name).or_insert_with(Vec::new).push(problem);
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
    let advertisements =
        if layer2 { Vec::new() } else { bgp_advertisements(&name, &spec.bgp_advertisements) };
    let advertisements = advertisements.into_iter().map(|(name, spec)| {
        let mut advertisement = BGPAdvertisement::new(&name, spec);
        advertisement.metadata = self::metadata(&name, address_pool, &owner);
        advertisement
    });
    Derived { pool, l2_advertisement, bgp_advertisements: advertisements.collect() }
}

/// What is yet to be created comes after everything that exists, in the order in which it was asked for: the same
/// order as when it has been created.
fn after_all_that_exist(asked_for: &Time) -> Time {
    let millennium = SignedDuration::from_hours(24 * 365 * 1000);
    Time(asked_for.0.checked_add(millennium).unwrap_or(Timestamp::MAX))
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
mod tests;
