//! One interface: answers for its addresses, and announces unasked those that are new.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use metallb_proto::layer2::frame;
use metallb_proto::layer2::gratuitous::{Schedule, Settings};
use metallb_proto::layer2::link::Interface;
use metallb_proto::layer2::responder::{Claim, Responder, Verdict};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};

use super::metrics::Layer2Metrics;
use super::packet::PacketSocket;
use super::sleep_until;

/// What an interface is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The interface as it is now.
    pub(super) interface: Interface,
    /// The addresses to answer for.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// What an interface saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Index of the interface.
    pub(super) interface: u32,
    /// Who says that it has which address.
    pub(super) claim: Claim,
}

/// A host to be asked for its own address, and the address to ask from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Asked.
    pub(super) host: IpAddr,
    /// Asking; of the same family.
    pub(super) from: IpAddr,
}

/// The state of one interface.
pub(super) struct Announcer {
    interface: Interface,
    responder: Responder,
    schedule: Schedule,
    /// Hosts whose answers are wanted: their frames pass the filter too.
    asked: BTreeSet<IpAddr>,
    arp: PacketSocket,
    ndp: Option<PacketSocket>,
    groups: Groups,
    sightings: mpsc::Sender<Sighting>,
    metrics: Layer2Metrics,
}

impl Announcer {
    /// Opens the sockets of an interface.
    ///
    /// # Errors
    /// What the kernel says, for the ARP socket.
    pub(super) fn open(
        interface: Interface,
        settings: Settings,
        sightings: mpsc::Sender<Sighting>,
        metrics: Layer2Metrics,
    ) -> io::Result<Self> {
        Ok(Self {
            responder: Responder::new(interface.mac),
            schedule: Schedule::new(settings),
            asked: BTreeSet::new(),
            arp: PacketSocket::arp(interface.index)?,
            ndp: None,
            groups: Groups::default(),
            interface,
            sightings,
            metrics,
        })
    }

    /// Serves the interface until its assignment or the questions end.
    ///
    /// # Errors
    /// When a socket broke, which is how the end of an interface shows first.
    pub(super) async fn run(
        mut self,
        mut assignment: watch::Receiver<Assignment>,
        mut questions: mpsc::Receiver<Question>,
    ) -> io::Result<()> {
        let first = assignment.borrow_and_update().clone();
        self.assign(first)?;
        loop {
            self.announce_due();
            let deadline = self.schedule.deadline();
            tokio::select! {
                changed = assignment.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let next = assignment.borrow_and_update().clone();
                    self.assign(next)?;
                }
                question = questions.recv() => match question {
                    Some(question) => self.ask(question)?,
                    None => return Ok(()),
                },
                received = self.arp.receive(|frame| self.see(frame)) => received?,
                received = receive(self.ndp.as_ref(), |frame| self.see(frame)) => received?,
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn see(&self, bytes: &[u8]) {
        match self.responder.handle(bytes) {
            Verdict::Reply { address, frame } => {
                self.metrics.request(address);
                match self.transmit(address, &frame) {
                    Ok(()) => self.metrics.response(address),
                    Err(error) => {
                        tracing::debug!(interface = self.interface.name, %address, %error, "answer not sent");
                    }
                }
            }
            Verdict::Claim(claim) => {
                let sighting = Sighting { interface: self.interface.index, claim };
                // Full when claims come faster than they can matter: the next one tells the same.
                let _ = self.sightings.try_send(sighting);
            }
            Verdict::NotOurs => {}
            Verdict::Rejected(reason) => self.metrics.rejected(reason),
        }
    }

    fn assign(&mut self, next: Assignment) -> io::Result<()> {
        let now = Instant::now();
        let back = !self.interface.carrier && next.interface.carrier;
        let ipv6_back = !self.interface.ipv6 && next.interface.ipv6;
        self.interface = next.interface;
        let former: BTreeSet<IpAddr> = self.responder.addresses().collect();
        for gone in former.difference(&next.addresses) {
            self.responder.set(*gone, false);
            self.schedule.stop(*gone);
        }
        // The way to an address is opened before it is announced, so that no question that follows is missed.
        self.open_for(&next.addresses)?;
        if back || ipv6_back {
            self.groups.forget();
        }
        self.join_groups(&next.addresses);
        for new in &next.addresses {
            let is_new = self.responder.set(*new, true);
            if is_new || back || (ipv6_back && new.is_ipv6()) {
                self.schedule.start(now, *new);
            }
        }
        Ok(())
    }

    fn open_for(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        let (v4, v6) = by_family(addresses.union(&self.asked).copied());
        self.arp.filter_arp(&v4)?;
        if v6.is_empty() || !self.interface.ipv6 {
            self.ndp = None;
            return Ok(());
        }
        if self.ndp.is_none() {
            self.ndp = Some(PacketSocket::ndp(self.interface.index)?);
        }
        if let Some(ndp) = &mut self.ndp {
            ndp.filter_ndp(&v6)?;
        }
        Ok(())
    }

    fn join_groups(&mut self, addresses: &BTreeSet<IpAddr>) {
        let (_, v6) = by_family(addresses.iter().copied());
        let wanted = if self.interface.ipv6 {
            v6.into_iter().map(frame::solicited_node_group).collect()
        } else {
            BTreeSet::new()
        };
        if let Err(error) = self.groups.set(self.interface.index, &wanted) {
            tracing::warn!(interface = self.interface.name, %error, "solicited-node groups not joined");
        }
    }

    fn ask(&mut self, question: Question) -> io::Result<()> {
        if self.asked.insert(question.host) {
            let addresses: BTreeSet<IpAddr> = self.responder.addresses().collect();
            self.open_for(&addresses)?;
        }
        let local = self.responder.local();
        let frame = match (question.host, question.from) {
            (IpAddr::V4(host), IpAddr::V4(from)) => frame::arp_request(local, from, host),
            (IpAddr::V6(host), IpAddr::V6(from)) => frame::neighbor_solicit(local, from, host),
            _ => return Ok(()),
        };
        if let Err(error) = self.transmit(question.host, &frame) {
            tracing::debug!(interface = self.interface.name, host = %question.host, %error, "question not sent");
        }
        Ok(())
    }

    fn announce_due(&mut self) {
        for address in self.schedule.due(Instant::now()) {
            if address.is_ipv6() && !self.interface.ipv6 {
                continue;
            }
            for frame in frame::unasked(self.responder.local(), address) {
                match self.transmit(address, &frame) {
                    Ok(()) => self.metrics.gratuitous(address),
                    Err(error) => {
                        tracing::debug!(interface = self.interface.name, %address, %error, "announcement not sent");
                    }
                }
            }
        }
    }

    fn transmit(&self, address: IpAddr, frame: &[u8]) -> io::Result<()> {
        match (&self.ndp, address) {
            (Some(ndp), IpAddr::V6(_)) => ndp.send(frame),
            _ => self.arp.send(frame),
        }
    }
}

async fn receive(socket: Option<&PacketSocket>, see: impl FnMut(&[u8])) -> io::Result<()> {
    match socket {
        Some(socket) => socket.receive(see).await,
        None => std::future::pending().await,
    }
}

fn by_family(addresses: impl Iterator<Item = IpAddr>) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv6Addr>) {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.insert(address),
            IpAddr::V6(address) => v6.insert(address),
        };
    }
    (v4, v6)
}

/// Membership in solicited-node groups, by the kernel, so that it also tells switches about them (RFC 3810).
#[derive(Default)]
struct Groups {
    /// Each socket takes as many groups as its option memory allows.
    sockets: Vec<Socket>,
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl Groups {
    /// Leaves everything, so that what is wanted is joined anew.
    fn forget(&mut self) {
        *self = Self::default();
    }

    fn set(&mut self, interface: u32, wanted: &BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let gone: Vec<Ipv6Addr> =
            self.joined.keys().filter(|group| !wanted.contains(*group)).copied().collect();
        for group in gone {
            if let Some(socket) = self.joined.remove(&group).and_then(|at| self.sockets.get(at)) {
                // Fails when the interface is gone, and the membership with it.
                let _ = socket.leave_multicast_v6(&group, interface);
            }
        }
        for group in wanted {
            if !self.joined.contains_key(group) {
                self.join(interface, *group)?;
            }
        }
        Ok(())
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
