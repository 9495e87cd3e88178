//! BFD echo packets that a profile asks for, and that cannot go to a router and come back.

use kube::{ResourceExt, core::DynamicObject};
use metallb_api::BGPPeer;
use metallb_core::config::{Objects, parse};

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
    let far: Vec<_> = users.filter(|peer| is_beyond(peer)).map(ResourceExt::name_any).collect();
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
        && is_beyond(&peer)
    {
        answer.warn(format!(
            "spec.bfdProfile: echoMode of BFDProfile {:?} has no effect on this peer, whose router may be more than one hop \
             away or has a link-local address",
            profile.name_any()
        ));
    }
}

/// Whether echo packets do not go to the router of a peer. One that cannot be served has none.
fn is_beyond(peer: &BGPPeer) -> bool {
    let mut alone = peer.clone();
    alone.spec.bfd_profile = None;
    let (config, _) = parse(&Objects { bgp_peers: vec![&alone], ..Objects::default() });
    config.peers.values().any(|peer| !peer.takes_echo())
}
