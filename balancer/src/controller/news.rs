//! What the watches bring of all that announcing depends on.

use std::{collections::BTreeSet, net::IpAddr};

use metallb_api::{
    BGPAdvertisement, Community, L2Advertisement,
    names::{LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE},
};
use metallb_core::{plan, service::ServiceKey};
use metallb_proto::membership::Seed;

use crate::{speaker::facts::SliceFacts, watch::Change};

/// What the watches bring.
pub(super) enum News {
    Layer2(Change<L2Advertisement>),
    Bgp(Change<BGPAdvertisement>),
    Communities(Change<Community>),
    Nodes(Change<NodeFacts>),
    Slices(Change<SliceFacts>),
    Speakers(Change<(String, Option<Seed>)>),
    Said(Protocol, Change<Said>),
}

/// What is needed of a node.
#[derive(Debug)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    pub(super) facts: plan::Node,
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// How a Service is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Layer2,
    Bgp,
}

/// What a speaker says about one Service in a ServiceL2Status or ServiceBGPStatus.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) object: String,
    pub(super) service: ServiceKey,
    /// The node, when it announces.
    pub(super) node: Option<String>,
}

impl Said {
    /// What an object with this metadata says, the status of which names `node`.
    pub(super) fn of(metadata: kube::api::ObjectMeta, node: Option<String>) -> Self {
        let labels = metadata.labels.unwrap_or_default();
        let label = |name| labels.get(name).map(String::as_str).unwrap_or_default();
        let service =
            ServiceKey::new(label(LABEL_STATUS_SERVICE_NAMESPACE), label(LABEL_STATUS_SERVICE_NAME));
        Self { object: metadata.name.unwrap_or_default(), service, node }
    }
}
