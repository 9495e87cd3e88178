//! The operator: MetalLB and AddressPool resources become running workloads.

pub mod drift;
pub mod install;
pub mod render;
pub mod settings;
