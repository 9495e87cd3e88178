//! A Service without the record of who wrote which field: that is a large part of its JSON, and of no use here.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Service, ServiceSpec, ServiceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Resource, api::ObjectMeta};
use serde::{Deserialize, Deserializer};

/// A Service as the API server sends it, read in part.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LeanService {
    #[serde(default, deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<ServiceSpec>,
    #[serde(default)]
    status: Option<ServiceStatus>,
}

impl From<LeanService> for Service {
    fn from(lean: LeanService) -> Self {
        Self { metadata: lean.metadata, spec: lean.spec, status: lean.status }
    }
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        creation_timestamp: Option<Time>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let lean = Lean::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        generation: lean.generation,
        creation_timestamp: lean.creation_timestamp,
        labels: lean.labels,
        annotations: lean.annotations,
        ..ObjectMeta::default()
    })
}

impl Resource for LeanService {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        Service::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        Service::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        Service::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        Service::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metallb_core::claim::ServiceFacts;
    use serde_json::json;

    #[test]
    fn the_facts_are_those_of_the_whole_service() {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "namespace": "ns", "name": "web", "uid": "u1", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "a": "b" },
                "annotations": { "metallb.io/ip-allocated-from-pool": "four", "metallb.io/address-pool": "four" },
                "managedFields": [{ "manager": "x", "operation": "Update", "fieldsV1": { "f:spec": {} } }],
            },
            "spec": {
                "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "externalTrafficPolicy": "Local",
                "ports": [{ "port": 80 }],
            },
            "status": {
                "loadBalancer": { "ingress": [{ "ip": "192.0.2.1", "ipMode": "VIP" }] },
                "conditions": [{
                    "type": "metallb.io/Announced", "status": "True", "reason": "Announced", "message": "on layer 2",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        });
        let whole: Service = serde_json::from_value(object.clone()).unwrap();
        let lean: LeanService = serde_json::from_value(object).unwrap();
        assert_eq!(ServiceFacts::of(&lean.into(), None), ServiceFacts::of(&whole, None));
    }
}
