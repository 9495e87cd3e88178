//! The custom resources of the group `metallb.io`, as MetalLB and its operator define them.
//!
//! One kind a file. The binary `crdgen` prints their CustomResourceDefinitions; [`crd::all`] makes them.

pub mod address_pool;
pub mod conditions;
pub mod crd;
pub mod names;

mod bgp_advertisement;
mod ip_address_pool;
mod l2_advertisement;
mod metallb;

pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec};
pub use ip_address_pool::{IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, ServiceAllocation};
pub use l2_advertisement::{L2Advertisement, L2AdvertisementSpec, PreferredNodeSelector};
pub use metallb::{FrrK8sConfig, LogLevel, MetalLB, MetalLBSpec, MetalLBStatus, WorkloadConfig};

fn yes() -> bool {
    true
}
