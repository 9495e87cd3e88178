//! Telling newcomers who is dead, and learning it from others.

use std::net::SocketAddr;
use std::time::Instant;

use super::Membership;
use super::identity::Identity;
use super::message::Message;
use super::peer::Peer;

/// Most nodes named in one report of dead ones: fits into a datagram.
const DOWN_AT_ONCE: usize = 16;

impl Membership {
    /// Tells a new member which nodes are known to be dead, so that it does not wait for them.
    pub(super) fn report_down(&mut self, to: SocketAddr) {
        let seeds = self.seeds.as_ref();
        let nodes: Vec<_> = self
            .swim
            .down()
            .filter(|member| seeds.is_some_and(|seeds| seeds.contains_key(&member.node)))
            .map(|member| (member.node.clone(), member.address, member.epoch))
            .collect();
        for nodes in nodes.chunks(DOWN_AT_ONCE) {
            self.send(to, &Message::Down { nodes: nodes.to_vec() });
        }
    }

    pub(super) fn learn_down(&mut self, now: Instant, down: Vec<Identity>) {
        for identity in &down {
            let peer = self.peers.entry(identity.node.clone()).or_insert_with(|| Peer::new(identity.address));
            peer.identity = Some(identity.clone());
            let wait = self.fence.take_over_wait();
            peer.lingers_until = (!wait.is_zero()).then(|| now + wait);
        }
        self.changed = true;
        let effects = self.swim.declare_down(now, down);
        self.apply(now, effects);
    }
}
