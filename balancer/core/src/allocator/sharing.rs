//! The addresses that Services with a sharing key hold, so that another with the key finds one without a search.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::holders::Holders;
use crate::service::{Port, Sharing, Tenant};

/// The addresses that one sharing key holds, by the set of ports in use on them.
type ByPorts = BTreeMap<Vec<Port>, BTreeSet<IpAddr>>;

/// Shared addresses by the terms on which they are shared.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(BTreeMap<Sharing, ByPorts>);

impl Shared {
    /// Enters `address` as its holders stand now, if they share it.
    pub(super) fn list(&mut self, address: IpAddr, holders: &Holders) {
        if let Some(sharing) = &holders.sharing {
            let by_ports = self.0.entry(sharing.clone()).or_default();
            by_ports.entry(holders.port_numbers()).or_default().insert(address);
        }
    }

    /// Takes `address` out, as its holders stand now.
    pub(super) fn unlist(&mut self, address: IpAddr, holders: &Holders) {
        let Some(sharing) = &holders.sharing else { return };
        let Some(by_ports) = self.0.get_mut(sharing) else { return };
        let ports = holders.port_numbers();
        if let Some(addresses) = by_ports.get_mut(&ports) {
            addresses.remove(&address);
            if addresses.is_empty() {
                by_ports.remove(&ports);
            }
        }
        if by_ports.is_empty() {
            self.0.remove(sharing);
        }
    }

    /// The addresses that are shared on the terms of `tenant` and on which its ports are free; `None` when there are
    /// none on its terms.
    pub(super) fn fitting(&self, tenant: &Tenant) -> Option<Vec<&BTreeSet<IpAddr>>> {
        let by_ports = self.0.get(tenant.sharing.as_ref()?)?;
        let free = |ports: &&Vec<Port>| tenant.ports.iter().all(|port| ports.binary_search(port).is_err());
        Some(by_ports.iter().filter(|(ports, _)| free(ports)).map(|(_, addresses)| addresses).collect())
    }
}
