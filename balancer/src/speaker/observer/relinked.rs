//! Interfaces that are back before the other speakers: those may have taken over what this node announced on them.

use std::collections::BTreeSet;

use metallb_proto::membership::Link;

use crate::speaker::links::Snapshot;

/// The interfaces that have had carrier since the link to the others worked last.
#[derive(Default)]
pub(super) struct Relinked {
    steady: BTreeSet<String>,
}

impl Relinked {
    /// Takes note of the `links` of this node, and of what the membership knows of its own. Returns the names of the interfaces
    /// on which this node must not announce yet.
    pub(super) fn observe(&mut self, links: &Snapshot, link: Link) -> BTreeSet<String> {
        let alive = links.eligible.values().filter(|interface| interface.carrier);
        let alive: BTreeSet<String> = alive.map(|interface| interface.name.clone()).collect();
        if link == Link::Works {
            self.steady = alive;
            return BTreeSet::new();
        }
        self.steady.retain(|name| alive.contains(name));
        // That the link is back may be known here before the membership knows it.
        let waits = link == Link::Back || !links.is_cut;
        alive.into_iter().filter(|name| waits && !self.steady.contains(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use metallb_proto::layer2::MacAddress;
    use metallb_proto::layer2::link::Interface;

    use super::*;

    /// Links of which the first is that of the speakers; `None` is one that cannot announce at all.
    fn links(carriers: [Option<bool>; 2]) -> Snapshot {
        let interfaces = (1..).zip(carriers).filter_map(|(index, carrier)| {
            let name = format!("eth{index}");
            Some((index, Interface { index, name, mac: MacAddress([2; 6]), carrier: carrier?, ipv6: true }))
        });
        let is_cut = carriers[0] != Some(true);
        Snapshot { eligible: interfaces.collect(), is_cut, ..Snapshot::default() }
    }

    #[test]
    fn an_interface_that_is_back_waits_for_the_others() {
        let mut relinked = Relinked::default();
        let mut waiting = |carriers: [Option<bool>; 2], link| -> Vec<String> {
            relinked.observe(&links(carriers), link).into_iter().collect()
        };
        let (up, down, gone) = (Some(true), Some(false), None);
        for away in [down, gone] {
            for (carriers, link, want) in [
                ([up, up], Link::Works, vec![]),
                ([away, up], Link::Works, vec![]),
                ([away, up], Link::Dead, vec![]),
                ([up, up], Link::Dead, vec!["eth1"]),
                ([up, up], Link::Back, vec!["eth1"]),
                ([up, up], Link::Works, vec![]),
                // The other one is of no use to the speakers, and nobody would be heard on it.
                ([away, up], Link::Dead, vec![]),
                ([away, away], Link::Dead, vec![]),
                ([away, up], Link::Dead, vec![]),
                ([up, up], Link::Back, vec!["eth1", "eth2"]),
                ([up, up], Link::Works, vec![]),
            ] {
                assert_eq!(waiting(carriers, link), want, "{carriers:?}, {link:?}");
            }
        }
    }
}
