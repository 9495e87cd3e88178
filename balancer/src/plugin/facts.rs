//! What a node looks like to the load balancer.

use std::{collections::BTreeSet, fmt::Write};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use metallb_api::{
    ConfigurationState,
    names::{EXCLUDE_LB_LABEL, LABEL_NODE_NAME},
};
use metallb_core::{config::parse, routes, selector::Labels, service::ServiceKey};
use serde::Serialize;

use super::{
    output::{Style, Table, Tone, judged, list, plain},
    sessions::{self, Session},
    status::complaints,
};
use crate::inspect::{Allocation, Announcing};

/// What there is to say about one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    node: String,
    addresses: Vec<String>,
    ready: bool,
    unschedulable: bool,
    speaker: Option<Speaker>,
    /// Advertisements whose nodes it is one of, as kind and name.
    advertisements: Vec<String>,
    /// Its networks, as its speaker tells them.
    subnets: Vec<String>,
    /// BGPPeers that it is to have a session with.
    peers: Vec<String>,
    /// Those sessions, while the node is Ready and so is its speaker.
    sessions: Vec<Session>,
    /// What its speaker says it announces.
    announces: Vec<Announced>,
    problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Speaker {
    pod: String,
    image: String,
    ready: bool,
    restarts: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Announced {
    service: String,
    protocol: &'static str,
    /// Interfaces on layer 2, all when there are none; peers by BGP.
    at: Vec<String>,
}

impl Facts {
    /// Puts together what is known of `node`.
    ///
    /// # Errors
    /// When there is no such node.
    pub(super) fn of(
        node: &str,
        allocation: &Allocation,
        announcing: &Announcing,
        states: &[ConfigurationState],
    ) -> anyhow::Result<Self> {
        let object = announcing.nodes.iter().find(|object| object.name_any() == node);
        let object = object.with_context(|| format!("there is no node {node}"))?;
        let pod = announcing.speakers.iter().find(|pod| is_on(pod, node)).map(speaker);
        let mut problems = problems(object, pod.as_ref(), allocation.terms.ignore_exclude_label);
        let of_node = |state: &&ConfigurationState| {
            state.labels().get(LABEL_NODE_NAME).is_some_and(|name| name == node)
        };
        problems.extend(states.iter().filter(of_node).flat_map(complaints));
        let sessions = sessions::of_all(allocation, announcing).into_iter();
        let sessions: Vec<Session> = sessions.filter(|session| session.node == node).collect();
        problems.extend(sessions.iter().filter_map(Session::problem));
        let told = states.iter().filter(of_node).filter_map(|state| state.status.as_ref());
        let subnets: BTreeSet<String> = told.flat_map(|status| status.subnets.iter().cloned()).collect();
        let (config, _) = parse(&announcing.configuration.objects());
        let labels = Labels::from(object.labels());
        let layer2 = config.l2_advertisements.values().filter(|one| one.nodes.matches(&labels));
        let bgp = config.bgp_advertisements.values().filter(|one| one.nodes.matches(&labels));
        let world = announcing.world(&allocation.services, &allocation.terms);
        Ok(Self {
            node: node.to_owned(),
            addresses: addresses(object),
            ready: has_condition(object, "Ready"),
            unschedulable: object.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default(),
            speaker: pod,
            advertisements: layer2
                .map(|one| format!("L2Advertisement/{}", one.name))
                .chain(bgp.map(|one| format!("BGPAdvertisement/{}", one.name)))
                .collect(),
            subnets: subnets.into_iter().collect(),
            peers: routes::plan(&world, node).peers.into_keys().collect(),
            sessions,
            announces: announces(node, announcing),
            problems,
        })
    }

    /// Whether nothing keeps it from announcing.
    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// For people.
    pub(super) fn text(&self, style: Style) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{name:<16} {}", if value.is_empty() { "-" } else { value });
        };
        let mut state = vec![if self.ready { "Ready" } else { "NotReady" }];
        state.extend(self.unschedulable.then_some("unschedulable"));
        line("Node", &self.node);
        line("State", &state.join(", "));
        line("Addresses", &self.addresses.join(", "));
        line("Subnets", &self.subnets.join(", "));
        match &self.speaker {
            None => line("Speaker", ""),
            Some(Speaker { pod, image, ready, restarts }) => {
                let ready = if *ready { "ready" } else { "not ready" };
                line("Speaker", &format!("{pod}, {ready}, {restarts} restarts, {image}"));
            }
        }
        line("Advertisements", &self.advertisements.join(", "));
        line("BGP peers", &self.peers.join(", "));
        if !self.sessions.is_empty() {
            let mut table =
                Table::new(&["BGP SESSION WITH", "ROUTER", "STATE", "BFD", "SINCE", "LAST ERROR"]);
            for session in &self.sessions {
                let shown = |text: &Option<String>| plain(text.clone().unwrap_or_default());
                table.row([
                    plain(&session.peer),
                    shown(&session.router),
                    judged(session.state.clone().unwrap_or_default(), session.is_established()),
                    shown(&session.bfd),
                    shown(&session.since),
                    shown(&session.last_error),
                ]);
            }
            let _ = write!(text, "\n{}", table.text(style));
        }
        if !self.announces.is_empty() {
            let mut table = Table::new(&["ANNOUNCES", "PROTOCOL", "AT"]);
            for Announced { service, protocol, at } in &self.announces {
                let at = if at.is_empty() { "all interfaces".to_owned() } else { at.join(", ") };
                table.row([plain(service), plain(*protocol), plain(at)]);
            }
            let _ = write!(text, "\n{}", table.text(style));
        }
        list(&mut text, "Wrong", &self.problems, Tone::Bad, style);
        text
    }
}

pub(super) fn is_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

fn speaker(pod: &Pod) -> Speaker {
    let status = pod.status.clone().unwrap_or_default();
    let container = status.container_statuses.iter().flatten().next();
    Speaker {
        pod: pod.name_any(),
        image: container.map(|container| container.image.clone()).unwrap_or_default(),
        ready: is_ready(pod),
        restarts: container.map(|container| container.restart_count).unwrap_or_default(),
    }
}

fn addresses(node: &Node) -> Vec<String> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.map(|address| address.address.clone()).collect()
}

pub(super) fn has_condition(node: &Node, kind: &str) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == kind && one.status == "True")
}

fn problems(node: &Node, speaker: Option<&Speaker>, ignore_exclude_label: bool) -> Vec<String> {
    let mut problems = Vec::new();
    match speaker {
        None => problems.push("no speaker runs here".to_owned()),
        Some(speaker) if !speaker.ready => problems.push(format!("pod {} is not ready", speaker.pod)),
        Some(_) => {}
    }
    if !ignore_exclude_label && node.labels().contains_key(EXCLUDE_LB_LABEL) {
        problems.push(format!("label {EXCLUDE_LB_LABEL} keeps it from announcing"));
    }
    if has_condition(node, "NetworkUnavailable") {
        problems.push("condition NetworkUnavailable keeps it from announcing".to_owned());
    }
    problems
}

fn announces(node: &str, announcing: &Announcing) -> Vec<Announced> {
    let service = |namespace: Option<&String>, name: Option<&String>| {
        ServiceKey::new(
            namespace.map(String::as_str).unwrap_or_default(),
            name.map(String::as_str).unwrap_or_default(),
        )
        .to_string()
    };
    let layer2 = announcing.layer2.iter().filter_map(|status| status.status.as_ref());
    let bgp = announcing.bgp.iter().filter_map(|status| status.status.as_ref());
    let layer2 = layer2.filter(|status| status.node.as_deref() == Some(node)).map(|status| {
        let interfaces: BTreeSet<_> = status.interfaces.iter().filter_map(|one| one.name.clone()).collect();
        Announced {
            service: service(status.service_namespace.as_ref(), status.service_name.as_ref()),
            protocol: "layer2",
            at: interfaces.into_iter().collect(),
        }
    });
    let bgp = bgp.filter(|status| status.node.as_deref() == Some(node)).map(|status| Announced {
        service: service(status.service_namespace.as_ref(), status.service_name.as_ref()),
        protocol: "bgp",
        at: status.peers.clone(),
    });
    let mut announces: Vec<_> = layer2.chain(bgp).collect();
    announces.sort_by(|a, b| (&a.service, a.protocol).cmp(&(&b.service, b.protocol)));
    announces
}
