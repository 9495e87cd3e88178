//! What happens to a session, and what it wants done.

use std::fmt;
use std::sync::Arc;

use super::notification::{BFD_DOWN, CEASE, COLLISION, Notification};
use super::open::Agreed;
use super::route::{NextHops, Routes};
use super::settings::Settings;

/// Which end opened a connection, and which one of its connections it is. There is at most one of each kind at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// This end, after [`Action::Connect`].
    Outgoing,
    /// The router.
    Incoming,
    /// The router, while [`Side::Incoming`] is in use: which of the two stays is judged by its OPEN.
    Second,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Outgoing, Self::Incoming, Self::Second];
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer is configured: the session may begin.
    Start,
    /// A TCP connection with the router stands. It takes the place of an earlier one of its side, which the caller closes.
    Connected {
        /// Who opened it; [`super::Session::room`] tells the side of one that the router opened.
        side: Side,
        /// Addresses of this end that routes may lead to over it.
        next_hops: NextHops,
    },
    /// Bytes from the router, in order, cut anywhere.
    Received {
        /// The connection.
        side: Side,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// All that was to be sent over a connection has been handed to the kernel.
    Flushed(Side),
    /// A connection could not be opened, or ended, and not by [`Action::Close`].
    Closed {
        /// The connection.
        side: Side,
        /// Why, in words.
        reason: &'a str,
    },
    /// The routes to announce, all of them. Before the first time nothing is announced, and no End-of-RIB sent.
    Routes(Arc<Routes>),
    /// The addresses of this end that routes may lead to over a connection may be others.
    NextHops {
        /// The connection.
        side: Side,
        /// All of them.
        next_hops: NextHops,
    },
    /// What the router does not see of the settings may be different; the rest of them is not looked at.
    Configure(&'a Settings),
    /// What BFD says of the path to the router.
    Bfd(Bfd),
    /// The session is to end.
    Stop(Stop),
    /// The deadline has come.
    Timeout,
}

/// What BFD says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bfd {
    /// It is whole.
    Up,
    /// It broke, having been whole.
    Down,
    /// Nothing, and what it said before means nothing any more: it is not configured, or an administrator has shut the other
    /// end (RFC 5882 §3.2).
    Nothing,
}

/// How a session is to end. A second one while the first still drains ends it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The speaker ends and its successor on this node follows: with graceful restart the router keeps all routes,
    /// without it this is [`Stop::Leave`].
    Restart {
        /// For the router's administrator (RFC 9003).
        text: String,
    },
    /// The node or the peer goes away: the router is asked to prefer other paths, then the routes are withdrawn.
    Leave {
        /// For the router's administrator (RFC 9003).
        text: String,
    },
    /// The settings changed; another session follows at once.
    Reset,
}

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to the router. Answered by [`Event::Connected`] or [`Event::Closed`].
    Connect,
    /// Send bytes. Answered by [`Event::Flushed`] once nothing is left to send.
    Send {
        /// The connection.
        side: Side,
        /// Whole messages.
        bytes: Vec<u8>,
    },
    /// Send what is left, for a short time, then close, or give up opening. No event of this connection follows.
    Close(Side),
    /// Tell about a change.
    Report(Report),
}

/// A change worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The state changed.
    State(State),
    /// The session stands.
    Established(Agreed),
    /// The session, or an attempt at one, ended.
    Down(Down),
    /// A connection ended, and the session goes on over another one.
    Spare(Down),
    /// The router sent an UPDATE that is wrong; its routes count as withdrawn, or one attribute was left out.
    Malformed(String),
    /// After [`Event::Stop`]: nothing is left to do.
    Stopped,
}

/// State of a session (RFC 4271 §8.2.2): that of the connection that got furthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not begun, or stopped.
    Idle,
    /// Waits for its next attempt, or for the router to connect.
    Active,
    /// Opens a connection.
    Connect,
    /// Has sent its OPEN.
    OpenSent,
    /// Has accepted the router's OPEN.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a session, or an attempt at one, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// This end said why.
    Sent(Notification),
    /// The router said why.
    Received(Notification),
    /// The connection could not be opened, or ended without a word.
    Closed(String),
    /// The router did not answer an attempt to connect.
    ConnectTimeout,
    /// This end closed without a word, so that the router keeps the routes (RFC 4724 §4).
    Restart,
    /// The router came back on a new connection without closing this one (RFC 4724 §5).
    Replaced,
}

impl Down {
    /// Whether one of the ends found the path broken by BFD (RFC 9384).
    pub(super) fn is_bfd(&self) -> bool {
        let (Self::Sent(notification) | Self::Received(notification)) = self else { return false };
        let inner = notification.inner();
        let said = inner.as_ref().unwrap_or(notification);
        (said.code, said.subcode) == (CEASE, BFD_DOWN)
    }

    /// Whether one of the ends gave up this connection for another one (RFC 4271 §6.8).
    pub(super) fn is_collision(&self) -> bool {
        matches!(self, Self::Sent(said) | Self::Received(said) if (said.code, said.subcode) == (CEASE, COLLISION))
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "sent {notification}"),
            Self::Received(notification) => write!(f, "received {notification}"),
            Self::Closed(reason) => f.write_str(reason),
            Self::ConnectTimeout => f.write_str("no answer to the attempt to connect"),
            Self::Restart => f.write_str("closed for a graceful restart"),
            Self::Replaced => f.write_str("replaced by a new connection of the router"),
        }
    }
}

/// Messages and routes counted since the session object was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// OPEN messages sent.
    pub opens_sent: u64,
    /// OPEN messages received.
    pub opens_received: u64,
    /// UPDATE messages sent.
    pub updates_sent: u64,
    /// UPDATE messages received.
    pub updates_received: u64,
    /// KEEPALIVE messages sent.
    pub keepalives_sent: u64,
    /// KEEPALIVE messages received.
    pub keepalives_received: u64,
    /// NOTIFICATION messages sent.
    pub notifications_sent: u64,
    /// NOTIFICATION messages received.
    pub notifications_received: u64,
    /// ROUTE-REFRESH messages sent.
    pub route_refreshes_sent: u64,
    /// ROUTE-REFRESH messages received.
    pub route_refreshes_received: u64,
    /// Routes announced by the router, none of which is kept.
    pub routes_received: u64,
    /// Routes withdrawn by the router.
    pub withdrawals_received: u64,
    /// UPDATE messages received that were wrong.
    pub malformed_received: u64,
    /// Times that the session was established.
    pub established: u64,
}

impl std::ops::Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            opens_sent: self.opens_sent + other.opens_sent,
            opens_received: self.opens_received + other.opens_received,
            updates_sent: self.updates_sent + other.updates_sent,
            updates_received: self.updates_received + other.updates_received,
            keepalives_sent: self.keepalives_sent + other.keepalives_sent,
            keepalives_received: self.keepalives_received + other.keepalives_received,
            notifications_sent: self.notifications_sent + other.notifications_sent,
            notifications_received: self.notifications_received + other.notifications_received,
            route_refreshes_sent: self.route_refreshes_sent + other.route_refreshes_sent,
            route_refreshes_received: self.route_refreshes_received + other.route_refreshes_received,
            routes_received: self.routes_received + other.routes_received,
            withdrawals_received: self.withdrawals_received + other.withdrawals_received,
            malformed_received: self.malformed_received + other.malformed_received,
            established: self.established + other.established,
        }
    }
}

impl Counters {
    /// Messages sent, of all types.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.opens_sent
            + self.updates_sent
            + self.keepalives_sent
            + self.notifications_sent
            + self.route_refreshes_sent
    }

    /// Messages received, of all types.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.opens_received
            + self.updates_received
            + self.keepalives_received
            + self.notifications_received
            + self.route_refreshes_received
    }
}
