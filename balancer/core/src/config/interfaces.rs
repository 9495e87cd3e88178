//! Which interfaces of a node an L2Advertisement names.
//!
//! MetalLB takes exact names. Two more ways are understood: a regular expression of the whole name, and [`DEFAULT`].

use std::collections::BTreeSet;

use regex::Regex;

/// Stands for the interfaces of the default route, of the family of the address that is announced.
pub const DEFAULT: &str = "default";

/// What may stand in a name that is meant as it is: letters, digits and the marks of VLANs, aliases and predictable
/// names. Anything else makes it a regular expression.
const MARKS: &str = ".:_-@";

/// The interfaces that are named; all when nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSelection {
    names: BTreeSet<String>,
    patterns: Vec<Pattern>,
    default_route: bool,
}

/// A regular expression of whole names.
#[derive(Clone, Debug)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl From<BTreeSet<String>> for InterfaceSelection {
    /// Exact names.
    fn from(names: BTreeSet<String>) -> Self {
        Self { names, ..Self::default() }
    }
}

impl InterfaceSelection {
    /// Adds one entry of the list.
    ///
    /// # Errors
    /// What is wrong with a regular expression, or that the entry is empty.
    pub(crate) fn add(&mut self, entry: &str) -> Result<(), String> {
        let plain = |character: char| character.is_ascii_alphanumeric() || MARKS.contains(character);
        if entry.is_empty() {
            return Err("an interface has a name".to_owned());
        }
        if entry == DEFAULT {
            self.default_route = true;
        } else if entry.chars().all(plain) {
            self.names.insert(entry.to_owned());
        } else {
            let whole = Regex::new(&format!("^(?:{entry})$"));
            let whole = whole.map_err(|_| format!("{entry:?} is neither a name nor a regular expression"))?;
            self.patterns.push(Pattern(whole));
        }
        Ok(())
    }

    /// Whether nothing is named, so that every interface is meant.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the interface of this name is meant. `on_default_route` tells whether the default route goes through it.
    pub fn selects(&self, name: &str, on_default_route: bool) -> bool {
        self.is_everything()
            || self.default_route && on_default_route
            || self.names.contains(name)
            || self.patterns.iter().any(|pattern| pattern.0.is_match(name))
    }

    /// The exact names: they are meant also while no such interface is known.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(entries: &[&str]) -> InterfaceSelection {
        let mut selection = InterfaceSelection::default();
        entries.iter().for_each(|entry| selection.add(entry).unwrap());
        selection
    }

    #[test]
    fn names_patterns_and_the_default_route_select() {
        let all = ["eth0", "eth1", "eth0.100", "eth0x100", "bond0", "br-lan"];
        for (entries, want) in [
            (&[][..], &all[..]),
            (&["eth0"], &["eth0"]),
            (&["eth0.100"], &["eth0.100"]),
            (&["eth[01]"], &["eth0", "eth1"]),
            (&["eth.*"], &["eth0", "eth1", "eth0.100", "eth0x100"]),
            (&["bond0|br-lan"], &["bond0", "br-lan"]),
            (&["th0$"], &[]),
            (&["default"], &["eth1"]),
            (&["default", "bond0"], &["eth1", "bond0"]),
            (&["wlan0"], &[]),
        ] {
            let selection = selection(entries);
            let found: Vec<&str> =
                all.into_iter().filter(|name| selection.selects(name, *name == "eth1")).collect();
            assert_eq!(found, want, "{entries:?}");
        }
    }

    #[test]
    fn what_is_no_name_and_no_pattern_is_refused() {
        let mut selection = InterfaceSelection::default();
        for (entry, want) in
            [("", "an interface has a name"), ("eth(", "\"eth(\" is neither a name nor a regular expression")]
        {
            assert_eq!(selection.add(entry), Err(want.to_owned()), "{entry:?}");
        }
    }
}
