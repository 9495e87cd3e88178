//! Whether the cluster has what the programs need: asked, never written.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::{
        authorization::v1::{
            ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
            SubjectAccessReviewSpec,
        },
        core::v1::ServiceAccount,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource,
    api::{GetParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind, Request},
};
use metallb_api::names;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use crate::needs::{self, Account, Converter, Fields, Found, Lacks, Need};

/// API group of OpenShift's security context constraints.
const OPENSHIFT: &str = "security.openshift.io";
/// Questions that are under way at one time.
const AT_A_TIME: usize = 8;

/// What of `needs` the cluster lacks, and what else stands in the way that an installation brings.
///
/// # Errors
/// When the API server does not answer or refuses the question.
pub async fn missing(client: &Client, namespace: &str, needs: &BTreeSet<Need>) -> kube::Result<Found> {
    let mut lacks = Lacks { resources: needs::custom_resources(needs), ..Lacks::default() };
    let groups = client.list_api_groups().await?.groups;
    let ours = groups.into_iter().filter(|group| group.name == names::GROUP).flat_map(|group| group.versions);
    for version in ours {
        let served = client.list_api_group_resources(&version.group_version).await?.resources;
        served.iter().for_each(|resource| {
            lacks.resources.remove(resource.name.as_str());
        });
    }
    for account in needs::accounts(needs) {
        if !exists(&accounts(client, namespace), account).await? {
            lacks.accounts.insert(account);
        }
    }
    let unasked;
    (lacks.rights, unasked) = refused(client, namespace, needs).await?;
    let unasked = unasked.map(|error| needs::told_of_unasked("what controller and speaker may do", &error));
    Ok(Found {
        missing: needs::told_of_lacks(&lacks).into_iter().chain(unasked).collect(),
        for_pods: missing_for_pods(client).await?,
        outdated: needs::told_of_outdated(&needs::fields(), &described(client).await),
        converter: converter(client).await?,
    })
}

/// Of what the API server describes, which everybody may read, only the names of fields below spec and status are kept.
#[derive(Deserialize)]
struct Document {
    components: Components,
}

#[derive(Deserialize)]
struct Components {
    schemas: BTreeMap<String, Whole>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    properties: BTreeMap<String, Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    properties: BTreeMap<String, IgnoredAny>,
}

/// The fields of kinds of metallb.io as they are served; nothing where that is not described, or not yet.
async fn described(client: &Client) -> Fields {
    let path = Request::new("/openapi/v3/apis/metallb.io").get("v1beta1", &GetParams::default());
    let Ok(request) = path else { return Fields::new() };
    let document: Document = match client.request(request).await {
        Ok(document) => document,
        Err(error) => {
            tracing::debug!(%error, "the fields of the definitions cannot be read");
            return Fields::new();
        }
    };
    let kinds = document.components.schemas.into_iter().map(|(name, whole)| {
        let parts = whole.properties.into_iter();
        let fields = parts.flat_map(|(part, inner)| {
            inner.properties.into_keys().map(move |field| format!("{part}.{field}"))
        });
        let kind = name.rsplit('.').next().unwrap_or_default().to_owned();
        (kind, fields.collect())
    });
    kinds.collect()
}

/// What is missing should pods be refused: the security context constraints of OpenShift.
///
/// # Errors
/// As [`missing`].
pub async fn missing_for_pods(client: &Client) -> kube::Result<Vec<String>> {
    let groups = client.list_api_groups().await?.groups;
    if !groups.iter().any(|group| group.name == OPENSHIFT) {
        return Ok(Vec::new());
    }
    let kind = GroupVersionKind::gvk(OPENSHIFT, "v1", "SecurityContextConstraints");
    let kind = ApiResource::from_gvk_with_plural(&kind, "securitycontextconstraints");
    let constraints: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let mut missing = Vec::new();
    for name in needs::CONSTRAINTS {
        match constraints.get_metadata_opt(name).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => {
                missing.push(needs::told_of_hidden_constraint(name));
            }
            found => missing.extend(found?.is_none().then(|| needs::told_of_constraint(name))),
        }
    }
    Ok(missing)
}

/// Whether the cluster has what these few `needs` ask for, and the accounts that have them.
///
/// # Errors
/// As [`missing`].
pub async fn has(client: &Client, namespace: &str, needs: &BTreeSet<Need>) -> kube::Result<bool> {
    for account in needs::accounts(needs) {
        if !exists(&accounts(client, namespace), account).await? {
            return Ok(false);
        }
    }
    let (refused, unasked) = refused(client, namespace, needs).await?;
    Ok(refused.is_empty() && unasked.is_none())
}

/// What of `needs` is not granted, and why it may not be asked about all of them: the others are told all the same.
async fn refused(
    client: &Client,
    namespace: &str,
    needs: &BTreeSet<Need>,
) -> kube::Result<(Vec<Need>, Option<String>)> {
    let mut answers = stream::iter(needs.iter().cloned().map(|need| {
        let (client, namespace) = (client.clone(), namespace.to_owned());
        async move { (is_granted(&client, &namespace, &need).await, need) }
    }))
    .buffered(AT_A_TIME);
    let (mut refused, mut unasked) = (Vec::new(), None);
    while let Some((answer, need)) = answers.next().await {
        match answer {
            Ok(true) => {}
            Ok(false) => refused.push(need),
            Err(kube::Error::Api(status)) if status.is_forbidden() => unasked = Some(status.message),
            Err(error) => return Err(error),
        }
    }
    Ok((refused, unasked))
}

fn accounts(client: &Client, namespace: &str) -> Api<ServiceAccount> {
    Api::namespaced(client.clone(), namespace)
}

/// Whether an object is there. One that may not be read counts as there: the missing right is told.
async fn exists<K>(api: &Api<K>, name: &str) -> kube::Result<bool>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.get_metadata_opt(name).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(true),
        found => Ok(found?.is_some()),
    }
}

/// Who converts BGPPeers: nobody in this installation.
async fn converter(client: &Client) -> kube::Result<Option<Converter>> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = match definitions.get_opt(needs::PEERS).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => None,
        found => found?,
    };
    let webhook = definition.and_then(|definition| definition.spec.conversion?.webhook);
    let service = webhook.and_then(|webhook| webhook.client_config?.service);
    Ok(service.map(|service| Converter { namespace: service.namespace, name: service.name }))
}

async fn is_granted(client: &Client, namespace: &str, need: &Need) -> kube::Result<bool> {
    let (resource, subresource) = match need.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (need.resource.as_str(), None),
    };
    let attributes = Some(ResourceAttributes {
        group: Some(need.group.clone()),
        resource: Some(resource.to_owned()),
        subresource,
        name: need.name.clone(),
        namespace: (!need.everywhere).then(|| namespace.to_owned()),
        verb: Some(need.verb.clone()),
        ..ResourceAttributes::default()
    });
    let params = PostParams::default();
    let status = match need.account {
        Account::Own => {
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: attributes,
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            Api::all(client.clone()).create(&params, &review).await?.status
        }
        Account::Named(account) => {
            let groups = [
                "system:serviceaccounts",
                &format!("system:serviceaccounts:{namespace}"),
                "system:authenticated",
            ];
            let spec = SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{namespace}:{account}")),
                groups: Some(groups.map(str::to_owned).to_vec()),
                resource_attributes: attributes,
                ..SubjectAccessReviewSpec::default()
            };
            let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
            Api::all(client.clone()).create(&params, &review).await?.status
        }
    };
    Ok(status.is_some_and(|status| status.allowed))
}
