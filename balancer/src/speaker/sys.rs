//! The one place with unsafe code: what no crate offers a safe function for.
#![allow(unsafe_code)]

use std::io;

use socket2::{SockAddr, Socket};
use tokio::io::unix::AsyncFd;

/// The link-layer address (`packet(7)`) that binds a packet socket to one interface and one EtherType.
///
/// # Errors
/// None; the signature is that of the constructor of the address.
pub(super) fn packet_address(interface: u32, ethertype: u16) -> io::Result<SockAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `storage` points to a `sockaddr_storage`, which is at least as large and as aligned as every socket
    // address, and `length` is set to the size of what is written there.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Registers a socket with the runtime of the calling thread.
///
/// # Errors
/// What the kernel says.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, gives the same one each time it is asked, and closes it when it is
    // dropped, which is after the registration in an `AsyncFd` has ended.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}
