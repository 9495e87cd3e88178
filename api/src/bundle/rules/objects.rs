//! Rules for the objects of OLM themselves, and for what names what.

use serde_json::Value;

use super::{Bundle, Rule, is_name, text, twice};
use crate::bundle::kinds;
use crate::bundle::objects::{id, items, kind, name};

pub(super) const RULES: &[Rule] = &[
    Rule {
        name: "schema",
        source: "api: crds/operators.coreos.com_{clusterserviceversions,catalogsources,operatorgroups,subscriptions}.yaml; \
                 operator-controller: api/v1; restated in bundle/kinds",
        check: schema,
    },
    Rule {
        name: "annotation-names",
        source: "api: pkg/validation/internal/annotations.go, ValidateAnnotationNames",
        check: annotation_names,
    },
    Rule {
        name: "removed-apis",
        source: "api: pkg/validation/internal/removed_apis.go; Kubernetes: deprecated API migration guide",
        check: removed_apis,
    },
    Rule {
        name: "platforms",
        source: "api: pkg/validation/internal/multiarch.go; docs: operators for multiple architectures, labels",
        check: platforms,
    },
    Rule {
        name: "unique",
        source: "operator-controller: internal/operator-controller/rukpak/bundle/registryv1/validators, \
                 CheckDeploymentSpecUniqueness, CheckCRDResourceUniqueness, CheckWebhookNameUniqueness, \
                 CheckWebhookNameIsDNS1123SubDomain, CheckConversionWebhookCRDReferenceUniqueness",
        check: unique,
    },
    Rule {
        name: "x-descriptors",
        source: "openshift/console: packages/operator-lifecycle-manager, descriptors/reference/reference.md",
        check: x_descriptors,
    },
    Rule {
        name: "operator-group",
        source: "operator-lifecycle-manager: pkg/controller/operators/olm/operatorgroup.go, operatorGroupFromAnnotations; \
                 operator.go: TooManyOperatorGroups, UnsupportedOperatorGroup",
        check: operator_group,
    },
    Rule {
        name: "extension",
        source: "operator-controller: docs/api-reference/olmv1-api-reference.md, CatalogFilter; \
                 docs/concepts/permission-model.md: names of accounts must differ",
        check: extension,
    },
    Rule {
        name: "subscription",
        source: "operator-lifecycle-manager: pkg/controller/registry/resolver/resolver.go: a Subscription's channel and \
                 startingCSV are those of its package in its catalog",
        check: subscription,
    },
];

/// Annotations that OLM reads in this case alone.
const ANNOTATIONS: [&str; 5] = [
    "olm.operatorGroup",
    "olm.operatorNamespace",
    "olm.providedAPIs",
    "olm.skipRange",
    "olm.targetNamespaces",
];

/// Versions of API groups that Kubernetes 1.22 to 1.32 removed.
const REMOVED: [&str; 20] = [
    "admissionregistration.k8s.io/v1beta1",
    "apiextensions.k8s.io/v1beta1",
    "apiregistration.k8s.io/v1beta1",
    "authentication.k8s.io/v1beta1",
    "authorization.k8s.io/v1beta1",
    "autoscaling/v2beta1",
    "autoscaling/v2beta2",
    "batch/v1beta1",
    "certificates.k8s.io/v1beta1",
    "coordination.k8s.io/v1beta1",
    "discovery.k8s.io/v1beta1",
    "events.k8s.io/v1beta1",
    "extensions/v1beta1",
    "flowcontrol.apiserver.k8s.io/v1beta3",
    "networking.k8s.io/v1beta1",
    "node.k8s.io/v1beta1",
    "policy/v1beta1",
    "rbac.authorization.k8s.io/v1beta1",
    "scheduling.k8s.io/v1beta1",
    "storage.k8s.io/v1beta1",
];

const PLATFORMS: [&str; 5] = [
    "operatorframework.io/arch.amd64",
    "operatorframework.io/arch.arm64",
    "operatorframework.io/arch.ppc64le",
    "operatorframework.io/arch.s390x",
    "operatorframework.io/os.linux",
];

/// Capabilities of fields of a spec, behind [`UI`]; those that end in a colon are followed by what they are about.
const OF_SPEC: [&str; 20] = [
    "advanced",
    "arrayFieldGroup:",
    "booleanSwitch",
    "checkbox",
    "endpointList",
    "fieldDependency:",
    "fieldGroup:",
    "hidden",
    "imagePullPolicy",
    "nodeAffinity",
    "number",
    "password",
    "podAffinity",
    "podAntiAffinity",
    "podCount",
    "resourceRequirements",
    "select:",
    "selector:",
    "text",
    "updateStrategy",
];
const UI: &str = "urn:alm:descriptor:com.tectonic.ui:";
/// Of a field that holds the name of an object of a kind.
const OBJECT: &str = "urn:alm:descriptor:io.kubernetes:";

const OF_STATUS: [&str; 6] = [
    "urn:alm:descriptor:com.tectonic.ui:podStatuses",
    "urn:alm:descriptor:io.kubernetes.conditions",
    "urn:alm:descriptor:io.kubernetes.phase",
    "urn:alm:descriptor:io.kubernetes.phase:reason",
    "urn:alm:descriptor:org.w3:link",
    "urn:alm:descriptor:text",
];

fn schema(bundle: &Bundle) -> Vec<String> {
    let applied = bundle.applied.values().flatten();
    let judged =
        bundle.csvs.iter().chain(applied).filter_map(|object| Some((object, kinds::misfits(object)?)));
    let broken = judged.flat_map(|(object, misfits)| {
        misfits.into_iter().map(|misfit| format!("{}: {misfit}", id(object))).collect::<Vec<_>>()
    });
    broken.collect()
}

fn annotation_names(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for object in bundle.csvs.iter().chain(&bundle.definitions).chain(&bundle.objects) {
        for key in object["metadata"]["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
            let known = ANNOTATIONS.iter().find(|known| known.eq_ignore_ascii_case(key));
            if let Some(known) = known.filter(|known| *known != key) {
                broken.push(format!("{}: annotation {key} must be written {known}", id(object)));
            }
        }
    }
    broken
}

fn removed_apis(bundle: &Bundle) -> Vec<String> {
    let applied = bundle.applied.values().flatten();
    let objects = bundle.definitions.iter().chain(&bundle.objects).chain(applied);
    let removed = objects.filter(|object| REMOVED.contains(&text(&object["apiVersion"])));
    removed.map(|object| format!("{}: {} is no longer served", id(object), object["apiVersion"])).collect()
}

fn platforms(bundle: &Bundle) -> Vec<String> {
    let labels = &bundle.csv()["metadata"]["labels"];
    let mut broken = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        let says = ["operatorframework.io/arch.", "operatorframework.io/os."]
            .iter()
            .any(|start| key.starts_with(start));
        if says && (!PLATFORMS.contains(&key.as_str()) || value != "supported") {
            broken.push(format!("metadata.labels: {key}: {value} says nothing"));
        }
    }
    for part in ["arch", "os"] {
        let start = format!("operatorframework.io/{part}.");
        if !labels.as_object().into_iter().flatten().any(|(key, _)| key.starts_with(&start)) {
            broken.push(format!("metadata.labels: none begins with {start}"));
        }
    }
    broken
}

fn unique(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    let owned: Vec<String> =
        bundle.owned().map(|owned| format!("{} {}", text(&owned["name"]), text(&owned["version"]))).collect();
    let names: [(&str, Vec<&str>); 5] = [
        ("definition", bundle.definitions.iter().map(name).collect()),
        ("owned", owned.iter().map(String::as_str).collect()),
        ("Deployment", bundle.deployments().map(|deployment| text(&deployment["name"])).collect()),
        ("webhook", bundle.webhooks().map(|webhook| text(&webhook["generateName"])).collect()),
        (
            "conversionCRDs",
            bundle.webhooks().flat_map(|webhook| items(&webhook["conversionCRDs"]).map(text)).collect(),
        ),
    ];
    for (what, names) in names {
        broken.extend(
            twice(names.into_iter()).into_iter().map(|name| format!("{what} {name}: is there twice")),
        );
    }
    let named = bundle.webhooks().map(|webhook| ("webhook", text(&webhook["generateName"])));
    let named = named.chain(bundle.deployments().map(|deployment| ("Deployment", text(&deployment["name"]))));
    for (what, name) in named.filter(|(_, name)| !is_name(name)) {
        broken.push(format!("{what} {name:?}: is not the name of an object"));
    }
    broken
}

/// Whether the console knows `descriptor`.
fn is_known(descriptor: &str, of_spec: bool) -> bool {
    if let Some(kind) = descriptor.strip_prefix(OBJECT) {
        return !kind.is_empty();
    }
    let Some(capability) = descriptor.strip_prefix(UI).filter(|_| of_spec) else {
        return !of_spec && OF_STATUS.contains(&descriptor);
    };
    OF_SPEC.iter().any(|known| match known.strip_suffix(':') {
        Some(_) => capability.strip_prefix(known).is_some_and(|about| !about.is_empty()),
        None => capability == *known,
    })
}

fn x_descriptors(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for owned in bundle.owned() {
        for (list, of_spec) in [("specDescriptors", true), ("statusDescriptors", false)] {
            for descriptor in items(&owned[list]) {
                let unknown =
                    items(&descriptor["x-descriptors"]).map(text).filter(|it| !is_known(it, of_spec));
                let field = format!(
                    "{} {}: {list}: {}",
                    text(&owned["kind"]),
                    text(&owned["version"]),
                    text(&descriptor["path"])
                );
                broken.extend(unknown.map(|unknown| format!("{field}: no console knows {unknown:?}")));
            }
        }
    }
    broken
}

fn of_kind<'a>(objects: &'a [Value], wanted: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| kind(object) == wanted)
}

fn operator_group(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for (file, objects) in &bundle.applied {
        if of_kind(objects, "Subscription").next().is_none() {
            continue;
        }
        let groups: Vec<&Value> = of_kind(objects, "OperatorGroup").collect();
        let [group] = groups.as_slice() else {
            broken.push(format!("{file}: holds {} OperatorGroups, and must hold one", groups.len()));
            continue;
        };
        for field in
            ["targetNamespaces", "selector"].into_iter().filter(|field| !group["spec"][field].is_null())
        {
            broken.push(format!("{file}: {}: spec.{field}: AllNamespaces alone is supported", id(group)));
        }
    }
    broken
}

fn extension(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for (file, objects) in &bundle.applied {
        for extension in of_kind(objects, "ClusterExtension") {
            let (account, wanted) =
                (&extension["spec"]["serviceAccount"]["name"], &extension["spec"]["source"]["catalog"]);
            let mut need = |met: bool, message: String| {
                if !met {
                    broken.push(format!("{file}: {}: {message}", id(extension)));
                }
            };
            need(
                wanted["packageName"] == bundle.package(),
                format!("packageName {} is not the package", wanted["packageName"]),
            );
            for channel in items(&wanted["channels"]) {
                let known = |blob: &Value| blob["schema"] == "olm.channel" && blob["name"] == *channel;
                need(bundle.catalog.iter().any(known), format!("the catalog has no channel {channel}"));
            }
            let made = of_kind(objects, "ServiceAccount").any(|made| account == name(made));
            need(made, format!("spec.serviceAccount: the file makes no account {account}"));
            let permissions = &bundle.csv()["spec"]["install"]["spec"]["clusterPermissions"];
            let clashes = items(permissions).any(|permission| permission["serviceAccountName"] == *account);
            need(!clashes, format!("spec.serviceAccount: {account} is an account of the bundle"));
        }
    }
    broken
}

fn subscription(bundle: &Bundle) -> Vec<String> {
    let mut broken = Vec::new();
    for (file, objects) in &bundle.applied {
        let sources: Vec<(&Value, &Value)> = of_kind(objects, "CatalogSource")
            .map(|source| (&source["metadata"]["name"], &source["metadata"]["namespace"]))
            .collect();
        for subscription in of_kind(objects, "Subscription") {
            let spec = &subscription["spec"];
            let mut need = |met: bool, message: String| {
                if !met {
                    broken.push(format!("{file}: {}: {message}", id(subscription)));
                }
            };
            need(spec["name"] == bundle.package(), format!("spec.name: {} is not the package", spec["name"]));
            need(
                sources.contains(&(&spec["source"], &spec["sourceNamespace"])),
                format!("spec.source: no CatalogSource {} is in {}", spec["source"], spec["sourceNamespace"]),
            );
            let channel = bundle
                .catalog
                .iter()
                .find(|blob| blob["schema"] == "olm.channel" && blob["name"] == spec["channel"]);
            need(channel.is_some(), format!("spec.channel: the catalog has no channel {}", spec["channel"]));
            let starts = |channel: &Value| {
                spec["startingCSV"].is_null()
                    || items(&channel["entries"]).any(|entry| entry["name"] == spec["startingCSV"])
            };
            need(
                channel.is_none_or(starts),
                format!("spec.startingCSV: {} is not in channel {}", spec["startingCSV"], spec["channel"]),
            );
        }
    }
    broken
}
