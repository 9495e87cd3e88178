//! What is rendered, whole, for each variant. `UPDATE_GOLDEN=1` writes what is rendered now over what is expected.

use std::{collections::BTreeMap, fs, path::PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use metallb_api::MetalLB;
use metallb_operator::{
    install,
    render::{self, Context},
    settings::Settings,
};
use serde::Serialize;

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

fn check(variant: &str, spec: &str) {
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
        yaml(&objects.memberlist),
        yaml(&objects.exclude_l2),
        yaml(&objects.controller),
        yaml(&objects.speaker),
    ];
    rendered.extend(objects.network_policy.iter().map(yaml));
    rendered.extend(objects.monitor_services.iter().map(yaml));
    rendered.extend(objects.monitors.iter().map(|(_, object)| yaml(object)));
    let rendered = rendered.join("---\n");

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

/// By way of JSON, whose maps are sorted.
fn yaml(object: &impl Serialize) -> String {
    serde_saphyr::to_string(&serde_json::to_value(object).unwrap()).unwrap()
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
