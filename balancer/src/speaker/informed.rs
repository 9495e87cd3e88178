//! Whether this node learns what happens in the cluster: whether the API server answers it. Asked only while another node
//! announces what this one does.

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
const PAUSE: Duration = Duration::from_secs(2);
/// Pause after a question without an answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Questions in a row without an answer after which this node learns nothing.
const UNANSWERED: u32 = 2;

/// Asks while it is `wanted`, and tells whether the API server answers; else that it does.
///
/// # Errors
/// When layer 2 ends.
pub(super) async fn run(
    client: Client,
    mut wanted: watch::Receiver<bool>,
    informed: watch::Sender<bool>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut unanswered = 0;
    loop {
        let is_wanted = *wanted.borrow_and_update();
        let answered = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            answered = answers(&client), if is_wanted => answered,
            () = std::future::ready(()), if !is_wanted => true,
        };
        unanswered = if answered { 0 } else { unanswered + 1 };
        let now = unanswered < UNANSWERED;
        informed.send_if_modified(|former| std::mem::replace(former, now) != now);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = wanted.changed() => changed.context("layer 2 ended")?,
            () = tokio::time::sleep(if answered { PAUSE } else { AGAIN }), if is_wanted => {}
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
