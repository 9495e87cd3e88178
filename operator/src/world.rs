//! What the operator has seen of the cluster.
//!
//! Pure: changes come in as values, from watches and from the answers to the operator's own writes. One task owns
//! the [`World`] and plans from it; there is no lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Resource, ResourceExt, core::DynamicObject, runtime::watcher::Event};

use crate::{
    gate::Finding,
    kinds::{Key, Kind},
    neighbours::{Fact, Neighbour},
    workload::{Marked, Sighting, WorkloadKind},
};

/// What a watch saw.
#[derive(Clone, Debug)]
pub enum Change {
    /// Of an object that is read whole.
    Object(Kind, Box<Event<DynamicObject>>),
    /// Of a pod of the operands.
    Pod(Box<Event<Pod>>),
    /// Of a node.
    Node(Box<Event<Node>>),
    /// Of an object of others.
    Neighbour(Neighbour, Box<Event<DynamicObject>>),
    /// Version of the API server.
    Version(String),
    /// Of a workload that may matter.
    Workload(WorkloadKind, Box<Event<Marked>>),
    /// The watch does not work.
    Fault(Source, String),
    /// The API server refuses it.
    Refused(Source, String),
    /// The cluster does not know the kind.
    Absent(Source),
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Objects that are read whole.
    Objects(Kind),
    /// Pods of the operands.
    Pods,
    /// Nodes.
    Nodes,
    /// Workloads that may matter.
    Workloads(WorkloadKind),
    /// Objects of others.
    Neighbours(Neighbour),
}

impl Source {
    /// Whether a cluster need not know the kind.
    #[must_use]
    pub fn optional(self) -> bool {
        match self {
            Self::Objects(kind) => kind.optional(),
            Self::Workloads(kind) => kind.optional(),
            Self::Neighbours(kind) => kind.optional(),
            Self::Pods | Self::Nodes => false,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Objects(kind) => write!(f, "{kind} objects"),
            Self::Pods => f.write_str("pods of the operands"),
            Self::Nodes => f.write_str("nodes"),
            Self::Neighbours(kind) => write!(f, "{kind:?} objects"),
            Self::Workloads(kind) => write!(f, "{kind:?} objects"),
        }
    }
}

/// What has been seen of each source.
#[derive(Debug, Default)]
pub struct World {
    objects: BTreeMap<Kind, Store<DynamicObject>>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    workloads: BTreeMap<WorkloadKind, Store<Sighting>>,
    facts: BTreeMap<Neighbour, Store<Fact>>,
    version: Option<String>,
    /// Sources that the cluster does not know.
    absent: BTreeSet<Source>,
    faults: BTreeMap<Source, String>,
    /// Of the sources with a fault, those that the API server refuses.
    refused: BTreeSet<Source>,
}

impl World {
    /// Takes a change in. Whether anything is different now.
    pub fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Object(kind, event) => {
                let worked = self.worked(Source::Objects(kind), &event);
                self.objects.entry(kind).or_default().take(*event, Some) | worked
            }
            Change::Pod(event) => {
                let worked = self.worked(Source::Pods, &event);
                self.pods.take(*event, Some) | worked
            }
            Change::Node(event) => {
                let worked = self.worked(Source::Nodes, &event);
                self.nodes.take(*event, Some) | worked
            }
            Change::Workload(kind, event) => {
                let worked = self.worked(Source::Workloads(kind), &event);
                let store = self.workloads.entry(kind).or_default();
                store.take(*event, |marked| marked.sighting(kind)) | worked
            }
            Change::Neighbour(kind, event) => {
                let worked = self.worked(Source::Neighbours(kind), &event);
                let store = self.facts.entry(kind).or_default();
                store.take(*event, |object| kind.read(&object)) | worked
            }
            Change::Version(version) => self.version.replace(version.clone()) != Some(version),
            Change::Absent(source) => self.forget(source),
            Change::Fault(source, message) => {
                self.refused.remove(&source);
                self.faults.insert(source, message.clone()) != Some(message)
            }
            Change::Refused(source, message) => {
                self.refused.insert(source);
                self.faults.insert(source, message.clone()) != Some(message)
            }
        }
    }

    /// Forgets all of a kind that the cluster does not know, or knows no longer. Whether that is news.
    fn forget(&mut self, source: Source) -> bool {
        self.faults.remove(&source);
        self.refused.remove(&source);
        match source {
            Source::Objects(kind) => drop(self.objects.remove(&kind)),
            Source::Workloads(kind) => drop(self.workloads.remove(&kind)),
            Source::Neighbours(kind) => drop(self.facts.remove(&kind)),
            Source::Pods | Source::Nodes => {}
        }
        self.absent.insert(source)
    }

    /// Forgets the fault of a watch that works again. `Init` alone is only an attempt.
    fn worked<K>(&mut self, source: Source, event: &Event<K>) -> bool {
        if matches!(event, Event::Init) {
            return false;
        }
        self.absent.remove(&source);
        self.refused.remove(&source);
        self.faults.remove(&source).is_some()
    }

    /// Takes in what the API server answered to a write.
    pub fn wrote(&mut self, kind: Kind, object: DynamicObject) {
        let store = self.objects.entry(kind).or_default();
        store.written.insert(name(&object));
        store.put(object, Some);
    }

    /// Takes in that an object is gone, as the API server answered.
    pub fn removed(&mut self, key: &Key) {
        if let Some(store) = self.objects.get_mut(&key.kind) {
            store.items.remove(&(key.namespace.clone(), key.name.clone()));
        }
    }

    /// Whether everything that exists of `source` has been seen.
    #[must_use]
    pub fn complete(&self, source: Source) -> bool {
        match source {
            Source::Objects(kind) => self.objects.get(&kind).is_some_and(|store| store.complete),
            Source::Pods => self.pods.complete,
            Source::Nodes => self.nodes.complete,
            Source::Neighbours(kind) => self.facts.get(&kind).is_some_and(|store| store.complete),
            Source::Workloads(kind) => self.workloads.get(&kind).is_some_and(|store| store.complete),
        }
    }

    /// Whether it is known what there is of `source`, be it that the cluster does not know the kind.
    #[must_use]
    pub fn known(&self, source: Source) -> bool {
        self.absent.contains(&source) || self.complete(source)
    }

    /// Watches that do not work, and why.
    pub fn faults(&self) -> impl Iterator<Item = (Source, &str)> {
        self.faults.iter().map(|(source, message)| (*source, message.as_str()))
    }

    /// Whether the API server refuses to show `source`.
    #[must_use]
    pub fn is_refused(&self, source: Source) -> bool {
        self.refused.contains(&source)
    }

    /// An object by its key.
    #[must_use]
    pub fn object(&self, key: &Key) -> Option<&DynamicObject> {
        let name = (key.namespace.clone(), key.name.clone());
        self.objects.get(&key.kind)?.items.get(&name).map(|item| &item.object)
    }

    /// All objects of a kind, by namespace and name.
    pub fn objects(&self, kind: Kind) -> impl Iterator<Item = &DynamicObject> {
        self.objects.get(&kind).into_iter().flat_map(Store::iter)
    }

    /// Pods of the operands.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// A node by its name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.items.get(&(String::new(), name.to_owned())).map(|item| &item.object)
    }

    /// Workloads that matter in some way.
    pub fn sightings(&self) -> impl Iterator<Item = &Sighting> {
        self.workloads.values().flat_map(Store::iter)
    }

    /// What objects of others mean.
    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.facts.values().flat_map(Store::iter)
    }

    /// Version of the API server, once it has told it.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Workloads that are, or may be, IP failover.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.sightings().filter_map(|sighting| sighting.failover.as_ref())
    }
}

/// Objects of one source.
#[derive(Debug)]
struct Store<T> {
    items: BTreeMap<(String, String), Item<T>>,
    complete: bool,
    /// What a list that is under way has shown so far.
    listed: Option<BTreeSet<(String, String)>>,
    /// What was written since the last list began, and so may be newer than what it shows.
    written: BTreeSet<(String, String)>,
}

#[derive(Debug)]
struct Item<T> {
    version: u64,
    object: T,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), complete: false, listed: None, written: BTreeSet::new() }
    }
}

impl<T: PartialEq> Store<T> {
    fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.values().map(|item| &item.object)
    }

    /// Keeps what `read` makes of the objects; those of which it makes nothing are forgotten.
    fn take<K: Resource>(&mut self, event: Event<K>, read: impl Fn(K) -> Option<T>) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                self.written.clear();
                false
            }
            Event::InitApply(object) => {
                let name = name(&object);
                // What a list shows holds, also where it is older than what was seen: the cluster may have been put
                // back to what it was.
                if !self.written.contains(&name)
                    && let Some(item) = self.items.get_mut(&name)
                {
                    item.version = item.version.min(version(&object).saturating_sub(1));
                }
                if let Some(listed) = &mut self.listed {
                    listed.insert(name);
                }
                self.put(object, read)
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let before = self.items.len();
                self.items.retain(|name, _| listed.contains(name));
                !std::mem::replace(&mut self.complete, true) || before != self.items.len()
            }
            Event::Apply(object) => self.put(object, read),
            Event::Delete(object) => {
                let name = name(&object);
                // A deletion that is older than what is known was followed by a creation.
                let outdated = self.items.get(&name).is_some_and(|item| item.version > version(&object));
                !outdated && self.items.remove(&name).is_some()
            }
        }
    }

    fn put<K: Resource>(&mut self, object: K, read: impl Fn(K) -> Option<T>) -> bool {
        let name = name(&object);
        let version = version(&object);
        // The answer to a write may overtake the watch.
        if self.items.get(&name).is_some_and(|item| item.version >= version) {
            return false;
        }
        match read(object) {
            Some(object) => {
                let differs = self.items.get(&name).is_none_or(|item| item.object != object);
                self.items.insert(name, Item { version, object });
                differs
            }
            None => self.items.remove(&name).is_some(),
        }
    }
}

fn name<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Resource versions of one kind grow with each write
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>).
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, version: u64) -> DynamicObject {
        let metadata =
            serde_json::json!({"name": name, "namespace": "ns", "resourceVersion": version.to_string()});
        serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap()
    }

    fn seen(world: &World) -> Vec<(String, u64)> {
        world.objects(Kind::ConfigMap).map(|object| (object.name_any(), version(object))).collect()
    }

    fn take(world: &mut World, event: Event<DynamicObject>) -> bool {
        world.take(Change::Object(Kind::ConfigMap, Box::new(event)))
    }

    #[test]
    fn an_answer_that_overtakes_the_watch_is_kept() {
        let mut world = World::default();
        assert!(take(&mut world, Event::Apply(object("a", 5))));
        world.wrote(Kind::ConfigMap, object("a", 9));
        assert!(!take(&mut world, Event::Apply(object("a", 7))), "older than the answer");
        assert!(!take(&mut world, Event::Delete(object("a", 8))), "deleted before it was written again");
        assert_eq!(seen(&world), [("a".to_owned(), 9)]);
        assert!(take(&mut world, Event::Delete(object("a", 10))));
        assert_eq!(seen(&world), []);
    }

    #[test]
    fn a_new_list_drops_what_is_gone_and_only_then() {
        let mut world = World::default();
        for name in ["a", "b"] {
            take(&mut world, Event::Apply(object(name, 1)));
        }
        assert!(!world.complete(Source::Objects(Kind::ConfigMap)));
        take(&mut world, Event::Init);
        take(&mut world, Event::InitApply(object("b", 1)));
        assert_eq!(seen(&world).len(), 2);
        assert!(take(&mut world, Event::InitDone));
        assert_eq!(seen(&world), [("b".to_owned(), 1)]);
        assert!(world.complete(Source::Objects(Kind::ConfigMap)));
    }

    #[test]
    fn what_a_new_list_shows_holds_also_where_it_is_older_but_for_what_was_written_meanwhile() {
        let mut world = World::default();
        for name in ["a", "b"] {
            take(&mut world, Event::Apply(object(name, 1000)));
        }
        world.wrote(Kind::ConfigMap, object("a", 1001));
        take(&mut world, Event::Init);
        world.wrote(Kind::ConfigMap, object("b", 1002));
        for (name, version) in [("a", 7), ("b", 8)] {
            take(&mut world, Event::InitApply(object(name, version)));
        }
        take(&mut world, Event::InitDone);
        assert_eq!(seen(&world), [("a".to_owned(), 7), ("b".to_owned(), 1002)]);
        take(&mut world, Event::Apply(object("a", 9)));
        assert_eq!(seen(&world)[0], ("a".to_owned(), 9));
    }

    #[test]
    fn of_a_kind_that_is_gone_nothing_is_left() {
        let mut world = World::default();
        take(&mut world, Event::Init);
        take(&mut world, Event::InitApply(object("a", 1)));
        take(&mut world, Event::InitDone);
        let source = Source::Objects(Kind::ConfigMap);
        assert!(world.take(Change::Absent(source)));
        assert!(!world.take(Change::Absent(source)));
        assert_eq!((seen(&world), world.complete(source), world.known(source)), (Vec::new(), false, true));
        take(&mut world, Event::InitApply(object("a", 1)));
        assert!(!world.known(source), "it has appeared again and is being listed");
    }

    #[test]
    fn a_refusal_is_a_fault_that_is_known_as_one_until_the_watch_works_again() {
        let mut world = World::default();
        let source = Source::Objects(Kind::ConfigMap);
        world.take(Change::Fault(source, "down".to_owned()));
        assert!(!world.is_refused(source));
        assert!(world.take(Change::Refused(source, "forbidden".to_owned())));
        assert_eq!(world.faults().collect::<Vec<_>>(), [(source, "forbidden")]);
        assert!(world.is_refused(source));
        assert!(take(&mut world, Event::InitDone));
        assert!(!world.is_refused(source) && world.faults().count() == 0);
        world.take(Change::Refused(source, "forbidden".to_owned()));
        world.take(Change::Absent(source));
        assert!(!world.is_refused(source));
    }

    #[test]
    fn a_fault_lasts_until_the_watch_works_again() {
        let mut world = World::default();
        let source = Source::Objects(Kind::ConfigMap);
        assert!(world.take(Change::Fault(source, "no".to_owned())));
        assert!(!world.take(Change::Fault(source, "no".to_owned())));
        assert_eq!(world.faults().collect::<Vec<_>>(), [(source, "no")]);
        assert!(!take(&mut world, Event::Init));
        assert_eq!(world.faults().count(), 1, "an attempt is not a success");
        assert!(take(&mut world, Event::InitDone));
        assert_eq!(world.faults().count(), 0);
    }
}
