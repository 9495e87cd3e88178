//! From what was seen to what is to be done.
//!
//! Pure: the time and a random key come in. The whole plan is made anew each time; in steady state it is empty.

mod adopt;
mod compatibility;
mod create;
mod import;
mod installation;
mod observe;
mod pools;
mod report;
mod upgrade;
mod webhooks;

use std::{fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{ResourceExt, core::DynamicObject};
use metallb_api::{conditions::Report, names};
use serde_json::Value;

pub use report::{EventNote, StatusReport};
pub use webhooks::{is_published, material};

use crate::{
    attempts::Attempts,
    certificate::Material,
    drift::{self, Difference},
    kinds::{Key, Kind},
    needs::Found,
    render::MANAGED_BY,
    rollout::Step,
    settings::Settings,
    status::{self, Observation},
    world::{Source, World},
};

/// Name under which the operator applies.
pub const FIELD_MANAGER: &str = "metallb-operator";
/// Annotation by which an administrator hands another installation over.
pub const ADOPT: &str = "metallb.io/adopt";

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// What the operator was told.
    pub settings: &'a Settings,
    /// What it saw.
    pub world: &'a World,
    /// What became of its writes.
    pub attempts: &'a Attempts,
    /// The time.
    pub now: Timestamp,
    /// Keys of the speakers' gossip.
    pub gossip: &'a Gossip,
    /// For how long a rollout has been seen to run, by a clock that never jumps.
    pub rolling_for: Duration,
    /// For how long all has been seen to work, by the same clock.
    pub works_for: Duration,
    /// What the programs need and the cluster lacks; `None` while that is being asked.
    pub missing: Option<&'a Found>,
    /// What is still stored in an older version, and why.
    pub unstored: &'a [String],
    /// A new certificate of the webhooks, when one is due.
    pub new_certificate: Option<&'a Material>,
}

/// Keys of the speakers' gossip.
#[derive(Clone)]
pub struct Gossip {
    /// The one that was seen last, or a random one: used when there is none.
    pub key: String,
    /// The one before it, while it is still accepted.
    pub previous: Option<String>,
    /// Whether every speaker has read the newer one by now.
    pub is_settled: bool,
    is_seen: bool,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gossip")
    }
}

impl Gossip {
    /// Starts with a key that is used if the cluster has none.
    #[must_use]
    pub fn new(random: String) -> Self {
        Self { key: random, previous: None, is_settled: false, is_seen: false }
    }

    /// Takes in which key the cluster has, and which one stands beside it. Whether another one is the previous key now.
    pub fn see(&mut self, key: String, beside: Option<String>) -> bool {
        let before = self.previous.clone();
        if !self.is_seen {
            // It may have been replaced while no operator ran.
            self.previous = beside.filter(|beside| *beside != key);
        } else if self.key != key {
            self.previous = Some(std::mem::take(&mut self.key));
        } else if self.is_settled && beside.as_ref() == Some(&key) {
            self.previous = None;
        }
        self.is_seen = true;
        self.key = key;
        let changed = self.previous != before;
        self.is_settled &= !changed;
        changed
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Changes: those of one stage at the same time, one stage after the other.
    pub stages: Vec<Vec<Change>>,
    /// What is to be told on resources, once there are no changes left.
    pub reports: Vec<StatusReport>,
    /// What was seen of the installation, in short; `None` when nothing was judged.
    pub summary: Option<Summary>,
    /// When to plan again even if nothing is seen.
    pub wake: Option<Timestamp>,
    /// Objects that are as they are to be, and of which no write is known: whoever changes them undoes what was written.
    pub found: Vec<(Key, Value)>,
}

/// Pods of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// How many should be ready.
    pub wanted: usize,
    /// How many of them are.
    pub ready: usize,
}

/// What was seen of an installation, in short: for OLM and the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Condition Upgradeable.
    pub upgradeable: Option<Report>,
    /// Whether the installation is looked after.
    pub is_managed: bool,
    /// How many workloads are, or may be, IP failover.
    pub ip_failover: usize,
    /// What a rollout is at.
    pub step: Option<Step>,
    /// Whether all of it is there and works.
    pub works: bool,
    /// Whether it has stopped.
    pub is_stalled: bool,
    /// How many objects the installation has.
    pub objects: usize,
    /// The controller's pods.
    pub controller: Pods,
    /// The speakers.
    pub speaker: Pods,
    /// Whether some of them are not ready, or not as they are to be.
    pub lacks_pods: bool,
}

impl Summary {
    /// Where nothing is installed nothing is in the way of a newer operator.
    fn of_nothing() -> Self {
        Self {
            upgradeable: Some(status::upgradeable(&Observation::default())),
            is_managed: true,
            ..Self::default()
        }
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Creates an object, and fails if it exists by now.
    Create(Key, Value),
    /// Applies an object; `None` because it is missing.
    Apply(Key, Value, Option<Difference>),
    /// Deletes exactly the object that was seen.
    Delete(Key, Seen),
    /// Says who owns which field of exactly the object that was seen: fields that an older installer set become the
    /// operator's, so that those which are not wanted go.
    TakeFields(Key, Seen, Value),
}

/// An object as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its identity.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
}

impl Change {
    /// The object that is changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Create(key, _)
            | Self::Apply(key, ..)
            | Self::Delete(key, _)
            | Self::TakeFields(key, ..) => key,
        }
    }

    /// What is to be written of the object; null where nothing is.
    #[must_use]
    pub fn wanted(&self) -> &Value {
        match self {
            Self::Create(_, object) | Self::Apply(_, object, _) => object,
            Self::Delete(..) | Self::TakeFields(..) => &Value::Null,
        }
    }
}

/// Plans everything.
#[must_use]
pub fn plan(situation: Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    webhooks::plan(situation, &mut plan);
    create::plan(situation, &mut plan);
    pools::plan(situation, &mut plan);
    let is_mine = |resource: &DynamicObject| {
        resource.name_any() == names::METALLB_NAME
            && resource.namespace().as_deref() == Some(situation.settings.namespace.as_str())
    };
    if situation.world.complete(Source::Objects(Kind::MetalLb))
        && !situation.world.objects(Kind::MetalLb).any(is_mine)
    {
        plan.summary = Some(Summary::of_nothing());
    }
    for resource in situation.world.objects(Kind::MetalLb) {
        if resource.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if is_mine(resource) {
            installation::plan(situation, resource, &mut plan);
        } else {
            report::misplaced(situation, resource, &mut plan);
        }
    }
    plan.stages.retain(|stage| !stage.is_empty());
    plan
}

impl Plan {
    /// Plans again at `time`, or earlier.
    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |before| before.min(time)));
    }

    /// Notes that `object` is as it is to be.
    fn find(&mut self, situation: Situation<'_>, key: &Key, object: &Value) {
        let is_there = |live: &DynamicObject| live.metadata.deletion_timestamp.is_none();
        if !situation.attempts.knows(key) && situation.world.object(key).is_some_and(is_there) {
            self.found.push((key.clone(), object.clone()));
        }
    }

    /// Adds a stage of those of `changes` that need not wait.
    fn stage(&mut self, situation: Situation<'_>, changes: impl IntoIterator<Item = Change>) {
        let due = changes.into_iter().filter(|change| match situation.held_until(change) {
            Some(until) => {
                self.wake_at(until);
                false
            }
            None => true,
        });
        let due: Vec<_> = due.collect();
        self.stages.push(due);
    }
}

impl Situation<'_> {
    /// The time until which `change` has to wait.
    fn held_until(self, change: &Change) -> Option<Timestamp> {
        self.attempts.held_until(change.key(), change.wanted(), self.now)
    }

    /// Of which of `sources` it is not known yet what there is.
    fn unseen(self, sources: &[Source]) -> Vec<Source> {
        sources.iter().copied().filter(|source| !self.world.known(*source)).collect()
    }

    /// Why some of `sources` cannot be seen.
    fn faults(self, sources: &[Source]) -> Vec<String> {
        let faults = self.world.faults().filter(|(source, _)| sources.contains(source));
        faults.map(|(_, message)| message.to_owned()).collect()
    }

    /// What is to be done for `object` to be as wanted: nothing when it is.
    fn change(self, key: &Key, object: Value) -> Option<Change> {
        let Some(live) = self.world.object(key) else {
            return Some(Change::Apply(key.clone(), object, None));
        };
        if live.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let live = serde_json::to_value(live).unwrap_or_default();
        let difference = difference(key.kind, &object, &live)?;
        if self.attempts.is_settled(key, &difference) {
            return None;
        }
        Some(Change::Apply(key.clone(), object, Some(difference)))
    }
}

/// The first field in which `live` is not as wanted, to be shown to people.
pub(crate) fn difference(kind: Kind, wanted: &Value, live: &Value) -> Option<Difference> {
    let difference = drift::difference(wanted, live, FIELD_MANAGER)?;
    let is_public =
        ["metadata.labels", "metadata.ownerReferences"].iter().any(|path| difference.field.starts_with(path));
    let is_secret = matches!(kind, Kind::Secret | Kind::Certificate | Kind::MetricsToken) && !is_public;
    Some(if is_secret { difference.concealed() } else { difference })
}

/// Whether the operator made the object, or somebody told it that it did.
fn has_mark(object: &DynamicObject, owner: Option<&ObjectMeta>) -> bool {
    let owned = owner.is_some_and(|owner| crate::pool::is_owned_by(&object.metadata, owner));
    is_labelled(object) || owned || applied(object).next().is_some()
}

/// Whether its label says that it is the operator's.
fn is_labelled(object: &DynamicObject) -> bool {
    object.labels().get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1)
}

/// The fields of the object that were applied under the operator's name, as FieldsV1 trees.
fn applied(object: &DynamicObject) -> impl Iterator<Item = &Value> {
    let entries = object.managed_fields().iter().filter(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    entries.map(|entry| entry.fields_v1.as_ref().map_or(&Value::Null, |fields| &fields.0))
}

fn seen(object: &DynamicObject) -> Seen {
    Seen {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
