//! Debian packages that the cluster, the images and the tests need.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// Package, and a file that tells that it is there.
const PACKAGES: [(&str, &str); 14] = [
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iptables", "/usr/sbin/iptables"),
    ("nftables", "/usr/sbin/nft"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("iproute2", "/usr/bin/ip"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("busybox-static", "/usr/share/doc/busybox-static"),
    ("buildah", "/usr/bin/buildah"),
    ("arping", "/usr/sbin/arping"),
    ("ndisc6", "/usr/bin/ndisc6"),
    ("tcpdump", "/usr/bin/tcpdump"),
    ("curl", "/usr/bin/curl"),
    ("iputils-ping", "/usr/bin/ping"),
];

/// Installs what is missing, and says what.
///
/// # Errors
/// When not root, or when apt-get fails.
pub fn install() -> Result<()> {
    need(&PACKAGES)
}

/// The same for packages that only some tests need, each with a file that tells that it is there.
///
/// # Errors
/// As [`install`].
pub fn need(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|(_, file)| !std::path::Path::new(file).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("Debian packages are missing, and only root can install them: {}", missing.join(" "));
    }
    println!("installing Debian packages: {}", missing.join(" "));
    let apt = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("apt-get")
            .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::process::Stdio::null())
            .status()
            .context("cannot run apt-get: this needs a Debian machine")?;
        if !status.success() {
            bail!("apt-get {}: {status}", arguments.join(" "));
        }
        Ok(())
    };
    apt(&["update"])?;
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}
