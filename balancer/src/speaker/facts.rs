//! What is kept of each object of the cluster: no more than a plan needs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use metallb_api::names::{
    ANNOTATION_ALLOCATED_FROM_POOL, ANNOTATION_ALLOW_SHARED_IP, ANNOTATION_ANNOUNCED_FROM,
    ANNOTATION_L2_OWNERS, L2_OWNERS_PREFIX, OLD_ANNOTATION_PREFIX,
};
use metallb_core::announced::ANNOUNCED;
use metallb_core::claims::read_text;
use metallb_core::plan;
use metallb_core::service::ServiceKey;
use metallb_proto::membership::Seed;

/// Reason of [`ANNOUNCED`] while another host has the address.
pub(crate) const CONFLICT: &str = "Conflict";
/// Taint of a node that is known to be off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// What the kubelet says in condition Ready while it ends its pods before the node goes off.
const SHUTTING_DOWN: &str = "node is shutting down";
/// Prefix of the `providerID` of virtual machines that stand still for seconds when they are migrated.
const STALLING_PROVIDER: &str = "vsphere://";

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service, with what is needed to write about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) key: ServiceKey,
    pub(crate) uid: String,
    /// The node that announces it by the word of its annotation, and that annotation whole.
    pub(crate) record: Option<(String, String)>,
    /// Condition [`ANNOUNCED`].
    pub(crate) condition: Option<Finding>,
    /// `None` when it is not for this load balancer to announce, or has no address.
    pub(crate) service: Option<plan::Service>,
}

/// What condition [`ANNOUNCED`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) announced: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl ServiceFacts {
    /// Whether another host was found to have its address.
    pub(crate) fn is_withheld(&self) -> bool {
        self.condition.as_ref().is_some_and(|finding| !finding.announced && finding.reason == CONFLICT)
    }
}

/// One Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) node: plan::Node,
    /// Whether it is a virtual machine that stands still for seconds when it is migrated.
    pub(crate) stalls: bool,
    /// Where its kubelet listens: on each of its addresses and on loopback; nowhere when the node does not tell.
    pub(crate) kubelet: Vec<SocketAddr>,
}

/// One speaker, by its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpeakerFacts {
    /// Where it is, once it has an address.
    pub(crate) seed: Option<Seed>,
    /// The node that it runs on or is to run on; `None` when it has ended.
    pub(crate) node: Option<String>,
}

/// Who has the addresses of one L2Advertisement that are spread evenly, as a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrittenOwners {
    /// Name of the Lease.
    pub(crate) lease: String,
    /// Name of the L2Advertisement.
    pub(crate) advertisement: String,
    /// By address, its node and epoch.
    pub(crate) owners: BTreeMap<IpAddr, (String, u32)>,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    /// Namespace and name of the slice.
    pub(crate) key: ServiceKey,
    /// The Service that it belongs to.
    pub(crate) service: ServiceKey,
    pub(crate) endpoints: plan::Endpoints,
}

/// Reduces a Service. `class` is the `loadBalancerClass` that is served; `None` serves those without one.
pub(crate) fn service(object: &Service, class: Option<&str>) -> ServiceFacts {
    let metadata = &object.metadata;
    let spec = object.spec.as_ref();
    let wanted = spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref() == class
    });
    let addresses = addresses(object);
    let annotations = metadata.annotations.as_ref();
    let shared = annotations.is_some_and(|annotations| {
        let old = ANNOTATION_ALLOW_SHARED_IP.replacen("metallb.io/", OLD_ANNOTATION_PREFIX, 1);
        annotations.contains_key(ANNOTATION_ALLOW_SHARED_IP) || annotations.contains_key(&old)
    });
    let policy = spec.and_then(|spec| spec.external_traffic_policy.as_deref());
    let record = annotations.and_then(|annotations| annotations.get(ANNOTATION_ANNOUNCED_FROM));
    ServiceFacts {
        key: key(metadata.namespace.as_deref(), metadata.name.as_deref()),
        uid: metadata.uid.clone().unwrap_or_default(),
        record: record.map(|text| (text.split(',').next().unwrap_or_default().to_owned(), text.clone())),
        condition: condition(object),
        service: (wanted && !addresses.is_empty()).then(|| plan::Service {
            addresses,
            pool: annotations.and_then(|all| all.get(ANNOTATION_ALLOCATED_FROM_POOL)).cloned(),
            labels: metadata.labels.as_ref().into(),
            local: policy == Some("Local"),
            shared,
            endpoints: plan::Endpoints::default(),
        }),
    }
}

fn condition(object: &Service) -> Option<Finding> {
    let conditions = object.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == ANNOUNCED)?;
    Some(Finding {
        announced: condition.status == "True",
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    })
}

fn addresses(object: &Service) -> Vec<IpAddr> {
    let ingress = object
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

/// Reduces an EndpointSlice.
pub(crate) fn slice(object: &EndpointSlice) -> SliceFacts {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.as_deref();
    let service = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    let serving: Vec<&Endpoint> = object.endpoints.iter().filter(|endpoint| serves(endpoint)).collect();
    let nodes = serving.iter().filter_map(|endpoint| endpoint.node_name.as_deref()).collect();
    SliceFacts {
        key: key(namespace, metadata.name.as_deref()),
        service: key(namespace, service.map(String::as_str)),
        endpoints: plan::Endpoints { any: !serving.is_empty(), nodes },
    }
}

/// Whether an endpoint takes traffic: it is ready, or it terminates and still serves.
fn serves(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    ready || conditions.and_then(|conditions| conditions.serving).unwrap_or(false)
}

/// Reduces a Node to its name and what a plan needs.
pub(crate) fn node(object: &Node) -> (String, plan::Node) {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    let network_unavailable = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "NetworkUnavailable" && condition.status == "True");
    let shutting_down = conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "Ready"
            && condition.status != "True"
            && condition.message.as_ref().is_some_and(|message| message.contains(SHUTTING_DOWN))
    });
    let spec = object.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_ref());
    let out_of_service = taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE);
    let facts = plan::Node {
        labels: object.metadata.labels.as_ref().into(),
        network_unavailable,
        going: shutting_down || out_of_service,
        unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        ..plan::Node::default()
    };
    (object.metadata.name.clone().unwrap_or_default(), facts)
}

/// Reduces a Node to its name and what a speaker needs.
pub(crate) fn node_facts(object: &Node) -> (String, NodeFacts) {
    let (name, node) = node(object);
    let provider = object.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
    let stalls = provider.is_some_and(|provider| provider.starts_with(STALLING_PROVIDER));
    (name, NodeFacts { node, stalls, kubelet: kubelet(object) })
}

fn kubelet(node: &Node) -> Vec<SocketAddr> {
    let status = node.status.as_ref();
    let port = status
        .and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref())
        .and_then(|endpoint| u16::try_from(endpoint.port).ok())
        .filter(|port| *port != 0);
    let Some(port) = port else { return Vec::new() };
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    let internal = internal.filter_map(|address| address.address.parse().ok());
    internal
        .chain([IpAddr::from(Ipv4Addr::LOCALHOST)])
        .map(|address| SocketAddr::new(address, port))
        .collect()
}

/// Reduces the pod of a speaker: its own name, and the seed that it is. `None` for a pod that has no address, or has
/// ended.
pub(crate) fn speaker(object: &Pod, port: u16) -> (String, Option<Seed>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let seed = || {
        let status = object.status.as_ref()?;
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let address = status.pod_ip.as_ref().filter(|_| !ended)?.parse().ok()?;
        let node = object.spec.as_ref()?.node_name.clone()?;
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Some(Seed { node, address: SocketAddr::new(address, port), ready })
    };
    (name, seed())
}

/// The same with the node that the pod is for.
pub(crate) fn speaker_facts(object: &Pod, port: u16) -> (String, SpeakerFacts) {
    let (name, seed) = speaker(object, port);
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    let node = object.spec.as_ref().filter(|_| !ended).and_then(|spec| spec.node_name.clone());
    (name, SpeakerFacts { seed, node })
}

/// Reads the Lease of one L2Advertisement.
pub(crate) fn written_owners(object: Lease) -> WrittenOwners {
    let lease = object.metadata.name.unwrap_or_default();
    let annotations = object.metadata.annotations.unwrap_or_default();
    let text = annotations.get(ANNOTATION_L2_OWNERS).map(String::as_str).unwrap_or_default();
    let advertisement = lease.strip_prefix(L2_OWNERS_PREFIX).unwrap_or_default().to_owned();
    WrittenOwners { owners: read_text(text), advertisement, lease }
}

fn key(namespace: Option<&str>, name: Option<&str>) -> ServiceKey {
    ServiceKey::new(namespace.unwrap_or_default(), name.unwrap_or_default())
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
