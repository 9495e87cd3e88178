//! Where the addresses of a node would go if it went away, with its speaker and its pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::ensure;
use metallb_core::{plan::World, service::ServiceKey};
use serde::Serialize;

use super::output::{Style, Table, judged, plain};
use crate::inspect::{Allocation, Announcing, bgp_plans, should};

/// What would become of the Services that the node announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Preview {
    node: String,
    services: Vec<Move>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Move {
    service: String,
    addresses: Vec<IpAddr>,
    /// Whether this node announces it on layer 2, and so somebody else must.
    layer2: bool,
    /// The node that would announce it on layer 2.
    layer2_to: Option<String>,
    /// Why none would.
    layer2_why: Option<String>,
    /// Whether this node announces it by BGP.
    bgp: bool,
    /// The nodes that would go on announcing it by BGP.
    bgp_left: BTreeSet<String>,
}

impl Move {
    /// Whether somebody would announce it.
    fn is_announced(&self) -> bool {
        self.layer2_to.is_some() || !self.bgp_left.is_empty()
    }
}

impl Preview {
    /// Plans with and without `node`.
    ///
    /// # Errors
    /// When there is no such node.
    pub(super) fn of(node: &str, allocation: &Allocation, announcing: &Announcing) -> anyhow::Result<Self> {
        let before = announcing.world(&allocation.services, &allocation.terms);
        ensure!(before.nodes.contains_key(node), "there is no node {node}");
        let after = without(&before, node);
        let (by_bgp, still_by_bgp) = (by_bgp(&before), by_bgp(&after));
        let none = BTreeSet::new();
        let services = before.services.iter().filter_map(|(key, service)| {
            let layer2 = should(&before, key).is_ok_and(|owner| owner == node);
            let bgp = by_bgp.get(key).unwrap_or(&none).contains(node);
            let to = should(&after, key);
            (layer2 || bgp).then(|| Move {
                service: key.to_string(),
                addresses: service.addresses.clone(),
                layer2,
                layer2_to: to.as_ref().ok().cloned(),
                layer2_why: to.err(),
                bgp,
                bgp_left: still_by_bgp.get(key).unwrap_or(&none).clone(),
            })
        });
        Ok(Self { node: node.to_owned(), services: services.collect() })
    }

    /// Whether somebody would announce each of them.
    pub(super) fn is_good(&self) -> bool {
        self.services.iter().all(Move::is_announced)
    }

    /// For people.
    pub(super) fn text(&self, style: Style) -> String {
        if self.services.is_empty() {
            return format!("{} announces nothing", self.node);
        }
        let mut table = Table::new(&["SERVICE", "ADDRESSES", "LAYER 2", "BGP"]);
        for moved in &self.services {
            let addresses: Vec<_> = moved.addresses.iter().map(ToString::to_string).collect();
            let layer2 = match (&moved.layer2_to, &moved.layer2_why) {
                (Some(to), _) if moved.layer2 => judged(format!("moves to {to}"), true),
                (Some(to), _) => plain(format!("stays on {to}")),
                (None, Some(why)) if moved.layer2 => judged(format!("nobody: {why}"), false),
                (None, _) => plain(""),
            };
            let left: Vec<_> = moved.bgp_left.iter().map(String::as_str).collect();
            let bgp = match (moved.bgp, left.is_empty()) {
                (false, _) => plain(left.join(", ")),
                (true, true) => judged("nobody", false),
                (true, false) => judged(format!("left: {}", left.join(", ")), true),
            };
            table.row([plain(&moved.service), plain(addresses.join(", ")), layer2, bgp]);
        }
        let lost = self.services.iter().filter(|moved| !moved.is_announced()).count();
        format!(
            "Without {}, before its pods run elsewhere:\n\n{}\n{lost} of {} Services would be announced by nobody\n",
            self.node,
            table.text(style),
            self.services.len()
        )
    }
}

/// The world as it is once the node, its speaker and its pods are gone.
fn without(world: &World, node: &str) -> World {
    let mut after = world.clone();
    after.nodes.remove(node);
    if let Some(speakers) = &mut after.speakers {
        speakers.remove(node);
    }
    for service in Arc::make_mut(&mut after.services).values_mut() {
        // Endpoints that are on no node, those of other hosts, are not told apart from the pods of the last node.
        if service.endpoints.nodes.remove(node) && service.endpoints.nodes.is_empty() {
            service.endpoints.any = false;
        }
    }
    after
}

/// By Service, the nodes that announce it to some peer.
fn by_bgp(world: &World) -> BTreeMap<ServiceKey, BTreeSet<String>> {
    let mut nodes: BTreeMap<ServiceKey, BTreeSet<String>> = BTreeMap::new();
    for (node, plan) in bgp_plans(world) {
        for (service, verdict) in plan.services {
            if verdict.is_ok() {
                nodes.entry(service).or_default().insert(node.to_owned());
            }
        }
    }
    nodes
}
