//! The membership on its sockets: UDP, and TCP where UDP is lost.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Context;
use metallb_proto::membership::{Action, Event, Facts, Membership, Roster, Seed, Settings, Via};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::layer2::{Answer, Question};
use super::links::Snapshot;
use super::metrics::Metrics;
use super::sleep_until;
use super::streams::Streams;

/// Largest datagram of the protocol, and some room.
const DATAGRAM: usize = 2048;

/// Datagrams by TCP that wait.
const BACKLOG: usize = 256;

/// What connects the membership to the rest of the speaker.
pub(super) struct Ports {
    /// The other speakers' pods; `None` until the list is known.
    pub(super) seeds: watch::Receiver<Option<Vec<Seed>>>,
    /// Who answered at link level.
    pub(super) answers: mpsc::Receiver<Answer>,
    /// Nodes to be asked at link level.
    pub(super) questions: mpsc::Sender<Question>,
    /// The links of the node.
    pub(super) links: watch::Receiver<Snapshot>,
    /// Who takes part.
    pub(super) roster: watch::Sender<Option<Roster>>,
}

/// Takes part until `cancel`, and then tells the others that this speaker restarts.
///
/// # Errors
/// When the socket cannot be bound, naming its address.
pub(super) async fn run(
    settings: Settings,
    mut ports: Ports,
    metrics: Metrics,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let address = settings.address;
    let socket =
        UdpSocket::bind(address).await.with_context(|| format!("gossip: cannot bind UDP {address}"))?;
    let (arrivals, mut arrived) = mpsc::channel(BACKLOG);
    let streams = Streams::listen(address, arrivals).await?;
    let mut gossip = Gossip { member: Membership::new(Instant::now(), settings), socket, streams, metrics };
    let mut buffer = [0; DATAGRAM];
    loop {
        let deadline = gossip.member.deadline();
        tokio::select! {
            // What has arrived is heard before a deadline says that it has not.
            biased;
            () = cancel.cancelled() => break,
            received = gossip.socket.recv_from(&mut buffer) => gossip.received(received, &buffer, &ports),
            changed = ports.seeds.changed() => {
                changed.context("the list of speakers ended")?;
                let seeds = ports.seeds.borrow_and_update().clone();
                if let Some(seeds) = seeds {
                    gossip.handle(Event::Seeds(seeds), &ports);
                }
            }
            Some((from, bytes)) = arrived.recv() => {
                gossip.handle(Event::Datagram { from, bytes: &bytes, via: Via::Stream }, &ports);
            }
            () = gossip.streams.accept() => {}
            answer = ports.answers.recv() => match answer {
                Some(Answer::Host(address)) => gossip.handle(Event::HostAnswered(address), &ports),
                Some(Answer::Speaker(node)) => gossip.handle(Event::SpeakerAnswered(&node), &ports),
                None => break,
            },
            changed = ports.links.changed() => {
                changed.context("the links ended")?;
                let links = ports.links.borrow_and_update().clone();
                let carrier = links.links.carrier_at(address.ip()).unwrap_or(true);
                gossip.handle(Event::Carrier(carrier), &ports);
                gossip.handle(Event::Facts(facts(&links)), &ports);
            }
            () = sleep_until(deadline) => gossip.handle(Event::Timeout, &ports),
        }
    }
    gossip.handle(Event::Restarting, &ports);
    gossip.streams.finish().await;
    Ok(())
}

/// What this node is able to do, by its links.
fn facts(links: &Snapshot) -> Facts {
    let linked = links.eligible.values().filter(|interface| interface.carrier);
    Facts { interfaces: linked.map(|interface| interface.name.clone()).collect() }
}

struct Gossip {
    member: Membership,
    socket: UdpSocket,
    streams: Streams,
    metrics: Metrics,
}

impl Gossip {
    fn received(&mut self, received: io::Result<(usize, SocketAddr)>, buffer: &[u8], ports: &Ports) {
        match received {
            Ok((length, from)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                self.handle(Event::Datagram { from, bytes, via: Via::Datagram }, ports);
            }
            // An ICMP error for an earlier datagram: the peer's silence says the same.
            Err(error) => tracing::debug!(%error, "gossip not received"),
        }
    }

    fn handle(&mut self, event: Event<'_>, ports: &Ports) {
        let before = self.member.counters();
        for action in self.member.handle(Instant::now(), event) {
            match action {
                Action::Send { to, bytes, via: Via::Stream } => self.streams.send(to, bytes),
                Action::Send { to, bytes, via: Via::Datagram } => {
                    if let Err(error) = self.socket.try_send_to(&bytes, to) {
                        tracing::debug!(%to, %error, "gossip not sent");
                    }
                }
                Action::AskHost { node, address } => {
                    // Full when the interfaces are busy: the question comes again.
                    let _ = ports.questions.try_send(Question { node, address });
                }
                Action::Roster(roster) => {
                    tracing::info!(
                        event = "membersChanged",
                        members = ?roster.members.keys().collect::<Vec<_>>(),
                        unheard = ?roster.unheard,
                        settled = roster.settled,
                        "members changed"
                    );
                    self.metrics.roster(&roster);
                    ports.roster.send_replace(Some(roster));
                }
            }
        }
        self.metrics.gossip(&before, &self.member.counters());
    }
}
