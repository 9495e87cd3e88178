//! Names that users, scripts and the programs rely on: annotations, labels, object names and ports.

/// Group of all custom resources.
pub const GROUP: &str = "metallb.io";

/// The one MetalLB resource that is acted on.
pub const METALLB_NAME: &str = "metallb";
/// Deployment that gives Services their addresses.
pub const CONTROLLER: &str = "controller";
/// DaemonSet that announces them.
pub const SPEAKER: &str = "speaker";
/// Label `app` of every operand.
pub const APP: &str = "metallb";

/// Prefix of the annotations that users write today.
pub const ANNOTATION_PREFIX: &str = "metallb.io/";
/// Prefix that is still read for the first three annotations below; the current one wins when both are present.
pub const OLD_ANNOTATION_PREFIX: &str = "metallb.universe.tf/";
/// Pool to draw from.
pub const ANNOTATION_ADDRESS_POOL: &str = "metallb.io/address-pool";
/// One or two addresses, separated by a comma, of different families.
pub const ANNOTATION_LOADBALANCER_IPS: &str = "metallb.io/loadBalancerIPs";
/// Sharing key: Services with the same key may hold the same address.
pub const ANNOTATION_ALLOW_SHARED_IP: &str = "metallb.io/allow-shared-ip";
/// Written by the controller: the pool that the addresses came from.
pub const ANNOTATION_ALLOCATED_FROM_POOL: &str = "metallb.io/ip-allocated-from-pool";

/// On a MetalLB resource, `"true"`: objects are made of the ConfigMap [`LEGACY_CONFIG`].
pub const ANNOTATION_IMPORT: &str = "metallb.io/import";
/// On the ConfigMap [`LEGACY_CONFIG`], once that is done: what became of it, for people.
pub const ANNOTATION_IMPORTED: &str = "metallb.io/imported";
/// ConfigMap, and its key, with the configuration of MetalLB before it had custom resources.
pub const LEGACY_CONFIG: &str = "config";
/// On an AddressPool, `"true"`: what it became is handed to the user, and the AddressPool has no effect any more.
pub const ANNOTATION_CONVERT: &str = "metallb.io/convert";

/// Written by the speaker that announces a Service on layer 2: its node, and after it the interfaces, separated by
/// commas.
pub const ANNOTATION_ANNOUNCED_FROM: &str = "metallb.io/announced-from";

/// Label of a Lease that says which node has each address of an L2Advertisement with `electionPolicy: Even`.
pub const LABEL_L2_OWNERS: &str = "metallb.io/l2-owners";
/// Annotation of such a Lease: `ADDRESS=NODE/EPOCH`, separated by blanks.
pub const ANNOTATION_L2_OWNERS: &str = "metallb.io/l2-owners";
/// Prefix of its name, before that of the L2Advertisement.
pub const L2_OWNERS_PREFIX: &str = "l2-owners-";

/// Label of a ServiceL2Status or ServiceBGPStatus: the node that it speaks of.
pub const LABEL_STATUS_NODE: &str = "metallb.io/node";
/// Label of a ServiceL2Status or ServiceBGPStatus: the name of its Service.
pub const LABEL_STATUS_SERVICE_NAME: &str = "metallb.io/service-name";
/// Label of a ServiceL2Status or ServiceBGPStatus: the namespace of its Service.
pub const LABEL_STATUS_SERVICE_NAMESPACE: &str = "metallb.io/service-namespace";
/// Label of a BGPSessionState: the node that it speaks of.
pub const LABEL_SESSION_NODE: &str = "frrk8s.metallb.io/node";
/// Label of a BGPSessionState: address of the router with `-` for each colon, or the interface that it is behind.
pub const LABEL_SESSION_PEER: &str = "frrk8s.metallb.io/peer";
/// Label of a BGPSessionState: the VRF, or empty.
pub const LABEL_SESSION_VRF: &str = "frrk8s.metallb.io/vrf";
/// `metadata.generateName` of ServiceL2Status objects.
pub const L2_STATUS_GENERATE_NAME: &str = "l2-";
/// `metadata.generateName` of ServiceBGPStatus objects.
pub const BGP_STATUS_GENERATE_NAME: &str = "bgp-";
/// Label of a ConfigurationState: [`CONTROLLER`] or [`SPEAKER`].
pub const LABEL_COMPONENT_TYPE: &str = "metallb.io/component-type";
/// Label of a speaker's ConfigurationState: its node.
pub const LABEL_NODE_NAME: &str = "metallb.io/node-name";

/// Label of a node that takes no load-balancer traffic, whatever its value.
pub const EXCLUDE_LB_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Secret with the key that authenticates the speakers' gossip.
pub const MEMBERLIST_SECRET: &str = "metallb-memberlist";
/// Key within [`MEMBERLIST_SECRET`].
pub const MEMBERLIST_SECRET_KEY: &str = "secretkey";
/// Key within [`MEMBERLIST_SECRET`] that was used before the one in [`MEMBERLIST_SECRET_KEY`], and is still accepted.
pub const MEMBERLIST_SECRET_PREVIOUS_KEY: &str = "secretkey-previous";
/// ConfigMap with the interfaces that never announce.
pub const EXCLUDE_L2_CONFIG: &str = "metallb-excludel2";
/// Key within [`EXCLUDE_L2_CONFIG`].
pub const EXCLUDE_L2_CONFIG_KEY: &str = "excludel2.yaml";

/// UDP port of the speakers' gossip.
pub const MEMBERLIST_PORT: u16 = 7946;
/// HTTPS port of the metrics.
pub const METRICS_PORT: u16 = 9120;
/// HTTP port of the probes.
pub const PROBES_PORT: u16 = 17472;
