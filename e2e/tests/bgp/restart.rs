//! What routers and clients see of a rollout of the speakers, and of a node that goes.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    deploy::NAMESPACE,
    held,
    layout::remote,
    observe::{address, apply, kube},
    router::{Bird, Frr},
};
use nix::sched::{CloneFlags, setns};

use crate::fixture::{available, eventually};
use crate::others::BIRD;
use crate::peers::{Objects, frr, peer, scene, session, until_sessions};

/// Connections that are held while the speakers are replaced.
const CONNECTIONS: usize = 200;

/// Connections of host remote, each of which is answered.
pub(crate) struct Connections(Vec<TcpStream>);

impl Connections {
    pub(crate) fn open(address: IpAddr) -> Result<Self> {
        let open = move || {
            // Only this thread moves to the client's network.
            setns(File::open(format!("/run/netns/{}", remote().netns()))?, CloneFlags::CLONE_NEWNET)?;
            let mut streams = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect_timeout(
                    &SocketAddr::new(address, held::PORT),
                    Duration::from_secs(5),
                )?;
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                // Answered before the next one is opened: a small server keeps few that it has not accepted yet.
                exchange(&mut stream)?;
                streams.push(stream);
            }
            anyhow::Ok(streams)
        };
        let streams =
            std::thread::spawn(open).join().map_err(|_| anyhow::anyhow!("the client broke off"))??;
        Ok(Self(streams))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Says something over each, and hears it back.
    pub(crate) fn speak(&mut self) -> Result<()> {
        for (index, stream) in self.0.iter_mut().enumerate() {
            exchange(stream).with_context(|| format!("connection {index}"))?;
        }
        Ok(())
    }
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    let mut heard = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut heard)?;
    ensure!(heard == *b"ping", "heard {heard:?}");
    Ok(())
}

/// Replaces the speakers one by one, and does not wait for it.
pub(crate) fn roll_out() {
    kube(&format!("-n {NAMESPACE} rollout restart daemonset/speaker")).unwrap();
}

/// A router, as these tests ask it.
enum Router {
    Frr(Frr),
    Bird(Bird),
}

impl Router {
    /// Number of paths to an address.
    fn paths(&self, address: IpAddr) -> Result<usize> {
        match self {
            Self::Frr(frr) => Ok(frr.paths(&address.to_string())?.len()),
            Self::Bird(bird) => {
                Ok(bird.ask(&format!("show route all for {address}"))?.matches("BGP.next_hop").count())
            }
        }
    }

    /// Number of NOTIFICATIONs that BIRD logged; FRR forgets the neighbors of a range with their sessions.
    fn notifications(&self) -> usize {
        match self {
            Self::Frr(_) => 0,
            Self::Bird(bird) => {
                let log = std::fs::read_to_string(bird.0.file("bird.log")).unwrap_or_default();
                log.lines().filter(|line| line.contains(": Received: ")).count()
            }
        }
    }

    fn until(&self, what: &str, seconds: u64, check: impl Fn() -> Result<()>) {
        let (Self::Frr(Frr(router)) | Self::Bird(Bird(router))) = self;
        router.until(what, seconds, |_| check()).unwrap();
    }
}

/// Rolls the speakers out while connections stand, and returns the least number of paths that the router had meanwhile.
fn paths_in_a_rollout(
    (name, range): (&'static str, &str),
    router: impl FnOnce() -> Result<Router>,
    more_peer: &str,
) -> usize {
    available();
    let router = router().unwrap();
    let _objects = Objects::apply(&[
        ("BFDProfile", "slow", "{receiveInterval: 300, transmitInterval: 300}"),
        ("BGPPeer", "router", &peer("172.22.0.1", more_peer)),
    ]);
    let scene = scene(name, range, "");
    let family = if range.contains(':') { "IPv6" } else { "IPv4" };
    let echo = held::echo(name, name);
    apply(&echo.replace("type: LoadBalancer,", &format!("type: LoadBalancer, ipFamilies: [{family}],")))
        .unwrap();
    kube(&format!("-n {name} rollout status deployment/echo --timeout=60s")).unwrap();
    let address = address(scene.name, "echo").unwrap();
    until_sessions("172.22.0.1", "Established");
    router.until("three paths", 30, || {
        let found = router.paths(address)?;
        ensure!(found == 3, "{found} paths");
        Ok(())
    });
    let mut connections = None;
    eventually("200 connections", 20, || {
        connections = Some(Connections::open(address)?);
        Ok(())
    });
    let mut connections = connections.unwrap();
    connections.speak().unwrap();
    let notifications = router.notifications();
    roll_out();
    let mut least = 3;
    eventually("the rollout to end", 150, || {
        least = least.min(router.paths(address)?);
        connections.speak().map_err(|error| {
            eprintln!("{error:#}");
            error
        })?;
        let said = kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --watch=false"))?;
        ensure!(said.contains("successfully rolled out"), "{said}");
        Ok(())
    });
    connections.speak().unwrap();
    until_sessions("172.22.0.1", "Established");
    connections.speak().unwrap();
    assert_eq!(router.notifications(), notifications, "a session that comes back ends without a word");
    least
}

/// FRR with these lines of its BGP.
fn frr_with(more: &str) -> Result<Router> {
    Frr::start("router", &frr(more)).map(Router::Frr)
}

#[test]
fn a_rollout_under_graceful_restart_costs_no_path_and_no_connection() {
    // As it comes, FRR restarts nothing of its own and helps others to.
    let least = paths_in_a_rollout(
        ("bgp-roll-a", "[198.51.100.68/30]"),
        || frr_with(""),
        ", enableGracefulRestart: true",
    );
    assert_eq!(least, 3, "paths at the worst moment");
}

#[test]
fn a_rollout_under_graceful_restart_costs_no_connection_with_bfd_either() {
    let lines = " bgp graceful-restart\n neighbor nodes bfd\n neighbor nodes bfd check-control-plane-failure";
    let least = paths_in_a_rollout(
        ("bgp-roll-b", "[198.51.100.64/30]"),
        || frr_with(lines),
        ", enableGracefulRestart: true, bfdProfile: slow",
    );
    println!("paths at the worst moment of a rollout with BFD: {least}");
    assert_eq!(least, 3, "paths at the worst moment");
}

#[test]
fn a_rollout_under_graceful_restart_costs_bird_no_path_and_no_connection() {
    let least = paths_in_a_rollout(
        ("bgp-roll-c", "[198.51.100.104/30]"),
        || Bird::start("router", BIRD).map(Router::Bird),
        ", enableGracefulRestart: true",
    );
    assert_eq!(least, 3, "paths at the worst moment");
}

#[test]
fn a_rollout_under_graceful_restart_costs_bird_no_ipv6_path_and_no_connection_either() {
    let least = paths_in_a_rollout(
        ("bgp-roll-e", "[2001:db8:100::160/126]"),
        || Bird::start("router", BIRD).map(Router::Bird),
        ", enableGracefulRestart: true, dualStackAddressFamily: true",
    );
    assert_eq!(least, 3, "paths at the worst moment");
}

#[test]
fn a_rollout_under_graceful_restart_costs_bird_no_connection_with_bfd_either() {
    let config = BIRD
        .replace("  graceful restart on;\n", "  graceful restart on;\n  bfd graceful;\n")
        .replace("protocol device {}\n", "protocol device {}\nprotocol bfd {}\n");
    let least = paths_in_a_rollout(
        ("bgp-roll-d", "[198.51.100.108/30]"),
        || Bird::start("router", &config).map(Router::Bird),
        ", enableGracefulRestart: true, bfdProfile: slow",
    );
    assert_eq!(least, 3, "paths at the worst moment");
}

#[test]
fn a_node_that_leaves_asks_for_other_paths_before_it_withdraws_its_own() {
    available();
    let frr = Frr::start("router", &frr(" bgp graceful-restart")).unwrap();
    let _objects =
        Objects::apply(&[("BGPPeer", "router", &peer("172.22.0.1", ", enableGracefulRestart: true"))]);
    let scene = scene("bgp-leave", "[198.51.100.72/30]", "");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap().to_string();
    until_sessions("172.22.0.1", "Established");
    kube("label node node3 bgp-leave=yes").unwrap();
    // The speaker is not wanted on the node any more, and its pod ends.
    let selector = "{\"spec\":{\"nodeSelector\":{\"bgp-leave\":\"no\"}}}";
    let label = |value: &str| {
        for node in ["node1", "node2"] {
            kube(&format!("label node {node} bgp-leave={value} --overwrite")).unwrap();
        }
    };
    label("no");
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {selector}")).unwrap();
    let mut asked = false;
    let left = frr.0.until("the path of node3 to go", 60, |_| {
        let paths = frr.paths(&address)?;
        asked |= paths.iter().any(|path| {
            path["community"]["string"]
                .as_str()
                .is_some_and(|communities| communities.contains("graceful-shutdown"))
        });
        let of_node3 = paths.iter().any(|path| path["nexthops"][0]["ip"] == "172.22.0.13");
        ensure!(asked && !of_node3, "asked for other paths: {asked}; {paths:?}");
        Ok(())
    });
    kube(&format!(
        "-n {NAMESPACE} patch metallb metallb --type=merge -p {{\"spec\":{{\"nodeSelector\":null}}}}"
    ))
    .unwrap();
    for node in ["node1", "node2", "node3"] {
        kube(&format!("label node {node} bgp-leave-")).unwrap();
    }
    left.unwrap();
    eventually("node3 to be back", 60, || {
        let status = session("node3", "172.22.0.1")?;
        ensure!(status["bgpStatus"] == "Established", "{status}");
        Ok(())
    });
}
