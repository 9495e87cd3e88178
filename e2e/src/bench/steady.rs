//! Cases in which nothing may move: what is wrong is no death of a node.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use metallb_e2e::{
    cluster::nodes,
    layout::node,
    observe::owner,
    options::{self, Undo},
    outage::Client,
    plane::subject::usage,
    power,
    wire::{self, Watch},
};
use nix::sys::signal::Signal;

use super::{count, ms};

/// What is wrong all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Every twentieth packet between the hosts is lost.
    Loss,
    /// The speaker of the announcing node gets a twentieth of a core.
    Throttled,
    /// All of UDP port 7946 is dropped.
    NoUdp,
    /// The announcing speaker stands still for three seconds, again and again, with `detection: Tolerant`.
    Stalls,
}

pub(crate) const CASES: [(&str, Case); 4] =
    [("loss", Case::Loss), ("throttled", Case::Throttled), ("no-udp", Case::NoUdp), ("stalls", Case::Stalls)];

/// How long a speaker stands still, and how long it runs in between.
const STALL: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(7));
/// Part of a core that a throttled speaker gets, as time of each period of 100 ms.
const QUOTA_US: &str = "5000";

/// Lets a case last for `time` and tells what moved: the figures that have to be 0, and others.
pub(crate) fn run(case: Case, address: IpAddr, time: Duration) -> Result<BTreeMap<&'static str, f64>> {
    let _options = (case == Case::Stalls)
        .then(|| options::layer2(r#"{"detection":"Tolerant"}"#, "--detection=Tolerant"))
        .transpose()?;
    let before = owner(address)?;
    let mend = Undo(|| {
        let _ = power::pass_frames("lossy");
        for index in 1..=nodes().unwrap_or(0) {
            let name = node(index).name;
            let _ = power::signal(&name, "speaker", Signal::SIGCONT);
            let _ = throttle(&name, "-1");
        }
    });
    let (watch, client) = (Watch::start(address)?, Client::start(address));
    match case {
        Case::Loss => power::drop_frames("lossy", ["numgen random mod 20 == 0".to_owned()])?,
        Case::NoUdp => power::drop_frames("lossy", ["udp dport 7946".to_owned()])?,
        Case::Throttled => throttle(&before, QUOTA_US)?,
        Case::Stalls => {}
    }
    let start = Instant::now();
    while start.elapsed() < time {
        if case == Case::Stalls {
            power::signal(&before, "speaker", Signal::SIGSTOP)?;
            std::thread::sleep(STALL.0);
            power::signal(&before, "speaker", Signal::SIGCONT)?;
            std::thread::sleep(STALL.1);
        } else {
            std::thread::sleep(Duration::from_secs(1).min(time.saturating_sub(start.elapsed())));
        }
    }
    let account = wire::account(&watch.answers()?);
    let mut figures = BTreeMap::new();
    figures.insert("false take-overs", count(account.owners.len().saturating_sub(1)));
    let others = account.answers.iter().filter(|(node, _)| **node != before).map(|(_, answers)| *answers);
    figures.insert("answers of others", count(others.sum()));
    figures.insert("arp silence ms", ms(account.silence));
    drop(mend);
    figures.insert("outages of a client", count(client.outages()?.len()));
    Ok(figures)
}

/// What the speakers of the cluster spend while nothing happens: percent of a core, and MiB that are resident, of each.
pub(crate) fn rest(time: Duration) -> Result<BTreeMap<&'static str, Vec<f64>>> {
    let mut speakers = Vec::new();
    for index in 1..=nodes()? {
        for pid in power::processes(&node(index).name, "speaker")? {
            speakers.push(u32::try_from(pid)?);
        }
    }
    let of_all = || speakers.iter().map(|pid| usage(*pid)).collect::<Result<Vec<_>>>();
    let (before, start) = (of_all()?, Instant::now());
    std::thread::sleep(time);
    let (after, seconds) = (of_all()?, start.elapsed().as_secs_f64());
    let spent = before.iter().zip(&after).map(|(before, after)| (after.cpu - before.cpu) / seconds * 100.0);
    let mut figures = BTreeMap::from([("cpu percent", spent.collect())]);
    let resident = after.iter().map(|usage| u32::try_from(usage.rss).map(|kib| f64::from(kib) / 1024.0));
    figures.insert("rss MiB", resident.collect::<Result<_, _>>()?);
    Ok(figures)
}

/// Gives the speaker of a node `quota` microseconds of a core in each period of 100 ms; -1 for as many as it likes.
fn throttle(name: &str, quota: &str) -> Result<()> {
    for pid in power::processes(name, "speaker")? {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|controller| controller == "cpu").then(|| path.to_owned())
        });
        let path = path.with_context(|| format!("no cpu cgroup of {pid} in {groups:?}"))?;
        let mounted = ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu"];
        let folder = mounted.map(|mount| PathBuf::from(format!("{mount}{path}")));
        let folder = folder.iter().find(|folder| folder.exists()).context("no cpu cgroup is mounted")?;
        fs::write(folder.join("cpu.cfs_period_us"), "100000")?;
        fs::write(folder.join("cpu.cfs_quota_us"), quota)?;
    }
    Ok(())
}
