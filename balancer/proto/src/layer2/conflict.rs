//! Whether an address is another host's: asked before its first announcement, and noticed during it.
//!
//! Probes follow RFC 5227 §2.1.1 for IPv4 and RFC 4862 §5.4 for IPv6, with times of their own unless the RFC's are asked
//! for; defence follows RFC 5227 §2.4(b). A neighbour that answers for any free address too is a proxy (RFC 1027) and no
//! conflict. Claims of this cluster's own nodes are the caller's to leave out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::MacAddress;
use super::budget::Budget;
use super::responder::Claim;

/// Least time between two defences of an address (`DEFEND_INTERVAL` of RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// How long a rival is remembered that is not heard any more.
const MEMORY: Duration = Duration::from_secs(60);
/// Pause before a withheld address is asked for again.
const RETRY: Duration = Duration::from_secs(10);
/// How long an address waits for the pace of the probes before it is announced without them.
const PATIENCE: Duration = Duration::from_secs(1);
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

/// Times of the probes for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Number of probes.
    pub probes: u32,
    /// Longest random wait before the first.
    pub wait: Duration,
    /// Least time between two.
    pub gap: Duration,
    /// Longest random addition to that.
    pub jitter: Duration,
    /// How long answers are waited for after the last.
    pub listen: Duration,
}

impl Pace {
    /// A tenth of a second in all.
    pub const FAST: Self = Self {
        probes: 3,
        wait: Duration::ZERO,
        gap: Duration::from_millis(20),
        jitter: Duration::ZERO,
        listen: Duration::from_millis(60),
    };

    /// `PROBE_NUM`, `PROBE_WAIT`, `PROBE_MIN`, `PROBE_MAX` and `ANNOUNCE_WAIT` of RFC 5227 §1.1.
    pub const RFC5227: Self = Self {
        probes: 3,
        wait: Duration::from_secs(1),
        gap: Duration::from_secs(1),
        jitter: Duration::from_secs(1),
        listen: Duration::from_secs(2),
    };
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
}

/// Guards the addresses that a node announces, or is to announce.
#[derive(Debug)]
pub struct Guard {
    settings: Settings,
    rng: StdRng,
    entries: BTreeMap<IpAddr, Entry>,
    proxies: BTreeSet<MacAddress>,
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    /// The other host that was found.
    rival: Option<MacAddress>,
    heard: Instant,
    defended: Option<Instant>,
    /// Whether the pace of the probes made it be announced before hosts were asked.
    early: bool,
}

impl Entry {
    fn is_withheld(&self) -> bool {
        match self.state {
            State::Clear => false,
            State::Withheld { .. } => true,
            State::Queued { .. } | State::Probing { .. } | State::Verifying { .. } => {
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
    Verifying {
        mac: MacAddress,
        decoys: [IpAddr; DECOYS],
        answered: [bool; DECOYS],
        sent: u32,
        next: Instant,
    },
    /// It may be announced.
    Clear,
    /// Another host has it.
    Withheld { retry: Instant },
}

impl Guard {
    /// A guard of nothing yet. `seed` is the source of its random waits.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self { settings, rng: StdRng::from_seed(seed), entries: BTreeMap::new(), proxies: BTreeSet::new() }
    }

    /// Takes the addresses that this node is to announce, each with whether it is fresh: nobody may have announced it
    /// before, so that hosts are asked first.
    pub fn assign(&mut self, now: Instant, addresses: &BTreeMap<IpAddr, bool>) {
        self.entries.retain(|address, _| addresses.contains_key(address));
        for (address, fresh) in addresses {
            let first = match self.settings.probe.filter(|_| *fresh) {
                Some(pace) => {
                    let since = now + random(&mut self.rng, pace.wait);
                    State::Queued { since, next: since }
                }
                None => State::Clear,
            };
            let entry = Entry { state: first, rival: None, heard: now, defended: None, early: false };
            let entry = self.entries.entry(*address).or_insert(entry);
            if !fresh && !entry.early {
                entry.state = State::Clear;
            }
        }
    }

    /// A neighbour says that it has an address. `decoys` draws free addresses of the network of the address.
    pub fn claim(
        &mut self,
        now: Instant,
        claim: Claim,
        budget: &mut Budget,
        decoys: impl FnOnce() -> [IpAddr; DECOYS],
    ) -> Vec<Action> {
        self.answer_of_decoy(claim);
        if self.proxies.contains(&claim.mac) {
            return vec![];
        }
        let Some(entry) = self.entries.get_mut(&claim.address) else { return vec![] };
        match entry.state {
            State::Queued { .. } | State::Probing { .. } => {
                let decoys = decoys();
                entry.state = State::Verifying {
                    mac: claim.mac,
                    decoys,
                    answered: [false; DECOYS],
                    sent: 0,
                    next: now,
                };
                self.poll(now, budget)
            }
            State::Clear => {
                entry.rival = Some(claim.mac);
                entry.heard = now;
                let recent = |at: Instant| now.saturating_duration_since(at) < DEFEND_INTERVAL;
                if entry.defended.is_some_and(recent) {
                    return vec![];
                }
                entry.defended = Some(now);
                vec![Action::Defend(claim.address)]
            }
            State::Verifying { .. } | State::Withheld { .. } => vec![],
        }
    }

    fn answer_of_decoy(&mut self, claim: Claim) {
        for entry in self.entries.values_mut() {
            let State::Verifying { mac, decoys, answered, .. } = &mut entry.state else { continue };
            if *mac != claim.mac {
                continue;
            }
            for (decoy, answered) in decoys.iter().zip(answered.iter_mut()) {
                *answered |= *decoy == claim.address;
            }
            if answered.iter().all(|answered| *answered) {
                self.proxies.insert(claim.mac);
                entry.state = State::Clear;
                entry.rival = None;
            }
        }
    }

    /// Does what is due, as far as the budget allows; the rest waits for it.
    pub fn poll(&mut self, now: Instant, budget: &mut Budget) -> Vec<Action> {
        let mut actions = vec![];
        let pace = self.pace();
        for (address, entry) in &mut self.entries {
            match &mut entry.state {
                State::Probing { sent, next } if *next <= now => {
                    if *sent < pace.probes {
                        *sent += 1;
                        *next = now + pause(&pace, *sent, &mut self.rng);
                        actions.push(Action::Probe { address: *address, target: *address });
                    } else {
                        entry.state = State::Clear;
                        entry.rival = None;
                    }
                }
                State::Verifying { mac, decoys, sent, next, .. } if *next <= now => {
                    if *sent < Pace::FAST.probes {
                        if !budget.take(now, ASKED_DECOYS) {
                            *next = budget.next(now, ASKED_DECOYS);
                            continue;
                        }
                        *sent += 1;
                        *next = now + pause(&Pace::FAST, *sent, &mut self.rng);
                        actions.extend(decoys.map(|target| Action::Probe { address: *address, target }));
                    } else {
                        entry.rival = Some(*mac);
                        entry.heard = now;
                        entry.state = if self.settings.withhold {
                            State::Withheld { retry: now + RETRY }
                        } else {
                            State::Clear
                        };
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
                entry.state = State::Probing { sent: 1, next: now + pause(&pace, 1, &mut self.rng) };
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

    fn pace(&self) -> Pace {
        self.settings.probe.unwrap_or(Pace::FAST)
    }

    /// When [`Guard::poll`] is wanted next.
    pub fn deadline(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| match entry.state {
                State::Queued { next, .. } | State::Probing { next, .. } | State::Verifying { next, .. } => {
                    Some(next)
                }
                State::Withheld { retry } => Some(retry),
                State::Clear => entry.rival.map(|_| entry.heard + MEMORY),
            })
            .min()
    }

    /// Whether an address is not to be announced now: hosts are asked for it, or one of them has it.
    pub fn withholds(&self, address: IpAddr) -> bool {
        self.entries.get(&address).is_some_and(Entry::is_withheld)
    }

    /// How many addresses are announced though hosts are still to be asked for them, which the pace allows not yet.
    pub fn overdue(&self) -> usize {
        let overdue = |entry: &&Entry| !matches!(entry.state, State::Clear) && !entry.is_withheld();
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

/// The time from probe number `sent` to the next step.
fn pause(pace: &Pace, sent: u32, rng: &mut StdRng) -> Duration {
    if sent == pace.probes { pace.listen } else { pace.gap + random(rng, pace.jitter) }
}

fn random(rng: &mut StdRng, most: Duration) -> Duration {
    if most.is_zero() { most } else { most.mul_f64(rng.random()) }
}

/// An address that is probably free: another one of `network`, or of those around `address` where that is in no network
/// of this node.
pub fn decoy(address: IpAddr, network: Option<IpNet>, random: u128) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let prefix = network.map_or(24, |network| network.prefix_len()).clamp(1, 30);
            let hosts = u32::MAX >> prefix;
            // Neither the network's own address nor the broadcast address.
            let host = u32::try_from(random % u128::from(hosts - 1)).unwrap_or(0) + 1;
            let host = if host == u32::from(address) & hosts { host % (hosts - 1) + 1 } else { host };
            Ipv4Addr::from(u32::from(address) & !hosts | host).into()
        }
        IpAddr::V6(address) => {
            let low = u128::from(u64::MAX);
            let host = if (u128::from(address) ^ random) & low == 0 { !random } else { random };
            Ipv6Addr::from(u128::from(address) & !low | host & low).into()
        }
    }
}

#[cfg(test)]
#[path = "conflict_tests.rs"]
mod tests;
