//! What a session is begun with.

use std::time::Duration;

/// Timers, each of which can be changed while the session is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// This end does not want to send faster.
    pub transmit_interval: Duration,
    /// This end cannot receive faster.
    pub receive_interval: Duration,
    /// How many packets of this end may be lost; at least 1.
    pub detect_multiplier: u8,
    /// This end does not want to send echo packets faster; `None` for not at all.
    pub echo_transmit_interval: Option<Duration>,
    /// This end's forwarding cannot send echo packets back faster; zero for not at all.
    pub echo_receive_interval: Duration,
}

/// How far away the other end may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On the same link (RFC 5881): packets that took a hop are dropped.
    SingleHop,
    /// Behind routers (RFC 5883): packets below this TTL are dropped.
    Multihop {
        /// 0 accepts all.
        minimum_ttl: u8,
    },
}

/// All that a session needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Timers to begin with.
    pub timers: Timers,
    /// Whether this end waits for the other one's first packet (RFC 5880 §6.1).
    pub passive: bool,
    /// How far away the other end may be.
    pub reach: Reach,
    /// This end's number for the session: not 0, unique on the node, and unpredictable.
    pub discriminator: u32,
    /// Source of the session's random choices.
    pub seed: u64,
}
