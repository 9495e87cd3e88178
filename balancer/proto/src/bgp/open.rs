//! OPEN: what each end offers, and what the two agree on (RFC 4271 §4.2 and §6.2, RFC 5492).
//!
//! Parameters and capabilities are taken apart here, and each capability is read by itself: one that is malformed or
//! unknown is ignored (RFC 5492 §3) and never shifts the reading of the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use netgauze_bgp_pkt::capabilities::{
    BgpCapability, ExtendedNextHopEncoding, ExtendedNextHopEncodingCapability, FourOctetAsCapability,
    GracefulRestartAddressFamily, GracefulRestartCapability, MultiProtocolExtensionsCapability,
};
use netgauze_bgp_pkt::open::{BgpOpenMessage, BgpOpenMessageParameter};
use netgauze_iana::address_family::AddressFamily;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFrom;

use super::notification::{Notification, OPEN};
use super::route::Family;
use super::settings::{Asn, RouterId, Settings};

/// The version of the protocol.
const VERSION: u8 = 4;
/// Optional parameter that holds capabilities (RFC 5492 §4).
const CAPABILITIES: u8 = 2;
/// Parameter type that announces lengths of two octets (RFC 9072 §2).
const EXTENDED_LENGTH: u8 = 255;
/// Greatest restart time of the 12 bits of its field (RFC 4724 §3).
const MAX_RESTART_TIME: u64 = 4095;

/// What the OPENs of both ends allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// AS number of the router.
    pub remote_asn: Asn,
    /// BGP Identifier of the router.
    pub remote_id: RouterId,
    /// Whether both ends are of one AS.
    pub internal: bool,
    /// Time without any message after which the session ends; zero for never.
    pub hold_time: Duration,
    /// Longest time between two messages of this end; zero where there are no keepalives.
    pub keepalive: Duration,
    /// Families that are exchanged (RFC 4760).
    pub families: BTreeSet<Family>,
    /// AS numbers of four octets (RFC 6793).
    pub four_octet_asn: bool,
    /// Messages of up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// The router may ask for all routes again (RFC 2918).
    pub route_refresh: bool,
    /// The answer to that is framed by markers (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// IPv4 routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// What the router said about graceful restart, where this end offers it too (RFC 4724).
    pub graceful_restart: Option<RouterRestart>,
}

/// Graceful restart as the router offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterRestart {
    /// R bit: it was started anew.
    pub restarting: bool,
    /// Time within which it is back.
    pub time: Duration,
    /// N bit: NOTIFICATIONs other than a Hard Reset leave the routes in place too (RFC 8538).
    pub notifications: bool,
    /// Families whose own routes it restarts with, each with its F bit: whether forwarding went on.
    pub families: BTreeMap<Family, bool>,
}

/// Body of the OPEN that is sent to the router. `restarting` sets the R bit.
///
/// Session parameters always fit: about 50 octets of the 255 that there are.
pub(super) fn encode(settings: &Settings, restarting: bool) -> Vec<u8> {
    let parameter = BgpOpenMessageParameter::new_capabilities(offer(settings, restarting));
    let hold_time = u16::try_from(settings.hold_time.as_secs()).unwrap_or(u16::MAX);
    let open =
        BgpOpenMessage::new(settings.local_asn.two_octets(), hold_time, settings.router_id.0, [parameter]);
    let mut body = Vec::new();
    // Writing to memory does not fail.
    let _ = open.write(&mut body);
    body
}

fn offer(settings: &Settings, restarting: bool) -> Vec<BgpCapability> {
    let mut capabilities = multiprotocol(&settings.families);
    capabilities.extend([
        BgpCapability::RouteRefresh,
        BgpCapability::EnhancedRouteRefresh,
        BgpCapability::ExtendedMessage,
        BgpCapability::FourOctetAs(FourOctetAsCapability::new(settings.local_asn.0)),
    ]);
    if settings.extended_next_hop && settings.families.contains(&Family::Ipv4) {
        let encoding = ExtendedNextHopEncoding::new(Family::Ipv4.address_type(), AddressFamily::IPv6);
        let capability = ExtendedNextHopEncodingCapability::new([encoding]);
        capabilities.push(BgpCapability::ExtendedNextHopEncoding(capability));
    }
    if let Some(restart) = &settings.graceful_restart {
        let families: Vec<_> = settings
            .families
            .iter()
            .map(|family| GracefulRestartAddressFamily::new(restart.preserved, family.address_type()))
            .collect();
        let time = u16::try_from(restart.time.as_secs().min(MAX_RESTART_TIME)).unwrap_or_default();
        let capability = GracefulRestartCapability::new(restarting, true, time, families);
        capabilities.push(BgpCapability::GracefulRestartCapability(capability));
    }
    capabilities
}

fn multiprotocol(families: &BTreeSet<Family>) -> Vec<BgpCapability> {
    let capability = |family: &Family| MultiProtocolExtensionsCapability::new(family.address_type());
    families.iter().map(|family| BgpCapability::MultiProtocolExtensions(capability(family))).collect()
}

/// Reads the router's OPEN, and says what it and this end's have in common.
///
/// # Errors
/// The notification for an OPEN that cannot be read or accepted (RFC 4271 §6.2).
pub(super) fn agree(settings: &Settings, body: &[u8]) -> Result<Agreed, Notification> {
    let unspecific = || Notification::new(OPEN, 0, []);
    let (&version, rest) = body.split_first().ok_or_else(unspecific)?;
    if version != VERSION {
        return Err(Notification::new(OPEN, 1, [0, VERSION]));
    }
    let &[as_high, as_low, hold_high, hold_low, a, b, c, d, ref parameters @ ..] = rest else {
        return Err(unspecific());
    };
    let capabilities = capabilities(parameters)?;
    let four_octets = capabilities.iter().find_map(|capability| match capability {
        BgpCapability::FourOctetAs(capability) => Some(capability.asn4()),
        _ => None,
    });
    let remote_asn = Asn(four_octets.unwrap_or_else(|| u16::from_be_bytes([as_high, as_low]).into()));
    let internal = remote_asn == settings.local_asn;
    if remote_asn.0 == 0 || !settings.remote_asn.admits(settings.local_asn, remote_asn) {
        return Err(Notification::new(OPEN, 2, []));
    }
    let remote_id = RouterId(Ipv4Addr::new(a, b, c, d));
    // Within an AS the identifier is unique; elsewhere it need not be (RFC 6286 §2.2).
    if remote_id.0.is_unspecified() || (internal && remote_id == settings.router_id) {
        return Err(Notification::new(OPEN, 3, []));
    }
    let hold_time = u16::from_be_bytes([hold_high, hold_low]);
    if (1..3).contains(&hold_time) {
        return Err(Notification::new(OPEN, 6, [hold_high, hold_low]));
    }
    let hold_time = Duration::from_secs(hold_time.into()).min(settings.hold_time);
    let families = common_families(settings, &capabilities);
    if families.is_empty() {
        let mut wanted = Vec::new();
        for capability in multiprotocol(&settings.families) {
            let _ = capability.write(&mut wanted);
        }
        return Err(Notification::new(OPEN, 7, wanted));
    }
    let offers = |wanted: &BgpCapability| capabilities.contains(wanted);
    Ok(Agreed {
        remote_asn,
        remote_id,
        internal,
        hold_time,
        keepalive: keepalive(settings, hold_time),
        four_octet_asn: four_octets.is_some(),
        extended_messages: offers(&BgpCapability::ExtendedMessage),
        route_refresh: offers(&BgpCapability::RouteRefresh),
        enhanced_route_refresh: offers(&BgpCapability::EnhancedRouteRefresh),
        extended_next_hop: settings.extended_next_hop && offers_extended_next_hop(&capabilities),
        // A router that names no families keeps routes all the same: it only loses its own when it restarts (RFC 4724 §3).
        // FRR and BIRD do so unless told otherwise, and GoBGP.
        graceful_restart: settings
            .graceful_restart
            // Of several the last one counts (RFC 4724 §3).
            .and_then(|_| capabilities.iter().rev().find_map(router_restart)),
        families,
    })
}

/// Longest time between two messages of this end.
pub(super) fn keepalive(settings: &Settings, hold_time: Duration) -> Duration {
    let asked = settings.keepalive.filter(|time| !time.is_zero());
    asked.unwrap_or(hold_time).min(hold_time / 3)
}

/// A router that says nothing about families exchanges IPv4 routes (RFC 4760 §8).
fn common_families(settings: &Settings, capabilities: &[BgpCapability]) -> BTreeSet<Family> {
    let mut says_something = false;
    let mut offered = BTreeSet::new();
    for capability in capabilities {
        if let BgpCapability::MultiProtocolExtensions(capability) = capability {
            says_something = true;
            offered.extend(Family::from_address_type(capability.address_type()));
        }
    }
    if !says_something {
        offered.insert(Family::Ipv4);
    }
    offered.intersection(&settings.families).copied().collect()
}

fn offers_extended_next_hop(capabilities: &[BgpCapability]) -> bool {
    capabilities.iter().any(|capability| match capability {
        BgpCapability::ExtendedNextHopEncoding(capability) => capability.encodings().iter().any(|encoding| {
            (encoding.address_type(), encoding.next_hop_afi())
                == (Family::Ipv4.address_type(), AddressFamily::IPv6)
        }),
        _ => false,
    })
}

fn router_restart(capability: &BgpCapability) -> Option<RouterRestart> {
    let BgpCapability::GracefulRestartCapability(capability) = capability else { return None };
    let families = capability.address_families().iter();
    Some(RouterRestart {
        restarting: capability.restart(),
        time: Duration::from_secs(capability.time().into()),
        notifications: capability.graceful_notification(),
        families: families
            .filter_map(|offered| {
                Some((Family::from_address_type(offered.address_type())?, offered.forwarding_state()))
            })
            .collect(),
    })
}

/// All capabilities of the optional parameters that can be read.
fn capabilities(parameters: &[u8]) -> Result<Vec<BgpCapability>, Notification> {
    let malformed = || Notification::new(OPEN, 0, []);
    let (mut rest, wide) = match parameters {
        // The first octet says no more than that there are any (RFC 9072 §2).
        [1..=255, EXTENDED_LENGTH, high, low, rest @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            (rest.get(..length).filter(|_| rest.len() == length).ok_or_else(malformed)?, true)
        }
        [length, rest @ ..] if rest.len() == usize::from(*length) => (rest, false),
        _ => return Err(malformed()),
    };
    let mut found = Vec::new();
    while let Some((&kind, after)) = rest.split_first() {
        let (length, after) = if wide {
            after.split_first_chunk().map(|(length, after)| (usize::from(u16::from_be_bytes(*length)), after))
        } else {
            after.split_first().map(|(length, after)| (usize::from(*length), after))
        }
        .ok_or_else(malformed)?;
        let (mut value, after) = after.split_at_checked(length).ok_or_else(malformed)?;
        rest = after;
        if kind != CAPABILITIES {
            return Err(Notification::new(OPEN, 4, []));
        }
        while let [_, length, ..] = value {
            let (capability, after) =
                value.split_at_checked(usize::from(*length) + 2).ok_or_else(malformed)?;
            found.extend(BgpCapability::parse(&mut SliceReader::new(capability)).ok());
            value = after;
        }
        if !value.is_empty() {
            return Err(malformed());
        }
    }
    Ok(found)
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
