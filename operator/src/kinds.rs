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
/// Service of the webhooks.
pub const WEBHOOK_SERVICE: &str = "metallb-operator-webhook-service";

/// Which requests the API server asks the webhooks about, as the installation names it.
pub const WEBHOOK_CONFIGURATIONS: [&str; 2] =
    ["metallb-operator-webhook-configuration", "metallb-webhook-configuration"];

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
    /// Which requests the API server asks the webhooks about.
    WebhookConfiguration,
}

impl Kind {
    /// All kinds, in the order in which objects of one installation are needed.
    pub const ALL: [Self; 21] = [
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
        Self::ServiceMonitor,
        Self::PodMonitor,
        Self::PrometheusRule,
        Self::BgpPeer,
        Self::BfdProfile,
        Self::Community,
        Self::FrrConfiguration,
        Self::Certificate,
        Self::WebhookConfiguration,
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
            Self::Secret | Self::OlderSecret | Self::Certificate => ApiResource::erase::<Secret>(&()),
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
            Self::WebhookConfiguration => ApiResource::erase::<ValidatingWebhookConfiguration>(&()),
        }
    }

    /// Whether objects outside the operator's namespace are read too: a MetalLB resource there is told that it has
    /// no effect, and webhook configurations have no namespace.
    #[must_use]
    pub fn everywhere(self) -> bool {
        matches!(self, Self::MetalLb | Self::FrrConfiguration | Self::WebhookConfiguration)
    }

    /// Whether a cluster need not know the kind.
    #[must_use]
    pub fn optional(self) -> bool {
        matches!(
            self,
            Self::ServiceMonitor | Self::PodMonitor | Self::PrometheusRule | Self::FrrConfiguration
        )
    }

    /// Label selector of the objects that are read, of kinds of which few objects matter.
    #[must_use]
    pub fn labels(self) -> Option<&'static str> {
        match self {
            Self::Service => Some("app=metallb"),
            Self::WebhookConfiguration => Some("app.kubernetes.io/part-of=metallb"),
            _ => None,
        }
    }

    /// The one object that is read, where the operator may not see the others.
    #[must_use]
    pub fn only(self) -> Option<&'static str> {
        match self {
            Self::Secret => Some(names::MEMBERLIST_SECRET),
            Self::OlderSecret => Some(OLDER_SECRET),
            Self::Certificate => Some(CERTIFICATE_SECRET),
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
            Self::Secret | Self::OlderSecret | Self::Certificate => "Secret",
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
            Self::WebhookConfiguration => "ValidatingWebhookConfiguration",
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
    fn of_other_namespaces_only_what_has_no_effect_there_or_none_is_read() {
        let everywhere: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.everywhere()).collect();
        // An AddressPool that somebody else has elsewhere is left alone, and so is what is made of it.
        assert_eq!(everywhere, [Kind::MetalLb, Kind::FrrConfiguration, Kind::WebhookConfiguration]);
    }
}
