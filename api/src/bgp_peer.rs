//! BGPPeer: a router to which addresses are announced.
//!
//! Every field of v1beta1 has the same name and form in v1beta2, so that conversion changes nothing but `apiVersion`.

/// The first version; fields that it does not have are not shown in it.
pub mod v1beta1 {
    use std::collections::BTreeMap;

    use kube::CustomResource;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use crate::conditions::ConfiguredStatus;
    use crate::optional_spec::optional_spec;

    /// The router and the session with it.
    #[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[kube(
        group = "metallb.io",
        version = "v1beta1",
        kind = "BGPPeer",
        namespaced,
        status = "ConfiguredStatus",
        shortname = "bgpp",
        deprecated = "metallb.io/v1beta1 BGPPeer is deprecated: use metallb.io/v1beta2 BGPPeer",
        derive = "PartialEq",
        derive = "Default",
        doc = "BGPPeer is a router to which the addresses of Services are announced.",
        printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.peerAddress"}"#,
        printcolumn = r#"{"name":"ASN","type":"string","jsonPath":".spec.peerASN"}"#,
        printcolumn = r#"{"name":"BFD Profile","type":"string","jsonPath":".spec.bfdProfile"}"#,
        printcolumn = r#"{"name":"Multi Hops","type":"string","jsonPath":".spec.ebgpMultiHop"}"#
    )]
    #[serde(rename_all = "camelCase", remote = "Self")]
    pub struct BGPPeerSpec {
        /// AS number of this end.
        #[serde(rename = "myASN")]
        #[schemars(schema_with = "crate::bgp_peer::asn")]
        pub my_asn: u32,
        /// AS number of the router.
        #[serde(rename = "peerASN")]
        #[schemars(schema_with = "crate::bgp_peer::asn")]
        pub peer_asn: u32,
        /// Address of the router.
        pub peer_address: String,
        /// Address from which the session is opened.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub source_address: Option<String>,
        /// TCP port of the router.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "crate::bgp_peer::port_or_zero")]
        pub peer_port: Option<u16>,
        /// Hold time to ask for (RFC 4271 §4.2), such as `90s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hold_time: Option<String>,
        /// Time between keepalives (RFC 4271 §4.4), such as `30s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub keepalive_time: Option<String>,
        /// BGP identifier of this end (RFC 4271 §4.2), in the form of an IPv4 address.
        #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
        pub router_id: Option<String>,
        /// Peers only from nodes whose labels match one of these selectors. With none, from every node.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub node_selectors: Vec<NodeSelector>,
        /// Password of the TCP MD5 signature (RFC 2385).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password: Option<String>,
        /// Name of the BFDProfile of the session's BFD; without one, no BFD is used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub bfd_profile: Option<String>,
        /// Whether the router of another AS is more than one hop away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ebgp_multi_hop: Option<bool>,
    }

    optional_spec!(BGPPeerSpec);

    /// Selects nodes by their labels.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "camelCase")]
    pub struct NodeSelector {
        /// Labels that the node must have.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        pub match_labels: BTreeMap<String, String>,
        /// Further requirements, all of which must hold.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub match_expressions: Vec<MatchExpression>,
    }

    /// One requirement on a label.
    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    pub struct MatchExpression {
        /// Key of the label.
        pub key: String,
        /// In, NotIn, Exists or DoesNotExist.
        pub operator: String,
        /// Values that the operator compares with.
        #[schemars(length(min = 1))]
        pub values: Vec<String>,
    }
}

/// The version in which peers are stored.
pub mod v1beta2 {
    use k8s_openapi::api::core::v1::SecretReference;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use kube::CustomResource;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use crate::conditions::ConfiguredStatus;
    use crate::optional_spec::optional_spec;

    /// The router and the session with it.
    #[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[kube(
        group = "metallb.io",
        version = "v1beta2",
        kind = "BGPPeer",
        namespaced,
        status = "ConfiguredStatus",
        shortname = "bgpp",
        derive = "PartialEq",
        derive = "Default",
        doc = "BGPPeer is a router to which the addresses of Services are announced.",
        printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.peerAddress"}"#,
        printcolumn = r#"{"name":"ASN","type":"string","jsonPath":".spec.peerASN"}"#,
        printcolumn = r#"{"name":"BFD Profile","type":"string","jsonPath":".spec.bfdProfile"}"#,
        printcolumn = r#"{"name":"Multi Hops","type":"string","jsonPath":".spec.ebgpMultiHop"}"#
    )]
    #[serde(rename_all = "camelCase", remote = "Self")]
    pub struct BGPPeerSpec {
        /// AS number of this end.
        #[serde(rename = "myASN")]
        #[schemars(schema_with = "crate::bgp_peer::asn")]
        pub my_asn: u32,
        /// AS number of the router. Either this or `dynamicASN` is needed.
        #[serde(default, rename = "peerASN", skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "crate::bgp_peer::asn")]
        pub peer_asn: Option<u32>,
        /// AS number to show to this router in the place of `myASN`.
        #[serde(default, rename = "localASN", skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "crate::bgp_peer::asn_above_zero")]
        pub local_asn: Option<u32>,
        /// Takes the router's AS number from its OPEN: `internal` accepts only `myASN`, `external` only another one.
        #[serde(default, rename = "dynamicASN", skip_serializing_if = "Option::is_none")]
        pub dynamic_asn: Option<DynamicAsn>,
        /// Address of the router. Either this or `interface` is needed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub peer_address: Option<String>,
        /// Interface at whose other end the router is (BGP unnumbered).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub interface: Option<String>,
        /// Address from which the session is opened.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub source_address: Option<String>,
        /// TCP port of the router.
        #[serde(default = "port")]
        #[schemars(schema_with = "crate::bgp_peer::port", extend("default" = 179))]
        pub peer_port: u16,
        /// Hold time to ask for (RFC 4271 §4.2), such as `90s`: `0s`, or at least `3s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hold_time: Option<String>,
        /// Time between keepalives (RFC 4271 §4.4), such as `30s`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub keepalive_time: Option<String>,
        /// Time between attempts to connect (RFC 4271 §10), such as `10s`: whole seconds from 1 to 65535.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("x-kubernetes-validations" = [
            {
                "rule": "duration(self).getSeconds() >= 1 && duration(self).getSeconds() <= 65535",
                "message": "connectTime must be from 1 to 65535 seconds",
            },
            {
                "rule": "duration(self).getMilliseconds() % 1000 == 0",
                "message": "connectTime must be in whole seconds",
            },
        ]))]
        pub connect_time: Option<String>,
        /// BGP identifier of this end (RFC 4271 §4.2), in the form of an IPv4 address.
        #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
        pub router_id: Option<String>,
        /// Peers only from nodes whose labels match one of these selectors. With none, from every node.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(schema_with = "crate::embedded::label_selectors")]
        pub node_selectors: Vec<LabelSelector>,
        /// Password of the TCP MD5 signature (RFC 2385).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password: Option<String>,
        /// Secret of type `kubernetes.io/basic-auth` in MetalLB's namespace; its key `password` holds the password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "crate::embedded::secret_reference")]
        pub password_secret: Option<SecretReference>,
        /// Name of the BFDProfile of the session's BFD; without one, no BFD is used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub bfd_profile: Option<String>,
        /// Whether routes survive a restart of the session (RFC 4724). Cannot be changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("x-kubernetes-validations" = [
            { "rule": "self == oldSelf", "message": "enableGracefulRestart cannot be changed" },
        ]))]
        pub enable_graceful_restart: Option<bool>,
        /// Whether the router of another AS is more than one hop away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ebgp_multi_hop: Option<bool>,
        /// VRF of the node in which the router is reached.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub vrf: Option<String>,
        /// Has no effect; accepted so that old resources stay valid.
        #[serde(default, rename = "disableMP")]
        pub disable_mp: bool,
        /// Whether both families are exchanged over the one session.
        #[serde(default)]
        pub dual_stack_address_family: bool,
        /// Accepts the router's packets only when they took at most so many hops, and sends with TTL 255 (GTSM,
        /// RFC 5082): 1 for a router on the same link. The router must send with TTL 255 too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 254))]
        pub ttl_security_hops: Option<i32>,
        /// Waits for the router to connect instead of connecting to it. Needs `speakerConfig.bgpListen` of the MetalLB
        /// resource.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub passive: Option<bool>,
        /// Ends the session when the router announces more prefixes. None of them is installed either way.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(schema_with = "crate::embedded::unsigned")]
        pub max_prefixes: Option<u32>,
    }

    optional_spec!(BGPPeerSpec);

    impl Default for BGPPeerSpec {
        fn default() -> Self {
            Self {
                my_asn: 0,
                peer_asn: None,
                local_asn: None,
                dynamic_asn: None,
                peer_address: None,
                interface: None,
                source_address: None,
                peer_port: port(),
                hold_time: None,
                keepalive_time: None,
                connect_time: None,
                router_id: None,
                node_selectors: Vec::new(),
                password: None,
                password_secret: None,
                bfd_profile: None,
                enable_graceful_restart: None,
                ebgp_multi_hop: None,
                vrf: None,
                disable_mp: false,
                dual_stack_address_family: false,
                ttl_security_hops: None,
                passive: None,
                max_prefixes: None,
            }
        }
    }

    /// Which AS numbers of the router are accepted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "lowercase")]
    pub enum DynamicAsn {
        /// That of this end.
        Internal,
        /// Any but that of this end.
        External,
    }

    fn port() -> u16 {
        179
    }
}

use schemars::{Schema, SchemaGenerator, json_schema};

fn asn(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 0, "maximum": u32::MAX })
}

fn asn_above_zero(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": u32::MAX })
}

// The upper limit is upstream's, and stays so that both accept the same objects.
fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 1, "maximum": 16384 })
}

fn port_or_zero(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 0, "maximum": 16384 })
}
