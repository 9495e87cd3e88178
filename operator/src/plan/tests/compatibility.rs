//! Other load balancers.

use super::*;

fn workload(kind: WorkloadKind, yaml: &str) -> world::Change {
    world::Change::Workload(kind, Box::new(Event::Apply(serde_saphyr::from_str(yaml).unwrap())))
}

const METALLB_ELSEWHERE: &str = "{metadata: {name: speaker, namespace: other, resourceVersion: '1', labels: {app: metallb, \
                                 component: speaker}}, spec: {template: {spec: {hostNetwork: true}}}}";

#[test]
fn beside_a_metallb_in_another_namespace_nothing_is_installed_and_no_annotation_hands_it_over() {
    let mut bench = Bench::new();
    bench.world.take(workload(WorkloadKind::DaemonSet, METALLB_ELSEWHERE));
    bench.put(Kind::MetalLb, metallb("{}"));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "ForeignLoadBalancer");
    assert!(message.contains("DaemonSet other/speaker"), "{message}");
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "ForeignLoadBalancer");
    let todo = "remove that installation, or install this operator in its namespace";
    assert!(message.contains("DaemonSet other/speaker") && message.contains(todo), "{message}");
    // With a class of its own it serves other Services.
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"] = json!({"loadBalancerClass": "metallb.io/lan"});
    });
    assert_eq!(bench.changes().len(), 2);
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({}));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "nor is that done unasked");

    let mut bench = Bench::installed();
    bench.world.take(workload(WorkloadKind::DaemonSet, METALLB_ELSEWHERE));
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    assert_eq!(bench.changes(), [["apply DaemonSet speaker"]], "what is installed is kept");
    bench.settle();
    assert_eq!(bench.degraded().0, "False");
    let (status, reason, message) = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Incompatible"));
    assert!(message.starts_with("DaemonSet other/speaker: "), "{message}");
}

#[test]
fn labels_that_anybody_may_set_keep_nothing_from_being_installed() {
    let labelled = |namespace: &str, pod: &str| {
        format!(
            "{{metadata: {{name: x, namespace: {namespace}, resourceVersion: '1', labels: {{app: metallb, component: speaker}}}}, \
             spec: {{template: {{spec: {{{pod}}}}}}}}}"
        )
    };
    for (what, kind, namespace, pod, is_installed) in [
        ("a tenant's", WorkloadKind::Deployment, "tenant", "", true),
        ("a tenant's", WorkloadKind::DaemonSet, "tenant", "", true),
        ("a speaker", WorkloadKind::DaemonSet, "other", "hostNetwork: true", false),
        ("beside the operator", WorkloadKind::Deployment, NAMESPACE, "", false),
    ] {
        let mut bench = Bench::new();
        bench.world.take(workload(kind, &labelled(namespace, pod)));
        bench.put(Kind::MetalLb, metallb("{}"));
        bench.settle();
        assert_eq!(bench.world.object(&key(Kind::DaemonSet, "speaker")).is_some(), is_installed, "{what}");
        let (_, reason, message) = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible");
        assert!(
            reason == "Incompatible" && message.contains(&format!("{namespace}/x: ")),
            "{what}: {message}"
        );
    }
}

#[test]
fn its_own_workloads_are_no_other_load_balancer() {
    let mut bench = Bench::installed();
    for (kind, name) in [(WorkloadKind::DaemonSet, "speaker"), (WorkloadKind::Deployment, "controller")] {
        bench.world.take(workload(
            kind,
            &format!(
                "{{metadata: {{name: {name}, namespace: {NAMESPACE}, resourceVersion: '1', labels: {{app: metallb, component: \
                 {name}}}}}, spec: {{template: {{spec: {{hostNetwork: true, containers: [{{ports: [{{containerPort: 7946, \
                 protocol: UDP}}]}}]}}}}}}}}"
            ),
        ));
    }
    bench.settle();
    assert_eq!(bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible").0, "True");
}

#[test]
fn whatever_stands_in_the_way_is_told_with_what_separates_the_two() {
    let mut bench = Bench::installed();
    bench.world.take(workload(
        WorkloadKind::DaemonSet,
        "{metadata: {name: svclb-web, namespace: kube-system, resourceVersion: '1'}, spec: {template: {spec: {}}}}",
    ));
    bench.world.take(workload(
        WorkloadKind::Deployment,
        "{metadata: {name: exporter, namespace: m, resourceVersion: '1'}, spec: {template: {spec: {containers: [{ports: \
         [{containerPort: 80, hostPort: 9120}]}]}}}}",
    ));
    let of = |name: &str| json!({"name": name, "resourceVersion": "1"});
    bench.world.take(neighbour(Neighbour::CiliumPool, json!({"metadata": of("blue")})));
    bench.world.take(neighbour(
        Neighbour::KubeProxy,
        json!({"metadata": of("kube-proxy"), "data": {"config.conf": "mode: ipvs"}}),
    ));
    bench.world.take(neighbour(
        Neighbour::CalicoPeer,
        json!({"metadata": of("tor"), "spec": {"peerIP": "192.0.2.1"}}),
    ));
    let mut namespace = of(NAMESPACE);
    namespace["labels"] = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    bench.world.take(neighbour(Neighbour::Namespace, json!({"metadata": namespace})));
    bench.world.take(world::Change::Version("v1.29.3".to_owned()));
    let peer = |address: &str| {
        json!({"apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": {"name": "p", "namespace": NAMESPACE},
               "spec": {"myASN": 64512, "peerASN": 64512, "peerAddress": address}})
    };
    bench.put(Kind::BgpPeer, peer("192.0.2.1"));
    bench.settle();
    let message = || bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible").2;
    let told = message();
    for part in [
        "DaemonSet kube-system/svclb-web: K3s ServiceLB",
        "CiliumLoadBalancerIPPool blue: ",
        "strictARP",
        "BGPPeer tor of Calico speaks BGP with 192.0.2.1",
        "namespace metallb-system enforces Pod Security level baseline",
        "Deployment m/exporter takes port 9120/TCP",
        "Kubernetes v1.29.3 is older than 1.30",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(bench.degraded().0, "False", "it is told, and works all the same");
    bench.put(Kind::BgpPeer, peer("192.0.2.2"));
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"]["loadBalancerClass"] = json!("metallb.io/lan");
    });
    bench.settle();
    let told = bench.condition(Kind::MetalLb, NAMESPACE, "metallb", "Compatible").2;
    for part in ["svclb-web", "Cilium", "Calico"] {
        assert!(!told.contains(part), "{part}: {told}");
    }
}
