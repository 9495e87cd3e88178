//! The SWIM protocol, by foca: who is a member, spread by gossip, with suspicion and refutation.
//!
//! foca owns no clock: its timers wait in a queue here until the caller says that their time has come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use foca::{
    Config, Foca, NoCustomBroadcast, Notification, PeriodicParams, PostcardCodec, Runtime, State, Timer,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::identity::Identity;
use super::seal::OVERHEAD;
use super::settings::Timing;

/// The largest message that goes by UDP: fits the smallest MTU of IPv6 with the headers of IPv6 and UDP (RFC 8200 §5)
/// and the seal.
pub(super) const DATAGRAM: usize = 1280 - 40 - 8 - OVERHEAD;
/// The largest packet of SWIM, with room for the variant and the length around it.
const PACKET: usize = DATAGRAM - 4;
/// Members told at once of news; with the watchers' own reports, everybody in clusters of this size.
const FANOUT: usize = 16;
/// Times that one piece of news is passed on by one member: more than are told at once, and enough for the rest.
const TRANSMISSIONS: u8 = 24;
/// How long a dead life is remembered, so that late packets do not revive it.
pub(super) const MEMORY: Duration = Duration::from_secs(3600);

/// What SWIM found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A member is there.
    Up(Identity),
    /// A member has left or is dead.
    Down(Identity),
    /// The member on a node has begun a new life.
    Renewed(Identity),
}

/// What a step of SWIM leads to.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) packets: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) changes: Vec<Change>,
    timers: Vec<(Duration, Timer<Identity>)>,
}

impl Effects {
    pub(super) fn extend(&mut self, more: Self) {
        self.packets.extend(more.packets);
        self.changes.extend(more.changes);
    }
}

impl Runtime<Identity> for Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        match notification {
            Notification::MemberUp(member) => self.changes.push(Change::Up(member.clone())),
            Notification::MemberDown(member) => self.changes.push(Change::Down(member.clone())),
            Notification::Rename(_, after) => self.changes.push(Change::Renewed(after.clone())),
            _ => {}
        }
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.packets.push((to.address, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// SWIM with its timers.
pub(super) struct Swim {
    foca: Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>,
    timers: BTreeMap<(Instant, u64), Timer<Identity>>,
    sequence: u64,
}

impl Swim {
    pub(super) fn new(me: Identity, timing: &Timing, seed: [u8; 32]) -> Self {
        let rng = StdRng::from_seed(seed);
        Self { foca: Foca::new(me, config(timing), rng, PostcardCodec), timers: BTreeMap::new(), sequence: 0 }
    }

    /// This member's present identity.
    pub(super) fn me(&self) -> &Identity {
        self.foca.identity()
    }

    /// When the next timer fires.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Fires the timers whose time has come.
    pub(super) fn expire(&mut self, now: Instant) -> Effects {
        let mut all = Effects::default();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            // foca says by errors that a timer is out of date; there is nothing to do then.
            let effects = self.step(now, |foca, effects| foca.handle_timer(timer, effects).ok());
            all.extend(effects);
        }
        all
    }

    /// Takes a packet in; `None` when it is not well formed.
    pub(super) fn receive(&mut self, now: Instant, packet: &[u8]) -> Option<Effects> {
        let mut good = true;
        let effects = self.step(now, |foca, effects| {
            let outcome = foca.handle_data(packet, effects);
            good = !matches!(outcome, Err(foca::Error::Decode(_) | foca::Error::MalformedPacket));
            outcome.ok()
        });
        good.then_some(effects)
    }

    /// Asks a node to be taken in.
    pub(super) fn announce(&mut self, now: Instant, node: &str, address: SocketAddr) -> Effects {
        let to = Identity { node: node.to_owned(), address, epoch: 0 };
        self.step(now, |foca, effects| foca.announce(to, effects).ok())
    }

    /// Tells everybody that these members are down.
    pub(super) fn declare_down(&mut self, now: Instant, members: Vec<Identity>) -> Effects {
        self.step(now, |foca, effects| {
            foca.apply_many(members.into_iter().map(foca::Member::down), true, &mut *effects).ok()?;
            foca.gossip(effects).ok()
        })
    }

    /// Begins a new life with a later epoch, since the present one is not accepted any more.
    pub(super) fn renew(&mut self, now: Instant, epoch: u64) -> Effects {
        let me = Identity { epoch, ..self.me().clone() };
        self.step(now, |foca, effects| foca.change_identity(me, effects).ok())
    }

    /// Tells everybody that this member leaves.
    pub(super) fn leave(&mut self, now: Instant) -> Effects {
        self.step(now, |foca, effects| foca.leave_cluster(effects).ok())
    }

    /// The last lives known to be down.
    pub(super) fn down(&self) -> impl Iterator<Item = &Identity> {
        self.foca.iter_membership_state().filter(|member| member.state() == State::Down).map(foca::Member::id)
    }

    fn step(
        &mut self,
        now: Instant,
        act: impl FnOnce(
            &mut Foca<Identity, PostcardCodec, StdRng, NoCustomBroadcast>,
            &mut Effects,
        ) -> Option<()>,
    ) -> Effects {
        let mut effects = Effects::default();
        // Errors here are about packets that could not be built or timers that came late: state stays sound.
        let _ = act(&mut self.foca, &mut effects);
        for (after, timer) in effects.timers.drain(..) {
            self.sequence += 1;
            self.timers.insert((now + after, self.sequence), timer);
        }
        effects
    }
}

fn config(timing: &Timing) -> Config {
    let count = |number: usize| NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN);
    Config {
        probe_period: timing.swim_period,
        probe_rtt: timing.swim_period / 3,
        num_indirect_probes: count(FANOUT),
        max_transmissions: NonZeroU8::new(TRANSMISSIONS).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: timing.swim_suspicion,
        remove_down_after: Some(MEMORY),
        max_packet_size: count(PACKET),
        // A member that speaks although it was declared down is told so by a message of our own: foca would also
        // tell one that has refuted a suspicion, and so end its life.
        notify_down_members: false,
        // A member that missed a piece of news learns it from the list of members that this brings.
        periodic_announce: Some(PeriodicParams { frequency: Duration::from_secs(10), num_members: count(1) }),
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis(200),
            num_members: count(3),
        }),
    }
}
