//! Measures the operator on a real API server and etcd: how long an installation and a repair take, and what it costs
//! beside many objects of others. Or stops leaders past their Lease and looks whether a write of theirs lands. Prints
//! one JSON line a measurement.

mod stops;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use kube::{
    Client,
    api::{DeleteParams, ListParams},
};
use metallb_e2e::plane::{
    NAMESPACE, Plane,
    objects::{self, api, create},
    subject::{Subject, operator_command},
};
use serde_json::json;

/// No single wait takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// So many renewals of the Lease it is counted what the operator writes when nothing changes.
const RENEWALS: usize = 7;
const PROBES: u16 = 18_080;
const WEBHOOKS: u16 = 18_443;

/// Measure the operator on a real API server.
#[derive(Parser)]
struct Cli {
    /// The operator's program.
    #[arg(long)]
    operator: String,
    /// Times that a MetalLB resource is made.
    #[arg(long, default_value_t = 20)]
    installations: usize,
    /// Times that an object is deleted.
    #[arg(long, default_value_t = 200)]
    repairs: usize,
    /// Pods of others.
    #[arg(long, default_value_t = 5000)]
    pods: usize,
    /// Deployments of others.
    #[arg(long, default_value_t = 2000)]
    workloads: usize,
    /// Services of others.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Instead of all this, stop a leader so many times past its Lease.
    #[arg(long, default_value_t = 0)]
    stops: usize,
    /// Pairs of operators among which the stops are spread.
    #[arg(long, default_value_t = 10)]
    pairs: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.stops > 0 {
        return stops::run(&cli.operator, cli.stops, cli.pairs).await;
    }
    let plane = Plane::start().await?;
    let client = plane.client().await?;
    let command = operator_command(&cli.operator, NAMESPACE, "bench", PROBES, WEBHOOKS);
    let start = || Subject::start(&command, &plane.subject_config(), &plane.path("operator.log"));

    let began = Instant::now();
    let subject = start()?;
    ready(began).await?;
    print("start to ready, empty cluster", &[began.elapsed()]);
    let mut installed = Vec::new();
    for round in 0..cli.installations {
        if round > 0 {
            remove(&client).await?;
        }
        installed.push(install(&client).await?);
    }
    print("resource created to both workloads created", &installed);
    print("object deleted to object there again", &repairs(&client, cli.repairs).await?);
    subject.stop().await?;
    let subject = start()?;
    plane.writes_at_rest(1).await?;
    memory("memory, alone", &subject)?;
    subject.stop().await?;

    objects::fill(&client, cli.pods, cli.workloads, cli.services).await?;
    let began = Instant::now();
    let subject = start()?;
    ready(began).await?;
    print("start to ready, full cluster", &[began.elapsed()]);
    print("first repair, full cluster", &repairs(&client, 1).await?);
    let writes = plane.writes_at_rest(RENEWALS).await?;
    print("object deleted to object there again, full cluster", &repairs(&client, cli.repairs).await?);
    println!("{}", json!({"measurement": "writes while the Lease was renewed 7 times", "writes": writes}));
    memory("memory beside objects of others", &subject)?;
    subject.stop().await
}

fn memory(what: &str, subject: &Subject) -> Result<()> {
    let usage = subject.usage()?;
    println!(
        "{}",
        json!({"measurement": what, "rss_mib": round(usage.rss as f64 / 1024.0),
               "peak_rss_mib": round(usage.peak_rss as f64 / 1024.0), "cpu_s": round(usage.cpu)})
    );
    Ok(())
}

/// Kinds whose repair is measured; what is deleted is no quarrel.
const REPAIRED: [(&str, &str, &str); 4] = [
    ("apps/v1", "DaemonSet", "speaker"),
    ("apps/v1", "Deployment", "controller"),
    ("v1", "ConfigMap", "metallb-excludel2"),
    ("networking.k8s.io/v1", "NetworkPolicy", "controller"),
];

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn print(what: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |share: f64| {
        let index = ((sorted.len() - 1) as f64 * share).round() as usize;
        sorted.get(index).map(|time| round(time.as_secs_f64() * 1000.0))
    };
    println!(
        "{}",
        json!({"measurement": what, "count": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
    );
}

/// Waits until `/readyz` says so.
async fn ready(began: Instant) -> Result<()> {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", PROBES))?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().is_some_and(|line| line.contains(" 200 ")))
    };
    while !ask().unwrap_or(false) {
        if began.elapsed() > LIMIT {
            bail!("the operator is not ready after {} s", LIMIT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Asks again until `check` has something.
async fn wait<T>(what: &str, mut check: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = check().await? {
            return Ok(found);
        }
        if began.elapsed() > LIMIT {
            bail!("waited {} s for {what}", LIMIT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn install(client: &Client) -> Result<Duration> {
    let began = Instant::now();
    let metallb = json!({"metadata": {"name": "metallb"}});
    create(client, "metallb.io/v1beta1", "MetalLB", NAMESPACE, metallb).await?;
    let deployments = api(client, "apps/v1", "Deployment", NAMESPACE);
    let daemon_sets = api(client, "apps/v1", "DaemonSet", NAMESPACE);
    wait("both workloads", async || {
        let (controller, speaker) = tokio::try_join!(
            deployments.get_metadata_opt("controller"),
            daemon_sets.get_metadata_opt("speaker")
        )?;
        Ok(controller.and(speaker).map(drop))
    })
    .await?;
    Ok(began.elapsed())
}

/// Removes an installation; nobody else here collects what it owned.
async fn remove(client: &Client) -> Result<()> {
    let params = DeleteParams::default();
    let metallbs = api(client, "metallb.io/v1beta1", "MetalLB", NAMESPACE);
    metallbs.delete("metallb", &params).await?;
    let owned = ListParams::default().labels("app=metallb");
    for (version, kind) in [
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    ] {
        let kind = api(client, version, kind, NAMESPACE);
        wait("what was installed to go", async || {
            kind.delete_collection(&params, &owned).await?;
            Ok(kind.list_metadata(&owned).await?.items.is_empty().then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn repairs(client: &Client, count: usize) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for (version, kind, name) in REPAIRED.into_iter().cycle().take(count) {
        took.push(repair(client, version, kind, name).await?);
    }
    Ok(took)
}

async fn repair(client: &Client, version: &str, kind: &str, name: &str) -> Result<Duration> {
    let kind = api(client, version, kind, NAMESPACE);
    let before = wait("the object", async || Ok(kind.get_metadata_opt(name).await?)).await?.metadata.uid;
    kind.delete(name, &DeleteParams::background()).await?;
    let began = Instant::now();
    wait("the object to be there again", async || {
        let now = kind.get_metadata_opt(name).await?;
        Ok(now.filter(|object| object.metadata.uid != before).map(drop))
    })
    .await
    .with_context(|| name.to_owned())?;
    Ok(began.elapsed())
}
