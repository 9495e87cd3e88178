//! Objects that were stored in an older version of their kind are stored anew, so that the kind can do without that
//! version one day
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#upgrade-existing-objects-to-a-new-stored-version>).

use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Outcome};
use crate::plan::FIELD_MANAGER;

/// Definitions of kinds that have more than one version.
const DEFINITIONS: [&str; 2] = ["addresspools.metallb.io", "bgppeers.metallb.io"];
/// First pause after a failure, which doubles up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));
/// Objects that are listed at one time.
const PAGE: u32 = 500;
/// A refusal that takes longer is none of the object: somebody who is asked about all of them does not answer.
const SLOW: Duration = Duration::from_secs(1);
/// As many of those in a row end a pass.
const IN_A_ROW: usize = 3;

impl Cluster {
    /// Stores everything anew that is stored in an older version, and notes that no object is any more. Nothing is
    /// written where that is noted already. What cannot be stored anew is tried again and, where that does not help,
    /// `told`. Returns when nothing is left, or on `cancel` between two writes.
    pub async fn store_anew(&self, cancel: &CancellationToken, told: &watch::Sender<Vec<String>>) {
        let mut pause = PAUSES.0;
        loop {
            let mut left = Vec::new();
            let mut is_refused = false;
            for name in DEFINITIONS {
                if let Err(Stopped { message, by_refusals }) = self.store_kind_anew(name, cancel).await {
                    tracing::warn!(definition = name, message, "older versions are still stored");
                    is_refused |= by_refusals;
                    left.push(format!("objects of {name} are still stored in an older version: {message}"));
                }
            }
            let is_done = left.is_empty();
            if is_done || pause > PAUSES.0 || is_refused {
                told.send_if_modified(|before| std::mem::replace(before, left.clone()) != left);
            }
            if is_done {
                return;
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn store_kind_anew(&self, name: &str, cancel: &CancellationToken) -> Result<(), Stopped> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let Some(definition) = definitions.get_opt(name).await.map_err(|error| error.to_string())? else {
            return Ok(());
        };
        let Some(version) = outdated(&definition) else { return Ok(()) };
        let spec = &definition.spec;
        let kind = GroupVersionKind::gvk(&spec.group, &version, &spec.names.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &spec.names.plural);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let mut stored: usize = 0;
        let mut refused = Vec::new();
        let mut slow = 0;
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let list = all.list_metadata(&page).await.map_err(|error| error.to_string())?;
            for object in &list.items {
                if cancel.is_cancelled() {
                    return Ok(());
                }
                let namespace = object.namespace().unwrap_or_default();
                let api: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), &namespace, &resource);
                // Nothing is changed: the API server writes what it stores in another version than the newest.
                let same = json!({"metadata": {"resourceVersion": object.resource_version()}});
                let write =
                    async { api.patch(&object.name_any(), &params, &Patch::Merge(&same)).await.map(Some) };
                let began = Instant::now();
                match self.send(write).await {
                    // Whoever changed it meanwhile stored it anew.
                    Outcome::Written(_) | Outcome::Removed | Outcome::Outdated => {
                        (stored, slow) = (stored + 1, 0);
                    }
                    Outcome::Failed(message) => {
                        refused.push(format!("{namespace}/{}: {message}", object.name_any()));
                        slow = if began.elapsed() < SLOW { 0 } else { slow + 1 };
                        if slow >= IN_A_ROW {
                            let message = format!("{}, and others as well", refused.swap_remove(0));
                            return Err(Stopped { message, by_refusals: true });
                        }
                    }
                    Outcome::NotLeading => return Ok(()),
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => break,
            }
        }
        // The others are stored anew all the same.
        if let Some(first) = refused.first() {
            let more = refused.len() - 1;
            let more = if more == 0 { String::new() } else { format!(", and {more} more") };
            return Err(Stopped { message: format!("{first}{more}"), by_refusals: true });
        }
        let noted = json!({
            "metadata": {"resourceVersion": definition.resource_version()}, "status": {"storedVersions": [version]},
        });
        let write =
            async { definitions.patch_status(name, &params, &Patch::Merge(&noted)).await.map(|_| None) };
        match self.send(write).await {
            Outcome::Written(_) | Outcome::Removed => {
                tracing::info!(
                    definition = name,
                    version,
                    objects = stored,
                    "no older version is stored any more"
                );
                Ok(())
            }
            Outcome::NotLeading => Ok(()),
            Outcome::Outdated => Err("the definition was changed meanwhile".to_owned().into()),
            Outcome::Failed(message) => Err(message.into()),
        }
    }
}

/// Why not everything of a kind was stored anew.
struct Stopped {
    message: String,
    /// Whether it is because of the objects: nothing that passes by itself.
    by_refusals: bool,
}

impl From<String> for Stopped {
    fn from(message: String) -> Self {
        Self { message, by_refusals: false }
    }
}

/// The version in which objects are stored now, if there may be some that are stored in another one.
fn outdated(definition: &CustomResourceDefinition) -> Option<String> {
    let version = &definition.spec.versions.iter().find(|version| version.storage)?.name;
    let stored = definition.status.as_ref().and_then(|status| status.stored_versions.as_ref())?;
    stored.iter().any(|stored| stored != version).then(|| version.clone())
}
