//! Metrics of the controller, with MetalLB's names.
//!
//! OpenMetrics puts `_total` behind the name of every counter; those of MetalLB's gauges that end so as well are
//! gauges here, too.

use std::{sync::Arc, time::Duration};

use metallb_core::{
    allocator::Counters,
    assigner::{Outcome, Write},
    decision::{Concern, Decision},
    range::AddressCount,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    reason: &'static str,
}

type PerPool = Family<OfPool, Gauge<f64, std::sync::atomic::AtomicU64>>;

/// All metrics of the controller. Clones count together.
#[derive(Clone)]
pub(super) struct Metrics {
    total: PerPool,
    total_ipv4: PerPool,
    total_ipv6: PerPool,
    in_use: PerPool,
    in_use_ipv4: PerPool,
    in_use_ipv6: PerPool,
    services: PerPool,
    waiting: Gauge,
    refusals: Family<Because, Counter>,
    latency: Histogram,
    updates: Counter,
    update_errors: Counter,
    config_loaded: Gauge,
    config_stale: Gauge,
}

impl Metrics {
    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Self {
            total: PerPool::default(),
            total_ipv4: PerPool::default(),
            total_ipv6: PerPool::default(),
            in_use: PerPool::default(),
            in_use_ipv4: PerPool::default(),
            in_use_ipv6: PerPool::default(),
            services: PerPool::default(),
            waiting: Gauge::default(),
            refusals: Family::default(),
            latency: Histogram::new(buckets),
            updates: Counter::default(),
            update_errors: Counter::default(),
            config_loaded: Gauge::default(),
            config_stale: Gauge::default(),
        }
    }

    /// A registry that shows these metrics.
    pub(super) fn registry(&self) -> Arc<Registry> {
        let mut registry = Registry::default();
        let allocator = registry.sub_registry_with_prefix("metallb_allocator");
        for (name, help, family) in [
            ("addresses_total", "Addresses of the pool", &self.total),
            ("ipv4_addresses_total", "IPv4 addresses of the pool", &self.total_ipv4),
            ("ipv6_addresses_total", "IPv6 addresses of the pool", &self.total_ipv6),
            ("addresses_in_use_total", "Addresses of the pool that Services hold", &self.in_use),
            (
                "ipv4_addresses_in_use_total",
                "IPv4 addresses of the pool that Services hold",
                &self.in_use_ipv4,
            ),
            (
                "ipv6_addresses_in_use_total",
                "IPv6 addresses of the pool that Services hold",
                &self.in_use_ipv6,
            ),
            ("services_allocated_total", "Services that hold addresses of the pool", &self.services),
        ] {
            allocator.register(name, help, family.clone());
        }
        allocator.register("services_waiting", "Services that lack what they ask for", self.waiting.clone());
        allocator.register(
            "refusals",
            "Times that a Service was told why not, by reason",
            self.refusals.clone(),
        );
        allocator.register(
            "allocation_duration_seconds",
            "From the moment at which a Service without an address is seen to its address being written",
            self.latency.clone(),
        );
        let client = registry.sub_registry_with_prefix("metallb_k8s_client");
        client.register("updates", "Changes of objects that were taken in", self.updates.clone());
        client.register("update_errors", "Writes that failed", self.update_errors.clone());
        client.register(
            "config_loaded_bool",
            "1 when a configuration was loaded",
            self.config_loaded.clone(),
        );
        client.register(
            "config_stale_bool",
            "1 when part of the configuration is not used",
            self.config_stale.clone(),
        );
        Arc::new(registry)
    }

    /// Shows how full a pool is.
    pub(super) fn pool(&self, name: &str, counters: &Counters) {
        let of = OfPool { pool: name.to_owned() };
        let number = AddressCount::approximate;
        let (total, used) = (&counters.total, &counters.assigned);
        self.total.get_or_create(&of).set(number(total.ipv4) + number(total.ipv6));
        self.total_ipv4.get_or_create(&of).set(number(total.ipv4));
        self.total_ipv6.get_or_create(&of).set(number(total.ipv6));
        self.in_use.get_or_create(&of).set(number(used.ipv4) + number(used.ipv6));
        self.in_use_ipv4.get_or_create(&of).set(number(used.ipv4));
        self.in_use_ipv6.get_or_create(&of).set(number(used.ipv6));
        let services = u32::try_from(counters.services).unwrap_or(u32::MAX);
        self.services.get_or_create(&of).set(services.into());
    }

    /// Shows nothing of a pool any more.
    pub(super) fn forget_pool(&self, name: &str) {
        let of = OfPool { pool: name.to_owned() };
        for family in [
            &self.total,
            &self.total_ipv4,
            &self.total_ipv6,
            &self.in_use,
            &self.in_use_ipv4,
            &self.in_use_ipv6,
            &self.services,
        ] {
            family.remove(&of);
        }
    }

    /// Counts a change that was taken in.
    pub(super) fn taken_in(&self) {
        self.updates.inc();
    }

    /// Shows whether all of the configuration is used.
    pub(super) fn configured(&self, complete: bool) {
        self.config_loaded.set(1);
        self.config_stale.set(i64::from(!complete));
    }

    /// Shows how many Services wait.
    pub(super) fn waiting(&self, services: usize) {
        self.waiting.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// Counts a write that came back, `since` after the Service was first seen without an address.
    pub(super) fn written(&self, write: &Write, outcome: &Outcome, since: Option<Duration>) {
        match outcome {
            Outcome::Written(_) => {}
            Outcome::Stale(_) | Outcome::Gone => return,
            Outcome::Refused | Outcome::Unanswered => {
                self.update_errors.inc();
                return;
            }
        }
        match &write.decision {
            Decision::Assign { .. } => {
                if let Some(since) = since {
                    self.latency.observe(since.as_secs_f64());
                }
            }
            Decision::Refuse(refusal)
            | Decision::Clear { refusal: Some(refusal), .. }
            | Decision::Keep { concern: Some(Concern::Unmet(refusal)), .. } => {
                self.refusals.get_or_create(&Because { reason: refusal.reason() }).inc();
            }
            Decision::Leave | Decision::Keep { .. } | Decision::Clear { .. } => {}
        }
    }
}
