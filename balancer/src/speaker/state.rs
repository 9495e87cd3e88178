//! ConfigurationState `speaker-NODE`: whether this speaker could read its configuration, whether it hears the others, and
//! which subnets its node is in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use metallb_api::conditions::Report;
use metallb_api::names::{LABEL_COMPONENT_TYPE, LABEL_NODE_NAME, SPEAKER};
use metallb_core::subnets::subnet_of;
use metallb_proto::layer2::mac_text;
use metallb_proto::layer2::wire_check::Outcome;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::links;
use crate::controller::state::{Subject, Told, write_for};

/// Condition of the configuration, named as MetalLB names it.
const CONFIGURATION_VALID: &str = "configReconcilerValid";
/// Condition that names the speakers that were never heard.
const MEMBERS_UNREACHABLE: &str = "MembersUnreachable";
/// Condition that names addresses for which not exactly their owner answers.
const WIRE_CHECK_FAILED: &str = "WireCheckFailed";
/// In whose name it is written.
const WRITER: &str = "metallb-speaker";
/// For how long a state stands before it is told: speakers that start together hear each other soon.
const STEADY: Duration = Duration::from_secs(5);
/// Pause before what could not be written is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// What is wrong with the configuration.
    pub(super) problems: Vec<String>,
    /// Nodes whose ready speaker was never heard.
    pub(super) unheard: BTreeSet<String>,
    /// Port of the gossip.
    pub(super) port: u16,
}

/// Where it is told, and about whom.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) namespace: String,
    pub(super) node: String,
}

/// What it is told from.
pub(super) struct Ports {
    pub(super) states: watch::Receiver<Option<State>>,
    /// What is seen on the wire of the addresses of this node.
    pub(super) checks: watch::Receiver<BTreeMap<IpAddr, Outcome>>,
    pub(super) links: watch::Receiver<links::Snapshot>,
}

/// Tells until `cancel`, each state once it stands for a while.
///
/// # Errors
/// When one of the ports ends. What cannot be written is logged and tried again.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    mut ports: Ports,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let node = &settings.node;
    let labels = [(LABEL_COMPONENT_TYPE, SPEAKER), (LABEL_NODE_NAME, node)];
    let subject = Subject {
        name: format!("{SPEAKER}-{node}"),
        labels: labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into(),
        condition: CONFIGURATION_VALID,
        writer: WRITER,
    };
    let (mut seen, mut told) = (None, None);
    let (mut due, mut pause) = (Instant::now(), RETRY);
    loop {
        let wire = wire_check(&ports.checks.borrow_and_update());
        let subnets = subnets(&ports.links.borrow_and_update());
        let now = ports.states.borrow_and_update().clone().map(|state| (state, wire, subnets));
        if now != seen {
            (seen, due, pause) = (now, Instant::now() + STEADY, RETRY);
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = ports.states.changed() => changed.context("the plans ended")?,
            changed = ports.checks.changed() => changed.context("layer 2 ended")?,
            changed = ports.links.changed() => changed.context("the links ended")?,
            () = sleep_until(due), if seen != told => {
                let Some((state, wire, subnets)) = &seen else { continue };
                let more = [members(state), wire.clone()];
                let telling = Told { problems: &state.problems, more: &more, subnets };
                let written = write_for(client.clone(), &settings.namespace, &subject, telling);
                let Some(written) = cancel.run_until_cancelled(written).await else { return Ok(()) };
                match written {
                    Ok(()) => told.clone_from(&seen),
                    Err(error) => {
                        tracing::warn!(%error, "ConfigurationState not written");
                        (due, pause) = (Instant::now() + pause, (pause * 2).min(RETRY_LIMIT));
                    }
                }
            }
        }
    }
}

/// The subnets that this node is in by interfaces that may announce, in order.
fn subnets(links: &links::Snapshot) -> Vec<String> {
    let addresses = links.eligible.keys().flat_map(|index| links.links.addresses(*index));
    let all: BTreeSet<_> = addresses.filter_map(subnet_of).collect();
    all.iter().map(ToString::to_string).collect()
}

fn members(state: &State) -> Report {
    let unheard = !state.unheard.is_empty();
    let nodes: Vec<&str> = state.unheard.iter().map(String::as_str).collect();
    let message = format!(
        "the speakers of these nodes are Ready and were never heard; port {} must be open between the nodes by UDP and \
         TCP: {}",
        state.port,
        nodes.join(", ")
    );
    Report {
        kind: MEMBERS_UNREACHABLE,
        status: unheard,
        reason: if unheard { "NeverHeard" } else { "AllHeard" },
        message: if unheard { message } else { String::new() },
    }
}

fn wire_check(checks: &BTreeMap<IpAddr, Outcome>) -> Report {
    let failed = checks.iter().filter_map(|(address, outcome)| match outcome {
        Outcome::Failed(others) if others.is_empty() => Some(format!("nobody answers for {address}")),
        Outcome::Failed(others) => {
            let others: Vec<String> = others.iter().map(|mac| mac_text(*mac)).collect();
            Some(format!("{} answers for {address}, which is another node's", others.join(", ")))
        }
        Outcome::Passed | Outcome::Unknown => None,
    });
    let failed: Vec<String> = failed.collect();
    let unseen = checks.values().all(|outcome| *outcome == Outcome::Unknown);
    let reason = match (failed.is_empty(), checks.is_empty()) {
        (false, _) => "Failed",
        (true, true) => "NothingToCheck",
        (true, false) if unseen => "NoVantagePoint",
        (true, false) => "Passed",
    };
    Report { kind: WIRE_CHECK_FAILED, status: !failed.is_empty(), reason, message: failed.join("; ") }
}

#[cfg(test)]
mod tests {
    use metallb_proto::layer2::MacAddress;
    use metallb_proto::layer2::link::{Exclude, Links};
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::address::{AddressAttribute, AddressMessage};
    use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

    use super::*;

    #[test]
    fn what_is_seen_on_the_wire_is_told_and_what_is_not_seen_is_no_failure() {
        let ip = |last: u8| IpAddr::from([172, 22, 0, last]);
        let told = |checks: &[(u8, Outcome)]| {
            let checks = checks.iter().map(|(last, outcome)| (ip(*last), outcome.clone())).collect();
            let Report { status, reason, message, .. } = wire_check(&checks);
            (status, reason, message)
        };
        let nothing = String::new;
        assert_eq!(told(&[]), (false, "NothingToCheck", nothing()));
        assert_eq!(told(&[(1, Outcome::Unknown)]), (false, "NoVantagePoint", nothing()));
        assert_eq!(told(&[(1, Outcome::Unknown), (2, Outcome::Passed)]), (false, "Passed", nothing()));
        let other = Outcome::Failed([MacAddress([2, 0, 0, 0, 0, 9])].into());
        let message = "02:00:00:00:00:09 answers for 172.22.0.1, which is another node's; nobody answers for 172.22.0.2";
        let want = (true, "Failed", message.to_owned());
        assert_eq!(told(&[(1, other), (2, Outcome::Failed(BTreeSet::new()))]), want);
    }

    #[test]
    fn subnets_are_those_of_interfaces_that_may_announce() {
        let mut links = Links::default();
        let of = |index: u32, name: &str, addresses: &[&str], links: &mut Links| {
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.header.link_layer_type = LinkLayerType::Ether;
            link.header.flags = LinkFlags::Up | LinkFlags::Broadcast | LinkFlags::LowerUp;
            link.attributes =
                vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1])];
            links.apply(&RouteNetlinkMessage::NewLink(link));
            for text in addresses {
                let address: ipnet::IpNet = text.parse().unwrap();
                let mut message = AddressMessage::default();
                message.header.index = index;
                message.header.prefix_len = address.prefix_len();
                message.attributes = vec![AddressAttribute::Address(address.addr())];
                links.apply(&RouteNetlinkMessage::NewAddress(message));
            }
        };
        of(2, "eth0", &["2001:db8::5/64", "192.0.2.5/24", "192.0.2.77/32", "fe80::1/64"], &mut links);
        of(3, "cni0", &["10.244.0.1/24"], &mut links);
        let eligible = links.eligible(&Exclude::new(["^cni"]).unwrap());
        let snapshot = links::Snapshot { links, eligible, ..links::Snapshot::default() };
        assert_eq!(subnets(&snapshot), ["192.0.2.0/24", "2001:db8::/64"]);
    }

    #[test]
    fn speakers_that_were_never_heard_are_named_with_the_port() {
        let unheard = ["node2", "node3"].map(str::to_owned).into();
        let state = State { unheard, port: 7946, ..State::default() };
        let report = members(&state);
        assert_eq!((report.status, report.reason), (true, "NeverHeard"));
        assert_eq!(
            report.message,
            "the speakers of these nodes are Ready and were never heard; port 7946 must be open between the nodes by \
             UDP and TCP: node2, node3"
        );
        let report = members(&State::default());
        assert_eq!((report.status, report.reason, report.message.as_str()), (false, "AllHeard", ""));
    }
}
