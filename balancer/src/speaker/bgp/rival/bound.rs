//! What a connection of this node is bound to, and the routing table that this means: one address may be another router in
//! another VRF. Asked of the kernel, each time anew.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};

/// By inode, the index of the interface that an established TCP connection is bound to; 0 for none.
///
/// # Errors
/// When the kernel does not tell (sock_diag(7)).
pub(super) fn interfaces() -> io::Result<BTreeMap<u64, u32>> {
    let mut bound = BTreeMap::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let question = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::ESTABLISHED,
            socket_id,
        });
        dump(NETLINK_SOCK_DIAG, question, |answer| {
            if let SockDiagMessage::InetResponse(found) = answer {
                bound.insert(found.header.inode.into(), found.header.socket_id.interface_id);
            }
        })?;
    }
    Ok(bound)
}

/// The links of this node, by index.
#[derive(Default)]
pub(super) struct Links(BTreeMap<u32, Link>);

struct Link {
    name: String,
    is_vrf: bool,
    master: Option<u32>,
}

impl Links {
    /// # Errors
    /// When the kernel does not tell (rtnetlink(7)).
    pub(super) fn read() -> io::Result<Self> {
        let mut links = BTreeMap::new();
        dump(NETLINK_ROUTE, RouteNetlinkMessage::GetLink(LinkMessage::default()), |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                links.insert(message.header.index, link(&message));
            }
        })?;
        Ok(Self(links))
    }

    /// Index of the interface of this name.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(_, link)| link.name == name).map(|(index, _)| *index)
    }

    /// The VRF that packets of an interface are routed by; `None` for the main table, as of 0, which is no interface.
    pub(super) fn vrf_of(&self, index: u32) -> Option<u32> {
        let link = self.0.get(&index)?;
        // A port of a bridge is routed as the bridge is. No link is its own master, by whatever way.
        if link.is_vrf { Some(index) } else { self.vrf_of(link.master?) }
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link { name: String::new(), is_vrf: false, master: None };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkInfo(infos) => link.is_vrf = infos.contains(&LinkInfo::Kind(InfoKind::Vrf)),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            _ => {}
        }
    }
    link
}

/// Asks for all there is of something, and hands each answer on.
fn dump<M>(protocol: isize, question: M, mut each: impl FnMut(M)) -> io::Result<()>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(found) => each(found),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four (RFC 3549 §2.3.2).
            let length = usize::try_from(message.header.length).unwrap_or_default().next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_connection_tells_what_it_is_bound_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let free = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind_device(Some(b"lo")).unwrap();
        bound.connect(&listener.local_addr().unwrap().into()).unwrap();
        let inode = |socket: &dyn AsRawFd| {
            let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
            super::super::inode(link.to_str().unwrap()).unwrap()
        };
        let found = interfaces().unwrap();
        let links = Links::read().unwrap();
        let lo = links.index("lo").unwrap();
        assert_eq!((found.get(&inode(&free)), found.get(&inode(&bound))), (Some(&0), Some(&lo)));
        assert_eq!((links.vrf_of(lo), links.vrf_of(0), links.index("nowhere")), (None, None, None));
    }

    #[test]
    fn a_port_is_routed_as_its_masters_are() {
        let links = [
            ("red", true, None),
            ("bridge", false, Some(1)),
            ("port", false, Some(2)),
            ("eth0", false, None),
        ];
        let links =
            (1..).zip(links.map(|(name, is_vrf, master)| Link { name: name.to_owned(), is_vrf, master }));
        let links = Links(links.collect());
        let vrf = |name: &str| links.index(name).and_then(|index| links.vrf_of(index));
        assert_eq!(["red", "bridge", "port", "eth0"].map(vrf), [Some(1), Some(1), Some(1), None]);
    }
}
