//! What is configured for a session.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::route::Family;

/// Number of an autonomous system, of four octets (RFC 6793).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// Stands for a number above 65535 where only two octets fit (RFC 6793 §9).
    pub const TRANS: u16 = 23456;

    /// The number as two octets, or AS_TRANS.
    #[must_use]
    pub fn two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(Self::TRANS)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// BGP Identifier of a speaker (RFC 4271 §1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub Ipv4Addr);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which AS number the router must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteAsn {
    /// This one.
    Exactly(Asn),
    /// That of this end.
    Internal,
    /// Any but that of this end.
    External,
}

impl RemoteAsn {
    /// Whether a router of `remote` may peer with this end.
    #[must_use]
    pub fn admits(self, local: Asn, remote: Asn) -> bool {
        match self {
            Self::Exactly(wanted) => remote == wanted,
            Self::Internal => remote == local,
            Self::External => remote != local,
        }
    }
}

/// Graceful restart of this end (RFC 4724).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracefulRestart {
    /// Time within which this end is back: whole seconds, up to 4095.
    pub time: Duration,
    /// Whether this end was started anew while the node went on forwarding: the R bit of the first session.
    pub restarting: bool,
    /// Whether the node went on forwarding up to now: the F bits. False after the node itself was started.
    pub preserved: bool,
}

/// All that a session needs to know of its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// AS number of this end, as the router shall see it.
    pub local_asn: Asn,
    /// AS number of the router.
    pub remote_asn: RemoteAsn,
    /// BGP Identifier of this end.
    pub router_id: RouterId,
    /// Hold time to ask for: 0 for never, or 3 to 65535 whole seconds.
    pub hold_time: Duration,
    /// Time between keepalives; a third of the hold time at most, and that by default, or for zero: a hold time without
    /// keepalives would end every session.
    pub keepalive: Option<Duration>,
    /// Time between attempts to connect; by default it grows from one second to thirty.
    pub connect_retry: Option<Duration>,
    /// Families to announce; at least one.
    pub families: BTreeSet<Family>,
    /// Whether IPv4 routes may have an IPv6 next hop (RFC 8950): for routers that are known by an interface only.
    pub extended_next_hop: bool,
    /// Graceful restart; `None` when it is not offered.
    pub graceful_restart: Option<GracefulRestart>,
    /// Whether this end waits for the router to connect.
    pub passive: bool,
    /// The most prefixes that the router may announce; the session ends beyond.
    pub max_prefixes: Option<u32>,
    /// Time between asking the router to prefer other paths (RFC 8326) and leaving.
    pub drain: Duration,
    /// Source of the session's random choices.
    pub seed: u64,
}

impl Settings {
    /// These, with what the router does not see as `other` has it: that may change while a session stands.
    #[must_use]
    pub fn with_habits_of(&self, other: &Self) -> Self {
        Self {
            keepalive: other.keepalive,
            connect_retry: other.connect_retry,
            passive: other.passive,
            max_prefixes: other.max_prefixes,
            drain: other.drain,
            ..self.clone()
        }
    }
}
