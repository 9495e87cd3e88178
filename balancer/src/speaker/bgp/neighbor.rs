//! The router at the other end of an interface: found by its router advertisements (RFC 4861), and told of this node by
//! ours. They have the router lifetime 0, so that nobody takes this node for a default router.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_proto::bgp::unnumbered;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

use crate::speaker::{sleep_until, sys};

/// All nodes and all routers on a link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Hop limit of what does not leave the link (RFC 4861 §6.1.2).
const ON_LINK: u32 = 255;
/// Times between advertisements: short at first (RFC 4861 §6.2.4), then as FRR does it.
const FIRST: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);
const FIRST_COUNT: u32 = 3;
/// Pause before an interface that is not there is looked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest message that is looked at.
const LONGEST: usize = 1500;

/// Looks for the router on `interface` for as long as anybody wants to know.
pub(super) async fn follow(interface: String, found: watch::Sender<Option<SocketAddrV6>>) {
    let mut last = String::new();
    while !found.is_closed() {
        if let Err(error) = serve(&interface, &found).await {
            let error = format!("{error:#}");
            if error != last {
                tracing::warn!(interface, error, "no router can be found on the interface");
                last = error;
            }
        }
        found.send_replace(None);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn serve(interface: &str, found: &watch::Sender<Option<SocketAddrV6>>) -> anyhow::Result<()> {
    let index = if_nametoindex(interface).context("there is no such interface")?;
    let socket = sys::register(open(interface, index)?)?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, index).into();
    let routers = SocketAddrV6::new(ALL_ROUTERS, 0, 0, index).into();
    let (mut sent, mut next) = (0, Instant::now());
    loop {
        tokio::select! {
            () = found.closed() => return Ok(()),
            () = sleep_until(Some(next)) => {
                socket.get_ref().send_to(&unnumbered::advertisement(), &to).context("cannot advertise this node")?;
                // A router need not advertise itself again before an attempt to find it is over.
                if sent < FIRST_COUNT && found.borrow().is_none() {
                    socket.get_ref().send_to(&unnumbered::solicitation(), &routers).context("cannot ask for routers")?;
                }
                sent += 1;
                next = Instant::now() + if sent < FIRST_COUNT { FIRST } else { LATER };
            }
            ready = socket.readable() => {
                let mut ready = ready?;
                let Ok(read) = ready.try_io(|socket| read(socket.get_ref())) else { continue };
                let Some(router) = read? else { continue };
                let address = SocketAddrV6::new(router, 0, 0, index);
                found.send_if_modified(|former| former.replace(address) != Some(address));
            }
        }
    }
}

fn open(interface: &str, index: u32) -> anyhow::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(ON_LINK)?;
    socket.set_multicast_loop_v6(false)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    Ok(socket)
}

/// The sender of the next message, where that is a router advertisement of this link.
fn read(socket: &Socket) -> io::Result<Option<Ipv6Addr>> {
    let mut bytes = vec![0; LONGEST];
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let hop_limit = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::Ipv6HopLimit(limit) => u8::try_from(limit).ok(),
        _ => None,
    });
    let from = message.address.and_then(|address| Some(address.as_sockaddr_in6()?.ip()));
    let length = message.bytes;
    bytes.truncate(length);
    let (Some(from), Some(hop_limit)) = (from, hop_limit) else { return Ok(None) };
    Ok(unnumbered::is_advertisement(&bytes, from, hop_limit).then_some(from))
}
