//! What is told in the cluster about BGP: a ServiceBGPStatus for each Service that this node announces, a
//! BGPSessionState for each peer, and an Event when a session comes up or goes down.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use metallb_api::names::{
    BGP_STATUS_GENERATE_NAME, LABEL_SESSION_NODE, LABEL_SESSION_PEER, LABEL_SESSION_VRF, LABEL_STATUS_NODE,
    LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE,
};
use metallb_api::{
    BGPSessionState, BGPSessionStateSpec, BGPSessionStateStatus, ServiceBGPStatus, ServiceBGPStatusSpec,
    ServiceBGPStatusStatus,
};
use metallb_core::config::Endpoint;
use metallb_core::routes::Told;
use metallb_core::service::ServiceKey;
use metallb_proto::bfd;
use metallb_proto::bgp::Agreed;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::keeper::{Keeper, Kept, Labels, in_time, label_value};
use super::spec::Wanted;
use super::status::{Status, Statuses};
use crate::speaker::report::Settings;

/// Who writes, in Events.
const COMPONENT: &str = "metallb-speaker";
/// Pause after a write, done or refused, so that changes meanwhile fall together.
const CALM: Duration = Duration::from_secs(1);
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Why a session ended of which nothing else is known.
const ENDED: &str = "it was ended";
/// The same where it is that of a peer that this node has no more.
const GONE: &str = "the BGPPeer is gone or does not concern this node any more";
/// What is told of a session beside which BFD is not up, for as long as that is so.
const UNWATCHED: &str = "BFD is not up: nothing watches the path of the session";
/// The longest name of an object.
const LONGEST_NAME: usize = 253;
/// What frr-k8s writes where there is no BFD.
const NO_BFD: &str = "N/A";

/// What is told is made from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(crate) statuses: watch::Receiver<Statuses>,
}

/// The Services that some router holds a route to, by one of their addresses each.
pub(crate) fn announced<'a>(
    wanted: &'a Wanted,
    statuses: &Statuses,
) -> impl Iterator<Item = (&'a ServiceKey, IpAddr)> {
    let stands = |peer: &String| statuses.get(peer).is_some_and(|status| status.agreed.is_some());
    let services = wanted.services.iter().filter(move |(_, told)| told.peers.iter().any(stands));
    services.flat_map(|(key, told)| told.addresses.iter().map(move |address| (key, *address)))
}

impl Kept for ServiceBGPStatus {
    const NODE: &'static str = LABEL_STATUS_NODE;
    const LABELS: &'static [&'static str] =
        &[LABEL_STATUS_NODE, LABEL_STATUS_SERVICE_NAME, LABEL_STATUS_SERVICE_NAMESPACE];
    const GENERATE_NAME: &'static str = BGP_STATUS_GENERATE_NAME;
    type Status = ServiceBGPStatusStatus;

    fn empty(metadata: ObjectMeta) -> Self {
        Self { metadata, spec: ServiceBGPStatusSpec::default(), status: None }
    }

    fn take_status(&mut self) -> Option<Self::Status> {
        self.status.take()
    }
}

impl Kept for BGPSessionState {
    const NODE: &'static str = LABEL_SESSION_NODE;
    const LABELS: &'static [&'static str] = &[LABEL_SESSION_NODE, LABEL_SESSION_PEER, LABEL_SESSION_VRF];
    const GENERATE_NAME: &'static str = "bgp-";
    type Status = BGPSessionStateStatus;

    fn empty(metadata: ObjectMeta) -> Self {
        Self { metadata, spec: BGPSessionStateSpec::default(), status: None }
    }

    fn take_status(&mut self) -> Option<Self::Status> {
        self.status.take()
    }
}

/// Reports until `cancel`. What cannot be written is logged and tried again: announcing does not depend on it.
///
/// # Errors
/// When the plans or a watch end.
pub(crate) async fn run(
    client: Client,
    settings: Settings,
    sources: Sources,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let node = settings.node.clone();
    let services =
        keep::<ServiceBGPStatus>(&client, &settings, sources.clone(), |wanted, _| services(&node, wanted));
    let sessions = keep::<BGPSessionState>(&client, &settings, sources.clone(), |wanted, statuses| {
        sessions(&node, wanted, statuses)
    });
    let events = tell(&client, &settings, sources.statuses);
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        ended = services => ended,
        ended = sessions => ended,
        ended = events => ended,
    }
}

async fn keep<K: Kept>(
    client: &Client,
    settings: &Settings,
    mut sources: Sources,
    derive: impl Fn(&Wanted, &Statuses) -> BTreeMap<Labels, K::Status>,
) -> anyhow::Result<()> {
    let mut keeper = Keeper::<K>::new(client, settings);
    let mut changes = std::pin::pin!(keeper.changes());
    loop {
        let wanted = sources.wanted.borrow_and_update().clone();
        let statuses = sources.statuses.borrow_and_update().clone();
        let mut pause = None;
        if let Some(wanted) = wanted {
            let kept = keeper.keep(&derive(&wanted, &statuses)).await;
            if let Err(error) = &kept {
                tracing::warn!(error = format!("{error:#}"), "status of BGP not written");
                pause = Some(RETRY);
            }
            if !matches!(kept, Ok(false)) {
                tokio::time::sleep(CALM).await;
            }
        }
        tokio::select! {
            changed = sources.wanted.changed() => changed.context("the plans ended")?,
            changed = sources.statuses.changed() => changed.context("the sessions ended")?,
            change = changes.next() => keeper.learn(change.context("a watch ended")?),
            () = wait(pause) => {}
        }
    }
}

async fn wait(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn services(node: &str, wanted: &Wanted) -> BTreeMap<Labels, ServiceBGPStatusStatus> {
    let status = |told: &Told, namespace: &str, name: &str| ServiceBGPStatusStatus {
        node: Some(node.to_owned()),
        service_name: Some(name.to_owned()),
        service_namespace: Some(namespace.to_owned()),
        peers: told.peers.iter().cloned().collect(),
    };
    let services = wanted.services.iter().map(|(key, told)| {
        let (namespace, name) = (key.namespace(), key.name());
        let labels = vec![label_value(node), name.to_owned(), namespace.to_owned()];
        (labels, status(told, namespace, name))
    });
    services.collect()
}

fn sessions(node: &str, wanted: &Wanted, statuses: &Statuses) -> BTreeMap<Labels, BGPSessionStateStatus> {
    let mut told = BTreeMap::new();
    for (name, peer) in &wanted.peers {
        let Some(status) = statuses.get(name) else { continue };
        let router = match &peer.endpoint {
            Endpoint::Address(address) => address.to_string(),
            Endpoint::Interface(interface) => interface.clone(),
        };
        let vrf = peer.vrf.clone().unwrap_or_default();
        let mut labels = vec![label_value(node), label(&router), vrf.clone()];
        if told.contains_key(&labels)
            && let Ok(spec) = &peer.spec
        {
            // Another session with that router, on another of its ports.
            labels = vec![label_value(node), format!("{}_{}", label(&router), spec.port), vrf.clone()];
        }
        told.entry(labels).or_insert_with(|| session(node, name, router, vrf, status));
    }
    told
}

/// A router as the value of a label, which has no colon, and letters or digits at its ends.
fn label(router: &str) -> String {
    let [first, last] =
        [router.starts_with(':'), router.ends_with(':')].map(|is_colon| if is_colon { "0" } else { "" });
    format!("{first}{router}{last}").replace(':', "-")
}

fn session(node: &str, name: &str, router: String, vrf: String, status: &Status) -> BGPSessionStateStatus {
    let bfd = match status.bfd {
        None => NO_BFD,
        Some(bfd::State::Up) => "up",
        Some(bfd::State::Down) => "down",
        Some(bfd::State::Init) => "init",
        Some(bfd::State::AdminDown) => "admin down",
    };
    let is_unwatched =
        status.agreed.is_some() && matches!(status.bfd, Some(bfd::State::Down | bfd::State::Init));
    let errors = status.unheard.iter().chain(&status.last_error).chain(&status.bfd_error).map(String::as_str);
    let errors: Vec<&str> = errors.chain(is_unwatched.then_some(UNWATCHED)).collect();
    BGPSessionStateStatus {
        bgp_status: Some(status.state.to_string()),
        bfd_status: Some(bfd.to_owned()),
        node: Some(node.to_owned()),
        peer: Some(router),
        vrf: Some(vrf).filter(|vrf| !vrf.is_empty()),
        peer_name: Some(name.to_owned()),
        since: Some(status.since.to_string()),
        last_error: Some(errors.join("; ")).filter(|errors| !errors.is_empty()),
        capabilities: status.agreed.as_ref().map(capabilities).unwrap_or_default(),
        prefixes_sent: i64::try_from(status.prefixes).ok(),
        routes_not_sent: status.unsent.clone(),
    }
}

/// In the words of the RFCs.
fn capabilities(agreed: &Agreed) -> Vec<String> {
    let families = agreed.families.iter().map(|family| format!("{family} unicast"));
    let others = [
        (agreed.four_octet_asn, "four-octet AS"),
        (agreed.extended_messages, "extended messages"),
        (agreed.route_refresh, "route refresh"),
        (agreed.enhanced_route_refresh, "enhanced route refresh"),
        (agreed.extended_next_hop, "extended next hop"),
        (agreed.graceful_restart.is_some(), "graceful restart"),
        (
            agreed.graceful_restart.as_ref().is_some_and(|restart| restart.notifications),
            "graceful notification",
        ),
    ];
    families
        .chain(others.into_iter().filter(|(agreed, _)| *agreed).map(|(_, name)| name.to_owned()))
        .collect()
}

/// Tells each coming and going of a session as an Event of its BGPPeer.
async fn tell(
    client: &Client,
    settings: &Settings,
    mut statuses: watch::Receiver<Statuses>,
) -> anyhow::Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), &settings.namespace);
    let mut before = Statuses::new();
    loop {
        statuses.changed().await.context("the sessions ended")?;
        let now = statuses.borrow_and_update().clone();
        for (name, turn) in turns(&before, &now) {
            let event = event(settings, name, &turn, Timestamp::now());
            if let Err(error) = in_time(api.create(&PostParams::default(), &event)).await {
                tracing::warn!(error = format!("{error:#}"), "Event not written");
            }
        }
        before = now;
    }
}

/// A session that came or went.
#[derive(Debug, PartialEq, Eq)]
enum Turn<'a> {
    Up(&'a Agreed),
    Down(&'a str),
    /// It was ended here, as somebody wanted it.
    Ended(&'a str),
}

/// What became of the sessions: that one went and came while nobody looked is told, too.
fn turns<'a>(before: &'a Statuses, now: &'a Statuses) -> Vec<(&'a str, Turn<'a>)> {
    let mut turns = Vec::new();
    for (name, status) in now {
        let former = before.get(name);
        let was_up = former.is_some_and(|former| former.agreed.is_some());
        let is_same = former.is_some_and(|former| former.since == status.since);
        let went = || match &status.stopped {
            Some(why) => Turn::Ended(why),
            None => Turn::Down(status.last_error.as_deref().unwrap_or(ENDED)),
        };
        match &status.agreed {
            Some(_) if was_up && is_same => {}
            Some(agreed) => {
                turns.extend(was_up.then(|| (name.as_str(), went())));
                turns.push((name, Turn::Up(agreed)));
            }
            None => turns.extend(was_up.then(|| (name.as_str(), went()))),
        }
    }
    let gone = before.iter().filter(|(name, status)| status.agreed.is_some() && !now.contains_key(*name));
    turns.extend(
        gone.map(|(name, status)| (name.as_str(), Turn::Ended(status.stopped.as_deref().unwrap_or(GONE)))),
    );
    turns
}

/// Name of an Event of a peer: the peer's, as far as there is room, and the time.
fn event_name(peer: &str, now: Timestamp) -> String {
    let time = format!("{:x}", now.as_nanosecond());
    let start = peer.get(..LONGEST_NAME - 1 - time.len()).unwrap_or(peer);
    // Before a dot there is a letter or a digit.
    let start = start.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    format!("{start}.{time}")
}

fn event(settings: &Settings, peer: &str, turn: &Turn<'_>, now: Timestamp) -> Event {
    let node = &settings.node;
    let (reason, kind, message) = match turn {
        Turn::Up(agreed) => (
            "SessionUp",
            "Normal",
            format!(
                "node {node:?} has a session with router {} of AS {}",
                agreed.remote_id, agreed.remote_asn
            ),
        ),
        Turn::Down(error) => ("SessionDown", "Warning", format!("node {node:?} lost its session: {error}")),
        Turn::Ended(why) => ("SessionDown", "Normal", format!("node {node:?} ended its session: {why}")),
    };
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(peer, now)),
            namespace: Some(settings.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("metallb.io/v1beta2".to_owned()),
            kind: Some("BGPPeer".to_owned()),
            namespace: Some(settings.namespace.clone()),
            name: Some(peer.to_owned()),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(node.clone()) }),
        reporting_component: Some(COMPONENT.to_owned()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
