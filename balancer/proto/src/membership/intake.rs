//! What arrives: opened, proved to be fresh, and handed on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::Membership;
use super::event::Via;
use super::message::Message;
use super::peer::Peer;
use super::seal::{Key, SessionId};
use super::session::Admission;

/// How long a member is reached by TCP before UDP is tried again.
const STREAM_MEMORY: Duration = Duration::from_secs(10);

impl Membership {
    pub(super) fn datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8], via: Via) {
        // All members listen on one port; that of a stream's other end is any.
        let from = if via == Via::Stream { SocketAddr::new(from.ip(), self.address.port()) } else { from };
        let Some(opened) = self.seal.open(self.address, bytes) else {
            self.counters.foreign += 1;
            return;
        };
        if opened.key == Key::Current {
            self.current.insert(from);
        }
        let Ok(message) = postcard::from_bytes::<Message>(&opened.message) else {
            self.counters.malformed += 1;
            return;
        };
        match message {
            Message::Challenge { session, token } => {
                if session == self.seal.session() {
                    self.send_via(from, &Message::Proof { token, node: self.node.clone() }, via);
                }
                if !self.sessions.is_admitted(opened.session) {
                    self.challenge(now, from, opened.session, via);
                }
            }
            Message::Proof { node, .. } if node == self.node => self.counters.malformed += 1,
            Message::Proof { token, node } => {
                if self.sessions.prove(opened.session, opened.counter, token, &node) {
                    self.heard(now, from, &node);
                    self.note_way(now, from, via);
                    if let Some(peer) = self.peers.get_mut(&node) {
                        peer.facts = None;
                        peer.confirmed = 0;
                    }
                    if !self.peers.get(&node).is_some_and(|peer| peer.up) {
                        let effects = self.swim.announce(now, &node, from);
                        self.apply(now, effects);
                    }
                }
            }
            message => match self.sessions.admit(opened.session, opened.counter) {
                Admission::Unknown => {
                    self.counters.unproven += 1;
                    self.challenge(now, from, opened.session, via);
                }
                Admission::Replayed => self.counters.replayed += 1,
                Admission::Fresh(node) => {
                    let node = node.to_owned();
                    self.counters.received += 1;
                    self.heard(now, from, &node);
                    self.note_way(now, from, via);
                    self.message(now, from, &node, message);
                }
            },
        }
    }

    fn challenge(&mut self, now: Instant, to: SocketAddr, session: SessionId, via: Via) {
        if let Some(token) = self.sessions.challenge(now, session, self.rng.random()) {
            self.send_via(to, &Message::Challenge { session, token }, via);
        }
    }

    fn heard(&mut self, now: Instant, from: SocketAddr, node: &str) {
        let peer = self.peers.entry(node.to_owned()).or_insert_with(|| Peer::new(from));
        peer.address = from;
        peer.heard = Some(now);
        if let Some(watch) = self.watches.get_mut(node) {
            watch.heard(now);
        }
    }

    /// What comes by TCP is answered by TCP for a while, then UDP is tried again.
    fn note_way(&mut self, now: Instant, from: SocketAddr, via: Via) {
        match via {
            Via::Stream => {
                self.streams.insert(from, now + STREAM_MEMORY);
            }
            Via::Datagram => {
                self.streams.remove(&from);
            }
        }
    }
}
