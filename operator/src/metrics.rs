//! Metrics of the operator.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use metallb_api::names;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{kinds::Kind, plan::Summary};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfComponent {
    component: &'static str,
}

type PerKind = Family<OfKind, Counter>;
type PerComponent = Family<OfComponent, Gauge>;
type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;

/// All metrics of the operator. Clones count together.
#[derive(Clone)]
pub struct Metrics {
    reconciles: Counter,
    duration: Histogram,
    writes: PerKind,
    errors: PerKind,
    repaired: PerKind,
    objects: Gauge,
    managed: Gauge,
    ip_failover: Gauge,
    step: Gauge,
    stalled: Gauge,
    rollout_seconds: Seconds,
    pods_wanted: PerComponent,
    pods_ready: PerComponent,
    certificate_ends: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Counter::default(),
            duration: Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
            writes: PerKind::default(),
            errors: PerKind::default(),
            repaired: PerKind::default(),
            objects: Gauge::default(),
            managed: Gauge::default(),
            ip_failover: Gauge::default(),
            step: Gauge::default(),
            stalled: Gauge::default(),
            rollout_seconds: Seconds::default(),
            pods_wanted: PerComponent::default(),
            pods_ready: PerComponent::default(),
            certificate_ends: Gauge::default(),
        }
    }
}

impl Metrics {
    /// A registry that shows these metrics.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        let mut registry = Registry::default();
        let ours = registry.sub_registry_with_prefix("metallb_operator");
        ours.register(
            "reconciles",
            "Times that everything was looked at and planned for",
            self.reconciles.clone(),
        );
        ours.register(
            "reconcile_duration_seconds",
            "How long that took, writes included",
            self.duration.clone(),
        );
        ours.register("writes", "Objects written or removed, by kind", self.writes.clone());
        ours.register(
            "write_errors",
            "Writes that the API server refused or did not answer, by kind",
            self.errors.clone(),
        );
        ours.register("drift_repaired", "Changes by others that were undone, by kind", self.repaired.clone());
        ours.register("applied_objects", "Objects that the installation has", self.objects.clone());
        ours.register("managed", "1 while spec.managementState is Managed", self.managed.clone());
        ours.register(
            "ip_failover_workloads",
            "Workloads that are, or may be, IP failover",
            self.ip_failover.clone(),
        );
        ours.register(
            "rollout_step",
            "What a rollout is at: 1 preflight, 2 configuration, 3 controller, 4 speakers; 0 when none runs",
            self.step.clone(),
        );
        ours.register("rollout_stalled", "1 while a rollout makes no progress", self.stalled.clone());
        ours.register(
            "rollout_duration_seconds",
            "How long the last rollout took, or this one so far",
            self.rollout_seconds.clone(),
        );
        ours.register(
            "pods_wanted",
            "Pods that should be ready, by component; those of nodes that are not Ready are left out",
            self.pods_wanted.clone(),
        );
        ours.register("pods_ready", "Of them, those that are", self.pods_ready.clone());
        ours.register(
            "certificate_expiry_timestamp_seconds",
            "When the webhooks' certificate ends, in seconds since 1970; 0 while there is none",
            self.certificate_ends.clone(),
        );
        Arc::new(registry)
    }

    /// Counts a reconciliation that took `time`.
    pub(crate) fn reconciled(&self, time: Duration) {
        self.reconciles.inc();
        self.duration.observe(time.as_secs_f64());
    }

    /// Counts a write, and whether it undid what somebody else did.
    pub(crate) fn wrote(&self, kind: Kind, repaired: bool) {
        self.writes.get_or_create(&of(kind)).inc();
        if repaired {
            self.repaired.get_or_create(&of(kind)).inc();
        }
    }

    /// Counts a write that failed.
    pub(crate) fn failed(&self, kind: Kind) {
        self.errors.get_or_create(&of(kind)).inc();
    }

    /// Shows what was seen. `rolling_since` is when the rollout began that runs.
    pub(crate) fn show(&self, summary: &Summary, rolling_since: Option<Instant>) {
        self.objects.set(i64::try_from(summary.objects).unwrap_or(i64::MAX));
        self.managed.set(summary.is_managed.into());
        self.ip_failover.set(i64::try_from(summary.ip_failover).unwrap_or(i64::MAX));
        self.step.set(summary.step.map_or(0, |step| step as i64 + 1));
        self.stalled.set(summary.is_stalled.into());
        for (component, pods) in [(names::CONTROLLER, summary.controller), (names::SPEAKER, summary.speaker)]
        {
            let set = |family: &PerComponent, number: usize| {
                family
                    .get_or_create(&OfComponent { component })
                    .set(i64::try_from(number).unwrap_or(i64::MAX));
            };
            set(&self.pods_wanted, pods.wanted);
            set(&self.pods_ready, pods.ready);
        }
        if let Some(since) = rolling_since {
            self.rollout_seconds.set(since.elapsed().as_secs_f64());
        }
    }

    /// Shows when the certificate ends that the webhooks have.
    pub fn certificate_ends(&self, time: Timestamp) {
        self.certificate_ends.set(time.as_second());
    }
}

fn of(kind: Kind) -> OfKind {
    OfKind { kind: kind.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Pods, rollout::Step};

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.wrote(Kind::DaemonSet, true);
        metrics.wrote(Kind::DaemonSet, false);
        let summary = Summary {
            is_managed: false,
            step: Some(Step::Controller),
            objects: 5,
            speaker: Pods { wanted: 3, ready: 2 },
            ..Summary::default()
        };
        metrics.show(&summary, None);
        metrics.certificate_ends("2031-06-01T00:00:00Z".parse().unwrap());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry()).unwrap();
        for line in [
            "metallb_operator_writes_total{kind=\"DaemonSet\"} 2",
            "metallb_operator_drift_repaired_total{kind=\"DaemonSet\"} 1",
            "metallb_operator_managed 0",
            "metallb_operator_rollout_step 3",
            "metallb_operator_applied_objects 5",
            "metallb_operator_pods_wanted{component=\"speaker\"} 3",
            "metallb_operator_pods_ready{component=\"speaker\"} 2",
            "metallb_operator_pods_wanted{component=\"controller\"} 0",
            "metallb_operator_certificate_expiry_timestamp_seconds 1938038400",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
