//! Router advertisements by which the two ends of a link find each other when a peer is known by its interface only
//! (RFC 4861 §4.2), as FRR does it for such neighbors.

use std::net::Ipv6Addr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{Icmpv6Message, Icmpv6Packet, Icmpv6Repr, NdiscRepr, NdiscRouterFlags};

/// An advertisement of a node that is no default router: its router lifetime is 0. The checksum is left to the kernel.
#[must_use]
pub fn advertisement() -> Vec<u8> {
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 0,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: Duration::ZERO,
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    });
    let mut bytes = vec![0; advert.buffer_len()];
    let any = Ipv6Addr::UNSPECIFIED;
    let mut packet = Icmpv6Packet::new_unchecked(&mut bytes);
    advert.emit(&any, &any, &mut packet, &ChecksumCapabilities::ignored());
    bytes
}

/// A solicitation: routers on the link advertise themselves at once (RFC 4861 §4.1, §6.2.6). The checksum is left to the
/// kernel.
#[must_use]
pub fn solicitation() -> Vec<u8> {
    let solicit = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    let mut bytes = vec![0; solicit.buffer_len()];
    let any = Ipv6Addr::UNSPECIFIED;
    let mut packet = Icmpv6Packet::new_unchecked(&mut bytes);
    solicit.emit(&any, &any, &mut packet, &ChecksumCapabilities::ignored());
    bytes
}

/// Whether an ICMPv6 message, whose checksum the kernel has checked, is a router advertisement of the link: only
/// those that took no hop are (RFC 4861 §6.1.2).
#[must_use]
pub fn is_advertisement(message: &[u8], from: Ipv6Addr, hop_limit: u8) -> bool {
    let packet = Icmpv6Packet::new_checked(message);
    let is_advert =
        packet.is_ok_and(|packet| packet.msg_type() == Icmpv6Message::RouterAdvert && packet.msg_code() == 0);
    is_advert && message.len() >= LENGTH && hop_limit == 255 && from.is_unicast_link_local()
}

/// Octets of an advertisement without options (RFC 4861 §4.2).
const LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_says_that_this_node_is_no_default_router() {
        let mut bytes = advertisement();
        assert_eq!(bytes, [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let on_link = "fe80::1".parse().unwrap();
        assert!(is_advertisement(&bytes, on_link, 255));
        assert!(!is_advertisement(&bytes, on_link, 254), "it took a hop");
        assert!(!is_advertisement(&bytes, "2001:db8::1".parse().unwrap(), 255), "it is of no link");
        // An option that nobody knows yet (RFC 4861 §4.6) spoils nothing.
        bytes.extend([253, 1, 0, 0, 0, 0, 0, 0]);
        assert!(is_advertisement(&bytes, on_link, 255));
        bytes.truncate(LENGTH - 1);
        assert!(!is_advertisement(&bytes, on_link, 255), "it is cut short");
        assert_eq!(solicitation(), [133, 0, 0, 0, 0, 0, 0, 0]);
        assert!(!is_advertisement(&solicitation(), on_link, 255));
        assert!(!is_advertisement(&[], on_link, 255));
    }
}
