//! The IPAddressPools as they are, as they are served, and what their status should say.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use metallb_api::{
    IPAddressPool, IPAddressPoolStatus, PoolCapacity, RestingAddress,
    conditions::{READY, Report, set},
};
use metallb_core::{
    allocator::{Ledger, Rest},
    config::{Pool, Problem},
    served::serve,
    service::ServiceKey,
};

use super::metrics::Metrics;
use crate::watch::Change;

/// The status of a pool is written at most this often.
const PACE: Duration = Duration::from_millis(500);
/// Resting addresses that the status of a pool names.
const NAMED_RESTING: usize = 128;
/// Reason of a pool that is served.
const SERVED: &str = "Served";
/// Reason of a pool with a mistake in it.
const INVALID: &str = "InvalidSpec";

/// All that is known about pools.
pub(super) struct Pools {
    objects: BTreeMap<String, IPAddressPool>,
    served: BTreeMap<String, Pool>,
    problems: Vec<Problem>,
    metrics: Metrics,
    /// When statuses were last sent; nothing more goes out before the pace allows.
    sent: Option<Duration>,
    /// Whether anything happened since the statuses were last looked at.
    touched: bool,
}

impl Pools {
    /// No pools.
    pub(super) fn new(metrics: Metrics) -> Self {
        let (objects, served, problems) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { objects, served, problems, metrics, sent: None, touched: false }
    }

    /// Takes a change of the objects; tells whether more than statuses has changed.
    pub(super) fn take(&mut self, change: Change<IPAddressPool>) -> bool {
        self.touched = true;
        let name = |pool: &IPAddressPool| pool.metadata.name.clone().unwrap_or_default();
        match change {
            Change::All(all) => {
                self.objects = all.into_iter().map(|pool| (name(&pool), pool)).collect();
                true
            }
            Change::Set(pool) => {
                let before = self.objects.get(&name(&pool));
                let changed = before.is_none_or(|before| {
                    before.spec != pool.spec
                        || before.metadata.uid != pool.metadata.uid
                        || before.metadata.labels != pool.metadata.labels
                });
                self.objects.insert(name(&pool), pool);
                changed
            }
            Change::Gone(pool) => self.objects.remove(&name(&pool)).is_some(),
        }
    }

    /// The objects as they are.
    pub(super) fn objects(&self) -> impl Iterator<Item = &IPAddressPool> {
        self.objects.values()
    }

    /// The pools to serve.
    pub(super) fn serve(&mut self) -> BTreeMap<String, Pool> {
        let (served, problems) = serve(&self.objects.values().collect::<Vec<_>>(), &self.served);
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!(event = "configProblem", error = %problem, "part of the configuration is not used");
        }
        if served != self.served || problems != self.problems {
            tracing::info!(
                event = "configLoaded",
                pools = served.len(),
                problems = problems.len(),
                "configuration loaded"
            );
        }
        for gone in self.served.keys().filter(|name| !served.contains_key(*name)) {
            self.metrics.forget_pool(gone);
        }
        self.problems = problems;
        self.served.clone_from(&served);
        served
    }

    /// What is wrong with the pools, one text a mistake.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(ToString::to_string)
    }

    /// The addresses that rest as far as the statuses tell.
    pub(super) fn resting(&self) -> Vec<(IpAddr, Rest)> {
        let noted =
            self.objects.values().filter_map(|pool| pool.status.as_ref()).flat_map(|status| &status.resting);
        let read = |note: &RestingAddress| {
            let (namespace, name) = note.service.split_once('/')?;
            let until = Duration::from_secs(u64::try_from(note.until.0.as_second()).ok()?);
            Some((note.address.parse().ok()?, Rest { service: ServiceKey::new(namespace, name), until }))
        };
        noted.filter_map(read).collect()
    }

    /// Something happened that may change what pools hold.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    /// The statuses that should say something else, when the pace allows a write at `now`.
    pub(super) fn changed(
        &mut self,
        ledger: &Ledger,
        now: Duration,
    ) -> BTreeMap<String, IPAddressPoolStatus> {
        if !self.touched || self.deadline().is_some_and(|deadline| now < deadline) {
            return BTreeMap::new();
        }
        self.touched = false;
        let time = Time(Timestamp::now());
        let changed: BTreeMap<_, _> = self
            .objects
            .iter()
            .map(|(name, object)| (name, object, self.status(name, object, ledger, &time)))
            .filter(|(_, object, status)| object.status.as_ref() != Some(status))
            .map(|(name, _, status)| (name.clone(), status))
            .collect();
        if !changed.is_empty() {
            self.sent = Some(now);
        }
        changed
    }

    fn status(&self, name: &str, object: &IPAddressPool, ledger: &Ledger, now: &Time) -> IPAddressPoolStatus {
        let counters = ledger.counters(name).unwrap_or_default();
        if self.served.contains_key(name) {
            self.metrics.pool(name, &counters);
        }
        let mut conditions =
            object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        set(&mut conditions, &[self.condition(name)], object.metadata.generation, now);
        let resting = ledger.resting_in(name).take(NAMED_RESTING).map(|(address, rest)| RestingAddress {
            address: address.to_string(),
            service: rest.service.to_string(),
            until: Time(until(rest.until)),
        });
        IPAddressPoolStatus {
            assigned_ipv4: counters.assigned.ipv4.saturating_i64(),
            assigned_ipv6: counters.assigned.ipv6.saturating_i64(),
            available_ipv4: counters.available.ipv4.saturating_i64(),
            available_ipv6: counters.available.ipv6.saturating_i64(),
            services: i64::try_from(counters.services).ok(),
            capacity: Some(PoolCapacity {
                ipv4: counters.total.ipv4.to_string(),
                ipv6: counters.total.ipv6.to_string(),
            }),
            resting: resting.collect(),
            conditions,
        }
    }

    fn condition(&self, name: &str) -> Report {
        let mine = self.problems.iter().filter(|problem| problem.name == name);
        let mut messages: Vec<_> =
            mine.map(|problem| format!("{}: {}", problem.field, problem.message)).collect();
        let status = messages.is_empty();
        if !status && self.served.contains_key(name) {
            messages.push("the pool goes on being served as it was before".to_owned());
        }
        Report {
            kind: READY,
            status,
            reason: if status { SERVED } else { INVALID },
            message: messages.join("; "),
        }
    }

    /// These were written; and whether others could not be, which are to be tried again.
    pub(super) fn written(&mut self, (written, failed): (BTreeMap<String, IPAddressPoolStatus>, bool)) {
        self.touched |= failed;
        for (name, status) in written {
            if let Some(object) = self.objects.get_mut(&name) {
                object.status = Some(status);
            }
        }
    }

    /// When [`Pools::changed`] is to be asked again even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.sent.filter(|_| self.touched).map(|sent| sent + PACE)
    }
}

/// The end of a rest, rounded up to the second that the API server keeps.
fn until(time: Duration) -> Timestamp {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
