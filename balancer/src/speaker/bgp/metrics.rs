//! Metrics of sessions, with the names that MetalLB and its FRR modes give them.
//!
//! What counts up without `_total` in its name there is a gauge here, as in `speaker::metrics`.

use std::net::SocketAddr;

use metallb_core::config::Endpoint;
use metallb_proto::bgp::{Counters, Session, State};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::spec::Spec;

/// Metrics of all sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct BgpMetrics {
    updates: Family<Label, Counter>,
    /// In the order of [`GAUGES`].
    gauges: [Family<Label, Gauge>; GAUGES.len()],
    pub(super) bfd: BfdMetrics,
}

/// A name, a help, and what is shown of a session and of what it and its predecessors counted.
type Shown = (&'static str, &'static str, fn(&Session, &Counters) -> u64);

const GAUGES: [Shown; 13] = [
    ("session_up", "BGP session state (1 is up, 0 is down)", |session, _| {
        u64::from(session.state() == State::Established)
    }),
    ("announced_prefixes_total", "Prefixes that the router holds", |session, _| number(session.advertised())),
    ("pending_prefixes_total", "Prefixes that the router should hold", |session, _| number(session.wanted())),
    ("opens_sent", "Number of BGP OPEN messages sent", |_, count| count.opens_sent),
    ("opens_received", "Number of BGP OPEN messages received", |_, count| count.opens_received),
    ("notifications_sent", "Number of BGP NOTIFICATION messages sent", |_, count| count.notifications_sent),
    ("updates_total_received", "Number of BGP UPDATE messages received", |_, count| count.updates_received),
    ("routes_received", "Number of routes that the router announced, none of which is kept", |_, count| {
        count.routes_received
    }),
    ("keepalives_sent", "Number of BGP KEEPALIVE messages sent", |_, count| count.keepalives_sent),
    ("keepalives_received", "Number of BGP KEEPALIVE messages received", |_, count| {
        count.keepalives_received
    }),
    ("route_refresh_sent", "Number of BGP ROUTE-REFRESH messages sent", |_, count| {
        count.route_refreshes_sent
    }),
    ("total_sent", "Number of BGP messages sent", |_, count| count.sent()),
    ("total_received", "Number of BGP messages received", |_, count| count.received()),
];

/// Metrics of BFD sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct BfdMetrics {
    pub(super) session_up: Family<Label, Gauge>,
    pub(super) control_packet_input: Family<Label, Gauge>,
    pub(super) control_packet_output: Family<Label, Gauge>,
    pub(super) control_packet_dropped: Family<Label, Gauge>,
    pub(super) echo_packet_input: Family<Label, Gauge>,
    pub(super) echo_packet_output: Family<Label, Gauge>,
    pub(super) session_up_events: Family<Label, Gauge>,
    pub(super) session_down_events: Family<Label, Gauge>,
}

impl BfdMetrics {
    /// All of them, with their names and what they are.
    fn all(&self) -> [(&'static str, &'static str, &Family<Label, Gauge>); 8] {
        [
            ("session_up", "BFD session state (1 is up, 0 is down)", &self.session_up),
            ("control_packet_input", "Number of BFD control packets received", &self.control_packet_input),
            ("control_packet_output", "Number of BFD control packets sent", &self.control_packet_output),
            (
                "control_packet_dropped",
                "Number of BFD control packets received that the session does not accept",
                &self.control_packet_dropped,
            ),
            ("echo_packet_input", "Number of BFD echo packets that came back", &self.echo_packet_input),
            ("echo_packet_output", "Number of BFD echo packets sent", &self.echo_packet_output),
            ("session_up_events", "Times that the BFD session came up", &self.session_up_events),
            ("session_down_events", "Times that the BFD session went down", &self.session_down_events),
        ]
    }

    /// Ends the metrics of a session.
    pub(super) fn remove(&self, label: &Label) {
        for (_, _, family) in self.all() {
            family.remove(label);
        }
    }
}

/// Which router: its address and port, or the interface that it is behind; and the VRF in which it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Label {
    peer: String,
    /// Empty, which is as good as no label, outside of VRFs.
    vrf: String,
}

impl Label {
    #[cfg(test)]
    pub(super) fn at(router: &str) -> Self {
        Self { peer: router.to_owned(), vrf: String::new() }
    }

    pub(super) fn of(spec: &Spec) -> Self {
        let peer = match &spec.endpoint {
            Endpoint::Address(address) => SocketAddr::new(*address, spec.port).to_string(),
            Endpoint::Interface(interface) => interface.clone(),
        };
        Self { peer, vrf: spec.device.clone().unwrap_or_default() }
    }
}

impl BgpMetrics {
    /// Shows these metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let bgp = registry.sub_registry_with_prefix("metallb_bgp");
        bgp.register("updates", "Number of BGP UPDATE messages sent", self.updates.clone());
        for ((name, help, _), family) in GAUGES.iter().zip(&self.gauges) {
            bgp.register(*name, *help, family.clone());
        }
        let bfd = registry.sub_registry_with_prefix("metallb_bfd");
        for (name, help, family) in self.bfd.all() {
            bfd.register(name, help, family.clone());
        }
    }

    /// The metrics of one peer, which end with the value.
    pub(super) fn of_peer(&self, spec: &Spec) -> PeerMetrics {
        PeerMetrics {
            all: self.clone(),
            label: Label::of(spec),
            base: Counters::default(),
            seen: Counters::default(),
        }
    }
}

/// Metrics of one peer.
pub(super) struct PeerMetrics {
    all: BgpMetrics,
    pub(super) label: Label,
    /// What the former sessions of the peer counted.
    base: Counters,
    seen: Counters,
}

impl PeerMetrics {
    /// A session follows another: its numbers add up with those of the former ones.
    pub(super) fn begin(&mut self, spec: &Spec) {
        let label = Label::of(spec);
        if label != self.label {
            self.remove();
            self.label = label;
            self.base = Counters::default();
        } else {
            self.base = self.base + self.seen;
        }
        self.seen = Counters::default();
    }

    /// Shows the state of the peer's session.
    pub(super) fn session(&mut self, session: &Session) {
        let counters = session.counters();
        let updates = self.all.updates.get_or_create(&self.label);
        updates.inc_by(counters.updates_sent - self.seen.updates_sent);
        self.seen = counters;
        let sum = self.base + counters;
        for ((_, _, shown), family) in GAUGES.iter().zip(&self.all.gauges) {
            let value = i64::try_from(shown(session, &sum)).unwrap_or(i64::MAX);
            family.get_or_create(&self.label).set(value);
        }
    }

    fn remove(&self) {
        self.all.updates.remove(&self.label);
        for family in &self.all.gauges {
            family.remove(&self.label);
        }
    }
}

impl Drop for PeerMetrics {
    fn drop(&mut self) {
        self.remove();
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
