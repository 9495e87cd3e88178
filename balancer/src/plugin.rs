//! `kubectl metallb`: shows the load balancer of a cluster, explains what it does, and checks what it would do.
//!
//! It asks the API server and decides by the code of controller and speaker; nothing is written to the cluster. Its
//! exit status is 0 when all is well, 1 when the answer is that something is not, and 2 when there is no answer.

mod collect;
mod complete;
mod drain;
mod facts;
mod import;
mod output;
mod place;
mod pools;
mod services;
mod sessions;
mod status;

use std::{
    ffi::OsString,
    io::{ErrorKind, IsTerminal, Write, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use metallb_api::names::LEGACY_CONFIG;
use metallb_core::service::ServiceKey;

use crate::inspect::{self, Announcing};
use drain::Preview;
use facts::Facts;
use import::Import;
use output::{Answer, Format, Style};
use place::{Place, Target};
use pools::Pools;
use services::Services;
use status::Status;

/// Exit status when something is not well.
const BAD: u8 = 1;
/// Exit status when there is no answer.
const NONE: u8 = 2;

/// Shows the load balancer of a cluster, explains what it does, and checks what it would do.
///
/// Exit status: 0 when all is well, 1 when something is not, 2 when there is no answer.
#[derive(Parser)]
#[command(name = "kubectl-metallb", bin_name = "kubectl metallb", version)]
struct Cli {
    #[command(flatten)]
    target: Target,
    /// How the answer is written.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand)]
enum Question {
    #[command(flatten)]
    About(About),
    /// Whether files hold a good configuration; asks no cluster.
    Check {
        /// A file or folder of YAML.
        #[arg(short, long)]
        filename: PathBuf,
    },
    /// Print the objects that say what the ConfigMap of MetalLB 0.12 and older says.
    ///
    /// Give them to `kubectl apply -f -`.
    Import {
        /// A file that holds the ConfigMap, or its text: no cluster is asked.
        #[arg(short, long)]
        filename: Option<PathBuf>,
        /// Name of the ConfigMap in the cluster.
        #[arg(long, default_value = LEGACY_CONFIG)]
        config_map: String,
    },
    /// Print the script by which kubectl completes the plugin's words.
    ///
    /// Write it to a file kubectl_complete-metallb on the PATH, and make that executable.
    Completion,
}

/// Questions about a cluster.
#[derive(Subcommand)]
enum About {
    /// Whether the load balancer works, and what is wrong.
    Status,
    /// The pools: how full they are, and who advertises them.
    Pools,
    /// The Services: their addresses, who announces them, and why some wait.
    Services,
    /// Why a Service has the address that it has, or none, and who announces it.
    Explain {
        /// NAME, in the namespace given by -n, or NAMESPACE/NAME.
        service: String,
    },
    /// Which Services would lose or change their address if files were applied.
    Diff {
        /// A file or folder of YAML.
        #[arg(short, long)]
        filename: PathBuf,
    },
    /// What a node looks like to the load balancer.
    Facts {
        /// Name of the node.
        node: String,
    },
    /// Where the addresses of a node would go if it went away.
    DrainPreview {
        /// Name of the node.
        node: String,
    },
    /// Write a support archive: configuration, state and logs, without secrets.
    Collect {
        /// The archive, a tar file; by default metallb-support-TIME.tar.
        #[arg(short, long)]
        filename: Option<PathBuf>,
    },
}

/// Answers the question in `args`, the first of which is the program's name.
pub async fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = Style::of(stdout().is_terminal(), no_colour);
    // kubectl asks for completions with words that are no whole command yet.
    let answer = match args.split_first_chunk::<2>() {
        Some(([_, first], words)) if first == complete::COMMAND => Ok((complete::answer(words).await, true)),
        _ => {
            let cli = Cli::parse_from(args);
            answer(&cli).await.map(|answer| (answer.written(cli.output, style), answer.is_good))
        }
    };
    match answer.and_then(|(text, is_good)| tell(&text).map(|()| is_good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BAD),
        Err(error) => {
            // Nobody is left to be told when this fails too.
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::from(NONE)
        }
    }
}

/// Writes to standard output. A reader that has read enough, such as `head`, is no fault.
fn tell(text: &str) -> anyhow::Result<()> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

async fn answer(cli: &Cli) -> anyhow::Result<Answer> {
    match &cli.question {
        Question::About(question) => about(question, &Place::find(&cli.target).await?).await,
        Question::Check { filename } => {
            let judgement = inspect::check(filename)?;
            Answer::of(&judgement, judgement.is_good(), |_| judgement.to_string())
        }
        Question::Import { filename, config_map } => {
            let text = match filename {
                Some(file) => import::in_file(file)?,
                None => import::in_cluster(&cli.target.cluster().await?.0, config_map).await?,
            };
            let import = Import::of(&text, cli.target.metallb_namespace());
            let text = import.text()?;
            Answer::of(&import, import.is_good(), |_| text.clone())
        }
        Question::Completion => Answer::of(&complete::SCRIPT, true, |_| complete::SCRIPT.to_owned()),
    }
}

async fn about(question: &About, place: &Place) -> anyhow::Result<Answer> {
    match question {
        About::Status => {
            let (allocation, announcing) = (place.allocation().await?, place.announcing().await?);
            let states = place.states().await?;
            let sessions = sessions::of_all(&allocation, &announcing);
            let place = (place.cluster.namespace.as_str(), place.metallb.as_ref());
            let status = Status::of(place, &states, &allocation, &sessions);
            Answer::of(&status, status.is_good(), |style| status.text(style))
        }
        About::Pools => {
            let pools = Pools::of(&place.allocation().await?, &place.announcing().await?);
            Answer::of(&pools, pools.is_good(), |style| pools.text(style))
        }
        About::Services => {
            let (allocation, announcing) = (place.allocation().await?, place.announcing().await?);
            let services = Services::of(&allocation, &announcing, place.chosen.as_deref());
            Answer::of(&services, services.is_good(), |style| services.text(style))
        }
        About::Explain { service } => {
            let key = match service.split_once('/') {
                Some((namespace, name)) => ServiceKey::new(namespace, name),
                None => ServiceKey::new(place.chosen_or_default(), service),
            };
            let announcing = Announcing::read(&place.cluster, Some(key.namespace())).await;
            let explained = inspect::explain(&key, &place.allocation().await?, announcing)?;
            Answer::of(&explained, explained.is_met(), |_| explained.to_string())
        }
        About::Diff { filename } => {
            let changes = inspect::diff(&place.allocation().await?, filename)?;
            Answer::of(&changes, changes.harmed() == 0, |_| changes.to_string())
        }
        About::Facts { node } => {
            let (allocation, announcing) = (place.allocation().await?, place.announcing().await?);
            let facts = Facts::of(node, &allocation, &announcing, &place.states().await?)?;
            Answer::of(&facts, facts.is_good(), |style| facts.text(style))
        }
        About::DrainPreview { node } => {
            let (allocation, announcing) = (place.allocation().await?, place.announcing().await?);
            let preview = Preview::of(node, &allocation, &announcing)?;
            Answer::of(&preview, preview.is_good(), |style| preview.text(style))
        }
        About::Collect { filename } => {
            let written = collect::write(place, filename.as_deref()).await?;
            Answer::of(&written, written.is_complete(), |_| written.to_string())
        }
    }
}
