//! Routers that are more than one hop away, or must not be, and those that fall silent.

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{on, output, run_on},
    observe::{address, kube},
    router::{Bird, Frr},
};

use crate::fixture::{available, eventually};
use crate::peers::{Objects, edit, frr, peer, scene, session, until_sessions};

/// BIRD on host remote, from which the nodes are two networks away.
pub(crate) const FAR: &str = "router id 172.24.0.2;
protocol device {}
protocol direct { ipv4; }
protocol kernel { ipv4 { import all; export none; }; learn; }
protocol bfd {}
protocol bgp nodes {
  local 172.24.0.2 as 64513;
  neighbor range 172.22.0.0/24 as 64512;
  dynamic name \"node\";
  multihop;
  bfd { min rx interval 300 ms; min tx interval 300 ms; multiplier 3; };
  ipv4 { import all; export none; };
}
";

#[test]
fn a_router_behind_another_one_learns_routes_and_watches_the_path() {
    available();
    let bird = Bird::start("remote", FAR).unwrap();
    let _objects = Objects::apply(&[
        // BIRD sends with the kernel's TTL of 64, and one hop is on the way.
        ("BFDProfile", "far", "{minimumTtl: 63}"),
        ("BGPPeer", "far", &peer("172.24.0.2", ", ebgpMultiHop: true, bfdProfile: far")),
    ]);
    let scene = scene("bgp-far", "[198.51.100.96/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    until_sessions("172.24.0.2", "Established");
    bird.0
        .until("three ways", 30, |_| {
            let said = bird.ask(&format!("show route all for {address}/32"))?;
            ensure!(said.matches("BGP.next_hop: 172.22.0.1").count() == 3, "{said}");
            Ok(())
        })
        .unwrap();
    eventually("BFD over two hops", 30, || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.24.0.2")?;
            ensure!(status["bfdStatus"] == "up", "{status}, {}", bird.ask("show bfd sessions")?);
        }
        Ok(())
    });
}

#[test]
fn frr_behind_another_router_learns_routes_and_watches_the_path() {
    available();
    let frr = Frr::start("remote", &frr(" neighbor nodes ebgp-multihop 2\n neighbor nodes bfd")).unwrap();
    // Host remote reaches the nodes by its default route.
    frr.commands(&["configure terminal", "ip nht resolve-via-default"]).unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "far", "{minimumTtl: 254}"),
        ("BGPPeer", "far", &peer("172.24.0.2", ", ebgpMultiHop: true, bfdProfile: far")),
    ]);
    let scene = scene("bgp-far-frr", "[198.51.100.140/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap().to_string();
    until_sessions("172.24.0.2", "Established");
    frr.0
        .until("three valid paths", 30, |_| {
            let paths = frr.paths(&address)?;
            let valid = paths.iter().filter(|path| path["valid"] == true).count();
            ensure!(valid == 3, "{paths:?}");
            Ok(())
        })
        .unwrap();
    eventually("BFD over two hops", 30, || {
        for node in ["node1", "node2", "node3"] {
            let status = session(node, "172.24.0.2")?;
            ensure!(status["bfdStatus"] == "up", "{status}, {}", frr.ask("show bfd peers")?);
        }
        Ok(())
    });
}

#[test]
fn packets_that_took_a_hop_too_many_open_no_session() {
    available();
    let config = "router bgp 64513\n bgp router-id 172.22.0.1\n no bgp ebgp-requires-policy\n \
                  neighbor 172.22.0.11 remote-as 64512\n neighbor 172.22.0.11 ttl-security hops 1\n \
                  neighbor 172.22.0.11 timers connect 3\n";
    let frr = Frr::start("router", config).unwrap();
    let one = |more: &str| {
        let node = "nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]";
        peer("172.22.0.1", &format!(", {node}{more}"))
    };
    let established = |want: &[&str]| {
        frr.0.until(&format!("sessions with {want:?}"), 60, |_| {
            let found = frr.established()?;
            ensure!(found == want, "{found:?}");
            Ok(())
        })
    };
    let _objects = Objects::apply(&[("BGPPeer", "router", &one(", ttlSecurityHops: 1"))]);
    established(&["172.22.0.11"]).unwrap();
    // With the usual TTL the router takes our packets for those of somebody far away: all, or all but the first, which may
    // arrive before FRR has told the kernel so, and then it waits for the second.
    edit("BGPPeer", "router", &one(", holdTime: 3s, keepaliveTime: 1s"));
    established(&[]).unwrap();
    eventually("the attempt to fail", 40, || {
        let status = session("node1", "172.22.0.1")?;
        ensure!(status["bgpStatus"] != "Established" && status["lastError"].is_string(), "{status}");
        Ok(())
    });
    edit("BGPPeer", "router", &one(", ttlSecurityHops: 1"));
    established(&["172.22.0.11"]).unwrap();
}

/// The kernel of a test may know no VRF; to the socket, one is an interface like any other.
#[test]
fn a_session_in_a_vrf_stays_on_its_interface() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes bfd\n neighbor nodes bfd 3 300 300")).unwrap();
    let vrf = |vrf: &str| peer("172.22.0.1", &format!(", vrf: {vrf}, bfdProfile: slow"));
    let _objects = Objects::apply(&[
        ("BFDProfile", "slow", "{receiveInterval: 300, transmitInterval: 300}"),
        ("BGPPeer", "router", &vrf("eth0")),
    ]);
    until_sessions("172.22.0.1", "Established");
    eventually("BFD to be up", 30, || {
        let status = session("node1", "172.22.0.1")?;
        ensure!(status["bfdStatus"] == "up" && status["vrf"] == "eth0", "{status}");
        Ok(())
    });
    for (kind, port) in [("-t", 179), ("-u", 3784)] {
        // An address of a bound socket is shown with its interface.
        let sockets = output(on("node1", "ss").args([kind, "-anH"])).unwrap();
        let bound = |line: &&str| line.contains("%eth0:") && line.contains(&format!(":{port} "));
        assert!(sockets.lines().any(|line| bound(&line)), "{sockets}");
    }
    // From an interface that leads elsewhere the router is not reached, though the node reaches it.
    edit("BGPPeer", "router", &vrf("lo"));
    frr.0
        .until("no sessions", 40, |_| {
            let found = frr.established()?;
            ensure!(found.is_empty(), "{found:?}");
            Ok(())
        })
        .unwrap();
    edit("BGPPeer", "router", &vrf("eth9"));
    eventually("the missing interface to be told", 40, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(said.contains("cannot bind to \"eth9\""), "{status}");
        Ok(())
    });
}

#[test]
fn a_router_that_falls_silent_is_given_up_after_the_hold_time() {
    available();
    let frr = Frr::start("router", &frr(" neighbor nodes timers 1 3")).unwrap();
    let _objects =
        Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ", holdTime: 3s, keepaliveTime: 1s"))]);
    until_sessions("172.22.0.1", "Established");
    let silence = Silence::of("172.22.0.11");
    let downs = || -> anyhow::Result<usize> {
        let events = kube(&format!("-n {NAMESPACE} get events --field-selector reason=SessionDown"))?;
        let why = "node \"node1\" lost its session: sent Hold Timer Expired";
        Ok(events.lines().filter(|line| line.contains("bgppeer/router") && line.contains(why)).count())
    };
    let before = downs().unwrap();
    eventually("both ends to give up", 30, || {
        let status = session("node1", "172.22.0.1")?;
        let said = status["lastError"].as_str().unwrap_or_default();
        ensure!(status["bgpStatus"] != "Established" && said.contains("Hold Timer Expired"), "{status}");
        let found = frr.established()?;
        ensure!(found == ["172.22.0.12", "172.22.0.13"], "{found:?}");
        ensure!(downs()? > before, "no Event");
        Ok(())
    });
    drop(silence);
    until_sessions("172.22.0.1", "Established");
}

/// The router neither hears nor answers a node's BGP, until this value ends.
pub(crate) struct Silence;

impl Silence {
    pub(crate) fn of(node: &str) -> Self {
        let rules = [
            "nft add table ip silence".to_owned(),
            "nft add chain ip silence in { type filter hook input priority 0 ; }".to_owned(),
            "nft add chain ip silence out { type filter hook output priority 0 ; }".to_owned(),
            format!("nft add rule ip silence in ip saddr {node} meta l4proto tcp drop"),
            format!("nft add rule ip silence out ip daddr {node} meta l4proto tcp drop"),
        ];
        let silence = Self;
        for rule in rules {
            run_on("router", &rule).unwrap();
        }
        silence
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let removed = run_on("router", "nft delete table ip silence");
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}
