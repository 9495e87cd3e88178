use std::time::Duration;

use metallb_api::{Monitors, OnFailure};

use super::*;

fn parse_yaml(yaml: &str) -> Result<Install, Vec<String>> {
    let resource: MetalLB = serde_saphyr::from_str(yaml).unwrap();
    parse(&resource, Defaults::default())
        .map_err(|problems| problems.iter().map(Problem::to_string).collect())
}

const EMPTY: &str = "{apiVersion: metallb.io/v1beta1, kind: MetalLB, metadata: {name: metallb}, spec: {}}";

fn with_spec(spec: &str) -> Result<Install, Vec<String>> {
    parse_yaml(&EMPTY.replace("spec: {}", &format!("spec: {{{spec}}}")))
}

#[test]
fn an_empty_spec_is_an_installation() {
    let want = Install {
        log_level: LogLevel::Info,
        load_balancer_class: None,
        bgp_backend: BgpBackend::Native,
        controller: Workload::default(),
        replicas: 1,
        pool_edit_policy: None,
        speaker: Workload::default(),
        max_unavailable: IntOrString::Int(1),
        bgp_listen: false,
        ignore_exclude_lb: false,
        excluded_interfaces: None,
        layer2: Vec::new(),
        image_pull_secrets: Vec::new(),
        network: Some(Network { api_port: 6443, dns: true }),
        monitoring: Watched::default(),
        upgrade: Upgrade::default(),
    };
    assert_eq!(parse_yaml(EMPTY), Ok(want.clone()));
    let without_words =
        "bgpBackend: '', loadBalancerClass: '', image: gone, speakerConfig: {priorityClassName: ''}";
    assert_eq!(with_spec(without_words), Ok(want));
}

#[test]
fn every_problem_of_a_spec_is_named() {
    let problems = with_spec(
        "nodeSelector: {'a b': c, d: 'e f'}, \
         speakerTolerations: [{key: a, operator: Exist}, {effect: NoExecutes, operator: Exists}], \
         controllerTolerations: [{key: a, operator: Exists, value: b, tolerationSeconds: 0}, {value: c}], \
         bgpBackend: bird, loadBalancerClass: 'a//b', \
         speakerConfig: {runtimeClassName: \"a\\nb\", annotations: {'': x}}",
    );
    assert_eq!(
        problems,
        Err([
            "spec.loadBalancerClass: \"a//b\" must consist of letters, digits, '-', '_' and '.', and begin and \
             end with a letter or digit",
            "spec.bgpBackend: \"bird\" is not one of native, frr, frr-k8s, frr-k8s-external",
            "spec.controllerTolerations[0].value: must be empty with operator Exists",
            "spec.controllerTolerations[0].effect: must be NoExecute where tolerationSeconds is set",
            "spec.controllerTolerations[1].operator: must be Exists where key is empty",
            "spec.nodeSelector: \"a b\" must consist of letters, digits, '-', '_' and '.', and begin and end \
             with a letter or digit",
            "spec.nodeSelector[d]: \"e f\" must consist of letters, digits, '-', '_' and '.', and begin and end \
             with a letter or digit",
            "spec.speakerTolerations[0].operator: \"Exist\" is not one of Equal, Exists",
            "spec.speakerTolerations[1].effect: \"NoExecutes\" is not one of NoSchedule, PreferNoSchedule, \
             NoExecute",
            "spec.speakerConfig.runtimeClassName: \"a\\nb\" must consist of lower case letters, digits, '-' and \
             '.', and begin and end each part with a letter or digit",
            "spec.speakerConfig.annotations: \"\" must consist of letters, digits, '-', '_' and '.', and begin \
             and end with a letter or digit",
        ]
        .map(str::to_owned)
        .to_vec())
    );
}

#[test]
fn what_is_for_frr_alone_stops_no_installation() {
    let frr = "frrk8sConfig: {alwaysBlock: [' 192.0.2.0/24 ', 192.0.2.1], namespace: \"a\\nhostPID: true\"}";
    assert!(with_spec(frr).is_ok());
    let resource: MetalLB =
        serde_saphyr::from_str(&EMPTY.replace("spec: {}", &format!("spec: {{{frr}}}"))).unwrap();
    assert_eq!(
        unread(&resource).iter().map(Problem::to_string).collect::<Vec<_>>(),
        [
            "spec.frrk8sConfig.alwaysBlock[1]: \"192.0.2.1\" is not a CIDR prefix such as 192.0.2.0/24",
            "spec.frrk8sConfig.namespace: \"a\\nhostPID: true\" must consist of lower case letters, digits, '-' \
             and '.', and begin and end each part with a letter or digit",
        ]
    );
}

#[test]
fn bgp_that_others_use_is_given_up_only_by_annotation() {
    let external = "bgpBackend: frr-k8s-external";
    let problems = with_spec(external).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("spec.bgpBackend: with frr-k8s-external"), "{problems:?}");
    let annotated = EMPTY
        .replace("name: metallb", "name: metallb, annotations: {metallb.io/accept-bgp-loss: 'true'}")
        .replace("spec: {}", &format!("spec: {{{external}}}"));
    assert_eq!(parse_yaml(&annotated).map(|install| install.bgp_backend), Ok(BgpBackend::FrrK8sExternal));
}

#[test]
fn affinity_is_judged_whole() {
    let problems = with_spec(
        "speakerConfig: {affinity: {\
           nodeAffinity: {\
             requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}, \
             preferredDuringSchedulingIgnoredDuringExecution: [\
               {weight: 0, preference: {matchExpressions: [{key: a, operator: Near}]}}]}, \
           podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [\
               {topologyKey: '', labelSelector: {matchExpressions: [{key: a, operator: In}]}}]}, \
           podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [\
               {weight: 101, podAffinityTerm: {topologyKey: kubernetes.io/hostname}}]}}}",
    );
    let at = "spec.speakerConfig.affinity";
    assert_eq!(
        problems,
        Err([
            ".nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: must not be empty",
            ".nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: 0 is not between 1 and 100",
            ".nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]\
             .operator: \"Near\" is not one of In, NotIn, Exists, DoesNotExist, Gt, Lt",
            ".podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: must not be empty",
            ".podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector.matchExpressions[0]\
             .values: must not be empty with operator In",
            ".podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: 101 is not between 1 \
             and 100",
        ]
        .map(|problem| format!("{at}{problem}"))
        .to_vec())
    );
}

#[test]
fn resources_take_their_canonical_form() {
    let install =
        with_spec("speakerConfig: {resources: {requests: {cpu: 0.5, memory: 1024Mi}, limits: {cpu: '1'}}}")
            .unwrap();
    let resources = serde_json::to_value(install.speaker.resources).unwrap();
    assert_eq!(
        resources,
        serde_json::json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}})
    );
    assert_eq!(
        with_spec(
            "controllerConfig: {resources: {claims: [{name: gpu}], requests: {cpu: -1, memory: 2Gi, 'a b': 1}, \
             limits: {memory: 1Gi, cpu: lots}}}"
        ),
        Err([
            "claims: the pod has no resource claims to name",
            "limits[cpu]: \"lots\" is not a quantity such as 250m or 64Mi",
            "requests[a b]: \"a b\" must consist of letters, digits, '-', '_' and '.', and begin and end with a \
             letter or digit",
            "requests[cpu]: -1 is less than nothing",
            "requests[memory]: 2Gi is more than the limit of 1Gi",
        ]
        .map(|problem| format!("spec.controllerConfig.resources.{problem}"))
        .to_vec())
    );
}

#[test]
fn problems_of_the_further_fields_are_named_too() {
    let problems = with_spec(
        "controllerConfig: {replicas: 0}, speakerConfig: {maxUnavailable: 101%}, imagePullSecrets: [{name: ''}], \
         excludedInterfaces: ['^lo$', '('], networkPolicies: {apiPort: 0}, upgradePolicy: {progressDeadline: soon}, \
         layer2: {conflictIgnoreMACs: ['00:00:5e:00:53:01', 00005e005301], gratuitous: {interval: -1s, repeat: 0s}}",
    );
    assert_eq!(
        problems,
        Err([
            "spec.controllerConfig.replicas: 0 is not between 1 and 10",
            "spec.speakerConfig.maxUnavailable: \"101%\" is neither a number of pods above zero nor a percentage from \
             1% to 100%",
            "spec.excludedInterfaces[1]: \"(\" is not a regular expression: unclosed group",
            "spec.layer2.conflictIgnoreMACs[1]: \"00005e005301\" is not a MAC address such as 00:00:5e:00:53:01",
            "spec.layer2.gratuitous.interval: \"-1s\" is negative",
            "spec.layer2.gratuitous.repeat: \"0s\" is no time at all",
            "spec.imagePullSecrets[0].name: \"\" must consist of lower case letters, digits, '-' and '.', and begin \
             and end each part with a letter or digit",
            "spec.networkPolicies.apiPort: 0 is not a port: it must be 1 to 65535",
            "spec.upgradePolicy.progressDeadline: \"soon\" is not a duration: write for example 90s or 1m30s",
        ]
        .map(str::to_owned)
        .to_vec())
    );
}

#[test]
fn the_further_fields_become_flags_and_policies() {
    let install = with_spec(
        "layer2: {detection: Tolerant, conflictProbe: RFC5227, conflictPolicy: Announce, fencing: Strict, failback: \
         Never, drainPolicy: Move, wireCheck: 'Off', arpRateLimit: 20, conflictIgnoreMACs: ['00:00:5e:00:53:01'], \
         gratuitous: {count: 3, interval: 1.5s, repeat: 2m}}, networkPolicies: {enabled: false}, upgradePolicy: \
         {approval: Manual, approvedVersion: 1.2.3, onFailure: Rollback, progressDeadline: 90s}, monitoring: \
         {monitors: PodMonitor}",
    )
    .unwrap();
    assert_eq!(
        install.layer2,
        [
            "--detection=Tolerant",
            "--conflict-probe=RFC5227",
            "--conflict-policy=Announce",
            "--fencing=Strict",
            "--failback=Never",
            "--drain-policy=Move",
            "--wire-check=Off",
            "--arp-rate-limit=20",
            "--conflict-ignore-macs=00:00:5e:00:53:01",
            "--gratuitous-count=3",
            "--gratuitous-interval=1500ms",
            "--gratuitous-arp-interval=120",
        ]
    );
    assert_eq!(install.network, None);
    assert_eq!(install.monitoring, Watched { monitors: Monitors::PodMonitor, alerts: true });
    let upgrade = Upgrade {
        on_failure: OnFailure::Rollback,
        progress_deadline: Duration::from_secs(90),
        waits_for: Some("1.2.3".to_owned()),
    };
    assert_eq!(install.upgrade, upgrade);
}

#[test]
fn the_go_operators_interval_of_gratuitous_arp_is_ours_under_another_name() {
    let flags = |spec: &str| with_spec(spec).map(|install| install.layer2);
    let flag = |seconds: usize| Ok(vec![format!("--gratuitous-arp-interval={seconds}")]);
    for (spec, want) in [
        ("speakerGratuitousARPInterval: 1m30s", flag(90)),
        ("speakerGratuitousARPInterval: 20ms", flag(1)),
        ("speakerGratuitousARPInterval: 0s", Ok(Vec::new())),
        ("speakerGratuitousARPInterval: 30s, layer2: {gratuitous: {repeat: 5s}}", flag(5)),
        ("speakerGratuitousARPInterval: 30s, layer2: {}", flag(30)),
    ] {
        assert_eq!(flags(spec), want, "{spec}");
    }
    let problems = flags("speakerGratuitousARPInterval: soon").unwrap_err();
    assert!(problems[0].starts_with("spec.speakerGratuitousARPInterval: "), "{problems:?}");
}
