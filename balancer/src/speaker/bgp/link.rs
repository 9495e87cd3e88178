//! TCP connections with a router: how they are opened, and what goes over them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use metallb_proto::bgp::NextHops;
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};

use super::spec::{Spec, Ttl};
use crate::speaker::sys;

/// Longest time in which a connection that ends sends what is left and hears the router close it too.
const LINGER: Duration = Duration::from_secs(1);
/// TTL of all packets under GTSM (RFC 5082 §3).
const MOST_HOPS: u8 = 255;
/// Internetwork Control: BGP is not the traffic to be dropped first (RFC 4271 appendix E).
const PRECEDENCE: u32 = 0xc0;

/// The kernel's table of IPv6 addresses.
const ADDRESSES: &str = "/proc/net/if_inet6";
/// Flags of addresses that are not this node's yet, or cannot be: IFA_F_TENTATIVE and IFA_F_DADFAILED of linux/if_addr.h.
const TENTATIVE: u32 = 0x40;
const FAILED: u32 = 0x08;
/// Flags of addresses that go by themselves: IFA_F_TEMPORARY and IFA_F_DEPRECATED.
const PASSING: u32 = 0x01 | 0x20;

/// A socket with all that is set before the connection: `router` is the other end, `bound` the address of this one.
///
/// # Errors
/// What could not be set, and why.
pub(super) fn socket(spec: &Spec, router: SocketAddr, bound: Option<SocketAddr>) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::for_address(router), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let is_v4 = router.is_ipv4();
    if is_v4 {
        socket.set_tos_v4(PRECEDENCE)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_tclass_v6(PRECEDENCE)?;
    }
    if let Some(device) = &spec.device {
        socket.bind_device(Some(device.as_bytes())).with_context(|| format!("cannot bind to {device:?}"))?;
    }
    set_ttl(&socket, is_v4, spec.ttl)?;
    if let Some(password) = &spec.password {
        sys::set_md5_key(&socket, &router.into(), password.bytes()).context("cannot set the password")?;
    }
    if let Some(bound) = bound {
        socket.bind(&bound.into()).with_context(|| format!("cannot bind source address {}", bound.ip()))?;
    }
    Ok(socket)
}

/// Opens a connection.
///
/// # Errors
/// Why there is none, for people.
pub(super) async fn dial(spec: &Spec, router: SocketAddr) -> anyhow::Result<TcpStream> {
    let source = spec.source.map(|source| SocketAddr::new(source, 0));
    let socket = socket(spec, router, source)?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(router).await;
    stream.with_context(|| format!("cannot connect to {router}"))
}

/// Addresses of this end that routes may lead to over a connection: its own, and one of the other family of the same
/// interface, `former` rather than another. The link-local one is named only to a router on the same link (RFC 2545 §3).
///
/// # Errors
/// What the kernel says.
pub(super) fn next_hops(
    stream: &TcpStream,
    addresses: &[InterfaceAddress],
    former: NextHops,
) -> io::Result<NextHops> {
    let ends = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    Ok(choose_next_hops(ends, addresses, former))
}

/// An address of an interface of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterfaceAddress {
    interface: String,
    network: IpNet,
    /// Whether it is known to be this node's alone: duplicate address detection has not failed, nor is it under way.
    is_usable: bool,
    /// Whether duplicate address detection is under way.
    pub(super) is_pending: bool,
    /// Whether it is one that goes by itself: temporary (RFC 8981), or deprecated (RFC 4862 §5.5.4).
    is_passing: bool,
}

/// The addresses of the interface that has this one.
fn beside(local: IpAddr, addresses: &[InterfaceAddress]) -> impl Iterator<Item = &InterfaceAddress> {
    let own = addresses.iter().find(|address| address.network.addr() == local);
    addresses.iter().filter(move |address| own.is_some_and(|own| own.interface == address.interface))
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether a router is on the link of the interface from which a connection leads to it: it has an address of one of the
/// interface's networks.
pub(super) fn is_on_link(local: IpAddr, router: IpAddr, addresses: &[InterfaceAddress]) -> bool {
    let (local, router) = (local.to_canonical(), router.to_canonical());
    is_link_local(&router) || beside(local, addresses).any(|address| address.network.contains(&router))
}

/// What was chosen before stays while it is there: an address that comes later, such as a virtual one that moves from node
/// to node, or one that is renewed every few hours, takes no traffic with it.
fn choose_next_hops(
    (local, router): (IpAddr, IpAddr),
    addresses: &[InterfaceAddress],
    former: NextHops,
) -> NextHops {
    let on_link = is_on_link(local, router, addresses);
    let local = local.to_canonical();
    // Beside an address of this node that the loopback interface has, there are those that lead nowhere.
    let usable = |address: &&InterfaceAddress| address.is_usable && !address.network.addr().is_loopback();
    let mut beside: Vec<&InterfaceAddress> = beside(local, addresses).filter(usable).collect();
    let was_chosen = |address: IpAddr| match address {
        IpAddr::V4(v4) => former.v4 == Some(v4),
        IpAddr::V6(v6) => [former.v6, former.link_local].contains(&Some(v6)),
    };
    // One with a network of its own is the interface's rather than one that was lent to it.
    beside.sort_by_key(|address| {
        let is_lent = address.network.prefix_len() == address.network.max_prefix_len();
        (!was_chosen(address.network.addr()), address.is_passing, is_lent)
    });
    // The address of the connection itself comes before others of its interface.
    let candidates = || [local].into_iter().chain(beside.iter().map(|address| address.network.addr()));
    let v6 = |address: IpAddr| match address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    };
    NextHops {
        v4: candidates().find_map(|address| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        }),
        v6: candidates().filter(|address| !is_link_local(address)).find_map(v6),
        link_local: candidates().filter(is_link_local).find_map(v6).filter(|_| on_link),
    }
}

/// Name of the interface with an address of this node.
///
/// # Errors
/// What the kernel says.
pub(super) fn interface_of(own: IpAddr) -> io::Result<Option<String>> {
    let found = interface_addresses()?.into_iter().find(|address| address.network.addr() == own);
    Ok(found.map(|found| found.interface))
}

/// All addresses of this node.
///
/// # Errors
/// What the kernel says.
pub(super) fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let flags = match std::fs::read_to_string(ADDRESSES) {
        Ok(table) => address_flags(&table),
        // A node without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error),
    };
    let found = getifaddrs()?.filter_map(|found| {
        let (address, mask) = (found.address?, found.netmask?);
        let network = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpNet::with_netmask(v4.ip().into(), mask.as_sockaddr_in()?.ip().into()),
            (_, Some(v6)) => IpNet::with_netmask(v6.ip().into(), mask.as_sockaddr_in6()?.ip().into()),
            _ => return None,
        };
        let (interface, network) = (found.interface_name, network.ok()?);
        let flags = flags.get(&(network.addr(), interface.clone())).copied().unwrap_or_default();
        let is_usable = flags & (TENTATIVE | FAILED) == 0;
        let is_pending = flags & (TENTATIVE | FAILED) == TENTATIVE;
        Some(InterfaceAddress { interface, network, is_usable, is_pending, is_passing: flags & PASSING != 0 })
    });
    Ok(found.collect())
}

/// The flags of the IPv6 addresses in the kernel's table, by address and interface: `ADDRESS INDEX LENGTH SCOPE FLAGS NAME`,
/// numbers in hexadecimal.
fn address_flags(table: &str) -> BTreeMap<(IpAddr, String), u32> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[address, _, _, _, flags, name] = words.as_slice() else { return None };
        let address = Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?);
        Some(((address.into(), name.to_owned()), u32::from_str_radix(flags, 16).ok()?))
    };
    table.lines().filter_map(parse).collect()
}

/// A connection, and what waits to be sent over it.
pub(super) struct Link {
    stream: TcpStream,
    /// Where routes lead over it.
    next_hops: NextHops,
    queue: Vec<u8>,
    /// How much of the queue was handed to the kernel.
    sent: usize,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Ready {
    /// All that waited was handed to the kernel.
    Flushed,
    /// There may be something to read.
    Readable,
    /// It broke.
    Broken(io::Error),
}

impl Link {
    pub(super) fn new(stream: TcpStream, next_hops: NextHops) -> Self {
        // A KEEPALIVE must not wait for the acknowledgement of an UPDATE. Without it the session stands all the same.
        let _ = stream.set_nodelay(true);
        Self { stream, next_hops, queue: Vec::new(), sent: 0 }
    }

    /// Chooses anew where routes lead over it, from the addresses that this node has now.
    ///
    /// # Errors
    /// When the connection broke.
    pub(super) fn choose_next_hops(&mut self, addresses: &[InterfaceAddress]) -> io::Result<NextHops> {
        self.next_hops = next_hops(&self.stream, addresses, self.next_hops)?;
        Ok(self.next_hops)
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.queue.extend_from_slice(bytes);
    }

    /// Hands what waits to the kernel, as far as it takes it; returns whether nothing waits any more.
    ///
    /// # Errors
    /// When the connection broke.
    pub(super) fn write(&mut self) -> io::Result<bool> {
        while let Some(rest @ [_, ..]) = self.queue.get(self.sent..) {
            match self.stream.try_write(rest) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.queue.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Reads what is there; 0 when the router has closed the connection.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, or when the connection broke.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(buffer)
    }

    /// Waits until something can be done. Nothing is lost when this is given up.
    pub(super) async fn ready(&mut self) -> Ready {
        loop {
            let waits = !self.queue.is_empty();
            let interest = if waits { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            match self.stream.ready(interest).await {
                Err(error) => return Ready::Broken(error),
                Ok(ready) if ready.is_readable() || ready.is_read_closed() => return Ready::Readable,
                Ok(_) => match self.write() {
                    Ok(true) => return Ready::Flushed,
                    Ok(false) => {}
                    Err(error) => return Ready::Broken(error),
                },
            }
        }
    }

    /// Sends what is left, for a short time, and closes. The router's side is read until its end, since unread bytes
    /// would turn the end into a reset, which can cost the last message.
    pub(super) async fn close(mut self) {
        let ending = async {
            let rest = self.queue.split_off(self.sent);
            self.stream.write_all(&rest).await?;
            self.stream.shutdown().await?;
            let mut buffer = [0; 4096];
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut buffer) {
                    Ok(0) => return io::Result::Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        };
        if !matches!(tokio::time::timeout(LINGER, ending).await, Ok(Ok(()))) {
            tracing::debug!("connection ended before the router closed it");
        }
    }
}

/// Sets on a connection that the router opened what its listener cannot know.
///
/// # Errors
/// What could not be set, and why.
pub(super) fn adopt(spec: &Spec, stream: &TcpStream) -> anyhow::Result<()> {
    set_ttl(&SockRef::from(stream), stream.peer_addr()?.is_ipv4(), spec.ttl)
}

fn set_ttl(socket: &Socket, is_v4: bool, ttl: Ttl) -> anyhow::Result<()> {
    // One that was accepted has the listener's, which is that of the peers as they were then.
    sys::set_minimum_ttl(socket, is_v4, ttl.least().unwrap_or(0)).context("cannot set the least TTL")?;
    let ttl = match ttl {
        Ttl::Default => return Ok(()),
        Ttl::OneHop => 1,
        Ttl::Security { .. } => u32::from(MOST_HOPS),
    };
    let set = if is_v4 { socket.set_ttl_v4(ttl) } else { socket.set_unicast_hops_v6(ttl) };
    set.context("cannot set the TTL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[(&str, &str)]) -> Vec<InterfaceAddress> {
        let parse = |(interface, network): &(&str, &str)| InterfaceAddress {
            interface: (*interface).to_owned(),
            network: network.parse().unwrap(),
            is_usable: true,
            is_pending: false,
            is_passing: false,
        };
        list.iter().map(parse).collect()
    }

    fn hops(v4: &str, v6: &str, link_local: &str) -> NextHops {
        NextHops { v4: v4.parse().ok(), v6: v6.parse().ok(), link_local: link_local.parse().ok() }
    }

    #[test]
    fn routes_lead_to_the_connection_and_to_the_other_family_of_its_interface() {
        let node = addresses(&[
            ("lo", "127.0.0.1/8"),
            ("lo", "10.0.0.11/32"),
            ("lo", "::1/128"),
            ("lo", "2001:db8:1::11/128"),
            ("eth0", "192.0.2.11/24"),
            ("eth0", "192.0.2.12/24"),
            ("eth0", "fe80::11/64"),
            ("eth0", "2001:db8::11/64"),
            ("eth1", "198.51.100.1/24"),
            ("eth1", "fe80::99/64"),
        ]);
        let all = hops("192.0.2.11", "2001:db8::11", "fe80::11");
        for (local, router, want) in [
            ("192.0.2.11", "192.0.2.1", all),
            ("192.0.2.12", "192.0.2.1", hops("192.0.2.12", "2001:db8::11", "fe80::11")),
            ("2001:db8::11", "2001:db8::1", all),
            ("fe80::11", "fe80::1", all),
            ("::ffff:192.0.2.11", "::ffff:192.0.2.1", all),
            ("192.0.2.11", "203.0.113.1", hops("192.0.2.11", "2001:db8::11", "")),
            ("198.51.100.1", "198.51.100.2", hops("198.51.100.1", "", "fe80::99")),
            ("203.0.113.7", "203.0.113.1", hops("203.0.113.7", "", "")),
            ("2001:db8:1::11", "2001:db8::1", hops("10.0.0.11", "2001:db8:1::11", "")),
            ("10.0.0.11", "192.0.2.1", hops("10.0.0.11", "2001:db8:1::11", "")),
        ] {
            let ends = (local.parse().unwrap(), router.parse().unwrap());
            let found = choose_next_hops(ends, &node, NextHops::default());
            assert_eq!(found, want, "{local} to {router}");
        }
        for (local, router, want) in [
            ("192.0.2.11", "192.0.2.1", true),
            ("::ffff:192.0.2.11", "::ffff:192.0.2.1", true),
            ("2001:db8::11", "2001:db8::1", true),
            ("fe80::11", "fe80::1", true),
            ("192.0.2.11", "198.51.100.2", false),
            ("192.0.2.11", "203.0.113.1", false),
            // From an address of its own that no network of the router has.
            ("10.0.0.11", "192.0.2.1", false),
            ("203.0.113.7", "203.0.113.1", false),
        ] {
            let on_link = is_on_link(local.parse().unwrap(), router.parse().unwrap(), &node);
            assert_eq!(on_link, want, "{local} to {router}");
        }
    }

    #[test]
    fn an_address_that_comes_later_takes_no_routes_with_it() {
        // The kernel names the newest IPv6 address first.
        let mut node = addresses(&[
            ("eth0", "192.0.2.11/24"),
            ("eth0", "2001:db8::99/128"),
            ("eth0", "2001:db8::11/64"),
            ("eth0", "fe80::11/64"),
        ]);
        let ends = ("192.0.2.11".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let choose = |node: &[InterfaceAddress], former| choose_next_hops(ends, node, former);
        let own = hops("192.0.2.11", "2001:db8::11", "fe80::11");
        assert_eq!(choose(&node, NextHops::default()), own, "one without a network is a lent one");
        node.insert(1, addresses(&[("eth0", "2001:db8::1/64")]).remove(0));
        assert_eq!(choose(&node, own), own, "the former one stays");
        let newest = hops("192.0.2.11", "2001:db8::1", "fe80::11");
        assert_eq!(choose(&node, NextHops::default()), newest);
        node[1].is_passing = true;
        assert_eq!(choose(&node, NextHops::default()), own);
        node[1].is_passing = false;
        node[3].is_usable = false;
        assert_eq!(choose(&node, own), newest, "another node has it");
        node.truncate(1);
        assert_eq!(choose(&node, newest), hops("192.0.2.11", "", ""), "it is gone");
    }

    #[test]
    fn flags_of_addresses_are_read_from_the_kernels_table() {
        let table = "fe800000000000000000000000000011 02 40 20 80     eth0\n\
                     20010db8000000000000000000000099 02 80 00 c0     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n";
        let flags = address_flags(table);
        let of = |address: &str, name: &str| {
            flags
                .get(&(address.parse().unwrap(), name.to_owned()))
                .map(|flags| flags & (TENTATIVE | FAILED) != 0)
        };
        assert_eq!(of("fe80::11", "eth0"), Some(false));
        assert_eq!(of("2001:db8::99", "eth0"), Some(true), "it is tentative");
        assert_eq!(of("::1", "lo"), Some(false));
        assert_eq!(of("::1", "eth0"), None);
    }
}
