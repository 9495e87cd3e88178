//! Whether this node learns what happens in the cluster: whether the API server answers it.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
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
/// The same while another node announces what this one does.
const PAUSE: Duration = Duration::from_secs(2);
/// Pause after a question without an answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Questions in a row without an answer after which this node learns nothing.
const UNANSWERED: u32 = 2;
/// Seconds before the last answer within which a change may not have been learnt of; also for clocks that differ.
const MARGIN: i64 = 10;

/// Asks, more often while there are `doubts`, and tells until when this node knew what the API server did while that does not
/// answer, in seconds since the epoch.
///
/// # Errors
/// When layer 2 ends.
pub(super) async fn run(
    client: Client,
    mut doubts: watch::Receiver<bool>,
    answered_until: watch::Sender<Option<i64>>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (mut unanswered, mut last) = (0, Timestamp::now());
    loop {
        let is_doubted = *doubts.borrow_and_update();
        let answered = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            answered = answers(&client) => answered,
        };
        if answered {
            (unanswered, last) = (0, Timestamp::now());
        } else {
            unanswered += 1;
        }
        let now = (unanswered >= UNANSWERED).then(|| last.as_second() - MARGIN);
        if answered_until.send_if_modified(|former| std::mem::replace(former, now) != now) {
            match now {
                Some(_) => tracing::warn!(event = "uninformed", "the API server does not answer"),
                None => tracing::info!(event = "informed", "the API server answers again"),
            }
        }
        let pause = match (answered, is_doubted) {
            (true, true) => PAUSE,
            (true, false) => REST,
            (false, _) => AGAIN,
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = doubts.changed() => changed.context("layer 2 ended")?,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether the API server reads something out of its store.
async fn answers(client: &Client) -> bool {
    let one = ListParams::default().limit(1);
    match timeout(PATIENCE, Api::<Node>::all(client.clone()).list_metadata(&one)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no answer of the API server");
            false
        }
        Err(_) => false,
    }
}
