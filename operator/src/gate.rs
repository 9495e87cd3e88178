//! IP failover (keepalived, as `oc adm ipfailover` deploys it) and how it is recognised.
//!
//! Pure. IP failover and the speaker would both claim addresses on the same network, so nothing is installed beside
//! it. What counts as evidence, and why, is told in docs/ipfailover.md.

use std::{collections::BTreeMap, fmt};

use metallb_core::{config::Pool, range::AddressRange};

use crate::workload::{Marked, WorkloadKind};

/// Label key and service account of IP failover.
pub(crate) const MARK: &str = "ipfailover";
/// Its image, whatever the registry and tag.
const IMAGE: &str = "keepalived-ipfailover";
/// Name of the group of addresses that it serves.
const CONFIG_NAME: &str = "OPENSHIFT_HA_CONFIG_NAME";
/// Addresses that it serves.
const VIRTUAL_IPS: &str = "OPENSHIFT_HA_VIRTUAL_IPS";

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot hold an address now: it is scaled to zero or has ended.
    Idle,
    /// It cannot hold an address of the nodes' network: it is not in the network of its host.
    Contained,
    /// It can hold addresses.
    Block,
}

/// A workload that is, or may be, IP failover.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Kind of the workload.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it was recognised by, for people.
    pub evidence: Vec<String>,
    /// How much it weighs.
    pub severity: Severity,
    /// Addresses that it says it serves, as written there.
    pub virtual_ips: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{} ({})", self.kind, self.namespace, self.name, self.evidence.join(", "))
    }
}

/// What a workload of kind `kind` says about IP failover. `None` without evidence.
///
/// The addresses of the cluster's own API on bare metal are held by static keepalived pods in a namespace
/// `openshift-*-infra`: they serve other addresses than Services and are no evidence.
#[must_use]
pub fn finding(workload: &Marked, kind: WorkloadKind) -> Option<Finding> {
    let namespace = workload.namespace();
    let is_pod = matches!(kind, WorkloadKind::LabelledPod | WorkloadKind::AccountPod);
    let is_of_the_cluster = is_pod && namespace.starts_with("openshift-") && namespace.ends_with("-infra");
    if is_of_the_cluster || workload.is_part_of_another(kind) {
        return None;
    }
    let pod = workload.pod();
    let variables: BTreeMap<&str, &str> = pod
        .containers()
        .flat_map(|container| &container.env)
        .filter(|variable| matches!(variable.name.as_str(), CONFIG_NAME | VIRTUAL_IPS))
        .map(|variable| (variable.name.as_str(), variable.value.as_str()))
        .collect();

    let mut evidence: Vec<String> = variables.keys().map(|name| format!("env {name}")).collect();
    if workload.labels().any(|labels| labels.contains_key(MARK)) {
        evidence.push(format!("label {MARK}"));
    }
    if pod.service_account_name == MARK {
        evidence.push(format!("service account {MARK}"));
    }
    if let Some(container) = pod.containers().find(|container| is_ipfailover_image(&container.image)) {
        evidence.push(format!("image {}", container.image));
    }
    if evidence.is_empty() {
        return None;
    }
    // Who may only create pods must not be able to stop the cluster's load balancer: IP failover itself needs the
    // host's network, which is not theirs to ask for.
    let severity = match (workload.is_active(), pod.host_network) {
        (false, _) => Severity::Idle,
        (true, false) => Severity::Contained,
        (true, true) => Severity::Block,
    };
    let virtual_ips = variables.get(VIRTUAL_IPS).map_or("", |value| value);
    Some(Finding {
        kind: kind.name(),
        namespace: namespace.to_owned(),
        name: workload.name().to_owned(),
        evidence,
        severity,
        virtual_ips: virtual_ips
            .split([',', ' '])
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

impl Finding {
    /// Blocks of `pools` that hold an address which this workload serves too, for people.
    pub fn overlaps<'a>(&self, pools: &(impl Iterator<Item = &'a Pool> + Clone)) -> Vec<String> {
        let ranges = self.virtual_ips.iter().filter_map(|text| Some((text, virtual_range(text)?)));
        let overlaps = |(text, range): (&String, AddressRange)| {
            let blocks = pools.clone().flat_map(|pool| pool.ranges.iter().map(move |block| (pool, block)));
            let met = blocks.filter(|(_, block)| block.overlaps(&range));
            met.map(|(pool, block)| format!("{text} of {self} meets {block} of IPAddressPool {}", pool.name))
                .collect::<Vec<_>>()
        };
        ranges.flat_map(overlaps).collect()
    }
}

/// An address or a range as IP failover has them: `192.0.2.4-6` ends at 192.0.2.6.
fn virtual_range(text: &str) -> Option<AddressRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let last = match (last.parse::<u8>(), first.rsplit_once('.')) {
        (Ok(last), Some((network, _))) => format!("{network}.{last}"),
        _ => last.to_owned(),
    };
    format!("{first}-{last}").parse().ok()
}

/// `registry/path/NAME:tag@digest` with the name in NAME.
fn is_ipfailover_image(image: &str) -> bool {
    crate::balancers::image_name(image).contains(IMAGE)
}

#[cfg(test)]
mod tests;
