//! What a speaker knows about its node and the others, for a person who looks for the reason of something.
//!
//! The running speaker shows it as JSON beside its probes, on the loopback address, and beside its metrics, to whoever
//! may read those. `speaker --facts` prints it as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metallb_core::plan::{Interfaces, Plan};
use metallb_core::range::AddressRange;
use metallb_proto::layer2::link::Exclude;
use metallb_proto::layer2::mac_text;
use metallb_proto::membership::Roster;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::layer2::Standing;
use super::links::Snapshot;

/// Path of the page.
pub(super) const PATH: &str = "/facts";
/// Where kube-proxy shows its configuration by default.
const KUBE_PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10249);
/// Longest time that an answer on the loopback address takes.
const LIMIT: Duration = Duration::from_secs(2);

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    node: String,
    ports: Ports,
    kube_proxy: KubeProxy,
    members: Members,
    interfaces: BTreeMap<String, Interface>,
    announced: BTreeMap<IpAddr, Announced>,
    conflicts: BTreeMap<IpAddr, Conflict>,
    /// Left to other nodes, which announce them too, while the API server does not answer this one.
    #[serde(default)]
    yielded: BTreeSet<IpAddr>,
    /// Ranges of pools that are in no network of this node: their addresses need a route to it, since no neighbour asks
    /// for them.
    pools_outside: BTreeMap<String, Vec<String>>,
}

/// Ports that this speaker listens on; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    /// UDP and TCP, open between the nodes.
    pub(super) gossip: u16,
    /// HTTPS.
    pub(super) metrics: u16,
    /// HTTP on the loopback address.
    pub(super) probes: u16,
}

/// What takes the traffic from the node to the pods, as far as it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeProxy {
    mode: Option<String>,
    #[serde(rename = "strictARP")]
    strict_arp: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Members {
    /// Whether every other was heard or waited for.
    settled: bool,
    /// With the interfaces that can announce there; `null` where that is not known.
    alive: BTreeMap<String, Option<BTreeSet<String>>>,
    /// Nodes whose speaker is ready and was never heard.
    unheard: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    /// Why it does not announce; `null` when it does.
    ineligible: Option<String>,
    carrier: bool,
    ipv6: bool,
    addresses: Vec<String>,
    kernel: Kernel,
}

/// `/proc/sys/net/ipv4/conf`, each the greater of the interface's and that of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kernel {
    arp_ignore: Option<u8>,
    arp_announce: Option<u8>,
    rp_filter: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    /// Names of interfaces; all of the node's when empty.
    interfaces: BTreeSet<String>,
    /// Whether it is held back, because hosts are asked for it or one of them has it.
    withheld: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Conflict {
    mac: String,
    withheld: bool,
}

/// Where the speaker's knowledge is.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) node: String,
    pub(super) ports: Ports,
    pub(super) exclude: Exclude,
    pub(super) links: watch::Receiver<Snapshot>,
    pub(super) roster: watch::Receiver<Option<Roster>>,
    pub(super) plan: watch::Receiver<Arc<Plan>>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) pools: watch::Receiver<BTreeMap<String, Vec<AddressRange>>>,
}

impl Sources {
    /// All of it as JSON.
    pub(super) async fn json(&self) -> String {
        let kube_proxy = kube_proxy().await;
        serde_json::to_string_pretty(&self.about(kube_proxy)).unwrap_or_else(|error| error.to_string())
    }

    fn about(&self, kube_proxy: KubeProxy) -> About {
        let links = self.links.borrow().clone();
        let standing = self.standing.borrow().clone();
        let plan = self.plan.borrow().clone();
        About {
            node: self.node.clone(),
            ports: self.ports,
            kube_proxy,
            members: self.roster.borrow().as_ref().map(members).unwrap_or_default(),
            interfaces: interfaces(&links, &self.exclude),
            announced: announced(&plan, &standing),
            conflicts: standing
                .conflicts
                .iter()
                .map(|(address, found)| {
                    (*address, Conflict { mac: mac_text(found.mac), withheld: found.withheld })
                })
                .collect(),
            yielded: standing.yielded,
            pools_outside: outside(&links, &self.pools.borrow()),
        }
    }
}

fn members(roster: &Roster) -> Members {
    let alive = roster.members.iter();
    Members {
        settled: roster.settled,
        alive: alive
            .map(|(node, facts)| (node.clone(), facts.as_ref().map(|facts| facts.interfaces.clone())))
            .collect(),
        unheard: roster.unheard.clone(),
    }
}

fn interfaces(links: &Snapshot, exclude: &Exclude) -> BTreeMap<String, Interface> {
    let all = links.links.verdicts(exclude);
    all.map(|(index, name, verdict)| {
        let interface = Interface {
            ineligible: verdict.as_ref().err().map(ToString::to_string),
            carrier: verdict.as_ref().is_ok_and(|found| found.carrier),
            ipv6: verdict.as_ref().is_ok_and(|found| found.ipv6),
            addresses: links.links.addresses(index).map(|net| net.to_string()).collect(),
            kernel: Kernel {
                arp_ignore: setting(name, "arp_ignore"),
                arp_announce: setting(name, "arp_announce"),
                rp_filter: setting(name, "rp_filter"),
            },
        };
        (name.to_owned(), interface)
    })
    .collect()
}

/// A setting of the kernel as it counts: of an interface's and the one for all, the greater.
fn setting(interface: &str, name: &str) -> Option<u8> {
    let read = |of: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/{name}")).ok()?.trim().parse().ok()
    };
    read(interface).max(read("all"))
}

fn announced(plan: &Plan, standing: &Standing) -> BTreeMap<IpAddr, Announced> {
    let named = |interfaces: &Interfaces| match interfaces {
        Interfaces::All => BTreeSet::new(),
        Interfaces::Named(names) => names.clone(),
    };
    plan.announcements
        .iter()
        .map(|(address, interfaces)| {
            let withheld = !standing.announced.contains(address);
            (*address, Announced { interfaces: named(interfaces), withheld })
        })
        .collect()
}

fn outside(links: &Snapshot, pools: &BTreeMap<String, Vec<AddressRange>>) -> BTreeMap<String, Vec<String>> {
    let local: Vec<_> = links.eligible.keys().flat_map(|index| links.links.addresses(*index)).collect();
    let within = |range: &AddressRange| {
        local.iter().any(|net| net.contains(&range.first()) && net.contains(&range.last()))
    };
    let outside = |ranges: &[AddressRange]| -> Vec<String> {
        ranges.iter().filter(|range| !within(range)).map(ToString::to_string).collect()
    };
    let pools = pools.iter().map(|(name, ranges)| (name.clone(), outside(ranges)));
    pools.filter(|(_, ranges)| !ranges.is_empty()).collect()
}

/// What kube-proxy says of itself; it may be another program, or not show it.
async fn kube_proxy() -> KubeProxy {
    let Ok(text) = fetch(KUBE_PROXY, "/configz").await else { return KubeProxy::default() };
    let Ok(config) = serde_json::from_str::<Value>(&text) else { return KubeProxy::default() };
    let config = config.as_object().and_then(|all| all.values().next());
    let at = |path: &str| config.and_then(|config| config.pointer(path));
    KubeProxy {
        mode: at("/Mode").or_else(|| at("/mode")).and_then(Value::as_str).map(str::to_owned),
        strict_arp: at("/IPVS/StrictARP").or_else(|| at("/ipvs/strictARP")).and_then(Value::as_bool),
    }
}

/// Asks a server on the loopback address for a page.
async fn fetch(server: SocketAddr, path: &str) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        // HTTP/1.0: the answer ends with the connection, and comes in one piece.
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(LIMIT, exchange).await.context("no answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.split_whitespace().nth(1) == Some("200"), "{status}");
    Ok(body.to_owned())
}

/// Prints what the running speaker knows.
///
/// # Errors
/// When it does not answer.
pub(super) async fn print(probes: u16) -> anyhow::Result<()> {
    let server = SocketAddr::from(([127, 0, 0, 1], probes));
    let text = fetch(server, PATH).await.with_context(|| format!("the speaker at {server}"))?;
    tell(&serde_json::from_str::<About>(&text)?);
    Ok(())
}

/// Says it on standard output, where nothing else of this program goes while it answers.
fn tell(about: &About) {
    print!("{about}");
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &mut dyn Iterator<Item = String>| {
            let items: Vec<String> = items.collect();
            if items.is_empty() { "none".to_owned() } else { items.join(", ") }
        };
        let Ports { gossip, metrics, probes } = self.ports;
        writeln!(f, "node         {}", self.node)?;
        writeln!(
            f,
            "ports        gossip {gossip} (UDP and TCP), metrics {metrics}, probes {probes} (loopback)"
        )?;
        let mode = self.kube_proxy.mode.as_deref().unwrap_or("unknown");
        let strict = match self.kube_proxy.strict_arp {
            Some(strict) => format!(", strictARP {strict}"),
            None => String::new(),
        };
        writeln!(f, "kube-proxy   mode {mode}{strict}")?;
        let alive = self.members.alive.iter().map(|(node, interfaces)| match interfaces {
            Some(interfaces) => format!("{node} ({})", list(&mut interfaces.iter().cloned())),
            None => format!("{node} (interfaces unknown)"),
        });
        writeln!(f, "members      {}", list(&mut alive.collect::<Vec<_>>().into_iter()))?;
        if !self.members.settled {
            writeln!(f, "             others may not have been heard yet: nothing is announced")?;
        }
        if !self.members.unheard.is_empty() {
            writeln!(f, "             never heard: {}", list(&mut self.members.unheard.iter().cloned()))?;
        }
        for (name, interface) in &self.interfaces {
            writeln!(f, "interface    {name}: {interface}")?;
        }
        for (address, announced) in &self.announced {
            let on = if announced.interfaces.is_empty() {
                "all interfaces".to_owned()
            } else {
                list(&mut announced.interfaces.iter().cloned())
            };
            let held = if announced.withheld { ", withheld" } else { "" };
            writeln!(f, "announced    {address} on {on}{held}")?;
        }
        for (address, conflict) in &self.conflicts {
            writeln!(f, "conflict     {address} is at {}", conflict.mac)?;
        }
        for address in &self.yielded {
            writeln!(
                f,
                "yielded      {address}: another node announces it, and the API server does not answer"
            )?;
        }
        for (pool, ranges) in &self.pools_outside {
            writeln!(f, "pool         {pool}: in no network of this node: {}", ranges.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ineligible {
            Some(reason) => write!(f, "does not announce: {reason}")?,
            None if !self.carrier => f.write_str("does not announce: no carrier")?,
            None if self.ipv6 => f.write_str("announces IPv4 and IPv6")?,
            None => f.write_str("announces IPv4; IPv6 needs a link-local address")?,
        }
        for address in &self.addresses {
            write!(f, ", {address}")?;
        }
        let Kernel { arp_ignore, arp_announce, rp_filter } = &self.kernel;
        for (name, value) in
            [("arp_ignore", arp_ignore), ("arp_announce", arp_announce), ("rp_filter", rp_filter)]
        {
            if let Some(value) = value {
                write!(f, ", {name} {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        let interface = |ineligible: Option<&str>, addresses: &[&str]| Interface {
            ineligible: ineligible.map(str::to_owned),
            carrier: ineligible.is_none(),
            ipv6: ineligible.is_none(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            kernel: Kernel { arp_ignore: Some(0), arp_announce: None, rp_filter: Some(2) },
        };
        About {
            node: "node1".to_owned(),
            ports: Ports { gossip: 7946, metrics: 9120, probes: 17472 },
            kube_proxy: KubeProxy { mode: Some("ipvs".to_owned()), strict_arp: Some(false) },
            members: Members {
                settled: true,
                alive: [("node1".to_owned(), Some(["eth0".to_owned()].into())), ("node2".to_owned(), None)]
                    .into(),
                unheard: ["node3".to_owned()].into(),
            },
            interfaces: [
                ("eth0".to_owned(), interface(None, &["172.22.0.11/24"])),
                ("lo".to_owned(), interface(Some("excluded by name"), &[])),
            ]
            .into(),
            announced: [(
                "172.22.0.100".parse().unwrap(),
                Announced { interfaces: BTreeSet::new(), withheld: true },
            )]
            .into(),
            conflicts: [(
                "172.22.0.100".parse().unwrap(),
                Conflict { mac: "02:00:00:00:00:09".to_owned(), withheld: true },
            )]
            .into(),
            yielded: ["172.22.0.101".parse().unwrap()].into(),
            pools_outside: [("far".to_owned(), vec!["192.0.2.0/24".to_owned()])].into(),
        }
    }

    #[test]
    fn the_text_tells_everything_that_json_does() {
        let json = serde_json::to_string(&about()).unwrap();
        let text = serde_json::from_str::<About>(&json).unwrap().to_string();
        assert_eq!(
            text,
            "node         node1\n\
             ports        gossip 7946 (UDP and TCP), metrics 9120, probes 17472 (loopback)\n\
             kube-proxy   mode ipvs, strictARP false\n\
             members      node1 (eth0), node2 (interfaces unknown)\n             \
             never heard: node3\n\
             interface    eth0: announces IPv4 and IPv6, 172.22.0.11/24, arp_ignore 0, rp_filter 2\n\
             interface    lo: does not announce: excluded by name, arp_ignore 0, rp_filter 2\n\
             announced    172.22.0.100 on all interfaces, withheld\n\
             conflict     172.22.0.100 is at 02:00:00:00:00:09\n\
             yielded      172.22.0.101: another node announces it, and the API server does not answer\n\
             pool         far: in no network of this node: 192.0.2.0/24\n"
        );
    }
}
