//! BGP communities and their names.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use metallb_api as api;
use thiserror::Error;

use super::by_age;
use super::problem::{Findings, Problem};

/// A BGP community.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Community {
    /// RFC 1997: the two halves of its four octets.
    Standard(u16, u16),
    /// RFC 8092: Global Administrator, and the two parts of Local Data.
    Large(u32, u32, u32),
}

/// Why a text is no community.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommunityError {
    /// It does not look like one; it may be a name.
    #[error("{0:?} is not a community: write number:number or large:number:number:number")]
    Form(String),
    /// It looks like one, with a part that cannot be.
    #[error("{text:?} is not a community: {part:?} is not a number from 0 to {max}")]
    Part {
        /// All of it.
        text: String,
        /// The part that is wrong.
        part: String,
        /// The greatest value of the part.
        max: u32,
    },
}

/// Low halves of well-known communities, whose high half is 65535, from the registry "BGP Well-known Communities".
const WELL_KNOWN: [(&str, u16); 7] = [
    ("graceful-shutdown", 0),
    ("accept-own", 1),
    ("blackhole", 666),
    ("no-export", 0xff01),
    ("no-advertise", 0xff02),
    ("no-export-subconfed", 0xff03),
    ("no-peer", 0xff04),
];

impl Community {
    /// The community of a registered name, in lower case.
    pub(super) fn well_known(name: &str) -> Option<Self> {
        let (_, low) = WELL_KNOWN.iter().find(|(known, _)| *known == name)?;
        Some(Self::Standard(u16::MAX, *low))
    }
}

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        fn number<T: FromStr + Into<u32>>(text: &str, part: &str, max: T) -> Result<T, CommunityError> {
            let error = |max| CommunityError::Part { text: text.to_owned(), part: part.to_owned(), max };
            // A sign is no digit, although the standard library reads it.
            let digits = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| digits).ok_or_else(|| error(max.into()))
        }
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [high, low] => Ok(Self::Standard(number(text, high, u16::MAX)?, number(text, low, u16::MAX)?)),
            ["large", global, first, second] => Ok(Self::Large(
                number(text, global, u32::MAX)?,
                number(text, first, u32::MAX)?,
                number(text, second, u32::MAX)?,
            )),
            _ => Err(CommunityError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(high, low) => write!(f, "{high}:{low}"),
            Self::Large(global, first, second) => write!(f, "large:{global}:{first}:{second}"),
        }
    }
}

/// Names and what they stand for, from all Communities. Of two objects that define one name, the one created first
/// counts.
pub(super) fn parse_all(
    objects: &[&api::Community],
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Community> {
    let mut aliases: BTreeMap<String, Community> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for object in by_age(objects) {
        let mut findings = Findings::of(object);
        let own = parse(object, &aliases, &mut findings);
        if findings.is_usable() {
            aliases.extend(own);
        }
        found.insert(findings.name().to_owned(), findings.into_problems());
    }
    problems.extend(found.into_values().flatten());
    aliases
}

fn parse(
    object: &api::Community,
    taken: &BTreeMap<String, Community>,
    findings: &mut Findings,
) -> BTreeMap<String, Community> {
    let mut own = BTreeMap::new();
    for (index, alias) in object.spec.communities.iter().enumerate() {
        let field = |field: &str| format!("spec.communities[{index}].{field}");
        let name = alias.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            findings.add(field("name"), "a name is needed");
        } else if taken.contains_key(name) || own.contains_key(name) {
            findings.add(field("name"), format_args!("{name:?} is defined before"));
        }
        match alias.value.as_deref().unwrap_or_default().parse() {
            Ok(community) => {
                own.insert(name.to_owned(), community);
            }
            Err(error) => findings.add(field("value"), error),
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_read_back_what_they_print() {
        for (text, community) in [
            ("0:0", Community::Standard(0, 0)),
            ("65535:65281", Community::Standard(65535, 65281)),
            ("large:4294967295:0:1", Community::Large(u32::MAX, 0, 1)),
        ] {
            assert_eq!(text.parse(), Ok(community));
            assert_eq!(community.to_string(), text);
        }
    }

    #[test]
    fn what_is_none_says_why() {
        for (text, message) in [
            ("", "\"\" is not a community: write number:number or large:number:number:number"),
            (
                "no-export",
                "\"no-export\" is not a community: write number:number or large:number:number:number",
            ),
            (
                "big:1:2:3",
                "\"big:1:2:3\" is not a community: write number:number or large:number:number:number",
            ),
            ("65536:1", "\"65536:1\" is not a community: \"65536\" is not a number from 0 to 65535"),
            ("1:+2", "\"1:+2\" is not a community: \"+2\" is not a number from 0 to 65535"),
            ("large:1:2:", "\"large:1:2:\" is not a community: \"\" is not a number from 0 to 4294967295"),
        ] {
            assert_eq!(text.parse::<Community>().unwrap_err().to_string(), message);
        }
    }
}
