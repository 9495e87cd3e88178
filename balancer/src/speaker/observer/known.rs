//! What the observer knows of the cluster, by its watches alone.

use std::collections::BTreeMap;
use std::time::Instant;

use kube::ResourceExt;
use metallb_api::{IPAddressPool, L2Advertisement};
use metallb_core::claims::Record;
use metallb_core::config::{self, Config, Objects};
use metallb_core::range::AddressRange;
use metallb_core::served::{self, LatelyGone};

use super::inputs::{Input, named, take, update};
use super::services::Services;
use crate::speaker::bgp;
use crate::speaker::facts::{NodeFacts, SpeakerFacts, WrittenOwners};
use crate::speaker::gossip::Peers;
use crate::watch::Change;

/// Objects of the cluster, reduced to what counts.
pub(super) struct Known {
    pub(super) services: Services,
    pub(super) nodes: BTreeMap<String, NodeFacts>,
    pools: BTreeMap<String, IPAddressPool>,
    advertisements: BTreeMap<String, L2Advertisement>,
    speakers: BTreeMap<String, SpeakerFacts>,
    pub(super) owners: BTreeMap<String, WrittenOwners>,
    pub(super) bgp: bgp::inputs::Inputs,
    pub(super) config: Config,
    lately_gone: LatelyGone,
    began: Instant,
    /// What is wrong with the configuration.
    pub(super) problems: Vec<String>,
    seen: Seen,
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

impl Known {
    pub(super) fn new(bgp: bgp::inputs::Inputs) -> Self {
        Self {
            services: Services::default(),
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            advertisements: BTreeMap::new(),
            speakers: BTreeMap::new(),
            owners: BTreeMap::new(),
            bgp,
            config: Config::default(),
            lately_gone: LatelyGone::default(),
            began: Instant::now(),
            problems: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Takes what a watch brings; tells whether a plan may be another one by it.
    pub(super) fn take(&mut self, input: Input) -> bool {
        let seen = self.seen;
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
            Input::Pools(change) => {
                if is_status_alone(&self.pools, &change) {
                    return false;
                }
                self.seen.pools = true;
                take(&mut self.pools, change, named);
                self.configure();
                true
            }
            Input::Advertisements(change) => {
                self.seen.advertisements = true;
                take(&mut self.advertisements, change, named);
                self.configure();
                true
            }
            Input::Speakers(change) => {
                self.seen.speakers = true;
                update(&mut self.speakers, change, |speaker| speaker)
            }
            Input::Owners(change) => {
                // Where they cannot be read there is no memory beyond the speakers' own.
                self.seen.owners = true;
                let named = |owners: WrittenOwners| (owners.lease.clone(), owners);
                change.is_ok_and(|change| update(&mut self.owners, change, named))
            }
            Input::Bgp(input) => {
                self.bgp.take(input);
                self.configure();
                true
            }
        };
        changed || self.seen != seen
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
        self.lately_gone.keep(&mut config.pools, &self.config.pools, self.began.elapsed());
        for problem in problems.iter().filter(|problem| !self.problems.contains(&problem.to_string())) {
            tracing::error!(event = "configInvalid", error = %problem, "part of the configuration is not served");
        }
        self.config = config;
        self.problems = problems.iter().map(ToString::to_string).collect();
    }

    /// When a pool that went is to be forgotten: [`Known::forget_pools`] is to be called then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lately_gone.deadline().map(|deadline| self.began + deadline)
    }

    /// Forgets the pools that went too long ago to come back.
    pub(super) fn forget_pools(&mut self) {
        if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.configure();
        }
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

/// Whether a change is of a status alone: the controller writes those of pools, and nothing follows of them here.
fn is_status_alone(pools: &BTreeMap<String, IPAddressPool>, change: &Change<IPAddressPool>) -> bool {
    let Change::Set(pool) = change else { return false };
    let former = pools.get(&pool.name_any());
    former.is_some_and(|former| former.spec == pool.spec && former.metadata.labels == pool.metadata.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pool(name: &str, changes: &[(&str, Value)]) -> IPAddressPool {
        let mut object = json!({
            "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
            "metadata": { "name": name, "resourceVersion": "1" }, "spec": { "addresses": ["192.0.2.0/24"] },
        });
        for (pointer, value) in changes {
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            object.pointer_mut(parent).expect("a parent")[field] = value.clone();
        }
        serde_json::from_value(object).expect("a pool")
    }

    #[test]
    fn the_status_of_a_pool_is_no_configuration() {
        let known = BTreeMap::from([named(pool("main", &[]))]);
        let status =
            json!({ "assignedIPv4": 1, "assignedIPv6": 0, "availableIPv4": 255, "availableIPv6": 0 });
        let written = [("/metadata/resourceVersion", json!("2")), ("/status", status)];
        for (what, change, alone) in [
            ("a status", Change::Set(pool("main", &written)), true),
            ("a spec", Change::Set(pool("main", &[("/spec/addresses", json!(["192.0.2.0/25"]))])), false),
            ("a label", Change::Set(pool("main", &[("/metadata/labels", json!({ "zone": "a" }))])), false),
            ("a new pool", Change::Set(pool("other", &[])), false),
            ("a pool that goes", Change::Gone(pool("main", &[])), false),
        ] {
            assert_eq!(is_status_alone(&known, &change), alone, "{what}");
        }
    }
}
