use metallb_api::{IPAddressPool, IPAddressPoolSpec};
use metallb_core::config;

use super::*;

fn finding(kind: WorkloadKind, yaml: &str) -> Option<Finding> {
    super::finding(&serde_saphyr::from_str::<Marked>(yaml).unwrap(), kind)
}

/// A Deployment whose template has the given metadata and spec.
fn deployment(replicas: &str, labels: &str, pod: &str) -> Option<(Severity, Vec<String>)> {
    let yaml = format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: x, namespace: default}}, \
         spec: {{replicas: {replicas}, template: {{metadata: {{labels: {{{labels}}}}}, spec: {{{pod}}}}}}}}}"
    );
    finding(WorkloadKind::Deployment, &yaml).map(|finding| (finding.severity, finding.evidence))
}

#[test]
fn evidence_blocks_only_on_the_host_network_and_when_running() {
    use Severity::{Block, Contained, Idle};
    let env = |name: &str| format!("containers: [{{name: c, image: i, env: [{{name: {name}, value: v}}]}}]");
    let image = |image: &str| format!("hostNetwork: true, containers: [{{name: c, image: '{image}'}}]");
    let host = |rest: &str| format!("hostNetwork: true, {rest}");
    let found = |severity, evidence: &[&str]| {
        Some((severity, evidence.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()))
    };
    let quay = "quay.io/openshift/origin-keepalived-ipfailover:4.9";
    let digest = "registry:5000/x/keepalived-ipfailover@sha256:abc";
    let table = [
        ("plain", deployment("1", "app: web", &host("containers: [{image: nginx}]")), None),
        ("no containers", deployment("1", "", ""), None),
        ("nothing but nulls", deployment("null", "", "hostNetwork: null, containers: null"), None),
        (
            "name",
            deployment("1", "", &host(&env(CONFIG_NAME))),
            found(Block, &["env OPENSHIFT_HA_CONFIG_NAME"]),
        ),
        (
            "ips",
            deployment("2", "", &host(&env(VIRTUAL_IPS))),
            found(Block, &["env OPENSHIFT_HA_VIRTUAL_IPS"]),
        ),
        ("other variable", deployment("1", "", &host(&env("OPENSHIFT_HA_MONITOR_PORT"))), None),
        (
            "pod network",
            deployment("1", "", &env(CONFIG_NAME)),
            found(Contained, &["env OPENSHIFT_HA_CONFIG_NAME"]),
        ),
        (
            "scaled to zero",
            deployment("0", "", &host(&env(CONFIG_NAME))),
            found(Idle, &["env OPENSHIFT_HA_CONFIG_NAME"]),
        ),
        (
            "label",
            deployment("1", "ipfailover: hello", "hostNetwork: true"),
            found(Block, &["label ipfailover"]),
        ),
        ("label value only", deployment("1", "app: ipfailover", "hostNetwork: true"), None),
        ("label, pod network", deployment("1", "ipfailover: x", ""), found(Contained, &["label ipfailover"])),
        (
            "account",
            deployment("1", "", "hostNetwork: true, serviceAccountName: ipfailover"),
            found(Block, &["service account ipfailover"]),
        ),
        ("other account", deployment("1", "", "hostNetwork: true, serviceAccountName: ipfailover2"), None),
        ("image", deployment("1", "", &image(quay)), found(Block, &[&format!("image {quay}")])),
        ("image by digest", deployment("1", "", &image(digest)), found(Block, &[&format!("image {digest}")])),
        (
            "image of a directory of that name",
            deployment("1", "", &image("r/keepalived-ipfailover/web:1")),
            None,
        ),
        ("image with that tag", deployment("1", "", &image("web:keepalived-ipfailover")), None),
        ("another keepalived", deployment("1", "", &image("osixia/keepalived:2.0.20")), None),
        (
            "all at once",
            deployment(
                "1",
                "ipfailover: x",
                &format!(
                    "hostNetwork: true, serviceAccountName: ipfailover, containers: [{{image: '{quay}', env: \
                     [{{name: {VIRTUAL_IPS}, value: 1.2.3.4-6}}, {{name: {CONFIG_NAME}, value: x}}]}}]"
                ),
            ),
            found(
                Block,
                &[
                    "env OPENSHIFT_HA_CONFIG_NAME",
                    "env OPENSHIFT_HA_VIRTUAL_IPS",
                    "label ipfailover",
                    "service account ipfailover",
                    &format!("image {quay}"),
                ],
            ),
        ),
        (
            "as the manual of OpenShift writes it",
            deployment(
                "2",
                "ipfailover: hello-openshift",
                "hostNetwork: true, serviceAccountName: ipfailover, nodeSelector: {node-role.kubernetes.io/worker: ''}, \
                 containers: [{name: openshift-ipfailover, image: 'registry.redhat.io/openshift4/ose-keepalived-ipfailover', \
                 ports: [{containerPort: 63000, hostPort: 63000}], env: [{name: OPENSHIFT_HA_CONFIG_NAME, value: ipfailover}, \
                 {name: OPENSHIFT_HA_VIRTUAL_IPS, value: '1.1.1.1-2'}, {name: OPENSHIFT_HA_VIP_GROUPS, value: '10'}]}]",
            ),
            found(
                Block,
                &[
                    "env OPENSHIFT_HA_CONFIG_NAME",
                    "env OPENSHIFT_HA_VIRTUAL_IPS",
                    "label ipfailover",
                    "service account ipfailover",
                    "image registry.redhat.io/openshift4/ose-keepalived-ipfailover",
                ],
            ),
        ),
        (
            "explicitly not on the host network",
            deployment("1", "ipfailover: x", "hostNetwork: false"),
            found(Contained, &["label ipfailover"]),
        ),
        (
            "a variable from elsewhere",
            deployment(
                "1",
                "",
                &host(
                    "containers: [{name: c, env: [{name: OPENSHIFT_HA_VIRTUAL_IPS, valueFrom: {configMapKeyRef: {name: a, \
                     key: b}}}]}]",
                ),
            ),
            found(Block, &["env OPENSHIFT_HA_VIRTUAL_IPS"]),
        ),
        (
            "the second container",
            deployment("1", "", &host(&format!("containers: [{{image: web}}, {{image: '{quay}'}}]"))),
            found(Block, &[&format!("image {quay}")]),
        ),
        (
            "the ingress router of OpenShift",
            deployment(
                "2",
                "ingresscontroller.operator.openshift.io/deployment-ingresscontroller: default",
                &host("serviceAccountName: router"),
            ),
            None,
        ),
        (
            "no number of replicas",
            deployment("null", "ipfailover: x", "hostNetwork: true"),
            found(Block, &["label ipfailover"]),
        ),
        (
            "init container",
            deployment("1", "", "hostNetwork: true, initContainers: [{image: keepalived-ipfailover}]"),
            found(Block, &["image keepalived-ipfailover"]),
        ),
    ];
    for (name, got, want) in table {
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn pods_and_replica_sets_count_only_where_nobody_owns_them() {
    let owner = "ownerReferences: [{apiVersion: v1, kind: X, name: x, uid: u}]";
    let pod = |metadata: &str| {
        format!(
            "{{metadata: {{name: p, {metadata}, labels: {{ipfailover: x}}}}, spec: {{hostNetwork: true}}}}"
        )
    };
    let severity = |kind, yaml: &str| finding(kind, yaml).map(|finding| finding.severity);
    let (labelled, block) = (WorkloadKind::LabelledPod, Some(Severity::Block));
    assert_eq!(severity(labelled, &pod("namespace: a")), block);
    assert_eq!(severity(WorkloadKind::ReplicaSet, &pod("namespace: a")), block);
    assert_eq!(severity(labelled, &pod(&format!("namespace: a, {owner}"))), None);
    assert_eq!(severity(WorkloadKind::ReplicaSet, &pod(&format!("namespace: a, {owner}"))), None);
    let owned_by_operator = pod(&format!("namespace: a, {owner}"));
    assert_eq!(severity(WorkloadKind::DaemonSet, &owned_by_operator), block, "an owned DaemonSet still runs");
    assert_eq!(
        severity(labelled, &pod("namespace: openshift-kni-infra")),
        None,
        "the cluster's own keepalived"
    );
    for kind in [WorkloadKind::Deployment, WorkloadKind::DaemonSet] {
        let there = pod("namespace: openshift-kni-infra");
        assert_eq!(severity(kind, &there), block, "static pods are the cluster's own, {kind:?}s are not");
    }
    assert_eq!(severity(labelled, &pod("namespace: openshift-ingress")), block);
    assert_eq!(severity(WorkloadKind::AccountPod, &pod("namespace: a")), block);
    for kind in [WorkloadKind::StatefulSet, WorkloadKind::DeploymentConfig] {
        assert_eq!(severity(kind, &pod(&format!("namespace: a, {owner}"))), block, "{kind:?}");
    }
    for (phase, want) in [("Running", block), ("Pending", block), ("Succeeded", Some(Severity::Idle))] {
        let text = format!(
            "{{metadata: {{name: p, namespace: a, labels: {{ipfailover: x}}}}, spec: {{hostNetwork: true}}, status: \
             {{phase: {phase}}}}}"
        );
        assert_eq!(severity(labelled, &text), want, "{phase}");
    }
    let without_template = "{metadata: {name: dc, namespace: a}, spec: {replicas: 1, template: null}}";
    assert_eq!(severity(WorkloadKind::DeploymentConfig, without_template), None);
}

#[test]
fn served_addresses_are_compared_with_the_pools() {
    let pool = |name: &str, range: &str| {
        let spec = IPAddressPoolSpec { addresses: vec![range.to_owned()], ..IPAddressPoolSpec::default() };
        IPAddressPool::new(name, spec)
    };
    let pools = [pool("a", "192.0.2.0/29"), pool("b", "192.0.2.8-192.0.2.20"), pool("c", "2001:db8::/64")];
    let objects = config::Objects { pools: pools.iter().collect(), ..config::Objects::default() };
    let pools = config::parse(&objects).0.pools;
    let finding = Finding {
        kind: "DaemonSet",
        namespace: "ns".to_owned(),
        name: "ha".to_owned(),
        evidence: vec!["label ipfailover".to_owned()],
        severity: Severity::Block,
        virtual_ips: ["192.0.2.4-6", "192.0.2.7-192.0.2.8", "198.51.100.1", "2001:db8::1", "junk", "-", "1-"]
            .map(str::to_owned)
            .to_vec(),
    };
    let of = "of DaemonSet ns/ha (label ipfailover) meets";
    assert_eq!(
        finding.overlaps(&pools.values()),
        [
            format!("192.0.2.4-6 {of} 192.0.2.0/29 of IPAddressPool a"),
            format!("192.0.2.7-192.0.2.8 {of} 192.0.2.0/29 of IPAddressPool a"),
            format!("192.0.2.7-192.0.2.8 {of} 192.0.2.8-192.0.2.20 of IPAddressPool b"),
            format!("2001:db8::1 {of} 2001:db8::/64 of IPAddressPool c"),
        ]
    );
}

#[test]
fn addresses_are_read_as_they_are_written() {
    let got = finding(
        WorkloadKind::DaemonSet,
        "{metadata: {name: ha, namespace: ns}, spec: {template: {spec: {hostNetwork: true, containers: [{env: \
         [{name: OPENSHIFT_HA_VIRTUAL_IPS, value: '192.0.2.4-6, 192.0.2.9'}]}]}}}}",
    );
    let finding = got.unwrap();
    assert_eq!(finding.virtual_ips, ["192.0.2.4-6", "192.0.2.9"]);
    assert_eq!(finding.to_string(), "DaemonSet ns/ha (env OPENSHIFT_HA_VIRTUAL_IPS)");
}
