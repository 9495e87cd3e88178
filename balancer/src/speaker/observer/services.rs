//! The Services that there are, with their endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use metallb_core::plan::{self, Endpoints};
use metallb_core::service::ServiceKey;

use super::inputs::update;
use crate::speaker::facts::{ServiceFacts, SliceFacts};
use crate::watch::Change;

/// Services and their endpoints.
#[derive(Default)]
pub(super) struct Services {
    facts: BTreeMap<ServiceKey, ServiceFacts>,
    /// By Service, its slices by their keys: nearly always one, and there are as many lists as Services.
    endpoints: BTreeMap<ServiceKey, Vec<(ServiceKey, Endpoints)>>,
    /// The Services that there may be something to announce of, with their endpoints.
    planned: Arc<BTreeMap<ServiceKey, plan::Service>>,
    /// Addresses that were given to a Service since this speaker looks, and that no record says were announced.
    fresh: BTreeSet<IpAddr>,
    /// Whether there was a list before: what is new on a later one came while nothing was heard.
    listed: bool,
}

impl Services {
    /// The facts about each.
    pub(super) fn facts(&self) -> &BTreeMap<ServiceKey, ServiceFacts> {
        &self.facts
    }

    /// Takes a change of Services; tells whether a plan may be another one by it. Services that wait for an address come
    /// and change, and nothing is announced of them.
    pub(super) fn take(&mut self, change: Change<ServiceFacts>) -> bool {
        self.note_fresh(&change);
        if let Change::All(_) = change {
            let changed = update(&mut self.facts, change, |facts| (facts.key.clone(), facts));
            self.join_all();
            return changed;
        }
        let (Change::Set(ServiceFacts { key, .. }) | Change::Gone(ServiceFacts { key, .. })) = &change else {
            return false;
        };
        let key = key.clone();
        let before = self.matters(&key);
        let changed = update(&mut self.facts, change, |facts| (facts.key.clone(), facts));
        if changed {
            self.join(&key);
        }
        changed && (before || self.matters(&key))
    }

    /// Whether anything is announced of the Service, or was by its record.
    fn matters(&self, service: &ServiceKey) -> bool {
        let facts = self.facts.get(service);
        facts.is_some_and(|facts| facts.service.is_some() || facts.record.is_some())
    }

    /// Takes a change of EndpointSlices; tells whether a plan may be another one by it.
    pub(super) fn take_slices(&mut self, change: Change<SliceFacts>) -> bool {
        match change {
            Change::All(all) => {
                self.endpoints.clear();
                for facts in all {
                    self.set_slice(facts);
                }
                self.join_all();
                true
            }
            Change::Set(facts) => {
                let service = facts.service.clone();
                let changed = self.set_slice(facts);
                if changed {
                    self.join(&service);
                }
                changed
            }
            Change::Gone(facts) => {
                let Some(slices) = self.endpoints.get_mut(&facts.service) else { return false };
                slices.retain(|(slice, _)| *slice != facts.key);
                if slices.is_empty() {
                    self.endpoints.remove(&facts.service);
                }
                self.join(&facts.service);
                self.is_announced(&facts.service)
            }
        }
    }

    fn set_slice(&mut self, facts: SliceFacts) -> bool {
        let concerned = self.is_announced(&facts.service);
        let slices = self.endpoints.entry(facts.service).or_default();
        match slices.iter_mut().find(|(slice, _)| *slice == facts.key) {
            Some((_, endpoints)) => {
                let same = *endpoints == facts.endpoints;
                *endpoints = facts.endpoints;
                concerned && !same
            }
            // Not with room for more, as a list that grows has it.
            None => {
                slices.reserve_exact(1);
                slices.push((facts.key, facts.endpoints));
                concerned
            }
        }
    }

    /// Whether the Service has an address that is to be announced, by whomever.
    fn is_announced(&self, service: &ServiceKey) -> bool {
        self.facts.get(service).is_some_and(|facts| facts.service.is_some())
    }

    /// An address that a change brings, or a later list, was given just now. One that is on the first list may have been
    /// announced before.
    fn note_fresh(&mut self, change: &Change<ServiceFacts>) {
        match change {
            Change::Set(facts) => self.note_fresh_of(facts),
            Change::All(all) if self.listed => all.iter().for_each(|facts| self.note_fresh_of(facts)),
            Change::All(_) => self.listed = true,
            Change::Gone(_) => {}
        }
    }

    fn note_fresh_of(&mut self, facts: &ServiceFacts) {
        let addresses = facts.service.iter().flat_map(|service| service.addresses.iter().copied());
        let held = |address: &IpAddr| {
            let services = self.facts.values().filter_map(|known| known.service.as_ref());
            services.flat_map(|service| &service.addresses).any(|known| known == address)
        };
        if facts.record.is_some() {
            let announced: Vec<IpAddr> = addresses.collect();
            self.fresh.retain(|address| !announced.contains(address));
        } else if self.facts.get(&facts.key).and_then(|known| known.service.as_ref())
            != facts.service.as_ref()
        {
            let new: Vec<IpAddr> = addresses.filter(|address| !held(address)).collect();
            self.fresh.extend(new);
        }
    }

    /// The Services that there may be something to announce of, with their endpoints.
    pub(super) fn planned(&self) -> Arc<BTreeMap<ServiceKey, plan::Service>> {
        Arc::clone(&self.planned)
    }

    /// A Service with its endpoints, when there may be something to announce of it.
    fn joined(&self, key: &ServiceKey) -> Option<plan::Service> {
        let service = self.facts.get(key)?.service.clone()?;
        Some(plan::Service { endpoints: self.endpoints_of(key), ..service })
    }

    /// Brings what is planned from up to date in one Service.
    fn join(&mut self, key: &ServiceKey) {
        let joined = self.joined(key);
        let planned = Arc::make_mut(&mut self.planned);
        match joined {
            Some(service) => drop(planned.insert(key.clone(), service)),
            None => drop(planned.remove(key)),
        }
    }

    fn join_all(&mut self) {
        let joined = self.facts.keys().filter_map(|key| Some((key.clone(), self.joined(key)?)));
        self.planned = Arc::new(joined.collect());
    }

    fn endpoints_of(&self, service: &ServiceKey) -> Endpoints {
        let mut joined = Endpoints::default();
        for (_, endpoints) in self.endpoints.get(service).into_iter().flatten() {
            joined.join(endpoints);
        }
        joined
    }

    /// Addresses for which other hosts are asked before they are announced.
    pub(super) fn fresh(&self) -> BTreeSet<IpAddr> {
        let withheld = self.facts.values().filter(|facts| facts.is_withheld());
        let withheld =
            withheld.filter_map(|facts| facts.service.as_ref()).flat_map(|service| &service.addresses);
        self.fresh.iter().chain(withheld).copied().collect()
    }
}

#[cfg(test)]
#[path = "services_tests.rs"]
mod tests;
