//! Which objects an installation is to have now: the new ones, in the order of a rollout, or those that worked last.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use metallb_api::{MetalLB, names};
use serde_json::{Value, json};

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
    rollout::{self, Candidate, Failed, Kept, RESUME, Rollout, Step, Target, Time, Verdict, Workload},
    status::{self, Observation},
    world::Source,
};

/// How long another version has to work before it takes the place of the last one that is known to have worked.
const SOAK: Duration = Duration::from_secs(60);
/// When to plan again after a stop was told: not at once, for the status may be refused.
const AFTER_STOP: Duration = Duration::from_secs(1);
/// Update strategy of a DaemonSet whose pods are replaced by hand only.
const ON_DELETE: &str = "OnDelete";

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
    let controller = workload(situation, Kind::Deployment, names::CONTROLLER, seen.controller.as_ref());
    let speaker = workload(situation, Kind::DaemonSet, names::SPEAKER, seen.speaker.as_ref());
    let patience = install.upgrade.progress_deadline.max(rollout::SHORTEST);
    let time = Time { now: situation.now, patience, left: patience.saturating_sub(situation.rolling_for) };
    seen.is_judged = true;
    if is_installed
        && is_kept
        && let Some(kept) = rollout::hold(&install.upgrade, candidate, known.as_ref())
        && !(matches!(kept, Kept::Preflight(_)) && has_begun(situation, &rendered, last_good.as_ref()))
    {
        seen.kept = Some(kept);
        let set = last_good?.set;
        seen.way_back = rollout::judge(controller.as_ref(), speaker.as_ref(), &target(&set), time);
        if let Some(deadline) = seen.way_back.deadline {
            plan.wake_at(deadline);
        }
        // What worked needs no order.
        let is_rolling = seen.way_back.step.is_some();
        return Some(eased(set, is_rolling, seen.speaker.as_ref()));
    }

    let target = target(&rendered);
    let are_older = speaker.as_ref().is_some_and(|speaker| !speaker.is_at(&target.speaker));
    let has_worked = known_digest == digest && is_at(situation, &rendered, seen);
    // A change of the speakers looks like progress: first it is told that there was none, and then they are held.
    let mut was_told = false;
    if !has_worked {
        seen.rollout = rollout::judge(controller.as_ref(), speaker.as_ref(), &target, time);
        let is_resumed = owner.annotations().get(RESUME).is_some_and(|version| version == candidate.version);
        let told = told_cause(owner, &digest, seen).filter(|_| !is_resumed);
        // On half a picture pods seem to be missing. Speakers that were stopped and go on with this plan
        // have their time again.
        let is_half = !situation.unseen(&[Source::Pods, Source::Nodes]).is_empty();
        if is_half || (told.is_none() && !are_older && is_held(situation)) {
            (seen.rollout.stalled, seen.rollout.deadline) = (None, None);
        }
        was_told = told.is_some();
        let cause = told.or_else(|| seen.rollout.stalled.clone());
        if let Some(cause) =
            cause.filter(|_| seen.rollout.step.is_some() && last_good.is_some() && !is_resumed)
        {
            seen.rollout.stop(&cause, are_older);
            if !was_told {
                // Nothing but the own status changes before the plan that holds the speakers.
                plan.wake_at(situation.now.checked_add(AFTER_STOP).unwrap_or(Timestamp::MAX));
            }
        }
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
    let is_rolling = seen.rollout.step == Some(Step::Speakers);
    let set = eased(rendered, is_rolling, seen.speaker.as_ref());
    let are_rolling = speaker.is_some_and(|speaker| !speaker.is_done(&target.speaker));
    let is_held = was_told && seen.rollout.is_stopped && !are_older && are_rolling;
    Some(if is_held { held(set) } else { set })
}

fn target(set: &Set) -> Target {
    Target { controller: set.revision(Kind::Deployment), speaker: set.revision(Kind::DaemonSet) }
}

/// Whether a workload was changed already. What turns out to be missing after that turns nothing back.
fn has_begun(situation: Situation<'_>, rendered: &Set, last_good: Option<&LastGood>) -> bool {
    [(Kind::Deployment, names::CONTROLLER), (Kind::DaemonSet, names::SPEAKER)].into_iter().any(
        |(kind, name)| {
            let wanted = rendered.revision(kind);
            let is_new = last_good.is_some_and(|last_good| last_good.set.revision(kind) != wanted);
            is_new && live_revision(situation, kind, name) == Some(wanted)
        },
    )
}

/// Whether an operator of another version installed what is there.
fn is_of_another_version(situation: Situation<'_>, installed: Option<&str>) -> bool {
    let controller = situation.world.object(&operand(situation, Kind::Deployment, names::CONTROLLER));
    let is_ours = controller.is_some_and(|controller| controller.annotations().contains_key(REVISION));
    is_ours && installed != Some(situation.settings.version.as_str())
}

/// Why it was told of these objects, and of this spec, that their rollout has stopped: the status remembers it.
fn told_cause(owner: &MetalLB, digest: &str, seen: &mut Observation) -> Option<String> {
    seen.stall = status::stall(&seen.version, digest);
    let conditions = owner.status.iter().flat_map(|status| &status.conditions);
    let mut told = conditions.filter(|condition| status::tells_of_stop(condition, owner.metadata.generation));
    told.find_map(|condition| condition.message.strip_prefix(&seen.stall)).map(str::to_owned)
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
    seen.works = is_over && is_applied && works(&seen.controller) && works(&seen.speaker);
    if !seen.works {
        return;
    }
    let record = LastGood { version: situation.settings.version.clone(), set, failed: None };
    let before = last_good(situation, owner);
    if before.as_ref() == Some(&record) {
        return;
    }
    let is_another = before.is_some_and(|before| before.set.identity() != record.set.identity());
    let left = SOAK.saturating_sub(situation.works_for);
    if is_another && !left.is_zero() {
        plan.wake_at(situation.now.checked_add(left).unwrap_or(Timestamp::MAX));
        return;
    }
    write(situation, owner, &record, seen, plan);
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
    Some(Workload { revision: live_revision(situation, kind, name), health: health?.clone() })
}

fn live_revision(situation: Situation<'_>, kind: Kind, name: &str) -> Option<String> {
    situation.world.object(&operand(situation, kind, name))?.annotations().get(REVISION).cloned()
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
fn eased(set: Set, is_rolling: bool, speaker: Option<&Health>) -> Set {
    let lost = speaker.map_or(0, |health| health.excused.len());
    if !is_rolling || lost == 0 {
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

/// With a strategy by which Kubernetes replaces no further speaker, also when the one that held the rollout up is ready.
fn held(set: Set) -> Set {
    set.map(|key: &Key, object: &mut Value| {
        if key.kind == Kind::DaemonSet {
            object["spec"]["updateStrategy"] = json!({"type": ON_DELETE});
        }
    })
}

/// Whether the speakers are as [`held`] leaves them.
fn is_held(situation: Situation<'_>) -> bool {
    let speakers = situation.world.object(&operand(situation, Kind::DaemonSet, names::SPEAKER));
    speakers.is_some_and(|speakers| speakers.data["spec"]["updateStrategy"]["type"] == ON_DELETE)
}

/// How many of `total` a number or a percentage means; as Kubernetes rounds it.
fn number(allowed: &Value, total: usize) -> usize {
    let percentage = allowed.as_str().and_then(|text| text.strip_suffix('%')?.parse::<usize>().ok());
    match percentage {
        Some(percentage) => (total * percentage).div_ceil(100),
        None => allowed.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(1),
    }
}
