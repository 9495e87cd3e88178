//! What a member remembers of another.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::event::Facts;
use super::identity::Identity;
use crate::layer2::MacAddress;

/// Time between two hints to a member that its life is over for us.
const STALE_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// Its last life, once SWIM knows one.
    pub(super) identity: Option<Identity>,
    pub(super) up: bool,
    pub(super) heard: Option<Instant>,
    /// Until when it may be silent, since it said that it restarts.
    pub(super) restart_until: Option<Instant>,
    /// Whether it has given up its part for good, in its last life.
    pub(super) left: bool,
    /// Until when it counts although it is down, since it may not know that it is.
    pub(super) lingers_until: Option<Instant>,
    /// What its node is able to do, with the version.
    pub(super) facts: Option<(u32, Facts)>,
    /// Every link-layer address that its node told of.
    pub(super) macs: BTreeSet<MacAddress>,
    /// Since when it is no member and should have no speaker.
    pub(super) unwanted: Option<Instant>,
    /// The version of this member's own facts that it has; 0 for none.
    pub(super) confirmed: u32,
    stale_sent: Option<Instant>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            identity: None,
            up: false,
            heard: None,
            restart_until: None,
            left: false,
            lingers_until: None,
            facts: None,
            macs: BTreeSet::new(),
            unwanted: None,
            confirmed: 0,
            stale_sent: None,
        }
    }

    /// The epoch that a member which speaks although it was declared down has to leave behind; not told too often.
    pub(super) fn stale_epoch(&mut self, now: Instant) -> Option<u64> {
        let epoch = self.identity.as_ref().filter(|_| !self.up)?.epoch;
        if self.stale_sent.is_some_and(|sent| now.saturating_duration_since(sent) < STALE_INTERVAL) {
            return None;
        }
        self.stale_sent = Some(now);
        Some(epoch)
    }
}
