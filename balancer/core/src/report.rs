//! How a decision about a Service is told: in its status, its annotation and Events.
//!
//! Nothing is told twice: where the object says already what is to be said there is no [`Report`], so a restart
//! writes nothing and an Event goes out only together with a change of the object.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::LoadBalancerIngress, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp,
};

use crate::{
    claim::{ServiceFacts, Told, shown},
    decision::{Change, Concern, Decision, Loss},
    refusal::{self, Lack, Refusal},
};

/// Reason of [`ADDRESS_ASSIGNED`](crate::claim::ADDRESS_ASSIGNED) when all is well.
pub const ASSIGNED: &str = "Assigned";
/// Reason of [`ADDRESS_ASSIGNED`](crate::claim::ADDRESS_ASSIGNED) when there is one address where two are preferred.
pub const ONE_FAMILY: &str = "OneFamily";
/// Reason of [`ADDRESS_ASSIGNED`](crate::claim::ADDRESS_ASSIGNED) when an address is kept that no pool holds.
pub const POOL_MISSING: &str = "PoolMissing";

/// What is written about one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `status.loadBalancer.ingress`, when it changes.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
    /// Annotation `metallb.io/ip-allocated-from-pool`.
    pub mark: Mark,
    /// Condition [`ADDRESS_ASSIGNED`](crate::claim::ADDRESS_ASSIGNED).
    pub condition: Tell,
    /// In this order.
    pub events: Vec<Notice>,
}

/// What becomes of the annotation that names the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It stays as it is.
    Unchanged,
    /// It names this pool.
    Set(String),
    /// It goes.
    Remove,
}

/// What becomes of the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// It stays as it is.
    Unchanged,
    /// It says this.
    Set(Finding),
    /// It goes.
    Remove,
}

/// What the condition [`ADDRESS_ASSIGNED`](crate::claim::ADDRESS_ASSIGNED) says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the Service has the address that it asks for.
    pub holds: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

/// An Event about a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is of type Warning, else Normal.
    pub warning: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl Notice {
    fn normal(reason: &'static str, message: String) -> Self {
        Self { warning: false, reason, message }
    }

    fn warning(reason: &'static str, message: String) -> Self {
        Self { warning: true, reason, message }
    }
}

impl Report {
    /// What is to be written so that the Service tells `decision`; `None` when it does so already.
    ///
    /// `is_ours` says which addresses only this load balancer may put into the status: those of its pools and those
    /// that the Service holds or gives up. Entries with other addresses and with host names are another's and stay.
    #[must_use]
    pub fn of(facts: &ServiceFacts, decision: &Decision, is_ours: impl Fn(IpAddr) -> bool) -> Option<Self> {
        let (addresses, pool): (&[IpAddr], Option<&str>) = match decision {
            Decision::Leave => return None,
            Decision::Keep { addresses, pool, .. } | Decision::Assign { addresses, pool, .. } => {
                (addresses, pool.as_deref())
            }
            Decision::Clear { .. } | Decision::Refuse(_) => (&[], None),
        };
        let events_of_status = twice_one_family(facts, addresses, &is_ours);
        let ingress = ingress(facts, addresses, &is_ours);
        let condition = condition(facts, decision);
        let report = Self {
            ingress: (ingress != facts.ingress).then_some(ingress),
            mark: mark(facts, addresses, pool),
            events: events_of_status
                .into_iter()
                .chain(events(facts, decision, condition != Tell::Unchanged))
                .collect(),
            condition,
        };
        (report.ingress.is_some() || report.mark != Mark::Unchanged || report.condition != Tell::Unchanged)
            .then_some(report)
    }
}

impl Report {
    /// The condition as it stands after this was written; its time says nothing.
    #[must_use]
    pub fn condition_after(&self, facts: &ServiceFacts) -> Option<Told> {
        match &self.condition {
            Tell::Unchanged => facts.condition.clone(),
            Tell::Remove => None,
            Tell::Set(finding) => Some(Told {
                holds: finding.holds,
                reason: finding.reason.into(),
                message: finding.message.as_str().into(),
                since: Time(Timestamp::UNIX_EPOCH),
            }),
        }
    }
}

/// The entries of the status: ours as decided, and those of others as they are.
fn ingress(
    facts: &ServiceFacts,
    addresses: &[IpAddr],
    is_ours: impl Fn(IpAddr) -> bool,
) -> Vec<LoadBalancerIngress> {
    let stays = |entry: &&LoadBalancerIngress| {
        shown(entry).is_none_or(|address| addresses.contains(&address) || !is_ours(address))
    };
    let present: Vec<_> = facts.ingress.iter().filter(stays).cloned().collect();
    let find = |address: &IpAddr| present.iter().find(|entry| shown(entry) == Some(*address));
    if addresses.iter().all(|address| find(address).is_some()) {
        return present;
    }
    // An entry that is there already keeps its ports and ipMode.
    let ours = addresses.iter().map(|address| {
        find(address)
            .cloned()
            .unwrap_or_else(|| LoadBalancerIngress { ip: Some(address.to_string()), ..Default::default() })
    });
    let others =
        present.iter().filter(|entry| shown(entry).is_none_or(|address| !addresses.contains(&address)));
    ours.chain(others.cloned()).collect()
}

fn mark(facts: &ServiceFacts, addresses: &[IpAddr], pool: Option<&str>) -> Mark {
    match (addresses, pool, facts.mark.as_deref()) {
        ([], _, Some(_)) => Mark::Remove,
        ([], _, None) => Mark::Unchanged,
        // Kept addresses that no pool holds still are of the pool which the annotation names.
        (_, None, Some(_)) => Mark::Unchanged,
        // That there is a mark is what tells whose the address is.
        (_, None, None) => Mark::Set(String::new()),
        (_, Some(pool), Some(before)) if pool == before => Mark::Unchanged,
        (_, Some(pool), _) => Mark::Set(pool.to_owned()),
    }
}

fn condition(facts: &ServiceFacts, decision: &Decision) -> Tell {
    let finding = |holds, reason, message| Finding { holds, reason, message };
    let refused = |refusal: &Refusal| finding(false, refusal.reason(), refusal.lasting());
    let assigned = |addresses: &[IpAddr], pool: &Option<String>, lack: Option<Lack>| {
        let pool = pool.as_ref().map(|pool| format!(" of pool {pool:?}")).unwrap_or_default();
        let held = format!("{}{pool}", spelled(addresses));
        match lack {
            None => finding(true, ASSIGNED, held),
            Some(lack) => finding(true, ONE_FAMILY, format!("{held}, of one family only: {lack}")),
        }
    };
    let wanted = match decision {
        Decision::Leave => return Tell::Unchanged,
        Decision::Clear { refusal: None, .. } => {
            return if facts.condition.is_some() { Tell::Remove } else { Tell::Unchanged };
        }
        Decision::Assign { addresses, pool, lack, .. } => assigned(addresses, pool, *lack),
        Decision::Clear { refusal: Some(refusal), .. } | Decision::Refuse(refusal) => refused(refusal),
        Decision::Keep { addresses, concern: Some(Concern::Unmet(refusal)), .. } => {
            let message = format!("keeps {}: {}", spelled(addresses), refusal.lasting());
            finding(false, refusal.reason(), message)
        }
        Decision::Keep { concern: Some(Concern::PoolMissing(addresses)), .. } => {
            finding(true, POOL_MISSING, format!("keeps {}: no pool holds it", spelled(addresses)))
        }
        Decision::Keep { addresses, pool, concern: None } => {
            // That all is well need not be said, unless something else was said before.
            let stale = facts.condition.as_ref().is_some_and(|before| *before.reason != *ASSIGNED);
            let moved = mark(facts, addresses, pool.as_deref()) != Mark::Unchanged;
            if !stale && !moved {
                return Tell::Unchanged;
            }
            assigned(addresses, pool, None)
        }
        Decision::Keep { addresses, pool, concern: Some(Concern::OneFamily(lack)) } => {
            assigned(addresses, pool, Some(*lack))
        }
        Decision::Keep { concern: Some(Concern::Grace), .. } => return Tell::Unchanged,
    };
    let same = facts.condition.as_ref().is_some_and(|before| {
        before.holds == wanted.holds && *before.reason == *wanted.reason && *before.message == *wanted.message
    });
    if same { Tell::Unchanged } else { Tell::Set(wanted) }
}

fn spelled(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The Events that go with the decision; `is_news` says whether the condition changes by it.
fn events(facts: &ServiceFacts, decision: &Decision, is_news: bool) -> Vec<Notice> {
    let lost = |loss: &Loss| {
        let message = format!(
            "current IP for {:?} not allowed by config, will attempt for new IP assignment: {loss}",
            facts.key
        );
        Notice::normal("ClearAssignment", message)
    };
    let mut events = Vec::new();
    match decision {
        Decision::Leave => {}
        Decision::Keep { concern: None | Some(Concern::Grace), .. }
        | Decision::Clear { refusal: None, .. } => {}
        Decision::Keep { concern: Some(Concern::Unmet(refusal)), .. } => {
            events.push(refused(facts, refusal, true));
        }
        Decision::Keep { concern: Some(Concern::PoolMissing(addresses)), .. } => {
            let message = format!("keeping {}: no pool holds it", refusal::list(addresses));
            events.push(Notice::warning(POOL_MISSING, message));
        }
        Decision::Keep { concern: Some(Concern::OneFamily(_)), .. } if !is_news => {}
        Decision::Keep { pool, concern: Some(Concern::OneFamily(lack)), .. } => {
            let pool = pool.as_ref().map(|pool| format!("pool {pool:?}: ")).unwrap_or_default();
            let message = format!("cannot assign additional IP in PreferDualStack: {pool}{lack}");
            events.push(Notice::normal("AdditionalAssignFailed", message));
        }
        Decision::Assign { addresses, change, .. } => {
            if let Change::Lost(loss) = change {
                events.push(lost(loss));
            }
            let message = match change {
                Change::Added(address) => format!("Assigned additional IP \"{address}\""),
                _ => format!("Assigned IP {}", refusal::list(addresses)),
            };
            events.push(Notice::normal("IPAllocated", message));
            if let Some(annotation) = &facts.deprecated_annotation {
                let message = format!("Service uses deprecated annotation {annotation}");
                events.push(Notice::warning("deprecatedAnnotation", message));
            }
        }
        Decision::Clear { loss, refusal: Some(refusal) } => {
            events.push(lost(loss));
            events.push(refused(facts, refusal, false));
        }
        Decision::Refuse(refusal) => events.push(refused(facts, refusal, false)),
    }
    events
}

/// What is wrong with a status that shows two of this load balancer's addresses of one family: somebody else wrote one of
/// them, and it goes.
fn twice_one_family(
    facts: &ServiceFacts,
    addresses: &[IpAddr],
    is_ours: impl Fn(IpAddr) -> bool,
) -> Option<Notice> {
    let shown: Vec<IpAddr> = facts.shown().into_iter().filter(|address| is_ours(*address)).collect();
    let four = shown.iter().filter(|address| address.is_ipv4()).count();
    let is_twice = four > 1 || shown.len() - four > 1;
    (is_twice && !addresses.is_empty()).then(|| {
        let message = format!("status has more than one address of a family: {}", refusal::list(&shown));
        Notice::warning("nolbIPsIPFamily", message)
    })
}

fn refused(facts: &ServiceFacts, refusal: &Refusal, holds: bool) -> Notice {
    match refusal {
        Refusal::NotDualStack { .. } => Notice::warning("not enough clusterips", refusal.to_string()),
        Refusal::NoClusterIp => Notice::warning("noclusterIPsIPFamily", refusal.to_string()),
        Refusal::TwoRequests
        | Refusal::NotAnAddress { .. }
        | Refusal::TooMany(_)
        | Refusal::SameFamily(_)
            if holds =>
        {
            Notice::warning("LoadBalancerFailed", format!("invalid requested loadbalancer IPs: {refusal}"))
        }
        _ => Notice::warning(
            "AllocationFailed",
            format!("Failed to allocate IP for {:?}: {refusal}", facts.key),
        ),
    }
}
