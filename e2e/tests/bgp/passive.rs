//! Routers that open the connections.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::ensure;
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::run_on,
    layout::router,
    observe::{condition, get, kube},
    router::Frr,
};

use crate::fixture::{available, eventually};
use crate::peers::{Objects, peer, session};

/// A link of node1 to the router, which ends with this value. The kernel of a test may know no VRF; to a socket, one is an
/// interface like any other.
struct Late;

impl Late {
    fn link() -> Self {
        let far = router();
        run_on("node1", &format!("ip link add late0 type veth peer name late0 netns {}", far.netns()))
            .unwrap();
        let link = Self;
        for (host, address) in [("node1", "172.25.0.2/30"), (far.name.as_str(), "172.25.0.1/30")] {
            run_on(host, &format!("ip addr add {address} dev late0")).unwrap();
            run_on(host, "ip link set late0 up").unwrap();
        }
        link
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        let removed = run_on("node1", "ip link del late0");
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

fn listen(listen: &str) {
    let patch = format!("{{\"spec\":{{\"speakerConfig\":{{\"bgpListen\":{listen}}}}}}}");
    kube(&format!("-n {NAMESPACE} patch metallb metallb --type=merge -p {patch}")).unwrap();
}

/// Checks the last error that node1 tells of its session with a router.
fn error(router: &str, start: &str) -> anyhow::Result<()> {
    let status = session("node1", router)?;
    let said = status["lastError"].as_str().unwrap_or_default();
    ensure!(said.starts_with(start) && said.is_empty() == start.is_empty(), "{status}");
    Ok(())
}

/// Checks condition NotListening of a BGPPeer: status and reason.
fn listening(peer: &str, want: (&str, &str)) -> anyhow::Result<()> {
    let found = condition(&get(&["-n", NAMESPACE, "bgppeer", peer])?, "NotListening");
    let (status, reason, message) = found.unwrap_or_default();
    ensure!((status.as_str(), reason.as_str()) == want, "{status} {reason} {message}");
    ensure!(status == "False" || message.contains("connect to node1"), "{message}");
    Ok(())
}

#[test]
fn a_router_connects_to_passive_peers_where_the_speakers_listen() {
    available();
    // By two links of node1, on which its address and the passwords are those of two routers, and later by a third one.
    let config = "router bgp 64513\n bgp router-id 172.22.0.1\n no bgp ebgp-requires-policy\n \
                  neighbor 172.22.0.11 remote-as 64512\n neighbor 172.22.0.11 password secret\n \
                  neighbor 172.22.0.11 timers connect 3\n \
                  neighbor 172.23.0.2 remote-as 64512\n neighbor 172.23.0.2 password another\n \
                  neighbor 172.23.0.2 update-source 172.22.0.1\n neighbor 172.23.0.2 timers connect 3\n \
                  neighbor 172.25.0.2 remote-as 64512\n neighbor 172.25.0.2 password third\n \
                  neighbor 172.25.0.2 timers connect 3\n";
    let frr = Frr::start("router", config).unwrap();
    let one = |router: &str, password: &str, vrf: &str| {
        let node = "nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]";
        peer(router, &format!(", passive: true, password: {password}, vrf: {vrf}, {node}"))
    };
    let _objects = Objects::apply(&[
        ("BGPPeer", "router", &one("172.22.0.1", "secret", "eth0")),
        ("BGPPeer", "router-of-the-link", &one("172.22.0.1", "another", "eth1")),
        ("BGPPeer", "router-to-come", &one("172.25.0.1", "third", "late0")),
    ]);
    eventually("the missing listener to be told", 20, || {
        error("172.22.0.1", "passive needs speakerConfig.bgpListen of the MetalLB resource")?;
        listening("router", ("True", "BGPListenOff"))?;
        listening("router-to-come", ("True", "BGPListenOff"))
    });
    let established = |want: &[&str], seconds: u64| {
        frr.0.until(&format!("sessions that the router opened with {want:?}"), seconds, |_| {
            let found = frr.established()?;
            ensure!(found == want, "{found:?}");
            Ok(())
        })
    };
    listen("true");
    let shown = catch_unwind(AssertUnwindSafe(|| {
        established(&["172.22.0.11", "172.23.0.2"], 90).unwrap();
        eventually("the missing interface to be told", 20, || {
            error(
                "172.25.0.1",
                "CannotListen: routers cannot connect to this node on \"late0\": there is no such interface",
            )?;
            listening("router-to-come", ("True", "CannotListen"))?;
            listening("router", ("False", "Listening"))
        });
        // No object changes: the interface comes.
        let _link = Late::link();
        established(&["172.22.0.11", "172.23.0.2", "172.25.0.2"], 20).unwrap();
        eventually("nothing to be missing", 20, || {
            error("172.25.0.1", "")?;
            listening("router-to-come", ("False", "Listening"))
        });
    }));
    listen("null");
    shown.unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=120s")).unwrap();
}
