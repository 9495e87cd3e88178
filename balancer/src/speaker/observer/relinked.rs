//! Interfaces whose link is back before any other speaker was heard: others may have taken over what this node announced on
//! them.

use std::collections::BTreeSet;

use crate::speaker::links::Interfaces;

/// The interfaces that were without carrier and have not been joined to the others' since.
#[derive(Default)]
pub(super) struct Relinked(BTreeSet<String>);

impl Relinked {
    /// Takes note of the carrier of `interfaces`, and whether this node `is_cut_off` from the others. Returns the names of
    /// those on which it must not announce yet.
    pub(super) fn observe(&mut self, interfaces: &Interfaces, is_cut_off: bool) -> &BTreeSet<String> {
        // That the link is back may be known here before the membership knows that it was lost.
        self.0.retain(|_| is_cut_off);
        let dead = interfaces.values().filter(|interface| !interface.carrier);
        self.0.extend(dead.map(|interface| interface.name.clone()));
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use metallb_proto::layer2::MacAddress;
    use metallb_proto::layer2::link::Interface;

    use super::*;

    #[test]
    fn an_interface_whose_link_is_back_waits_for_a_word_of_the_others() {
        let links = |carriers: [bool; 2]| -> Interfaces {
            let interfaces = (1..).zip(carriers).map(|(index, carrier)| {
                let name = format!("eth{index}");
                (index, Interface { index, name, mac: MacAddress([2; 6]), carrier, ipv6: true })
            });
            interfaces.collect()
        };
        let mut relinked = Relinked::default();
        let mut unable = |carriers, is_cut_off| -> Vec<String> {
            relinked.observe(&links(carriers), is_cut_off).iter().cloned().collect()
        };
        assert_eq!(unable([true, true], false), [""; 0]);
        assert_eq!(unable([false, true], false), ["eth1"], "the membership does not know yet");
        assert_eq!(unable([false, true], true), ["eth1"]);
        assert_eq!(unable([true, true], true), ["eth1"]);
        assert_eq!(unable([true, true], false), [""; 0], "somebody was heard");
        assert_eq!(unable([false, true], false), ["eth1"]);
        assert_eq!(unable([true, true], false), [""; 0], "it is not the link of the membership");
    }
}
