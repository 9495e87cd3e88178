//! A run of addresses of one family, as a pool lists it: `192.0.2.0/24` or `192.0.2.10-192.0.2.20`.
//!
//! Every address of a block counts, the network and broadcast address of a prefix too, and a range may reach
//! either end of the address space.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use thiserror::Error;

/// The version of the Internet Protocol that an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The other family.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a text or a pair of addresses is no range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RangeError {
    /// One address without a length.
    #[error("{0} is a single address: write {0}/{bits}", bits = bits(*.0))]
    Bare(IpAddr),
    /// Neither spelling of a range.
    #[error("{0:?} is neither a prefix (address/length) nor a range (first-last)")]
    Neither(String),
    /// The ends are of different families.
    #[error("{0}-{1} mixes IPv4 and IPv6")]
    Mixed(IpAddr, IpAddr),
    /// The last address lies before the first.
    #[error("{0}-{1} ends before it starts")]
    Reversed(IpAddr, IpAddr),
    /// IPv4 in IPv6 dress (RFC 4291 §2.5.5.2), which no Service can have.
    #[error("{0} is an IPv4-mapped IPv6 address: write it as IPv4")]
    Mapped(Ipv6Addr),
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A non-empty run of addresses of one family, both ends included.
///
/// Ordered by family (IPv4 first), then by first and last address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The addresses from `first` to `last`.
    ///
    /// # Errors
    /// When the ends are of different families, the wrong way round, or IPv4-mapped.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, RangeError> {
        for end in [first, last] {
            if let IpAddr::V6(six) = end
                && six.to_ipv4_mapped().is_some()
            {
                return Err(RangeError::Mapped(six));
            }
        }
        if Family::of(first) != Family::of(last) {
            return Err(RangeError::Mixed(first, last));
        }
        if first > last {
            return Err(RangeError::Reversed(first, last));
        }
        Ok(Self { first, last })
    }

    /// The lowest address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The family of every address in it.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // The order of `IpAddr` puts all of IPv4 before all of IPv6, so a mixed comparison is never true on both sides.
        self.first <= address && address <= self.last
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// The number of addresses; `u128::MAX` for `::/0`, which has one more.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u128 {
        (to_number(self.last) - to_number(self.first)).saturating_add(1)
    }
}

/// The address as an integer.
#[must_use]
pub fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u128::from(four.to_bits()),
        IpAddr::V6(six) => six.to_bits(),
    }
}

/// The address of `family` with the integer value `number`; `None` when the family has no such address.
#[must_use]
pub fn from_number(family: Family, number: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(number).ok().map(|number| Ipv4Addr::from_bits(number).into()),
        Family::V6 => Some(Ipv6Addr::from_bits(number).into()),
    }
}

/// `ranges` but for `addresses`, in the same order: a range that holds some of them becomes those around them.
#[must_use]
pub fn without(ranges: &[AddressRange], addresses: &BTreeSet<IpAddr>) -> Vec<AddressRange> {
    let mut left = Vec::new();
    for range in ranges {
        let mut rest = Some(*range);
        for address in addresses.range(range.first..=range.last) {
            let Some(AddressRange { first, last }) = rest else { break };
            let (family, number) = (range.family(), to_number(*address));
            let neighbour = |number: Option<u128>| number.and_then(|number| from_number(family, number));
            let before = neighbour(number.checked_sub(1)).filter(|before| *before >= first);
            left.extend(before.map(|before| AddressRange { first, last: before }));
            let after = neighbour(number.checked_add(1)).filter(|after| *after <= last);
            rest = after.map(|after| AddressRange { first: after, last });
        }
        left.extend(rest);
    }
    left
}

impl From<IpAddr> for AddressRange {
    /// The range of this one address.
    fn from(address: IpAddr) -> Self {
        Self { first: address, last: address }
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    /// Reads `address/length` (host bits are dropped) or `first-last`, spaces allowed around each part.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let neither = || RangeError::Neither(text.to_owned());
        let text = text.trim();
        if let Some((first, last)) = text.split_once('-') {
            let first = first.trim().parse().map_err(|_| neither())?;
            let last = last.trim().parse().map_err(|_| neither())?;
            return Self::new(first, last);
        }
        if let Ok(address) = text.parse() {
            return Err(RangeError::Bare(address));
        }
        // The parts are read by the standard library, which refuses leading zeros: some read them as octal.
        let (address, length) = text.split_once('/').ok_or_else(neither)?;
        let address = address.parse().map_err(|_| neither())?;
        let length = length.parse().map_err(|_| neither())?;
        let prefix = IpNet::new(address, length).map_err(|_| neither())?;
        if let IpAddr::V6(six) = prefix.addr()
            && six.to_ipv4_mapped().is_some()
        {
            return Err(RangeError::Mapped(six));
        }
        Ok(Self { first: prefix.network(), last: prefix.broadcast() })
    }
}

impl fmt::Display for AddressRange {
    /// The shorter true spelling: a prefix where the range is one, else `first-last`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (to_number(self.first), to_number(self.last));
        let width = u32::from(bits(self.first));
        // The host part of a prefix is all zeros in its first address and all ones in its last.
        let host = (first ^ last).count_ones();
        let mask = 1u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1);
        if first ^ last == mask && first & mask == 0 {
            write!(f, "{}/{}", self.first, width - host)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A number of addresses, exact up to the 2^128 of `::/0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressCount {
    low: u128,
    /// Whether 2^128 is to be added to `low`, which is then 0: there are no more addresses than that.
    whole: bool,
}

impl AddressCount {
    /// Adds the numbers from `first` to `last`, both included.
    pub fn add_run(&mut self, first: u128, last: u128) {
        let less_one = last.saturating_sub(first);
        let (low, over) = self.low.overflowing_add(less_one);
        let (low, one_over) = low.overflowing_add(1);
        *self =
            if self.whole || over || one_over { Self { low: 0, whole: true } } else { Self { low, ..*self } };
    }

    /// Adds one.
    pub fn add_one(&mut self) {
        self.add_run(0, 0);
    }

    /// Takes one off, down to zero.
    pub fn subtract_one(&mut self) {
        *self = self.minus(Self { low: 1, whole: false });
    }

    /// This less `other`, not below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        match (self.whole, other.whole) {
            (_, true) => Self::default(),
            (true, false) if other.low == 0 => self,
            (true, false) => Self { low: u128::MAX - other.low + 1, whole: false },
            (false, false) => Self { low: self.low.saturating_sub(other.low), whole: false },
        }
    }

    /// The number as a float, with its 53 bits of precision.
    #[must_use]
    pub fn approximate(self) -> f64 {
        // 2^128 is a power of two and so exact.
        if self.whole { 2f64.powi(128) } else { self.low as f64 }
    }

    /// The number, or the greatest `i64` where it is greater.
    #[must_use]
    pub fn saturating_i64(self) -> i64 {
        if self.whole { i64::MAX } else { i64::try_from(self.low).unwrap_or(i64::MAX) }
    }
}

impl fmt::Display for AddressCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whole { f.write_str("340282366920938463463374607431768211456") } else { self.low.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_spellings_are_read_and_the_shorter_is_printed() {
        for (text, printed, len) in [
            ("192.0.2.0/24", "192.0.2.0/24", 256),
            ("192.0.2.77/24", "192.0.2.0/24", 256),
            (" 192.0.2.10 - 192.0.2.20 ", "192.0.2.10-192.0.2.20", 11),
            ("192.0.2.0-192.0.2.255", "192.0.2.0/24", 256),
            ("192.0.2.1-192.0.2.2", "192.0.2.1-192.0.2.2", 2),
            ("192.0.2.1/32", "192.0.2.1/32", 1),
            ("192.0.2.1-192.0.2.1", "192.0.2.1/32", 1),
            ("0.0.0.0/0", "0.0.0.0/0", 1 << 32),
            ("255.255.255.255/32", "255.255.255.255/32", 1),
            ("2001:db8::/64", "2001:db8::/64", 1 << 64),
            ("2001:DB8::a-2001:db8::f", "2001:db8::a-2001:db8::f", 6),
            ("::/0", "::/0", u128::MAX),
            ("::/1", "::/1", 1 << 127),
        ] {
            let range: AddressRange = text.parse().unwrap();
            assert_eq!((range.to_string().as_str(), range.len()), (printed, len), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_range_says_what_to_write() {
        for (text, message) in [
            ("192.0.2.1", "192.0.2.1 is a single address: write 192.0.2.1/32"),
            ("2001:db8::1", "2001:db8::1 is a single address: write 2001:db8::1/128"),
            ("192.0.2.9-192.0.2.1", "192.0.2.9-192.0.2.1 ends before it starts"),
            ("192.0.2.9-2001:db8::1", "192.0.2.9-2001:db8::1 mixes IPv4 and IPv6"),
            (
                "192.0.2.0/33",
                "\"192.0.2.0/33\" is neither a prefix (address/length) nor a range (first-last)",
            ),
            ("", "\"\" is neither a prefix (address/length) nor a range (first-last)"),
            ("a-b", "\"a-b\" is neither a prefix (address/length) nor a range (first-last)"),
            ("010.0.0.0/8", "\"010.0.0.0/8\" is neither a prefix (address/length) nor a range (first-last)"),
            ("::ffff:192.0.2.0/120", "::ffff:192.0.2.0 is an IPv4-mapped IPv6 address: write it as IPv4"),
        ] {
            assert_eq!(text.parse::<AddressRange>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn families_never_overlap_or_contain_each_other() {
        let all_four: AddressRange = "0.0.0.0/0".parse().unwrap();
        let all_six: AddressRange = "::/0".parse().unwrap();
        assert!(!all_four.overlaps(&all_six) && !all_six.overlaps(&all_four));
        assert!(!all_six.contains(Ipv4Addr::UNSPECIFIED.into()));
        assert!(!all_four.contains(Ipv6Addr::UNSPECIFIED.into()));
    }

    #[test]
    fn single_addresses_are_cut_out_of_ranges() {
        let cut = |ranges: &[&str], addresses: &[&str]| -> Vec<String> {
            let ranges: Vec<AddressRange> = ranges.iter().map(|text| text.parse().unwrap()).collect();
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            without(&ranges, &addresses).iter().map(ToString::to_string).collect()
        };
        assert_eq!(cut(&["192.0.2.0/29"], &["192.0.2.3"]), ["192.0.2.0-192.0.2.2", "192.0.2.4/30"]);
        assert_eq!(cut(&["192.0.2.0/30"], &["192.0.2.0", "192.0.2.3"]), ["192.0.2.1-192.0.2.2"]);
        assert_eq!(cut(&["192.0.2.1/32", "192.0.2.9/32"], &["192.0.2.1"]), ["192.0.2.9/32"]);
        assert_eq!(cut(&["255.255.255.254/31"], &["255.255.255.255"]), ["255.255.255.254/32"]);
        assert_eq!(cut(&["0.0.0.0/31", "::/127"], &["0.0.0.0", "::"]), ["0.0.0.1/32", "::1/128"]);
        assert_eq!(cut(&["192.0.2.0/29"], &["192.0.2.8", "2001:db8::1"]), ["192.0.2.0/29"]);
    }

    proptest! {
        #[test]
        fn a_range_reads_back_what_it_prints(a: u128, b: u128, four: bool) {
            let family = if four { Family::V4 } else { Family::V6 };
            let limit = if four { u128::from(u32::MAX) } else { u128::MAX };
            let (low, high) = ((a & limit).min(b & limit), (a & limit).max(b & limit));
            let range = AddressRange::new(
                from_number(family, low).unwrap(),
                from_number(family, high).unwrap(),
            ).unwrap();
            prop_assert_eq!(range.to_string().parse::<AddressRange>(), Ok(range));
            prop_assert_eq!(range.len(), (high - low).saturating_add(1));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:./ -]{0,40}") {
            let _ = text.parse::<AddressRange>();
        }
    }
}
