//! The operator's program.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use metallb_operator::{
    certificate,
    metrics::Metrics,
    reconcile::{self, Certificates},
    settings::Settings,
    tls,
    webhook::{self, Identity},
};
use metallb_runtime::{
    listen::any,
    logs::{self, LogLevel},
    metrics::Endpoint,
    probes::{self, Readiness},
    shutdown,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Installs, heals, upgrades and removes the load balancer that a MetalLB resource describes.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// How much is logged: all, debug, info, warn, error or none.
    #[arg(long, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
    /// Port of the probes /healthz and /readyz.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address of the metrics over HTTPS, such as `:8443`; none when 0.
    #[arg(long, default_value = "0")]
    metrics_addr: String,
    /// Port of the webhooks.
    #[arg(long, default_value_t = 9443)]
    webhook_port: u16,
    /// Folder of tls.crt and tls.key of the webhooks. While there are none, the operator makes its own certificate.
    #[arg(long, default_value = "/tmp/k8s-webhook-server/serving-certs")]
    cert_dir: PathBuf,
    /// Waits for a certificate in --cert-dir and never makes one.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    disable_cert_rotation: bool,
    /// Oldest TLS that the webhooks speak: VersionTLS12 or VersionTLS13.
    #[arg(long, default_value = "VersionTLS13")]
    tls_min_version: String,
    /// Cipher suites that the webhooks take, by their IANA names, separated by commas; all when empty.
    #[arg(long, default_value = "")]
    tls_cipher_suites: String,
}

/// How often it is looked whether somebody renewed a certificate that is mounted.
const RENEWAL: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    logs::init(flags.log_level);
    // On the heap: it is large, and there is one.
    match Box::pin(run(flags)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let settings = Arc::new(Settings::read(|variable| std::env::var(variable).ok())?);
    let versions = tls::Versions::read(&flags.tls_min_version, &flags.tls_cipher_suites)?;
    let cancel = shutdown::token()?;
    let client = kube::Client::try_default().await?;
    tracing::info!(version = settings.version, namespace = settings.namespace, "operator starts");

    let readiness = Readiness::new();
    let probes = tokio::spawn(probes::serve(any(flags.port), readiness.clone(), cancel.clone()));
    let (sender, identity) = watch::channel(None);
    let given = flags.disable_cert_rotation || flags.cert_dir.join("tls.crt").exists();
    let certificates = if given {
        tokio::spawn(follow(flags.cert_dir, sender, cancel.clone()));
        Certificates::Given
    } else {
        Certificates::Own(sender)
    };
    let metrics = Metrics::default();
    tokio::spawn(show_end(identity.clone(), metrics.clone()));
    let webhooks = tokio::spawn(webhook::serve(
        any(flags.webhook_port),
        versions,
        client.clone(),
        settings.clone(),
        identity,
        readiness,
        cancel.clone(),
    ));
    let shown = tokio::spawn(show(flags.metrics_addr, metrics.clone(), client.clone(), cancel.clone()));
    tokio::select! {
        result = reconcile::run(client, &settings, certificates, metrics, &cancel) => result,
        result = lasting(shown, &cancel) => result,
        result = lasting(probes, &cancel) => result,
        result = lasting(webhooks, &cancel) => result,
    }
}

/// Returns when a server ends by itself. One that was told to end must not keep the Lease from being given up.
async fn lasting(server: JoinHandle<anyhow::Result<()>>, cancel: &CancellationToken) -> anyhow::Result<()> {
    let ended = server.await?;
    if cancel.is_cancelled() {
        std::future::pending::<()>().await;
    }
    ended
}

/// Shows when the webhooks' certificate ends, whoever makes it.
async fn show_end(mut identity: watch::Receiver<Option<Identity>>, metrics: Metrics) {
    while identity.changed().await.is_ok() {
        let chain = identity.borrow_and_update().as_ref().map(|identity| identity.certificate.clone());
        if let Some(ends) = chain.as_deref().and_then(certificate::ends) {
            metrics.certificate_ends(ends);
        }
    }
}

/// Serves the metrics at `address`, if anywhere.
async fn show(
    address: String,
    metrics: Metrics,
    client: kube::Client,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    if address == "0" {
        cancel.cancelled().await;
        return Ok(());
    }
    let address = match address.strip_prefix(':') {
        Some(port) => any(port.parse().with_context(|| format!("--metrics-addr={address}: not a port"))?),
        None => address
            .parse()
            .with_context(|| format!("--metrics-addr={address}: not an address with a port"))?,
    };
    let endpoint = Endpoint { address, certificates: None };
    metallb_runtime::metrics::serve(endpoint, metrics.registry(), client, cancel).await
}

/// Hands the certificate in `folder` to the webhooks, and each that follows it. Whoever mounted it sees to it that
/// the API server trusts it.
async fn follow(folder: PathBuf, sender: watch::Sender<Option<Identity>>, cancel: CancellationToken) {
    loop {
        let read = async |name: &str| tokio::fs::read_to_string(folder.join(name)).await;
        match (read("tls.crt").await, read("tls.key").await) {
            (Ok(certificate), Ok(key)) => {
                let identity = Identity { certificate, key, is_published: true };
                sender.send_if_modified(|before| {
                    let differs = before.as_ref() != Some(&identity);
                    *before = Some(identity);
                    differs
                });
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(folder = %folder.display(), %error, "no certificate of the webhooks");
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RENEWAL) => {}
        }
    }
}
