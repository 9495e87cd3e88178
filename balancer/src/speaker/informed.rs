//! Whether this node learns what happens in the cluster: whether the API server answers it. Asked only while another node
//! announces what this one does.

use std::time::Duration;

use anyhow::Context;
use kube::Client;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two questions.
const PAUSE: Duration = Duration::from_secs(2);

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
    loop {
        let is_wanted = *wanted.borrow_and_update();
        let answers = !is_wanted || answers(&client).await;
        informed.send_if_modified(|former| std::mem::replace(former, answers) != answers);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = wanted.changed() => changed.context("layer 2 ended")?,
            () = tokio::time::sleep(PAUSE), if is_wanted => {}
        }
    }
}

/// Whether the API server says anything: a refusal is an answer.
async fn answers(client: &Client) -> bool {
    match timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(_) | Err(kube::Error::Api(_))) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no answer of the API server");
            false
        }
        Err(_) => false,
    }
}
