//! The multicast groups of an interface's IPv6 addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;

use socket2::{Domain, Protocol, Socket, Type};

/// Membership in solicited-node groups, by the kernel, so that it also tells switches about them (RFC 3810).
#[derive(Default)]
pub(super) struct Groups {
    /// Each socket takes as many groups as its option memory allows.
    sockets: Vec<Socket>,
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl Groups {
    /// Leaves everything, so that what is wanted is joined anew.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Joins what is wanted, and leaves the rest.
    ///
    /// # Errors
    /// The first of those for which groups were not joined; all others are.
    pub(super) fn set(&mut self, interface: u32, wanted: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let gone: Vec<Ipv6Addr> =
            self.joined.keys().filter(|group| !wanted.contains(*group)).copied().collect();
        for group in gone {
            if let Some(socket) = self.joined.remove(&group).and_then(|at| self.sockets.get(at)) {
                // Fails when the interface is gone, and the membership with it.
                let _ = socket.leave_multicast_v6(&group, interface);
            }
        }
        let mut result = Ok(());
        for group in wanted {
            if !self.joined.contains_key(group) {
                result = result.and(self.join(interface, *group));
            }
        }
        result
    }

    fn join(&mut self, interface: u32, group: Ipv6Addr) -> io::Result<()> {
        if let Some(socket) = self.sockets.last()
            && socket.join_multicast_v6(&group, interface).is_ok()
        {
            self.joined.insert(group, self.sockets.len() - 1);
            return Ok(());
        }
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.join_multicast_v6(&group, interface)?;
        self.joined.insert(group, self.sockets.len());
        self.sockets.push(socket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_cannot_be_joined_keeps_no_other_from_it() {
        let interface = nix::net::if_::if_nametoindex("lo").unwrap();
        let mut groups = Groups::default();
        // No multicast address: the kernel refuses it.
        let refused: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let wanted = ["ff02::1:ff00:1", "ff02::1:ff00:2"].map(|group| group.parse().unwrap());
        let all: BTreeSet<Ipv6Addr> = wanted.into_iter().chain([refused]).collect();
        assert_eq!(all.first(), Some(&refused), "it comes first");
        groups.set(interface, &all).unwrap_err();
        assert_eq!(groups.joined.keys().copied().collect::<Vec<_>>(), wanted);
        groups.set(interface, &wanted.into()).unwrap();
    }
}
