//! Routes as they are wanted, before a session gives them its own next hop and AS path.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use netgauze_iana::address_family::AddressType;

/// An address family with unicast routes (RFC 4760 §8: AFI 1 or 2, SAFI 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

impl Family {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of a prefix.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    /// Bits of an address.
    pub(super) fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }

    pub(super) fn address_type(self) -> AddressType {
        match self {
            Self::Ipv4 => AddressType::Ipv4Unicast,
            Self::Ipv6 => AddressType::Ipv6Unicast,
        }
    }

    pub(super) fn from_address_type(address_type: AddressType) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.address_type() == address_type)
    }

    /// The family of these numbers; `None` for one that is not spoken here.
    pub(super) fn from_numbers(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4),
            (2, 1) => Some(Self::Ipv6),
            _ => None,
        }
    }
}

/// Routes that are wanted, and that the router cannot be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unsent {
    /// Families that the two ends did not agree on, and the number of routes.
    pub not_agreed: BTreeMap<Family, usize>,
    /// Families in which this end has no address that routes could lead to, and the number of routes.
    pub no_next_hop: BTreeMap<Family, usize>,
    /// Number of routes whose attributes alone fill a message.
    pub too_large: usize,
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = |count: usize, kind: &str| match count {
            1 => format!("1 {kind}route"),
            count => format!("{count} {kind}routes"),
        };
        let of = |family: &Family, count: &usize| routes(*count, &format!("{family} "));
        let not_agreed = self.not_agreed.iter().map(|(family, count)| {
            format!("{}, since the router does not take {family} unicast", of(family, count))
        });
        let no_next_hop = self.no_next_hop.iter().map(|(family, count)| {
            format!("{}, since this node has no {family} address towards the router", of(family, count))
        });
        let too_large = (self.too_large > 0)
            .then(|| format!("{}, since the attributes fill a whole message", routes(self.too_large, "")));
        let all: Vec<String> = not_agreed.chain(no_next_hop).chain(too_large).collect();
        f.write_str(&all.join("; "))
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A community of four octets (RFC 1997).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Asks for other paths to be preferred, since this one goes away (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
}

/// A large community: Global Administrator and two parts of Local Data (RFC 8092).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

/// Attributes of a route that do not depend on the session.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// LOCAL_PREF, sent to routers of the same AS only; 100 when `None` (RFC 4271 §5.1.5).
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC (RFC 4271 §5.1.4).
    pub med: Option<u32>,
    /// How many more times this end's AS number stands in the path; has no effect within the AS.
    pub prepend: u8,
    /// COMMUNITIES.
    pub communities: BTreeSet<Community>,
    /// LARGE_COMMUNITIES.
    pub large_communities: BTreeSet<LargeCommunity>,
}

/// Routes by prefix. Those with equal attributes go into the same messages.
pub type Routes = BTreeMap<IpNet, Arc<Attributes>>;

/// Addresses of this end that routes may lead to over one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NextHops {
    /// IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Global IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// IPv6 link-local address, for a router on the same link.
    pub link_local: Option<Ipv6Addr>,
}

impl NextHops {
    /// Next hop of routes of `family`; IPv6 next hops carry the link-local one beside them (RFC 2545 §3).
    ///
    /// Where the two ends agreed on it, IPv4 routes have an IPv6 next hop (RFC 8950), since the router may share no
    /// IPv4 network with this end.
    pub(super) fn of(&self, family: Family, extended: bool) -> Option<(IpAddr, Option<Ipv6Addr>)> {
        // A router takes 32 octets with the link-local address twice where there is no global one.
        let v6 = || self.v6.or(self.link_local).map(|global| (global.into(), self.link_local));
        match family {
            Family::Ipv4 if extended => v6().or_else(|| self.v4.map(|v4| (v4.into(), None))),
            Family::Ipv4 => self.v4.map(|v4| (v4.into(), None)),
            Family::Ipv6 => v6(),
        }
    }
}
