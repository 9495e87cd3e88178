//! Why a Service does not get what it asks for: a value, told in its condition and an Event, never an error.
//!
//! The texts begin as those of MetalLB do, so that what greps for them goes on working.

use std::{fmt, net::IpAddr};

use crate::{allocator::Conflict, range::Family};

/// How many pools one text names.
const NAMED_POOLS: usize = 16;
/// How many characters of a user's text are repeated.
const QUOTED_CHARS: usize = 200;

/// Why no address was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The Service has no cluster address yet, so its family is not known.
    NoClusterIp,
    /// `RequireDualStack`, but the Service has cluster addresses of one family only.
    NotDualStack {
        /// `spec.clusterIPs`.
        cluster_ips: Vec<String>,
    },
    /// Addresses are requested by the annotation and by the field.
    TwoRequests,
    /// What is requested is no address.
    NotAnAddress {
        /// The annotation or field.
        source: &'static str,
        /// What it says.
        text: String,
    },
    /// More addresses are requested than there are families.
    TooMany(Vec<IpAddr>),
    /// Two addresses of one family are requested.
    SameFamily(Vec<IpAddr>),
    /// The requested addresses are not of the Service's families.
    WrongFamily(Vec<IpAddr>),
    /// No single pool holds the requested addresses.
    NotInPools(Vec<IpAddr>),
    /// The requested addresses are not of the requested pool.
    OtherPool {
        /// The requested addresses.
        addresses: Vec<IpAddr>,
        /// The requested pool.
        pool: String,
    },
    /// The requested pool does not exist, or is not served because of an error in it.
    UnknownPool(String),
    /// The pool is not for this Service: see its `serviceAllocation`.
    PoolNotForService(String),
    /// The requested pool has no address left of the family.
    PoolExhausted {
        /// The requested pool.
        pool: String,
        /// What is lacking.
        lack: Lack,
    },
    /// No pool gave an address.
    Exhausted(Vec<Tried>),
    /// Another Service stands in the way.
    InUse(Conflict),
}

/// What a pool lacks for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It lists no address of this family.
    NoRange(Family),
    /// All its addresses of this family are taken.
    NoneFree(Family),
    /// It has no free address of one of the two families that are required.
    NotBoth,
}

/// A pool that was considered, and why it gave no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Name of the pool.
    pub pool: String,
    /// Why it gave none.
    pub why: Why,
}

/// Why a pool gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing suitable is left.
    Lacks(Lack),
    /// `autoAssign` is false and the Service does not ask for it.
    NotAutomatic,
    /// Its `serviceAllocation` excludes the Service.
    NotForService,
}

impl Refusal {
    /// The reason of the condition, and the label of the metric.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoClusterIp => "NoClusterIP",
            Self::NotDualStack { .. } => "NotDualStack",
            Self::TwoRequests | Self::NotAnAddress { .. } | Self::TooMany(_) | Self::SameFamily(_) => {
                "InvalidRequest"
            }
            Self::WrongFamily(_) => "WrongFamily",
            Self::NotInPools(_) => "NotInPools",
            Self::OtherPool { .. } => "OtherPool",
            Self::UnknownPool(_) => "UnknownPool",
            Self::PoolNotForService(_) => "PoolNotForService",
            Self::PoolExhausted { .. } | Self::Exhausted(_) => "NoAvailableIPs",
            Self::InUse(Conflict::Resting { .. }) => "AddressResting",
            Self::InUse(_) => "AddressInUse",
        }
    }
}

impl Refusal {
    /// The message of the condition. Unlike the text of the Event it names nothing that changes while the Service
    /// goes on waiting, since each change of it is a write.
    #[must_use]
    pub fn lasting(&self) -> String {
        match self {
            Self::InUse(Conflict::Sharing { address, .. } | Conflict::Port { address, .. }) => {
                format!("another Service holds {address}, and their terms do not let the two share it")
            }
            _ => self.to_string(),
        }
    }
}

/// A user's text in quotes, cut where it is long; control characters are escaped.
#[must_use]
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// Addresses as MetalLB prints a list of them: `["192.0.2.1" "2001:db8::1"]`.
#[must_use]
pub fn list(addresses: &[IpAddr]) -> String {
    let quoted: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(" "))
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRange(family) => write!(f, "it has no {family} range"),
            Self::NoneFree(family) => write!(f, "all its {family} addresses are taken"),
            Self::NotBoth => f.write_str("it has not both an IPv4 and an IPv6 address free"),
        }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {:?}: ", self.pool)?;
        match self.why {
            Why::Lacks(lack) => lack.fmt(f),
            Why::NotAutomatic => f.write_str("its autoAssign is false"),
            Why::NotForService => f.write_str("its serviceAllocation excludes the Service"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClusterIp => f.write_str("the Service has no clusterIP, so its IP family is not known"),
            Self::NotDualStack { cluster_ips } => {
                write!(f, "Service requires dual stack but not enough clusterips [{}]", cluster_ips.join(" "))
            }
            Self::TwoRequests => f.write_str(
                "service can not have both metallb.io/loadBalancerIPs and svc.Spec.LoadBalancerIP",
            ),
            Self::NotAnAddress { source, text } => write!(f, "invalid {source}: {}", quoted(text)),
            Self::TooMany(addresses) => write!(f, "more than two addresses {}", list(addresses)),
            Self::SameFamily(addresses) => {
                let quoted: Vec<_> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
                write!(f, "{} has the same family", quoted.join(" "))
            }
            Self::WrongFamily(addresses) => write!(
                f,
                "requested loadBalancer IP(s) {} does not match the ipFamily of the service",
                list(addresses)
            ),
            Self::NotInPools(addresses) => write!(f, "{} is not allowed in config", list(addresses)),
            Self::OtherPool { addresses, pool } => write!(
                f,
                "requested loadBalancer IP(s) {} is not compatible with requested address pool {}",
                list(addresses),
                quoted(pool)
            ),
            Self::UnknownPool(pool) => write!(f, "unknown pool {}", quoted(pool)),
            Self::PoolNotForService(pool) => write!(f, "pool {pool} not compatible for ip assignment"),
            Self::PoolExhausted { pool, lack } => write!(f, "no available IPs in pool {pool}: {lack}"),
            Self::Exhausted(tried) if tried.is_empty() => f.write_str("no available IPs: there is no pool"),
            Self::Exhausted(tried) => {
                f.write_str("no available IPs: ")?;
                for (index, pool) in tried.iter().take(NAMED_POOLS).enumerate() {
                    write!(f, "{}{pool}", if index == 0 { "" } else { "; " })?;
                }
                match tried.len().checked_sub(NAMED_POOLS) {
                    Some(more @ 1..) => write!(f, "; and {more} more pools"),
                    _ => Ok(()),
                }
            }
            Self::InUse(conflict) => conflict.fmt(f),
        }
    }
}
