//! Metrics of the speaker, with MetalLB's names.
//!
//! OpenMetrics puts `_total` behind the name of every counter. Those that MetalLB names without it are gauges here, so
//! that dashboards and alerts find them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use metallb_core::service::ServiceKey;
use metallb_proto::layer2::conflict::Conflict;
use metallb_proto::layer2::frame::Rejected;
use metallb_proto::layer2::wire_check::Outcome;
use metallb_proto::membership::{Counters, Roster};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::bgp::metrics::BgpMetrics;
use super::bgp::report;

/// All metrics of the speaker.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) layer2: Layer2Metrics,
    pub(super) bgp: BgpMetrics,
    announced: Family<Announced, Gauge>,
    members: Gauge,
    unheard: Gauge,
    gossip_sent: Counter,
    gossip_received: Counter,
    gossip_dropped: Family<Reason, Counter>,
}

/// Frames on layer 2.
#[derive(Clone, Debug, Default)]
pub struct Layer2Metrics {
    requests: Family<Address, Gauge>,
    responses: Family<Address, Gauge>,
    gratuitous: Family<Address, Gauge>,
    rejected: Family<Reason, Counter>,
    conflicts: Family<Address, Gauge>,
    overdue: Gauge,
    fenced: Gauge,
    wire_check: Family<Checked, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Address {
    ip: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Checked {
    ip: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Announced {
    service: String,
    protocol: &'static str,
    node: String,
    ip: String,
}

/// Services announced from this node. What BGP announces is looked up when it is asked for: it may be tens of thousands.
#[derive(Debug)]
struct AnnouncedServices {
    node: String,
    layer2: Family<Announced, Gauge>,
    bgp: report::Sources,
}

impl Collector for AnnouncedServices {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Services announced from this node";
        let mut metric =
            encoder.encode_descriptor("metallb_speaker_announced", help, None, MetricType::Gauge)?;
        if let Some(wanted) = self.bgp.wanted.borrow().clone() {
            for (service, ip) in report::announced(&wanted, &self.bgp.statuses.borrow()) {
                let labels = Announced {
                    service: service.to_string(),
                    protocol: "bgp",
                    node: self.node.clone(),
                    ip: ip.to_string(),
                };
                metric.encode_family(&labels)?.encode_gauge(&1)?;
            }
        }
        self.layer2.encode(metric)
    }
}

impl Metrics {
    /// A registry that shows these metrics, those of `node`, and what `bgp` announces.
    pub(super) fn registry(&self, node: &str, bgp: report::Sources) -> Arc<Registry> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(AnnouncedServices {
            node: node.to_owned(),
            layer2: self.announced.clone(),
            bgp,
        }));
        self.bgp.register(&mut registry);
        let gossip = registry.sub_registry_with_prefix("metallb_speaker_gossip");
        gossip.register("members", "Nodes with a living speaker, this one included", self.members.clone());
        gossip.register("unheard", "Nodes whose ready speaker was never heard", self.unheard.clone());
        gossip.register("datagrams_sent", "Datagrams sent", self.gossip_sent.clone());
        gossip.register("datagrams_received", "Datagrams acted on", self.gossip_received.clone());
        gossip.register("datagrams_dropped", "Datagrams dropped, by reason", self.gossip_dropped.clone());
        self.layer2.register(&mut registry);
        Arc::new(registry)
    }

    /// Shows what `node` announces on layer 2.
    pub(super) fn announced<'a>(
        &self,
        node: &str,
        addresses: impl Iterator<Item = (&'a ServiceKey, IpAddr)>,
    ) {
        self.announced.clear();
        for (service, ip) in addresses {
            let labels = Announced {
                service: service.to_string(),
                protocol: "layer2",
                node: node.to_owned(),
                ip: ip.to_string(),
            };
            self.announced.get_or_create(&labels).set(1);
        }
    }

    /// Shows who takes part.
    pub(super) fn roster(&self, roster: &Roster) {
        self.members.set(count(roster.members.len()));
        self.unheard.set(count(roster.unheard.len()));
    }

    /// Adds what the membership counted since `before`.
    pub(super) fn gossip(&self, before: &Counters, now: &Counters) {
        self.gossip_sent.inc_by(now.sent - before.sent);
        self.gossip_received.inc_by(now.received - before.received);
        for (reason, count) in [
            ("foreign", now.foreign - before.foreign),
            ("replayed", now.replayed - before.replayed),
            ("unproven", now.unproven - before.unproven),
            ("malformed", now.malformed - before.malformed),
        ] {
            if count > 0 {
                self.gossip_dropped.get_or_create(&Reason { reason: reason.to_owned() }).inc_by(count);
            }
        }
    }
}

impl Layer2Metrics {
    pub(super) fn request(&self, address: IpAddr) {
        self.requests.get_or_create(&Address { ip: address.to_string() }).inc();
    }

    pub(super) fn response(&self, address: IpAddr) {
        self.responses.get_or_create(&Address { ip: address.to_string() }).inc();
    }

    pub(super) fn gratuitous(&self, address: IpAddr) {
        self.gratuitous.get_or_create(&Address { ip: address.to_string() }).inc();
    }

    pub(super) fn conflicts(&self, found: &BTreeMap<IpAddr, Conflict>) {
        self.conflicts.clear();
        for ip in found.keys() {
            self.conflicts.get_or_create(&Address { ip: ip.to_string() }).set(1);
        }
    }

    pub(super) fn overdue(&self, addresses: usize) {
        self.overdue.set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    pub(super) fn fenced(&self, fenced: bool) {
        self.fenced.set(fenced.into());
    }

    pub(super) fn wire_check(&self, results: &BTreeMap<IpAddr, Outcome>) {
        self.wire_check.clear();
        for (ip, outcome) in results {
            let labels = Checked { ip: ip.to_string(), result: outcome.name() };
            self.wire_check.get_or_create(&labels).set(1);
        }
    }

    /// Forgets an address that nobody announces any more.
    pub(super) fn forget(&self, address: IpAddr) {
        let labels = Address { ip: address.to_string() };
        for family in [&self.requests, &self.responses, &self.gratuitous] {
            family.remove(&labels);
        }
    }

    /// Shows these metrics.
    pub fn register(&self, registry: &mut Registry) {
        let layer2 = registry.sub_registry_with_prefix("metallb_layer2");
        layer2.register("requests_received", "Questions for announced addresses", self.requests.clone());
        layer2.register("responses_sent", "Answers to them", self.responses.clone());
        layer2.register("gratuitous_sent", "Frames that announced unasked", self.gratuitous.clone());
        layer2.register("conflicts", "Addresses that another host has", self.conflicts.clone());
        layer2.register(
            "probes_overdue",
            "Addresses that are announced though other hosts are still to be asked for them",
            self.overdue.clone(),
        );
        layer2.register("fenced", "Whether nothing is announced for want of a majority", self.fenced.clone());
        layer2.register(
            "wire_check",
            "Whether exactly the owner of an address answers for it, as this node saw it last",
            self.wire_check.clone(),
        );
        layer2.register("frames_rejected", "Frames not looked at, by reason", self.rejected.clone());
    }

    pub(super) fn rejected(&self, reason: Rejected) {
        self.rejected.get_or_create(&Reason { reason: reason.to_string() }).inc();
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use metallb_proto::layer2::responder::{Responder, Verdict};
    use metallb_proto::layer2::{MacAddress, frame};

    use super::*;
    use crate::speaker::wires::Wires;

    fn text(metrics: &Metrics) -> String {
        let mut text = String::new();
        let registry = metrics.registry("node1", Wires::new().bgp_told());
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    fn lines<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
        text.lines().filter(|line| line.starts_with(name)).collect()
    }

    #[test]
    fn bad_frames_and_dropped_datagrams_are_counted_by_reason() {
        let metrics = Metrics::default();
        let own = MacAddress([2, 0, 0, 0, 0, 1]);
        let address = "192.0.2.9".parse().unwrap();
        let mut responder = Responder::new(own);
        responder.set(IpAddr::V4(address), true);
        let asker = MacAddress([2, 0, 0, 0, 0, 2]);
        let good = frame::arp_request(asker, "192.0.2.7".parse().unwrap(), address);
        assert!(matches!(responder.handle(&good), Verdict::Reply { .. }));
        let spoofed = frame::arp_request(own, "192.0.2.7".parse().unwrap(), address);
        let tagged = [&good[..12], &[0x81, 0, 0, 5], &good[12..]].concat();
        for bad in [&good[..20], &good[..30], &tagged[..], &spoofed[..]] {
            let Verdict::Rejected(reason) = responder.handle(bad) else { panic!("{bad:?} passed") };
            metrics.layer2.rejected(reason);
        }
        let now = Counters { foreign: 1, replayed: 2, unproven: 3, malformed: 4, ..Counters::default() };
        metrics.gossip(&Counters::default(), &now);
        let text = text(&metrics);
        let mut rejected = lines(&text, "metallb_layer2_frames_rejected_total");
        rejected.sort_unstable();
        let want = [("malformed", 2), ("spoofed", 1), ("vlan_tagged", 1)];
        let want = want.map(|(reason, count)| {
            format!("metallb_layer2_frames_rejected_total{{reason=\"{reason}\"}} {count}")
        });
        assert_eq!(rejected, want);
        let mut dropped = lines(&text, "metallb_speaker_gossip_datagrams_dropped_total");
        dropped.sort_unstable();
        let want = [("foreign", 1), ("malformed", 4), ("replayed", 2), ("unproven", 3)];
        let want = want.map(|(reason, count)| {
            format!("metallb_speaker_gossip_datagrams_dropped_total{{reason=\"{reason}\"}} {count}")
        });
        assert_eq!(dropped, want);
    }

    #[test]
    fn an_address_that_nobody_announces_any_more_is_in_no_metric() {
        let metrics = Metrics::default();
        let address: IpAddr = "192.0.2.9".parse().unwrap();
        metrics.layer2.request(address);
        metrics.layer2.response(address);
        metrics.layer2.gratuitous(address);
        assert_eq!(text(&metrics).matches("192.0.2.9").count(), 3);
        metrics.layer2.forget(address);
        assert_eq!(text(&metrics).matches("192.0.2.9").count(), 0);
    }
}
