//! What the observer knows of the cluster, by its watches alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube::ResourceExt;
use metallb_api::{IPAddressPool, L2Advertisement};
use metallb_core::claims::Record;
use metallb_core::config::{self, Config, Objects};
use metallb_core::plan::{self, Endpoints};
use metallb_core::range::AddressRange;
use metallb_core::served;
use metallb_core::service::ServiceKey;

use super::inputs::{Input, named, take};
use crate::speaker::bgp;
use crate::speaker::facts::{NodeFacts, ServiceFacts, SliceFacts, SpeakerFacts, WrittenOwners};
use crate::speaker::gossip::Peers;
use crate::watch::Change;

/// Objects of the cluster, reduced to what counts.
pub(super) struct Known {
    pub(super) services: BTreeMap<ServiceKey, ServiceFacts>,
    /// By Service, its slices by their keys: nearly always one, and there are as many lists as Services.
    endpoints: BTreeMap<ServiceKey, Vec<(ServiceKey, Endpoints)>>,
    pub(super) nodes: BTreeMap<String, NodeFacts>,
    pools: BTreeMap<String, IPAddressPool>,
    advertisements: BTreeMap<String, L2Advertisement>,
    speakers: BTreeMap<String, SpeakerFacts>,
    pub(super) owners: BTreeMap<String, WrittenOwners>,
    pub(super) bgp: bgp::inputs::Inputs,
    pub(super) config: Config,
    /// What is wrong with the configuration.
    pub(super) problems: Vec<String>,
    seen: Seen,
    /// Addresses that were given to a Service since this speaker looks, and that no record says were announced.
    fresh: BTreeSet<IpAddr>,
}

/// Which lists are complete.
#[derive(Clone, Copy, Default)]
struct Seen {
    services: bool,
    slices: bool,
    nodes: bool,
    pools: bool,
    advertisements: bool,
    speakers: bool,
    owners: bool,
}

impl Known {
    pub(super) fn new(bgp: bgp::inputs::Inputs) -> Self {
        Self {
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            advertisements: BTreeMap::new(),
            speakers: BTreeMap::new(),
            owners: BTreeMap::new(),
            bgp,
            config: Config::default(),
            problems: Vec::new(),
            seen: Seen::default(),
            fresh: BTreeSet::new(),
        }
    }

    /// Takes what a watch brings; tells whether a plan may be another one by it.
    pub(super) fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Services(change) => {
                self.seen.services = true;
                self.note_fresh(&change);
                take(&mut self.services, change, |facts| (facts.key.clone(), facts));
            }
            Input::Slices(change) => {
                self.seen.slices = true;
                self.take_slices(change);
            }
            Input::Nodes(change) => {
                self.seen.nodes = true;
                take(&mut self.nodes, change, |node| node);
            }
            Input::Pools(change) => {
                // The controller writes their statuses, of which nothing follows here.
                let is_same = |former: &IPAddressPool, pool: &IPAddressPool| {
                    former.spec == pool.spec && former.metadata.labels == pool.metadata.labels
                };
                if let Change::Set(pool) = &change
                    && self.pools.get(&pool.name_any()).is_some_and(|former| is_same(former, pool))
                {
                    return false;
                }
                self.seen.pools = true;
                take(&mut self.pools, change, named);
                self.configure();
            }
            Input::Advertisements(change) => {
                self.seen.advertisements = true;
                take(&mut self.advertisements, change, named);
                self.configure();
            }
            Input::Speakers(change) => {
                self.seen.speakers = true;
                take(&mut self.speakers, change, |speaker| speaker);
            }
            Input::Owners(change) => {
                // Where they cannot be read there is no memory beyond the speakers' own.
                self.seen.owners = true;
                if let Ok(change) = change {
                    take(&mut self.owners, change, |owners| (owners.lease.clone(), owners));
                }
            }
            Input::Bgp(input) => {
                self.bgp.take(input);
                self.configure();
            }
        }
        true
    }

    fn take_slices(&mut self, change: Change<SliceFacts>) {
        match change {
            Change::All(all) => {
                self.endpoints.clear();
                all.into_iter().for_each(|facts| self.set_slice(facts));
            }
            Change::Set(facts) => self.set_slice(facts),
            Change::Gone(facts) => {
                if let Some(slices) = self.endpoints.get_mut(&facts.service) {
                    slices.retain(|(slice, _)| *slice != facts.key);
                    if slices.is_empty() {
                        self.endpoints.remove(&facts.service);
                    }
                }
            }
        }
    }

    fn set_slice(&mut self, facts: SliceFacts) {
        let slices = self.endpoints.entry(facts.service).or_default();
        match slices.iter_mut().find(|(slice, _)| *slice == facts.key) {
            Some((_, endpoints)) => *endpoints = facts.endpoints,
            // Not with room for more, as a list that grows has it.
            None => {
                slices.reserve_exact(1);
                slices.push((facts.key, facts.endpoints));
            }
        }
    }

    /// An address that a single change brings was given just now. One that is on a list may have been announced before.
    fn note_fresh(&mut self, change: &Change<ServiceFacts>) {
        let Change::Set(facts) = change else { return };
        let addresses = facts.service.iter().flat_map(|service| service.addresses.iter().copied());
        let held = |address: &IpAddr| {
            let services = self.services.values().filter_map(|known| known.service.as_ref());
            services.flat_map(|service| &service.addresses).any(|known| known == address)
        };
        if facts.record.is_some() {
            let announced: Vec<IpAddr> = addresses.collect();
            self.fresh.retain(|address| !announced.contains(address));
        } else if self.services.get(&facts.key).and_then(|known| known.service.as_ref())
            != facts.service.as_ref()
        {
            let new: Vec<IpAddr> = addresses.filter(|address| !held(address)).collect();
            self.fresh.extend(new);
        }
    }

    fn configure(&mut self) {
        let objects = self.bgp.objects(Objects {
            pools: self.pools.values().collect(),
            l2_advertisements: self.advertisements.values().collect(),
            ..Objects::default()
        });
        let (mut config, problems) = config::parse(&objects);
        // As the controller does: what it goes on giving out is to be announced.
        served::keep(&mut config.pools, self.pools.values(), &self.config.pools);
        for problem in problems.iter().filter(|problem| !self.problems.contains(&problem.to_string())) {
            tracing::error!(event = "configInvalid", error = %problem, "part of the configuration is not served");
        }
        self.config = config;
        self.problems = problems.iter().map(ToString::to_string).collect();
    }

    /// Whether all is known that a plan is made from: one from half of it would withdraw what is announced rightly.
    pub(super) fn is_whole(&self) -> bool {
        let seen = self.seen;
        seen.services && seen.slices && seen.nodes && seen.pools && seen.advertisements && seen.owners
    }

    /// Whether the nodes are known.
    pub(super) fn knows_nodes(&self) -> bool {
        self.seen.nodes
    }

    /// The speakers by their pods, once they are known.
    pub(super) fn peers(&self) -> Option<Peers> {
        self.seen.speakers.then(|| Peers {
            seeds: self.speakers.values().filter_map(|speaker| speaker.seed.clone()).collect(),
            expected: self.speakers.values().filter_map(|speaker| speaker.node.clone()).collect(),
            stalls: self.nodes.values().any(|node| node.stalls),
        })
    }

    /// The Services that there may be something to announce of, with their endpoints.
    pub(super) fn services(&self) -> BTreeMap<ServiceKey, plan::Service> {
        let services = self.services.iter().filter_map(|(key, facts)| {
            let service = facts.service.clone()?;
            Some((key.clone(), plan::Service { endpoints: self.endpoints_of(key), ..service }))
        });
        services.collect()
    }

    fn endpoints_of(&self, service: &ServiceKey) -> Endpoints {
        let mut joined = Endpoints::default();
        for (_, endpoints) in self.endpoints.get(service).into_iter().flatten() {
            joined.any |= endpoints.any;
            joined.nodes.extend(endpoints.nodes.iter().cloned());
        }
        joined
    }

    /// Addresses for which other hosts are asked before they are announced.
    pub(super) fn fresh(&self) -> BTreeSet<IpAddr> {
        let withheld = self.services.values().filter(|facts| facts.is_withheld());
        let withheld =
            withheld.filter_map(|facts| facts.service.as_ref()).flat_map(|service| &service.addresses);
        self.fresh.iter().chain(withheld).copied().collect()
    }

    /// What each pool holds.
    pub(super) fn pools(&self) -> BTreeMap<String, Vec<AddressRange>> {
        self.config.pools.iter().map(|(name, pool)| (name.clone(), pool.ranges.clone())).collect()
    }

    /// Who has the addresses that are spread evenly, as it was written down.
    pub(super) fn written(&self) -> Record {
        self.owners.values().map(|owners| (owners.advertisement.clone(), owners.owners.clone())).collect()
    }

    /// The UID of an L2Advertisement, with which its Lease goes.
    pub(super) fn uid(&self, advertisement: &str) -> Option<String> {
        self.advertisements.get(advertisement)?.uid()
    }
}
