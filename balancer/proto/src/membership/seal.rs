//! Authenticated encryption of datagrams with XChaCha20-Poly1305 (RFC 8439, extended nonce of
//! draft-irtf-cfrg-xchacha).
//!
//! A datagram is `version (1 byte) | session (16) | counter (8) | ciphertext | tag (16)`. Session and counter are the
//! nonce: the session is random for each start of a member, the counter grows with each datagram, so no nonce comes
//! twice under one key. The receiver's address is authenticated too: what was recorded on its way to one member
//! convinces no other.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const SESSION: usize = 16;
/// Bytes before the ciphertext.
const HEADER: usize = 1 + SESSION + 8;
/// Bytes that sealing adds to a message.
pub(super) const OVERHEAD: usize = HEADER + 16;

/// One start of one member, as it names itself in its datagrams.
pub(super) type SessionId = [u8; SESSION];

/// What all members of a cluster share. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes of Secret `metallb-memberlist`, key `secretkey`, whatever their length.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        let digest = Sha256::new().chain_update("metallb gossip v1").chain_update(&self.0).finalize();
        XChaCha20Poly1305::new(&chacha20poly1305::Key::from(<[u8; 32]>::from(digest)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The secret that counts, and the one that it replaces while members learn of it one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Under which members seal once they know that the receiver has it.
    pub current: Secret,
    /// Which is still accepted, and used towards members that are not known to have the current one.
    pub previous: Option<Secret>,
}

impl From<Secret> for Secrets {
    fn from(current: Secret) -> Self {
        Self { current, previous: None }
    }
}

impl Secrets {
    fn ciphers(&self) -> (XChaCha20Poly1305, Option<XChaCha20Poly1305>) {
        (self.current.cipher(), self.previous.as_ref().map(Secret::cipher))
    }
}

/// An opened datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) session: SessionId,
    pub(super) counter: u64,
    pub(super) message: Vec<u8>,
    pub(super) key: Key,
}

/// Which of the two secrets that count while one replaces the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// The one that stays.
    Current,
    /// The one that goes.
    Previous,
}

/// Seals under one session and opens those of others.
pub(super) struct Seal {
    current: XChaCha20Poly1305,
    previous: Option<XChaCha20Poly1305>,
    session: SessionId,
    counter: u64,
}

impl Seal {
    pub(super) fn new(secrets: &Secrets, session: SessionId) -> Self {
        let (current, previous) = secrets.ciphers();
        Self { current, previous, session, counter: 0 }
    }

    /// Goes on with other secrets.
    pub(super) fn replace(&mut self, secrets: &Secrets) {
        (self.current, self.previous) = secrets.ciphers();
    }

    /// Whether one secret is being replaced by another.
    pub(super) fn is_changing(&self) -> bool {
        self.previous.is_some()
    }

    /// The session under which this member seals.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Seals `message` for the member at `to`. Without a previous secret everything goes under the current one.
    pub(super) fn seal(&mut self, to: SocketAddr, message: &[u8], key: Key) -> Vec<u8> {
        let cipher = match (key, &self.previous) {
            (Key::Previous, Some(previous)) => previous,
            _ => &self.current,
        };
        let counter = self.counter;
        self.counter += 1;
        let payload = Payload { msg: message, aad: &associated(to) };
        let mut bytes = Vec::with_capacity(message.len() + OVERHEAD);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.session);
        bytes.extend_from_slice(&counter.to_be_bytes());
        // Fails for messages of more than 256 GiB only.
        if let Ok(sealed) = cipher.encrypt(&nonce(&self.session, counter), payload) {
            bytes.extend_from_slice(&sealed);
        }
        bytes
    }

    /// Opens what arrived at `local`; `None` when it was not sealed with this secret for this address.
    pub(super) fn open(&self, local: SocketAddr, datagram: &[u8]) -> Option<Opened> {
        let (header, ciphertext) = datagram.split_first_chunk::<HEADER>()?;
        let (&version, rest) = header.split_first()?;
        let (session, counter) = rest.split_first_chunk::<SESSION>()?;
        if version != VERSION {
            return None;
        }
        let counter = u64::from_be_bytes(counter.try_into().ok()?);
        let nonce = nonce(session, counter);
        let associated = associated(local);
        let open = |cipher: &XChaCha20Poly1305| {
            cipher.decrypt(&nonce, Payload { msg: ciphertext, aad: &associated }).ok()
        };
        let (key, message) = match open(&self.current) {
            Some(message) => (Key::Current, message),
            None => (Key::Previous, open(self.previous.as_ref()?)?),
        };
        Some(Opened { session: *session, counter, message, key })
    }
}

fn nonce(session: &SessionId, counter: u64) -> XNonce {
    let mut nonce = [0; 24];
    let (first, last) = nonce.split_at_mut(SESSION);
    first.copy_from_slice(session);
    last.copy_from_slice(&counter.to_be_bytes());
    XNonce::from(nonce)
}

fn associated(to: SocketAddr) -> [u8; 19] {
    let ip = match to.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [VERSION; 19];
    let (_, rest) = bytes.split_at_mut(1);
    let (address, port) = rest.split_at_mut(16);
    address.copy_from_slice(&ip.octets());
    port.copy_from_slice(&to.port().to_be_bytes());
    bytes
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
