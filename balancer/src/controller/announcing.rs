//! Whether Services are announced: gathers what that depends on, and finds those whose condition is to say something
//! else.
//!
//! The condition has one writer at a time. What only the speaker that owns an address can know (`Reason::is_owners`) is
//! written by that speaker, and left alone here until it has written that it is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use metallb_api::{BGPAdvertisement, Community, IPAddressPool, L2Advertisement};
use metallb_core::{
    announced::{ANNOUNCED_REASON, Announcers, Judgement, Reason, judge},
    claim::{Claim, ServiceFacts},
    config::{Objects, Pool, parse},
    plan::{self, Endpoints, World},
    service::ServiceKey,
};
use metallb_proto::membership::Seed;

use super::news::{News, NodeFacts, Protocol, Said};
use crate::{speaker::facts::SliceFacts, watch::Change};

/// How long a Service is not announced before that is said: it takes a moment to begin, and to move.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long a condition that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Kinds of which everything must be known before anything is judged.
const KINDS: usize = 8;
/// Services that are judged before anything else is done.
const BATCH: usize = 256;

/// A condition that is to be written.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) facts: ServiceFacts,
    /// `None` when the Service has no address, and the condition goes.
    pub(super) judgement: Option<Judgement>,
}

/// What is known, and which Services are yet to be judged.
#[derive(Default)]
pub(super) struct Announcing {
    layer2: BTreeMap<String, L2Advertisement>,
    bgp: BTreeMap<String, BGPAdvertisement>,
    communities: BTreeMap<String, Community>,
    speakers: BTreeMap<String, Option<Seed>>,
    node_addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Endpoints by Service and slice.
    endpoints: BTreeMap<ServiceKey, BTreeMap<ServiceKey, Endpoints>>,
    /// Announcing nodes by Service and object.
    said: BTreeMap<ServiceKey, BTreeMap<(Protocol, String), Option<String>>>,
    /// Kinds of which everything is known.
    listed: BTreeSet<&'static str>,
    world: World,
    problems: Vec<String>,
    /// To be judged.
    dirty: BTreeSet<ServiceKey>,
    /// Since when Services are not announced though nobody was told; when they are to be judged again.
    patience: BTreeMap<ServiceKey, Duration>,
    by_end: BTreeSet<(Duration, ServiceKey)>,
}

impl Announcing {
    /// Takes a change of what announcing depends on; tells whether every Service is to be judged anew.
    pub(super) fn take(&mut self, news: News) -> bool {
        match news {
            News::Layer2(change) => {
                self.list("L2Advertisement", &change);
                enter(&mut self.layer2, change, |object| object.metadata.name.clone());
            }
            News::Bgp(change) => {
                self.list("BGPAdvertisement", &change);
                enter(&mut self.bgp, change, |object| object.metadata.name.clone());
            }
            News::Communities(change) => {
                self.list("Community", &change);
                enter(&mut self.communities, change, |object| object.metadata.name.clone());
            }
            News::Nodes(change) => {
                self.list("Node", &change);
                return self.take_nodes(change);
            }
            News::Slices(change) => {
                self.list("EndpointSlice", &change);
                self.take_slices(change);
                return false;
            }
            News::Speakers(change) => {
                self.list("Pod", &change);
                match change {
                    Change::All(all) => self.speakers = all.into_iter().collect(),
                    Change::Set((pod, seed)) => {
                        self.speakers.insert(pod, seed);
                    }
                    Change::Gone((pod, _)) => {
                        self.speakers.remove(&pod);
                    }
                }
                let ready = self.speakers.values().flatten().filter(|seed| seed.ready);
                let ready = Some(ready.map(|seed| seed.node.clone()).collect());
                let changed = self.world.speakers != ready;
                self.world.speakers = ready;
                return changed;
            }
            News::Said(protocol, change) => {
                let layer2 = protocol == Protocol::Layer2;
                self.list(if layer2 { "ServiceL2Status" } else { "ServiceBGPStatus" }, &change);
                self.take_said(protocol, change);
                return false;
            }
        }
        true
    }

    fn list<T>(&mut self, kind: &'static str, change: &Change<T>) {
        if matches!(change, Change::All(_)) {
            self.listed.insert(kind);
        }
    }

    fn take_nodes(&mut self, change: Change<NodeFacts>) -> bool {
        let before = (self.world.nodes.clone(), self.node_addresses.clone());
        match change {
            Change::All(all) => {
                self.world.nodes.clear();
                self.node_addresses.clear();
                all.into_iter().for_each(|node| self.put_node(node));
            }
            Change::Set(node) => self.put_node(node),
            Change::Gone(NodeFacts { name, .. }) => {
                self.world.nodes.remove(&name);
                self.node_addresses.remove(&name);
            }
        }
        before != (self.world.nodes.clone(), self.node_addresses.clone())
    }

    fn put_node(&mut self, NodeFacts { name, facts, addresses }: NodeFacts) {
        self.world.nodes.insert(name.clone(), facts);
        self.node_addresses.insert(name, addresses);
    }

    /// Whether all nodes are known.
    pub(super) fn knows_nodes(&self) -> bool {
        self.listed.contains("Node")
    }

    /// The addresses of all nodes.
    pub(super) fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.node_addresses.values().flatten().copied().collect()
    }

    fn take_slices(&mut self, change: Change<SliceFacts>) {
        match change {
            Change::All(all) => {
                self.dirty.extend(std::mem::take(&mut self.endpoints).into_keys());
                all.into_iter().for_each(|slice| self.take_slices(Change::Set(slice)));
            }
            Change::Set(slice) => {
                let slices = self.endpoints.entry(slice.service.clone()).or_default();
                if slices.insert(slice.key, slice.endpoints.clone()) != Some(slice.endpoints) {
                    self.dirty.insert(slice.service);
                }
            }
            Change::Gone(slice) => {
                if let Some(slices) = self.endpoints.get_mut(&slice.service) {
                    slices.remove(&slice.key);
                    if slices.is_empty() {
                        self.endpoints.remove(&slice.service);
                    }
                    self.dirty.insert(slice.service);
                }
            }
        }
    }

    fn take_said(&mut self, protocol: Protocol, change: Change<Said>) {
        match change {
            Change::All(all) => {
                self.dirty.extend(self.said.keys().cloned());
                for objects in self.said.values_mut() {
                    objects.retain(|(other, _), _| *other != protocol);
                }
                all.into_iter().for_each(|said| self.take_said(protocol, Change::Set(said)));
            }
            Change::Set(said) => {
                let objects = self.said.entry(said.service.clone()).or_default();
                objects.insert((protocol, said.object), said.node);
                self.dirty.insert(said.service);
            }
            Change::Gone(said) => {
                if let Some(objects) = self.said.get_mut(&said.service) {
                    objects.remove(&(protocol, said.object));
                    if objects.is_empty() {
                        self.said.remove(&said.service);
                    }
                }
                self.dirty.insert(said.service);
            }
        }
    }

    /// Reads the configuration: the advertisements, with the pools as they are served.
    pub(super) fn configure<'a>(
        &mut self,
        objects: impl Iterator<Item = &'a IPAddressPool>,
        served: &BTreeMap<String, Pool>,
    ) {
        let objects = Objects {
            pools: objects.collect(),
            l2_advertisements: self.layer2.values().collect(),
            bgp_advertisements: self.bgp.values().collect(),
            communities: self.communities.values().collect(),
            ..Objects::default()
        };
        let (config, problems) = parse(&objects);
        let about_others = problems.iter().filter(|problem| problem.kind != "IPAddressPool");
        self.problems = about_others.map(ToString::to_string).collect();
        self.world.config = config;
        self.world.config.pools.clone_from(served);
    }

    /// What is wrong with the advertisements, one text a mistake.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// These are to be judged.
    pub(super) fn touch(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        self.dirty.extend(services);
    }

    /// The condition could not be written at `now`.
    pub(super) fn failed(&mut self, service: ServiceKey, now: Duration) {
        self.wait(service, now + RETRY);
    }

    fn wait(&mut self, service: ServiceKey, until: Duration) {
        if let std::collections::btree_map::Entry::Vacant(place) = self.patience.entry(service) {
            self.by_end.insert((until, place.key().clone()));
            place.insert(until);
        }
    }

    fn forget(&mut self, service: &ServiceKey) {
        if let Some(until) = self.patience.remove(service) {
            self.by_end.remove(&(until, service.clone()));
        }
    }

    /// When a Service is to be judged though nothing happens.
    pub(super) fn deadline(&self) -> Option<Duration> {
        if !self.dirty.is_empty() && self.is_complete() {
            return Some(Duration::ZERO);
        }
        self.by_end.first().map(|(until, _)| *until)
    }

    fn is_complete(&self) -> bool {
        self.listed.len() == KINDS
    }

    /// What is to be said in the very write that gives a Service its address, so that it needs no other: that nothing
    /// is there to announce it. Anything else takes a moment to be known.
    pub(super) fn at_assignment(
        &self,
        facts: &ServiceFacts,
        addresses: &[std::net::IpAddr],
    ) -> Option<Judgement> {
        if !self.is_complete() || !facts.shown().is_empty() {
            return None;
        }
        let service = plan::Service { addresses: addresses.to_vec(), ..self.service(facts) };
        let judgement = judge(&self.world, &service, &Announcers::default());
        matches!(judgement, Err((Reason::NoAdvertisement, _))).then_some(judgement)
    }

    fn service(&self, facts: &ServiceFacts) -> plan::Service {
        let mut endpoints = Endpoints::default();
        for slice in self.endpoints.get(&facts.key).into_iter().flat_map(BTreeMap::values) {
            endpoints.any |= slice.any;
            endpoints.nodes.extend(slice.nodes.iter().cloned());
        }
        let shared = matches!(&facts.claim, Claim::Wants { tenant, .. } if tenant.sharing.is_some());
        plan::Service {
            addresses: facts.shown(),
            pool: facts.mark.clone(),
            labels: facts.labels.clone(),
            local: facts.local,
            shared,
            endpoints,
        }
    }

    fn announcers(&self, service: &ServiceKey) -> Announcers {
        let mut announcers = Announcers::default();
        for ((protocol, _), node) in self.said.get(service).into_iter().flatten() {
            let nodes = match protocol {
                Protocol::Layer2 => &mut announcers.layer2,
                Protocol::Bgp => &mut announcers.bgp,
            };
            nodes.extend(node.clone());
        }
        announcers
    }

    /// The next condition that is to be written at `now`, when everything is known that it depends on.
    pub(super) fn next(
        &mut self,
        services: &BTreeMap<ServiceKey, ServiceFacts>,
        now: Duration,
    ) -> Option<Telling> {
        if !self.is_complete() {
            return None;
        }
        while self.by_end.first().is_some_and(|(until, _)| *until <= now)
            && let Some((_, service)) = self.by_end.pop_first()
        {
            self.dirty.insert(service);
        }
        for _ in 0..BATCH {
            let key = self.dirty.pop_first()?;
            let Some(facts) = services.get(&key) else {
                self.forget(&key);
                continue;
            };
            if let Some(telling) = self.tell(facts, now) {
                self.forget(&key);
                return Some(telling);
            }
        }
        None
    }

    fn tell(&mut self, facts: &ServiceFacts, now: Duration) -> Option<Telling> {
        let told = facts.announced.as_ref();
        let key = &facts.key;
        let ours = matches!(facts.claim, Claim::Wants { .. }) && facts.mark.is_some();
        let judgement = (ours && !facts.shown().is_empty())
            .then(|| judge(&self.world, &self.service(facts), &self.announcers(key)));
        let same = match (&judgement, told) {
            (None, None) => true,
            (Some(_), Some(told)) if told.status == "False" && Reason::is_owners(&told.reason) => true,
            (Some(judgement), Some(told)) => {
                let (status, reason, message) = spell(judgement);
                (status, reason, message) == (&*told.status, &*told.reason, &*told.message)
            }
            _ => false,
        };
        if same {
            self.forget(key);
            return None;
        }
        if matches!(judgement, Some(Err(_))) {
            match self.patience.get(key) {
                Some(until) if *until <= now => {}
                Some(_) => return None,
                None => {
                    self.wait(key.clone(), now + PATIENCE);
                    return None;
                }
            }
        }
        Some(Telling { facts: facts.clone(), judgement })
    }
}

/// Status, reason and message of the condition.
fn spell(judgement: &Judgement) -> (&'static str, &'static str, &str) {
    match judgement {
        Ok(how) => ("True", ANNOUNCED_REASON, how),
        Err((reason, message)) => ("False", reason.as_str(), message),
    }
}

fn enter<T>(map: &mut BTreeMap<String, T>, change: Change<T>, name: impl Fn(&T) -> Option<String>) {
    let named = |object: T| (name(&object).unwrap_or_default(), object);
    match change {
        Change::All(all) => *map = all.into_iter().map(named).collect(),
        Change::Set(object) => map.extend([named(object)]),
        Change::Gone(object) => {
            map.remove(&named(object).0);
        }
    }
}
