//! Who holds which address: the one place that knows, so that no address is given twice.
//!
//! An address that a Service gives up stays reserved until [`Ledger::settle`] says that its status no longer shows
//! it. Addresses that lie in no pool are held like any other.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    holders::{Conflict, Holders},
    resting::{Rest, Resting},
    sharing::Shared,
    slots::{PerFamily, Slots},
};
use crate::{
    range::{AddressCount, AddressRange, Family},
    service::{ServiceKey, Tenant},
};

/// What one Service holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// One or two addresses, in the order of the status.
    pub addresses: Vec<IpAddr>,
    /// Given up, but still shown by the status as far as is known.
    pub leaving: Vec<IpAddr>,
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

/// Which Service holds which address, and what of each pool is free.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pools: BTreeMap<String, Pool>,
    /// First address of every range: its last address and its pool.
    ranges: BTreeMap<IpAddr, (IpAddr, String)>,
    holders: BTreeMap<IpAddr, Holders>,
    holdings: BTreeMap<ServiceKey, Holding>,
    shared: Shared,
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

    /// Whether some pool may give out each of `addresses`.
    #[must_use]
    pub fn have_pools(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| self.pool_of(*address).is_some())
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
        let fitting = self.shared.fitting(tenant)?;
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
        self.holdings.insert(service.clone(), Holding { addresses: addresses.to_vec(), leaving });
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
        self.shared.unlist(address, holders);
        let new = !holders.services.contains(service);
        holders.add(service, tenant);
        self.shared.list(address, holders);
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
        self.shared.unlist(address, holders);
        holders.remove(service);
        let empty = holders.services.is_empty();
        if empty {
            self.holders.remove(&address);
        } else {
            self.shared.list(address, holders);
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
