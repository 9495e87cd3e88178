//! BGP sessions: those that the nodes are to have, and what their speakers say of them.

use std::collections::BTreeMap;

use kube::ResourceExt;
use metallb_api::BGPSessionState;
use metallb_core::routes;
use serde::Serialize;

use super::facts::{has_condition, is_on, is_ready};
use crate::inspect::{Allocation, Announcing};

/// The session of a node with a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    pub(super) node: String,
    /// Name of the BGPPeer.
    pub(super) peer: String,
    /// Address of the router, or the interface that it is behind.
    pub(super) router: Option<String>,
    /// Established, or how far it got; nothing when the speaker tells nothing.
    pub(super) state: Option<String>,
    pub(super) bfd: Option<String>,
    /// Since when the session stands, or does not.
    pub(super) since: Option<String>,
    /// Why the last session, or the last attempt at one, ended.
    pub(super) last_error: Option<String>,
}

/// How many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    pub(super) wanted: usize,
    pub(super) established: usize,
}

impl Count {
    pub(super) fn of(sessions: &[Session]) -> Self {
        let established = sessions.iter().filter(|session| session.is_established()).count();
        Self { wanted: sessions.len(), established }
    }
}

/// The sessions that each node is to have, in the order of nodes and BGPPeers: of nodes that are Ready and have a speaker
/// that is. There are none where the cluster does not know the kind.
pub(super) fn of_all(allocation: &Allocation, announcing: &Announcing) -> Vec<Session> {
    let Some(states) = &announcing.session_states else { return Vec::new() };
    let statuses = states.iter().filter_map(|state: &BGPSessionState| state.status.as_ref());
    let told: BTreeMap<_, _> = statuses
        .filter_map(|status| Some(((status.node.as_deref()?, status.peer_name.as_deref()?), status)))
        .collect();
    let world = announcing.world(&allocation.services, &allocation.terms);
    let mut nodes: Vec<String> = announcing
        .nodes
        .iter()
        .filter(|node| has_condition(node, "Ready"))
        .map(ResourceExt::name_any)
        .filter(|node| announcing.speakers.iter().any(|pod| is_on(pod, node) && is_ready(pod)))
        .collect();
    nodes.sort();
    let of_node = |node: String| {
        let peers = routes::plan(&world, &node).peers.into_keys();
        let sessions = peers.map(|peer| {
            let status = told.get(&(node.as_str(), peer.as_str())).copied().cloned().unwrap_or_default();
            Session {
                node: node.clone(),
                peer,
                router: status.peer,
                state: status.bgp_status,
                bfd: status.bfd_status,
                since: status.since,
                last_error: status.last_error,
            }
        });
        sessions.collect::<Vec<_>>()
    };
    nodes.into_iter().flat_map(of_node).collect()
}

impl Session {
    pub(super) fn is_established(&self) -> bool {
        self.state.as_deref() == Some("Established")
    }

    /// What is wrong with it, in a sentence.
    pub(super) fn problem(&self) -> Option<String> {
        if self.is_established() {
            return None;
        }
        let router = self.router.as_ref().map(|router| format!(" ({router})")).unwrap_or_default();
        let state = match &self.state {
            Some(state) => format!("is {state}"),
            None => "is not told of by the speaker".to_owned(),
        };
        let error = self.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        Some(format!("the BGP session of {} with BGPPeer {}{router} {state}{error}", self.node, self.peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// Two nodes that are Ready, of which `b` has no speaker that is ready, and one that is not.
    fn announcing(states: Option<Value>) -> Announcing {
        let node = |name: &str, ready: &str| {
            json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                    "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
        };
        let pod = |node: &str, ready: &str| {
            json!({ "metadata": { "name": node, "labels": { "app": "metallb", "component": "speaker" } },
                    "spec": { "nodeName": node, "containers": [] },
                    "status": { "podIP": "192.0.2.1", "conditions": [{ "type": "Ready", "status": ready }] } })
        };
        let peer = |name: &str, address: &str| {
            json!({ "metadata": { "name": name },
                    "spec": { "myASN": 64512, "peerASN": 64513, "peerAddress": address } })
        };
        let mut announcing = Announcing {
            nodes: read(json!([node("a", "True"), node("b", "True"), node("c", "False")])),
            speakers: read(json!([pod("a", "True"), pod("b", "False"), pod("c", "True")])),
            session_states: states.map(read),
            ..Announcing::default()
        };
        announcing.configuration.bgp_peers = read(json!([
            peer("one", "192.0.2.254"),
            peer("two", "192.0.2.253"),
            peer("three", "192.0.2.252")
        ]));
        announcing
    }

    #[test]
    fn a_session_that_does_not_stand_is_a_problem_where_there_is_to_be_one() {
        let told = |node: &str, peer: &str, more: Value| {
            let mut status = json!({ "node": node, "peerName": peer });
            status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "metadata": { "name": format!("{node}-{peer}") }, "spec": {}, "status": status })
        };
        let error = "192.0.2.253: connection refused";
        let states = json!([
            told("a", "one", json!({ "bgpStatus": "Established" })),
            told("a", "two", json!({ "bgpStatus": "Active", "peer": "192.0.2.253", "lastError": error })),
            told("c", "one", json!({ "bgpStatus": "Active" })),
        ]);
        let sessions = of_all(&Allocation::default(), &announcing(Some(states)));
        assert_eq!(Count::of(&sessions), Count { wanted: 3, established: 1 });
        let problems: Vec<String> = sessions.iter().filter_map(Session::problem).collect();
        assert_eq!(
            problems,
            [
                "the BGP session of a with BGPPeer three is not told of by the speaker".to_owned(),
                format!("the BGP session of a with BGPPeer two (192.0.2.253) is Active: {error}"),
            ]
        );
        assert_eq!(of_all(&Allocation::default(), &announcing(None)), []);
    }
}
