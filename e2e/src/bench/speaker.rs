//! Measures one speaker alone: what a flood of ARP costs it, how soon it answers, and what it holds in memory.
//!
//! etcd and the API server are real; the speaker is a process of its own. They are in a network namespace that is this
//! program's own; whoever asks by ARP is in another, at the end of a cable. Prints one JSON line a measurement, and then
//! what is asked of the figures and whether it is so; fails where one is missed that depends on no machine.

mod asker;
mod goals;

use std::{
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use metallb_e2e::{
    exec::run,
    plane::{NAMESPACE, Plane, objects, subject::Subject},
};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use asker::{ASKER, FIRST, Flood, Frames, Wire};
use goals::{Goal, Of, Table, judge};

/// Namespace of the Services.
const SERVICES: &str = "default";
/// No step takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Requests of the generator that are under way at one time.
const PARALLEL: usize = 16;
/// Claims of other hosts a second, of one announced address.
const CLAIMS: u64 = 1000;

const GOALS: [Goal; 9] = [
    goal(&["flood"], "replies at rest: p99_us", 1000.0, false),
    goal(&["flood"], "replies in the flood: p99_us", 1000.0, false),
    goal(&["flood"], "replies among claims: p99_us", 1000.0, false),
    goal(&["flood"], "replies in the flood: cpu_percent", 5.0, false),
    goal(&["services"], "rest: rss_kib", 15.0 * 1024.0, true),
    goal(&["large"], "rest: rss_kib", 60.0 * 1024.0, true),
    goal(&["flood"], "rest: cpu_percent", 0.1, true),
    goal(&["services"], "rest: cpu_percent", 0.1, true),
    goal(&["large"], "rest: cpu_percent", 0.1, true),
];

const fn goal(cases: &'static [&'static str], figure: &'static str, at_most: f64, must: bool) -> Goal {
    let of = if must { Of::Greatest } else { Of::Median };
    Goal { cases, figure, of, at_most, must }
}

/// Measure one speaker alone.
#[derive(Parser)]
struct Cli {
    /// The speaker.
    #[arg(long)]
    speaker: String,
    /// Cases: flood, services, large; all by default.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Seconds of each flood and each rest.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Questions for foreign addresses a second.
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
}

/// What is in the cluster.
#[derive(Clone, Copy)]
struct Fill {
    name: &'static str,
    /// Services of type LoadBalancer with an address, each with one endpoint.
    announced: usize,
    /// Other Services.
    others: usize,
    /// Endpoints of those, in all.
    endpoints: usize,
}

const FILLS: [Fill; 3] = [
    Fill { name: "flood", announced: 5000, others: 0, endpoints: 0 },
    Fill { name: "services", announced: 1000, others: 0, endpoints: 0 },
    Fill { name: "large", announced: 200, others: 19_800, endpoints: 50_000 },
];

fn main() -> Result<()> {
    let cli = Cli::parse();
    // Before there is a second thread: all that follows is in the new namespace.
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    // What a killed predecessor left.
    let _ = run(&format!("ip netns del {ASKER}"));
    run(&format!("ip netns add {ASKER}"))?;
    let done = tokio::runtime::Runtime::new()?.block_on(measure(&cli));
    run(&format!("ip netns del {ASKER}"))?;
    done
}

async fn measure(cli: &Cli) -> Result<()> {
    let table = Mutex::new(Table::new());
    for line in [
        "ip link set lo up",
        &format!("ip link add bench0 type veth peer name eth0 netns {ASKER}"),
        "ip addr add 198.18.255.1/15 dev bench0",
        "ip link set bench0 up",
        &format!("ip -n {ASKER} addr add 198.18.255.2/15 dev eth0"),
        &format!("ip -n {ASKER} link set eth0 up"),
    ] {
        run(line)?;
    }
    for fill in FILLS
        .into_iter()
        .filter(|fill| cli.cases.is_empty() || cli.cases.iter().any(|case| case == fill.name))
    {
        Bench { cli, fill, plane: Plane::start().await?, table: &table }.run().await.context(fill.name)?;
    }
    judge(&GOALS, &table.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Bench<'a> {
    cli: &'a Cli,
    fill: Fill,
    plane: Plane,
    table: &'a Mutex<Table>,
}

impl Bench<'_> {
    async fn run(&self) -> Result<()> {
        let client = self.plane.client().await?;
        let fill = self.fill;
        let cluster = Cluster(client);
        cluster.create("Node", "", "v1", None, json!({ "metadata": { "name": "node1" } })).await?;
        cluster.metallb("IPAddressPool", json!({ "addresses": ["198.18.0.0/15"] })).await?;
        cluster.metallb("L2Advertisement", json!({})).await?;
        let of_each = fill.endpoints.checked_div(fill.others).unwrap_or(0).max(1);
        let announced = (0..fill.announced).map(|number| (number, true));
        let more = fill.endpoints.saturating_sub(of_each * fill.others);
        let others = (0..fill.others).map(|number| (number, false));
        stream::iter(announced.chain(others))
            .map(|(number, announced)| {
                let endpoints = if announced { 1 } else { of_each + usize::from(number < more) };
                cluster.service(number, announced, endpoints)
            })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        let program = format!("{} --node-name node1 --port 0 --wire-check Off", self.cli.speaker);
        let speaker =
            Subject::start(&program, &self.plane.subject_config(), &self.plane.path("speaker.log"))?;
        let wire = Wire::open()?;
        let last = u32::try_from(fill.announced)? - 1;
        let started = Instant::now();
        while wire.ask(FIRST + last, Duration::from_millis(50))?.is_none() {
            if started.elapsed() > LIMIT {
                bail!("no answer for the last address\n{}", self.log());
            }
        }
        let took = json!({ "ms": u64::try_from(started.elapsed().as_millis())? });
        self.print("started", &took, &speaker)?;
        if fill.name == "flood" {
            self.replies("replies at rest", &wire, &speaker, None)?;
            self.replies("replies in the flood", &wire, &speaker, Some((Flood::FOREIGN, self.cli.rate)))?;
            self.replies("replies among claims", &wire, &speaker, Some((Flood::CLAIMS, CLAIMS)))?;
        }
        // Reports and gratuitous frames of the start are over once nothing is spent any more.
        self.rest(&speaker).await?;
        speaker.stop().await
    }

    /// Asks for announced addresses, while as many other frames a second are sent.
    fn replies(
        &self,
        what: &str,
        wire: &Wire,
        speaker: &Subject,
        flood: Option<(Frames, u64)>,
    ) -> Result<()> {
        let flood = flood.map(|(frames, rate)| Flood::start(frames, rate));
        let (before, started) = (speaker.usage()?.cpu, Instant::now());
        let (mut times, mut lost, mut number) = (Vec::new(), 0_u32, 0);
        while started.elapsed() < Duration::from_secs(self.cli.seconds) {
            number = (number + 7919) % u32::try_from(self.fill.announced)?;
            match wire.ask(FIRST + number, Duration::from_millis(100))? {
                Some(took) => times.push(took),
                None => lost += 1,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let (spent, elapsed) = (speaker.usage()?.cpu - before, started.elapsed().as_secs_f64());
        let sent = flood.map_or(Ok(0), Flood::stop)?;
        times.sort();
        let percentile = |part: usize| {
            let at = times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
            at.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
        };
        let row = json!({
            "questions": times.len(), "lost": lost, "p50_us": percentile(50), "p99_us": percentile(99),
            "others_a_second": f64::from(u32::try_from(sent)?) / elapsed, "cpu_percent": spent / elapsed * 100.0,
        });
        self.print(what, &row, speaker)
    }

    /// What it costs to do nothing.
    async fn rest(&self, speaker: &Subject) -> Result<()> {
        let started = Instant::now();
        let time = Duration::from_secs(self.cli.seconds);
        loop {
            let (before, at) = (speaker.usage()?.cpu, Instant::now());
            tokio::time::sleep(time).await;
            let percent = (speaker.usage()?.cpu - before) / at.elapsed().as_secs_f64() * 100.0;
            // A clock tick is all that shows of less than a tenth of a percent.
            if percent < 0.1 || started.elapsed() > LIMIT * 3 {
                let row = json!({ "cpu_percent": percent, "s": time.as_secs(), "after_s": started.elapsed().as_secs() });
                return self.print("rest", &row, speaker);
            }
        }
    }

    fn print(&self, what: &str, row: &Value, speaker: &Subject) -> Result<()> {
        let usage = speaker.usage()?;
        let rss = usage.rss.into();
        let figures = row.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value));
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in figures.chain([("rss_kib", &rss)]) {
            let figure = (self.fill.name.to_owned(), format!("{what}: {name}"));
            table.entry(figure).or_default().extend(value.as_f64());
        }
        println!(
            "{}",
            json!({
                "case": self.fill.name, "measurement": what, "figures": row, "rss_kib": usage.rss,
                "peak_rss_kib": usage.peak_rss, "cpu_s_so_far": usage.cpu,
            })
        );
        Ok(())
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.plane.path("speaker.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

struct Cluster(Client);

impl Cluster {
    async fn create(
        &self,
        kind: &str,
        group: &str,
        version: &str,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<()> {
        let version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        objects::create(&self.0, &version, kind, namespace.unwrap_or_default(), object).await
    }

    async fn metallb(&self, kind: &str, spec: Value) -> Result<()> {
        let object = json!({ "metadata": { "name": "bench" }, "spec": spec });
        self.create(kind, "metallb.io", "v1beta1", Some(NAMESPACE), object).await
    }

    async fn service(&self, number: usize, announced: bool, endpoints: usize) -> Result<()> {
        let name = if announced { format!("web-{number}") } else { format!("inner-{number}") };
        let endpoint = |number: usize| json!({ "addresses": [format!("10.0.0.{}", number + 1)], "nodeName": "node1", "conditions": { "ready": true } });
        let slice = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [], "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        });
        self.create("EndpointSlice", "discovery.k8s.io", "v1", Some(SERVICES), slice).await?;
        let mut spec = json!({ "type": "ClusterIP", "ports": [{ "port": 80 }] });
        if announced {
            spec["type"] = json!("LoadBalancer");
            spec["allocateLoadBalancerNodePorts"] = json!(false);
        }
        self.create(
            "Service",
            "",
            "v1",
            Some(SERVICES),
            json!({ "metadata": { "name": name }, "spec": spec }),
        )
        .await?;
        if announced {
            let address = Ipv4Addr::from(FIRST + u32::try_from(number)?);
            let status =
                json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address.to_string() }] } } });
            let api = objects::api(&self.0, "v1", "Service", SERVICES);
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        }
        Ok(())
    }
}
