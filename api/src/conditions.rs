//! Conditions as Kubernetes means them: the time moves only when the status changes, and each says which
//! generation it speaks of.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition types of a MetalLB resource, in the order in which they are written.
pub const METALLB: [&str; 4] = [AVAILABLE, UPGRADEABLE, PROGRESSING, DEGRADED];
/// The load balancer works.
pub const AVAILABLE: &str = "Available";
/// The operator may be upgraded now.
pub const UPGRADEABLE: &str = "Upgradeable";
/// A change is being carried out.
pub const PROGRESSING: &str = "Progressing";
/// Something needs an administrator.
pub const DEGRADED: &str = "Degraded";
/// No IP failover (keepalived) was found in the cluster.
pub const IP_FAILOVER_ABSENT: &str = "IPFailoverAbsent";
/// Nothing was found in the cluster that stands in the way of the load balancer.
pub const COMPATIBLE: &str = "Compatible";
/// What the ConfigMap `config` of an older MetalLB says has become objects.
pub const LEGACY_CONFIG_IMPORTED: &str = "LegacyConfigImported";
/// The operator repairs and upgrades the load balancer.
pub const MANAGED: &str = "Managed";
/// Condition type of an AddressPool: it was accepted and is served.
pub const READY: &str = "Ready";
/// Condition type of an AddressPool: objects of its name exist that belong to somebody else. Of a BGPPeer: another BGP
/// speaker of a node has a session with its router.
pub const CONFLICT: &str = "Conflict";
/// Condition type of an AddressPool with protocol layer2: its blocks lie in subnets of the nodes, as far as these are
/// known.
pub const IN_NODE_SUBNET: &str = "InNodeSubnet";

/// Condition type of an object of the configuration other than a pool: all that it says is used.
pub const VALID: &str = "Valid";

/// Condition type of a BGPPeer that is passive: routers cannot connect to a node.
pub const NOT_LISTENING: &str = "NotListening";
/// Condition type of a BGPPeer: there are routes that its router cannot be told.
pub const ROUTES_NOT_SENT: &str = "RoutesNotSent";
/// Condition type of a BGPAdvertisement: its routes lead here for addresses that no Service has, too.
pub const UNUSED_ADDRESSES_LOOP: &str = "UnusedAddressesLoop";

/// Whether an object of the configuration is used. Written by the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfiguredStatus {
    /// Condition `Valid`: whether all that the object says is used, and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::embedded::conditions_by_type")]
    pub conditions: Vec<Condition>,
}

/// What a condition says; its time is kept by [`set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Type of the condition.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// Identifier of the reason, CamelCase.
    pub reason: &'static str,
    /// For a person; empty when there is nothing to say.
    pub message: String,
}

/// Writes `reports` into `conditions`: what is there under the same type is replaced, and its transition time
/// kept when its status is the same. Conditions of other types stay.
pub fn set(conditions: &mut Vec<Condition>, reports: &[Report], generation: Option<i64>, now: &Time) {
    for report in reports {
        let status = if report.status { "True" } else { "False" };
        let before = conditions.iter_mut().find(|condition| condition.type_ == report.kind);
        let last_transition_time = match &before {
            Some(before) if before.status == status => before.last_transition_time.clone(),
            _ => now.clone(),
        };
        let condition = Condition {
            type_: report.kind.to_owned(),
            status: status.to_owned(),
            reason: report.reason.to_owned(),
            message: report.message.clone(),
            observed_generation: generation,
            last_transition_time,
        };
        match before {
            Some(before) => *before = condition,
            None => conditions.push(condition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn the_time_moves_only_with_the_status() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let report = |status, message: &str| Report {
            kind: AVAILABLE,
            status,
            reason: "Tested",
            message: message.to_owned(),
        };
        let want = |status: &str, message: &str, second, generation| Condition {
            type_: "Available".to_owned(),
            status: status.to_owned(),
            reason: "Tested".to_owned(),
            message: message.to_owned(),
            observed_generation: Some(generation),
            last_transition_time: at(second),
        };
        let mut conditions = Vec::new();
        set(&mut conditions, &[report(false, "a")], Some(1), &at(1));
        assert_eq!(conditions, [want("False", "a", 1, 1)]);
        set(&mut conditions, &[report(false, "b")], Some(2), &at(2));
        assert_eq!(conditions, [want("False", "b", 1, 2)]);
        set(&mut conditions, &[report(true, "b")], Some(2), &at(3));
        assert_eq!(conditions, [want("True", "b", 3, 2)]);
    }
}
