//! What an administrator applies to install by OLM: namespace, CatalogSource, OperatorGroup and Subscription.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Problem;
use super::catalog::image;
use super::metadata::{CANDIDATE_CHANNEL, DEFAULT_CHANNEL};
use super::objects::{name, write};

/// The files by path from the root of the repository.
///
/// # Errors
/// When the ClusterServiceVersion suggests no namespace.
pub(super) fn files(package: &str, csv: &Value) -> Result<BTreeMap<String, String>, Problem> {
    let suggested =
        csv["metadata"]["annotations"]["operatorframework.io/suggested-namespace-template"].as_str();
    let namespace: Option<Value> = suggested.and_then(|template| serde_json::from_str(template).ok());
    let namespace = namespace.ok_or_else(|| {
        let message = "metadata.annotations: operatorframework.io/suggested-namespace-template must be JSON";
        Problem::new(super::objects::id(csv), message)
    })?;
    let metadata = |of: &str| json!({ "name": of, "namespace": name(&namespace) });
    let catalog = json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "CatalogSource",
        "metadata": metadata(package),
        "spec": {
            "sourceType": "grpc",
            "image": image(csv, "catalog")?,
            "displayName": csv["spec"]["displayName"],
            "publisher": csv["spec"]["provider"]["name"],
            "grpcPodConfig": { "securityContextConfig": "restricted" },
            "updateStrategy": { "registryPoll": { "interval": "60m" } },
        },
    });
    // Without targetNamespaces the group selects every namespace, which AllNamespaces asks for.
    let group = json!({
        "apiVersion": "operators.coreos.com/v1",
        "kind": "OperatorGroup",
        "metadata": metadata(package),
        "spec": { "upgradeStrategy": "Default" },
    });
    let subscription = |approval: &str| {
        json!({
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "Subscription",
            "metadata": metadata(package),
            "spec": {
                "name": package,
                "channel": DEFAULT_CHANNEL,
                "source": package,
                "sourceNamespace": name(&namespace),
                "installPlanApproval": approval,
            },
        })
    };
    let mut manual = subscription("Manual");
    // A release that is to be tried is in no other channel.
    if csv["spec"]["version"].as_str().is_some_and(|version| version.contains('-')) {
        manual["spec"]["channel"] = json!(CANDIDATE_CHANNEL);
    }
    manual["spec"]["startingCSV"] = csv["metadata"]["name"].clone();
    let install = [namespace.clone(), catalog, group];
    let automatic = subscription("Automatic");
    Ok([
        ("olm/install-automatic.yaml", document(install.iter().chain([&automatic]))?),
        ("olm/install-manual.yaml", document(install.iter().chain([&manual]))?),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text))
    .collect())
}

fn document<'a>(objects: impl Iterator<Item = &'a Value>) -> Result<String, Problem> {
    let texts = objects.map(write).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("# Written by `make bundle`.\n{}", texts.join("---\n")))
}
