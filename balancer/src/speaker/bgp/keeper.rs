//! Keeps the objects of one kind that speak of this node as they are wanted.
//!
//! Level-triggered: what is there, by a watch, is compared with what is wanted, so that an object that is deleted comes
//! back, and nothing is written when nothing has changed. Objects are known by their labels; their names are the API
//! server's choice.

use std::collections::{BTreeMap, BTreeSet};
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

use super::spec::named_id;
use crate::speaker::report::Settings;
use crate::watch::{Change, changes};

/// Who writes, in the record of who wrote which field.
const COMPONENT: &str = "metallb-speaker";
/// Longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Values of the labels by which an object is known, in the order of [`Kept::LABELS`].
pub(super) type Labels = Vec<String>;

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
    /// What it says.
    type Status: PartialEq + Serialize + Send + Sync;

    /// An object without a status.
    fn empty(metadata: ObjectMeta) -> Self;

    /// What it says, which it loses.
    fn take_status(&mut self) -> Option<Self::Status>;
}

/// What is known of an object.
#[derive(Debug)]
struct Known<S> {
    labels: Labels,
    owner: Option<String>,
    status: Option<S>,
}

/// What has to be done about one object.
#[derive(Debug, PartialEq)]
enum Step<'a, S> {
    /// Nobody wants it, or it is there twice.
    Delete(String),
    /// With the pod of the node's former speaker it would go.
    Own(String),
    Create(&'a Labels, &'a S),
    Write(String, &'a S),
}

/// The objects of one kind.
pub(super) struct Keeper<K: Kept> {
    api: Api<K>,
    pods: Api<Pod>,
    settings: Settings,
    /// This pod, once it was read.
    owner: Option<OwnerReference>,
    /// By name; `None` until they were listed.
    objects: Option<BTreeMap<String, Known<K::Status>>>,
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
        let labels = format!("{}={}", K::NODE, label_value(&self.settings.node));
        let events = watcher::watcher(self.api.clone(), watcher::Config::default().labels(&labels));
        changes(std::any::type_name::<K>().rsplit("::").next().unwrap_or_default(), events, |object| object)
    }

    pub(super) fn learn(&mut self, change: Change<K>) {
        match change {
            Change::All(all) => self.objects = Some(all.into_iter().map(known).collect()),
            Change::Set(object) => {
                let (name, known) = known(object);
                let objects = self.objects.get_or_insert_default();
                // The echo of a creation says less than the status that was written after it.
                let is_echo =
                    known.status.is_none() && objects.get(&name).is_some_and(|known| known.status.is_some());
                if !is_echo {
                    objects.insert(name, known);
                }
            }
            Change::Gone(object) => drop(self.objects.get_or_insert_default().remove(&object.name_any())),
        }
    }

    /// Makes what is there what is wanted: a status by labels. Returns whether anything was written. What the API server
    /// refuses does not keep the rest from being written.
    ///
    /// # Errors
    /// When the API server refuses something or does not answer.
    pub(super) async fn keep(&mut self, wanted: &BTreeMap<Labels, K::Status>) -> anyhow::Result<bool> {
        if self.objects.is_none() {
            return Ok(false);
        }
        // Nothing that is there can stay without its owner.
        let owner = if wanted.is_empty() { None } else { Some(self.owner().await?) };
        let uid = owner.as_ref().map(|owner| owner.uid.as_str()).unwrap_or_default();
        let steps = steps(self.objects.get_or_insert_default(), uid, wanted);
        let written = !steps.is_empty();
        let mut refusal = None;
        for step in steps {
            let carried_out = self.carry_out(step, owner.as_ref()).await;
            match carried_out {
                Err(error) if is_refusal(&error) => drop(refusal.get_or_insert(error)),
                carried_out => carried_out?,
            }
        }
        refusal.map_or(Ok(written), Err)
    }

    async fn carry_out(
        &mut self,
        step: Step<'_, K::Status>,
        owner: Option<&OwnerReference>,
    ) -> anyhow::Result<()> {
        match step {
            Step::Delete(name) => {
                in_time(delete(&self.api, &name)).await?;
                self.objects.get_or_insert_default().remove(&name);
            }
            Step::Own(name) => {
                let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
                let object = in_time(self.api.patch(&name, &parameters(), &patch)).await?;
                self.learn(Change::Set(object));
            }
            Step::Create(labels, status) => {
                let labels = K::LABELS.iter().map(|label| (*label).to_owned()).zip(labels.iter().cloned());
                let object = K::empty(ObjectMeta {
                    generate_name: Some(K::GENERATE_NAME.to_owned()),
                    labels: Some(labels.collect()),
                    owner_references: owner.map(|owner| vec![owner.clone()]),
                    ..ObjectMeta::default()
                });
                let object = in_time(self.api.create(&PostParams::default(), &object)).await?;
                let name = object.name_any();
                self.learn(Change::Set(object));
                self.write(&name, status).await?;
            }
            Step::Write(name, status) => self.write(&name, status).await?,
        }
        Ok(())
    }

    async fn write(&mut self, name: &str, status: &K::Status) -> anyhow::Result<()> {
        let former = self.objects.as_ref().and_then(|objects| objects.get(name)?.status.as_ref());
        let status = replacing(&serde_json::to_value(former)?, serde_json::to_value(status)?);
        let patch = Patch::Merge(json!({ "status": status }));
        let object = in_time(self.api.patch_status(name, &parameters(), &patch)).await?;
        self.learn(Change::Set(object));
        Ok(())
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

/// Whether the API server refused this object, and the next may fare better: not so where it has too much to do, or where
/// this program may not write any.
fn is_refusal(error: &anyhow::Error) -> bool {
    let code = match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.code,
        _ => return false,
    };
    (400..500).contains(&code) && ![401, 403, 429].contains(&code)
}

/// A name as the value of a label, which has at most 63 characters: a longer one ends in a number made from it.
pub(super) fn label_value(name: &str) -> String {
    const LONGEST: usize = 63;
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash = named_id(name).0.to_bits();
    let start: String = name.chars().take(LONGEST - 9).collect();
    format!("{start}-{hash:08x}")
}

fn known<K: Kept>(mut object: K) -> (String, Known<K::Status>) {
    let labels = K::LABELS.iter().map(|label| object.labels().get(*label).cloned().unwrap_or_default());
    let known = Known {
        labels: labels.collect(),
        owner: object.owner_references().first().map(|owner| owner.uid.clone()),
        status: object.take_status(),
    };
    (object.name_any(), known)
}

/// What makes the objects that are there those that are wanted, owned by `owner`.
fn steps<'a, S: PartialEq>(
    objects: &BTreeMap<String, Known<S>>,
    owner: &str,
    wanted: &'a BTreeMap<Labels, S>,
) -> Vec<Step<'a, S>> {
    let mut steps = Vec::new();
    let mut there = BTreeSet::new();
    for (name, known) in objects {
        let Some(status) = wanted.get(&known.labels).filter(|_| there.insert(&known.labels)) else {
            steps.push(Step::Delete(name.clone()));
            continue;
        };
        if known.owner.as_deref() != Some(owner) {
            steps.push(Step::Own(name.clone()));
        }
        if known.status.as_ref() != Some(status) {
            steps.push(Step::Write(name.clone(), status));
        }
    }
    let missing = wanted.iter().filter(|(labels, _)| !there.contains(labels));
    steps.extend(missing.map(|(labels, status)| Step::Create(labels, status)));
    steps
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
    fn each_object_that_is_wanted_is_there_once_and_says_what_it_is_to_say() {
        let known = |label: &str, owner: &str, status| Known {
            labels: vec![label.to_owned()],
            owner: Some(owner.to_owned()),
            status,
        };
        let objects = BTreeMap::from([
            ("a".to_owned(), known("same", "me", Some(1))),
            ("b".to_owned(), known("same", "me", Some(1))),
            ("c".to_owned(), known("gone", "me", Some(1))),
            ("d".to_owned(), known("changed", "me", Some(1))),
            ("e".to_owned(), known("inherited", "other", Some(1))),
            ("f".to_owned(), known("both", "other", None)),
        ]);
        let label = |label: &str| vec![label.to_owned()];
        let wanted = BTreeMap::from([
            (label("both"), 1),
            (label("changed"), 2),
            (label("inherited"), 1),
            (label("new"), 3),
            (label("same"), 1),
        ]);
        let name = str::to_owned;
        assert_eq!(
            steps(&objects, "me", &wanted),
            [
                Step::Delete(name("b")),
                Step::Delete(name("c")),
                Step::Write(name("d"), &2),
                Step::Own(name("e")),
                Step::Own(name("f")),
                Step::Write(name("f"), &1),
                Step::Create(&label("new"), &3),
            ]
        );
        assert_eq!(
            steps(
                &BTreeMap::from([("a".to_owned(), known("x", "me", Some(1)))]),
                "me",
                &BTreeMap::from([(label("x"), 1)])
            ),
            []
        );
    }

    #[tokio::test]
    async fn an_object_that_is_refused_does_not_keep_the_others_from_being_written() {
        use http::{Request, Response};
        use kube::client::Body;
        use metallb_api::{BGPSessionState, BGPSessionStateStatus};

        let (client, mut server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let settings =
            Settings { namespace: "metallb-system".into(), pod: "speaker".into(), node: "node1".into() };
        let mut keeper = Keeper::<BGPSessionState>::new(&Client::new(client, "default"), &settings);
        keeper.learn(Change::All(vec![]));
        let labels = |router: &str| ["node1", router, ""].map(str::to_owned).to_vec();
        let wanted = ["a", "b"].map(|router| (labels(router), BGPSessionStateStatus::default())).into();
        let keeping = tokio::spawn(async move { keeper.keep(&wanted).await });
        let refusal = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid" });
        let pod = json!({ "metadata": { "name": "speaker", "uid": "u" }, "spec": { "containers": [] } });
        let state = json!({ "metadata": { "name": "bgp-x", "labels": {} }, "spec": {} });
        let mut asked = vec![];
        for (code, answer) in [(200, &pod), (422, &refusal), (201, &state), (200, &state)] {
            let (request, send) = server.next_request().await.unwrap();
            asked.push(request.method().to_string());
            let body = Body::from(answer.to_string().into_bytes());
            send.send_response(Response::builder().status(code).body(body).unwrap());
        }
        assert_eq!(asked, ["GET", "POST", "POST", "PATCH"]);
        let error = keeping.await.unwrap().unwrap_err();
        assert!(is_refusal(&error), "it is told, and tried again: {error:#}");
    }

    #[test]
    fn only_what_is_about_one_object_lets_the_next_be_tried() {
        let refused = |code: u16| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            is_refusal(&anyhow::Error::from(kube::Error::Api(Box::new(status))))
        };
        assert_eq!([404, 409, 422].map(refused), [true; 3]);
        assert_eq!([401, 403, 429, 500, 503].map(refused), [false; 5]);
        assert!(!is_refusal(&anyhow::anyhow!("the API server does not answer")));
    }

    #[test]
    fn a_long_name_is_a_label_and_still_this_one() {
        let long = |last: char| format!("{}{last}", "node.example-".repeat(6));
        assert_eq!(label_value("node1.example"), "node1.example");
        assert_eq!(label_value(&"x".repeat(63)), "x".repeat(63));
        let [one, other] = ['a', 'b'].map(|last| label_value(&long(last)));
        assert_eq!((one.len(), other.len()), (63, 63));
        assert_ne!(one, other);
    }

    #[test]
    fn a_patch_leaves_nothing_of_the_former_status() {
        let former = json!({ "a": 1, "b": [2] });
        assert_eq!(replacing(&former, json!({ "b": [3], "c": 4 })), json!({ "a": null, "b": [3], "c": 4 }));
        assert_eq!(replacing(&Value::Null, json!({ "a": 1 })), json!({ "a": 1 }));
    }
}
