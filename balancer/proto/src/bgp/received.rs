//! UPDATE messages of the router: counted and dropped, and judged as RFC 7606 wants it.
//!
//! The message is taken apart here by its lengths, and each attribute is read by itself, so that a malformed one costs
//! the routes of its message at most. The session ends only where the prefixes themselves cannot be told.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netgauze_bgp_pkt::path_attribute::PathAttribute;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

use super::notification::{Notification, UPDATE};
use super::open::Agreed;
use super::route::Family;

/// Attribute types (RFC 4271 §5.1, RFC 4760).
const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const ORIGINATOR_ID: u8 = 9;
const CLUSTER_LIST: u8 = 10;
const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;
const AS4_PATH: u8 = 17;
const AS4_AGGREGATOR: u8 = 18;
/// Flag of an attribute whose length takes two octets.
const EXTENDED_LENGTH: u8 = 0x10;
/// Flag of an attribute that is not well-known.
const OPTIONAL: u8 = 0x80;
/// Flag of an attribute that is passed on by those who do not know it.
const TRANSITIVE: u8 = 0x40;

/// What one UPDATE says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// Prefixes with a usable route.
    pub(super) announced: Vec<IpNet>,
    /// Prefixes without one from now on.
    pub(super) withdrawn: Vec<IpNet>,
    /// What is wrong with it, in words; its routes are withdrawn, or one attribute is left out.
    pub(super) malformed: Option<String>,
}

/// What follows from a malformed attribute (RFC 7606 §2), the gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Remedy {
    DiscardAttribute,
    TreatAsWithdraw,
}

/// Reads the body of an UPDATE.
///
/// # Errors
/// The notification that ends the session: where lengths contradict each other, prefixes cannot be read, or MP_REACH
/// or MP_UNREACH stands twice (RFC 7606 §3, §5).
pub(super) fn read(agreed: &Agreed, body: &[u8]) -> Result<Received, Notification> {
    let malformed_list = || Notification::new(UPDATE, 1, []);
    let (withdrawn, rest) = counted(body).ok_or_else(malformed_list)?;
    let (attributes, nlri) = counted(rest).ok_or_else(malformed_list)?;
    let mut message = Message {
        agreed,
        context: BgpParsingContext::new(
            agreed.four_octet_asn,
            HashMap::new(),
            HashMap::new(),
            false,
            false,
            true,
            true,
        ),
        seen: BTreeSet::new(),
        received: Received::default(),
        remedy: None,
    };
    let bad_network = || Notification::new(UPDATE, 10, []);
    message.received.withdrawn = prefixes(Family::Ipv4, withdrawn).ok_or_else(bad_network)?;
    message.received.announced = prefixes(Family::Ipv4, nlri).ok_or_else(bad_network)?;
    message.attributes(attributes)?;
    message.check_presence(!nlri.is_empty());
    let Message { mut received, remedy, .. } = message;
    if remedy == Some(Remedy::TreatAsWithdraw) {
        received.withdrawn.append(&mut received.announced);
    }
    Ok(received)
}

struct Message<'a> {
    agreed: &'a Agreed,
    context: BgpParsingContext,
    seen: BTreeSet<u8>,
    received: Received,
    remedy: Option<Remedy>,
}

impl Message<'_> {
    fn attributes(&mut self, mut rest: &[u8]) -> Result<(), Notification> {
        while !rest.is_empty() {
            let Some((attribute, value, after)) = split_attribute(rest) else {
                // RFC 7606 §4: the length of the list itself is right, so the prefixes are known.
                self.fault(Remedy::TreatAsWithdraw, "an attribute reaches beyond the attributes");
                return Ok(());
            };
            rest = after;
            self.attribute(attribute, value)?;
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: &[u8], value: &[u8]) -> Result<(), Notification> {
        let &[flags, kind, ..] = attribute else { return Ok(()) };
        let is_multiprotocol = matches!(kind, MP_REACH_NLRI | MP_UNREACH_NLRI);
        if !self.seen.insert(kind) {
            if is_multiprotocol {
                return Err(Notification::new(UPDATE, 1, []));
            }
            self.fault(Remedy::DiscardAttribute, format!("attribute {kind} stands twice"));
            return Ok(());
        }
        if is_multiprotocol && flags & (OPTIONAL | TRANSITIVE) != OPTIONAL {
            // RFC 7606 §3 c; the prefixes can be read, and are withdrawn.
            self.fault(Remedy::TreatAsWithdraw, format!("attribute {kind} has wrong flags"));
        }
        match kind {
            MP_REACH_NLRI => return self.reach(value),
            MP_UNREACH_NLRI => return self.unreach(value),
            // RFC 7606 §7.5, §7.9, §7.10: these mean nothing on a session between ASes.
            LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST if !self.agreed.internal => return Ok(()),
            // RFC 6793 §4.1: from a router that speaks four octets, these mean nothing.
            AS4_PATH | AS4_AGGREGATOR if self.agreed.four_octet_asn => return Ok(()),
            _ => {}
        }
        let mut reader = SliceReader::new(attribute);
        let problem = match PathAttribute::parse(&mut reader, &mut self.context) {
            Ok(parsed) => match parsed.path_attribute_type() {
                Err(_) if flags & OPTIONAL == 0 => format!("unknown well-known attribute {kind}"),
                _ if !reader.is_empty() => format!("attribute {kind} is longer than its value"),
                _ => return Ok(()),
            },
            Err(error) => error.to_string(),
        };
        let remedy = match kind {
            ATOMIC_AGGREGATE | AGGREGATOR | AS4_PATH | AS4_AGGREGATOR => Remedy::DiscardAttribute,
            _ => Remedy::TreatAsWithdraw,
        };
        self.fault(remedy, problem);
        Ok(())
    }

    /// MP_REACH_NLRI (RFC 4760 §3): family, next hop, one reserved octet, prefixes.
    fn reach(&mut self, value: &[u8]) -> Result<(), Notification> {
        let bad = || Notification::new(UPDATE, 9, []);
        let &[afi_high, afi_low, safi, next_hop_length, ref rest @ ..] = value else { return Err(bad()) };
        let (next_hop, rest) = rest.split_at_checked(next_hop_length.into()).ok_or_else(bad)?;
        let (_reserved, nlri) = rest.split_first().ok_or_else(bad)?;
        let Some(family) = self.family(afi_high, afi_low, safi) else { return Ok(()) };
        let fits = match (family, next_hop.len()) {
            (Family::Ipv4, 4) => true,
            (Family::Ipv4, 16 | 32) => self.agreed.extended_next_hop,
            (Family::Ipv6, length) => matches!(length, 16 | 32),
            _ => false,
        };
        // RFC 7606 §7.11: a next hop of an impossible length leaves the start of the prefixes in doubt.
        if !fits {
            return Err(bad());
        }
        self.received.announced.extend(prefixes(family, nlri).ok_or_else(bad)?);
        Ok(())
    }

    /// MP_UNREACH_NLRI (RFC 4760 §4): family, prefixes.
    fn unreach(&mut self, value: &[u8]) -> Result<(), Notification> {
        let bad = || Notification::new(UPDATE, 9, []);
        let &[afi_high, afi_low, safi, ref nlri @ ..] = value else { return Err(bad()) };
        let Some(family) = self.family(afi_high, afi_low, safi) else { return Ok(()) };
        self.received.withdrawn.extend(prefixes(family, nlri).ok_or_else(bad)?);
        Ok(())
    }

    /// The family, if it was agreed on; routes of others are ignored.
    fn family(&self, afi_high: u8, afi_low: u8, safi: u8) -> Option<Family> {
        Family::from_numbers(u16::from_be_bytes([afi_high, afi_low]), safi)
            .filter(|family| self.agreed.families.contains(family))
    }

    /// RFC 7606 §3 d: a route without a mandatory attribute is withdrawn.
    fn check_presence(&mut self, has_nlri: bool) {
        if self.received.announced.is_empty() {
            return;
        }
        let mut needed = vec![ORIGIN, AS_PATH];
        needed.extend(has_nlri.then_some(NEXT_HOP));
        needed.extend(self.agreed.internal.then_some(LOCAL_PREF));
        if let Some(missing) = needed.into_iter().find(|kind| !self.seen.contains(kind)) {
            self.fault(Remedy::TreatAsWithdraw, format!("mandatory attribute {missing} is missing"));
        }
    }

    fn fault(&mut self, remedy: Remedy, problem: impl Into<String>) {
        if self.remedy < Some(remedy) {
            self.remedy = Some(remedy);
            self.received.malformed = Some(problem.into());
        }
    }
}

/// A field of two octets, as many octets as it says, and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

/// The whole first attribute, its value, and what follows it.
fn split_attribute(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, length) = match bytes {
        [flags, _, high, low, ..] if flags & EXTENDED_LENGTH != 0 => (4, u16::from_be_bytes([*high, *low])),
        [flags, _, length, ..] if flags & EXTENDED_LENGTH == 0 => (3, u16::from(*length)),
        _ => return None,
    };
    let (attribute, after) = bytes.split_at_checked(header + usize::from(length))?;
    Some((attribute, attribute.get(header..)?, after))
}

/// Prefixes in a row, each its length and as many octets as that needs; `None` when one is impossible or cut short.
fn prefixes(family: Family, mut rest: &[u8]) -> Option<Vec<IpNet>> {
    let mut found = Vec::new();
    while let Some((&length, after)) = rest.split_first() {
        let (octets, after) = after.split_at_checked(length.div_ceil(8).into())?;
        found.push(prefix(family, length, octets)?);
        rest = after;
    }
    Some(found)
}

/// Bits beyond the length have no meaning (RFC 4271 §4.3) and are cleared.
fn prefix(family: Family, length: u8, octets: &[u8]) -> Option<IpNet> {
    if length > family.bits() {
        return None;
    }
    let mut address = [0; 16];
    for (to, from) in address.iter_mut().zip(octets) {
        *to = *from;
    }
    let [a, b, c, d, ..] = address;
    Some(match family {
        Family::Ipv4 => Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length).ok()?.trunc().into(),
        Family::Ipv6 => Ipv6Net::new(Ipv6Addr::from(address), length).ok()?.trunc().into(),
    })
}

#[cfg(test)]
#[path = "received_tests.rs"]
mod tests;
