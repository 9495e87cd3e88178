//! Which interfaces may announce, decided over netlink messages.
//!
//! The shell hands on what `rtnetlink(7)` says; the same messages, recorded, are the tests for kinds of links that
//! a kernel may lack. An interface is excluded by its name, never by its kind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use regex::RegexSet;

use super::MacAddress;
use super::route::DefaultRoutes;

/// Every link of the node and its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, BTreeSet<IpNet>>,
    routes: DefaultRoutes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    name: String,
    mac: Option<MacAddress>,
    ethernet: bool,
    up: bool,
    carrier: bool,
    broadcast: bool,
    noarp: bool,
    master: Option<u32>,
}

/// An interface that may announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Its own link-layer address.
    pub mac: MacAddress,
    /// Whether the link has carrier.
    pub carrier: bool,
    /// Whether it can speak IPv6: it has a link-local address.
    pub ipv6: bool,
}

/// Why an interface may not announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Ineligible {
    /// Its name matches the exclude list.
    #[error("excluded by name")]
    Excluded,
    /// Administratively down.
    #[error("down")]
    Down,
    /// Port of a bond, a bridge or another master, which announces in its place.
    #[error("port of another interface")]
    Port,
    /// Does not resolve addresses.
    #[error("does not use ARP")]
    NoArp,
    /// No broadcast medium.
    #[error("no broadcast")]
    NoBroadcast,
    /// Not Ethernet, or without a link-layer address.
    #[error("not Ethernet")]
    NotEthernet,
}

/// Patterns of interface names that never announce.
#[derive(Debug, Clone)]
pub struct Exclude(RegexSet);

impl Exclude {
    /// Compiles regular expressions, matched anywhere in a name.
    ///
    /// # Errors
    /// The first pattern that is no regular expression.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, regex::Error> {
        RegexSet::new(patterns).map(Self)
    }

    /// Whether an interface of this name never announces.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl Links {
    /// Takes one message in; messages of other kinds change nothing. Returns whether anything changed.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> bool {
        self.take(message, false)
    }

    /// The same for a message with flag `NLM_F_REPLACE`: its route is in the place of one that is not told of.
    pub fn replace(&mut self, message: &RouteNetlinkMessage) -> bool {
        self.take(message, true)
    }

    fn take(&mut self, message: &RouteNetlinkMessage, replaces: bool) -> bool {
        match message {
            // Messages of a family tell of a link's part in a bridge; "deleted" then means that it left the bridge.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family != AddressFamily::Unspec =>
            {
                false
            }
            RouteNetlinkMessage::NewLink(message) => {
                // The kernel drops the routes of a link that goes down, and says so for IPv6 only.
                let up = message.header.flags.contains(LinkFlags::Up);
                let dropped = !up && self.routes.drop_link(message.header.index);
                self.add_link(message) || dropped
            }
            RouteNetlinkMessage::DelLink(message) => {
                self.addresses.remove(&message.header.index);
                self.routes.drop_link(message.header.index);
                self.links.remove(&message.header.index).is_some()
            }
            RouteNetlinkMessage::NewAddress(message) => address(message).is_some_and(|address| {
                self.addresses.entry(message.header.index).or_default().insert(address)
            }),
            RouteNetlinkMessage::DelAddress(message) => address(message).is_some_and(|address| {
                self.addresses.get_mut(&message.header.index).is_some_and(|held| held.remove(&address))
            }),
            RouteNetlinkMessage::NewRoute(route) => self.routes.add(route, replaces),
            RouteNetlinkMessage::DelRoute(route) => self.routes.remove(route),
            _ => false,
        }
    }

    /// The indexes of the interfaces that the default route of the family of `address` goes through: of several, the one
    /// with the least metric.
    pub fn default_route(&self, address: IpAddr) -> BTreeSet<u32> {
        self.routes.interfaces(address.is_ipv6())
    }

    /// The interfaces that may announce, by index.
    pub fn eligible(&self, exclude: &Exclude) -> BTreeMap<u32, Interface> {
        self.verdicts(exclude)
            .filter_map(|(_, _, verdict)| verdict.ok())
            .map(|interface| (interface.index, interface))
            .collect()
    }

    /// Every interface by index and name with what it is good for, or why it is good for nothing.
    pub fn verdicts<'a>(
        &'a self,
        exclude: &'a Exclude,
    ) -> impl Iterator<Item = (u32, &'a str, Result<Interface, Ineligible>)> + 'a {
        self.links
            .iter()
            .map(|(index, link)| (*index, link.name.as_str(), self.verdict(*index, link, exclude)))
    }

    /// The link-layer addresses under which this node may answer for an IP address: none of them is a rival. Ports of
    /// pods, which have no address beyond a link-local one, come and go and answer for nothing.
    pub fn macs(&self, exclude: &Exclude) -> BTreeSet<MacAddress> {
        let answers = |index: &u32, link: &Link| {
            self.addresses(*index).any(|net| !matches!(net.addr(), IpAddr::V6(ip) if link_local(ip)))
                || self.verdict(*index, link, exclude).is_ok()
        };
        self.links
            .iter()
            .filter(|(index, link)| answers(index, link))
            .filter_map(|(_, link)| link.mac)
            .collect()
    }

    /// Index of the interface that has `address`.
    pub fn interface_with(&self, address: IpAddr) -> Option<u32> {
        let holds = |nets: &BTreeSet<IpNet>| nets.iter().any(|net| net.addr() == address);
        self.addresses.iter().find(|(_, nets)| holds(nets)).map(|(index, _)| *index)
    }

    /// Whether an interface is there and can send and receive.
    pub fn has_carrier(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up && link.carrier)
    }

    /// The addresses of an interface, with their prefix lengths.
    pub fn addresses(&self, index: u32) -> impl Iterator<Item = IpNet> + '_ {
        self.addresses.get(&index).into_iter().flatten().copied()
    }

    fn verdict(&self, index: u32, link: &Link, exclude: &Exclude) -> Result<Interface, Ineligible> {
        if exclude.matches(&link.name) {
            return Err(Ineligible::Excluded);
        }
        if !link.up {
            return Err(Ineligible::Down);
        }
        if link.master.is_some() {
            return Err(Ineligible::Port);
        }
        if link.noarp {
            return Err(Ineligible::NoArp);
        }
        if !link.broadcast {
            return Err(Ineligible::NoBroadcast);
        }
        let mac = link.mac.filter(|_| link.ethernet).ok_or(Ineligible::NotEthernet)?;
        let ipv6 = self.addresses(index).any(|net| matches!(net.addr(), IpAddr::V6(ip) if link_local(ip)));
        Ok(Interface { index, name: link.name.clone(), mac, carrier: link.carrier, ipv6 })
    }

    fn add_link(&mut self, message: &LinkMessage) -> bool {
        let flags = message.header.flags;
        let mut link = Link {
            name: String::new(),
            mac: None,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            broadcast: flags.contains(LinkFlags::Broadcast),
            noarp: flags.contains(LinkFlags::Noarp),
            master: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    let mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                    link.mac = mac.filter(|bytes| *bytes != [0; 6]).map(MacAddress);
                }
                // Zero says that there is no master.
                LinkAttribute::Controller(index) => link.master = (*index != 0).then_some(*index),
                _ => {}
            }
        }
        self.links.insert(message.header.index, link.clone()).as_ref() != Some(&link)
    }
}

fn address(message: &AddressMessage) -> Option<IpNet> {
    // On IPv4 point-to-point links `Address` is the peer's and `Local` this node's own.
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => found = Some(*ip),
            AddressAttribute::Address(ip) => found = found.or(Some(*ip)),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

fn link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
