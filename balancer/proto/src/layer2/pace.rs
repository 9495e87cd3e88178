//! The times of probes.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// Times of the probes for one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Number of probes.
    pub probes: u32,
    /// Longest random wait before the first.
    pub wait: Duration,
    /// Least time between two.
    pub gap: Duration,
    /// Longest random addition to that.
    pub jitter: Duration,
    /// How long answers are waited for after the last.
    pub listen: Duration,
}

impl Pace {
    /// A tenth of a second in all.
    pub const FAST: Self = Self {
        probes: 3,
        wait: Duration::ZERO,
        gap: Duration::from_millis(20),
        jitter: Duration::ZERO,
        listen: Duration::from_millis(60),
    };

    /// `PROBE_NUM`, `PROBE_WAIT`, `PROBE_MIN`, `PROBE_MAX` and `ANNOUNCE_WAIT` of RFC 5227 §1.1.
    pub const RFC5227: Self = Self {
        probes: 3,
        wait: Duration::from_secs(1),
        gap: Duration::from_secs(1),
        jitter: Duration::from_secs(1),
        listen: Duration::from_secs(2),
    };

    /// The time from probe number `sent` to the next step.
    pub(super) fn pause(&self, sent: u32, rng: &mut StdRng) -> Duration {
        if sent == self.probes { self.listen } else { self.gap + random(rng, self.jitter) }
    }
}

/// A random time of at most `most`.
pub(super) fn random(rng: &mut StdRng, most: Duration) -> Duration {
    if most.is_zero() { most } else { most.mul_f64(rng.random()) }
}
