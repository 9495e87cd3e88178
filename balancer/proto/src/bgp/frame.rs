//! Messages within the byte stream of a connection (RFC 4271 §4.1, §6.1).

use super::notification::{HEADER, Notification, ROUTE_REFRESH};

/// Octets of the marker.
const MARKER: usize = 16;
/// Octets of the header: marker, length, type.
pub(super) const HEADER_LENGTH: usize = 19;
/// The longest message without, and the longest OPEN and KEEPALIVE with, extended messages (RFC 8654 §4).
pub(super) const MAX_LENGTH: usize = 4096;
/// The longest message with extended messages.
pub(super) const MAX_EXTENDED_LENGTH: usize = 65535;

/// Type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Open, Self::Update, Self::Notification, Self::Keepalive, Self::RouteRefresh]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    /// Whether a whole message of this type may have `length` octets.
    fn admits(self, length: usize, extended: bool) -> bool {
        let longest = if extended { MAX_EXTENDED_LENGTH } else { MAX_LENGTH };
        match self {
            Self::Open => (29..=MAX_LENGTH).contains(&length),
            Self::Update => (23..=longest).contains(&length),
            Self::Notification => (21..=longest).contains(&length),
            Self::Keepalive => length == HEADER_LENGTH,
            Self::RouteRefresh => (HEADER_LENGTH..=longest).contains(&length),
        }
    }
}

/// Puts a body behind its header. Bodies are made to fit by those who write them.
pub(super) fn encode(kind: Kind, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER_LENGTH + body.len()).unwrap_or(u16::MAX);
    let mut message = vec![0xff; MARKER];
    message.extend_from_slice(&length.to_be_bytes());
    message.push(kind.number());
    message.extend_from_slice(body);
    message
}

/// Cuts messages out of a byte stream.
#[derive(Debug, Default)]
pub(super) struct Framer {
    buffer: Vec<u8>,
    /// Octets of the buffer that were handed out.
    taken: usize,
    /// Whether messages may be longer than 4096 octets.
    pub(super) extended: bool,
}

impl Framer {
    /// Takes in what was received.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken.min(self.buffer.len()));
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Type and body of the next message; `None` until it is there in whole.
    ///
    /// # Errors
    /// The notification that ends the session when the header is wrong (RFC 4271 §6.1).
    pub(super) fn next(&mut self) -> Result<Option<(Kind, Vec<u8>)>, Notification> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, body)) = rest.split_at_checked(HEADER_LENGTH) else { return Ok(None) };
        let (marker, fields) = header.split_at_checked(MARKER).unwrap_or_default();
        let &[high, low, number] = fields else { return Ok(None) };
        if marker.iter().any(|octet| *octet != 0xff) {
            return Err(Notification::new(HEADER, 1, []));
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let bad_length = || Notification::new(HEADER, 2, [high, low]);
        if length < HEADER_LENGTH {
            return Err(bad_length());
        }
        let kind = Kind::from_number(number).ok_or_else(|| Notification::new(HEADER, 3, [number]))?;
        if !kind.admits(length, self.extended) {
            return Err(bad_length());
        }
        let Some(body) = body.get(..length - HEADER_LENGTH) else { return Ok(None) };
        if kind == Kind::RouteRefresh && body.len() != 4 {
            // The whole message is the data (RFC 7313 §5), as far as it fits.
            let mut message = [header, body].concat();
            message.truncate(MAX_LENGTH - HEADER_LENGTH - 2);
            return Err(Notification::new(ROUTE_REFRESH, 1, message));
        }
        let body = body.to_vec();
        self.taken += length;
        Ok(Some((kind, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(framer: &mut Framer) -> Result<Vec<(Kind, Vec<u8>)>, Notification> {
        std::iter::from_fn(|| framer.next().transpose()).collect()
    }

    #[test]
    fn messages_come_out_however_the_stream_is_cut() {
        let want = vec![
            (Kind::Keepalive, vec![]),
            (Kind::Update, vec![0; 4]),
            (Kind::Notification, vec![6, 2]),
            (Kind::RouteRefresh, vec![0, 1, 0, 1]),
            (Kind::Open, vec![4; 10]),
        ];
        let stream: Vec<u8> = want.iter().flat_map(|(kind, body)| encode(*kind, body)).collect();
        for size in 1..=stream.len() {
            let mut framer = Framer::default();
            let mut got = vec![];
            for chunk in stream.chunks(size) {
                framer.push(chunk);
                got.extend(all(&mut framer).unwrap());
            }
            assert_eq!(got, want, "in chunks of {size}");
        }
    }

    #[test]
    fn a_wrong_header_is_answered_with_its_code() {
        let header = |length: u16, kind: u8| {
            let mut bytes = vec![0xff; 16];
            bytes.extend(length.to_be_bytes());
            bytes.push(kind);
            bytes
        };
        let mut unsynchronised = header(19, 4);
        unsynchronised[3] = 0;
        let longest_refresh = encode(Kind::RouteRefresh, &[0; 60_000]);
        let long_refresh = encode(Kind::RouteRefresh, &[0, 1, 0, 1, 9]);
        for (bytes, extended, want) in [
            (unsynchronised, false, Notification::new(1, 1, [])),
            (header(18, 4), false, Notification::new(1, 2, [0, 18])),
            (header(20, 4), false, Notification::new(1, 2, [0, 20])),
            (header(28, 1), false, Notification::new(1, 2, [0, 28])),
            (header(22, 2), false, Notification::new(1, 2, [0, 22])),
            (header(20, 3), false, Notification::new(1, 2, [0, 20])),
            (header(4097, 2), false, Notification::new(1, 2, [0x10, 1])),
            (header(4097, 1), true, Notification::new(1, 2, [0x10, 1])),
            (header(19, 9), false, Notification::new(1, 3, [9])),
            (long_refresh.clone(), false, Notification::new(7, 1, long_refresh)),
            // A NOTIFICATION has 4096 octets at most, of which the data is all but 21.
            (longest_refresh.clone(), true, Notification::new(7, 1, &longest_refresh[..4075])),
        ] {
            let mut framer = Framer { extended, ..Framer::default() };
            framer.push(&bytes);
            assert_eq!(framer.next(), Err(want), "{bytes:?}");
        }
    }

    #[test]
    fn extended_messages_are_taken_where_agreed() {
        let body = vec![0; 60_000];
        let mut framer = Framer { extended: true, ..Framer::default() };
        framer.push(&encode(Kind::Update, &body));
        assert_eq!(framer.next(), Ok(Some((Kind::Update, body))));
    }
}
