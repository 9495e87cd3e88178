//! What a connection of this node is bound to, and the routing table that this means: one address may be another router in
//! another VRF.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_indextoname;

/// By inode, the index of the interface that an established TCP connection is bound to; 0 for none.
///
/// # Errors
/// When the kernel does not tell (sock_diag(7)).
pub(super) fn interfaces() -> io::Result<BTreeMap<u64, u32>> {
    let mut bound = BTreeMap::new();
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        dump(&question(family, any), &mut bound)?;
    }
    Ok(bound)
}

fn dump(question: &[u8], bound: &mut BTreeMap<u64, u32>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(question, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    bound.insert(found.header.inode.into(), found.header.socket_id.interface_id);
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four (RFC 3549 §2.3.2).
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}

fn question(family: u8, socket_id: SocketId) -> Vec<u8> {
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The VRF that packets of an interface are routed by; `None` for the main table.
pub(super) fn vrf_of(interface: &str) -> Option<String> {
    let is_vrf = |name: &str| {
        let told = fs::read_to_string(format!("/sys/class/net/{name}/uevent"));
        told.is_ok_and(|told| told.lines().any(|line| line == "DEVTYPE=vrf"))
    };
    if is_vrf(interface) {
        return Some(interface.to_owned());
    }
    let master = fs::read_link(format!("/sys/class/net/{interface}/master")).ok()?;
    let master = master.file_name()?.to_str()?;
    // A port of a bridge is routed as the bridge is.
    if is_vrf(master) { Some(master.to_owned()) } else { vrf_of(master) }
}

/// The name of an interface; `None` for 0, and for one that is gone.
pub(super) fn name(index: u32) -> Option<String> {
    // Of 0 it is empty.
    if_indextoname(index).ok()?.into_string().ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
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
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        assert_eq!((found.get(&inode(&free)), found.get(&inode(&bound))), (Some(&0), Some(&lo)));
        assert_eq!((name(lo).as_deref(), name(0)), (Some("lo"), None));
        assert_eq!((vrf_of("lo"), vrf_of("nowhere")), (None, None));
    }
}
