//! Layer 2: what one speaker hears and says on an Ethernet segment.
//!
//! Frames are byte slices and `Vec<u8>`; the shell owns the packet sockets. ARP follows RFC 826 and RFC 5227,
//! Neighbor Discovery RFC 4861 and RFC 4862.

pub mod budget;
pub mod conflict;
mod decoy;
pub mod dispute;
pub mod filter;
pub mod frame;
pub mod gratuitous;
pub mod link;
mod pace;
pub mod questions;
pub mod responder;
mod route;
pub mod wire_check;

/// A link-layer address of Ethernet (48 bits).
pub use smoltcp::wire::EthernetAddress as MacAddress;

/// A link-layer address as Linux writes it, such as `00:00:5e:00:53:01`.
pub fn mac_text(mac: MacAddress) -> String {
    mac.0.map(|octet| format!("{octet:02x}")).join(":")
}
