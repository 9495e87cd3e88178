//! Rules for what OLM installs: Deployments, accounts, rights, images and webhooks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Bundle, Rule, text, twice};
use crate::bundle::objects::{id, items, kind, name};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "requests",
        source: "api: pkg/validation/internal/good_practices.go, validateResourceRequests",
        check: requests,
    },
    Rule {
        name: "images",
        source: "api: pkg/validation/internal/bundle.go, validateRelatedImages; Kubernetes: container images, `avoid latest`",
        check: images,
    },
    Rule {
        name: "accounts",
        source: "api: pkg/validation/internal/bundle.go, validateServiceAccounts",
        check: accounts,
    },
    Rule {
        name: "rights",
        source: "api: pkg/validation/internal/good_practices.go, validateRBACForCRDsWith; Kubernetes: RBAC good practices",
        check: rights,
    },
    Rule {
        name: "webhooks",
        source: "docs: adding admission and conversion webhooks, rule requirements",
        check: webhooks,
    },
];

/// Verbs by which an account can get more rights than it was given.
const ESCALATING: [&str; 3] = ["bind", "escalate", "impersonate"];

pub(super) fn containers(bundle: &Bundle) -> impl Iterator<Item = &Value> {
    bundle.deployments().flat_map(|deployment| items(&deployment["spec"]["template"]["spec"]["containers"]))
}

fn requests(bundle: &Bundle) -> Vec<String> {
    let lacking = containers(bundle).filter(|container| {
        let requests = &container["resources"]["requests"];
        requests["cpu"].is_null() || requests["memory"].is_null()
    });
    lacking
        .map(|container| format!("container {}: no requests of cpu and memory", text(&container["name"])))
        .collect()
}

pub(super) fn has_digest(image: &str) -> bool {
    let digest = image.split_once("@sha256:").map_or("", |(_, digest)| digest);
    digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether the reference always means one image: it has a digest, or a tag that is a version.
fn is_pinned(image: &str) -> bool {
    if image.contains('@') {
        return has_digest(image);
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("", |(_, tag)| tag);
    semver::Version::parse(tag.strip_prefix('v').unwrap_or(tag)).is_ok()
}

/// The images that the operator consists of and deploys.
pub(super) fn used(bundle: &Bundle) -> BTreeSet<&str> {
    let mut used: BTreeSet<&str> = containers(bundle).map(|container| text(&container["image"])).collect();
    for variable in containers(bundle).flat_map(|container| items(&container["env"])) {
        if text(&variable["name"]).ends_with("_IMAGE") {
            used.insert(text(&variable["value"]));
        }
    }
    used.insert(text(&bundle.csv()["metadata"]["annotations"]["containerImage"]));
    used
}

fn images(bundle: &Bundle) -> Vec<String> {
    let related: BTreeSet<&str> =
        items(&bundle.csv()["spec"]["relatedImages"]).map(|image| text(&image["image"])).collect();
    let used = used(bundle);
    let names = items(&bundle.csv()["spec"]["relatedImages"]).map(|image| text(&image["name"]));
    let mut broken: Vec<String> =
        twice(names).into_iter().map(|name| format!("spec.relatedImages: {name:?} is there twice")).collect();
    let either = used
        .symmetric_difference(&related)
        .map(|image| format!("spec.relatedImages: {image:?} is either used or listed, but not both"));
    broken.extend(either);
    let floating = used.iter().filter(|image| !is_pinned(image));
    broken.extend(
        floating.map(|image| format!("image {image:?} has neither a digest nor a version as its tag")),
    );
    broken
}

fn permissions(bundle: &Bundle) -> impl Iterator<Item = &Value> {
    let install = &bundle.csv()["spec"]["install"]["spec"];
    items(&install["clusterPermissions"]).chain(items(&install["permissions"]))
}

fn accounts(bundle: &Bundle) -> Vec<String> {
    let made: BTreeSet<&str> =
        permissions(bundle).map(|permission| text(&permission["serviceAccountName"])).collect();
    let mut needed: BTreeSet<(&str, String)> = BTreeSet::new();
    for deployment in bundle.deployments() {
        let account = text(&deployment["spec"]["template"]["spec"]["serviceAccountName"]);
        needed.insert((account, format!("Deployment {}", text(&deployment["name"]))));
    }
    for binding in bundle.objects.iter().filter(|object| kind(object) == "RoleBinding") {
        // Those of other namespaces are there without OLM, or are not.
        let own = items(&binding["subjects"]).filter(|subject| subject["namespace"].is_null());
        needed.extend(own.map(|subject| (text(&subject["name"]), id(binding))));
    }
    let mut broken: Vec<String> = needed
        .into_iter()
        .filter(|(account, _)| !made.contains(account))
        .map(|(account, user)| {
            format!("{user}: OLM makes no account {account:?}: it has no clusterPermissions")
        })
        .collect();
    for object in bundle.objects.iter().filter(|object| kind(object) == "ServiceAccount") {
        if made.contains(name(object)) {
            broken.push(format!("{}: OLM makes this account itself", id(object)));
        }
    }
    broken
}

fn rights(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    let roles = bundle.objects.iter().filter(|object| kind(object) == "Role");
    let granted = permissions(bundle)
        .map(|permission| (format!("account {}", text(&permission["serviceAccountName"])), permission))
        .chain(roles.clone().map(|role| (id(role), role)));
    for (holder, rules) in granted {
        for rule in items(&rules["rules"]) {
            let has =
                |field: &str, wanted: &[&str]| items(&rule[field]).any(|item| wanted.contains(&text(item)));
            if has("apiGroups", &["*"]) || has("resources", &["*"]) || has("verbs", &["*"]) {
                broken.push(format!("{holder}: {rule} grants everything by `*`"));
            }
            if has("verbs", &ESCALATING) {
                broken.push(format!("{holder}: {rule} lets it take further rights"));
            }
            if has("resources", &["customresourcedefinitions"]) && has("verbs", &["create", "delete"]) {
                broken.push(format!("{holder}: {rule}: definitions are OLM's to create and delete"));
            }
        }
    }
    // OLM widens these to the whole cluster when the operator serves all namespaces.
    for permission in items(&bundle.csv()["spec"]["install"]["spec"]["permissions"]) {
        let account = text(&permission["serviceAccountName"]);
        broken.push(format!("permissions of {account}: would be granted in all namespaces; ship a Role"));
    }
    for binding in bundle.objects.iter().filter(|object| kind(object) == "RoleBinding") {
        if !roles.clone().any(|role| binding["roleRef"]["name"] == name(role)) {
            broken.push(format!("{}: no Role {} is in the bundle", id(binding), binding["roleRef"]["name"]));
        }
    }
    broken
}

fn webhooks(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for webhook in bundle.webhooks() {
        let called = text(&webhook["generateName"]);
        let mut need = |met: bool, message: &str| {
            if !met {
                broken.push(format!("webhook {called}: {message}"));
            }
        };
        let types = ["ConversionWebhook", "MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"];
        need(!called.is_empty(), "generateName must be set");
        need(types.contains(&text(&webhook["type"])), "type is not known");
        need(["None", "NoneOnDryRun"].contains(&text(&webhook["sideEffects"])), "sideEffects must be none");
        need(items(&webhook["admissionReviewVersions"]).any(|version| version == "v1"), "must accept v1");
        let deployed = bundle.deployments().any(|deployment| deployment["name"] == webhook["deploymentName"]);
        need(deployed, "deploymentName is not a Deployment of the bundle");
        for rule in items(&webhook["rules"]) {
            let groups = || items(&rule["apiGroups"]).map(text);
            need(!groups().any(|group| group == "*"), "must not take every group");
            need(!groups().any(|group| group == "operators.coreos.com"), "must not take OLM's own kinds");
        }
        for definition in items(&webhook["conversionCRDs"]) {
            let owned = bundle.definitions.iter().find(|owned| definition == name(owned));
            need(owned.is_some(), "conversionCRDs: not owned");
            let kept = owned.is_some_and(|owned| owned["spec"]["preserveUnknownFields"] == true);
            need(!kept, "conversionCRDs: must not preserve unknown fields");
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_and_versions_pin_an_image() {
        let digest = format!("registry.example:5000/metallb/operator@sha256:{}", "0a".repeat(32));
        for (image, want) in [
            (digest.as_str(), true),
            ("localhost/metallb/operator:0.1.0", true),
            ("registry.example:5000/metallb/operator:v1.2.3-rc.1", true),
            ("registry.example:5000/metallb/operator", false),
            ("localhost/metallb/operator:latest", false),
            ("localhost/metallb/operator:main", false),
            ("localhost/metallb/operator:v1", false),
            ("localhost/metallb/operator@sha256:12", false),
            ("", false),
        ] {
            assert_eq!(is_pinned(image), want, "{image}");
        }
    }
}
