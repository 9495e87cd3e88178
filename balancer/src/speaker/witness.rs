//! The API server as the third voice between two nodes: a Lease that only one of them holds (`fencing: Strict`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use kube::Client;
use metallb_runtime::{lease::Lease, owner::Owner};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the Lease.
const LEASE: &str = "speaker-witness";
/// How often it is told on that the Lease is held, and half the time for which that counts.
const TELL: Duration = Duration::from_millis(500);
/// Pause before the Lease is wanted again when the API server refused it.
const RETRY: Duration = Duration::from_secs(5);

/// Holds the Lease while it is `wanted`, and tells until when it counts. The Lease goes with `owner`.
///
/// # Errors
/// When the membership ends.
pub(super) async fn run(
    client: Client,
    namespace: &str,
    node: &str,
    mut wanted: watch::Receiver<bool>,
    until: watch::Sender<Option<Instant>>,
    owner: Arc<Owner>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    // Learnt now, it is known later on that it is gone.
    let learnt = tokio::time::timeout(RETRY, owner.learn()).await;
    if !matches!(learnt, Ok(Ok(()))) {
        tracing::debug!("whether there is a MetalLB resource is not known yet");
    }
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            found = wanted.wait_for(|wanted| *wanted) => drop(found.context("the membership ended")?),
        }
        // Ends the attempt, or gives the Lease up, when the other node is heard again.
        let over = cancel.child_token();
        let held = async {
            let lease = Lease::new(client.clone(), namespace, LEASE, node).going_with(owner.clone());
            let Some(leadership) = lease.acquire(&over).await? else { return anyhow::Ok(()) };
            while leadership.held() && !over.is_cancelled() {
                until.send_replace(Some(Instant::now() + leadership.remaining().min(TELL * 2)));
                tokio::select! {
                    () = tokio::time::sleep(TELL) => {}
                    () = over.cancelled() => {}
                }
            }
            // First it counts no more, and then the other may have it.
            until.send_replace(Some(Instant::now()));
            leadership.release().await;
            Ok(())
        };
        let heard_again = async {
            // An end of the membership ends everything.
            let _ = wanted.wait_for(|wanted| !*wanted).await;
            over.cancel();
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            result = held => result,
            () = heard_again => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(error = format!("{error:#}"), "no word of the API server");
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}
