//! The one place with unsafe code.
#![allow(unsafe_code, reason = "no crate offers a safe function for these calls")]

use std::io;
use std::os::fd::AsRawFd;

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

/// Room for the key of a TCP MD5 signature, in bytes.
pub(super) const MD5_KEY_LIMIT: usize = libc::TCP_MD5SIG_MAXKEYLEN;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MD5_KEY_LIMIT],
}

/// Signs the segments to `peer` with `key`, and drops those from it that are not (RFC 2385). An empty key ends that.
///
/// # Errors
/// When the key is longer than [`MD5_KEY_LIMIT`], or what the kernel says.
pub(super) fn set_md5_key(socket: &Socket, peer: &SockAddr, key: &[u8]) -> io::Result<()> {
    let mut room = [0; MD5_KEY_LIMIT];
    let too_long = || {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a password has at most {MD5_KEY_LIMIT} bytes"))
    };
    room.get_mut(..key.len()).ok_or_else(too_long)?.copy_from_slice(key);
    let mut option = TcpMd5Sig {
        // SAFETY: `sockaddr_storage` is made of integers, for which all zeroes are a value.
        address: unsafe { std::mem::zeroed() },
        flags: 0,
        prefix_length: 0,
        key_length: u16::try_from(key.len()).map_err(io::Error::other)?,
        interface: 0,
        key: room,
    };
    // SAFETY: both are valid for `peer.len()` bytes, which is at most the size of a `sockaddr_storage`, and do not
    // overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            peer.as_ptr().cast::<u8>(),
            (&raw mut option.address).cast::<u8>(),
            peer.len() as usize,
        );
    }
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option)
}

/// Drops segments that arrive with a lower TTL or hop limit (GTSM, RFC 5082 §3).
///
/// # Errors
/// What the kernel says.
pub(super) fn set_minimum_ttl(socket: &Socket, is_v4: bool, ttl: u8) -> io::Result<()> {
    let (level, name) = if is_v4 {
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT)
    };
    set_option(socket, level, name, &libc::c_int::from(ttl))
}

/// Sets a socket option whose value the kernel reads as `T`, a plain structure of the kernel's interface.
fn set_option<T>(socket: &Socket, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes at `value`, which is exactly the value.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
