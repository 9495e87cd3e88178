//! A registry of images on the switch, for nodes that pull what they run.

use std::{
    fs::{self, File},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
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

/// User and password of a registry that asks for them, and their line in its file of users (bcrypt).
pub const USER: (&str, &str) = ("puller", "only for tests");
const USERS: &str = "puller:$2b$05$abcdefghijklmnopqrstuui3d48x2EmEcM8nS6p4.UqwA2W2X0bq2\n";

/// Who may pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// [`USER`] alone.
    Private,
}

impl Access {
    /// What the names of the images begin with. What a node has of one registry must not do for the other.
    fn path(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Private => "private",
        }
    }
}

/// A registry that ends with this value.
pub struct Registry {
    process: Child,
    folder: tempfile::TempDir,
    access: Access,
}

impl Registry {
    /// Starts an empty registry that every node can pull from.
    ///
    /// # Errors
    /// When it cannot be installed or started, or does not answer.
    pub fn start(access: Access) -> Result<Self> {
        deps::need(&PACKAGES)?;
        let folder = tempfile::tempdir()?;
        let (address, _) = REGISTRY.split_once(':').context("an address with a port")?;
        run_on("lan", &format!("ip addr replace {address}/24 dev br0"))?;
        // What is pushed from the switch itself goes by its loopback link.
        run_on("lan", "ip link set lo up")?;
        let names = registries().join(REGISTRY);
        fs::create_dir_all(&names)?;
        let host = format!("server = \"http://{REGISTRY}\"\n[host.\"http://{REGISTRY}\"]\n");
        fs::write(names.join("hosts.toml"), host + "  capabilities = [\"pull\", \"resolve\"]\n")?;
        let users = folder.path().join("users");
        fs::write(&users, USERS)?;
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{REGISTRY}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            folder.path().join("images").display()
        );
        if access == Access::Private {
            config += &format!("auth: {{htpasswd: {{realm: images, path: '{}'}}}}\n", users.display());
        }
        let file = folder.path().join("config.yaml");
        fs::write(&file, config)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = on("lan", "docker-registry");
        command.arg("serve").arg(file).stdout(log.try_clone()?).stderr(log);
        let registry =
            Self { process: command.spawn().context("cannot run docker-registry")?, folder, access };
        wait_until("the registry to answer", Duration::from_secs(20), || {
            let answer = output(on("lan", "curl").args(["-sS", &format!("http://{REGISTRY}/v2/")]));
            let log = fs::read_to_string(registry.folder.path().join("log")).unwrap_or_default();
            answer.map(|_| None).context(log)
        })?;
        Ok(registry)
    }

    /// Pushes the image of `program` that was built last. Its name by digest, which is that of the archive.
    ///
    /// # Errors
    /// When there is no archive (`make images`), the registry refuses it, or lets others pull than it should.
    pub fn push(&self, program: &str) -> Result<String> {
        let archive = checkout().join(format!("target/images/{program}.tar"));
        let index = output(Command::new("tar").arg("-xOf").arg(&archive).arg("index.json"))?;
        let index: Value = serde_json::from_str(&index)?;
        let digest = index["manifests"][0]["digest"].as_str().context("an archive without a digest")?;
        let image = format!("{REGISTRY}/{}/{program}", self.access.path());
        let credentials = format!("{}:{}", USER.0, USER.1);
        let skopeo =
            |arguments: &[&str]| output(on("lan", "skopeo").arg("--insecure-policy").args(arguments));
        let mut copy = vec!["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"];
        if self.access == Access::Private {
            copy.extend(["--dest-creds", &credentials]);
        }
        let (from, to) = (format!("oci-archive:{}", archive.display()), format!("docker://{image}:pushed"));
        copy.extend([from.as_str(), to.as_str()]);
        skopeo(&copy)?;
        let named = format!("{image}@{digest}");
        let found = skopeo(&["inspect", "--raw", "--tls-verify=false", &format!("docker://{named}")]);
        match (self.access, found) {
            // Of one architecture, or of several.
            (Access::Open, Ok(found))
                if ["\"layers\"", "\"manifests\""].iter().any(|of| found.contains(of)) =>
            {
                Ok(named)
            }
            (Access::Private, Err(error)) if format!("{error:#}").contains("authentication required") => {
                Ok(named)
            }
            (access, found) => bail!("{named}, {access:?}: {found:?}"),
        }
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
