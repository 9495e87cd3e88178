//! Leader election by a `coordination.k8s.io/v1` Lease.
//!
//! Guarantees: while [`Leadership::held`] is true no other process that follows the same rules holds the Lease,
//! whatever the wall clocks of the nodes say. Remaining time is counted on `CLOCK_BOOTTIME`, which goes on while a
//! machine sleeps or a process is stopped, from the moment *before* the renewing request was sent. A contender
//! counts from the moment at which it saw the Lease change, never from the times written in it.
//!
//! Assumes that a caller asks [`Leadership::held`] before each write and gives the write a time-out that ends
//! before [`Leadership::remaining`] does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::{
    api::coordination::v1::{Lease as LeaseObject, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

/// How long a Lease is good for without being renewed.
const DURATION: Duration = Duration::from_secs(10);
/// How often the holder renews.
const RENEW: Duration = Duration::from_secs(3);
/// How often a contender looks, and how long the holder waits after a renewal that failed.
const RETRY: Duration = Duration::from_secs(1);
/// What a holder keeps unused of its time, for a write that is already on its way.
const GUARD: Duration = Duration::from_secs(1);
/// How long a contender must be refused without a break before it believes that.
const REFUSED: Duration = Duration::from_secs(15);

/// Time since boot, sleep included.
fn boottime() -> Duration {
    // The clock exists on every Linux since 2.6.39; without it nothing is ever held.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a contender does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The Lease is free, its own, or has run out.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// A Lease as seen by a contender, and when it was first seen so.
#[derive(Debug)]
struct Sighting {
    resource_version: Option<String>,
    since: Duration,
}

impl Sighting {
    /// Judges the Lease `seen` at `now`.
    fn judge(&mut self, seen: &LeaseObject, me: &str, now: Duration) -> Step {
        if self.resource_version != seen.metadata.resource_version {
            *self = Self { resource_version: seen.metadata.resource_version.clone(), since: now };
        }
        let spec = seen.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        if holder.is_empty() || holder == me || now >= self.since + duration {
            Step::Take
        } else {
            Step::Wait
        }
    }
}

/// A Lease that this process may come to hold.
pub struct Lease {
    api: Api<LeaseObject>,
    namespace: String,
    name: String,
    identity: String,
}

impl Lease {
    /// The Lease `name` in `namespace`, to be held under `identity` (the pod's name, so that a container that is
    /// restarted in place has it back at once).
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Waits until the Lease is held, then renews it in the background. `None` when `cancel` came first.
    ///
    /// Faults of the API server are logged and tried again: a contender has nothing better to do. So are refusals at
    /// first, since an API server that has just started forbids what it has not yet read the roles for.
    ///
    /// # Errors
    /// When the API server goes on refusing (no permission, no such namespace).
    pub async fn acquire(self, cancel: &CancellationToken) -> anyhow::Result<Option<Leadership>> {
        let mut sighting = Sighting { resource_version: None, since: boottime() };
        let mut waiting_for = None;
        let mut refused = Refused::default();
        loop {
            let asked = boottime();
            let answer = timeout(DURATION / 2, self.attempt(&mut sighting, asked)).await;
            let refusal = matches!(&answer, Ok(Err(error)) if is_refusal(error));
            let is_final = refused.lasts(refusal, asked);
            match answer {
                Ok(Ok(Attempt::Taken(object))) => {
                    tracing::info!(lease = self.name, identity = self.identity, "lease acquired");
                    return Ok(Some(Leadership::start(self, *object, asked)));
                }
                Ok(Ok(Attempt::HeldBy(holder))) => {
                    if waiting_for.as_ref() != Some(&holder) {
                        tracing::info!(lease = self.name, %holder, "waiting for the lease");
                        waiting_for = Some(holder);
                    }
                }
                Ok(Err(error)) if is_final => {
                    return Err(error).with_context(|| format!("Lease {}/{}", self.namespace, self.name));
                }
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "lease not acquired"),
                Err(_) => {
                    tracing::warn!(lease = self.name, "lease not acquired: the API server does not answer");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn attempt(&self, sighting: &mut Sighting, now: Duration) -> kube::Result<Attempt> {
        let Some(seen) = self.api.get_opt(&self.name).await? else {
            let object = self.claim(None);
            return Ok(Attempt::Taken(Box::new(self.api.create(&PostParams::default(), &object).await?)));
        };
        match sighting.judge(&seen, &self.identity, now) {
            Step::Wait => {
                Ok(Attempt::HeldBy(seen.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()))
            }
            Step::Take => {
                let object = self.claim(Some(&seen));
                Ok(Attempt::Taken(Box::new(
                    self.api.replace(&self.name, &PostParams::default(), &object).await?,
                )))
            }
        }
    }

    /// The Lease as held by this process from now on. The times in it are for people.
    fn claim(&self, seen: Option<&LeaseObject>) -> LeaseObject {
        let now = Some(MicroTime(jiff::Timestamp::now()));
        let before = seen.and_then(|seen| seen.spec.clone()).unwrap_or_default();
        let mine = before.holder_identity.as_deref() == Some(&self.identity);
        LeaseObject {
            metadata: seen.map_or_else(
                || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                |seen| seen.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if mine { before.acquire_time.clone() } else { now.clone() },
                renew_time: now,
                lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(!mine)),
                ..before
            }),
        }
    }
}

/// The Lease `object` held by nobody; `None` when `me` does not hold it.
fn given_up(mut object: LeaseObject, me: &str) -> Option<LeaseObject> {
    let spec = object.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(me))?;
    spec.holder_identity = Some(String::new());
    Some(object)
}

enum Attempt {
    Taken(Box<LeaseObject>),
    HeldBy(String),
}

/// Since when all answers were refusals.
#[derive(Default)]
struct Refused(Option<Duration>);

impl Refused {
    /// Notes whether what was asked at `now` was refused, and tells whether this has lasted long enough to be believed.
    fn lasts(&mut self, refusal: bool, now: Duration) -> bool {
        self.0 = refusal.then(|| self.0.unwrap_or(now));
        self.0.is_some_and(|since| now >= since + REFUSED)
    }
}

/// Whether the API server understood and said no.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 422))
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Proof that this process is the one that may write. Clones speak of the same Lease.
#[derive(Clone)]
pub struct Leadership {
    lease: Arc<Lease>,
    /// Milliseconds of boot time at which the Lease runs out.
    expires: Arc<AtomicU64>,
    lost: CancellationToken,
    released: CancellationToken,
    object: Arc<Mutex<LeaseObject>>,
}

impl Leadership {
    fn start(lease: Lease, object: LeaseObject, asked: Duration) -> Self {
        let leadership = Self {
            lease: Arc::new(lease),
            expires: Arc::new(AtomicU64::new(millis(asked + DURATION))),
            lost: CancellationToken::new(),
            released: CancellationToken::new(),
            object: Arc::new(Mutex::new(object)),
        };
        tokio::spawn(leadership.clone().keep());
        leadership
    }

    /// Time in which a write may still be sent: what is left of the Lease less a guard of one second.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.lost.is_cancelled() || self.released.is_cancelled() {
            return Duration::ZERO;
        }
        let left = self.expires.load(Ordering::Acquire).saturating_sub(millis(boottime()));
        Duration::from_millis(left).saturating_sub(GUARD)
    }

    /// Whether a write may be sent now.
    #[must_use]
    pub fn held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Returns when the Lease went to somebody else or ran out unrenewed.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Gives the Lease up, so that the next contender need not wait for it to run out; one that somebody else holds
    /// by now is left alone. To be called when no write of this process is under way any more.
    pub async fn release(&self) {
        self.released.cancel();
        let object = self.object.lock().await.clone();
        let Some(object) = given_up(object, &self.lease.identity) else { return };
        let params = PostParams::default();
        let write = self.lease.api.replace(&self.lease.name, &params, &object);
        match timeout(RETRY * 2, write).await {
            Ok(Ok(_)) => tracing::info!(lease = self.lease.name, "lease released"),
            Ok(Err(error)) => tracing::warn!(lease = self.lease.name, %error, "lease not released"),
            Err(_) => {
                tracing::warn!(lease = self.lease.name, "lease not released: the API server does not answer");
            }
        }
    }

    async fn keep(self) {
        let mut pause = RENEW;
        loop {
            tokio::select! {
                () = self.released.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = match self.renew().await {
                Ok(true) => RENEW,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(lease = self.lease.name, %error, "lease not renewed");
                    RETRY
                }
            };
            if self.expires.load(Ordering::Acquire) <= millis(boottime()) {
                break;
            }
        }
        if !self.released.is_cancelled() {
            tracing::error!(lease = self.lease.name, "lease lost");
            self.lost.cancel();
        }
    }

    /// Renews once. `false` when somebody else holds the Lease.
    async fn renew(&self) -> anyhow::Result<bool> {
        let mut object = self.object.lock().await;
        if self.released.is_cancelled() {
            return Ok(false);
        }
        let asked = boottime();
        let claim = self.lease.claim(Some(&object));
        let params = PostParams::default();
        let write = self.lease.api.replace(&self.lease.name, &params, &claim);
        match timeout(RENEW, write).await? {
            Ok(renewed) => {
                *object = renewed;
                self.expires.store(millis(asked + DURATION), Ordering::Release);
                Ok(true)
            }
            Err(error) if is_conflict(&error) => {
                let seen = timeout(RENEW, self.lease.api.get(&self.lease.name)).await??;
                let holder = seen.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
                let mine = holder == Some(&self.lease.identity);
                *object = seen;
                if mine { Err(error.into()) } else { Ok(false) }
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(version: &str, holder: &str) -> LeaseObject {
        LeaseObject {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(10),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_contender_waits_a_whole_duration_after_the_last_change_that_it_saw() {
        let at = Duration::from_secs;
        let mut sighting = Sighting { resource_version: None, since: at(0) };
        assert_eq!(sighting.judge(&seen("1", "other"), "me", at(100)), Step::Wait);
        assert_eq!(sighting.judge(&seen("1", "other"), "me", at(109)), Step::Wait);
        assert_eq!(sighting.judge(&seen("2", "other"), "me", at(109)), Step::Wait, "renewed: counted anew");
        assert_eq!(sighting.judge(&seen("2", "other"), "me", at(118)), Step::Wait);
        assert_eq!(sighting.judge(&seen("2", "other"), "me", at(119)), Step::Take);
    }

    #[test]
    fn a_refusal_is_believed_when_it_lasts() {
        let mut refused = Refused::default();
        let answers = [(0, true), (14, true), (15, true), (16, false), (17, true), (31, true), (32, true)];
        let lasts = answers.map(|(at, refusal)| refused.lasts(refusal, Duration::from_secs(at)));
        assert_eq!(lasts, [false, false, true, false, false, false, true]);
    }

    #[test]
    fn only_an_own_lease_is_given_up() {
        assert_eq!(given_up(seen("1", "me"), "me"), Some(seen("1", "")));
        for holder in ["other", ""] {
            assert_eq!(given_up(seen("1", holder), "me"), None, "{holder:?}");
        }
    }

    #[test]
    fn a_released_or_own_lease_is_taken_at_once() {
        let mut sighting = Sighting { resource_version: None, since: Duration::ZERO };
        for holder in ["", "me"] {
            assert_eq!(sighting.judge(&seen("1", holder), "me", Duration::ZERO), Step::Take, "{holder:?}");
        }
    }
}
