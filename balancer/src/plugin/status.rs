//! Whether the load balancer works.

use std::fmt::Write;

use kube::ResourceExt;
use metallb_api::{
    Component, ConfigurationResult, ConfigurationState, MetalLB,
    conditions::{AVAILABLE, DEGRADED},
    names::{LABEL_COMPONENT_TYPE, LABEL_NODE_NAME, METALLB_NAME},
};
use metallb_core::decision::Decision;
use serde::Serialize;

use super::{
    output::{Style, Table, Tone, judged, list, plain},
    sessions::{Count, Session},
};
use crate::inspect::{Allocation, refusal};

/// What there is to say about the load balancer as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    namespace: String,
    version: Option<String>,
    conditions: Vec<Condition>,
    components: Vec<Component>,
    pools: usize,
    services: Counts,
    /// BGP sessions of the nodes that are Ready.
    sessions: Count,
    problems: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

/// Services of this load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    served: usize,
    waiting: usize,
}

impl Status {
    /// Judges by what was read: the MetalLB resource in its namespace, what the programs say, pools and Services, BGP.
    pub(super) fn of(
        (namespace, metallb): (&str, Option<&MetalLB>),
        states: &[ConfigurationState],
        allocation: &Allocation,
        sessions: &[Session],
    ) -> Self {
        let status = metallb.and_then(|metallb| metallb.status.clone()).unwrap_or_default();
        let conditions: Vec<Condition> = status
            .conditions
            .into_iter()
            .map(|condition| Condition {
                r#type: condition.type_,
                status: condition.status,
                reason: condition.reason,
                message: condition.message,
            })
            .collect();
        let mut problems = Vec::new();
        match metallb {
            None => {
                problems
                    .push(format!("there is no MetalLB resource {METALLB_NAME} in namespace {namespace}"));
            }
            Some(_) => problems.extend(broken(&conditions)),
        }
        problems.extend(states.iter().flat_map(complaints));
        problems.extend(sessions.iter().filter_map(Session::problem));
        Self {
            namespace: namespace.to_owned(),
            version: status.version,
            conditions,
            components: status.components,
            pools: allocation.pools.len(),
            services: counts(allocation),
            sessions: Count::of(sessions),
            problems,
        }
    }

    /// Whether nothing needs an administrator.
    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// For people.
    pub(super) fn text(&self, style: Style) -> String {
        let version = self.version.as_deref().unwrap_or("unknown");
        let mut text = format!("Namespace {}, version {version}\n\n", self.namespace);
        let mut conditions = Table::new(&["CONDITION", "STATUS", "REASON", "MESSAGE"]);
        for condition in &self.conditions {
            let cell = match condition.r#type.as_str() {
                AVAILABLE => judged(&condition.status, condition.status == "True"),
                DEGRADED => judged(&condition.status, condition.status != "True"),
                _ => plain(&condition.status),
            };
            conditions.row([
                plain(&condition.r#type),
                cell,
                plain(&condition.reason),
                plain(&condition.message),
            ]);
        }
        if !self.conditions.is_empty() {
            text.push_str(&conditions.text(style));
            text.push('\n');
        }
        let mut components = Table::new(&["COMPONENT", "READY", "VERSION", "IMAGE", "MESSAGE"]);
        for component in &self.components {
            let ready = format!("{}/{}", component.ready, component.wanted);
            components.row([
                plain(&component.name),
                judged(ready, component.ready == component.wanted),
                plain(component.version.clone().unwrap_or_default()),
                plain(&component.image),
                plain(&component.message),
            ]);
        }
        if !self.components.is_empty() {
            text.push_str(&components.text(style));
            text.push('\n');
        }
        let Counts { served, waiting } = self.services;
        let _ =
            writeln!(text, "{} pools; {served} Services have what they ask for, {waiting} wait", self.pools);
        let Count { wanted, established } = self.sessions;
        if wanted > 0 {
            let _ = writeln!(text, "{established} of {wanted} BGP sessions stand");
        }
        list(&mut text, "Wrong", &self.problems, Tone::Bad, style);
        text
    }
}

/// The conditions that are not as they should be.
fn broken(conditions: &[Condition]) -> Vec<String> {
    let find = |kind: &str| conditions.iter().find(|condition| condition.r#type == kind);
    let mut problems = Vec::new();
    match find(AVAILABLE) {
        None => problems.push(format!("MetalLB {METALLB_NAME}: the operator has not seen it")),
        Some(condition) if condition.status != "True" => problems.push(sentence(condition)),
        Some(_) => {}
    }
    problems.extend(find(DEGRADED).filter(|condition| condition.status == "True").map(sentence));
    problems
}

fn sentence(condition: &Condition) -> String {
    let Condition { r#type, status, reason, message } = condition;
    format!("MetalLB {METALLB_NAME}: {type} is {status}: {reason}: {message}")
        .trim_end_matches(": ")
        .to_owned()
}

/// What a program says is wrong with its configuration.
pub(super) fn complaints(state: &ConfigurationState) -> Vec<String> {
    let label = |key: &str| state.labels().get(key).cloned();
    let who = match label(LABEL_NODE_NAME) {
        Some(node) => format!("speaker of {node}"),
        None => label(LABEL_COMPONENT_TYPE).unwrap_or_else(|| state.name_any()),
    };
    let invalid = state.status.as_ref().filter(|status| status.result == Some(ConfigurationResult::Invalid));
    let summary = invalid.and_then(|status| status.error_summary.as_deref()).unwrap_or_default();
    summary.lines().map(|line| format!("{who}: {line}")).collect()
}

fn counts(allocation: &Allocation) -> Counts {
    let started = allocation.started();
    let mut counts = Counts::default();
    for facts in &started.services {
        let decision = started.allocator.decide(facts);
        match decision {
            Decision::Leave | Decision::Clear { refusal: None, .. } => {}
            _ if refusal(&decision).is_some() => counts.waiting += 1,
            Decision::Assign { .. } => counts.waiting += 1,
            _ => counts.served += 1,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn metallb(status: &Value) -> MetalLB {
        serde_json::from_value(json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "MetalLB",
            "metadata": { "name": "metallb" }, "spec": {}, "status": status,
        }))
        .unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
    }

    #[test]
    fn what_is_wrong_is_told_and_what_is_well_is_not() {
        let nothing = Allocation::default();
        let of = |metallb: Option<&MetalLB>, states: &Value| {
            let states: Vec<ConfigurationState> = serde_json::from_value(states.clone()).unwrap();
            Status::of(("metallb-system", metallb), &states, &nothing, &[]).problems
        };
        let well = metallb(&json!({ "conditions": [
            condition("Available", "True", "Available", ""), condition("Degraded", "False", "Degraded", ""),
        ] }));
        let ill = metallb(&json!({ "conditions": [
            condition("Available", "False", "NotReady", "no speaker is ready"),
            condition("Degraded", "True", "IPFailoverPresent", ""),
        ] }));
        let valid = json!({ "metadata": { "name": "controller" }, "status": { "result": "Valid" } });
        let invalid = json!({
            "metadata": { "name": "s", "labels": { "metallb.io/node-name": "node1" } },
            "status": { "result": "Invalid", "errorSummary": "one\ntwo" },
        });
        assert_eq!(
            of(None, &json!([])),
            ["there is no MetalLB resource metallb in namespace metallb-system"]
        );
        assert_eq!(
            of(Some(&metallb(&json!({}))), &json!([])),
            ["MetalLB metallb: the operator has not seen it"]
        );
        assert_eq!(of(Some(&well), &json!([valid])), Vec::<String>::new());
        assert_eq!(
            of(Some(&ill), &json!([invalid])),
            [
                "MetalLB metallb: Available is False: NotReady: no speaker is ready",
                "MetalLB metallb: Degraded is True: IPFailoverPresent",
                "speaker of node1: one",
                "speaker of node1: two",
            ]
        );
    }
}
