//! The membership on a UDP socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Context;
use metallb_proto::membership::{Action, Event, Membership, Roster, Seed, Settings};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::sleep_until;

/// Largest datagram of the protocol, and some room.
const DATAGRAM: usize = 2048;

/// What connects the membership to the rest of the speaker.
pub(super) struct Ports {
    /// The other speakers' pods; `None` until the list is known.
    pub(super) seeds: watch::Receiver<Option<Vec<Seed>>>,
    /// Hosts that answered at link level.
    pub(super) hosts: mpsc::Receiver<IpAddr>,
    /// Hosts to be asked at link level.
    pub(super) questions: mpsc::Sender<IpAddr>,
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
    let mut gossip = Gossip { member: Membership::new(Instant::now(), settings), socket, metrics };
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
            host = ports.hosts.recv() => match host {
                Some(host) => gossip.handle(Event::HostAnswered(host), &ports),
                None => break,
            },
            () = sleep_until(deadline) => gossip.handle(Event::Timeout, &ports),
        }
    }
    gossip.handle(Event::Restarting, &ports);
    Ok(())
}

struct Gossip {
    member: Membership,
    socket: UdpSocket,
    metrics: Metrics,
}

impl Gossip {
    fn received(&mut self, received: io::Result<(usize, SocketAddr)>, buffer: &[u8], ports: &Ports) {
        match received {
            Ok((length, from)) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                self.handle(Event::Datagram { from, bytes }, ports);
            }
            // An ICMP error for an earlier datagram: the peer's silence says the same.
            Err(error) => tracing::debug!(%error, "gossip not received"),
        }
    }

    fn handle(&mut self, event: Event<'_>, ports: &Ports) {
        let before = self.member.counters();
        for action in self.member.handle(Instant::now(), event) {
            match action {
                Action::Send { to, bytes } => {
                    if let Err(error) = self.socket.try_send_to(&bytes, to) {
                        tracing::debug!(%to, %error, "gossip not sent");
                    }
                }
                Action::AskHost(host) => {
                    // Full when the interfaces are busy: the question comes again.
                    let _ = ports.questions.try_send(host);
                }
                Action::Roster(roster) => {
                    tracing::info!(
                        event = "membersChanged",
                        members = ?roster.members,
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
