//! Who announces, and how it is handed over: while a client asks and connects all the time.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use metallb_e2e::{
    cluster,
    deploy::NAMESPACE,
    exec::{on, output, run_on},
    observe::{address, addresses, announcer, condition, fetch, get, kube, nodes_by_mac, owner, who_has},
    outage::Client,
    wire::Watch,
};

use crate::fixture::{Scene, eventually};

const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Takes the label away, also when the test fails.
struct Excluded(String);

impl Drop for Excluded {
    fn drop(&mut self) {
        let _ = kube(&format!("label node {} {EXCLUDE}-", self.0));
    }
}

fn served(scene: &Scene, spec: &str) -> IpAddr {
    scene.service("web", spec);
    let address = address(scene.name, "web").unwrap();
    eventually("an answer", 20, || fetch(address).map(drop));
    eventually("kube-proxy to have written all rules", 20, is_settled);
    address
}

/// Whether no kube-proxy has rules still to write: while it does, packets go past them now and then.
fn is_settled() -> Result<()> {
    for node in ["node1", "node2", "node3"] {
        let text = output(on(node, "curl").args(["-sSf", "http://127.0.0.1:10249/metrics"]))?;
        let at = |when: &str| -> Result<f64> {
            let name = format!("kubeproxy_sync_proxy_rules_last_{when}_seconds");
            // Kubernetes 1.30 does not tell the families apart.
            let value = text.lines().find_map(|line| {
                let line = line.strip_prefix(&name)?;
                line.strip_prefix("{ip_family=\"IPv4\"} ").or(line.strip_prefix(' '))
            });
            Ok(value.with_context(|| format!("{node} has no {name}"))?.parse()?)
        };
        let (asked, done) = (at("queued_timestamp")?, at("timestamp")?);
        ensure!(done >= asked, "{node}: asked at {asked}, done at {done}");
    }
    Ok(())
}

/// Fails when the client missed more than one packet. One may have reached the owner just when kube-proxy wrote its rules
/// anew: captures show that such a one goes past them, and is lost on the node.
fn assert_unbroken(client: Client) {
    let outages = client.outages().unwrap();
    println!("outages: {outages:?}");
    assert!(outages.len() <= 1 && outages.iter().all(|outage| outage.as_millis() < 1100), "{outages:?}");
}

fn moved_from(address: IpAddr, before: &str) -> Result<()> {
    let now = owner(address)?;
    ensure!(now != before, "still {now}");
    Ok(())
}

#[test]
fn a_node_that_is_excluded_hands_its_address_over_without_a_gap_and_gets_it_back() {
    if cluster::is_external() {
        return;
    }
    let scene = Scene::new("handover", "[172.22.0.188/30]");
    let address = served(&scene, "");
    let before = owner(address).unwrap();
    let (watch, client) = (Watch::start(address).unwrap(), Client::patient(address));
    let excluded = Excluded(before.clone());
    kube(&format!("label node {before} {EXCLUDE}=")).unwrap();
    eventually("another node to answer", 5, || moved_from(address, &before));
    let record = |node: &str| {
        let service = get(&["-n", scene.name, "service", "web"])?;
        let record =
            service["metadata"]["annotations"]["metallb.io/announced-from"].as_str().unwrap_or_default();
        // One node has a second interface.
        ensure!(record.starts_with(&format!("{node},eth0")), "{record}");
        Ok(())
    };
    let between = owner(address).unwrap();
    eventually("the Service to name its node", 5, || record(&between));
    drop(excluded);
    eventually("the node to take it back", 5, || {
        let now = owner(address)?;
        ensure!(now == before, "{now}");
        Ok(())
    });
    eventually("the Service to name its node", 5, || record(&before));
    let account = watch.stop().unwrap();
    println!("{address}: {account:?}");
    assert_unbroken(client);
    assert_eq!(account.owners, [before.clone(), between, before]);
    assert!(account.silence.as_millis() < 300, "{account:?}");
    assert!(account.contested.as_millis() <= 300, "both answered for too long: {account:?}");
}

#[test]
fn all_speakers_replaced_at_once_move_nothing_and_cost_no_connection() {
    if cluster::is_external() {
        return;
    }
    let scene = Scene::new("restart", "[172.22.0.192/30]");
    let address = served(&scene, "");
    let before = owner(address).unwrap();
    let (watch, client) = (Watch::start(address).unwrap(), Client::patient(address));
    let pods = "-n metallb-system delete pod -l app=metallb,component=speaker --wait=true";
    kube(pods).unwrap();
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=60s")).unwrap();
    eventually("the node to answer", 10, || {
        let now = owner(address)?;
        ensure!(now == before, "{now}");
        Ok(())
    });
    eventually("the speakers to say so", 10, || {
        let said = announcer(scene.name, "web")?;
        ensure!(said.as_ref() == Some(&before), "{said:?}");
        Ok(())
    });
    let account = watch.stop().unwrap();
    println!("{address}: {account:?}");
    assert_unbroken(client);
    assert_eq!(account.owners, [before]);
}

/// Gives the client's address up, also when the test fails.
struct Squatter(&'static str);

impl Squatter {
    fn new(address: &'static str) -> Self {
        run_on("client", &format!("ip addr add {address}/32 dev eth0")).unwrap();
        Self(address)
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        let _ = run_on("client", &format!("ip addr del {}/32 dev eth0", self.0));
    }
}

#[test]
fn an_address_that_a_foreign_host_has_is_withheld_until_it_is_free() {
    if cluster::is_external() {
        return;
    }
    let scene = Scene::new("conflict", "[172.22.0.196/32]");
    let squatter = Squatter::new("172.22.0.196");
    scene.service("web", "");
    let address = address(scene.name, "web").unwrap();
    let announced =
        || condition(&get(&["-n", scene.name, "service", "web"]).unwrap(), "metallb.io/Announced");
    let nodes = nodes_by_mac().unwrap();
    eventually("the conflict to be told", 10, || {
        let found = announced();
        let told = found.as_ref().is_some_and(|(status, reason, message)| {
            status == "False" && reason == "Conflict" && message.ends_with("has 172.22.0.196: not announced")
        });
        ensure!(told, "{found:?}");
        Ok(())
    });
    let events = || {
        let list = get(&["-n", scene.name, "events", "--field-selector=reason=addressConflict"]).unwrap();
        list["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(events(), 1);
    assert_eq!(addresses(scene.name, "web").unwrap(), [address]);
    drop(squatter);
    // Withheld: none of the nodes answers as long as the address is not asked for again.
    assert!(
        !who_has(address).unwrap().iter().any(|mac| nodes.contains_key(mac)),
        "announced without a new look"
    );
    eventually("an answer once it is free", 20, || fetch(address).map(drop));
    eventually("the conflict to be over", 10, || {
        let found = announced();
        ensure!(found.as_ref().is_some_and(|(status, ..)| status == "True"), "{found:?}");
        Ok(())
    });
    assert_eq!(events(), 1, "told once");
}
