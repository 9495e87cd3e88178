//! The Kubernetes, etcd and containerd programs, built once from pinned Go modules and kept in a cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::exec::output;

const KUBERNETES: &str = "v1.36.3";
/// The last release of the oldest Kubernetes that is supported.
const OLDEST_KUBERNETES: &str = "v1.30.14";

/// Whether environment variable `KUBERNETES` says `oldest`: clusters and API servers are of the oldest Kubernetes that is
/// supported then.
#[must_use]
pub fn is_oldest() -> bool {
    std::env::var_os("KUBERNETES").is_some_and(|wanted| wanted == "oldest")
}

struct Module {
    folder: &'static str,
    tags: &'static str,
    ldflags: String,
    /// What `go build` names a program, and what it is called here.
    rename: Option<(&'static str, &'static str)>,
    programs: &'static [&'static str],
}

/// What tells the programs of Kubernetes which release they are.
fn ldflags(release: &str) -> String {
    let version = "k8s.io/component-base/version";
    let minor = release.split('.').nth(1).unwrap_or_default();
    format!("-s -w -X {version}.gitVersion={release} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}")
}

fn modules() -> [Module; 3] {
    let (folder, release) =
        if is_oldest() { ("kubernetes-oldest", OLDEST_KUBERNETES) } else { ("kubernetes", KUBERNETES) };
    [
        Module {
            folder: "etcd",
            tags: "",
            ldflags: "-s -w".to_owned(),
            rename: Some(("server", "etcd")),
            programs: &["etcd"],
        },
        Module {
            folder: "containerd",
            tags: "no_btrfs,no_zfs,no_devmapper,no_aufs",
            ldflags: "-s -w".to_owned(),
            rename: None,
            programs: &["containerd", "containerd-shim-runc-v2", "ctr"],
        },
        Module {
            folder,
            tags: "",
            ldflags: ldflags(release),
            rename: None,
            programs: &[
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubectl",
                "kubelet",
            ],
        },
    ]
}

/// Folder of the cache: `METALLB_CACHE`, else `~/.cache/metallb-operator`.
///
/// # Errors
/// When neither is set.
pub fn cache() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("METALLB_CACHE") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither METALLB_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/metallb-operator"))
}

impl Module {
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(self.folder)
    }

    /// A folder of the cache that changes with everything that goes into the build.
    fn target(&self) -> Result<PathBuf> {
        let mut digest = Sha256::new();
        for file in ["go.mod", "go.sum"] {
            let path = self.source().join(file);
            digest.update(fs::read(&path).with_context(|| path.display().to_string())?);
        }
        digest.update(&self.ldflags);
        digest.update(self.tags);
        let stamp: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(cache()?.join(format!("{}-{stamp}", self.folder)))
    }

    fn build(&self) -> Result<PathBuf> {
        let target = self.target()?;
        if self.programs.iter().all(|program| target.join(program).exists()) {
            return Ok(target);
        }
        println!("building {} ({}), once", self.folder, self.programs.join(", "));
        let started = Instant::now();
        let partial = target.with_extension(format!("partial-{}", std::process::id()));
        let status = Command::new("go")
            .current_dir(self.source())
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-tags", self.tags, "-ldflags", &self.ldflags, "-o"])
            .arg(format!("{}/", partial.display()))
            .arg("tool")
            .status()
            .context("cannot run go: install Go 1.26 or later")?;
        if !status.success() {
            bail!("building {}: {status}", self.folder);
        }
        if let Some((from, to)) = self.rename {
            fs::rename(partial.join(from), partial.join(to))?;
        }
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::rename(&partial, &target)?;
        println!("built {} in {} s", self.folder, started.elapsed().as_secs());
        Ok(target)
    }
}

/// Builds what the cache does not hold yet. Returns each program with its path.
///
/// # Errors
/// When Go is missing or a build fails, or variable `KUBERNETES` has another value than `oldest`.
pub fn build() -> Result<Vec<(&'static str, PathBuf)>> {
    if let Some(wanted) = std::env::var_os("KUBERNETES").filter(|_| !is_oldest()) {
        bail!("KUBERNETES={wanted:?}: it may say \"oldest\" alone");
    }
    let mut programs = Vec::new();
    for module in modules() {
        let target = module.build()?;
        programs.extend(module.programs.iter().map(|program| (*program, target.join(program))));
    }
    Ok(programs)
}

/// Helm, built when the cache does not hold it: only the tests of the chart need it.
///
/// # Errors
/// As [`build`].
pub fn helm() -> Result<PathBuf> {
    Ok(extra("helm", &["helm"])?.join("helm"))
}

/// Folder of cert-manager's programs `controller` and `cainjector`, built when the cache does not hold them.
///
/// # Errors
/// As [`build`].
pub fn cert_manager() -> Result<PathBuf> {
    extra("certmanager", &["cainjector", "controller"])
}

/// Folder in which Go keeps the source of cert-manager.
///
/// # Errors
/// When it cannot be downloaded.
pub fn cert_manager_source() -> Result<PathBuf> {
    source("certmanager", "github.com/cert-manager/cert-manager")
}

/// The Prometheus Operator, built when the cache does not hold it: only the tests of monitoring need it.
///
/// # Errors
/// As [`build`].
pub fn prometheus_operator() -> Result<PathBuf> {
    Ok(extra("prometheusoperator", &["operator"])?.join("operator"))
}

/// Folder in which Go keeps its source.
///
/// # Errors
/// When it cannot be downloaded.
pub fn prometheus_operator_source() -> Result<PathBuf> {
    source("prometheusoperator", "github.com/prometheus-operator/prometheus-operator")
}

/// Folder in which Go keeps the source of a module that the folder `tools` pins.
fn source(tools: &str, module: &str) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(tools));
    let told = output(go.args(["mod", "download", "-json", module]))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    Ok(told["Dir"].as_str().with_context(|| told.to_string())?.into())
}

/// Programs that the cluster itself does not need.
fn extra(folder: &'static str, programs: &'static [&'static str]) -> Result<PathBuf> {
    Module { folder, tags: "", ldflags: "-s -w".to_owned(), rename: None, programs }.build()
}
