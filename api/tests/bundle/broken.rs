//! Each rule can fail: what breaks it, and what it says then.

use std::collections::{BTreeMap, BTreeSet};

use metallb_api::bundle::objects::{kind, read, write};
use metallb_api::bundle::rules::{self, Broken};
use serde_json::{Value, json};

use crate::{NOW, catalog, committed, csv_path, current, package, setting};

/// The committed files with one object changed.
fn changed(path: &str, change: impl FnOnce(&mut Value)) -> BTreeMap<String, String> {
    let mut files = committed();
    let mut object = read(&files[path]).unwrap().remove(0);
    change(&mut object);
    files.insert(path.to_owned(), write(&object).unwrap());
    files
}

/// As [`changed`], for the value at a JSON pointer of the ClusterServiceVersion.
fn csv(pointer: &str, value: Value) -> BTreeMap<String, String> {
    changed(&csv_path(), |csv| {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = csv.pointer_mut(parent).unwrap();
        match field.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[field.replace("~1", "/")] = value,
        }
    })
}

fn added(path: &str, object: &Value) -> BTreeMap<String, String> {
    let mut files = committed();
    files.insert(path.to_owned(), write(object).unwrap());
    files
}

/// The committed files with an object of olm/install-automatic.yaml changed.
fn applied(of: &str, change: impl FnOnce(&mut Value)) -> BTreeMap<String, String> {
    of_file("olm/install-automatic.yaml", of, change)
}

fn of_file(path: &str, of: &str, change: impl FnOnce(&mut Value)) -> BTreeMap<String, String> {
    let mut files = committed();
    let text = files.get_mut(path).unwrap();
    let mut objects = read(text).unwrap();
    change(objects.iter_mut().find(|object| kind(object) == of).unwrap());
    *text = objects.iter().map(|object| write(object).unwrap()).collect::<Vec<_>>().join("---\n");
    files
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let install = "/spec/install/spec";
    let container = format!("{install}/deployments/0/spec/template/spec/containers/0");
    let mut two = committed();
    two.insert("bundle/manifests/two.yaml".into(), two[&csv_path()].clone());
    let pool = json!([{ "apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": { "name": "a" },
        "spec": { "addresses": "192.0.2.0/24", "autoassign": true } }]);
    let internal = json!(
        r#"["addresspools.metallb.io","bfdprofiles.metallb.io","bgpadvertisements.metallb.io",
        "bgppeers.metallb.io","bgpsessionstates.frrk8s.metallb.io","communities.metallb.io","configurationstates.metallb.io","l2advertisements.metallb.io",
        "servicebgpstatuses.metallb.io","servicel2statuses.metallb.io"]"#
    );
    let hook = json!([{ "generateName": "w.metallb.io", "type": "ValidatingAdmissionWebhook", "sideEffects": "Some",
        "admissionReviewVersions": ["v1"], "deploymentName": "other", "rules": [{ "apiGroups": ["*"] }] }]);
    let secret_reader = json!({ "serviceAccountName": "speaker",
        "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }] });
    let cases = [
        ("one-csv", two, vec!["bundle/manifests holds 2 ClusterServiceVersions"]),
        (
            "kinds",
            added(
                "bundle/manifests/job.yaml",
                &json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "a" } }),
            ),
            vec!["Job a: OLM installs no such kind"],
        ),
        (
            "size",
            added(
                "bundle/manifests/big.yaml",
                &json!({ "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "a", "resourceVersion": "0".repeat(900_000) } }),
            ),
            vec!["bundle/manifests has more than 1048576 bytes"],
        ),
        (
            "annotations",
            changed("bundle/metadata/annotations.yaml", |file| {
                file["annotations"]["operators.operatorframework.io.bundle.mediatype.v1"] = json!("plain");
            }),
            vec![
                "annotations.yaml: operators.operatorframework.io.bundle.mediatype.v1 must be \"registry+v1\"",
                "bundle.Containerfile: `LABEL operators.operatorframework.io.bundle.mediatype.v1=plain` is missing",
            ],
        ),
        (
            "channels",
            changed("bundle/metadata/annotations.yaml", |file| {
                file["annotations"]["operators.operatorframework.io.bundle.channels.v1"] = json!("alpha");
            }),
            vec!["annotations.yaml: channel \"alpha\" is not called candidate, fast or stable"],
        ),
        (
            "csv-name",
            csv("/metadata/name", json!("MetalLB.v1")),
            vec![
                "metadata.name: \"MetalLB.v1\" must be \"PACKAGE.vNOW\"",
                "metadata.name: \"MetalLB.v1\" is not the name of an object",
            ],
        ),
        (
            "required-fields",
            csv("/spec/install/strategy", json!("helm")),
            vec!["spec.install.strategy: \"helm\" must be \"deployment\""],
        ),
        (
            "versions",
            csv("/spec/minKubeVersion", json!("1.30")),
            vec![
                "spec.minKubeVersion: \"1.30\" is not a semantic version: unexpected end of input while parsing minor version number",
            ],
        ),
        (
            "install-modes",
            csv("/spec/installModes/3", json!({ "type": "OwnNamespace", "supported": false })),
            vec![
                "spec.installModes: AllNamespaces is there 0 times",
                "spec.installModes: OwnNamespace is there 2 times",
                "spec.installModes: none is supported",
            ],
        ),
        (
            "capabilities",
            csv("/metadata/annotations/capabilities", json!("Autopilot")),
            vec!["metadata.annotations: capabilities: \"Autopilot\" is not a level"],
        ),
        (
            "presentation",
            csv("/spec/links", json!([{ "name": "Concepts", "url": "metallb.io" }])),
            vec![
                "spec.links: {\"name\":\"Concepts\",\"url\":\"metallb.io\"} needs a name and an https address",
            ],
        ),
        (
            "maturity",
            csv("/spec/maturity", json!("ripe")),
            vec!["spec.maturity: \"ripe\" is none that is known"],
        ),
        (
            "maturity",
            changed(&csv_path(), |csv| {
                csv["spec"]["version"] = json!("0.9.0");
                csv["spec"]["maturity"] = json!("stable");
            }),
            vec!["spec.maturity: version \"0.9.0\" is not stable"],
        ),
        (
            "features",
            csv("/metadata/annotations/features.operators.openshift.io~1disconnected", json!("yes")),
            vec![
                "metadata.annotations: features.operators.openshift.io/disconnected: \"yes\" must be \"true\" or \"false\"",
            ],
        ),
        (
            "owned",
            csv("/spec/customresourcedefinitions/owned/0/description", json!("")),
            vec!["owned: addresspools.metallb.io v1alpha1: description must be set"],
        ),
        (
            "owned",
            csv("/spec/customresourcedefinitions/owned/2/resources", json!([])),
            vec!["owned: bfdprofiles.metallb.io v1beta1: resources must be set"],
        ),
        (
            "owned",
            csv("/spec/customresourcedefinitions/owned/2/resources", json!([{ "kind": "BGPPeer" }])),
            vec![
                "owned: bfdprofiles.metallb.io v1beta1: resources: {\"kind\":\"BGPPeer\"} needs kind and version",
            ],
        ),
        (
            "descriptors",
            csv("/spec/customresourcedefinitions/owned/0/specDescriptors/0/path", json!("address")),
            vec![
                "AddressPool v1alpha1: specDescriptors: spec.address is not a field",
                "AddressPool v1alpha1: specDescriptors: spec.addresses has no descriptor",
            ],
        ),
        (
            "examples",
            changed(&csv_path(), |csv| {
                let annotations = &mut csv["metadata"]["annotations"];
                annotations["alm-examples"] = json!(pool.to_string());
                annotations["operators.operatorframework.io/internal-objects"] = internal;
            }),
            vec![
                "alm-examples: IPAddressPool a: spec.addresses: \"192.0.2.0/24\" is no array",
                "alm-examples: IPAddressPool a: spec.autoassign: no such field",
                "alm-examples: MetalLB has no example and is not internal",
            ],
        ),
        (
            "requests",
            csv(&format!("{container}/resources"), json!({ "requests": { "cpu": "50m" } })),
            vec!["container manager: no requests of cpu and memory"],
        ),
        (
            "images",
            csv(&format!("{container}/image"), json!("localhost/metallb/operator:latest")),
            vec![
                "spec.relatedImages: \"localhost/metallb/operator:latest\" is either used or listed, but not both",
                "image \"localhost/metallb/operator:latest\" has neither a digest nor a version as its tag",
            ],
        ),
        (
            "accounts",
            csv(&format!("{install}/clusterPermissions/3/serviceAccountName"), json!("talker")),
            vec![
                "RoleBinding speaker: OLM makes no account \"speaker\": it has no clusterPermissions",
                "RoleBinding speaker-scc: OLM makes no account \"speaker\": it has no clusterPermissions",
            ],
        ),
        (
            "rights",
            csv(&format!("{install}/permissions"), json!([secret_reader])),
            vec!["permissions of speaker: would be granted in all namespaces; ship a Role"],
        ),
        (
            "webhooks",
            csv("/spec/webhookdefinitions", hook),
            vec![
                "webhook w.metallb.io: sideEffects must be none",
                "webhook w.metallb.io: deploymentName is not a Deployment of the bundle",
                "webhook w.metallb.io: must not take every group",
            ],
        ),
        (
            "schema",
            csv("/spec/maturities", json!("alpha")),
            vec!["ClusterServiceVersion PACKAGE.vNOW: spec.maturities: no such field"],
        ),
        (
            "schema",
            applied("Subscription", |subscription| {
                subscription["spec"]["installPlanApproval"] = json!("Sometimes");
                subscription["spec"]["startingCsv"] = json!("a");
            }),
            vec![
                "Subscription PACKAGE: spec.installPlanApproval: \"Sometimes\" is none of [\"Automatic\",\"Manual\"]",
                "Subscription PACKAGE: spec.startingCsv: no such field",
            ],
        ),
        (
            "schema",
            applied("CatalogSource", |source| {
                source["spec"]["grpcPodConfig"]["securityContext"] = json!("restricted");
            }),
            vec!["CatalogSource PACKAGE: spec.grpcPodConfig.securityContext: no such field"],
        ),
        (
            "annotation-names",
            csv("/metadata/annotations/olm.skiprange", json!(">=0.1.0 <0.2.0")),
            vec![
                "ClusterServiceVersion PACKAGE.vNOW: annotation olm.skiprange must be written olm.skipRange",
            ],
        ),
        (
            "removed-apis",
            added(
                "bundle/manifests/budget.yaml",
                &json!({ "apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": { "name": "a" } }),
            ),
            vec!["PodDisruptionBudget a: \"policy/v1beta1\" is no longer served"],
        ),
        (
            "platforms",
            csv("/metadata/labels", json!({ "operatorframework.io/arch.x86": "supported" })),
            vec![
                "metadata.labels: operatorframework.io/arch.x86: \"supported\" says nothing",
                "metadata.labels: none begins with operatorframework.io/os.",
            ],
        ),
        (
            "unique",
            changed(&csv_path(), |csv| {
                let webhooks = csv["spec"]["webhookdefinitions"].as_array_mut().unwrap();
                webhooks[1]["generateName"] = json!("One_Webhook");
                webhooks[0]["generateName"] = json!("One_Webhook");
                webhooks.truncate(2);
                let deployments = csv["spec"]["install"]["spec"]["deployments"].as_array_mut().unwrap();
                deployments.push(deployments[0].clone());
            }),
            vec![
                "Deployment metallb-operator-controller-manager: is there twice",
                "webhook One_Webhook: is there twice",
                "webhook \"One_Webhook\": is not the name of an object",
                "webhook \"One_Webhook\": is not the name of an object",
            ],
        ),
        (
            "x-descriptors",
            changed(&csv_path(), |csv| {
                let owned = &mut csv["spec"]["customresourcedefinitions"]["owned"][0];
                owned["specDescriptors"][0]["x-descriptors"] = json!([
                    "urn:alm:descriptor:com.tectonic.ui:texts",
                    "urn:alm:descriptor:com.tectonic.ui:select:"
                ]);
                owned["statusDescriptors"][0]["x-descriptors"] =
                    json!(["urn:alm:descriptor:com.tectonic.ui:text"]);
            }),
            vec![
                "AddressPool v1alpha1: specDescriptors: addresses: no console knows \"urn:alm:descriptor:com.tectonic.ui:texts\"",
                "AddressPool v1alpha1: specDescriptors: addresses: no console knows \"urn:alm:descriptor:com.tectonic.ui:select:\"",
                "AddressPool v1alpha1: statusDescriptors: assigned: no console knows \"urn:alm:descriptor:com.tectonic.ui:text\"",
            ],
        ),
        (
            "images",
            changed(&csv_path(), |csv| csv["spec"]["relatedImages"][1]["name"] = json!("manager")),
            vec!["spec.relatedImages: \"manager\" is there twice"],
        ),
        (
            "operator-group",
            applied("OperatorGroup", |group| group["spec"]["targetNamespaces"] = json!(["metallb-system"])),
            vec![
                "olm/install-automatic.yaml: OperatorGroup PACKAGE: spec.targetNamespaces: AllNamespaces alone is supported",
            ],
        ),
        (
            "operator-group",
            applied("OperatorGroup", |group| group["kind"] = json!("CatalogSource")),
            vec!["olm/install-automatic.yaml: holds 0 OperatorGroups, and must hold one"],
        ),
        (
            "schema",
            of_file("olm/v1.yaml", "ClusterCatalog", |catalog| {
                catalog["spec"]["source"]["image"]["poll"] = json!("60m");
            }),
            vec!["ClusterCatalog PACKAGE: spec.source.image.poll: no such field"],
        ),
        (
            "extension",
            of_file("olm/v1.yaml", "ClusterExtension", |extension| {
                extension["spec"]["serviceAccount"]["name"] = json!("speaker");
                extension["spec"]["source"]["catalog"] =
                    json!({ "packageName": "metallb-operator", "channels": ["stable", "beta"] });
            }),
            vec![
                "olm/v1.yaml: ClusterExtension PACKAGE: packageName \"metallb-operator\" is not the package",
                "olm/v1.yaml: ClusterExtension PACKAGE: the catalog has no channel \"beta\"",
                "olm/v1.yaml: ClusterExtension PACKAGE: spec.serviceAccount: the file makes no account \"speaker\"",
                "olm/v1.yaml: ClusterExtension PACKAGE: spec.serviceAccount: \"speaker\" is an account of the bundle",
            ],
        ),
        (
            "subscription",
            applied("Subscription", |subscription| {
                let spec = &mut subscription["spec"];
                spec["name"] = json!("metallb-operator");
                spec["source"] = json!("community-operators");
                spec["channel"] = json!("beta");
            }),
            vec![
                "olm/install-automatic.yaml: Subscription PACKAGE: spec.name: \"metallb-operator\" is not the package",
                "olm/install-automatic.yaml: Subscription PACKAGE: spec.source: no CatalogSource \"community-operators\" is in \"metallb-system\"",
                "olm/install-automatic.yaml: Subscription PACKAGE: spec.channel: the catalog has no channel \"beta\"",
            ],
        ),
        (
            "subscription",
            applied("Subscription", |subscription| {
                subscription["spec"]["startingCSV"] = json!("other.v0.0.1");
            }),
            vec![
                "olm/install-automatic.yaml: Subscription PACKAGE: spec.startingCSV: \"other.v0.0.1\" is not in channel \"stable\"",
            ],
        ),
        (
            "catalog-channels",
            changed(&catalog("channel-stable.yaml"), |channel| {
                channel["package"] = json!("metallb-operator");
                channel["entries"] = json!([
                    { "name": current(), "skipRange": "0.1.0 to 0.2.0" },
                    { "name": "a", "replaces": "b" },
                    { "name": "b", "replaces": "a" },
                    { "name": "b" },
                ]);
            }),
            vec![
                "olm.channel stable: package \"metallb-operator\"",
                "channel stable: b is there twice",
                "channel stable: PACKAGE.vNOW: skipRange: \"0.1.0 to 0.2.0\" is no range",
                "channel stable: no upgrade leads from a",
                "channel stable: no upgrade leads from b",
                "channel stable: no upgrade leads from b",
            ],
        ),
        (
            "catalog-channels",
            changed(&catalog("package.yaml"), |package| package["icon"]["base64data"] = json!("?")),
            vec!["package: icon: \"image/svg+xml\" is no picture"],
        ),
        (
            "catalog-channels",
            added(
                &catalog("channel-again.yaml"),
                &json!({ "schema": "olm.channel", "name": "stable", "package": package(), "entries": [{ "name": current() }] }),
            ),
            vec!["channel stable: is there twice"],
        ),
        (
            "catalog",
            changed(&catalog("channel-stable.yaml"), |channel| {
                channel["entries"] = json!([
                    { "name": current() },
                    { "name": "next", "replaces": "lost" },
                ]);
            }),
            vec![
                "channel \"stable\": has the heads [\"PACKAGE.vNOW\", \"next\"], and must have one",
                "channel \"stable\": replaces lost, which is not in it",
            ],
        ),
        (
            "catalog-bundle",
            changed(&catalog(&format!("bundle-v{NOW}.yaml")), |blob| {
                blob["properties"] = json!([]);
                blob["relatedImages"] = json!([]);
                blob["image"] = json!("");
            }),
            vec![
                "PACKAGE.vNOW: property olm.package must be {\"packageName\":\"PACKAGE\",\"version\":\"NOW\"}",
                "PACKAGE.vNOW: properties olm.gvk are not those of the owned kinds",
                "PACKAGE.vNOW: image must be set",
                "PACKAGE.vNOW: relatedImages: \"PREFIX/operator:NOW\" is missing",
                "PACKAGE.vNOW: relatedImages: \"PREFIX/controller:NOW\" is missing",
                "PACKAGE.vNOW: relatedImages: \"PREFIX/speaker:NOW\" is missing",
            ],
        ),
        (
            "catalog-entries",
            changed(&catalog("channel-stable.yaml"), |channel| {
                channel["entries"] = json!([
                    { "name": current() },
                    { "name": "next", "replaces": current() },
                ]);
            }),
            vec!["channel \"stable\": next has no blob of schema olm.bundle"],
        ),
        (
            "catalog-entries",
            added(&catalog("bundle-v0.0.1.yaml"), &json!({ "schema": "olm.bundle", "name": "left over" })),
            vec!["left over: is in no channel"],
        ),
    ];
    let mut broken = BTreeSet::new();
    for (rule, files, want) in cases {
        let found: Vec<Broken> =
            rules::check(&files).into_iter().filter(|found| found.rule == rule).collect();
        let message = |text: &str| {
            text.replace("PACKAGE", &package())
                .replace("NOW", NOW)
                .replace("PREFIX", &setting("IMAGE_PREFIX"))
        };
        let want: Vec<_> = want.into_iter().map(|text| Broken { rule, message: message(text) }).collect();
        assert_eq!(found, want);
        broken.insert(rule);
    }
    assert_eq!(broken, rules::all().map(|rule| rule.name).collect());
}
