//! Whether a Service keeps the addresses that it holds.
//!
//! A working address goes only for one that is known to be there, or because it must: another Service holds it on
//! other terms, or its pool went and the policy says so.

use std::net::IpAddr;

use super::{Allocator, Subject, Wish, grace::Lost};
use crate::{
    decision::{Change, Concern, Decision, Loss},
    range::Family,
    refusal::Refusal,
    request::{Families, Request},
};

/// Whether held addresses can be adapted to other families.
enum Fit {
    /// They stay as they are.
    Stay,
    /// They become these.
    Become(Vec<IpAddr>, Change),
    /// They cannot.
    Cannot,
}

impl Allocator {
    /// What happens to the Service, which holds `held`.
    pub(super) fn revise(&self, subject: &Subject<'_>, held: &[IpAddr], wish: &Wish) -> Decision {
        let key = &subject.facts.key;
        if let Some(conflict) =
            held.iter().find_map(|address| self.ledger.admits(*address, key, subject.tenant).err())
        {
            return self.replace(subject, &[], wish, Loss::Conflict(conflict));
        }
        let (homed, homeless): (Vec<_>, Vec<_>) =
            held.iter().copied().partition(|address| self.ledger.pool_of(*address).is_some());
        if !homeless.is_empty() {
            match self.lost.get(key) {
                Some(Lost::Until(_)) => return self.keep(held, Some(Concern::Grace)),
                Some(Lost::Overdue) if !subject.keep => {
                    return self.replace(subject, &homed, wish, Loss::NotInPools(homeless));
                }
                // Kept, or no pool was ever seen to hold it: perhaps the pools are yet to come.
                Some(Lost::Overdue) | None => {}
            }
        }
        let missing = (!homeless.is_empty()).then_some(Concern::PoolMissing(homeless));
        let request = match wish {
            Ok(request) => request,
            Err(refusal) => return self.keep(held, Some(Concern::Unmet(refusal.clone()))),
        };
        match self.fulfil(subject, held, request) {
            Ok(Some((addresses, change))) => self.assign(subject, addresses, change),
            Ok(None) => {
                let one_family = || self.lack(subject, held).map(Concern::OneFamily);
                self.keep(held, missing.or_else(one_family))
            }
            Err(refusal) => self.keep(held, missing.or(Some(Concern::Unmet(refusal)))),
        }
    }

    /// Something else for what cannot stay; `rest` of it can.
    fn replace(&self, subject: &Subject<'_>, rest: &[IpAddr], wish: &Wish, loss: Loss) -> Decision {
        let outcome = wish.as_ref().map_err(Clone::clone).and_then(|request| {
            if rest.is_empty() {
                self.choose(subject, request)
            } else {
                let kept = self.fulfil(subject, rest, request)?;
                Ok(kept.map_or_else(|| rest.to_vec(), |(addresses, _)| addresses))
            }
        });
        match outcome {
            Ok(addresses) => self.assign(subject, addresses, Change::Lost(loss)),
            // What can stay is better than nothing.
            Err(_) if !rest.is_empty() => self.assign(subject, rest.to_vec(), Change::Lost(loss)),
            Err(refusal) => Decision::Clear { loss, refusal: Some(refusal) },
        }
    }

    /// What the Service gets in place of `held`; `None` when that is what it asks for.
    fn fulfil(
        &self,
        subject: &Subject<'_>,
        held: &[IpAddr],
        request: &Request,
    ) -> Result<Option<(Vec<IpAddr>, Change)>, Refusal> {
        if self.suits(subject, held, request) {
            if request.families.are_met_by(held) {
                return Ok(None);
            }
            match self.fit(subject, held, request) {
                Fit::Stay => return Ok(None),
                Fit::Become(addresses, change) => return Ok(Some((addresses, change))),
                Fit::Cannot => {}
            }
        }
        let chosen = self.choose(subject, request)?;
        if same(&chosen, held) { Ok(None) } else { Ok(Some((chosen, Change::Requested))) }
    }

    /// Whether `held` is of the pool and among the addresses that are asked for, families aside.
    fn suits(&self, subject: &Subject<'_>, held: &[IpAddr], request: &Request) -> bool {
        let named = request.addresses.is_empty() || same(&request.addresses, held);
        let pools_fit = held.iter().all(|address| {
            // An address without a pool is asked for by nobody else: nothing is known against it.
            self.ledger.pool_of(*address).is_none_or(|name| {
                request.pool.as_ref().is_none_or(|wanted| wanted == name)
                    && self.pools.get(name).is_none_or(|pool| self.admits(pool, subject))
            })
        });
        let unknown = request.pool.as_ref().is_some_and(|wanted| !self.pools.contains_key(wanted));
        named && pools_fit && !unknown
    }

    /// Adapts `held` to the families that are wanted without giving up an address of one that is.
    fn fit(&self, subject: &Subject<'_>, held: &[IpAddr], request: &Request) -> Fit {
        let mut families = std::collections::BTreeSet::new();
        let wanted: Vec<_> = held
            .iter()
            .copied()
            .filter(|address| {
                request.families.want(Family::of(*address)) && families.insert(Family::of(*address))
            })
            .collect();
        let Some(&first) = wanted.first() else { return Fit::Cannot };
        if wanted.len() < held.len() && request.families.are_met_by(&wanted) {
            return Fit::Become(wanted, Change::Reduced);
        }
        // One address where two are wanted: the other comes from the same pool.
        let pool = self.ledger.pool_of(first);
        let other = Family::of(first).other();
        match pool.map(|pool| self.offer_of(pool, subject, other)) {
            Some(Ok(address)) => Fit::Become(vec![first, address], Change::Added(address)),
            _ if matches!(request.families, Families::Prefer(_)) => Fit::Stay,
            _ => Fit::Cannot,
        }
    }
}

/// Whether the two name the same addresses, in whatever order.
fn same(a: &[IpAddr], b: &[IpAddr]) -> bool {
    a.len() == b.len() && a.iter().all(|address| b.contains(address))
}
