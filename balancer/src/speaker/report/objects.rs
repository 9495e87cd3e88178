//! ServiceL2Status objects: those of this node as they are, and how they are written.

use futures::Stream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PostParams};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use metallb_api::names::{
    L2_STATUS_GENERATE_NAME, LABEL_STATUS_NODE, LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE,
};
use metallb_api::{ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus};
use metallb_core::service::ServiceKey;
use serde_json::json;

use super::told::Announcement;
use super::{Reporter, in_time, parameters};
use crate::watch::{Change, changes};

/// A status object as it is in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) key: ServiceKey,
    pub(super) owner: Option<String>,
    pub(super) status: Option<ServiceL2StatusStatus>,
}

impl Object {
    pub(super) fn of(object: ServiceL2Status) -> Self {
        let label = |name: &str| object.labels().get(name).cloned().unwrap_or_default();
        Self {
            name: object.name_any(),
            key: ServiceKey::new(&label(LABEL_STATUS_SERVICE_NAMESPACE), &label(LABEL_STATUS_SERVICE_NAME)),
            owner: object.owner_references().first().map(|owner| owner.uid.clone()),
            status: object.status,
        }
    }
}

impl Reporter {
    pub(super) fn api(&self) -> Api<ServiceL2Status> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    pub(super) fn changes(&self) -> impl Stream<Item = Change<Object>> + use<> {
        let labels = format!("{LABEL_STATUS_NODE}={}", self.settings.node);
        let events = watcher(self.api(), watcher::Config::default().labels(&labels));
        changes("ServiceL2Status", events, Object::of)
    }

    pub(super) fn learn(&mut self, change: Change<Object>) {
        match change {
            Change::All(all) => {
                self.objects = Some(all.into_iter().map(|object| (object.name.clone(), object)).collect());
            }
            Change::Set(object) => {
                let objects = self.objects.get_or_insert_default();
                // The echo of a creation says less than the status that was written after it.
                let is_echo = object.status.is_none()
                    && objects.get(&object.name).is_some_and(|known| known.status.is_some());
                if !is_echo {
                    objects.insert(object.name.clone(), object);
                }
            }
            Change::Gone(object) => {
                self.objects.get_or_insert_default().remove(&object.name);
            }
        }
    }

    pub(super) fn status(&self, key: &ServiceKey, announcement: &Announcement) -> ServiceL2StatusStatus {
        ServiceL2StatusStatus {
            node: Some(self.settings.node.clone()),
            service_name: Some(key.name().to_owned()),
            service_namespace: Some(key.namespace().to_owned()),
            interfaces: announcement.interfaces.clone(),
        }
    }

    /// Makes this pod the owner of an object that the node's former speaker wrote: with that pod it would go.
    pub(super) async fn own(&mut self, name: &str, owner: &OwnerReference) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"ownerReferences": [owner]}}));
        self.learn_written(in_time(self.api().patch(name, &parameters(), &patch)).await?);
        Ok(())
    }

    /// Makes the object of a Service that this node announces; returns its name.
    pub(super) async fn create(
        &mut self,
        key: &ServiceKey,
        owner: &OwnerReference,
    ) -> anyhow::Result<String> {
        let labels = [
            (LABEL_STATUS_NODE, self.settings.node.as_str()),
            (LABEL_STATUS_SERVICE_NAME, key.name()),
            (LABEL_STATUS_SERVICE_NAMESPACE, key.namespace()),
        ];
        let object = ServiceL2Status {
            metadata: ObjectMeta {
                generate_name: Some(L2_STATUS_GENERATE_NAME.to_owned()),
                labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: ServiceL2StatusSpec::default(),
            status: None,
        };
        let created = in_time(self.api().create(&PostParams::default(), &object)).await?;
        let name = created.name_any();
        self.learn_written(created);
        Ok(name)
    }

    /// Removes what other nodes told of a Service that they announced.
    pub(super) async fn delete_others(&self, key: &ServiceKey) -> anyhow::Result<()> {
        let api = self.api();
        let of_service = format!(
            "{LABEL_STATUS_SERVICE_NAME}={},{LABEL_STATUS_SERVICE_NAMESPACE}={}",
            key.name(),
            key.namespace()
        );
        for other in in_time(api.list(&ListParams::default().labels(&of_service))).await? {
            if other.labels().get(LABEL_STATUS_NODE) != Some(&self.settings.node) {
                in_time(delete(&api, &other.name_any())).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn update(
        &mut self,
        name: &str,
        key: &ServiceKey,
        announcement: &Announcement,
    ) -> anyhow::Result<()> {
        let mut status = json!(self.status(key, announcement));
        // An empty list is written too: a merge would keep the former one.
        status["interfaces"] = json!(announcement.interfaces);
        let patch = Patch::Merge(json!({ "status": status }));
        self.learn_written(in_time(self.api().patch_status(name, &parameters(), &patch)).await?);
        Ok(())
    }

    pub(super) fn learn_written(&mut self, object: ServiceL2Status) {
        self.learn(Change::Set(Object::of(object)));
    }
}

/// Deletes a status object; one that is gone is as good.
pub(super) async fn delete(api: &Api<ServiceL2Status>, name: &str) -> kube::Result<()> {
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}
