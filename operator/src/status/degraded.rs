//! Condition Degraded: everything that needs an administrator.

use metallb_api::conditions::{DEGRADED, Report};

use super::{Observation, Reason, Refusal, joined, report};
use crate::{
    install::ACCEPT_BGP_LOSS,
    plan::ADOPT,
    rollout::{Kept, RESUME, Rollout},
};

/// Every cause is in the message; the first is the reason.
pub(super) fn condition(seen: &Observation) -> Report {
    let mut causes: Vec<(Reason, String)> = Vec::new();
    match &seen.refusal {
        Some(Refusal::Invalid(problems)) => {
            causes.extend(problems.iter().map(|problem| (Reason::InvalidSpec, problem.to_string())));
        }
        Some(Refusal::IpFailover(findings)) => {
            let list: Vec<_> = findings.iter().map(ToString::to_string).collect();
            causes.push((
                Reason::IpFailoverPresent,
                format!(
                    "nothing is installed beside IP failover, which claims addresses on the same network: remove {}",
                    list.join(", ")
                ),
            ));
        }
        Some(Refusal::Foreign(objects)) => causes.push((
            Reason::ForeignLoadBalancer,
            format!(
                "another installation is there and nothing is changed: {}. Remove it, or set annotation {ADOPT}: \"true\" \
                 on this resource to take it over",
                objects.join(", ")
            ),
        )),
        Some(Refusal::Elsewhere { names, namespace }) => causes.push((
            Reason::ForeignLoadBalancer,
            format!(
                "another MetalLB runs in another namespace and nothing is changed: {}. Annotation {ADOPT} takes over only \
                 what is in namespace {namespace}: remove that installation, or install this operator in its namespace. \
                 Beside it, this one needs annotation {ADOPT}: \"true\" and spec.loadBalancerClass",
                names.join(", ")
            ),
        )),
        Some(Refusal::BgpOfOthers(objects)) => causes.push((
            Reason::BgpInUse,
            format!(
                "nothing is changed: BGP sessions that others configured would end: {}. Move them, or set annotation \
                 {ACCEPT_BGP_LOSS}: \"true\" on this resource to have it so",
                objects.join(", ")
            ),
        )),
        None => {}
    }
    causes.extend(foreign(&seen.foreign));
    causes.extend(seen.missing.iter().map(|missing| (Reason::RequirementsMissing, missing.clone())));
    causes.extend(upgrade_failure(seen));
    let overlaps = seen.ip_failover.iter().flat_map(|found| &found.overlaps);
    causes.extend(
        overlaps.map(|overlap| (Reason::IpFailoverPresent, format!("two claim one address: {overlap}"))),
    );
    causes.extend(seen.faults.iter().map(|fault| (Reason::WatchFailed, fault.clone())));
    let unwritten = seen.failures.iter().chain(&seen.unstored);
    causes.extend(unwritten.map(|failure| (Reason::ApplyFailed, failure.clone())));
    causes.extend(seen.contested.iter().map(|field| (Reason::Contested, field.clone())));
    let workloads = [&seen.controller, &seen.speaker].into_iter().flatten();
    let troubles = workloads.flat_map(|health| &health.troubles).chain(&seen.pulling);
    causes.extend(troubles.map(|trouble| (trouble.cause.into(), trouble.message.clone())));
    let Some((reason, _)) = causes.first() else {
        return report(DEGRADED, false, Reason::Degraded, "");
    };
    let messages: Vec<_> = causes.iter().map(|(_, message)| message.as_str()).collect();
    report(DEGRADED, true, *reason, joined(&messages))
}

/// What others made beside an installation that goes on.
fn foreign(objects: &[String]) -> Option<(Reason, String)> {
    let message = format!(
        "somebody else made what is named as a part of this installation, and it is left alone: {}. Remove or rename it, \
         or set annotation {ADOPT}: \"true\" on this resource to take it over",
        objects.join(", ")
    );
    (!objects.is_empty()).then_some((Reason::ForeignLoadBalancer, message))
}

/// What became of a rollout that did not succeed.
fn upgrade_failure(seen: &Observation) -> Option<(Reason, String)> {
    let before = seen.known_version.as_deref().unwrap_or("before");
    if let Some(Kept::Failed(failed)) = &seen.kept {
        let back = match &seen.way_back {
            Rollout { step: None, .. } => "was put back as it was".to_owned(),
            Rollout { stalled: None, .. } => "is being put back as it was".to_owned(),
            Rollout { stalled: Some(cause), .. } => {
                format!("is being put back as it was, which makes no progress: {cause}")
            }
        };
        let message = format!(
            "version {} failed and version {before} {back}; it is tried again when the spec or the operator changes. It \
             failed of: {}",
            failed.version, failed.cause
        );
        return Some((Reason::UpgradeFailed, message));
    }
    let (cause, step) = (seen.rollout.stalled.as_ref()?, seen.rollout.step?);
    let mut message = format!("the rollout of version {} stopped at {step}: {cause}", seen.version);
    if let Some(reason) = &seen.no_rollback {
        message.push_str(&format!("; version {before} is not put back, because {reason}"));
    }
    if seen.rollout.is_stopped {
        message.push_str(&format!(
            "; it goes on when the spec or the operator changes, or with annotation {RESUME}: {:?} on this resource",
            seen.version
        ));
    }
    Some((Reason::UpgradeStalled, message))
}
