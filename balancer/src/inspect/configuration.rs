//! Objects of the configuration, wherever they come from.

use kube::ResourceExt;
use metallb_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, IPAddressPoolSpec, L2Advertisement,
    address_pool::v1beta1::{AddressPool, AddressPoolSpec},
    names::GROUP,
};
use metallb_core::config::{Objects, Problem, parse};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The objects that say what is announced, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configuration {
    /// IPAddressPools.
    pub(crate) pools: Vec<IPAddressPool>,
    /// The IPAddressPools that the operator makes of AddressPools.
    pub(crate) made: Vec<IPAddressPool>,
    /// L2Advertisements.
    pub(crate) l2_advertisements: Vec<L2Advertisement>,
    /// BGPAdvertisements.
    pub(crate) bgp_advertisements: Vec<BGPAdvertisement>,
    /// BGPPeers.
    pub(crate) bgp_peers: Vec<BGPPeer>,
    /// BFDProfiles.
    pub(crate) bfd_profiles: Vec<BFDProfile>,
    /// Communities.
    pub(crate) communities: Vec<Community>,
}

impl Configuration {
    /// Takes one object in; `None` when it is of no kind of the configuration.
    ///
    /// # Errors
    /// When it has not the form of its kind.
    pub(crate) fn take(&mut self, object: Value) -> Option<serde_json::Result<()>> {
        let group = object["apiVersion"].as_str().unwrap_or_default().split('/').next();
        if group != Some(GROUP) {
            return None;
        }
        Some(match object["kind"].as_str().unwrap_or_default() {
            "IPAddressPool" => push(&mut self.pools, object),
            // The operator makes an IPAddressPool of the same name of it.
            "AddressPool" => serde_json::from_value::<AddressPool>(object).map(|pool| {
                let AddressPoolSpec { addresses, auto_assign, .. } = pool.spec;
                let spec = IPAddressPoolSpec { addresses, auto_assign, ..IPAddressPoolSpec::default() };
                self.made.push(IPAddressPool { metadata: pool.metadata, spec, status: None });
            }),
            "L2Advertisement" => push(&mut self.l2_advertisements, object),
            "BGPAdvertisement" => push(&mut self.bgp_advertisements, object),
            "BGPPeer" => push(&mut self.bgp_peers, object),
            "BFDProfile" => push(&mut self.bfd_profiles, object),
            "Community" => push(&mut self.communities, object),
            _ => return None,
        })
    }

    /// The IPAddressPools, and those that the operator is yet to make.
    pub(crate) fn all_pools(&self) -> impl Iterator<Item = &IPAddressPool> {
        self.pools.iter().chain(self.unmade())
    }

    /// The IPAddressPools that the operator makes of AddressPools, but for those that are there already.
    fn unmade(&self) -> impl Iterator<Item = &IPAddressPool> {
        let is_there =
            |pool: &&IPAddressPool| self.pools.iter().any(|other| other.name_any() == pool.name_any());
        self.made.iter().filter(move |pool| !is_there(pool))
    }

    /// What is wrong with the objects, which each is told of by the kind that its file has.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let (_, mut problems) = parse(&self.objects());
        let unmade: Vec<String> = self.unmade().map(ResourceExt::name_any).collect();
        for problem in
            problems.iter_mut().filter(|it| it.kind == "IPAddressPool" && unmade.contains(&it.name))
        {
            "AddressPool".clone_into(&mut problem.kind);
        }
        problems
    }

    /// The objects, to be parsed.
    pub(crate) fn objects(&self) -> Objects<'_> {
        Objects {
            pools: self.all_pools().collect(),
            l2_advertisements: self.l2_advertisements.iter().collect(),
            bgp_advertisements: self.bgp_advertisements.iter().collect(),
            bgp_peers: self.bgp_peers.iter().collect(),
            bfd_profiles: self.bfd_profiles.iter().collect(),
            communities: self.communities.iter().collect(),
        }
    }
}

fn push<T: DeserializeOwned>(list: &mut Vec<T>, object: Value) -> serde_json::Result<()> {
    list.push(serde_json::from_value(object)?);
    Ok(())
}
