//! The membership on its sockets: UDP, and TCP where UDP is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_proto::membership::{self, Action, Event, Facts, Membership, Roster, Secrets, Seed, Timing, Via};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::departure::Departure;
use super::layer2::{Answer, Question, Standing};
use super::links::Snapshot;
use super::metrics::Metrics;
use super::settings;
use super::sleep_until;
use super::streams::{Arrival, Streams};

/// Largest datagram of the protocol, and some room.
const DATAGRAM: usize = 2048;

/// Time between two looks at the secret.
const READ_SECRETS: Duration = Duration::from_secs(5);
/// Datagrams heard one after the other before everything else has its turn: a flood of them must not hold it up.
const TURN: u32 = 64;
/// Datagrams by TCP that wait.
const BACKLOG: usize = 256;

/// What the shell of the membership depends on.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// How soon a silent speaker counts as gone; `None` where that depends on the nodes.
    pub(super) timing: Option<Timing>,
    /// Where the secret is read, now and then: it may change.
    pub(super) secret_folder: Option<PathBuf>,
}

/// The other speakers, as the API server knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peers {
    /// Their pods.
    pub(super) seeds: Vec<Seed>,
    /// The nodes that should have a speaker.
    pub(super) expected: BTreeSet<String>,
    /// Whether there are nodes that stand still for seconds now and then.
    pub(super) stalls: bool,
}

/// What the others are told of the addresses of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Those that it keeps.
    pub(super) kept: BTreeSet<IpAddr>,
    /// Its claims to those that are spread evenly: an epoch, and whether it holds or released them.
    pub(super) claims: BTreeMap<IpAddr, (u32, bool)>,
    /// Addresses of any node that stay where they are.
    pub(super) stays: BTreeMap<IpAddr, String>,
}

/// What connects the membership to the rest of the speaker.
pub(super) struct Ports {
    /// The other speakers; `None` until the list is known and this speaker able to announce.
    pub(super) peers: watch::Receiver<Option<Peers>>,
    pub(super) own: watch::Receiver<Own>,
    /// How this speaker ends, once it is asked to.
    pub(super) departure: watch::Receiver<Option<Departure>>,
    /// Whether this speaker knows all that the API server has.
    pub(super) informed: watch::Receiver<bool>,
    /// Who answered at link level.
    pub(super) answers: mpsc::Receiver<Answer>,
    /// Nodes to be asked at link level.
    pub(super) questions: mpsc::Sender<Question>,
    /// The links of the node.
    pub(super) links: watch::Receiver<Snapshot>,
    /// What became of the plan on them.
    pub(super) standing: watch::Receiver<Standing>,
    /// Who takes part.
    pub(super) roster: watch::Sender<Option<Roster>>,
    /// Until when this node may announce, with `fencing: Strict`.
    pub(super) hold: watch::Sender<Option<Instant>>,
    /// Whether the API server's word is needed for that.
    pub(super) witness: watch::Sender<bool>,
    /// Until when the API server lets this node go on alone.
    pub(super) witnessed: watch::Receiver<Option<Instant>>,
}

/// Takes part until `cancel`, and then tells the others that this speaker restarts, unless it has left.
///
/// # Errors
/// When the socket cannot be bound, naming its address.
pub(super) async fn run(
    mut settings: membership::Settings,
    own: Settings,
    mut ports: Ports,
    metrics: Metrics,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let stalls = tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        known = ports.peers.wait_for(Option::is_some) => {
            known.context("the list of speakers ended")?.as_ref().is_some_and(|peers| peers.stalls)
        }
    };
    settings.timing = own.timing.unwrap_or(if stalls { Timing::TOLERANT } else { Timing::FAST });
    ports.peers.mark_changed();
    ports.links.mark_changed();
    let address = settings.address;
    let socket =
        UdpSocket::bind(address).await.with_context(|| format!("gossip: cannot bind UDP {address}"))?;
    let (arrivals, mut arrived) = mpsc::channel(BACKLOG);
    let streams = Streams::listen(address, arrivals).await?;
    let mut known = settings.secrets.clone();
    let mut gossip =
        Gossip { member: Membership::new(Instant::now(), settings), socket, streams, metrics, carrier: true };
    let mut buffer = [0; DATAGRAM];
    let mut secrets = tokio::time::interval(READ_SECRETS);
    let mut heard = 0;
    let mut broken = BTreeSet::new();
    loop {
        let deadline = gossip.member.deadline();
        let before = std::mem::take(&mut heard);
        tokio::select! {
            // What has arrived is heard before a deadline says that it has not.
            biased;
            () = cancel.cancelled() => break,
            received = gossip.socket.recv_from(&mut buffer), if before < TURN => {
                heard = before + 1;
                gossip.received(received, &buffer, &ports);
            }
            changed = ports.peers.changed() => {
                changed.context("the list of speakers ended")?;
                let peers = ports.peers.borrow_and_update().clone();
                if let Some(peers) = peers {
                    gossip.handle(Event::Expected(peers.expected), &ports);
                    gossip.handle(Event::Seeds(peers.seeds), &ports);
                }
            }
            changed = ports.departure.changed() => {
                changed.context("the end of this speaker is decided no more")?;
                if *ports.departure.borrow_and_update() == Some(Departure::Leave) {
                    gossip.handle(Event::Leave, &ports);
                }
            }
            changed = ports.own.changed() => {
                changed.context("the plans ended")?;
                let facts = ports.facts();
                gossip.handle(Event::Facts(facts), &ports);
            }
            changed = ports.informed.changed() => {
                changed.context("the watches ended")?;
                ports.informed.borrow_and_update();
                let facts = ports.facts();
                gossip.handle(Event::Facts(facts), &ports);
            }
            changed = ports.witnessed.changed() => {
                changed.context("the witness ended")?;
                let until = *ports.witnessed.borrow_and_update();
                if let Some(until) = until {
                    gossip.handle(Event::Witnessed(until), &ports);
                }
            }
            Some(Arrival { from, bytes, line }) = arrived.recv() => {
                let foreign = gossip.member.counters().foreign;
                gossip.handle(Event::Datagram { from, bytes: &bytes, via: Via::Stream }, &ports);
                gossip.streams.judge(line, gossip.member.counters().foreign == foreign);
            }
            () = gossip.streams.accept() => {}
            answer = ports.answers.recv() => match answer {
                Some(Answer::Host(address)) => gossip.handle(Event::HostAnswered(address), &ports),
                Some(Answer::OutOfReach(address)) => gossip.handle(Event::HostOutOfReach(address), &ports),
                Some(Answer::Speaker(node)) => gossip.handle(Event::SpeakerAnswered(&node), &ports),
                None => break,
            },
            changed = ports.links.changed() => {
                changed.context("the links ended")?;
                gossip.carrier = !ports.links.borrow_and_update().is_cut;
                gossip.handle(Event::Carrier(gossip.carrier), &ports);
                let facts = ports.facts();
                gossip.handle(Event::Facts(facts), &ports);
            }
            changed = ports.standing.changed() => {
                changed.context("layer 2 ended")?;
                let now = ports.standing.borrow_and_update().broken.clone();
                if now != broken {
                    broken = now;
                    let facts = ports.facts();
                    gossip.handle(Event::Facts(facts), &ports);
                }
            }
            _ = secrets.tick() => {
                if let Some(changed) = own.secret_folder.as_deref().and_then(|folder| changed(folder, &known)) {
                    tracing::info!(event = "secretChanged", "the speakers' secret changed");
                    known = changed.clone();
                    gossip.handle(Event::Secrets(changed), &ports);
                }
            }
            () = sleep_until(deadline) => gossip.handle(Event::Timeout, &ports),
            // Nothing else is to be done.
            () = tokio::task::yield_now(), if before >= TURN => {}
        }
    }
    gossip.handle(Event::Restarting, &ports);
    gossip.streams.finish().await;
    Ok(())
}

/// The secrets of a folder, when they are others than those that are known. What cannot be read is as it was.
fn changed(folder: &Path, known: &Secrets) -> Option<Secrets> {
    match settings::read_secrets(folder) {
        Ok(secrets) => (secrets != *known).then_some(secrets),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the speakers' secret is kept as it was");
            None
        }
    }
}

impl Ports {
    /// What this node is able to do, and what it does.
    fn facts(&self) -> Facts {
        let Own { kept, claims, stays } = self.own.borrow().clone();
        let able = self.links.borrow().facts(&self.standing.borrow().broken);
        let uninformed = !*self.informed.borrow();
        Facts { kept, claims, stays, uninformed, ..able.unwrap_or_default() }
    }
}

struct Gossip {
    member: Membership,
    socket: UdpSocket,
    streams: Streams,
    metrics: Metrics,
    /// Whether the link that datagrams go through has carrier.
    carrier: bool,
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
                // Sent into a dead link, the kernel would ask for the neighbour there, and again only a second later: as
                // much later this node would be heard after the link is back, while it answers for what is others' by then.
                Action::Send { .. } if !self.carrier => {}
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
                Action::Hold(until) => {
                    ports.hold.send_replace(Some(until));
                }
                Action::Witness(wanted) => {
                    tracing::info!(
                        event = "witness",
                        wanted,
                        "the word of the API server is wanted, or no more"
                    );
                    ports.witness.send_replace(wanted);
                }
                Action::Roster(roster) => {
                    tracing::info!(
                        event = "membersChanged",
                        members = ?roster.members.keys().collect::<Vec<_>>(),
                        unheard = ?roster.unheard,
                        silent = ?roster.silent,
                        link = ?roster.link,
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
