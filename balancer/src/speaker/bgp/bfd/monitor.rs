//! What a peer's task asks of the BFD task, and is told by it.

use std::net::SocketAddr;
use std::time::Duration;

use metallb_core::config::BfdProfile;
use metallb_proto::bfd::State;
use metallb_proto::bgp::Bfd;
use nix::net::if_::if_nametoindex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::speaker::bgp::metrics::Label;

/// Longest time to send the last packet of a session.
const SHUT: Duration = Duration::from_millis(200);

/// The path to a router: the two ends of the BGP connection over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::speaker::bgp) struct Reach {
    pub(in crate::speaker::bgp) local: SocketAddr,
    pub(in crate::speaker::bgp) router: SocketAddr,
    /// Interface (a VRF) that sockets are bound to.
    pub(in crate::speaker::bgp) device: Option<Device>,
    pub(in crate::speaker::bgp) is_multihop: bool,
}

/// An interface that sockets are bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::speaker::bgp) struct Device {
    pub(in crate::speaker::bgp) name: String,
    /// Its number: another interface of that name has another, and a socket stays bound to the one that is gone.
    index: Option<u32>,
}

impl Device {
    /// The interface that has this name now.
    pub(in crate::speaker::bgp) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), index: if_nametoindex(name).ok() }
    }
}

/// What is told about a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) state: Option<State>,
    /// Whether the session is down since an administrator has shut the router's end.
    pub(super) is_shut_there: bool,
    /// Why there is no session, or none that comes up.
    pub(super) problem: Option<String>,
    /// Times that the path broke.
    pub(super) failures: u64,
}

/// What is asked of the task.
#[derive(Debug)]
pub(super) enum Command {
    /// Watch a path; a session that watches another one for this peer ends.
    Watch(Box<Watch>),
    /// Tell the router that the silence to come is meant, and end the session. Answered once that was sent.
    Shut { peer: String, done: Option<oneshot::Sender<()>> },
}

/// A path to watch, and how.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) peer: String,
    pub(super) label: Label,
    pub(super) reach: Reach,
    pub(super) profile: BfdProfile,
    /// Where to tell what comes of it.
    pub(super) tell: watch::Sender<Told>,
}

/// The way to the task.
#[derive(Clone, Debug)]
pub(in crate::speaker::bgp) struct Sender(mpsc::UnboundedSender<Command>);

impl Sender {
    /// A way to the task, and its end.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, asked) = mpsc::unbounded_channel();
        (Self(commands), asked)
    }

    /// The BFD of one peer.
    pub(in crate::speaker::bgp) fn monitor(&self, peer: &str, label: Label) -> Monitor {
        let (tell, told) = watch::channel(Told::default());
        Monitor {
            commands: self.0.clone(),
            peer: peer.to_owned(),
            label,
            profile: None,
            reach: None,
            tell,
            told,
            failures: 0,
        }
    }
}

/// The BFD of one peer, as the peer's task sees it.
pub(in crate::speaker::bgp) struct Monitor {
    commands: mpsc::UnboundedSender<Command>,
    peer: String,
    label: Label,
    profile: Option<BfdProfile>,
    reach: Option<Reach>,
    tell: watch::Sender<Told>,
    told: watch::Receiver<Told>,
    /// Failures that are known to the peer's session.
    failures: u64,
}

impl Monitor {
    /// Sets how the path is watched; not at all without a profile.
    pub(in crate::speaker::bgp) fn configure(&mut self, profile: Option<&BfdProfile>) {
        if self.profile.as_ref() == profile {
            return;
        }
        self.profile = profile.cloned();
        match profile {
            Some(_) => self.ask(),
            None => self.command(Command::Shut { peer: self.peer.clone(), done: None }),
        }
    }

    /// Sets which path is watched.
    pub(in crate::speaker::bgp) fn watch(&mut self, reach: Reach) {
        // The port of this end is another one with each connection, and means nothing to BFD.
        let reach = Reach { local: without_port(reach.local), router: without_port(reach.router), ..reach };
        if self.reach.as_ref() != Some(&reach) || self.told.borrow().problem.is_some() {
            self.reach = Some(reach);
            self.ask();
        }
    }

    /// Waits for news; returns whether the path broke.
    pub(in crate::speaker::bgp) async fn changed(&mut self) -> bool {
        // The sender is this value's own.
        let _ = self.told.changed().await;
        let failures = self.told.borrow_and_update().failures;
        std::mem::replace(&mut self.failures, failures) < failures
    }

    /// State of the session, where there is one.
    pub(in crate::speaker::bgp) fn state(&self) -> Option<State> {
        self.told.borrow().state
    }

    /// What that means for the BGP session; nothing new while the session comes up.
    pub(in crate::speaker::bgp) fn says(&self) -> Option<Bfd> {
        let told = self.told.borrow();
        match told.state {
            Some(State::Up) => Some(Bfd::Up),
            Some(_) if !told.is_shut_there => None,
            _ => Some(Bfd::Nothing),
        }
    }

    /// Why there is no session in spite of the profile, or none that comes up.
    pub(in crate::speaker::bgp) fn problem(&self) -> Option<String> {
        self.told.borrow().problem.clone()
    }

    /// Ends the session, and returns once the router was told.
    pub(in crate::speaker::bgp) async fn shut(&mut self) {
        if self.reach.take().is_none() {
            return;
        }
        let (done, sent) = oneshot::channel();
        self.command(Command::Shut { peer: self.peer.clone(), done: Some(done) });
        // Without an answer the router hears the silence only, as after a crash.
        let _ = tokio::time::timeout(SHUT, sent).await;
    }

    fn ask(&self) {
        if let (Some(profile), Some(reach)) = (&self.profile, &self.reach) {
            self.command(Command::Watch(Box::new(Watch {
                peer: self.peer.clone(),
                label: self.label.clone(),
                reach: reach.clone(),
                profile: profile.clone(),
                tell: self.tell.clone(),
            })));
        }
    }

    fn command(&self, command: Command) {
        // The task ends with the program only.
        let _ = self.commands.send(command);
    }
}

fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
