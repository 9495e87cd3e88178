//! The loop that is the one owner of all that is known about Services and addresses.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use kube::Api;
use metallb_api::{IPAddressPool, IPAddressPoolStatus};
use metallb_core::{
    allocator::PoolEditPolicy,
    assigner::{Assigner, Outcome, Write},
    claim::{Claim, ServiceFacts},
    decision::Decision,
    selector::Labels,
    service::ServiceKey,
};
use metallb_runtime::probes::Readiness;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    announcing::Announcing, answers::Answers, metrics::Metrics, news::News, pools::Pools, watch,
    write::Writer,
};
use crate::watch::{Change, Unreadable};

/// Writes that are under way at one time.
const WRITES: usize = 32;
/// Of those about announcing, which nobody waits for.
const TELLINGS: usize = 4;
/// Changes that are taken in before the next write is sought.
const BATCH: usize = 256;
/// How long nothing need happen at most.
const IDLE: Duration = Duration::from_secs(3600);
/// How long the list of nodes is waited for before the first address is given.
const NODES: Duration = Duration::from_secs(5);
/// How long a write that failed waits for the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// What writes under way are given to finish when the program ends.
const DRAIN: Duration = Duration::from_secs(5);

/// What the watches bring.
enum Input {
    Services(Change<ServiceFacts>),
    Pools(Result<Change<IPAddressPool>, Unreadable>),
    Namespaces(Change<(String, Labels)>),
    Announcing(News),
}

/// Time since 1970 that never goes back: the wall clock is read once, so that an address that rests does so for its
/// time whatever is done to that clock.
#[derive(Clone, Copy)]
struct Clock {
    epoch: Duration,
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        // A clock that stands before 1970 is as good as one that stands at 1970.
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { epoch, started: Instant::now() }
    }

    fn now(&self) -> Duration {
        self.epoch + self.started.elapsed()
    }

    fn at(&self, time: Duration) -> Instant {
        self.started + time.saturating_sub(self.epoch)
    }
}

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
    announcing: Announcing,
    have_pools: bool,
    /// Whether pools have changed since they were last read.
    pools_changed: bool,
    /// Whether something has changed that may concern the announcing of any Service.
    announcing_changed: bool,
    /// The configuration is not read again before.
    read_after: Duration,
    have_namespaces: bool,
    /// Services that came before everything was known that adopting them needs.
    early: Option<BTreeMap<ServiceKey, ServiceFacts>>,
    adopted: bool,
    /// When each Service that lacks an address was first seen so.
    asked: BTreeMap<ServiceKey, Duration>,
    writer: Writer,
    writes: JoinSet<(Write, Outcome)>,
    tellings: JoinSet<(ServiceKey, bool)>,
    pool_writes: JoinSet<BTreeMap<String, IPAddressPoolStatus>>,
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
        readiness: Readiness,
        metrics: Metrics,
    ) -> Self {
        Self {
            assigner: Assigner::new(policy),
            pools: Pools::new(metrics.clone()),
            announcing: Announcing::default(),
            have_pools: false,
            pools_changed: false,
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
            state_writes: JoinSet::new(),
            answers: Answers::default(),
            state: State::default(),
            readiness,
            metrics,
            clock: Clock::start(),
        }
    }

    fn inputs(&self) -> BoxStream<'static, Vec<Input>> {
        let client = self.writer.client();
        let services = watch::services(Api::all(client.clone()), self.writer.class());
        let pools = watch::pools(Api::namespaced(client.clone(), self.writer.namespace()));
        let announcing = watch::announcing(&client, self.writer.namespace());
        let namespaces = watch::namespaces(Api::all(client));
        futures::stream::select_all([
            services.map(Input::Services).boxed(),
            pools.map(Input::Pools).boxed(),
            namespaces.map(Input::Namespaces).boxed(),
            announcing.map(Input::Announcing).boxed(),
        ])
        .ready_chunks(BATCH)
        .boxed()
    }

    /// Serves until `cancel`.
    ///
    /// # Errors
    /// When a task broke off.
    pub(super) async fn serve(mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let mut inputs = self.inputs();
        loop {
            self.read_configuration();
            self.adopt_when_known();
            self.start_writes();
            self.start_tellings();
            self.start_pool_writes();
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
        let unread = (self.pools_changed || self.announcing_changed).then_some(self.read_after);
        let nodes = self.early.is_some().then_some(now + RETRY);
        let known =
            [self.assigner.deadline(), self.pools.deadline(), untold, lease, pause, telling, unread, nodes];
        known.into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    fn take_all(&mut self, batch: Vec<Input>) {
        for input in batch {
            self.metrics.taken_in();
            self.take(input);
        }
        self.pools.touch();
    }

    /// Takes in the Services that came early, once all is known that adopting them needs. Nodes are waited for only for
    /// a while: their addresses are better kept out of the way, but Services must not go without for their sake.
    fn adopt_when_known(&mut self) {
        let knows_nodes = self.announcing.knows_nodes() && !self.announcing_changed;
        if self.have_pools
            && self.have_namespaces
            && (knows_nodes || self.clock.started.elapsed() >= NODES)
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
            self.announcing_changed = true;
        }
        if std::mem::take(&mut self.announcing_changed) {
            self.assigner.reserve(self.announcing.node_addresses(), self.clock.now());
            self.announcing.configure(self.pools.objects(), self.assigner.allocator().pools());
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
                }
                self.pools.take(change);
                self.pools_changed = true;
            }
            Input::Announcing(news) => self.announcing_changed |= self.announcing.take(news),
            Input::Pools(Err(Unreadable)) => self.assigner.doubt_pools(true, now),
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

    fn take_services(&mut self, change: Change<ServiceFacts>) {
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

    fn load(&mut self, services: Vec<ServiceFacts>) {
        let (listed, now) = (services.len(), self.clock.now());
        if !self.adopted {
            self.assigner.rest(self.pools.resting());
        }
        self.asked.clear();
        for facts in &services {
            self.note_wish(facts, now);
        }
        self.announcing.touch(services.iter().map(|facts| facts.key.clone()));
        for (service, conflict) in self.assigner.load(services, now) {
            tracing::warn!(%service, error = %conflict, "address of another service not adopted");
        }
        if !self.adopted {
            let held = self.assigner.allocator().ledger().holdings().count();
            tracing::info!(services = listed, held, "addresses adopted");
        }
        self.adopted = true;
        self.readiness.set(true);
    }

    fn start_writes(&mut self) {
        let now = self.clock.now();
        while self.writes.len() < self.answers.writes(now, WRITES) && self.writer.may_write() {
            let Some(write) = self.assigner.next(now) else { break };
            let announced = match &write.decision {
                Decision::Assign { addresses, .. } => self.announcing.at_assignment(&write.facts, addresses),
                _ => None,
            };
            self.writes.spawn(self.writer.clone().write(write, announced));
        }
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

    fn start_state_write(&mut self) {
        let idle = self.state_writes.is_empty() && self.clock.now() >= self.state.after;
        if self.adopted && idle && self.writer.may_write() {
            let mut problems = self.pools.problems();
            problems.extend_from_slice(self.announcing.problems());
            if self.state.told.as_ref() != Some(&problems) {
                self.state_writes.spawn(self.writer.clone().write_state(problems));
            }
        }
    }
}
