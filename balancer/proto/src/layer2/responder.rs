//! The responder of one interface: which received frames are answered, and which tell of a rival.
//!
//! RFC 826, RFC 4861 §7.2.3 and §7.2.4.

use std::collections::HashSet;
use std::net::IpAddr;

use super::MacAddress;
use super::frame::{self, Arp, Frame, Rejected};

/// Answers for a set of addresses on one interface.
#[derive(Debug, Clone)]
pub struct Responder {
    local: MacAddress,
    addresses: HashSet<IpAddr>,
    /// Addresses that this node wants to announce, and asks for.
    wanted: HashSet<IpAddr>,
}

/// What one received frame leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send `frame` out of this interface: somebody asked for `address`.
    Reply {
        /// The address asked for.
        address: IpAddr,
        /// The complete Ethernet frame.
        frame: Vec<u8>,
    },
    /// Somebody else says that it has `address`.
    Claim(Claim),
    /// Somebody else asks whether an address is free that this node wants to announce.
    Probe(Claim),
    /// A good frame about addresses that this interface does not announce, or watch.
    NotOurs,
    /// A frame that no part of layer 2 may act on.
    Rejected(Rejected),
}

/// A neighbour's word that it has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Who says so.
    pub mac: MacAddress,
}

impl Responder {
    /// A responder for the interface with link-layer address `local`, announcing nothing yet.
    pub fn new(local: MacAddress) -> Self {
        Self { local, addresses: HashSet::new(), wanted: HashSet::new() }
    }

    /// The interface's own address.
    pub fn local(&self) -> MacAddress {
        self.local
    }

    /// Starts or ends answering for `address`. Returns whether that changed anything.
    pub fn set(&mut self, address: IpAddr, announced: bool) -> bool {
        if announced { self.addresses.insert(address) } else { self.addresses.remove(&address) }
    }

    /// Whether `address` is answered for.
    pub fn announces(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The addresses answered for, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied()
    }

    /// Takes the addresses that this node asks for in order to announce them: of them every sign of another host is told,
    /// its questions too (RFC 5227 §2.1.1, RFC 4862 §5.4.3).
    pub fn want(&mut self, addresses: HashSet<IpAddr>) {
        self.wanted = addresses;
    }

    /// Judges one received frame.
    ///
    /// Claims are told for every address, not for the announced ones alone, so that probes for an address that is
    /// not announced yet see their answers; the filter of the socket decides what arrives here.
    pub fn handle(&self, bytes: &[u8]) -> Verdict {
        let frame = match frame::decode(self.local, bytes) {
            Ok(frame) => frame,
            Err(reason) => return Verdict::Rejected(reason),
        };
        match frame {
            // Sender and target alike: an announcement in the form of a question (RFC 5227 §3).
            Frame::ArpRequest(Arp { sender_mac, sender, target })
                if sender == target || self.addresses.contains(&sender.into()) =>
            {
                Verdict::Claim(Claim { address: sender.into(), mac: sender_mac })
            }
            Frame::ArpRequest(Arp { sender_mac, sender, target })
                if self.addresses.contains(&target.into()) =>
            {
                let frame = frame::arp_reply(self.local, target, sender_mac, sender);
                Verdict::Reply { address: target.into(), frame }
            }
            Frame::ArpRequest(Arp { sender_mac, sender, .. }) if self.wanted.contains(&sender.into()) => {
                Verdict::Claim(Claim { address: sender.into(), mac: sender_mac })
            }
            Frame::ArpRequest(Arp { sender_mac, sender, target }) => {
                self.other_asks(sender.is_unspecified(), target.into(), sender_mac)
            }
            Frame::ArpReply(Arp { sender_mac, sender, .. }) => {
                Verdict::Claim(Claim { address: sender.into(), mac: sender_mac })
            }
            Frame::NeighborSolicit { source_mac, source_option, source, target }
                if self.addresses.contains(&target.into()) =>
            {
                let to = source_option.unwrap_or(source_mac);
                let frame = frame::neighbor_reply(self.local, target, to, source);
                Verdict::Reply { address: target.into(), frame }
            }
            Frame::NeighborSolicit { source_mac, source, target, .. } => {
                self.other_asks(source.is_unspecified(), target.into(), source_mac)
            }
            Frame::NeighborAdvert { mac, target } => Verdict::Claim(Claim { address: target.into(), mac }),
        }
    }

    /// What to make of a question for an address that is not announced here.
    fn other_asks(&self, is_probe: bool, address: IpAddr, mac: MacAddress) -> Verdict {
        if is_probe && self.wanted.contains(&address) {
            Verdict::Probe(Claim { address, mac })
        } else {
            Verdict::NotOurs
        }
    }
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
