//! Whether the cluster has what the programs need: asked, never written.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use k8s_openapi::api::{
    authorization::v1::{
        ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
        SubjectAccessReviewSpec,
    },
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};
use metallb_api::names;

use crate::needs::{self, Account, Lacks, Need};

/// Questions that are under way at one time.
const AT_A_TIME: usize = 8;

/// What of `needs` the cluster lacks, for people.
///
/// # Errors
/// When the API server does not answer or refuses the question.
pub async fn missing(client: &Client, namespace: &str, needs: &BTreeSet<Need>) -> kube::Result<Vec<String>> {
    let mut lacks = Lacks { resources: needs::custom_resources(needs), ..Lacks::default() };
    let groups = client.list_api_groups().await?.groups.into_iter();
    let ours = groups.filter(|group| group.name == names::GROUP).flat_map(|group| group.versions);
    for version in ours {
        let served = client.list_api_group_resources(&version.group_version).await?.resources;
        served.iter().for_each(|resource| {
            lacks.resources.remove(resource.name.as_str());
        });
    }
    for account in needs::accounts(needs) {
        if !exists(client, namespace, account).await? {
            lacks.accounts.insert(account);
        }
    }
    let mut answers = stream::iter(needs.iter().cloned().map(|need| {
        let (client, namespace) = (client.clone(), namespace.to_owned());
        async move { is_granted(&client, &namespace, &need).await.map(|granted| (need, granted)) }
    }))
    .buffered(AT_A_TIME);
    while let Some(answer) = answers.next().await {
        let (need, granted) = answer?;
        if !granted {
            lacks.rights.push(need);
        }
    }
    Ok(needs::told(&lacks))
}

/// Whether a ServiceAccount is there. One that may not be read counts as there: the missing right is told.
async fn exists(client: &Client, namespace: &str, account: &str) -> kube::Result<bool> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    match api.get_metadata_opt(account).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(true),
        found => Ok(found?.is_some()),
    }
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
