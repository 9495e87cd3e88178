//! One node: containerd, kubelet and kube-proxy in the node's network namespace and a mount namespace of their own.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use crate::{
    exec::{on, output, wait_until},
    layout::{CGROUP_PREFIX, Host, RUN, STATE, bin, node, pod_ranges, state},
    processes::{pid, spawn},
};

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "lab.local/pause:1";

/// Folders that programs insist on writing to: each node has its own, mounted over the machine's.
const OWN: [(&str, &str); 4] = [
    ("kubelet", "/var/lib/kubelet"),
    ("cni-state", "/var/lib/cni"),
    ("log", "/var/log"),
    ("shims", "/run/containerd"),
];

/// Removes the mount points that were made for the nodes: what is not empty belongs to others.
pub(crate) fn remove_mount_points() {
    for (_, shared) in OWN {
        let _ = fs::remove_dir(shared);
    }
}

/// Folder in which a registry that speaks no TLS is named to the nodes
/// (containerd's docs/hosts.md).
pub(crate) fn registries() -> PathBuf {
    state("registries")
}

/// The parts of a node, as named in the logs.
pub(crate) fn parts(host: &Host) -> [String; 3] {
    ["containerd", "kubelet", "kube-proxy"].map(|part| format!("{}-{part}", host.name))
}

/// containerd's socket of a node.
pub(crate) fn socket(host: &Host) -> PathBuf {
    Path::new(RUN).join(&host.name).join("containerd.sock")
}

fn cgroup(host: &Host) -> String {
    format!("{CGROUP_PREFIX}{}", host.name)
}

/// The folders of a node's cgroup, one for each hierarchy of the machine.
pub(crate) fn cgroup_folders(host: &Host) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(cgroup(host))];
    }
    let mut folders: Vec<_> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path().join(cgroup(host)))
        .collect();
    folders.sort();
    folders
}

fn make_cgroups(host: &Host) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        fs::write(root.join("cgroup.subtree_control"), "+cpu +cpuset +io +memory +pids")?;
    }
    for folder in cgroup_folders(host) {
        fs::create_dir_all(&folder)?;
        // A v1 cpuset starts empty, and nothing can run in it until it is filled.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let (Some(parent), true) =
                (folder.parent(), folder.parent().is_some_and(|p| p.ends_with("cpuset")))
            {
                fs::write(folder.join(file), fs::read(parent.join(file))?)?;
            }
        }
    }
    Ok(())
}

/// Starts containerd of node `index`; [`start_kubelet`] follows when the images are there.
pub(crate) fn start_containerd(index: u8) -> Result<()> {
    let host = node(index);
    let folder = state(&host.name);
    fs::create_dir_all(folder.join("cni"))?;
    fs::create_dir_all(Path::new(RUN).join(&host.name))?;
    for (own, shared) in OWN {
        fs::create_dir_all(folder.join(own))?;
        fs::create_dir_all(shared)?;
    }
    make_cgroups(&host)?;
    fs::write(folder.join("cni/10-lab.conflist"), cni(index, &folder))?;
    fs::write(folder.join("containerd.toml"), containerd(&host, &folder))?;
    fs::write(folder.join("kubelet.yaml"), kubelet(&host))?;
    let binds =
        OWN.map(|(own, shared)| format!("mount --bind {}/{own} {shared}; ", folder.display())).concat();
    let script = format!(
        "set -e; mount --make-rprivate /; {binds} mount -t tmpfs netns /run/netns; exec {} -c {}/containerd.toml",
        bin("containerd").display(),
        folder.display()
    );
    let mut command = on(&host.name, "unshare");
    command.args(["--mount", "--", "sh", "-c", &script]).env("PATH", path());
    spawn(&format!("{}-containerd", host.name), &mut command)
}

fn path() -> String {
    format!("{STATE}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

/// Imports an OCI archive into the node's containerd.
pub(crate) fn import(host: &Host, archive: &Path) -> Result<()> {
    let mut command = inside(host)?;
    command.arg(bin("ctr")).arg("-a").arg(socket(host)).args(["-n", "k8s.io", "images", "import", "--local"]);
    output(command.arg(archive)).map(drop)
}

/// Gives an image that the node has a further name.
pub(crate) fn tag(host: &Host, image: &str, name: &str) -> Result<()> {
    let mut command = inside(host)?;
    command
        .arg(bin("ctr"))
        .arg("-a")
        .arg(socket(host))
        .args(["-n", "k8s.io", "images", "tag", "--force", image, name]);
    output(&mut command).map(drop)
}

/// A command that runs in the node's namespaces.
fn inside(host: &Host) -> Result<Command> {
    let mut command = Command::new("nsenter");
    let pid = pid(&format!("{}-containerd", host.name))?;
    command.args(["-t", &pid.to_string(), "--net", "--mount", "--"]).env("PATH", path());
    Ok(command)
}

/// Waits until containerd answers.
pub(crate) fn wait_for_containerd(host: &Host) -> Result<()> {
    wait_until(&format!("containerd of {}", host.name), Duration::from_secs(30), || {
        output(Command::new(bin("ctr")).arg("-a").arg(socket(host)).arg("version")).map(|_| None)
    })
}

/// Starts the kubelet of node `index`.
pub(crate) fn start_kubelet(index: u8) -> Result<()> {
    let host = node(index);
    let folder = state(&host.name);
    let pki = state("pki");
    let mut kubelet = inside(&host)?;
    kubelet.arg(bin("kubelet")).args([
        format!("--config={}/kubelet.yaml", folder.display()),
        format!("--kubeconfig={}/{}.conf", pki.display(), host.name),
        format!("--hostname-override={}", host.name),
        format!("--node-ip={},{}", host.v4(), host.v6()),
    ]);
    spawn(&format!("{}-kubelet", host.name), kubelet.process_group(0))
}

/// Starts the kube-proxy of node `index`.
pub(crate) fn start_proxy(index: u8) -> Result<()> {
    let host = node(index);
    let pki = state("pki");
    let mut proxy = inside(&host)?;
    proxy.arg(bin("kube-proxy")).args([
        format!("--kubeconfig={}/proxy.conf", pki.display()),
        format!("--hostname-override={}", host.name),
        "--proxy-mode=iptables".to_owned(),
        "--conntrack-max-per-core=0".to_owned(),
        "--metrics-bind-address=127.0.0.1:10249".to_owned(),
    ]);
    spawn(&format!("{}-kube-proxy", host.name), &mut proxy)
}

fn cni(index: u8, folder: &Path) -> String {
    let (v4, v6) = pod_ranges(index);
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{v4}"}}], [{{"subnet": "{v6}"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}], "dataDir": "{}/ipam"}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
]}}
"#,
        folder.display()
    )
}

fn containerd(host: &Host, folder: &Path) -> String {
    let (folder, socket) = (folder.display(), socket(host));
    format!(
        r#"version = 3
root = "{folder}/containerd"
state = "{RUN}/{name}/containerd"
[grpc]
  address = "{socket}"
# Its socket has one path for all of a machine.
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{registries}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#,
        name = host.name,
        socket = socket.display(),
        registries = registries().display(),
    )
}

fn kubelet(host: &Host) -> String {
    // An image that a test pulled with credentials may be the one that was imported under another name: without
    // `NeverVerify`, the kubelet would have pods of that name show credentials from then on.
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {STATE}/pki/ca.crt}}}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
failCgroupV1: false
cgroupsPerQOS: true
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://{socket}
failSwapOn: false
nodeStatusUpdateFrequency: 2s
evictionHard: {{nodefs.available: "0%", imagefs.available: "0%", memory.available: "50Mi", nodefs.inodesFree: "0%"}}
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
imagePullCredentialsVerificationPolicy: NeverVerify
resolvConf: ""
"#,
        cgroup = cgroup(host),
        socket = socket(host).display(),
    )
}
