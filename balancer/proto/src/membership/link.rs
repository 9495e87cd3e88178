//! The link that datagrams go through. When it is back, others may have taken over what this node announced: until one of
//! them is heard, this node cannot know.

use std::time::{Duration, Instant};

use super::Membership;
use super::event::Action;

/// How long a member is waited for when the link is back. A switch may forward later than the link has carrier, and a host
/// that the kernel asked for in vain is asked for again after a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time between two rounds of questions for the hosts of the others, which do not wait that long.
const ASKING: Duration = Duration::from_millis(50);
/// Hosts asked in one round.
const ASKED: usize = 4;

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// It had carrier from the start, or somebody was heard since it is back, or nobody within [`PATIENCE`].
    Works,
    /// It has no carrier.
    Dead,
    /// It has carrier again, and nobody was heard since.
    Back {
        /// When this node goes on without anybody.
        until: Instant,
        /// When the hosts of the others are asked for next.
        ask: Instant,
    },
}

impl Link {
    pub(super) fn has_carrier(self) -> bool {
        self != Self::Dead
    }

    pub(super) fn works(self) -> bool {
        self == Self::Works
    }
}

impl Membership {
    /// The link has carrier, or has none.
    pub(super) fn set_carrier(&mut self, now: Instant, carrier: bool) {
        if carrier == self.link.has_carrier() {
            return;
        }
        let is_alone = !self.peers.values().any(|peer| peer.up) && self.absent.is_empty();
        match carrier {
            true if is_alone => self.set_link(Link::Works),
            true => self.set_link(Link::Back { until: now + PATIENCE, ask: now }),
            false => self.set_link(Link::Dead),
        }
    }

    /// Somebody was heard over the link, or was waited for long enough.
    pub(super) fn link_works(&mut self, now: Instant) {
        if let Link::Back { .. } = self.link {
            // Nobody could be heard before.
            self.watches.values_mut().for_each(|watch| watch.heard(now));
            self.set_link(Link::Works);
        }
    }

    fn set_link(&mut self, link: Link) {
        self.changed |= self.link.works() != link.works();
        self.link = link;
    }

    pub(super) fn link_deadline(&self) -> Option<Instant> {
        match self.link {
            Link::Back { until, ask } => Some(until.min(ask)),
            Link::Works | Link::Dead => None,
        }
    }

    pub(super) fn run_link(&mut self, now: Instant) {
        let Link::Back { until, ask } = self.link else { return };
        if until <= now {
            return self.link_works(now);
        }
        if ask <= now {
            self.link = Link::Back { until, ask: now + ASKING };
            let hosts = self.peers.iter().filter(|(_, peer)| peer.identity.is_some()).take(ASKED);
            let asking =
                hosts.map(|(node, peer)| Action::AskHost { node: node.clone(), address: peer.address.ip() });
            self.actions.extend(asking);
        }
    }
}
