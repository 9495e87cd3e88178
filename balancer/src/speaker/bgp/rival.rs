//! Other BGP speakers on this node: a router has one session with a node, and a second one would end the first again
//! and again.

mod bound;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bound::Links;

/// State ESTABLISHED in `/proc/net/tcp` (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
/// Port of BGP, on which the other speaker may listen.
const BGP: u16 = 179;

/// The kernel's tables of connections. Those of IPv4 that a socket of both families has are in the second one.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// Where the sockets of this program are listed, each a link to `socket:[INODE]`.
const OWN: &str = "/proc/self/fd";

/// A router as this program reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) router: SocketAddr,
    /// The interface, such as a VRF, that connections to it are bound to.
    pub(super) device: Option<String>,
}

/// The connection that another program of this node has with a router, as `LOCAL to REMOTE`. Those of this program do
/// not count: another peer may have the same address in another VRF or on another interface, and a router may have
/// connected while this end was about to; nor those of others in another VRF or on another link. This takes its time on a
/// node with many connections.
///
/// # Errors
/// When the kernel's table of connections, or that of this program's sockets, cannot be read.
pub(super) fn session_with(way: &Way) -> io::Result<Option<String>> {
    let router = way.router;
    // Sockets that were opened or closed while the table was read are on one of the two lists.
    let mut own = own_sockets()?;
    let mut found = Vec::new();
    for table in TABLES {
        match File::open(table) {
            Ok(table) => find(BufReader::new(table), router, &mut found)?,
            // A node without IPv6 has no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    own.extend(own_sockets()?);
    found.retain(|session| !own.contains(&session.inode));
    if found.is_empty() {
        return Ok(None);
    }
    let known = bound::interfaces().and_then(|bound| Ok((bound, Links::read()?)));
    let (bound, links) = known.unwrap_or_else(|error| {
        tracing::debug!(%error, "what connections are bound to is not known: each counts");
        Default::default()
    });
    let mut rivals = found.into_iter();
    let rival = rivals
        .find(|session| bound.get(&session.inode).is_none_or(|interface| way.meets(*interface, &links)));
    Ok(rival.map(|session| format!("{} to {}", session.local, session.remote)))
}

impl Way {
    /// Whether a connection to the same address, bound to the interface of this index or to none, is to this router.
    fn meets(&self, interface: u32, links: &Links) -> bool {
        if let SocketAddr::V6(router) = self.router
            && router.ip().is_unicast_link_local()
        {
            return interface == router.scope_id();
        }
        let device = self.device.as_ref().and_then(|device| links.index(device));
        links.vrf_of(interface) == device.and_then(|device| links.vrf_of(device))
    }
}

/// A connection that may be a session, and its socket.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
    inode: u64,
}

/// Inodes of the sockets of this program.
fn own_sockets() -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in std::fs::read_dir(OWN)? {
        // One that was closed since is nobody's any more.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        inodes.extend(target.to_str().and_then(inode));
    }
    Ok(inodes)
}

/// `socket:[1234]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Adds the connections of a table to the router's port, and those from the router to the port of BGP.
fn find(table: impl BufRead, router: SocketAddr, found: &mut Vec<Connection>) -> io::Result<()> {
    for line in table.lines().skip(1) {
        found.extend(session(&line?, router));
    }
    Ok(())
}

fn session(line: &str, router: SocketAddr) -> Option<Connection> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let is_session = remote.ip() == router.ip() && (remote.port() == router.port() || local.port() == BGP);
    let is_established = words.next()? == ESTABLISHED;
    // After queues, timer, retransmissions, user and timeout. No socket yet (0): no program has taken it.
    let inode: u64 = words.nth(5)?.parse().ok()?;
    (is_session && is_established && inode != 0).then_some(Connection { local, remote, inode })
}

/// `0100007F:00B3`: the octets of the address as the machine reads words of four, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    for at in (0..ip.len()).step_by(8) {
        octets.extend(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match *octets.as_slice() {
        [a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into(),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0B0016AC:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 700 1 0 100 0 0 10 0\n   \
        1: 0B0016AC:C001 010016AC:00B3 01 00000000:00000000 02:00000A5D 00000000     0        0 701 2 0 20 4 30 10 -1\n   \
        2: 0B0016AC:00B3 020016AC:9C40 01 00000000:00000000 00:00000000 00000000   101        0 702 1 0 20 4 30 10 -1\n   \
        3: 0B0016AC:C003 030016AC:00B3 06 00000000:00000000 03:00000F0C 00000000     0        0 0 3 0\n   \
        4: 0B0016AC:00B3 050016AC:9C41 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1\n   \
        5: 0000000000000000FFFF00000B0016AC:00B3 0000000000000000FFFF0000060016AC:9C42 01 00000000:00000000 00:00000000 00000000     0        0 703 1 0 20 4 30 10 -1\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_session_of_another_program_is_found_whoever_opened_it() {
        let found = |router: &str, own: &[u64]| {
            let mut found = vec![];
            find(TABLE.as_bytes(), router.parse().unwrap(), &mut found).unwrap();
            let mut rivals = found.iter().filter(|session| !own.contains(&session.inode));
            rivals.next().map(|session| format!("{} to {}", session.local, session.remote))
        };
        let opened = "172.22.0.11:49153 to 172.22.0.1:179";
        assert_eq!(found("172.22.0.1:179", &[]).as_deref(), Some(opened));
        assert_eq!(found("172.22.0.1:179", &[702]).as_deref(), Some(opened));
        assert_eq!(found("172.22.0.1:179", &[700, 701]), None, "it is this program's own");
        assert_eq!(found("172.22.0.2:179", &[]).as_deref(), Some("172.22.0.11:179 to 172.22.0.2:40000"));
        assert_eq!(found("172.22.0.2:179", &[702]), None, "the router connected to this program");
        assert_eq!(found("172.22.0.1:1790", &[]), None, "it speaks to another port of that router");
        assert_eq!(found("172.22.0.3:179", &[]), None, "it waits for the last packets of a connection");
        assert_eq!(found("172.22.0.4:179", &[]), None);
        assert_eq!(found("172.22.0.5:179", &[]), None, "nobody has taken the connection yet");
        let dual = found("172.22.0.6:179", &[]);
        assert_eq!(
            dual.as_deref(),
            Some("172.22.0.11:179 to 172.22.0.6:40002"),
            "by a socket of both families"
        );
    }

    #[test]
    fn a_connection_of_this_program_is_no_rival() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let router = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(router).unwrap();
        let _accepted = listener.accept().unwrap();
        let mut found = vec![];
        find(BufReader::new(File::open(TABLES[0]).unwrap()), router, &mut found).unwrap();
        let ends = found.iter().map(|session| (session.local, session.remote)).collect::<Vec<_>>();
        assert_eq!(ends, [(stream.local_addr().unwrap(), router)], "the kernel's table is read rightly");
        assert_eq!(session_with(&Way { router, device: None }).unwrap(), None);
        assert_eq!(inode("pipe:[12]"), None);
    }

    #[test]
    fn a_connection_of_another_program_is_a_rival_where_packets_go_the_same_way() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let router = listener.local_addr().unwrap();
        let stream = std::net::TcpStream::connect(router).unwrap();
        let session = format!("{} to {router}", stream.local_addr().unwrap());
        let holder = std::process::Command::new("cat").stdin(std::os::fd::OwnedFd::from(stream)).spawn();
        let mut holder = holder.unwrap();
        for device in [None, Some("lo".to_owned())] {
            let way = Way { router, device };
            assert_eq!(session_with(&way).unwrap().as_ref(), Some(&session), "{way:?}");
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        assert_eq!(address("zz"), None);
        assert_eq!(address("0100007F:00BX"), None);
        let v6 = address("000080FE00000000FF005450B6AD1DFE:00B3");
        assert!(v6.is_some_and(|v6| v6.is_ipv6() && v6.port() == 179), "{v6:?}");
    }
}
