//! Whether an address is another host's: asked before its first announcement, and noticed during it.
//!
//! Probes follow RFC 5227 §2.1.1 for IPv4 and RFC 4862 §5.4 for IPv6, with times of their own unless the RFC's are asked
//! for; defence follows RFC 5227 §2.4(b). A neighbour that answers for any free address too is a proxy (RFC 1027) and no
//! conflict. Of claims of this cluster's own nodes [`Guard::kin`] is told instead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::MacAddress;
use super::budget::Budget;
pub use super::decoy::decoy;
pub use super::pace::Pace;
use super::pace::random;
use super::responder::Claim;

/// Least time between two defences of an address (`DEFEND_INTERVAL` of RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// How long a rival is remembered that is not heard any more, and a proxy before it is tried again.
const MEMORY: Duration = Duration::from_secs(60);
/// Pause before a withheld address is asked for again.
const RETRY: Duration = Duration::from_secs(10);
/// How long an address waits for the pace of the probes before it is announced without them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before hosts are asked for an address that is announced without that: a former owner of this cluster has given
/// it up by then.
const LATER: Duration = Duration::from_secs(3);
/// Free addresses that a rival is tried with; a host with some addresses of its own answers for few of them by chance.
pub const DECOYS: usize = 2;
/// Frames that ask for them once.
const ASKED_DECOYS: u32 = 2;

/// How other hosts are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// At which pace; `None` for not at all.
    pub probe: Option<Pace>,
    /// Whether an address that another host has is not announced.
    pub withhold: bool,
}

/// Another host that has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// Who answered for it.
    pub mac: MacAddress,
    /// Whether the address is not announced because of that.
    pub withheld: bool,
}

/// What is wanted of the interfaces that an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask there who has `target`, from no address.
    Probe {
        /// The address in question.
        address: IpAddr,
        /// What to ask for: the address, or a free one.
        target: IpAddr,
    },
    /// Announce the address there once.
    Defend(IpAddr),
    /// The same a moment later, if it is still announced then.
    Again(IpAddr),
    /// Ask there whether another node answers for the address too.
    Contest(IpAddr),
}

/// Guards the addresses that a node announces, or is to announce.
#[derive(Debug)]
pub struct Guard {
    settings: Settings,
    rng: StdRng,
    entries: BTreeMap<IpAddr, Entry>,
    /// Those of them whose rivals are tried with decoys, and some for which that is over.
    verifying: BTreeSet<IpAddr>,
    /// Neighbours that answer for every address, and when that was found.
    proxies: BTreeMap<MacAddress, Instant>,
    /// When the pace allows the next question for an address that is announced already.
    later: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    /// The other host that was found.
    rival: Option<MacAddress>,
    heard: Instant,
    defended: Option<Instant>,
    /// When it was last announced again because another node of the cluster claimed it.
    repeated: Option<Instant>,
    /// Whether the pace of the probes made it be announced before hosts were asked.
    early: bool,
    /// When hosts are asked once for an address that is announced without that: one that had it before answers for it, and
    /// is not heard otherwise.
    later: Option<Instant>,
}

impl Entry {
    fn is_withheld(&self) -> bool {
        match self.state {
            State::Clear | State::Verifying(Doubt { announced: true, .. }) => false,
            State::Withheld { .. } => true,
            State::Queued { .. } | State::Probing { .. } | State::Verifying(_) => {
                !self.early || self.rival.is_some()
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Hosts are to be asked from `since` on, as soon as the pace allows, which is tried again at `next`.
    Queued { since: Instant, next: Instant },
    /// Hosts are asked; `next` is the time of the next probe or the end.
    Probing { sent: u32, next: Instant },
    /// One answered: is it a proxy?
    Verifying(Doubt),
    /// It may be announced.
    Clear,
    /// Another host has it.
    Withheld { retry: Instant },
}

/// Another host that says that it has an address, while it is tried.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    mac: MacAddress,
    decoys: [IpAddr; DECOYS],
    answered: [bool; DECOYS],
    sent: u32,
    next: Instant,
    /// Whether the address is announced for good, so that it is defended and not withdrawn.
    announced: bool,
    /// Longest random addition to the pause before the address is asked for again.
    slack: Duration,
}

impl Guard {
    /// A guard of nothing yet. `seed` is the source of its random waits.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            settings,
            rng: StdRng::from_seed(seed),
            entries: BTreeMap::new(),
            verifying: BTreeSet::new(),
            proxies: BTreeMap::new(),
            later: None,
        }
    }

    /// Takes the addresses that this node is to announce, each with whether it is fresh: nobody may have announced it
    /// before, so that hosts are asked first.
    pub fn assign(&mut self, now: Instant, addresses: &BTreeMap<IpAddr, bool>) {
        self.entries.retain(|address, _| addresses.contains_key(address));
        for (address, fresh) in addresses {
            let later = self.settings.probe.filter(|_| !fresh).map(|_| now + LATER);
            let first = match self.settings.probe.filter(|_| *fresh) {
                Some(pace) => {
                    let since = now + random(&mut self.rng, pace.wait);
                    State::Queued { since, next: since }
                }
                None => State::Clear,
            };
            let entry = Entry {
                state: first,
                rival: None,
                heard: now,
                defended: None,
                repeated: None,
                early: false,
                later,
            };
            let entry = self.entries.entry(*address).or_insert(entry);
            let is_announced = matches!(entry.state, State::Verifying(Doubt { announced: true, .. }));
            if !fresh && !entry.early && !is_announced {
                entry.state = State::Clear;
            }
        }
    }

    /// A neighbour says that it has an address. `decoys` draws free addresses of the network of the address. Returns
    /// whether that changes anything, so that [`Guard::poll`] is wanted.
    pub fn claim(&mut self, now: Instant, claim: Claim, decoys: impl FnOnce() -> [IpAddr; DECOYS]) -> bool {
        let found = self.answer_of_decoy(now, claim);
        if self.is_proxy(now, claim.mac) {
            return found;
        }
        let Some(entry) = self.entries.get_mut(&claim.address) else { return false };
        let announced = match entry.state {
            State::Queued { .. } | State::Probing { .. } => false,
            State::Clear => true,
            State::Verifying(_) | State::Withheld { .. } => return false,
        };
        let recent = |at: Instant| now.saturating_duration_since(at) < DEFEND_INTERVAL;
        if announced && entry.defended.is_some_and(recent) {
            // One rival an interval is told, however many there are.
            entry.heard = now;
            let is_first = entry.rival.is_none();
            entry.rival.get_or_insert(claim.mac);
            return is_first;
        }
        self.verify(now, claim, announced, Duration::ZERO, decoys());
        true
    }

    /// A neighbour asks whether an address is free, to take it. Returns what [`Guard::claim`] does: of two that ask at one
    /// time neither may take it (RFC 5227 §2.1.1, RFC 4862 §5.4.3), and who took it is found by asking later.
    pub fn probed(&mut self, now: Instant, claim: Claim, decoys: impl FnOnce() -> [IpAddr; DECOYS]) -> bool {
        let state = self.entries.get(&claim.address).map(|entry| entry.state);
        let asked = matches!(state, Some(State::Queued { .. } | State::Probing { .. }));
        if asked {
            // Two that ask at one time must not do so again.
            self.verify(now, claim, false, RETRY, decoys());
        }
        asked
    }

    /// Another node of the cluster says that it has an address. Where both did for a moment, neighbours may believe the
    /// one that gave way: who kept the address says so once more.
    pub fn kin(&mut self, now: Instant, address: IpAddr) -> Option<Action> {
        let entry = self.entries.get_mut(&address).filter(|entry| !entry.is_withheld())?;
        let recent = |at: Instant| now.saturating_duration_since(at) < DEFEND_INTERVAL;
        if entry.repeated.is_some_and(recent) {
            return None;
        }
        entry.repeated = Some(now);
        Some(Action::Again(address))
    }

    /// Whether a neighbour was found to answer for every address.
    pub fn is_proxy(&self, now: Instant, mac: MacAddress) -> bool {
        self.proxies.get(&mac).is_some_and(|found| now.saturating_duration_since(*found) < MEMORY)
    }

    fn verify(
        &mut self,
        now: Instant,
        claim: Claim,
        announced: bool,
        slack: Duration,
        decoys: [IpAddr; DECOYS],
    ) {
        let Some(entry) = self.entries.get_mut(&claim.address) else { return };
        let answered = [false; DECOYS];
        let mac = claim.mac;
        entry.state = State::Verifying(Doubt { mac, decoys, answered, sent: 0, next: now, announced, slack });
        self.verifying.insert(claim.address);
    }

    /// Takes note of an answer for a decoy; whether it was the last one that shows a proxy.
    fn answer_of_decoy(&mut self, now: Instant, claim: Claim) -> bool {
        let (entries, proxies) = (&mut self.entries, &mut self.proxies);
        let mut found = false;
        self.verifying.retain(|address| {
            let Some(entry) = entries.get_mut(address) else { return false };
            let State::Verifying(doubt) = &mut entry.state else { return false };
            if doubt.mac != claim.mac {
                return true;
            }
            for (decoy, answered) in doubt.decoys.iter().zip(doubt.answered.iter_mut()) {
                *answered |= *decoy == claim.address;
            }
            if !doubt.answered.iter().all(|answered| *answered) {
                return true;
            }
            proxies.insert(claim.mac, now);
            if !doubt.announced {
                entry.rival = None;
            }
            entry.state = State::Clear;
            found = true;
            false
        });
        found
    }

    /// Does what is due, as far as the budget allows; the rest waits for it.
    pub fn poll(&mut self, now: Instant, budget: &mut Budget) -> Vec<Action> {
        let mut actions = vec![];
        let pace = self.pace();
        self.proxies.retain(|_, found| now.saturating_duration_since(*found) < MEMORY);
        for (address, entry) in &mut self.entries {
            match &mut entry.state {
                State::Probing { sent, next } if *next <= now => {
                    if *sent < pace.probes {
                        *sent += 1;
                        *next = now + pace.pause(*sent, &mut self.rng);
                        actions.push(Action::Probe { address: *address, target: *address });
                    } else {
                        entry.state = State::Clear;
                        entry.rival = None;
                    }
                }
                State::Verifying(doubt) if doubt.next <= now => {
                    if doubt.sent < Pace::FAST.probes {
                        if !budget.take(now, ASKED_DECOYS) {
                            doubt.next = budget.next(now, ASKED_DECOYS);
                            continue;
                        }
                        doubt.sent += 1;
                        doubt.next = now + Pace::FAST.pause(doubt.sent, &mut self.rng);
                        let ask = |target| Action::Probe { address: *address, target };
                        actions.extend(doubt.decoys.map(ask));
                        continue;
                    }
                    let Doubt { mac, announced, slack, .. } = *doubt;
                    entry.rival = Some(mac);
                    entry.heard = now;
                    entry.state = if self.settings.withhold && !announced {
                        State::Withheld { retry: now + RETRY + random(&mut self.rng, slack) }
                    } else {
                        State::Clear
                    };
                    if announced {
                        entry.defended = Some(now);
                        actions.push(Action::Defend(*address));
                    }
                }
                State::Withheld { retry } if *retry <= now => {
                    entry.state = State::Queued { since: now, next: now };
                }
                State::Clear if entry.rival.is_some() && entry.heard + MEMORY <= now => entry.rival = None,
                _ => {}
            }
        }
        actions.extend(self.begin(now, budget));
        actions
    }

    /// Asks for the addresses that wait for it, for each with all probes paid: those that are not announced first, and of
    /// them the one that waits longest.
    fn begin(&mut self, now: Instant, budget: &mut Budget) -> Vec<Action> {
        let pace = self.pace();
        let waiting = |(address, entry): (&IpAddr, &Entry)| match entry.state {
            State::Queued { since, .. } if since <= now => Some((entry.early, since, *address)),
            _ => None,
        };
        let mut queue: Vec<(bool, Instant, IpAddr)> = self.entries.iter().filter_map(waiting).collect();
        queue.sort_unstable();
        let mut actions = vec![];
        for (_, since, address) in queue {
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            if budget.take(now, pace.probes) {
                entry.state = State::Probing { sent: 1, next: now + pace.pause(1, &mut self.rng) };
                actions.push(Action::Probe { address, target: address });
                continue;
            }
            let mut next = budget.next(now, pace.probes);
            // One that another host had waits for as long as it takes.
            if entry.rival.is_none() && !entry.early {
                entry.early = since + PATIENCE <= now;
                if !entry.early {
                    next = next.min(since + PATIENCE);
                }
            }
            entry.state = State::Queued { since, next };
        }
        actions
    }

    /// Asks once for an address that is announced already and was not asked for, as far as the budget allows: less urgent
    /// than all else.
    pub(super) fn ask_later(&mut self, now: Instant, budget: &mut Budget) -> Option<Action> {
        let open = self.entries.iter_mut().filter(|(_, entry)| matches!(entry.state, State::Clear));
        let due = open.filter(|(_, entry)| entry.later.is_some_and(|later| later <= now));
        let (address, entry) = due.min_by_key(|(_, entry)| entry.later)?;
        self.later = Some(budget.next(now, 1)).filter(|next| *next > now);
        if self.later.is_some() || !budget.take(now, 1) {
            return None;
        }
        entry.later = None;
        Some(Action::Probe { address: *address, target: *address })
    }

    /// When [`Guard::ask_later`] is wanted next.
    pub(super) fn later(&self) -> Option<Instant> {
        let open = self.entries.values().filter(|entry| matches!(entry.state, State::Clear));
        let first = open.filter_map(|entry| entry.later).min()?;
        Some(self.later.map_or(first, |next| next.max(first)))
    }

    fn pace(&self) -> Pace {
        self.settings.probe.unwrap_or(Pace::FAST)
    }

    /// When [`Guard::poll`] is wanted next.
    pub fn deadline(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| match entry.state {
                State::Queued { next, .. } | State::Probing { next, .. } => Some(next),
                State::Verifying(doubt) => Some(doubt.next),
                State::Withheld { retry } => Some(retry),
                State::Clear => entry.rival.map(|_| entry.heard + MEMORY),
            })
            .min()
    }

    /// Whether addresses wait for the pace to be asked for: what is less urgent waits behind them.
    pub fn waits(&self, now: Instant) -> bool {
        let waits = |entry: &Entry| matches!(entry.state, State::Queued { since, .. } if since <= now);
        self.entries.values().any(waits)
    }

    /// Whether an address is not to be announced now: hosts are asked for it, or one of them has it.
    pub fn withholds(&self, address: IpAddr) -> bool {
        self.entries.get(&address).is_some_and(Entry::is_withheld)
    }

    /// How many addresses are announced though hosts are still to be asked for them, which the pace allows not yet.
    pub fn overdue(&self) -> usize {
        let settled = |state| matches!(state, State::Clear | State::Verifying(Doubt { announced: true, .. }));
        let overdue = |entry: &&Entry| !settled(entry.state) && !entry.is_withheld();
        self.entries.values().filter(overdue).count()
    }

    /// The addresses that another host has.
    pub fn conflicts(&self) -> BTreeMap<IpAddr, Conflict> {
        let found = |(address, entry): (&IpAddr, &Entry)| {
            Some((*address, Conflict { mac: entry.rival?, withheld: entry.is_withheld() }))
        };
        self.entries.iter().filter_map(found).collect()
    }
}

#[cfg(test)]
#[path = "conflict_tests.rs"]
mod tests;
