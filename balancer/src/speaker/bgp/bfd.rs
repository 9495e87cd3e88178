//! BFD sessions with routers. One task owns all of them.

mod echo;
mod entry;
mod monitor;
mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_proto::bfd::echo::{Frame, discriminator};
use metallb_proto::bfd::{Event, Packet, Settings};
use socket2::Socket;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::metrics::BfdMetrics;
use crate::speaker::{sleep_until, sys};
use echo::{Heard, Links, Use};
use entry::{Entry, settings};
use monitor::{Command, Watch};
pub(super) use monitor::{Device, Monitor, Reach, Sender};
use sockets::{Arrival, ListenAt, listen, receive};

/// Datagrams that wait to be looked at.
const BACKLOG: usize = 1024;
/// How long routers are told at most, when the program ends, that the silence to come is meant.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause before a session that could not be opened is tried again: another program may have the port.
const RETRY: Duration = Duration::from_secs(5);

/// The task, and the way to it. The task ends a moment after the last [`Sender`] and [`Monitor`] are gone.
pub(super) fn task(
    metrics: BfdMetrics,
) -> (Sender, impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let (sender, asked) = Sender::new();
    (sender, run(asked, metrics))
}

async fn run(mut commands: mpsc::UnboundedReceiver<Command>, metrics: BfdMetrics) -> anyhow::Result<()> {
    let (arrive, mut arrivals) = mpsc::channel(BACKLOG);
    let (hear, mut heard) = mpsc::channel(BACKLOG);
    let links = Links::new(hear);
    let mut sessions = Sessions {
        entries: Vec::new(),
        refused: BTreeMap::new(),
        retry: None,
        listeners: HashMap::new(),
        arrive,
        links,
        metrics,
    };
    let mut ending = None;
    while ending.is_none() || !sessions.entries.is_empty() {
        let deadline = sessions.entries.iter().filter_map(|entry| entry.session.deadline()).min();
        tokio::select! {
            () = sleep_until(ending), if ending.is_some() => break,
            () = sleep_until(sessions.retry), if ending.is_none() => sessions.try_again(),
            () = sleep_until(deadline) => {
                // What is there already counts before what did not come.
                for arrival in std::iter::from_fn(|| arrivals.try_recv().ok()).take(BACKLOG) {
                    sessions.arrived(&arrival);
                }
                for heard in std::iter::from_fn(|| heard.try_recv().ok()).take(BACKLOG) {
                    sessions.heard(&heard);
                }
                sessions.timeout();
            }
            Some(arrival) = arrivals.recv() => sessions.arrived(&arrival),
            Some(heard) = heard.recv() => sessions.heard(&heard),
            command = commands.recv(), if ending.is_none() => match command {
                Some(command) => sessions.obey(command),
                None => ending = Some(Instant::now() + FAREWELL),
            },
        }
    }
    Ok(())
}

/// All sessions, and the sockets on which packets for them arrive.
struct Sessions {
    entries: Vec<Entry>,
    /// By peer, those that could not be opened.
    refused: BTreeMap<String, Watch>,
    retry: Option<Instant>,
    listeners: HashMap<ListenAt, Listener>,
    arrive: mpsc::Sender<Arrival>,
    links: Links,
    metrics: BfdMetrics,
}

/// A socket on which packets arrive, and who reads them.
struct Listener {
    socket: Socket,
    _task: AbortOnDropHandle<()>,
}

impl Sessions {
    fn obey(&mut self, command: Command) {
        match command {
            Command::Watch(wanted) => self.watch(*wanted),
            Command::Shut { peer, done } => {
                if let Some(refused) = self.refused.remove(&peer) {
                    // What kept the path from being watched is nobody's trouble any more.
                    refused.tell.send_if_modified(|told| told.problem.take().is_some());
                }
                for entry in self.entries.iter_mut().filter(|entry| entry.peer == peer) {
                    entry.shut(&self.metrics);
                }
                self.forget(Entry::has_ended);
                if let Some(done) = done {
                    // Who asked may have given up waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    fn try_again(&mut self) {
        self.retry = None;
        for wanted in std::mem::take(&mut self.refused).into_values() {
            self.watch(wanted);
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.sends_echo()) {
            entry.look_for_rival();
        }
        self.try_again_soon();
    }

    /// Has what does not work tried again, and who else has the port of echo packets looked for again.
    fn try_again_soon(&mut self) {
        if !self.refused.is_empty() || self.entries.iter().any(Entry::sends_echo) {
            self.retry.get_or_insert(Instant::now() + RETRY);
        }
    }

    fn watch(&mut self, wanted: Watch) {
        self.refused.remove(&wanted.peer);
        let echo = self.links.of(&wanted.reach, &wanted.profile).unwrap_or_else(|error| {
            let (peer, error) = (&wanted.peer, format!("{error:#}"));
            tracing::warn!(peer, error, "no BFD echo packets; control packets watch the path");
            Use::default()
        });
        let known = self.entries.iter_mut().find(|entry| entry.peer == wanted.peer && !entry.is_shut);
        if let Some(entry) = known {
            if entry.reach == wanted.reach {
                let Settings { discriminator, seed, .. } = entry.settings;
                entry.settings = settings(&wanted, echo.accepts, discriminator, seed);
                entry.use_path(echo.path, &self.metrics);
                entry.handle(Event::Configure(entry.settings), &self.metrics);
                return self.try_again_soon();
            }
            entry.shut(&self.metrics);
        }
        if let Err(error) = self.open(wanted.clone(), echo) {
            let problem = Some(format!("{error:#}"));
            let (peer, error) = (wanted.peer.clone(), problem.as_deref());
            wanted.tell.send_if_modified(|told| {
                let is_news = told.problem != problem;
                if is_news {
                    tracing::warn!(peer, error, "the path to the router is not watched by BFD");
                    told.problem.clone_from(&problem);
                }
                is_news
            });
            self.refused.insert(peer, wanted);
        }
        self.try_again_soon();
    }

    fn open(&mut self, wanted: Watch, echo: Use) -> anyhow::Result<()> {
        let settings = settings(&wanted, echo.accepts, self.discriminator(), rand::random());
        let reach = wanted.reach.clone();
        // To the router it is one session: two that speak to it would end each other.
        let rival =
            self.entries.iter().find(|entry| !entry.is_shut && entry.reach.is_between_ends_of(&reach));
        if let Some(rival) = rival {
            anyhow::bail!("BGPPeer {:?} has the BFD session with this router", rival.peer);
        }
        let at = ListenAt::of(&reach);
        if !self.listeners.contains_key(&at) {
            let beside =
                self.listeners.iter().filter(|(other, _)| (other.is_v4, other.port) == (at.is_v4, at.port));
            let beside: Vec<&Socket> = beside.map(|(_, listener)| &listener.socket).collect();
            let socket = listen(&at, &beside).with_context(|| {
                format!("BFD cannot have UDP port {}, which another program on this node may use", at.port)
            })?;
            let read = sys::register(socket.try_clone()?)?;
            let task = tokio::spawn(receive(read, at.clone(), self.arrive.clone()));
            self.listeners.insert(at, Listener { socket, _task: AbortOnDropHandle::new(task) });
        }
        let mut entry = Entry::new(wanted, settings, echo.path)?;
        entry.look_for_rival();
        self.metrics.session_up.get_or_create(&entry.label).set(0);
        entry.handle(Event::Start, &self.metrics);
        self.entries.push(entry);
        // A former session with the router has said its last word: another one would end this session there.
        self.forget(|entry| entry.is_shut && entry.reach.is_between_ends_of(&reach));
        Ok(())
    }

    /// Removes sessions, the metrics of those that have no successor, and the sockets that nobody needs any more: a port is
    /// left to others, and one that is bound to an interface that is gone is of no use when that comes back.
    fn forget(&mut self, is_over: impl Fn(&Entry) -> bool) {
        if !self.entries.iter().any(&is_over) {
            return;
        }
        let (over, rest): (Vec<Entry>, _) = std::mem::take(&mut self.entries).into_iter().partition(is_over);
        self.entries = rest;
        for label in over.iter().map(|entry| &entry.label) {
            if self.entries.iter().all(|entry| entry.label != *label) {
                self.metrics.remove(label);
            }
        }
        let entries = &self.entries;
        self.listeners.retain(|at, _| entries.iter().any(|entry| ListenAt::of(&entry.reach) == *at));
    }

    /// A number that no session has.
    fn discriminator(&self) -> u32 {
        loop {
            let number: u32 = rand::random();
            if number != 0 && self.entries.iter().all(|entry| entry.settings.discriminator != number) {
                return number;
            }
        }
    }

    fn timeout(&mut self) {
        let now = Instant::now();
        for entry in &mut self.entries {
            if entry.session.deadline().is_some_and(|deadline| deadline <= now) {
                entry.handle(Event::Timeout, &self.metrics);
            }
        }
        self.forget(Entry::has_ended);
    }

    fn arrived(&mut self, arrival: &Arrival) {
        // The other end's choice of the session: by its number once it knows it, and by the address before (§6.8.6).
        let number = Packet::decode(&arrival.bytes).map_or(0, |packet| packet.your_discriminator);
        let from = self.entries.iter_mut().filter(|entry| arrival.is_from(&entry.reach));
        let mut known = from.filter(|entry| match number {
            0 => !entry.is_shut,
            number => entry.settings.discriminator == number,
        });
        let Some(entry) = known.next() else {
            return tracing::debug!(from = %arrival.from, "BFD packet of a stranger dropped");
        };
        self.metrics.control_packet_input.get_or_create(&entry.label).inc();
        entry.handle(Event::Datagram { bytes: &arrival.bytes, ttl: arrival.ttl }, &self.metrics);
    }

    /// What a packet socket heard: where a router is on its link, or an echo packet that came back.
    fn heard(&mut self, heard: &Heard) {
        let running = self.entries.iter_mut().filter(|entry| !entry.is_shut);
        let mut there = running.filter(|entry| entry.path.as_ref().is_some_and(|path| path.at == heard.at));
        match &heard.frame {
            Frame::Control { router, own, discriminator, ends } => {
                let its = there
                    .filter(|entry| entry.reach.router.ip() == *router && entry.reach.local.ip() == *own)
                    .filter(|entry| entry.settings.discriminator == *discriminator);
                for entry in its {
                    if let Some(path) = entry.path.as_mut().filter(|path| path.ends != Some(*ends)) {
                        path.ends = Some(*ends);
                        entry.handle(Event::EchoPath(true), &self.metrics);
                    }
                }
            }
            Frame::Neighbor { address, mac } => {
                for entry in there.filter(|entry| entry.reach.router.ip() == *address) {
                    let ends = entry.path.as_mut().and_then(|path| path.ends.as_mut());
                    if let Some(ends) = ends.filter(|ends| ends.router != *mac) {
                        ends.router = *mac;
                        entry.handle(Event::EchoPath(true), &self.metrics);
                    }
                }
            }
            Frame::Echo { own, payload } => {
                let number = discriminator(payload);
                let its = there.find(|entry| {
                    Some(entry.settings.discriminator) == number && entry.reach.local.ip() == *own
                });
                // A router's own echo packet is the kernel's to send back.
                let Some(entry) = its else { return };
                self.metrics.echo_packet_input.get_or_create(&entry.label).inc();
                entry.handle(Event::Echo(payload), &self.metrics);
            }
        }
    }
}

#[cfg(test)]
#[path = "bfd/sessions_tests.rs"]
mod tests;
