use metallb_api as api;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::config::{Objects, parse};

fn object<K: DeserializeOwned>(name: &str, spec: &Value) -> K {
    let metadata = json!({ "name": name });
    serde_json::from_value(json!({ "apiVersion": "", "kind": "", "metadata": metadata, "spec": spec }))
        .unwrap()
}

fn node(name: &str, rack: &str, addresses: &[&str]) -> Node {
    Node {
        name: name.to_owned(),
        labels: [("rack", rack)].into_iter().collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
    }
}

fn nodes() -> [Node; 3] {
    [
        node("node1", "a", &["172.22.0.11", "fd00:22::11"]),
        node("node2", "a", &["172.22.0.12", "fd00:22::12"]),
        node("node3", "b", &["172.22.0.13"]),
    ]
}

/// The neighbors of one peer `tor`; there are the BFDProfiles `fast` and `echo` and the nodes of [`nodes`].
fn tor(spec: &Value) -> Vec<Neighbors> {
    tor_of(spec, &nodes())
}

fn tor_of(spec: &Value, nodes: &[Node]) -> Vec<Neighbors> {
    let peer: api::BGPPeer = object("tor", spec);
    let timers = json!({ "receiveInterval": 100, "transmitInterval": 200, "detectMultiplier": 5 });
    let mut echo = timers.clone();
    echo["echoMode"] = true.into();
    echo["echoInterval"] = 70.into();
    let profiles: [api::BFDProfile; 2] = [object("fast", &timers), object("echo", &echo)];
    let objects =
        Objects { bgp_peers: vec![&peer], bfd_profiles: profiles.iter().collect(), ..Objects::default() };
    let (config, problems) = parse(&objects);
    assert_eq!(problems, []);
    neighbors(&config, nodes)
}

fn full() -> Vec<Neighbors> {
    tor(&json!({
        "myASN": 64512, "peerASN": 64513, "peerAddress": "172.22.0.1", "enableGracefulRestart": true,
        "bfdProfile": "fast", "dualStackAddressFamily": true, "ebgpMultiHop": true,
        "passwordSecret": { "name": "tor-password" },
    }))
}

#[test]
fn frr_is_told_to_listen_where_the_nodes_are() {
    assert_eq!(
        render(Dialect::Frr, &full()),
        "\
! BGPPeer tor: the router at 172.22.0.1
!   node1: 172.22.0.11
!   node2: 172.22.0.12
!   node3: 172.22.0.13
route-map tor-in permit 10
route-map tor-out deny 10
router bgp 64513
 bgp graceful-restart
 neighbor tor peer-group
 neighbor tor remote-as 64512
! the password in Secret tor-password:
!neighbor tor password 
 neighbor tor ebgp-multihop 255
 neighbor tor bfd
 neighbor tor bfd 5 200 100
 neighbor tor bfd check-control-plane-failure
 bgp listen range 172.22.0.8/29 peer-group tor
 address-family ipv4 unicast
  neighbor tor activate
  neighbor tor route-map tor-in in
  neighbor tor route-map tor-out out
  maximum-paths 3
 exit-address-family
 address-family ipv6 unicast
  neighbor tor activate
  neighbor tor route-map tor-in in
  neighbor tor route-map tor-out out
  maximum-paths 3
 exit-address-family
"
    );
}

#[test]
fn frr_takes_all_nodes_of_a_large_cluster() {
    let spec = json!({ "myASN": 64512, "peerASN": 64513, "peerAddress": "10.0.0.1" });
    for (count, limit, paths) in [(100, None, 100), (101, Some(128), 101), (300, Some(512), 256)] {
        let address = |number: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
        let nodes: Vec<Node> =
            (1..=count).map(|number| node(&format!("node{number}"), "a", &[&address(number)])).collect();
        let text = render(Dialect::Frr, &tor_of(&spec, &nodes));
        let limits: Vec<&str> = text.lines().filter(|line| line.contains("listen limit")).collect();
        let want: Vec<String> = limit.iter().map(|limit| format!(" bgp listen limit {limit}")).collect();
        assert_eq!(limits, want);
        assert!(text.contains(&format!("  maximum-paths {paths}\n")), "{text}");
    }
}

#[test]
fn bird_opens_the_connections_to_peers_that_wait_for_them() {
    let passive = tor(&json!({
        "myASN": 64512, "dynamicASN": "internal", "peerAddress": "fd00:22::1", "peerPort": 1790, "passive": true,
        "password": "secret", "bfdProfile": "fast", "ttlSecurityHops": 1,
        "nodeSelectors": [{ "matchLabels": { "rack": "a" } }],
    }));
    assert_eq!(
        render(Dialect::Bird, &passive),
        "\
# BGPPeer tor: the router at fd00:22::1
#   node1: fd00:22::11
#   node2: fd00:22::12
# The router must listen on port 1790.
# To use all nodes at once, protocol kernel needs \"merge paths on\".
protocol bgp 'tor-node1' {
  local fd00:22::1 port 1790 as 64512;
  neighbor fd00:22::11 as 64512;
# the password of BGPPeer tor:
# password \"\";
  ttl security on;
# protocol bfd must be there.
  bfd { min rx interval 200 ms; min tx interval 100 ms; multiplier 5; };
  ipv6 { import all; export none; };
}
protocol bgp 'tor-node2' {
  local fd00:22::1 port 1790 as 64512;
  neighbor fd00:22::12 as 64512;
# the password of BGPPeer tor:
# password \"\";
  ttl security on;
# protocol bfd must be there.
  bfd { min rx interval 200 ms; min tx interval 100 ms; multiplier 5; };
  ipv6 { import all; export none; };
}
"
    );
}

#[test]
fn the_others_are_told_the_same_in_their_words() {
    assert_eq!(
        render(Dialect::Junos, &full()),
        "\
# BGPPeer tor: the router at 172.22.0.1
#   node1: 172.22.0.11
#   node2: 172.22.0.12
#   node3: 172.22.0.13
set routing-options graceful-restart
set protocols bgp group tor type external
set protocols bgp group tor local-as 64513
set protocols bgp group tor peer-as 64512
set protocols bgp group tor multipath
set protocols bgp group tor family inet unicast
set protocols bgp group tor family inet6 unicast
# the password in Secret tor-password:
# set protocols bgp group tor authentication-key 
set protocols bgp group tor multihop ttl 255
set protocols bgp group tor local-address 172.22.0.1
set protocols bgp group tor bfd-liveness-detection minimum-receive-interval 200
set protocols bgp group tor bfd-liveness-detection transmit-interval minimum-interval 100
set protocols bgp group tor bfd-liveness-detection multiplier 5
set policy-options policy-statement tor-none then reject
set protocols bgp group tor export tor-none
set protocols bgp group tor allow 172.22.0.8/29
"
    );
    assert_eq!(
        render(Dialect::Eos, &full()),
        "\
! BGPPeer tor: the router at 172.22.0.1
!   node1: 172.22.0.11
!   node2: 172.22.0.12
!   node3: 172.22.0.13
route-map tor-out deny 10
!
router bgp 64513
   graceful-restart-helper
   maximum-paths 3
   neighbor tor peer group
   neighbor tor remote-as 64512
   neighbor tor route-map tor-out out
! the password in Secret tor-password:
!  neighbor tor password 
   neighbor tor ebgp-multihop 255
   neighbor tor bfd
   neighbor tor bfd interval 100 min-rx 200 multiplier 5
   bgp listen range 172.22.0.8/29 peer-group tor remote-as 64512
   address-family ipv4
      neighbor tor activate
   address-family ipv6
      neighbor tor activate
"
    );
    assert_eq!(
        render(Dialect::RouterOs, &full()),
        "\
# BGPPeer tor: the router at 172.22.0.1
#   node1: 172.22.0.11
#   node2: 172.22.0.12
#   node3: 172.22.0.13
/routing/filter/rule/add chain=tor-out rule=\"reject\"
# tcp-md5-key: the password in Secret tor-password
/routing/bfd/configuration/add interfaces=all min-rx=200ms min-tx=100ms multiplier=5
/routing/bgp/connection/add name=tor as=64513 remote.address=172.22.0.8/29 remote.as=64512 local.role=ebgp \
afi=ip,ipv6 output.filter-chain=tor-out connect=no listen=yes tcp-md5-key=\"\" multihop=yes use-bfd=yes
"
    );
}

/// `UPDATE_GOLDEN=1` writes what is rendered to the files that it is compared with.
#[test]
fn each_dialect_says_how_far_away_the_nodes_are_and_what_leads_there() {
    let scenes = [
        json!({ "peerASN": 64513, "interface": "eth1", "bfdProfile": "fast" }),
        json!({ "dynamicASN": "internal", "interface": "eth1" }),
        json!({ "peerASN": 64512, "peerAddress": "172.22.0.1", "bfdProfile": "echo" }),
        json!({ "peerASN": 64513, "peerAddress": "172.22.0.1", "bfdProfile": "fast", "ebgpMultiHop": true }),
        json!({ "peerASN": 64513, "peerAddress": "172.22.0.1", "bfdProfile": "fast", "ttlSecurityHops": 3 }),
        json!({ "peerASN": 64513, "peerAddress": "fd00:22::1", "passive": true, "ttlSecurityHops": 1 }),
    ];
    for (dialect, name) in [
        (Dialect::Frr, "frr"),
        (Dialect::Bird, "bird"),
        (Dialect::Junos, "junos"),
        (Dialect::Eos, "eos"),
        (Dialect::RouterOs, "routeros"),
    ] {
        let texts = scenes.iter().map(|scene| {
            let mut spec = json!({ "myASN": 64512, "nodeSelectors": [{ "matchLabels": { "rack": "a" } }] });
            spec.as_object_mut().unwrap().extend(scene.as_object().unwrap().clone());
            format!("=== {scene}\n{}", render(dialect, &tor(&spec)))
        });
        let text = texts.collect::<Vec<_>>().join("\n");
        let path = format!("{}/src/router_config/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == golden, "{path} is not what is rendered:\n{text}");
    }
}

#[test]
fn a_router_is_told_of_echo_packets_where_it_has_them() {
    let echo = |more: &[(&str, &str)]| {
        let mut spec = json!({
            "myASN": 64512, "peerASN": 64513, "peerAddress": "172.22.0.1", "bfdProfile": "echo",
            "enableGracefulRestart": true,
        });
        for (field, value) in more {
            spec[*field] = serde_json::from_str(value).unwrap();
        }
        tor(&spec)
    };
    let near = echo(&[]);
    assert_eq!(near[0].echo(), Some(Duration::from_millis(70)));
    let frr = render(Dialect::Frr, &near);
    let lines = "\
bfd
 profile tor
  detect-multiplier 5
  receive-interval 200
  transmit-interval 100
  echo receive-interval 70
  echo transmit-interval 70
  echo-mode
 exit
exit
router bgp 64513
";
    assert!(frr.contains(lines), "{frr}");
    let neighbor =
        " neighbor tor bfd\n neighbor tor bfd profile tor\n neighbor tor bfd check-control-plane-failure\n";
    assert!(frr.contains(neighbor), "{frr}");
    let others = [
        (Dialect::Bird, "# BIRD has no BFD echo packets: control packets watch the path."),
        (
            Dialect::Junos,
            "# No setting for BFD echo packets of BGP neighbors is known of Junos: control packets watch the path.",
        ),
        (Dialect::Eos, "! BFD echo packets are a setting of the interface that leads to the nodes: bfd echo"),
        (Dialect::RouterOs, "# RouterOS has no BFD echo packets: control packets watch the path."),
    ];
    for (dialect, note) in others {
        let text = render(dialect, &near);
        assert_eq!(text.lines().filter(|line| *line == note).count(), 1, "{note:?} in {text}");
    }
    // Those whose packets take no way that echo packets could take, too.
    for more in [&[("ebgpMultiHop", "true")][..], &[("bfdProfile", "\"fast\"")]] {
        let far = echo(more);
        assert_eq!(far[0].echo(), None, "{more:?}");
        for dialect in [Dialect::Frr, Dialect::Bird, Dialect::Junos, Dialect::Eos, Dialect::RouterOs] {
            assert!(!render(dialect, &far).contains("echo"), "{dialect:?} {more:?}");
        }
    }
}

#[test]
fn what_only_the_routers_administrator_knows_is_left_open() {
    let link = tor(&json!({ "myASN": 64512, "dynamicASN": "external", "interface": "eth1" }));
    let text = render(Dialect::Frr, &link);
    for line in [
        "! BGPPeer tor: the router at the nodes' interface eth1",
        "!   node1: no address is known",
        "! Any AS number but 64512 will do for the router.",
        "router bgp ASN-OF-THE-ROUTER",
        " neighbor INTERFACE-TO-THE-NODE interface v6only peer-group tor",
        " address-family ipv6 unicast",
    ] {
        assert!(text.lines().any(|known| known == line), "{line:?} in {text}");
    }
}

#[test]
fn peers_of_no_node_need_nothing() {
    let none = json!({
        "myASN": 64512, "peerASN": 64513, "peerAddress": "172.22.0.1",
        "nodeSelectors": [{ "matchLabels": { "rack": "none" } }],
    });
    assert_eq!(tor(&none), []);
}

#[test]
fn the_range_is_the_least_that_holds_all_addresses() {
    let range = |addresses: &[&str]| {
        let nodes = addresses
            .iter()
            .enumerate()
            .map(|(index, address)| (index.to_string(), Some(address.parse::<IpAddr>().unwrap())));
        let mut neighbors = full().remove(0);
        neighbors.nodes = nodes.collect();
        neighbors.range().map(|range| range.to_string())
    };
    assert_eq!(range(&[]), None);
    assert_eq!(range(&["192.0.2.1"]).as_deref(), Some("192.0.2.1/32"));
    assert_eq!(range(&["192.0.2.1", "192.0.2.2"]).as_deref(), Some("192.0.2.0/30"));
    assert_eq!(range(&["fd00::1", "fd00::1:0"]).as_deref(), Some("fd00::/111"));
    assert_eq!(range(&["0.0.0.1", "255.0.0.0"]).as_deref(), Some("0.0.0.0/0"));
}

#[test]
fn a_router_is_known_by_its_name() {
    assert_eq!("frr".parse(), Ok(Dialect::Frr));
    let unknown = "cisco".parse::<Dialect>().unwrap_err();
    assert_eq!(unknown.to_string(), "\"cisco\" is none of frr, bird, junos, eos, routeros");
}
