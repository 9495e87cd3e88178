//! Taking over what another installer installed: the Go operator, MetalLB's manifests or its Helm chart.
//!
//! The order keeps every Service's address. First the key of the gossip becomes the operator's, so that nothing that is
//! removed takes it along. Then the image is pulled on every node that runs a speaker. Then fields that the older
//! installer set become the operator's, and all speakers are exchanged at once: two kinds of speakers do not hear each
//! other, so that a node-by-node exchange would have two owners of an address all the while.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{Node, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{MetalLB, names};
use metallb_runtime::placement;
use serde_json::{Map, Value, json};

use super::{
    Change, FIELD_MANAGER, Plan, Situation, applied,
    installation::{admit, change, operand},
    is_labelled,
    observe::{is_component, refusal},
    seen, webhooks,
};
use crate::{
    drift,
    health::{self, Health},
    kinds::{Key, Kind, OLDER_SECRET, OLDER_WEBHOOK_SERVICE},
    last_good::{KINDS, REVISION, Set},
    render::MANAGED_BY,
    status::Observation,
    world::Source,
};

/// Annotation of the DaemonSet while all speakers are exchanged at once.
const EXCHANGE: &str = "metallb.io/exchange";
/// DaemonSet that pulls the speaker's image before they are exchanged.
const PULL: &str = "metallb-pull";
/// Component that its pods are.
const PULLER: &str = "pull";
/// ConfigMap with FRR configuration of the administrator, which MetalLB's frr mode appends to its own.
const BGP_EXTRAS: &str = "bgpextras";
/// Programs that wrote these objects for older installers, as they are named in `metadata.managedFields`: kubectl's
/// ways of applying, Helm, the Go operator of 4.9 (`manager`) and today's. Workloads are taken over whole, whoever wrote
/// them: an argument or a side-car that stayed would be run.
const OLDER_MANAGERS: [&str; 8] = [
    "kubectl-client-side-apply",
    "kubectl-create",
    "kubectl-replace",
    "kubectl",
    "helm",
    "Helm",
    "manager",
    FIELD_MANAGER,
];
/// The one that writes workloads for Kubernetes itself.
const KUBERNETES: &str = "kube-controller-manager";
/// Deployment that answered the API server's questions for the Go operator.
const OLDER_WEBHOOK_SERVER: &str = "metallb-operator-webhook-server";
/// Workloads of other installers that have other names than the operator's. In the operator's namespace they are
/// MetalLB's own.
const OTHERS: [(Kind, &str); 4] = [
    (Kind::Deployment, "metallb-controller"),
    (Kind::DaemonSet, "metallb-speaker"),
    (Kind::Deployment, OLDER_WEBHOOK_SERVER),
    (Kind::DaemonSet, "frr-k8s"),
];
/// Names of DaemonSets that hold addresses.
const SPEAKERS: [&str; 2] = [names::SPEAKER, "metallb-speaker"];
/// What answered the API server's questions for the Go operator. It stays while anything still asks it.
const WEBHOOKS: [(Kind, &str); 2] =
    [(Kind::Deployment, OLDER_WEBHOOK_SERVER), (Kind::Service, OLDER_WEBHOOK_SERVICE)];

/// Objects that another installer made, and that are to be replaced.
pub(super) fn foreign(situation: Situation<'_>, rendered: &Set) -> Vec<Key> {
    let others = OTHERS.iter().map(|&(kind, name)| operand(situation, kind, name));
    let all = rendered.iter().map(|(key, _)| key.clone()).chain(others);
    all.filter(|key| situation.world.object(key).is_some_and(is_anothers)).collect()
}

/// Whether another installer made the object: it is neither labelled nor applied as the operator's are. Helm's label
/// is on what the Go operator applies, too; where somebody put it over the operator's own, it means nothing.
pub(super) fn is_anothers(object: &DynamicObject) -> bool {
    let is_helms = object.labels().get(MANAGED_BY.0).is_some_and(|manager| manager == "Helm");
    let owns_label =
        |fields: &Value| !fields["f:metadata"]["f:labels"][format!("f:{}", MANAGED_BY.0)].is_null();
    let is_applied = applied(object).next().is_some();
    if is_helms {
        !is_applied || applied(object).any(owns_label)
    } else {
        !is_labelled(object) && !is_applied
    }
}

/// Whether the programs of another installer are there.
pub(super) fn is_running(situation: Situation<'_>) -> bool {
    let own = [(Kind::Deployment, names::CONTROLLER), (Kind::DaemonSet, names::SPEAKER)];
    let mut all = own.into_iter().chain(OTHERS).map(|(kind, name)| operand(situation, kind, name));
    all.any(|key| !is_webhooks(&key) && situation.world.object(&key).is_some_and(is_anothers))
}

/// Whether programs end with what is taken over; those that only answer the API server speak no BGP.
pub(super) fn ends_programs(taken: &[Key]) -> bool {
    let mut others = taken.iter().filter(|key| !is_webhooks(key));
    others.any(|key| matches!(key.kind, Kind::Deployment | Kind::DaemonSet))
}

fn is_webhooks(key: &Key) -> bool {
    WEBHOOKS.contains(&(key.kind, key.name.as_str()))
}

/// What the Go operator made of the MetalLB resource and this one does not: the parts of frr-k8s, monitors that are not
/// wanted. It says itself that it applied them, and that they are the resource's.
pub(super) fn leftovers(situation: Situation<'_>, owner: &MetalLB, rendered: &Set) -> Vec<Key> {
    let is_wanted = |key: &Key| rendered.iter().any(|(wanted, _)| wanted == key);
    let all = KINDS.iter().flat_map(|&kind| situation.world.objects(kind).map(move |object| (kind, object)));
    let left = all.filter(|(_, object)| {
        is_applied_by_another(object)
            && crate::pool::is_owned_by(&object.metadata, owner.meta())
            && object.metadata.deletion_timestamp.is_none()
    });
    let left = left.map(|(kind, object)| operand(situation, kind, &object.name_any()));
    let admission = situation.world.objects(Kind::FrrAdmission).filter(|object| {
        let webhooks = object.data["webhooks"].as_array().into_iter().flatten();
        let mut namespaces = webhooks.map(|webhook| &webhook["clientConfig"]["service"]["namespace"]);
        is_applied_by_another(object)
            && namespaces.any(|namespace| namespace == situation.settings.namespace.as_str())
    });
    let admission = admission.map(|_| webhooks::configuration_key(Kind::FrrAdmission));
    left.filter(|key| !is_wanted(key)).chain(admission).collect()
}

/// The Service by which an older installation was asked.
pub(super) fn webhook_service(situation: Situation<'_>) -> Option<Key> {
    let key = operand(situation, Kind::Service, OLDER_WEBHOOK_SERVICE);
    situation.world.object(&key).filter(|object| is_anothers(object)).map(|_| key)
}

/// Whether it was applied under the operator's name, but not by this operator, which labels what it makes.
fn is_applied_by_another(object: &DynamicObject) -> bool {
    !is_labelled(object) && applied(object).next().is_some()
}

/// Whether the API server still has the Go operator's webhooks answer.
fn is_asked(situation: Situation<'_>) -> bool {
    let converter = situation.missing.and_then(|found| found.converter.as_ref());
    let converts = converter.is_some_and(|service| {
        service.name == OLDER_WEBHOOK_SERVICE && service.namespace == situation.settings.namespace
    });
    converts || webhooks::asks_older(situation)
}

/// The key that an older installation has.
pub(super) fn older_key(situation: Situation<'_>) -> Option<Vec<u8>> {
    let secret = situation.world.object(&operand(situation, Kind::OlderSecret, OLDER_SECRET))?;
    let secret: k8s_openapi::api::core::v1::Secret = secret.clone().try_parse().ok()?;
    secret.data?.remove(names::MEMBERLIST_SECRET_KEY).map(|key| key.0).filter(|key| !key.is_empty())
}

/// What must have been seen before [`bgp_of_others`] can tell.
pub(super) const BGP_SOURCES: [Source; 2] = [Source::Objects(Kind::FrrConfiguration), Source::Nodes];

/// BGP configuration that others gave to an installation which is to be taken over: the sessions would end.
pub(super) fn bgp_of_others(situation: Situation<'_>) -> Vec<String> {
    let extras = operand(situation, Kind::ConfigMap, BGP_EXTRAS);
    let extras = situation.world.object(&extras).map(|_| extras.to_string());
    // What MetalLB's speakers write for themselves is named after their node.
    let is_speakers =
        |name: &str| name.strip_prefix("metallb-").is_some_and(|node| situation.world.node(node).is_some());
    let configurations = situation.world.objects(Kind::FrrConfiguration);
    let others = configurations.filter(|object| !is_speakers(&object.name_any())).map(|object| {
        format!("FRRConfiguration {}/{}", object.namespace().unwrap_or_default(), object.name_any())
    });
    extras.into_iter().chain(others).collect()
}

/// Plans what has to be done before anything is replaced. Whether it may be replaced now.
pub(super) fn prepare(
    situation: Situation<'_>,
    reference: &OwnerReference,
    (secret_key, secret): &(Key, Value),
    rendered: &Set,
    taken: &[Key],
    seen: &mut Observation,
    plan: &mut Plan,
) -> bool {
    let mut stage = |changes: Vec<Change>| {
        let changes: Vec<_> =
            changes.into_iter().filter(|change| admit(situation, change, seen, plan)).collect();
        let any = !changes.is_empty();
        plan.stages.push(changes);
        any
    };
    let secrets: Vec<_> = change(situation, secret_key, secret.clone()).into_iter().collect();
    if !secrets.is_empty() {
        stage(secrets);
        return false;
    }
    // Whatever is written meanwhile is judged, by the older installation or by this operator.
    let admissions = webhooks::redirect(situation);
    if !admissions.is_empty() {
        stage(admissions);
        return false;
    }
    if !situation.unseen(&[Source::Pods, Source::Nodes]).is_empty() {
        return false;
    }
    let lacking = lacking(situation, rendered);
    let is_speaker = |key: &Key| key.kind == Kind::DaemonSet && SPEAKERS.contains(&key.name.as_str());
    if !lacking.is_empty() && taken.iter().any(is_speaker) {
        let (key, object) = puller(situation, reference, rendered);
        stage(change(situation, &key, object).into_iter().collect());
        let pods: Vec<&Pod> = pullers(situation).collect();
        let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| health::node_of(pod)).collect();
        let is_on = |node: &String| nodes.contains(node.as_str());
        let refusal = refusal(situation, PULL).filter(|_| !lacking.iter().all(is_on));
        seen.pulling = health::not_begun(PULL, &pods, refusal, situation.now);
        seen.pending.push(format!("the speaker's image is being pulled on {}", lacking.join(", ")));
        return false;
    }
    let may_go = |key: &&Key| !is_webhooks(key) || !is_asked(situation);
    let changes = taken.iter().filter(may_go).filter_map(|key| take(situation, key, reference, rendered));
    stage(changes.collect());
    true
}

/// Pods that pull the speaker's image.
fn pullers(situation: Situation<'_>) -> impl Iterator<Item = &Pod> {
    situation.world.pods().filter(|pod| is_component(pod, PULLER))
}

/// Nodes that a speaker is wanted on and that do not have its image, or of which that is not known: a kubelet lists no
/// more than 50. A pod that ran there shows that it was pulled.
fn lacking(situation: Situation<'_>, rendered: &Set) -> Vec<String> {
    let images = rendered.images();
    let image = images.iter().find(|(kind, _)| *kind == Kind::DaemonSet).map(|(_, image)| image.as_str());
    let (Some(image), Some(speaker)) = (image, rendered.first(Kind::DaemonSet)) else { return Vec::new() };
    let pod = speaker["spec"]["template"]["spec"].clone();
    let pod: PodSpec = serde_json::from_value(pod).unwrap_or_default();
    let ready = situation.world.nodes().filter(|node| health::is_ready_node(node));
    let wanted = ready.filter(|node| placement::takes(node, &pod));
    let begun = pullers(situation).filter(|pod| health::has_run(pod, image));
    let have_run: BTreeSet<&str> = begun.filter_map(health::node_of).collect();
    let is_pulled = |node: &&Node| {
        health::is_listed(node, image) == Some(true) || have_run.contains(node.name_any().as_str())
    };
    wanted.filter(|node| !is_pulled(node)).map(|node| node.name_any()).collect()
}

/// A DaemonSet whose pods do nothing but have the speaker's image. It is no longer wanted, and so removed, as soon as
/// every node that takes a speaker has it. They run as the controller does, whose account OpenShift lets have a fixed user.
fn puller(situation: Situation<'_>, reference: &OwnerReference, rendered: &Set) -> (Key, Value) {
    let key = operand(situation, Kind::DaemonSet, PULL);
    let speaker = rendered.first(Kind::DaemonSet).unwrap_or(&Value::Null);
    let pod = &speaker["spec"]["template"]["spec"];
    let labels = json!({"app": "metallb", "component": PULLER});
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": {MANAGED_BY.0: MANAGED_BY.1, "app": "metallb"},
                     "ownerReferences": [reference]},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "serviceAccountName": names::CONTROLLER, "automountServiceAccountToken": false,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "pull", "image": pod["containers"][0]["image"], "args": ["--version"],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                                    "runAsNonRoot": true, "runAsUser": 65534, "capabilities": {"drop": ["ALL"]}}}]}}},
    });
    for field in ["nodeSelector", "tolerations", "imagePullSecrets"] {
        if !pod[field].is_null() {
            object["spec"]["template"]["spec"][field] = pod[field].clone();
        }
    }
    let affinity = &pod["affinity"]["nodeAffinity"];
    if !affinity.is_null() {
        object["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": affinity});
    }
    (key, object)
}

/// How one object becomes the operator's: by its fields where it is kept, by a mark where it is to go. A workload that
/// knows its pods by other labels can only be replaced, since its selector cannot be changed.
fn take(situation: Situation<'_>, key: &Key, reference: &OwnerReference, rendered: &Set) -> Option<Change> {
    let live = situation.world.object(key)?;
    if key.kind == Kind::FrrAdmission
        || is_applied_by_another(live) && !rendered.iter().any(|(wanted, _)| wanted == key)
    {
        // To mark it, the operator would have to apply all that the Go operator did under the same name.
        return Some(Change::Delete(key.clone(), seen(live)));
    }
    if let Some((_, wanted)) = rendered.iter().find(|(wanted, _)| wanted == key) {
        let is_workload = matches!(key.kind, Kind::Deployment | Kind::DaemonSet);
        if is_workload && live.data["spec"]["selector"] != wanted["spec"]["selector"] {
            return Some(Change::Delete(key.clone(), seen(live)));
        }
        let fields = taken(key.kind, live)?;
        return Some(Change::TakeFields(key.clone(), seen(live), fields));
    }
    let resource = key.kind.api_resource();
    let object = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": {MANAGED_BY.0: MANAGED_BY.1},
                     "ownerReferences": [reference]},
    });
    Some(Change::Apply(key.clone(), object, None))
}

/// The record of who owns which field, with what older installers own in the operator's name. `None` when they own
/// nothing.
pub(super) fn taken(kind: Kind, live: &DynamicObject) -> Option<Value> {
    taken_of(kind, &serde_json::to_value(live).ok()?)
}

fn taken_of(kind: Kind, live: &Value) -> Option<Value> {
    let entries = live["metadata"]["managedFields"].as_array()?;
    let is_whole = matches!(kind, Kind::Deployment | Kind::DaemonSet);
    let is_older = |entry: &&Value| {
        let manager = entry["manager"].as_str().unwrap_or_default();
        let is_taken = if is_whole { manager != KUBERNETES } else { OLDER_MANAGERS.contains(&manager) };
        entry["subresource"].is_null() && is_taken
    };
    let is_ours = |entry: &Value| entry["manager"] == FIELD_MANAGER && entry["operation"] == "Apply";
    let older: Vec<&Value> = entries.iter().filter(is_older).collect();
    let first = older.first()?;
    if older.iter().all(|entry| is_ours(entry)) {
        return None;
    }
    let mut fields = Map::new();
    for entry in &older {
        drift::merge(&mut fields, entry["fieldsV1"].as_object()?);
    }
    let mine = json!({
        "manager": FIELD_MANAGER, "operation": "Apply", "apiVersion": first["apiVersion"], "time": first["time"],
        "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    let others = entries.iter().filter(|entry| !is_older(entry)).cloned();
    Some(others.chain([mine]).collect())
}

/// The set with speakers that are exchanged all at once, while they are being taken over. What came between the taking of
/// their fields and their exchange, such as the end of an operator, changes nothing about that: a DaemonSet that this
/// operator applied has a revision.
pub(super) fn exchanged(
    situation: Situation<'_>,
    rendered: Set,
    taken: &[Key],
    speaker: Option<&Health>,
) -> Set {
    let live = situation.world.object(&operand(situation, Kind::DaemonSet, names::SPEAKER));
    let began = live.is_some_and(|live| live.annotations().contains_key(EXCHANGE));
    let goes_on = began && speaker.is_some_and(|health| health.rolling_out);
    let is_half_taken =
        live.is_some_and(|live| is_applied_by_another(live) && !live.annotations().contains_key(REVISION));
    let begins =
        is_half_taken || taken.iter().any(|key| key.kind == Kind::DaemonSet && key.name == names::SPEAKER);
    if !begins && !goes_on {
        return rendered;
    }
    rendered.map(|key, object| {
        if key.kind == Kind::DaemonSet {
            object["metadata"]["annotations"][EXCHANGE] = "true".into();
            object["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"] = "100%".into();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_older_installers_become_the_operators_and_those_of_others_stay() {
        let entry = |manager: &str, operation: &str, fields: Value| {
            json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "time": "t",
                   "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let mut status = entry("kube-controller-manager", "Update", json!({"f:status": {}}));
        status["subresource"] = json!("status");
        let live = json!({"metadata": {"managedFields": [
            entry("kubectl-client-side-apply", "Update", json!({"f:spec": {"f:a": {}}})),
            entry("injector", "Update", json!({"f:spec": {"f:c": {}}})),
            entry("manager", "Update", json!({"f:spec": {"f:b": {}}})),
            status,
        ]}});
        let want = json!([
            entry("injector", "Update", json!({"f:spec": {"f:c": {}}})),
            status,
            entry(FIELD_MANAGER, "Apply", json!({"f:spec": {"f:a": {}, "f:b": {}}})),
        ]);
        assert_eq!(taken_of(Kind::ConfigMap, &live), Some(want));
        let ours = json!({"metadata": {"managedFields": [entry(FIELD_MANAGER, "Apply", json!({}))]}});
        assert_eq!(taken_of(Kind::ConfigMap, &ours), None);
        assert_eq!(taken_of(Kind::DaemonSet, &ours), None);
    }

    #[test]
    fn workloads_are_taken_over_whole_whoever_wrote_them() {
        let entry = |manager: &str, operation: &str, fields: Value| {
            json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "time": "t",
                   "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let kubernetes =
            entry(KUBERNETES, "Update", json!({"f:metadata": {"f:annotations": {"f:revision": {}}}}));
        let live = json!({"metadata": {"managedFields": [
            entry("argocd-controller", "Apply", json!({"f:spec": {"f:a": {}}})),
            entry("kustomize-controller", "Apply", json!({"f:spec": {"f:b": {}}})),
            kubernetes,
            entry("kubectl-edit", "Update", json!({"f:spec": {"f:c": {}}})),
        ]}});
        let all = json!({"f:spec": {"f:a": {}, "f:b": {}, "f:c": {}}});
        let want = json!([kubernetes, entry(FIELD_MANAGER, "Apply", all)]);
        for kind in [Kind::Deployment, Kind::DaemonSet] {
            assert_eq!(taken_of(kind, &live), Some(want.clone()));
        }
        assert_eq!(taken_of(Kind::ConfigMap, &live), None);
    }
}
