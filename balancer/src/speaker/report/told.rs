//! What there is to tell of this node's announcements: compared, never written here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use metallb_api::InterfaceInfo;
use metallb_core::announced::ANNOUNCED_REASON;
use metallb_core::plan::{Interfaces, Plan, Verdict};
use metallb_core::service::ServiceKey;
use metallb_proto::layer2::conflict::Conflict;
use metallb_proto::layer2::mac_text;

use crate::speaker::facts::{CONFLICT, Finding, ServiceFacts};
use crate::speaker::layer2::Standing;

/// How long a Service cannot be announced before that is told: a link may be about to come, or the address to move.
const PATIENCE: Duration = Duration::from_secs(2);

/// The Services that this node announces, or would if no other host had their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::speaker) struct Announced {
    pub(super) services: BTreeMap<ServiceKey, Announcement>,
    /// Services that nobody announces, and that say that this node does.
    pub(super) dropped: Vec<ServiceKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) uid: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) interfaces: Vec<InterfaceInfo>,
    /// What its annotation is to say.
    pub(super) record: String,
}

/// What the Services say of their announcement now.
pub(in crate::speaker) type Marks = BTreeMap<ServiceKey, Mark>;

/// What one Service says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::speaker) struct Mark {
    pub(super) record: Option<String>,
    pub(super) condition: Option<Finding>,
}

impl Mark {
    /// What is read of a Service.
    pub(in crate::speaker) fn of(facts: &ServiceFacts) -> Self {
        let record = facts.record.as_ref().map(|(_, text)| text.clone());
        Self { record, condition: facts.condition.clone() }
    }
}

impl Announced {
    /// What a plan lets `node` announce, whose interfaces are `linked`.
    pub(in crate::speaker) fn of(
        plan: &Plan,
        services: &BTreeMap<ServiceKey, ServiceFacts>,
        node: &str,
        linked: &BTreeSet<String>,
    ) -> Self {
        let mut announced = Self::default();
        for (key, verdict) in &plan.services {
            let Some(facts) = services.get(key) else { continue };
            let record = facts.record.as_ref();
            match verdict {
                Verdict::Mine(interfaces) => {
                    let names = linked.iter().filter(|name| interfaces.contains(name));
                    let wanted: Vec<&str> = std::iter::once(node).chain(names.map(String::as_str)).collect();
                    let announcement = Announcement {
                        uid: facts.uid.clone(),
                        addresses: facts
                            .service
                            .iter()
                            .flat_map(|service| service.addresses.clone())
                            .collect(),
                        interfaces: listed(interfaces),
                        record: wanted.join(","),
                    };
                    announced.services.insert(key.clone(), announcement);
                }
                Verdict::Nobody(_) if record.is_some_and(|(recorded, _)| recorded == node) => {
                    announced.dropped.push(key.clone());
                }
                Verdict::Theirs(_) | Verdict::Nobody(_) => {}
            }
        }
        announced
    }

    /// The Services that there may be something to tell of.
    pub(in crate::speaker) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys().chain(&self.dropped)
    }

    /// Leaves out what is not announced because hosts are asked for it, or one of them has it.
    pub(super) fn on_wire(&self, standing: &Standing) -> BTreeMap<ServiceKey, Announcement> {
        let services = self.services.iter().filter(|(_, announcement)| announcement.stands(standing));
        services.map(|(key, announcement)| (key.clone(), announcement.clone())).collect()
    }

    /// Each address that is announced, with its Service.
    pub(super) fn addresses(&self, standing: &Standing) -> BTreeSet<(ServiceKey, IpAddr)> {
        let all = self.services.iter().flat_map(|(key, announcement)| {
            announcement.addresses.iter().map(move |address| (key, *address))
        });
        let announced = all.filter(|(_, address)| standing.announced.contains(address));
        announced.map(|(key, address)| (key.clone(), address)).collect()
    }
}

impl Announcement {
    /// Whether all that can be announced is, of which there is something: of two families the link may carry one alone.
    fn stands(&self, standing: &Standing) -> bool {
        let (announced, rest): (Vec<&IpAddr>, Vec<&IpAddr>) =
            self.addresses.iter().partition(|address| standing.announced.contains(address));
        !announced.is_empty() && rest.into_iter().all(|address| standing.failed.contains(address))
    }
}

/// What the condition of a Service, which says `now`, is to say about other hosts; `None` to leave it as it is. It has one
/// writer at a time: what is said here stands until it is said here that it is over.
pub(super) fn finding(
    now: Option<&Finding>,
    announcement: &Announcement,
    standing: &Standing,
) -> Option<Finding> {
    let claims = claims(announcement, standing, |conflict| conflict.withheld);
    let found = if claims.is_empty() {
        now.filter(|now| announcement.stands(standing) && !now.announced && now.reason == CONFLICT)?;
        Finding { announced: true, reason: ANNOUNCED_REASON.to_owned(), message: "on layer 2".to_owned() }
    } else {
        let message = format!("{}: not announced", claims.join(", "));
        Finding { announced: false, reason: CONFLICT.to_owned(), message }
    };
    (now != Some(&found)).then_some(found)
}

/// Who has which of the addresses, of the conflicts that are `meant`.
pub(super) fn claims(
    announcement: &Announcement,
    standing: &Standing,
    meant: impl Fn(&Conflict) -> bool,
) -> Vec<String> {
    let conflicts = announcement.addresses.iter().filter_map(|address| {
        standing
            .conflicts
            .get(address)
            .filter(|conflict| meant(conflict))
            .map(|conflict| (address, conflict.mac))
    });
    conflicts.map(|(address, mac)| format!("{} has {address}", mac_text(mac))).collect()
}

fn listed(interfaces: &Interfaces) -> Vec<InterfaceInfo> {
    match interfaces {
        Interfaces::All => vec![],
        Interfaces::Named(names) => {
            names.iter().map(|name| InterfaceInfo { name: Some(name.clone()) }).collect()
        }
    }
}

/// Services that this node is to announce and cannot, each told once for as long as that lasts.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures(BTreeMap<ServiceKey, Failure>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    since: Instant,
    told: bool,
}

impl Failures {
    /// Takes note of what cannot be announced at `now`.
    pub(super) fn follow(&mut self, now: Instant, planned: &Announced, standing: &Standing) {
        let fails = |announcement: &Announcement| {
            announcement.addresses.iter().any(|address| standing.failed.contains(address))
        };
        self.0.retain(|key, _| planned.services.get(key).is_some_and(fails));
        for (key, _) in planned.services.iter().filter(|(_, announcement)| fails(announcement)) {
            self.0.entry(key.clone()).or_insert(Failure { since: now, told: false });
        }
    }

    /// Those that are to be told now.
    pub(super) fn due(&self, now: Instant) -> Vec<ServiceKey> {
        let due = self.0.iter().filter(|(_, failure)| !failure.told && failure.since + PATIENCE <= now);
        due.map(|(key, _)| key.clone()).collect()
    }

    /// It was told.
    pub(super) fn told(&mut self, key: &ServiceKey) {
        if let Some(failure) = self.0.get_mut(key) {
            failure.told = true;
        }
    }

    /// When there is one to tell, though nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.values().filter(|failure| !failure.told).map(|failure| failure.since + PATIENCE).min()
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
