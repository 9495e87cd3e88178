//! From what was seen to what is to be done.
//!
//! Pure: the time and a random key come in. The whole plan is made anew each time; in steady state it is empty.

mod compatibility;
mod import;
mod installation;
mod pools;
mod report;
mod webhooks;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{ResourceExt, core::DynamicObject};
use metallb_api::names;
use serde_json::Value;

pub use report::{EventNote, StatusReport};
pub use webhooks::{is_published, material};

use crate::{
    attempts::Attempts,
    certificate::Material,
    drift::{self, Difference},
    kinds::{Key, Kind},
    render::MANAGED_BY,
    settings::Settings,
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
    /// The key of the speakers' gossip that was seen last, or a random one: used when there is none.
    pub gossip_key: &'a str,
    /// A new certificate of the webhooks, when one is due.
    pub new_certificate: Option<&'a Material>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Changes: those of one stage at the same time, one stage after the other.
    pub stages: Vec<Vec<Change>>,
    /// What is to be told on resources, once there are no changes left.
    pub reports: Vec<StatusReport>,
    /// When to plan again even if nothing is seen.
    pub wake: Option<Timestamp>,
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
            Self::Create(key, _) | Self::Apply(key, ..) | Self::Delete(key, _) => key,
        }
    }

    /// What is to be written; null for a deletion.
    #[must_use]
    pub fn wanted(&self) -> &Value {
        match self {
            Self::Create(_, object) | Self::Apply(_, object, _) => object,
            Self::Delete(..) => &Value::Null,
        }
    }
}

/// Plans everything.
#[must_use]
pub fn plan(situation: Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    webhooks::plan(situation, &mut plan);
    pools::plan(situation, &mut plan);
    for resource in situation.world.objects(Kind::MetalLb) {
        let mine = resource.name_any() == names::METALLB_NAME
            && resource.namespace().as_deref() == Some(situation.settings.namespace.as_str());
        if resource.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if mine {
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
    let secret = matches!(kind, Kind::Secret | Kind::Certificate);
    Some(if secret { difference.concealed() } else { difference })
}

/// Whether the operator made the object, or somebody told it that it did.
fn has_mark(object: &DynamicObject, owner: Option<&ObjectMeta>) -> bool {
    let labelled = object.labels().get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1);
    let owned = owner.is_some_and(|owner| crate::pool::is_owned_by(&object.metadata, owner));
    let applied = object.managed_fields().iter().any(|entry| {
        entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    labelled || owned || applied
}

fn seen(object: &DynamicObject) -> Seen {
    Seen {
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
