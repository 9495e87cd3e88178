//! The echo function (RFC 5880 §6.4, RFC 5881 §4): packets that are addressed to their own sender, so that the other
//! end's forwarding, and no program there, sends them back.
//!
//! Control packets at full pace go on watching the path until the first echo packet has come back: what says that it
//! sends them back and does not, as behind a packet filter, costs no session.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr,
};

use super::packet::Packet;
use super::wire::{ECHO_PORT, SINGLE_HOP_PORT, TRAFFIC_CLASS, TTL};
use crate::layer2::{MacAddress, frame};

/// The least pace while none has come back.
const PROBE: Duration = Duration::from_secs(1);
/// Octets of headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;

/// The echo packets of one session.
#[derive(Debug)]
pub(super) struct Echo {
    discriminator: u32,
    /// Tells this session's packets from those that somebody made up.
    key: u64,
    /// Number of the last packet.
    sent: u32,
    /// Whether packets can be sent.
    pub(super) has_path: bool,
    transmit: Option<Instant>,
    /// Whether one came back.
    is_active: bool,
    /// Sent since the last one came back.
    unanswered: u32,
    /// When the path counts as broken: the last of so many in a row has had its time. What was not sent, as by a program
    /// that was not scheduled, says nothing of the path.
    expire: Option<Instant>,
    /// Whether those that stayed away were excused, since the other end turned out to be elsewhere on the link.
    is_excused: bool,
}

impl Echo {
    pub(super) fn new(discriminator: u32, key: u64) -> Self {
        Self {
            discriminator,
            key,
            sent: 0,
            has_path: false,
            transmit: None,
            is_active: false,
            unanswered: 0,
            expire: None,
            is_excused: false,
        }
    }

    /// Whether echo packets tell of the path.
    pub(super) fn is_active(&self) -> bool {
        self.is_active
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.transmit, self.expire].into_iter().flatten().min()
    }

    pub(super) fn stop(&mut self) {
        self.transmit = None;
        self.is_active = false;
        self.unanswered = 0;
        self.expire = None;
        self.is_excused = false;
    }

    /// Whether too many in a row did not come back.
    pub(super) fn has_failed(&self, now: Instant) -> bool {
        self.expire.is_some_and(|expire| expire <= now)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.transmit.is_none_or(|due| due <= now)
    }

    /// Whether all of the last `most` but one stayed away, or the only one: they may have gone where the other end no longer
    /// is.
    pub(super) fn is_in_doubt(&self, most: u8) -> bool {
        self.is_active && self.unanswered == u32::from(most).saturating_sub(1).max(1)
    }

    /// The other end is elsewhere on the link: what went to its former place says nothing of the path. So once, until a
    /// packet comes back: two hosts that both claim to be the other end must not keep a broken path up.
    pub(super) fn moved(&mut self, now: Instant) {
        if self.is_active && self.unanswered > 0 && !self.is_excused {
            self.is_excused = true;
            self.unanswered = 0;
            self.expire = None;
            self.transmit = Some(now);
        }
    }

    /// The next packet, where one is sent each `interval`; `part` of that is waited for the one after it. So many as `most`
    /// in a row may stay away.
    pub(super) fn next(&mut self, now: Instant, interval: Duration, part: f64, most: u8) -> Vec<u8> {
        let pace = if self.is_active() { interval } else { interval.max(PROBE) };
        self.transmit = Some(now + pace.mul_f64(part));
        self.sent = self.sent.wrapping_add(1);
        self.unanswered = self.unanswered.saturating_add(1);
        if self.is_active && self.unanswered == u32::from(most) {
            self.expire = Some(now + interval);
        }
        payload(self.discriminator, self.sent, self.key)
    }

    /// Takes a packet that came back, one of the last `most`.
    pub(super) fn returned(&mut self, now: Instant, bytes: &[u8], most: u8) {
        let Some((discriminator, number, key)) = read_payload(bytes) else { return };
        // An older one, heard and sent again by somebody else, says nothing of the path.
        let is_recent = self.sent.wrapping_sub(number) < u32::from(most);
        if is_recent && (discriminator, key) == (self.discriminator, self.key) {
            if !self.is_active {
                // From the slow pace to the full one.
                self.transmit = Some(now);
            }
            self.is_active = true;
            self.unanswered = 0;
            self.expire = None;
            self.is_excused = false;
        }
    }
}

/// Discriminator, number, key: what an echo packet holds is its sender's own matter.
fn payload(discriminator: u32, number: u32, key: u64) -> Vec<u8> {
    [&discriminator.to_be_bytes()[..], &number.to_be_bytes(), &key.to_be_bytes()].concat()
}

fn read_payload(bytes: &[u8]) -> Option<(u32, u32, u64)> {
    let (discriminator, rest) = bytes.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let key = rest.try_into().ok()?;
    Some((u32::from_be_bytes(*discriminator), u32::from_be_bytes(*number), u64::from_be_bytes(key)))
}

/// The discriminator of the session that sent an echo packet with this payload; `None` of one that is not from here.
#[must_use]
pub fn discriminator(bytes: &[u8]) -> Option<u32> {
    read_payload(bytes).map(|(discriminator, ..)| discriminator)
}

/// The two ends of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// This end.
    pub own: MacAddress,
    /// The other one.
    pub router: MacAddress,
}

/// A frame that concerns echo packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A control packet, which shows where the other end is on the link.
    Control {
        /// Its sender.
        router: IpAddr,
        /// Whom it is for.
        own: IpAddr,
        /// The discriminator of the session that it is for.
        discriminator: u32,
        /// Where both are.
        ends: Ends,
    },
    /// An echo packet that came back.
    Echo {
        /// Its sender, whom it is for, too.
        own: IpAddr,
        /// What it holds.
        payload: Vec<u8>,
    },
    /// The word of a host in ARP or Neighbor Discovery.
    Neighbor {
        /// The host.
        address: IpAddr,
        /// Where it is.
        mac: MacAddress,
    },
}

/// The question who has the address of the other end, from `own`; `None` of two families.
#[must_use]
pub fn question(ends: Ends, own: IpAddr, router: IpAddr) -> Option<Vec<u8>> {
    match (own, router) {
        (IpAddr::V4(own), IpAddr::V4(router)) => Some(frame::arp_request(ends.own, own, router)),
        (IpAddr::V6(own), IpAddr::V6(router)) => Some(frame::neighbor_solicit(ends.own, own, router)),
        _ => None,
    }
}

/// Reads what the interface with address `local` heard of its neighbors; `None` for what says nothing of where one is.
#[must_use]
pub fn decode_neighbor(local: MacAddress, bytes: &[u8]) -> Option<Frame> {
    match frame::decode(local, bytes).ok()? {
        frame::Frame::ArpRequest(arp) | frame::Frame::ArpReply(arp) => {
            Some(Frame::Neighbor { address: arp.sender.into(), mac: arp.sender_mac })
        }
        frame::Frame::NeighborAdvert { mac, target } => Some(Frame::Neighbor { address: target.into(), mac }),
        frame::Frame::NeighborSolicit { .. } => None,
    }
}

/// Reads a frame that was received; `None` for one that is neither.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Frame> {
    let ethernet = EthernetFrame::new_checked(bytes).ok()?;
    let (from, to, ttl, datagram): (IpAddr, IpAddr, u8, &[u8]) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            let is_whole = !packet.more_frags() && packet.frag_offset() == 0;
            if packet.next_header() != IpProtocol::Udp || !is_whole || !packet.verify_checksum() {
                return None;
            }
            (packet.src_addr().into(), packet.dst_addr().into(), packet.hop_limit(), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            if packet.next_header() != IpProtocol::Udp {
                return None;
            }
            (packet.src_addr().into(), packet.dst_addr().into(), packet.hop_limit(), packet.payload())
        }
        _ => return None,
    };
    let udp = UdpPacket::new_checked(datagram).ok()?;
    match udp.dst_port() {
        SINGLE_HOP_PORT if ttl == TTL && from != to => {
            let discriminator = Packet::decode(udp.payload()).ok()?.your_discriminator;
            let is_one_host = ethernet.src_addr().is_unicast() && ethernet.dst_addr().is_unicast();
            let ends = Ends { own: ethernet.dst_addr(), router: ethernet.src_addr() };
            is_one_host.then_some(Frame::Control { router: from, own: to, discriminator, ends })
        }
        ECHO_PORT if from == to => Some(Frame::Echo { own: to, payload: udp.payload().to_vec() }),
        _ => None,
    }
}

/// The frame of an echo packet from and to `own` by way of the other end.
#[must_use]
pub fn encode(ends: Ends, own: IpAddr, payload: &[u8]) -> Vec<u8> {
    let udp = UDP + payload.len();
    let (header, ethertype) = match own {
        IpAddr::V4(_) => (IPV4, EthernetProtocol::Ipv4),
        IpAddr::V6(_) => (IPV6, EthernetProtocol::Ipv6),
    };
    // The headers give the length in 16 bits; what is sent here has a few octets.
    let length = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX);
    let mut bytes = vec![0; ETHERNET + header + udp];
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.set_src_addr(ends.own);
    ethernet.set_dst_addr(ends.router);
    ethernet.set_ethertype(ethertype);
    let checksums = ChecksumCapabilities::default();
    let emit = |datagram: &mut [u8]| {
        let ports = UdpRepr { src_port: ECHO_PORT, dst_port: ECHO_PORT };
        ports.emit(
            &mut UdpPacket::new_unchecked(datagram),
            &own.into(),
            &own.into(),
            payload.len(),
            |room| room.copy_from_slice(payload),
            &checksums,
        );
    };
    match own {
        IpAddr::V4(own) => {
            let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
            packet.set_version(4);
            packet.set_header_len(20);
            packet.set_dscp(TRAFFIC_CLASS >> 2);
            packet.set_total_len(length(header + udp));
            packet.set_hop_limit(TTL);
            packet.set_next_header(IpProtocol::Udp);
            packet.set_src_addr(own);
            packet.set_dst_addr(own);
            packet.fill_checksum();
            emit(packet.payload_mut());
        }
        IpAddr::V6(own) => {
            let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
            packet.set_version(6);
            packet.set_traffic_class(TRAFFIC_CLASS);
            packet.set_payload_len(length(udp));
            packet.set_next_header(IpProtocol::Udp);
            packet.set_hop_limit(TTL);
            packet.set_src_addr(own);
            packet.set_dst_addr(own);
            emit(packet.payload_mut());
        }
    }
    bytes
}

#[cfg(test)]
#[path = "echo_tests.rs"]
mod tests;
