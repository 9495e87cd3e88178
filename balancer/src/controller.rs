//! The controller: gives Services of type LoadBalancer their addresses.
//!
//! Decisions are `metallb_core::assigner`'s; here are the watches that feed it, the Lease that makes it the only one,
//! and the writes. Only the holder of the Lease watches and writes: a list that is made after the Lease was taken
//! shows all that the holder before it has written.

mod announcing;
mod answers;
mod clock;
mod configured;
mod events;
mod lean;
mod metrics;
mod news;
mod pools;
mod serve;
mod settings;
pub(crate) mod state;
mod watch;
mod write;

use std::{fmt::Display, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use kube::Client;
use metallb_core::service::ServiceKey;
use metallb_runtime::{
    lease::{Leadership, Lease},
    listen::any,
    logs, probes, shutdown,
};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use events::Events;
use metrics::Metrics;
use serve::Controller;
pub use settings::Settings;
use write::Writer;

use crate::inspect::{self, Allocation, Announcing, Cluster, Terms};

/// Name of the Lease.
const LEASE: &str = "metallb-controller";
/// After so long without the Lease the program counts as a healthy stand-by.
const STANDBY: Duration = Duration::from_secs(1);
/// What Events that wait are given to be written when the program ends.
const DRAIN: Duration = Duration::from_secs(5);

/// Does what the settings ask for: answers a question, or serves until the program is asked to end.
///
/// # Errors
/// When the cluster or a file cannot be read, and what ends the controller early.
pub async fn start(settings: Settings) -> anyhow::Result<ExitCode> {
    let mut good = true;
    match (&settings.explain, &settings.file) {
        (Some(service), _) => {
            let Some((namespace, name)) = service.split_once('/') else {
                bail!("--explain: write NAMESPACE/NAME, not {service:?}");
            };
            let (cluster, allocation) = read(&settings).await?;
            let announcing = Announcing::read(&cluster, Some(namespace)).await;
            tell(&inspect::explain(&ServiceKey::new(namespace, name), &allocation, announcing)?);
        }
        (None, Some(file)) if settings.check || settings.diff => {
            if settings.check {
                let judgement = inspect::check(file)?;
                tell(&judgement);
                good &= judgement.is_good();
            }
            if settings.diff {
                let changes = inspect::diff(&read(&settings).await?.1, file)?;
                tell(&changes);
                good &= changes.harmed() == 0;
            }
        }
        _ => run(settings).await?,
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads from the cluster what addresses are given from.
async fn read(settings: &Settings) -> anyhow::Result<(Cluster, Allocation)> {
    let client = Client::try_default().await.context("no access to a cluster")?;
    let terms = Terms {
        class: settings.class(),
        policy: settings.pool_edit_policy,
        ignore_exclude_label: settings.ignore_exclude_lb,
    };
    let cluster = Cluster { client, namespace: settings.namespace() };
    let allocation = Allocation::read(&cluster, terms).await?;
    Ok((cluster, allocation))
}

/// Says it on standard output, where nothing else of this program goes while it answers.
fn tell(answer: &impl Display) {
    println!("{answer}");
}

/// Runs until the program is asked to end.
///
/// # Errors
/// When the API server cannot be reached at all, a port is taken, or the Lease is lost.
async fn run(settings: Settings) -> anyhow::Result<()> {
    logs::init(settings.log_level);
    settings.log_unused();
    let cancel = shutdown::token()?;
    let client = Client::try_default().await.context("no access to a cluster")?;
    let readiness = probes::Readiness::new();
    let address = any(settings.health_probe_port);
    let mut tasks = JoinSet::new();
    // Served until the end of the process: the work below ends by itself when it is asked to, its writes finished.
    let served = CancellationToken::new();
    tasks.spawn(probes::serve(address, readiness.clone(), served.clone()));
    let metrics = Metrics::new();
    if let Some(endpoint) = settings.metrics() {
        let registry = metrics.registry();
        tasks.spawn(metallb_runtime::metrics::serve(endpoint, registry, client.clone(), served));
    }

    let reign = Reign { client, settings, metrics, readiness };
    let result = tokio::select! {
        ended = tasks.join_next() => ended_early(ended),
        result = reign.again_and_again(&cancel) => result,
    };
    cancel.cancel();
    result
}

/// What the holder of the Lease works with.
struct Reign {
    client: Client,
    settings: Settings,
    metrics: Metrics,
    readiness: probes::Readiness,
}

impl Reign {
    /// Serves whenever the Lease is held, until `cancel`. Each time all that is known is learnt anew: another may have
    /// written meanwhile.
    async fn again_and_again(&self, cancel: &CancellationToken) -> anyhow::Result<()> {
        let (settings, readiness) = (&self.settings, &self.readiness);
        let namespace = settings.namespace();
        let owner = state::installation(self.client.clone(), &namespace);
        loop {
            let lease = Lease::new(self.client.clone(), &namespace, LEASE, &settings.identity());
            let lease = lease.going_with(owner.clone());
            let Some(leadership) = acquire(lease, cancel, readiness).await? else { return Ok(()) };
            if self.once(leadership, cancel).await? {
                return Ok(());
            }
            tracing::error!("Lease {LEASE} is lost: another controller may write now");
        }
    }

    /// Serves until `cancel`; `false` when the Lease was lost before.
    async fn once(&self, leadership: Leadership, cancel: &CancellationToken) -> anyhow::Result<bool> {
        let (events, writing_events) = Events::new(self.client.clone(), leadership.clone());
        let writing_events = tokio::spawn(writing_events);
        let writer = Writer::new(self.client.clone(), &self.settings, leadership.clone(), events);
        let policy = self.settings.pool_edit_policy;
        let announcing = announcing::Announcing::new(self.settings.ignore_exclude_lb);
        let (readiness, metrics) = (self.readiness.clone(), self.metrics.clone());
        let controller = Controller::new(writer, policy, announcing, readiness, metrics);
        let result = tokio::select! {
            () = leadership.lost() => Ok(false),
            result = controller.serve(cancel) => result.map(|()| true),
        };
        if tokio::time::timeout(DRAIN, writing_events).await.is_err() {
            tracing::warn!("events are left unwritten");
        }
        leadership.release().await;
        result
    }
}

fn ended_early(ended: Option<Result<anyhow::Result<()>, JoinError>>) -> anyhow::Result<()> {
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
