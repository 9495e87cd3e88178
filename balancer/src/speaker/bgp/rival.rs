//! Other BGP speakers on this node: a router has one session with a node, and a second one would end the first again
//! and again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// State ESTABLISHED in `/proc/net/tcp` (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
/// Port of BGP, on which the other speaker may listen.
const BGP: u16 = 179;

/// The connection that another program of this node has with a router, as `LOCAL to REMOTE`. To be asked while this
/// program has none with it.
///
/// # Errors
/// When the kernel's table of connections cannot be read.
pub(super) fn session_with(router: SocketAddr) -> io::Result<Option<String>> {
    let table = std::fs::read_to_string(if router.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" })?;
    Ok(find(&table, router).map(|(local, remote)| format!("{local} to {remote}")))
}

/// A connection to the router's port, or one from the router to the port of BGP.
fn find(table: &str, router: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
        let is_session =
            remote == (router.ip(), router.port()) || (remote.0 == router.ip() && local.1 == BGP);
        let found = (SocketAddr::from(local), SocketAddr::from(remote));
        (words.next()? == ESTABLISHED && is_session).then_some(found)
    })
}

/// `0100007F:00B3`: the octets of the address as the machine reads words of four, and the port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        octets.extend(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match *octets.as_slice() {
        [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
        0: 0B0016AC:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
        1: 0B0016AC:C001 010016AC:00B3 01 00000000:00000000 00:00000000 00000000     0\n   \
        2: 0B0016AC:00B3 020016AC:9C40 01 00000000:00000000 00:00000000 00000000     0\n   \
        3: 0B0016AC:C003 030016AC:00B3 06 00000000:00000000 00:00000000 00000000     0\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_session_of_another_program_is_found_whoever_opened_it() {
        let found = |router: &str| {
            find(TABLE, router.parse().unwrap()).map(|(local, remote)| format!("{local} to {remote}"))
        };
        assert_eq!(found("172.22.0.1:179").as_deref(), Some("172.22.0.11:49153 to 172.22.0.1:179"));
        assert_eq!(found("172.22.0.2:179").as_deref(), Some("172.22.0.11:179 to 172.22.0.2:40000"));
        assert_eq!(found("172.22.0.1:1790"), None, "it speaks to another port of that router");
        assert_eq!(found("172.22.0.3:179"), None, "it waits for the last packets of a connection");
        assert_eq!(found("172.22.0.4:179"), None);
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        assert_eq!(address("zz"), None);
        assert_eq!(address("0100007F:00BX"), None);
        assert_eq!(address("000080FE00000000FF005450B6AD1DFE:00B3").map(|(_, port)| port), Some(179));
    }
}
