//! What every program of this project needs to run in a pod: logs, signals, probes, metrics, a Lease.
//!
//! Has no domain knowledge: nothing here knows what a pool, a Service address or a speaker is.

pub mod lease;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod owner;
pub mod page;
pub mod placement;
pub mod probes;
pub mod shutdown;
