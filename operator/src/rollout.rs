//! How a changed installation reaches the workloads: in which order, when it waits, and when it has failed.
//!
//! Pure: the time comes in. The order is: preflight, configuration, the controller until it is healthy, then the
//! speakers, of which the DaemonSet replaces as many at a time as `maxUnavailable` says. Expected and not told here:
//! an installation whose objects are missing is made at once, and what somebody changed by hand is repaired at once.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use metallb_api::OnFailure;

use crate::{health::Health, install::Upgrade, kinds::Kind};

/// Annotation of the MetalLB resource: the version whose rollout goes on whenever it can, however long it stood still.
pub const RESUME: &str = "metallb.io/resume";

/// The shortest time without progress that is a stall: between two pods, one ends (15 s), and the next has to be ready
/// for 10 s.
pub const SHORTEST: Duration = Duration::from_secs(30);

/// What a rollout does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It is looked whether the new version may be rolled out.
    Preflight,
    /// What the workloads read is applied.
    Configuration,
    /// The controller is replaced.
    Controller,
    /// The speakers are.
    Speakers,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preflight => "step 1 of 4, preflight",
            Self::Configuration => "step 2 of 4, configuration",
            Self::Controller => "step 3 of 4, controller",
            Self::Speakers => "step 4 of 4, speakers",
        })
    }
}

/// A workload as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Which description of it was applied last.
    pub revision: Option<String>,
    /// How its pods fare.
    pub health: Health,
}

impl Workload {
    /// Whether all its pods are of that revision, and serve.
    #[must_use]
    pub fn is_done(&self, revision: &str) -> bool {
        self.is_at(revision) && !self.health.rolling_out && !self.health.settling && self.health.serves()
    }

    /// Whether it was made from the description of that revision.
    #[must_use]
    pub fn is_at(&self, revision: &str) -> bool {
        self.revision.as_deref() == Some(revision)
    }
}

/// What the workloads are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Revision of the controller.
    pub controller: String,
    /// Revision of the speakers.
    pub speaker: String,
}

/// Where a rollout stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// What it is at; `None` when it is over.
    pub step: Option<Step>,
    /// What holds it up, when it made no progress in the time that it has.
    pub stalled: Option<String>,
    /// When it will have made no progress for that time.
    pub deadline: Option<Timestamp>,
    /// Whether the speakers have to wait with their change.
    pub speakers_wait: bool,
    /// Whether it stays where it is although its cause may be gone.
    pub is_stopped: bool,
}

impl Rollout {
    /// Whether a change of an object of `kind` may be made now.
    #[must_use]
    pub fn admits(&self, kind: Kind) -> bool {
        kind != Kind::DaemonSet || !self.speakers_wait
    }

    /// Stops it where it is, which is for `cause` unless it has a newer one. `are_older` tells whether the speakers' change
    /// is still to be made.
    pub fn stop(&mut self, cause: &str, are_older: bool) {
        self.stalled.get_or_insert_with(|| cause.to_owned());
        self.deadline = None;
        self.speakers_wait = are_older;
        self.is_stopped = true;
    }
}

/// Which time it is for a rollout.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// The time, by a clock that may jump, and that may not be the cluster's.
    pub now: Timestamp,
    /// How long it may make no progress.
    pub patience: Duration,
    /// For how much longer it may, whatever the clocks say, because it was not seen to run for all that time.
    pub left: Duration,
}

/// Judges a rollout from what is there. A workload that is missing holds nothing up: it is made at once.
#[must_use]
pub fn judge(
    controller: Option<&Workload>,
    speaker: Option<&Workload>,
    target: &Target,
    time: Time,
) -> Rollout {
    let controller_is_done = controller.is_none_or(|workload| workload.is_done(&target.controller));
    let speakers_are_done = speaker.is_none_or(|workload| workload.is_done(&target.speaker));
    let (step, workload, revision) = match (controller_is_done, speakers_are_done) {
        (false, _) => (Step::Controller, controller, &target.controller),
        (true, false) => (Step::Speakers, speaker, &target.speaker),
        (true, true) => return Rollout::default(),
    };
    let speakers_wait =
        step == Step::Controller && speaker.is_some_and(|workload| !workload.is_at(&target.speaker));
    let mut rollout = Rollout { step: Some(step), speakers_wait, ..Rollout::default() };
    // Before it is applied there is nothing that could make progress.
    let Some(health) = workload.filter(|workload| workload.is_at(revision)).map(|workload| &workload.health)
    else {
        return rollout;
    };
    let Some(last) = health.progress.last.filter(|_| health.progress.lags) else { return rollout };
    let after = |from: Timestamp, pause| from.checked_add(pause).unwrap_or(Timestamp::MAX);
    // What is said to have happened later than now happened now.
    let deadline = after(last.min(time.now), time.patience).max(after(time.now, time.left));
    if time.now < deadline {
        rollout.deadline = Some(deadline);
        return rollout;
    }
    let causes: Vec<_> = health.troubles.iter().map(|trouble| trouble.message.as_str()).collect();
    rollout.stalled = Some(match causes.as_slice() {
        [] if health.serves() => "pods of the version before are not replaced".to_owned(),
        [] => format!("{} of {} pods are ready", health.ready, health.wanted),
        causes => causes.join("; "),
    });
    rollout
}

/// A version that failed, and was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Digest of its objects.
    pub digest: String,
    /// Generation of the MetalLB resource that it was made from.
    pub generation: i64,
    /// Its version.
    pub version: String,
    /// What it failed of.
    pub cause: String,
}

/// What is known of the last version that worked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    /// Its version.
    pub version: &'a str,
    /// Digest of its objects.
    pub digest: &'a str,
    /// The version after it that failed, if one did.
    pub failed: Option<&'a Failed>,
}

/// Why the last version that worked is kept, or what is there if none is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Something is missing that the new version needs.
    Preflight(Vec<String>),
    /// An administrator is to approve the new version first.
    Approval,
    /// The new version failed, and is not tried again.
    Failed(Failed),
}

/// What is to be rolled out.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its version.
    pub version: &'a str,
    /// Digest of its objects.
    pub digest: &'a str,
    /// Generation of the MetalLB resource that it is made from.
    pub generation: i64,
    /// What it needs and the cluster lacks.
    pub missing: &'a [String],
    /// The version that is installed now, whether or not it works.
    pub installed: Option<&'a str>,
}

/// Whether `candidate` may be rolled out over what is installed, and if not, why.
#[must_use]
pub fn hold(policy: &Upgrade, candidate: Candidate<'_>, known: Option<&Known<'_>>) -> Option<Kept> {
    if known.is_some_and(|known| known.digest == candidate.digest) {
        return None;
    }
    let failed = known
        .and_then(|known| known.failed)
        .filter(|failed| failed.digest == candidate.digest && failed.generation == candidate.generation);
    if let Some(failed) = failed {
        return Some(Kept::Failed(failed.clone()));
    }
    if !candidate.missing.is_empty() {
        return Some(Kept::Preflight(candidate.missing.to_vec()));
    }
    let before = known.map(|known| known.version).or(candidate.installed);
    let is_another = before != Some(candidate.version);
    let waits = policy.waits_for.as_ref().is_some_and(|approved| approved != candidate.version);
    (is_another && waits).then_some(Kept::Approval)
}

/// What comes of a rollout that stalled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stops where it is; the last version is not put back, for this reason if it should have been.
    Pause(Option<String>),
    /// The last version that worked is put back.
    Rollback,
}

/// Decides about a rollout that stalled. `absent` names the images of the last version that worked and nodes that
/// lack them.
#[must_use]
pub fn stalled(policy: &Upgrade, known: Option<&Known<'_>>, absent: &[String]) -> Verdict {
    if policy.on_failure == OnFailure::Pause {
        return Verdict::Pause(None);
    }
    if known.is_none() {
        return Verdict::Pause(Some("no version is known that worked".to_owned()));
    }
    if !absent.is_empty() {
        return Verdict::Pause(Some(absent.join(", ")));
    }
    Verdict::Rollback
}

#[cfg(test)]
mod tests;
