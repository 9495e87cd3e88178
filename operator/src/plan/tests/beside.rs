//! An installation that goes on beside what others made or keep changing, and without what was taken away from it.

use super::*;

/// A policy that an administrator made, and that has the name of the installation's.
fn policy() -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": {}},
           "metadata": {"name": "controller", "namespace": NAMESPACE, "uid": "theirs"}})
}

#[test]
fn what_another_made_under_a_name_of_the_installation_is_left_alone_and_the_rest_is_looked_after() {
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    bench.delete(&key(Kind::NetworkPolicy, "controller"));
    bench.put(Kind::NetworkPolicy, policy());
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    assert_eq!(bench.changes(), [["repair Deployment controller: spec.replicas"]]);
    bench.settle();
    bench.run_controller();
    bench.settle();
    bench.assert_idle();
    assert_eq!(bench.live(Kind::NetworkPolicy, "controller")["metadata"]["uid"], "theirs");
    let (_, reason, message) = bench.degraded();
    assert!(
        reason == "ForeignLoadBalancer" && message.contains("NetworkPolicy metallb-system/controller"),
        "{reason}: {message}"
    );
    assert_eq!(bench.of_metallb("Available").0, "True");

    // Nor while what worked last is kept.
    let spec = bench.live(Kind::MetalLb, "metallb")["spec"].clone();
    bench.edit(Kind::MetalLb, "metallb", |object| object["spec"] = json!({"bgpBackend": "bird"}));
    bench.delete(&key(Kind::DaemonSet, "speaker"));
    assert_eq!(bench.changes(), [["apply DaemonSet speaker"]]);
    bench.edit(Kind::MetalLb, "metallb", |object| object["spec"] = spec);
    bench.settle();

    bench.edit(Kind::MetalLb, "metallb", |object| object["spec"]["managementState"] = json!("Unmanaged"));
    bench.settle();
    assert!(!bench.of_metallb("Managed").2.contains("NetworkPolicy"), "{}", bench.of_metallb("Managed").2);
    bench.edit(Kind::MetalLb, "metallb", |object| {
        object["spec"] = json!({});
        object["metadata"]["annotations"] = json!({ADOPT: "true"});
    });
    bench.settle();
    assert_eq!(bench.live(Kind::NetworkPolicy, "controller")["spec"]["policyTypes"][0], "Ingress");
    assert_eq!(bench.degraded().0, "False");
}

#[test]
fn what_another_operator_says_of_the_resource_is_no_installation_of_ours() {
    let mut bench = Bench::new();
    let mut resource = metallb("{}");
    resource["status"] = json!({"conditions": [{"type": "Available", "status": "True", "reason": "MetalLBAvailable",
        "message": "", "lastTransitionTime": START}]});
    bench.put(Kind::MetalLb, resource);
    let keepalived = serde_saphyr::from_str(
        "{metadata: {name: ha, namespace: ns, resourceVersion: '1'}, spec: {template: {metadata: {labels: {ipfailover: \
         x}}, spec: {hostNetwork: true}}}}",
    );
    let event = Event::Apply(keepalived.unwrap());
    bench.world.take(world::Change::Workload(WorkloadKind::DaemonSet, Box::new(event)));
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new());
    bench.settle();
    assert_eq!(bench.degraded().1, "IPFailoverPresent");
}

/// IP failover in the network of its host.
fn keepalived() -> world::Change {
    let keepalived = serde_saphyr::from_str(
        "{metadata: {name: ha, namespace: ns, resourceVersion: '1'}, spec: {template: {metadata: {labels: {ipfailover: \
         x}}, spec: {hostNetwork: true}}}}",
    );
    world::Change::Workload(WorkloadKind::DaemonSet, Box::new(Event::Apply(keepalived.unwrap())))
}

#[test]
fn what_is_not_managed_is_told_so_whatever_else_there_is_to_tell() {
    let elsewhere = "{metadata: {name: speaker, namespace: other, resourceVersion: '1', labels: {app: metallb, component: \
                     speaker}}, spec: {template: {spec: {hostNetwork: true}}}}";
    let elsewhere = serde_saphyr::from_str(elsewhere).unwrap();
    let elsewhere = world::Change::Workload(WorkloadKind::DaemonSet, Box::new(Event::Apply(elsewhere)));
    for (spec, beside, reason) in [
        ("{managementState: Unmanaged, bgpBackend: bird}", None, "InvalidSpec"),
        ("{managementState: Unmanaged}", Some(keepalived()), "IPFailoverPresent"),
        ("{managementState: Unmanaged}", Some(elsewhere), "ForeignLoadBalancer"),
        ("{managementState: Unmanaged}", None, "Degraded"),
    ] {
        let mut bench = Bench::new();
        if let Some(change) = beside {
            bench.world.take(change);
        }
        bench.put(Kind::MetalLb, metallb(spec));
        bench.settle();
        assert_eq!(bench.degraded().1, reason);
        assert_eq!(bench.of_metallb("Managed").1, "Unmanaged", "{reason}");
        assert!(!bench.plan().summary.unwrap().is_managed, "{reason}");
    }
}

#[test]
fn a_metallb_that_runs_beside_ip_failover_may_be_taken_over() {
    let mut bench = Bench::new();
    bench.world.take(keepalived());
    for (kind, name, of) in
        [(Kind::Deployment, "controller", "Deployment"), (Kind::DaemonSet, "speaker", "DaemonSet")]
    {
        let labels = json!({"app": "metallb", "component": name});
        bench.put(
            kind,
            json!({"apiVersion": "apps/v1", "kind": of, "metadata": {"name": name, "namespace": NAMESPACE, "uid": name},
                   "spec": {"selector": {"matchLabels": labels}, "template": {}}}),
        );
    }
    bench.put(Kind::MetalLb, metallb("{}"));
    bench.settle();
    assert_eq!(bench.degraded().1, "IPFailoverPresent", "not unasked");
    bench.edit(Kind::MetalLb, "metallb", |object| object["metadata"]["annotations"] = json!({ADOPT: "true"}));
    bench.settle();
    assert_eq!(bench.images(), ("controller:1".to_owned(), "speaker:1".to_owned()));
    assert_eq!(bench.of_metallb("IPFailoverAbsent").0, "False");
}

#[test]
fn a_repair_that_waits_for_another_writer_is_told_and_is_no_progress() {
    let mut bench = Bench::installed();
    bench.run();
    bench.settle();
    let relabel = |bench: &mut Bench| {
        bench.edit(Kind::ConfigMap, "metallb-excludel2", |object| object["metadata"]["labels"] = json!({}));
    };
    relabel(&mut bench);
    let changes = bench.plan().stages.concat();
    let [Change::Apply(key, wanted, found)] = changes.as_slice() else { panic!("{changes:?}") };
    for _ in 0..6 {
        bench.attempts.succeeded(key, wanted, found.clone(), None, bench.now);
    }
    assert_eq!(bench.changes(), Vec::<Vec<String>>::new(), "a truce");
    bench.settle();
    assert_eq!(bench.degraded().1, "Contested");
    assert_eq!(bench.of_metallb("Progressing").0, "False");
    assert_eq!(bench.of_metallb("Upgradeable").0, "True");
    assert_eq!(bench.plan().summary.unwrap().step, None);
    bench.now = "2030-01-01T00:00:02Z".parse().unwrap();
    assert_eq!(bench.changes(), [["repair ConfigMap metallb-excludel2: metadata.labels.app"]]);
}

#[test]
fn webhook_configurations_that_are_missing_are_named_unless_they_are_olms() {
    let mut bench = Bench::installed();
    let name = "metallb-webhook-configuration";
    bench.delete(&Key { kind: Kind::Admission, namespace: String::new(), name: name.to_owned() });
    bench.settle();
    let (_, reason, message) = bench.degraded();
    let start = format!("ValidatingWebhookConfiguration {name} is missing");
    assert!(reason == "RequirementsMissing" && message.starts_with(&start), "{reason}: {message}");
    bench.edit(Kind::Deployment, "controller", |object| object["spec"]["replicas"] = json!(0));
    assert_eq!(bench.changes(), [["repair Deployment controller: spec.replicas"]], "the rest goes on");
    bench.settings.operator_condition = Some("metallb.v1".to_owned());
    bench.settle();
    assert_eq!(bench.degraded().0, "False");
}

#[test]
fn what_openshift_admits_pods_by_is_named_when_it_is_missing_and_pods_are_refused() {
    let mut bench = Bench::installed();
    bench.run();
    let for_pods = vec!["SecurityContextConstraints metallb-speaker is missing".to_owned()];
    bench.missing = Some(Found { for_pods, ..Found::default() });
    bench.settle();
    assert_eq!(bench.degraded().0, "False", "they are admitted in another way");
    bench.edit(Kind::DaemonSet, "speaker", |object| object["status"]["desiredNumberScheduled"] = json!(2));
    bench.world.take(neighbour(
        Neighbour::Refusal,
        json!({"metadata": {"name": "e", "namespace": NAMESPACE, "resourceVersion": "1"},
               "lastTimestamp": "2030-01-01T00:00:00Z", "involvedObject": {"name": "speaker"},
               "message": "Error creating: unable to validate against any security context constraint"}),
    ));
    bench.settle();
    let (_, reason, message) = bench.degraded();
    assert_eq!(reason, "RequirementsMissing");
    assert!(message.starts_with("SecurityContextConstraints metallb-speaker is missing; "), "{message}");
    assert!(message.contains("unable to validate"), "{message}");
}
