//! Whether an object of metallb.io may be written, and what its author should know.
//!
//! Pure. What the schemas leave open is judged with the same code that later reads the objects. A problem is denied
//! where the request brings it in, by creating the object or by changing a value; one that was there before is only
//! warned of, so that an old object can still be edited.

mod before;
mod echo;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, MetalLB,
    address_pool::v1beta1::AddressPool, names,
};
use metallb_core::{
    config::{self, Cause, Problem},
    range::AddressRange,
};
use serde::de::DeserializeOwned;

use self::before::Before;
use crate::{
    install,
    pool::{self, Verdict},
    settings::{Defaults, Settings},
};

/// Objects that there are.
#[derive(Clone, Debug, Default)]
pub struct Existing {
    /// IPAddressPools.
    pub pools: Vec<IPAddressPool>,
    /// L2Advertisements.
    pub l2_advertisements: Vec<L2Advertisement>,
    /// BGPAdvertisements.
    pub bgp_advertisements: Vec<BGPAdvertisement>,
    /// BGPPeers.
    pub bgp_peers: Vec<BGPPeer>,
    /// BFDProfiles.
    pub bfd_profiles: Vec<BFDProfile>,
    /// Communities.
    pub communities: Vec<Community>,
    /// AddressPools.
    pub address_pools: Vec<AddressPool>,
    /// Services of type LoadBalancer, of any namespace.
    pub services: Vec<Service>,
    /// The cluster's own addresses.
    pub network: Network,
    /// What of Services and the cluster's own addresses could not be read, for people.
    pub unread: Vec<String>,
}

/// The cluster's own addresses, which a pool should not hold.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Addresses of nodes, each with the node's name.
    pub nodes: Vec<(IpAddr, String)>,
    /// Ranges from which Services and pods get their addresses, each with what it is.
    pub ranges: Vec<(AddressRange, String)>,
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// Kind of the object.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name; empty when the API server is to make one.
    pub name: &'a str,
    /// As it is to be; `None` when it is deleted.
    pub object: Option<&'a DynamicObject>,
    /// As it is; `None` when it is created.
    pub old: Option<&'a DynamicObject>,
}

impl Question<'_> {
    /// Whether there is something to deny: not that an object goes, nor that one is written whose spec stays as it is, such
    /// as to take a finalizer off. Where the API server knows that by itself, it does not even ask.
    #[must_use]
    pub fn asks_for_more(&self) -> bool {
        self.object.is_some_and(|object| {
            object.metadata.deletion_timestamp.is_none()
                && self.old.is_none_or(|old| old.data["spec"] != object.data["spec"])
        })
    }
}

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Why it is denied; empty when it is allowed.
    pub denials: Vec<String>,
    /// What the author should know.
    pub warnings: Vec<String>,
}

impl Answer {
    fn deny(&mut self, reason: impl Into<String>) {
        self.denials.push(reason.into());
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Denies what the request brings in, and warns of what was there `before`.
    fn weigh(&mut self, problems: Vec<String>, before: &[String]) {
        let mut before = Before::new(before.iter().map(String::as_str));
        for problem in problems {
            if before.had(&problem) { self.warn(problem) } else { self.deny(problem) }
        }
    }
}

/// Judges a request.
#[must_use]
pub fn judge(question: &Question<'_>, existing: &Existing, settings: &Settings) -> Answer {
    let mut answer = Answer::default();
    let elsewhere = question.namespace != settings.namespace;
    match question.object {
        None => judge_deletion(question, existing, &mut answer),
        Some(_) if elsewhere && question.old.is_some() => {
            answer.warn(format!(
                "this object has no effect: only those in namespace {} have",
                settings.namespace
            ));
        }
        Some(_) if elsewhere => answer.deny(format!(
            "{} must be created in namespace {}: in {} it would have no effect",
            question.kind, settings.namespace, question.namespace
        )),
        Some(object) => judge_write(question, object, existing, settings, &mut answer),
    }
    if !question.asks_for_more() {
        answer.warnings.append(&mut answer.denials);
    }
    answer.warnings.extend(existing.unread.iter().cloned());
    answer
}

fn judge_write(
    question: &Question<'_>,
    object: &DynamicObject,
    existing: &Existing,
    settings: &Settings,
    answer: &mut Answer,
) {
    match question.kind {
        "MetalLB" => judge_metallb(question, object, settings.defaults, answer),
        "AddressPool" => judge_address_pool(question, object, existing, answer),
        "IPAddressPool" => {
            // What an AddressPool is about to become counts, too; as itself, it is not another pool.
            let mut present = existing.clone();
            let pending = pool::pending(&existing.address_pools, &existing.pools);
            present.pools.extend(pending.into_iter().filter(|pool| pool.name_any() != question.name));
            replace(|all| &mut all.pools, question, object, &present, answer);
            judge_blocks(question, existing, answer);
        }
        "L2Advertisement" => replace(|all| &mut all.l2_advertisements, question, object, existing, answer),
        "BGPAdvertisement" => replace(|all| &mut all.bgp_advertisements, question, object, existing, answer),
        "BGPPeer" => {
            replace(|all| &mut all.bgp_peers, question, object, existing, answer);
            echo::judge_peer(object, existing, answer);
        }
        "BFDProfile" => {
            replace(|all| &mut all.bfd_profiles, question, object, existing, answer);
            echo::judge_profile(object, users(question, existing), answer);
        }
        "Community" => replace(|all| &mut all.communities, question, object, existing, answer),
        _ => {}
    }
}

/// BGPPeers that name the profile in question.
fn users<'a>(question: &'a Question<'_>, existing: &'a Existing) -> impl Iterator<Item = &'a BGPPeer> {
    existing.bgp_peers.iter().filter(|peer| peer.spec.bfd_profile.as_deref() == Some(question.name))
}

fn judge_metallb(question: &Question<'_>, object: &DynamicObject, defaults: Defaults, answer: &mut Answer) {
    if question.name != names::METALLB_NAME {
        answer.warn(format!(
            "this resource has no effect: only the one named {:?} has. It is the only one that is needed",
            names::METALLB_NAME
        ));
    }
    let problems = |object: &DynamicObject| match object.clone().try_parse::<MetalLB>() {
        Ok(resource) => {
            let problems = install::parse(&resource, defaults).err().unwrap_or_default();
            problems
                .iter()
                .chain(&install::unread(&resource))
                .map(install::Problem::to_string)
                .collect::<Vec<_>>()
        }
        Err(error) => vec![format!("spec: cannot be read: {error}")],
    };
    let before = question.old.map(problems).unwrap_or_default();
    answer.weigh(problems(object), &before);
    let class = |object: &DynamicObject| object.data["spec"]["loadBalancerClass"].as_str().map(str::to_owned);
    if let Some(old) = question.old.map(class).filter(|old| *old != class(object)) {
        let which = match old {
            Some(class) => format!("with class {class:?}"),
            None => "without a class".to_owned(),
        };
        answer.warn(format!(
            "spec.loadBalancerClass is changed: Services {which} are no longer served, and a Service's class cannot be \
             changed"
        ));
    }
}

fn judge_address_pool(
    question: &Question<'_>,
    object: &DynamicObject,
    existing: &Existing,
    answer: &mut Answer,
) {
    // Judged as if it were the newest: what it overlaps is its own problem.
    let mut all: Vec<_> =
        existing.address_pools.iter().filter(|other| other.name_any() != question.name).cloned().collect();
    let mut pools = existing.pools.clone();
    for pool in pools.iter_mut().filter(|pool| pool.name_any() == question.name) {
        pool.metadata.creation_timestamp = None;
    }
    let mut verdict = |object: &DynamicObject| {
        let mut pool: AddressPool = object.clone().try_parse().map_err(|error| error.to_string())?;
        pool.metadata.creation_timestamp = None;
        all.push(pool);
        let verdict = pool::judge(&all, &pools).pop();
        all.pop();
        verdict.ok_or_else(String::new)
    };
    let problems = |verdict: Result<Verdict, String>| match verdict {
        Ok(Verdict::Refuse(problems)) => problems.iter().map(ToString::to_string).collect(),
        Ok(Verdict::Conflict) => {
            vec![format!("an IPAddressPool {:?} exists that does not belong to this pool", question.name)]
        }
        Ok(Verdict::Serve(_) | Verdict::Converted) => Vec::new(),
        Err(error) => vec![format!("spec: cannot be read: {error}")],
    };
    let before = question.old.map(&mut verdict).map(problems).unwrap_or_default();
    let now = verdict(object);
    if let Ok(Verdict::Serve(derived)) = &now {
        let found = derived.problems(&existing.communities).into_iter();
        let unresolved = found.filter(|problem| problem.cause == Cause::Unresolved);
        unresolved.for_each(|problem| answer.warn(format!("{}: {}", problem.field, problem.message)));
    }
    let converted = matches!(now, Ok(Verdict::Converted));
    answer.weigh(problems(now), &before);
    if converted {
        answer.warn("this AddressPool was converted and has no effect any more");
    } else {
        judge_blocks(question, existing, answer);
    }
}

/// Judges the configuration with `object` among, or in place of one of, the objects of its kind: those that `list` names.
fn replace<K>(
    list: fn(&mut Existing) -> &mut Vec<K>,
    question: &Question<'_>,
    object: &DynamicObject,
    existing: &Existing,
    answer: &mut Answer,
) where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let candidate: K = match object.clone().try_parse() {
        Ok(candidate) => candidate,
        Err(error) => {
            answer.deny(format!("spec: cannot be read: {error}"));
            return;
        }
    };
    let mut after = existing.clone();
    let objects = list(&mut after);
    objects.retain(|other| other.name_any() != question.name);
    objects.push(candidate);
    let before: Vec<String> = problems(existing).iter().map(identity).collect();
    let mut before = Before::new(before.iter().map(String::as_str));
    for problem in problems(&after) {
        let own = problem.kind == question.kind && problem.name == question.name;
        let text = if own { format!("{}: {}", problem.field, problem.message) } else { problem.to_string() };
        let old = before.had(&identity(&problem));
        match problem.cause {
            Cause::Invalid if !old => answer.deny(text),
            Cause::Invalid | Cause::Unresolved if own => answer.warn(text),
            // Of other objects, what was wrong before is not this author's business.
            Cause::Unresolved if !old => answer.warn(text),
            Cause::Invalid | Cause::Unresolved => {}
        }
    }
}

fn identity(problem: &Problem) -> String {
    format!("{:?} {problem}", problem.cause)
}

fn problems(existing: &Existing) -> Vec<Problem> {
    let objects = config::Objects {
        pools: existing.pools.iter().collect(),
        l2_advertisements: existing.l2_advertisements.iter().collect(),
        bgp_advertisements: existing.bgp_advertisements.iter().collect(),
        bgp_peers: existing.bgp_peers.iter().collect(),
        bfd_profiles: existing.bfd_profiles.iter().collect(),
        communities: existing.communities.iter().collect(),
    };
    config::parse(&objects).1
}

fn judge_deletion(question: &Question<'_>, existing: &Existing, answer: &mut Answer) {
    match question.kind {
        "IPAddressPool" => judge_blocks(question, existing, answer),
        "AddressPool" => {
            let pool = question.old.and_then(|old| old.clone().try_parse::<AddressPool>().ok());
            let verdict = pool.and_then(|pool| pool::judge(&[pool], &existing.pools).pop());
            // What it does not own stays when it goes.
            if !matches!(verdict, Some(Verdict::Converted | Verdict::Conflict)) {
                judge_blocks(question, existing, answer);
            }
        }
        "BFDProfile" => {
            let users: Vec<_> = users(question, existing).map(ResourceExt::name_any).collect();
            if !users.is_empty() {
                answer.warn(format!("these BGPPeers name this profile: {}", users.join(", ")));
            }
        }
        _ => {}
    }
}

/// Warns of what a change of a pool's blocks means: for the Services that have an address of it, and for the cluster.
fn judge_blocks(question: &Question<'_>, existing: &Existing, answer: &mut Answer) {
    let (before, after) = (blocks_of(question.old), blocks_of(question.object));
    lost_addresses(&before, &after, existing, answer);
    let Network { nodes, ranges } = &existing.network;
    for block in after.iter().filter(|block| !before.contains(block)) {
        let held = nodes.iter().filter(|(address, _)| block.contains(*address));
        let held: Vec<_> = held.map(|(address, node)| format!("{node} ({address})")).collect();
        if !held.is_empty() {
            answer.warn(format!(
                "{block} holds addresses of nodes, which no Service is given: {}",
                some(&held)
            ));
        }
        let met = ranges.iter().filter(|(range, _)| range.overlaps(block));
        let met: Vec<_> = met.map(|(range, what)| format!("{range} ({what})")).collect();
        if !met.is_empty() {
            answer.warn(format!("{block} meets the cluster's own network: {}", some(&met)));
        }
    }
}

/// Blocks of addresses of a pool of either kind, those that can be read.
fn blocks_of(pool: Option<&DynamicObject>) -> Vec<AddressRange> {
    let addresses = pool.and_then(|pool| pool.data["spec"]["addresses"].as_array());
    let texts = addresses.into_iter().flatten().filter_map(serde_json::Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Warns of the Services whose address was in `before` and is not in `after`.
fn lost_addresses(before: &[AddressRange], after: &[AddressRange], existing: &Existing, answer: &mut Answer) {
    let lost: Vec<String> = existing
        .services
        .iter()
        .flat_map(|service| addresses_of(service).into_iter().map(move |address| (service, address)))
        .filter(|(_, address)| before.iter().any(|block| block.contains(*address)))
        .filter(|(_, address)| !after.iter().any(|block| block.contains(*address)))
        .map(|(service, address)| {
            format!("{}/{} ({address})", service.namespace().unwrap_or_default(), service.name_any())
        })
        .collect();
    let subject = match lost.len() {
        0 => return,
        1 => "1 Service has".to_owned(),
        number => format!("{number} Services have"),
    };
    answer.warn(format!("{subject} an address that will no longer be in the pool: {}", some(&lost)));
}

/// The first of `items`, and how many more there are.
fn some(items: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = items.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn addresses_of(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|point| point.ip.as_deref()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
