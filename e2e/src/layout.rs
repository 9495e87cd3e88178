//! Names, addresses and places of the cluster.

use std::path::{Path, PathBuf};

/// Where everything of the cluster is kept; only one cluster runs on a machine.
pub const STATE: &str = "/srv/metallb-lab";
/// Sockets, whose paths must be short.
pub const RUN: &str = "/run/metallb-lab";
/// What the network namespaces' names begin with, so that they do not clash with others on the machine.
pub const NETNS_PREFIX: &str = "mlb-";
/// What the nodes' cgroups begin with.
pub const CGROUP_PREFIX: &str = "mlb-";
/// Address of the API server.
pub const API_SERVER: &str = "https://172.22.0.10:6443";

/// A host of the cluster's network: one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// cp, node1.., client, router or remote.
    pub name: String,
    /// Last byte of its addresses in 172.22.0.0/24 and fd00:22::/64; 0 for a host that is not on that network.
    pub number: u8,
}

impl Host {
    fn new(name: &str, number: u8) -> Self {
        Self { name: name.to_owned(), number }
    }

    /// Name of its network namespace.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("{NETNS_PREFIX}{}", self.name)
    }

    /// IPv4 address on the common network.
    #[must_use]
    pub fn v4(&self) -> String {
        format!("172.22.0.{}", self.number)
    }

    /// IPv6 address on the common network.
    #[must_use]
    pub fn v6(&self) -> String {
        format!("fd00:22::{}", self.number)
    }

    /// Port of a further switch that the host hangs on.
    #[must_use]
    pub fn second_port(&self, switch: &str) -> String {
        format!("{switch}-{}", self.name)
    }

    /// Port of the switch that the host hangs on.
    #[must_use]
    pub fn switch_port(&self) -> String {
        format!("p-{}", self.name)
    }
}

/// The control plane.
#[must_use]
pub fn cp() -> Host {
    Host::new("cp", 10)
}

/// Node `index`, from 1.
#[must_use]
pub fn node(index: u8) -> Host {
    Host::new(&format!("node{index}"), 10 + index)
}

/// The client outside the cluster.
#[must_use]
pub fn client() -> Host {
    Host::new("client", 100)
}

/// The router, also every host's default gateway.
#[must_use]
pub fn router() -> Host {
    Host::new("router", 1)
}

/// The host behind the router.
#[must_use]
pub fn remote() -> Host {
    Host::new("remote", 0)
}

/// Every host of a cluster of `nodes` nodes, but for `remote` all on the common network.
#[must_use]
pub fn hosts(nodes: u8) -> Vec<Host> {
    [cp()].into_iter().chain((1..=nodes).map(node)).chain([client(), router(), remote()]).collect()
}

/// Pod range of node `index`, IPv4 and IPv6.
#[must_use]
pub fn pod_ranges(index: u8) -> (String, String) {
    (format!("10.244.{index}.0/24"), format!("fd00:244:0:{index}::/64"))
}

/// A file or folder of the cluster's state.
#[must_use]
pub fn state(path: &str) -> PathBuf {
    Path::new(STATE).join(path)
}

/// The administrator's kubeconfig, usable on host cp.
#[must_use]
pub fn kubeconfig() -> PathBuf {
    state("pki/admin.conf")
}

/// The API server's audit log.
#[must_use]
pub fn audit_log() -> PathBuf {
    state("log/audit.log")
}

/// The programs of the cluster, as a link into the cache.
#[must_use]
pub fn bin(program: &str) -> PathBuf {
    state("bin").join(program)
}
