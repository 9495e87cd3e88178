//! OpenShift's chapter on the MetalLB Operator, from installation to deletion.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;
use metallb_e2e::{
    cluster::{self, checkout, kubectl},
    deploy::{self, NAMESPACE},
    exec::output,
    layout::client,
    observe::{address, addresses, apply, condition, get, kube, owner, who_has},
    outage::Client,
    power::{self, Mode},
};
use serde_json::Value;

use crate::{
    APPLICATION, Cleanup, Off, application,
    fixture::{available, eventually},
    who,
};

/// Pools with the names of the chapter, in each form that it names: a range, a CIDR, one address as a range, a mixture,
/// both families in one pool.
const POOLS: &str = "
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: doc-example, namespace: metallb-system}
spec:
  protocol: layer2
  addresses:
  - 172.22.0.201-172.22.0.203
  - 172.22.0.204/30
  - fd00:22::208-fd00:22::20b
---
apiVersion: metallb.io/v1alpha1
kind: AddressPool
metadata: {name: doc-example-reserved, namespace: metallb-system}
spec:
  protocol: layer2
  addresses:
  - 172.22.0.212-172.22.0.212
  autoAssign: false
---
apiVersion: metallb.io/v1beta1
kind: AddressPool
metadata: {name: doc-example-ipv6, namespace: metallb-system}
spec:
  protocol: layer2
  addresses:
  - fd00:22::201-fd00:22::204
";

fn service(name: &str, annotations: &str, spec: &str) {
    service_of("web", name, annotations, spec);
}

fn service_of(application: &str, name: &str, annotations: &str, spec: &str) {
    apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: walk, annotations: {{{annotations}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: {application}}}, ports: [{{port: 80, targetPort: 8080}}]{spec}}}\n"
    ))
    .unwrap();
}

fn pods(selector: &str) -> Vec<Value> {
    let list = get(&["-n", NAMESPACE, "pods", "-l", selector]).unwrap();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// OpenShift Container Platform 4.9, chapter 23: Load balancing with MetalLB.
#[test]
fn the_chapter_on_the_operator_holds_from_installation_to_deletion() {
    let _cleanup = Cleanup(&[
        "delete namespace walk",
        "-n metallb-system delete addresspool doc-example doc-example-reserved doc-example-ipv6",
    ]);
    // 23.1.3: on a cluster that has nothing of it, installing the operator brings one Deployment with one pod, which waits
    // for resources.
    deploy::remove().unwrap();
    output(kubectl().args(["apply", "-f"]).arg(checkout().join("dist/install.yaml"))).unwrap();
    let operator = "deployment.apps/metallb-operator-controller-manager";
    kube(&format!("-n {NAMESPACE} rollout status {operator} --timeout=60s")).unwrap();
    assert_eq!(pods("control-plane=controller-manager").len(), 1);
    let workloads = kube(&format!("-n {NAMESPACE} get deployments,daemonsets -o name")).unwrap();
    assert_eq!(workloads.trim(), operator, "controller and speaker are there without a MetalLB resource");

    // 23.1.2, 23.1.3: a MetalLB resource brings a controller of one pod and a speaker on each node.
    available();
    let controller = get(&["-n", NAMESPACE, "deployment", "controller"]).unwrap();
    assert_eq!(controller["status"]["readyReplicas"], 1);
    let speakers: BTreeSet<String> = pods("app=metallb,component=speaker")
        .iter()
        .map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
        .collect();
    let nodes = cluster::nodes().unwrap();
    assert_eq!(speakers, (1..=nodes).map(|index| format!("node{index}")).collect());
    // 23.1.5.5: IP failover was removed before.
    let metallb = get(&["-n", NAMESPACE, "metallb", "metallb"]).unwrap();
    assert_eq!(condition(&metallb, "IPFailoverAbsent").unwrap().0, "True");
    // 23.1.4: a speaker is on the network of its host.
    for pod in pods("app=metallb,component=speaker") {
        assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
    }

    // 23.1.2: pools in each of their forms.
    apply(POOLS).unwrap();
    apply(APPLICATION).unwrap();
    kube("-n walk rollout status deployment/web --timeout=60s").unwrap();
    let reserved = "metallb.io/address-pool: doc-example-reserved";
    service("plain", "", "");
    service("reserved", reserved, "");
    service("reserved-too", reserved, "");
    service("local", "", ", externalTrafficPolicy: Local");
    service("requested", "", ", loadBalancerIP: 172.22.0.206");
    // 23.1.5.2: the family is that of the cluster address.
    service("six", "", ", ipFamilies: [IPv6]");
    service("six-alone", "metallb.io/address-pool: doc-example-ipv6", ", ipFamilies: [IPv6]");
    for (name, want) in [
        ("plain", "172.22.0.201"),
        ("reserved", "172.22.0.212"),
        ("local", "172.22.0.202"),
        ("requested", "172.22.0.206"),
        ("six", "fd00:22::208"),
        ("six-alone", "fd00:22::201"),
    ] {
        assert_eq!(address("walk", name).unwrap(), want.parse::<IpAddr>().unwrap(), "{name}");
        // 23.1.5.2: one address, though the pool has both families.
        assert_eq!(addresses("walk", name).unwrap().len(), 1, "{name}");
    }
    assert_eq!(addresses("walk", "reserved-too").unwrap(), Vec::<IpAddr>::new(), "the pool has one address");

    // 23.1.3: what to look for in the controller's log, as it is printed there.
    let printed = r#""event":"ipAllocated","ip":"172.22.0.201","msg":"IP address assigned by controller"#;
    eventually("the line in the log", 10, || {
        let log = kube(&format!("-n {NAMESPACE} logs deployment/controller --tail=-1"))?;
        ensure!(log.contains(printed), "{log}");
        Ok(())
    });
    // 23.1.3: what to look at when an address is not reachable.
    let described = kube(&format!("describe pod -n {NAMESPACE} -l component=speaker")).unwrap();
    assert!(described.contains("Ready"), "{described}");

    // 23.1.4: one node answers for an address, by ARP or by NDP.
    for name in ["plain", "local", "six"] {
        let address = address("walk", name).unwrap();
        eventually(&format!("one node to announce {name}"), 10, || owner(address).map(drop));
        eventually(&format!("an answer of {name}"), 20, || who(address).map(drop));
    }
    // 23.1.4.1: `cluster` spreads over all pods and hides the client; `local` stays on the node and shows it.
    let plain = address("walk", "plain").unwrap();
    let answers: Vec<_> = (0..30).map(|_| who(plain).unwrap()).collect();
    assert!(answers.iter().map(|[pod, ..]| pod).collect::<BTreeSet<_>>().len() > 1, "{answers:?}");
    let local = address("walk", "local").unwrap();
    let announcer = owner(local).unwrap();
    for _ in 0..10 {
        let [_, node, seen] = who(local).unwrap();
        // The web server writes an IPv4 address as one that is mapped into IPv6.
        let seen = seen.trim_matches(['[', ']']).trim_start_matches("::ffff:").to_owned();
        assert_eq!((node, seen), (announcer.clone(), client().v4()));
    }

    // 23.1.4, the figure: of three nodes the first and the third run a pod. One of them has the address; when it is lost
    // the other takes over, and never the second. Clients are back within seconds, where 23.1.5.4.2 says ten.
    let ends = ["node1", "node3"];
    apply(&application("walk", "figure", "8080", &ends)).unwrap();
    kube("-n walk rollout status deployment/figure --timeout=60s").unwrap();
    service_of("figure", "figure", "", ", externalTrafficPolicy: Local");
    let figure = address("walk", "figure").unwrap();
    eventually("an answer of the figure", 20, || who(figure).map(drop));
    let announcer = owner(figure).unwrap();
    assert!(ends.contains(&announcer.as_str()), "{announcer}");
    let other = ends.into_iter().find(|node| *node != announcer).unwrap();
    let watching = Client::start(figure);
    let cut = Off(announcer.clone());
    let lost = Instant::now();
    power::off(&announcer, Mode::Dark).unwrap();
    eventually("the other node to answer", 10, || {
        let found = owner(figure)?;
        assert_ne!(found, "node2", "it has no endpoint");
        ensure!(found == other && who(figure)?[1] == other, "still {found}");
        Ok(())
    });
    assert!(lost.elapsed() < Duration::from_secs(10));
    let outages = watching.outages().unwrap();
    println!("{announcer} was powered off; the client was without an answer for {:?}", outages.first());
    drop(cut);
    eventually("one node to answer after the return", 20, || owner(figure).map(drop));

    // What is deleted gives its address back, and nobody answers for it any more until it is given again.
    kube("-n walk delete service plain").unwrap();
    eventually("nobody to answer for it", 10, || {
        let answers = who_has(plain)?;
        ensure!(answers.is_empty(), "{answers:?}");
        Ok(())
    });
    service("next", "", "");
    assert_eq!(address("walk", "next").unwrap(), plain);
    // A pool goes with what was made of it, and takes no other with it.
    kube("-n walk delete service six-alone").unwrap();
    kube(&format!("-n {NAMESPACE} delete addresspool doc-example-ipv6")).unwrap();
    eventually("what was made of the pool to be gone", 20, || {
        let left = kube(&format!("-n {NAMESPACE} get ipaddresspools,l2advertisements -o name"))?;
        ensure!(!left.contains("/doc-example-ipv6") && left.contains("/doc-example\n"), "{left}");
        Ok(())
    });
    assert_eq!(address("walk", "next").unwrap(), plain);

    // 23.1.2: deleting the resource removes MetalLB, and leaves the pools.
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    eventually("MetalLB to be gone", 30, || {
        let left = kube(&format!("-n {NAMESPACE} get deployment,daemonset,pod -l app=metallb -o name"))?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
    assert_eq!(
        kube(&format!("-n {NAMESPACE} get addresspools -o name")).unwrap().lines().collect::<Vec<_>>(),
        ["addresspool.metallb.io/doc-example", "addresspool.metallb.io/doc-example-reserved"]
    );
}
