//! What the routers of a cluster need.

use k8s_openapi::api::core::v1;
use kube::ResourceExt;
use metallb_core::config::parse;
use metallb_core::router_config::{Dialect, Node, neighbors, render};

use super::Cluster;

/// The configuration of the routers that the BGPPeers name.
///
/// # Errors
/// When the cluster does not answer, or when no BGPPeer concerns a node.
pub(crate) async fn router_config(dialect: Dialect, cluster: &Cluster) -> anyhow::Result<String> {
    let configuration = cluster.configuration().await?;
    let (config, problems) = parse(&configuration.objects());
    for problem in problems {
        eprintln!("{problem}");
    }
    let nodes: Vec<_> = cluster.nodes().await?.iter().map(node).collect();
    let found = neighbors(&config, &nodes);
    anyhow::ensure!(!found.is_empty(), "no BGPPeer in namespace {} concerns a node", cluster.namespace);
    Ok(render(dialect, &found))
}

fn node(object: &v1::Node) -> Node {
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    Node {
        name: object.name_any(),
        labels: object.labels().into(),
        addresses: addresses
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect(),
    }
}
