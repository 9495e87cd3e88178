//! ConfigurationState `speaker-NODE`: whether this speaker could read its configuration, and whether it hears the others.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use metallb_api::conditions::Report;
use metallb_api::names::{LABEL_COMPONENT_TYPE, LABEL_NODE_NAME, SPEAKER};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::controller::state::{Subject, write_for};

/// Condition of the configuration, named as MetalLB names it.
const CONFIGURATION_VALID: &str = "configReconcilerValid";
/// Condition that names the speakers that were never heard.
const MEMBERS_UNREACHABLE: &str = "MembersUnreachable";
/// In whose name it is written.
const WRITER: &str = "metallb-speaker";
/// For how long a state stands before it is told: speakers that start together hear each other soon.
const STEADY: Duration = Duration::from_secs(5);
/// Pause before what could not be written is tried again; doubled each time.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// What is wrong with the configuration.
    pub(super) problems: Vec<String>,
    /// Nodes whose ready speaker was never heard.
    pub(super) unheard: BTreeSet<String>,
    /// Port of the gossip.
    pub(super) port: u16,
}

/// Where it is told, and about whom.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) namespace: String,
    pub(super) node: String,
}

/// Tells until `cancel`, each state once it stands for a while.
///
/// # Errors
/// When the states end. What cannot be written is logged and tried again.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    mut states: watch::Receiver<Option<State>>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let node = &settings.node;
    let labels = [(LABEL_COMPONENT_TYPE, SPEAKER), (LABEL_NODE_NAME, node)];
    let subject = Subject {
        name: format!("{SPEAKER}-{node}"),
        labels: labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into(),
        condition: CONFIGURATION_VALID,
        writer: WRITER,
    };
    let mut pause = None;
    let mut told = None;
    loop {
        let state = states.borrow_and_update().clone();
        let wait = match (&state, pause) {
            (Some(state), _) if told.as_ref() == Some(state) => None,
            (Some(_), pause) => Some(pause.unwrap_or(STEADY)),
            (None, _) => None,
        };
        let waited = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = states.changed() => {
                changed.context("the plans ended")?;
                pause = None;
                continue;
            }
            () = waited => {}
        }
        let Some(state) = state else { continue };
        let more = [members(&state)];
        match write_for(client.clone(), &settings.namespace, &subject, &state.problems, &more).await {
            Ok(()) => (told, pause) = (Some(state), None),
            Err(error) => {
                tracing::warn!(%error, "ConfigurationState not written");
                pause = Some(pause.map_or(RETRY, |pause: Duration| (pause * 2).min(RETRY_LIMIT)));
            }
        }
    }
}

fn members(state: &State) -> Report {
    let unheard = !state.unheard.is_empty();
    let nodes: Vec<&str> = state.unheard.iter().map(String::as_str).collect();
    let message = format!(
        "the speakers of these nodes are Ready and were never heard; port {} must be open between the nodes by UDP and \
         TCP: {}",
        state.port,
        nodes.join(", ")
    );
    Report {
        kind: MEMBERS_UNREACHABLE,
        status: unheard,
        reason: if unheard { "NeverHeard" } else { "AllHeard" },
        message: if unheard { message } else { String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speakers_that_were_never_heard_are_named_with_the_port() {
        let unheard = ["node2", "node3"].map(str::to_owned).into();
        let state = State { unheard, port: 7946, ..State::default() };
        let report = members(&state);
        assert_eq!((report.status, report.reason), (true, "NeverHeard"));
        assert_eq!(
            report.message,
            "the speakers of these nodes are Ready and were never heard; port 7946 must be open between the nodes by \
             UDP and TCP: node2, node3"
        );
        let report = members(&State::default());
        assert_eq!((report.status, report.reason, report.message.as_str()), (false, "AllHeard", ""));
    }
}
