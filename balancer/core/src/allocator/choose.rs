//! Which addresses a request gets: those that it names, of the pool that it names, or of the first pool that fits.

use std::net::IpAddr;

use super::{Allocator, Subject};
use crate::{
    config::Pool,
    range::Family,
    refusal::{Lack, Refusal, Tried, Why},
    request::{Families, Request},
    selector::Labels,
};

/// What a pool offers to a request.
enum Offer {
    /// All that is wanted.
    Whole(Vec<IpAddr>),
    /// One address where two are preferred.
    Part(IpAddr),
    /// Nothing.
    Nothing(Lack),
}

impl Allocator {
    /// The addresses that `request` gets.
    pub(super) fn choose(&self, subject: &Subject<'_>, request: &Request) -> Result<Vec<IpAddr>, Refusal> {
        if !request.addresses.is_empty() {
            return self.choose_named(subject, request);
        }
        if let Some(back) = self.returning(subject, request) {
            return Ok(back);
        }
        if let Some(name) = &request.pool {
            let pool = self.pools.get(name).ok_or_else(|| Refusal::UnknownPool(name.clone()))?;
            if !self.admits(pool, subject) {
                return Err(Refusal::PoolNotForService(name.clone()));
            }
            return match self.offer(name, subject, request.families) {
                Offer::Whole(addresses) => Ok(addresses),
                Offer::Part(address) => Ok(vec![address]),
                Offer::Nothing(lack) => Err(Refusal::PoolExhausted { pool: name.clone(), lack }),
            };
        }
        self.choose_automatically(subject, request.families)
    }

    /// The addresses that the Service held before it was deleted, where they rest and are all that it wants now.
    fn returning(&self, subject: &Subject<'_>, request: &Request) -> Option<Vec<IpAddr>> {
        let back: Vec<_> = self.ledger.resting_of(&subject.facts.key).collect();
        if !request.families.are_met_by(&back) {
            return None;
        }
        let pool = self.pools.get(self.ledger.pool_of_all(&back)?)?;
        let asked_for = match &request.pool {
            Some(wanted) => *wanted == pool.name,
            None => pool.auto_assign,
        };
        (asked_for && self.admits(pool, subject)).then_some(back)
    }

    fn choose_named(&self, subject: &Subject<'_>, request: &Request) -> Result<Vec<IpAddr>, Refusal> {
        let addresses = &request.addresses;
        if let Some(name) = request.pool.as_ref().filter(|name| !self.pools.contains_key(*name)) {
            return Err(Refusal::UnknownPool(name.clone()));
        }
        let name = self.ledger.pool_of_all(addresses);
        let pool = name
            .and_then(|name| self.pools.get(name))
            .ok_or_else(|| Refusal::NotInPools(addresses.clone()))?;
        if let Some(wanted) = request.pool.as_ref().filter(|wanted| **wanted != pool.name) {
            return Err(Refusal::OtherPool { addresses: addresses.clone(), pool: wanted.clone() });
        }
        if !self.admits(pool, subject) {
            return Err(Refusal::PoolNotForService(pool.name.clone()));
        }
        for address in addresses {
            self.ledger.admits(*address, &subject.facts.key, subject.tenant).map_err(Refusal::InUse)?;
        }
        Ok(addresses.clone())
    }

    fn choose_automatically(
        &self,
        subject: &Subject<'_>,
        families: Families,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let fitting = self.automatic.iter().filter_map(|name| self.pools.get(name));
        let (pinned, general): (Vec<_>, Vec<_>) = fitting
            .filter(|pool| self.admits(pool, subject))
            .partition(|pool| pool.service_allocation.is_some());
        let mut tried = Vec::new();
        for group in [pinned, general] {
            let mut part = None;
            for pool in group {
                match self.offer(&pool.name, subject, families) {
                    Offer::Whole(addresses) => return Ok(addresses),
                    Offer::Part(address) => part = Some(better(part, address, families)),
                    Offer::Nothing(lack) => {
                        tried.push(Tried { pool: pool.name.clone(), why: Why::Lacks(lack) });
                    }
                }
            }
            if let Some(address) = part {
                return Ok(vec![address]);
            }
        }
        Err(Refusal::Exhausted(if tried.is_empty() { self.excluded(subject) } else { tried }))
    }

    /// Why none of the pools was even tried.
    fn excluded(&self, subject: &Subject<'_>) -> Vec<Tried> {
        let why =
            |pool: &Pool| if self.admits(pool, subject) { Why::NotAutomatic } else { Why::NotForService };
        self.pools.values().map(|pool| Tried { pool: pool.name.clone(), why: why(pool) }).collect()
    }

    /// Whether the pool may serve the Service at all.
    pub(super) fn admits(&self, pool: &Pool, subject: &Subject<'_>) -> bool {
        let Some(allocation) = &pool.service_allocation else { return true };
        let namespace = subject.facts.key.namespace();
        let none = Labels::new();
        let labels = self.namespaces.get(namespace).unwrap_or(&none);
        allocation.admits(namespace, labels, &subject.facts.labels)
    }

    /// The address of `family` that the pool offers.
    pub(super) fn offer_of(&self, pool: &str, subject: &Subject<'_>, family: Family) -> Result<IpAddr, Lack> {
        let found = self.ledger.candidate(pool, family, &subject.facts.key, subject.tenant);
        found.ok_or(if self.ledger.has_family(pool, family) {
            Lack::NoneFree(family)
        } else {
            Lack::NoRange(family)
        })
    }

    fn offer(&self, pool: &str, subject: &Subject<'_>, families: Families) -> Offer {
        let of = |family| self.offer_of(pool, subject, family);
        match families {
            Families::Single(family) => match of(family) {
                Ok(address) => Offer::Whole(vec![address]),
                Err(lack) => Offer::Nothing(lack),
            },
            Families::Both => match (of(Family::V4), of(Family::V6)) {
                (Ok(four), Ok(six)) => Offer::Whole(vec![four, six]),
                // What the pool can never give comes first: which family is full may change at any time.
                (Err(lack @ Lack::NoRange(_)), _) | (_, Err(lack @ Lack::NoRange(_))) => Offer::Nothing(lack),
                _ => Offer::Nothing(Lack::NotBoth),
            },
            Families::Prefer(_) => match (of(Family::V4), of(Family::V6)) {
                (Ok(four), Ok(six)) => Offer::Whole(vec![four, six]),
                (Ok(one), Err(_)) | (Err(_), Ok(one)) => Offer::Part(one),
                (Err(Lack::NoRange(_)), Err(lack)) | (Err(lack), Err(_)) => Offer::Nothing(lack),
            },
        }
    }
}

/// Of two single addresses the first that is of the preferred family.
fn better(before: Option<IpAddr>, offered: IpAddr, families: Families) -> IpAddr {
    let Some(before) = before else { return offered };
    let preferred = |address| families == Families::Prefer(Family::of(address));
    if !preferred(before) && preferred(offered) { offered } else { before }
}
