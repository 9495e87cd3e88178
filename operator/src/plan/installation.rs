//! The MetalLB resource that is acted on.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{IpFailoverPolicy, ManagementState, MetalLB, names};
use serde::Serialize;
use serde_json::Value;

use super::{
    ADOPT, Change, Plan, Situation, adopt, compatibility, import,
    observe::{self, is_installed},
    report, seen, upgrade, webhooks,
};
use crate::{
    gate::{Finding, Severity},
    install::{self, ACCEPT_BGP_LOSS, Install, Problem},
    kinds::{Key, Kind, METRICS_TOKEN},
    last_good::{self, KINDS, Set},
    needs,
    render::{self, owner_reference},
    rollout::Rollout,
    status::{Observation, Refusal},
    workload::WorkloadKind,
    world::Source,
};

/// Kinds without which nothing can be decided.
const NEEDED: [Kind; 8] = [
    Kind::MetalLb,
    Kind::Secret,
    Kind::OlderSecret,
    Kind::ConfigMap,
    Kind::Deployment,
    Kind::DaemonSet,
    Kind::NetworkPolicy,
    Kind::Service,
];

pub(super) fn plan(situation: Situation<'_>, resource: &DynamicObject, plan: &mut Plan) {
    // A rollout must not begin before this is known.
    let Some(missing) = situation.missing else { return };
    let mut sources: Vec<Source> = NEEDED.map(Source::Objects).to_vec();
    sources.extend(WorkloadKind::ALL.map(Source::Workloads).iter().filter(|source| !source.optional()));
    let watched = [Source::Pods, Source::Nodes, Source::Objects(Kind::IpAddressPool)];
    // What a cluster need not know, and the operator may not see although it does. Its rights are not asked about.
    let optional = Kind::ALL.map(Source::Objects).into_iter().chain(WorkloadKind::ALL.map(Source::Workloads));
    let refused = optional.filter(|source| source.optional() && situation.world.is_refused(*source));
    let refused: Vec<Source> = refused.collect();
    let mut seen = Observation {
        faults: situation.faults(&[sources.as_slice(), &watched, &refused].concat()),
        version: situation.settings.version.clone(),
        missing: [missing.missing.as_slice(), &webhooks::missing(situation)].concat(),
        has_pool: situation.world.objects(Kind::IpAddressPool).next().is_some(),
        ip_failover: observe::ip_failover(situation, resource),
        contested: situation.attempts.quarrels(situation.now).collect(),
        unstored: situation.unstored.to_vec(),
        ..Observation::default()
    };
    // Also where nothing is installed or changed for another reason.
    let is_unmanaged = resource.data["spec"]["managementState"] == "Unmanaged";
    seen.unmanaged = is_unmanaged.then(Vec::new);
    let unseen = situation.unseen(&sources);
    if !unseen.is_empty() {
        // Nothing is decided on half a picture. What cannot be seen at all is told.
        if !situation.faults(&unseen).is_empty() {
            report::installation(situation, resource, &seen, plan);
        }
        return;
    }
    observe::workloads(situation, resource, &mut seen, plan);
    if let Some(found) =
        seen.ip_failover.as_mut().filter(|_| seen.controller.is_none() && seen.speaker.is_none())
    {
        found.overlaps.clear();
    }
    let class = resource.data["spec"]["loadBalancerClass"].as_str();
    seen.concerns = compatibility::concerns(situation, class, &seen);
    match parse(situation, resource) {
        Err(problems) => {
            seen.refusal = Some(Refusal::Invalid(problems));
            keep(situation, resource, &mut seen, plan);
        }
        Ok((owner, install)) => {
            seen.bgp_backend = install.bgp_backend;
            converge(situation, &owner, &install, &mut seen, plan);
        }
    }
    if seen.has_refused_pods() {
        seen.missing.extend(missing.for_pods.iter().cloned());
    }
    seen.missing.extend(missing.outdated.iter().cloned());
    seen.missing.extend(missing.converter.as_ref().map(needs::told_of_converter));
    import::plan(situation, resource, &mut seen, plan);
    if situation.unseen(&watched).iter().all(|source| !situation.faults(&[*source]).is_empty()) {
        report::installation(situation, resource, &seen, plan);
    }
}

fn parse(situation: Situation<'_>, resource: &DynamicObject) -> Result<(MetalLB, Install), Vec<Problem>> {
    let owner: MetalLB = resource.clone().try_parse().map_err(|error| {
        vec![Problem { field: "spec".to_owned(), message: format!("cannot be read: {error}") }]
    })?;
    let install = install::parse(&owner, situation.settings.defaults)?;
    Ok((owner, install))
}

fn converge(
    situation: Situation<'_>,
    owner: &MetalLB,
    install: &Install,
    seen: &mut Observation,
    plan: &mut Plan,
) {
    let is_set = |annotation: &str| owner.annotations().get(annotation).is_some_and(|value| value == "true");
    let adopts = is_set(ADOPT);
    if let Some(found) = &seen.ip_failover {
        let active: Vec<Finding> =
            found.findings.iter().filter(|finding| finding.severity == Severity::Block).cloned().collect();
        let blocks = owner.spec.ip_failover_policy.unwrap_or_default() == IpFailoverPolicy::Block;
        let is_taken_over = adopts && adopt::is_running(situation);
        if blocks && !is_installed(owner, seen) && !is_taken_over {
            if !active.is_empty() {
                seen.refusal = Some(Refusal::IpFailover(active));
                return;
            }
            // Those that a cluster need not know: whether it does, and what there is, must be seen first, too.
            let optional = [Source::Workloads(WorkloadKind::DeploymentConfig)];
            if !situation.unseen(&optional).is_empty() {
                seen.add_faults(situation.faults(&optional));
                return;
            }
        }
    }
    let reference = owner_reference(owner);
    let data = memberlist(situation);
    let context = render::Context { settings: situation.settings, owner: &reference, memberlist: &data };
    let objects = render::objects(install, context);
    let secret = wanted(Kind::Secret, &objects.memberlist);
    let rendered = rendered(situation, objects);
    let mut foreign = adopt::foreign(situation, &rendered);
    if !is_installed(owner, seen) && refuses_others(situation, owner, &foreign, adopts, seen) {
        return;
    }
    let (taken, left_alone) = if adopts {
        let left = adopt::leftovers(situation, owner, &rendered);
        foreign.extend(left.into_iter().filter(|key| !foreign.contains(key)).collect::<Vec<_>>());
        foreign.extend(adopt::webhook_service(situation));
        (foreign, Vec::new())
    } else {
        // Beside what is installed, the objects of others are left alone, and the rest is looked after.
        seen.foreign = foreign.iter().map(ToString::to_string).collect();
        (Vec::new(), foreign)
    };
    if adopt::ends_programs(&taken) && !is_set(ACCEPT_BGP_LOSS) && !may_end_bgp(situation, seen) {
        return;
    }
    if owner.spec.management_state == Some(ManagementState::Unmanaged) {
        let differs = [&secret].into_iter().chain(rendered.iter());
        let differs = differs.filter(|(key, object)| {
            !left_alone.contains(key) && situation.change(key, object.clone()).is_some()
        });
        seen.unmanaged = Some(differs.map(|(key, _)| key.to_string()).collect());
        return;
    }

    let is_taken = !taken.is_empty() || (adopts && webhooks::asks_older(situation));
    if is_taken && !adopt::prepare(situation, &reference, &secret, &rendered, &taken, seen, plan) {
        return;
    }
    let rendered = adopt::exchanged(situation, rendered, &taken, seen.speaker.as_ref());
    let rendered_keys: Vec<Key> = rendered.iter().map(|(key, _)| key.clone()).collect();
    let Some(set) = upgrade::choose(situation, owner, install, rendered, seen, plan) else { return };
    let mut keys: BTreeSet<Key> = set.iter().map(|(key, _)| key.clone()).collect();
    seen.objects = keys.iter().filter(|key| situation.world.object(key).is_some()).count();
    apply(situation, &secret, &set, &left_alone, seen, plan);
    keys.insert(operand(situation, Kind::ConfigMap, last_good::NAME));
    if seen.rollout != Rollout::default() {
        // Pods of the version before still read what only it has.
        let before = upgrade::last_good(situation, owner).map(|before| before.set).unwrap_or_default();
        keys.extend(before.iter().map(|(key, _)| key.clone()));
    }
    if seen.way_back.step.is_some() {
        // And on the way back those of the version that failed.
        keys.extend(rendered_keys);
    }
    let prune = KINDS.iter().flat_map(|&kind| outdated(situation, kind, owner, &keys));
    let prune: Vec<_> = prune.filter(|change| admit(situation, change, seen, plan)).collect();
    plan.stages.push(prune);
    upgrade::record(situation, owner, set, seen, plan);
}

/// Whether nothing is installed because another MetalLB is there. What is in another namespace cannot be taken over: two
/// controllers would write the status of the same Services, but for those of a class.
fn refuses_others(
    situation: Situation<'_>,
    owner: &MetalLB,
    foreign: &[Key],
    adopts: bool,
    seen: &mut Observation,
) -> bool {
    let elsewhere = compatibility::metallb_elsewhere(situation);
    let is_beside = adopts && owner.spec.load_balancer_class.is_some();
    if !elsewhere.is_empty() && !is_beside {
        let names = elsewhere.into_iter().map(ToString::to_string).collect();
        seen.refusal = Some(Refusal::Elsewhere { names, namespace: situation.settings.namespace.clone() });
        return true;
    }
    let mut named: Vec<String> = foreign.iter().map(ToString::to_string).collect();
    named.extend(compatibility::rival_metallb(situation).into_iter().map(ToString::to_string));
    if named.is_empty() || adopts {
        return false;
    }
    seen.refusal = Some(Refusal::Foreign(named));
    true
}

/// Whether no BGP of others would end with what is to be taken over. It is not believed that there is none before that
/// was seen, nor while it may not be seen.
fn may_end_bgp(situation: Situation<'_>, seen: &mut Observation) -> bool {
    let faults = situation.faults(&adopt::BGP_SOURCES);
    if !faults.is_empty() || !situation.unseen(&adopt::BGP_SOURCES).is_empty() {
        seen.add_faults(faults);
        return false;
    }
    let losses = adopt::bgp_of_others(situation);
    if losses.is_empty() {
        return true;
    }
    seen.refusal = Some(Refusal::BgpOfOthers(losses));
    false
}

/// Repairs what worked last, while the spec has problems: unless something else is installed by now, of which only the
/// spec said what it should be.
fn keep(situation: Situation<'_>, resource: &DynamicObject, seen: &mut Observation, plan: &mut Plan) {
    let Ok(owner) = resource.clone().try_parse::<MetalLB>() else { return };
    let is_managed = owner.spec.management_state != Some(ManagementState::Unmanaged);
    let worked = upgrade::last_good(situation, &owner).filter(|_| is_managed);
    let Some(set) = worked.map(|worked| worked.set).filter(|set| upgrade::is_at(situation, set, seen)) else {
        return;
    };
    let (reference, data) = (owner_reference(&owner), memberlist(situation));
    let context = render::Context { settings: situation.settings, owner: &reference, memberlist: &data };
    let secret = wanted(Kind::Secret, &render::memberlist(context));
    let left_alone = adopt::foreign(situation, &set);
    apply(situation, &secret, &set, &left_alone, seen, plan);
}

/// Plans what is to be done for `secret` and `set` to be there but for what is `left_alone`, as far as the rollout admits
/// it.
fn apply(
    situation: Situation<'_>,
    secret: &(Key, Value),
    set: &Set,
    left_alone: &[Key],
    seen: &mut Observation,
    plan: &mut Plan,
) {
    let stage = |(key, _): &&(Key, Value)| match key.kind {
        Kind::Secret | Kind::ConfigMap | Kind::NetworkPolicy | Kind::MetricsToken => 0,
        Kind::Deployment | Kind::DaemonSet => 1,
        _ => 2,
    };
    for number in 0..=2 {
        let objects = [secret].into_iter().chain(set.iter());
        let objects = objects.filter(|object| stage(object) == number && !left_alone.contains(&object.0));
        let mut changes = Vec::new();
        for (key, object) in objects {
            match change(situation, key, object.clone()) {
                Some(change) => changes.push(change),
                None => plan.find(situation, key, object),
            }
        }
        let admitted = changes
            .into_iter()
            .filter(|change| seen.rollout.admits(change.key().kind) && admit(situation, change, seen, plan))
            .collect();
        plan.stages.push(admitted);
    }
}

/// What is to be there but for the key of the gossip. What nobody would read is not made.
fn rendered(situation: Situation<'_>, objects: render::Objects) -> Set {
    let mut all = vec![wanted(Kind::ConfigMap, &objects.exclude_l2)];
    all.extend(objects.network_policy.iter().map(|policy| wanted(Kind::NetworkPolicy, policy)));
    all.push(wanted(Kind::Deployment, &objects.controller));
    all.push(wanted(Kind::DaemonSet, &objects.speaker));
    all.extend(objects.monitor_services.iter().map(|service| wanted(Kind::Service, service)));
    let is_known = |kind: Kind| situation.world.complete(Source::Objects(kind));
    let names_the_token = |kind: Kind| matches!(kind, Kind::ServiceMonitor | Kind::PodMonitor);
    let has_monitors = objects.monitors.iter().any(|(kind, _)| names_the_token(*kind) && is_known(*kind));
    let token = situation.world.object(&operand(situation, Kind::MetricsToken, METRICS_TOKEN));
    let has_token = token.is_some_and(|token| token.data["data"]["token"].is_string());
    let read = objects.monitors.into_iter().filter(|(kind, object)| match kind {
        Kind::MetricsToken => has_monitors,
        // The Prometheus Operator drops a monitor whose token it does not find, and does not look again.
        kind if names_the_token(*kind) => {
            let is_there = || situation.world.object(&key_of(*kind, object)).is_some();
            is_known(*kind) && (has_token || is_there())
        }
        kind => is_known(*kind),
    });
    all.extend(read.map(|(kind, object)| (key_of(kind, &object), object)));
    Set::new(all)
}

/// A key that is there is never overwritten, so the Secret is created rather than applied when none was seen.
pub(super) fn change(situation: Situation<'_>, key: &Key, object: Value) -> Option<Change> {
    match situation.change(key, object)? {
        Change::Apply(key, object, None) if key.kind == Kind::Secret => Some(Change::Create(key, object)),
        Change::Apply(key, mut object, difference) if key.kind == Kind::Secret => {
            let live = situation.world.object(&key)?;
            // It was created, not applied, so that applying it would leave the resource that was here before as a
            // second controller, which the API server refuses.
            let owner = &object["metadata"]["ownerReferences"][0];
            let is_former = |other: &OwnerReference| owner["kind"] == other.kind && owner["uid"] != other.uid;
            if live.owner_references().iter().any(is_former)
                && let Some(fields) = adopt::taken(key.kind, live)
            {
                return Some(Change::TakeFields(key, seen(live), fields));
            }
            // Whoever changes the key meanwhile is not overwritten either.
            object["metadata"]["resourceVersion"] = live.resource_version().unwrap_or_default().into();
            Some(Change::Apply(key, object, difference))
        }
        change => Some(change),
    }
}

/// Notes that `change` is to be made. Whether that may be now. A repair that waits because somebody else writes the same
/// field again and again is no progress: that it is contested is told.
pub(super) fn admit(
    situation: Situation<'_>,
    change: &Change,
    seen: &mut Observation,
    plan: &mut Plan,
) -> bool {
    let held = situation.held_until(change);
    match situation.attempts.failure(change.key(), change.wanted()) {
        Some(failure) => seen.failures.push(failure.to_owned()),
        None if held.is_none() => seen.pending.push(change.key().to_string()),
        None => {}
    }
    if let Some(until) = held {
        plan.wake_at(until);
    }
    held.is_none()
}

fn wanted<K: Resource<DynamicType = ()> + Serialize>(kind: Kind, object: &K) -> (Key, Value) {
    let key = Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
    (key, serde_json::to_value(object).unwrap_or_default())
}

fn key_of(kind: Kind, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Key { kind, namespace: text("namespace"), name: text("name") }
}

pub(super) fn operand(situation: Situation<'_>, kind: Kind, name: &str) -> Key {
    Key { kind, namespace: situation.settings.namespace.clone(), name: name.to_owned() }
}

/// Data of the memberlist Secret: what is there stays. Beside the key stands the one before it, until every speaker has
/// read the new one; otherwise the key itself, so that whoever replaces it while no operator runs leaves both.
fn memberlist(situation: Situation<'_>) -> BTreeMap<String, Vec<u8>> {
    let secret = situation.world.object(&operand(situation, Kind::Secret, names::MEMBERLIST_SECRET));
    let secret: Option<Secret> = secret.and_then(|secret| secret.clone().try_parse().ok());
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    let mut data: BTreeMap<_, _> = data.into_iter().map(|(key, ByteString(value))| (key, value)).collect();
    let has_key = data.get(names::MEMBERLIST_SECRET_KEY).is_some_and(|key| !key.is_empty());
    if !has_key {
        let key = adopt::older_key(situation).unwrap_or_else(|| situation.gossip.key.as_bytes().to_vec());
        data.insert(names::MEMBERLIST_SECRET_KEY.to_owned(), key);
    }
    let previous = names::MEMBERLIST_SECRET_PREVIOUS_KEY;
    match &situation.gossip.previous {
        Some(key) if !situation.gossip.is_settled => {
            data.insert(previous.to_owned(), key.as_bytes().to_vec());
        }
        Some(_) => drop(data.remove(previous)),
        None => {}
    }
    if !data.contains_key(previous)
        && let Some(key) = data.get(names::MEMBERLIST_SECRET_KEY).cloned()
    {
        data.insert(previous.to_owned(), key);
    }
    data
}

/// Objects of this installation that are no longer part of it.
fn outdated(situation: Situation<'_>, kind: Kind, owner: &MetalLB, wanted: &BTreeSet<Key>) -> Vec<Change> {
    let mine = |object: &&DynamicObject| {
        super::is_labelled(object)
            && crate::pool::is_owned_by(&object.metadata, owner.meta())
            && object.metadata.deletion_timestamp.is_none()
    };
    let objects = situation.world.objects(kind).filter(mine).map(|object| {
        let key = Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
        (key, seen(object))
    });
    objects.filter(|(key, _)| !wanted.contains(key)).map(|(key, seen)| Change::Delete(key, seen)).collect()
}
