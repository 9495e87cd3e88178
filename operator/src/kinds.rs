//! The kinds of objects that the operator reads whole: its own resources and what it makes of them.

use std::fmt;

use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Secret, Service},
    networking::v1::NetworkPolicy,
};
use kube::core::{ApiResource, GroupVersionKind};
use metallb_api::{
    BFDProfile, BGPAdvertisement, BGPPeer, Community, IPAddressPool, L2Advertisement, MetalLB,
    address_pool::v1beta1::AddressPool, names,
};

/// Secret with the webhooks' certificate, where the operator makes it.
pub const CERTIFICATE_SECRET: &str = "metallb-operator-webhook-server-cert";
/// Secret with the key of the gossip, as MetalLB's manifests and older operators name it.
pub const OLDER_SECRET: &str = "memberlist";
/// Secret with the token by which Prometheus reads the metrics.
pub const METRICS_TOKEN: &str = "metallb-metrics-token";
/// Service of the webhooks.
pub const WEBHOOK_SERVICE: &str = "metallb-operator-webhook-service";

/// Service by which MetalLB's manifests, its chart and the Go operator have pools and peers judged.
pub const OLDER_WEBHOOK_SERVICE: &str = "metallb-webhook-service";

/// What the API server asks the webhooks about.
pub const ADMISSIONS: [Kind; 2] = [Kind::OperatorAdmission, Kind::Admission];

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The load balancer as the administrator wants it.
    MetalLb,
    /// A pool and its advertisement in one resource.
    AddressPool,
    /// A pool.
    IpAddressPool,
    /// An announcement by ARP and NDP.
    L2Advertisement,
    /// An announcement by routes.
    BgpAdvertisement,
    /// Key of the gossip.
    Secret,
    /// Key of the gossip under the name that older installers gave it.
    OlderSecret,
    /// Configuration of the programs.
    ConfigMap,
    /// The controller.
    Deployment,
    /// The speakers.
    DaemonSet,
    /// What the pods may reach.
    NetworkPolicy,
    /// Where metrics are found.
    Service,
    /// What Prometheus shows when it reads the metrics.
    MetricsToken,
    /// Tells Prometheus about a Service.
    ServiceMonitor,
    /// Tells Prometheus about pods.
    PodMonitor,
    /// Alerts.
    PrometheusRule,
    /// A router.
    BgpPeer,
    /// Settings of BFD sessions.
    BfdProfile,
    /// Names of communities.
    Community,
    /// BGP configuration that others give to frr-k8s.
    FrrConfiguration,
    /// Certificate of the webhooks.
    Certificate,
    /// Which requests about MetalLB resources the API server asks the webhooks about.
    OperatorAdmission,
    /// Which requests about pools, advertisements and peers it asks them about.
    Admission,
    /// Which requests about FRRConfigurations it asks frr-k8s about.
    FrrAdmission,
}

impl Kind {
    /// All kinds, in the order in which objects of one installation are needed.
    pub const ALL: [Self; 24] = [
        Self::MetalLb,
        Self::AddressPool,
        Self::IpAddressPool,
        Self::L2Advertisement,
        Self::BgpAdvertisement,
        Self::Secret,
        Self::OlderSecret,
        Self::ConfigMap,
        Self::Deployment,
        Self::DaemonSet,
        Self::NetworkPolicy,
        Self::Service,
        Self::MetricsToken,
        Self::ServiceMonitor,
        Self::PodMonitor,
        Self::PrometheusRule,
        Self::BgpPeer,
        Self::BfdProfile,
        Self::Community,
        Self::FrrConfiguration,
        Self::Certificate,
        Self::OperatorAdmission,
        Self::Admission,
        Self::FrrAdmission,
    ];

    /// Group, version and plural.
    #[must_use]
    pub fn api_resource(self) -> ApiResource {
        match self {
            Self::MetalLb => ApiResource::erase::<MetalLB>(&()),
            Self::AddressPool => ApiResource::erase::<AddressPool>(&()),
            Self::IpAddressPool => ApiResource::erase::<IPAddressPool>(&()),
            Self::L2Advertisement => ApiResource::erase::<L2Advertisement>(&()),
            Self::BgpAdvertisement => ApiResource::erase::<BGPAdvertisement>(&()),
            Self::Secret | Self::OlderSecret | Self::Certificate | Self::MetricsToken => {
                ApiResource::erase::<Secret>(&())
            }
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::ServiceMonitor => monitoring("ServiceMonitor"),
            Self::PodMonitor => monitoring("PodMonitor"),
            Self::PrometheusRule => monitoring("PrometheusRule"),
            Self::BgpPeer => ApiResource::erase::<BGPPeer>(&()),
            Self::BfdProfile => ApiResource::erase::<BFDProfile>(&()),
            Self::Community => ApiResource::erase::<Community>(&()),
            Self::FrrConfiguration => ApiResource::from_gvk(&GroupVersionKind::gvk(
                "frrk8s.metallb.io",
                "v1beta1",
                "FRRConfiguration",
            )),
            Self::OperatorAdmission | Self::Admission | Self::FrrAdmission => {
                ApiResource::erase::<ValidatingWebhookConfiguration>(&())
            }
        }
    }

    /// Whether it is about requests that the API server asks webhooks about.
    #[must_use]
    pub fn is_admission(self) -> bool {
        matches!(self, Self::OperatorAdmission | Self::Admission | Self::FrrAdmission)
    }

    /// Whether objects outside the operator's namespace are read too: a MetalLB resource there is told that it has
    /// no effect, and webhook configurations have no namespace.
    #[must_use]
    pub fn everywhere(self) -> bool {
        matches!(self, Self::MetalLb | Self::FrrConfiguration) || self.is_admission()
    }

    /// Whether it is enough to know that an object is there: its body is not kept.
    #[must_use]
    pub fn by_name_only(self) -> bool {
        self == Self::FrrConfiguration
    }

    /// Whether a cluster need not know the kind.
    #[must_use]
    pub fn optional(self) -> bool {
        matches!(
            self,
            Self::ServiceMonitor | Self::PodMonitor | Self::PrometheusRule | Self::FrrConfiguration
        )
    }

    /// The one object that is read, where the others are not the operator's business.
    #[must_use]
    pub fn only(self) -> Option<&'static str> {
        match self {
            Self::Secret => Some(names::MEMBERLIST_SECRET),
            Self::OlderSecret => Some(OLDER_SECRET),
            Self::Certificate => Some(CERTIFICATE_SECRET),
            Self::MetricsToken => Some(METRICS_TOKEN),
            Self::OperatorAdmission => Some("metallb-operator-webhook-configuration"),
            Self::Admission => Some("metallb-webhook-configuration"),
            Self::FrrAdmission => Some("frr-k8s-validating-webhook-configuration"),
            _ => None,
        }
    }
}

/// A kind of the Prometheus Operator.
fn monitoring(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind))
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MetalLb => "MetalLB",
            Self::AddressPool => "AddressPool",
            Self::IpAddressPool => "IPAddressPool",
            Self::L2Advertisement => "L2Advertisement",
            Self::BgpAdvertisement => "BGPAdvertisement",
            Self::Secret | Self::OlderSecret | Self::Certificate | Self::MetricsToken => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::ServiceMonitor => "ServiceMonitor",
            Self::PodMonitor => "PodMonitor",
            Self::PrometheusRule => "PrometheusRule",
            Self::BgpPeer => "BGPPeer",
            Self::BfdProfile => "BFDProfile",
            Self::Community => "Community",
            Self::FrrConfiguration => "FRRConfiguration",
            Self::OperatorAdmission | Self::Admission | Self::FrrAdmission => {
                "ValidatingWebhookConfiguration"
            }
        })
    }
}

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_other_namespaces_resources_without_effect_and_bgp_of_others_are_read() {
        let everywhere = Kind::ALL.into_iter().filter(|kind| kind.everywhere() && !kind.is_admission());
        let everywhere: Vec<Kind> = everywhere.collect();
        // An AddressPool that somebody else has elsewhere is left alone, and so is what is made of it.
        assert_eq!(everywhere, [Kind::MetalLb, Kind::FrrConfiguration]);
    }
}
