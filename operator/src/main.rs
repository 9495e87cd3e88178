//! The operator's program.

use std::{net::SocketAddr, process::ExitCode};

use clap::Parser;
use metallb_operator::{reconcile, settings::Settings};
use metallb_runtime::{
    logs::{self, LogLevel},
    probes::{self, Readiness},
    shutdown,
};
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
}

#[tokio::main]
async fn main() -> ExitCode {
    let flags = Flags::parse();
    logs::init(flags.log_level);
    match run(&flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags) -> anyhow::Result<()> {
    let settings = Settings::read(|variable| std::env::var(variable).ok())?;
    let cancel = shutdown::token()?;
    let client = kube::Client::try_default().await?;
    let readiness = Readiness::new();
    let address = SocketAddr::from(([0, 0, 0, 0], flags.port));
    // Served until the end of the process: the work below ends by itself when it is asked to, and gives up its Lease.
    let probes = tokio::spawn(probes::serve(address, readiness.clone(), CancellationToken::new()));
    readiness.set(true);
    tracing::info!(version = settings.version, namespace = settings.namespace, "operator starts");
    tokio::select! {
        result = reconcile::run(client, &settings, &cancel) => result,
        ended = probes => ended?,
    }
}
