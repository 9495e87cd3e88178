//! Leader election by a `coordination.k8s.io/v1` Lease.
//!
//! Guarantees: while [`Leadership::held`] is true no other process that follows the same rules holds the Lease,
//! whatever the wall clocks of the nodes say. Remaining time is counted on `CLOCK_BOOTTIME`, which goes on while a
//! machine sleeps or a process is stopped, from the moment *before* the renewing request was sent. A contender
//! counts from the moment at which it saw the Lease change or vanish, never from the times written in it.
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
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::Mutex, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::owner::{Known, Owner};

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
pub(crate) fn boottime() -> Duration {
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
    /// For how long after that another may think that it holds the Lease.
    good_for: Duration,
}

impl Sighting {
    fn new(since: Duration) -> Self {
        Self { resource_version: None, since, good_for: Duration::ZERO }
    }

    /// Judges the Lease `seen` at `now`. One that was deleted is as good for its holder as it was before.
    fn judge(&mut self, seen: Option<&LeaseObject>, me: &str, now: Duration) -> Step {
        let version = seen.and_then(|seen| seen.metadata.resource_version.as_ref());
        if self.resource_version.as_ref() != version {
            (self.resource_version, self.since) = (version.cloned(), now);
        }
        if let Some(seen) = seen {
            let spec = seen.spec.as_ref();
            let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
            let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
            let is_free = holder.is_empty() || holder == me;
            let seconds = if is_free { 0 } else { u64::try_from(seconds).unwrap_or_default() };
            self.good_for = Duration::from_secs(seconds);
        }
        if now >= self.since + self.good_for { Step::Take } else { Step::Wait }
    }
}

/// A Lease that this process may come to hold.
pub struct Lease {
    api: Api<LeaseObject>,
    namespace: String,
    name: String,
    identity: String,
    owner: Option<Arc<Owner>>,
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
            owner: None,
        }
    }

    /// The same Lease, that from when it is held goes with `owner`. It is not taken while that has just been deleted.
    #[must_use]
    pub fn going_with(self, owner: Arc<Owner>) -> Self {
        Self { owner: Some(owner), ..self }
    }

    /// Waits until the Lease is held, then renews it in the background. `None` when `cancel` came first.
    ///
    /// Faults of the API server are logged and tried again: a contender has nothing better to do. So are refusals at
    /// first, since an API server that has just started forbids what it has not yet read the roles for.
    ///
    /// # Errors
    /// When the API server goes on refusing (no permission, no such namespace).
    pub async fn acquire(self, cancel: &CancellationToken) -> anyhow::Result<Option<Leadership>> {
        let mut sighting = Sighting::new(boottime());
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
                Ok(Ok(Attempt::OwnerGone)) => {
                    tracing::debug!(lease = self.name, "not taken: what the lease goes with was deleted");
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
        if let Some(owner) = &self.owner {
            owner.learn().await?;
        }
        let seen = self.api.get_opt(&self.name).await?;
        if sighting.judge(seen.as_ref(), &self.identity, now) == Step::Wait {
            let holder = seen.and_then(|seen| seen.spec?.holder_identity);
            return Ok(Attempt::HeldBy(holder.unwrap_or_default()));
        }
        let owner = match &self.owner {
            None => None,
            Some(owner) => match owner.find().await? {
                Known::There(owner) => Some(owner),
                Known::Nobody => None,
                Known::Gone => return Ok(Attempt::OwnerGone),
            },
        };
        let object = owned_by(self.claim(seen.as_ref()), owner);
        let params = PostParams::default();
        let taken = match &seen {
            None => self.api.create(&params, &object).await?,
            Some(_) => self.api.replace(&self.name, &params, &object).await?,
        };
        Ok(Attempt::Taken(Box::new(taken)))
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

/// The Lease `object` as it goes with `owner` and nobody else; as it is when there is none.
fn owned_by(mut object: LeaseObject, owner: Option<OwnerReference>) -> LeaseObject {
    if let Some(owner) = owner {
        object.metadata.owner_references = Some(vec![owner]);
    }
    object
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
    /// What it goes with was deleted.
    OwnerGone,
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
        let mut sighting = Sighting::new(at(0));
        let mut judge = |lease: Option<LeaseObject>, second| sighting.judge(lease.as_ref(), "me", at(second));
        assert_eq!(judge(Some(seen("1", "other")), 100), Step::Wait);
        assert_eq!(judge(Some(seen("1", "other")), 109), Step::Wait);
        assert_eq!(judge(Some(seen("2", "other")), 109), Step::Wait, "renewed: counted anew");
        assert_eq!(judge(Some(seen("2", "other")), 118), Step::Wait);
        assert_eq!(judge(Some(seen("2", "other")), 119), Step::Take);
        assert_eq!(judge(None, 119), Step::Wait, "deleted: its holder may not know it");
        assert_eq!(judge(None, 128), Step::Wait);
        assert_eq!(judge(None, 129), Step::Take);
        assert_eq!(Sighting::new(at(0)).judge(None, "me", at(0)), Step::Take, "there was none");
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
        let mut sighting = Sighting::new(Duration::ZERO);
        for holder in ["", "me"] {
            let lease = seen("1", holder);
            assert_eq!(sighting.judge(Some(&lease), "me", Duration::ZERO), Step::Take, "{holder:?}");
        }
    }

    #[test]
    fn a_lease_goes_with_its_owner_and_nobody_else() {
        let owner = |uid: &str| OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() };
        let with = |uids: &[&str]| {
            let mut lease = seen("1", "me");
            lease.metadata.owner_references = Some(uids.iter().map(|uid| owner(uid)).collect());
            lease
        };
        assert_eq!(
            owned_by(seen("1", "me"), Some(owner("new"))),
            with(&["new"]),
            "one that had none gets it"
        );
        assert_eq!(owned_by(with(&["old", "other"]), Some(owner("new"))), with(&["new"]));
        assert_eq!(owned_by(with(&["old"]), None), with(&["old"]), "nobody makes it its own");
    }
}
