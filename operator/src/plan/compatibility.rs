//! What else in the cluster stands in the way of the load balancer, and what separates the two.

use std::{collections::BTreeSet, net::IpAddr};

use super::Situation;
use crate::{
    balancers::{Balancer, Product},
    health::Cause,
    kinds::Kind,
    neighbours::Fact,
    status::Observation,
};

/// Oldest Kubernetes that is supported, as minor version of 1.
const OLDEST: u32 = 30;
/// TCP port of BGP.
const BGP: u16 = 179;
/// UDP port of BFD (RFC 5881).
const BFD: u16 = 3784;

/// Of [`rival_metallb`], what no annotation hands over: it is not in the operator's namespace.
pub(super) fn metallb_elsewhere(situation: Situation<'_>) -> Vec<&Balancer> {
    let mut others = rival_metallb(situation);
    others.retain(|other| other.namespace != situation.settings.namespace);
    others
}

/// Of [`other_metallb`], what keeps this one from being installed. Labels do not: whoever may create pods anywhere could
/// stop the cluster's load balancer by them. A speaker is in the network of its host, which is not everybody's to ask for.
pub(super) fn rival_metallb(situation: Situation<'_>) -> Vec<&Balancer> {
    let mut others = other_metallb(situation);
    others.retain(|other| other.is_on_host || other.namespace == situation.settings.namespace);
    others
}

/// Workloads that run of a MetalLB that this operator did not install, but those that only have the names of its own.
pub(super) fn other_metallb(situation: Situation<'_>) -> Vec<&Balancer> {
    others(situation).filter(|other| other.product == Product::MetalLb && other.is_active).collect()
}

fn others<'a>(situation: Situation<'a>) -> impl Iterator<Item = &'a Balancer> {
    let all = situation.world.sightings().filter_map(|sighting| sighting.balancer.as_ref());
    all.filter(move |balancer| !balancer.is_own(&situation.settings.namespace))
}

/// What stands in the way of a load balancer that serves Services of `class`, for people.
pub(super) fn concerns(situation: Situation<'_>, class: Option<&str>, seen: &Observation) -> Vec<String> {
    let mut concerns: Vec<String> = Vec::new();
    // With a class of its own, none of these serves the same Services.
    if class.is_none() {
        let active = others(situation).filter(|other| other.product != Product::MetalLb && other.is_active);
        concerns.extend(active.map(Balancer::concern));
        concerns.extend(situation.world.facts().filter_map(|fact| match fact {
            Fact::Pool(pool) => Some(format!(
                "{pool}: Cilium gives addresses of it to Services: delete it, or set spec.loadBalancerClass here and on \
                 the Services of this load balancer"
            )),
            _ => None,
        }));
    }
    concerns.extend(other_metallb(situation).into_iter().map(Balancer::concern));
    concerns.extend(situation.world.facts().filter_map(|fact| fact_concern(situation, fact, seen)));
    concerns.extend(taken_ports(situation));
    // One object is seen in each version that is served.
    let mut told = BTreeSet::new();
    concerns.retain(|concern| told.insert(concern.clone()));
    concerns.extend(situation.world.version().filter(|version| is_too_old(version)).map(|version| {
        format!("Kubernetes {version} is older than 1.{OLDEST}, the oldest that is supported")
    }));
    concerns
}

fn fact_concern(situation: Situation<'_>, fact: &Fact, seen: &Observation) -> Option<String> {
    let namespace = &situation.settings.namespace;
    let label = format!("label namespace {namespace} with pod-security.kubernetes.io/enforce=privileged");
    match fact {
        Fact::PodSecurity(Some(level)) if level != "privileged" => Some(format!(
            "namespace {namespace} enforces Pod Security level {level}, which lets no speaker use the host's network: \
             {label}"
        )),
        Fact::PodSecurity(None) => {
            let troubles = seen.speaker.iter().flat_map(|health| &health.troubles);
            let refused = troubles.filter(|trouble| trouble.cause == Cause::PodRefused).count() > 0;
            refused.then(|| format!("speakers are refused and the namespace has no Pod Security level: {label}"))
        }
        Fact::AnswersEverywhere => Some(
            "kube-proxy runs in mode ipvs without strictARP, so every node answers ARP for every address: set \
             ipvs.strictARP to true in ConfigMap kube-system/kube-proxy and restart kube-proxy"
                .to_owned(),
        ),
        Fact::Routers(who, routers) => {
            let ours = our_routers(situation);
            let shared: Vec<_> =
                routers.iter().filter(|router| ours.contains(router)).map(ToString::to_string).collect();
            (!shared.is_empty()).then(|| {
                format!(
                    "{who} speaks BGP with {}, too, and a router takes one session from each node: let one of the two \
                     peer with another router or port",
                    shared.join(", ")
                )
            })
        }
        Fact::PodSecurity(Some(_)) | Fact::Pool(_) | Fact::Subnets(..) | Fact::Refused { .. } => None,
    }
}

fn our_routers(situation: Situation<'_>) -> BTreeSet<IpAddr> {
    let peers = situation.world.objects(Kind::BgpPeer);
    peers.filter_map(|peer| peer.data["spec"]["peerAddress"].as_str()?.parse().ok()).collect()
}

/// Ports of the nodes that this load balancer needs and other workloads take.
fn taken_ports(situation: Situation<'_>) -> Vec<String> {
    let ports = situation.settings.ports;
    let mut needed = vec![
        (ports.memberlist, "TCP"),
        (ports.memberlist, "UDP"),
        (ports.metrics, "TCP"),
        (ports.probes, "TCP"),
    ];
    if situation.world.objects(Kind::BgpPeer).next().is_some() {
        needed.extend([(BGP, "TCP"), (BFD, "UDP")]);
    }
    let others = situation.world.sightings().filter(|sighting| sighting.balancer.is_none());
    let taken = others.flat_map(|sighting| &sighting.ports);
    let met = taken.filter(|taken| needed.contains(&(taken.port, taken.protocol.as_str())));
    met.map(|taken| {
        format!(
            "{} takes port {}/{} of its nodes, which the speaker needs",
            taken.workload, taken.port, taken.protocol
        )
    })
    .collect()
}

/// Whether a version such as `v1.29.4` is older than what is supported. One that cannot be read is not judged.
fn is_too_old(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next(), parts.next());
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    matches!((number(major), number(minor)), (Some(1), Some(minor)) if minor < OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_vendors_are_read() {
        for (version, too_old) in [
            ("v1.29.4", true),
            ("1.29.0+k3s1", true),
            ("v1.30.0", false),
            ("v1.36.3", false),
            ("v2.0.0", false),
            ("v0.0.0-master", false),
            ("", false),
        ] {
            assert_eq!(is_too_old(version), too_old, "{version}");
        }
    }
}
