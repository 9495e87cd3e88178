//! What the settings of a BGPPeer and of an advertisement mean to a router that sees them: FRR.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::run_on,
    observe::{address, apply, fetch_from, get, kube},
    router::Frr,
};
use serde_json::Value;

use crate::counted::Counted;
use crate::fixture::{available, eventually};
use crate::peers::{Objects, edit, frr, nobody_tells, password, peer, scene, session, until_sessions};

/// On node1 alone.
const NODE1: &str = ", nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]";

/// FRR with one neighbor that it knows by name, so that it still tells of a session that ended.
fn knowing(neighbor: &str, asn: u32, more: &str) -> Frr {
    let config = format!(
        "router bgp 64513\n bgp router-id 172.22.0.1\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         neighbor {neighbor} remote-as {asn}\n neighbor {neighbor} timers connect 3\n{more}"
    );
    Frr::start("router", &config).unwrap()
}

/// What FRR says of a neighbor.
fn neighbor(frr: &Frr, neighbor: &str) -> Result<Value> {
    Ok(frr.json(&format!("show bgp neighbors {neighbor}"))?[neighbor].clone())
}

/// A further address of node1, until this value ends.
struct Further(&'static str);

impl Further {
    fn of(address: &'static str) -> Self {
        run_on("node1", &format!("ip addr add {address}/24 dev eth0")).unwrap();
        Self(address)
    }
}

impl Drop for Further {
    fn drop(&mut self) {
        let removed = run_on("node1", &format!("ip addr del {}/24 dev eth0", self.0));
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

#[test]
fn a_router_sees_the_as_the_router_id_and_the_address_that_the_peer_is_given() {
    available();
    let _further = Further::of("172.22.0.211");
    let asn = 4_200_000_001;
    let frr = knowing("172.22.0.211", asn, "");
    let given = format!(", localASN: {asn}, routerID: 10.9.8.7, sourceAddress: 172.22.0.211{NODE1}");
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", &given))]);
    let scene = scene("bgp-given", "[198.51.100.152/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    frr.0
        .until("the neighbor as it was given", 40, |_| {
            let seen = neighbor(&frr, "172.22.0.211")?;
            let state = &seen["bgpState"];
            ensure!(state == "Established" && seen["remoteAs"] == asn, "{seen}");
            ensure!(seen["remoteRouterId"] == "10.9.8.7", "{seen}");
            let paths = frr.paths(&address.to_string())?;
            let [path] = paths.as_slice() else { anyhow::bail!("{paths:?}") };
            ensure!(path["aspath"]["string"] == "4200000001", "{path}");
            ensure!(path["nexthops"][0]["ip"] == "172.22.0.211", "{path}");
            Ok(())
        })
        .unwrap();
    eventually("an answer by way of that address", 20, || fetch_from("remote", address).map(drop));
}

#[test]
fn a_router_that_announces_more_than_max_prefixes_is_let_go_and_told_why() {
    available();
    let networks = " address-family ipv4 unicast\n  network 203.0.113.1/32\n  network 203.0.113.2/32\n  \
                    network 203.0.113.3/32\n exit-address-family\n";
    let frr = knowing("172.22.0.11", 64512, networks);
    let most = |count: u32| peer("172.22.0.1", &format!(", maxPrefixes: {count}{NODE1}"));
    let _objects = Objects::apply(&[("BGPPeer", "router", &most(2))]);
    eventually("both ends to tell of too many prefixes", 40, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(said.contains("Maximum Number of Prefixes Reached"), "{status}");
        let seen = neighbor(&frr, "172.22.0.11")?;
        let reason = seen["lastNotificationReason"].as_str().unwrap_or_default();
        ensure!(reason.contains("Maximum Number of Prefixes"), "{seen}");
        Ok(())
    });
    edit("BGPPeer", "router", &most(3));
    eventually("the session with as many as are allowed", 60, || {
        let seen = neighbor(&frr, "172.22.0.11")?;
        ensure!(seen["bgpState"] == "Established", "{seen}");
        let sent = &seen["addressFamilyInfo"]["ipv4Unicast"]["sentPrefixCounter"];
        ensure!(*sent == 3, "{seen}");
        Ok(())
    });
    // None of them became a route of the node.
    let routes = metallb_e2e::exec::output(metallb_e2e::exec::on("node1", "ip").args([
        "route",
        "show",
        "root",
        "203.0.113.0/24",
    ]));
    assert_eq!(routes.unwrap(), "");
}

/// What the router sends to node1 looks as if it came over one hop, until this value ends.
struct Farther;

impl Farther {
    fn router() -> Self {
        let rules = [
            "nft add table inet farther",
            "nft add chain inet farther out { type filter hook output priority 0 ; }",
            "nft add rule inet farther out ip daddr 172.22.0.11 ip ttl set 254",
            "nft add rule inet farther out ip6 daddr fd00:22::11 ip6 hoplimit set 254",
        ];
        let farther = Self;
        for rule in rules {
            run_on("router", rule).unwrap();
        }
        farther
    }
}

impl Drop for Farther {
    fn drop(&mut self) {
        let removed = run_on("router", "nft delete table inet farther");
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

#[test]
fn packets_from_farther_away_than_ttl_security_allows_open_no_session() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes ttl-security hops 1")).unwrap();
    let farther = Farther::router();
    let near = format!(", ttlSecurityHops: 1{NODE1}");
    let _objects = Objects::apply(&[
        ("BGPPeer", "four", &peer("172.22.0.1", &near)),
        ("BGPPeer", "six", &peer("fd00:22::1", &near)),
    ]);
    let both = |check: &dyn Fn(&Value) -> bool| {
        for router in ["172.22.0.1", "fd00:22::1"] {
            let status = session("node1", router)?;
            ensure!(check(&status), "{status}");
        }
        Ok(())
    };
    eventually("no answer to count", 60, || {
        both(&|status| {
            status["bgpStatus"] != "Established"
                && status["lastError"] == "no answer to the attempt to connect"
        })
    });
    assert_eq!(frr.established().unwrap(), Vec::<String>::new());
    // The same router nearby.
    drop(farther);
    eventually("both sessions", 60, || both(&|status| status["bgpStatus"] == "Established"));
    // And a session that stands ends when what it hears comes from farther away.
    let _farther = Farther::router();
    edit("BGPPeer", "four", &peer("172.22.0.1", &format!(", holdTime: 3s, keepaliveTime: 1s{near}")));
    eventually("no session", 60, || {
        let status = session("node1", "172.22.0.1")?;
        ensure!(status["bgpStatus"] != "Established", "{status}");
        Ok(())
    });
}

#[test]
fn bfd_in_passive_mode_waits_for_the_router_to_begin() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let short = ", bfdProfile: passive, holdTime: 3s, keepaliveTime: 1s";
    let profile = "{receiveInterval: 100, transmitInterval: 100, passiveMode: true}";
    let _objects = Objects::apply(&[
        ("BFDProfile", "passive", profile),
        ("BGPPeer", "router", &peer("172.22.0.1", short)),
    ]);
    until_sessions("172.22.0.1", "Established");
    let counted = Counted::packets_of(
        "router",
        &["ip saddr 172.22.0.11 ip protocol tcp", "ip saddr 172.22.0.11 udp dport 3784"],
    );
    eventually("node1 to have had time", 30, || {
        let packets = counted.packets()?;
        ensure!(packets.first() >= Some(&8), "{packets:?}");
        Ok(())
    });
    assert_eq!(counted.packets().unwrap().get(1), Some(&0), "control packets, unasked");
    frr.commands(&["configure terminal", "router bgp 64513", "neighbor nodes bfd"]).unwrap();
    eventually("BFD, which the router began", 30, || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.22.0.1")?;
            ensure!(status["bfdStatus"] == "up", "{status}");
        }
        Ok(())
    });
}

#[test]
fn a_prefix_wider_than_its_pool_is_announced_only_where_that_is_allowed() {
    available();
    let frr = Frr::start("router", &frr("")).unwrap();
    let _objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ""))]);
    let name = "bgp-wide";
    let scene = scene(name, "[198.51.100.156/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    frr.0
        .until("a route to the one address", 30, |_| {
            let paths = frr.paths(&address.to_string())?;
            ensure!(paths.len() == 3, "{paths:?}");
            Ok(())
        })
        .unwrap();
    let wide = |more: &str| {
        apply(&format!(
            "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{ipAddressPools: [{name}], aggregationLength: 24{more}}}\n"
        ))
    };
    let refused = format!("{:#}", wide("").unwrap_err());
    assert!(refused.contains("a /24 route would reach beyond 198.51.100.156/30"), "{refused}");
    wide(", allowCovering: true").unwrap();
    frr.0
        .until("the covering route", 30, |_| {
            let paths = frr.paths("198.51.100.0/24")?;
            ensure!(paths.len() == 3, "{paths:?}");
            Ok(())
        })
        .unwrap();
    eventually("the loop of unused addresses to be told", 30, || {
        let found = get(&["-n", NAMESPACE, "bgpadvertisement", name])?;
        let mut conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let its = conditions.find(|condition| condition["type"] == "UnusedAddressesLoop");
        let said = its.map(|its| (its["status"].as_str(), its["message"].as_str().unwrap_or_default()));
        ensure!(said.is_some_and(|(status, said)| status == Some("True") && said.contains("/24")), "{found}");
        Ok(())
    });
    eventually("an answer by way of it", 20, || fetch_from("remote", address).map(drop));
}

#[test]
fn frr_asks_again_reads_why_a_session_ends_and_follows_a_change_of_password() {
    available();
    let (old, new) = ("frr-old-4b7d", "frr-new-0a95");
    let with = |password: &str| format!(" neighbor 172.22.0.11 password {password}\n");
    let frr = knowing("172.22.0.11", 64512, &with(old));
    password("bgp-frr", old);
    let secret = format!(", passwordSecret: {{name: bgp-frr}}{NODE1}");
    let objects = Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", &secret))]);
    let scene = scene("bgp-frr-again", "[198.51.100.160/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap().to_string();
    let held = || {
        let paths = frr.paths(&address)?;
        ensure!(paths.len() == 1, "{paths:?}");
        Ok(())
    };
    frr.0.until("the route", 40, |_| held()).unwrap();
    let updates = || -> Result<u64> {
        let seen = neighbor(&frr, "172.22.0.11")?;
        Ok(seen["messageStats"]["updatesRecv"].as_u64().unwrap_or_default())
    };
    let before = updates().unwrap();
    frr.ask("clear bgp ipv4 unicast 172.22.0.11 soft in").unwrap();
    frr.0
        .until("the route to be sent again", 20, |_| {
            let now = updates()?;
            ensure!(now > before, "{before}, {now}");
            held()
        })
        .unwrap();
    let capabilities: BTreeSet<String> =
        serde_json::from_value(session("node1", "172.22.0.1").unwrap()["capabilities"].take()).unwrap();
    assert!(capabilities.contains("route refresh"), "{capabilities:?}");

    password("bgp-frr", new);
    frr.0
        .until("the session to end", 30, |_| {
            let seen = neighbor(&frr, "172.22.0.11")?;
            ensure!(seen["bgpState"] != "Established", "{seen}");
            Ok(())
        })
        .unwrap();
    frr.commands(&["configure terminal", "router bgp 64513", with(new).trim()]).unwrap();
    frr.0.until("the route, with the other password", 60, |_| held()).unwrap();

    drop(objects);
    frr.0
        .until("the reason of the end", 30, |_| {
            let seen = neighbor(&frr, "172.22.0.11")?;
            let why = "BGPPeer router does not concern this node any more";
            ensure!(seen["lastShutdownDescription"] == why, "{seen}");
            Ok(())
        })
        .unwrap();
    nobody_tells(&[old, new]);
    kube(&format!("-n {NAMESPACE} delete secret bgp-frr")).unwrap();
}
