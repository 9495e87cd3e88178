//! One peer: drives its session over TCP, one session after another as its settings change.

mod telling;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use metallb_core::config::{BfdProfile, Distance};
use metallb_proto::bgp::{Action, Bfd, Event, NextHops, Routes, Session, Side, Stop};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::bfd::Monitor;
use super::dial::Dialer;
use super::link::{self, InterfaceAddress, Link, Ready};
use super::metrics::PeerMetrics;
use super::spec::Spec;
use super::status::{Status, Statuses};
use crate::speaker::sleep_until;

/// Read at once from a connection.
const CHUNK: usize = 65_536;

/// What a peer's task is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) spec: Arc<Spec>,
    pub(super) bfd: Option<BfdProfile>,
    pub(super) distance: Distance,
    pub(super) routes: Arc<Routes>,
    /// Why the router cannot connect though this end waits for it.
    pub(super) unheard: Option<String>,
    /// How the peer is to end.
    pub(super) stop: Option<Stop>,
}

/// What connects a peer's task to the rest.
pub(super) struct Ports {
    pub(super) name: String,
    pub(super) orders: watch::Receiver<Order>,
    /// Connections that the router opened.
    pub(super) incoming: mpsc::Receiver<TcpStream>,
    pub(super) statuses: watch::Sender<Statuses>,
    pub(super) metrics: PeerMetrics,
    pub(super) monitor: Monitor,
    /// The addresses of this node, which change at any time.
    pub(super) addresses: watch::Receiver<Vec<InterfaceAddress>>,
    /// Whether the speaker was started anew: the first session says so (RFC 4724 §3).
    pub(super) restarting: bool,
    /// Whether a session stood: the node has been forwarding since.
    pub(super) has_stood: bool,
}

/// Runs until the peer is told to stop.
pub(super) async fn run(mut ports: Ports) {
    let mut former: Option<(Arc<Spec>, Session)> = None;
    loop {
        let order = ports.orders.borrow_and_update().clone();
        if order.stop.is_some() {
            break;
        }
        let restarting = std::mem::take(&mut ports.restarting);
        // What another router was told is none of this one's.
        former = former.filter(|(spec, _)| !order.spec.leads_elsewhere_than(spec));
        let session = former.map(|(_, session)| session);
        former = Some(Driver::new(order, session, restarting, ports.has_stood).run(&mut ports).await);
    }
    ports.monitor.shut().await;
}

/// What a session is driven by.
enum Input {
    Order(Order),
    /// Nobody gives orders any more.
    Abandoned,
    Dialed(anyhow::Result<TcpStream>),
    Accepted(TcpStream),
    Ready(Side, Ready),
    Bfd {
        has_failed: bool,
    },
    /// This node has other addresses.
    Addresses,
    Timeout,
}

/// Drives one session.
struct Driver {
    order: Order,
    session: Session,
    dialer: Dialer,
    outgoing: Option<Link>,
    incoming: Option<Link>,
    second: Option<Link>,
    closing: JoinSet<()>,
    buffer: Vec<u8>,
    /// When the last complaint was about an UPDATE.
    complained: Option<Instant>,
    /// Whether the session was told to stop.
    stopping: Option<Stop>,
    has_ended: bool,
    status: Status,
}

impl Driver {
    /// One whose session follows another one with the same router, if there was one.
    fn new(order: Order, former: Option<Session>, restarting: bool, has_stood: bool) -> Self {
        let mut settings = order.spec.settings.clone();
        settings.seed = rand::random();
        if let Some(restart) = &mut settings.graceful_restart {
            restart.restarting = restarting && restart.preserved;
            restart.preserved |= has_stood;
        }
        Self {
            session: match former {
                Some(former) => Session::following(former, settings),
                None => Session::new(settings),
            },
            dialer: Dialer::new(Arc::clone(&order.spec)),
            order,
            outgoing: None,
            incoming: None,
            second: None,
            closing: JoinSet::new(),
            buffer: vec![0; CHUNK],
            complained: None,
            stopping: None,
            has_ended: false,
            status: Status::idle(None),
        }
    }

    /// Runs until the session has ended, and returns it with what it was made from.
    async fn run(mut self, ports: &mut Ports) -> (Arc<Spec>, Session) {
        let spec = Arc::clone(&self.order.spec);
        if let Some(former) = ports.statuses.borrow().get(&ports.name) {
            self.status = former.clone();
        }
        ports.monitor.configure(self.order.bfd.as_ref());
        ports.metrics.begin(&self.order.spec);
        if let Some(bfd) = ports.monitor.says() {
            self.handle(ports, Event::Bfd(bfd));
        }
        self.handle(ports, Event::Start);
        self.handle(ports, Event::Routes(Arc::clone(&self.order.routes)));
        while !self.has_ended {
            let input = self.next(ports).await;
            self.drive(ports, input).await;
        }
        while self.closing.join_next().await.is_some() {}
        (spec, self.session)
    }

    async fn next(&mut self, ports: &mut Ports) -> Input {
        let deadline = self.session.deadline();
        tokio::select! {
            changed = ports.orders.changed() => match changed {
                Ok(()) => Input::Order(ports.orders.borrow_and_update().clone()),
                Err(_) => Input::Abandoned,
            },
            has_failed = ports.monitor.changed() => Input::Bfd { has_failed },
            result = self.dialer.done() => Input::Dialed(result),
            ready = ready(&mut self.outgoing) => Input::Ready(Side::Outgoing, ready),
            ready = ready(&mut self.incoming) => Input::Ready(Side::Incoming, ready),
            ready = ready(&mut self.second) => Input::Ready(Side::Second, ready),
            Ok(()) = ports.addresses.changed() => Input::Addresses,
            Some(stream) = ports.incoming.recv() => Input::Accepted(stream),
            Some(_) = self.closing.join_next(), if !self.closing.is_empty() => Input::Timeout,
            () = sleep_until(deadline) => Input::Timeout,
        }
    }

    async fn drive(&mut self, ports: &mut Ports, input: Input) {
        match input {
            Input::Order(order) => self.obey(ports, order).await,
            Input::Abandoned => self.stop(ports, Stop::Reset).await,
            Input::Dialed(Ok(stream)) => self.connected(ports, Side::Outgoing, stream),
            Input::Dialed(Err(error)) => {
                let reason = format!("{error:#}");
                self.handle(ports, Event::Closed { side: Side::Outgoing, reason: &reason });
            }
            Input::Accepted(_) if self.dialer.has_rival() => {
                tracing::debug!(peer = ports.name, "connection closed: another speaker has the router");
            }
            Input::Accepted(stream) => match link::adopt(&self.order.spec, &stream) {
                Ok(()) => self.connected(ports, self.session.room(), stream),
                Err(error) => {
                    tracing::warn!(peer = ports.name, error = format!("{error:#}"), "connection refused");
                }
            },
            Input::Ready(side, ready) => self.ready(ports, side, ready),
            Input::Bfd { has_failed } => {
                if has_failed {
                    self.handle(ports, Event::Bfd(Bfd::Down));
                }
                if let Some(bfd) = ports.monitor.says() {
                    self.handle(ports, Event::Bfd(bfd));
                }
                self.tell(ports);
            }
            Input::Addresses => self.look_at_addresses(ports),
            Input::Timeout => {
                // What is there already counts before what did not come: the whole machine may have stood still.
                for side in Side::ALL {
                    if self.slot(side).is_some() {
                        self.ready(ports, side, Ready::Readable);
                    }
                }
                self.handle(ports, Event::Timeout);
            }
        }
    }

    async fn obey(&mut self, ports: &mut Ports, order: Order) {
        let former = std::mem::replace(&mut self.order, order);
        if let Some(stop) = self.order.stop.clone() {
            self.stop(ports, stop).await;
        } else if !self.order.spec.continues(&former.spec) {
            if self.order.spec.leads_elsewhere_than(&former.spec) {
                // That of the former router would be shown as that of the new one.
                ports.monitor.shut().await;
            }
            self.stop(ports, Stop::Reset).await;
        } else {
            if self.order.spec != former.spec {
                let spec = Arc::clone(&self.order.spec);
                self.handle(ports, Event::Configure(&spec.settings));
            }
            ports.monitor.configure(self.order.bfd.as_ref());
            if self.order.distance != former.distance {
                self.watch_path(ports);
            }
            if !Arc::ptr_eq(&former.routes, &self.order.routes) {
                self.handle(ports, Event::Routes(Arc::clone(&self.order.routes)));
            }
            self.tell(ports);
        }
    }

    async fn stop(&mut self, ports: &mut Ports, stop: Stop) {
        if self.stopping.as_ref() == Some(&stop) {
            return;
        }
        if let Stop::Restart { .. } = stop {
            // The router must not take the silence that follows for a broken path (RFC 5882 §4.3).
            ports.monitor.shut().await;
        }
        self.status.stopped = Some(match &stop {
            Stop::Leave { text } | Stop::Restart { text } => text.clone(),
            Stop::Reset => "the settings of the peer changed".to_owned(),
        });
        self.stopping = Some(stop.clone());
        self.handle(ports, Event::Stop(stop));
    }

    fn connected(&mut self, ports: &mut Ports, side: Side, stream: TcpStream) {
        let next_hops = link::interface_addresses()
            .and_then(|addresses| link::next_hops(&stream, &addresses, NextHops::default()));
        let next_hops = next_hops.unwrap_or_else(|error| {
            tracing::warn!(peer = ports.name, %error, "addresses of this node cannot be read");
            Default::default()
        });
        // An earlier connection of the same side gives way, and its end is no news to the session.
        if let Some(former) = self.slot(side).replace(Link::new(stream, next_hops)) {
            self.closing.spawn(former.close());
        }
        self.handle(ports, Event::Connected { side, next_hops });
    }

    /// Routes may have to lead to others of this node's addresses.
    fn look_at_addresses(&mut self, ports: &mut Ports) {
        let addresses = ports.addresses.borrow_and_update().clone();
        for side in Side::ALL {
            let Some(link) = self.slot(side) else { continue };
            // A connection that broke has none, and says so itself.
            if let Ok(next_hops) = link.choose_next_hops(&addresses) {
                self.handle(ports, Event::NextHops { side, next_hops });
            }
        }
    }

    fn ready(&mut self, ports: &mut Ports, side: Side, ready: Ready) {
        let read = match ready {
            Ready::Flushed => return self.handle(ports, Event::Flushed(side)),
            Ready::Broken(error) => Err(error),
            Ready::Readable => {
                let mut buffer = std::mem::take(&mut self.buffer);
                let read = self.slot(side).as_ref().map_or(Ok(0), |link| link.read(&mut buffer));
                if let Ok(count @ 1..) = read {
                    let bytes = buffer.get(..count).unwrap_or_default();
                    self.handle(ports, Event::Received { side, bytes });
                }
                self.buffer = buffer;
                read
            }
        };
        let reason = match read {
            Ok(1..) => return,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Ok(_) => "the router closed the connection".to_owned(),
            Err(error) => error.to_string(),
        };
        self.broken(ports, side, &reason);
    }

    fn broken(&mut self, ports: &mut Ports, side: Side, reason: &str) {
        if self.slot(side).take().is_some() {
            self.handle(ports, Event::Closed { side, reason });
        }
    }

    fn slot(&mut self, side: Side) -> &mut Option<Link> {
        match side {
            Side::Outgoing => &mut self.outgoing,
            Side::Incoming => &mut self.incoming,
            Side::Second => &mut self.second,
        }
    }

    /// Lets the session handle an event, does what it wants done, and tells it what came of that.
    fn handle(&mut self, ports: &mut Ports, event: Event<'_>) {
        let mut actions = VecDeque::from(self.session.handle(Instant::now(), event));
        loop {
            while let Some(action) = actions.pop_front() {
                self.act(ports, action);
            }
            for side in Side::ALL {
                let Some(link) = self.slot(side) else { continue };
                let event = match link.write() {
                    Ok(true) => Event::Flushed(side),
                    Ok(false) => continue,
                    Err(error) => {
                        *self.slot(side) = None;
                        let reason = error.to_string();
                        actions.extend(
                            self.session.handle(Instant::now(), Event::Closed { side, reason: &reason }),
                        );
                        continue;
                    }
                };
                actions.extend(self.session.handle(Instant::now(), event));
            }
            if actions.is_empty() {
                break;
            }
        }
        self.tell(ports);
    }

    fn act(&mut self, ports: &mut Ports, action: Action) {
        match action {
            Action::Connect => self.dialer.start(),
            Action::Send { side, bytes } => {
                if let Some(link) = self.slot(side) {
                    link.push(&bytes);
                }
            }
            Action::Close(side) => {
                if let Some(link) = self.slot(side).take() {
                    self.closing.spawn(link.close());
                } else if side == Side::Outgoing {
                    self.dialer.stop();
                }
            }
            Action::Report(report) => self.learn(ports, report),
        }
    }
}

async fn ready(link: &mut Option<Link>) -> Ready {
    match link {
        Some(link) => link.ready().await,
        None => std::future::pending().await,
    }
}
