//! From what was seen to the conditions of a MetalLB resource.
//!
//! Pure. Reasons come from a closed list of identifiers that the schema of a condition accepts; messages are for
//! people and name what to do.

mod degraded;
mod reason;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use metallb_api::{
    Component,
    conditions::{
        AVAILABLE, COMPATIBLE, DEGRADED, IP_FAILOVER_ABSENT, MANAGED, PROGRESSING, Report, UPGRADEABLE,
    },
    names,
};

pub use reason::Reason;

use crate::{
    gate::{Finding, Severity},
    health::{Cause, Health, Trouble},
    install::{BgpBackend, Problem},
    rollout::{Kept, Rollout, Step},
};

/// Why nothing is installed or changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// The spec has problems.
    Invalid(Vec<Problem>),
    /// IP failover runs in the cluster.
    IpFailover(Vec<Finding>),
    /// Objects of these names exist and were made by somebody else.
    Foreign(Vec<String>),
    /// Another MetalLB runs in another namespace than the operator's.
    Elsewhere {
        /// Its workloads.
        names: Vec<String>,
        /// The operator's namespace.
        namespace: String,
    },
    /// An installation that is to be taken over runs BGP sessions that others configured.
    BgpOfOthers(Vec<String>),
}

/// What was seen of an installation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// Why nothing is installed or changed.
    pub refusal: Option<Refusal>,
    /// The controller, if its Deployment is there.
    pub controller: Option<Health>,
    /// The speakers, if their DaemonSet is there.
    pub speaker: Option<Health>,
    /// What keeps the speaker's image from being pulled before the speakers of another installation are exchanged.
    pub pulling: Vec<Trouble>,
    /// How many objects the installation has.
    pub objects: usize,
    /// Objects still to be applied or removed.
    pub pending: Vec<String>,
    /// What the API server refused.
    pub failures: Vec<String>,
    /// Objects that the installation would have and somebody else made: left alone.
    pub foreign: Vec<String>,
    /// What is still stored in an older version, and why.
    pub unstored: Vec<String>,
    /// Fields about which somebody else disagrees, again and again.
    pub contested: Vec<String>,
    /// Watches that do not work.
    pub faults: Vec<String>,
    /// What was found of IP failover; `None` when it is not looked for.
    pub ip_failover: Option<IpFailover>,
    /// What else in the cluster stands in the way, for people.
    pub concerns: Vec<String>,
    /// What is to be said of a configuration of an older MetalLB; `None` when there is none.
    pub legacy: Option<Report>,
    /// Whether there is a pool to take addresses from.
    pub has_pool: bool,
    /// Who was asked to speak BGP.
    pub bgp_backend: BgpBackend,
    /// Version of this operator, and so of what it installs.
    pub version: String,
    /// The last version that is known to have worked.
    pub known_version: Option<String>,
    /// Where the rollout of `version` stands.
    pub rollout: Rollout,
    /// Whether it was looked how far the rollout is.
    pub is_judged: bool,
    /// How it is told that this rollout has stopped, but for the cause.
    pub stall: String,
    /// Where the way back to `known_version` stands, or what else is kept.
    pub way_back: Rollout,
    /// Whether all of it is there and works.
    pub works: bool,
    /// Why it is not rolled out.
    pub kept: Option<Kept>,
    /// Why the last version that worked is not put back although it should be.
    pub no_rollback: Option<String>,
    /// What is needed and the cluster lacks.
    pub missing: Vec<String>,
    /// Objects that differ from what they would be, when the resource is not to be looked after.
    pub unmanaged: Option<Vec<String>>,
}

impl Observation {
    /// Whether pods are refused or could not be made.
    #[must_use]
    pub fn has_refused_pods(&self) -> bool {
        let troubles =
            [&self.controller, &self.speaker].into_iter().flatten().flat_map(|health| &health.troubles);
        troubles.chain(&self.pulling).any(|trouble| trouble.cause == Cause::PodRefused)
    }

    /// Adds watches that do not work, each once.
    pub fn add_faults(&mut self, faults: Vec<String>) {
        self.faults.retain(|fault| !faults.contains(fault));
        self.faults.extend(faults);
    }
}

/// What was found of IP failover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpFailover {
    /// Workloads that are, or may be, IP failover.
    pub findings: Vec<Finding>,
    /// Addresses of pools that they serve, for people.
    pub overlaps: Vec<String>,
}

pub(crate) fn report(kind: &'static str, status: bool, reason: Reason, message: impl Into<String>) -> Report {
    Report { kind, status, reason: reason.as_str(), message: limited(message.into()) }
}

/// Bytes of a message. A condition's schema takes 32768; people read less.
const MOST: usize = 4096;

fn limited(message: String) -> String {
    cut(message, MOST)
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - '…'.len_utf8()));
        text.push('…');
    }
    text
}

/// One message of many, of as many as it has room for; how many more there are is told.
fn joined(messages: &[&str]) -> String {
    const ROOM: usize = MOST - "; and 1000 more".len();
    let Some((first, others)) = messages.split_first() else { return String::new() };
    let mut text = cut((*first).to_owned(), ROOM);
    for (at, message) in others.iter().enumerate() {
        if text.len() + "; ".len() + message.len() > ROOM {
            text.push_str(&format!("; and {} more", others.len() - at));
            break;
        }
        text.push_str("; ");
        text.push_str(message);
    }
    text
}

/// Conditions of the MetalLB resource that is acted on, in the order in which they are written. `before` are those
/// that it has, and `generation` is that of its spec.
#[must_use]
pub fn conditions(seen: &Observation, before: &[Condition], generation: Option<i64>) -> Vec<Report> {
    let available = available(seen);
    let progressing = progressing(seen, available.status, before, generation);
    let compatible = match seen.concerns.as_slice() {
        [] => report(COMPATIBLE, true, Reason::Compatible, ""),
        concerns => report(COMPATIBLE, false, Reason::Incompatible, concerns.join("; ")),
    };
    let mut reports = vec![
        available,
        upgradeable(seen),
        progressing,
        degraded::condition(seen),
        ip_failover_absent(seen),
        compatible,
        managed(seen),
    ];
    reports.extend(seen.legacy.clone());
    reports
}

/// Whether the operator may be replaced: not while a rollout runs, and not after one that failed.
pub(crate) fn upgradeable(seen: &Observation) -> Report {
    if let Some(Kept::Failed(failed)) = &seen.kept {
        let message = format!("version {} failed", failed.version);
        return report(UPGRADEABLE, false, Reason::UpgradeFailed, message);
    }
    if let Some(cause) = &seen.rollout.stalled {
        return report(UPGRADEABLE, false, Reason::UpgradeStalled, format!("{}{cause}", seen.stall));
    }
    if !seen.pending.is_empty() || seen.rollout.step.is_some() {
        return report(UPGRADEABLE, false, Reason::RollingOut, "a change is being carried out");
    }
    report(UPGRADEABLE, true, Reason::Upgradeable, "")
}

/// How it is told that the rollout of objects with `digest` has stopped; the cause follows.
pub(crate) fn stall(version: &str, digest: &str) -> String {
    format!("the rollout of version {version} (objects {digest}) has stopped: ")
}

/// Whether these conditions tell that the rollout of this generation has stopped.
pub(crate) fn has_stopped(before: &[Condition], generation: Option<i64>) -> bool {
    before.iter().any(|condition| tells_of_stop(condition, generation))
}

pub(crate) fn tells_of_stop(condition: &Condition, generation: Option<i64>) -> bool {
    condition.type_ == UPGRADEABLE
        && condition.reason == Reason::UpgradeStalled.as_str()
        && condition.observed_generation == generation
}

fn managed(seen: &Observation) -> Report {
    let Some(differs) = &seen.unmanaged else { return report(MANAGED, true, Reason::Managed, "") };
    let mut message = "spec.managementState is Unmanaged: nothing is repaired or upgraded".to_owned();
    if !differs.is_empty() {
        message.push_str(&format!("; not as they would be: {}", differs.join(", ")));
    }
    report(MANAGED, false, Reason::Unmanaged, message)
}

fn ip_failover_absent(seen: &Observation) -> Report {
    let Some(found) = &seen.ip_failover else {
        return report(IP_FAILOVER_ABSENT, true, Reason::NotLookedFor, "spec.ipFailoverPolicy is Ignore");
    };
    if found.findings.is_empty() {
        return report(IP_FAILOVER_ABSENT, true, Reason::IpFailoverAbsent, "");
    }
    let list: Vec<_> = found
        .findings
        .iter()
        .map(|finding| match finding.severity {
            Severity::Block => finding.to_string(),
            Severity::Idle => format!("{finding}, which is not active now"),
            Severity::Contained => format!("{finding}, which is not in the network of its host"),
        })
        .collect();
    let mut message = format!("IP failover is there: {}", list.join(", "));
    if seen.controller.is_some() || seen.speaker.is_some() {
        message.push_str("; what is installed goes on running beside it");
    }
    report(IP_FAILOVER_ABSENT, false, Reason::IpFailoverPresent, message)
}

fn available(seen: &Observation) -> Report {
    let (Some(controller), Some(speaker)) = (&seen.controller, &seen.speaker) else {
        let message = match &seen.refusal {
            Some(_) => "nothing is installed; condition Degraded says why",
            None => "the workloads are not there yet",
        };
        return report(AVAILABLE, false, Reason::NotInstalled, message);
    };
    // One serves; the others stand by.
    if controller.ready == 0 || controller.wanted == 0 {
        let message = format!("{} of {} controllers are ready", controller.ready, controller.wanted);
        return report(AVAILABLE, false, Reason::ControllerNotReady, message);
    }
    let excused = match speaker.excused.len() {
        0 => String::new(),
        _ => {
            let nodes: Vec<_> = speaker.excused.iter().map(String::as_str).collect();
            format!("; nodes that are not Ready announce nothing: {}", nodes.join(", "))
        }
    };
    if speaker.wanted == 0 {
        let message = format!(
            "no node takes a speaker: spec.nodeSelector, spec.speakerTolerations and spec.speakerConfig.affinity leave \
             none that is Ready{excused}"
        );
        return report(AVAILABLE, false, Reason::NoSpeakerWanted, message);
    }
    if !speaker.serves() {
        let message = format!("{} of {} speakers are ready{excused}", speaker.ready, speaker.wanted);
        return report(AVAILABLE, false, Reason::SpeakersNotReady, message);
    }
    let controllers = match controller.wanted {
        1 => "the controller".to_owned(),
        wanted => format!("{} of {wanted} controllers", controller.ready.min(wanted)),
    };
    let mut message = format!("{controllers} and {} are ready{excused}", speakers(speaker.ready));
    if !seen.has_pool {
        message.push_str(
            "; there is no address pool, so no Service gets an address: create an IPAddressPool with an advertisement, \
             or an AddressPool",
        );
    }
    if seen.bgp_backend != BgpBackend::Native {
        message.push_str(&format!(
            "; with bgpBackend {} too, the speaker itself speaks BGP",
            seen.bgp_backend.as_str()
        ));
    }
    report(AVAILABLE, true, Reason::Available, message)
}

fn speakers(number: usize) -> String {
    if number == 1 { "1 speaker".to_owned() } else { format!("{number} speakers") }
}

/// A change of the spec or of the workloads is progress until the load balancer works again; a node that reboots
/// later is not.
fn progressing(seen: &Observation, available: bool, before: &[Condition], generation: Option<i64>) -> Report {
    if seen.refusal.is_some() {
        return report(PROGRESSING, false, Reason::Progressing, "");
    }
    if !seen.pending.is_empty() {
        return report(PROGRESSING, true, Reason::Applying, seen.pending.join(", "));
    }
    if seen.kept == Some(Kept::Approval) {
        let message = format!(
            "version {} waits until spec.upgradePolicy.approvedVersion names it; changes of the spec wait with it",
            seen.version
        );
        return report(PROGRESSING, false, Reason::WaitingForApproval, message);
    }
    if let Some(Kept::Preflight(_)) = &seen.kept {
        let message =
            format!("version {}, {}: condition Degraded says what is missing", seen.version, Step::Preflight);
        return report(PROGRESSING, true, Reason::RollingOut, message);
    }
    let rolling = |name: &str, health: &Option<Health>| {
        let health = health.as_ref().filter(|health| health.rolling_out)?;
        Some(format!("{name}: {} of {} ready", health.ready, health.wanted))
    };
    let rolling: Vec<_> = [rolling("controller", &seen.controller), rolling("speaker", &seen.speaker)]
        .into_iter()
        .flatten()
        .collect();
    if let (Some(Kept::Failed(_)), Some(step)) = (&seen.kept, seen.way_back.step) {
        let version = seen.known_version.as_deref().unwrap_or("before");
        let message = format!("version {version} is put back, {step}: {}", rolling.join(", "));
        return report(PROGRESSING, true, Reason::RollingOut, message);
    }
    // Of an installation that has worked before; the first one only starts.
    if let (Some(step), true) = (seen.rollout.step, seen.known_version.is_some()) {
        let detail = if rolling.is_empty() { String::new() } else { format!(": {}", rolling.join(", ")) };
        let message = format!("version {}, {step}{detail}", seen.version);
        return report(PROGRESSING, true, Reason::RollingOut, message);
    }
    if !rolling.is_empty() {
        return report(PROGRESSING, true, Reason::RollingOut, rolling.join(", "));
    }
    let settled = before.iter().any(|condition| {
        condition.type_ == PROGRESSING
            && condition.status == "False"
            && condition.observed_generation == generation
    });
    if available || settled {
        return report(PROGRESSING, false, Reason::Progressing, "");
    }
    report(PROGRESSING, true, Reason::Starting, "waiting for the pods to be ready")
}

/// The programs, and how they fare.
#[must_use]
pub fn components(seen: &Observation) -> Vec<Component> {
    let component = |name: &str, health: &Option<Health>| {
        let health = health.as_ref()?;
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let mut notes: Vec<String> = health.troubles.iter().map(|trouble| trouble.message.clone()).collect();
        if !health.excused.is_empty() {
            let nodes: Vec<_> = health.excused.iter().map(String::as_str).collect();
            notes.push(format!("nodes that are not Ready: {}", nodes.join(", ")));
        }
        Some(Component {
            name: name.to_owned(),
            image: health.image.clone(),
            version: health.version.clone().filter(|_| !health.rolling_out),
            wanted: number(health.wanted),
            ready: number(health.ready),
            message: limited(notes.join("; ")),
        })
    };
    let all = [component(names::CONTROLLER, &seen.controller), component(names::SPEAKER, &seen.speaker)];
    all.into_iter().flatten().collect()
}

/// The version that all programs run, if they run the same.
#[must_use]
pub fn version(components: &[Component]) -> Option<&str> {
    let (first, others) = components.split_first()?;
    let version = first.version.as_deref()?;
    others.iter().all(|other| other.version.as_deref() == Some(version)).then_some(version)
}

/// Conditions of a MetalLB resource that is not acted on.
#[must_use]
pub fn misplaced(namespace: &str) -> Vec<Report> {
    let message = format!(
        "this resource has no effect: only the one named {:?} in namespace {namespace:?} has. Move what is meant to \
         it and delete this one",
        names::METALLB_NAME
    );
    let reason = Reason::IncorrectMetalLbResourceName;
    vec![
        report(AVAILABLE, false, reason, "this resource has no effect"),
        report(UPGRADEABLE, true, Reason::Upgradeable, ""),
        report(PROGRESSING, false, Reason::Progressing, ""),
        report(DEGRADED, true, reason, message),
    ]
}

#[cfg(test)]
mod tests;
