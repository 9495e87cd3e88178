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
    let namespace = namespace(csv)?;
    let metadata = |of: &str| json!({ "name": of, "namespace": name(&namespace) });
    // The tag is that of the channel: each release moves it, which is what polling finds. By the tag of one version no
    // later one would ever come.
    let catalog = |channel: &str| -> Result<Value, Problem> {
        let image = image(csv, "catalog", channel)?;
        Ok(json!({
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "CatalogSource",
            "metadata": metadata(package),
            "spec": {
                "sourceType": "grpc",
                "image": image,
                "displayName": csv["spec"]["displayName"],
                "publisher": csv["spec"]["provider"]["name"],
                "grpcPodConfig": { "securityContextConfig": "restricted" },
                "updateStrategy": { "registryPoll": { "interval": "60m" } },
            },
        }))
    };
    // Without targetNamespaces the group selects every namespace, which AllNamespaces asks for.
    let group = json!({
        "apiVersion": "operators.coreos.com/v1",
        "kind": "OperatorGroup",
        "metadata": metadata(package),
        "spec": { "upgradeStrategy": "Default" },
    });
    let subscription = |channel: &str, approval: &str| {
        json!({
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "Subscription",
            "metadata": metadata(package),
            "spec": {
                "name": package,
                "channel": channel,
                "source": package,
                "sourceNamespace": name(&namespace),
                "installPlanApproval": approval,
            },
        })
    };
    let automatic = subscription(DEFAULT_CHANNEL, "Automatic");
    // A release that is to be tried is in no other channel.
    let is_tried = csv["spec"]["version"].as_str().is_some_and(|version| version.contains('-'));
    let starting = if is_tried { CANDIDATE_CHANNEL } else { DEFAULT_CHANNEL };
    let mut manual = subscription(starting, "Manual");
    manual["spec"]["startingCSV"] = csv["metadata"]["name"].clone();
    Ok([
        (
            "olm/install-automatic.yaml",
            document(&[&namespace, &catalog(DEFAULT_CHANNEL)?, &group, &automatic])?,
        ),
        ("olm/install-manual.yaml", document(&[&namespace, &catalog(starting)?, &group, &manual])?),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text))
    .collect())
}

/// The namespace that the ClusterServiceVersion suggests.
///
/// # Errors
/// When it suggests none.
pub(super) fn namespace(csv: &Value) -> Result<Value, Problem> {
    let suggested =
        csv["metadata"]["annotations"]["operatorframework.io/suggested-namespace-template"].as_str();
    let namespace: Option<Value> = suggested.and_then(|template| serde_json::from_str(template).ok());
    namespace.ok_or_else(|| {
        let message = "metadata.annotations: operatorframework.io/suggested-namespace-template must be JSON";
        Problem::new(super::objects::id(csv), message)
    })
}

/// One file of several objects.
pub(super) fn document(objects: &[&Value]) -> Result<String, Problem> {
    let texts = objects.iter().map(|object| write(object)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("# Written by `make bundle`.\n{}", texts.join("---\n")))
}
