//! Released addresses that no other Service may have yet (`IPAddressPool.spec.cooldown`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::{range::AddressRange, service::ServiceKey};

/// Why an address rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The Service that held it, and that has it back if it asks.
    pub service: ServiceKey,
    /// When anybody may have it, since 1970.
    pub until: Duration,
}

/// The addresses that rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Resting {
    rests: BTreeMap<IpAddr, Rest>,
    by_service: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    by_end: BTreeSet<(Duration, IpAddr)>,
}

impl Resting {
    pub(super) fn insert(&mut self, address: IpAddr, rest: Rest) {
        self.remove(address);
        self.by_service.entry(rest.service.clone()).or_default().insert(address);
        self.by_end.insert((rest.until, address));
        self.rests.insert(address, rest);
    }

    pub(super) fn remove(&mut self, address: IpAddr) -> Option<Rest> {
        let rest = self.rests.remove(&address)?;
        self.by_end.remove(&(rest.until, address));
        if let Some(addresses) = self.by_service.get_mut(&rest.service) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_service.remove(&rest.service);
            }
        }
        Some(rest)
    }

    pub(super) fn get(&self, address: IpAddr) -> Option<&Rest> {
        self.rests.get(&address)
    }

    /// What `service` may have back.
    pub(super) fn of(&self, service: &ServiceKey) -> impl Iterator<Item = IpAddr> {
        self.by_service.get(service).into_iter().flatten().copied()
    }

    pub(super) fn within(&self, range: &AddressRange) -> impl Iterator<Item = (IpAddr, &Rest)> {
        self.rests.range(range.first()..=range.last()).map(|(address, rest)| (*address, rest))
    }

    /// An address whose rest is over at `now`.
    pub(super) fn rested(&self, now: Duration) -> Option<IpAddr> {
        self.by_end.first().filter(|(until, _)| *until <= now).map(|(_, address)| *address)
    }

    /// When the next rest is over.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.by_end.first().map(|(until, _)| *until)
    }
}
