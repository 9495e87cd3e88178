//! What the sessions of this node are made from: configuration and plan in the terms of the protocol. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use metallb_core::config::{
    BfdProfile, Community, Config, Distance, Endpoint, Password, Peer, Problem, RemoteAsn,
};
use metallb_core::range;
use metallb_core::routes::{self, Plan, Told};
use metallb_core::service::ServiceKey;
use metallb_proto::bgp::{self, Asn, Family, GracefulRestart, LargeCommunity, RouterId, Routes};

/// Hold time to ask for unless a peer says otherwise: MetalLB's own.
const HOLD_TIME: Duration = Duration::from_secs(90);
/// Time in which a restarted speaker is back, before routers drop its routes. A pod is replaced within seconds; one that fails
/// at its start is tried again after 10 s, and a node that has much to do takes its time. Longer than that only keeps the
/// routes of a node that died as if it restarted.
pub(super) const RESTART_TIME: Duration = Duration::from_secs(40);
/// Time between the request to prefer other paths and the withdrawal: a few round trips of the network's routers, and
/// well within the time that a pod has to end.
const DRAIN: Duration = Duration::from_secs(3);

/// Why a passive peer has no session while routers cannot connect to this node.
pub(crate) const NOT_LISTENING: &str = "passive needs speakerConfig.bgpListen of the MetalLB resource";

/// What the last error of a passive peer begins with whose router cannot connect although it should.
pub(crate) const CANNOT_LISTEN: &str = "CannotListen: routers cannot connect to this node";

/// Whose habits an installation has: what `bgpBackend` of the MetalLB resource says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// MetalLB's own BGP: the TTL is not limited.
    #[default]
    Native,
    /// FRR beside the speaker: a router of another AS is one hop away unless `ebgpMultiHop` is set.
    Frr,
    /// The same with FRR in a DaemonSet of its own.
    FrrK8s,
    /// The same with FRR that somebody else installed.
    FrrK8sExternal,
}

/// What holds for all sessions of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// BGP Identifier unless a peer says otherwise.
    pub(crate) router_id: RouterId,
    pub(crate) backend: Backend,
    /// Whether routers may connect to this node.
    pub(crate) listens: bool,
    /// Whether the node went on forwarding while no speaker ran (the F bits of RFC 4724).
    pub(crate) preserved: bool,
}

/// The BGP Identifier of a node: its IPv4 address, or a number made from its name, which is as good as unique.
pub(crate) fn router_id(address: Option<IpAddr>, name: &str) -> RouterId {
    let IpAddr::V4(v4) = address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()) else { return named_id(name) };
    if v4.is_unspecified() || v4.is_loopback() { named_id(name) } else { RouterId(v4) }
}

/// FNV-1a: the same in every run, and never 0 (RFC 6286 §2.1).
pub(super) fn named_id(name: &str) -> RouterId {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    RouterId(Ipv4Addr::from_bits(hash.max(1)))
}

/// What is read of a Secret that a peer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is none of this name.
    Missing,
    /// It holds no password for a peer, and why.
    Unusable(String),
    /// The password.
    Password(Key),
}

/// A password of the TCP MD5 signature. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Key(Arc<[u8]>);

impl Key {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// All that a session is made from. It is begun anew only when something changes that the router sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    /// Where the router is.
    pub(super) endpoint: Endpoint,
    /// TCP port of the router.
    pub(super) port: u16,
    /// Address of this end.
    pub(super) source: Option<IpAddr>,
    /// Interface (a VRF) that the connection is bound to.
    pub(super) device: Option<String>,
    pub(super) ttl: Ttl,
    pub(super) password: Option<Key>,
    /// Settings of the protocol; `seed` and `graceful_restart.restarting` are set when the session begins.
    pub(super) settings: bgp::Settings,
}

impl Spec {
    /// Whether a session with `former` goes on with this: nothing that the router sees is different.
    pub(super) fn continues(&self, former: &Self) -> bool {
        let settings = former.settings.with_habits_of(&self.settings);
        *self == Self { settings, ..former.clone() }
    }

    /// Whether it goes another way, or to another router.
    pub(super) fn leads_elsewhere_than(&self, former: &Self) -> bool {
        let way = |spec: &Self| (spec.endpoint.clone(), spec.source, spec.device.clone());
        way(self) != way(former)
    }
}

/// TTL or hop limit of a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ttl {
    /// The kernel's.
    Default,
    /// 1: the router is on the same link.
    OneHop,
    /// 255, and what arrives took at most so many hops (RFC 5082).
    Security {
        /// 1 to 254.
        hops: u8,
    },
}

impl Ttl {
    /// The least with which packets of the router are taken, where there is one.
    pub(super) fn least(self) -> Option<u8> {
        match self {
            Self::Security { hops } => Some(u8::MAX - (hops - 1)),
            Self::Default | Self::OneHop => None,
        }
    }
}

/// A peer of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedPeer {
    /// Where the router is.
    pub(super) endpoint: Endpoint,
    /// VRF in which it is reached.
    pub(super) vrf: Option<String>,
    /// How the session is made, or why there can be none.
    pub(super) spec: Result<Arc<Spec>, String>,
    /// The BFD session that goes with it.
    pub(super) bfd: Option<BfdProfile>,
    /// How far away the router may be.
    pub(super) distance: Distance,
    pub(super) routes: Arc<Routes>,
}

/// All that is to be announced by BGP from this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// By name of the BGPPeer.
    pub(super) peers: BTreeMap<String, WantedPeer>,
    /// By Service, who is told of it.
    pub(super) services: BTreeMap<ServiceKey, Told>,
    /// What the plan found wrong.
    pub(crate) problems: Vec<Problem>,
}

impl Wanted {
    pub(crate) fn of(config: &Config, plan: Plan, node: Node, secrets: &BTreeMap<String, Found>) -> Self {
        // Peers that are told the same share one table in the plan, and do so here.
        let mut tables: Vec<(Arc<routes::Routes>, Arc<Routes>)> = Vec::new();
        let peers = plan.peers.into_iter().filter_map(|(name, table)| {
            let peer = config.peers.get(&name)?;
            let known = tables.iter().find(|(known, _)| Arc::ptr_eq(known, &table));
            let routes = known.map(|(_, routes)| Arc::clone(routes)).unwrap_or_else(|| {
                let routes = Arc::new(on_the_wire(&table));
                tables.push((table, Arc::clone(&routes)));
                routes
            });
            let wanted = WantedPeer {
                endpoint: peer.endpoint.clone(),
                vrf: peer.vrf.clone(),
                spec: spec(peer, node, secrets).map(Arc::new),
                bfd: config.bfd_of(peer),
                distance: peer.distance(),
                routes,
            };
            Some((name, wanted))
        });
        let peers = peers.collect();
        let services = plan.services.into_iter().filter_map(|(key, told)| Some((key, told.ok()?)));
        Self { peers, services: services.collect(), problems: plan.problems }
    }
}

fn spec(peer: &Peer, node: Node, secrets: &BTreeMap<String, Found>) -> Result<Spec, String> {
    if peer.passive && !node.listens {
        return Err(NOT_LISTENING.to_owned());
    }
    if let Endpoint::Interface(_) = peer.endpoint
        && peer.passive
    {
        return Err("a peer that is known by its interface cannot be passive".to_owned());
    }
    let password = match &peer.password {
        None => None,
        Some(Password::Plain(text)) => Some(Key::new(text.as_bytes())),
        Some(Password::Secret(name)) => match secrets.get(name) {
            Some(Found::Password(key)) => Some(key.clone()),
            Some(Found::Unusable(why)) => return Err(format!("Secret {name:?} {why}")),
            Some(Found::Missing) => return Err(format!("there is no Secret {name:?}")),
            None => return Err(format!("Secret {name:?} was not read yet")),
        },
    };
    let is_unnumbered = matches!(peer.endpoint, Endpoint::Interface(_));
    let ttl = match peer.ttl_security_hops {
        Some(hops) => Ttl::Security { hops },
        None if node.backend != Backend::Native && peer.is_external() && !peer.ebgp_multi_hop => Ttl::OneHop,
        None => Ttl::Default,
    };
    let families = routes::families(peer).into_iter().map(|family| match family {
        range::Family::V4 => Family::Ipv4,
        range::Family::V6 => Family::Ipv6,
    });
    let restart = GracefulRestart { time: RESTART_TIME, restarting: false, preserved: node.preserved };
    Ok(Spec {
        endpoint: peer.endpoint.clone(),
        port: peer.port,
        source: peer.source,
        device: peer.vrf.clone(),
        ttl,
        password,
        settings: bgp::Settings {
            local_asn: Asn(peer.local_asn.unwrap_or(peer.my_asn)),
            remote_asn: match peer.remote_asn {
                RemoteAsn::Number(asn) => bgp::RemoteAsn::Exactly(Asn(asn)),
                RemoteAsn::Internal => bgp::RemoteAsn::Internal,
                RemoteAsn::External => bgp::RemoteAsn::External,
            },
            router_id: peer.router_id.map_or(node.router_id, RouterId),
            hold_time: peer.timers.map_or(HOLD_TIME, |timers| timers.hold),
            keepalive: peer.timers.map(|timers| timers.keepalive),
            connect_retry: peer.connect_time,
            families: families.collect(),
            extended_next_hop: is_unnumbered,
            graceful_restart: peer.graceful_restart.then_some(restart),
            passive: peer.passive,
            max_prefixes: peer.max_prefixes,
            drain: DRAIN,
            seed: 0,
        },
    })
}

fn on_the_wire(table: &routes::Routes) -> Routes {
    let mut shared: BTreeMap<&routes::Attributes, Arc<bgp::Attributes>> = BTreeMap::new();
    table
        .iter()
        .map(|(prefix, attributes)| {
            let attributes =
                shared.entry(&**attributes).or_insert_with(|| Arc::new(attributes_on_the_wire(attributes)));
            (*prefix, Arc::clone(attributes))
        })
        .collect()
}

fn attributes_on_the_wire(attributes: &routes::Attributes) -> bgp::Attributes {
    let mut wire = bgp::Attributes {
        local_pref: attributes.local_pref,
        med: attributes.med,
        prepend: attributes.prepend,
        ..bgp::Attributes::default()
    };
    for community in &attributes.communities {
        match *community {
            Community::Standard(high, low) => {
                wire.communities.insert(bgp::Community(u32::from(high) << 16 | u32::from(low)));
            }
            Community::Large(global, first, second) => {
                wire.large_communities.insert(LargeCommunity(global, first, second));
            }
        }
    }
    wire
}

#[cfg(test)]
#[path = "spec_tests.rs"]
pub(super) mod tests;
