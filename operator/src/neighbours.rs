//! Objects of others that are read for what they mean to this load balancer, and of which only that is kept.
//!
//! Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use kube::{
    ResourceExt,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use metallb_api::ConfigurationStateStatus;
use metallb_core::subnets;
use serde_json::Value;

/// Label of a namespace that says which pods it takes.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// A kind of object of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Neighbour {
    /// The operator's namespace: which pods it takes.
    Namespace,
    /// Configuration of kube-proxy, where kubeadm installed it.
    KubeProxy,
    /// Addresses that Cilium gives to Services.
    CiliumPool,
    /// The same, as Cilium up to 1.17 has it.
    OlderCiliumPool,
    /// Routers to which Cilium speaks.
    CiliumBgp,
    /// The same, as Cilium up to 1.17 has it.
    OlderCiliumBgp,
    /// The same, as Cilium had it before that.
    CiliumPolicy,
    /// Routers to which Calico speaks.
    CalicoPeer,
    /// What speakers say of their nodes.
    Speaker,
    /// What Kubernetes says of pods of DaemonSets that it could not make; nothing else tells.
    Refusal,
}

impl Neighbour {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Namespace,
        Self::KubeProxy,
        Self::CiliumPool,
        Self::OlderCiliumPool,
        Self::CiliumBgp,
        Self::OlderCiliumBgp,
        Self::CiliumPolicy,
        Self::CalicoPeer,
        Self::Speaker,
        Self::Refusal,
    ];

    /// Group, version and plural.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::Namespace => ("", "v1", "Namespace"),
            Self::KubeProxy => ("", "v1", "ConfigMap"),
            Self::CiliumPool => ("cilium.io", "v2", "CiliumLoadBalancerIPPool"),
            Self::OlderCiliumPool => ("cilium.io", "v2alpha1", "CiliumLoadBalancerIPPool"),
            Self::CiliumBgp => ("cilium.io", "v2", "CiliumBGPClusterConfig"),
            Self::OlderCiliumBgp => ("cilium.io", "v2alpha1", "CiliumBGPClusterConfig"),
            Self::CiliumPolicy => ("cilium.io", "v2alpha1", "CiliumBGPPeeringPolicy"),
            Self::CalicoPeer => ("crd.projectcalico.org", "v1", "BGPPeer"),
            Self::Speaker => ("metallb.io", "v1beta1", "ConfigurationState"),
            Self::Refusal => ("", "v1", "Event"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }

    /// Whether a cluster need not know the kind.
    #[must_use]
    pub fn optional(self) -> bool {
        !matches!(self, Self::Namespace | Self::KubeProxy | Self::Refusal)
    }

    /// The namespace in which objects are read, if not everywhere; `operator` is the operator's.
    #[must_use]
    pub fn namespace(self, operator: &str) -> Option<&str> {
        match self {
            Self::KubeProxy => Some("kube-system"),
            Self::Speaker | Self::Refusal => Some(operator),
            _ => None,
        }
    }

    /// Field selector of the objects that are read, if not all are.
    #[must_use]
    pub fn fields(self, operator: &str) -> Option<String> {
        match self {
            Self::Namespace => Some(format!("metadata.name={operator}")),
            Self::KubeProxy => Some("metadata.name=kube-proxy".to_owned()),
            Self::Refusal => Some("involvedObject.kind=DaemonSet,reason=FailedCreate".to_owned()),
            _ => None,
        }
    }

    /// What `object` means; `None` when it means nothing.
    #[must_use]
    pub fn read(self, object: &DynamicObject) -> Option<Fact> {
        match self {
            Self::Namespace => Some(Fact::PodSecurity(object.labels().get(POD_SECURITY).cloned())),
            Self::KubeProxy => {
                let text = object.data["data"]["config.conf"].as_str()?;
                let config: Value = serde_saphyr::from_str(text).ok()?;
                let answers = config["mode"] == "ipvs" && config["ipvs"]["strictARP"] != true;
                answers.then_some(Fact::AnswersEverywhere)
            }
            Self::CiliumPool | Self::OlderCiliumPool => (object.data["spec"]["disabled"] != true)
                .then(|| Fact::Pool(format!("CiliumLoadBalancerIPPool {}", object.name_any()))),
            Self::CiliumBgp | Self::OlderCiliumBgp => {
                let instances = object.data["spec"]["bgpInstances"].as_array().into_iter().flatten();
                let peers = instances.flat_map(|instance| instance["peers"].as_array().into_iter().flatten());
                let routers = peers.filter_map(|peer| address(&peer["peerAddress"])).collect();
                Some(Fact::Routers(format!("CiliumBGPClusterConfig {}", object.name_any()), routers))
            }
            Self::CiliumPolicy => {
                let routers = object.data["spec"]["virtualRouters"].as_array().into_iter().flatten();
                let peers = routers.flat_map(|router| router["neighbors"].as_array().into_iter().flatten());
                let routers = peers.filter_map(|peer| address(&peer["peerAddress"])).collect();
                Some(Fact::Routers(format!("CiliumBGPPeeringPolicy {}", object.name_any()), routers))
            }
            Self::CalicoPeer => {
                let routers = address(&object.data["spec"]["peerIP"]).into_iter().collect();
                Some(Fact::Routers(format!("BGPPeer {} of Calico", object.name_any()), routers))
            }
            Self::Speaker => {
                let status: Option<ConfigurationStateStatus> =
                    serde_json::from_value(object.data["status"].clone()).ok()?;
                let (node, subnets) = subnets::told(&object.metadata, status.as_ref())?;
                Some(Fact::Subnets(node, subnets))
            }
            Self::Refusal => {
                let time = object.data["lastTimestamp"].as_str()?.parse().ok()?;
                let message = object.data["message"].as_str()?;
                let message = message.strip_prefix("Error creating: ").unwrap_or(message).to_owned();
                let of = object.data["involvedObject"]["name"].as_str()?.to_owned();
                Some(Fact::Refused { of, time, message })
            }
        }
    }
}

/// An address, with or without a port or the length of a prefix.
fn address(value: &Value) -> Option<IpAddr> {
    let text = value.as_str()?;
    let text = text.split_once('/').map_or(text, |(address, _)| address);
    text.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
}

/// What an object of others means to this load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The Pod Security level that the operator's namespace enforces; `None` where it is not labelled.
    PodSecurity(Option<String>),
    /// Every node answers ARP for every address of a Service: kube-proxy runs in mode ipvs without strictARP.
    AnswersEverywhere,
    /// A pool, named for people, from which somebody else gives addresses to Services.
    Pool(String),
    /// Somebody else, named for people, speaks BGP with these routers.
    Routers(String, Vec<IpAddr>),
    /// Subnets of a node, by its name.
    Subnets(String, Vec<IpNet>),
    /// A pod could not be made.
    Refused {
        /// Of which DaemonSet.
        of: String,
        /// When.
        time: Timestamp,
        /// Why.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(neighbour: Neighbour, object: Value) -> Option<Fact> {
        neighbour.read(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn kube_proxy_is_told_of_only_where_every_node_would_answer() {
        let config = |text: &str| {
            let object = json!({"metadata": {"name": "kube-proxy"}, "data": {"config.conf": text}});
            read(Neighbour::KubeProxy, object)
        };
        assert_eq!(config("mode: ipvs\nipvs: {strictARP: false}"), Some(Fact::AnswersEverywhere));
        assert_eq!(config("mode: ipvs\n"), Some(Fact::AnswersEverywhere));
        assert_eq!(config("mode: ipvs\nipvs: {strictARP: true}"), None);
        assert_eq!(config("mode: nftables\nipvs: {strictARP: false}"), None);
        assert_eq!(config("mode: ''"), None);
        assert_eq!(config("mode: [ipvs"), None);
    }

    #[test]
    fn routers_of_others_are_read_with_and_without_a_port() {
        let calico = |address: &str| {
            read(Neighbour::CalicoPeer, json!({"metadata": {"name": "p"}, "spec": {"peerIP": address}}))
        };
        let routers = |list: &[&str]| {
            let list = list.iter().map(|text| text.parse().unwrap()).collect();
            Some(Fact::Routers("BGPPeer p of Calico".to_owned(), list))
        };
        assert_eq!(calico("192.0.2.1"), routers(&["192.0.2.1"]));
        assert_eq!(calico("192.0.2.1:1179"), routers(&["192.0.2.1"]));
        assert_eq!(calico("[2001:db8::1]:179"), routers(&["2001:db8::1"]));
        assert_eq!(calico(""), routers(&[]));
        let cilium = json!({"metadata": {"name": "c"}, "spec": {"bgpInstances": [
            {"name": "a", "peers": [{"peerAddress": "192.0.2.1"}, {"name": "auto"}]}, {"name": "b"}]}});
        let want = Fact::Routers("CiliumBGPClusterConfig c".to_owned(), vec!["192.0.2.1".parse().unwrap()]);
        for version in [Neighbour::CiliumBgp, Neighbour::OlderCiliumBgp] {
            assert_eq!(read(version, cilium.clone()), Some(want.clone()));
        }
        let policy = json!({"metadata": {"name": "c"}, "spec": {"virtualRouters": [
            {"localASN": 64512, "neighbors": [{"peerAddress": "192.0.2.1/32"}, {"peerAddress": "2001:db8::1/128"}]},
            {"localASN": 64513}]}});
        let both = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
        let want = Fact::Routers("CiliumBGPPeeringPolicy c".to_owned(), both);
        assert_eq!(read(Neighbour::CiliumPolicy, policy), Some(want));
    }

    #[test]
    fn a_pool_of_cilium_counts_while_it_is_enabled() {
        let pool =
            |spec: Value| read(Neighbour::CiliumPool, json!({"metadata": {"name": "p"}, "spec": spec}));
        assert_eq!(pool(json!({})), Some(Fact::Pool("CiliumLoadBalancerIPPool p".to_owned())));
        assert_eq!(pool(json!({"disabled": true})), None);
    }

    #[test]
    fn why_a_pod_was_not_made_is_read_from_the_event() {
        let event = json!({"metadata": {"name": "e"}, "lastTimestamp": "2030-01-01T00:00:00Z",
                           "involvedObject": {"kind": "DaemonSet", "name": "speaker"},
                           "message": "Error creating: pods \"speaker-\" is forbidden: violates PodSecurity"});
        let told = "pods \"speaker-\" is forbidden: violates PodSecurity".to_owned();
        let time = "2030-01-01T00:00:00Z".parse().unwrap();
        let want = Fact::Refused { of: "speaker".to_owned(), time, message: told };
        assert_eq!(read(Neighbour::Refusal, event), Some(want));
        assert_eq!(read(Neighbour::Refusal, json!({"metadata": {"name": "e"}, "lastTimestamp": null})), None);
    }

    #[test]
    fn plurals_are_those_of_the_definitions() {
        let plurals = Neighbour::ALL.map(|neighbour| neighbour.api_resource().plural);
        assert_eq!(
            plurals,
            [
                "namespaces",
                "configmaps",
                "ciliumloadbalancerippools",
                "ciliumloadbalancerippools",
                "ciliumbgpclusterconfigs",
                "ciliumbgpclusterconfigs",
                "ciliumbgppeeringpolicies",
                "bgppeers",
                "configurationstates",
                "events"
            ]
        );
    }
}
