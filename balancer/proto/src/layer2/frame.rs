//! The frames that layer 2 speaks: decoding what was received, encoding what is sent.
//!
//! Wire formats: ARP RFC 826; Neighbor Solicitation and Advertisement RFC 4861 §4.3 and §4.4, with the receive
//! checks of §7.1.1 and §7.1.2. Field offsets are smoltcp's; nothing here indexes bytes by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::{MacAddress, filter};

/// Hop limit that proves that a Neighbor Discovery packet was not forwarded (RFC 4861 §7.1.1).
const HOP_LIMIT: u8 = 255;
/// The EtherTypes of a VLAN tag: IEEE 802.1Q customer and 802.1ad service tag.
const VLAN_ETHERTYPES: [u16; 2] = [0x8100, 0x88a8];
/// All nodes on the link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A received frame that layer 2 acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Somebody asks who has an IPv4 address (RFC 826), or probes for it (RFC 5227 §2.1.1).
    ArpRequest(Arp),
    /// Somebody says that it has an IPv4 address.
    ArpReply(Arp),
    /// Somebody asks who has an IPv6 address (RFC 4861 §4.3).
    NeighborSolicit {
        /// Where the frame came from.
        source_mac: MacAddress,
        /// The Source Link-Layer Address option, which unicast probes may leave out.
        source_option: Option<MacAddress>,
        /// Sender; unspecified in Duplicate Address Detection (RFC 4862 §5.4.2).
        source: Ipv6Addr,
        /// The address asked for.
        target: Ipv6Addr,
    },
    /// Somebody says that it has an IPv6 address (RFC 4861 §4.4).
    NeighborAdvert {
        /// The Target Link-Layer Address option, else where the frame came from.
        mac: MacAddress,
        /// The address claimed.
        target: Ipv6Addr,
    },
}

/// The addresses of an ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Sender hardware address.
    pub sender_mac: MacAddress,
    /// Sender protocol address; unspecified in an ARP probe.
    pub sender: Ipv4Addr,
    /// Target protocol address.
    pub target: Ipv4Addr,
}

/// Why a frame is dropped before its addresses are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Rejected {
    /// Shorter than its headers or its own length fields say, or a field holds what the RFC forbids.
    #[error("malformed")]
    Malformed,
    /// Carries a VLAN tag: it belongs to another segment than the interface's own.
    #[error("vlan_tagged")]
    VlanTagged,
    /// Sender is a group address, or this interface itself.
    #[error("spoofed")]
    Spoofed,
    /// Neither addressed to this interface nor to a group that it listens to.
    #[error("not_addressed")]
    NotAddressed,
    /// Well formed, and no business of layer 2.
    #[error("other_protocol")]
    OtherProtocol,
}

impl Rejected {
    /// Every reason, in the order of its metric label.
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::VlanTagged, Self::Spoofed, Self::NotAddressed, Self::OtherProtocol];
}

/// Decodes a frame that the interface with address `local` received, as [`filter`] hands it on.
///
/// # Errors
/// A [`Rejected`] reason; such a frame is counted and never answered.
pub fn decode(local: MacAddress, bytes: &[u8]) -> Result<Frame, Rejected> {
    if bytes.len() == filter::TAGGED as usize {
        return Err(Rejected::VlanTagged);
    }
    let ethernet = EthernetFrame::new_checked(bytes).map_err(|_| Rejected::Malformed)?;
    let source_mac = ethernet.src_addr();
    if !is_unicast(source_mac) || source_mac == local {
        return Err(Rejected::Spoofed);
    }
    match ethernet.ethertype() {
        EthernetProtocol::Arp => decode_arp(local, ethernet.dst_addr(), ethernet.payload()),
        EthernetProtocol::Ipv6 => {
            decode_ndp(source_mac, ethernet.dst_addr() == local, ethernet.dst_addr(), ethernet.payload())
        }
        EthernetProtocol::Unknown(tag) if VLAN_ETHERTYPES.contains(&tag) => Err(Rejected::VlanTagged),
        _ => Err(Rejected::OtherProtocol),
    }
}

fn decode_arp(local: MacAddress, to: MacAddress, payload: &[u8]) -> Result<Frame, Rejected> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| Rejected::Malformed)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).map_err(|_| Rejected::Malformed)?
    else {
        return Err(Rejected::Malformed);
    };
    if to != local && !to.is_broadcast() {
        return Err(Rejected::NotAddressed);
    }
    // The sender's address inside the packet may differ from the frame's: routers with a virtual address
    // (VRRP, CARP) ask like this, and want the answer at the inner one.
    if !is_unicast(source_hardware_addr) || source_hardware_addr == local {
        return Err(Rejected::Spoofed);
    }
    let arp =
        Arp { sender_mac: source_hardware_addr, sender: source_protocol_addr, target: target_protocol_addr };
    match operation {
        ArpOperation::Request => Ok(Frame::ArpRequest(arp)),
        ArpOperation::Reply => Ok(Frame::ArpReply(arp)),
        ArpOperation::Unknown(_) => Err(Rejected::Malformed),
    }
}

fn decode_ndp(
    source_mac: MacAddress,
    to_local: bool,
    to: MacAddress,
    payload: &[u8],
) -> Result<Frame, Rejected> {
    let ip = Ipv6Packet::new_checked(payload).map_err(|_| Rejected::Malformed)?;
    if ip.version() != 6 {
        return Err(Rejected::Malformed);
    }
    if ip.next_header() != IpProtocol::Icmpv6 {
        return Err(Rejected::OtherProtocol);
    }
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let icmp = Icmpv6Packet::new_checked(ip.payload()).map_err(|_| Rejected::Malformed)?;
    if !icmp.msg_type().is_ndisc() {
        return Err(Rejected::OtherProtocol);
    }
    let message = Icmpv6Repr::parse(&source, &destination, &icmp, &ChecksumCapabilities::default())
        .map_err(|_| Rejected::Malformed)?;
    if ip.hop_limit() != HOP_LIMIT || source.is_multicast() {
        return Err(Rejected::Malformed);
    }
    match message {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
            if target_addr.is_multicast() || (source.is_unspecified() && lladdr.is_some()) {
                return Err(Rejected::Malformed);
            }
            let group = solicited_node_group(target_addr);
            let by_group = destination == group && (to == group_mac(group) || to.is_broadcast());
            // Duplicate Address Detection goes to the group only (RFC 4861 §7.1.1).
            let by_unicast = destination == target_addr && !source.is_unspecified();
            if !(by_group || to_local && (by_unicast || destination == group)) {
                return Err(Rejected::NotAddressed);
            }
            let source_option = lladdr.map(option_mac).transpose()?;
            Ok(Frame::NeighborSolicit { source_mac, source_option, source, target: target_addr })
        }
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) => {
            let solicited_to_group =
                destination.is_multicast() && flags.contains(NdiscNeighborFlags::SOLICITED);
            if target_addr.is_multicast() || solicited_to_group {
                return Err(Rejected::Malformed);
            }
            let mac = lladdr.map(option_mac).transpose()?.unwrap_or(source_mac);
            Ok(Frame::NeighborAdvert { mac, target: target_addr })
        }
        _ => Err(Rejected::OtherProtocol),
    }
}

/// A link-layer address option; one that is no unicast address would make the reply a broadcast.
fn option_mac(option: RawHardwareAddress) -> Result<MacAddress, Rejected> {
    let bytes: [u8; 6] = option.as_bytes().try_into().map_err(|_| Rejected::Malformed)?;
    let mac = MacAddress(bytes);
    if is_unicast(mac) { Ok(mac) } else { Err(Rejected::Spoofed) }
}

fn is_unicast(mac: MacAddress) -> bool {
    mac.is_unicast() && mac.as_bytes() != [0; 6]
}

/// The group that a solicitation for `address` is sent to (RFC 4291 §2.7.1).
pub fn solicited_node_group(address: Ipv6Addr) -> Ipv6Addr {
    let low = u128::from(address) & 0x00ff_ffff;
    Ipv6Addr::from(0xff02_0000_0000_0000_0000_0001_ff00_0000_u128 | low)
}

/// The Ethernet group address of an IPv6 multicast group (RFC 2464 §7).
pub fn group_mac(group: Ipv6Addr) -> MacAddress {
    let [.., a, b, c, d] = group.octets();
    MacAddress([0x33, 0x33, a, b, c, d])
}

/// The answer to an ARP request: `address` is at `local`, sent to the asker alone.
pub fn arp_reply(local: MacAddress, address: Ipv4Addr, asker_mac: MacAddress, asker: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::Reply, (local, address), (asker_mac, asker), asker_mac)
}

/// A question who has `target`, from `sender`; the unspecified sender makes it an ARP probe, which enters no
/// neighbour's cache (RFC 5227 §2.1.1).
pub fn arp_request(local: MacAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(ArpOperation::Request, (local, sender), (MacAddress([0; 6]), target), MacAddress::BROADCAST)
}

/// The frames that tell every neighbour unasked that `address` is at `local` now.
///
/// For IPv4 a request and a reply (RFC 5227 §3: some hosts heed only the one, some only the other), for IPv6 an
/// unsolicited Neighbor Advertisement with the Override flag (RFC 4861 §7.2.6).
pub fn unasked(local: MacAddress, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![
            arp(
                ArpOperation::Request,
                (local, address),
                (MacAddress([0; 6]), address),
                MacAddress::BROADCAST,
            ),
            arp(
                ArpOperation::Reply,
                (local, address),
                (MacAddress::BROADCAST, address),
                MacAddress::BROADCAST,
            ),
        ],
        IpAddr::V6(address) => {
            vec![neighbor_advert(
                local,
                address,
                group_mac(ALL_NODES),
                ALL_NODES,
                NdiscNeighborFlags::OVERRIDE,
            )]
        }
    }
}

/// The answer to a Neighbor Solicitation (RFC 4861 §7.2.4).
///
/// An asker without an address (Duplicate Address Detection) is answered through all nodes and without the
/// Solicited flag, so that it learns that the address is taken.
pub fn neighbor_reply(
    local: MacAddress,
    address: Ipv6Addr,
    asker_mac: MacAddress,
    asker: Ipv6Addr,
) -> Vec<u8> {
    if asker.is_unspecified() {
        neighbor_advert(local, address, group_mac(ALL_NODES), ALL_NODES, NdiscNeighborFlags::OVERRIDE)
    } else {
        let flags = NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::SOLICITED;
        neighbor_advert(local, address, asker_mac, asker, flags)
    }
}

/// A question who has `target`, to its solicited-node group; the unspecified sender makes it a probe of
/// Duplicate Address Detection (RFC 4862 §5.4.2).
pub fn neighbor_solicit(local: MacAddress, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node_group(target);
    let lladdr = (!sender.is_unspecified()).then(|| RawHardwareAddress::from(local));
    let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr };
    ndp(local, group_mac(group), sender, group, message)
}

fn arp(
    operation: ArpOperation,
    (source_hardware_addr, source_protocol_addr): (MacAddress, Ipv4Addr),
    (target_hardware_addr, target_protocol_addr): (MacAddress, Ipv4Addr),
    to: MacAddress,
) -> Vec<u8> {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    };
    let (mut bytes, header) = ethernet(source_hardware_addr, to, EthernetProtocol::Arp, message.buffer_len());
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    header.emit(&mut frame);
    message.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

fn neighbor_advert(
    local: MacAddress,
    address: Ipv6Addr,
    to_mac: MacAddress,
    to: Ipv6Addr,
    flags: NdiscNeighborFlags,
) -> Vec<u8> {
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: address, lladdr: Some(local.into()) };
    ndp(local, to_mac, address, to, message)
}

fn ndp(
    local: MacAddress,
    to_mac: MacAddress,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: NdiscRepr<'_>,
) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let (mut bytes, header) =
        ethernet(local, to_mac, EthernetProtocol::Ipv6, ip.buffer_len() + ip.payload_len);
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    header.emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet);
    Icmpv6Repr::Ndisc(message).emit(
        &source,
        &destination,
        &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
        &ChecksumCapabilities::default(),
    );
    bytes
}

fn ethernet(
    src_addr: MacAddress,
    dst_addr: MacAddress,
    ethertype: EthernetProtocol,
    payload: usize,
) -> (Vec<u8>, EthernetRepr) {
    (vec![0; EthernetFrame::<&[u8]>::buffer_len(payload)], EthernetRepr { src_addr, dst_addr, ethertype })
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
