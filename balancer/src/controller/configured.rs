//! The objects of the configuration other than pools: as they are, and what each should say about itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Resource,
    core::{ApiResource, object::HasStatus},
};
use metallb_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement,
    conditions::{
        CONFLICT, ConfiguredStatus, NOT_LISTENING, ROUTES_NOT_SENT, Report, UNUSED_ADDRESSES_LOOP, set,
    },
};
use metallb_core::{
    config::{Config, Objects, Problem, parse},
    validity,
};

use super::news::{Obstacle, Session, Trouble};
use crate::watch::Change;

/// Reasons of condition [`CONFLICT`] of a BGPPeer: another BGP speaker of a node has the session with the router.
const ANOTHER_SPEAKER: &str = "AnotherSpeaker";
const NO_CONFLICT: &str = "NoConflict";
/// Reasons of condition [`NOT_LISTENING`] of a BGPPeer: it is passive, and routers cannot connect to a node.
const BGP_LISTEN_OFF: &str = "BGPListenOff";
const CANNOT_LISTEN: &str = "CannotListen";
const LISTENING: &str = "Listening";
/// Reasons of condition [`ROUTES_NOT_SENT`] of a BGPPeer.
const ROUTER_CANNOT_BE_TOLD: &str = "RouterCannotBeTold";
const ALL_SENT: &str = "AllSent";
/// Reasons of condition [`UNUSED_ADDRESSES_LOOP`] of a BGPAdvertisement.
const AGGREGATED: &str = "Aggregated";
const SINGLE_ADDRESSES: &str = "SingleAddresses";
/// Nodes that a condition names at most.
const NAMED: usize = 5;

/// After so long a condition that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What the watches bring.
pub(super) enum Edit {
    Layer2(Change<L2Advertisement>),
    Bgp(Change<BGPAdvertisement>),
    Communities(Change<Community>),
    Peers(Change<BGPPeer>),
    Profiles(Change<BFDProfile>),
}

/// Kind and name of an object.
pub(super) type ObjectKey = (String, String);

/// A status that is to be written.
#[derive(Clone, Debug)]
pub(super) struct Validity {
    pub(super) key: ObjectKey,
    pub(super) resource: ApiResource,
    pub(super) status: ConfiguredStatus,
}

/// What only all objects together say, with the pools and nodes that there are.
#[derive(Default)]
pub(super) struct Together {
    /// Contradictions.
    pub(super) problems: Vec<Problem>,
    /// By BGPAdvertisement, which pools it announces by routes to more than one address, and how.
    pub(super) aggregates: BTreeMap<String, Vec<String>>,
}

/// All objects, and what is wrong with them.
#[derive(Default)]
pub(super) struct Configured {
    layer2: Store<L2Advertisement>,
    bgp: Store<BGPAdvertisement>,
    communities: Store<Community>,
    peers: Store<BGPPeer>,
    profiles: Store<BFDProfile>,
    /// By BGPSessionState, what is wrong with the session.
    troubles: BTreeMap<String, Trouble>,
    problems: Vec<Problem>,
    together: Together,
    /// What was read last, once every object was known.
    loaded: Option<Config>,
    /// Whether an object may say something else than it should.
    touched: bool,
    /// Of these the watch has not shown yet what was written.
    written: BTreeSet<ObjectKey>,
    /// Nothing is written before, since a write has failed.
    after: Duration,
}

impl Configured {
    /// Takes a change; tells whether it may mean something to others than the object itself.
    pub(super) fn take(&mut self, edit: Edit) -> bool {
        self.touched = true;
        let written = &mut self.written;
        match edit {
            Edit::Layer2(change) => self.layer2.take(change, written),
            Edit::Bgp(change) => self.bgp.take(change, written),
            Edit::Communities(change) => self.communities.take(change, written),
            Edit::Peers(change) => self.peers.take(change, written),
            Edit::Profiles(change) => self.profiles.take(change, written),
        }
    }

    /// Takes a change of what speakers say of their sessions.
    pub(super) fn take_sessions(&mut self, change: &Change<Session>) {
        let before = self.troubles.clone();
        let sessions = match change {
            Change::All(sessions) => {
                self.troubles.clear();
                sessions.as_slice()
            }
            Change::Set(session) => std::slice::from_ref(session),
            Change::Gone(session) => {
                self.troubles.remove(&session.object);
                &[]
            }
        };
        for session in sessions {
            match &session.trouble {
                Some(trouble) => drop(self.troubles.insert(session.object.clone(), trouble.clone())),
                None => drop(self.troubles.remove(&session.object)),
            }
        }
        self.touched |= self.troubles != before;
    }

    /// Takes what is to be said of objects that mean something together.
    pub(super) fn judge(&mut self, together: Together) {
        let known = &self.together.problems;
        for problem in together.problems.iter().filter(|problem| !known.contains(problem)) {
            tracing::warn!(event = "configProblem", error = %problem, "parts of the configuration contradict each other");
        }
        let same = (&self.together.problems, &self.together.aggregates)
            == (&together.problems, &together.aggregates);
        self.touched |= !same;
        self.together = together;
    }

    /// Whether every object is known.
    pub(super) fn is_complete(&self) -> bool {
        self.layer2.listed
            && self.bgp.listed
            && self.communities.listed
            && self.peers.listed
            && self.profiles.listed
    }

    /// Reads the configuration, which these pools are part of; they are left out of what is returned.
    pub(super) fn read<'a>(&mut self, pools: impl Iterator<Item = &'a IPAddressPool>) -> Config {
        let objects = Objects {
            pools: pools.collect(),
            l2_advertisements: self.layer2.objects.values().collect(),
            bgp_advertisements: self.bgp.objects.values().collect(),
            bgp_peers: self.peers.objects.values().collect(),
            bfd_profiles: self.profiles.objects.values().collect(),
            communities: self.communities.objects.values().collect(),
        };
        let (config, mut problems) = parse(&objects);
        let config = Config { pools: BTreeMap::new(), ..config };
        problems.retain(|problem| problem.kind != "IPAddressPool");
        if self.is_complete() {
            self.log(&config, &problems);
        }
        self.problems = problems;
        self.touched = true;
        config
    }

    fn log(&mut self, config: &Config, problems: &[Problem]) {
        let known = |problem: &&Problem| self.loaded.is_some() && self.problems.contains(problem);
        for problem in problems.iter().filter(|problem| !known(problem)) {
            tracing::warn!(event = "configProblem", error = %problem, "part of the configuration is not used");
        }
        if self.loaded.as_ref() != Some(config) || self.problems != problems {
            tracing::info!(
                event = "configLoaded",
                l2_advertisements = config.l2_advertisements.len(),
                bgp_advertisements = config.bgp_advertisements.len(),
                peers = config.peers.len(),
                bfd_profiles = config.bfd_profiles.len(),
                problems = problems.len(),
                "configuration loaded"
            );
            self.loaded = Some(config.clone());
        }
    }

    /// What is wrong, one text a mistake; nothing before every object is known, which may be what another lacks.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let all = self.problems.iter().chain(&self.together.problems);
        all.filter(|_| self.is_complete()).map(ToString::to_string)
    }

    /// The statuses that should say something else at `now`.
    pub(super) fn changed(&mut self, now: Duration) -> Vec<Validity> {
        if !self.touched || !self.is_complete() || now < self.after {
            return Vec::new();
        }
        self.touched = false;
        let mut by_object: BTreeMap<ObjectKey, Vec<&Problem>> = BTreeMap::new();
        for problem in self.problems.iter().chain(&self.together.problems) {
            by_object.entry((problem.kind.clone(), problem.name.clone())).or_default().push(problem);
        }
        let time = Time(Timestamp::now());
        let mut changed = Vec::new();
        let nothing = |_: &str, _: &ConfiguredStatus| Vec::new();
        self.layer2.compare(&by_object, nothing, &time, &mut changed);
        let looping =
            |name: &str, status: &ConfiguredStatus| self.looping(name, status).into_iter().collect();
        self.bgp.compare(&by_object, looping, &time, &mut changed);
        self.communities.compare(&by_object, nothing, &time, &mut changed);
        let obstacles = |name: &str, status: &ConfiguredStatus| self.obstacles(name, status);
        self.peers.compare(&by_object, obstacles, &time, &mut changed);
        self.profiles.compare(&by_object, nothing, &time, &mut changed);
        changed.retain(|validity| !self.written.contains(&validity.key));
        self.written.extend(changed.iter().map(|validity| validity.key.clone()));
        changed
    }

    /// Whether traffic to addresses that no Service has comes here by the routes of a BGPAdvertisement.
    fn looping(&self, advertisement: &str, status: &ConfiguredStatus) -> Option<Report> {
        let message = self.together.aggregates.get(advertisement).map(|pools| {
            format!(
                "announced are {}: a packet to an address of these routes that no Service has goes back and forth \
                 between the router and a node whose default route leads there, until its TTL ends",
                pools.join(", ")
            )
        });
        report(status, UNUSED_ADDRESSES_LOOP, [AGGREGATED, SINGLE_ADDRESSES], message)
    }

    /// What is wrong with the sessions of a BGPPeer.
    fn obstacles(&self, peer: &str, status: &ConfiguredStatus) -> Vec<Report> {
        let nodes = |cause| {
            let its = self.troubles.values().filter(|trouble| trouble.peer == peer && trouble.cause == cause);
            let nodes: BTreeSet<&str> = its.map(|trouble| trouble.node.as_str()).collect();
            let mut named: Vec<String> = nodes.iter().take(NAMED).map(|node| (*node).to_owned()).collect();
            if nodes.len() > NAMED {
                named.push(format!("{} more", nodes.len() - NAMED));
            }
            (!named.is_empty()).then(|| named.join(", "))
        };
        let conflict = nodes(Obstacle::AnotherSpeaker).map(|nodes| {
            format!(
                "another BGP speaker has a session with this router on {nodes}: ours stays closed there until that one \
                 ends"
            )
        });
        let off = nodes(Obstacle::NotListening).map(|nodes| {
            format!(
                "passive waits for the router, which cannot connect to {nodes}: set speakerConfig.bgpListen of the \
                 MetalLB resource, or passive to false"
            )
        });
        let unable = nodes(Obstacle::CannotListen).map(|nodes| {
            format!(
                "passive waits for the router, which cannot connect to {nodes} yet: lastError of the BGPSessionState says \
                 why"
            )
        });
        let unsent = nodes(Obstacle::RoutesNotSent).map(|nodes| {
            format!(
                "there are routes that the router is not told by {nodes}: routesNotSent of the BGPSessionState says why"
            )
        });
        let reason = if off.is_some() { BGP_LISTEN_OFF } else { CANNOT_LISTEN };
        let silent: Vec<String> = off.into_iter().chain(unable).collect();
        let silent = Some(silent.join("; ")).filter(|silent| !silent.is_empty());
        let conflict = report(status, CONFLICT, [ANOTHER_SPEAKER, NO_CONFLICT], conflict);
        let silent = report(status, NOT_LISTENING, [reason, LISTENING], silent);
        let unsent = report(status, ROUTES_NOT_SENT, [ROUTER_CANNOT_BE_TOLD, ALL_SENT], unsent);
        conflict.into_iter().chain(silent).chain(unsent).collect()
    }

    /// These could not be written at `now`.
    pub(super) fn failed(&mut self, keys: &[ObjectKey], now: Duration) {
        for key in keys {
            self.written.remove(key);
            self.touched = true;
            self.after = now + RETRY;
        }
    }

    /// When [`Configured::changed`] is to be asked again even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Duration> {
        (self.touched && self.is_complete()).then_some(self.after)
    }
}

/// Condition `kind`: True with a message, and else False where it was there before; `reasons` are of both.
fn report(
    status: &ConfiguredStatus,
    kind: &'static str,
    [yes, no]: [&'static str; 2],
    message: Option<String>,
) -> Option<Report> {
    let was = status.conditions.iter().any(|condition| condition.type_ == kind);
    let reason = if message.is_some() { yes } else { no };
    (was || message.is_some()).then(|| Report {
        kind,
        status: message.is_some(),
        reason,
        message: message.unwrap_or_default(),
    })
}

/// The objects of one kind.
struct Store<K> {
    objects: BTreeMap<String, K>,
    listed: bool,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: false }
    }
}

impl<K: Resource<DynamicType = ()>> Store<K> {
    fn take(&mut self, change: Change<K>, written: &mut BTreeSet<ObjectKey>) -> bool {
        let kind = K::kind(&());
        let name = |object: &K| object.meta().name.clone().unwrap_or_default();
        match change {
            Change::All(all) => {
                written.retain(|(other, _)| *other != kind);
                self.objects = all.into_iter().map(|object| (name(&object), object)).collect();
                self.listed = true;
                true
            }
            Change::Set(object) => {
                written.remove(&(kind.into_owned(), name(&object)));
                // A change of the status alone is none to the configuration.
                let version = |object: &K| (object.meta().uid.clone(), object.meta().generation);
                let now = version(&object);
                let before = self.objects.insert(name(&object), object);
                before.is_none_or(|before| version(&before) != now)
            }
            Change::Gone(object) => {
                written.remove(&(kind.into_owned(), name(&object)));
                self.objects.remove(&name(&object)).is_some()
            }
        }
    }

    /// Adds the statuses that should say something else.
    fn compare(
        &self,
        problems: &BTreeMap<ObjectKey, Vec<&Problem>>,
        more: impl Fn(&str, &ConfiguredStatus) -> Vec<Report>,
        now: &Time,
        changed: &mut Vec<Validity>,
    ) where
        K: HasStatus<Status = ConfiguredStatus>,
    {
        for (name, object) in &self.objects {
            let key = (K::kind(&()).into_owned(), name.clone());
            let report = validity::report(problems.get(&key).into_iter().flatten().copied());
            let before = object.status().cloned().unwrap_or_default();
            let mut status = before.clone();
            let reports: Vec<_> = [report].into_iter().chain(more(name, &before)).collect();
            set(&mut status.conditions, &reports, object.meta().generation, now);
            if status != before {
                changed.push(Validity { key, resource: ApiResource::erase::<K>(&()), status });
            }
        }
    }
}

#[cfg(test)]
#[path = "configured_tests.rs"]
mod tests;
