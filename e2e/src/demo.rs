//! The demonstration: from a MetalLB resource to a client's HTTP answer, and a node that is powered off.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    cluster,
    deploy::NAMESPACE,
    exec::wait_until,
    layout::client,
    observe::{address, announcer, apply, fetch, get, kube, nodes_by_mac, owner, who_has},
    outage::Client,
    power::{self, Mode},
};

const METALLB: &str = include_str!("../demo/metallb.yaml");
const POOLS: &str = include_str!("../demo/pools.yaml");
const WEB: &str = include_str!("../demo/web.yaml");
const SERVICES: [&str; 2] = ["web", "web-ipv6"];

/// Runs it on the cluster that is up, with the operator deployed.
///
/// # Errors
/// When any step does not end as it should, saying what there was instead.
pub fn run() -> Result<()> {
    let started = Instant::now();
    apply(METALLB)?;
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s"))?;
    println!("\nMetalLB is Available after {:.1} s", started.elapsed().as_secs_f32());
    apply(POOLS)?;
    apply(WEB)?;
    kube("-n demo rollout status deployment/web --timeout=60s")?;
    let services = SERVICES
        .iter()
        .map(|service| Ok((*service, address("demo", service)?)))
        .collect::<Result<Vec<_>>>()?;
    for (service, address) in &services {
        wait_for_answer(service, *address)?;
    }
    let web = services.first().map(|(_, address)| *address).context("a Service")?;
    let who = if cluster::is_external() {
        "this machine".to_owned()
    } else {
        format!("host client ({})", client().v4())
    };
    println!("\nten answers that {who} got from http://{web}/:");
    for _ in 0..10 {
        println!("  {}", fetch(web)?);
    }
    table(&services)?;
    if cluster::is_external() {
        return Ok(());
    }
    fail_over(web)?;
    println!(
        "\nThe cluster stays up. Try next:\n  \
         e2e/kubectl -n {NAMESPACE} get metallb,addresspools,ipaddresspools,pods -o wide\n  \
         e2e/kubectl -n demo describe service web\n  \
         e2e/on client curl http://{web}/\n  \
         make power-off NODE=node1; make power-on NODE=node1\n  \
         make cluster-down"
    );
    Ok(())
}

fn wait_for_answer(service: &str, address: IpAddr) -> Result<()> {
    wait_until(&format!("an answer of Service {service} at {address}"), Duration::from_secs(20), || {
        fetch(address).map(|_| None)
    })
}

fn table(services: &[(&str, IpAddr)]) -> Result<()> {
    println!(
        "\n{:10} {:18} {:18} {:8} HARDWARE ADDRESS SEEN BY THE CLIENT",
        "SERVICE", "ADDRESS", "POOL", "NODE"
    );
    for (service, address) in services {
        let object = get(&["-n", "demo", "service", service])?;
        let pool =
            object["metadata"]["annotations"]["metallb.io/ip-allocated-from-pool"].as_str().unwrap_or("?");
        let mut node = None;
        wait_until(&format!("the announcer of {service}"), Duration::from_secs(5), || {
            node = announcer("demo", service)?;
            Ok(if node.is_some() { None } else { Some("no ServiceL2Status".to_owned()) })
        })?;
        let node = node.unwrap_or_default();
        println!("{service:10} {:18} {pool:18} {node:8} {}", address.to_string(), seen_by_client(*address)?);
    }
    Ok(())
}

/// The hardware address that answers the client, and the node that it belongs to. The hosts of an existing cluster are
/// not known.
fn seen_by_client(address: IpAddr) -> Result<String> {
    if cluster::is_external() {
        return Ok("not asked".to_owned());
    }
    let macs = who_has(address)?;
    let seen = macs.first().context("nobody answers for the address")?;
    let of = nodes_by_mac()?.get(seen).cloned().unwrap_or_default();
    Ok(format!("{seen} ({of})"))
}

fn fail_over(address: IpAddr) -> Result<()> {
    let before = owner(address)?;
    println!("\npowering off {before}, which announces {address}, while a client connects every 5 ms");
    let client = Client::start(address);
    power::off(&before, Mode::Dark)?;
    let mut after = before.clone();
    let moved = wait_until("another node to answer", Duration::from_secs(30), || {
        after = owner(address)?;
        Ok(if after == before { Some(format!("still {before}")) } else { None })
    })
    .and_then(|()| wait_for_answer("web", address));
    let outages = client.outages();
    power::on(&before)?;
    moved?;
    let longest = outages?.first().copied().unwrap_or_default();
    println!("{after} announces it now; the client was without an answer for {} ms", longest.as_millis());
    let powered = Instant::now();
    wait_until("one node alone to answer", Duration::from_secs(30), || owner(address).map(|_| None))?;
    println!(
        "{before} is powered on again; {} announces it after {} ms",
        owner(address)?,
        powered.elapsed().as_millis()
    );
    Ok(())
}
