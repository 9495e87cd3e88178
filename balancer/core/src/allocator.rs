//! The allocator: what is free, who holds what, and which address a Service gets.
//!
//! Three promises: an address never changes by surprise; a Service without one is told why; no address is given
//! twice. Decisions are pure: [`Allocator::decide`] changes nothing, [`Allocator::commit`] enters a decision in the
//! ledger *before* it is written to the API server, and [`Allocator::settle`] frees what a written decision gave up.
//!
//! Pools are tried in a fixed order: those whose `serviceAllocation` admits the Service, by priority (lowest number
//! first, 0 last), then those without `serviceAllocation`; equals by name.

mod choose;
mod explain;
mod grace;
mod holders;
mod ledger;
mod resting;
mod revise;
mod sharing;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

pub use explain::{Considered, Explanation, NoOffer};
pub use grace::GRACE;
pub use holders::Conflict;
pub use ledger::{Counters, Holding, Ledger, PoolSpec};
pub use resting::Rest;
pub use slots::PerFamily;

use grace::Graces;

use crate::{
    claim::{Claim, ServiceFacts},
    config::Pool,
    decision::{Change, Concern, Decision, Loss},
    range::{Family, without},
    refusal::{Lack, Refusal},
    request::{Families, Request},
    selector::Labels,
    service::{ServiceKey, Tenant},
};

/// What happens to an address whose pool goes or is edited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolEditPolicy {
    /// It is given up and another one is sought.
    #[default]
    Reference,
    /// It stays, and that is reported.
    KeepInUse,
}

/// The state from which addresses are given.
#[derive(Clone, Debug, Default)]
pub struct Allocator {
    ledger: Ledger,
    pools: BTreeMap<String, Pool>,
    /// Addresses of nodes.
    reserved: BTreeSet<IpAddr>,
    /// Names of pools that may serve without being asked for, in the order in which they are tried.
    automatic: Vec<String>,
    namespaces: BTreeMap<String, Labels>,
    policy: PoolEditPolicy,
    /// Services with an address that was seen to leave its pool.
    lost: Graces,
}

impl Allocator {
    /// No pools, nothing held.
    #[must_use]
    pub fn new(policy: PoolEditPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Replaces the pools. `now` is any clock that does not go back.
    pub fn set_pools(&mut self, pools: BTreeMap<String, Pool>, now: Duration) {
        let homeless = |ledger: &Ledger| -> BTreeSet<ServiceKey> {
            let held = ledger.holdings().filter(|(_, holding)| !ledger.have_pools(&holding.addresses));
            held.map(|(service, _)| service.clone()).collect()
        };
        let before = homeless(&self.ledger);
        let mut reserved = self.reserved.clone();
        for (_, holding) in self.ledger.holdings() {
            for held in holding.addresses.iter().chain(&holding.leaving) {
                reserved.remove(held);
            }
        }
        let spec = |pool: &Pool| PoolSpec {
            ranges: without(&pool.ranges, &reserved),
            avoid_buggy_ips: pool.avoid_buggy_ips,
            cooldown: pool.cooldown,
        };
        self.ledger.set_pools(pools.iter().map(|(name, pool)| (name.clone(), spec(pool))).collect());
        let after = homeless(&self.ledger);
        self.lost.retain(&after);
        for service in after.difference(&before) {
            self.lost.begin(service.clone(), now);
        }
        let rank = |pool: &Pool| match pool.service_allocation.as_ref().map(|allocation| allocation.priority)
        {
            None => (2, 0),
            Some(0) => (1, 0),
            Some(priority) => (0, priority),
        };
        let mut automatic: Vec<_> = pools.values().filter(|pool| pool.auto_assign).collect();
        automatic.sort_by_key(|pool| (rank(pool), &pool.name));
        self.automatic = automatic.into_iter().map(|pool| pool.name.clone()).collect();
        self.pools = pools;
    }

    /// Sets the addresses of nodes, which no pool gives out. One that a Service holds stays with it until it is
    /// given up. `now` is the clock of [`Allocator::set_pools`]. Tells whether they are others than before.
    pub fn reserve(&mut self, addresses: BTreeSet<IpAddr>, now: Duration) -> bool {
        let differ = self.reserved != addresses;
        if differ {
            self.reserved = addresses;
            self.set_pools(self.pools.clone(), now);
        }
        differ
    }

    /// Cuts those of the freed addresses out of the pools that are reserved.
    fn freed(&mut self, freed: Vec<IpAddr>, now: Duration) -> Vec<IpAddr> {
        if freed.iter().any(|address| self.reserved.contains(address)) {
            self.set_pools(self.pools.clone(), now);
        }
        freed
    }

    /// The pools that are served.
    #[must_use]
    pub fn pools(&self) -> &BTreeMap<String, Pool> {
        &self.pools
    }

    /// Replaces the labels of all namespaces.
    pub fn set_namespaces(&mut self, namespaces: BTreeMap<String, Labels>) {
        self.namespaces = namespaces;
    }

    /// Sets the labels of one namespace, and tells whether they changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        let changed = self.namespaces.get(name) != Some(&labels);
        self.namespaces.insert(name.to_owned(), labels);
        changed
    }

    /// Whether only this load balancer may show `address` in the status of `service`.
    #[must_use]
    pub fn is_ours(&self, service: &ServiceKey, address: IpAddr) -> bool {
        let held = self.ledger.holding(service);
        self.ledger.pool_of(address).is_some()
            || held.is_some_and(|held| held.addresses.contains(&address) || held.leaving.contains(&address))
    }

    /// Who holds what.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When time alone changes something next: a grace or a rest ends.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.lost.deadline().into_iter().chain(self.ledger.deadline()).min()
    }

    /// Lets an address rest, as was noted before the program started.
    pub fn rest(&mut self, address: IpAddr, rest: Rest) {
        self.ledger.rest(address, rest);
    }

    /// Frees the addresses whose rest is over at `now`, and tells whether there were any.
    pub fn wake(&mut self, now: Duration) -> bool {
        self.ledger.wake(now)
    }

    /// Notes that it is `now`; returns the Services whose address has become overdue by that.
    pub fn end_grace(&mut self, now: Duration) -> Vec<ServiceKey> {
        self.lost.end(now)
    }

    /// Says at `now` whether the pools that are known may be others than those that there are, since they cannot be
    /// read. While they may, no address becomes overdue.
    pub fn doubt_pools(&mut self, doubted: bool, now: Duration) {
        self.lost.suspend(doubted, now);
    }

    /// Lets the Service hold what its status shows, where that is ours: marked as given by this load balancer, or of
    /// one of its pools. To be called for every Service before anything is given; oldest first. Tells whether it
    /// holds something now.
    ///
    /// # Errors
    /// The conflict with a Service that was adopted before; of two addresses it then holds that which is its own.
    pub fn adopt(&mut self, facts: &ServiceFacts) -> Result<bool, Conflict> {
        let Claim::Wants { tenant, .. } = &facts.claim else { return Ok(false) };
        let addresses = self.adoptable(facts);
        if addresses.is_empty() || self.ledger.holding(&facts.key).is_some() {
            return Ok(self.ledger.holding(&facts.key).is_some());
        }
        let Err(conflict) = self.ledger.hold(&facts.key, &addresses, tenant) else { return Ok(true) };
        let is_free = |address: &IpAddr| self.ledger.admits(*address, &facts.key, tenant).is_ok();
        let free: Vec<_> = addresses.into_iter().filter(is_free).collect();
        if !free.is_empty() {
            self.ledger.hold(&facts.key, &free, tenant)?;
        }
        Err(conflict)
    }

    /// To be called at `now` when all was adopted: a node's address that a Service holds is of its pool until it is
    /// given up.
    pub fn adopted(&mut self, now: Duration) {
        let held = |address: &IpAddr| self.reserved.contains(address);
        if self.ledger.holdings().any(|(_, holding)| holding.addresses.iter().any(held)) {
            self.set_pools(self.pools.clone(), now);
        }
    }

    /// The addresses in the status that are ours: those of pools, and where the Service is marked also those without a
    /// pool, unless another one is there in their place. What else it shows was written by somebody else.
    fn adoptable(&self, facts: &ServiceFacts) -> Vec<IpAddr> {
        let in_pool = |address: &IpAddr| {
            let mut ranges = self.pools.values().flat_map(|pool| &pool.ranges);
            ranges.any(|range| range.contains(*address))
        };
        let is_homed = |address: &IpAddr| {
            self.ledger.pool_of(*address).is_some() || self.reserved.contains(address) && in_pool(address)
        };
        let shown = facts.shown();
        let mut taken: BTreeSet<Family> =
            shown.iter().filter(|it| is_homed(it)).map(|it| Family::of(*it)).collect();
        let is_marked = facts.mark.is_some();
        let wants = |family| match &facts.claim {
            Claim::Wants { request: Ok(request), .. } => request.families.want(family),
            _ => true,
        };
        let has_home = !taken.is_empty();
        let is_adopted = |address: &IpAddr| {
            let family = Family::of(*address);
            is_homed(address) || is_marked && (!has_home || wants(family)) && taken.insert(family)
        };
        shown.into_iter().filter(is_adopted).collect()
    }

    /// What is to happen to the Service.
    #[must_use]
    pub fn decide(&self, facts: &ServiceFacts) -> Decision {
        let (tenant, keep, request) = match &facts.claim {
            Claim::OtherClass => return Decision::Leave,
            Claim::NotLoadBalancer if self.ledger.holding(&facts.key).is_some() || facts.mark.is_some() => {
                return Decision::Clear { loss: Loss::NotLoadBalancer, refusal: None };
            }
            Claim::NotLoadBalancer => return Decision::Leave,
            Claim::Wants { tenant, keep, request } => (tenant, *keep, request),
        };
        let subject = Subject { facts, tenant, keep: keep || self.policy == PoolEditPolicy::KeepInUse };
        let held = match self.ledger.holding(&facts.key) {
            Some(holding) => holding.addresses.clone(),
            None => self.adoptable(facts),
        };
        if !held.is_empty() {
            return self.revise(&subject, &held, request);
        }
        if facts.mark.is_none() && !facts.ingress.is_empty() {
            return Decision::Leave;
        }
        match request.as_ref().map_err(Clone::clone).and_then(|request| self.choose(&subject, request)) {
            Ok(addresses) => self.assign(&subject, addresses, Change::New),
            Err(refusal) => Decision::Refuse(refusal),
        }
    }

    fn assign(&self, subject: &Subject<'_>, addresses: Vec<IpAddr>, change: Change) -> Decision {
        let (pool, lack) = (self.mark(&addresses), self.lack(subject, &addresses));
        Decision::Assign { addresses, pool, change, lack }
    }

    /// What the pool of the only address lacks, where the Service would rather have two.
    fn lack(&self, subject: &Subject<'_>, addresses: &[IpAddr]) -> Option<Lack> {
        let Claim::Wants { request: Ok(Request { families: Families::Prefer(_), .. }), .. } =
            &subject.facts.claim
        else {
            return None;
        };
        let [only] = addresses else { return None };
        let pool = self.ledger.pool_of(*only)?;
        self.offer_of(pool, subject, Family::of(*only).other()).err()
    }

    fn keep(&self, addresses: &[IpAddr], concern: Option<Concern>) -> Decision {
        Decision::Keep { addresses: addresses.to_vec(), pool: self.mark(addresses), concern }
    }

    /// The pool to name in the annotation: that of the first address which has one.
    fn mark(&self, addresses: &[IpAddr]) -> Option<String> {
        addresses.iter().find_map(|address| self.ledger.pool_of(*address)).map(str::to_owned)
    }

    /// Enters a decision about the Service in the ledger.
    ///
    /// # Errors
    /// The conflict, when the ledger has changed since the decision was taken; then nothing has changed.
    pub fn commit(&mut self, facts: &ServiceFacts, decision: &Decision) -> Result<(), Conflict> {
        match (decision, &facts.claim) {
            (
                Decision::Keep { addresses, .. } | Decision::Assign { addresses, .. },
                Claim::Wants { tenant, .. },
            ) => {
                self.ledger.hold(&facts.key, addresses, tenant)?;
                if self.ledger.have_pools(addresses) {
                    self.lost.remove(&facts.key);
                }
            }
            (Decision::Clear { .. }, _) => {
                self.ledger.leave(&facts.key);
                self.lost.remove(&facts.key);
            }
            _ => {}
        }
        Ok(())
    }

    /// At `now` the status of the Service shows what was decided: what it gave up is free, or rests. Returns what
    /// that is.
    pub fn settle(&mut self, service: &ServiceKey, now: Duration) -> Vec<IpAddr> {
        let freed = self.ledger.settle(service, now);
        self.freed(freed, now)
    }

    /// The Service is gone at `now`: what it held is free, or rests. Returns what that is.
    pub fn forget(&mut self, service: &ServiceKey, now: Duration) -> Vec<IpAddr> {
        self.lost.remove(service);
        let freed = self.ledger.release(service, now);
        self.freed(freed, now)
    }
}

/// The Service that is being decided about.
struct Subject<'a> {
    facts: &'a ServiceFacts,
    tenant: &'a Tenant,
    /// Whether it keeps addresses that left their pools.
    keep: bool,
}

/// The wish of a Service, as far as it can be read.
type Wish = Result<Request, Refusal>;
