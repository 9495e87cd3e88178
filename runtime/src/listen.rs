//! Where servers listen.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// All addresses of both families, where the host has both.
#[must_use]
pub fn any(port: u16) -> SocketAddr {
    match std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_of_the_host_reaches_a_server_that_listens_anywhere() {
        let listener = std::net::TcpListener::bind(any(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        for family in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
            // A host without the family has no address to reach.
            if std::net::TcpListener::bind((family, 0)).is_ok() {
                std::net::TcpStream::connect((family, port)).unwrap();
            }
        }
    }
}
