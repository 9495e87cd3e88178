//! A real etcd and a real API server on loopback, alone: nothing else competes for what is measured.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use metallb_e2e::tools;
use serde_json::{Value, json};

/// How long etcd and the API server may take to answer.
const START: Duration = Duration::from_secs(60);
/// The user as whom the measured controller speaks to the API server.
const SUBJECT: &str = "subject";
/// The user as whom the load is made.
const LOAD: &str = "load";

/// The control plane. Ends with this value.
pub(crate) struct Plane {
    folder: tempfile::TempDir,
    port: u16,
    processes: Vec<Child>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            // It may be gone already; then there is nothing to end.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Plane {
    /// Starts an empty control plane with the custom resources installed.
    pub(crate) async fn start() -> Result<Self> {
        let programs = tools::build()?;
        let program = |name: &str| -> Result<&Path> {
            let found = programs.iter().find(|(known, _)| *known == name);
            found.map(|(_, path)| path.as_path()).with_context(|| format!("no program {name}"))
        };
        let folder = tempfile::tempdir()?;
        let (client_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let mut plane = Self { folder, port, processes: Vec::new() };
        plane.write_files()?;
        let (etcd, peer) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let data = plane.path("etcd");
        plane.spawn(
            program("etcd")?,
            &[
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--unsafe-no-fsync".to_owned(),
                "--quota-backend-bytes=8000000000".to_owned(),
                "--log-level=error".to_owned(),
            ],
        )?;
        let file = |name: &str| plane.path(name).display().to_string();
        let arguments = [
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", file("certs")),
            // A loopback address may not be advertised; nothing is reached through this one.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.64.0.0/12,fd00:96::/108".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://bench".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            format!("--audit-log-path={}", file("audit.log")),
            format!("--audit-policy-file={}", file("audit.yaml")),
            "--audit-log-mode=blocking".to_owned(),
        ];
        plane.spawn(program("kube-apiserver")?, &arguments)?;
        plane.ready(program("kubectl")?).await?;
        Ok(plane)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_files(&self) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        fs::write(self.path("sa.key"), key.serialize_pem())?;
        fs::write(self.path("sa.pub"), key.public_key_pem())?;
        let tokens = format!("{SUBJECT},{SUBJECT},1,system:masters\n{LOAD},{LOAD},2,system:masters\n");
        fs::write(self.path("tokens.csv"), tokens)?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{ "level": "Metadata", "users": [SUBJECT] }, { "level": "None" }],
        });
        fs::write(self.path("audit.yaml"), policy.to_string())?;
        for user in [SUBJECT, LOAD] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "bench",
                "clusters": [{ "name": "bench", "cluster": {
                    "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true,
                } }],
                "users": [{ "name": user, "user": { "token": user } }],
                "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": user } }],
            });
            fs::write(self.path(user), config.to_string())?;
        }
        Ok(())
    }

    fn spawn(&mut self, program: &Path, arguments: &[String]) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::File::create(self.path(&format!("{name}.log")))?;
        let process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())?;
        self.processes.push(process);
        Ok(())
    }

    async fn ready(&mut self, kubectl: &Path) -> Result<()> {
        let started = Instant::now();
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/crd");
        loop {
            let applied = Command::new(kubectl)
                .env("KUBECONFIG", self.path(LOAD))
                .args(["apply", "--server-side", "-k"])
                .arg(&crds)
                .output()?;
            if applied.status.success() {
                return Ok(());
            }
            let mut ended = false;
            for process in &mut self.processes {
                ended |= process.try_wait()?.is_some();
            }
            if ended || started.elapsed() > START {
                let log = fs::read_to_string(self.path("kube-apiserver.log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!(
                    "no API server after {} s: {}\n{}",
                    started.elapsed().as_secs(),
                    String::from_utf8_lossy(&applied.stderr),
                    tail.join("\n")
                );
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// The kubeconfig of the measured controller.
    pub(crate) fn subject_config(&self) -> PathBuf {
        self.path(SUBJECT)
    }

    /// A client that makes load.
    pub(crate) async fn client(&self) -> Result<Client> {
        let config = Kubeconfig::read_from(self.path(LOAD))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// What the measured controller has asked of the API server since byte `from` of the log: `verb resource` and how
    /// often; and where the log ends. Watches that are still open are not in it.
    pub(crate) fn requests(&self, from: usize) -> Result<(std::collections::BTreeMap<String, usize>, usize)> {
        let log = fs::read(self.path("audit.log")).unwrap_or_default();
        let mut requests = std::collections::BTreeMap::new();
        for line in log.get(from..).unwrap_or_default().split(|byte| *byte == b'\n') {
            let Ok(entry) = serde_json::from_slice::<Value>(line) else { continue };
            let object = &entry["objectRef"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            if text(&entry["stage"]) == "ResponseStarted" {
                continue;
            }
            let mut what = format!("{} {}", text(&entry["verb"]), text(&object["resource"]));
            if let Some(subresource) = object["subresource"].as_str() {
                what = format!("{what}/{subresource}");
            }
            if entry["responseStatus"]["code"].as_u64().is_some_and(|code| code >= 400) {
                what = format!("{what} ({})", entry["responseStatus"]["code"]);
            }
            *requests.entry(what).or_default() += 1;
        }
        Ok((requests, log.len()))
    }
}
