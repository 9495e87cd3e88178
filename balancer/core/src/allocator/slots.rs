//! Which addresses of a pool are taken, at a cost that depends neither on the size of the pool nor on how full it is.
//!
//! Taken addresses are kept as maximal runs, so the lowest free one is found by looking at the ends of one run.
//! Addresses that a pool never gives out (`avoidBuggyIPs`) have no slot at all: they would otherwise cut the runs
//! of a full block into one per 256 addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::range::{AddressCount, AddressRange, Family, from_number, to_number};

/// A set of numbers as maximal runs, both ends included: `start -> end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Runs(BTreeMap<u128, u128>);

impl Runs {
    /// The run that `number` lies in.
    fn run(&self, number: u128) -> Option<(u128, u128)> {
        let (&start, &end) = self.0.range(..=number).next_back()?;
        (number <= end).then_some((start, end))
    }

    /// Adds `number`; `false` when it was there.
    fn insert(&mut self, number: u128) -> bool {
        if self.run(number).is_some() {
            return false;
        }
        let before = number.checked_sub(1).and_then(|before| self.run(before));
        let after = number.checked_add(1).and_then(|after| self.run(after));
        let start = before.map_or(number, |(start, _)| start);
        let end = after.map_or(number, |(_, end)| end);
        if let Some((start, _)) = after {
            self.0.remove(&start);
        }
        self.0.insert(start, end);
        true
    }

    /// Takes `number` out; `false` when it was not there.
    fn remove(&mut self, number: u128) -> bool {
        let Some((start, end)) = self.run(number) else { return false };
        self.0.remove(&start);
        if start < number {
            self.0.insert(start, number - 1);
        }
        if number < end {
            self.0.insert(number + 1, end);
        }
        true
    }

    /// The lowest number from `from` on that is not in the set.
    fn lowest_absent(&self, from: u128) -> Option<u128> {
        match self.run(from) {
            None => Some(from),
            Some((_, end)) => end.checked_add(1),
        }
    }
}

/// How the addresses of a block are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// Every address has a slot: its own integer value.
    All,
    /// IPv4 addresses that end in .0 or .255 have none, so that 256 addresses make 254 slots.
    WithoutBuggy,
}

impl Numbering {
    /// The slot of `number`, if it has one.
    fn slot(self, number: u128) -> Option<u128> {
        match self {
            Self::All => Some(number),
            Self::WithoutBuggy => match number % 256 {
                0 | 255 => None,
                host => Some(number / 256 * 254 + host - 1),
            },
        }
    }

    fn number(self, slot: u128) -> u128 {
        match self {
            Self::All => slot,
            Self::WithoutBuggy => slot / 254 * 256 + slot % 254 + 1,
        }
    }
}

/// One range of a pool and what of it is taken.
#[derive(Clone, Debug)]
struct Block {
    range: AddressRange,
    numbering: Numbering,
    /// First and last slot.
    slots: (u128, u128),
    taken: Runs,
}

impl Block {
    /// `None` when no address of the range may be given out.
    fn new(range: AddressRange, avoid_buggy: bool) -> Option<Self> {
        let numbering = match range.family() {
            Family::V4 if avoid_buggy => Numbering::WithoutBuggy,
            _ => Numbering::All,
        };
        let (first, last) = (to_number(range.first()), to_number(range.last()));
        // At most two neighbouring addresses have no slot: .255 and the .0 after it.
        let low = (first..=last).take(3).find_map(|number| numbering.slot(number))?;
        let high = (first..=last).rev().take(3).find_map(|number| numbering.slot(number))?;
        Some(Self { range, numbering, slots: (low, high), taken: Runs::default() })
    }

    fn slot(&self, address: IpAddr) -> Option<u128> {
        self.range.contains(address).then(|| self.numbering.slot(to_number(address))).flatten()
    }

    fn lowest_free(&self) -> Option<IpAddr> {
        let slot = self.taken.lowest_absent(self.slots.0).filter(|slot| *slot <= self.slots.1)?;
        from_number(self.range.family(), self.numbering.number(slot))
    }
}

/// Number of addresses of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// IPv4.
    pub ipv4: T,
    /// IPv6.
    pub ipv6: T,
}

impl<T> PerFamily<T> {
    /// The value for `family`.
    #[must_use]
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.ipv4,
            Family::V6 => &self.ipv6,
        }
    }

    /// The value for `family`, to be changed.
    pub fn of_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.ipv4,
            Family::V6 => &mut self.ipv6,
        }
    }
}

/// The addresses of one pool and which of them are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// In the order in which the pool lists them.
    blocks: Vec<Block>,
    /// Where each block starts, for finding the block of an address.
    starts: BTreeMap<IpAddr, usize>,
    /// The blocks that have a free slot.
    open: PerFamily<BTreeSet<usize>>,
    total: PerFamily<AddressCount>,
    taken: PerFamily<AddressCount>,
}

impl Slots {
    /// The slots of a pool that lists `ranges`, which do not overlap.
    pub(super) fn new(ranges: &[AddressRange], avoid_buggy: bool) -> Self {
        let mut slots = Self::default();
        for block in ranges.iter().filter_map(|range| Block::new(*range, avoid_buggy)) {
            let family = block.range.family();
            slots.starts.insert(block.range.first(), slots.blocks.len());
            slots.open.of_mut(family).insert(slots.blocks.len());
            slots.total.of_mut(family).add_run(block.slots.0, block.slots.1);
            slots.blocks.push(block);
        }
        slots
    }

    fn find(&self, address: IpAddr) -> Option<(usize, u128)> {
        let (_, &index) = self.starts.range(..=address).next_back()?;
        Some((index, self.blocks.get(index)?.slot(address)?))
    }

    /// Whether the pool may give out `address`.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.find(address).is_some()
    }

    /// The pool's ranges of `family` that have a slot, in listed order.
    pub(super) fn ranges(&self, family: Family) -> impl Iterator<Item = &AddressRange> {
        self.blocks.iter().map(|block| &block.range).filter(move |range| range.family() == family)
    }

    /// Marks `address` as taken; `false` when it was, or is not the pool's.
    pub(super) fn take(&mut self, address: IpAddr) -> bool {
        let Some((index, slot)) = self.find(address) else { return false };
        let Some(block) = self.blocks.get_mut(index) else { return false };
        if !block.taken.insert(slot) {
            return false;
        }
        let family = block.range.family();
        if block.lowest_free().is_none() {
            self.open.of_mut(family).remove(&index);
        }
        self.taken.of_mut(family).add_one();
        true
    }

    /// Marks `address` as free again; `false` when it was, or is not the pool's.
    pub(super) fn free(&mut self, address: IpAddr) -> bool {
        let Some((index, slot)) = self.find(address) else { return false };
        let Some(block) = self.blocks.get_mut(index) else { return false };
        if !block.taken.remove(slot) {
            return false;
        }
        let family = block.range.family();
        self.open.of_mut(family).insert(index);
        self.taken.of_mut(family).subtract_one();
        true
    }

    /// The lowest free address of the first listed range of `family` that has one.
    pub(super) fn lowest_free(&self, family: Family) -> Option<IpAddr> {
        let index = self.open.of(family).first()?;
        self.blocks.get(*index)?.lowest_free()
    }

    /// How many addresses the pool may give out, taken or not.
    pub(super) fn total(&self) -> PerFamily<AddressCount> {
        self.total
    }

    /// How many of them are taken.
    pub(super) fn taken(&self) -> PerFamily<AddressCount> {
        self.taken
    }

    /// How many of them are free.
    pub(super) fn available(&self) -> PerFamily<AddressCount> {
        PerFamily {
            ipv4: self.total.ipv4.minus(self.taken.ipv4),
            ipv6: self.total.ipv6.minus(self.taken.ipv6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots(ranges: &[&str], avoid_buggy: bool) -> Slots {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Slots::new(&ranges, avoid_buggy)
    }

    fn drain(slots: &mut Slots, family: Family, limit: usize) -> Vec<String> {
        std::iter::from_fn(|| {
            let address = slots.lowest_free(family)?;
            assert!(slots.take(address));
            Some(address.to_string())
        })
        .take(limit)
        .collect()
    }

    #[test]
    fn addresses_come_lowest_first_in_the_listed_order_of_ranges() {
        let mut slots = slots(&["192.0.2.8/31", "2001:db8::/127", "192.0.2.0-192.0.2.1"], false);
        assert_eq!(drain(&mut slots, Family::V4, 9), ["192.0.2.8", "192.0.2.9", "192.0.2.0", "192.0.2.1"]);
        assert_eq!(drain(&mut slots, Family::V6, 9), ["2001:db8::", "2001:db8::1"]);
        assert!(slots.free("192.0.2.9".parse().unwrap()));
        assert_eq!(drain(&mut slots, Family::V4, 9), ["192.0.2.9"]);
    }

    #[test]
    fn both_ends_of_the_address_space_are_given_out() {
        for (range, family, want) in [
            ("255.255.255.254/31", Family::V4, vec!["255.255.255.254", "255.255.255.255"]),
            ("0.0.0.0/0", Family::V4, vec!["0.0.0.0", "0.0.0.1", "0.0.0.2"]),
            ("::/0", Family::V6, vec!["::", "::1", "::2"]),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127",
                Family::V6,
                vec!["ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            ),
        ] {
            assert_eq!(drain(&mut slots(&[range], false), family, 3), want, "{range}");
        }
    }

    #[test]
    fn buggy_addresses_have_no_slot_and_are_not_counted() {
        let mut all = slots(&["192.0.2.254-192.0.3.1", "192.0.9.0/32", "2001:db8::/120"], true);
        assert_eq!((all.total().ipv4.to_string(), all.total().ipv6.to_string()), ("2".into(), "256".into()));
        assert_eq!(drain(&mut all, Family::V4, 9), ["192.0.2.254", "192.0.3.1"]);
        assert!(!all.has("192.0.3.0".parse().unwrap()) && !all.take("192.0.9.0".parse().unwrap()));
    }

    #[test]
    fn capacity_is_exact_also_where_it_needs_129_bits() {
        let mut all = slots(&["::/0", "0.0.0.0/0"], false);
        assert_eq!(all.available().ipv6.to_string(), "340282366920938463463374607431768211456");
        assert_eq!(all.available().ipv4.to_string(), "4294967296");
        all.take("::1".parse().unwrap());
        assert_eq!(all.available().ipv6.to_string(), "340282366920938463463374607431768211455");
        assert_eq!(all.available().ipv6.saturating_i64(), i64::MAX);
    }

    proptest! {
        #[test]
        fn slots_equal_a_list_of_addresses(
            avoid_buggy: bool,
            first in 0u32..600,
            len in 0u32..600,
            steps in prop::collection::vec((any::<bool>(), 0u32..1300), 0..200),
        ) {
            let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(number));
            let range = AddressRange::new(address(first), address(first + len)).unwrap();
            let mut slots = Slots::new(&[range], avoid_buggy);
            let mut free: BTreeSet<u32> =
                (first..=first + len).filter(|n| !avoid_buggy || !matches!(n % 256, 0 | 255)).collect();
            let all = free.clone();
            for (take, number) in steps {
                if take {
                    prop_assert_eq!(slots.take(address(number)), free.remove(&number));
                } else {
                    let was_taken = all.contains(&number) && !free.contains(&number);
                    prop_assert_eq!(slots.free(address(number)), was_taken);
                    if was_taken { free.insert(number); }
                }
                prop_assert_eq!(slots.lowest_free(Family::V4), free.first().map(|n| address(*n)));
                prop_assert_eq!(slots.available().ipv4.to_string(), free.len().to_string());
            }
        }
    }
}
