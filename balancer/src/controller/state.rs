//! ConfigurationState of a program: whether its configuration could be read, for whoever looks there.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use metallb_api::{
    ConfigurationResult, ConfigurationState, ConfigurationStateStatus, MetalLB,
    conditions::{Report, set},
    names::{CONTROLLER, LABEL_COMPONENT_TYPE, METALLB_NAME},
};
use metallb_runtime::owner::Owner;
use serde_json::{Value, json};

use super::write::COMPONENT;

/// Condition of the pools, named as MetalLB names it.
const POOLS_VALID: &str = "poolReconcilerValid";

/// The object of one program.
pub(crate) struct Subject {
    /// Its name.
    pub(crate) name: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Condition that says whether the configuration could be read.
    pub(crate) condition: &'static str,
    /// In whose name it is written.
    pub(crate) writer: &'static str,
}

/// What it tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told<'a> {
    /// What is wrong with the configuration.
    pub(crate) problems: &'a [String],
    /// Further conditions.
    pub(crate) more: &'a [Report],
    /// Subnets of the node.
    pub(crate) subnets: &'a [String],
}

/// The status that tells all this where `before` is there.
fn status(
    before: ConfigurationStateStatus,
    condition: &'static str,
    told: Told<'_>,
    now: &Time,
) -> ConfigurationStateStatus {
    let valid = told.problems.is_empty();
    let summary = told.problems.join("\n");
    let mut conditions = before.conditions;
    let reason = if valid { "Reconciled" } else { "ConfigurationError" };
    let report = Report { kind: condition, status: valid, reason, message: summary.clone() };
    set(&mut conditions, &[report], None, now);
    set(&mut conditions, told.more, None, now);
    ConfigurationStateStatus {
        result: Some(if valid { ConfigurationResult::Valid } else { ConfigurationResult::Invalid }),
        error_summary: (!valid).then_some(summary),
        conditions,
        subnets: told.subnets.to_vec(),
    }
}

/// Makes the ConfigurationState of the controller tell `problems`; writes nothing when it does so already.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub(super) async fn write(client: Client, namespace: &str, problems: &[String]) -> kube::Result<()> {
    let subject = Subject {
        name: CONTROLLER.to_owned(),
        labels: BTreeMap::from([(LABEL_COMPONENT_TYPE.to_owned(), CONTROLLER.to_owned())]),
        condition: POOLS_VALID,
        writer: COMPONENT,
    };
    write_for(client, namespace, &subject, Told { problems, ..Told::default() }).await
}

/// The same for any program.
///
/// # Errors
/// When the API server cannot be reached or refuses.
pub(crate) async fn write_for(
    client: Client,
    namespace: &str,
    subject: &Subject,
    told: Told<'_>,
) -> kube::Result<()> {
    let owners = owners(Api::<MetalLB>::namespaced(client.clone(), namespace)).await?;
    let api: Api<ConfigurationState> = Api::namespaced(client, namespace);
    let params = PatchParams { field_manager: Some(subject.writer.to_owned()), ..PatchParams::default() };
    let present = match api.get_opt(&subject.name).await? {
        Some(present) if is_owned(&present.metadata, &owners) => present,
        // What a former installation left would be collected with it.
        Some(_) => {
            let patch = json!({ "metadata": { "ownerReferences": owners } });
            api.patch(&subject.name, &params, &Patch::Merge(patch)).await?
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(subject.name.clone()),
                labels: Some(subject.labels.clone()),
                owner_references: Some(owners),
                ..ObjectMeta::default()
            };
            let object = ConfigurationState { metadata, ..ConfigurationState::default() };
            api.create(&PostParams::default(), &object).await?
        }
    };
    let before = present.status.unwrap_or_default();
    let wanted = status(before.clone(), subject.condition, told, &Time(Timestamp::now()));
    if wanted == before {
        return Ok(());
    }
    let mut patch = json!({ "status": wanted });
    // A merge patch leaves what it does not name.
    patch["status"]["errorSummary"] = wanted.error_summary.map_or(Value::Null, Value::from);
    patch["status"]["subnets"] = wanted.subnets.into();
    api.patch_status(&subject.name, &params, &Patch::Merge(patch)).await.map(drop)
}

/// The MetalLB resource, for what is to go with it.
pub(crate) fn installation(client: Client, namespace: &str) -> Arc<Owner> {
    Arc::new(Owner::new(client, namespace, ApiResource::erase::<MetalLB>(&()), METALLB_NAME))
}

/// The MetalLB resource: with it the object goes, while a pod or a Deployment that is replaced leaves it as it is.
/// Nobody, where the controller was installed without one.
async fn owners(api: Api<MetalLB>) -> kube::Result<Vec<OwnerReference>> {
    let resource = match api.get_opt(METALLB_NAME).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => None,
        result => result?,
    };
    Ok(resource.and_then(|resource| resource.owner_ref(&())).into_iter().collect())
}

/// Whether the object goes with `owners`, and with nobody else.
fn is_owned(metadata: &ObjectMeta, owners: &[OwnerReference]) -> bool {
    let uids = |owners: &[OwnerReference]| owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
    uids(metadata.owner_references.as_deref().unwrap_or_default()) == uids(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    #[test]
    fn what_a_former_installation_owned_is_not_ours_yet() {
        let owner = |uid: &str| OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() };
        let owned = |owners: &[&str]| {
            let owners = owners.iter().map(|uid| owner(uid)).collect();
            ObjectMeta { owner_references: Some(owners), ..ObjectMeta::default() }
        };
        let table = [
            (owned(&["new"]), true),
            (owned(&["old"]), false),
            (owned(&["old", "new"]), false),
            (ObjectMeta::default(), false),
        ];
        for (metadata, want) in table {
            assert_eq!(is_owned(&metadata, &[owner("new")]), want, "{metadata:?}");
        }
        assert!(is_owned(&ObjectMeta::default(), &[]), "without a MetalLB resource nobody owns it");
    }

    #[test]
    fn a_reverted_mistake_clears_every_mark() {
        let at = |second| Time(Timestamp::from_second(second).unwrap());
        let condition = |status: &str, reason: &str, message: &str, second| Condition {
            type_: "poolReconcilerValid".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: None,
            last_transition_time: at(second),
        };
        let problems = ["IPAddressPool \"a\": x".to_owned(), "IPAddressPool \"b\": y".to_owned()];
        let summary = "IPAddressPool \"a\": x\nIPAddressPool \"b\": y";
        let told = Told { problems: &problems, ..Told::default() };
        let invalid = status(ConfigurationStateStatus::default(), POOLS_VALID, told, &at(1));
        assert_eq!(
            invalid,
            ConfigurationStateStatus {
                result: Some(ConfigurationResult::Invalid),
                error_summary: Some(summary.to_owned()),
                conditions: vec![condition("False", "ConfigurationError", summary, 1)],
                subnets: Vec::new(),
            }
        );
        assert_eq!(status(invalid.clone(), POOLS_VALID, told, &at(2)), invalid);
        assert_eq!(
            status(invalid, POOLS_VALID, Told::default(), &at(3)),
            ConfigurationStateStatus {
                result: Some(ConfigurationResult::Valid),
                error_summary: None,
                conditions: vec![condition("True", "Reconciled", "", 3)],
                subnets: Vec::new(),
            }
        );
    }
}
