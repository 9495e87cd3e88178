//! The connections between the tasks of the speaker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use metallb_core::plan::Plan;
use metallb_core::range::AddressRange;
use metallb_proto::layer2::wire_check::Outcome;
use metallb_proto::membership::Roster;
use metallb_runtime::page::Page;
use tokio::sync::watch;

use super::departure::{Departure, Home};
use super::gossip::{Own, Peers};
use super::informed::Contact;
use super::metrics::Metrics;
use super::owners::Recording;
use super::report::{Announced, Marks};
use super::settings::Settings;
use super::state::State;
use super::{about, bgp, layer2, links, observer};

/// One channel for each thing that one task tells others.
pub(super) struct Wires {
    pub(super) roster: watch::Sender<Option<Roster>>,
    pub(super) peers: watch::Sender<Option<Peers>>,
    pub(super) own: watch::Sender<Own>,
    pub(super) recording: watch::Sender<Option<Recording>>,
    pub(super) hold: watch::Sender<Option<Instant>>,
    pub(super) witness: watch::Sender<bool>,
    pub(super) witnessed: watch::Sender<Option<Instant>>,
    pub(super) doubts: watch::Sender<bool>,
    pub(super) contact: watch::Sender<Contact>,
    pub(super) informed: watch::Sender<bool>,
    pub(super) checks: watch::Sender<BTreeMap<IpAddr, Outcome>>,
    pub(super) home: watch::Sender<Home>,
    pub(super) state: watch::Sender<Option<State>>,
    pub(super) departure: watch::Sender<Option<Departure>>,
    pub(super) plan: watch::Sender<Arc<Plan>>,
    pub(super) announced: watch::Sender<Option<Arc<Announced>>>,
    pub(super) marks: watch::Sender<Marks>,
    pub(super) standing: watch::Sender<layer2::Standing>,
    pub(super) links: watch::Sender<links::Snapshot>,
    /// What each pool holds.
    pub(super) pools: watch::Sender<BTreeMap<String, Vec<AddressRange>>>,
    pub(super) wanted: watch::Sender<Option<Arc<bgp::spec::Wanted>>>,
    pub(super) statuses: watch::Sender<bgp::status::Statuses>,
}

impl Wires {
    pub(super) fn new() -> Self {
        Self {
            roster: watch::Sender::new(None),
            peers: watch::Sender::new(None),
            own: watch::Sender::default(),
            recording: watch::Sender::new(None),
            hold: watch::Sender::new(None),
            witness: watch::Sender::new(false),
            witnessed: watch::Sender::new(None),
            doubts: watch::Sender::new(false),
            contact: watch::Sender::default(),
            informed: watch::Sender::new(true),
            checks: watch::Sender::default(),
            home: watch::Sender::default(),
            state: watch::Sender::new(None),
            departure: watch::Sender::new(None),
            plan: watch::Sender::default(),
            announced: watch::Sender::new(None),
            marks: watch::Sender::default(),
            standing: watch::Sender::default(),
            links: watch::Sender::default(),
            pools: watch::Sender::default(),
            wanted: watch::Sender::new(None),
            statuses: watch::Sender::default(),
        }
    }

    pub(super) fn bgp(&self, metrics: &Metrics, listens: bool) -> bgp::Ports {
        bgp::Ports {
            wanted: self.wanted.subscribe(),
            statuses: self.statuses.clone(),
            departure: self.departure.subscribe(),
            metrics: metrics.bgp.clone(),
            listens,
            links: self.links.subscribe(),
        }
    }

    /// What there is to tell of BGP.
    pub(super) fn bgp_told(&self) -> bgp::report::Sources {
        bgp::report::Sources { wanted: self.wanted.subscribe(), statuses: self.statuses.subscribe() }
    }

    /// The page that tells what this speaker knows.
    pub(super) fn page(&self, settings: &Settings) -> anyhow::Result<Page> {
        let sources = about::Sources {
            node: settings.node_name.clone(),
            ports: about::Ports {
                gossip: settings.ml_bindport,
                metrics: settings.port,
                probes: settings.health_probe_port,
            },
            exclude: links::read_exclude(&settings.exclude_interfaces)?,
            links: self.links.subscribe(),
            roster: self.roster.subscribe(),
            plan: self.plan.subscribe(),
            standing: self.standing.subscribe(),
            pools: self.pools.subscribe(),
        };
        Ok(Page::new(about::PATH, move || {
            let sources = sources.clone();
            async move { sources.json().await }
        }))
    }

    pub(super) fn observer(&self) -> observer::Ports {
        observer::Ports {
            roster: self.roster.subscribe(),
            peers: self.peers.clone(),
            contact: self.contact.subscribe(),
            informed: self.informed.clone(),
            links: self.links.subscribe(),
            standing: self.standing.subscribe(),
            own: self.own.clone(),
            recording: self.recording.clone(),
            home: self.home.clone(),
            state: self.state.clone(),
            pools: self.pools.clone(),
            plan: self.plan.clone(),
            announced: self.announced.clone(),
            marks: self.marks.clone(),
            wanted: self.wanted.clone(),
        }
    }
}
