//! Each published way of installing, on a cluster that has nothing of MetalLB: by install.yaml, by what OLM makes of the
//! bundle, by Helm. Each time a Service gets its address, no call is refused for want of rights, and removal is complete.
//! What is installed before is removed; the images must be on the nodes (`make e2e-installers` sees to both).

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::Result;
use metallb_api::bundle::{
    self, Sources,
    objects::{kind, read},
};
use metallb_e2e::{
    audit::{self, Mark},
    cluster::{self, checkout, kubectl},
    deploy::NAMESPACE,
    exec::{on, output},
    layout::kubeconfig,
    observe::{address, apply, get, kube},
    olm, tools,
};
use serde_json::{Value, json};

/// Kinds of objects in no namespace, but for the definitions.
const CLUSTER_WIDE: &str = "validatingwebhookconfigurations,clusterroles,clusterrolebindings";

const OPERATOR: &str = "deployment/metallb-operator-controller-manager";

/// A pool, and a Service that is given its first address.
const SERVICE: &str = "\
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: installers, namespace: metallb-system}
spec: {protocol: layer2, addresses: [172.22.0.190/31]}
---
apiVersion: v1
kind: Service
metadata: {name: installers, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
";

/// Removes everything of MetalLB, in the order in which an administrator does: first the resource, so that the operator
/// takes its parts away.
fn remove_everything() {
    let definition = kube("get crd metallbs.metallb.io --ignore-not-found -o name").unwrap();
    if !definition.is_empty() {
        kube("delete metallbs --all --all-namespaces --timeout=60s").unwrap();
    }
    kube(&format!("delete namespace {NAMESPACE} --ignore-not-found --timeout=120s")).unwrap();
    let others = kube(&format!("get {CLUSTER_WIDE} -o name")).unwrap();
    for object in others.lines().filter(|name| name.contains("metallb")) {
        kube(&format!("delete {object}")).unwrap();
    }
    let definitions = kube("get crd -o name").unwrap();
    for definition in definitions.lines().filter(|name| name.ends_with(".metallb.io")) {
        kube(&format!("delete {definition} --timeout=60s")).unwrap();
    }
}

/// With the operator there and the MetalLB resource made by `create`, a Service gets the first address of its pool.
fn serves(create: impl FnOnce()) {
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    create();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=90s")).unwrap();
    apply(SERVICE).unwrap();
    assert_eq!(address("default", "installers").unwrap().to_string(), "172.22.0.190");
    kube("-n default delete service installers").unwrap();
}

fn metallb() {
    apply(include_str!("../../config/samples/metallb.yaml")).unwrap();
}

/// The rights are enough for all that was done since `mark`. After a removal they are not: a program that ends gives its
/// Lease back when its rights may be gone already.
fn none_is_refused(mark: Mark) {
    assert_eq!(audit::refused_since(mark).unwrap(), BTreeSet::new());
}

/// Names of the workloads and rights that carry MetalLB's name or are in its namespace.
fn left() -> Vec<String> {
    let cluster = kube(&format!("get {CLUSTER_WIDE} -o name")).unwrap();
    let namespaced = "deployments,daemonsets,serviceaccounts,roles,rolebindings,configmaps,secrets";
    let namespaced = kube(&format!("-n {NAMESPACE} get {namespaced} -o name --ignore-not-found")).unwrap();
    let cluster = cluster.lines().filter(|name| name.contains("metallb"));
    let own = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
    cluster.chain(namespaced.lines().filter(|name| !own.contains(name))).map(str::to_owned).collect()
}

/// Waits until nothing of the operands is left, which the garbage collector removes after the resource.
fn operands_go() {
    kube("delete metallbs --all --all-namespaces --timeout=60s").unwrap();
    for object in ["deployment/controller", "daemonset/speaker"] {
        kube(&format!("-n {NAMESPACE} wait {object} --for=delete --timeout=60s")).unwrap();
    }
}

#[test]
fn install_yaml_is_right_at_the_first_apply() {
    remove_everything();
    let mark = audit::mark().unwrap();
    output(kubectl().args(["apply", "-f"]).arg(checkout().join("dist/install.yaml"))).unwrap();
    serves(metallb);
    none_is_refused(mark);
    operands_go();
    output(kubectl().args(["delete", "-f"]).arg(checkout().join("dist/install.yaml"))).unwrap();
    assert_eq!(left(), Vec::<String>::new());
}

fn create(objects: &[Value]) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(file.path(), list.to_string())?;
    output(kubectl().args(["apply", "--server-side", "-f"]).arg(file.path()))
}

/// The namespace, which the administrator makes by the first document of the files in olm/.
fn namespace() -> Vec<Value> {
    let text = fs::read_to_string(checkout().join("olm/install-automatic.yaml")).unwrap();
    read(&text).unwrap().into_iter().filter(|object| kind(object) == "Namespace").collect()
}

#[test]
fn olm_installs_the_bundle() {
    remove_everything();
    let mark = audit::mark().unwrap();
    create(&namespace()).unwrap();
    let objects = olm::objects(&checkout().join("bundle"), NAMESPACE).unwrap();
    create(&objects).unwrap();
    serves(metallb);
    let deployment = get(&["-n", NAMESPACE, OPERATOR]).unwrap();
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["olm.targetNamespaces"], "");
    none_is_refused(mark);

    operands_go();
    // OLM keeps definitions when the operator is removed: with them the resources of the users would go.
    let (kept, removed): (Vec<&Value>, Vec<&Value>) =
        objects.iter().partition(|object| kind(object) == "CustomResourceDefinition");
    assert_eq!(kept.len(), 11);
    for object in removed {
        let name = object["metadata"]["name"].as_str().unwrap();
        kube(&format!("-n {NAMESPACE} delete {} {name}", kind(object).to_lowercase())).unwrap();
    }
    assert_eq!(
        kube(&format!("-n {NAMESPACE} get addresspools -o name")).unwrap().trim(),
        "addresspool.metallb.io/installers"
    );
}

/// The next version's bundle, in a folder of its own: this one's with another version and other tags.
fn next_bundle(version: &str) -> tempfile::TempDir {
    let now = env!("CARGO_PKG_VERSION");
    let rendered = output(kubectl().arg("kustomize").arg(checkout().join("config/manifests"))).unwrap();
    let manifests = checkout().join("config/manifests");
    let releases = fs::read_to_string(manifests.join("releases.yaml")).unwrap();
    let next = format!(
        "- {{version: {version}, createdAt: \"2027-01-01T00:00:00Z\", channels: [candidate, stable]}}\n"
    );
    let files = bundle::files(&Sources {
        rendered: &rendered.replace(&format!(":{now}"), &format!(":{version}")),
        releases: &format!("{releases}{next}"),
        icon: &fs::read(manifests.join("icon.svg")).unwrap(),
    })
    .unwrap();
    assert_eq!(bundle::rules::check(&files), []);
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Puts the image of `program` on the nodes under the tag `version` too.
fn tag(program: &str, version: &str) {
    let archive = checkout().join(format!("target/images/{program}.tar"));
    let folder = tempfile::tempdir().unwrap();
    output(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder.path())).unwrap();
    let index = folder.path().join("index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace(&format!(":{}", env!("CARGO_PKG_VERSION")), &format!(":{version}")))
        .unwrap();
    let tagged = folder.path().join("tagged.tar");
    let parts = ["blobs", "index.json", "oci-layout"];
    output(Command::new("tar").arg("-cf").arg(&tagged).arg("-C").arg(folder.path()).args(parts)).unwrap();
    cluster::load(&tagged).unwrap();
}

#[test]
fn olm_upgrades_and_the_service_keeps_its_address() {
    const NEXT: &str = "0.9.0";
    remove_everything();
    let mark = audit::mark().unwrap();
    create(&namespace()).unwrap();
    create(&olm::objects(&checkout().join("bundle"), NAMESPACE).unwrap()).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    metallb();
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=90s")).unwrap();
    apply(SERVICE).unwrap();
    let before = address("default", "installers").unwrap();
    let assigned = audit::mark().unwrap();

    for program in ["operator", "controller", "speaker"] {
        tag(program, NEXT);
    }
    let bundle = next_bundle(NEXT);
    create(&olm::objects(&bundle.path().join("bundle"), NAMESPACE).unwrap()).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status {OPERATOR} --timeout=60s")).unwrap();
    let old = olm::owned_by(&format!("metallb-operator-rs.v{}", env!("CARGO_PKG_VERSION")));
    kube(&format!("delete {CLUSTER_WIDE} -l {old}")).unwrap();
    for (workload, program) in [("deployment/controller", "controller"), ("daemonset/speaker", "speaker")] {
        let image = format!("localhost/metallb/{program}:{NEXT}");
        let path = "{.spec.template.spec.containers[0].image}";
        kube(&format!("-n {NAMESPACE} wait {workload} --for=jsonpath={path}={image} --timeout=60s")).unwrap();
        kube(&format!("-n {NAMESPACE} rollout status {workload} --timeout=60s")).unwrap();
    }
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s")).unwrap();
    let service = get(&["-n", "default", "service/installers"]).unwrap();
    assert_eq!(service["status"]["loadBalancer"]["ingress"][0]["ip"], before.to_string());
    let changes = audit::writes_since(assigned, "controller").unwrap();
    assert_eq!(changes.get("patch services/status"), None, "{changes:?}");
    none_is_refused(mark);
    kube("-n default delete service installers").unwrap();
}

fn helm(arguments: &[&str]) -> Result<String> {
    let mut command: Command = on("cp", tools::helm()?);
    command.arg("--kubeconfig").arg(kubeconfig()).args(["--namespace", NAMESPACE]);
    output(command.args(arguments))
}

#[test]
fn helm_installs_upgrades_and_removes_the_chart() {
    remove_everything();
    let mark = audit::mark().unwrap();
    let chart = checkout().join("config/chart");
    let chart = chart.to_str().unwrap();
    // The names are those of the scripts that users of MetalLB's own chart have.
    let images = [
        "--set",
        "controller.image.repository=localhost/metallb/controller",
        "--set",
        "speaker.image.repository=localhost/metallb/speaker",
    ];
    let upgrade = ["upgrade", "--install", "--create-namespace", "metallb", chart];
    helm(&[upgrade.as_slice(), &images].concat()).unwrap();
    kube(&format!("label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=privileged")).unwrap();
    serves(|| {});
    let definitions = checkout().join("config/chart/crds");
    output(kubectl().args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(definitions)).unwrap();
    helm(&[upgrade.as_slice(), &images, &["--set", "speaker.logLevel=debug"]].concat()).unwrap();
    let spec = &get(&["-n", NAMESPACE, "metallb/metallb"]).unwrap()["spec"];
    assert_eq!(*spec, json!({ "logLevel": "debug" }));
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    none_is_refused(mark);
    helm(&["uninstall", "metallb"]).unwrap();
    for object in ["deployment/controller", "daemonset/speaker"] {
        kube(&format!("-n {NAMESPACE} wait {object} --for=delete --timeout=60s")).unwrap();
    }
}
