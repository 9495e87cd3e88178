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
    session_up: Family<Label, Gauge>,
    announced_prefixes: Family<Label, Gauge>,
    updates: Family<Label, Counter>,
    opens_sent: Family<Label, Gauge>,
    opens_received: Family<Label, Gauge>,
    notifications_sent: Family<Label, Gauge>,
    updates_received: Family<Label, Gauge>,
    keepalives_sent: Family<Label, Gauge>,
    keepalives_received: Family<Label, Gauge>,
    route_refresh_sent: Family<Label, Gauge>,
    total_sent: Family<Label, Gauge>,
    total_received: Family<Label, Gauge>,
    pub(super) bfd: BfdMetrics,
}

/// Metrics of BFD sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct BfdMetrics {
    pub(super) session_up: Family<Label, Gauge>,
    pub(super) control_packet_input: Family<Label, Gauge>,
    pub(super) control_packet_output: Family<Label, Gauge>,
    pub(super) session_up_events: Family<Label, Gauge>,
    pub(super) session_down_events: Family<Label, Gauge>,
}

impl BfdMetrics {
    /// Ends the metrics of a session.
    pub(super) fn remove(&self, label: &Label) {
        for family in [
            &self.session_up,
            &self.control_packet_input,
            &self.control_packet_output,
            &self.session_up_events,
            &self.session_down_events,
        ] {
            family.remove(label);
        }
    }
}

/// Which router: its address and port, or the interface that it is behind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Label {
    peer: String,
}

impl Label {
    pub(super) fn of(spec: &Spec) -> Self {
        let peer = match &spec.endpoint {
            Endpoint::Address(address) => SocketAddr::new(*address, spec.port).to_string(),
            Endpoint::Interface(interface) => interface.clone(),
        };
        Self { peer }
    }
}

impl BgpMetrics {
    /// Shows these metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let bgp = registry.sub_registry_with_prefix("metallb_bgp");
        bgp.register("session_up", "BGP session state (1 is up, 0 is down)", self.session_up.clone());
        bgp.register("updates", "Number of BGP UPDATE messages sent", self.updates.clone());
        for (name, help, family) in [
            ("announced_prefixes_total", "Prefixes that the router holds", &self.announced_prefixes),
            ("opens_sent", "Number of BGP OPEN messages sent", &self.opens_sent),
            ("opens_received", "Number of BGP OPEN messages received", &self.opens_received),
            ("notifications_sent", "Number of BGP NOTIFICATION messages sent", &self.notifications_sent),
            ("updates_total_received", "Number of BGP UPDATE messages received", &self.updates_received),
            ("keepalives_sent", "Number of BGP KEEPALIVE messages sent", &self.keepalives_sent),
            ("keepalives_received", "Number of BGP KEEPALIVE messages received", &self.keepalives_received),
            ("route_refresh_sent", "Number of BGP ROUTE-REFRESH messages sent", &self.route_refresh_sent),
            ("total_sent", "Number of BGP messages sent", &self.total_sent),
            ("total_received", "Number of BGP messages received", &self.total_received),
        ] {
            bgp.register(name, help, family.clone());
        }
        let bfd = registry.sub_registry_with_prefix("metallb_bfd");
        let families = &self.bfd;
        for (name, help, family) in [
            ("session_up", "BFD session state (1 is up, 0 is down)", &families.session_up),
            (
                "control_packet_input",
                "Number of BFD control packets received",
                &families.control_packet_input,
            ),
            ("control_packet_output", "Number of BFD control packets sent", &families.control_packet_output),
            ("session_up_events", "Times that the BFD session came up", &families.session_up_events),
            ("session_down_events", "Times that the BFD session went down", &families.session_down_events),
        ] {
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
            *self = self.all.of_peer(spec);
            return;
        }
        self.base = add(&self.base, &self.seen);
        self.seen = Counters::default();
    }

    /// Shows the state of the peer's session.
    pub(super) fn session(&mut self, session: &Session) {
        let (all, label) = (&self.all, &self.label);
        let is_up = session.state() == State::Established;
        all.session_up.get_or_create(label).set(i64::from(is_up));
        all.announced_prefixes.get_or_create(label).set(number(session.advertised()));
        let counters = session.counters();
        all.updates.get_or_create(label).inc_by(counters.updates_sent - self.seen.updates_sent);
        self.seen = counters;
        let sum = add(&self.base, &counters);
        for (family, count) in [
            (&all.opens_sent, sum.opens_sent),
            (&all.opens_received, sum.opens_received),
            (&all.notifications_sent, sum.notifications_sent),
            (&all.updates_received, sum.updates_received),
            (&all.keepalives_sent, sum.keepalives_sent),
            (&all.keepalives_received, sum.keepalives_received),
            (&all.route_refresh_sent, sum.route_refreshes_sent),
            (&all.total_sent, sum.sent()),
            (&all.total_received, sum.received()),
        ] {
            family.get_or_create(label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn remove(&self) {
        let (all, label) = (&self.all, &self.label);
        all.updates.remove(label);
        for family in [
            &all.session_up,
            &all.announced_prefixes,
            &all.opens_sent,
            &all.opens_received,
            &all.notifications_sent,
            &all.updates_received,
            &all.keepalives_sent,
            &all.keepalives_received,
            &all.route_refresh_sent,
            &all.total_sent,
            &all.total_received,
        ] {
            family.remove(label);
        }
    }
}

impl Drop for PeerMetrics {
    fn drop(&mut self) {
        self.remove();
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn add(a: &Counters, b: &Counters) -> Counters {
    Counters {
        opens_sent: a.opens_sent + b.opens_sent,
        opens_received: a.opens_received + b.opens_received,
        updates_sent: a.updates_sent + b.updates_sent,
        updates_received: a.updates_received + b.updates_received,
        keepalives_sent: a.keepalives_sent + b.keepalives_sent,
        keepalives_received: a.keepalives_received + b.keepalives_received,
        notifications_sent: a.notifications_sent + b.notifications_sent,
        notifications_received: a.notifications_received + b.notifications_received,
        route_refreshes_sent: a.route_refreshes_sent + b.route_refreshes_sent,
        route_refreshes_received: a.route_refreshes_received + b.route_refreshes_received,
        routes_received: a.routes_received + b.routes_received,
        withdrawals_received: a.withdrawals_received + b.withdrawals_received,
        malformed_received: a.malformed_received + b.malformed_received,
        established: a.established + b.established,
    }
}
