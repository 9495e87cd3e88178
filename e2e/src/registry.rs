//! A registry of images on the switch, for nodes that pull what they run.

use std::{
    fs::{self, File},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    cluster::checkout,
    deps,
    exec::{on, output, run_on, wait_until},
    node::registries,
};

/// Host and port of the registry, as they stand in the names of its images.
pub const REGISTRY: &str = "172.22.0.9:5000";

/// Debian's registry, and what pushes to it.
const PACKAGES: [(&str, &str); 2] =
    [("docker-registry", "/usr/bin/docker-registry"), ("skopeo", "/usr/bin/skopeo")];

/// A registry that ends with this value.
pub struct Registry {
    process: Child,
    folder: tempfile::TempDir,
}

impl Registry {
    /// Starts an empty registry that every node can pull from.
    ///
    /// # Errors
    /// When it cannot be installed or started, or does not answer.
    pub fn start() -> Result<Self> {
        deps::need(&PACKAGES)?;
        let folder = tempfile::tempdir()?;
        let (address, _) = REGISTRY.split_once(':').context("an address with a port")?;
        run_on("lan", &format!("ip addr replace {address}/24 dev br0"))?;
        let names = registries().join(REGISTRY);
        fs::create_dir_all(&names)?;
        let host = format!("server = \"http://{REGISTRY}\"\n[host.\"http://{REGISTRY}\"]\n");
        fs::write(names.join("hosts.toml"), host + "  capabilities = [\"pull\", \"resolve\"]\n")?;
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{REGISTRY}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            folder.path().join("images").display()
        );
        let file = folder.path().join("config.yaml");
        fs::write(&file, config)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = on("lan", "docker-registry");
        command.arg("serve").arg(file).stdout(log.try_clone()?).stderr(log);
        let registry = Self { process: command.spawn().context("cannot run docker-registry")?, folder };
        wait_until("the registry to answer", Duration::from_secs(20), || {
            let answer = output(on("lan", "curl").args(["-sSf", &format!("http://{REGISTRY}/v2/")]));
            let log = fs::read_to_string(registry.folder.path().join("log")).unwrap_or_default();
            answer.map(|_| None).context(log)
        })?;
        Ok(registry)
    }

    /// Pushes the image of `program` that was built last. Its name by digest, which is that of the archive.
    ///
    /// # Errors
    /// When there is no archive (`make images`), or the registry refuses it.
    pub fn push(&self, program: &str) -> Result<String> {
        let archive = checkout().join(format!("target/images/{program}.tar"));
        let index = output(Command::new("tar").arg("-xOf").arg(&archive).arg("index.json"))?;
        let index: Value = serde_json::from_str(&index)?;
        let digest = index["manifests"][0]["digest"].as_str().context("an archive without a digest")?;
        let image = format!("{REGISTRY}/metallb/{program}");
        let mut skopeo = on("lan", "skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci-archive:{}", archive.display())).arg(format!("docker://{image}:pushed"));
        output(&mut skopeo)?;
        let named = format!("{image}@{digest}");
        let found = output(on("lan", "skopeo").args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{named}"),
        ]))?;
        ensure!(found.contains("\"layers\""), "{named} is {found}");
        Ok(named)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The folder's absence is as good.
        let _ = fs::remove_dir_all(registries().join(REGISTRY));
    }
}
