//! The cluster comes and goes: twice in a row, after kill -9, and without a trace. It is up when this ends.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use metallb_e2e::layout::{CGROUP_PREFIX, NETNS_PREFIX, RUN, STATE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn e2e(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e2e")).args(arguments).env_remove("CLUSTER").output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let done = e2e(arguments);
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Processes whose command line names the cluster's folders, with that line.
fn processes() -> Vec<(i32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter_map(|pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(STATE) || line.contains(RUN)).then_some((pid, line))
        })
        .collect()
}

fn folders(parent: &str, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path().display().to_string());
        }
    }
}

/// Everything that a cluster leaves on a machine.
fn traces() -> Vec<String> {
    let mut found: Vec<_> =
        processes().into_iter().map(|(pid, line)| format!("process {pid}: {line}")).collect();
    folders("/run/netns", NETNS_PREFIX, &mut found);
    folders("/sys/fs/cgroup", CGROUP_PREFIX, &mut found);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        folders(&hierarchy.path().to_string_lossy(), CGROUP_PREFIX, &mut found);
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(STATE) || line.contains(RUN)).map(str::to_owned));
    found.extend(
        [STATE, RUN].iter().filter(|folder| Path::new(folder).exists()).map(|folder| (*folder).to_owned()),
    );
    found
}

#[test]
fn the_cluster_comes_and_goes_without_a_trace() {
    succeeds(&["down"]);
    assert_eq!(traces(), Vec::<String>::new());
    succeeds(&["down"]);

    assert!(succeeds(&["up", "--nodes", "1"]).contains("1 nodes are Ready after"));
    assert!(succeeds(&["up", "--nodes", "1"]).contains("Ready already"), "a healthy cluster is left be");

    // A part dies, and with it whoever would have ended its children.
    let (containerd, _) = processes()
        .into_iter()
        .find(|(_, line)| line.contains("/bin/containerd -c"))
        .expect("containerd runs on the node");
    kill(Pid::from_raw(containerd), Signal::SIGKILL).unwrap();
    assert!(succeeds(&["up", "--nodes", "1"]).contains("made anew, because node1-containerd does not run"));

    for (pid, _) in processes().into_iter().filter(|(_, line)| !line.contains("shim")) {
        // A parent may have taken it along.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    succeeds(&["down"]);
    assert_eq!(traces(), Vec::<String>::new());
    succeeds(&["up"]);
}

#[test]
fn a_second_checkout_is_told_who_holds_the_cluster() {
    succeeds(&["up"]);
    let holder = Path::new(STATE).join("holder");
    let mine = fs::read_to_string(&holder).unwrap();
    fs::write(&holder, "/usr").unwrap();
    let refused = e2e(&["down"]);
    fs::write(&holder, mine).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("a cluster is held by /usr"), "{message}");
}

#[test]
fn the_scripts_pass_output_and_exit_status_through() {
    succeeds(&["up"]);
    let script = |name: &str| Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    let done = script("on").args(["client", "sh", "-c", "echo out; echo err >&2; exit 7"]).output().unwrap();
    assert_eq!((done.status.code(), &*done.stdout, &*done.stderr), (Some(7), &b"out\n"[..], &b"err\n"[..]));
    let done = script("kubectl").args(["get", "node", "node1", "-o", "name"]).output().unwrap();
    assert_eq!((done.status.code(), &*done.stdout), (Some(0), &b"node/node1\n"[..]));
    let done = script("kubectl").args(["get", "node", "none"]).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
}
