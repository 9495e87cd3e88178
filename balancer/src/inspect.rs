//! Questions about a cluster, or about files: answered for people by the very decisions that the programs take.
//!
//! [`cluster`] reads; what is made of it is pure. Nothing is ever written to the cluster.

mod allocation;
mod announcing;
mod changes;
mod cluster;
mod configuration;
mod explain;
mod manifests;
mod router_config;

pub(crate) use allocation::Allocation;
pub(crate) use announcing::Announcing;
pub(crate) use changes::{check, diff};
pub(crate) use cluster::{Cluster, Terms};
pub(crate) use configuration::Configuration;
pub(crate) use explain::{bgp_plans, explain, refusal, should};
pub(crate) use router_config::router_config;
