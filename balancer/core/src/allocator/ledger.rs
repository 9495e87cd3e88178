//! Who holds which address: the one place that knows, so that no address is given twice.
//!
//! An address that a Service gives up stays reserved until [`Ledger::settle`] says that its status no longer shows
//! it. Addresses that lie in no pool are held like any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use thiserror::Error;

use super::{
    resting::{Rest, Resting},
    slots::{PerFamily, Slots},
};
use crate::{
    range::{AddressCount, AddressRange, Family},
    service::{Port, ServiceKey, Sharing, Tenant},
};

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
struct Holders {
    sharing: Option<Sharing>,
    /// Sorted.
    services: Vec<ServiceKey>,
    /// Sorted by port.
    ports: Vec<(Port, ServiceKey)>,
}

impl Holders {
    fn admits(&self, address: IpAddr, service: &ServiceKey, tenant: &Tenant) -> Result<(), Conflict> {
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

    fn add(&mut self, service: &ServiceKey, tenant: &Tenant) {
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

    fn remove(&mut self, service: &ServiceKey) {
        self.services.retain(|holder| holder != service);
        self.ports.retain(|(_, holder)| holder != service);
    }

    fn port_numbers(&self) -> Vec<Port> {
        self.ports.iter().map(|(port, _)| *port).collect()
    }
}

/// What one Service holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// One or two addresses, in the order of the status.
    pub addresses: Vec<IpAddr>,
    /// Given up, but still shown by the status as far as is known.
    pub leaving: Vec<IpAddr>,
    tenant: Tenant,
}

/// A pool as the ledger sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// In listed order, none overlapping another of this or another pool.
    pub ranges: Vec<AddressRange>,
    /// Leave out IPv4 addresses that end in .0 or .255.
    pub avoid_buggy_ips: bool,
    /// How long a released address rests.
    pub cooldown: Duration,
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Addresses that the pool may give out, taken or not.
    pub total: PerFamily<AddressCount>,
    /// Addresses that Services hold.
    pub assigned: PerFamily<AddressCount>,
    /// Addresses that are free; neither held nor resting.
    pub available: PerFamily<AddressCount>,
    /// Services that hold at least one of them.
    pub services: usize,
}

#[derive(Clone, Debug)]
struct Pool {
    spec: PoolSpec,
    slots: Slots,
    /// The Services that hold addresses of the pool, and how many.
    services: BTreeMap<ServiceKey, usize>,
}

/// The addresses that one sharing key holds, by the set of ports in use on them.
type ByPorts = BTreeMap<Vec<Port>, BTreeSet<IpAddr>>;

/// Which Service holds which address, and what of each pool is free.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pools: BTreeMap<String, Pool>,
    /// First address of every range: its last address and its pool.
    ranges: BTreeMap<IpAddr, (IpAddr, String)>,
    holders: BTreeMap<IpAddr, Holders>,
    holdings: BTreeMap<ServiceKey, Holding>,
    shared: BTreeMap<Sharing, ByPorts>,
    resting: Resting,
}

impl Ledger {
    /// Replaces the pools. What Services hold stays theirs, in a pool or not.
    ///
    /// A range that overlaps one of a pool before it in order of names is left out.
    pub fn set_pools(&mut self, specs: BTreeMap<String, PoolSpec>) {
        self.ranges.clear();
        let mut before = std::mem::take(&mut self.pools);
        for (name, mut spec) in specs {
            spec.ranges.retain(|range| {
                let below = self.ranges.range(..=range.last()).next_back();
                if below.is_some_and(|(first, (last, _))| {
                    AddressRange::new(*first, *last).is_ok_and(|below| below.overlaps(range))
                }) {
                    return false;
                }
                self.ranges.insert(range.first(), (range.last(), name.clone()));
                true
            });
            let pool = match before.remove(&name) {
                Some(pool)
                    if pool.spec.ranges == spec.ranges
                        && pool.spec.avoid_buggy_ips == spec.avoid_buggy_ips =>
                {
                    Pool { spec, ..pool }
                }
                _ => self.filled(spec),
            };
            self.pools.insert(name, pool);
        }
    }

    /// A pool with everything taken that Services hold of it.
    fn filled(&self, spec: PoolSpec) -> Pool {
        let mut slots = Slots::new(&spec.ranges, spec.avoid_buggy_ips);
        let mut services = BTreeMap::new();
        for range in &spec.ranges {
            for (address, holders) in self.holders.range(range.first()..=range.last()) {
                if slots.take(*address) {
                    for service in &holders.services {
                        *services.entry(service.clone()).or_default() += 1;
                    }
                }
            }
            for (address, _) in self.resting.within(range) {
                slots.take(address);
            }
        }
        Pool { spec, slots, services }
    }

    /// The pool that may give out `address`.
    #[must_use]
    pub fn pool_of(&self, address: IpAddr) -> Option<&str> {
        let (_, (_, name)) = self.ranges.range(..=address).next_back()?;
        self.pools.get(name)?.slots.has(address).then_some(name.as_str())
    }

    /// The pool that may give out all of `addresses`.
    #[must_use]
    pub fn pool_of_all(&self, addresses: &[IpAddr]) -> Option<&str> {
        let mut pools = addresses.iter().map(|address| self.pool_of(*address));
        let first = pools.next()??;
        pools.all(|pool| pool == Some(first)).then_some(first)
    }

    /// What `service` holds.
    #[must_use]
    pub fn holding(&self, service: &ServiceKey) -> Option<&Holding> {
        self.holdings.get(service)
    }

    /// All that is held, in order of Services.
    pub fn holdings(&self) -> impl Iterator<Item = (&ServiceKey, &Holding)> {
        self.holdings.iter()
    }

    /// How full the pool `name` is.
    #[must_use]
    pub fn counters(&self, name: &str) -> Option<Counters> {
        let pool = self.pools.get(name)?;
        let mut assigned = pool.slots.taken();
        for (address, _) in self.resting_in(name) {
            assigned.of_mut(Family::of(address)).subtract_one();
        }
        Some(Counters {
            total: pool.slots.total(),
            assigned,
            available: pool.slots.available(),
            services: pool.services.len(),
        })
    }

    /// Whether `service` may hold `address` on the terms of `tenant`, wherever the address lies.
    ///
    /// # Errors
    /// The conflict with those that hold it.
    pub fn admits(&self, address: IpAddr, service: &ServiceKey, tenant: &Tenant) -> Result<(), Conflict> {
        if let Some(rest) = self.resting.get(address).filter(|rest| rest.service != *service) {
            return Err(Conflict::Resting { address, holder: rest.service.clone() });
        }
        self.holders.get(&address).map_or(Ok(()), |holders| holders.admits(address, service, tenant))
    }

    /// The address of `family` that `pool` would give to `service` beside those that it holds: one that it
    /// held before and that rests, else the first that others hold on the same terms and that it fits on, else the
    /// lowest free one of the first range that has one.
    #[must_use]
    pub fn candidate(
        &self,
        pool: &str,
        family: Family,
        service: &ServiceKey,
        tenant: &Tenant,
    ) -> Option<IpAddr> {
        let slots = &self.pools.get(pool)?.slots;
        let back = self.resting.of(service).find(|back| Family::of(*back) == family && slots.has(*back));
        if back.is_some() {
            return back;
        }
        self.shareable(slots, family, service, tenant).or_else(|| slots.lowest_free(family))
    }

    /// Whether `pool` has an address of `family` at all, free or not.
    #[must_use]
    pub fn has_family(&self, pool: &str, family: Family) -> bool {
        self.pools.get(pool).is_some_and(|pool| pool.slots.ranges(family).next().is_some())
    }

    fn shareable(
        &self,
        slots: &Slots,
        family: Family,
        service: &ServiceKey,
        tenant: &Tenant,
    ) -> Option<IpAddr> {
        let by_ports = self.shared.get(tenant.sharing.as_ref()?)?;
        let fitting: Vec<_> = by_ports
            .iter()
            .filter(|(ports, _)| tenant.ports.iter().all(|port| ports.binary_search(port).is_err()))
            .map(|(_, addresses)| addresses)
            .collect();
        slots.ranges(family).find_map(|range| {
            fitting
                .iter()
                .filter_map(|addresses| {
                    addresses
                        .range(range.first()..=range.last())
                        .find(|address| slots.has(**address) && !self.is_holder(service, **address))
                })
                .min()
                .copied()
        })
    }

    fn is_holder(&self, service: &ServiceKey, address: IpAddr) -> bool {
        self.holders.get(&address).is_some_and(|holders| holders.services.binary_search(service).is_ok())
    }

    /// Lets `service` hold `addresses` on the terms of `tenant`, in place of what it holds now; what it holds no
    /// more stays reserved as leaving.
    ///
    /// # Errors
    /// The first conflict; then nothing has changed.
    pub fn hold(
        &mut self,
        service: &ServiceKey,
        addresses: &[IpAddr],
        tenant: &Tenant,
    ) -> Result<(), Conflict> {
        for address in addresses {
            self.admits(*address, service, tenant)?;
        }
        let before = self.holdings.remove(service);
        let mut leaving = Vec::new();
        if let Some(before) = before {
            leaving.extend(before.leaving);
            leaving.extend(before.addresses);
            leaving.retain(|address| !addresses.contains(address));
        }
        for address in addresses {
            self.attach(*address, service, tenant);
        }
        let holding = Holding { addresses: addresses.to_vec(), leaving, tenant: tenant.clone() };
        self.holdings.insert(service.clone(), holding);
        Ok(())
    }

    /// Lets `service` give up what it holds; it stays reserved as leaving.
    pub fn leave(&mut self, service: &ServiceKey) {
        if let Some(holding) = self.holdings.get_mut(service) {
            let mut addresses = std::mem::take(&mut holding.addresses);
            holding.leaving.append(&mut addresses);
        }
    }

    /// At `now` the status of `service` shows what it holds and nothing else: what was leaving is free, or rests.
    /// Returns what that is.
    pub fn settle(&mut self, service: &ServiceKey, now: Duration) -> Vec<IpAddr> {
        let Some(holding) = self.holdings.get_mut(service) else { return Vec::new() };
        let leaving = std::mem::take(&mut holding.leaving);
        if holding.addresses.is_empty() {
            self.holdings.remove(service);
        }
        for address in &leaving {
            self.detach(*address, service, now);
        }
        leaving
    }

    /// `service` is gone at `now`: all that it held is free, or rests. Returns what that is.
    pub fn release(&mut self, service: &ServiceKey, now: Duration) -> Vec<IpAddr> {
        self.leave(service);
        self.settle(service, now)
    }

    /// Lets an address rest that nobody holds.
    pub fn rest(&mut self, address: IpAddr, rest: Rest) {
        if !self.holders.contains_key(&address) {
            if let Some(pool) = self.pool_at(address) {
                pool.slots.take(address);
            }
            self.resting.insert(address, rest);
        }
    }

    /// Frees the addresses whose rest is over at `now`, and tells whether there were any.
    pub fn wake(&mut self, now: Duration) -> bool {
        let mut any = false;
        while let Some(address) = self.resting.rested(now) {
            self.resting.remove(address);
            if let Some(pool) = self.pool_at(address) {
                pool.slots.free(address);
            }
            any = true;
        }
        any
    }

    /// When the next rest is over.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.resting.deadline()
    }

    /// The addresses of the pool `name` that rest.
    pub fn resting_in(&self, name: &str) -> impl Iterator<Item = (IpAddr, &Rest)> {
        let ranges = self.pools.get(name).into_iter().flat_map(|pool| &pool.spec.ranges);
        ranges
            .flat_map(|range| self.resting.within(range))
            .filter(|(address, _)| self.pool_of(*address).is_some())
    }

    /// The resting addresses that `service` may have back.
    pub fn resting_of(&self, service: &ServiceKey) -> impl Iterator<Item = IpAddr> {
        self.resting.of(service)
    }

    fn attach(&mut self, address: IpAddr, service: &ServiceKey, tenant: &Tenant) {
        self.resting.remove(address);
        let holders = self.holders.entry(address).or_default();
        unlist(&mut self.shared, address, holders);
        let new = !holders.services.contains(service);
        holders.add(service, tenant);
        if let Some(sharing) = &holders.sharing {
            let by_ports = self.shared.entry(sharing.clone()).or_default();
            by_ports.entry(holders.port_numbers()).or_default().insert(address);
        }
        if let Some(pool) = self.pool_at(address) {
            pool.slots.take(address);
            if new {
                *pool.services.entry(service.clone()).or_default() += 1;
            }
        }
    }

    fn detach(&mut self, address: IpAddr, service: &ServiceKey, now: Duration) {
        let Some(holders) = self.holders.get_mut(&address) else { return };
        if !holders.services.contains(service) {
            return;
        }
        unlist(&mut self.shared, address, holders);
        holders.remove(service);
        let empty = holders.services.is_empty();
        if empty {
            self.holders.remove(&address);
        } else if let Some(sharing) = &holders.sharing {
            let by_ports = self.shared.entry(sharing.clone()).or_default();
            by_ports.entry(holders.port_numbers()).or_default().insert(address);
        }
        let mut cooldown = Duration::ZERO;
        if let Some(pool) = self.pool_at(address) {
            if empty && pool.spec.cooldown.is_zero() {
                pool.slots.free(address);
            } else if empty {
                cooldown = pool.spec.cooldown;
            }
            if let Some(count) = pool.services.get_mut(service) {
                *count -= 1;
                if *count == 0 {
                    pool.services.remove(service);
                }
            }
        }
        if !cooldown.is_zero() {
            let rest = Rest { service: service.clone(), until: now.saturating_add(cooldown) };
            self.resting.insert(address, rest);
        }
    }

    fn pool_at(&mut self, address: IpAddr) -> Option<&mut Pool> {
        let name = self.pool_of(address)?.to_owned();
        self.pools.get_mut(&name)
    }
}

/// Takes `address` out of the index of shared addresses, as its holders stand now.
fn unlist(shared: &mut BTreeMap<Sharing, ByPorts>, address: IpAddr, holders: &Holders) {
    let Some(sharing) = &holders.sharing else { return };
    let Some(by_ports) = shared.get_mut(sharing) else { return };
    let ports = holders.port_numbers();
    if let Some(addresses) = by_ports.get_mut(&ports) {
        addresses.remove(&address);
        if addresses.is_empty() {
            by_ports.remove(&ports);
        }
    }
    if by_ports.is_empty() {
        shared.remove(sharing);
    }
}
