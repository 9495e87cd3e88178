//! A real etcd and a real API server on loopback, alone: nothing else competes for what is measured or tried.
//!
//! Programs under test run as processes of their own, with the rights that the installation gives them, and may be put
//! behind a [`proxy::Proxy`] that breaks things.

pub mod load;
pub mod objects;
pub mod proxy;
pub mod subject;
pub mod watchers;

use std::{
    collections::BTreeMap,
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
use serde_json::{Value, json};

use crate::tools;

/// How long etcd and the API server may take to answer.
const START: Duration = Duration::from_secs(180);
/// How long a program may take to come to rest and stay there.
const REST: Duration = Duration::from_secs(120);
/// Namespace of the pools and the controller.
pub const NAMESPACE: &str = "metallb-system";
/// The user as whom the measured program speaks to the API server. It may do everything, since any program may be
/// measured.
const SUBJECT: &str = "subject";
/// The user as whom the load is made, and its token.
pub const LOAD: &str = "load";
/// The controller, with the rights of its account in `config/rbac` and no others.
const CONTROLLER: &str = "controller";
/// Its account.
const ACCOUNT: &str = "system:serviceaccount:metallb-system:controller";
/// The operator, with the rights of its account in `config/rbac` and no others.
const OPERATOR: &str = "operator";
/// Its account.
const OPERATOR_ACCOUNT: &str = "system:serviceaccount:metallb-system:manager-account";

/// The control plane. Ends with this value.
pub struct Plane {
    folder: tempfile::TempDir,
    port: u16,
    etcd: Option<Child>,
    api_server: Option<Child>,
    /// Users whose requests are noted and who may do everything.
    subjects: Vec<String>,
    /// How the API server is started.
    command: (PathBuf, Vec<String>),
    kubectl: PathBuf,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop_api_server();
        end(self.etcd.take());
    }
}

/// Ends a process; one that is gone already is as good.
fn end(process: Option<Child>) {
    if let Some(mut process) = process {
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// A port of loopback that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Plane {
    /// Starts an empty control plane with the custom resources installed.
    ///
    /// # Errors
    /// When a program cannot be built or started, or is not ready in time.
    pub async fn start() -> Result<Self> {
        Self::start_for(&[]).await
    }

    /// The same with further users, each of whom may do everything and has a kubeconfig of its name.
    ///
    /// # Errors
    /// As [`Plane::start`].
    pub async fn start_for(further: &[String]) -> Result<Self> {
        let subjects = [&[SUBJECT.to_owned()], further].concat();
        let programs = tools::build()?;
        let program = |name: &str| -> Result<&Path> {
            let found = programs.iter().find(|(known, _)| *known == name);
            found.map(|(_, path)| path.as_path()).with_context(|| format!("no program {name}"))
        };
        let folder = tempfile::tempdir()?;
        let (client_port, peer_port, port) = (free_port()?, free_port()?, free_port()?);
        let path = |name: &str| folder.path().join(name);
        let (etcd, peer) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let data = path("etcd");
        let etcd_arguments = [
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={etcd}"),
            format!("--advertise-client-urls={etcd}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--quota-backend-bytes=8000000000".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let file = |name: &str| path(name).display().to_string();
        let mut arguments = vec![
            format!("--etcd-servers={etcd}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", file("certs")),
            // A loopback address may not be advertised; nothing is reached through this one.
            "--advertise-address=192.0.2.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.64.0.0/14,fd00:96::/112".to_owned(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-account-issuer=https://bench".to_owned(),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            // As OpenShift does.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
            format!("--audit-log-path={}", file("audit.log")),
            format!("--audit-policy-file={}", file("audit.yaml")),
            "--audit-log-mode=blocking".to_owned(),
        ];
        if !tools::is_oldest() {
            // Releases of Kubernetes from 1.34 on count all cluster IPs anew for each Service that is created: 40 ms at
            // 16,000 of them. What is measured here would drown in that.
            arguments.push("--emulated-version=1.33".to_owned());
            arguments.push("--feature-gates=MultiCIDRServiceAllocator=false".to_owned());
        }
        let command = (program("kube-apiserver")?.to_owned(), arguments);
        let kubectl = program("kubectl")?.to_owned();
        let mut plane = Self { folder, port, etcd: None, api_server: None, subjects, command, kubectl };
        plane.write_files()?;
        plane.etcd = Some(plane.spawn(program("etcd")?, &etcd_arguments)?);
        plane.start_api_server().await?;
        plane.install().await?;
        Ok(plane)
    }

    /// Ends the API server without warning; what it stored stays.
    pub fn stop_api_server(&mut self) {
        end(self.api_server.take());
    }

    /// Starts the API server, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time, with what it said.
    pub async fn start_api_server(&mut self) -> Result<()> {
        self.api_server = Some(self.spawn(&self.command.0, &self.command.1)?);
        self.succeed(&["get", "--raw", "/readyz"]).await
    }

    /// A file of this control plane.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_files(&self) -> Result<()> {
        let key = rcgen::KeyPair::generate()?;
        fs::write(self.path("sa.key"), key.serialize_pem())?;
        fs::write(self.path("sa.pub"), key.public_key_pem())?;
        let masters = || self.subjects.iter().map(String::as_str).chain([LOAD]);
        let mut tokens: String =
            masters().map(|user| format!("{user},{user},{user},system:masters\n")).collect();
        tokens.push_str(&format!("{CONTROLLER},{ACCOUNT},3\n{OPERATOR},{OPERATOR_ACCOUNT},4\n"));
        fs::write(self.path("tokens.csv"), tokens)?;
        let accounts = [ACCOUNT, OPERATOR_ACCOUNT];
        let noted: Vec<&str> = self.subjects.iter().map(String::as_str).chain(accounts).collect();
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{ "level": "Metadata", "users": noted }, { "level": "None" }],
        });
        fs::write(self.path("audit.yaml"), policy.to_string())?;
        for user in masters().chain([CONTROLLER, OPERATOR]) {
            let server = format!("https://127.0.0.1:{}", self.port);
            fs::write(self.path(user), kubeconfig(&server, user).to_string())?;
        }
        Ok(())
    }

    fn spawn(&self, program: &Path, arguments: &[String]) -> Result<Child> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())
    }

    /// Applies the custom resources, the namespace, and the rights of the programs.
    ///
    /// # Errors
    /// When one of them is not taken in time.
    pub async fn install(&self) -> Result<()> {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
        let (crds, namespace, rbac) =
            (config.join("crd"), config.join("default/namespace.yaml"), config.join("rbac"));
        for (option, path) in [("-k", crds), ("-f", namespace), ("-k", rbac)] {
            self.succeed(&["apply", "--server-side", option, &path.display().to_string()]).await?;
        }
        // A kind is served a moment after its definition was taken.
        self.succeed(&["get", "ipaddresspools.metallb.io", "--all-namespaces"]).await
    }

    /// Runs kubectl as the one who makes load.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.kubectl)
            .env("KUBECONFIG", self.path(LOAD))
            .arg("--request-timeout=30s")
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs kubectl until it succeeds.
    async fn succeed(&self, arguments: &[&str]) -> Result<()> {
        let started = Instant::now();
        loop {
            let Err(error) = self.kubectl(arguments) else { return Ok(()) };
            if started.elapsed() > START {
                let log = fs::read_to_string(self.path("kube-apiserver.log")).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!("no API server after {} s: {error}\n{}", started.elapsed().as_secs(), tail.join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The kubeconfig of the measured program.
    #[must_use]
    pub fn subject_config(&self) -> PathBuf {
        self.path(SUBJECT)
    }

    /// A kubeconfig with the rights of the installed controller.
    #[must_use]
    pub fn controller_config(&self) -> PathBuf {
        self.path(CONTROLLER)
    }

    /// A kubeconfig with the rights of the installed operator.
    #[must_use]
    pub fn operator_config(&self) -> PathBuf {
        self.path(OPERATOR)
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// When its kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        self.client_as(LOAD).await
    }

    async fn client_as(&self, user: &str) -> Result<Client> {
        let config = Kubeconfig::read_from(self.path(user))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// A proxy before the API server, and the kubeconfig by which the controller goes through it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn proxy(&self) -> Result<(proxy::Proxy, PathBuf)> {
        self.proxy_of(CONTROLLER).await
    }

    /// The same for the measured program.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn subject_proxy(&self) -> Result<(proxy::Proxy, PathBuf)> {
        self.proxy_of(SUBJECT).await
    }

    async fn proxy_of(&self, user: &str) -> Result<(proxy::Proxy, PathBuf)> {
        let proxy = proxy::Proxy::start(self.client_as(user).await?).await?;
        let path = self.path(&format!("proxy-{}", proxy.address().port()));
        fs::write(&path, kubeconfig(&format!("http://{}", proxy.address()), user).to_string())?;
        Ok((proxy, path))
    }

    /// What the audited users have asked of the API server since byte `from` of the log: `verb resource` and how
    /// often; and where the log ends. Watches that are still open are not in it.
    #[must_use]
    pub fn requests(&self, from: usize) -> (BTreeMap<String, usize>, usize) {
        self.requests_by(None, from)
    }

    /// The same of one user.
    #[must_use]
    pub fn requests_of(&self, user: &str, from: usize) -> (BTreeMap<String, usize>, usize) {
        self.requests_by(Some(user), from)
    }

    fn requests_by(&self, user: Option<&str>, from: usize) -> (BTreeMap<String, usize>, usize) {
        let log = fs::read(self.path("audit.log")).unwrap_or_default();
        let mut requests = BTreeMap::new();
        for line in log.get(from..).unwrap_or_default().split(|byte| *byte == b'\n') {
            let Ok(entry) = serde_json::from_slice::<Value>(line) else { continue };
            let object = &entry["objectRef"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let by_another = user.is_some_and(|user| entry["user"]["username"] != *user);
            if by_another || text(&entry["stage"]) == "ResponseStarted" {
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
        (requests, log.len())
    }

    /// What the audited users write while their Lease is renewed `renewals` times, from when they have come to rest.
    /// Questions about rights are no writes.
    ///
    /// # Errors
    /// When they do not come to rest, or their Lease is not renewed, with what they wrote.
    pub async fn writes_at_rest(&self, renewals: usize) -> Result<BTreeMap<String, usize>> {
        const RENEWAL: &str = "update leases";
        let is_write = |what: &String| {
            !["get ", "list ", "watch "].iter().any(|read| what.starts_with(read))
                && !what.ends_with("reviews")
        };
        let (_, mut from) = self.requests(0);
        let (mut rests, started) = (false, Instant::now());
        loop {
            let (mut writes, end) = self.requests(from);
            writes.retain(|what, _| is_write(what));
            let renewed = writes.get(RENEWAL).copied().unwrap_or_default();
            if rests && renewed >= renewals {
                return Ok(writes);
            }
            if !rests && writes.keys().any(|what| what != RENEWAL) {
                from = end;
            } else if !rests && renewed >= 2 {
                (rests, from) = (true, end);
            }
            if started.elapsed() > REST {
                bail!("no rest, or no renewal, within {} s: {writes:?}", REST.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn kubeconfig(server: &str, user: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "plane",
        "clusters": [{ "name": "plane", "cluster": { "server": server, "insecure-skip-tls-verify": true } }],
        "users": [{ "name": user, "user": { "token": user } }],
        "contexts": [{ "name": "plane", "context": { "cluster": "plane", "user": user } }],
    })
}
