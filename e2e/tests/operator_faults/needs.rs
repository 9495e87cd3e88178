//! What the installation brings and is not there: it is named within seconds, by the rights that the operator really has.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{
    Api,
    api::{
        DeleteParams, DynamicObject, GetParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
    },
    core::{ApiResource, Request},
};
use metallb_e2e::plane::{
    NAMESPACE,
    objects::{api, create},
};
use serde_json::{Value, json};

use crate::fixture::{ADMISSION, ADMISSIONS, METALLB, Scene, until};

const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// A request was refused, and the operator asks what else is, three seconds after it asked the last time.
const REFUSED: Duration = Duration::from_secs(5);
/// Nobody was refused anything yet: a few rights are asked about every ten seconds.
const LOOKED: Duration = Duration::from_secs(20);

async fn role(scene: &Scene) -> Result<DynamicObject> {
    Ok(api(&scene.client, RBAC, "Role", NAMESPACE).get("metallb-manager-role").await?)
}

async fn replace(scene: &Scene, rules: &Value) -> Result<()> {
    let mut role = role(scene).await?;
    role.data["rules"] = rules.clone();
    api(&scene.client, RBAC, "Role", NAMESPACE)
        .replace("metallb-manager-role", &PostParams::default(), &role)
        .await?;
    Ok(())
}

/// `rules` without the right to do `verb` to `resource`.
fn without(rules: &Value, verb: &str, resource: &str) -> Result<Value> {
    let mut rules = rules.clone();
    let all = rules.as_array_mut().context("rules")?;
    for rule in all.iter_mut() {
        if rule["resources"].as_array().is_some_and(|all| all.iter().any(|found| found == resource)) {
            rule["verbs"].as_array_mut().context("verbs")?.retain(|found| found != verb);
        }
    }
    all.retain(|rule| rule["verbs"].as_array().is_none_or(|verbs| !verbs.is_empty()));
    Ok(rules)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_without_which_a_repair_is_refused_is_named_within_seconds() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    scene.install_with_own_rights().await?;
    scene.recovers().await?;
    let rules = role(&scene).await?.data["rules"].clone();
    replace(&scene, &without(&rules, "patch", "configmaps")?).await?;
    let config_maps = api(&scene.client, "v1", "ConfigMap", NAMESPACE);
    let edit = json!({"data": {"excludel2.yaml": "x"}});
    config_maps.patch("metallb-excludel2", &PatchParams::default(), &Patch::Merge(&edit)).await?;
    scene.names("RequirementsMissing", &["the operator may not patch configmaps"], REFUSED).await?;
    replace(&scene, &rules).await?;
    scene.recovers().await?;
    let is_right = |object: &DynamicObject| object.data["data"]["excludel2.yaml"] != "x";
    scene.find("v1", "ConfigMap", "metallb-excludel2", is_right).await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_at_the_start_is_named_by_what_a_watch_is_refused() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    let rules = role(&scene).await?.data["rules"].clone();
    replace(&scene, &without(&rules, "watch", "networkpolicies")?).await?;
    scene.admissions().await?;
    let resource = json!({"metadata": {"name": "metallb"}});
    create(&scene.client, METALLB, "MetalLB", NAMESPACE, resource).await?;
    let config = scene.plane.operator_config();
    scene.operate(&config)?;
    let text = "the operator may not watch networkpolicies.networking.k8s.io";
    scene.names("RequirementsMissing", &[text], REFUSED).await?;
    replace(&scene, &rules).await?;
    scene.find("apps/v1", "DaemonSet", "speaker", |_| true).await?;
    scene.recovers().await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_accounts_and_webhook_configurations_that_go_are_named() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    scene.install_with_own_rights().await?;
    scene.recovers().await?;
    let admissions = api(&scene.client, ADMISSION.0, ADMISSION.1, "");
    admissions.delete(ADMISSIONS[1], &DeleteParams::default()).await?;
    let text = "ValidatingWebhookConfiguration metallb-webhook-configuration is missing";
    scene.names("RequirementsMissing", &[text], Duration::from_secs(2)).await?;
    create(&scene.client, ADMISSION.0, ADMISSION.1, "", json!({"metadata": {"name": ADMISSIONS[1]}})).await?;
    scene.recovers().await?;

    let bindings = api(&scene.client, RBAC, "ClusterRoleBinding", "");
    let binding = bindings.get("metallb-system:speaker").await?;
    bindings.delete("metallb-system:speaker", &DeleteParams::default()).await?;
    let text = "ServiceAccount speaker may not list, watch nodes in the cluster";
    scene.names("RequirementsMissing", &[text], LOOKED).await?;
    let mut again = DynamicObject { data: binding.data, ..binding };
    again.metadata.resource_version = None;
    again.metadata.uid = None;
    bindings.create(&PostParams::default(), &again).await?;
    scene.recovers().await?;

    let accounts = api(&scene.client, "v1", "ServiceAccount", NAMESPACE);
    accounts.delete("controller", &DeleteParams::default()).await?;
    scene.names("RequirementsMissing", &["ServiceAccount controller is missing"], LOOKED).await?;
    create(&scene.client, "v1", "ServiceAccount", NAMESPACE, json!({"metadata": {"name": "controller"}}))
        .await?;
    scene.recovers().await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_what_a_cluster_need_not_know_is_named_where_it_does() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    let rules = role(&scene).await?.data["rules"].clone();
    replace(&scene, &without(&rules, "list", "servicemonitors")?).await?;
    define(&scene, "monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", "Namespaced").await?;
    scene.install_with_own_rights().await?;
    scene.names("WatchFailed", &["cannot watch ServiceMonitor objects: "], REFUSED).await?;
    replace(&scene, &rules).await?;
    scene.recovers().await?;
    scene.stop().await
}

/// A kind whose objects may say anything.
pub(crate) async fn define(
    scene: &Scene,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    scope: &str,
) -> Result<()> {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({"metadata": {"name": format!("{plural}.{group}")}, "spec": {
        "group": group, "scope": scope,
        "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
        "versions": [{"name": version, "served": true, "storage": true, "schema": schema}]}});
    let (of, what) = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    create(&scene.client, of, what, "", definition).await?;
    // It is served a moment later.
    let all = of_plural(scene, group, version, kind, plural);
    let look = async || all.list(&ListParams::default()).await;
    until(look, |_| true).await.map(drop)
}

/// All objects of a kind whose plural is its own.
fn of_plural(scene: &Scene, group: &str, version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(group, version, kind);
    Api::all_with(scene.client.clone(), &ApiResource::from_gvk_with_plural(&kind, plural))
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_that_openshift_lacks_are_named_when_pods_are_refused() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    let (group, kind, plural) =
        ("security.openshift.io", "SecurityContextConstraints", "securitycontextconstraints");
    define(&scene, group, "v1", kind, plural, "Cluster").await?;
    scene.install_with_own_rights().await?;
    scene.recovers().await?;

    let status = json!({"status": {"desiredNumberScheduled": 1, "currentNumberScheduled": 0, "numberMisscheduled": 0,
                                   "numberReady": 0, "observedGeneration": 1}});
    let daemon_sets = api(&scene.client, "apps/v1", "DaemonSet", NAMESPACE);
    daemon_sets.patch_status("speaker", &PatchParams::default(), &Patch::Merge(&status)).await?;
    let says =
        "Error creating: pods is forbidden: unable to validate against any security context constraint";
    let now = "2030-01-01T00:00:00Z";
    let event = json!({"metadata": {"name": "speaker.1"}, "reason": "FailedCreate", "type": "Warning", "message": says,
                       "involvedObject": {"kind": "DaemonSet", "name": "speaker", "namespace": NAMESPACE},
                       "firstTimestamp": now, "lastTimestamp": now, "count": 1, "source": {"component": "test"}});
    create(&scene.client, "v1", "Event", NAMESPACE, event).await?;
    let texts = ["SecurityContextConstraints metallb-speaker is missing", "unable to validate"];
    scene.names("RequirementsMissing", &texts, REFUSED).await?;
    let constraint =
        json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "metallb-speaker"}});
    let constraint: DynamicObject = serde_json::from_value(constraint)?;
    of_plural(&scene, group, "v1", kind, plural).create(&PostParams::default(), &constraint).await?;
    let named = |degraded: &Value| {
        let message = degraded["message"].as_str().unwrap_or_default();
        !message.contains("metallb-speaker is missing") && message.contains("unable to validate")
    };
    scene.degraded(named).await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn that_it_may_not_be_asked_what_others_may_do_is_named_and_a_first_installation_is_made() -> Result<()>
{
    let mut scene = Scene::waiting().await?;
    let roles = api(&scene.client, RBAC, "ClusterRole", "");
    let mut role = roles.get("metallb-manager-role").await?;
    let whole = role.data["rules"].clone();
    role.data["rules"] = without(&whole, "create", "subjectaccessreviews")?;
    let role = roles.replace("metallb-manager-role", &PostParams::default(), &role).await?;
    scene.install_with_own_rights().await?;
    let texts = [
        "the operator may not create subjectaccessreviews.authorization.k8s.io in the cluster",
        "it cannot be asked whether what controller and speaker may do is there",
    ];
    scene.names("RequirementsMissing", &texts, LOOKED).await?;
    scene.find("apps/v1", "DaemonSet", "speaker", |_| true).await?;
    let mut restored = role;
    restored.data["rules"] = whole;
    roles.replace("metallb-manager-role", &PostParams::default(), &restored).await?;
    scene.recovers().await?;
    scene.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_of_an_older_version_is_named_until_the_newer_one_is_there() -> Result<()> {
    let mut scene = Scene::waiting().await?;
    let definitions = api(&scene.client, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "");
    let name = "metallbs.metallb.io";
    let replace = async |edit: &dyn Fn(&mut Value)| {
        let mut definition = definitions.get(name).await?;
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        edit(definition.data.pointer_mut(spec).context("no schema")?);
        definitions.replace(name, &PostParams::default(), &definition).await?;
        anyhow::Ok(())
    };
    let field = definitions
        .get(name)
        .await?
        .data
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/managementState")
        .cloned();
    let field = field.context("no field")?;
    replace(&|fields| drop(fields.as_object_mut().map(|fields| fields.remove("managementState")))).await?;
    let described = async || {
        let path = Request::new("/openapi/v3/apis/metallb.io").get("v1beta1", &GetParams::default())?;
        anyhow::Ok(scene.client.request_text(path).await.unwrap_or_default())
    };
    until(described, |text| text.contains("ipFailoverPolicy") && !text.contains("\"managementState\":{"))
        .await?;
    scene.install_with_own_rights().await?;
    let text =
        "the CustomResourceDefinition of MetalLB is of an older version, by which spec.managementState";
    scene.names("RequirementsMissing", &[text], LOOKED).await?;
    replace(&|fields| fields["managementState"] = field.clone()).await?;
    scene.recovers().await?;
    scene.stop().await
}
