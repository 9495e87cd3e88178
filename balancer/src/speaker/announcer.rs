//! One interface: answers for its addresses, and announces unasked those that are new.

mod groups;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metallb_proto::layer2::MacAddress;
use metallb_proto::layer2::frame;
use metallb_proto::layer2::gratuitous::{Schedule, Settings};
use metallb_proto::layer2::link::Interface;
use metallb_proto::layer2::responder::{Claim, Responder, Verdict};
use tokio::sync::{mpsc, watch};

use super::metrics::Layer2Metrics;
use super::packet::PacketSocket;
use super::sleep_until;
use groups::Groups;

/// Longest time for which two nodes answer for an address that is handed over to one that may be heard no more, since it
/// was heard already, or has announced it for long.
const HAND_OVER: Duration = Duration::from_millis(200);
/// How long one that is to announce it is waited for: it may learn of that later than this node.
pub(super) const LATE: Duration = Duration::from_secs(2);
/// How long answers to a question are let in.
const LISTEN: Duration = Duration::from_secs(10);
/// Pause before announcements are sent that the interface could not take: its queue is short, and a take-over may be of
/// thousands of addresses.
const FULL: Duration = Duration::from_millis(5);
/// Pause before solicited-node groups that could not be joined are tried again.
const REJOIN: Duration = Duration::from_secs(1);
/// Claims of one address that are remembered: of its next owner, and of hosts that have no part in it.
const CLAIMS: usize = 4;
/// Pause before an address is announced once more because another node of the cluster may have claimed it too: that one
/// has given way by then, or this one has.
const SETTLE: Duration = Duration::from_secs(1);

/// Addresses of other nodes, with those nodes' link-layer addresses.
pub(super) type Elsewhere = BTreeMap<IpAddr, Arc<BTreeSet<MacAddress>>>;

/// What an interface is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The interface as it is now.
    pub(super) interface: Interface,
    /// The addresses to answer for.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Addresses that another node announces, and from which link-layer addresses; none where they are not known.
    pub(super) elsewhere: Arc<Elsewhere>,
    /// Whether a node that takes an address over now says so, and is waited for.
    pub(super) is_patient: bool,
}

/// What an interface saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// Index of the interface.
    pub(super) interface: u32,
    /// Who says that it has which address.
    pub(super) claim: Claim,
    /// Whether it only asks for the address, to take it.
    pub(super) is_probe: bool,
}

/// What an interface is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A question.
    Ask(Probe),
    /// One more announcement of this address, since another host claims it.
    Defend(IpAddr),
    /// The same a moment later, since another node of the cluster claims it.
    Again(IpAddr),
    /// The same of every address, since a node came back that may have announced any.
    AgainAll,
}

/// An address to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// Asked for.
    pub(super) target: IpAddr,
    /// Asking; of the same family. The unspecified address enters no neighbour's cache.
    pub(super) from: IpAddr,
    /// Whether it is asked for in order to announce it, so that others that ask for it are told too.
    pub(super) is_wanted: bool,
}

/// Whether anything may be announced: always, or for as long as that is told.
#[derive(Clone)]
pub(super) struct Fence(pub(super) Option<watch::Receiver<Option<Instant>>>);

impl Fence {
    /// When it closes, unless that is put off; `None` when it never does, or is closed for want of any word.
    pub(super) fn closes(&self) -> Option<Instant> {
        self.0.as_ref().and_then(|until| *until.borrow())
    }

    /// Whether anything may be announced at `now`.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.0.is_none() || self.closes().is_some_and(|until| now < until)
    }
}

/// The state of one interface.
pub(super) struct Announcer {
    interface: Interface,
    responder: Responder,
    schedule: Schedule,
    /// Addresses whose answers are wanted: their frames pass the filter too.
    asked: BTreeMap<IpAddr, Asked>,
    /// Addresses that were handed over, and until when they are still answered for: until the new owner is heard, so
    /// that somebody always answers.
    leaving: BTreeMap<IpAddr, Instant>,
    /// Who announces them now.
    elsewhere: Arc<Elsewhere>,
    /// Addresses that are announced here and were claimed by others, by whom and when: the new owner of one may be heard
    /// before this node learns that there is one.
    claimed: BTreeMap<IpAddr, Vec<(MacAddress, Instant)>>,
    arp: PacketSocket,
    ndp: Option<PacketSocket>,
    groups: Groups,
    /// Addresses whose groups are to be joined, and when that is tried again.
    grouped: BTreeSet<IpAddr>,
    rejoin: Option<Instant>,
    /// Asked before each frame that says that an address is here: a program that stood still must not answer for what
    /// others have taken over.
    fence: Fence,
    sightings: mpsc::Sender<Sighting>,
    metrics: Layer2Metrics,
}

/// An address that was asked for.
#[derive(Clone, Copy)]
struct Asked {
    at: Instant,
    is_wanted: bool,
}

impl Announcer {
    /// Opens the sockets of an interface.
    ///
    /// # Errors
    /// What the kernel says, for the ARP socket.
    pub(super) fn open(
        interface: Interface,
        settings: Settings,
        fence: Fence,
        sightings: mpsc::Sender<Sighting>,
        metrics: Layer2Metrics,
    ) -> io::Result<Self> {
        Ok(Self {
            responder: Responder::new(interface.mac),
            schedule: Schedule::new(settings),
            asked: BTreeMap::new(),
            leaving: BTreeMap::new(),
            elsewhere: Arc::default(),
            claimed: BTreeMap::new(),
            arp: PacketSocket::arp(interface.index)?,
            ndp: None,
            groups: Groups::default(),
            grouped: BTreeSet::new(),
            rejoin: None,
            fence,
            interface,
            sightings,
            metrics,
        })
    }

    /// Serves the interface until its assignment or the orders end.
    ///
    /// # Errors
    /// When a socket broke, which is how the end of an interface shows first.
    pub(super) async fn run(
        mut self,
        mut assignment: watch::Receiver<Assignment>,
        mut orders: mpsc::Receiver<Order>,
    ) -> io::Result<()> {
        let first = assignment.borrow_and_update().clone();
        self.assign(first)?;
        loop {
            self.announce_due();
            self.leave_due()?;
            if self.rejoin.is_some_and(|at| at <= Instant::now()) {
                self.join_groups();
            }
            let leaving = self.leaving.values().min().copied();
            let deadline = self.schedule.deadline().into_iter().chain(leaving).chain(self.rejoin).min();
            let see = |frame: &[u8]| self.see(frame);
            let mut sightings = vec![];
            tokio::select! {
                changed = assignment.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let next = assignment.borrow_and_update().clone();
                    self.assign(next)?;
                }
                order = orders.recv() => match order {
                    Some(Order::Ask(probe)) => self.ask(probe)?,
                    Some(Order::Defend(address)) => self.say_again(Instant::now(), |kept| *kept == address),
                    Some(Order::Again(address)) => self.say_again(Instant::now() + SETTLE, |kept| *kept == address),
                    Some(Order::AgainAll) => self.say_again(Instant::now() + SETTLE, |_| true),
                    None => return Ok(()),
                },
                seen = self.arp.receive(see) => sightings = seen?,
                seen = receive(self.ndp.as_ref(), see) => sightings = seen?,
                () = sleep_until(deadline) => {}
            }
            for sighting in sightings {
                self.saw(sighting);
            }
        }
    }

    /// Announces those of the addresses that this node keeps once more at `due`.
    fn say_again(&mut self, due: Instant, chosen: impl Fn(&IpAddr) -> bool) {
        let kept = self.responder.addresses().filter(|address| !self.leaving.contains_key(address));
        for address in kept.filter(chosen) {
            self.schedule.once(due, address);
        }
    }

    /// Answers a frame, or tells of the claim that it makes.
    fn see(&self, bytes: &[u8]) -> Option<Sighting> {
        let interface = self.interface.index;
        match self.responder.handle(bytes) {
            Verdict::Reply { address, frame } => {
                self.metrics.request(address);
                if !self.fence.is_open(Instant::now()) {
                    return None;
                }
                match self.transmit(address, &frame) {
                    Ok(true) => self.metrics.response(address),
                    // Who asked asks again.
                    Ok(false) => {}
                    Err(error) => {
                        tracing::debug!(interface = self.interface.name, %address, %error, "answer not sent");
                    }
                }
            }
            Verdict::Claim(claim) => return Some(Sighting { interface, claim, is_probe: false }),
            Verdict::Probe(claim) => return Some(Sighting { interface, claim, is_probe: true }),
            Verdict::NotOurs => {}
            Verdict::Rejected(reason) => self.metrics.rejected(reason),
        }
        None
    }

    fn saw(&mut self, sighting: Sighting) {
        let (now, Claim { address, mac, .. }) = (Instant::now(), sighting.claim);
        if let Some(until) = self.leaving.get_mut(&address) {
            // Another host, such as a proxy, does not answer in its place.
            if is_owner(&self.elsewhere, address, mac) {
                *until = now;
            }
        } else if self.responder.announces(address) {
            let claims = self.claimed.entry(address).or_default();
            claims.retain(|(former, at)| *former != mac && now.saturating_duration_since(*at) < LATE);
            claims.truncate(CLAIMS - 1);
            claims.insert(0, (mac, now));
        }
        // Full when claims come faster than they can matter: the next one tells the same.
        let _ = self.sightings.try_send(sighting);
    }

    fn assign(&mut self, next: Assignment) -> io::Result<()> {
        let now = Instant::now();
        let back = !self.interface.carrier && next.interface.carrier;
        let ipv6_back = !self.interface.ipv6 && next.interface.ipv6;
        self.interface = next.interface;
        let former: BTreeSet<IpAddr> = self.responder.addresses().collect();
        self.elsewhere = next.elsewhere;
        self.claimed.retain(|_, claims| {
            claims.retain(|(_, at)| now.saturating_duration_since(*at) < LATE);
            !claims.is_empty()
        });
        self.leaving.retain(|address, _| !next.addresses.contains(address));
        for gone in former.difference(&next.addresses) {
            self.schedule.stop(*gone);
            if self.elsewhere.contains_key(gone) {
                let mut claims = self.claimed.get(gone).into_iter().flatten();
                let is_late =
                    next.is_patient && !claims.any(|(mac, _)| is_owner(&self.elsewhere, *gone, *mac));
                self.leaving.entry(*gone).or_insert(now + if is_late { LATE } else { HAND_OVER });
            } else {
                self.responder.set(*gone, false);
                self.leaving.remove(gone);
            }
        }
        if back || ipv6_back {
            self.groups.forget();
        }
        // The way to an address is opened before it is announced, so that no question that follows is missed.
        self.open_for(&next.addresses)?;
        for new in &next.addresses {
            let is_new = self.responder.set(*new, true);
            if is_new || back || (ipv6_back && new.is_ipv6()) {
                self.schedule.start(now, *new);
            }
        }
        Ok(())
    }

    /// Gives up what was handed over long enough ago.
    fn leave_due(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let due: Vec<IpAddr> =
            self.leaving.iter().filter(|(_, until)| **until <= now).map(|(address, _)| *address).collect();
        if due.is_empty() {
            return Ok(());
        }
        for address in due {
            self.leaving.remove(&address);
            self.responder.set(address, false);
        }
        let kept = self.responder.addresses().collect();
        self.open_for(&kept)
    }

    /// Opens the sockets, filters and groups for `addresses`, and for what is asked or handed over.
    fn open_for(&mut self, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
        let now = Instant::now();
        self.asked.retain(|_, asked| now.saturating_duration_since(asked.at) < LISTEN);
        let announced: BTreeSet<IpAddr> = self.leaving.keys().chain(addresses).copied().collect();
        let wanted = self.asked.iter().filter(|(_, asked)| asked.is_wanted).map(|(address, _)| *address);
        let wanted: HashSet<IpAddr> = wanted.filter(|address| !announced.contains(address)).collect();
        // Others that ask for the same address do so to its group (RFC 4862 §5.4.2).
        self.grouped = announced.iter().chain(&wanted).copied().collect();
        self.join_groups();
        self.responder.want(wanted);
        let (v4, v6) = by_family(announced.iter().chain(self.asked.keys()).copied());
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

    fn join_groups(&mut self) {
        let (_, v6) = by_family(self.grouped.iter().copied());
        let wanted = if self.interface.ipv6 {
            v6.into_iter().map(frame::solicited_node_group).collect()
        } else {
            BTreeSet::new()
        };
        let joined = self.groups.set(self.interface.index, &wanted);
        let is_known = self.rejoin.is_some();
        self.rejoin = joined.is_err().then(|| Instant::now() + REJOIN);
        if let Err(error) = joined
            && !is_known
        {
            tracing::warn!(interface = self.interface.name, %error, "solicited-node groups not joined");
        }
    }

    fn ask(&mut self, probe: Probe) -> io::Result<()> {
        let asked = Asked { at: Instant::now(), is_wanted: probe.is_wanted };
        let former = self.asked.insert(probe.target, asked);
        if former.is_none_or(|former| former.is_wanted != asked.is_wanted) {
            let addresses: BTreeSet<IpAddr> = self.responder.addresses().collect();
            self.open_for(&addresses)?;
        }
        let local = self.responder.local();
        let frame = match (probe.target, probe.from) {
            (IpAddr::V4(target), IpAddr::V4(from)) => frame::arp_request(local, from, target),
            (IpAddr::V6(target), IpAddr::V6(from)) => frame::neighbor_solicit(local, from, target),
            _ => return Ok(()),
        };
        self.schedule.spend(Instant::now());
        if let Err(error) = self.transmit(probe.target, &frame) {
            tracing::debug!(interface = self.interface.name, target = %probe.target, %error, "probe not sent");
        }
        Ok(())
    }

    fn announce_due(&mut self) {
        let now = Instant::now();
        let mut is_full = false;
        for address in self.schedule.due(now) {
            if address.is_ipv6() && !self.interface.ipv6 || !self.fence.is_open(now) {
                continue;
            }
            for frame in frame::unasked(self.responder.local(), address) {
                if is_full {
                    break;
                }
                match self.transmit(address, &frame) {
                    Ok(true) => self.metrics.gratuitous(address),
                    Ok(false) => is_full = true,
                    Err(error) => {
                        tracing::debug!(interface = self.interface.name, %address, %error, "announcement not sent");
                    }
                }
            }
            // What ends an outage must not be lost with a full queue.
            if is_full {
                self.schedule.unsent(now + FULL, address);
            }
        }
    }

    /// Sends a frame by the socket of its family; tells whether it went.
    fn transmit(&self, address: IpAddr, frame: &[u8]) -> io::Result<bool> {
        match (&self.ndp, address) {
            (Some(ndp), IpAddr::V6(_)) => ndp.send(frame),
            _ => self.arp.send(frame),
        }
    }
}

/// Whether a link-layer address is of the node that announces an address now.
fn is_owner(elsewhere: &Elsewhere, address: IpAddr, mac: MacAddress) -> bool {
    elsewhere.get(&address).is_some_and(|macs| macs.is_empty() || macs.contains(&mac))
}

async fn receive(
    socket: Option<&PacketSocket>,
    see: impl FnMut(&[u8]) -> Option<Sighting>,
) -> io::Result<Vec<Sighting>> {
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
