//! What the observer knows of the cluster, by its watches alone.

use std::collections::BTreeMap;
use std::time::Instant;

use kube::ResourceExt;
use metallb_api::L2Advertisement;
use metallb_core::claims::Record;
use metallb_core::config::{self, Config, Objects};
use metallb_core::range::AddressRange;

use super::inputs::{Input, named, take, update};
use super::pools::Pools;
use super::services::Services;
use super::speakers::Speakers;
use crate::speaker::bgp;
use crate::speaker::facts::{NodeFacts, WrittenOwners};
use crate::speaker::gossip::Peers;
use crate::watch::Change;

/// Objects of the cluster, reduced to what counts.
pub(super) struct Known {
    pub(super) services: Services,
    pub(super) nodes: BTreeMap<String, NodeFacts>,
    pools: Pools,
    advertisements: BTreeMap<String, L2Advertisement>,
    speakers: Speakers,
    pub(super) owners: BTreeMap<String, WrittenOwners>,
    pub(super) bgp: bgp::inputs::Inputs,
    pub(super) config: Config,
    /// What is wrong with the configuration.
    pub(super) problems: Vec<String>,
    seen: Seen,
    /// Which lists came since [`Known::look_again`].
    listed: Seen,
}

/// Which lists are complete.
#[derive(Clone, Copy, Default, PartialEq)]
struct Seen {
    services: bool,
    slices: bool,
    nodes: bool,
    pools: bool,
    advertisements: bool,
    speakers: bool,
    owners: bool,
}

impl Seen {
    /// Takes note of a complete list; there may be none of owners.
    fn note(&mut self, input: &Input) {
        match input {
            Input::Services(Change::All(_)) => self.services = true,
            Input::Slices(Change::All(_)) => self.slices = true,
            Input::Nodes(Change::All(_)) => self.nodes = true,
            Input::Pools(Ok(Change::All(_))) => self.pools = true,
            Input::Advertisements(Change::All(_)) => self.advertisements = true,
            Input::Owners(Ok(Change::All(_)) | Err(_)) => self.owners = true,
            _ => {}
        }
    }

    fn is_whole(self) -> bool {
        self.services && self.slices && self.nodes && self.pools && self.advertisements && self.owners
    }
}

impl Known {
    /// Nothing is known at `now`.
    pub(super) fn new(bgp: bgp::inputs::Inputs, now: Instant) -> Self {
        Self {
            services: Services::default(),
            nodes: BTreeMap::new(),
            pools: Pools::new(now),
            advertisements: BTreeMap::new(),
            speakers: Speakers::default(),
            owners: BTreeMap::new(),
            bgp,
            config: Config::default(),
            problems: Vec::new(),
            seen: Seen::default(),
            listed: Seen::default(),
        }
    }

    /// Takes what a watch brings at `now`; tells whether a plan may be another one by it.
    pub(super) fn take(&mut self, input: Input, now: Instant) -> bool {
        let seen = self.seen;
        self.listed.note(&input);
        let changed = match input {
            Input::Services(change) => {
                self.seen.services = true;
                self.services.take(change)
            }
            Input::Slices(change) => {
                self.seen.slices = true;
                self.services.take_slices(change)
            }
            Input::Nodes(change) => {
                self.seen.nodes = true;
                update(&mut self.nodes, change, |node| node)
            }
            Input::Pools(news) => {
                self.seen.pools |= news.is_ok();
                let changed = self.pools.take(news, now);
                if changed {
                    self.configure(now);
                }
                changed
            }
            Input::Advertisements(change) => {
                self.seen.advertisements = true;
                take(&mut self.advertisements, change, named);
                self.configure(now);
                true
            }
            Input::Speakers(change) => {
                self.seen.speakers = true;
                self.speakers.take(change, now)
            }
            Input::Owners(change) => {
                // Where they cannot be read there is no memory beyond the speakers' own.
                self.seen.owners = true;
                let named = |owners: WrittenOwners| (owners.lease.clone(), owners);
                change.is_ok_and(|change| update(&mut self.owners, change, named))
            }
            Input::Bgp(input) => {
                self.bgp.take(input);
                self.configure(now);
                true
            }
        };
        changed || self.seen != seen
    }

    fn configure(&mut self, now: Instant) {
        let objects = self.bgp.objects(Objects {
            pools: self.pools.objects().collect(),
            l2_advertisements: self.advertisements.values().collect(),
            ..Objects::default()
        });
        let (mut config, problems) = config::parse(&objects);
        config.pools = self.pools.serve(config.pools, now);
        for problem in problems.iter().filter(|problem| !self.problems.contains(&problem.to_string())) {
            tracing::error!(event = "configInvalid", error = %problem, "part of the configuration is not served");
        }
        if config != self.config {
            tracing::info!(
                event = "configLoaded",
                pools = config.pools.len(),
                l2_advertisements = config.l2_advertisements.len(),
                bgp_advertisements = config.bgp_advertisements.len(),
                peers = config.peers.len(),
                problems = problems.len(),
                "configuration loaded"
            );
        }
        self.config = config;
        self.problems = problems.iter().map(ToString::to_string).collect();
    }

    /// When [`Known::pass`] is to be called though nothing comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pools.deadline().into_iter().chain(self.speakers.deadline()).min()
    }

    /// It is `now`: pools that went too long ago to come back are forgotten, and nodes that lost their speaker.
    pub(super) fn pass(&mut self, now: Instant) {
        self.speakers.pass(now);
        if self.pools.deadline().is_some_and(|deadline| deadline <= now) {
            self.configure(now);
        }
    }

    /// Whether all is known that a plan is made from: one from half of it would withdraw what is announced rightly.
    pub(super) fn is_whole(&self) -> bool {
        self.seen.is_whole()
    }

    /// All is watched anew from now on.
    pub(super) fn look_again(&mut self) {
        self.listed = Seen::default();
        self.bgp.look_again();
    }

    /// Whether all was listed since.
    pub(super) fn is_current(&self) -> bool {
        self.listed.is_whole()
    }

    /// Whether the nodes are known.
    pub(super) fn knows_nodes(&self) -> bool {
        self.seen.nodes
    }

    /// The speakers by their pods, once they are known.
    pub(super) fn peers(&self) -> Option<Peers> {
        self.seen.speakers.then(|| Peers {
            seeds: self.speakers.seeds(),
            expected: self.speakers.expected(|node| self.nodes.contains_key(node)),
            stalls: self.nodes.values().any(|node| node.stalls),
        })
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

#[cfg(test)]
mod tests {
    use metallb_api::L2AdvertisementSpec;

    use super::*;
    use crate::watch::Unreadable;

    #[test]
    fn a_list_of_each_kind_is_all_there_is_and_a_change_is_not() {
        let one = || L2Advertisement::new("one", L2AdvertisementSpec::default());
        let mut seen = Seen::default();
        let lists = [
            Input::Services(Change::All(vec![])),
            Input::Slices(Change::All(vec![])),
            Input::Nodes(Change::All(vec![])),
            Input::Pools(Ok(Change::All(vec![]))),
            // It may be that these may not be read.
            Input::Owners(Err(Unreadable)),
        ];
        lists.iter().for_each(|list| seen.note(list));
        for other in [Input::Advertisements(Change::Set(one())), Input::Pools(Err(Unreadable))] {
            seen.note(&other);
            assert!(!seen.is_whole());
        }
        seen.note(&Input::Advertisements(Change::All(vec![one()])));
        assert!(seen.is_whole());
    }
}
