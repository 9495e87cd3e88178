//! The order in which Services are decided about, and what is done when a write fails: the controller without its
//! sockets. Time is counted from 1970 and never goes back.
//!
//! Expected flow: [`Assigner::set_pools`] and [`Assigner::set_namespaces`], then [`Assigner::load`] with every Service
//! there is, which adopts what they hold; from then on changes, and [`Assigner::next`] whenever something can be
//! written. Each [`Write`] is answered by [`Assigner::finished`]. One Service has at most one write under way.
//!
//! Services are decided about oldest first. What a decision gives is in the ledger before its write goes out, and
//! what it takes away is free only after that write has come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    allocator::{Allocator, Conflict, Holding, PoolEditPolicy, Rest},
    claim::{Claim, ServiceFacts},
    config::Pool,
    decision::{Concern, Decision},
    report::Report,
    selector::Labels,
    service::ServiceKey,
};

/// How long the first retry of a failed write waits; each further one waits twice as long as the one before.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest wait between retries.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What is to be written about one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The Service as it was when this was decided: the write holds only for that version.
    pub facts: Arc<ServiceFacts>,
    /// What was decided.
    pub decision: Decision,
    /// What the Service is to say.
    pub report: Report,
}

/// How a write went.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The Service as the API server has it now.
    Written(Arc<ServiceFacts>),
    /// Nothing was written since the Service had changed; this is how it is now.
    Stale(Arc<ServiceFacts>),
    /// There is no such Service any more.
    Gone,
    /// The API server refused, for a reason that may pass.
    Refused,
    /// No answer came: it is not known whether it was written. It is tried again at once, since what ails the API
    /// server is nothing about this Service; whoever writes waits until it answers.
    Unanswered,
}

/// Decides about Services, one at a time.
#[derive(Clone, Debug, Default)]
pub struct Assigner {
    allocator: Allocator,
    services: BTreeMap<ServiceKey, Arc<ServiceFacts>>,
    /// To be decided about: creation time, Service.
    queue: BTreeSet<(i64, ServiceKey)>,
    /// Those that are refused something which a released address may give them.
    waiting: BTreeSet<(i64, ServiceKey)>,
    /// Those that have one address and would rather have two.
    wishing: BTreeSet<(i64, ServiceKey)>,
    /// Whether something was released since the waiting ones were last decided about.
    released: bool,
    writing: BTreeSet<ServiceKey>,
    /// What was decided but, as far as is known, not written.
    unwritten: BTreeMap<ServiceKey, Decision>,
    retries: BTreeMap<ServiceKey, Retry>,
    /// The retries that wait, by the time at which they are due.
    due: BTreeSet<(Duration, ServiceKey)>,
    loaded: bool,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    /// `None` while the retry is under way.
    due: Option<Duration>,
    wait: Duration,
}

impl Assigner {
    /// No Services, no pools.
    #[must_use]
    pub fn new(policy: PoolEditPolicy) -> Self {
        Self { allocator: Allocator::new(policy), ..Self::default() }
    }

    /// What is free and who holds what.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The Services that are known.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ServiceKey, Arc<ServiceFacts>> {
        &self.services
    }

    /// Replaces the pools at `now`. When there are only more of them, a Service that lacks nothing and whose addresses
    /// have a pool keeps them: it is not decided about again.
    pub fn set_pools(&mut self, pools: BTreeMap<String, Pool>, now: Duration) {
        let known = self.allocator.pools();
        if *known == pools {
            return;
        }
        let only_adds = known.iter().all(|(name, pool)| pools.get(name) == Some(pool));
        let ledger = self.allocator.ledger();
        let has_pool = |holding: &Holding| ledger.have_pools(&holding.addresses);
        let places = self.services.values().map(|facts| (facts.created, facts.key.clone()));
        let affected: Vec<_> = places
            .filter(|place| {
                !only_adds || self.lacks(place) || !ledger.holding(&place.1).is_some_and(has_pool)
            })
            .collect();
        self.allocator.set_pools(pools, now);
        self.queue.extend(affected);
    }

    /// Says at `now` whether the pools cannot be read: while they cannot, no address is taken away for want of one.
    pub fn doubt_pools(&mut self, doubted: bool, now: Duration) {
        self.allocator.doubt_pools(doubted, now);
    }

    /// Sets the addresses of nodes, which no Service is given.
    pub fn reserve(&mut self, addresses: BTreeSet<IpAddr>, now: Duration) {
        if self.allocator.reserve(addresses, now) {
            self.queue_all();
        }
    }

    /// Replaces the labels of all namespaces.
    pub fn set_namespaces(&mut self, namespaces: BTreeMap<String, Labels>) {
        self.allocator.set_namespaces(namespaces);
        self.queue_all();
    }

    /// Sets the labels of one namespace.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        if self.allocator.set_namespace(name, labels) {
            let inside = self.services.values().filter(|facts| facts.key.namespace() == name);
            self.queue.extend(inside.map(|facts| (facts.created, facts.key.clone())));
        }
    }

    fn queue_all(&mut self) {
        self.queue.extend(self.services.values().map(|facts| (facts.created, facts.key.clone())));
    }

    /// Lets addresses rest that were noted before the program started; those that a Service holds do not.
    pub fn rest(&mut self, resting: impl IntoIterator<Item = (IpAddr, Rest)>) {
        for (address, rest) in resting {
            self.allocator.rest(address, rest);
        }
    }

    /// Takes the complete list of Services. At the first time every address that they show as given by this load
    /// balancer is adopted, the oldest Service first; the Services that show an address of another are returned.
    pub fn load(
        &mut self,
        services: Vec<impl Into<Arc<ServiceFacts>>>,
        now: Duration,
    ) -> Vec<(ServiceKey, Conflict)> {
        let services: Vec<Arc<ServiceFacts>> = services.into_iter().map(Into::into).collect();
        let listed: BTreeSet<_> = services.iter().map(|facts| facts.key.clone()).collect();
        let gone: Vec<_> = self.services.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.delete(&key, now);
        }
        let mut conflicts = Vec::new();
        if !self.loaded {
            self.loaded = true;
            let mut oldest_first: Vec<_> = services.iter().collect();
            oldest_first.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
            for facts in oldest_first {
                if let Err(conflict) = self.allocator.adopt(facts) {
                    conflicts.push((facts.key.clone(), conflict));
                }
            }
            self.allocator.adopted(now);
        }
        for facts in services {
            self.apply(facts, now);
        }
        conflicts
    }

    /// Takes a new version of a Service. One that is older than what is known is ignored.
    pub fn apply(&mut self, facts: impl Into<Arc<ServiceFacts>>, now: Duration) {
        let facts = facts.into();
        let known = self.services.get(&facts.key);
        if known.is_some_and(|known| is_older(&facts.resource_version, &known.resource_version)) {
            return;
        }
        let ours = match facts.claim {
            Claim::Wants { .. } => true,
            Claim::NotLoadBalancer => {
                facts.mark.is_some() || self.allocator.ledger().holding(&facts.key).is_some()
            }
            Claim::OtherClass => false,
        };
        if !ours {
            self.delete(&facts.key, now);
            return;
        }
        match known {
            Some(known) if known.uid != facts.uid => {
                // Deleted and created again between two looks: what the old one was refused or owed is no matter.
                self.drop_progress(&facts.key);
            }
            Some(known) => {
                let same = known.is_same_but_for_version(&facts);
                // Other terms may let others in.
                self.released |= known.claim != facts.claim;
                if same {
                    self.services.insert(facts.key.clone(), facts);
                    return;
                }
            }
            None => {}
        }
        self.queue.insert((facts.created, facts.key.clone()));
        self.services.insert(facts.key.clone(), facts);
    }

    /// The Service is gone at `now`.
    pub fn delete(&mut self, key: &ServiceKey, now: Duration) {
        self.drop_progress(key);
        self.services.remove(key);
        self.released |= !self.allocator.forget(key, now).is_empty();
    }

    fn drop_progress(&mut self, key: &ServiceKey) {
        if let Some(facts) = self.services.get(key) {
            let place = (facts.created, key.clone());
            self.queue.remove(&place);
            self.waiting.remove(&place);
            self.wishing.remove(&place);
        }
        self.drop_write(key);
    }

    /// Forgets what was not written and when that was to be tried again.
    fn drop_write(&mut self, key: &ServiceKey) {
        self.unwritten.remove(key);
        if let Some(Retry { due: Some(due), .. }) = self.retries.remove(key) {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// The next write, if there is one to be made at `now`.
    pub fn next(&mut self, now: Duration) -> Option<Write> {
        if !self.loaded {
            return None;
        }
        self.queue_due(now);
        self.released |= self.allocator.wake(now);
        loop {
            if std::mem::take(&mut self.released) {
                self.queue.extend(self.waiting.iter().chain(&self.wishing).cloned());
            }
            let (_, key) = self.queue.pop_first()?;
            if self.writing.contains(&key) || self.retries.get(&key).is_some_and(|retry| retry.due.is_some())
            {
                // Decided about again when that is over.
                continue;
            }
            if let Some(write) = self.decide(&key, now) {
                return Some(write);
            }
        }
    }

    fn queue_due(&mut self, now: Duration) {
        let mut due = self.allocator.end_grace(now);
        while self.due.first().is_some_and(|(then, _)| *then <= now)
            && let Some((_, key)) = self.due.pop_first()
        {
            if let Some(retry) = self.retries.get_mut(&key) {
                retry.due = None;
            }
            due.push(key);
        }
        let known = due.into_iter().filter_map(|key| Some((self.services.get(&key)?.created, key)));
        self.queue.extend(known);
    }

    fn decide(&mut self, key: &ServiceKey, now: Duration) -> Option<Write> {
        let facts = self.services.get(key)?;
        let mut decision = self.allocator.decide(facts);
        // The ledger holds it already, but the Service was never told: tell it as what it is.
        if let Decision::Keep { addresses, pool, concern } = &decision
            && !matches!(concern, Some(Concern::Unmet(_) | Concern::PoolMissing(_)))
            && let Some(Decision::Assign { addresses: given, pool: of, change, .. }) = self.unwritten.get(key)
            && addresses == given
        {
            let (addresses, pool, change) =
                (addresses.clone(), pool.as_ref().or(of.as_ref()).cloned(), change.clone());
            let lack = concern.as_ref().and_then(Concern::lack);
            decision = Decision::Assign { addresses, pool, change, lack };
        }
        // Cannot fail: the decision was taken on this very ledger.
        self.allocator.commit(facts, &decision).ok()?;
        let place = (facts.created, key.clone());
        self.waiting.remove(&place);
        self.wishing.remove(&place);
        match shortage(facts, &decision) {
            Shortage::Refused => drop(self.waiting.insert(place)),
            Shortage::Family => drop(self.wishing.insert(place)),
            Shortage::Nothing => {}
        }
        let allocator = &self.allocator;
        match Report::of(facts, &decision, |address| allocator.is_ours(key, address)) {
            Some(report) => {
                self.writing.insert(key.clone());
                Some(Write { facts: facts.clone(), decision, report })
            }
            None => {
                self.settle(key, now);
                None
            }
        }
    }

    fn settle(&mut self, key: &ServiceKey, now: Duration) {
        self.drop_write(key);
        self.released |= !self.allocator.settle(key, now).is_empty();
    }

    /// A write has come back at `now`.
    pub fn finished(&mut self, write: Write, outcome: Outcome, now: Duration) {
        let key = write.facts.key.clone();
        self.writing.remove(&key);
        let same_object = self.services.get(&key).is_some_and(|known| known.uid == write.facts.uid);
        match outcome {
            // What was written about is gone, and that is known already.
            _ if !same_object => {}
            Outcome::Written(facts) => {
                self.settle(&key, now);
                self.apply(facts, now);
            }
            Outcome::Stale(facts) if facts.uid == write.facts.uid => {
                self.unwritten.insert(key.clone(), write.decision);
                self.apply(facts, now);
            }
            // Another has its name. Of that one the watch will tell: what it tells before is about the one that is gone,
            // and would be taken for news of the other.
            Outcome::Stale(_) | Outcome::Gone => self.delete(&key, now),
            Outcome::Unanswered => {
                self.unwritten.insert(key.clone(), write.decision);
            }
            Outcome::Refused => {
                self.unwritten.insert(key.clone(), write.decision);
                let before = self.retries.get(&key).map(|retry| retry.wait);
                let wait = before.map_or(FIRST_RETRY, |wait| wait.saturating_mul(2).min(LAST_RETRY));
                let due = now.saturating_add(wait);
                self.due.insert((due, key.clone()));
                self.retries.insert(key.clone(), Retry { due: Some(due), wait });
            }
        }
        match self.services.get(&key) {
            Some(facts) => {
                self.queue.insert((facts.created, key));
            }
            None => self.drop_write(&key),
        }
    }

    fn lacks(&self, place: &(i64, ServiceKey)) -> bool {
        self.waiting.contains(place) || self.wishing.contains(place)
    }

    /// How many Services are refused what they ask for.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When [`Assigner::next`] is to be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let retry = self.due.first().map(|(due, _)| *due);
        retry.into_iter().chain(self.allocator.deadline()).min()
    }
}

/// What a released address could give a Service beyond what was decided.
enum Shortage {
    Nothing,
    /// Its second family.
    Family,
    /// What it is refused.
    Refused,
}

fn shortage(facts: &ServiceFacts, decision: &Decision) -> Shortage {
    match decision {
        Decision::Refuse(_)
        | Decision::Clear { refusal: Some(_), .. }
        | Decision::Keep { concern: Some(Concern::Unmet(_)), .. } => Shortage::Refused,
        Decision::Keep { addresses, .. } | Decision::Assign { addresses, .. } => match &facts.claim {
            Claim::Wants { request: Ok(request), .. } if !request.families.are_met_by(addresses) => {
                Shortage::Family
            }
            _ => Shortage::Nothing,
        },
        Decision::Leave | Decision::Clear { refusal: None, .. } => Shortage::Nothing,
    }
}

/// Whether resource version `a` is before `b`; versions that are no numbers are never judged.
fn is_older(a: &str, b: &str) -> bool {
    matches!((a.parse::<u64>(), b.parse::<u64>()), (Ok(a), Ok(b)) if a < b)
}
