//! Whether Services are announced: gathers what that depends on, and finds those whose condition is to say something
//! else.
//!
//! The condition has one writer at a time. What only the speaker that owns an address can know (`Reason::is_owners`) is
//! written by that speaker, and left alone here until it has written that it is over.

mod taking;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use metallb_core::{
    announced::{ANNOUNCED_REASON, Announcers, Judgement, Reason, Sessions, judge},
    claim::{Claim, ServiceFacts},
    config::{Config, Pool},
    plan::{self, Endpoints, World},
    range::AddressRange,
    routes,
    served::LatelyGone,
    service::ServiceKey,
    subnets,
};
use metallb_proto::membership::Seed;

use super::configured::Together;
use super::news::{Network, Protocol, Word};

/// How long a Service is not announced before that is said: it takes a moment to begin, and to move.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so long a condition that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Kinds of which everything must be known before anything is judged.
const KINDS: usize = 6;
/// Services that are judged before anything else is done.
const BATCH: usize = 256;

/// A condition that is to be written.
#[derive(Debug)]
pub(super) struct Telling {
    pub(super) facts: Arc<ServiceFacts>,
    /// `None` when the Service has no address, and the condition goes.
    pub(super) judgement: Option<Judgement>,
}

/// What is known, and which Services are yet to be judged.
#[derive(Default)]
pub(super) struct Announcing {
    speakers: BTreeMap<String, Option<Seed>>,
    /// By node.
    networks: BTreeMap<String, Network>,
    /// By ConfigurationState: a node and its subnets, as its speaker tells them.
    told_subnets: BTreeMap<String, (String, Vec<IpNet>)>,
    /// Those of all nodes, as far as they are known.
    subnets: Vec<IpNet>,
    /// By BGPSessionState: node and BGPPeer, when the session stands.
    standing: BTreeMap<String, Option<(String, String)>>,
    sessions: Sessions,
    /// Endpoints by Service and slice.
    endpoints: BTreeMap<ServiceKey, BTreeMap<ServiceKey, Endpoints>>,
    /// Who means to announce, by Service and object.
    said: BTreeMap<ServiceKey, BTreeMap<(Protocol, String), Word>>,
    /// Kinds of which everything is known.
    listed: BTreeSet<&'static str>,
    /// Whether the whole configuration is known.
    configured: bool,
    world: World,
    lately_gone: LatelyGone,
    /// To be judged.
    dirty: BTreeSet<ServiceKey>,
    /// Since when Services are not announced though nobody was told; when they are to be judged again.
    patience: BTreeMap<ServiceKey, Duration>,
    by_end: BTreeSet<(Duration, ServiceKey)>,
}

impl Announcing {
    /// Knows nothing yet. `ignore_exclude_label` is the option of the speakers.
    pub(super) fn new(ignore_exclude_label: bool) -> Self {
        Self { world: World { ignore_exclude_label, ..World::default() }, ..Self::default() }
    }

    /// Whether all nodes are known.
    pub(super) fn knows_nodes(&self) -> bool {
        self.listed.contains("Node")
    }

    /// The addresses of all nodes.
    pub(super) fn node_addresses(&self) -> BTreeSet<IpAddr> {
        self.networks.values().flat_map(|network| &network.addresses).copied().collect()
    }

    /// Takes the configuration and the pools as they are served at `now`; `complete` says whether all of it is known.
    pub(super) fn configure(
        &mut self,
        config: Config,
        served: &BTreeMap<String, Pool>,
        complete: bool,
        now: Duration,
    ) {
        let pools = self.lately_gone.join(served.clone(), now);
        self.world.config = Config { pools, ..config };
        self.configured = complete;
    }

    /// Says at `now` whether the pools cannot be read.
    pub(super) fn doubt_pools(&mut self, doubted: bool, now: Duration) {
        self.lately_gone.doubt(doubted, now);
    }

    /// When [`Announcing::configure`] is to be called again though nothing happens: a pool that went is forgotten.
    pub(super) fn pools_deadline(&self) -> Option<Duration> {
        self.lately_gone.deadline()
    }

    /// What advertisements and peers contradict each other in, and what is announced by aggregates, once the
    /// configuration is known.
    pub(super) fn together(&self) -> Together {
        if !self.configured {
            return Together::default();
        }
        let World { config, nodes, .. } = &self.world;
        Together { problems: routes::contradictions(config, nodes), aggregates: routes::aggregates(config) }
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

    /// Whether all is known that announcing depends on.
    pub(super) fn is_complete(&self) -> bool {
        self.configured && self.listed.len() == KINDS
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
            endpoints.join(slice);
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

    fn announcers(&self, facts: &ServiceFacts) -> Announcers {
        let addresses: Vec<_> = facts.shown().into_iter().map(AddressRange::from).collect();
        let mut announcers =
            Announcers { outside: subnets::outside(&addresses, &self.subnets), ..Announcers::default() };
        for ((protocol, _), word) in self.said.get(&facts.key).into_iter().flatten() {
            let Some(node) = &word.node else { continue };
            match protocol {
                Protocol::Layer2 => {
                    announcers.layer2.insert(node.clone());
                }
                Protocol::Bgp if word.peers.iter().any(|peer| self.sessions.stands(node, peer)) => {
                    announcers.bgp.insert(node.clone());
                }
                Protocol::Bgp => {}
            }
        }
        announcers
    }

    /// The next condition that is to be written at `now`, when everything is known that it depends on.
    pub(super) fn next(
        &mut self,
        services: &BTreeMap<ServiceKey, Arc<ServiceFacts>>,
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

    fn tell(&mut self, facts: &Arc<ServiceFacts>, now: Duration) -> Option<Telling> {
        let told = facts.announced.as_ref();
        let key = &facts.key;
        let ours = matches!(facts.claim, Claim::Wants { .. }) && facts.mark.is_some();
        let judgement = (ours && !facts.shown().is_empty())
            .then(|| judge(&self.world, &self.service(facts), &self.announcers(facts)));
        let same = match (&judgement, told) {
            (None, None) => true,
            (Some(_), Some(told)) if !told.holds && Reason::is_owners(&told.reason) => true,
            (Some(judgement), Some(told)) => spell(judgement) == (told.holds, &*told.reason, &*told.message),
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

/// Whether the condition holds, its reason and its message.
fn spell(judgement: &Judgement) -> (bool, &'static str, &str) {
    match judgement {
        Ok(how) => (true, ANNOUNCED_REASON, how),
        Err((reason, message)) => (false, reason.as_str(), message),
    }
}
