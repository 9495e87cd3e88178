//! BFD control packets (RFC 5880 §4.1), without authentication.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Octets of a packet without authentication.
pub(super) const LENGTH: usize = 24;
/// The version of the protocol.
const VERSION: u8 = 1;
/// Bits of the second octet, below the state.
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const INDEPENDENT: u8 = 0x08;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Held down by an administrator; says nothing about the path.
    AdminDown,
    /// No packets from the other end, or none that show that it hears us.
    Down,
    /// Hears the other end, which does not hear us yet.
    Init,
    /// Both hear each other.
    Up,
}

impl State {
    fn number(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    /// The state of the upper two bits of an octet.
    fn from_upper_bits(octet: u8) -> Self {
        match octet >> 6 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Why a session last left Up (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No Diagnostic.
    pub const NONE: Self = Self(0);
    /// Control Detection Time Expired.
    pub const TIME_EXPIRED: Self = Self(1);
    /// Echo Function Failed.
    pub const ECHO_FAILED: Self = Self(2);
    /// Neighbor Signaled Session Down.
    pub const NEIGHBOR_DOWN: Self = Self(3);
    /// Administratively Down.
    pub const ADMIN_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            number => return write!(f, "diagnostic {number}"),
        })
    }
}

/// A control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last left Up.
    pub diagnostic: Diagnostic,
    /// State of the sender's session.
    pub state: State,
    /// The sender wants changed timers confirmed.
    pub poll: bool,
    /// This confirms changed timers.
    pub is_final: bool,
    /// The sender's BFD goes on when its control plane stops.
    pub control_plane_independent: bool,
    /// The sender asks for silence while the session is up.
    pub demand: bool,
    /// How many packets may be lost.
    pub detect_multiplier: u8,
    /// The sender's number for the session; never 0.
    pub my_discriminator: u32,
    /// The receiver's number for it; 0 when the sender does not know it.
    pub your_discriminator: u32,
    /// The sender does not want to send faster; whole microseconds.
    pub desired_min_tx: Duration,
    /// The sender cannot receive faster; whole microseconds, and zero for not at all.
    pub required_min_rx: Duration,
    /// The sender cannot loop back echo packets faster; whole microseconds, and zero for not at all.
    pub required_min_echo_rx: Duration,
}

/// Why a received packet is dropped (RFC 5880 §6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Discarded {
    /// Shorter than a packet can be, or than it says.
    #[error("the packet is cut short")]
    Short,
    /// Of another version.
    #[error("version {0} is not spoken here")]
    Version(u8),
    /// Authentication is not in use.
    #[error("the packet is authenticated, and no authentication is in use")]
    Authenticated,
    /// A multiplier of zero.
    #[error("the detect multiplier is 0")]
    DetectMultiplier,
    /// The multipoint bit, which is reserved.
    #[error("the multipoint bit is set")]
    Multipoint,
    /// No discriminator of the sender.
    #[error("my discriminator is 0")]
    MyDiscriminator,
    /// No or another discriminator of the receiver.
    #[error("your discriminator is {0}")]
    YourDiscriminator(u32),
    /// It took more hops than the session allows.
    #[error("TTL {0} is below the least that is accepted")]
    Ttl(u8),
}

impl Packet {
    /// Bytes of the packet.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let flags = flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, INDEPENDENT)
            | flag(self.demand, DEMAND);
        let head = [
            VERSION << 5 | self.diagnostic.0 & 0x1f,
            self.state.number() << 6 | flags,
            self.detect_multiplier,
            24,
        ];
        let words = [
            u32::from_be_bytes(head),
            self.my_discriminator,
            self.your_discriminator,
            microseconds(self.desired_min_tx),
            microseconds(self.required_min_rx),
            microseconds(self.required_min_echo_rx),
        ];
        let mut bytes = [0; LENGTH];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// Why it is to be dropped, as far as that can be told without knowing the session.
    pub fn decode(bytes: &[u8]) -> Result<Self, Discarded> {
        let (packet, _) = bytes.split_first_chunk::<LENGTH>().ok_or(Discarded::Short)?;
        let &[first, second, detect_multiplier, length, ..] = packet;
        if first >> 5 != VERSION {
            return Err(Discarded::Version(first >> 5));
        }
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(Discarded::Short);
        }
        if second & AUTHENTICATED != 0 {
            return Err(Discarded::Authenticated);
        }
        if detect_multiplier == 0 {
            return Err(Discarded::DetectMultiplier);
        }
        if second & MULTIPOINT != 0 {
            return Err(Discarded::Multipoint);
        }
        let mut words =
            packet.chunks_exact(4).skip(1).map(|word| word.try_into().map_or(0, u32::from_be_bytes));
        let mut word = || words.next().unwrap_or(0);
        let (my_discriminator, your_discriminator) = (word(), word());
        let mut interval = || Duration::from_micros(word().into());
        let packet = Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: State::from_upper_bits(second),
            poll: second & POLL != 0,
            is_final: second & FINAL != 0,
            control_plane_independent: second & INDEPENDENT != 0,
            demand: second & DEMAND != 0,
            detect_multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: interval(),
            required_min_rx: interval(),
            required_min_echo_rx: interval(),
        };
        if my_discriminator == 0 {
            return Err(Discarded::MyDiscriminator);
        }
        if your_discriminator == 0 && matches!(packet.state, State::Init | State::Up) {
            return Err(Discarded::YourDiscriminator(0));
        }
        Ok(packet)
    }
}

fn microseconds(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> (Packet, [u8; LENGTH]) {
        let packet = Packet {
            diagnostic: Diagnostic::NEIGHBOR_DOWN,
            state: State::Up,
            poll: true,
            is_final: false,
            control_plane_independent: true,
            demand: false,
            detect_multiplier: 3,
            my_discriminator: 0x0102_0304,
            your_discriminator: 0xaabb_ccdd,
            desired_min_tx: Duration::from_millis(300),
            required_min_rx: Duration::from_millis(10),
            required_min_echo_rx: Duration::ZERO,
        };
        #[rustfmt::skip]
        let bytes = [
            0x23, 0xe8, 3, 24, 1, 2, 3, 4, 0xaa, 0xbb, 0xcc, 0xdd,
            0, 4, 0x93, 0xe0, 0, 0, 0x27, 0x10, 0, 0, 0, 0,
        ];
        (packet, bytes)
    }

    #[test]
    fn bytes_and_values_correspond() {
        let (packet, bytes) = up();
        let final_down = Packet {
            diagnostic: Diagnostic::ADMIN_DOWN,
            state: State::AdminDown,
            poll: false,
            is_final: true,
            control_plane_independent: false,
            demand: true,
            your_discriminator: 0,
            ..packet
        };
        let mut final_bytes = bytes;
        final_bytes[..2].copy_from_slice(&[0x27, 0x12]);
        final_bytes[8..12].fill(0);
        for (packet, bytes) in [(packet, bytes), (final_down, final_bytes)] {
            assert_eq!((packet.encode(), Packet::decode(&bytes)), (bytes, Ok(packet)));
        }
    }

    #[test]
    fn what_the_rfc_drops_is_dropped() {
        let (_, bytes) = up();
        let changed = |at: usize, octets: &[u8]| {
            let mut bytes = bytes;
            bytes[at..at + octets.len()].copy_from_slice(octets);
            bytes
        };
        for (bytes, why) in [
            (changed(0, &[0x43]), Discarded::Version(2)),
            (changed(3, &[23]), Discarded::Short),
            (changed(3, &[25]), Discarded::Short),
            (changed(1, &[0xc4]), Discarded::Authenticated),
            (changed(2, &[0]), Discarded::DetectMultiplier),
            (changed(1, &[0xc1]), Discarded::Multipoint),
            (changed(4, &[0; 4]), Discarded::MyDiscriminator),
            (changed(8, &[0; 4]), Discarded::YourDiscriminator(0)),
        ] {
            assert_eq!(Packet::decode(&bytes), Err(why));
        }
    }

    #[test]
    fn damage_anywhere_returns_and_what_is_read_is_written_alike() {
        let (_, bytes) = up();
        for end in 0..LENGTH {
            assert_eq!(Packet::decode(&bytes[..end]), Err(Discarded::Short));
        }
        for at in 0..LENGTH {
            for octet in 0..=255 {
                let mut bytes = bytes;
                bytes[at] = octet;
                if let Ok(packet) = Packet::decode(&bytes) {
                    assert_eq!(packet.encode(), bytes);
                }
            }
        }
    }

    #[test]
    fn what_follows_a_packet_is_ignored() {
        let (packet, bytes) = up();
        assert_eq!(Packet::decode(&[&bytes[..], &[1, 2, 3]].concat()), Ok(packet));
    }
}
