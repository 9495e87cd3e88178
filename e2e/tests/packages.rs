//! What is published is accepted by a real API server: install.yaml, the bundle's examples and the Helm chart. Nothing
//! is stored but a namespace of each test's own. Needs the definitions in the cluster (`make deploy`).

use std::{fs, io::Write as _, process::Command};

use metallb_api::bundle::{
    kinds::OPERATOR_CONDITION,
    objects::{kind, name, read},
};
use metallb_e2e::{
    cluster::{checkout, image, kubectl},
    deploy::NAMESPACE,
    elf,
    exec::output,
    observe::{self, kube},
    olm, pages, tools,
};
use serde_json::{Value, json};

/// A namespace that goes with the test.
struct Scratch(&'static str);

impl Scratch {
    fn new(name: &'static str) -> Self {
        output(kubectl().args(["create", "namespace", name])).unwrap();
        Self(name)
    }

    /// Asks the API server what it would do with `yaml`, put into this namespace; the lines of its answer.
    fn dry_run(&self, yaml: &str) -> Vec<String> {
        dry_run(&yaml.replace(NAMESPACE, self.0))
    }
}

/// Asks the API server what it would do with `yaml`; the lines of its answer. Admission takes part.
fn dry_run(yaml: &str) -> Vec<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let answer = output(kubectl().args(["apply", "--dry-run=server", "-f"]).arg(file.path())).unwrap();
    answer.lines().map(str::to_owned).collect()
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let deleted = output(kubectl().args(["delete", "namespace", self.0]));
        if !std::thread::panicking() {
            deleted.unwrap();
        }
    }
}

/// The definition of OperatorCondition, which goes with the test.
struct OlmsOwnKind;

impl OlmsOwnKind {
    fn define() -> Self {
        observe::apply(OPERATOR_CONDITION).unwrap();
        let own = Self;
        kube("wait --for=condition=Established crd/operatorconditions.operators.coreos.com").unwrap();
        own
    }
}

impl Drop for OlmsOwnKind {
    fn drop(&mut self) {
        let deleted = kube("delete crd operatorconditions.operators.coreos.com");
        if !std::thread::panicking() {
            deleted.unwrap();
        }
    }
}

fn text(path: &str) -> String {
    fs::read_to_string(checkout().join(path)).unwrap()
}

fn all_are_accepted(answer: &[String], objects: usize) {
    let refused: Vec<_> = answer.iter().filter(|line| !line.ends_with("(server dry run)")).collect();
    assert_eq!((answer.len(), refused), (objects, Vec::new()), "{answer:#?}");
}

#[test]
fn install_yaml_is_accepted() {
    let scratch = Scratch::new("packages-install");
    let yaml = text("dist/install.yaml");
    all_are_accepted(&scratch.dry_run(&yaml), read(&yaml).unwrap().len());
}

/// `kubectl kustomize` of a folder of config/, with `images` as the file that names them.
fn kustomize(folder: &str, images: &str) -> String {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(checkout().join("config")).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    let config = copy.path().join("config");
    fs::write(config.join("manager/images.env"), images).unwrap();
    output(kubectl().arg("kustomize").arg(config.join(folder))).unwrap()
}

#[test]
fn a_registry_of_ones_own_is_named_in_one_place() {
    let file = pages::block("install.md", "IMAGE_PREFIX=").unwrap().text;
    let (images, _) = outline(&kustomize("default", &file));
    let want = ["operator", "controller", "speaker"]
        .map(|component| format!("registry.example:5000/lan/metallb/{component}:1.2.3"));
    assert_eq!(images, want);
}

#[test]
fn the_flat_settings_of_the_page_are_taken() {
    let settings = pages::block("install.md", "speaker.ignoreExcludeLB").unwrap().text;
    let (images, spec) = outline(&template(&settings, NAMESPACE).unwrap());
    let version = env!("CARGO_PKG_VERSION");
    let of = |component: &str| format!("registry.example:5000/metallb/{component}:{version}");
    assert_eq!(images, ["operator", "controller", "speaker"].map(of));
    let want = json!({
        "ignoreExcludeLB": true,
        "loadBalancerClass": "example.com/metallb",
        "nodeSelector": { "kubernetes.io/os": "linux" },
    });
    assert_eq!(spec, Some(want));
}

#[test]
fn the_overlays_are_accepted() {
    let scratch = Scratch::new("packages-overlays");
    // These kinds are OpenShift's and cert-manager's own.
    let foreign = ["SecurityContextConstraints", "Certificate", "Issuer"];
    for overlay in ["certmanager", "monitoring", "openshift"] {
        let objects: Vec<Value> =
            read(&kustomize(overlay, "IMAGE_PREFIX=registry.example/metallb\nVERSION=0.1.0\n"))
                .unwrap()
                .into_iter()
                .filter(|object| !foreign.contains(&kind(object)))
                .collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
        all_are_accepted(&scratch.dry_run(&list), objects.len());
    }
}

/// Whether `account` of `namespace` may do `what`, as the words of `kubectl auth can-i`.
fn can(account: &str, namespace: &str, what: &str) -> bool {
    let user = format!("--as=system:serviceaccount:{namespace}:{account}");
    let mut question = kubectl();
    question.args(["auth", "can-i", &user]).args(what.split_whitespace());
    // No is an exit status of 1.
    String::from_utf8(question.output().unwrap().stdout).unwrap().trim() == "yes"
}

#[test]
fn rights_by_olm_end_at_the_namespace() {
    let scratch = Scratch::new("packages-olm");
    let groups: Vec<Value> = read(&text("olm/install-automatic.yaml"))
        .unwrap()
        .into_iter()
        .filter(|object| kind(object) == "OperatorGroup")
        .collect();
    let objects = olm::objects(&checkout().join("bundle"), NAMESPACE, &groups).unwrap();
    let _definition = OlmsOwnKind::define();
    let list =
        |objects: &[Value]| json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    all_are_accepted(&scratch.dry_run(&list(&objects)), objects.len());

    // The operator itself is left out: it would take the MetalLB resource of the cluster's own one for a stray; and so
    // are the webhooks, which would stop the cluster's own pools.
    let kinds = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
    let rights: Vec<Value> = objects.into_iter().filter(|object| kinds.contains(&kind(object))).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), list(&rights).replace(NAMESPACE, scratch.0)).unwrap();
    output(kubectl().args(["apply", "-f"]).arg(file.path())).unwrap();
    let own = format!("-n {}", scratch.0);
    let questions = [
        ("manager-account", format!("patch deployments.apps {own}"), true),
        ("manager-account", "patch deployments.apps -n default".to_owned(), false),
        ("manager-account", format!("list secrets/metallb-memberlist {own}"), true),
        ("manager-account", format!("list secrets {own}"), false),
        ("manager-account", "list metallbs.metallb.io -A".to_owned(), true),
        ("controller", "list services -A".to_owned(), true),
        ("controller", "patch services -A --subresource=status".to_owned(), true),
        ("controller", format!("list ipaddresspools.metallb.io {own}"), true),
        ("controller", "list ipaddresspools.metallb.io -n default".to_owned(), false),
        ("speaker", "list endpointslices.discovery.k8s.io -A".to_owned(), true),
        ("speaker", format!("create servicel2statuses.metallb.io {own}"), true),
        ("speaker", "list pods -n default".to_owned(), false),
        ("speaker", format!("get secrets {own}"), false),
    ];
    let answers: Vec<_> = questions
        .iter()
        .map(|(account, what, _)| (*account, what.clone(), can(account, scratch.0, what)))
        .collect();
    output(kubectl().args(["delete", "clusterroles,clusterrolebindings", "-l", olm::MANAGED])).unwrap();
    assert_eq!(answers, questions);
}

/// `helm template` with `values` as YAML.
fn template(values: &str, namespace: &str) -> anyhow::Result<String> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(values.as_bytes())?;
    let mut helm = Command::new(tools::helm()?);
    helm.args(["template", "metallb", "--namespace", namespace, "--values"]).arg(file.path());
    output(helm.arg(checkout().join("config/chart")))
}

/// Images of the operator's Deployment, and the spec of the MetalLB resource, if any.
fn outline(rendered: &str) -> (Vec<String>, Option<Value>) {
    let objects = read(rendered).unwrap();
    let deployment = objects.iter().find(|object| kind(object) == "Deployment").unwrap();
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap().iter();
    let operands = variables.filter(|variable| variable["name"].as_str().unwrap().ends_with("_IMAGE"));
    let images = [&container["image"]].into_iter().chain(operands.map(|variable| &variable["value"]));
    let metallb = objects.iter().find(|object| kind(object) == "MetalLB");
    (
        images.map(|image| image.as_str().unwrap().to_owned()).collect(),
        metallb.map(|object| {
            assert_eq!(name(object), "metallb");
            object["spec"].clone()
        }),
    )
}

#[test]
fn the_chart_takes_the_values_that_users_of_metallb_have() {
    let version = env!("CARGO_PKG_VERSION");
    let own = |component: &str| image(component, version).unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let cases = [
        ("{}".to_owned(), [own("operator"), own("controller"), own("speaker")], Some(json!({}))),
        // What is set in a private network: images, and an image of FRR that means nothing here.
        (
            "controller: {image: {repository: registry.example:5000/metallb/controller, tag: v1}}\n\
             speaker: {image: {repository: registry.example:5000/metallb/speaker}, frr: {image: {repository: frr}}}\n\
             imagePullSecrets: [{name: registry}]"
                .to_owned(),
            [
                format!("registry.example:5000/metallb/operator:{version}"),
                "registry.example:5000/metallb/controller:v1".to_owned(),
                format!("registry.example:5000/metallb/speaker:{version}"),
            ],
            Some(json!({ "imagePullSecrets": [{ "name": "registry" }] })),
        ),
        (
            "speaker: {ignoreExcludeLB: true}\nnetworkpolicies: {enabled: false, apiPort: 8443}\n\
             prometheus: {podMonitor: {enabled: true}, prometheusRule: {enabled: false}, metricsPort: 9120,\n\
             \x20 serviceAccount: prometheus, namespace: monitoring}"
                .to_owned(),
            [own("operator"), own("controller"), own("speaker")],
            Some(json!({
                "ignoreExcludeLB": true,
                "networkPolicies": { "enabled": false, "apiPort": 8443 },
                "monitoring": { "monitors": "PodMonitor", "alerts": false },
            })),
        ),
        (
            format!(
                "loadBalancerClass: example.com/metallb\n\
                 controller: {{logLevel: warn, nodeSelector: {{infra: \"true\"}}, podAnnotations: {{a: b}}}}\n\
                 speaker: {{logLevel: debug, tolerations: [{{operator: Exists}}], priorityClassName: high,\n\
                 \x20 resources: {{limits: {{memory: 1Gi}}}}, image: {{digest: \"{digest}\"}}}}\n\
                 metallb: {{spec: {{logLevel: error}}}}"
            ),
            [own("operator"), own("controller"), format!("{}@{digest}", own("speaker").trim_end_matches(&format!(":{version}")))],
            Some(json!({
                "loadBalancerClass": "example.com/metallb",
                "logLevel": "error",
                "controllerNodeSelector": { "infra": "true" },
                "controllerConfig": { "annotations": { "a": "b" } },
                "speakerTolerations": [{ "operator": "Exists" }],
                "speakerConfig": { "priorityClassName": "high", "resources": { "limits": { "memory": "1Gi" } } },
            })),
        ),
        // Flat settings, as extensions of managed clusters hand them over: all are strings, and some are not ours.
        (
            json!({
                "controller.image.repository": "registry.example:5000/metallb/controller",
                "controller.image.tag": "15",
                "speaker.podAnnotations.example\\.com/sidecar": "true",
                "speaker.nodeSelector.kubernetes\\.io/os": "linux",
                "speaker.ignoreExcludeLB": "true",
                "networkpolicies.apiPort": "8443",
                "loadBalancerClass": "example.com/metallb",
                "Azure.Cluster.Region": "eastus",
            })
            .to_string(),
            [
                format!("registry.example:5000/metallb/operator:{version}"),
                "registry.example:5000/metallb/controller:15".to_owned(),
                own("speaker"),
            ],
            Some(json!({
                "ignoreExcludeLB": true,
                "networkPolicies": { "apiPort": 8443 },
                "loadBalancerClass": "example.com/metallb",
                "nodeSelector": { "kubernetes.io/os": "linux" },
                "speakerConfig": { "annotations": { "example.com/sidecar": "true" } },
            })),
        ),
        (
            "metallb: {create: false}".to_owned(),
            [own("operator"), own("controller"), own("speaker")],
            None,
        ),
    ];
    for (values, images, spec) in cases {
        let rendered = template(&values, NAMESPACE).unwrap();
        assert_eq!(outline(&rendered), (images.to_vec(), spec), "{values}");
        all_are_accepted(&dry_run(&rendered), read(&rendered).unwrap().len());
    }
}

#[test]
fn the_prometheus_that_the_values_name_may_find_the_pods() {
    let bound = |values: &str| -> Vec<Value> {
        let objects = read(&template(values, NAMESPACE).unwrap()).unwrap();
        let bindings = objects.into_iter().filter(|object| kind(object) == "RoleBinding");
        let of_prometheus = bindings.filter(|binding| binding["roleRef"]["name"] == "prometheus-k8s");
        of_prometheus.flat_map(|binding| binding["subjects"].as_array().unwrap().clone()).collect()
    };
    let others = bound("{}");
    assert!(
        others.iter().all(|subject| subject["namespace"] != NAMESPACE) && !others.is_empty(),
        "{others:?}"
    );
    let named = bound("prometheus: {serviceAccount: kps-prometheus, namespace: watching}");
    let account = json!({ "kind": "ServiceAccount", "name": "kps-prometheus", "namespace": "watching" });
    let added: Vec<&Value> = named.iter().filter(|subject| !others.contains(subject)).collect();
    assert_eq!(added, [&account]);
    // As flat settings have it, all values are strings.
    let settings = r#"{"prometheus.serviceAccount": "a", "prometheus.namespace": "b", "prometheus.rbacPrometheus": "false"}"#;
    assert_eq!(bound(settings), others);
}

#[test]
fn each_program_is_one_file_that_needs_no_other() {
    for program in ["operator", "controller", "speaker", "kubectl-metallb"] {
        let file = fs::read(checkout().join("target/images/bin").join(program)).unwrap();
        let needs = elf::needs(&file).unwrap();
        assert_eq!((needs.loader, needs.libraries), (false, 0), "{program}: {needs:?}");
    }
}

#[test]
fn values_without_meaning_are_listed() {
    let mut helm = Command::new(tools::helm().unwrap());
    helm.env("KUBECONFIG", "/dev/null").args([
        "install",
        "metallb",
        "--dry-run=client",
        "--namespace",
        "packages",
    ]);
    helm.args([
        "--set",
        "speaker.frr.enabled=true,rbac.create=true,prometheus.metricsPort=7472,speaker.logLevel=warn",
    ]);
    let said = output(helm.arg(checkout().join("config/chart"))).unwrap();
    let notes = said.split("\nNOTES:\n").nth(1).unwrap();
    let listed: Vec<&str> = notes.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    assert_eq!(listed, ["rbac", "prometheus.metricsPort", "speaker.frr"], "{notes}");
}

#[test]
fn the_chart_refuses_values_that_cannot_be_meant() {
    for (values, want) in [
        ("metallb: {create: maybe}", "/metallb/create': got string, want boolean"),
        ("speaker: {logLevel: loud}", "/speaker/logLevel': value must be one of"),
        ("controller: {image: {digest: abc}}", "/controller/image/digest': 'abc' does not match pattern"),
        (
            "controller: {image: {repository: registry.example/ours}}",
            "operator.image.repository: set it, since controller.image.repository \"registry.example/ours\"",
        ),
        ("speaker: {image: {repository: \"\"}}", "speaker.image.repository: is empty"),
        ("imagePullSecrets: [registry]", "/imagePullSecrets/0': got string, want object"),
        (
            "prometheus: {serviceAccount: prometheus}",
            "prometheus.serviceAccount and prometheus.namespace: set both",
        ),
    ] {
        let error = format!("{:#}", template(values, "packages").unwrap_err());
        assert!(error.contains(want), "{values}: {error}");
    }
}
