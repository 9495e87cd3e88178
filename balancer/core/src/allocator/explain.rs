//! The whole decision about one Service, pool by pool, for people.

use std::{fmt, net::IpAddr};

use super::{Allocator, Subject};
use crate::{
    claim::{Claim, ServiceFacts},
    decision::{Change, Concern, Decision, Loss},
    range::Family,
    refusal::{Refusal, Why, list},
    request::{Families, Request},
    service::Tenant,
};

/// What was asked, what was considered, and what comes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What the Service wants.
    pub claim: Claim,
    /// What its status shows.
    pub shown: Vec<IpAddr>,
    /// What the ledger says it holds.
    pub held: Vec<IpAddr>,
    /// Every pool, in the order in which they would be tried without being asked for; those that never would, last.
    pub pools: Vec<Considered>,
    /// What is to happen.
    pub decision: Decision,
}

/// One pool, as far as one Service is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its name.
    pub pool: String,
    /// What it would give, or why it gives nothing.
    pub offer: Result<Vec<IpAddr>, NoOffer>,
}

/// Why a pool gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOffer {
    /// The Service asks for another pool, or for addresses of another.
    NotAskedFor,
    /// For its own reason.
    Because(Why),
}

impl Allocator {
    /// Explains what [`Allocator::decide`] says about the Service.
    #[must_use]
    pub fn explain(&self, facts: &ServiceFacts) -> Explanation {
        let holding = self.ledger.holding(&facts.key);
        let pools = match &facts.claim {
            Claim::Wants { tenant, request: Ok(request), .. } => self.consider(facts, tenant, request),
            _ => Vec::new(),
        };
        Explanation {
            claim: facts.claim.clone(),
            shown: facts.shown(),
            held: holding.map(|holding| holding.addresses.clone()).unwrap_or_default(),
            pools,
            decision: self.decide(facts),
        }
    }

    fn consider(&self, facts: &ServiceFacts, tenant: &Tenant, request: &Request) -> Vec<Considered> {
        let subject = Subject { facts, tenant, keep: false };
        let on_request = self.pools.keys().filter(|name| !self.automatic.contains(name));
        let pinned_first = |pinned: bool| {
            self.automatic.iter().filter(move |name| {
                self.pools.get(*name).is_some_and(|pool| pool.service_allocation.is_some() == pinned)
            })
        };
        pinned_first(true)
            .chain(pinned_first(false))
            .chain(on_request)
            .map(|name| Considered { pool: name.clone(), offer: self.consider_pool(name, &subject, request) })
            .collect()
    }

    fn consider_pool(
        &self,
        name: &str,
        subject: &Subject<'_>,
        request: &Request,
    ) -> Result<Vec<IpAddr>, NoOffer> {
        let other_pool = request.pool.as_ref().is_some_and(|wanted| wanted != name);
        let other_address =
            request.addresses.iter().any(|address| self.ledger.pool_of(*address) != Some(name));
        if other_pool || other_address {
            return Err(NoOffer::NotAskedFor);
        }
        let Some(pool) = self.pools.get(name) else { return Err(NoOffer::NotAskedFor) };
        if !self.admits(pool, subject) {
            return Err(NoOffer::Because(Why::NotForService));
        }
        if !pool.auto_assign && request.pool.is_none() && request.addresses.is_empty() {
            return Err(NoOffer::Because(Why::NotAutomatic));
        }
        // Asked as if nothing were held: what a Service holds is told apart from what it could get.
        let asked = Request { pool: Some(name.to_owned()), ..request.clone() };
        match self.choose(subject, &asked) {
            Ok(addresses) => Ok(addresses),
            Err(Refusal::PoolExhausted { lack, .. }) => Err(NoOffer::Because(Why::Lacks(lack))),
            Err(_) => Err(NoOffer::NotAskedFor),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.claim {
            Claim::NotLoadBalancer => writeln!(f, "asks for     nothing: it is not of type LoadBalancer")?,
            Claim::OtherClass => {
                writeln!(f, "asks for     nothing here: its loadBalancerClass is another's")?;
            }
            Claim::Wants { request, tenant, keep } => {
                match request {
                    Ok(request) => writeln!(f, "asks for     {request}")?,
                    Err(refusal) => writeln!(f, "asks for     what cannot be read: {refusal}")?,
                }
                let ports: Vec<_> = tenant.ports.iter().map(ToString::to_string).collect();
                writeln!(f, "on ports     {}", ports.join(", "))?;
                match &tenant.sharing {
                    Some(sharing) if sharing.backend.is_empty() => {
                        writeln!(f, "shares       by key {:?}", sharing.key)?;
                    }
                    Some(sharing) => writeln!(
                        f,
                        "shares       by key {:?}, with Services of the same pods only ({})",
                        sharing.key, sharing.backend
                    )?,
                    None => writeln!(f, "shares       with nobody")?,
                }
                if *keep {
                    writeln!(f, "keeps        its address when a pool is edited")?;
                }
            }
        }
        writeln!(f, "status       {}", list(&self.shown))?;
        writeln!(f, "holds        {}", list(&self.held))?;
        for (index, considered) in self.pools.iter().enumerate() {
            let head = if index == 0 { "pools" } else { "" };
            match &considered.offer {
                Ok(addresses) => {
                    writeln!(f, "{head:<12} {}: could give {}", considered.pool, list(addresses))?;
                }
                Err(none) => writeln!(f, "{head:<12} {}: {none}", considered.pool)?,
            }
        }
        write!(f, "outcome      {}", self.decision)
    }
}

impl fmt::Display for NoOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAskedFor => f.write_str("not asked for"),
            Self::Because(Why::Lacks(lack)) => lack.fmt(f),
            Self::Because(Why::NotAutomatic) => f.write_str("its autoAssign is false"),
            Self::Because(Why::NotForService) => f.write_str("its serviceAllocation excludes the Service"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { families, addresses, pool } = self;
        match families {
            _ if !addresses.is_empty() => f.write_str(&list(addresses))?,
            Families::Single(family) => write!(f, "one {family} address")?,
            Families::Both => f.write_str("an IPv4 and an IPv6 address")?,
            Families::Prefer(first) => {
                let second = if *first == Family::V4 { Family::V6 } else { Family::V4 };
                write!(f, "an {first} and an {second} address, or one if need be")?;
            }
        }
        match pool {
            Some(pool) => write!(f, " of pool {pool:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave => f.write_str("left alone: it is not this load balancer's"),
            Self::Keep { addresses, pool, concern } => {
                write!(f, "keeps {}", list(addresses))?;
                if let Some(pool) = pool {
                    write!(f, " of pool {pool:?}")?;
                }
                match concern {
                    None => Ok(()),
                    Some(Concern::Unmet(refusal)) => write!(f, ", since {refusal}"),
                    Some(Concern::PoolMissing(missing)) => {
                        write!(f, ", though no pool holds {}", list(missing))
                    }
                    Some(Concern::Grace) => f.write_str(", since its pool may come back"),
                    Some(Concern::OneFamily(lack)) => write!(f, ", of one family only: {lack}"),
                }
            }
            Self::Assign { addresses, pool, change, lack } => {
                write!(f, "gets {}", list(addresses))?;
                if let Some(pool) = pool {
                    write!(f, " of pool {pool:?}")?;
                }
                if let Some(lack) = lack {
                    write!(f, ", of one family only: {lack}")?;
                }
                match change {
                    Change::New => Ok(()),
                    Change::Added(_) => f.write_str(", one of them new"),
                    Change::Reduced => f.write_str(", what is left of what it held"),
                    Change::Requested => f.write_str(", as it asked, in place of what it held"),
                    Change::Lost(loss) => write!(f, ", in place of what it held: {loss}"),
                }
            }
            Self::Clear { loss: Loss::NotLoadBalancer, .. } => f.write_str("gives its address back"),
            Self::Clear { loss, refusal } => {
                write!(f, "loses its address ({loss})")?;
                match refusal {
                    Some(refusal) => write!(f, " and gets no other: {refusal}"),
                    None => Ok(()),
                }
            }
            Self::Refuse(refusal) => write!(f, "waits: {refusal}"),
        }
    }
}
