//! Whether the DaemonSet puts another speaker on a node: as its controller in Kubernetes judges it.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration};
use metallb_core::selector::Labels;

/// The one field by which a node affinity can select.
const NAME: &str = "metadata.name";
/// Effects of taints that keep pods away.
const EFFECTS: [&str; 2] = ["NoSchedule", "NoExecute"];
/// Taints that pods of every DaemonSet with the node's own network tolerate, and with which effect.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// A node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) taints: Vec<Taint>,
}

/// Whether a pod like this is put on the node, which has these labels.
pub(super) fn follows(pod: &PodSpec, place: &Place, labels: &Labels) -> bool {
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = pod
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let wanted = required.is_none_or(|selector| {
        selector.node_selector_terms.iter().any(|term| matches(term, &place.name, labels))
    });
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    selected && wanted && place.taints.iter().all(|taint| tolerates(tolerations, taint))
}

/// All of a term must hold; one that asks for nothing matches nothing.
fn matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let is_empty = expressions.is_empty() && fields.is_empty();
    !is_empty
        && expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key)))
        && fields.iter().all(|requirement| requirement.key == NAME && holds(requirement, Some(name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let is_listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|bound| number(bound));
    let own = value.and_then(number);
    match requirement.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => own.zip(bound).is_some_and(|(own, bound)| own > bound),
        "Lt" => own.zip(bound).is_some_and(|(own, bound)| own < bound),
        _ => false,
    }
}

fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    if !EFFECTS.contains(&taint.effect.as_str())
        || TOLERATED.contains(&(taint.key.as_str(), taint.effect.as_str()))
    {
        return true;
    }
    tolerations.iter().any(|toleration| {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let is_its_key = given(&toleration.key).is_none_or(|key| key == taint.key);
        let is_its_effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
        let is_any_value = toleration.operator.as_deref() == Some("Exists");
        let is_its_value =
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
        is_its_key && is_its_effect && (is_any_value || is_its_value)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_successor_follows_where_the_node_is_selected_and_its_taints_are_tolerated() {
        let labels: Labels = [("os", "linux"), ("zone", "a"), ("size", "8")].into_iter().collect();
        let affinity = |terms: Value| {
            let terms = json!({ "nodeSelectorTerms": terms });
            json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } } })
        };
        let zone = |operator: &str, values: &[&str]| json!({ "key": "zone", "operator": operator, "values": values });
        let name = |name: &str| json!({ "key": NAME, "operator": "In", "values": [name] });
        let size = |operator: &str| json!({ "key": "size", "operator": operator, "values": ["7"] });
        let nothing = || json!([]);
        let taint = |key: &str, effect: &str| json!([{ "key": key, "value": "v", "effect": effect }]);
        let tolerating = |toleration: Value| json!({ "tolerations": [toleration] });
        let dedicated = taint("dedicated", "NoExecute");
        for (pod, taints, want) in [
            (json!({}), nothing(), true),
            (json!({ "nodeSelector": { "os": "linux" } }), nothing(), true),
            (json!({ "nodeSelector": { "os": "linux", "zone": "b" } }), nothing(), false),
            (affinity(json!([{ "matchExpressions": [zone("In", &["a", "b"])] }])), nothing(), true),
            (affinity(json!([{ "matchExpressions": [zone("NotIn", &["a"])] }])), nothing(), false),
            (affinity(json!([{ "matchExpressions": [zone("Exists", &[])] }])), nothing(), true),
            (affinity(json!([{ "matchExpressions": [zone("DoesNotExist", &[])] }])), nothing(), false),
            (affinity(json!([{ "matchExpressions": [size("Gt")] }])), nothing(), true),
            (affinity(json!([{ "matchExpressions": [size("Lt")] }])), nothing(), false),
            (affinity(json!([{ "matchExpressions": [zone("In", &["a"]), size("Lt")] }])), nothing(), false),
            (
                affinity(json!([{ "matchFields": [name("node2")] }, { "matchFields": [name("node1")] }])),
                nothing(),
                true,
            ),
            (affinity(json!([{ "matchFields": [name("node2")] }])), nothing(), false),
            (affinity(json!([{}])), nothing(), false),
            (json!({}), dedicated.clone(), false),
            (json!({}), taint("dedicated", "NoSchedule"), false),
            (json!({}), taint("dedicated", "PreferNoSchedule"), true),
            (json!({}), taint("node.kubernetes.io/unreachable", "NoExecute"), true),
            (json!({}), taint("node.kubernetes.io/out-of-service", "NoExecute"), false),
            (tolerating(json!({ "operator": "Exists" })), dedicated.clone(), true),
            (tolerating(json!({ "key": "dedicated", "value": "v" })), dedicated.clone(), true),
            (tolerating(json!({ "key": "dedicated", "value": "w" })), dedicated.clone(), false),
            (
                tolerating(json!({ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" })),
                dedicated,
                false,
            ),
        ] {
            let pod: PodSpec = serde_json::from_value(merged(&pod)).unwrap();
            let place =
                Place { name: "node1".to_owned(), taints: serde_json::from_value(taints.clone()).unwrap() };
            assert_eq!(follows(&pod, &place, &labels), want, "{pod:?} {taints}");
        }
    }

    /// A pod must have containers.
    fn merged(pod: &Value) -> Value {
        let mut whole = json!({ "containers": [] });
        whole.as_object_mut().unwrap().extend(pod.as_object().unwrap().clone());
        whole
    }
}
