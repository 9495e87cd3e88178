//! Whether another speaker follows on this node when this one is asked to end.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt};
use metallb_api::names::SPEAKER;

/// Longest time to find out.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the kubelet says in condition Ready while it ends its pods before the node goes off.
const SHUTTING_DOWN: &str = "node is shutting down";

/// How this speaker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// Another follows: the pod is replaced.
    Restart,
    /// None follows: the node or the installation goes away.
    Leave,
}

/// Asks the API server. Where it does not answer, the speaker counts as replaced: an upgrade of the control plane is
/// no reason to withdraw anything.
pub(super) async fn decide(client: &Client, namespace: &str, node: &str) -> Departure {
    let asked = async {
        let set = Api::<DaemonSet>::namespaced(client.clone(), namespace).get(SPEAKER).await;
        let node = Api::<Node>::all(client.clone()).get(node).await;
        judge(set.as_ref(), node.as_ref())
    };
    let departure = tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Departure::Restart);
    tracing::info!(?departure, "the speaker ends");
    departure
}

fn judge(set: Result<&DaemonSet, &kube::Error>, node: Result<&Node, &kube::Error>) -> Departure {
    // With the installation go the rights to ask.
    let is_gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404));
    let set_gone = set.map_or_else(is_gone, |set| set.metadata.deletion_timestamp.is_some());
    let node_gone = node
        .map_or_else(is_gone, |node| node.metadata.deletion_timestamp.is_some() || is_shutting_down(node));
    let is_excluded = set.is_ok_and(|set| node.is_ok_and(|node| !selects(set, node)));
    if set_gone || node_gone || is_excluded { Departure::Leave } else { Departure::Restart }
}

fn is_shutting_down(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        let message = condition.message.as_deref().unwrap_or_default();
        condition.type_ == "Ready" && condition.status != "True" && message.contains(SHUTTING_DOWN)
    })
}

fn selects(set: &DaemonSet, node: &Node) -> bool {
    let pod = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let wanted = pod.and_then(|pod| pod.node_selector.as_ref());
    wanted.into_iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(metadata: &Value, selector: &Value) -> DaemonSet {
        let spec =
            json!({"selector": {}, "template": {"spec": {"containers": [], "nodeSelector": selector}}});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn node(metadata: &Value, ready: &str, message: &str) -> Node {
        let ready = json!({"type": "Ready", "status": ready, "message": message});
        serde_json::from_value(json!({"metadata": metadata, "status": {"conditions": [ready]}})).unwrap()
    }

    fn refused(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(kube::core::Status { code, ..kube::core::Status::default() }))
    }

    #[test]
    fn a_speaker_leaves_with_its_node_or_its_installation_and_is_else_replaced() {
        let linux = json!({"kubernetes.io/os": "linux"});
        let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        let here = || Ok(set(&json!({}), &linux));
        let up = || Ok(node(&json!({"labels": linux}), "True", ""));
        for (what, set, node, want) in [
            ("a rollout", here(), up(), Departure::Restart),
            ("the installation goes", Ok(set(&ending, &linux)), up(), Departure::Leave),
            ("it is gone", Err(refused(404)), up(), Departure::Leave),
            ("its rights are gone", Err(refused(403)), Err(refused(403)), Departure::Leave),
            ("the API server is ill", Err(refused(500)), Err(refused(500)), Departure::Restart),
            ("the node is deleted", here(), Ok(node(&ending, "True", "")), Departure::Leave),
            ("the node was removed", here(), Err(refused(404)), Departure::Leave),
            ("the node is not selected any more", here(), Ok(node(&json!({}), "True", "")), Departure::Leave),
            (
                "the node shuts down",
                here(),
                Ok(node(&json!({"labels": linux}), "False", "node is shutting down")),
                Departure::Leave,
            ),
            (
                "the kubelet is silent",
                here(),
                Ok(node(&json!({"labels": linux}), "Unknown", "Kubelet stopped posting node status.")),
                Departure::Restart,
            ),
        ] {
            assert_eq!(judge(set.as_ref(), node.as_ref()), want, "{what}");
        }
    }
}
