//! The objects of the last installation that worked, so that they can be put back as they were.
//!
//! Pure. They are kept in ConfigMap [`NAME`], without what is secret, beside the version after them that failed. A digest
//! tells whether somebody edited them: then they count as not known.

use kube::core::DynamicObject;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    kinds::{Key, Kind},
    render::MANAGED_BY,
    rollout::{Failed, Known},
};

/// Name of the ConfigMap.
pub const NAME: &str = "metallb-last-good";
/// Annotation of a workload: which description of it was applied last.
pub const REVISION: &str = "metallb.io/revision";
/// Kinds of objects that an installation may hold, but for the key of the gossip. What is no longer part of it is removed.
/// Of Secrets there is only the token's, in which Kubernetes writes what is secret.
pub const KINDS: [Kind; 9] = [
    Kind::ConfigMap,
    Kind::Deployment,
    Kind::DaemonSet,
    Kind::NetworkPolicy,
    Kind::Service,
    Kind::MetricsToken,
    Kind::ServiceMonitor,
    Kind::PodMonitor,
    Kind::PrometheusRule,
];

/// All objects of an installation but the key of the gossip, in the order in which they are needed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set(Vec<(Key, Value)>);

impl Set {
    /// Takes objects in, each workload marked with its revision.
    #[must_use]
    pub fn new(objects: Vec<(Key, Value)>) -> Self {
        let mark = |(key, mut object): (Key, Value)| {
            if matches!(key.kind, Kind::Deployment | Kind::DaemonSet) {
                let revision = digest(&object["spec"]);
                object["metadata"]["annotations"][REVISION] = revision.into();
            }
            (key, object)
        };
        Self(objects.into_iter().map(mark).collect())
    }

    /// Its objects.
    pub fn iter(&self) -> impl Iterator<Item = &(Key, Value)> {
        self.0.iter()
    }

    /// The same with each object changed by `edit`; revisions stay.
    #[must_use]
    pub fn map(mut self, edit: impl Fn(&Key, &mut Value)) -> Self {
        self.0.iter_mut().for_each(|(key, object)| edit(key, object));
        self
    }

    /// The first object of a kind.
    #[must_use]
    pub fn first(&self, kind: Kind) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    /// The revision of its workload of `kind`.
    #[must_use]
    pub fn revision(&self, kind: Kind) -> String {
        let revision = self.first(kind).map(|object| &object["metadata"]["annotations"][REVISION]);
        revision.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Tells whether somebody edited it.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.objects())
    }

    /// Tells it from others. Monitors and their token come and go with the kinds that the cluster knows, and make no other
    /// version of it.
    #[must_use]
    pub fn identity(&self) -> String {
        let lasts = |kind: Kind| !kind.optional() && kind != Kind::MetricsToken;
        let objects = self.0.iter().filter(|(key, _)| lasts(key.kind));
        digest(&objects.map(|(_, object)| object.clone()).collect())
    }

    /// Images of its workloads.
    #[must_use]
    pub fn images(&self) -> Vec<(Kind, String)> {
        let image = |kind| {
            let container = &self.first(kind)?["spec"]["template"]["spec"]["containers"][0];
            Some((kind, container["image"].as_str()?.to_owned()))
        };
        [Kind::Deployment, Kind::DaemonSet].into_iter().filter_map(image).collect()
    }

    fn objects(&self) -> Value {
        self.0.iter().map(|(_, object)| object.clone()).collect()
    }
}

/// The first 16 digits of SHA-256, in base 16.
fn digest(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What the ConfigMap holds.
#[derive(Clone, Debug, PartialEq)]
pub struct LastGood {
    /// The version.
    pub version: String,
    /// Its objects.
    pub set: Set,
    /// The version after it that failed, if one did.
    pub failed: Option<Failed>,
}

impl LastGood {
    /// Reads the ConfigMap; `None` when it does not hold what was written for the MetalLB resource `owner_uid`.
    #[must_use]
    pub fn read(object: &DynamicObject, owner_uid: &str) -> Option<Self> {
        let owners = object.metadata.owner_references.iter().flatten();
        if !owners.into_iter().any(|owner| owner.uid == owner_uid) {
            return None;
        }
        let data = object.data["data"].as_object()?;
        let text = |key: &str| data.get(key).and_then(Value::as_str);
        let objects: Vec<Value> = serde_json::from_str(text("objects")?).ok()?;
        let keyed = objects.into_iter().map(|object| Some((key_of(&object)?, object)));
        let set = Set(keyed.collect::<Option<_>>()?);
        let failed = text("failedDigest").map(|digest| Failed {
            digest: digest.to_owned(),
            generation: text("failedGeneration").and_then(|text| text.parse().ok()).unwrap_or_default(),
            version: text("failedVersion").unwrap_or_default().to_owned(),
            cause: text("failure").unwrap_or_default().to_owned(),
        });
        (text("digest")? == set.digest()).then_some(())?;
        Some(Self { version: text("version")?.to_owned(), set, failed })
    }

    /// The ConfigMap as it is to be applied.
    #[must_use]
    pub fn config_map(&self, namespace: &str, owner: &Value) -> (Key, Value) {
        let mut data = Map::from_iter([
            ("version".to_owned(), self.version.clone().into()),
            ("digest".to_owned(), self.set.digest().into()),
            ("objects".to_owned(), self.set.objects().to_string().into()),
        ]);
        if let Some(failed) = &self.failed {
            data.extend([
                ("failedDigest".to_owned(), failed.digest.clone().into()),
                ("failedGeneration".to_owned(), failed.generation.to_string().into()),
                ("failedVersion".to_owned(), failed.version.clone().into()),
                ("failure".to_owned(), failed.cause.clone().into()),
            ]);
        }
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": NAME, "namespace": namespace, "labels": {"app": "metallb", MANAGED_BY.0: MANAGED_BY.1},
                         "ownerReferences": [owner]},
        });
        (Key { kind: Kind::ConfigMap, namespace: namespace.to_owned(), name: NAME.to_owned() }, object)
    }

    /// What is asked of it.
    #[must_use]
    pub fn known<'a>(&'a self, digest: &'a str) -> Known<'a> {
        Known { version: &self.version, digest, failed: self.failed.as_ref() }
    }
}

fn key_of(object: &Value) -> Option<Key> {
    let kind = KINDS.into_iter().find(|kind| {
        let resource = kind.api_resource();
        object["apiVersion"] == resource.api_version.as_str() && object["kind"] == resource.kind.as_str()
    })?;
    let text = |field: &str| Some(object["metadata"][field].as_str()?.to_owned());
    Some(Key { kind, namespace: text("namespace")?, name: text("name")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_good() -> LastGood {
        let object = |kind: &str, api: &str, spec: Value| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "a", "namespace": "ns"}, "spec": spec});
        let pods = json!({"template": {"spec": {"containers": [{"image": "controller:1"}]}}});
        let objects = [object("ConfigMap", "v1", json!({})), object("Deployment", "apps/v1", pods)];
        let set = Set::new(objects.map(|object| (key_of(&object).unwrap(), object)).to_vec());
        let failed = Failed {
            digest: "abc".to_owned(),
            generation: 7,
            version: "2".to_owned(),
            cause: "pod x: ErrImagePull".to_owned(),
        };
        LastGood { version: "1".to_owned(), set, failed: Some(failed) }
    }

    fn stored(last_good: &LastGood) -> DynamicObject {
        serde_json::from_value(
            last_good.config_map("ns", &json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "me"})).1,
        )
        .unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut want = last_good();
        assert_eq!(LastGood::read(&stored(&want), "me"), Some(want.clone()));
        want.failed = None;
        assert_eq!(LastGood::read(&stored(&want), "me"), Some(want));
    }

    #[test]
    fn what_was_edited_or_belongs_to_another_resource_is_not_known() {
        let mut edited = stored(&last_good());
        let objects =
            edited.data["data"]["objects"].as_str().unwrap().replace("controller:1", "controller:2");
        edited.data["data"]["objects"] = objects.into();
        assert_eq!(LastGood::read(&edited, "me"), None);
        assert_eq!(LastGood::read(&stored(&last_good()), "another"), None);
    }

    #[test]
    fn monitors_make_no_other_version_of_it() {
        let with = |kind: &str, api: &str| {
            let object =
                json!({"apiVersion": api, "kind": kind, "metadata": {"name": "b", "namespace": "ns"}});
            let mut objects: Vec<_> = last_good().set.iter().cloned().collect();
            objects.push((key_of(&object).unwrap(), object));
            Set::new(objects)
        };
        let set = last_good().set;
        let monitored = with("ServiceMonitor", "monitoring.coreos.com/v1");
        assert_eq!(monitored.identity(), set.identity());
        assert_eq!(with("Secret", "v1").identity(), set.identity(), "the token of the monitors");
        assert_ne!(monitored.digest(), set.digest(), "an edit of it is seen all the same");
        assert_ne!(with("ConfigMap", "v1").identity(), set.identity());
    }

    #[test]
    fn a_workload_is_marked_with_a_revision_of_its_spec_alone() {
        let set = last_good().set;
        let revision = set.revision(Kind::Deployment);
        assert_eq!(revision.len(), 16);
        assert_eq!(set.images(), [(Kind::Deployment, "controller:1".to_owned())]);
        let mut labelled = set.first(Kind::Deployment).unwrap().clone();
        labelled["metadata"]["labels"] = json!({"app.kubernetes.io/version": "2"});
        let labelled = Set::new(vec![(key_of(&labelled).unwrap(), labelled)]);
        assert_eq!(labelled.revision(Kind::Deployment), revision);
        assert_ne!(labelled.digest(), set.digest());
    }
}
