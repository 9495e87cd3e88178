//! BGP: one task per peer, each the one owner of its session, and the task that starts and ends them.
//!
//! All of it runs on a thread of its own, and BFD on another, so that neither a large table nor a list from the API
//! server delays a packet that says that this node is alive. A peer that does not answer delays nobody: nothing here
//! waits for it.

mod bfd;
mod dial;
pub(super) mod inputs;
mod keeper;
mod link;
mod listener;
pub(super) mod metrics;
mod neighbor;
mod peer;
pub(super) mod report;
mod rival;
pub(super) mod spec;
pub(super) mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_core::config::Endpoint;
use metallb_proto::bgp::Stop;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::departure::Departure;
use super::links::Snapshot;
use super::sleep_until;
use link::InterfaceAddress;
use listener::{Keys, Listener};
use metrics::BgpMetrics;
use peer::Order;
use spec::{CANNOT_LISTEN, Key, Spec, Wanted, WantedPeer};
use status::{Status, Statuses};

/// Connections of a router that wait to be looked at.
const BACKLOG: usize = 4;
/// Longest time in which all peers end: less than the pod has.
const ENDING: Duration = Duration::from_secs(8);
/// Duplicate address detection takes about a second (RFC 4862 §5.1).
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long after its start this speaker is one that comes back: routers keep what they had for no longer.
const RETURNING: Duration = spec::RESTART_TIME;

/// What connects BGP to the rest of the speaker.
pub(super) struct Ports {
    /// What is to be announced; `None` until it is known.
    pub(super) wanted: watch::Receiver<Option<Arc<Wanted>>>,
    pub(super) statuses: watch::Sender<Statuses>,
    /// How the speaker ends, once that was found out.
    pub(super) departure: watch::Receiver<Option<Departure>>,
    pub(super) metrics: BgpMetrics,
    /// Whether routers may connect to this node.
    pub(super) listens: bool,
    /// The links of the node.
    pub(super) links: watch::Receiver<Snapshot>,
}

/// Runs until `cancel`, and then until every peer has ended as the departure wants it.
///
/// # Errors
/// When a task that this one depends on broke off.
pub(super) async fn run(mut ports: Ports, cancel: CancellationToken) -> anyhow::Result<()> {
    let (bfd, watching) = bfd::task(ports.metrics.bfd.clone());
    let mut watching = super::thread("bfd", watching)?;
    let mut peers = Peers {
        statuses: ports.statuses,
        metrics: ports.metrics,
        bfd,
        listener: ports.listens.then(|| Listener::new(listener::PORT)),
        addresses: watch::channel(Vec::new()).0,
        look_again: None,
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
        returning: None,
    };
    loop {
        let retry = peers.listener.as_ref().and_then(Listener::deadline);
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = ports.wanted.changed() => {
                changed.context("the plans ended")?;
                let wanted = ports.wanted.borrow_and_update().clone();
                if let Some(wanted) = wanted {
                    if let Some(listener) = &mut peers.listener {
                        listener.follow(passwords(&addressed(&wanted.peers)), least_ttl(&wanted.peers));
                    }
                    peers.follow(&wanted.peers);
                }
            }
            changed = ports.links.changed() => {
                changed.context("the links ended")?;
                // An interface may be there that routers are to connect on.
                peers.listen_again(ports.wanted.borrow().as_deref());
                peers.look_at_addresses();
            }
            () = sleep_until(peers.look_again) => peers.look_at_addresses(),
            () = sleep_until(retry) => peers.listen_again(ports.wanted.borrow().as_deref()),
            Some(stream) = accepted(&mut peers.listener) => peers.accept(stream),
            Some(ended) = peers.tasks.join_next() => {
                peers.ended(&ended.context("a peer's task broke off")?);
                let wanted = ports.wanted.borrow().clone();
                if let Some(wanted) = wanted {
                    peers.follow(&wanted.peers);
                }
            }
            ended = &mut watching => {
                ended.context("the BFD thread broke off")??;
                anyhow::bail!("BFD ended early");
            }
        }
    }
    let departure = ports.departure.wait_for(Option::is_some).await.ok().and_then(|departure| *departure);
    peers.stop_all(&match departure {
        Some(Departure::Leave) => Stop::Leave { text: "the speaker leaves this node".to_owned() },
        Some(Departure::Restart) | None => Stop::Restart { text: "the speaker is restarted".to_owned() },
    });
    let ended = async { while peers.tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(ENDING, ended).await.is_err() {
        tracing::warn!("BGP sessions did not end in time");
    }
    drop(peers);
    watching.await.context("the BFD thread broke off")?
}

async fn accepted(listener: &mut Option<Listener>) -> Option<TcpStream> {
    match listener {
        Some(listener) => listener.next().await,
        None => std::future::pending().await,
    }
}

/// How well a connection from an address fits a peer, 0 best: `endpoint` is where its router is, and `wanted` the interface
/// that it is bound to. `device` is the one that the kernel bound the connection to: the VRF in which it was taken, or
/// the link of a link-local address. Two routers may have one address in two VRFs, or on two links.
fn fits(endpoint: &Endpoint, wanted: Option<&str>, from: IpAddr, device: Option<&str>) -> Option<u8> {
    let is_router = *endpoint == Endpoint::Address(from.to_canonical());
    let rank = match (wanted, device) {
        (wanted, device) if wanted == device => Some(0),
        // A peer may be bound to an interface that is no VRF, and the kernel says nothing of that one.
        (None, _) | (_, None) => Some(1),
        _ => None,
    };
    rank.filter(|_| is_router)
}

/// Address, interface and password of each peer that has an address.
fn addressed(wanted: &BTreeMap<String, WantedPeer>) -> Vec<(IpAddr, Option<&str>, Option<&Key>)> {
    let specs = wanted.values().filter_map(|peer| Some((&peer.endpoint, peer.spec.as_ref().ok()?)));
    let addressed = specs.filter_map(|(endpoint, spec)| match endpoint {
        Endpoint::Address(address) => Some((*address, spec.device.as_deref(), spec.password.as_ref())),
        Endpoint::Interface(_) => None,
    });
    addressed.collect()
}

/// Passwords of routers, by the interface that their `peers` are bound to: on each of these routers may connect. A router
/// must sign on every socket whose connections [`fits`] may give to its peer: by the password of the peer that they fit
/// best there.
fn passwords(peers: &[(IpAddr, Option<&str>, Option<&Key>)]) -> BTreeMap<Option<String>, Keys> {
    let devices: BTreeSet<Option<&str>> = peers.iter().map(|(_, device, _)| *device).chain([None]).collect();
    let keys = |device: Option<&str>| -> Keys {
        let mut best: BTreeMap<IpAddr, (u8, Option<&Key>)> = BTreeMap::new();
        for (address, wanted, key) in peers {
            let Some(rank) = fits(&Endpoint::Address(*address), *wanted, *address, device) else { continue };
            if best.get(address).is_none_or(|(before, _)| rank < *before) {
                best.insert(*address, (rank, *key));
            }
        }
        best.into_iter().filter_map(|(address, (_, key))| Some((address, key?.clone()))).collect()
    };
    devices.into_iter().map(|device| (device.map(str::to_owned), keys(device))).collect()
}

/// The least TTL of packets from routers, where all peers that are addressed have one (RFC 5082 §3): what came from farther away
/// is then dropped before a connection is taken; else from the moment on that it is.
fn least_ttl(wanted: &BTreeMap<String, WantedPeer>) -> Option<u8> {
    let specs = wanted.values().filter_map(|peer| peer.spec.as_ref().ok());
    let addressed = specs.filter(|spec| matches!(spec.endpoint, Endpoint::Address(_)));
    let all: Option<Vec<u8>> = addressed.map(|spec| spec.ttl.least()).collect();
    all?.into_iter().min()
}

/// A peer whose task runs.
struct Running {
    orders: watch::Sender<Order>,
    incoming: mpsc::Sender<TcpStream>,
}

/// The peers of this node.
struct Peers {
    statuses: watch::Sender<Statuses>,
    metrics: BgpMetrics,
    bfd: bfd::Sender,
    /// Where routers connect, if they may.
    listener: Option<Listener>,
    /// The addresses of this node.
    addresses: watch::Sender<Vec<InterfaceAddress>>,
    /// When an address is looked at again that the kernel was still asking for.
    look_again: Option<Instant>,
    running: BTreeMap<String, Running>,
    /// Each returns the name of its peer.
    tasks: JoinSet<String>,
    /// The peers that were there from the start and have had no session yet, and until when that counts: their routers may
    /// know this node from before. `None` until anything is wanted.
    returning: Option<(BTreeSet<String>, Instant)>,
}

impl Peers {
    fn follow(&mut self, wanted: &BTreeMap<String, WantedPeer>) {
        let returning = || (wanted.keys().cloned().collect(), Instant::now() + RETURNING);
        self.returning.get_or_insert_with(returning);
        for (name, running) in &self.running {
            let text = match wanted.get(name).map(|peer| &peer.spec) {
                Some(Ok(_)) => continue,
                Some(Err(_)) => format!("BGPPeer {name} can have no session as it is configured now"),
                None => format!("BGPPeer {name} does not concern this node any more"),
            };
            stop(&running.orders, &Stop::Leave { text });
        }
        for (name, peer) in wanted {
            match &peer.spec {
                Ok(spec) => self.order(
                    name,
                    Order {
                        spec: Arc::clone(spec),
                        bfd: peer.bfd.clone(),
                        distance: peer.distance,
                        routes: Arc::clone(&peer.routes),
                        unheard: self.unheard(spec),
                        stop: None,
                    },
                ),
                Err(why) => self.refuse(name, why),
            }
        }
        let running = &self.running;
        self.statuses.send_if_modified(|statuses| {
            let before = statuses.len();
            statuses.retain(|name, _| wanted.contains_key(name) || running.contains_key(name));
            statuses.len() != before
        });
    }

    /// Tries again to listen where that was not possible.
    fn listen_again(&mut self, wanted: Option<&Wanted>) {
        let (Some(listener), Some(wanted)) = (&mut self.listener, wanted) else { return };
        if listener.settle() {
            self.follow(&wanted.peers);
        }
    }

    /// Tells the peers of addresses of this node that came or went.
    fn look_at_addresses(&mut self) {
        self.look_again = None;
        match link::interface_addresses() {
            Ok(now) => {
                // That it is this node's in the end is no news of the links.
                let is_pending = now.iter().any(|address| address.is_pending);
                self.look_again = is_pending.then(|| Instant::now() + LOOK_AGAIN);
                self.addresses.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            }
            Err(error) => tracing::warn!(%error, "addresses of this node cannot be read"),
        }
    }

    /// Why the router of a passive peer cannot connect.
    fn unheard(&self, spec: &Spec) -> Option<String> {
        let listener = self.listener.as_ref().filter(|_| spec.settings.passive)?;
        if let Some(why) = listener.problems().get(&spec.device) {
            return Some(match &spec.device {
                Some(device) => format!("{CANNOT_LISTEN} on {device:?}: {why}"),
                None => format!("{CANNOT_LISTEN}: {why}"),
            });
        }
        let Endpoint::Address(router) = spec.endpoint else { return None };
        let why = listener.unsigned(&spec.device, router)?;
        Some(format!("{CANNOT_LISTEN}: its password cannot be set: {why}"))
    }

    fn order(&mut self, name: &str, order: Order) {
        if let Some(running) = self.running.get(name) {
            running.orders.send_if_modified(|former| {
                // One that is ending ends first; the peer is begun anew after that.
                let changed = former.stop.is_none() && *former != order;
                if changed {
                    *former = order;
                }
                changed
            });
            return;
        }
        let returning = self.returning.as_mut();
        let restarting =
            returning.is_some_and(|(names, until)| names.remove(name) && Instant::now() < *until);
        let (accept, incoming) = mpsc::channel(BACKLOG);
        let metrics = self.metrics.of_peer(&order.spec);
        let monitor = self.bfd.monitor(name, metrics.label.clone());
        let (orders, ordered) = watch::channel(order);
        let ports = peer::Ports {
            name: name.to_owned(),
            orders: ordered,
            incoming,
            statuses: self.statuses.clone(),
            metrics,
            monitor,
            addresses: self.addresses.subscribe(),
            restarting,
            has_stood: false,
        };
        self.running.insert(name.to_owned(), Running { orders, incoming: accept });
        self.tasks.spawn(async move {
            let name = ports.name.clone();
            peer::run(ports).await;
            name
        });
    }

    /// Gives a connection that a router opened to its peer; that of a stranger is closed.
    fn accept(&self, stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        let device = SockRef::from(&stream).device().ok().flatten();
        let device = device.map(|name| String::from_utf8_lossy(&name).into_owned());
        let fitting = self.running.values().filter_map(|running| {
            let spec = Arc::clone(&running.orders.borrow().spec);
            let rank = fits(&spec.endpoint, spec.device.as_deref(), from.ip(), device.as_deref())?;
            Some((rank, running))
        });
        let fitting: Vec<(u8, &Running)> = fitting.collect();
        let best = fitting.iter().map(|(rank, _)| *rank).min();
        let mut best =
            fitting.into_iter().filter(|(rank, _)| Some(*rank) == best).map(|(_, running)| running);
        match best.find(|running| self.is_signed(running, from.ip(), device.as_deref())) {
            // A router that connects again and again is heard once in a while.
            Some(running) => drop(running.incoming.try_send(stream)),
            None => {
                tracing::debug!(%from, "connection of a stranger, or without the router's password, closed");
            }
        }
    }

    /// Whether a connection for a peer was signed as the peer wants it: where the kernel did not take a router's password,
    /// it lets everybody in.
    fn is_signed(&self, peer: &Running, from: IpAddr, device: Option<&str>) -> bool {
        let spec = Arc::clone(&peer.orders.borrow().spec);
        let listener = self.listener.as_ref();
        let asks =
            |key| listener.is_some_and(|listener| listener.is_signed(device, from.to_canonical(), key));
        spec.password.as_ref().is_none_or(asks)
    }

    /// A peer that can have no session.
    fn refuse(&self, name: &str, why: &str) {
        if self.running.contains_key(name) {
            return;
        }
        let is_news = self.statuses.send_if_modified(|statuses| {
            let known = statuses.get(name).and_then(|status| status.last_error.as_deref());
            let is_news = known != Some(why);
            if is_news {
                statuses.insert(name.to_owned(), Status::idle(Some(why.to_owned())));
            }
            is_news
        });
        if is_news {
            tracing::warn!(peer = name, error = why, "no BGP session");
        }
    }

    fn ended(&mut self, name: &str) {
        self.running.remove(name);
        self.statuses.send_modify(|statuses| drop(statuses.remove(name)));
    }

    fn stop_all(&self, how: &Stop) {
        for running in self.running.values() {
            stop(&running.orders, how);
        }
    }
}

fn stop(orders: &watch::Sender<Order>, how: &Stop) {
    orders.send_if_modified(|order| {
        let changed = order.stop.as_ref() != Some(how);
        order.stop = Some(how.clone());
        changed
    });
}

#[cfg(test)]
#[path = "bgp_tests.rs"]
mod tests;
