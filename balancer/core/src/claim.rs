//! One Service, reduced to the facts that allocation is decided from.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{LoadBalancerIngress, Service},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use metallb_api::names::{ANNOTATION_ALLOCATED_FROM_POOL, OLD_ANNOTATION_PREFIX};

use crate::{
    announced::ANNOUNCED,
    refusal::Refusal,
    request::{self, ANNOTATION_KEEP_ADDRESS, Request},
    selector::Labels,
    service::{ServiceKey, Tenant},
};

/// Service condition: whether the Service has the address that it asks for.
pub const ADDRESS_ASSIGNED: &str = "metallb.io/AddressAssigned";

/// What a Service wants of this load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is not of type LoadBalancer.
    NotLoadBalancer,
    /// Its `spec.loadBalancerClass` is another's.
    OtherClass,
    /// An address.
    Wants {
        /// How it would use one.
        tenant: Tenant,
        /// Annotation `metallb.io/keep-address`.
        keep: bool,
        /// Which one, or why that cannot be told.
        request: Result<Request, Refusal>,
    },
}

/// The facts about one Service. Two that are equal lead to the same decision and the same write.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub key: ServiceKey,
    /// `metadata.creationTimestamp` in seconds since 1970; the oldest waiting Service is served first.
    pub created: i64,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// `metadata.generation`, where the API server keeps one.
    pub generation: Option<i64>,
    /// Labels, which pools select by.
    pub labels: Labels,
    /// What it wants.
    pub claim: Claim,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<LoadBalancerIngress>,
    /// Annotation `metallb.io/ip-allocated-from-pool`: this load balancer gave it its addresses.
    pub mark: Option<String>,
    /// The condition [`ADDRESS_ASSIGNED`].
    pub condition: Option<Told>,
    /// The condition [`ANNOUNCED`]; no matter to its address.
    pub announced: Option<Told>,
    /// `spec.externalTrafficPolicy` is `Local`.
    pub local: bool,
    /// The first annotation with the old prefix.
    pub deprecated_annotation: Option<String>,
}

/// What a condition of a Service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether its status is `True`.
    pub holds: bool,
    /// Its reason.
    pub reason: Box<str>,
    /// Its message.
    pub message: Box<str>,
    /// Since when its status is what it is.
    pub since: Time,
}

impl Told {
    fn of(condition: &Condition) -> Self {
        Self {
            holds: condition.status == "True",
            reason: condition.reason.as_str().into(),
            message: condition.message.as_str().into(),
            since: condition.last_transition_time.clone(),
        }
    }
}

impl ServiceFacts {
    /// The facts about `service`, for a load balancer of `class`; `None` serves the Services without a class.
    #[must_use]
    pub fn of(service: &Service, class: Option<&str>) -> Self {
        let metadata = &service.metadata;
        let annotations = metadata.annotations.as_ref();
        let (spec, status) = (service.spec.as_ref(), service.status.as_ref());
        let conditions = || status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let condition = |kind| conditions().find(|condition| condition.type_ == kind).map(Told::of);
        Self {
            key: ServiceKey::new(
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default(),
            ),
            created: metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            generation: metadata.generation,
            labels: metadata.labels.as_ref().into(),
            claim: claim(service, class),
            ingress: status
                .and_then(|status| status.load_balancer.as_ref()?.ingress.clone())
                .unwrap_or_default(),
            mark: annotations.and_then(|all| all.get(ANNOTATION_ALLOCATED_FROM_POOL)).cloned(),
            condition: condition(ADDRESS_ASSIGNED),
            announced: condition(ANNOUNCED),
            local: spec.and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local"),
            deprecated_annotation: annotations
                .and_then(|all| all.keys().find(|key| key.starts_with(OLD_ANNOTATION_PREFIX)))
                .cloned(),
        }
    }

    /// Whether the two differ in nothing but their version.
    #[must_use]
    pub fn is_same_but_for_version(&self, other: &Self) -> bool {
        let Self {
            key,
            created,
            uid,
            resource_version: _,
            generation,
            labels,
            claim,
            ingress,
            mark,
            condition,
            announced,
            local,
            deprecated_annotation,
        } = self;
        (key, created, uid, generation, labels, claim)
            == (&other.key, &other.created, &other.uid, &other.generation, &other.labels, &other.claim)
            && (ingress, mark, condition) == (&other.ingress, &other.mark, &other.condition)
            && (announced, local, deprecated_annotation)
                == (&other.announced, &other.local, &other.deprecated_annotation)
    }

    /// The addresses in the status, in their order, each once.
    #[must_use]
    pub fn shown(&self) -> Vec<IpAddr> {
        let mut seen = BTreeSet::new();
        let parsed = self.ingress.iter().filter_map(shown);
        parsed.filter(|address| seen.insert(*address)).collect()
    }
}

/// The address of one entry of the status.
#[must_use]
pub fn shown(entry: &LoadBalancerIngress) -> Option<IpAddr> {
    entry.ip.as_deref()?.parse().ok()
}

fn claim(service: &Service, class: Option<&str>) -> Claim {
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.type_.as_deref()) != Some("LoadBalancer") {
        return Claim::NotLoadBalancer;
    }
    if spec.and_then(|spec| spec.load_balancer_class.as_deref()) != class {
        return Claim::OtherClass;
    }
    Claim::Wants {
        tenant: request::tenant(service),
        keep: request::annotation(service, ANNOTATION_KEEP_ADDRESS) == Some("true"),
        request: Request::parse(service),
    }
}
