//! What a plan is made from: what the watches bring, and what the speakers say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use metallb_core::plan::{self, DefaultRoutes, World};
use metallb_core::service::ServiceKey;
use metallb_core::spread::{Claim, Claims};
use metallb_proto::membership::{Facts, Roster};

use super::{Observer, PATIENCE};
use crate::speaker::facts::ServiceFacts;

impl Observer {
    /// The world but for its speakers.
    pub(super) fn world(&self) -> World {
        World {
            config: self.known.config.clone(),
            services: self.known.services.planned(),
            nodes: self
                .known
                .nodes
                .iter()
                .map(|(name, facts)| (name.clone(), self.linked(name, &facts.node)))
                .collect(),
            speakers: None,
            ignore_exclude_label: self.settings.ignore_exclude_label,
            drain: self.settings.drain,
            kept: self.kept(),
            recorded: self.records(),
            never_fail_back: self.failback.is_never(),
            unheard: self.unheard(),
            uninformed: self.uninformed.nodes(Instant::now()),
            claims: self.claimed(),
            written_claims: self.written(),
            undecided: self.is_undecided(),
            fresh: self.known.services.fresh(),
        }
    }

    /// Nodes with a living speaker, which are all where the speakers do not know of each other; `None` until it is
    /// settled.
    pub(super) fn alive(&self) -> Option<Option<BTreeSet<String>>> {
        if self.settings.speakers.is_none() {
            return Some(None);
        }
        let roster = self.roster.as_ref().filter(|roster| roster.settled)?;
        let expected = self.expected(roster).map(str::to_owned);
        Some(Some(roster.candidates().map(str::to_owned).chain(expected).collect()))
    }

    /// Whether this speaker takes part for so short a time that others may not have been heard yet.
    pub(super) fn is_new(&self) -> bool {
        self.settled.is_none_or(|at| at.elapsed() < PATIENCE)
    }

    /// Nodes that announced something by the record, and that have had no time yet to be heard.
    pub(super) fn expected<'a>(&'a self, roster: &'a Roster) -> impl Iterator<Item = &'a str> {
        let waiting = self.is_new();
        let records = self.known.services.facts().values().filter_map(|facts| facts.record.as_ref());
        let is_unknown = |node: &&str| !roster.known.contains(*node) && !roster.silent.contains(*node);
        let unknown = records.map(|(node, _)| node.as_str()).filter(is_unknown);
        unknown.filter(move |_| waiting)
    }

    /// Candidates that were never heard.
    pub(super) fn unheard(&self) -> BTreeSet<String> {
        self.roster.iter().flat_map(|roster| roster.unheard.iter().cloned()).collect()
    }

    /// What each living speaker says of its node.
    pub(super) fn told(&self) -> impl Iterator<Item = (&String, Option<&Facts>)> {
        let members = self.roster.iter().flat_map(|roster| &roster.members);
        members.map(|(node, facts)| (node, facts.as_ref()))
    }

    /// What each speaker says that it keeps, and what others saw that it does.
    pub(super) fn kept(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut kept: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        for (node, facts) in self.told() {
            for address in facts.iter().flat_map(|facts| &facts.kept) {
                kept.entry(*address).or_default().insert(node.clone());
            }
            for (address, node) in facts.iter().flat_map(|facts| &facts.stays) {
                kept.entry(*address).or_default().insert(node.clone());
            }
        }
        kept
    }

    /// What each speaker claims, of this one what it knows itself.
    pub(super) fn claimed(&self) -> BTreeMap<IpAddr, Claims> {
        let mut claimed: BTreeMap<IpAddr, Claims> = BTreeMap::new();
        let me = &self.settings.node;
        for (node, facts) in self.told().filter(|(node, _)| *node != me) {
            for (address, (epoch, held)) in facts.iter().flat_map(|facts| &facts.claims) {
                let claim = Claim { epoch: *epoch, held: *held };
                claimed.entry(*address).or_default().insert(node.clone(), claim);
            }
        }
        for (address, claim) in self.claims.told() {
            claimed.entry(*address).or_default().insert(me.clone(), *claim);
        }
        claimed
    }

    /// The claims that were written down.
    pub(super) fn written(&self) -> BTreeMap<IpAddr, Claims> {
        let mut written: BTreeMap<IpAddr, Claims> = BTreeMap::new();
        for (address, (node, epoch)) in self.known.owners.values().flat_map(|owners| &owners.owners) {
            let claim = Claim { epoch: *epoch, held: true };
            written.entry(*address).or_default().insert(node.clone(), claim);
        }
        written
    }

    pub(super) fn is_undecided(&self) -> bool {
        self.is_new() && self.told().any(|(node, facts)| *node != self.settings.node && facts.is_none())
    }

    /// The node that announced each Service last.
    pub(super) fn records(&self) -> BTreeMap<ServiceKey, String> {
        let record = |(key, facts): (&ServiceKey, &ServiceFacts)| {
            facts.record.as_ref().map(|(node, _)| (key.clone(), node.clone()))
        };
        self.known.services.facts().iter().filter_map(record).collect()
    }

    /// What this node is able to do: by its links, or, before they are known, by what its speaker told.
    pub(super) fn own_facts(&self) -> Option<Facts> {
        let told = || self.roster.as_ref()?.members.get(&self.settings.node)?.clone();
        self.own.clone().or_else(told)
    }

    pub(super) fn own_interfaces(&self) -> BTreeSet<String> {
        self.own_facts().map(|facts| facts.interfaces).unwrap_or_default()
    }

    /// A node with what its speaker says of its interfaces.
    pub(super) fn linked(&self, name: &str, node: &plan::Node) -> plan::Node {
        let facts = if name == self.settings.node {
            self.own_facts()
        } else {
            self.roster.as_ref().and_then(|roster| roster.members.get(name).cloned().flatten())
        };
        let Some(Facts { interfaces, no_ipv6, default_v4, default_v6, .. }) = facts else {
            return node.clone();
        };
        let default_routes = DefaultRoutes { v4: default_v4, v6: default_v6 };
        plan::Node { interfaces: Some(interfaces), no_ipv6, default_routes, ..node.clone() }
    }
}
