//! The operator's one loop: see, plan, change, see what became of it, report.

mod asking;
mod certificates;

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::bail;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{FutureExt, Stream, StreamExt, future::join_all};
use jiff::Timestamp;
use kube::{Client, core::DynamicObject};
use metallb_api::{conditions::Report, names};
use metallb_runtime::lease::Lease;
use tokio::{
    sync::{Notify, watch},
    time::sleep_until,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    attempts::Attempts,
    cluster::{self, Cluster, Outcome},
    drift::Difference,
    kinds::Kind,
    metrics::Metrics,
    needs::Found,
    plan::{self, Change, Gossip, Plan, Situation, Summary},
    settings::{REQUEST_TIMEOUT, Settings},
    world::{self, World},
};

pub use certificates::Certificates;

/// Name of the Lease that one operator holds.
pub const LEASE: &str = "metallb.io.metallboperator";
/// When every speaker has read a key of the gossip that somebody replaced: kubelets take up to two minutes.
const SETTLED: Duration = Duration::from_secs(600);
/// When OLM is told again what could not be written.
const RETELL: Duration = Duration::from_secs(10);
/// When it is looked again whether OLM's condition says what it was told: nothing tells when somebody changes it.
const RECHECK: Duration = Duration::from_secs(300);
/// Plans carried out in a row before what the watches saw meanwhile is looked at.
const ROUNDS: usize = 8;

/// Does the operator's work until `cancel`. Another operator may be at work: this one then only watches until that
/// one ends.
///
/// # Errors
/// When the Lease is lost or cannot be had: nothing may be written any more.
pub async fn run(
    client: Client,
    settings: &Settings,
    certificates: Certificates,
    metrics: Metrics,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut watches = pin!(cluster::watch(&client, settings));
    let lease = Lease::new(client.clone(), &settings.namespace, LEASE, &settings.pod_name);
    let mut acquiring = pin!(lease.acquire(cancel).fuse());
    let mut operator = Operator::new(settings, certificates, metrics);
    // Known by the time the Lease is had.
    let (sender, missing) = watch::channel(None);
    let asking = asking::ask(client.clone(), settings.namespace.clone(), operator.doubt.clone(), sender);
    let _asking = AbortOnDropHandle::new(tokio::spawn(asking));
    let leadership = loop {
        tokio::select! {
            acquired = &mut acquiring => match acquired? {
                Some(leadership) => break leadership,
                None => return Ok(()),
            },
            Some(change) = watches.next() => {
                operator.see(change);
            }
        }
    };
    let cluster = Cluster::new(client, leadership.clone(), &settings.pod_name);
    let cluster = cluster.notifying(operator.doubt.clone());
    let ended = CancellationToken::new();
    let (told, unstored) = watch::channel(Vec::new());
    let leading = async {
        let result = tokio::select! {
            () = leadership.lost() => Err(anyhow::anyhow!("the Lease {LEASE} went to another operator")),
            result = operator.lead(watches, missing, unstored, &cluster, cancel) => result,
        };
        ended.cancel();
        result
    };
    // A write that is under way is waited for, so that the Lease can be given up at once.
    let (result, ()) = tokio::join!(leading, cluster.store_anew(&ended, &told));
    leadership.release().await;
    result
}

struct Operator<'a> {
    settings: &'a Settings,
    certificates: Certificates,
    world: World,
    attempts: Attempts,
    /// The key that was seen last, so that a Secret that somebody deletes comes back as it was.
    gossip: Gossip,
    /// Since when two keys are accepted.
    mixed_since: Option<Instant>,
    /// What the programs need and the cluster lacks; `None` while that is being asked.
    missing: Option<Found>,
    /// What is still stored in an older version, and why.
    unstored: Vec<String>,
    /// Notified when something may be missing.
    doubt: Arc<Notify>,
    /// Whether pods were lacking when it was looked last.
    lacks_pods: bool,
    /// What OLM was told last, and when.
    upgradeable: Option<(Report, Instant)>,
    metrics: Metrics,
    /// When the rollout began that runs.
    rolling_since: Option<Instant>,
    /// Since when all works.
    working_since: Option<Instant>,
}

impl<'a> Operator<'a> {
    fn new(settings: &'a Settings, certificates: Certificates, metrics: Metrics) -> Self {
        Self {
            settings,
            certificates,
            world: World::default(),
            attempts: Attempts::default(),
            gossip: Gossip::new(BASE64_STANDARD.encode(rand::random::<[u8; 32]>())),
            mixed_since: None,
            missing: None,
            unstored: Vec::new(),
            doubt: Arc::default(),
            lacks_pods: false,
            upgradeable: None,
            metrics,
            rolling_since: None,
            working_since: None,
        }
    }

    fn see(&mut self, change: world::Change) -> bool {
        let identifies = matches!(&change, world::Change::Object(kind, _) if *kind == Kind::Certificate || kind.is_admission());
        let is_fault = matches!(change, world::Change::Fault(..) | world::Change::Refused(..));
        let changed = self.world.take(change);
        if is_fault && changed {
            self.doubt.notify_one();
        }
        if identifies && changed {
            self.certificates.identify(&self.world, self.settings);
        }
        if let Some((key, beside)) = self.world.objects(Kind::Secret).find_map(gossip_keys)
            && self.gossip.see(key, beside)
        {
            self.mixed_since = self.gossip.previous.as_ref().map(|_| Instant::now());
        }
        changed
    }

    async fn lead(
        &mut self,
        mut watches: impl Stream<Item = world::Change> + Unpin,
        mut missing: watch::Receiver<Option<Found>>,
        mut unstored: watch::Receiver<Vec<String>>,
        cluster: &Cluster,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        // An answer that does not come is not waited for longer.
        let patience = Instant::now() + REQUEST_TIMEOUT;
        let mut due = true;
        let mut wake: Option<Instant> = None;
        loop {
            if due {
                let began = Instant::now();
                let time = self.converge(cluster).await?;
                // From here on no clock that is set delays it.
                let pause = time.map(|time| time.duration_since(Timestamp::now()));
                wake = pause.map(|pause| Instant::now() + Duration::try_from(pause).unwrap_or_default());
                self.metrics.reconciled(began.elapsed());
            }
            tokio::select! {
                // Only here, where no write is under way, so that the Lease can be given up at once.
                () = cancel.cancelled() => return Ok(()),
                change = watches.next() => match change {
                    Some(change) => due = self.see(change),
                    None => bail!("the watches ended"),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => due = true,
                Ok(()) = missing.changed() => {
                    self.missing.clone_from(&missing.borrow_and_update());
                    due = true;
                }
                Ok(()) = unstored.changed() => {
                    self.unstored.clone_from(&unstored.borrow_and_update());
                    due = true;
                }
                () = sleep_until(patience.into()), if self.missing.is_none() => {
                    self.missing = Some(Found::unasked("the API server does not answer"));
                    due = true;
                }
            }
            // Whatever else has come in meanwhile is planned for at once.
            while let Some(Some(change)) = watches.next().now_or_never() {
                due |= self.see(change);
            }
        }
    }

    /// Shows what was seen in the metrics.
    fn show(&mut self, summary: &Summary) {
        let began = *self.rolling_since.get_or_insert_with(Instant::now);
        self.metrics.show(summary, summary.step.is_some().then_some(began));
        if summary.step.is_none() {
            self.rolling_since = None;
        }
        self.working_since = summary.works.then(|| self.working_since.unwrap_or_else(Instant::now));
        // A program that may not do what it needs is not ready, or cannot even be made.
        if !std::mem::replace(&mut self.lacks_pods, summary.lacks_pods) && summary.lacks_pods {
            self.doubt.notify_one();
        }
    }

    /// Carries plans out until there is nothing to change, then reports. When to look again.
    async fn converge(&mut self, cluster: &Cluster) -> anyhow::Result<Option<Timestamp>> {
        for _ in 0..ROUNDS {
            let now = Timestamp::now();
            let (new_certificate, due) = self.certificates.certify(&self.world, self.settings, now);
            let mixed_for = self.mixed_since.map(|since| since.elapsed());
            self.gossip.is_settled = mixed_for.is_some_and(|time| time >= SETTLED);
            let settles = mixed_for.and_then(|time| now.checked_add(SETTLED.checked_sub(time)?).ok());
            let Plan { stages, reports, wake, summary, found } = plan::plan(Situation {
                settings: self.settings,
                world: &self.world,
                attempts: &self.attempts,
                now,
                works_for: self.working_since.map(|since| since.elapsed()).unwrap_or_default(),
                rolling_for: self.rolling_since.map(|since| since.elapsed()).unwrap_or_default(),
                gossip: &self.gossip,
                missing: self.missing.as_ref(),
                unstored: &self.unstored,
                new_certificate: new_certificate.as_ref(),
            });
            for (key, object) in found {
                self.attempts.found(key, &object);
            }
            let wake = wake.into_iter().chain(due).chain(settles).min();
            if let Some(summary) = &summary {
                self.show(summary);
            }
            if stages.is_empty() {
                let told = self.tell_olm(cluster, summary.and_then(|summary| summary.upgradeable)).await?;
                return self.report(cluster, reports, wake.into_iter().chain(told).min()).await;
            }
            if !self.change(cluster, &stages).await? {
                return Ok(wake.into_iter().chain(again(now)).min());
            }
        }
        tracing::warn!(rounds = ROUNDS, "there is still something to change");
        Ok(Some(Timestamp::now()))
    }

    /// Carries `stages` out. Whether to plan on: not when the watch has to catch up first.
    async fn change(&mut self, cluster: &Cluster, stages: &[Vec<Change>]) -> anyhow::Result<bool> {
        for stage in stages {
            let outcomes = join_all(stage.iter().map(|change| cluster.perform(change))).await;
            let mut whole = true;
            let mut current = true;
            for (change, outcome) in stage.iter().zip(outcomes) {
                match self.learn(change, outcome)? {
                    Learnt::Done => {}
                    Learnt::Failed => whole = false,
                    Learnt::Outdated => current = false,
                }
            }
            if !current {
                return Ok(false);
            }
            if !whole {
                // The rest builds on this stage: it is planned anew with the failure known.
                break;
            }
        }
        Ok(true)
    }

    fn learn(&mut self, change: &Change, outcome: Outcome) -> anyhow::Result<Learnt> {
        let key = change.key();
        let now = Timestamp::now();
        match outcome {
            Outcome::Written(object) => {
                let left = left_over(change, &object);
                if let Some(left) = &left {
                    tracing::warn!(object = %key, difference = %left, "the API server stores this its own way");
                }
                let found = match change {
                    Change::Apply(_, _, found) => found.clone(),
                    Change::Create(..) | Change::Delete(..) | Change::TakeFields(..) => None,
                };
                let difference = found.as_ref().map(ToString::to_string);
                let repaired = self.attempts.succeeded(key, change.wanted(), found, left, now);
                tracing::info!(object = %key, difference, repaired, "applied");
                self.metrics.wrote(key.kind, repaired);
                self.world.wrote(key.kind, *object);
                self.certificates.identify(&self.world, self.settings);
                Ok(Learnt::Done)
            }
            Outcome::Removed => {
                tracing::info!(object = %key, "removed");
                self.metrics.wrote(key.kind, false);
                self.attempts.removed(key);
                self.world.removed(key);
                Ok(Learnt::Done)
            }
            Outcome::Outdated => Ok(Learnt::Outdated),
            Outcome::Failed(message) => {
                tracing::warn!(object = %key, message, "not written");
                self.metrics.failed(key.kind);
                self.attempts.failed(key, change.wanted(), message, now);
                Ok(Learnt::Failed)
            }
            Outcome::NotLeading => bail!("the Lease {LEASE} was lost"),
        }
    }

    /// Tells OLM whether the operator may be upgraded, if OLM asks and has not been told the same. When to try again.
    async fn tell_olm(
        &mut self,
        cluster: &Cluster,
        upgradeable: Option<Report>,
    ) -> anyhow::Result<Option<Timestamp>> {
        let (Some(name), Some(report)) = (&self.settings.operator_condition, upgradeable) else {
            return Ok(None);
        };
        let told = self.upgradeable.as_ref().filter(|(told, _)| *told == report);
        if let Some(left) = told.and_then(|(_, at)| RECHECK.checked_sub(at.elapsed())) {
            return Ok(Timestamp::now().checked_add(left).ok());
        }
        match cluster.tell_olm(&self.settings.namespace, name, &report).await {
            Outcome::Failed(message) => {
                tracing::warn!(name, message, "OperatorCondition not written");
                Ok(Timestamp::now().checked_add(RETELL).ok())
            }
            Outcome::NotLeading => bail!("the Lease {LEASE} was lost"),
            Outcome::Written(_) | Outcome::Removed => {
                self.upgradeable = Some((report, Instant::now()));
                Ok(Timestamp::now().checked_add(RECHECK).ok())
            }
            Outcome::Outdated => Ok(again(Timestamp::now())),
        }
    }

    async fn report(
        &mut self,
        cluster: &Cluster,
        reports: Vec<plan::StatusReport>,
        mut wake: Option<Timestamp>,
    ) -> anyhow::Result<Option<Timestamp>> {
        for report in reports {
            let now = Timestamp::now();
            match cluster.report(&report).await {
                Outcome::Written(object) => {
                    self.attempts.reported(&report.key);
                    self.world.wrote(report.key.kind, *object);
                }
                Outcome::Removed => {}
                Outcome::Outdated => wake = wake.into_iter().chain(again(now)).min(),
                Outcome::Failed(message) => {
                    tracing::warn!(object = %report.key, message, "status not written");
                    self.metrics.failed(report.key.kind);
                    self.attempts.failed(&report.key, &report.status, message, now);
                    let until = self.attempts.held_until(&report.key, &report.status, now);
                    wake = wake.into_iter().chain(until).min();
                }
                Outcome::NotLeading => bail!("the Lease {LEASE} was lost"),
            }
        }
        Ok(wake)
    }
}

/// When to look again at what turned out to be outdated, should no watch tell of it: of what it leaves out it cannot.
fn again(now: Timestamp) -> Option<Timestamp> {
    now.checked_add(Duration::from_secs(1)).ok()
}

/// The key within the memberlist Secret, and the one before it.
fn gossip_keys(secret: &DynamicObject) -> Option<(String, Option<String>)> {
    let key = |name: &str| {
        let value = secret.data["data"][name].as_str()?;
        let text = String::from_utf8(BASE64_STANDARD.decode(value).ok()?).ok()?;
        (!text.is_empty()).then_some(text)
    };
    Some((key(names::MEMBERLIST_SECRET_KEY)?, key(names::MEMBERLIST_SECRET_PREVIOUS_KEY)))
}

enum Learnt {
    Done,
    Failed,
    Outdated,
}

/// In what the object still differs from what was applied.
fn left_over(change: &Change, object: &DynamicObject) -> Option<Difference> {
    let Change::Apply(key, wanted, _) = change else { return None };
    plan::difference(key.kind, wanted, &serde_json::to_value(object).ok()?)
}
