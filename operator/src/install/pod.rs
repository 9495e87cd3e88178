//! The parts of a pod that an administrator chooses: node selector, tolerations, affinity, resources.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, NodeSelectorTerm, PodAffinityTerm, ResourceRequirements, Toleration,
        WeightedPodAffinityTerm,
    },
    apimachinery::pkg::{api::resource, apis::meta::v1::LabelSelector},
};

use super::{Problems, quantity::Quantity, syntax};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const NODE_OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
const LABEL_OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

pub(super) fn check_node_selector(field: &str, selector: &BTreeMap<String, String>, problems: &mut Problems) {
    for (key, value) in selector {
        problems.check(field, key, syntax::qualified_name(key));
        problems.check(format!("{field}[{key}]"), value, syntax::label_value(value));
    }
}

pub(super) fn check_tolerations(field: &str, tolerations: &[Toleration], problems: &mut Problems) {
    for (at, toleration) in tolerations.iter().enumerate() {
        let field = |name: &str| format!("{field}[{at}].{name}");
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if !key.is_empty() {
            problems.check(field("key"), key, syntax::qualified_name(key));
        } else if operator != "Exists" {
            problems.add(field("operator"), "must be Exists where key is empty");
        }
        match operator {
            "Exists" if !value.is_empty() => {
                problems.add(field("value"), "must be empty with operator Exists");
            }
            "Exists" => {}
            "" | "Equal" => problems.check(field("value"), value, syntax::label_value(value)),
            _ => problems.add(field("operator"), format!("{operator:?} is not one of Equal, Exists")),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            problems.add(field("effect"), format!("{effect:?} is not one of {}", EFFECTS.join(", ")));
        } else if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            problems.add(field("effect"), "must be NoExecute where tolerationSeconds is set");
        }
    }
}

pub(super) fn check_affinity(field: &str, affinity: &Affinity, problems: &mut Problems) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(nodes) = &affinity.node_affinity {
        if let Some(required) = &nodes.required_during_scheduling_ignored_during_execution {
            let field = format!("{field}.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
            if required.node_selector_terms.is_empty() {
                problems.add(&field, "must not be empty");
            }
            for (at, term) in required.node_selector_terms.iter().enumerate() {
                check_node_term(&format!("{field}[{at}]"), term, problems);
            }
        }
        let preferred = nodes.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (at, term) in preferred.enumerate() {
            let field = format!("{field}.nodeAffinity.{PREFERRED}[{at}]");
            check_weight(&field, term.weight, problems);
            check_node_term(&format!("{field}.preference"), &term.preference, problems);
        }
    }
    let mut pods = |kind: &str, required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm]| {
        for (at, term) in required.iter().enumerate() {
            check_pod_term(&format!("{field}.{kind}.{REQUIRED}[{at}]"), term, problems);
        }
        for (at, term) in preferred.iter().enumerate() {
            let field = format!("{field}.{kind}.{PREFERRED}[{at}]");
            check_weight(&field, term.weight, problems);
            check_pod_term(&format!("{field}.podAffinityTerm"), &term.pod_affinity_term, problems);
        }
    };
    if let Some(near) = &affinity.pod_affinity {
        pods(
            "podAffinity",
            near.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
            near.preferred_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
        );
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        pods(
            "podAntiAffinity",
            far.required_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
            far.preferred_during_scheduling_ignored_during_execution.as_deref().unwrap_or_default(),
        );
    }
}

fn check_weight(field: &str, weight: i32, problems: &mut Problems) {
    if !(1..=100).contains(&weight) {
        problems.add(format!("{field}.weight"), format!("{weight} is not between 1 and 100"));
    }
}

fn check_node_term(field: &str, term: &NodeSelectorTerm, problems: &mut Problems) {
    for (name, requirements) in
        [("matchExpressions", &term.match_expressions), ("matchFields", &term.match_fields)]
    {
        for (at, requirement) in requirements.iter().flatten().enumerate() {
            let values = requirement.values.as_deref().unwrap_or_default();
            let field = format!("{field}.{name}[{at}]");
            check_expression(
                &field,
                &requirement.key,
                &requirement.operator,
                values,
                &NODE_OPERATORS,
                problems,
            );
        }
    }
}

fn check_pod_term(field: &str, term: &PodAffinityTerm, problems: &mut Problems) {
    if term.topology_key.is_empty() {
        problems.add(format!("{field}.topologyKey"), "must not be empty");
    } else {
        let judged = syntax::qualified_name(&term.topology_key);
        problems.check(format!("{field}.topologyKey"), &term.topology_key, judged);
    }
    let selectors =
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)];
    for (name, selector) in selectors {
        if let Some(selector) = selector {
            check_label_selector(&format!("{field}.{name}"), selector, problems);
        }
    }
}

fn check_label_selector(field: &str, selector: &LabelSelector, problems: &mut Problems) {
    if let Some(labels) = &selector.match_labels {
        check_node_selector(&format!("{field}.matchLabels"), labels, problems);
    }
    for (at, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let values = requirement.values.as_deref().unwrap_or_default();
        let field = format!("{field}.matchExpressions[{at}]");
        check_expression(&field, &requirement.key, &requirement.operator, values, &LABEL_OPERATORS, problems);
    }
}

fn check_expression(
    field: &str,
    key: &str,
    operator: &str,
    values: &[String],
    operators: &[&str],
    problems: &mut Problems,
) {
    problems.check(format!("{field}.key"), key, syntax::qualified_name(key));
    if !operators.contains(&operator) {
        let message = format!("{operator:?} is not one of {}", operators.join(", "));
        problems.add(format!("{field}.operator"), message);
        return;
    }
    let message = match operator {
        "In" | "NotIn" if values.is_empty() => format!("must not be empty with operator {operator}"),
        "Exists" | "DoesNotExist" if !values.is_empty() => format!("must be empty with operator {operator}"),
        "Gt" | "Lt" if values.len() != 1 || values.iter().any(|value| value.parse::<i64>().is_err()) => {
            format!("must be one whole number with operator {operator}")
        }
        _ => return,
    };
    problems.add(format!("{field}.values"), message);
}

/// The same resources with each quantity in the form in which the API server stores it.
pub(super) fn canonical_resources(
    field: &str,
    resources: &ResourceRequirements,
    problems: &mut Problems,
) -> ResourceRequirements {
    if resources.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        problems.add(format!("{field}.claims"), "the pod has no resource claims to name");
    }
    let limits = parse_quantities(&format!("{field}.limits"), resources.limits.as_ref(), problems);
    let requests = parse_quantities(&format!("{field}.requests"), resources.requests.as_ref(), problems);
    for (name, request) in &requests {
        if let Some(limit) = limits.get(name).filter(|&&limit| request.exceeds(limit)) {
            let message = format!("{request} is more than the limit of {limit}");
            problems.add(format!("{field}.requests[{name}]"), message);
        }
    }
    let canonical = |quantities: BTreeMap<String, Quantity>| {
        let text = |(name, quantity): (String, Quantity)| (name, resource::Quantity(quantity.to_string()));
        quantities.into_iter().map(text).collect::<BTreeMap<_, _>>()
    };
    ResourceRequirements {
        claims: None,
        limits: resources.limits.is_some().then(|| canonical(limits)),
        requests: resources.requests.is_some().then(|| canonical(requests)),
    }
}

fn parse_quantities(
    field: &str,
    quantities: Option<&BTreeMap<String, resource::Quantity>>,
    problems: &mut Problems,
) -> BTreeMap<String, Quantity> {
    let mut parsed = BTreeMap::new();
    for (name, text) in quantities.into_iter().flatten() {
        let field = format!("{field}[{name}]");
        problems.check(&field, name, syntax::qualified_name(name));
        match Quantity::parse(text.0.trim()) {
            None => problems.add(&field, format!("{:?} is not a quantity such as 250m or 64Mi", text.0)),
            Some(quantity) if quantity.is_negative() => {
                problems.add(&field, format!("{} is less than nothing", text.0));
            }
            Some(quantity) => {
                parsed.insert(name.clone(), quantity);
            }
        }
    }
    parsed
}
