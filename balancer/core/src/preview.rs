//! What another configuration would do to the Services that are there, before anybody applies it.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    allocator::{GRACE, PoolEditPolicy},
    assigner::{Assigner, Outcome},
    claim::ServiceFacts,
    config::Pool,
    refusal::list,
    report::Mark,
    selector::Labels,
    service::ServiceKey,
};

/// Services, namespaces and pools as they are.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// All Services.
    pub services: Vec<ServiceFacts>,
    /// Labels of the namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// The pools that are served.
    pub pools: BTreeMap<String, Pool>,
    /// What happens to an address whose pool goes.
    pub policy: PoolEditPolicy,
}

/// What would happen to the addresses of one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The Service.
    pub service: ServiceKey,
    /// What it has now.
    pub before: Vec<IpAddr>,
    /// What it would have.
    pub after: Vec<IpAddr>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, before, after } = self;
        match (before.is_empty(), after.is_empty()) {
            (true, _) => write!(f, "{service} would get {}", list(after)),
            (false, true) => write!(f, "{service} would lose {}", list(before)),
            (false, false) => write!(f, "{service} would change from {} to {}", list(before), list(after)),
        }
    }
}

/// The Services whose addresses would be others under `pools`, in order of their names.
#[must_use]
pub fn preview(present: Present, pools: BTreeMap<String, Pool>) -> Vec<Difference> {
    let before: BTreeMap<_, _> =
        present.services.iter().map(|facts| (facts.key.clone(), facts.shown())).collect();
    let mut assigner = Assigner::new(present.policy);
    assigner.set_pools(present.pools, Duration::ZERO);
    assigner.set_namespaces(present.namespaces);
    assigner.load(present.services, Duration::ZERO);
    settle(&mut assigner, Duration::ZERO);
    assigner.set_pools(pools, Duration::ZERO);
    // Those that wait are served at once; what lost its pool moves only when its grace is over.
    settle(&mut assigner, Duration::ZERO);
    settle(&mut assigner, GRACE);
    let differs = |facts: &ServiceFacts| {
        let (service, after) = (facts.key.clone(), facts.shown());
        let before = before.get(&service).cloned().unwrap_or_default();
        (before != after).then_some(Difference { service, before, after })
    };
    assigner.services().values().map(Arc::as_ref).filter_map(differs).collect()
}

/// Carries out all that is to be written, as if each write came back at once.
fn settle(assigner: &mut Assigner, now: Duration) {
    while let Some(write) = assigner.next(now) {
        let mut facts = ServiceFacts::clone(&write.facts);
        if let Some(ingress) = &write.report.ingress {
            facts.ingress.clone_from(ingress);
        }
        match &write.report.mark {
            Mark::Unchanged => {}
            Mark::Set(pool) => facts.mark = Some(pool.clone()),
            Mark::Remove => facts.mark = None,
        }
        facts.condition = write.report.condition_after(&facts);
        assigner.finished(write, Outcome::Written(facts.into()), now);
    }
}
