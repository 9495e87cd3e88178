//! Echo packets (RFC 5881 §4). They go out and are taken in by packet sockets: to the kernel they are this node's own, so
//! that it would neither send them to the router nor believe that they came from there.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use metallb_core::config::BfdProfile;
use metallb_proto::bfd::echo::{self, Ends, Frame};
use metallb_proto::bfd::wire::{ECHO_PORT, SINGLE_HOP_PORT};
use metallb_proto::layer2::MacAddress;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Reach;
use crate::speaker::bgp::link::interface_of;
use crate::speaker::packet::PacketSocket;

/// Where echo packets go out and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct At {
    interface: u32,
    is_v4: bool,
}

/// A frame that arrived.
pub(super) struct Heard {
    pub(super) at: At,
    pub(super) frame: Frame,
}

/// A socket that several sessions share.
struct Link {
    socket: Arc<PacketSocket>,
    task: AbortOnDropHandle<()>,
}

/// All sockets that sessions use.
pub(super) struct Links {
    links: HashMap<At, Weak<Link>>,
    heard: mpsc::Sender<Heard>,
}

/// The way of one session's echo packets.
pub(super) struct Path {
    link: Arc<Link>,
    pub(super) at: At,
    /// The ends of the link, once a control packet of the router showed them.
    pub(super) ends: Option<Ends>,
    /// Hears where the router is, once that was in doubt.
    search: Option<Search>,
    /// Where that is told.
    heard: mpsc::Sender<Heard>,
}

/// Hears what a router says of where it is on the link.
struct Search {
    /// The link-layer address of this end.
    own: MacAddress,
    socket: Arc<PacketSocket>,
    task: AbortOnDropHandle<()>,
}

impl Path {
    /// Sends a packet that the router is to send back to `own`.
    pub(super) fn send(&self, own: IpAddr, payload: &[u8]) -> std::io::Result<()> {
        match self.ends {
            Some(ends) => self.link.socket.send(&echo::encode(ends, own, payload)).map(drop),
            None => Ok(()),
        }
    }

    /// Asks where the router is on the link, by a socket of its own: what the router answers, and what it asks of its own
    /// accord, is heard from then on.
    ///
    /// # Errors
    /// When there can be no such socket, or it does not send.
    pub(super) fn look_up(&mut self, own: IpAddr, router: IpAddr) -> std::io::Result<()> {
        let Some(former) = self.ends else { return Ok(()) };
        // A wrong word of where this end is would be believed, too.
        let ends = Ends { own: mac_of(self.at.interface)?.unwrap_or(former.own), ..former };
        self.ends = Some(ends);
        let Some(question) = echo::question(ends, own, router) else { return Ok(()) };
        let known = self.search.take().filter(|search| search.own == ends.own && !search.task.is_finished());
        let search = match known {
            Some(search) => search,
            None => Search::open(self.at, ends.own, router, self.heard.clone())?,
        };
        self.search.insert(search).socket.send(&question).map(drop)
    }
}

impl Search {
    fn open(at: At, own: MacAddress, router: IpAddr, heard: mpsc::Sender<Heard>) -> std::io::Result<Self> {
        let socket = match router {
            IpAddr::V4(router) => {
                let mut socket = PacketSocket::arp(at.interface)?;
                socket.filter_arp(&BTreeSet::from([router]))?;
                socket
            }
            IpAddr::V6(router) => {
                let mut socket = PacketSocket::ndp(at.interface)?;
                socket.filter_ndp(&BTreeSet::from([router]))?;
                socket
            }
        };
        let socket = Arc::new(socket);
        let decode = move |bytes: &[u8]| echo::decode_neighbor(own, bytes);
        let task = tokio::spawn(receive(Arc::clone(&socket), at, decode, heard));
        Ok(Self { own, socket, task: AbortOnDropHandle::new(task) })
    }
}

/// What a session makes of the echo function.
#[derive(Default)]
pub(super) struct Use {
    /// The way of its own packets, where the profile asks for any.
    pub(super) path: Option<Path>,
    /// Shortest time between the router's, where this node sends them back.
    pub(super) accepts: Duration,
}

impl Links {
    pub(super) fn new(heard: mpsc::Sender<Heard>) -> Self {
        Self { links: HashMap::new(), heard }
    }

    /// What a session over a path makes of echo packets: nothing unless the profile asks for it, and nothing
    /// across routers (RFC 5883 §5).
    ///
    /// # Errors
    /// Why no packets can be sent.
    pub(super) fn of(&mut self, reach: &Reach, profile: &BfdProfile) -> anyhow::Result<Use> {
        if !profile.echo_mode || reach.is_multihop {
            return Ok(Use::default());
        }
        let own = reach.local.ip().to_canonical();
        let name = interface_of(own)?.with_context(|| format!("{own} is on no interface"))?;
        if let Some(device) = reach.device.as_ref().map(|device| device.name.as_str()) {
            // Another interface may have the same address in another VRF.
            let master = std::fs::read_link(format!("/sys/class/net/{name}/master")).ok();
            let is_there = name == device || master.is_some_and(|master| master.ends_with(device));
            anyhow::ensure!(is_there, "{own} is on {name:?}, too, which is not of {device:?}");
        }
        let interface = if_nametoindex(name.as_str())?;
        let at = At { interface, is_v4: own.is_ipv4() };
        let link = self.link(at).with_context(|| format!("no packet socket on {name:?}"))?;
        let accepts = if forwards(&name, own) { profile.echo_interval } else { Duration::ZERO };
        Ok(Use {
            path: Some(Path { link, at, ends: None, search: None, heard: self.heard.clone() }),
            accepts,
        })
    }

    fn link(&mut self, at: At) -> std::io::Result<Arc<Link>> {
        self.links.retain(|_, link| link.strong_count() > 0);
        let known = self.links.get(&at).and_then(Weak::upgrade);
        // The socket of an interface that went away is of no use when it comes back.
        if let Some(link) = known.filter(|link| !link.task.is_finished()) {
            return Ok(link);
        }
        let socket = Arc::new(PacketSocket::udp(at.interface, at.is_v4, &[SINGLE_HOP_PORT, ECHO_PORT])?);
        let task = tokio::spawn(receive(Arc::clone(&socket), at, echo::decode, self.heard.clone()));
        let link = Arc::new(Link { socket, task: AbortOnDropHandle::new(task) });
        self.links.insert(at, Arc::downgrade(&link));
        Ok(link)
    }
}

/// Whether a program has the port of echo packets at `own`, which here are sent and heard past it.
pub(super) fn is_taken(own: IpAddr) -> bool {
    UdpSocket::bind((own, ECHO_PORT)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// The link-layer address of an interface of this node.
fn mac_of(interface: u32) -> std::io::Result<Option<MacAddress>> {
    let mut links = getifaddrs()?.filter_map(|found| found.address?.as_link_addr().copied());
    let link = links.find(|link| u32::try_from(link.ifindex()) == Ok(interface));
    Ok(link.and_then(|link| link.addr()).map(MacAddress))
}

/// Whether the kernel sends a router's echo packets back: it forwards what arrives on the interface. In IPv6 routers that
/// have the packets answered by a program, as FRR, find none here, so none are asked for.
fn forwards(interface: &str, own: IpAddr) -> bool {
    let setting = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    own.is_ipv4() && std::fs::read_to_string(setting).is_ok_and(|value| value.trim() == "1")
}

async fn receive(
    socket: Arc<PacketSocket>,
    at: At,
    decode: impl Fn(&[u8]) -> Option<Frame>,
    heard: mpsc::Sender<Heard>,
) {
    loop {
        match socket.receive(&decode).await {
            // A full backlog drops what comes, as the kernel would.
            Ok(frames) => frames.into_iter().for_each(|frame| drop(heard.try_send(Heard { at, frame }))),
            Err(error) => return tracing::debug!(%error, "BFD echo socket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_has_the_port_of_echo_packets_is_seen() {
        let own = IpAddr::from([127, 37, 8, 5]);
        assert!(!is_taken(own));
        let rival = UdpSocket::bind((own, ECHO_PORT)).expect("a port that nobody has");
        assert!(is_taken(own));
        drop(rival);
        assert!(!is_taken(own));
    }
}
