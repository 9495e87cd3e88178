//! BFD echo packets that a profile asks for, and that cannot go to a router and come back.

use std::net::IpAddr;

use kube::{ResourceExt, core::DynamicObject};
use metallb_api::{BGPPeer, BGPPeerSpec, DynamicAsn};

use super::{Answer, Existing};

/// Names the peers that a profile's echo packets do not reach, of those that name the profile.
pub(super) fn judge_profile<'a>(
    profile: &DynamicObject,
    users: impl Iterator<Item = &'a BGPPeer>,
    answer: &mut Answer,
) {
    if profile.data["spec"]["echoMode"] != true {
        return;
    }
    let far: Vec<_> = users.filter(|peer| is_beyond(&peer.spec)).map(ResourceExt::name_any).collect();
    if !far.is_empty() {
        answer.warn(format!(
            "spec.echoMode: has no effect on these BGPPeers, whose routers may be more than one hop away or have link-local \
             addresses: {}",
            far.join(", ")
        ));
    }
}

/// Warns of a peer that the echo packets of its profile do not reach.
pub(super) fn judge_peer(peer: &DynamicObject, existing: &Existing, answer: &mut Answer) {
    // One that cannot be read was denied.
    let Ok(peer) = peer.clone().try_parse::<BGPPeer>() else { return };
    let mut profiles = existing.bfd_profiles.iter().filter(|profile| profile.spec.echo_mode == Some(true));
    let named = peer.spec.bfd_profile.as_deref();
    if let Some(profile) = profiles.find(|profile| Some(profile.name_any().as_str()) == named)
        && is_beyond(&peer.spec)
    {
        answer.warn(format!(
            "spec.bfdProfile: echoMode of BFDProfile {:?} has no effect on this peer, whose router may be more than one hop \
             away or has a link-local address",
            profile.name_any()
        ));
    }
}

/// Whether no echo packets can go to a router and come back: it may be several hops away, or is addressed within its link.
fn is_beyond(peer: &BGPPeerSpec) -> bool {
    let own = peer.local_asn.unwrap_or(peer.my_asn);
    let is_internal = peer.peer_asn == Some(own) || peer.dynamic_asn == Some(DynamicAsn::Internal);
    let address = peer.peer_address.as_deref().and_then(|address| address.parse().ok());
    let is_link_local = matches!(address, Some(IpAddr::V6(v6)) if v6.is_unicast_link_local());
    is_internal || peer.ebgp_multi_hop == Some(true) || peer.interface.is_some() || is_link_local
}
