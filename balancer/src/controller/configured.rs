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
    conditions::{CONFLICT, ConfiguredStatus, Report, set},
};
use metallb_core::{
    config::{Config, Objects, Problem, parse},
    validity,
};

use super::news::Session;
use crate::watch::Change;

/// Reasons of condition [`CONFLICT`] of a BGPPeer: another BGP speaker of a node has the session with the router.
const ANOTHER_SPEAKER: &str = "AnotherSpeaker";
const NO_CONFLICT: &str = "NoConflict";
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

/// All objects, and what is wrong with them.
#[derive(Default)]
pub(super) struct Configured {
    layer2: Store<L2Advertisement>,
    bgp: Store<BGPAdvertisement>,
    communities: Store<Community>,
    peers: Store<BGPPeer>,
    profiles: Store<BFDProfile>,
    /// By BGPSessionState, node and BGPPeer where another BGP speaker of the node has the session.
    conflicts: BTreeMap<String, (String, String)>,
    problems: Vec<Problem>,
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
        let before = self.conflicts.clone();
        let sessions = match change {
            Change::All(sessions) => {
                self.conflicts.clear();
                sessions.as_slice()
            }
            Change::Set(session) => std::slice::from_ref(session),
            Change::Gone(session) => {
                self.conflicts.remove(&session.object);
                &[]
            }
        };
        for session in sessions {
            match &session.conflict {
                Some(conflict) => drop(self.conflicts.insert(session.object.clone(), conflict.clone())),
                None => drop(self.conflicts.remove(&session.object)),
            }
        }
        self.touched |= self.conflicts != before;
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
        self.problems.iter().filter(|_| self.is_complete()).map(ToString::to_string)
    }

    /// The statuses that should say something else at `now`.
    pub(super) fn changed(&mut self, now: Duration) -> Vec<Validity> {
        if !self.touched || !self.is_complete() || now < self.after {
            return Vec::new();
        }
        self.touched = false;
        let mut by_object: BTreeMap<ObjectKey, Vec<&Problem>> = BTreeMap::new();
        for problem in &self.problems {
            by_object.entry((problem.kind.clone(), problem.name.clone())).or_default().push(problem);
        }
        let time = Time(Timestamp::now());
        let mut changed = Vec::new();
        let nothing = |_: &str, _: &ConfiguredStatus| None;
        self.layer2.compare(&by_object, nothing, &time, &mut changed);
        self.bgp.compare(&by_object, nothing, &time, &mut changed);
        self.communities.compare(&by_object, nothing, &time, &mut changed);
        let conflicts = |name: &str, status: &ConfiguredStatus| self.conflict(name, status);
        self.peers.compare(&by_object, conflicts, &time, &mut changed);
        self.profiles.compare(&by_object, nothing, &time, &mut changed);
        changed.retain(|validity| !self.written.contains(&validity.key));
        self.written.extend(changed.iter().map(|validity| validity.key.clone()));
        changed
    }

    /// Whether another BGP speaker has the sessions of a BGPPeer; `None` where that was never so.
    fn conflict(&self, peer: &str, status: &ConfiguredStatus) -> Option<Report> {
        let its = self.conflicts.values().filter(|(_, its)| its == peer);
        let nodes: BTreeSet<&str> = its.map(|(node, _)| node.as_str()).collect();
        let was = status.conditions.iter().any(|condition| condition.type_ == CONFLICT);
        if nodes.is_empty() {
            let report =
                Report { kind: CONFLICT, status: false, reason: NO_CONFLICT, message: String::new() };
            return was.then_some(report);
        }
        let mut named: Vec<String> = nodes.iter().take(NAMED).map(|node| (*node).to_owned()).collect();
        if nodes.len() > NAMED {
            named.push(format!("{} more", nodes.len() - NAMED));
        }
        let message = format!(
            "another BGP speaker has a session with this router on {}: ours stays closed there until that one ends",
            named.join(", ")
        );
        Some(Report { kind: CONFLICT, status: true, reason: ANOTHER_SPEAKER, message })
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
        more: impl Fn(&str, &ConfiguredStatus) -> Option<Report>,
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
