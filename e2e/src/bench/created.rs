//! How soon a new Service's address is answered for: from its creation to the first answer by ARP.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use metallb_e2e::{
    cluster::kubeconfig,
    exec::wait_until,
    layout::cp,
    observe::{kube, who_has},
    options,
    outage::enter,
    wire::{self, Watch},
};
use serde_json::json;

use super::{FRESH, NAME, ms};

/// The address that each of the Services gets, and its pool.
pub(crate) const ADDRESS: &str = "172.22.0.235";

/// With the probe for other hosts that have the address, as by default, and without.
pub(crate) const CASES: [&str; 2] = ["created", "created-unprobed"];

/// The milliseconds that each of `runs` Services took.
pub(crate) fn run(case: &str, runs: usize) -> Result<Vec<f64>> {
    let unprobed = (case == "created-unprobed")
        .then(|| options::layer2(r#"{"conflictProbe":"Off"}"#, "--conflict-probe=Off"))
        .transpose()?;
    let times = (0..runs).map(|_| once()).collect();
    drop(unprobed);
    times
}

/// Creates a Service, waits until its address is answered for, and removes it; returns the milliseconds that it took.
fn once() -> Result<f64> {
    let address: IpAddr = ADDRESS.parse()?;
    let watch = Watch::begin(address)?;
    let created =
        std::thread::spawn(create).join().map_err(|_| anyhow!("the client's thread broke off"))??;
    let mut first = None;
    wait_until("an answer", Duration::from_secs(20), || {
        first = watch.answers()?.first().map(|answer| answer.at);
        Ok(first.is_none().then(|| "no answer".to_owned()))
    })?;
    let first = first.context("no answer")?;
    kube(&format!("-n {NAME} delete service fresh"))?;
    wait_until("nobody to answer", Duration::from_secs(20), || {
        let owners = who_has(address)?;
        Ok((!owners.is_empty()).then(|| owners.join(", ")))
    })?;
    Ok(ms(Duration::from_secs_f64((first - created).max(0.0))))
}

/// Creates the Service from the host of the API server, and returns the time just before.
fn create() -> Result<f64> {
    enter(&cp())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = Kubeconfig::read_from(kubeconfig())?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let api: Api<Service> = Api::namespaced(Client::try_from(config)?, NAME);
        let service: Service = serde_json::from_value(json!({
            "metadata": { "name": "fresh", "annotations": { "metallb.io/address-pool": FRESH } },
            "spec": { "type": "LoadBalancer", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        }))?;
        // Opens the connection, so that its making is not measured.
        api.get_opt("fresh").await?;
        let before = wire::now();
        api.create(&PostParams::default(), &service).await?;
        Ok(before)
    })
}
