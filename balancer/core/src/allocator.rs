//! The allocator: what is free, who holds what, and which address a Service gets.

mod ledger;
mod slots;

pub use ledger::{Conflict, Counters, Holding, Ledger, PoolSpec};
pub use slots::PerFamily;
