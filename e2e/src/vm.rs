//! A virtual machine with Debian's kernel on this machine's files, for what the kernel here may lack, such as VRFs. It reads
//! them only: what is written is gone with it.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{deps, exec::output, tools};

/// Modules of the kernel that are loaded, by their paths without an ending. Those that need others come when these are
/// there.
const MODULES: [&str; 15] = [
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "fs/netfs/netfs",
    "fs/fscache/fscache",
    "net/9p/9pnet",
    "net/9p/9pnet_virtio",
    "fs/9p/9p",
    "fs/overlayfs/overlay",
    "drivers/net/vrf",
    "drivers/net/veth",
    "net/ipv4/inet_diag",
    "net/ipv4/tcp_diag",
];
/// The first program of the machine. It takes over the files of this one, runs the command, and tells how that ended.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
for folder in proc sys dev; do busybox mkdir -p /$folder; done
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for pass in 1 2 3 4; do for module in /modules/*; do busybox insmod $module 2>/dev/null && busybox rm $module; done; done
busybox mkdir -p /host /written /root
busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,ro,cache=loose host /host
busybox mount -t tmpfs written /written
busybox mkdir /written/files /written/work
busybox mount -t overlay -o lowerdir=/host,upperdir=/written/files,workdir=/written/work root /root
for folder in proc sys dev; do busybox mount --move /$folder /root/$folder; done
busybox mount -t tmpfs run /root/run
busybox chroot /root /bin/sh -c "$(busybox cat /command)" 2>&1
echo "the command ended with $?"
busybox poweroff -f
"#;
/// How the last word of the machine begins.
const ENDED: &str = "the command ended with ";
/// Variables that the command is given.
const VARIABLES: [&str; 5] = ["PATH", "HOME", "METALLB_CACHE", "CARGO_TARGET_DIR", "RUST_BACKTRACE"];
/// No command takes longer.
const LIMIT: Duration = Duration::from_secs(1200);

/// Runs a command, in this folder and as root. What it writes is passed on.
///
/// # Errors
/// When the machine cannot be started, or the command fails.
pub fn run(command: &[String]) -> Result<()> {
    deps::need(&[
        ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
        ("busybox-static", "/usr/share/doc/busybox-static"),
    ])?;
    let kernel = kernel()?;
    let folder = tempfile::tempdir()?;
    let ram_disk = ram_disk(folder.path(), &kernel, command)?;
    let image = found(&kernel.join("boot"), "vmlinuz-")?;
    // Emulated: a machine that is one itself has nothing better, or what does not work.
    let mut machine = Command::new("timeout")
        .arg(LIMIT.as_secs().to_string())
        .args("qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3072".split(' '))
        .args("-display none -monitor none -serial stdio -nic none -no-reboot".split(' '))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(ram_disk)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .args(["-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"])
        .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let console = BufReader::new(machine.stdout.take().context("the machine has a console")?);
    let mut ended = None;
    for line in console.split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        match line.strip_prefix(ENDED) {
            Some(status) => ended = Some(status.to_owned()),
            None => println!("{line}"),
        }
    }
    machine.wait()?;
    let status = ended.context("the machine ended before the command did")?;
    ensure!(status == "0", "{} failed with status {status}", command.join(" "));
    Ok(())
}

/// Folder of Debian's kernel and its modules, from Debian's package.
fn kernel() -> Result<PathBuf> {
    ensure!(std::env::consts::ARCH == "x86_64", "the virtual machine is for amd64 only");
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.context("Debian's package linux-image-amd64 depends on no kernel")?;
    let folder = tools::cache()?.join("vm").join(package);
    if !folder.exists() {
        println!("downloading Debian's kernel {package}");
        let half = folder.with_extension("half");
        let _ = fs::remove_dir_all(&half);
        fs::create_dir_all(&half)?;
        output(Command::new("apt-get").args(["-qq", "download", package]).current_dir(&half))?;
        let archive = found(&half, "linux-image-")?;
        output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&half))?;
        fs::remove_file(archive)?;
        fs::rename(half, &folder)?;
    }
    Ok(folder)
}

/// Writes the archive of files that the machine starts from: the kernel's modules, the init, and the command.
fn ram_disk(folder: &Path, kernel: &Path, command: &[String]) -> Result<PathBuf> {
    let (files, archive) = (folder.join("files"), folder.join("files.cpio"));
    for part in ["bin", "modules"] {
        fs::create_dir_all(files.join(part))?;
    }
    fs::copy("/bin/busybox", files.join("bin/busybox"))?;
    let modules = found(&kernel.join("lib/modules"), "")?.join("kernel");
    for module in MODULES {
        let from = modules.join(format!("{module}.ko"));
        let name = from.file_name().context("a module has a name")?;
        fs::copy(&from, files.join("modules").join(name)).with_context(|| from.display().to_string())?;
    }
    let variables = VARIABLES.iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
    let variables: String =
        variables.map(|(name, value)| format!("export {name}={}\n", quoted(&value))).collect();
    let here = quoted(&std::env::current_dir()?.display().to_string());
    let words: Vec<_> = command.iter().map(|word| quoted(word)).collect();
    fs::write(files.join("command"), format!("{variables}cd {here} && {}", words.join(" ")))?;
    fs::write(files.join("init"), INIT)?;
    fs::set_permissions(files.join("init"), fs::Permissions::from_mode(0o755))?;
    let pack =
        format!("busybox find . | busybox cpio -o -H newc > {}", quoted(&archive.display().to_string()));
    output(Command::new("sh").args(["-c", &pack]).current_dir(files))?;
    Ok(archive)
}

/// The file of a folder whose name begins so.
fn found(folder: &Path, start: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(start) {
            return Ok(entry.path());
        }
    }
    bail!("nothing in {} begins with {start:?}", folder.display())
}

/// A word as the shell reads it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
