//! The IPAddressPools as they are, as they are served, and what their status should say.

use std::{collections::BTreeMap, time::Duration};

use metallb_api::IPAddressPool;
use metallb_core::{
    allocator::Ledger,
    config::{Pool, Problem},
    served::serve,
};
use serde_json::{Value, json};

use crate::watch::Change;

/// The status of a pool is written at most this often.
const PACE: Duration = Duration::from_millis(500);

/// The numbers in the status of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    assigned: (i64, i64),
    available: (i64, i64),
}

impl Counters {
    fn of(ledger: &Ledger, pool: &str) -> Option<Self> {
        let counters = ledger.counters(pool)?;
        let (assigned, available) = (counters.assigned, counters.available);
        Some(Self {
            assigned: (assigned.ipv4.saturating_i64(), assigned.ipv6.saturating_i64()),
            available: (available.ipv4.saturating_i64(), available.ipv6.saturating_i64()),
        })
    }

    fn shown(pool: &IPAddressPool) -> Option<Self> {
        let status = pool.status.as_ref()?;
        Some(Self {
            assigned: (status.assigned_ipv4, status.assigned_ipv6),
            available: (status.available_ipv4, status.available_ipv6),
        })
    }

    /// The fields of the status.
    pub(super) fn as_status(&self) -> Value {
        json!({
            "assignedIPv4": self.assigned.0,
            "assignedIPv6": self.assigned.1,
            "availableIPv4": self.available.0,
            "availableIPv6": self.available.1,
        })
    }
}

/// All that is known about pools.
#[derive(Default)]
pub(super) struct Pools {
    objects: BTreeMap<String, IPAddressPool>,
    served: BTreeMap<String, Pool>,
    problems: Vec<Problem>,
    /// What the status says as far as is known.
    shown: BTreeMap<String, Counters>,
    /// When the last status was sent; nothing more goes out before the pace allows.
    sent: Option<Duration>,
    /// Whether something is to be written that the pace held back.
    held_back: bool,
}

impl Pools {
    /// Takes a change of the objects.
    pub(super) fn take(&mut self, change: Change<IPAddressPool>) {
        match change {
            Change::All(all) => {
                self.objects.clear();
                self.shown.clear();
                all.into_iter().for_each(|pool| self.set(pool));
            }
            Change::Set(pool) => self.set(pool),
            Change::Gone(pool) => {
                let name = pool.metadata.name.unwrap_or_default();
                self.objects.remove(&name);
                self.shown.remove(&name);
            }
        }
    }

    fn set(&mut self, pool: IPAddressPool) {
        let name = pool.metadata.name.clone().unwrap_or_default();
        match Counters::shown(&pool) {
            Some(counters) => self.shown.insert(name.clone(), counters),
            None => self.shown.remove(&name),
        };
        self.objects.insert(name, pool);
    }

    /// The pools to serve.
    pub(super) fn serve(&mut self) -> BTreeMap<String, Pool> {
        let (served, problems) = serve(&self.objects.values().collect::<Vec<_>>(), &self.served);
        if served != self.served {
            tracing::info!(event = "configLoaded", pools = served.len(), "configuration loaded");
        }
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::warn!(event = "configProblem", error = %problem, "part of the configuration is not used");
        }
        self.problems = problems;
        self.served.clone_from(&served);
        served
    }

    /// The pools whose status should say something else, when the pace allows a write at `now`.
    pub(super) fn changed(&mut self, ledger: &Ledger, now: Duration) -> BTreeMap<String, Counters> {
        let changed: BTreeMap<_, _> = self
            .served
            .keys()
            .filter_map(|name| Some((name.clone(), Counters::of(ledger, name)?)))
            .filter(|(name, counters)| self.shown.get(name) != Some(counters))
            .collect();
        let early = self.sent.is_some_and(|sent| now < sent + PACE);
        self.held_back = !changed.is_empty();
        if changed.is_empty() || early {
            return BTreeMap::new();
        }
        self.sent = Some(now);
        changed
    }

    /// These were written.
    pub(super) fn written(&mut self, written: &BTreeMap<String, Counters>) {
        self.shown.extend(written.iter().map(|(name, counters)| (name.clone(), *counters)));
    }

    /// When [`Pools::changed`] is to be asked again even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.sent.filter(|_| self.held_back).map(|sent| sent + PACE)
    }
}
