//! NOTIFICATION: why a session ends, on the wire and in words.
//!
//! Encoded and decoded here: three fields, and codes that nobody has registered yet must be readable too.

use std::fmt;

/// Longest shutdown communication, in octets (RFC 9003 §2).
const TEXT_LIMIT: usize = 255;

/// A NOTIFICATION message (RFC 4271 §4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data, as the code wants it.
    pub data: Vec<u8>,
}

/// Message Header Error (RFC 4271 §6.1).
pub const HEADER: u8 = 1;
/// OPEN Message Error (RFC 4271 §6.2).
pub const OPEN: u8 = 2;
/// UPDATE Message Error (RFC 4271 §6.3).
pub const UPDATE: u8 = 3;
/// Hold Timer Expired (RFC 4271 §6.5).
pub const HOLD_TIMER: u8 = 4;
/// Finite State Machine Error (RFC 6608).
pub const FSM: u8 = 5;
/// Cease (RFC 4486).
pub const CEASE: u8 = 6;
/// ROUTE-REFRESH Message Error (RFC 7313 §5).
pub const ROUTE_REFRESH: u8 = 7;
/// Send Hold Timer Expired (RFC 9687 §3.2).
pub const SEND_HOLD_TIMER: u8 = 8;

/// Cease: Maximum Number of Prefixes Reached.
pub const MAXIMUM_PREFIXES: u8 = 1;
/// Cease: Administrative Shutdown.
pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
/// Cease: Administrative Reset.
pub const ADMINISTRATIVE_RESET: u8 = 4;
/// Cease: Other Configuration Change.
pub const CONFIGURATION_CHANGE: u8 = 6;
/// Cease: Connection Collision Resolution.
pub const COLLISION: u8 = 7;
/// Cease: Hard Reset (RFC 8538 §3).
pub const HARD_RESET: u8 = 9;
/// Cease: BFD Down (RFC 9384).
pub const BFD_DOWN: u8 = 10;

/// A code or subcode and its name.
type Named = (u8, &'static str);

/// Names of codes, and of the subcodes of each, from the registry "BGP Error (Notification) Codes".
const NAMES: &[(Named, &[Named])] = &[
    (
        (HEADER, "Message Header Error"),
        &[(1, "Connection Not Synchronized"), (2, "Bad Message Length"), (3, "Bad Message Type")],
    ),
    (
        (OPEN, "OPEN Message Error"),
        &[
            (1, "Unsupported Version Number"),
            (2, "Bad Peer AS"),
            (3, "Bad BGP Identifier"),
            (4, "Unsupported Optional Parameter"),
            (5, "Authentication Failure"),
            (6, "Unacceptable Hold Time"),
            (7, "Unsupported Capability"),
            (11, "Role Mismatch"),
        ],
    ),
    (
        (UPDATE, "UPDATE Message Error"),
        &[
            (1, "Malformed Attribute List"),
            (2, "Unrecognized Well-known Attribute"),
            (3, "Missing Well-known Attribute"),
            (4, "Attribute Flags Error"),
            (5, "Attribute Length Error"),
            (6, "Invalid ORIGIN Attribute"),
            (8, "Invalid NEXT_HOP Attribute"),
            (9, "Optional Attribute Error"),
            (10, "Invalid Network Field"),
            (11, "Malformed AS_PATH"),
        ],
    ),
    ((HOLD_TIMER, "Hold Timer Expired"), &[]),
    (
        (FSM, "Finite State Machine Error"),
        &[
            (1, "Unexpected Message in OpenSent State"),
            (2, "Unexpected Message in OpenConfirm State"),
            (3, "Unexpected Message in Established State"),
        ],
    ),
    (
        (CEASE, "Cease"),
        &[
            (MAXIMUM_PREFIXES, "Maximum Number of Prefixes Reached"),
            (ADMINISTRATIVE_SHUTDOWN, "Administrative Shutdown"),
            (3, "Peer De-configured"),
            (ADMINISTRATIVE_RESET, "Administrative Reset"),
            (5, "Connection Rejected"),
            (CONFIGURATION_CHANGE, "Other Configuration Change"),
            (COLLISION, "Connection Collision Resolution"),
            (8, "Out of Resources"),
            (HARD_RESET, "Hard Reset"),
            (BFD_DOWN, "BFD Down"),
        ],
    ),
    ((ROUTE_REFRESH, "ROUTE-REFRESH Message Error"), &[(1, "Invalid Message Length")]),
    ((SEND_HOLD_TIMER, "Send Hold Timer Expired"), &[]),
];

impl Notification {
    /// A notification with the data that its code wants.
    #[must_use]
    pub fn new(code: u8, subcode: u8, data: impl Into<Vec<u8>>) -> Self {
        Self { code, subcode, data: data.into() }
    }

    /// A Cease without data.
    #[must_use]
    pub fn cease(subcode: u8) -> Self {
        Self::new(CEASE, subcode, [])
    }

    /// Administrative Shutdown with a text for the router's administrator, cut after 255 octets (RFC 9003 §2).
    #[must_use]
    pub fn shutdown(text: &str) -> Self {
        let end = (0..=text.len().min(TEXT_LIMIT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        let text = text.get(..end).unwrap_or_default();
        let mut data = vec![u8::try_from(text.len()).unwrap_or(u8::MAX)];
        data.extend_from_slice(text.as_bytes());
        Self::new(CEASE, ADMINISTRATIVE_SHUTDOWN, data)
    }

    /// The same as a Hard Reset, after which the router keeps no routes in spite of graceful restart (RFC 8538 §3.1).
    #[must_use]
    pub fn hard(self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend(self.data);
        Self::new(CEASE, HARD_RESET, data)
    }

    /// What a Hard Reset carries.
    #[must_use]
    pub fn inner(&self) -> Option<Self> {
        match (self.code, self.subcode, self.data.as_slice()) {
            (CEASE, HARD_RESET, [code, subcode, data @ ..]) => Some(Self::new(*code, *subcode, data)),
            _ => None,
        }
    }

    /// The text of a shutdown or reset (RFC 9003); `None` when there is none, or none that is valid.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let (CEASE, ADMINISTRATIVE_SHUTDOWN | ADMINISTRATIVE_RESET) = (self.code, self.subcode) else {
            return None;
        };
        let (length, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(*length)).filter(|text| !text.is_empty())?;
        std::str::from_utf8(text).ok()
    }

    /// Body of the message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.code, self.subcode];
        body.extend_from_slice(&self.data);
        body
    }

    /// Reads the body of a message; one that is too short has code 0.
    pub(super) fn decode(body: &[u8]) -> Self {
        match body {
            [code, subcode, data @ ..] => Self::new(*code, *subcode, data),
            _ => Self::new(0, 0, []),
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, subcode, .. } = self;
        let Some(((_, name), subcodes)) = NAMES.iter().find(|((number, _), _)| number == code) else {
            return write!(f, "code {code} subcode {subcode}");
        };
        f.write_str(name)?;
        match subcodes.iter().find(|(number, _)| number == subcode) {
            Some((_, name)) => write!(f, ": {name}")?,
            None if *subcode != 0 => write!(f, ": subcode {subcode}")?,
            None => {}
        }
        if let Some(inner) = self.inner() {
            // The inner one cannot nest further: what it carries is not taken apart.
            return write!(f, ", {}", Self { data: Vec::new(), ..inner.clone() })
                .and_then(|()| quote(f, inner.text()));
        }
        quote(f, self.text())
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: Option<&str>) -> fmt::Result {
    text.map_or(Ok(()), |text| write!(f, ": {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_values_correspond() {
        for (bytes, value, words) in [
            (&[4, 0][..], Notification::new(HOLD_TIMER, 0, []), "Hold Timer Expired"),
            (&[2, 2], Notification::new(OPEN, 2, []), "OPEN Message Error: Bad Peer AS"),
            (
                &[6, 2, 3, b'b', b'y', b'e'],
                Notification::shutdown("bye"),
                "Cease: Administrative Shutdown: \"bye\"",
            ),
            (
                &[6, 9, 6, 2, 3, b'b', b'y', b'e'],
                Notification::shutdown("bye").hard(),
                "Cease: Hard Reset, Cease: Administrative Shutdown: \"bye\"",
            ),
            (
                &[6, 9, 6, 9, 6, 9],
                Notification::cease(9).hard().hard(),
                "Cease: Hard Reset, Cease: Hard Reset",
            ),
            (&[6, 77], Notification::cease(77), "Cease: subcode 77"),
            (&[99, 1, 5], Notification::new(99, 1, [5]), "code 99 subcode 1"),
        ] {
            assert_eq!(
                (value.encode(), Notification::decode(bytes), value.to_string()),
                (bytes.to_vec(), value.clone(), words.to_owned())
            );
        }
    }

    #[test]
    fn a_text_that_lies_about_its_length_or_is_no_text_is_not_shown() {
        for data in [&[][..], &[0], &[5, b'b'], &[1, 0xff]] {
            assert_eq!(Notification::new(CEASE, ADMINISTRATIVE_SHUTDOWN, data).text(), None, "{data:?}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = format!("x{}", "\u{e9}".repeat(127));
        assert_eq!(Notification::shutdown(&(text.clone() + "\u{e9}")).text(), Some(text.as_str()));
        assert_eq!(Notification::shutdown(&"\u{e9}".repeat(200)).text().map(str::len), Some(254));
    }
}
