//! Completion of `kubectl metallb`: kubectl runs the program `kubectl_complete-metallb` with the words so far.
//!
//! The answer is that of cobra's `__complete`, one candidate a line and then a directive
//! (<https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/>, kubectl's `pkg/cmd/plugin_completion.go`).

use std::ffi::OsString;

use clap::{Args, Command, CommandFactory, FromArgMatches};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::ResourceExt;

use super::{Cli, place::Target};

/// The word by which a completion is asked for.
pub(super) const COMMAND: &str = "__complete";

/// What stands in `kubectl_complete-metallb`.
pub(super) const SCRIPT: &str = "#!/bin/sh\nexec kubectl-metallb __complete \"$@\"\n";

/// Directives of cobra: files are completed, or are not.
const FILES: &str = ":0";
const NO_FILES: &str = ":4";

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// One of these, each with a description.
    OneOf(Vec<(String, String)>),
    File,
    Namespace,
    Node,
    Service,
    Nothing,
}

/// Answers for `words`, the last of which is not complete, and may be empty. What cannot be told is left out: a shell
/// has no use for errors.
pub(super) async fn answer(words: &[OsString]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let begun = words.last().cloned().unwrap_or_default();
    let next = next(&Cli::command(), &words);
    let directive = if next == Next::File { FILES } else { NO_FILES };
    let candidates = match next {
        Next::OneOf(candidates) => candidates,
        Next::File | Next::Nothing => Vec::new(),
        live => names(&live, &words)
            .await
            .unwrap_or_default()
            .into_iter()
            .map(|name| (name, String::new()))
            .collect(),
    };
    let mut text = String::new();
    for (candidate, about) in candidates.iter().filter(|(candidate, _)| candidate.starts_with(&begun)) {
        text.push_str(candidate);
        if !about.is_empty() {
            text.push('\t');
            text.push_str(about);
        }
        text.push('\n');
    }
    text + directive + "\n"
}

/// Names in the cluster.
async fn names(next: &Next, words: &[String]) -> anyhow::Result<Vec<String>> {
    let (cluster, _) = target(words)?.cluster().await?;
    let first = |all: Vec<(String, _)>| all.into_iter().map(|(name, _)| name).collect();
    Ok(match next {
        Next::Namespace => first(cluster.labels::<Namespace>().await?),
        Next::Node => first(cluster.labels::<Node>().await?),
        _ => {
            let is_ours = |service: &Service| {
                service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
            };
            let services: Vec<Service> = cluster.within(None).await?;
            let name = |service: &Service| {
                format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any())
            };
            services.iter().filter(|service| is_ours(service)).map(name).collect()
        }
    })
}

/// The cluster that the words speak of.
fn target(words: &[String]) -> anyhow::Result<Target> {
    let command = Target::augment_args(Command::new("words").no_binary_name(true));
    let mut known = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if flag(&command, &command, word).is_some() {
            known.push(word.clone());
            known.extend((!word.contains('=')).then(|| rest.next().cloned()).flatten());
        }
    }
    Ok(Target::from_arg_matches(&command.try_get_matches_from(known)?)?)
}

/// What the last word may be.
fn next(root: &Command, words: &[String]) -> Next {
    let Some((begun, before)) = words.split_last() else { return Next::Nothing };
    let mut command = root;
    let mut operands = 0;
    let mut rest = before.iter();
    while let Some(word) = rest.next() {
        if let Some(flag) = flag(root, command, word) {
            if takes_value(flag) && !word.contains('=') && rest.next().is_none() {
                return value(flag);
            }
        } else if let Some(found) = command.find_subcommand(word).filter(|_| !word.starts_with('-')) {
            command = found;
        } else {
            operands += 1;
        }
    }
    if begun.starts_with('-') {
        let flags = command.get_arguments().chain(root.get_arguments());
        let flags =
            flags.filter_map(|flag| Some((format!("--{}", flag.get_long()?), about(flag.get_help()))));
        return Next::OneOf(flags.collect());
    }
    if command.has_subcommands() {
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        return Next::OneOf(
            shown.map(|command| (command.get_name().to_owned(), about(command.get_about()))).collect(),
        );
    }
    let operand = command.get_positionals().nth(operands).map(|operand| operand.get_id().as_str());
    match operand {
        Some("service") => Next::Service,
        Some("node") => Next::Node,
        _ => Next::Nothing,
    }
}

fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// The flag that a word is, one of the subcommand or of all.
fn flag<'a>(root: &'a Command, command: &'a Command, word: &str) -> Option<&'a clap::Arg> {
    let name = word.split('=').next().unwrap_or_default();
    let is = |flag: &&clap::Arg| {
        let short = flag.get_short().is_some_and(|short| name == format!("-{short}"));
        short || flag.get_long().is_some_and(|long| name == format!("--{long}"))
    };
    command.get_arguments().chain(root.get_arguments()).find(is)
}

fn takes_value(flag: &clap::Arg) -> bool {
    flag.get_action().takes_values()
}

fn value(flag: &clap::Arg) -> Next {
    let possible = flag.get_possible_values();
    if !possible.is_empty() {
        let entry =
            |value: clap::builder::PossibleValue| (value.get_name().to_owned(), about(value.get_help()));
        return Next::OneOf(possible.into_iter().map(entry).collect());
    }
    match flag.get_id().as_str() {
        "namespace" | "metallb_namespace" => Next::Namespace,
        "filename" | "kubeconfig" => Next::File,
        _ => Next::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_of(words: &str) -> Next {
        next(&Cli::command(), &words.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn names(next: &Next) -> Vec<&str> {
        match next {
            Next::OneOf(candidates) => candidates.iter().map(|(name, _)| name.as_str()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_word_is_completed_by_what_may_stand_there() {
        let questions = [
            "status",
            "pools",
            "services",
            "explain",
            "diff",
            "facts",
            "drain-preview",
            "collect",
            "check",
            "import",
            "completion",
        ];
        for words in ["", "sta", "-n demo ", "--output=json ", "-o json e"] {
            assert_eq!(names(&next_of(words)), questions, "{words:?}");
        }
        assert_eq!(names(&next_of("status -o ")), ["text", "json"]);
        assert!(names(&next_of("explain --")).contains(&"--context"));
        assert!(names(&next_of("check --")).contains(&"--filename"));
        for (words, want) in [
            ("explain ", Next::Service),
            ("explain -n demo we", Next::Service),
            ("explain web ", Next::Nothing),
            ("facts ", Next::Node),
            ("drain-preview no", Next::Node),
            ("check -f ", Next::File),
            ("-n ", Next::Namespace),
            ("--context ", Next::Nothing),
            ("status ", Next::Nothing),
        ] {
            assert_eq!(next_of(words), want, "{words:?}");
        }
    }

    #[test]
    fn the_cluster_is_read_from_words_that_are_no_whole_command() {
        let words = ["explain", "--context", "other", "-n", "demo", "-o", "json", "--unknown", "we"]
            .map(str::to_owned);
        let target = format!("{:?}", target(&words).unwrap());
        assert!(
            target.contains("context: Some(\"other\")") && target.contains("namespace: Some(\"demo\")"),
            "{target}"
        );
    }
}
