//! The configuration of an older MetalLB: told, and made objects of when the administrator says so.

use std::collections::BTreeSet;

use kube::{Resource, ResourceExt, core::DynamicObject};
use metallb_api::{
    BFDProfile, BGPPeer, Community, IPAddressPool,
    address_pool::v1beta1::AddressPool,
    conditions::{LEGACY_CONFIG_IMPORTED, Report},
    names::{ANNOTATION_IMPORT, ANNOTATION_IMPORTED, LEGACY_CONFIG},
};
use metallb_core::{
    config,
    legacy::{self, Legacy},
    range::AddressRange,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Change, Plan, Situation, installation::admit};
use crate::{
    kinds::{Key, Kind},
    pool,
    status::{Observation, Reason, report},
    world::Source,
};

/// On an object that was imported: from where.
const ORIGIN: (&str, &str) = ("metallb.io/imported-from", "ConfigMap config");
/// Kinds of which objects are made, or by which entries may be covered already.
const KINDS: [Kind; 7] = [
    Kind::AddressPool,
    Kind::IpAddressPool,
    Kind::L2Advertisement,
    Kind::BgpAdvertisement,
    Kind::BgpPeer,
    Kind::BfdProfile,
    Kind::Community,
];

pub(super) fn plan(
    situation: Situation<'_>,
    resource: &DynamicObject,
    seen: &mut Observation,
    plan: &mut Plan,
) {
    let namespace = situation.settings.namespace.clone();
    let key = Key { kind: Kind::ConfigMap, namespace, name: LEGACY_CONFIG.to_owned() };
    let Some(config_map) = situation.world.object(&key) else { return };
    let Some(text) = config_map.data["data"][LEGACY_CONFIG].as_str() else { return };
    if !situation.unseen(&KINDS.map(Source::Objects)).is_empty() {
        return;
    }
    if let Some(done) = config_map.annotations().get(ANNOTATION_IMPORTED) {
        seen.legacy = Some(tell(true, Reason::LegacyConfigImported, done.clone()));
        return;
    }
    let work = match work(situation, text) {
        Ok(work) => work,
        Err(problems) => {
            let message = format!(
                "ConfigMap {LEGACY_CONFIG} of an older MetalLB has no effect, and nothing is imported of it while it \
                 has problems: {}",
                problems.join("; ")
            );
            seen.legacy = Some(tell(false, Reason::LegacyConfigInvalid, message));
            return;
        }
    };
    if resource.annotations().get(ANNOTATION_IMPORT).is_none_or(|value| value != "true") {
        seen.legacy = Some(tell(false, Reason::LegacyConfigFound, work.offer()));
        return;
    }
    let creations: Vec<Change> = work.missing.iter().map(|object| object.creation(situation)).collect();
    let nothing_left = creations.is_empty();
    let due: Vec<_> = creations.into_iter().filter(|change| admit(situation, change, seen, plan)).collect();
    plan.stages.push(due);
    if nothing_left {
        let done = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": key.name, "namespace": key.namespace,
                         "annotations": {ANNOTATION_IMPORTED: work.outcome()}},
        });
        let change = situation.change(&key, done).filter(|change| admit(situation, change, seen, plan));
        plan.stages.push(change.into_iter().collect());
    }
}

fn tell(status: bool, reason: Reason, message: String) -> Report {
    report(LEGACY_CONFIG_IMPORTED, status, reason, message)
}

/// What is to be done about the entries of the ConfigMap.
#[derive(Default)]
struct Work {
    /// Objects that are not there yet.
    missing: Vec<New>,
    /// Objects that were imported, for people.
    imported: Vec<String>,
    /// Entries that others cover, for people.
    covered: Vec<String>,
}

struct New {
    kind: Kind,
    name: String,
    spec: Value,
}

impl New {
    fn creation(&self, situation: Situation<'_>) -> Change {
        let (namespace, resource) = (&situation.settings.namespace, self.kind.api_resource());
        let object = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "spec": self.spec,
            "metadata": {"name": self.name, "namespace": namespace, "annotations": {ORIGIN.0: ORIGIN.1}},
        });
        let key = Key { kind: self.kind, namespace: namespace.clone(), name: self.name.clone() };
        Change::Create(key, object)
    }
}

impl Work {
    fn offer(&self) -> String {
        let start = format!("ConfigMap {LEGACY_CONFIG} of an older MetalLB has no effect");
        if self.missing.is_empty() {
            return format!("{start}, and all that it says is there already: it may be deleted");
        }
        let new: Vec<_> = self.missing.iter().map(|new| format!("{} {}", new.kind, new.name)).collect();
        format!(
            "{start}: set annotation {ANNOTATION_IMPORT}: \"true\" on this resource to have {} made of it{}, or delete it",
            new.join(", "),
            self.skipped()
        )
    }

    fn outcome(&self) -> String {
        let made = if self.imported.is_empty() { "nothing".to_owned() } else { self.imported.join(", ") };
        format!("imported: {made}{}", self.skipped())
    }

    fn skipped(&self) -> String {
        if self.covered.is_empty() {
            String::new()
        } else {
            format!("; skipped: {}", self.covered.join(", "))
        }
    }

    /// Sorts an object by whether it is there.
    fn take<K: Resource<DynamicType = ()> + Serialize>(
        &mut self,
        situation: Situation<'_>,
        kind: Kind,
        object: &K,
    ) {
        let name = object.name_any();
        let key = Key { kind, namespace: situation.settings.namespace.clone(), name: name.clone() };
        match situation.world.object(&key) {
            None => {
                let spec = serde_json::to_value(object).unwrap_or_default()["spec"].take();
                self.missing.push(New { kind, name, spec });
            }
            Some(live) if live.annotations().get(ORIGIN.0).is_some_and(|origin| origin == ORIGIN.1) => {
                self.imported.push(format!("{kind} {name}"));
            }
            Some(_) => self.covered.push(format!("{kind} {name}, which exists")),
        }
    }
}

/// Sorts the entries. Objects that were imported before count as not there, so that they are judged the same again.
fn work(situation: Situation<'_>, text: &str) -> Result<Work, Vec<String>> {
    let mut legacy = legacy::parse(text).map_err(|error| vec![error])?;
    let mut work = Work::default();
    let present = Present::of(situation);
    let covered = present.cover(&mut legacy, &mut work);
    let problems = present.problems(&legacy);
    if !problems.is_empty() {
        return Err(problems);
    }
    let Legacy { pools, l2_advertisements, bgp_advertisements, peers, bfd_profiles, communities } = &legacy;
    pools.iter().for_each(|object| work.take(situation, Kind::IpAddressPool, object));
    let of_covered = |pools: &[String]| pools.iter().any(|pool| covered.contains(pool));
    for object in l2_advertisements.iter().filter(|object| !of_covered(&object.spec.ip_address_pools)) {
        work.take(situation, Kind::L2Advertisement, object);
    }
    for object in bgp_advertisements.iter().filter(|object| !of_covered(&object.spec.ip_address_pools)) {
        work.take(situation, Kind::BgpAdvertisement, object);
    }
    bfd_profiles.iter().for_each(|object| work.take(situation, Kind::BfdProfile, object));
    communities.iter().for_each(|object| work.take(situation, Kind::Community, object));
    peers.iter().for_each(|object| work.take(situation, Kind::BgpPeer, object));
    Ok(work)
}

/// Objects that there are and that were not imported.
struct Present {
    pools: Vec<IPAddressPool>,
    peers: Vec<BGPPeer>,
    bfd_profiles: Vec<BFDProfile>,
    communities: Vec<Community>,
}

impl Present {
    fn of(situation: Situation<'_>) -> Self {
        let mut pools: Vec<IPAddressPool> = others(situation, Kind::IpAddressPool);
        let address_pools: Vec<AddressPool> = others(situation, Kind::AddressPool);
        pools.extend(pool::pending(&address_pools, &pools));
        Self {
            pools,
            peers: others(situation, Kind::BgpPeer),
            bfd_profiles: others(situation, Kind::BfdProfile),
            communities: others(situation, Kind::Community),
        }
    }

    /// Takes the pools and peers out that others cover. The names of those pools.
    fn cover(&self, legacy: &mut Legacy, work: &mut Work) -> BTreeSet<String> {
        let mut covered = BTreeSet::new();
        legacy.pools.retain(|pool| {
            let Some(by) = self.pools.iter().find(|present| covers(present, pool)) else { return true };
            let (name, by) = (pool.name_any(), by.name_any());
            work.covered.push(format!("pool {name}, whose addresses IPAddressPool {by} has"));
            covered.insert(name);
            false
        });
        legacy.peers.retain(|peer| {
            let same = |present: &&BGPPeer| {
                present.spec.peer_address == peer.spec.peer_address
                    && present.spec.peer_port == peer.spec.peer_port
            };
            let Some(by) = self.peers.iter().find(same) else { return true };
            work.covered.push(format!(
                "{}, with whose router BGPPeer {} speaks",
                peer.name_any(),
                by.name_any()
            ));
            false
        });
        covered
    }

    /// What would be wrong that is not now if the objects of `legacy` were there, too.
    fn problems(&self, legacy: &Legacy) -> Vec<String> {
        let problems = |legacy: &Legacy| {
            let objects = config::Objects {
                pools: self.pools.iter().chain(&legacy.pools).collect(),
                l2_advertisements: legacy.l2_advertisements.iter().collect(),
                bgp_advertisements: legacy.bgp_advertisements.iter().collect(),
                bgp_peers: legacy.peers.iter().collect(),
                bfd_profiles: self.bfd_profiles.iter().chain(&legacy.bfd_profiles).collect(),
                communities: self.communities.iter().chain(&legacy.communities).collect(),
            };
            config::parse(&objects).1
        };
        let before = problems(&Legacy::default());
        let after = problems(legacy).into_iter().filter(|problem| !before.contains(problem));
        after.map(|problem| problem.to_string()).collect()
    }
}

fn others<K: Resource<DynamicType = ()> + DeserializeOwned>(situation: Situation<'_>, kind: Kind) -> Vec<K> {
    let objects = situation.world.objects(kind);
    let others =
        objects.filter(|object| object.annotations().get(ORIGIN.0).is_none_or(|origin| origin != ORIGIN.1));
    others.filter_map(|object| object.clone().try_parse().ok()).collect()
}

/// Whether each block of `new` lies within one of `present`.
fn covers(present: &IPAddressPool, new: &IPAddressPool) -> bool {
    let blocks = |pool: &IPAddressPool| -> Vec<AddressRange> {
        pool.spec.addresses.iter().filter_map(|text| text.parse().ok()).collect()
    };
    let (there, wanted) = (blocks(present), blocks(new));
    let within = |block: &AddressRange| {
        there.iter().any(|other| other.contains(block.first()) && other.contains(block.last()))
    };
    wanted.len() == new.spec.addresses.len() && !wanted.is_empty() && wanted.iter().all(within)
}
