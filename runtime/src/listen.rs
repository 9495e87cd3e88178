//! Where servers listen.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// All addresses of both families, where the host has both.
#[must_use]
pub fn any(port: u16) -> SocketAddr {
    match bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))) {
        Ok(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

/// Listens on `address`, and on `[::]` for IPv4 too, whatever the host's `net.ipv6.bindv6only` says.
///
/// # Errors
/// What the kernel says.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpStream};

    use super::*;

    #[test]
    fn every_family_of_the_host_reaches_a_server_that_listens_anywhere() {
        let listener = bind(any(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for family in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            // A host without the family has no address to reach.
            if TcpListener::bind((family, 0)).is_ok() {
                TcpStream::connect((family, port)).unwrap();
            }
        }
    }

    #[test]
    fn both_families_are_asked_for_whatever_the_host_prefers() {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        // A host without IPv6 has nothing to ask.
        if let Ok(listener) = bind(address) {
            assert!(!Socket::from(listener).only_v6().unwrap());
        }
    }
}
