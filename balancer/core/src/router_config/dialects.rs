//! The routers whose language is known.

use std::fmt;
use std::str::FromStr;

/// The language of a router's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// FRRouting: vtysh or frr.conf.
    Frr,
    /// BIRD 2.
    Bird,
    /// Juniper Junos: `set` commands.
    Junos,
    /// Arista EOS.
    Eos,
    /// MikroTik RouterOS 7.
    RouterOs,
}

impl Dialect {
    const ALL: [(&str, Self); 5] = [
        ("frr", Self::Frr),
        ("bird", Self::Bird),
        ("junos", Self::Junos),
        ("eos", Self::Eos),
        ("routeros", Self::RouterOs),
    ];
}

/// A router whose language is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDialect(String);

impl fmt::Display for UnknownDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Dialect::ALL.map(|(name, _)| name).join(", ");
        write!(f, "{:?} is none of {known}", self.0)
    }
}

impl std::error::Error for UnknownDialect {}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, dialect)| dialect).ok_or_else(|| UnknownDialect(text.to_owned()))
    }
}
