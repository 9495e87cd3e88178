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
        Self { local, addresses: HashSet::new() }
    }

    /// The interface's own address.
    pub fn local(&self) -> MacAddress {
        self.local
    }

    /// Starts or ends answering for `address`. Returns whether that changed anything.
    pub fn set(&mut self, address: IpAddr, announced: bool) -> bool {
        if announced { self.addresses.insert(address) } else { self.addresses.remove(&address) }
    }

    /// The addresses answered for, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().copied()
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
            Frame::ArpRequest(Arp { sender_mac, sender, target }) => {
                self.answer(target.into(), |local| frame::arp_reply(local, target, sender_mac, sender))
            }
            Frame::ArpReply(Arp { sender_mac, sender, .. }) => {
                Verdict::Claim(Claim { address: sender.into(), mac: sender_mac })
            }
            Frame::NeighborSolicit { source_mac, source_option, source, target } => self
                .answer(target.into(), |local| {
                    frame::neighbor_reply(local, target, source_option.unwrap_or(source_mac), source)
                }),
            Frame::NeighborAdvert { mac, target } => Verdict::Claim(Claim { address: target.into(), mac }),
        }
    }

    fn answer(&self, address: IpAddr, frame: impl FnOnce(MacAddress) -> Vec<u8>) -> Verdict {
        if self.addresses.contains(&address) {
            Verdict::Reply { address, frame: frame(self.local) }
        } else {
            Verdict::NotOurs
        }
    }
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
