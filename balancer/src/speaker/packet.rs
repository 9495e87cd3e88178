//! A packet socket: whole Ethernet frames of one EtherType on one interface.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use metallb_proto::layer2::filter::{self, Instruction};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::sys;

/// ARP (RFC 826).
const ETHERTYPE_ARP: u16 = 0x0806;
/// IPv4 (RFC 894).
const ETHERTYPE_IPV4: u16 = 0x0800;
/// IPv6 (RFC 2464).
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Longest frame that is looked at: neighbour messages with options are far shorter.
const FRAME: usize = 2048;

/// A packet socket whose filter passes nothing but what concerns a set of addresses.
///
/// A socket for one EtherType rather than for all: the kernel then does not run the filter on every packet of the
/// node's own traffic. Needs CAP_NET_RAW to be opened, and nothing afterwards.
pub(super) struct PacketSocket {
    socket: AsyncFd<Socket>,
    interface: u32,
    /// The longest filter that the kernel took; halved when it runs short of option memory.
    limit: usize,
}

impl PacketSocket {
    /// Opens a socket for ARP that lets nothing pass yet.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such interface.
    pub(super) fn arp(interface: u32) -> io::Result<Self> {
        Self::open(interface, ETHERTYPE_ARP)
    }

    /// Opens a socket for Neighbor Discovery that lets nothing pass yet.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such interface.
    pub(super) fn ndp(interface: u32) -> io::Result<Self> {
        Self::open(interface, ETHERTYPE_IPV6)
    }

    /// Opens a socket for the UDP packets of a family to `ports`.
    ///
    /// # Errors
    /// What the kernel says: no permission, no such interface.
    pub(super) fn udp(interface: u32, is_v4: bool, ports: &[u16]) -> io::Result<Self> {
        let mut socket = Self::open(interface, if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 })?;
        socket.attach(|_| filter::udp(interface, is_v4, ports))?;
        Ok(socket)
    }

    fn open(interface: u32, ethertype: u16) -> io::Result<Self> {
        // Without a protocol the socket hears nothing until it is bound, when its filter is in place.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        let mut socket = Self { socket: sys::register(socket)?, interface, limit: filter::MAX_INSTRUCTIONS };
        socket.filter_arp(&BTreeSet::new())?;
        socket.socket.get_ref().bind(&sys::packet_address(interface, ethertype)?)?;
        Ok(socket)
    }

    /// Lets the ARP packets about `addresses` pass.
    ///
    /// # Errors
    /// When the kernel refuses even the coarsest filter.
    pub(super) fn filter_arp(&mut self, addresses: &BTreeSet<Ipv4Addr>) -> io::Result<()> {
        let interface = self.interface;
        self.attach(|limit| filter::arp(interface, addresses, limit))
    }

    /// Lets the neighbour messages about `addresses` pass.
    ///
    /// # Errors
    /// When the kernel refuses even the coarsest filter.
    pub(super) fn filter_ndp(&mut self, addresses: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let interface = self.interface;
        self.attach(|limit| filter::ndp(interface, addresses, limit))
    }

    fn attach(&mut self, program: impl Fn(usize) -> Vec<Instruction>) -> io::Result<()> {
        loop {
            let instructions: Vec<SockFilter> = program(self.limit)
                .into_iter()
                .map(|Instruction { code, jump_true, jump_false, operand }| {
                    SockFilter::new(code, jump_true, jump_false, operand)
                })
                .collect();
            match self.socket.get_ref().attach_filter(&instructions) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && instructions.len() > 64 => {
                    self.limit = instructions.len() / 2;
                }
                result => return result,
            }
        }
    }

    /// Waits for frames, hands each to `see` and collects what that returns; at most 64, so that others get their turn.
    ///
    /// # Errors
    /// When the socket broke: the interface is gone. `ENETDOWN` is no error; such a socket hears again later.
    pub(super) async fn receive<T>(&self, mut see: impl FnMut(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        let mut ready = self.socket.readable().await?;
        let mut buffer = [0; FRAME];
        let mut seen = vec![];
        for _ in 0..64 {
            match ready.try_io(|socket| socket.get_ref().read(&mut buffer)) {
                Ok(Ok(length)) => seen.extend(see(buffer.get(..length).unwrap_or_default())),
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(seen)
    }

    /// Sends one frame, unless the interface cannot take it now. Tells whether it went.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        match self.socket.get_ref().write(frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // The queue of the interface is full, and not that of the socket.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            result => result.map(|_| true),
        }
    }
}
