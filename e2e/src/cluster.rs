//! The cluster as a whole: up, down, and what state it is in.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};

use crate::{
    control_plane, deps,
    exec::{on, output, run, wait_until},
    layout::{self, NETNS_PREFIX, RUN, STATE, bin, hosts, node, state},
    network, node as node_parts, oci, pki, processes, tools,
};

/// The checkout that this program was built from; it holds the cluster.
#[must_use]
pub fn checkout() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.parent().unwrap_or(folder).to_owned()
}

/// The image of `program` in `version`, as config/manager/images.env has it now.
///
/// # Errors
/// When that file cannot be read or names no prefix.
pub fn image(program: &str, version: &str) -> Result<String> {
    let path = checkout().join("config/manager/images.env");
    let settings = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let prefix = settings.lines().find_map(|line| line.strip_prefix("IMAGE_PREFIX="));
    Ok(format!("{}/{program}:{version}", prefix.context("images.env names no IMAGE_PREFIX")?))
}

/// Whether an existing cluster is used, by `CLUSTER=external KUBECONFIG=...`. What breaks nodes is skipped there.
#[must_use]
pub fn is_external() -> bool {
    std::env::var("CLUSTER").is_ok_and(|value| value == "external")
}

/// Refuses what only the cluster made here bears.
///
/// # Errors
/// When an existing cluster is used.
pub fn refuse_external(what: &str) -> Result<()> {
    if is_external() {
        bail!("CLUSTER=external: {what} is only for the cluster that `make cluster` makes");
    }
    Ok(())
}

/// kubectl as the administrator, on host cp; for an existing cluster, the kubectl in the PATH.
#[must_use]
pub fn kubectl() -> Command {
    let mut command = if is_external() { Command::new("kubectl") } else { on("cp", bin("kubectl")) };
    command.arg("--kubeconfig").arg(kubeconfig());
    command
}

/// The administrator's kubeconfig: usable on host cp, or what `KUBECONFIG` names for an existing cluster.
#[must_use]
pub fn kubeconfig() -> PathBuf {
    if is_external() {
        return std::env::var_os("KUBECONFIG").unwrap_or_default().into();
    }
    layout::kubeconfig()
}

/// Number of nodes of the cluster that is there, if any.
fn recorded_nodes() -> Option<u8> {
    fs::read_to_string(state("nodes")).ok()?.trim().parse().ok()
}

/// How many nodes the cluster has.
///
/// # Errors
/// When there is no cluster.
pub fn nodes() -> Result<u8> {
    recorded_nodes().context("there is no cluster: run `make cluster` first")
}

/// One operation at a time; the lock ends with the process.
fn lock() -> Result<Flock<File>> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the cluster is made of network namespaces: run this as root");
    }
    let file = File::create("/run/metallb-lab.lock")?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("cannot lock /run/metallb-lab.lock")
}

fn check_holder() -> Result<()> {
    let Ok(holder) = fs::read_to_string(state("holder")) else { return Ok(()) };
    let checkout = checkout();
    if Path::new(&holder) != checkout && Path::new(&holder).exists() {
        bail!("a cluster is held by {holder}: run `make cluster-down` there first, or remove that folder");
    }
    Ok(())
}

/// Makes the cluster, or leaves it be when a healthy one of `count` nodes is there.
///
/// # Errors
/// When another checkout holds it, or a part does not start.
pub fn up(count: u8) -> Result<()> {
    if is_external() {
        if kubeconfig().as_os_str().is_empty() {
            bail!("CLUSTER=external needs KUBECONFIG");
        }
        return output(kubectl().args(["get", "--raw", "/readyz"])).map(drop).context("CLUSTER=external");
    }
    if !(1..=50).contains(&count) {
        bail!("NODES={count}: from 1 to 50 are possible");
    }
    deps::install()?;
    let programs = tools::build()?;
    let _lock = lock()?;
    check_holder()?;
    if recorded_nodes().is_some() {
        match health(count) {
            Ok(()) => {
                println!("cluster: {count} nodes are Ready already");
                return Ok(());
            }
            Err(error) => println!("cluster: made anew, because {error:#}"),
        }
    }
    remove()?;
    let started = Instant::now();
    fs::create_dir_all(state("bin"))?;
    fs::create_dir_all(RUN)?;
    fs::write(state("holder"), checkout().to_string_lossy().as_bytes())?;
    for (name, path) in programs {
        symlink(path, bin(name))?;
    }
    fs::write(state("nodes"), count.to_string())?;
    pki::write(count)?;
    oci::write(&state("images"))?;
    network::create(count)?;
    for index in 1..=count {
        node_parts::start_containerd(index)?;
    }
    control_plane::start()?;
    println!("cluster: the API server answers after {:.1} s", started.elapsed().as_secs_f32());
    for index in 1..=count {
        node_parts::wait_for_containerd(&node(index))?;
        for image in ["pause", "busybox"] {
            node_parts::import(&node(index), &state("images").join(format!("{image}.tar")))?;
        }
        node_parts::start_kubelet(index)?;
        node_parts::start_proxy(index)?;
    }
    wait_until("all nodes to be Ready", Duration::from_secs(60), || ready(count))?;
    println!("cluster: {count} nodes are Ready after {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

fn ready(count: u8) -> Result<Option<String>> {
    let path = "{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=='Ready')].status} {end}";
    let seen = output(kubectl().args(["get", "nodes", "-o", &format!("jsonpath={path}")]))?;
    let missing: Vec<_> = (1..=count)
        .map(|index| format!("{}=True", node(index).name))
        .filter(|want| !seen.split(' ').any(|word| word == want))
        .collect();
    Ok(if missing.is_empty() { None } else { Some(format!("{seen}; missing {}", missing.join(" "))) })
}

/// Whether a cluster of `count` nodes is there and every part of it runs.
fn health(count: u8) -> Result<()> {
    if recorded_nodes() != Some(count) {
        bail!("it has another number of nodes than {count}");
    }
    let parts = control_plane::PARTS.map(str::to_owned).into_iter();
    for part in parts.chain((1..=count).flat_map(|index| node_parts::parts(&node(index)))) {
        if !processes::alive(&part) {
            bail!("{part} does not run");
        }
    }
    for index in 1..=count {
        crate::power::on(&node(index).name)?;
    }
    wait_until("all nodes to be Ready", Duration::from_secs(20), || ready(count))
}

/// Removes every process, namespace, mount and cgroup of the cluster.
///
/// # Errors
/// When another checkout holds it, or something does not go away.
pub fn down() -> Result<()> {
    refuse_external("removing it")?;
    let _lock = lock()?;
    check_holder()?;
    remove()
}

fn remove() -> Result<()> {
    processes::end_all()?;
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(NETNS_PREFIX) {
            run(&format!("ip netns del {name}"))?;
        }
    }
    let count = recorded_nodes().unwrap_or_default().max(50);
    for index in 1..=count {
        for folder in node_parts::cgroup_folders(&node(index)) {
            remove_cgroup(&folder)?;
        }
    }
    node_parts::remove_mount_points();
    for folder in [STATE, RUN] {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| folder.to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Cgroups are removed from the leaves up; a process that is still ending keeps its own for a moment.
fn remove_cgroup(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    wait_until(&format!("{} to be removed", folder.display()), Duration::from_secs(10), || {
        fs::remove_dir(folder).map(|()| None).map_err(Into::into)
    })
}

/// Imports an OCI archive on every node.
///
/// # Errors
/// When there is no cluster, or containerd refuses the archive.
pub fn load(archive: &Path) -> Result<()> {
    refuse_external("loading images")?;
    let count = nodes()?;
    let archive = archive.canonicalize().with_context(|| archive.display().to_string())?;
    for index in 1..=count {
        node_parts::import(&node(index), &archive)?;
    }
    Ok(())
}

/// Gives an image that every node has a further name.
///
/// # Errors
/// When there is no cluster, or a node lacks the image.
pub fn tag(image: &str, name: &str) -> Result<()> {
    (1..=nodes()?).try_for_each(|index| node_parts::tag(&node(index), image, name))
}

/// Sends `signal` to the processes of pods that run `program`, and returns how many there were.
///
/// # Errors
/// When one cannot be signalled.
pub fn signal(program: &str, signal: Signal) -> Result<usize> {
    processes::signal(program, None, signal)
}

/// The same for processes on the network of one host.
///
/// # Errors
/// As [`signal`].
pub fn signal_on(host: &str, program: &str, signal: Signal) -> Result<usize> {
    processes::signal(program, Some(host), signal)
}

/// Ends a part of the control plane, such as `kube-apiserver`, at once and starts it again.
///
/// # Errors
/// When it does not run or cannot be started.
pub fn restart(part: &str) -> Result<()> {
    processes::restart(part)
}

/// One line a host: its name and addresses, and for a node whether it is Ready.
///
/// # Errors
/// When there is no cluster or the API server does not answer.
pub fn status() -> Result<()> {
    if !is_external() {
        for host in hosts(nodes()?).iter().filter(|host| host.number > 0) {
            println!("{:8} {:14} {}", host.name, host.v4(), host.v6());
        }
    }
    print!("{}", output(kubectl().args(["get", "nodes"]))?);
    Ok(())
}
