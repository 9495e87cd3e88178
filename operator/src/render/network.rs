//! NetworkPolicy of the controller. The speaker is on the host's network, where policies have no say.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use metallb_api::names;

use super::{Context, label_selector, metadata};
use crate::install::Network;

/// The API server and, where names have to be looked up, DNS may be reached; the metrics may be read. Probes come
/// from the node itself and are always let through.
pub(super) fn policy(network: Network, context: Context<'_>) -> NetworkPolicy {
    let port = |protocol: &str, port: IntOrString| NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(port),
        end_port: None,
    };
    let to = |ports| NetworkPolicyEgressRule { ports: Some(ports), to: None };
    let mut egress = vec![to(vec![port("TCP", IntOrString::Int(i32::from(network.api_port)))])];
    if network.dns {
        egress.push(to(vec![port("UDP", IntOrString::Int(53)), port("TCP", IntOrString::Int(53))]));
    }
    let metrics = port("TCP", IntOrString::String("metricshttps".to_owned()));
    NetworkPolicy {
        metadata: metadata(names::CONTROLLER, Some(names::CONTROLLER), context),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(label_selector(names::CONTROLLER)),
            ingress: Some(vec![NetworkPolicyIngressRule { ports: Some(vec![metrics]), from: None }]),
            egress: Some(egress),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
        }),
    }
}
