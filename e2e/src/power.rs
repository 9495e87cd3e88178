//! Powering nodes off and on.

use std::{fs, os::unix::fs::MetadataExt, str::FromStr};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::{nodes, refuse_external},
    exec::run_on,
    layout::{NETNS_PREFIX, cp, node},
};

/// How a node is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The switch drops the node's frames while its carrier stays, as behind a dead switch or after a power cut seen
    /// from the others.
    #[default]
    Dark,
    /// The node loses its carrier, and can know it.
    Link,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dark" => Ok(Self::Dark),
            "link" => Ok(Self::Link),
            other => Err(format!("{other:?} is neither dark nor link")),
        }
    }
}

/// Cuts the node off.
///
/// # Errors
/// When there is no such node or cluster.
pub fn off(name: &str, mode: Mode) -> Result<()> {
    for port in ports(name)? {
        match mode {
            Mode::Dark => run_on("lan", &format!("bridge link set dev {port} state 0"))?,
            Mode::Link => run_on("lan", &format!("ip link set {port} down"))?,
        }
    }
    Ok(())
}

/// Connects the node again, whichever way it was cut off.
///
/// # Errors
/// As [`off`].
pub fn on(name: &str) -> Result<()> {
    for port in ports(name)? {
        run_on("lan", &format!("ip link set {port} up"))?;
        run_on("lan", &format!("bridge link set dev {port} state 3"))?;
    }
    Ok(())
}

/// Cuts a node off from the other nodes, and not from the client and the control plane.
///
/// # Errors
/// When there is no other node, or no cluster.
pub fn part(name: &str) -> Result<()> {
    let index = index(name)?;
    let port = node(index).switch_port();
    let others: Vec<String> =
        (1..=nodes()?).filter(|other| *other != index).map(|other| node(other).switch_port()).collect();
    ensure!(!others.is_empty(), "one node cannot be parted");
    let rules = others.iter().flat_map(|other| {
        [format!("iifname {port} oifname {other}"), format!("iifname {other} oifname {port}")]
    });
    drop_frames("halves", rules)
}

/// Undoes [`part`].
///
/// # Errors
/// When nothing was parted.
pub fn meet() -> Result<()> {
    pass_frames("halves")
}

/// Drops what a node and the API server send to each other over IPv4, and nothing else, until [`inform`].
///
/// # Errors
/// When there is no such node or cluster.
pub fn blind(name: &str) -> Result<()> {
    let port = node(index(name)?).switch_port();
    let server = cp().v4();
    let rules = [format!("iifname {port} ip daddr {server}"), format!("oifname {port} ip saddr {server}")];
    drop_frames("blind", rules)
}

/// Undoes [`blind`].
///
/// # Errors
/// When no node was blind.
pub fn inform() -> Result<()> {
    pass_frames("blind")
}

/// Has the switch drop what matches one of `rules`, in nft's words, until [`pass_frames`] of the same name.
///
/// # Errors
/// When there is no cluster, or frames are dropped by that name already.
pub fn drop_frames(name: &str, rules: impl IntoIterator<Item = String>) -> Result<()> {
    run_on("lan", &format!("nft add table bridge {name}"))?;
    let hook = "{ type filter hook forward priority 0; }";
    run_on("lan", &format!("nft add chain bridge {name} forward {hook}"))?;
    for rule in rules {
        run_on("lan", &format!("nft add rule bridge {name} forward {rule} drop"))?;
    }
    Ok(())
}

/// Undoes [`drop_frames`].
///
/// # Errors
/// When nothing was dropped by that name.
pub fn pass_frames(name: &str) -> Result<()> {
    run_on("lan", &format!("nft delete table bridge {name}"))
}

/// The processes of a host's own network that were started as `name`, such as its speaker.
///
/// # Errors
/// When there is no such host.
pub fn processes(host: &str, name: &str) -> Result<Vec<i32>> {
    let namespace = fs::metadata(format!("/run/netns/{NETNS_PREFIX}{host}")).context(host.to_owned())?.ino();
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    Ok(pids
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|found| found.ino() == namespace))
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
        .collect())
}

/// Sends a signal to every process of [`processes`].
///
/// # Errors
/// When there is none.
pub fn signal(host: &str, name: &str, signal: Signal) -> Result<()> {
    refuse_external("ending programs")?;
    let found = processes(host, name)?;
    ensure!(!found.is_empty(), "no process {name} on {host}");
    for pid in found {
        kill(Pid::from_raw(pid), signal)?;
    }
    Ok(())
}

/// Starts the kubelet of a node again after it was ended.
///
/// # Errors
/// When there is no such node.
pub fn start_kubelet(name: &str) -> Result<()> {
    crate::node::start_kubelet(index(name)?)
}

/// The number of a node.
fn index(name: &str) -> Result<u8> {
    refuse_external("powering nodes off and on")?;
    let index = name.strip_prefix("node").and_then(|index| index.parse().ok()).filter(|index| *index > 0);
    index.with_context(|| format!("NODE={name:?} is not the name of a node, such as node2"))
}

/// The switches' ports that the node hangs on.
fn ports(name: &str) -> Result<Vec<String>> {
    let index = index(name)?;
    let host = node(index);
    let second = (index == 1).then(|| host.second_port("br2"));
    Ok([host.switch_port()].into_iter().chain(second).collect())
}
