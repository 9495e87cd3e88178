//! Addresses that were seen to leave their pool: for a while they are left alone, in case the pool comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::service::ServiceKey;

/// How long an address that left its pool stays untouched.
pub const GRACE: Duration = Duration::from_secs(10);

/// How long ago an address left its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// It is left alone until then.
    Until(Duration),
    /// Longer than [`GRACE`].
    Overdue,
}

/// The Services with such an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Graces {
    lost: BTreeMap<ServiceKey, Lost>,
    by_end: BTreeSet<(Duration, ServiceKey)>,
    /// Nobody knows which pools there are: no grace ends.
    suspended: bool,
}

impl Graces {
    pub(super) fn get(&self, service: &ServiceKey) -> Option<Lost> {
        self.lost.get(service).copied()
    }

    /// The grace of `service` begins at `now`.
    pub(super) fn begin(&mut self, service: ServiceKey, now: Duration) {
        self.remove(&service);
        let end = now.saturating_add(GRACE);
        self.by_end.insert((end, service.clone()));
        self.lost.insert(service, Lost::Until(end));
    }

    pub(super) fn remove(&mut self, service: &ServiceKey) {
        if let Some(Lost::Until(end)) = self.lost.remove(service) {
            self.by_end.remove(&(end, service.clone()));
        }
    }

    /// Drops all but `services`.
    pub(super) fn retain(&mut self, services: &BTreeSet<ServiceKey>) {
        self.lost.retain(|service, _| services.contains(service));
        self.by_end.retain(|(_, service)| services.contains(service));
    }

    /// When the next grace ends.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.by_end.first().filter(|_| !self.suspended).map(|(end, _)| *end)
    }

    /// Makes those overdue whose grace is over at `now`, and returns them.
    pub(super) fn end(&mut self, now: Duration) -> Vec<ServiceKey> {
        let mut overdue = Vec::new();
        while self.deadline().is_some_and(|end| end <= now)
            && let Some((_, service)) = self.by_end.pop_first()
        {
            self.lost.insert(service.clone(), Lost::Overdue);
            overdue.push(service);
        }
        overdue
    }

    /// Stops the clock of all graces, or lets them begin anew at `now`.
    pub(super) fn suspend(&mut self, suspended: bool, now: Duration) {
        if self.suspended && !suspended {
            let waiting: Vec<_> = self.by_end.iter().map(|(_, service)| service.clone()).collect();
            waiting.into_iter().for_each(|service| self.begin(service, now));
        }
        self.suspended = suspended;
    }
}
