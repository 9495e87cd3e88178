//! When it is asked whether the cluster has what the programs need.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Client;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, sleep_until},
};

use crate::{
    cluster,
    needs::{self, Found},
};

/// How often it is asked whether the cluster has all that the programs need.
const NEEDS_MET: Duration = Duration::from_secs(600);
/// How often that is asked while something is missing, and otherwise about a few of their needs.
const NEEDS_OPEN: Duration = Duration::from_secs(10);
/// How soon all is asked again when something may be missing: it may be for another reason.
const NEEDS_AGAIN: Duration = Duration::from_secs(3);

/// Asks from time to time whether the cluster has what the programs need, and whenever that is in `doubt`.
pub(super) async fn ask(
    client: Client,
    namespace: String,
    doubt: Arc<Notify>,
    sender: watch::Sender<Option<Found>>,
) {
    let needs = match needs::all() {
        Ok(needs) => needs,
        Err(error) => return tracing::error!(error, "the rules of the programs cannot be read"),
    };
    let mut round = 0;
    loop {
        let asked = Instant::now();
        let mut is_met = false;
        let mut for_pods = Vec::new();
        match cluster::missing(&client, &namespace, &needs).await {
            Ok(found) => {
                is_met = found.is_met();
                for_pods.clone_from(&found.for_pods);
                sender.send_replace(Some(found));
            }
            Err(error) => {
                tracing::warn!(%error, "what the programs need could not be asked");
                // What was known stays so.
                sender.send_if_modified(|before| {
                    let is_first = before.is_none();
                    before.get_or_insert_with(|| Found::unasked(&error.to_string()));
                    is_first
                });
            }
        }
        loop {
            tokio::select! {
                () = doubt.notified() => {
                    sleep_until((asked + NEEDS_AGAIN).into()).await;
                    break;
                }
                () = sleep(NEEDS_OPEN) => {}
            }
            if !is_met || asked.elapsed() >= NEEDS_MET {
                break;
            }
            // Pods may be waiting for it.
            if !for_pods.is_empty()
                && cluster::missing_for_pods(&client).await.is_ok_and(|missing| missing != for_pods)
            {
                break;
            }
            round += 1;
            let drawn = needs::sample(&needs, round);
            // What cannot be asked now is asked the next time.
            if cluster::has(&client, &namespace, &drawn).await.is_ok_and(|has| !has) {
                break;
            }
        }
    }
}
