//! The controller: gives Services of type LoadBalancer their addresses.
//!
//! Decisions are `metallb_core::assigner`'s; here are the watches that feed it, the Lease that makes it the only one,
//! and the writes. Only the holder of the Lease watches and writes: a list that is made after the Lease was taken
//! shows all that the holder before it has written.

mod events;
mod pools;
mod settings;
mod watch;
mod write;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow, bail};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use metallb_api::IPAddressPool;
use metallb_core::{
    assigner::{Assigner, Outcome, Write},
    claim::ServiceFacts,
    selector::Labels,
};
use metallb_runtime::{
    lease::{Leadership, Lease},
    logs, probes, shutdown,
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use events::Events;
use pools::{Counters, Pools};
pub use settings::Settings;
use write::Writer;

use crate::watch::Change;

/// Name of the Lease.
const LEASE: &str = "metallb-controller";
/// Writes that are under way at one time.
const WRITES: usize = 32;
/// Changes that are taken in before the next write is sought.
const BATCH: usize = 256;
/// After so long without the Lease the program counts as a healthy stand-by.
const STANDBY: Duration = Duration::from_secs(1);
/// What writes under way are given to finish when the program ends.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until the program is asked to end.
///
/// # Errors
/// When the API server cannot be reached at all, the probes' port is taken, or the Lease is lost.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    logs::init(settings.log_level);
    settings.log_unused();
    let cancel = shutdown::token()?;
    let client = Client::try_default().await.context("no access to a cluster")?;
    let readiness = probes::Readiness::new();
    let addr = SocketAddr::from(([0, 0, 0, 0], settings.health_probe_port));
    let mut tasks = JoinSet::new();
    tasks.spawn(probes::serve(addr, readiness.clone(), cancel.clone()));

    let lease = Lease::new(client.clone(), &settings.namespace(), LEASE, &settings.identity());
    let leadership = tokio::select! {
        ended = tasks.join_next() => return ended_early(ended),
        taken = acquire(lease, &cancel, &readiness) => match taken? {
            Some(leadership) => leadership,
            None => return Ok(()),
        },
    };
    let (events, writing_events) = Events::new(client.clone(), leadership.clone());
    let writing_events = tokio::spawn(writing_events);
    let writer = Writer::new(client, &settings.namespace(), settings.class(), leadership.clone(), events);
    let controller = Controller::new(writer, &settings, leadership.clone(), readiness);
    let result = tokio::select! {
        ended = tasks.join_next() => ended_early(ended),
        () = leadership.lost() => Err(anyhow!("Lease {LEASE} is lost: another controller may write now")),
        result = controller.serve(&cancel) => result,
    };
    if tokio::time::timeout(DRAIN, writing_events).await.is_err() {
        tracing::warn!("ending with events unwritten");
    }
    leadership.release().await;
    cancel.cancel();
    result
}

fn ended_early(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(result) => result.context("a task broke off")?,
        None => Ok(()),
    }
}

async fn acquire(
    lease: Lease,
    cancel: &CancellationToken,
    readiness: &probes::Readiness,
) -> anyhow::Result<Option<Leadership>> {
    let mut acquiring = std::pin::pin!(lease.acquire(cancel));
    match tokio::time::timeout(STANDBY, &mut acquiring).await {
        Ok(taken) => taken,
        Err(_) => {
            readiness.set(true);
            acquiring.await
        }
    }
}

/// What the watches bring.
enum Input {
    Services(Change<ServiceFacts>),
    Pools(Change<IPAddressPool>),
    Namespaces(Change<(String, Labels)>),
}

/// The one owner of all that is known about Services and addresses.
struct Controller {
    assigner: Assigner,
    pools: Pools,
    /// Services that came before everything was known that adopting them needs.
    early: Option<Vec<ServiceFacts>>,
    seen: Seen,
    writer: Writer,
    writes: JoinSet<(Write, Outcome)>,
    pool_writes: JoinSet<BTreeMap<String, Counters>>,
    leadership: Leadership,
    readiness: probes::Readiness,
    clock: Clock,
    class: Option<String>,
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

/// Which lists are complete.
#[derive(Clone, Copy, Default)]
struct Seen {
    pools: bool,
    namespaces: bool,
}

impl Controller {
    fn new(
        writer: Writer,
        settings: &Settings,
        leadership: Leadership,
        readiness: probes::Readiness,
    ) -> Self {
        Self {
            assigner: Assigner::new(settings.pool_edit_policy),
            pools: Pools::default(),
            early: None,
            seen: Seen::default(),
            writer,
            writes: JoinSet::new(),
            pool_writes: JoinSet::new(),
            leadership,
            readiness,
            clock: Clock::start(),
            class: settings.class(),
        }
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn inputs(&self) -> BoxStream<'static, Vec<Input>> {
        let client = self.writer.client();
        let services = watch::services(Api::<Service>::all(client.clone()), self.class.clone());
        let pools = watch::pools(Api::namespaced(client.clone(), self.writer.namespace()));
        let namespaces = watch::namespaces(Api::all(client));
        futures::stream::select_all([
            services.map(Input::Services).boxed(),
            pools.map(Input::Pools).boxed(),
            namespaces.map(Input::Namespaces).boxed(),
        ])
        .ready_chunks(BATCH)
        .boxed()
    }

    async fn serve(mut self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let mut inputs = self.inputs();
        loop {
            self.start_writes();
            self.start_pool_writes();
            let deadline = [self.assigner.deadline(), self.pools.deadline()].into_iter().flatten().min();
            let wake = self.clock.at(deadline.unwrap_or(self.now() + Duration::from_secs(3600)));
            tokio::select! {
                () = cancel.cancelled() => break,
                batch = inputs.next() => match batch {
                    Some(batch) => batch.into_iter().for_each(|input| self.take(input)),
                    None => bail!("the watches ended"),
                },
                Some(finished) = self.writes.join_next() => self.finished(finished?),
                Some(written) = self.pool_writes.join_next() => self.pools.written(&written?),
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

    fn take(&mut self, input: Input) {
        match input {
            Input::Services(change) => self.take_services(change),
            Input::Pools(change) => {
                self.pools.take(change);
                self.seen.pools = true;
                let now = self.now();
                let pools = self.pools.serve();
                self.assigner.set_pools(pools, now);
            }
            Input::Namespaces(change) => {
                match change {
                    Change::All(all) => self.assigner.set_namespaces(all.into_iter().collect()),
                    Change::Set((name, labels)) => self.assigner.set_namespace(&name, labels),
                    Change::Gone((name, _)) => self.assigner.set_namespace(&name, Labels::new()),
                }
                self.seen.namespaces = true;
            }
        }
        if self.seen.pools
            && self.seen.namespaces
            && let Some(early) = self.early.take()
        {
            self.load(early);
        }
    }

    fn take_services(&mut self, change: Change<ServiceFacts>) {
        let ready = self.seen.pools && self.seen.namespaces;
        let now = self.now();
        match change {
            Change::All(all) if ready => self.load(all),
            Change::All(all) => self.early = Some(all),
            Change::Set(facts) => match &mut self.early {
                Some(early) => {
                    early.retain(|known| known.key != facts.key);
                    early.push(facts);
                }
                None => self.assigner.apply(facts, now),
            },
            Change::Gone(facts) => match &mut self.early {
                Some(early) => early.retain(|known| known.key != facts.key),
                None => self.assigner.delete(&facts.key, now),
            },
        }
    }

    fn load(&mut self, services: Vec<ServiceFacts>) {
        let (listed, now) = (services.len(), self.now());
        for (service, conflict) in self.assigner.load(services, now) {
            tracing::warn!(%service, error = %conflict, "address of another service not adopted");
        }
        if !self.readiness.get() {
            let held = self.assigner.allocator().ledger().holdings().count();
            tracing::info!(services = listed, held, "addresses adopted");
        }
        self.readiness.set(true);
    }

    fn start_writes(&mut self) {
        while self.writes.len() < WRITES && self.leadership.held() {
            let now = self.now();
            let Some(write) = self.assigner.next(now) else { return };
            self.writes.spawn(self.writer.clone().write(write));
        }
    }

    fn finished(&mut self, (write, outcome): (Write, Outcome)) {
        let now = self.now();
        self.assigner.finished(write, outcome, now);
    }

    fn start_pool_writes(&mut self) {
        if self.pool_writes.is_empty() && self.readiness.get() && self.leadership.held() {
            let now = self.now();
            let changed = self.pools.changed(self.assigner.allocator().ledger(), now);
            if !changed.is_empty() {
                self.pool_writes.spawn(self.writer.clone().write_pools(changed));
            }
        }
    }
}
