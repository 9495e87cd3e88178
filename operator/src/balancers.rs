//! Other load balancers, and what else in the cluster stands in the way of this one.
//!
//! Pure. Two load balancers that serve the same Services take each other's addresses away. What is found is told in
//! condition Compatible, with what separates the two; only where another MetalLB runs is nothing installed.

use std::fmt;

use metallb_api::names;

use crate::{
    render::MANAGED_BY,
    workload::{Marked, WorkloadKind},
};

/// A load balancer for bare metal that others make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    /// <https://metallb.io>, or this one in another namespace.
    MetalLb,
    /// ServiceLB of K3s.
    ServiceLb,
    /// <https://kube-vip.io>
    KubeVip,
    /// <https://openelb.io>
    OpenElb,
    /// <https://purelb.gitlab.io>
    PureLb,
}

impl Product {
    /// What lets both be there.
    fn separation(self) -> &'static str {
        match self {
            Self::MetalLb => {
                "both would serve the same Services: remove it. Annotation metallb.io/adopt: \"true\" takes over what is in \
                 the operator's own namespace"
            }
            Self::ServiceLb => {
                "K3s ServiceLB serves Services without a class: start the servers with --disable=servicelb, or set \
                 spec.loadBalancerClass here and on the Services of this load balancer"
            }
            Self::KubeVip => {
                "kube-vip serves Services: set svc_enable to \"false\" or lb_class_only to \"true\" in it, or \
                 spec.loadBalancerClass here and on the Services of this load balancer"
            }
            Self::OpenElb => {
                "OpenELB serves Services with annotation lb.kubesphere.io/v1alpha1: openelb: remove it, or set \
                 spec.loadBalancerClass here and on the Services of this load balancer"
            }
            Self::PureLb => {
                "PureLB serves Services of its default class: set spec.loadBalancerClass here and on the Services of \
                 this load balancer, and purelb.io/purelb on the others"
            }
        }
    }
}

/// A workload of another load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Balancer {
    /// Which one.
    pub product: Product,
    /// Kind of the workload.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it has pods.
    pub is_active: bool,
    /// Whether its pods are in the network of their host.
    pub is_on_host: bool,
    /// Whether an operator of this project made it.
    pub is_managed: bool,
}

impl fmt::Display for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl Balancer {
    /// Whether it is the operand of the operator in `namespace`.
    #[must_use]
    pub fn is_own(&self, namespace: &str) -> bool {
        self.namespace == namespace
            && (self.is_managed || matches!(self.name.as_str(), names::CONTROLLER | names::SPEAKER))
    }

    /// What to know about it.
    #[must_use]
    pub fn concern(&self) -> String {
        format!("{self}: {}", self.product.separation())
    }
}

/// Recognises a workload of another load balancer; also those of this operator, which are told apart later.
#[must_use]
pub fn recognise(workload: &Marked, kind: WorkloadKind) -> Option<Balancer> {
    let is_looked_at = matches!(
        kind,
        WorkloadKind::Deployment
            | WorkloadKind::DaemonSet
            | WorkloadKind::StatefulSet
            | WorkloadKind::StaticPod
    );
    if !is_looked_at {
        return None;
    }
    Some(Balancer {
        product: product(workload, kind)?,
        kind: kind.name(),
        namespace: workload.namespace().to_owned(),
        name: workload.name().to_owned(),
        is_active: workload.is_active(),
        is_on_host: workload.pod().host_network,
        is_managed: has_label(workload, MANAGED_BY.0, MANAGED_BY.1),
    })
}

fn product(workload: &Marked, kind: WorkloadKind) -> Option<Product> {
    let part = |name: &str| ["controller", "speaker"].into_iter().any(|part| has_label(workload, name, part));
    let plain = has_label(workload, "app", "metallb") && part("component");
    let chart =
        has_label(workload, "app.kubernetes.io/name", "metallb") && part("app.kubernetes.io/component");
    if plain || chart {
        return Some(Product::MetalLb);
    }
    let on_k3s = workload.labels().any(|labels| labels.contains_key("svccontroller.k3s.cattle.io/svcname"));
    if kind == WorkloadKind::DaemonSet && (on_k3s || workload.name().starts_with("svclb-")) {
        return Some(Product::ServiceLb);
    }
    workload.pod().containers().find_map(|container| {
        let says = |name: &str, value: &str| {
            container.env.iter().any(|variable| variable.name == name && variable.value == value)
        };
        match image_name(&container.image) {
            "kube-vip" if says("svc_enable", "true") && !says("lb_class_only", "true") => {
                Some(Product::KubeVip)
            }
            "kube-vip-cloud-provider" => Some(Product::KubeVip),
            name if name.starts_with("openelb") => Some(Product::OpenElb),
            _ if container.image.contains("/purelb/") => Some(Product::PureLb),
            _ => None,
        }
    })
}

fn has_label(workload: &Marked, name: &str, value: &str) -> bool {
    workload.labels().any(|labels| labels.get(name).is_some_and(|found| found == value))
}

/// NAME of `registry/path/NAME:tag@digest`.
pub(crate) fn image_name(image: &str) -> &str {
    let without_digest = image.split('@').next().unwrap_or_default();
    let last = without_digest.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// A port of the nodes that a workload takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TakenPort {
    /// Its number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The workload, for people.
    pub workload: String,
}

/// The ports of the nodes that a workload says it takes.
#[must_use]
pub fn taken_ports(workload: &Marked, kind: WorkloadKind) -> Vec<TakenPort> {
    if workload.is_part_of_another(kind) || !workload.is_active() {
        return Vec::new();
    }
    let pod = workload.pod();
    let ports = pod.containers().flat_map(|container| &container.ports);
    let taken = ports.filter_map(|port| {
        let on_host = port.host_port.filter(|port| *port != 0);
        let number = on_host.or(port.container_port.filter(|_| pod.host_network))?;
        Some(TakenPort {
            port: number,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            workload: format!("{} {}/{}", kind.name(), workload.namespace(), workload.name()),
        })
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(kind: WorkloadKind, yaml: &str) -> Option<crate::workload::Sighting> {
        serde_saphyr::from_str::<Marked>(yaml).unwrap().sighting(kind)
    }

    #[test]
    fn each_load_balancer_is_recognised_by_what_its_makers_ship() {
        use WorkloadKind::{DaemonSet, Deployment, ReplicaSet, StaticPod};
        let labelled = |labels: &str, pod: &str| {
            format!(
                "{{metadata: {{name: x, namespace: n}}, spec: {{template: {{metadata: {{labels: {{{labels}}}}}, spec: \
                 {{{pod}}}}}}}}}"
            )
        };
        let image = |image: &str, env: &str| {
            labelled("app: x", &format!("containers: [{{image: '{image}', env: [{env}]}}]"))
        };
        let svclb =
            "{metadata: {name: svclb-web-1a2b3c4d, namespace: kube-system}, spec: {template: {spec: {}}}}";
        let services = "{name: svc_enable, value: 'true'}";
        for (what, kind, yaml, want) in [
            (
                "manifests",
                DaemonSet,
                labelled("app: metallb, component: speaker", ""),
                Some(Product::MetalLb),
            ),
            (
                "chart",
                Deployment,
                labelled("app.kubernetes.io/name: metallb, app.kubernetes.io/component: controller", ""),
                Some(Product::MetalLb),
            ),
            ("webhook server", Deployment, labelled("app: metallb, component: webhook-server", ""), None),
            (
                "operator",
                Deployment,
                labelled(
                    "control-plane: controller-manager",
                    "containers: [{image: quay.io/metallb/metallb-operator}]",
                ),
                None,
            ),
            ("its replica set", ReplicaSet, labelled("app: metallb, component: controller", ""), None),
            ("k3s", DaemonSet, svclb.to_owned(), Some(Product::ServiceLb)),
            ("a Deployment of that name", Deployment, svclb.to_owned(), None),
            (
                "k3s by label",
                DaemonSet,
                labelled("svccontroller.k3s.cattle.io/svcname: web", ""),
                Some(Product::ServiceLb),
            ),
            (
                "kube-vip",
                DaemonSet,
                image("ghcr.io/kube-vip/kube-vip:v0.8.7", services),
                Some(Product::KubeVip),
            ),
            (
                "kube-vip as a static pod",
                StaticPod,
                format!(
                    "{{metadata: {{name: kube-vip-cp, namespace: kube-system, ownerReferences: [{{apiVersion: v1, kind: Node, \
                     name: cp, uid: u}}]}}, spec: {{hostNetwork: true, containers: [{{image: 'ghcr.io/kube-vip/kube-vip:v0.8.7', \
                     env: [{services}]}}]}}}}"
                ),
                Some(Product::KubeVip),
            ),
            ("kube-vip, control plane only", DaemonSet, image("ghcr.io/kube-vip/kube-vip:v0.8.7", ""), None),
            (
                "kube-vip with a class",
                DaemonSet,
                image("kube-vip", &format!("{services}, {{name: lb_class_only, value: 'true'}}")),
                None,
            ),
            (
                "kube-vip's allocator",
                Deployment,
                image("ghcr.io/kube-vip/kube-vip-cloud-provider@sha256:0123", ""),
                Some(Product::KubeVip),
            ),
            ("OpenELB", Deployment, image("kubesphere/openelb:v0.5.1", ""), Some(Product::OpenElb)),
            (
                "OpenELB 0.6",
                DaemonSet,
                image("kubesphere/openelb-speaker:v0.6.0", ""),
                Some(Product::OpenElb),
            ),
            (
                "PureLB",
                DaemonSet,
                image("registry.gitlab.com/purelb/purelb/lbnodeagent:v0.11.6", ""),
                Some(Product::PureLb),
            ),
            ("anything", Deployment, image("nginx", ""), None),
        ] {
            let balancer = workload(kind, &yaml).and_then(|sighting| sighting.balancer);
            assert_eq!(balancer.map(|balancer| balancer.product), want, "{what}");
        }
    }

    #[test]
    fn ports_of_the_node_are_taken_by_host_ports_and_on_the_host_network() {
        let ports = |spec: &str| -> Vec<String> {
            let yaml = format!("{{metadata: {{name: x, namespace: n}}, spec: {{{spec}}}}}");
            let sighting = workload(WorkloadKind::DaemonSet, &yaml);
            let ports = sighting.map(|sighting| sighting.ports).unwrap_or_default();
            ports
                .iter()
                .map(|taken| format!("{} {}/{}", taken.workload, taken.port, taken.protocol))
                .collect()
        };
        let port = "containers: [{ports: [{containerPort: 7946, protocol: UDP}]}]";
        assert_eq!(
            ports(&format!("template: {{spec: {{hostNetwork: true, {port}}}}}")),
            ["DaemonSet n/x 7946/UDP"]
        );
        assert_eq!(ports(&format!("template: {{spec: {{{port}}}}}")), Vec::<String>::new());
        let host_port =
            "containers: [{ports: [{containerPort: 80, hostPort: 9120}, {containerPort: 81, hostPort: 0}]}]";
        assert_eq!(ports(&format!("template: {{spec: {{{host_port}}}}}")), ["DaemonSet n/x 9120/TCP"]);
        assert_eq!(ports(&format!("replicas: 0, template: {{spec: {{{host_port}}}}}")), Vec::<String>::new());
    }
}
