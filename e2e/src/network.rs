//! The hosts' network: a bridge as the switch, one veth pair a host, and the routes between pod ranges.
//!
//! ```text
//!  cp .10   node1 .11   node2 .12 ...   client .100   router .1       br0: 172.22.0.0/24, fd00:22::/64
//!                                                     router .254     br1: 172.24.0.0/24, fd00:24::/64   remote .2
//!           node1 .2                                  router .1       br2: 172.23.0.0/30, fd00:23::/64
//! ```

use anyhow::Result;

use crate::{
    exec::{run, run_on},
    layout::{Host, NETNS_PREFIX, client, cp, hosts, node, pod_ranges, remote, router},
};

/// Makes every namespace, link, address and route.
pub(crate) fn create(nodes: u8) -> Result<()> {
    run(&format!("ip netns add {NETNS_PREFIX}lan"))?;
    bridge("br0")?;
    let all = hosts(nodes);
    for host in &all {
        run(&format!("ip netns add {}", host.netns()))?;
        run_on(&host.name, "ip link set lo up")?;
        if host.number > 0 {
            attach(host)?;
        }
    }
    for (switch, ends) in [
        (
            "br1",
            [
                (router(), "eth1", "172.24.0.254/24", "fd00:24::254/64"),
                (remote(), "eth0", "172.24.0.2/24", "fd00:24::2/64"),
            ],
        ),
        (
            "br2",
            [
                (router(), "eth2", "172.23.0.1/30", "fd00:23::1/64"),
                (node(1), "eth1", "172.23.0.2/30", "fd00:23::2/64"),
            ],
        ),
    ] {
        bridge(switch)?;
        for (host, link, v4, v6) in ends {
            plug(&host, link, switch, &host.second_port(switch))?;
            address(&host, link, v4, v6)?;
        }
    }
    for host in &all {
        if host.number > 0 && *host != router() {
            run_on(&host.name, &format!("ip route add default via {}", router().v4()))?;
            run_on(&host.name, &format!("ip -6 route add default via {}", router().v6()))?;
        }
    }
    run_on("remote", "ip route add default via 172.24.0.254")?;
    run_on("remote", "ip -6 route add default via fd00:24::254")?;
    for from in (1..=nodes).map(node).chain([cp(), client(), router()]) {
        for to in (1..=nodes).filter(|index| node(*index) != from) {
            let (v4, v6) = pod_ranges(to);
            run_on(&from.name, &format!("ip route add {v4} via {}", node(to).v4()))?;
            run_on(&from.name, &format!("ip -6 route add {v6} via {}", node(to).v6()))?;
        }
    }
    Ok(())
}

fn bridge(name: &str) -> Result<()> {
    // Multicast is flooded: snooping without a querier would lose neighbour discovery after a while.
    run_on("lan", &format!("ip link add {name} type bridge mcast_snooping 0"))?;
    run_on("lan", &format!("ip link set {name} up"))
}

fn attach(host: &Host) -> Result<()> {
    plug(host, "eth0", "br0", &host.switch_port())?;
    if *host != client() {
        // Ports count in the choice of the way, as most routers have it.
        let (forwarding, hash) =
            ("ip_forward=1 net.ipv6.conf.all.forwarding=1", "fib_multipath_hash_policy=1");
        run_on(&host.name, &format!("sysctl -qw net.ipv4.{forwarding} net.ipv4.{hash} net.ipv6.{hash}"))?;
    }
    address(host, "eth0", &format!("{}/24", host.v4()), &format!("{}/64", host.v6()))
}

/// A cable from `host` to a port of a switch.
fn plug(host: &Host, link: &str, switch: &str, port: &str) -> Result<()> {
    run_on("lan", &format!("ip link add {port} type veth peer name {link} netns {}", host.netns()))?;
    run_on("lan", &format!("ip link set {port} master {switch} up"))
}

fn address(host: &Host, link: &str, v4: &str, v6: &str) -> Result<()> {
    run_on(&host.name, &format!("ip addr add {v4} dev {link}"))?;
    run_on(&host.name, &format!("ip -6 addr add {v6} dev {link} nodad"))?;
    run_on(&host.name, &format!("ip link set {link} up"))
}
