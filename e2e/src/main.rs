//! The command line of the cluster: `make` calls it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};
use metallb_e2e::{cluster, demo, deploy, deps, layout, power, published, tools};

/// A real Kubernetes cluster on this machine.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Call,
}

#[derive(Subcommand)]
enum Call {
    /// Install the Debian packages that are missing.
    Deps,
    /// Build the Kubernetes programs that the cache lacks.
    Tools,
    /// Make the cluster.
    Up {
        /// How many nodes.
        #[arg(long, env = "NODES", default_value_t = 3)]
        nodes: u8,
    },
    /// Show the whole path, and a node powered off.
    Demo,
    /// Remove the cluster.
    Down,
    /// Install the images that `make images` built.
    Deploy,
    /// Show the hosts.
    Status,
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig,
    /// Print the path of the audit log.
    AuditLog,
    /// Import OCI archives on every node.
    Load {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Check the archives of a release against what they say of themselves.
    Verify {
        /// Folder of the archives.
        artifacts: PathBuf,
        /// Folder of the bundle that is published with them.
        bundle: PathBuf,
    },
    /// Cut a node off.
    PowerOff {
        /// node1, node2, ...
        node: String,
        /// dark or link.
        #[arg(long, default_value = "dark")]
        mode: power::Mode,
    },
    /// Connect a node again.
    PowerOn {
        /// node1, node2, ...
        node: String,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(call: Call) -> Result<()> {
    match call {
        Call::Deps => deps::install(),
        Call::Tools => tools::build().map(drop),
        Call::Up { nodes } => cluster::up(nodes),
        Call::Down => cluster::down(),
        Call::Deploy => deploy::deploy(),
        Call::Status => cluster::status(),
        Call::Demo => demo::run(),
        Call::Kubeconfig => {
            println!("{}", cluster::kubeconfig().display());
            Ok(())
        }
        Call::AuditLog => {
            cluster::refuse_external("reading the audit log")?;
            println!("{}", layout::audit_log().display());
            Ok(())
        }
        Call::Load { archives } => archives.iter().try_for_each(|archive| cluster::load(archive)),
        Call::Verify { artifacts, bundle } => published::check(&artifacts, &bundle),
        Call::PowerOff { node, mode } => power::off(&node, mode),
        Call::PowerOn { node } => power::on(&node),
    }
}
