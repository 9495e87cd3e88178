//! The fields that users of MetalLB and its operator know.

use std::collections::{BTreeMap, BTreeSet};

/// The fields of the definitions of MetalLB 0.16, of its operator, of frr-k8s (BGPSessionState) and, of AddressPool, of
/// MetalLB 0.13. Those of `spec` stand without it.
pub(crate) fn known() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let kinds = [
        ("AddressPool", "protocol addresses autoAssign name bgpAdvertisements"),
        (
            "BFDProfile",
            "receiveInterval transmitInterval detectMultiplier echoInterval echoMode passiveMode minimumTtl",
        ),
        (
            "BGPAdvertisement",
            "aggregationLength aggregationLengthV6 localPref communities ipAddressPools ipAddressPoolSelectors \
             nodeSelectors peers serviceSelectors",
        ),
        (
            "BGPPeer",
            "myASN peerASN localASN dynamicASN peerAddress interface sourceAddress peerPort holdTime keepaliveTime \
             connectTime routerID nodeSelectors password passwordSecret bfdProfile enableGracefulRestart ebgpMultiHop \
             vrf disableMP dualStackAddressFamily",
        ),
        ("BGPSessionState", "status.bgpStatus status.bfdStatus status.node status.peer status.vrf"),
        ("Community", "communities"),
        ("ConfigurationState", "status.result status.errorSummary status.conditions"),
        (
            "IPAddressPool",
            "addresses autoAssign avoidBuggyIPs serviceAllocation status.assignedIPv4 status.assignedIPv6 \
             status.availableIPv4 status.availableIPv6",
        ),
        (
            "L2Advertisement",
            "ipAddressPools ipAddressPoolSelectors nodeSelectors interfaces serviceSelectors preferredNodeSelectors",
        ),
        (
            "MetalLB",
            "image nodeSelector speakerTolerations controllerNodeSelector controllerTolerations logLevel \
             loadBalancerClass controllerConfig controllerConfig.priorityClassName controllerConfig.runtimeClassName \
             controllerConfig.annotations controllerConfig.affinity controllerConfig.resources speakerConfig \
             speakerConfig.priorityClassName speakerConfig.runtimeClassName speakerConfig.annotations \
             speakerConfig.affinity speakerConfig.resources bgpBackend frrk8sConfig \
             speakerGratuitousARPInterval status.conditions",
        ),
        ("ServiceBGPStatus", "status.node status.serviceName status.serviceNamespace status.peers"),
        ("ServiceL2Status", "status.node status.serviceName status.serviceNamespace status.interfaces"),
    ];
    kinds.into_iter().map(|(kind, fields)| (kind, fields.split_whitespace().collect())).collect()
}
