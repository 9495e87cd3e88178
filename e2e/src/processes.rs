//! Starting the cluster's processes, and ending every one of them, also those whose starter is long gone.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    exec::{on, wait_until},
    layout::{CGROUP_PREFIX, NETNS_PREFIX, state},
};

/// Starts `command` in a session of its own, its output in `log/NAME.log` of the state.
pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<()> {
    fs::create_dir_all(state("log"))?;
    let log = File::create(state("log").join(format!("{name}.log")))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.process_group(0).spawn().with_context(|| format!("cannot start {name}"))?;
    fs::write(state("log").join(format!("{name}.pid")), child.id().to_string())?;
    Ok(())
}

/// The process id under which `name` was started.
pub(crate) fn pid(name: &str) -> Result<i32> {
    let file = state("log").join(format!("{name}.pid"));
    Ok(fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().parse()?)
}

/// The processes of the cluster: those in one of its network namespaces or in a cgroup of its nodes. Found by what
/// they are in, so none is missed after a crash and no recycled process id is ever hit.
fn ours() -> BTreeSet<i32> {
    let namespaces: BTreeSet<u64> = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(NETNS_PREFIX))
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .map(|metadata| metadata.ino())
        .collect();
    let cgroup = format!("/{CGROUP_PREFIX}node");
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| *pid != me)
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|found| namespaces.contains(&found.ino()))
                || fs::read_to_string(format!("/proc/{pid}/cgroup"))
                    .is_ok_and(|found| found.contains(&cgroup))
        })
        .collect()
}

/// Ends every process of the cluster.
pub(crate) fn end_all() -> Result<()> {
    wait_until("the cluster's processes to end", Duration::from_secs(20), || {
        let left = ours();
        for pid in &left {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        Ok(if left.is_empty() { None } else { Some(format!("processes {left:?}")) })
    })
}

/// Ends a part of the control plane at once and starts it again as it was.
pub(crate) fn restart(name: &str) -> Result<()> {
    let before = pid(name)?;
    let line = fs::read(format!("/proc/{before}/cmdline")).with_context(|| format!("{name} does not run"))?;
    let words: Vec<_> =
        line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let (program, arguments) = words.split_first().context("an empty command")?;
    kill(Pid::from_raw(before), Signal::SIGKILL)?;
    wait_until(&format!("{name} to end"), Duration::from_secs(10), || {
        // Its starter may be this process: then it is to be waited for.
        let _ = nix::sys::wait::waitpid(Pid::from_raw(before), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        Ok(alive(name).then(|| format!("process {before}")))
    })?;
    let arguments = arguments.iter().filter(|argument| !argument.is_empty());
    spawn(name, on("cp", program).args(arguments))
}

/// Sends `signal` to the cluster's processes whose command is `program`, or to those on the network of `host` alone;
/// returns how many there were.
pub(crate) fn signal(program: &str, host: Option<&str>, signal: Signal) -> Result<usize> {
    let network = |path: &str| fs::metadata(path).ok().map(|metadata| metadata.ino());
    let wanted = host.map(|host| network(&format!("/run/netns/{NETNS_PREFIX}{host}")));
    let is_it = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|command| command.trim() == program)
            && wanted.is_none_or(|wanted| network(&format!("/proc/{pid}/ns/net")) == wanted)
    };
    let found: Vec<_> = ours().into_iter().filter(is_it).collect();
    for pid in &found {
        kill(Pid::from_raw(*pid), signal).with_context(|| format!("{signal} to {program} ({pid})"))?;
    }
    Ok(found.len())
}

/// Whether the process started under `name` is still there.
pub(crate) fn alive(name: &str) -> bool {
    pid(name).is_ok_and(|pid| ours().contains(&pid))
}
