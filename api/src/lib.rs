//! CRD types of metallb.io, and one of frrk8s.metallb.io, and the generator of config/crd.
//!
//! One kind a file. Field names, types, defaults and printer columns are those of upstream MetalLB and of its operator,
//! so that their YAML applies unchanged; docs/compatibility.md lists what is added. The types accept whatever the
//! schemas accept: what a value means, and whether it makes sense, is for the readers to judge, so that one bad object
//! never makes a list unreadable. The binary `crdgen` writes the CustomResourceDefinitions that [`crd::all`] makes, and
//! `bundlegen` the OLM bundle and catalog that [`bundle::files`] makes, `chartgen` what [`chart::files`] makes.

pub mod address_pool;
pub mod bgp_peer;
pub mod bundle;
pub mod chart;
pub mod conditions;
pub mod crd;
pub mod names;
pub mod reference;
pub mod release;

mod bfd_profile;
mod bgp_advertisement;
mod bgp_session_state;
mod community;
mod configuration_state;
mod embedded;
mod ip_address_pool;
mod l2_advertisement;
mod metallb;
mod optional_spec;
mod service_bgp_status;
mod service_l2_status;

pub use bfd_profile::{BFDProfile, BFDProfileSpec};
pub use bgp_advertisement::{BGPAdvertisement, BGPAdvertisementSpec};
pub use bgp_peer::v1beta2::{BGPPeer, BGPPeerSpec, DynamicAsn};
pub use bgp_session_state::{BGPSessionState, BGPSessionStateSpec, BGPSessionStateStatus};
pub use community::{Community, CommunityAlias, CommunitySpec};
pub use configuration_state::{
    ConfigurationResult, ConfigurationState, ConfigurationStateSpec, ConfigurationStateStatus,
};
pub use service_bgp_status::{ServiceBGPStatus, ServiceBGPStatusSpec, ServiceBGPStatusStatus};
pub use service_l2_status::{InterfaceInfo, ServiceL2Status, ServiceL2StatusSpec, ServiceL2StatusStatus};

/// The trait by which code that is generic over kinds knows their names and metadata.
pub use kube::Resource;

pub use ip_address_pool::{
    IPAddressPool, IPAddressPoolSpec, IPAddressPoolStatus, PoolCapacity, RestingAddress, ServiceAllocation,
};
pub use l2_advertisement::{ElectionPolicy, L2Advertisement, L2AdvertisementSpec, PreferredNodeSelector};
pub use metallb::{
    Approval, Component, ConflictPolicy, ConflictProbe, ControllerConfig, Detection, DrainPolicy, Failback,
    Fencing, FrrK8sConfig, Gratuitous, IpFailoverPolicy, Layer2, LogLevel, ManagementState, MetalLB,
    MetalLBSpec, MetalLBStatus, Monitoring, Monitors, NetworkPolicies, OnFailure, PoolEditPolicy,
    SpeakerConfig, UpgradePolicy, WireCheck, WorkloadConfig,
};

/// Default of `autoAssign`.
fn yes() -> bool {
    true
}

/// Default of `aggregationLength`: each IPv4 address is a route of its own.
fn host_v4() -> i32 {
    32
}

/// Default of `aggregationLengthV6`: each IPv6 address is a route of its own.
fn host_v6() -> i32 {
    128
}
