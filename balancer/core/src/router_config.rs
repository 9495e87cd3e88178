//! What the other end of BGP sessions needs: the configuration of a router, derived from the BGPPeers.
//!
//! [`neighbors`] says it in no router's language, [`render`] in one of five. Passwords are left blank.

mod dialects;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{BfdProfile, Config, Distance, Endpoint, Password, Peer, RemoteAsn};
use crate::range::Family;
use crate::routes::families;
use crate::selector::Labels;

pub use dialects::{Dialect, UnknownDialect};
pub use render::render;

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses within the network.
    pub addresses: Vec<IpAddr>,
}

/// The sessions of one BGPPeer as the router sees them: the nodes are its neighbors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbors {
    /// Name of the BGPPeer.
    pub name: String,
    /// The router, as the nodes know it.
    pub router: Endpoint,
    /// TCP port on which the router listens.
    pub port: u16,
    /// AS number of the router; `None` where any other than the nodes' will do.
    pub router_asn: Option<u32>,
    /// AS number that the nodes show.
    pub node_asn: u32,
    /// Names of the nodes, and the addresses from which they connect; `None` where the router's family has none.
    pub nodes: BTreeMap<String, Option<IpAddr>>,
    /// Families of the routes.
    pub families: BTreeSet<Family>,
    /// Where the password of the sessions is, in words.
    pub password: Option<String>,
    /// How far away the nodes may be.
    pub distance: Distance,
    /// How many hops away by the TTL of what is received (GTSM, RFC 5082).
    pub ttl_security_hops: Option<u8>,
    /// Timers of the BFD sessions; echo mode only where echo packets go to the router.
    pub bfd: Option<BfdProfile>,
    /// Whether routes survive a restart of a speaker (RFC 4724).
    pub graceful_restart: bool,
    /// Whether the router opens the connections.
    pub router_connects: bool,
}

impl Neighbors {
    /// Whether both ends are of one AS.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.router_asn == Some(self.node_asn)
    }

    /// Whether the router is known by an interface of the nodes: IPv4 routes have IPv6 next hops then (RFC 8950).
    #[must_use]
    pub fn is_unnumbered(&self) -> bool {
        matches!(self.router, Endpoint::Interface(_))
    }

    /// Shortest time between BFD echo packets, where the nodes send and take any.
    #[must_use]
    pub fn echo(&self) -> Option<Duration> {
        self.bfd.as_ref().filter(|bfd| bfd.echo_mode).map(|bfd| bfd.echo_interval)
    }

    /// Addresses from which the nodes connect.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.nodes.values().copied().flatten()
    }

    /// The least prefix that holds the addresses of all nodes.
    #[must_use]
    pub fn range(&self) -> Option<IpNet> {
        let mut addresses = self.addresses().map(IpNet::from);
        let first = addresses.next()?;
        addresses.try_fold(first, |range, address| {
            let mut wider = range;
            while !wider.contains(&address) {
                wider = wider.supernet()?;
            }
            Some(wider.trunc())
        })
    }
}

/// The sessions of each BGPPeer that some node has, in the order of their names.
#[must_use]
pub fn neighbors(config: &Config, nodes: &[Node]) -> Vec<Neighbors> {
    let of = |peer: &Peer| {
        let its: BTreeMap<_, _> = nodes
            .iter()
            .filter(|node| peer.nodes.matches(&node.labels))
            .map(|node| (node.name.clone(), peer.source.or_else(|| address(node, &peer.endpoint))))
            .collect();
        let node_asn = peer.local_asn.unwrap_or(peer.my_asn);
        (!its.is_empty()).then(|| Neighbors {
            name: peer.name.clone(),
            router: peer.endpoint.clone(),
            port: peer.port,
            router_asn: match peer.remote_asn {
                RemoteAsn::Number(asn) => Some(asn),
                RemoteAsn::Internal => Some(node_asn),
                RemoteAsn::External => None,
            },
            node_asn,
            nodes: its,
            families: families(peer),
            password: peer.password.as_ref().map(|password| match password {
                Password::Plain(_) => format!("the password of BGPPeer {}", peer.name),
                Password::Secret(name) => format!("the password in Secret {name}"),
            }),
            distance: peer.distance(),
            ttl_security_hops: peer.ttl_security_hops,
            bfd: config.bfd_of(peer),
            graceful_restart: peer.graceful_restart,
            router_connects: peer.passive,
        })
    };
    config.peers.values().filter_map(of).collect()
}

/// The address from which a node most likely connects to the router: its first of the same family.
fn address(node: &Node, router: &Endpoint) -> Option<IpAddr> {
    let Endpoint::Address(router) = router else { return None };
    node.addresses.iter().copied().find(|address| Family::of(*address) == Family::of(*router))
}

#[cfg(test)]
#[path = "router_config_tests.rs"]
mod tests;
