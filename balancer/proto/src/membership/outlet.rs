//! What goes out: sealed, and by the way on which its receiver is reached.

use std::net::SocketAddr;
use std::time::Instant;

use super::event::{Action, Via};
use super::message::Message;
use super::seal::Key;
use super::{Membership, swim};

impl Membership {
    /// Leaves: a member that does not learn of it holds the node for one whose speaker crashed.
    pub(super) fn leave(&mut self, now: Instant) {
        let effects = self.swim.leave(now);
        self.apply(now, effects);
        self.tell_everybody(&Message::Leaving);
        self.left = true;
        self.changed = true;
    }

    /// Sends what is said once and never again by every way, so that it is not lost with one of them.
    pub(super) fn tell_everybody(&mut self, message: &Message) {
        let up: Vec<_> = self.peers.values().filter(|peer| peer.up).map(|peer| peer.address).collect();
        for address in up {
            self.send_via(address, message, Via::Datagram);
            self.send_via(address, message, Via::Stream);
        }
    }

    pub(super) fn send_to_node(&mut self, node: &str, message: &Message) {
        if let Some(address) = self.peers.get(node).map(|peer| peer.address) {
            self.send(address, message);
        }
    }

    /// Sends a message the way that its receiver is known to be reached.
    pub(super) fn send(&mut self, to: SocketAddr, message: &Message) {
        let via = if self.streams.contains_key(&to) { Via::Stream } else { Via::Datagram };
        self.send_via(to, message, via);
    }

    pub(super) fn send_via(&mut self, to: SocketAddr, message: &Message, via: Via) {
        // Fails for nothing that a message can hold.
        let Ok(plain) = postcard::to_stdvec(message) else { return };
        let via = if plain.len() > swim::DATAGRAM { Via::Stream } else { via };
        if self.seal.is_changing() && !self.current.contains(&to) {
            // The receiver opens one of the two, and by the current one learns that this member has it.
            self.send_sealed(to, &plain, via, Key::Previous);
        }
        self.send_sealed(to, &plain, via, Key::Current);
    }

    fn send_sealed(&mut self, to: SocketAddr, plain: &[u8], via: Via, key: Key) {
        let bytes = self.seal.seal(to, plain, key);
        self.counters.sent += 1;
        self.counters.sent_bytes =
            self.counters.sent_bytes.saturating_add(bytes.len().try_into().unwrap_or(0));
        self.actions.push(Action::Send { to, bytes, via });
    }
}
