//! Keeps the objects of one kind that speak of this node as they are wanted.
//!
//! Level-triggered: what is there, by a watch, is compared with what is wanted, so that an object that is deleted comes
//! back, and nothing is written when nothing has changed. Objects are known by their labels; their names are the API
//! server's choice.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::Context;
use futures::Stream;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::speaker::report::Settings;
use crate::watch::{Change, changes};

/// Who writes, in the record of who wrote which field.
const COMPONENT: &str = "metallb-speaker";
/// Longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Labels by which an object is known.
pub(super) type Labels = BTreeMap<&'static str, String>;

/// A kind of object that speaks of a node.
pub(super) trait Kept:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Label with the name of the node.
    const NODE: &'static str;
    /// All labels by which an object is known.
    const LABELS: &'static [&'static str];
    const GENERATE_NAME: &'static str;

    /// An object without a status.
    fn empty(metadata: ObjectMeta) -> Self;
}

/// What is known of an object.
#[derive(Clone, Debug)]
struct Known {
    labels: Labels,
    owner: Option<String>,
    status: Value,
}

/// The objects of one kind.
pub(super) struct Keeper<K> {
    api: Api<K>,
    pods: Api<Pod>,
    settings: Settings,
    /// This pod, once it was read.
    owner: Option<OwnerReference>,
    /// By name; `None` until they were listed.
    objects: Option<BTreeMap<String, Known>>,
}

impl<K: Kept> Keeper<K> {
    pub(super) fn new(client: &Client, settings: &Settings) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &settings.namespace),
            pods: Api::namespaced(client.clone(), &settings.namespace),
            settings: settings.clone(),
            owner: None,
            objects: None,
        }
    }

    /// Changes of the objects, for [`Self::learn`].
    pub(super) fn changes(&self) -> impl Stream<Item = Change<K>> + Send + use<K> {
        let labels = format!("{}={}", K::NODE, self.settings.node);
        let events = watcher::watcher(self.api.clone(), watcher::Config::default().labels(&labels));
        changes(std::any::type_name::<K>().rsplit("::").next().unwrap_or_default(), events, |object| object)
    }

    pub(super) fn learn(&mut self, change: Change<K>) {
        match change {
            Change::All(all) => self.objects = Some(all.iter().map(known).collect()),
            Change::Set(object) => {
                let (name, known) = known(&object);
                let objects = self.objects.get_or_insert_default();
                // The echo of a creation says less than the status that was written after it.
                let is_echo =
                    known.status.is_null() && objects.get(&name).is_some_and(|known| !known.status.is_null());
                if !is_echo {
                    objects.insert(name, known);
                }
            }
            Change::Gone(object) => drop(self.objects.get_or_insert_default().remove(&object.name_any())),
        }
    }

    /// Makes what is there what is wanted: a status by labels. Returns whether anything was written.
    ///
    /// # Errors
    /// When the API server refuses something or does not answer.
    pub(super) async fn keep<S: Serialize>(&mut self, wanted: &BTreeMap<Labels, S>) -> anyhow::Result<bool> {
        let Some(objects) = self.objects.clone() else { return Ok(false) };
        let mut written = false;
        let mut mine: BTreeMap<Labels, (String, Known)> = BTreeMap::new();
        for (name, known) in objects {
            if !wanted.contains_key(&known.labels) || mine.contains_key(&known.labels) {
                in_time(delete(&self.api, &name)).await?;
                self.objects.get_or_insert_default().remove(&name);
                written = true;
            } else {
                mine.insert(known.labels.clone(), (name, known));
            }
        }
        for (labels, status) in wanted {
            let status = serde_json::to_value(status)?;
            let owner = self.owner().await?;
            let (name, former) = match mine.remove(labels) {
                Some((name, known)) if known.owner.as_ref() == Some(&owner.uid) => (name, known.status),
                // With the pod of the node's former speaker it would go.
                Some((name, known)) => {
                    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
                    let object = in_time(self.api.patch(&name, &parameters(), &patch)).await?;
                    self.learn(Change::Set(object));
                    written = true;
                    (name, known.status)
                }
                None => {
                    let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), value.clone()));
                    let object = K::empty(ObjectMeta {
                        generate_name: Some(K::GENERATE_NAME.to_owned()),
                        labels: Some(labels.collect()),
                        owner_references: Some(vec![owner]),
                        ..ObjectMeta::default()
                    });
                    let object = in_time(self.api.create(&PostParams::default(), &object)).await?;
                    let name = object.name_any();
                    self.learn(Change::Set(object));
                    (name, Value::Null)
                }
            };
            if former != status {
                let patch = Patch::Merge(json!({ "status": replacing(&former, status) }));
                let object = in_time(self.api.patch_status(&name, &parameters(), &patch)).await?;
                self.learn(Change::Set(object));
                written = true;
            }
        }
        Ok(written)
    }

    async fn owner(&mut self) -> anyhow::Result<OwnerReference> {
        if let Some(owner) = &self.owner {
            return Ok(owner.clone());
        }
        let pod = in_time(self.pods.get(&self.settings.pod)).await.context("this speaker's own pod")?;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        self.owner = Some(owner.clone());
        Ok(owner)
    }
}

fn known<K: Kept>(object: &K) -> (String, Known) {
    let labels = K::LABELS
        .iter()
        .map(|label| (*label, object.labels().get(*label).cloned().unwrap_or_default()))
        .collect();
    let owner = object.owner_references().first().map(|owner| owner.uid.clone());
    let status =
        serde_json::to_value(object).ok().and_then(|mut object| Some(object.get_mut("status")?.take()));
    (object.name_any(), Known { labels, owner, status: status.unwrap_or_default() })
}

/// A merge patch that leaves nothing of the former status that the new one does not have.
fn replacing(former: &Value, mut status: Value) -> Value {
    if let (Some(former), Some(status)) = (former.as_object(), status.as_object_mut()) {
        for field in former.keys() {
            status.entry(field.clone()).or_insert(Value::Null);
        }
    }
    status
}

fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(COMPONENT.to_owned()), ..PatchParams::default() }
}

pub(super) async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(LIMIT, request).await.context("the API server does not answer")??)
}

/// Deletes an object; one that is gone is as good.
async fn delete<K: Kept>(api: &Api<K>, name: &str) -> kube::Result<()> {
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_leaves_nothing_of_the_former_status() {
        let former = json!({ "a": 1, "b": [2] });
        assert_eq!(replacing(&former, json!({ "b": [3], "c": 4 })), json!({ "a": null, "b": [3], "c": 4 }));
        assert_eq!(replacing(&Value::Null, json!({ "a": 1 })), json!({ "a": 1 }));
    }
}
