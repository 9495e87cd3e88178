//! The ConfigMap by which MetalLB was configured before it had custom resources, read into these.
//!
//! Pure. Its text is what MetalLB 0.12 and older took (<https://metallb.io/release-notes/#version-0-13-2> ended it).
//! Keys that are not known are problems, as they were there: nothing is made of half a configuration.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use metallb_api::{
    BFDProfile, BFDProfileSpec, BGPAdvertisement, BGPAdvertisementSpec, BGPPeer, BGPPeerSpec, Community,
    CommunityAlias, CommunitySpec, IPAddressPool, IPAddressPoolSpec, L2Advertisement, L2AdvertisementSpec,
    address_pool::{LegacyBgpAdvertisement, Protocol},
};
use serde::Deserialize;

use crate::config::Objects;

/// What the ConfigMap says, as objects that have names and specs and nothing else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Legacy {
    /// One for each pool.
    pub pools: Vec<IPAddressPool>,
    /// One for each pool with protocol layer2, of its name.
    pub l2_advertisements: Vec<L2Advertisement>,
    /// Those of each pool with protocol bgp: NAME, NAME-2 and so on.
    pub bgp_advertisements: Vec<BGPAdvertisement>,
    /// One for each peer.
    pub peers: Vec<BGPPeer>,
    /// One for each profile.
    pub bfd_profiles: Vec<BFDProfile>,
    /// All names of communities, where there are some.
    pub communities: Option<Community>,
}

impl Legacy {
    /// The objects, to be parsed.
    #[must_use]
    pub fn objects(&self) -> Objects<'_> {
        Objects {
            pools: self.pools.iter().collect(),
            l2_advertisements: self.l2_advertisements.iter().collect(),
            bgp_advertisements: self.bgp_advertisements.iter().collect(),
            bgp_peers: self.peers.iter().collect(),
            bfd_profiles: self.bfd_profiles.iter().collect(),
            communities: self.communities.iter().collect(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    peers: Vec<Peer>,
    address_pools: Vec<Pool>,
    bgp_communities: BTreeMap<String, String>,
    bfd_profiles: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Pool {
    name: String,
    protocol: Protocol,
    addresses: Vec<String>,
    #[serde(default)]
    avoid_buggy_ips: bool,
    auto_assign: Option<bool>,
    #[serde(default)]
    bgp_advertisements: Vec<Advertisement>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Advertisement {
    aggregation_length: Option<i32>,
    aggregation_length_v6: Option<i32>,
    localpref: Option<i32>,
    #[serde(default)]
    communities: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Peer {
    my_asn: u32,
    peer_asn: u32,
    peer_address: String,
    source_address: Option<String>,
    peer_port: Option<u16>,
    hold_time: Option<String>,
    keepalive_time: Option<String>,
    router_id: Option<String>,
    #[serde(default)]
    node_selectors: Vec<NodeSelector>,
    password: Option<String>,
    bfd_profile: Option<String>,
    ebgp_multihop: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NodeSelector {
    match_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Profile {
    name: String,
    receive_interval: Option<i32>,
    transmit_interval: Option<i32>,
    detect_multiplier: Option<i32>,
    echo_interval: Option<i32>,
    echo_mode: Option<bool>,
    passive_mode: Option<bool>,
    minimum_ttl: Option<i32>,
}

/// Reads the text of the ConfigMap.
///
/// # Errors
/// What is wrong with the text, with its place in it.
pub fn parse(text: &str) -> Result<Legacy, String> {
    let file: Option<File> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let File { peers, address_pools, bgp_communities, bfd_profiles } = file.unwrap_or_default();
    let mut legacy = Legacy::default();
    let mut names = Names::default();
    for pool in address_pools {
        take_pool(pool, &mut names, &mut legacy);
    }
    let mut names = Names::default();
    for peer in peers {
        let name = names.valid(&format!("peer-{}", peer.peer_address));
        legacy.peers.push(BGPPeer::new(&name, peer.spec()));
    }
    // Peers refer to profiles by name.
    legacy.bfd_profiles = bfd_profiles.into_iter().map(Profile::object).collect();
    let aliases: Vec<_> = bgp_communities
        .into_iter()
        .map(|(name, value)| CommunityAlias { name: Some(name), value: Some(value) })
        .collect();
    legacy.communities = (!aliases.is_empty())
        .then(|| Community::new("bgp-communities", CommunitySpec { communities: aliases }));
    Ok(legacy)
}

fn take_pool(pool: Pool, names: &mut Names, legacy: &mut Legacy) {
    let name = names.valid(&pool.name);
    let ip_address_pools = vec![name.clone()];
    if pool.protocol == Protocol::Layer2 {
        let spec = L2AdvertisementSpec { ip_address_pools, ..L2AdvertisementSpec::default() };
        legacy.l2_advertisements.push(L2Advertisement::new(&name, spec));
    } else {
        let entries = pool.bgp_advertisements.into_iter().map(Advertisement::legacy);
        let advertisements = bgp_advertisements(&name, &entries.collect::<Vec<_>>());
        let named = advertisements.into_iter().map(|(name, spec)| BGPAdvertisement::new(&name, spec));
        legacy.bgp_advertisements.extend(named);
    }
    let spec = IPAddressPoolSpec {
        addresses: pool.addresses,
        auto_assign: pool.auto_assign.unwrap_or(true),
        avoid_buggy_ips: pool.avoid_buggy_ips,
        ..IPAddressPoolSpec::default()
    };
    legacy.pools.push(IPAddressPool::new(&name, spec));
}

/// What the entries of a pool's `bgpAdvertisements` become, by name: that of the pool, and from the second on with a
/// number. Without an entry, every address is a route of its own, without attributes.
#[must_use]
pub fn bgp_advertisements(
    pool: &str,
    entries: &[LegacyBgpAdvertisement],
) -> Vec<(String, BGPAdvertisementSpec)> {
    let of_pool = || BGPAdvertisementSpec { ip_address_pools: vec![pool.to_owned()], ..Default::default() };
    if entries.is_empty() {
        return vec![(pool.to_owned(), of_pool())];
    }
    let named = entries.iter().enumerate().map(|(at, entry)| {
        let name = if at == 0 { pool.to_owned() } else { format!("{pool}-{}", at + 1) };
        let spec = BGPAdvertisementSpec {
            aggregation_length: entry.aggregation_length,
            aggregation_length_v6: entry.aggregation_length_v6,
            local_pref: entry.local_pref,
            communities: entry.communities.clone(),
            ..of_pool()
        };
        (name, spec)
    });
    named.collect()
}

impl Advertisement {
    fn legacy(self) -> LegacyBgpAdvertisement {
        let default = BGPAdvertisementSpec::default();
        LegacyBgpAdvertisement {
            aggregation_length: self.aggregation_length.unwrap_or(default.aggregation_length),
            aggregation_length_v6: self.aggregation_length_v6.unwrap_or(default.aggregation_length_v6),
            local_pref: self.localpref,
            communities: self.communities,
        }
    }
}

impl Peer {
    fn spec(self) -> BGPPeerSpec {
        let default = BGPPeerSpec::default();
        BGPPeerSpec {
            my_asn: self.my_asn,
            peer_asn: Some(self.peer_asn),
            peer_address: Some(self.peer_address),
            source_address: self.source_address,
            peer_port: self.peer_port.filter(|port| *port != 0).unwrap_or(default.peer_port),
            hold_time: self.hold_time,
            keepalive_time: self.keepalive_time,
            router_id: self.router_id,
            node_selectors: self.node_selectors.into_iter().map(NodeSelector::label_selector).collect(),
            password: self.password,
            bfd_profile: self.bfd_profile,
            ebgp_multi_hop: self.ebgp_multihop,
            ..default
        }
    }
}

impl NodeSelector {
    fn label_selector(self) -> LabelSelector {
        let expressions = self.match_expressions.into_iter().map(|expression| LabelSelectorRequirement {
            key: expression.key,
            operator: expression.operator,
            values: expression.values,
        });
        let expressions: Vec<_> = expressions.collect();
        LabelSelector {
            match_labels: self.match_labels,
            match_expressions: (!expressions.is_empty()).then_some(expressions),
        }
    }
}

impl Profile {
    fn object(self) -> BFDProfile {
        let spec = BFDProfileSpec {
            receive_interval: self.receive_interval,
            transmit_interval: self.transmit_interval,
            detect_multiplier: self.detect_multiplier,
            echo_interval: self.echo_interval,
            echo_mode: self.echo_mode,
            passive_mode: self.passive_mode,
            minimum_ttl: self.minimum_ttl,
        };
        BFDProfile::new(&self.name, spec)
    }
}

/// Names that are taken.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    /// Makes a name of an object of `text`, one that is not taken: letters are small, and whatever else may not stand in
    /// it becomes `-` (RFC 1123 §2.1).
    fn valid(&mut self, text: &str) -> String {
        const LONGEST: usize = 200;
        let mapped = text.chars().map(|letter| match letter.to_ascii_lowercase() {
            letter @ ('a'..='z' | '0'..='9') => letter,
            _ => '-',
        });
        let mapped: String = mapped.take(LONGEST).collect();
        let trimmed = mapped.trim_matches('-');
        let base = if trimmed.is_empty() { "pool" } else { trimmed };
        let mut name = base.to_owned();
        let mut number = 1;
        while !self.0.insert(name.clone()) {
            number += 1;
            name = format!("{base}-{number}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec<K: serde::Serialize>(object: &K) -> (String, Value) {
        let value = serde_json::to_value(object).unwrap();
        (value["metadata"]["name"].as_str().unwrap().to_owned(), value["spec"].clone())
    }

    #[test]
    fn pools_peers_profiles_and_communities_become_objects() {
        let text = "
peers:
- my-asn: 64512
  peer-asn: 64513
  peer-address: 10.0.0.1
  hold-time: 120s
  node-selectors:
  - match-labels: {rack: a}
    match-expressions: [{key: role, operator: In, values: [edge]}]
  bfd-profile: Fast
address-pools:
- name: My Pool
  protocol: layer2
  addresses: [192.168.1.240-192.168.1.250]
  auto-assign: false
- name: my.pool
  protocol: bgp
  addresses: [198.51.100.0/24]
  avoid-buggy-ips: true
  bgp-advertisements:
  - {aggregation-length: 24, localpref: 100, communities: [no-advertise]}
  - {}
bgp-communities: {no-advertise: '65535:65282'}
bfd-profiles:
- {name: Fast, receive-interval: 100}
";
        let legacy = parse(text).unwrap();
        assert_eq!(
            legacy.pools.iter().map(spec).collect::<Vec<_>>(),
            [
                (
                    "my-pool".to_owned(),
                    json!({"addresses": ["192.168.1.240-192.168.1.250"], "autoAssign": false, "avoidBuggyIPs": false})
                ),
                (
                    "my-pool-2".to_owned(),
                    json!({"addresses": ["198.51.100.0/24"], "autoAssign": true, "avoidBuggyIPs": true})
                ),
            ]
        );
        assert_eq!(
            legacy.l2_advertisements.iter().map(spec).collect::<Vec<_>>(),
            [("my-pool".to_owned(), json!({"ipAddressPools": ["my-pool"]}))]
        );
        assert_eq!(
            legacy.bgp_advertisements.iter().map(spec).collect::<Vec<_>>(),
            [
                (
                    "my-pool-2".to_owned(),
                    json!({"aggregationLength": 24, "aggregationLengthV6": 128, "localPref": 100,
                           "communities": ["no-advertise"], "ipAddressPools": ["my-pool-2"]})
                ),
                (
                    "my-pool-2-2".to_owned(),
                    json!({"aggregationLength": 32, "aggregationLengthV6": 128, "ipAddressPools": ["my-pool-2"]})
                ),
            ]
        );
        let (name, peer) = spec(&legacy.peers[0]);
        assert_eq!(name, "peer-10-0-0-1");
        assert_eq!(
            peer,
            json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1", "peerPort": 179, "holdTime": "120s",
                   "nodeSelectors": [{"matchLabels": {"rack": "a"},
                                      "matchExpressions": [{"key": "role", "operator": "In", "values": ["edge"]}]}],
                   "bfdProfile": "Fast", "disableMP": false, "dualStackAddressFamily": false})
        );
        assert_eq!(
            legacy.communities.as_ref().map(spec),
            Some((
                "bgp-communities".to_owned(),
                json!({"communities": [{"name": "no-advertise", "value": "65535:65282"}]})
            ))
        );
    }

    #[test]
    fn the_renderings_of_the_older_operator_are_read() {
        let text = "address-pools:\n- name: a\n  protocol: layer2\n  addresses:\n  - 172.18.0.100-172.18.0.255\n  - \
                    2002:2:2::/64\n  auto-assign: false\n";
        assert_eq!(
            parse(text).unwrap().pools[0].spec.addresses,
            ["172.18.0.100-172.18.0.255", "2002:2:2::/64"]
        );
        for empty in ["{}\n", "", "address-pools: []\n"] {
            assert_eq!(parse(empty), Ok(Legacy::default()), "{empty:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, word) in [
            ("address-pools: [{name: a, protocol: layer2, addresses: [], colour: red}]", "colour"),
            ("address-pools: [{name: a, protocol: ospf, addresses: []}]", "ospf"),
            ("address-pools: [{name: a, addresses: []}]", "protocol"),
            ("peers: [{my-asn: many, peer-asn: 1, peer-address: x}]", "many"),
            ("pools: []", "pools"),
            ("address-pools: [", "1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
