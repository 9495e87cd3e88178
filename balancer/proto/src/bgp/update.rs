//! UPDATE messages of this end: routes with equal attributes share messages, as many as fit (RFC 4271 §4.3).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netgauze_bgp_pkt::community::{Community as WireCommunity, LargeCommunity as WireLargeCommunity};
use netgauze_bgp_pkt::nlri::{Ipv4Unicast, Ipv4UnicastAddress, Ipv6Unicast, Ipv6UnicastAddress};
use netgauze_bgp_pkt::path_attribute::{
    As2PathSegment, As4Path, As4PathSegment, AsPath, AsPathSegmentType, Communities, LargeCommunities,
    LocalPreference, MpReach, MpUnreach, MultiExitDiscriminator, NextHop, Origin, PathAttribute,
    PathAttributeValue,
};
use netgauze_bgp_pkt::update::BgpUpdateMessage;
use netgauze_parse_utils::WritablePdu;

use super::frame::{HEADER_LENGTH, Kind, MAX_EXTENDED_LENGTH, MAX_LENGTH, encode};
use super::open::Agreed;
use super::route::{Attributes, Community, Family, NextHops};
use super::settings::{Asn, Settings};

/// LOCAL_PREF of a route that asks for none.
const DEFAULT_LOCAL_PREF: u32 = 100;
/// Octets of an attribute at most whose length is one octet: flags, type and length, and the value.
const SHORT_ATTRIBUTE: usize = 3 + 255;
/// Octets of a prefix at most: its length and the address.
const LONGEST_PREFIX: usize = 17;

/// Writes routes as one session needs them.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    pub(super) settings: &'a Settings,
    pub(super) agreed: &'a Agreed,
    pub(super) next_hops: &'a NextHops,
    /// Whether routes ask for other paths to be preferred (RFC 8326).
    pub(super) graceful_shutdown: bool,
}

impl Encoder<'_> {
    /// Whether routes of the family can be announced at all: it is agreed on, and there is a next hop.
    pub(super) fn can_announce(&self, family: Family) -> bool {
        self.agreed.families.contains(&family) && self.next_hop(family).is_some()
    }

    /// Messages that announce prefixes of one family with the same attributes.
    ///
    /// Empty when there is no next hop, or when the attributes alone fill a message.
    pub(super) fn announce(
        &self,
        family: Family,
        attributes: &Attributes,
        prefixes: &[IpNet],
    ) -> Vec<Vec<u8>> {
        let Some((next_hop, link_local)) = self.next_hop(family) else { return Vec::new() };
        let shared = self.attributes(attributes);
        if family == Family::Ipv4
            && let IpAddr::V4(next_hop) = next_hop
        {
            let mut attributes = shared;
            // Attributes go in the order of their types (RFC 4271 §5): ORIGIN and AS_PATH come before.
            let at = attributes.len().min(2);
            attributes.splice(at..at, attribute(PathAttributeValue::NextHop(NextHop::new(next_hop))));
            return self.pack(prefixes, length(&attributes), |chunk| {
                BgpUpdateMessage::new([], attributes.clone(), v4(chunk))
            });
        }
        let reach = |chunk: &[IpNet]| match (family, next_hop) {
            (Family::Ipv6, IpAddr::V6(global)) => reach_v6(global, link_local, chunk),
            _ => MpReach::Ipv4Unicast { next_hop, next_hop_local: link_local, nlri: v4(chunk).into() },
        };
        let message = |chunk: &[IpNet]| {
            let first = attribute(PathAttributeValue::MpReach(reach(chunk)));
            let attributes: Vec<_> = first.into_iter().chain(shared.iter().cloned()).collect();
            BgpUpdateMessage::new([], attributes, [])
        };
        // One octet more: with prefixes, the length of the attribute may take two.
        self.pack(prefixes, message(&[]).len() - EMPTY_UPDATE + 1, message)
    }

    /// Messages that withdraw prefixes of one family.
    pub(super) fn withdraw(&self, family: Family, prefixes: &[IpNet]) -> Vec<Vec<u8>> {
        match family {
            Family::Ipv4 => self.pack(prefixes, 0, |chunk| BgpUpdateMessage::new(v4(chunk), [], [])),
            Family::Ipv6 => {
                let message = |chunk: &[IpNet]| {
                    let unreach = MpUnreach::Ipv6Unicast { nlri: v6(chunk).into() };
                    BgpUpdateMessage::new(
                        [],
                        Vec::from_iter(attribute(PathAttributeValue::MpUnreach(unreach))),
                        [],
                    )
                };
                // One octet more: with prefixes, the length of the attribute may take two.
                self.pack(prefixes, message(&[]).len() - EMPTY_UPDATE + 1, message)
            }
        }
    }

    /// The End-of-RIB marker of a family (RFC 4724 §2).
    pub(super) fn end_of_rib(family: Family) -> Vec<u8> {
        let attributes = match family {
            Family::Ipv4 => vec![],
            Family::Ipv6 => {
                let unreach = MpUnreach::Ipv6Unicast { nlri: [].into() };
                Vec::from_iter(attribute(PathAttributeValue::MpUnreach(unreach)))
            }
        };
        write(&BgpUpdateMessage::new([], attributes, []))
    }

    fn next_hop(&self, family: Family) -> Option<(IpAddr, Option<Ipv6Addr>)> {
        self.next_hops.of(family, self.agreed.extended_next_hop)
    }

    /// Splits prefixes into messages of at most the agreed length, `taken` octets of which go to attributes.
    fn pack(
        &self,
        prefixes: &[IpNet],
        taken: usize,
        message: impl Fn(&[IpNet]) -> BgpUpdateMessage,
    ) -> Vec<Vec<u8>> {
        let longest = if self.agreed.extended_messages { MAX_EXTENDED_LENGTH } else { MAX_LENGTH };
        let Some(room) = longest.checked_sub(HEADER_LENGTH + EMPTY_UPDATE + taken) else { return Vec::new() };
        if room < LONGEST_PREFIX {
            return Vec::new();
        }
        let mut messages = Vec::new();
        let mut rest = prefixes;
        while !rest.is_empty() {
            let mut used = 0;
            let fits = |prefix: &&IpNet| {
                used += 1 + usize::from(prefix.prefix_len().div_ceil(8));
                used <= room
            };
            let count = rest.iter().take_while(fits).count();
            let (chunk, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            messages.push(write(&message(chunk)));
            rest = after;
        }
        messages
    }

    /// All attributes but the next hop, in the order of their types.
    fn attributes(&self, attributes: &Attributes) -> Vec<PathAttribute> {
        let path = self.path(attributes.prepend);
        let mut values = vec![PathAttributeValue::Origin(Origin::IGP), self.as_path(&path)];
        values.extend(
            attributes.med.map(MultiExitDiscriminator::new).map(PathAttributeValue::MultiExitDiscriminator),
        );
        if self.agreed.internal {
            let wanted = attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
            let local_pref = if self.graceful_shutdown { 0 } else { wanted };
            values.push(PathAttributeValue::LocalPreference(LocalPreference::new(local_pref)));
        }
        let mut communities = attributes.communities.clone();
        if self.graceful_shutdown {
            communities.insert(Community::GRACEFUL_SHUTDOWN);
        }
        if !communities.is_empty() {
            let communities: Vec<_> = communities.iter().map(|value| WireCommunity::new(value.0)).collect();
            values.push(PathAttributeValue::Communities(Communities::new(communities)));
        }
        if !self.agreed.four_octet_asn && path.iter().any(|asn| u16::try_from(asn.0).is_err()) {
            // RFC 6793 §4.2.2: what two octets cannot show travels beside them.
            let numbers: Vec<u32> = path.iter().map(|asn| asn.0).collect();
            let segment = As4PathSegment::new(AsPathSegmentType::AsSequence, numbers);
            values.push(PathAttributeValue::As4Path(As4Path::new([segment])));
        }
        if !attributes.large_communities.is_empty() {
            let large = attributes.large_communities.iter();
            let large: Vec<_> =
                large.map(|value| WireLargeCommunity::new(value.0, value.1, value.2)).collect();
            values.push(PathAttributeValue::LargeCommunities(LargeCommunities::new(large)));
        }
        values.into_iter().filter_map(attribute).collect()
    }

    /// Empty within the AS; this end's number, repeated as asked, towards others (RFC 4271 §5.1.2).
    fn path(&self, prepend: u8) -> Vec<Asn> {
        let count = if self.agreed.internal { 0 } else { usize::from(prepend) + 1 };
        // A segment holds 255 numbers.
        vec![self.settings.local_asn; count.min(255)]
    }

    fn as_path(&self, path: &[Asn]) -> PathAttributeValue {
        PathAttributeValue::AsPath(match (path.is_empty(), self.agreed.four_octet_asn) {
            (true, _) => AsPath::As4PathSegments([].into()),
            (false, true) => {
                let numbers: Vec<u32> = path.iter().map(|asn| asn.0).collect();
                AsPath::As4PathSegments([As4PathSegment::new(AsPathSegmentType::AsSequence, numbers)].into())
            }
            (false, false) => {
                let numbers: Vec<u16> = path.iter().map(|asn| asn.two_octets()).collect();
                AsPath::As2PathSegments([As2PathSegment::new(AsPathSegmentType::AsSequence, numbers)].into())
            }
        })
    }
}

/// Octets of an UPDATE without content, its header aside: two length fields.
const EMPTY_UPDATE: usize = 4;

fn length(attributes: &[PathAttribute]) -> usize {
    attributes.iter().map(WritablePdu::len).sum()
}

fn write(update: &BgpUpdateMessage) -> Vec<u8> {
    let mut body = Vec::with_capacity(update.len());
    // Writing to memory does not fail.
    let _ = update.write(&mut body);
    encode(Kind::Update, &body)
}

/// Puts the flags of its type on a value, and a length of two octets where one may not do.
fn attribute(value: PathAttributeValue) -> Option<PathAttribute> {
    let (optional, transitive) = match &value {
        PathAttributeValue::MultiExitDiscriminator(_)
        | PathAttributeValue::MpReach(_)
        | PathAttributeValue::MpUnreach(_) => (true, false),
        PathAttributeValue::Communities(_)
        | PathAttributeValue::LargeCommunities(_)
        | PathAttributeValue::As4Path(_) => (true, true),
        _ => (false, true),
    };
    let short = PathAttribute::from(optional, transitive, false, false, value).ok()?;
    if short.len() <= SHORT_ATTRIBUTE {
        return Some(short);
    }
    PathAttribute::from(optional, transitive, false, true, short.value().clone()).ok()
}

fn v4(prefixes: &[IpNet]) -> Vec<Ipv4UnicastAddress> {
    let network = |prefix: &IpNet| match prefix {
        IpNet::V4(net) => Ipv4Unicast::from_net(*net).ok(),
        IpNet::V6(_) => None,
    };
    prefixes.iter().filter_map(network).map(Ipv4UnicastAddress::new_no_path_id).collect()
}

fn v6(prefixes: &[IpNet]) -> Vec<Ipv6UnicastAddress> {
    let network = |prefix: &IpNet| match prefix {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Ipv6Unicast::from_net(*net).ok(),
    };
    prefixes.iter().filter_map(network).map(|network| Ipv6UnicastAddress::new(None, network)).collect()
}

/// Whether a prefix may stand in an UPDATE: a unicast one (RFC 4271 §6.3).
pub(super) fn is_announceable(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => Ipv4Unicast::from_net(*net).is_ok(),
        IpNet::V6(net) => Ipv6Unicast::from_net(*net).is_ok(),
    }
}

fn reach_v6(next_hop_global: Ipv6Addr, next_hop_local: Option<Ipv6Addr>, chunk: &[IpNet]) -> MpReach {
    MpReach::Ipv6Unicast { next_hop_global, next_hop_local, nlri: v6(chunk).into() }
}

#[cfg(test)]
#[path = "update_tests.rs"]
mod tests;
