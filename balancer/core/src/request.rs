//! What a Service asks for, read from its spec and annotations.
//!
//! An annotation with the prefix `metallb.io/` wins over the same with `metallb.universe.tf/`, even when it is empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use metallb_api::names::{
    ANNOTATION_ADDRESS_POOL, ANNOTATION_ALLOW_SHARED_IP, ANNOTATION_LOADBALANCER_IPS, ANNOTATION_PREFIX,
    OLD_ANNOTATION_PREFIX,
};

use crate::{
    range::Family,
    refusal::Refusal,
    service::{Port, Protocol, Sharing, Tenant},
};

/// Annotation with value `true`: the Service keeps its address when a pool is edited or deleted.
pub const ANNOTATION_KEEP_ADDRESS: &str = "metallb.io/keep-address";

/// The families of the addresses that a Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// One address of this family.
    Single(Family),
    /// One of each; where no pool has both, one, of this family if possible (`PreferDualStack`).
    Prefer(Family),
    /// One of each (`RequireDualStack`).
    Both,
}

impl Families {
    /// Whether addresses of these families are what is wanted, with nothing missing.
    #[must_use]
    pub fn are_met_by(self, addresses: &[IpAddr]) -> bool {
        let four = addresses.iter().filter(|address| address.is_ipv4()).count();
        let six = addresses.len() - four;
        match self {
            Self::Single(Family::V4) => (four, six) == (1, 0),
            Self::Single(Family::V6) => (four, six) == (0, 1),
            Self::Prefer(_) | Self::Both => (four, six) == (1, 1),
        }
    }

    /// Whether an address of this family is wanted at all.
    #[must_use]
    pub fn want(self, family: Family) -> bool {
        match self {
            Self::Single(single) => single == family,
            Self::Prefer(_) | Self::Both => true,
        }
    }
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Families wanted, from `spec.clusterIPs` and `spec.ipFamilyPolicy`.
    pub families: Families,
    /// Addresses asked for by name, in the order given; they meet `families`. Empty when any will do.
    pub addresses: Vec<IpAddr>,
    /// The pool asked for.
    pub pool: Option<String>,
}

impl Request {
    /// Reads what `service` asks for.
    ///
    /// # Errors
    /// Why it cannot be met whatever pools there are.
    pub fn parse(service: &Service) -> Result<Self, Refusal> {
        let none = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&none);
        let families = parse_families(spec)?;
        let addresses = parse_addresses(service, spec)?;
        if !addresses.is_empty() && !families.are_met_by(&addresses) {
            return Err(Refusal::WrongFamily(addresses));
        }
        let pool = annotation(service, ANNOTATION_ADDRESS_POOL).filter(|pool| !pool.is_empty());
        Ok(Self { families, addresses, pool: pool.map(str::to_owned) })
    }
}

/// How `service` would use an address.
#[must_use]
pub fn tenant(service: &Service) -> Tenant {
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let sharing = annotation(service, ANNOTATION_ALLOW_SHARED_IP).filter(|key| !key.is_empty()).map(|key| {
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        Sharing { key: key.to_owned(), backend: if local { backend(spec) } else { String::new() } }
    });
    let ports: BTreeSet<_> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                None | Some("" | "TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                Some(_) => return None,
            };
            Some(Port { protocol, number: u16::try_from(port.port).ok()? })
        })
        .collect();
    Tenant { sharing, ports: ports.into_iter().collect() }
}

/// The selector of the pods, spelled in one way only.
fn backend(spec: &ServiceSpec) -> String {
    let terms: Vec<_> = spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    terms.join(",")
}

/// The value of an annotation under its name or its old one.
#[must_use]
pub fn annotation<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let annotations: &BTreeMap<_, _> = service.metadata.annotations.as_ref()?;
    let old = || {
        let name = name.strip_prefix(ANNOTATION_PREFIX)?;
        annotations.get(&format!("{OLD_ANNOTATION_PREFIX}{name}"))
    };
    annotations.get(name).or_else(old).map(String::as_str)
}

fn parse_families(spec: &ServiceSpec) -> Result<Families, Refusal> {
    let mut cluster_ips: Vec<String> = spec.cluster_ips.clone().unwrap_or_default();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip.clone());
    }
    let families: Vec<_> =
        cluster_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).map(Family::of).collect();
    let policy = spec.ip_family_policy.as_deref();
    match families.as_slice() {
        [] => Err(Refusal::NoClusterIp),
        [_] if policy == Some("RequireDualStack") => Err(Refusal::NotDualStack { cluster_ips }),
        [first, second, ..] if first != second => {
            Ok(if policy == Some("PreferDualStack") { Families::Prefer(*first) } else { Families::Both })
        }
        [first, ..] => Ok(Families::Single(*first)),
    }
}

fn parse_addresses(service: &Service, spec: &ServiceSpec) -> Result<Vec<IpAddr>, Refusal> {
    let by_annotation = annotation(service, ANNOTATION_LOADBALANCER_IPS).filter(|text| !text.is_empty());
    let by_field = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
    let (source, text, parts) = match (by_annotation, by_field) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => return Err(Refusal::TwoRequests),
        (Some(text), None) => (ANNOTATION_LOADBALANCER_IPS, text, text.split(',').collect()),
        (None, Some(text)) => ("spec.loadBalancerIP", text, vec![text]),
    };
    let parse = |part: &str| part.trim().parse::<IpAddr>().map(|address| address.to_canonical());
    let addresses: Vec<_> = parts
        .into_iter()
        .map(parse)
        .collect::<Result<_, _>>()
        .map_err(|_| Refusal::NotAnAddress { source, text: text.to_owned() })?;
    match addresses.as_slice() {
        [_, _, _, ..] => Err(Refusal::TooMany(addresses)),
        [first, second] if Family::of(*first) == Family::of(*second) => Err(Refusal::SameFamily(addresses)),
        _ => Ok(addresses),
    }
}
