//! One node, and what it can announce.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::L2Advertisement;
use crate::selector::Labels;

/// What announcing from a node depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Condition `NetworkUnavailable` is true.
    pub network_unavailable: bool,
    /// It is shutting down, or has taint `node.kubernetes.io/out-of-service`.
    pub going: bool,
    /// It is cordoned.
    pub unschedulable: bool,
    /// Interfaces that can announce now, by the word of the node's speaker; `None` when unknown, which counts as all.
    pub interfaces: Option<BTreeSet<String>>,
    /// Those of them that cannot announce IPv6.
    pub no_ipv6: BTreeSet<String>,
    /// Those of them that default routes go through, by the family of the route.
    pub default_routes: DefaultRoutes,
}

impl Node {
    /// Whether the interface of this name can carry announcements of `address`.
    pub(super) fn carries(&self, name: &str, address: IpAddr) -> bool {
        address.is_ipv4() || !self.no_ipv6.contains(name)
    }
}

/// Interfaces that default routes go through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultRoutes {
    /// Of IPv4.
    pub v4: BTreeSet<String>,
    /// Of IPv6.
    pub v6: BTreeSet<String>,
}

impl DefaultRoutes {
    /// Those for the family of `address`.
    pub fn of(&self, address: IpAddr) -> &BTreeSet<String> {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// Whether the advertisement selects the node and the node has an interface for one of the addresses.
pub(super) fn can_announce(advertisement: &L2Advertisement, node: &Node, addresses: &[IpAddr]) -> bool {
    let selected = |name: &String, address: &IpAddr| {
        node.carries(name, *address)
            && advertisement.interfaces.selects(name, node.default_routes.of(*address).contains(name))
    };
    let linked = node.interfaces.as_ref().is_none_or(|available| {
        available.iter().any(|name| addresses.iter().any(|address| selected(name, address)))
    });
    linked && advertisement.nodes.matches(&node.labels)
}
