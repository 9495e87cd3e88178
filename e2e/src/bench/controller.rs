//! Measures controllers: how long Services wait for their address, and what that costs.
//!
//! The load is made by this program, the API server and etcd are real, and each controller named by `--controller` is a
//! process of its own, run under the same load one after the other. Prints one JSON line a measurement, then a table.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use ipnet::IpNet;
use metallb_e2e::plane::{
    Plane,
    load::Load,
    subject::{Subject, Usage},
    watchers::Watchers,
};
use serde_json::{Value, json};

/// No measurement takes longer; a controller that needs more is reported as an error.
const LIMIT: Duration = Duration::from_secs(900);
/// The controller is at rest when it has asked for nothing but its Lease for so long.
const REST: Duration = Duration::from_secs(2);
/// The pool, unless another is asked for, and that which is filled.
const POOL: &str = "10.99.0.0/16";
/// Addresses of [`POOL`].
const SIZE: usize = 65_536;
/// Services of which the cost at one degree of filling is told.
const STEP: usize = 8192;

/// Measure controllers on a real API server.
#[derive(Parser)]
struct Cli {
    /// A controller and its arguments, separated by blanks. May be given more than once.
    #[arg(long = "controller", required = true)]
    controllers: Vec<String>,
    /// Numbers of Services.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    services: Vec<usize>,
    /// Also fill a /16 to its last address and let a thousand Services wait for one.
    #[arg(long)]
    full_pool: bool,
    /// The pool of all other measurements; an IPv6 one is for Services of that family.
    #[arg(long, default_value = POOL, conflicts_with = "full_pool")]
    pool: IpNet,
    /// Also create Services while so many others watch what speakers watch; of several numbers, with one after another.
    #[arg(long, value_delimiter = ',')]
    watchers: Vec<usize>,
    /// With an L2Advertisement: what is said of announcing is a write of its own then.
    #[arg(long)]
    advertised: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut rows = Vec::new();
    for count in &cli.services {
        for controller in &cli.controllers {
            let mut bench = Bench::start(controller, *count, cli.pool).await?;
            let ran = bench.run(&cli).await;
            rows.append(&mut bench.rows);
            if ran.is_err() {
                print_table(&rows);
                return ran;
            }
        }
    }
    print_table(&rows);
    Ok(())
}

/// One controller under one load.
struct Bench {
    controller: String,
    count: usize,
    plane: Plane,
    load: Load,
    rows: Vec<Value>,
    read: usize,
}

impl Bench {
    async fn start(controller: &str, count: usize, pool: IpNet) -> Result<Self> {
        let plane = Plane::start().await?;
        let family = if pool.addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let load = Load::new(plane.client().await?).of_families(&[family]);
        load.pool("main", &json!({ "addresses": [pool.to_string()] })).await?;
        let controller = controller.to_owned();
        Ok(Self { controller, count, plane, load, rows: Vec::new(), read: 0 })
    }

    fn subject(&self) -> Result<Subject> {
        let log = self.plane.path("controller.log");
        Subject::start(&self.controller, &self.plane.subject_config(), &log)
    }

    /// Notes a measurement: its own facts, what the process used since `before`, and what it asked for.
    async fn note(&mut self, what: &str, facts: Value, subject: &Subject, before: Usage) -> Result<()> {
        let usage = subject.usage()?;
        self.rest().await?;
        let settled = subject.usage()?;
        let (requests, read) = self.plane.requests(self.read);
        self.read = read;
        let mut row = json!({
            "controller": self.controller.split_whitespace().next(),
            "services": self.count,
            "measurement": what,
            "cpu_s": round(usage.cpu - before.cpu),
            "cpu_at_rest_s": round(settled.cpu - before.cpu),
            "rss_mib": settled.rss / 1024,
            "peak_rss_mib": settled.peak_rss / 1024,
            "requests": requests,
        });
        for (key, value) in facts.as_object().into_iter().flatten() {
            row[key] = value.clone();
        }
        println!("{row}");
        self.rows.push(row);
        Ok(())
    }

    /// Waits until the controller asks for nothing but its Lease any more.
    async fn rest(&self) -> Result<()> {
        let busy = |requests: &BTreeMap<String, usize>| -> usize {
            requests.iter().filter(|(what, _)| !what.contains("leases")).map(|(_, count)| count).sum()
        };
        let started = Instant::now();
        let (mut since, mut before) = (started, usize::MAX);
        while since.elapsed() < REST {
            ensure!(started.elapsed() < LIMIT, "the controller does not come to rest");
            let now = busy(&self.plane.requests(self.read).0);
            if now != before {
                (since, before) = (Instant::now(), now);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn run(&mut self, cli: &Cli) -> Result<()> {
        if cli.advertised {
            self.load.configure("L2Advertisement", "all", &json!({})).await?;
        }
        self.load.create("held", 0..self.count).await?;
        let (_, read) = self.plane.requests(0);
        self.read = read;

        let started = Instant::now();
        let subject = self.subject()?;
        let seen = self.load.wait_for_count(self.count, LIMIT).await?;
        let last = seen.values().max().map_or(0.0, |last| (*last - started).as_secs_f64());
        let facts = json!({ "last_address_s": round(last) });
        self.note("waiting at start", facts, &subject, Usage::default()).await?;
        subject.stop().await?;

        let started = Instant::now();
        let subject = self.subject()?;
        let facts = json!({ "new_service_s": round(self.one("restart", started).await?) });
        self.note("restart", facts, &subject, Usage::default()).await?;

        let before = subject.usage()?;
        self.load
            .pool("unrelated", &json!({ "addresses": ["198.51.100.0/28"], "autoAssign": false }))
            .await?;
        let facts = json!({ "new_service_s": round(self.one("unrelated", Instant::now()).await?) });
        self.note("unrelated pool added", facts, &subject, before).await?;

        let before = subject.usage()?;
        self.load.pool("main", &json!({ "addresses": [cli.pool.to_string(), "203.0.113.0/24"] })).await?;
        let facts = json!({ "new_service_s": round(self.one("widened", Instant::now()).await?) });
        self.note("pool widened", facts, &subject, before).await?;

        let before = subject.usage()?;
        self.load.delete(vec!["held-0".to_owned()]).await?;
        self.note("one deleted", json!({}), &subject, before).await?;

        let before = subject.usage()?;
        let facts = self.burst("burst").await?;
        self.note("1000 created at full speed", facts, &subject, before).await?;

        for number in &cli.watchers {
            let mut watchers = Watchers::start(self.plane.client().await?, *number).await?;
            self.rest().await?;
            let (before, read) = (subject.usage()?, watchers.bytes_each());
            let mut facts = self.burst(&format!("watched{number}")).await?;
            self.rest().await?;
            facts["watch_bytes_per_allocation"] = json!(((watchers.bytes_each() - read) / 1000.0).round());
            facts["watchers"] = json!(watchers.open());
            self.note("1000 created, with watchers", facts, &subject, before).await?;
        }

        let before = subject.usage()?;
        let mut waits = Vec::new();
        for number in 0..50 {
            waits.push(self.one(&format!("single{number}"), Instant::now()).await?);
        }
        waits.sort_by(f64::total_cmp);
        let facts = json!({ "p50_s": round(waits[25]), "p99_s": round(waits[49]) });
        self.note("50 created one by one", facts, &subject, before).await?;

        if cli.full_pool {
            self.fill(&subject).await?;
        }
        let surprises = self.load.surprises();
        ensure!(surprises.is_empty(), "{} surprises: {:?}", surprises.len(), surprises.first());
        subject.stop().await
    }

    /// Creates 1,000 Services as fast as the API server takes them; returns how long they wait for their address.
    async fn burst(&self, prefix: &str) -> Result<Value> {
        let created = self.load.create(prefix, 0..1000).await?;
        let seen = self.load.wait_for(&created.keys().cloned().collect(), LIMIT).await?;
        let waited = |(name, created): (&String, &Instant)| {
            Some(seen.get(name)?.saturating_duration_since(*created).as_secs_f64())
        };
        let mut waits: Vec<_> = created.iter().filter_map(waited).collect();
        waits.sort_by(f64::total_cmp);
        let at = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default();
        Ok(json!({ "p50_s": round(at(50)), "p99_s": round(at(99)) }))
    }

    /// Fills the pool to the last address, then frees one a second while a thousand Services wait.
    async fn fill(&mut self, subject: &Subject) -> Result<()> {
        self.load.pool("main", &json!({ "addresses": [POOL] })).await?;
        let before = subject.usage()?;
        let held = self.load.addressed();
        let started = Instant::now();
        // What an address costs while the pool is nearly empty, and so on until it is full.
        let (mut cost, mut made) = (Vec::new(), 0);
        while held + made < SIZE {
            let (next, cpu) = ((made + STEP).min(SIZE - held), subject.usage()?.cpu);
            self.load.create("fill", made..next).await?;
            self.load.wait_for_count(held + next, LIMIT).await?;
            cost.push(round((subject.usage()?.cpu - cpu) * 1000.0 / (next - made) as f64));
            made = next;
        }
        let facts = json!({
            "last_address_s": round(started.elapsed().as_secs_f64()), "cpu_ms_by_eighths": cost,
        });
        self.note("a /16 filled to its last address", facts, subject, before).await?;

        let before = subject.usage()?;
        self.load.create("queued", 0..1000).await?;
        self.note("1000 told that there is none", json!({}), subject, before).await?;

        let before = subject.usage()?;
        let mut waits = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        for number in 0..30 {
            ticks.tick().await;
            let freed = Instant::now();
            self.load.delete(vec![format!("fill-{number}")]).await?;
            self.load.wait_for_count(SIZE, LIMIT).await?;
            waits.push(freed.elapsed().as_secs_f64());
        }
        waits.sort_by(f64::total_cmp);
        let facts = json!({ "p50_s": round(waits[15]), "p99_s": round(waits[29]) });
        self.note("30 freed, one a second", facts, subject, before).await
    }

    /// Seconds from `since` until a Service that is created now is seen with its address.
    async fn one(&self, prefix: &str, since: Instant) -> Result<f64> {
        let created = self.load.create(prefix, 0..1).await?;
        let names: BTreeSet<_> = created.into_keys().collect();
        let seen = self.load.wait_for(&names, LIMIT).await?;
        Ok(seen.values().max().map_or(0.0, |seen| seen.saturating_duration_since(since).as_secs_f64()))
    }
}

/// To the tenth of a millisecond.
fn round(seconds: f64) -> f64 {
    (seconds * 10_000.0).round() / 10_000.0
}

fn print_table(rows: &[Value]) {
    println!();
    println!(
        "{:<34} {:>8} {:>32} {:>9} {:>9} {:>9}  writes",
        "measurement", "services", "time", "CPU s", "RSS MiB", "peak MiB"
    );
    for row in rows {
        let time: Vec<_> = ["last_address_s", "new_service_s", "p50_s", "p99_s"]
            .iter()
            .filter_map(|key| Some(format!("{} {:.4}", key.trim_end_matches("_s"), row[key].as_f64()?)))
            .collect();
        let bytes = row["watch_bytes_per_allocation"].as_f64();
        let bytes = bytes.map(|bytes| format!("; {bytes} B per allocation to each of {}", row["watchers"]));
        let writes: Vec<_> = row["requests"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(what, _)| !["get ", "list ", "watch "].iter().any(|read| what.starts_with(read)))
            .filter(|(what, _)| !what.contains("leases"))
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        println!(
            "{:<34} {:>8} {:>32} {:>9.3} {:>9} {:>9}  {}{}",
            row["measurement"].as_str().unwrap_or_default(),
            row["services"],
            time.join(", "),
            row["cpu_at_rest_s"].as_f64().unwrap_or_default(),
            row["rss_mib"],
            row["peak_rss_mib"],
            writes.join(", "),
            bytes.unwrap_or_default()
        );
    }
}
