//! What one node claims of the addresses with `electionPolicy: Even`, and what is to be written down about all of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::plan::{Plan, World};
use crate::spread::{Claim, Claims, holder};

/// The claims of one node.
#[derive(Clone, Debug, Default)]
pub struct OwnClaims(BTreeMap<IpAddr, Claim>);

impl OwnClaims {
    /// Follows the plan of the node `me`, which was made from `world`.
    ///
    /// What it announces it claims, and what it takes it claims with the next epoch; what it announces no more it has
    /// released, and says so until another has it. A claim that stands is never raised, whatever others claim: of two,
    /// one has to give way.
    pub fn follow(&mut self, world: &World, plan: &Plan, me: &str) {
        self.0.retain(|address, _| plan.even.contains_key(address));
        for (address, even) in &plan.even {
            let others = || heard(world, *address).filter(|(node, _)| *node != me);
            let latest = others().map(|(_, claim)| claim.epoch).max().unwrap_or(0);
            let mine = self.0.get(address).copied().or_else(|| written(world, *address, me));
            let claim = match mine {
                Some(mine) if even.mine && mine.held => Some(mine),
                _ if even.mine => {
                    let epoch = latest.max(mine.map_or(0, |mine| mine.epoch)).saturating_add(1);
                    Some(Claim { epoch, held: true })
                }
                Some(mine) if others().any(|(_, claim)| claim.held && claim.epoch > mine.epoch) => None,
                mine => mine.map(|mine| Claim { held: false, ..mine }),
            };
            match claim {
                Some(claim) => self.0.insert(*address, claim),
                None => self.0.remove(address),
            };
        }
    }

    /// What is to be told.
    pub fn told(&self) -> &BTreeMap<IpAddr, Claim> {
        &self.0
    }
}

/// Every word about an address, spoken and written.
fn heard(world: &World, address: IpAddr) -> impl Iterator<Item = (&str, Claim)> {
    let claims = [world.claims.get(&address), world.written_claims.get(&address)];
    claims.into_iter().flatten().flatten().map(|(node, claim)| (node.as_str(), *claim))
}

fn written(world: &World, address: IpAddr, node: &str) -> Option<Claim> {
    world.written_claims.get(&address)?.get(node).copied()
}

/// By L2Advertisement, the holder of each address and its epoch: what is to be written down.
pub type Record = BTreeMap<String, BTreeMap<IpAddr, (String, u32)>>;

/// What is to be written down now: the holder by all that is spoken and written. Halves of a parted cluster that reach the
/// API server thus write the same. An address that is between two nodes stays written as it was.
pub fn record(claims: &BTreeMap<IpAddr, Claims>, written: &BTreeMap<IpAddr, Claims>, plan: &Plan) -> Record {
    let mut record = Record::new();
    for (address, even) in &plan.even {
        let written = written.get(address).into_iter().flatten();
        let mut known: BTreeMap<&str, Claim> =
            written.clone().map(|(node, claim)| (node.as_str(), *claim)).collect();
        // What a node says of itself is newer than what was written of it.
        known.extend(claims.get(address).into_iter().flatten().map(|(node, claim)| (node.as_str(), *claim)));
        let held = holder(*address, known.iter().map(|(node, claim)| (*node, *claim)));
        let held = held.and_then(|node| Some((node.to_owned(), known.get(node)?.epoch)));
        let before =
            || written.max_by_key(|(_, claim)| claim.epoch).map(|(node, claim)| (node.clone(), claim.epoch));
        let owners = record.entry(even.advertisement.clone()).or_default();
        if let Some(owner) = held.or_else(before) {
            owners.insert(*address, owner);
        }
    }
    record
}

/// The annotation of a record for one L2Advertisement: `ADDRESS=NODE/EPOCH`, separated by blanks.
pub fn written_text(owners: &BTreeMap<IpAddr, (String, u32)>) -> String {
    let entries = owners.iter().map(|(address, (node, epoch))| format!("{address}={node}/{epoch}"));
    entries.collect::<Vec<_>>().join(" ")
}

/// Reads what [`written_text`] wrote; what is not written like that is left out.
pub fn read_text(text: &str) -> BTreeMap<IpAddr, (String, u32)> {
    let entry = |word: &str| {
        let (address, owner) = word.split_once('=')?;
        let (node, epoch) = owner.rsplit_once('/')?;
        Some((address.parse().ok()?, (node.to_owned(), epoch.parse().ok()?)))
    };
    text.split_whitespace().filter_map(entry).collect()
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
