//! What the published guides for MetalLB's users tell them to do, done in their order on the real cluster: OpenShift's
//! chapter on the MetalLB Operator, and two introductions to MetalLB with YAML of their own, which is used as it stands.

#[path = "cluster/fixture.rs"]
#[allow(dead_code, reason = "scenes are not needed here")]
mod fixture;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    cluster::{self, checkout, kubectl},
    deploy::{self, NAMESPACE},
    exec::{on, output, run_on},
    layout::client,
    observe::{address, addresses, apply, condition, get, kube, owner},
    outage::Client,
    power::{self, Mode},
    router::Frr,
};
use serde_json::{Value, json};

use fixture::{available, eventually};

/// Removes what a test made, also when it fails.
struct Cleanup(&'static [&'static str]);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for line in self.0 {
            let done = kube(&format!("{line} --ignore-not-found"));
            if !std::thread::panicking() {
                done.unwrap();
            }
        }
    }
}

/// Three pods, one a node, that answer with pod, node and the address that they see the client under.
const APPLICATION: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: walk}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: walk}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: lab.local/busybox:1
        imagePullPolicy: Never
        command: [/bin/sh, -c]
        args:
        - |
          busybox mkdir -p /tmp/www/cgi-bin
          printf '#!/bin/sh\\necho; echo $POD $NODE $REMOTE_ADDR\\n' > /tmp/www/cgi-bin/who
          busybox chmod 755 /tmp/www/cgi-bin/who
          exec busybox httpd -f -p 8080 -h /tmp/www
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        - name: POD
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        readinessProbe:
          tcpSocket: {port: 8080}
          periodSeconds: 1
";

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
    apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: walk, annotations: {{{annotations}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]{spec}}}\n"
    ))
    .unwrap();
}

/// What the application says to the client: pod, node, and the client's address as it sees it.
fn who(address: IpAddr) -> Result<[String; 3]> {
    let url = match address {
        IpAddr::V4(v4) => format!("http://{v4}/cgi-bin/who"),
        IpAddr::V6(v6) => format!("http://[{v6}]/cgi-bin/who"),
    };
    let answer = output(on("client", "curl").args(["-sS", "-g", "--max-time", "2", &url]))?;
    let words: Vec<_> = answer.split_whitespace().map(str::to_owned).collect();
    words.try_into().map_err(|words| anyhow::anyhow!("{words:?}"))
}

fn pods(selector: &str) -> Vec<Value> {
    let list = get(&["-n", NAMESPACE, "pods", "-l", selector]).unwrap();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Connects the node again, also when the test fails.
struct Off(String);

impl Drop for Off {
    fn drop(&mut self) {
        let _ = power::on(&self.0);
    }
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
    }
    assert_eq!(addresses("walk", "reserved-too").unwrap(), Vec::<IpAddr>::new(), "the pool has one address");

    // 23.1.3: the line to look for in the controller's log, which has a level besides what is printed there.
    let parts =
        [r#""event":"ipAllocated","ip":"172.22.0.201","#, r#""msg":"IP address assigned by controller""#];
    eventually("the line in the log", 10, || {
        let log = kube(&format!("-n {NAMESPACE} logs deployment/controller --tail=-1"))?;
        ensure!(log.lines().any(|line| parts.iter().all(|part| line.contains(part))), "{log}");
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

    // 23.1.4, 23.1.5.4.2: another node takes over; clients are back within seconds, where the chapter says ten.
    let watching = Client::start(local);
    let cut = Off(announcer.clone());
    let lost = Instant::now();
    power::off(&announcer, Mode::Dark).unwrap();
    eventually("another node to answer", 10, || {
        let [_, node, _] = who(local)?;
        ensure!(node != announcer, "still {node}");
        Ok(())
    });
    assert!(lost.elapsed() < Duration::from_secs(10));
    let outages = watching.outages().unwrap();
    println!("{announcer} was powered off; the client was without an answer for {:?}", outages.first());
    drop(cut);
    eventually("one node to answer after the return", 20, || owner(local).map(drop));

    // 23.1.2: deleting the resource removes MetalLB, and leaves the pools.
    kube(&format!("-n {NAMESPACE} delete metallb metallb")).unwrap();
    eventually("MetalLB to be gone", 30, || {
        let left = kube(&format!("-n {NAMESPACE} get deployment,daemonset,pod -l app=metallb -o name"))?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
    assert_eq!(
        kube(&format!("-n {NAMESPACE} get addresspools -o name")).unwrap().lines().collect::<Vec<_>>(),
        [
            "addresspool.metallb.io/doc-example",
            "addresspool.metallb.io/doc-example-ipv6",
            "addresspool.metallb.io/doc-example-reserved"
        ]
    );
}

const FIREWALL: &str = "
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: firewall-lan-p28
  namespace: metallb-system
spec:
  addresses:
  - 192.168.1.48/28
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: firewall-lan-p28
  namespace: metallb-system
spec:
  ipAddressPools:
  - firewall-lan-p28
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: firewall-bgp
  namespace: metallb-system
spec:
  addresses:
  - 10.42.0.0/16
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata:
  name: firewall
  namespace: metallb-system
spec:
  myASN: 64512
  peerASN: 64512
  peerAddress: 192.168.1.254
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata:
  name: metallb-advertisment
  namespace: metallb-system
spec:
  ipAddressPools:
  - firewall-bgp
  aggregationLength: 32
";

/// The router of the text is on another network than here: its address is put on this one's router, in the same AS.
const ROUTER: &str = "router bgp 64512
 bgp router-id 192.168.1.254
 neighbor nodes peer-group
 neighbor nodes remote-as 64512
 bgp listen range 172.22.0.0/24 peer-group nodes
 address-family ipv4 unicast
  neighbor nodes activate
 exit-address-family
";

/// "Implementing LoadBalancer Services with MetalLB": a /28 of which every address counts, and a /16 for BGP within one
/// AS.
#[test]
fn every_address_of_a_prefix_counts_and_the_first_is_the_networks() {
    let _cleanup = Cleanup(&[
        "delete namespace firewall",
        "-n metallb-system delete ipaddresspool firewall-lan-p28 firewall-bgp",
        "-n metallb-system delete l2advertisement firewall-lan-p28",
        "-n metallb-system delete bgppeer firewall",
        "-n metallb-system delete bgpadvertisement metallb-advertisment",
    ]);
    available();
    run_on("router", "ip addr replace 192.168.1.254/32 dev lo").unwrap();
    let router = Frr::start("router", ROUTER).unwrap();
    apply(FIREWALL).unwrap();
    kube("create namespace firewall").unwrap();
    let mut services = String::new();
    let mut add = |name: &str, pool: &str| {
        services += &format!(
            "---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: {name}, namespace: firewall, annotations: {{metallb.io/address-pool: {pool}}}}}\n\
             spec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{{port: 80}}]}}\n"
        );
    };
    (0..17).for_each(|index| add(&format!("lan-{index:02}"), "firewall-lan-p28"));
    (0..2).for_each(|index| add(&format!("bgp-{index}"), "firewall-bgp"));
    // The last address of the prefix may be asked for, as the first is given.
    services += "---
apiVersion: v1
kind: Service
metadata: {name: last, namespace: firewall, annotations: {metallb.io/loadBalancerIPs: 10.42.255.255}}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}
";
    // What stands behind it makes a Service be announced.
    services += "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bgp-0, namespace: firewall, labels: {kubernetes.io/service-name: bgp-0}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [172.22.0.100], conditions: {ready: true}}]
";
    apply(&services).unwrap();
    let mut held = BTreeSet::new();
    eventually("all sixteen addresses to be given", 20, || {
        for index in 0..17 {
            held.extend(addresses("firewall", &format!("lan-{index:02}"))?);
        }
        ensure!(held.len() == 16, "{held:?}");
        Ok(())
    });
    let want: BTreeSet<IpAddr> = (48..64).map(|last| IpAddr::from([192, 168, 1, last])).collect();
    assert_eq!(held, want);
    assert_eq!(address("firewall", "bgp-0").unwrap(), IpAddr::from([10, 42, 0, 0]));
    assert_eq!(address("firewall", "bgp-1").unwrap(), IpAddr::from([10, 42, 0, 1]));
    assert_eq!(address("firewall", "last").unwrap(), IpAddr::from([10, 42, 255, 255]));
    router
        .0
        .until("a route by each node", 60, |_| {
            let paths = router.paths("10.42.0.0/32")?;
            let hops: BTreeSet<_> =
                paths.iter().filter_map(|path| path["nexthops"][0]["ip"].as_str()).collect();
            ensure!(hops.len() == usize::from(cluster::nodes()?), "{hops:?}: {:?}", router.established()?);
            ensure!(paths.iter().all(|path| path["peer"]["type"] == "internal"), "{paths:?}");
            Ok(())
        })
        .unwrap();
    eventually("the pools to tell their whole size", 10, || {
        for (pool, capacity) in [("firewall-lan-p28", "16"), ("firewall-bgp", "65536")] {
            let object = get(&["-n", NAMESPACE, "ipaddresspool", pool])?;
            ensure!(object["status"]["capacity"]["ipv4"] == capacity, "{pool}: {}", object["status"]);
        }
        Ok(())
    });
}

const MYSQL: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: dev}
---
apiVersion: v1
kind: Service
metadata:
  name: mysql-lb
  namespace: dev
  labels:
    app: mysql
spec:
  ports:
  - protocol: TCP
    port: 3306
    targetPort: 3306
  selector:
    app: mysql
  type: LoadBalancer
";

/// The configuration as it stands in the text.
const CONFIG: &str = "
apiVersion: v1
kind: ConfigMap
metadata:
  namespace: metallb-system
  name: config
data:
  config: |
    address-pools:
    - name: my-ip-space
      protocol: layer2
      addresses:
      - 192.168.100.171-192.168.100.175
";

/// "MetalLB, load balancing for private clusters": the ConfigMap, which is imported, the Service, and the speakers' log.
#[test]
fn a_config_map_is_imported_and_a_service_gets_the_first_address_of_its_range() {
    let _cleanup = Cleanup(&[
        "delete namespace dev",
        "-n metallb-system delete configmap config",
        "-n metallb-system delete ipaddresspool,l2advertisement my-ip-space",
        "-n metallb-system delete metallb metallb",
    ]);
    available();
    apply(CONFIG).unwrap();
    eventually("the ConfigMap to be seen", 20, || {
        let metallb = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let (status, reason, message) =
            condition(&metallb, "LegacyConfigImported").context("nothing is said of it")?;
        ensure!((status.as_str(), reason.as_str()) == ("False", "LegacyConfigFound"), "{reason}: {message}");
        Ok(())
    });
    kube(&format!("-n {NAMESPACE} annotate metallb metallb metallb.io/import=true")).unwrap();
    eventually("it to be imported", 20, || {
        let metallb = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let said = condition(&metallb, "LegacyConfigImported");
        ensure!(said.as_ref().is_some_and(|said| said.0 == "True"), "{said:?}");
        Ok(())
    });
    let pool = get(&["-n", NAMESPACE, "ipaddresspool", "my-ip-space"]).unwrap();
    assert_eq!(pool["spec"]["addresses"], json!(["192.168.100.171-192.168.100.175"]));
    apply(MYSQL).unwrap();
    assert_eq!(address("dev", "mysql-lb").unwrap(), IpAddr::from([192, 168, 100, 171]));
    let logs = kube("logs -l component=speaker -n metallb-system").unwrap();
    assert!(logs.lines().count() >= usize::from(cluster::nodes().unwrap()), "{logs}");
    let shown = kube("get svc -n dev").unwrap();
    assert!(shown.contains("192.168.100.171") && shown.contains("3306:"), "{shown}");
}
