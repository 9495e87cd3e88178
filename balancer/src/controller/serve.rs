//! The loop that is the one owner of all that is known about Services and addresses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::bail;
use futures::{FutureExt, StreamExt};
use metallb_api::IPAddressPoolStatus;
use metallb_core::{
    allocator::PoolEditPolicy,
    assigner::{Assigner, Outcome, Write},
    claim::{Claim, ServiceFacts},
    decision::Decision,
    selector::Labels,
    service::ServiceKey,
};
use metallb_runtime::probes::Readiness;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    announcing::Announcing,
    answers::Answers,
    clock::Clock,
    configured::{Configured, ObjectKey},
    metrics::Metrics,
    news::{Input, News},
    pools::Pools,
    watch,
    write::Writer,
};
use crate::watch::{Change, Unreadable};

/// Writes that are under way at one time.
const WRITES: usize = 32;
/// Of those about announcing, which nobody waits for.
const TELLINGS: usize = 4;
/// How long nothing need happen at most.
const IDLE: Duration = Duration::from_secs(3600);
/// How long the list of nodes is waited for before the first address is given.
const NODES: Duration = Duration::from_secs(5);
/// How long all else that announcing depends on is waited for: what the first addresses come with is said in one write.
const REST: Duration = Duration::from_millis(500);
/// How long a write that failed waits for the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// What writes under way are given to finish when the program ends.
const DRAIN: Duration = Duration::from_secs(5);

/// What the ConfigurationState tells.
#[derive(Default)]
struct State {
    /// The mistakes that were written last; `None` at first and after a write that failed.
    told: Option<Vec<String>>,
    /// No attempt is made before.
    after: Duration,
}

/// What is known, and the work under way.
pub(super) struct Controller {
    assigner: Assigner,
    pools: Pools,
    configured: Configured,
    announcing: Announcing,
    have_pools: bool,
    /// Whether pools have changed since they were last read.
    pools_changed: bool,
    /// Whether the rest of the configuration has.
    configured_changed: bool,
    /// Whether something has changed that may concern the announcing of any Service.
    announcing_changed: bool,
    /// The configuration is not read again before.
    read_after: Duration,
    have_namespaces: bool,
    /// Services that came before everything was known that adopting them needs.
    early: Option<BTreeMap<ServiceKey, Arc<ServiceFacts>>>,
    adopted: bool,
    /// When each Service that lacks an address was first seen so.
    asked: BTreeMap<ServiceKey, Duration>,
    writer: Writer,
    writes: JoinSet<(Write, Outcome)>,
    tellings: JoinSet<(ServiceKey, bool)>,
    pool_writes: JoinSet<(BTreeMap<String, IPAddressPoolStatus>, bool)>,
    validity_writes: JoinSet<Vec<ObjectKey>>,
    state_writes: JoinSet<Option<Vec<String>>>,
    answers: Answers,
    state: State,
    readiness: Readiness,
    metrics: Metrics,
    clock: Clock,
}

impl Controller {
    /// Knows nothing yet.
    pub(super) fn new(
        writer: Writer,
        policy: PoolEditPolicy,
        announcing: Announcing,
        readiness: Readiness,
        metrics: Metrics,
    ) -> Self {
        Self {
            assigner: Assigner::new(policy),
            pools: Pools::new(metrics.clone()),
            configured: Configured::default(),
            announcing,
            have_pools: false,
            pools_changed: false,
            configured_changed: false,
            announcing_changed: false,
            read_after: Duration::ZERO,
            have_namespaces: false,
            early: None,
            adopted: false,
            asked: BTreeMap::new(),
            writer,
            writes: JoinSet::new(),
            tellings: JoinSet::new(),
            pool_writes: JoinSet::new(),
            validity_writes: JoinSet::new(),
            state_writes: JoinSet::new(),
            answers: Answers::default(),
            state: State::default(),
            readiness,
            metrics,
            clock: Clock::start(),
        }
    }

    /// Serves until `cancel`.
    ///
    /// # Errors
    /// When a task broke off.
    pub(super) async fn serve(mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let mut inputs = watch::inputs(&self.writer.client(), self.writer.namespace(), self.writer.class());
        loop {
            self.read_configuration();
            self.adopt_when_known();
            self.start_writes();
            self.start_tellings();
            self.start_pool_writes();
            self.start_validity_writes();
            self.start_state_write();
            let wake = self.clock.at(self.deadline());
            tokio::select! {
                () = cancel.cancelled() => break,
                batch = inputs.next() => match batch {
                    Some(batch) => self.take_all(batch),
                    None => bail!("the watches ended"),
                },
                Some(finished) = self.writes.join_next() => self.finished(finished?),
                Some(told) = self.tellings.join_next() => {
                    if let (service, false) = told? {
                        self.announcing.failed(service, self.clock.now());
                    }
                }
                Some(written) = self.pool_writes.join_next() => self.pools.written(written?),
                Some(failed) = self.validity_writes.join_next() => {
                    self.configured.failed(&failed?, self.clock.now());
                }
                Some(told) = self.state_writes.join_next() => {
                    let told = told?;
                    let after = if told.is_some() { Duration::ZERO } else { self.clock.now() + RETRY };
                    self.state = State { told, after };
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            // Results that are there already free their places before the next decisions are taken.
            while let Some(Some(finished)) = self.writes.join_next().now_or_never() {
                self.finished(finished?);
            }
        }
        let drained = async { while self.writes.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("ending with writes under way");
        }
        Ok(())
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self) -> Duration {
        let now = self.clock.now();
        let untold = self.state.told.is_none().then_some(self.state.after).filter(|after| *after > now);
        // A Lease that could not be renewed in time may be so a moment later.
        let lease = (!self.writer.may_write()).then_some(now + RETRY);
        let pause = self.answers.deadline(now);
        let telling = self.announcing.deadline().filter(|_| self.may_tell(now));
        let changed = self.pools_changed || self.configured_changed || self.announcing_changed;
        // Nothing is read before.
        let pools = self.announcing.pools_deadline().map(|deadline| deadline.max(self.read_after));
        let unread = changed.then_some(self.read_after).into_iter().chain(pools).min();
        let validity = self.configured.deadline().filter(|_| self.may_write_validity());
        let adoption = self.early.is_some().then_some(now + REST);
        let own = [self.assigner.deadline(), self.pools.deadline(), validity, telling];
        let known = own.into_iter().chain([untold, lease, pause, unread, adoption]);
        known.flatten().min().unwrap_or(now + IDLE)
    }

    fn take_all(&mut self, batch: Vec<Input>) {
        for input in batch {
            self.metrics.taken_in();
            self.take(input);
        }
        self.pools.touch();
    }

    /// Takes in the Services that came early, once all is known that adopting them needs. Nodes and the rest are waited
    /// for only for a while: the addresses of nodes are better kept out of the way, but Services must not go without
    /// for their sake.
    fn adopt_when_known(&mut self) {
        let (waited, read) = (self.clock.elapsed(), !self.announcing_changed);
        let knows_nodes = self.announcing.knows_nodes() && read;
        let is_known = match waited {
            waited if waited < REST => self.announcing.is_complete() && read,
            waited => knows_nodes || waited >= NODES,
        };
        if self.have_pools
            && self.have_namespaces
            && is_known
            && let Some(early) = self.early.take()
        {
            self.load(early.into_values().collect());
        }
    }

    /// Reads the configuration where it has changed: all of it together, since an object may overlap any other, and for
    /// a tenth of the time at most, however many objects there are and however fast they change.
    fn read_configuration(&mut self) {
        let began = self.clock.now();
        if began < self.read_after {
            return;
        }
        if std::mem::take(&mut self.pools_changed) {
            let pools = self.pools.serve();
            self.assigner.set_pools(pools, began);
            self.have_pools = true;
            self.configured_changed = true;
        }
        let is_due = self.announcing.pools_deadline().is_some_and(|deadline| deadline <= began);
        if std::mem::take(&mut self.configured_changed) || is_due {
            let config = self.configured.read(self.pools.objects());
            let served = self.assigner.allocator().pools();
            self.announcing.configure(config, served, self.configured.is_complete(), began);
            self.announcing_changed = true;
        }
        if std::mem::take(&mut self.announcing_changed) {
            self.configured.judge(self.announcing.together());
            let mut problems = self.pools.problems().chain(self.configured.problems());
            self.metrics.configured(problems.next().is_none());
            self.assigner.reserve(self.announcing.node_addresses(), self.clock.now());
            self.announcing.touch(self.assigner.services().keys().cloned());
        }
        self.read_after = began + self.clock.now().saturating_sub(began) * 10;
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Services(change) => self.take_services(change),
            Input::Pools(Ok(change)) => {
                if matches!(change, Change::All(_)) {
                    self.assigner.doubt_pools(false, now);
                    self.announcing.doubt_pools(false, now);
                }
                self.pools_changed |= self.pools.take(change);
            }
            Input::Configured(edit) => self.configured_changed |= self.configured.take(edit),
            Input::Announcing(news) => {
                if let News::Sessions(Ok(change)) = &news {
                    self.configured.take_sessions(change);
                }
                self.announcing_changed |= self.announcing.take(news);
            }
            Input::Pools(Err(Unreadable)) => {
                self.assigner.doubt_pools(true, now);
                self.announcing.doubt_pools(true, now);
            }
            Input::Namespaces(change) => {
                match change {
                    Change::All(all) => self.assigner.set_namespaces(all.into_iter().collect()),
                    Change::Set((name, labels)) => self.assigner.set_namespace(&name, labels),
                    Change::Gone((name, _)) => self.assigner.set_namespace(&name, Labels::new()),
                }
                self.have_namespaces = true;
            }
        }
    }

    fn take_services(&mut self, change: Change<Arc<ServiceFacts>>) {
        let now = self.clock.now();
        match change {
            Change::All(all) if self.adopted => self.load(all),
            Change::All(all) => {
                self.early = Some(all.into_iter().map(|facts| (facts.key.clone(), facts)).collect());
            }
            Change::Set(facts) => match &mut self.early {
                Some(early) => {
                    early.insert(facts.key.clone(), facts);
                }
                None => {
                    self.note_wish(&facts, now);
                    self.announcing.touch([facts.key.clone()]);
                    self.assigner.apply(facts, now);
                }
            },
            Change::Gone(facts) => match &mut self.early {
                Some(early) => {
                    early.remove(&facts.key);
                }
                None => {
                    self.asked.remove(&facts.key);
                    self.assigner.delete(&facts.key, now);
                }
            },
        }
    }

    /// Notes since when a Service waits. What the watch shows of an own write may come before its answer, so that only
    /// the answer ends the wait.
    fn note_wish(&mut self, facts: &ServiceFacts, now: Duration) {
        if facts.ingress.is_empty() && matches!(facts.claim, Claim::Wants { .. }) {
            self.asked.entry(facts.key.clone()).or_insert(now);
        }
    }

    fn load(&mut self, services: Vec<Arc<ServiceFacts>>) {
        let (listed, now) = (services.len(), self.clock.now());
        self.asked.clear();
        for facts in &services {
            self.note_wish(facts, now);
        }
        self.announcing.touch(services.iter().map(|facts| facts.key.clone()));
        for (service, conflict) in self.assigner.load(services, now) {
            tracing::warn!(%service, error = %conflict, "address of another service not adopted");
        }
        if !self.adopted {
            // A note may be older than what the Services show: what one of them holds does not rest.
            self.assigner.rest(self.pools.resting());
            let held = self.assigner.allocator().ledger().holdings().count();
            tracing::info!(services = listed, held, "addresses adopted");
        }
        self.adopted = true;
        self.readiness.set(true);
    }

    fn start_writes(&mut self) {
        let now = self.clock.now();
        let at_once = self.answers.writes(now, WRITES);
        while self.writes.len() < at_once && self.writer.may_write() {
            let Some(write) = self.assigner.next(now) else { break };
            let announced = match &write.decision {
                Decision::Assign { addresses, .. } => self.announcing.at_assignment(&write.facts, addresses),
                _ => None,
            };
            self.writes.spawn(self.writer.clone().write(write, announced));
        }
        self.writer.is_behind(self.writes.len() >= at_once);
        self.metrics.waiting(self.assigner.waiting());
    }

    fn start_tellings(&mut self) {
        let now = self.clock.now();
        while self.may_tell(now)
            && let Some(telling) = self.announcing.next(self.assigner.services(), now)
        {
            self.tellings.spawn(self.writer.clone().tell(telling));
        }
    }

    /// Whether anything may be written about announcing at `now`.
    fn may_tell(&self, now: Duration) -> bool {
        let answered = self.answers.writes(now, WRITES) == WRITES;
        self.adopted && answered && self.tellings.len() < TELLINGS && self.writer.may_write()
    }

    fn finished(&mut self, (write, outcome): (Write, Outcome)) {
        let now = self.clock.now();
        let asked = self.asked.get(&write.facts.key).map(|asked| now.saturating_sub(*asked));
        self.metrics.written(&write, &outcome, asked);
        self.answers.note(!matches!(outcome, Outcome::Unanswered), now);
        if matches!((&write.decision, &outcome), (Decision::Assign { .. }, Outcome::Written(_))) {
            self.asked.remove(&write.facts.key);
        }
        self.assigner.finished(write, outcome, now);
        self.pools.touch();
    }

    fn start_pool_writes(&mut self) {
        if self.pool_writes.is_empty() && self.adopted && self.writer.may_write() {
            let changed = self.pools.changed(self.assigner.allocator().ledger(), self.clock.now());
            if !changed.is_empty() {
                self.pool_writes.spawn(self.writer.clone().write_pools(changed));
            }
        }
    }

    /// Whether anything may be written about objects of the configuration, all of which has been read.
    fn may_write_validity(&self) -> bool {
        let read = !self.pools_changed && !self.configured_changed && !self.announcing_changed;
        read && self.validity_writes.is_empty() && self.adopted && self.writer.may_write()
    }

    fn start_validity_writes(&mut self) {
        if self.may_write_validity() {
            let changed = self.configured.changed(self.clock.now());
            if !changed.is_empty() {
                self.validity_writes.spawn(self.writer.clone().write_validity(changed));
            }
        }
    }

    fn start_state_write(&mut self) {
        let idle = self.state_writes.is_empty() && self.clock.now() >= self.state.after;
        if self.adopted && idle && self.writer.may_write() {
            let problems: Vec<_> = self.pools.problems().chain(self.configured.problems()).collect();
            if self.state.told.as_ref() != Some(&problems) {
                self.state_writes.spawn(self.writer.clone().write_state(problems));
            }
        }
    }
}
