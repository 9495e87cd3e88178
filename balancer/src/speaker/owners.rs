//! Writes down which node has each address with `electionPolicy: Even`, in one Lease for each L2Advertisement, so that
//! speakers that all start anew leave every address where it was. The Leases go with the MetalLB resource, or where there
//! is none, with the L2Advertisement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use metallb_api::names::{ANNOTATION_L2_OWNERS, L2_OWNERS_PREFIX, LABEL_L2_OWNERS};
use metallb_core::claims::{Record, written_text};
use metallb_runtime::owner::{Known, Owner};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who writes, in the record of who wrote which field.
const COMPONENT: &str = "metallb-speaker";
/// For how long changes are gathered: addresses that are taken together are written together.
const GATHER: Duration = Duration::from_millis(100);
/// Pause before what could not be written is tried again; doubled each time.
const RETRY: Duration = Duration::from_millis(500);
/// Longest pause.
const RETRY_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that one write may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What is to be written down, and what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recording {
    pub(super) wanted: Record,
    pub(super) written: Record,
    /// UIDs of the L2Advertisements.
    pub(super) uids: BTreeMap<String, String>,
}

/// Writes until `cancel`.
///
/// # Errors
/// When the plans end. What cannot be written is logged and tried again: announcing does not depend on it.
pub(super) async fn run(
    client: Client,
    namespace: &str,
    node: &str,
    mut recordings: watch::Receiver<Option<Recording>>,
    owner: Arc<Owner>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut pause = None;
    loop {
        let due = recordings.borrow_and_update().as_ref().is_some_and(|found| found.wanted != found.written);
        let wait = async {
            match due.then_some(pause.unwrap_or(GATHER)) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = recordings.changed(), if !due => {
                changed.context("the plans ended")?;
                continue;
            }
            () = wait => {}
        }
        let Some(recording) = recordings.borrow_and_update().clone() else { continue };
        let written = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            written = write(&api, node, &recording, &owner) => written,
        };
        match written {
            // What was written comes back by the watch.
            Ok(()) => {
                pause = None;
                tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    changed = recordings.changed() => changed.context("the plans ended")?,
                    () = tokio::time::sleep(LIMIT) => {}
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "owners of addresses not written down");
                pause = Some(pause.map_or(RETRY, |pause: Duration| (pause * 2).min(RETRY_LIMIT)));
            }
        }
    }
}

async fn write(api: &Api<Lease>, node: &str, recording: &Recording, owner: &Owner) -> anyhow::Result<()> {
    let parameters = PatchParams::apply(COMPONENT).force();
    let resource = match in_time(owner.find()).await? {
        Known::There(resource) => Some(resource),
        Known::Nobody => None,
        // What was written now would be left behind.
        Known::Gone => return Ok(()),
    };
    for (advertisement, owners) in &recording.wanted {
        if recording.written.get(advertisement) == Some(owners) {
            continue;
        }
        let name = format!("{L2_OWNERS_PREFIX}{advertisement}");
        let owner = resource.clone().or_else(|| owned_by_advertisement(recording, advertisement));
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": { LABEL_L2_OWNERS: "" },
                "annotations": { ANNOTATION_L2_OWNERS: written_text(owners) },
                "ownerReferences": Vec::from_iter(owner),
            },
            "spec": { "holderIdentity": node },
        });
        in_time(api.patch(&name, &parameters, &Patch::Apply(&lease))).await.context(name)?;
    }
    for advertisement in recording.written.keys().filter(|name| !recording.wanted.contains_key(*name)) {
        let name = format!("{L2_OWNERS_PREFIX}{advertisement}");
        match in_time(api.delete(&name, &DeleteParams::default())).await {
            Err(error) if is_gone(&error) => {}
            result => drop(result.context(name)?),
        }
    }
    Ok(())
}

fn owned_by_advertisement(recording: &Recording, advertisement: &str) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "metallb.io/v1beta1".to_owned(),
        kind: "L2Advertisement".to_owned(),
        name: advertisement.to_owned(),
        uid: recording.uids.get(advertisement)?.clone(),
        ..OwnerReference::default()
    })
}

fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404)
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    Ok(tokio::time::timeout(LIMIT, request).await.context("the API server does not answer")??)
}
