//! The operator: MetalLB and AddressPool resources become running workloads.

pub mod admission;
pub mod attempts;
pub mod balancers;
pub mod certificate;
pub mod cluster;
pub mod drift;
pub mod gate;
pub mod health;
pub mod install;
pub mod kinds;
pub mod last_good;
pub mod metrics;
pub mod needs;
pub mod neighbours;
pub mod plan;
pub mod pool;
pub mod reconcile;
pub mod render;
pub mod rollout;
pub mod settings;
pub mod status;
pub mod tls;
pub mod webhook;
pub mod workload;
pub mod world;
