//! Whether this node learns what happens in the cluster: whether the API server answers it.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after an answer.
const REST: Duration = Duration::from_secs(10);
/// The same while another node announces what this one does, and while this node learns nothing.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause after the first questions without an answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Questions in a row without an answer after which this node learns nothing.
const UNANSWERED: u32 = 2;

/// What becomes of questions to the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Contact {
    /// They are answered.
    #[default]
    Answers,
    /// They fail at once: as soon as the API server is back, watches go on.
    Fails,
    /// Nothing comes back: connections may stay silent for long after the API server can be reached again.
    Silent,
}

/// Asks, more often while there are `doubts`, and tells what becomes of it.
///
/// # Errors
/// When layer 2 ends.
pub(super) async fn run(
    client: Client,
    mut doubts: watch::Receiver<bool>,
    contact: watch::Sender<Contact>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut unanswered = 0;
    loop {
        let is_doubted = *doubts.borrow_and_update();
        let now = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            now = ask(&client) => now,
        };
        unanswered = if now == Contact::Answers { 0 } else { unanswered + 1 };
        if unanswered == 0 || unanswered >= UNANSWERED {
            tell(&contact, now);
        }
        let pause = match now {
            Contact::Answers if !is_doubted => REST,
            Contact::Fails | Contact::Silent if unanswered < UNANSWERED => AGAIN,
            _ => PAUSE,
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = doubts.changed() => changed.context("layer 2 ended")?,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Once it was silent it counts as that until it answers.
fn tell(contact: &watch::Sender<Contact>, now: Contact) {
    contact.send_if_modified(|former| {
        if *former == now || (*former, now) == (Contact::Silent, Contact::Fails) {
            return false;
        }
        match now {
            Contact::Answers => tracing::info!(event = "informed", "the API server answers again"),
            _ => tracing::warn!(event = "uninformed", contact = ?now, "the API server does not answer"),
        }
        *former = now;
        true
    });
}

/// Whether the API server reads something out of its store.
async fn ask(client: &Client) -> Contact {
    let one = ListParams::default().limit(1);
    match timeout(PATIENCE, Api::<Node>::all(client.clone()).list_metadata(&one)).await {
        Ok(Ok(_)) => Contact::Answers,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no answer of the API server");
            Contact::Fails
        }
        Err(_) => Contact::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_silent_stays_so_until_it_answers() {
        use Contact::{Answers, Fails, Silent};
        let contact = watch::Sender::new(Answers);
        let told = [Fails, Silent, Fails, Answers, Fails, Answers].map(|now| {
            tell(&contact, now);
            *contact.borrow()
        });
        assert_eq!(told, [Fails, Silent, Silent, Answers, Fails, Answers]);
    }
}
