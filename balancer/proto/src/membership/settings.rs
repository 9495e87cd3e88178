//! What a member is told at start: who it is, and how patient it shall be.

use std::net::SocketAddr;
use std::time::Duration;

use super::seal::Secrets;

/// Who this member is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the node, unique in the cluster.
    pub node: String,
    /// Where this member receives datagrams, as the others know it.
    pub address: SocketAddr,
    /// Number that grows from one start of the program to the next, such as microseconds since 1970.
    pub epoch: u64,
    /// What all members share.
    pub secrets: Secrets,
    /// Source of this member's random choices; unpredictable, and never used twice.
    pub seed: [u8; 32],
    /// How patient this member is.
    pub timing: Timing,
    /// Whether a member that lost the majority stops announcing, and others wait for that (`fencing: Strict`).
    pub fencing: bool,
}

/// How soon silence counts as death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Time between two heartbeats to each watcher.
    pub heartbeat: Duration,
    /// Silence after which a watcher begins to verify.
    pub silence: Duration,
    /// Time between two of the probes that verify.
    pub probe_gap: Duration,
    /// How long verification waits for any sign of life before it ends.
    pub verification: Duration,
    /// Silence for which a member stays in while its host answers and its speaker does not: a crash.
    pub crash_hold: Duration,
    /// The same for a member that said that it restarts.
    pub restart_hold: Duration,
    /// The same for a speaker that is silent here and answers for the addresses that it announces: MetalLB's own
    /// patience.
    pub answering_hold: Duration,
    /// Time between two attempts to reach seeds that are not members.
    pub join: Duration,
    /// Period of the SWIM protocol itself, which finds what the watchers cannot.
    pub swim_period: Duration,
    /// How long SWIM suspects a member before it declares it down.
    pub swim_suspicion: Duration,
}

impl Timing {
    /// A member that dies is out within half a second.
    pub const FAST: Self = Self {
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_millis(330),
        probe_gap: Duration::from_millis(33),
        verification: Duration::from_millis(100),
        crash_hold: Duration::from_secs(2),
        restart_hold: Duration::from_secs(5),
        answering_hold: Duration::from_secs(5),
        join: Duration::from_millis(200),
        swim_period: Duration::from_secs(1),
        swim_suspicion: Duration::from_secs(5),
    };

    /// The patience of MetalLB's memberlist, for machines that stall for seconds when they migrate.
    pub const TOLERANT: Self = Self {
        heartbeat: Duration::from_secs(1),
        silence: Duration::from_secs(4),
        probe_gap: Duration::from_millis(300),
        verification: Duration::from_secs(1),
        crash_hold: Duration::from_secs(6),
        restart_hold: Duration::from_secs(6),
        answering_hold: Duration::from_secs(10),
        // Longer than what the watchers wait for.
        swim_suspicion: Duration::from_secs(12),
        ..Self::FAST
    };

    /// The longest time from a member's death until its watchers know: the time that a new member waits for others to
    /// be heard.
    pub fn detection(&self) -> Duration {
        self.heartbeat + self.silence + self.verification
    }
}
