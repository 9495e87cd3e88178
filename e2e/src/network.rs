//! The hosts' network: a bridge as the switch, one veth pair a host, and the routes between pod ranges.
//!
//! ```text
//!  cp .10   node1 .11   node2 .12 ...   client .100   router .254      172.22.0.0/24, fd00:22::/64
//!    |         |           |                |           |  |  |
//!    +---------+-----------+----- br0 ------+-----------+  |  +--- remote   172.24.0.0/24, fd00:24::/64
//!              +------------------------------------------ +       172.23.0.0/30, fd00:23::/64 (eth1 of both)
//! ```

use anyhow::Result;

use crate::{
    exec::{run, run_on},
    layout::{Host, NETNS_PREFIX, client, cp, hosts, node, pod_ranges, remote, router},
};

/// Makes every namespace, link, address and route.
pub(crate) fn create(nodes: u8) -> Result<()> {
    run(&format!("ip netns add {NETNS_PREFIX}lan"))?;
    // Multicast is flooded: snooping without a querier would lose neighbour discovery after a while.
    run_on("lan", "ip link add br0 type bridge mcast_snooping 0")?;
    run_on("lan", "ip link set br0 up")?;
    let all = hosts(nodes);
    for host in &all {
        run(&format!("ip netns add {}", host.netns()))?;
        run_on(&host.name, "ip link set lo up")?;
        if host.number > 0 {
            attach(host)?;
        }
    }
    link(
        &router(),
        "eth1",
        "172.24.0.254/24",
        "fd00:24::254/64",
        &remote(),
        "eth0",
        "172.24.0.2/24",
        "fd00:24::2/64",
    )?;
    link(
        &router(),
        "eth2",
        "172.23.0.1/30",
        "fd00:23::1/64",
        &node(1),
        "eth1",
        "172.23.0.2/30",
        "fd00:23::2/64",
    )?;
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

fn attach(host: &Host) -> Result<()> {
    let port = host.switch_port();
    run_on("lan", &format!("ip link add {port} type veth peer name eth0 netns {}", host.netns()))?;
    run_on("lan", &format!("ip link set {port} master br0 up"))?;
    forwarding(host)?;
    address(host, "eth0", &format!("{}/24", host.v4()), &format!("{}/64", host.v6()))
}

#[allow(clippy::too_many_arguments, reason = "two ends of one cable, four words each")]
fn link(
    a: &Host,
    a_name: &str,
    a_v4: &str,
    a_v6: &str,
    b: &Host,
    b_name: &str,
    b_v4: &str,
    b_v6: &str,
) -> Result<()> {
    run_on(&a.name, &format!("ip link add {a_name} type veth peer name {b_name} netns {}", b.netns()))?;
    address(a, a_name, a_v4, a_v6)?;
    address(b, b_name, b_v4, b_v6)
}

fn address(host: &Host, link: &str, v4: &str, v6: &str) -> Result<()> {
    run_on(&host.name, &format!("ip addr add {v4} dev {link}"))?;
    run_on(&host.name, &format!("ip -6 addr add {v6} dev {link} nodad"))?;
    run_on(&host.name, &format!("ip link set {link} up"))
}

fn forwarding(host: &Host) -> Result<()> {
    if *host == client() {
        return Ok(());
    }
    run_on(&host.name, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
}
