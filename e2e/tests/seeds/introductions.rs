//! Two introductions to MetalLB with YAML of their own.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, ensure};
use metallb_e2e::{
    cluster,
    deploy::NAMESPACE,
    exec::run_on,
    observe::{address, addresses, apply, condition, get, kube, owner},
    pages,
    router::Frr,
};
use serde_json::json;

use crate::{
    Cleanup, OnLink, application,
    fixture::{available, eventually},
    who, who_to,
};

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
    apply(&application("firewall", "web", "8080", &["node1", "node2", "node3"])).unwrap();
    kube("-n firewall rollout status deployment/web --timeout=60s").unwrap();
    let mut services = String::new();
    let mut add = |name: &str, pool: &str| {
        services += &format!(
            "---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: {name}, namespace: firewall, annotations: {{metallb.io/address-pool: {pool}}}}}\n\
             spec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {{app: web}}, ports: [{{port: 80, \
             targetPort: 8080}}]}}\n"
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
    let first = SocketAddr::new(IpAddr::from([10, 42, 0, 0]), 80);
    eventually("an answer to a host behind the router", 20, || who_to("remote", first).map(drop));
    // On the network of the text the client is a neighbour of each address of the /28, its first and its last included.
    let _route = OnLink::route("192.168.1.48/28");
    for address in held {
        eventually(&format!("an answer of {address}"), 20, || {
            owner(address)?;
            who(address).map(drop)
        });
    }
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
    let logs = || kube("logs -l component=speaker -n metallb-system");
    let before = logs().unwrap();
    let before: BTreeSet<&str> = before.lines().collect();
    pages::run_block("moving.md", "metallb.io/import=true").unwrap();
    eventually("it to be imported", 20, || {
        let metallb = get(&["-n", NAMESPACE, "metallb", "metallb"])?;
        let said = condition(&metallb, "LegacyConfigImported");
        ensure!(said.as_ref().is_some_and(|said| said.0 == "True"), "{said:?}");
        Ok(())
    });
    let pool = get(&["-n", NAMESPACE, "ipaddresspool", "my-ip-space"]).unwrap();
    assert_eq!(pool["spec"]["addresses"], json!(["192.168.100.171-192.168.100.175"]));
    // As the text has it, to see how the configuration is updated.
    eventually("each speaker to tell that it has it", 20, || {
        let logs = logs()?;
        let told = |line: &&str| line.contains(r#""event":"configLoaded""#) && !before.contains(line);
        ensure!(logs.lines().filter(told).count() >= usize::from(cluster::nodes()?), "{logs}");
        Ok(())
    });
    apply(MYSQL).unwrap();
    let held = IpAddr::from([192, 168, 100, 171]);
    assert_eq!(address("dev", "mysql-lb").unwrap(), held);
    // A client on the network of the text reaches what is behind it.
    apply(&application("dev", "mysql", "3306", &["node1", "node2"])).unwrap();
    kube("-n dev rollout status deployment/mysql --timeout=60s").unwrap();
    let _route = OnLink::route("192.168.100.0/24");
    eventually("an answer on port 3306", 20, || who_to("client", SocketAddr::new(held, 3306)).map(drop));
    let shown = kube("get svc -n dev").unwrap();
    assert!(shown.contains("192.168.100.171") && shown.contains("3306:"), "{shown}");
}
