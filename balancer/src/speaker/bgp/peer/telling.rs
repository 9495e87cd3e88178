//! What a peer's task makes of what its session tells: its status, BFD, and the log.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use metallb_proto::bgp::Report;

use super::{Driver, Ports};
use crate::speaker::bgp::bfd::{Device, Reach};
use crate::speaker::bgp::link;

/// Time between two complaints about UPDATEs of one router.
const COMPLAINTS: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) fn learn(&mut self, ports: &mut Ports, report: Report) {
        let peer = &ports.name;
        match report {
            Report::State(state) => {
                tracing::debug!(peer, %state, "session");
                self.status.state = state;
            }
            Report::Established(agreed) => {
                tracing::info!(event = "sessionUp", peer, router = %agreed.remote_id, "BGP session established");
                let families = agreed.families.len();
                tracing::debug!(peer, families, hold_time = agreed.hold_time.as_secs(), "agreed");
                self.status.agreed = Some(agreed);
                self.status.since = Timestamp::now();
                ports.has_stood = true;
                self.watch_path(ports);
            }
            Report::Down(down) => {
                let error = down.to_string();
                if self.stopping.is_none() {
                    self.status.stopped = None;
                }
                if self.session.agreed().is_none() && self.status.agreed.take().is_some() {
                    self.status.since = Timestamp::now();
                    tracing::warn!(event = "sessionDown", peer, error, "BGP session lost");
                } else if self.status.last_error.as_ref() != Some(&error) {
                    tracing::warn!(event = "sessionFailed", peer, error, "no BGP session");
                }
                self.status.last_error = Some(error);
            }
            Report::Spare(down) => tracing::debug!(peer, %down, "a connection beside the session ended"),
            Report::Malformed(problem) => {
                // A router may send as many as it likes.
                let now = Instant::now();
                if self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAINTS) {
                    self.complained = Some(now);
                    tracing::warn!(peer, problem, "the router sent an UPDATE that is wrong");
                }
            }
            Report::Stopped => self.has_ended = true,
        }
    }

    /// Lets BFD watch the path that the session takes, while it stands.
    pub(super) fn watch_path(&mut self, ports: &mut Ports) {
        let link = self.session.side().and_then(|side| self.slot(side).as_ref());
        let ends =
            link.and_then(|link| Some((link.stream().local_addr().ok()?, link.stream().peer_addr().ok()?)));
        if let Some((local, router)) = ends {
            let device = self.order.spec.device.as_deref().map(Device::named);
            let on_link = link::interface_addresses()
                .is_ok_and(|addresses| link::is_on_link(local.ip(), router.ip(), &addresses));
            let is_multihop = self.order.distance.is_multihop(on_link);
            ports.monitor.watch(Reach { local, router, device, is_multihop });
        }
    }

    /// Publishes what changed.
    pub(super) fn tell(&mut self, ports: &mut Ports) {
        self.status.prefixes = self.session.advertised();
        let unsent = self.session.unsent().map(ToString::to_string);
        self.status.unsent = unsent.filter(|unsent| !unsent.is_empty());
        self.status.unheard.clone_from(&self.order.unheard);
        self.status.bfd = ports.monitor.state();
        self.status.bfd_error = ports.monitor.problem();
        ports.metrics.session(&self.session);
        ports.statuses.send_if_modified(|statuses| {
            let is_news = statuses.get(&ports.name) != Some(&self.status);
            if is_news {
                statuses.insert(ports.name.clone(), self.status.clone());
            }
            is_news
        });
    }
}
