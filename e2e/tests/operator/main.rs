//! The operator beside pools, the configuration of an older MetalLB and IP failover, and what it may do
//! (`make e2e-operator`). They run one after another on the cluster that is up, with the operator deployed.

mod definitions;
#[path = "../cluster/fixture.rs"]
mod fixture;
mod gate;
#[path = "../cluster/ipfailover.rs"]
mod ipfailover;
mod kinds;
mod olm;
mod pools;
mod prune;
mod refused;
mod rights;
