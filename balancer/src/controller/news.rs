//! What the watches bring.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use metallb_api::{
    BGPSessionState, IPAddressPool,
    names::{LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE},
};
use metallb_core::{announced::Sessions, claim::ServiceFacts, plan, selector::Labels, service::ServiceKey};
use metallb_proto::membership::Seed;

use super::configured::Edit;
use crate::{
    speaker::{
        CANNOT_LISTEN, NOT_LISTENING,
        facts::{CONFLICT, SliceFacts},
    },
    watch::{Change, Unreadable},
};

/// All that the watches bring.
pub(super) enum Input {
    Services(Change<Arc<ServiceFacts>>),
    Pools(Result<Change<IPAddressPool>, Unreadable>),
    Namespaces(Change<(String, Labels)>),
    Configured(Edit),
    Announcing(News),
}

/// What announcing depends on besides the configuration.
pub(super) enum News {
    Nodes(Change<NodeFacts>),
    Slices(Change<SliceFacts>),
    Speakers(Change<(String, Option<Seed>)>),
    Said(Protocol, Change<Said>),
    Sessions(Result<Change<Session>, Unreadable>),
    Subnets(Change<Subnets>),
}

/// What is needed of a node.
#[derive(Debug)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    pub(super) facts: plan::Node,
    pub(super) network: Network,
}

/// Where a node is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// As far as its annotations tell them.
    pub(super) subnets: Vec<IpNet>,
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
    pub(super) word: Word,
}

/// Who means to announce.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// The node.
    pub(super) node: Option<String>,
    /// By BGP, the BGPPeers that it tells.
    pub(super) peers: Vec<String>,
}

impl Said {
    /// What an object with this metadata says.
    pub(super) fn of(metadata: kube::api::ObjectMeta, word: Word) -> Self {
        let labels = metadata.labels.unwrap_or_default();
        let label = |name| labels.get(name).map(String::as_str).unwrap_or_default();
        let service =
            ServiceKey::new(label(LABEL_STATUS_SERVICE_NAMESPACE), label(LABEL_STATUS_SERVICE_NAME));
        Self { object: metadata.name.unwrap_or_default(), service, word }
    }
}

/// A BGPSessionState.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) object: String,
    /// Node and BGPPeer, when the session stands.
    pub(super) standing: Option<(String, String)>,
    /// What is wrong with it, where that is told of the BGPPeer.
    pub(super) trouble: Option<Trouble>,
}

/// What is wrong with the session of a node with a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) node: String,
    /// The BGPPeer.
    pub(super) peer: String,
    pub(super) cause: Obstacle,
}

/// What a session lacks that somebody else decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// Another BGP speaker of the node has the session.
    AnotherSpeaker,
    /// The peer is passive, and nobody may connect to the node.
    NotListening,
    /// The peer is passive, and the speaker cannot listen where the router is to connect.
    CannotListen,
    /// The session stands, and there are routes that the router cannot be told.
    RoutesNotSent,
}

impl Obstacle {
    /// By the last error that a speaker tells of a session.
    fn of(error: &str) -> Option<Self> {
        match error {
            error if error.starts_with(CONFLICT) => Some(Self::AnotherSpeaker),
            error if error.starts_with(NOT_LISTENING) => Some(Self::NotListening),
            error if error.starts_with(CANNOT_LISTEN) => Some(Self::CannotListen),
            _ => None,
        }
    }
}

impl Session {
    pub(super) fn of(session: BGPSessionState) -> Self {
        let standing = Sessions::standing(&session);
        let trouble = session.status.and_then(|status| {
            let cause = match &standing {
                Some(_) => status.routes_not_sent.as_ref().map(|_| Obstacle::RoutesNotSent),
                None => Obstacle::of(status.last_error.as_deref().unwrap_or_default()),
            };
            let cause = cause?;
            Some(Trouble { node: status.node?, peer: status.peer_name?, cause })
        });
        Self { object: session.metadata.name.unwrap_or_default(), standing, trouble }
    }
}

/// A ConfigurationState.
#[derive(Debug)]
pub(super) struct Subnets {
    pub(super) object: String,
    /// A node and its subnets, when it is a speaker's.
    pub(super) told: Option<(String, Vec<IpNet>)>,
}
