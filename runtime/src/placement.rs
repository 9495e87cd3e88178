//! Which nodes a DaemonSet wants a pod on, as Kubernetes decides it
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#how-daemon-pods-are-scheduled>).

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use kube::ResourceExt;

/// Taints that each pod of a DaemonSet in the network of its host tolerates: key and effect.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Whether a DaemonSet whose pods are like `pod` wants one on `node`.
#[must_use]
pub fn takes(node: &Node, pod: &PodSpec) -> bool {
    let mut selector = pod.node_selector.iter().flatten();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut repelling = taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    selector.all(|(label, value)| node.labels().get(label) == Some(value))
        && is_required(node, pod)
        && repelling.all(|taint| is_tolerated(taint, pod.tolerations.as_deref().unwrap_or_default()))
}

/// Whether the node fits one of the terms, if there are any.
fn is_required(node: &Node, pod: &PodSpec) -> bool {
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| fits(node, term)))
}

/// A term that asks for nothing fits no node.
fn fits(node: &Node, term: &NodeSelectorTerm) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.name_any();
    let field = |key: &str| (key == "metadata.name").then_some(name.as_str());
    !(labels.is_empty() && fields.is_empty())
        && labels.iter().all(|asked| is_met(asked, node.labels().get(&asked.key).map(String::as_str)))
        && fields.iter().all(|asked| is_met(asked, field(&asked.key)))
}

fn is_met(asked: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = asked.values.as_deref().unwrap_or_default();
    let is_listed = value.is_some_and(|value| values.iter().any(|listed| listed == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let numbers = value.and_then(number).zip(values.first().and_then(|text| number(text)));
    match asked.operator.as_str() {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers.is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers.is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    let is_usual = TOLERATED.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let tolerates = |toleration: &Toleration| {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let exists = toleration.operator.as_deref() == Some("Exists");
        // No key means every key, and only with `Exists`.
        let key = given(&toleration.key).map_or(exists, |key| key == taint.key);
        let effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
        let value = exists
            || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
        key && effect && value
    };
    is_usual || tolerations.iter().any(tolerates)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;

    use super::*;

    #[test]
    fn a_pod_is_wanted_where_selector_affinity_and_taints_let_it() {
        let node: Node = serde_saphyr::from_str(
            "{metadata: {name: n1, labels: {kubernetes.io/os: linux, zone: a, generation: '7'}}, spec: {taints: \
             [{key: dedicated, value: db, effect: NoSchedule}, {key: node.kubernetes.io/unschedulable, effect: \
             NoSchedule}, {key: better-not, effect: PreferNoSchedule}]}}",
        )
        .unwrap();
        let tolerant = "tolerations: [{key: dedicated, operator: Exists}]";
        let affine = |terms: &str| {
            format!(
                "{tolerant}, affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: \
                 {{nodeSelectorTerms: [{terms}]}}}}}}"
            )
        };
        let asked = |what: &str| affine(&format!("{{matchExpressions: [{what}]}}"));
        let table = [
            (String::new(), false),
            (tolerant.to_owned(), true),
            ("tolerations: [{operator: Exists}]".to_owned(), true),
            ("tolerations: [{key: ''}]".to_owned(), false),
            ("tolerations: [{key: dedicated, value: db, effect: NoSchedule}]".to_owned(), true),
            ("tolerations: [{key: dedicated, value: web}]".to_owned(), false),
            ("tolerations: [{key: dedicated, operator: Exists, effect: NoExecute}]".to_owned(), false),
            (format!("{tolerant}, nodeSelector: {{kubernetes.io/os: linux}}"), true),
            (format!("{tolerant}, nodeSelector: {{kubernetes.io/os: windows}}"), false),
            (asked("{key: zone, operator: In, values: [a, b]}"), true),
            (asked("{key: zone, operator: NotIn, values: [a, b]}"), false),
            (asked("{key: rack, operator: NotIn, values: [a]}"), true),
            (asked("{key: zone, operator: Exists}, {key: rack, operator: DoesNotExist}"), true),
            (asked("{key: rack, operator: Exists}"), false),
            (asked("{key: generation, operator: Gt, values: ['6']}"), true),
            (asked("{key: generation, operator: Lt, values: ['7']}"), false),
            (
                asked(
                    "{key: zone, operator: In, values: [a]}, {key: generation, operator: Lt, values: ['7']}",
                ),
                false,
            ),
            (affine("{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}"), true),
            (affine("{matchFields: [{key: metadata.name, operator: In, values: [n2]}]}, {}"), false),
            (
                affine(
                    "{matchFields: [{key: metadata.name, operator: In, values: [n2]}]}, {matchExpressions: \
                     [{key: zone, operator: Exists}]}",
                ),
                true,
            ),
        ];
        for (pod, want) in table {
            let spec: PodSpec = serde_saphyr::from_str(&format!("{{containers: [], {pod}}}")).unwrap();
            assert_eq!(takes(&node, &spec), want, "{pod}");
        }
    }

    #[test]
    fn a_taint_repels_by_its_effect_unless_each_daemon_set_tolerates_it() {
        for (key, effect, want) in [
            ("dedicated", "NoSchedule", false),
            ("dedicated", "NoExecute", false),
            ("dedicated", "PreferNoSchedule", true),
            ("node.kubernetes.io/unreachable", "NoExecute", true),
            ("node.kubernetes.io/unschedulable", "NoSchedule", true),
            ("node.kubernetes.io/out-of-service", "NoExecute", false),
        ] {
            let taint = Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() };
            let spec = NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() };
            let node = Node { spec: Some(spec), ..Node::default() };
            assert_eq!(takes(&node, &PodSpec::default()), want, "{key} {effect}");
        }
    }
}
