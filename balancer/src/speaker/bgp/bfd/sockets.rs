//! Sockets of BFD sessions: RFC 5881 §4 and RFC 5883 §5.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use metallb_proto::bfd::wire::{MULTIHOP_PORT, SINGLE_HOP_PORT, TRAFFIC_CLASS, TTL};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::{Device, Reach};

/// Ports of this end (RFC 5881 §4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Source ports that are tried before giving up.
const ATTEMPTS: usize = 64;
/// Longest packet that is read: a control packet with authentication has less.
const LONGEST: usize = 256;

/// Where packets arrive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListenAt {
    pub(super) is_v4: bool,
    pub(super) port: u16,
    pub(super) device: Option<Device>,
}

impl ListenAt {
    /// Where the packets of a session arrive.
    pub(super) fn of(reach: &Reach) -> Self {
        Self { is_v4: reach.router.is_ipv4(), port: port(reach.is_multihop), device: reach.device.clone() }
    }
}

/// A datagram that arrived.
pub(super) struct Arrival {
    pub(super) at: ListenAt,
    /// The sender; its scope is the interface where the address is link-local.
    pub(super) from: SocketAddr,
    pub(super) ttl: u8,
    pub(super) bytes: Vec<u8>,
}

impl Arrival {
    /// Whether it may be of a session with this path: sent by its router, and arrived where packets of it arrive. Of two
    /// routers with one link-local address, the interface tells which it is.
    pub(super) fn is_from(&self, reach: &Reach) -> bool {
        let scope = |address: &SocketAddr| match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        let (wanted, router) = (scope(&reach.router), reach.router.ip());
        router == self.from.ip()
            && (wanted == 0 || wanted == scope(&self.from))
            && ListenAt::of(reach) == self.at
    }
}

impl Reach {
    /// Whether two sessions over these paths are one to the router.
    pub(super) fn is_between_ends_of(&self, other: &Self) -> bool {
        let ends = |reach: &Self| (reach.local.ip(), reach.router.ip());
        ends(self) == ends(other) && ListenAt::of(self) == ListenAt::of(other)
    }
}

/// Port to which packets of a session go.
pub(super) fn port(is_multihop: bool) -> u16 {
    if is_multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT }
}

fn udp(is_v4: bool, device: Option<&Device>) -> io::Result<Socket> {
    let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if !is_v4 {
        socket.set_only_v6(true)?;
    }
    if let Some(device) = device {
        socket.bind_device(Some(device.name.as_bytes()))?;
    }
    Ok(socket)
}

/// A socket on which packets of all sessions of a kind arrive.
///
/// Ours have the port alone, so that another program there is noticed, whichever comes first. They share it with each
/// other, `beside` are those that have it already: the kernel delivers to the socket of the interface before that of none.
pub(super) fn listen(at: &ListenAt, beside: &[&Socket]) -> io::Result<Socket> {
    let socket = udp(at.is_v4, at.device.as_ref())?;
    let any: IpAddr = if at.is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    if at.is_v4 {
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    // The kernel asks for it when a socket is bound, and not afterwards.
    let share = |shares: bool| {
        let mut ours = beside.iter().copied().chain([&socket]);
        ours.try_for_each(|socket| socket.set_reuse_address(shares))
    };
    share(!beside.is_empty())?;
    let bound = socket.bind(&SocketAddr::new(any, at.port).into());
    share(false)?;
    bound?;
    Ok(socket)
}

/// A socket for one session, with a source port of its own.
pub(super) fn sending(reach: &Reach) -> anyhow::Result<Socket> {
    let is_v4 = reach.router.is_ipv4();
    let socket = udp(is_v4, reach.device.as_ref())?;
    if is_v4 {
        socket.set_ttl_v4(TTL.into())?;
        socket.set_tos_v4(TRAFFIC_CLASS.into())?;
    } else {
        socket.set_unicast_hops_v6(TTL.into())?;
        socket.set_tclass_v6(TRAFFIC_CLASS.into())?;
    }
    let mut bound = reach.local;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        bound.set_port(rand::random_range(SOURCE_PORTS));
        match socket.bind(&bound.into()) {
            Ok(()) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    let last = last.map_or_else(String::new, |error| error.to_string());
    anyhow::bail!("BFD cannot send from {}: {last}", reach.local.ip())
}

/// Passes on what arrives, until nobody takes it.
pub(super) async fn receive(socket: AsyncFd<Socket>, at: ListenAt, arrive: mpsc::Sender<Arrival>) {
    loop {
        let Ok(mut guard) = socket.readable().await else { return };
        match guard.try_io(|socket| read(socket.get_ref())) {
            Ok(Ok((from, ttl, bytes))) => {
                // A full backlog drops what comes, as the kernel would.
                let _ = arrive.try_send(Arrival { at: at.clone(), from, ttl, bytes });
            }
            Ok(Err(error)) => tracing::debug!(%error, "BFD socket"),
            Err(_would_block) => {}
        }
    }
}

/// One datagram: where it is from, the TTL with which it arrived, and its bytes.
fn read(socket: &Socket) -> io::Result<(SocketAddr, u8, Vec<u8>)> {
    let mut bytes = vec![0; LONGEST];
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let ttl = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => u8::try_from(ttl).ok(),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
        let v6 =
            |v6: &SockaddrIn6| SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()).into();
        v4.or_else(|| address.as_sockaddr_in6().map(v6))
    });
    let length = message.bytes;
    let (Some(ttl), Some(from)) = (ttl, from) else { return Err(io::Error::other("no TTL or no sender")) };
    bytes.truncate(length);
    Ok((from, ttl, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shown with UDP sockets on loopback: the port of BFD itself may be in use.
    #[test]
    fn sockets_of_two_interfaces_share_a_port_and_another_program_is_noticed() {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let anywhere = ListenAt { is_v4: true, port, device: None };
        let bound = ListenAt { device: Some(Device::named("lo")), ..anywhere };
        let in_use = |bound: io::Result<()>| {
            assert_eq!(bound.map_err(|error| error.kind()), Err(io::ErrorKind::AddrInUse));
        };
        in_use(listen(&anywhere, &[]).map(drop));
        in_use(listen(&bound, &[]).map(drop));
        drop(other);

        // Also one that comes later and would share the port.
        let greedy = || {
            let other = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
            other.set_reuse_address(true).unwrap();
            other.bind(&SocketAddr::from(([0; 4], port)).into())
        };
        let first = listen(&anywhere, &[]).unwrap();
        in_use(greedy());
        in_use(listen(&bound, &[]).map(drop));
        let second = listen(&bound, &[&first]).unwrap();
        in_use(greedy());
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"packet", ("127.0.0.1", port)).unwrap();
        second.set_nonblocking(false).unwrap();
        second.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let (from, _ttl, bytes) = read(&second).unwrap();
        assert_eq!((from, &bytes[..]), (sender.local_addr().unwrap(), &b"packet"[..]));
        assert_eq!(read(&first).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
    #[test]
    fn of_two_routers_with_one_link_local_address_the_interface_tells() {
        let on = |scope: u32, port: u16| {
            SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, scope))
        };
        let reach = |router: SocketAddr| Reach { local: router, router, device: None, is_multihop: false };
        let arrival =
            |from: SocketAddr| Arrival { at: ListenAt::of(&reach(from)), from, ttl: 255, bytes: vec![] };
        assert!(arrival(on(2, 49_152)).is_from(&reach(on(2, 179))));
        assert!(!arrival(on(3, 49_152)).is_from(&reach(on(2, 179))));
        assert!(arrival(on(3, 49_152)).is_from(&reach(on(0, 179))), "nobody knows where the router is");
        assert!(
            !Arrival { at: ListenAt { port: 1, ..arrival(on(2, 1)).at }, ..arrival(on(2, 1)) }
                .is_from(&reach(on(2, 179)))
        );
        let v4 = |last: u8| SocketAddr::from(([192, 0, 2, last], 179));
        assert!(arrival(v4(1)).is_from(&reach(v4(1))));
        assert!(!arrival(v4(2)).is_from(&reach(v4(1))));
    }
}
