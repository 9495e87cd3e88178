//! Whether a Service is announced, and if it is not, what stands in the way.
//!
//! That it is announced is what the speakers say. Why it is not is found by going through all that announcing needs, in
//! the order in which an administrator would.

use std::collections::BTreeSet;

use metallb_api::{BGPSessionState, names::EXCLUDE_LB_LABEL};

use crate::{
    config::{BgpAdvertisement, L2Advertisement, Pool},
    plan::{Service, World},
    range::AddressRange,
    selector::Labels,
};

/// Service condition: whether any speaker announces the Service.
pub const ANNOUNCED: &str = "metallb.io/Announced";

/// Reason of [`ANNOUNCED`] when some speaker does.
pub const ANNOUNCED_REASON: &str = "Announced";

/// Why a Service is announced by nobody: the reason of [`ANNOUNCED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No advertisement is about it, or those that are select no node.
    NoAdvertisement,
    /// No endpoint is ready where it would have to be.
    NoReadyEndpoint,
    /// Every node that its advertisements select is excluded by its label.
    ExcludedByLabel,
    /// No node that may announce has an interface for it.
    NoInterface,
    /// No node has an address in the subnet of the Service's, as far as the subnets of nodes are known: on layer 2
    /// nobody asks for it.
    OutsideNodeSubnet,
    /// Another host has its address. Found by the speaker that owns the address, and written by it.
    Conflict,
    /// No BGP session stands by which it would be announced.
    SessionDown,
    /// No speaker is ready on a node that may announce.
    NoSpeaker,
}

impl Reason {
    /// As it stands in the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAdvertisement => "NoAdvertisement",
            Self::NoReadyEndpoint => "NoReadyEndpoint",
            Self::ExcludedByLabel => "ExcludedByLabel",
            Self::NoInterface => "NoInterface",
            Self::OutsideNodeSubnet => "OutsideNodeSubnet",
            Self::Conflict => "Conflict",
            Self::SessionDown => "SessionDown",
            Self::NoSpeaker => "NoSpeaker",
        }
    }

    /// Whether only the speaker that owns the address knows: what it wrote stands until it writes that it is over.
    #[must_use]
    pub fn is_owners(reason: &str) -> bool {
        reason == Self::Conflict.as_str()
    }
}

/// The nodes whose speakers say that they announce a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcers {
    /// By ARP and NDP.
    pub layer2: BTreeSet<String>,
    /// By BGP, in a session that stands.
    pub bgp: BTreeSet<String>,
    /// Its addresses that are in no subnet of a node, by [`outside`].
    ///
    /// [`outside`]: crate::subnets::outside
    pub outside: Vec<AddressRange>,
}

/// The BGP sessions that stand, by node and BGPPeer; `None` when they cannot be read, and every session counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions(pub Option<BTreeSet<(String, String)>>);

impl Sessions {
    /// Whether the session of `node` with `peer` stands.
    #[must_use]
    pub fn stands(&self, node: &str, peer: &str) -> bool {
        self.0.as_ref().is_none_or(|standing| standing.contains(&(node.to_owned(), peer.to_owned())))
    }

    /// Node and BGPPeer of a session, when it stands.
    #[must_use]
    pub fn standing(session: &BGPSessionState) -> Option<(String, String)> {
        let status = session.status.as_ref()?;
        let stands = status.bgp_status.as_deref() == Some("Established");
        Some((status.node.clone()?, status.peer_name.clone()?)).filter(|_| stands)
    }
}

/// What [`ANNOUNCED`] is to say: how the Service is announced, or why it is not and in words. Neither names a node, so
/// that nothing is written when an address moves from one to another.
pub type Judgement = Result<&'static str, (Reason, String)>;

/// Judges one Service, which has an address. `world` need not hold it.
pub fn judge(world: &World, service: &Service, announcers: &Announcers) -> Judgement {
    let speaks = |node: &&String| world.speakers.as_ref().is_none_or(|speakers| speakers.contains(*node));
    let any = |nodes: &BTreeSet<String>| nodes.iter().any(|node| speaks(&node));
    match (any(&announcers.layer2), any(&announcers.bgp)) {
        (true, true) => Ok("on layer 2 and by BGP"),
        (true, false) if announcers.outside.is_empty() => Ok("on layer 2"),
        (true, false) => {
            let addresses: Vec<_> =
                announcers.outside.iter().map(|range| range.first().to_string()).collect();
            let message = format!(
                "announced on layer 2, but no node has an address in the subnet of {}: only hosts with a route to it \
                 over the link of the nodes reach it",
                addresses.join(", ")
            );
            Err((Reason::OutsideNodeSubnet, message))
        }
        (false, true) => Ok("by BGP"),
        (false, false) => Err(obstacle(world, service)),
    }
}

fn obstacle(world: &World, service: &Service) -> (Reason, String) {
    let told = |reason: Reason, message: &str| (reason, message.to_owned());
    let Some(pool) = world.pool_of(service) else {
        return told(Reason::NoAdvertisement, "no pool holds its address");
    };
    let advertisements = match Advertisements::of(world, pool, service) {
        Ok(found) => found,
        Err(message) => return (Reason::NoAdvertisement, message),
    };
    if !service.endpoints.any {
        return told(Reason::NoReadyEndpoint, "no endpoint is ready");
    }
    let mut nodes: Vec<_> =
        world.nodes.iter().filter(|(_, node)| advertisements.select(&node.labels)).collect();
    if nodes.is_empty() {
        return told(Reason::NoAdvertisement, "its advertisements select no node");
    }
    if !world.ignore_exclude_label {
        nodes.retain(|(_, node)| !node.labels.contains_key(EXCLUDE_LB_LABEL));
    }
    if nodes.is_empty() {
        let message = format!("label {EXCLUDE_LB_LABEL} excludes every node that its advertisements select");
        return (Reason::ExcludedByLabel, message);
    }
    nodes.retain(|(_, node)| !node.network_unavailable);
    if nodes.is_empty() {
        return told(Reason::NoInterface, "the network of every node that may announce is unavailable");
    }
    nodes.retain(|(name, _)| world.speakers.as_ref().is_none_or(|speakers| speakers.contains(*name)));
    if nodes.is_empty() {
        return told(Reason::NoSpeaker, "no speaker is ready on a node that may announce");
    }
    nodes.retain(|(name, _)| !service.local || service.endpoints.nodes.contains(name));
    if nodes.is_empty() {
        let message = "externalTrafficPolicy is Local, and no endpoint is ready on a node that may announce";
        return told(Reason::NoReadyEndpoint, message);
    }
    if nodes.iter().any(|(_, node)| advertisements.select_on_layer2(&node.labels)) {
        return told(Reason::NoInterface, "no node that may announce has an interface for it");
    }
    told(Reason::SessionDown, "no BGP session stands by which it would be announced")
}

/// The advertisements that are about one Service.
struct Advertisements<'a> {
    layer2: Vec<&'a L2Advertisement>,
    bgp: Vec<&'a BgpAdvertisement>,
}

impl<'a> Advertisements<'a> {
    /// # Errors
    /// Why there are none.
    fn of(world: &'a World, pool: &Pool, service: &Service) -> Result<Self, String> {
        let config = &world.config;
        let mut layer2: Vec<_> =
            config.l2_advertisements.values().filter(|ad| ad.pools.matches(pool)).collect();
        let mut bgp: Vec<_> =
            config.bgp_advertisements.values().filter(|ad| ad.pools.contains(&pool.name)).collect();
        if layer2.is_empty() && bgp.is_empty() {
            return Err(format!("no L2Advertisement or BGPAdvertisement is about pool {:?}", pool.name));
        }
        layer2.retain(|ad| ad.services.matches(&service.labels));
        bgp.retain(|ad| ad.services.matches(&service.labels));
        if layer2.is_empty() && bgp.is_empty() {
            return Err(format!("the advertisements of pool {:?} select other Services", pool.name));
        }
        if service.shared && layer2.iter().any(|ad| !ad.services.is_everything()) {
            layer2.clear();
        }
        if layer2.is_empty() && bgp.is_empty() {
            return Err("it shares its address, and its L2Advertisements select single Services".to_owned());
        }
        Ok(Self { layer2, bgp })
    }

    fn select_on_layer2(&self, node: &Labels) -> bool {
        self.layer2.iter().any(|ad| ad.nodes.matches(node))
    }

    fn select(&self, node: &Labels) -> bool {
        self.select_on_layer2(node) || self.bgp.iter().any(|ad| ad.nodes.matches(node))
    }
}

#[cfg(test)]
#[path = "announced_tests.rs"]
mod tests;
