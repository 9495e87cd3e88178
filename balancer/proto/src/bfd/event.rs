//! What a session is told, and what it wants done.

use super::packet::{Diagnostic, State};
use super::settings::Settings;

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The session may begin.
    Start,
    /// A datagram from the other end.
    Datagram {
        /// Its payload.
        bytes: &'a [u8],
        /// TTL or hop limit with which it arrived.
        ttl: u8,
    },
    /// Whether echo packets can be sent: the other end's link-layer address is known. Told again when it is another one.
    EchoPath(bool),
    /// The payload of an echo packet that came back.
    Echo(&'a [u8]),
    /// The settings are to change, but for the discriminator and the seed.
    Configure(Settings),
    /// The session is to end without saying anything about the path.
    Shut,
    /// The deadline has come.
    Timeout,
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a datagram, with TTL 255.
    Send(Vec<u8>),
    /// Send an echo packet with this payload.
    SendEcho(Vec<u8>),
    /// Ask where the other end is on its link: echo packets stay away.
    LookUp,
    /// Tell about a change of state.
    Changed(Change),
    /// After [`Event::Shut`]: the other end had the time to learn of it, nothing is left to do.
    Stopped,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// State before.
    pub from: State,
    /// State now.
    pub to: State,
    /// State of the other end as last heard.
    pub remote: State,
    /// Why, where the session left Up.
    pub diagnostic: Diagnostic,
}

impl Change {
    /// Whether the path broke: not so when either end was shut by an administrator (RFC 5882 §3.2).
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.from == State::Up && self.to == State::Down && self.remote != State::AdminDown
    }
}
