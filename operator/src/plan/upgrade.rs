//! Which objects an installation is to have now: the new ones, in the order of a rollout, or those that worked last.

use std::time::Duration;

use kube::ResourceExt;
use metallb_api::{MetalLB, conditions::UPGRADEABLE, names};
use serde_json::Value;

use super::{
    Plan, Situation,
    installation::{admit, change, operand},
    observe::is_component,
};
use crate::{
    health::{self, Health},
    install::Install,
    kinds::{Key, Kind},
    last_good::{self, LastGood, REVISION, Set},
    render::owner_reference,
    rollout::{self, Candidate, Failed, Rollout, Step, Target, Time, Verdict, Workload},
    status::{Observation, Reason},
    world::Source,
};

/// What is to be there. `None` when nothing may be changed for now.
pub(super) fn choose(
    situation: Situation<'_>,
    owner: &MetalLB,
    install: &Install,
    rendered: Set,
    seen: &mut Observation,
    plan: &mut Plan,
) -> Option<Set> {
    let last_good = last_good(situation, owner);
    let known_digest = last_good.as_ref().map(|last_good| last_good.set.identity()).unwrap_or_default();
    let known = last_good.as_ref().map(|last_good| last_good.known(&known_digest));
    seen.known_version = last_good.as_ref().map(|last_good| last_good.version.clone());
    let digest = rendered.identity();
    let installed = seen.controller.as_ref().and_then(|health| health.version.clone());
    let candidate = Candidate {
        version: &situation.settings.version,
        digest: &digest,
        generation: owner.metadata.generation.unwrap_or_default(),
        missing: situation.missing.map(|found| found.missing.as_slice()).unwrap_or_default(),
        installed: installed.as_deref(),
    };
    let is_installed = seen.controller.is_some() || seen.speaker.is_some();
    // An installation that has never worked is not kept as it is: what it lacks is made, and its spec is followed.
    let is_kept =
        last_good.is_some() || (is_installed && is_of_another_version(situation, installed.as_deref()));
    if is_installed
        && is_kept
        && let Some(kept) = rollout::hold(&install.upgrade, candidate, known.as_ref())
    {
        seen.kept = Some(kept);
        return last_good.map(|last_good| last_good.set);
    }

    let target = Target {
        controller: rendered.revision(Kind::Deployment),
        speaker: rendered.revision(Kind::DaemonSet),
    };
    let controller = workload(situation, Kind::Deployment, names::CONTROLLER, seen.controller.as_ref());
    let speaker = workload(situation, Kind::DaemonSet, names::SPEAKER, seen.speaker.as_ref());
    let has_worked = known_digest == digest && is_at(situation, &rendered, seen);
    if !has_worked {
        let patience = install.upgrade.progress_deadline;
        // What another operator has seen to stall, before this one started, did not begin anew.
        let left =
            if was_stalled(owner) { Duration::ZERO } else { patience.saturating_sub(situation.rolling_for) };
        let time = Time { now: situation.now, patience, left };
        seen.rollout = rollout::judge(controller.as_ref(), speaker.as_ref(), &target, time);
    }
    // On half a picture pods seem to be missing.
    if !situation.unseen(&[Source::Pods, Source::Nodes]).is_empty() {
        (seen.rollout.stalled, seen.rollout.deadline) = (None, None);
    }
    if let Some(deadline) = seen.rollout.deadline {
        plan.wake_at(deadline);
    }
    if let Some(cause) = seen.rollout.stalled.clone() {
        let absent =
            last_good.as_ref().map(|last_good| absent(situation, &last_good.set)).unwrap_or_default();
        match (rollout::stalled(&install.upgrade, known.as_ref(), &absent), &last_good) {
            (Verdict::Rollback, Some(last_good)) => {
                let failed = Failed {
                    digest: digest.clone(),
                    generation: candidate.generation,
                    version: candidate.version.to_owned(),
                    cause,
                };
                let record = LastGood { failed: Some(failed), ..last_good.clone() };
                write(situation, owner, &record, seen, plan);
                return None;
            }
            (Verdict::Rollback, None) => {}
            (Verdict::Pause(reason), _) => seen.no_rollback = reason,
        }
    }
    Some(eased(rendered, &seen.rollout, seen.speaker.as_ref()))
}

/// Whether an operator of another version installed what is there.
fn is_of_another_version(situation: Situation<'_>, installed: Option<&str>) -> bool {
    let controller = situation.world.object(&operand(situation, Kind::Deployment, names::CONTROLLER));
    let is_ours = controller.is_some_and(|controller| controller.annotations().contains_key(REVISION));
    is_ours && installed != Some(situation.settings.version.as_str())
}

/// Whether it was told of this spec that its rollout has stopped.
fn was_stalled(owner: &MetalLB) -> bool {
    let conditions = owner.status.iter().flat_map(|status| &status.conditions);
    let mut told = conditions.filter(|condition| condition.type_ == UPGRADEABLE);
    told.any(|condition| {
        condition.reason == Reason::UpgradeStalled.as_str()
            && condition.observed_generation == owner.metadata.generation
    })
}

/// Notes that `set` works, once it does.
pub(super) fn record(
    situation: Situation<'_>,
    owner: &MetalLB,
    set: Set,
    seen: &mut Observation,
    plan: &mut Plan,
) {
    let works = |health: &Option<Health>| {
        health
            .as_ref()
            .is_some_and(|health| health.serves() && !health.rolling_out && health.troubles.is_empty())
    };
    let is_over = seen.kept.is_none() && seen.rollout == Rollout::default();
    let is_applied = seen.pending.is_empty() && seen.failures.is_empty() && seen.contested.is_empty();
    if is_over && is_applied && works(&seen.controller) && works(&seen.speaker) {
        let record = LastGood { version: situation.settings.version.clone(), set, failed: None };
        if last_good(situation, owner).as_ref() != Some(&record) {
            write(situation, owner, &record, seen, plan);
        }
    }
}

fn write(
    situation: Situation<'_>,
    owner: &MetalLB,
    record: &LastGood,
    seen: &mut Observation,
    plan: &mut Plan,
) {
    let reference = serde_json::to_value(owner_reference(owner)).unwrap_or_default();
    let (key, object) = record.config_map(&situation.settings.namespace, &reference);
    if let Some(change) = change(situation, &key, object)
        && admit(situation, &change, seen, plan)
    {
        plan.stages.push(vec![change]);
    }
}

/// Whether the workloads that are there were made from `set`.
pub(super) fn is_at(situation: Situation<'_>, set: &Set, seen: &Observation) -> bool {
    let at = |kind, name, health: &Option<Health>| {
        let workload = workload(situation, kind, name, health.as_ref());
        workload.is_none_or(|workload| workload.revision.as_ref() == Some(&set.revision(kind)))
    };
    at(Kind::Deployment, names::CONTROLLER, &seen.controller)
        && at(Kind::DaemonSet, names::SPEAKER, &seen.speaker)
}

pub(super) fn last_good(situation: Situation<'_>, owner: &MetalLB) -> Option<LastGood> {
    let object = situation.world.object(&operand(situation, Kind::ConfigMap, last_good::NAME))?;
    LastGood::read(object, &owner.uid()?)
}

fn workload(situation: Situation<'_>, kind: Kind, name: &str, health: Option<&Health>) -> Option<Workload> {
    let object = situation.world.object(&operand(situation, kind, name));
    let revision = object.and_then(|object| object.annotations().get(REVISION).cloned());
    Some(Workload { revision, health: health?.clone() })
}

/// Nodes that are known to lack an image which `set` needs there.
fn absent(situation: Situation<'_>, set: &Set) -> Vec<String> {
    let mut absent = Vec::new();
    for (kind, image) in set.images() {
        let ready: Vec<_> = situation.world.nodes().filter(|node| health::is_ready_node(node)).collect();
        let lacking = ready.iter().filter(|node| health::lacks(node, &image));
        if kind == Kind::Deployment {
            // One node is enough.
            if !ready.is_empty() && lacking.count() == ready.len() {
                absent.push(format!("no node has {image}"));
            }
            continue;
        }
        let runs_speaker = |node: &str| {
            let mut pods = situation.world.pods().filter(|pod| is_component(pod, names::SPEAKER));
            pods.any(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node))
        };
        let lacking = lacking.map(|node| node.name_any()).filter(|node| runs_speaker(node));
        absent.extend(lacking.map(|node| format!("{node} lacks {image}")));
    }
    absent
}

/// The DaemonSet's controller counts a pod on a lost node as one that is being replaced. So that a lost node does not
/// hold a rollout up, it is allowed one more for each.
fn eased(set: Set, rollout: &Rollout, speaker: Option<&Health>) -> Set {
    let lost = speaker.map_or(0, |health| health.excused.len());
    if rollout.step != Some(Step::Speakers) || lost == 0 {
        return set;
    }
    let total = speaker.map_or(0, |health| health.wanted) + lost;
    set.map(|key: &Key, object: &mut Value| {
        if key.kind == Kind::DaemonSet {
            let allowed = &mut object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
            *allowed = (number(allowed, total) + lost).into();
        }
    })
}

/// How many of `total` a number or a percentage means; as Kubernetes rounds it.
fn number(allowed: &Value, total: usize) -> usize {
    let percentage = allowed.as_str().and_then(|text| text.strip_suffix('%')?.parse::<usize>().ok());
    match percentage {
        Some(percentage) => (total * percentage).div_ceil(100),
        None => allowed.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(1),
    }
}
