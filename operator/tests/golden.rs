//! What is rendered, whole, for each variant. `UPDATE_GOLDEN=1` writes what is rendered now over what is expected.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use metallb_api::MetalLB;
use metallb_operator::{
    install,
    render::{self, Context},
    settings::Settings,
};
use serde::Serialize;
use serde_json::Value;

fn settings() -> Settings {
    Settings::read(|variable| {
        let value = match variable {
            "OPERATOR_NAMESPACE" => "metallb-system",
            "POD_NAME" => "metallb-operator-controller-manager-0",
            "CONTROLLER_IMAGE" => "registry.example:5000/metallb/controller:v1",
            "SPEAKER_IMAGE" => "registry.example:5000/metallb/speaker:v1",
            _ => return None,
        };
        Some(value.to_owned())
    })
    .map(|settings| Settings { version: "1.2.3".to_owned(), ..settings })
    .unwrap()
}

/// What is rendered of `spec`, as JSON, whose maps are sorted.
fn rendered(spec: &str) -> Vec<Value> {
    let head = "apiVersion: metallb.io/v1beta1\nkind: MetalLB\nmetadata: {name: metallb}\nspec:\n";
    let resource: MetalLB = serde_saphyr::from_str(&format!("{head}{spec}")).unwrap();
    let settings = settings();
    let install = install::parse(&resource, settings.defaults).unwrap();
    let owner = OwnerReference {
        api_version: "metallb.io/v1beta1".to_owned(),
        kind: "MetalLB".to_owned(),
        name: "metallb".to_owned(),
        uid: "11111111-2222-3333-4444-555555555555".to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    let memberlist = BTreeMap::from([("secretkey".to_owned(), b"not random".to_vec())]);
    let context = Context { settings: &settings, owner: &owner, memberlist: &memberlist };
    let objects = render::objects(&install, context);
    let mut rendered = vec![
        json(&objects.memberlist),
        json(&objects.exclude_l2),
        json(&objects.controller),
        json(&objects.speaker),
    ];
    rendered.extend(objects.network_policy.iter().map(json));
    rendered.extend(objects.monitor_services.iter().map(json));
    rendered.extend(objects.monitors.into_iter().map(|(_, object)| object));
    rendered
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn check(variant: &str, spec: &str) {
    let documents = rendered(spec).into_iter().map(|object| serde_saphyr::to_string(&object).unwrap());
    let rendered = documents.collect::<Vec<_>>().join("---\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{variant}.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &rendered).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (number, (got, want)) in rendered.lines().zip(golden.lines()).enumerate() {
        assert_eq!(got, want, "{} line {}", path.display(), number + 1);
    }
    assert_eq!(rendered.lines().count(), golden.lines().count(), "{}", path.display());
}

#[test]
fn default() {
    check("default", "  {}\n");
}

#[test]
fn every_field() {
    check(
        "every-field",
        r#"
  image: ignored
  logLevel: debug
  loadBalancerClass: example.com/lb
  bgpBackend: frr
  nodeSelector: {"node-role.kubernetes.io/worker": ""}
  speakerTolerations:
  - {key: gpu, operator: Exists, effect: NoExecute, tolerationSeconds: 0}
  controllerNodeSelector: {disk: ssd, "kubernetes.io/os": linux}
  controllerTolerations:
  - {key: infra, value: "yes", effect: NoSchedule}
  controllerConfig:
    replicas: 2
    priorityClassName: "123"
    runtimeClassName: "true"
    annotations: {example.com/note: "a: b\n# c"}
    affinity:
      podAntiAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
        - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: other}}}
    resources: {requests: {cpu: 0.1, memory: 20Mi}, limits: {memory: 65536Ki}}
  speakerConfig:
    priorityClassName: system-node-critical
    runtimeClassName: crun
    annotations: {example.com/note: speaker}
    affinity:
      nodeAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms:
          - matchExpressions: [{key: edge, operator: Exists}]
    resources: {limits: {cpu: 1500m}}
    maxUnavailable: 10%
    bgpListen: true
  imagePullSecrets: [{name: registry}]
  ignoreExcludeLB: true
  excludedInterfaces: ["^lo$", 'a"b\\d']
  poolEditPolicy: KeepInUse
  networkPolicies: {apiPort: 443, dns: false}
  layer2: {detection: Tolerant, arpRateLimit: 20}
  monitoring: {monitors: ServiceMonitor}
"#,
    );
}

#[test]
fn pod_monitors_without_policies() {
    check(
        "pod-monitors",
        "  monitoring: {monitors: PodMonitor, alerts: false}\n  networkPolicies: {enabled: false}\n  excludedInterfaces: []\n",
    );
}

/// Specs that bring every kind of object there is.
const VARIANTS: [&str; 3] = [
    "  {}\n",
    "  monitoring: {monitors: ServiceMonitor}\n",
    "  monitoring: {monitors: PodMonitor, alerts: false}\n",
];

#[test]
fn every_object_goes_with_the_resource_in_whose_namespace_it_is() {
    for object in VARIANTS.iter().flat_map(|spec| rendered(spec)) {
        let metadata = &object["metadata"];
        assert_eq!(metadata["namespace"], "metallb-system", "nothing outlives its namespace: {object}");
        let owner = &metadata["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["name"]), (&"MetalLB".into(), &"metallb".into()), "{object}");
        let rights = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
        assert!(!rights.iter().any(|kind| object["kind"] == *kind), "the operator grants nothing: {object}");
    }
}

#[test]
fn what_monitors_select_is_there() {
    for spec in &VARIANTS[1..] {
        let objects = rendered(spec);
        let labels =
            |object: &Value, path: &str| object.pointer(path).and_then(Value::as_object).cloned().unwrap();
        let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        let pods = || {
            of_kind("Deployment").chain(of_kind("DaemonSet")).map(|workload| &workload["spec"]["template"])
        };
        let mut selected = 0;
        let mut selects = |selector: serde_json::Map<String, Value>, targets: Vec<&Value>| {
            let is_there = targets.iter().any(|target| {
                let labels = labels(target, "/metadata/labels");
                selector.iter().all(|label| labels.get(label.0) == Some(label.1))
            });
            assert!(is_there && !selector.is_empty(), "{selector:?} selects nothing of {targets:?}");
            selected += 1;
        };
        // The operator itself comes with the installation, and so do its Service and its pods.
        let is_own = |object: &&Value| {
            object.pointer("/spec/selector/control-plane").is_some()
                || object.pointer("/spec/selector/matchLabels/control-plane").is_some()
        };
        for service in of_kind("Service").filter(|service| !is_own(service)) {
            selects(labels(service, "/spec/selector"), pods().collect());
        }
        for monitor in of_kind("ServiceMonitor").filter(|monitor| !is_own(monitor)) {
            selects(labels(monitor, "/spec/selector/matchLabels"), of_kind("Service").collect());
        }
        for monitor in of_kind("PodMonitor").filter(|monitor| !is_own(monitor)) {
            selects(labels(monitor, "/spec/selector/matchLabels"), pods().collect());
        }
        assert!(selected >= 2, "{spec}");
    }
}

/// The objects of a file, by its path from this crate.
fn objects(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn texts(list: &Value) -> BTreeSet<&str> {
    elements(list).filter_map(Value::as_str).collect()
}

#[test]
fn openshift_lets_the_speaker_run_as_it_is_rendered_and_no_more() {
    let golden = objects("tests/golden/every-field.yaml");
    let config = objects("../config/openshift/scc.yaml");
    let pod = &named(&golden, "DaemonSet", "speaker")["spec"]["template"]["spec"];
    let constraints = named(&config, "SecurityContextConstraints", "metallb-speaker");
    for (asked, allowed) in [
        ("hostNetwork", "allowHostNetwork"),
        // On the host's network each port of a container is one of the host's.
        ("hostNetwork", "allowHostPorts"),
        ("hostPID", "allowHostPID"),
        ("hostIPC", "allowHostIPC"),
    ] {
        assert_eq!(pod[asked] == true, constraints[allowed] == true, "{asked}, {allowed}");
    }
    let volumes: BTreeSet<&str> = elements(&pod["volumes"])
        .filter_map(Value::as_object)
        .flat_map(|volume| volume.keys())
        .map(String::as_str)
        .filter(|field| *field != "name")
        .collect();
    assert!(!volumes.is_empty() && volumes.is_subset(&texts(&constraints["volumes"])), "{volumes:?}");
    let containers: Vec<&Value> = elements(&pod["containers"]).collect();
    let [container] = containers.as_slice() else { panic!("{containers:?}") };
    let context = &container["securityContext"];
    let capabilities = &context["capabilities"];
    assert_eq!(texts(&constraints["allowedCapabilities"]), texts(&capabilities["add"]));
    assert_eq!(texts(&constraints["requiredDropCapabilities"]), texts(&capabilities["drop"]));
    for field in ["allowPrivilegeEscalation", "readOnlyRootFilesystem"] {
        assert_eq!(constraints[field], context[field], "{field}");
    }
    assert_eq!(
        (&context["privileged"], &constraints["allowPrivilegedContainer"]),
        (&Value::Null, &false.into())
    );
    assert_eq!(
        (&context["runAsUser"], &constraints["runAsUser"]["type"]),
        (&Value::from(0), &"RunAsAny".into())
    );
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(texts(&constraints["seccompProfiles"]), BTreeSet::from(["runtime/default"]));
}

#[test]
fn openshift_grants_its_constraints_to_the_accounts_of_the_pods() {
    let golden = objects("tests/golden/every-field.yaml");
    let manager = objects("../config/manager/manager.yaml");
    let config = objects("../config/rbac/openshift.yaml");
    let account = |objects: &[Value], kind: &str, name: &str| {
        named(objects, kind, name)["spec"]["template"]["spec"]["serviceAccountName"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let speaker = account(&golden, "DaemonSet", "speaker");
    let controller = account(&golden, "Deployment", "controller");
    let operator = account(&manager, "Deployment", "metallb-operator-controller-manager");
    for (name, constraints, accounts) in [
        ("speaker-scc", "metallb-speaker", BTreeSet::from([speaker])),
        ("nonroot-scc", "nonroot-v2", BTreeSet::from([controller, operator])),
    ] {
        let binding = named(&config, "RoleBinding", name);
        assert_eq!(binding["roleRef"]["name"], name);
        let subjects = elements(&binding["subjects"]).map(|subject| {
            assert_eq!(
                (&subject["kind"], &subject["namespace"]),
                (&"ServiceAccount".into(), &"metallb-system".into())
            );
            subject["name"].as_str().unwrap().to_owned()
        });
        assert_eq!(subjects.collect::<BTreeSet<_>>(), accounts, "{name}");
        let rule = &named(&config, "Role", name)["rules"][0];
        assert_eq!(texts(&rule["resources"]), BTreeSet::from(["securitycontextconstraints"]));
        assert_eq!(texts(&rule["resourceNames"]), BTreeSet::from([constraints]));
        assert_eq!(texts(&rule["verbs"]), BTreeSet::from(["use"]));
    }
}
