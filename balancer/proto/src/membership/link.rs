//! The link that datagrams go through. When it is back, others may have taken over what this node announced: until they are
//! members again, this node cannot know.

use std::time::{Duration, Instant};

use rand::seq::IteratorRandom;

use super::Membership;
use super::event::{Action, Link};
use super::message::Message;
use super::peer::Peer;

/// How long any member is waited for when the link is back. A switch may forward later than the link has carrier, and a host
/// that the kernel asked for in vain is asked for again after a second.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the others are waited for once one is there: less than those answer that hand an address over to this node.
const OTHERS: Duration = Duration::from_millis(150);
/// Time between two rounds of questions to those that are not there, and for their hosts, which do not wait that long.
const ASKING: Duration = Duration::from_millis(50);
/// Members asked in one round.
const ASKED: usize = 4;

/// The wait for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    since: Instant,
    /// When this node goes on without them.
    until: Instant,
    /// When those that are not there are asked for next.
    ask: Instant,
}

impl Membership {
    /// The link has carrier, or has none.
    pub(super) fn set_carrier(&mut self, now: Instant, carrier: bool) {
        if carrier == (self.link != Link::Dead) {
            return;
        }
        self.wait = carrier.then_some(Wait { since: now, until: now + PATIENCE, ask: now });
        self.set_link(if carrier { Link::Back } else { Link::Dead });
    }

    fn set_link(&mut self, link: Link) {
        self.changed |= self.link != link;
        self.link = link;
    }

    pub(super) fn link_deadline(&self) -> Option<Instant> {
        self.wait.map(|wait| wait.until.min(wait.ask))
    }

    /// Ends the wait once the others are there, or goes on with it.
    pub(super) fn run_link(&mut self, now: Instant) {
        let Some(Wait { since, until, ask }) = self.wait else { return };
        let is_there = |peer: &Peer| peer.up && peer.heard.is_some_and(|heard| heard >= since);
        let wanted = self.peers.iter().filter(|(_, peer)| peer.identity.is_some() && !peer.left);
        let (there, missing): (Vec<_>, Vec<_>) = wanted.partition(|(_, peer)| is_there(peer));
        let until = if there.is_empty() { until } else { until.min(now + OTHERS) };
        if missing.is_empty() || until <= now {
            // Nobody could be heard before.
            self.watches.values_mut().for_each(|watch| watch.heard(now));
            self.wait = None;
            return self.set_link(Link::Works);
        }
        let is_due = ask <= now;
        self.wait = Some(Wait { since, until, ask: if is_due { now + ASKING } else { ask } });
        if is_due {
            let missing = missing.into_iter().map(|(node, peer)| (node.clone(), peer.address));
            for (node, address) in missing.sample(&mut self.rng, ASKED) {
                self.actions.push(Action::AskHost { node, address: address.ip() });
                self.send(address, &Message::Probe);
            }
        }
    }
}
