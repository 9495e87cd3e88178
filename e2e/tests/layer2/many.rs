//! A thousand Services at once: each is answered for, spread over three nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Instant,
};

use anyhow::{Result, anyhow, ensure};
use metallb_e2e::{
    cluster::kubectl,
    exec::{on, output, run_on},
    layout::client,
    observe::{get, kube, nodes_by_mac},
    options::Undo,
    outage::enter,
};

use crate::fixture::{Scene, eventually};

const SERVICES: usize = 1000;
/// Addresses in no network of the nodes; the client asks for them on the wire.
const POOL: &str = "198.18.0.0/22";
/// Addresses that the client asks for at a time: it remembers few.
const AT_ONCE: usize = 250;

#[test]
fn a_thousand_services_are_all_answered_for() {
    let scene = Scene::new("many", &format!("[{POOL}]"));
    let name = scene.name;
    let _route = Undo(|| drop(run_on("client", &format!("ip route del {POOL} dev eth0"))));
    run_on("client", &format!("ip route add {POOL} dev eth0")).unwrap();
    let mut services = String::new();
    for number in 0..SERVICES {
        write!(
            services,
            "---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: web{number}, namespace: {name}, annotations: {{metallb.io/address-pool: {name}}}}}\n\
             spec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {{app: web}}, \
             ports: [{{port: 80, targetPort: 8080}}]}}\n"
        )
        .unwrap();
    }
    let file = std::env::temp_dir().join(format!("metallb-e2e-many-{}.yaml", std::process::id()));
    fs::write(&file, services).unwrap();
    let started = Instant::now();
    let created = output(kubectl().args(["create", "-f"]).arg(&file));
    fs::remove_file(&file).unwrap();
    created.unwrap();
    println!("{SERVICES} Services created in {:?}", started.elapsed());

    let mut addresses = BTreeSet::new();
    eventually("each Service to have an address", 60, || {
        addresses = addresses_of(name)?;
        ensure!(addresses.len() == SERVICES, "{}", addresses.len());
        Ok(())
    });
    let nodes = nodes_by_mac().unwrap();
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    eventually("each address to be answered for", 60, || {
        let missing: Vec<IpAddr> =
            addresses.iter().filter(|address| !owners.contains_key(address)).take(AT_ONCE).copied().collect();
        owners.extend(neighbours(&missing)?);
        ensure!(owners.len() == SERVICES, "{} of {SERVICES}, and none for {missing:?}", owners.len());
        Ok(())
    });
    let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
    for mac in owners.values() {
        *loads.entry(nodes.get(mac).map_or("no node", String::as_str)).or_default() += 1;
    }
    println!("all answered for after {:?}: {loads:?}", started.elapsed());
    assert_eq!(loads.keys().copied().collect::<Vec<_>>(), ["node1", "node2", "node3"]);
    assert!(loads.values().all(|load| *load > SERVICES / 4), "{loads:?}");
    kube(&format!("-n {name} delete service --all --wait=false")).unwrap();
}

fn addresses_of(namespace: &str) -> Result<BTreeSet<IpAddr>> {
    let services = get(&["-n", namespace, "service"])?;
    let ingresses = services["items"].as_array().into_iter().flatten();
    let ingresses =
        ingresses.filter_map(|service| service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str());
    ingresses.map(|address| Ok(address.parse()?)).collect()
}

/// Who answers the client for which of the addresses.
fn neighbours(addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, String>> {
    let asked = addresses.to_vec();
    // The kernel asks by ARP for whom it is to send something.
    let ask = move || -> Result<()> {
        enter(&client())?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for address in asked {
            socket.send_to(b"?", SocketAddr::new(address, 9))?;
        }
        Ok(())
    };
    std::thread::spawn(ask).join().map_err(|_| anyhow!("the client's thread broke off"))??;
    let known = output(on("client", "ip").args(["neigh", "show", "to", POOL, "dev", "eth0"]))?;
    let found = known.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        Some((address, words.skip_while(|word| *word != "lladdr").nth(1)?.to_lowercase()))
    });
    let found = found.collect();
    // What is not answered yet is known at the next look.
    run_on("client", &format!("ip neigh flush to {POOL} dev eth0 nud reachable"))?;
    Ok(found)
}
