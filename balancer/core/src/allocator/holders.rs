//! The Services that hold one address, and who else may.

use std::net::IpAddr;

use thiserror::Error;

use crate::service::{Port, ServiceKey, Sharing, Tenant};

/// How many other holders an error message names.
const NAMED_HOLDERS: usize = 10;

/// Why a Service may not hold an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Conflict {
    /// Others hold it, on other terms.
    #[error("can't change sharing key for {service:?}, address also in use by {others}")]
    Sharing {
        /// The address.
        address: IpAddr,
        /// The Service that asks.
        service: ServiceKey,
        /// The Services that hold the address, separated by commas.
        others: String,
    },
    /// It was released a short time ago by another Service.
    #[error("{address} rests after its release by {holder:?}")]
    Resting {
        /// The address.
        address: IpAddr,
        /// The Service that held it.
        holder: ServiceKey,
    },
    /// Another holder uses the port.
    #[error("port {port} is already in use on {address}")]
    Port {
        /// The port that both use.
        port: Port,
        /// The address.
        address: IpAddr,
    },
}

/// The holders of one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Holders {
    pub(super) sharing: Option<Sharing>,
    /// Sorted.
    pub(super) services: Vec<ServiceKey>,
    /// Sorted by port.
    ports: Vec<(Port, ServiceKey)>,
}

impl Holders {
    pub(super) fn admits(
        &self,
        address: IpAddr,
        service: &ServiceKey,
        tenant: &Tenant,
    ) -> Result<(), Conflict> {
        if self.services.iter().all(|holder| holder == service) {
            return Ok(());
        }
        if tenant.sharing.is_none() || self.sharing != tenant.sharing {
            let others = self.services.iter().filter(|holder| *holder != service);
            let mut names: Vec<_> = others.clone().take(NAMED_HOLDERS).map(ToString::to_string).collect();
            if others.count() > NAMED_HOLDERS {
                names.push("…".to_owned());
            }
            return Err(Conflict::Sharing { address, service: service.clone(), others: names.join(",") });
        }
        for port in &tenant.ports {
            if let Ok(found) = self.ports.binary_search_by_key(port, |(port, _)| *port)
                && self.ports.get(found).is_some_and(|(_, holder)| holder != service)
            {
                return Err(Conflict::Port { port: *port, address });
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, service: &ServiceKey, tenant: &Tenant) {
        self.remove(service);
        if let Err(place) = self.services.binary_search(service) {
            self.services.insert(place, service.clone());
        }
        self.sharing.clone_from(&tenant.sharing);
        for port in &tenant.ports {
            if let Err(place) = self.ports.binary_search_by_key(port, |(port, _)| *port) {
                self.ports.insert(place, (*port, service.clone()));
            }
        }
    }

    pub(super) fn remove(&mut self, service: &ServiceKey) {
        self.services.retain(|holder| holder != service);
        self.ports.retain(|(_, holder)| holder != service);
    }

    pub(super) fn port_numbers(&self) -> Vec<Port> {
        self.ports.iter().map(|(port, _)| *port).collect()
    }
}
