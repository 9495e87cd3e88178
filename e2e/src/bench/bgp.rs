//! Measures the speaker's BGP: how long until a router holds all routes, and what that costs.
//!
//! etcd, the API server and BIRD are real; the speaker is a process of its own. They share a network namespace that is
//! this program's own, but for BIRD, which has another at the end of a cable. With several peers, BIRD is that many
//! routers, each with an address of its own. Prints one JSON line a measurement, a table at the end, and what is asked of the
//! figures of one router and whether it is so.

mod goals;
#[path = "bgp/scene.rs"]
mod scene;

use std::{
    ops::Range,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use goals::{Goal, Of, Table, judge};
use metallb_e2e::{
    exec::{output, run},
    plane::{
        LOAD, free_port,
        subject::{Subject, Usage},
    },
    router::Bird,
};
use nix::sched::{CloneFlags, unshare};
use scene::{NODE, Scene};
use serde_json::json;

/// No measurement takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Pause between two looks at what BIRD holds.
const LOOK: Duration = Duration::from_millis(2);
/// Services whose first change is timed, each by itself.
const CHANGES: usize = 100;
/// Host of BIRD.
const ROUTER: &str = "bench";

const FIVE_THOUSAND: &[&str] = &["5000 IPv4", "5000 IPv6"];
const TEN_THOUSAND: &[&str] = &["10000 IPv4", "10000 IPv6"];
const ALL_HELD: &str = "all held";
const FIRST_CHANGE: &str = "first change, 99 of 100";
const ONE_MORE: &str = "one Service more";

/// What is asked of tables that one router holds.
const GOALS: [Goal; 8] = [
    goal(FIVE_THOUSAND, "all held: ms", Of::Median, 1500.0),
    goal(TEN_THOUSAND, "all held: ms", Of::Median, 2500.0),
    goal(FIVE_THOUSAND, "all held: CPU s", Of::Median, 1.0),
    goal(TEN_THOUSAND, "all held: CPU s", Of::Median, 1.0),
    goal(FIVE_THOUSAND, "all held: RSS MiB", Of::Greatest, 30.0),
    goal(FIVE_THOUSAND, "one Service more: ms", Of::Median, 100.0),
    goal(TEN_THOUSAND, "one Service more: ms", Of::Median, 100.0),
    goal(&[], "first change, 99 of 100: ms", Of::Median, 50.0),
];

const fn goal(cases: &'static [&'static str], figure: &'static str, of: Of, at_most: f64) -> Goal {
    Goal { cases, figure, of, at_most, must: false }
}

/// Measure the speaker's BGP with BIRD.
#[derive(Parser)]
struct Cli {
    /// The speaker.
    #[arg(long)]
    speaker: String,
    /// Numbers of routes.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000")]
    routes: Vec<usize>,
    /// Families of the routes: 4, 6.
    #[arg(long, value_delimiter = ',', default_value = "4,6")]
    families: Vec<u8>,
    /// Number of routers, each of which is told all routes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=200))]
    peers: u8,
    /// Number of routes that each router announces to the speaker, which keeps none.
    #[arg(long, default_value_t = 0)]
    received: u32,
    /// How often each table is measured.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Let the speaker write its status objects, and wait for them.
    #[arg(long)]
    statuses: bool,
}

fn main() -> Result<()> {
    let mut cli = Cli::parse();
    // Services are made once, and stay.
    cli.routes.sort_unstable();
    // Before there is a second thread: all that follows is in the new namespace.
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    // What a killed predecessor left.
    let _ = run(&format!("ip netns del mlb-{ROUTER}"));
    run(&format!("ip netns add mlb-{ROUTER}"))?;
    let done = tokio::runtime::Runtime::new()?.block_on(measure(&cli));
    run(&format!("ip netns del mlb-{ROUTER}"))?;
    done
}

async fn measure(cli: &Cli) -> Result<()> {
    for line in [
        "ip link set lo up",
        &format!("ip link add bench0 type veth peer name eth0 netns mlb-{ROUTER}"),
        &format!("ip addr add {NODE}/16 dev bench0"),
        "ip -6 addr add fd00:99::1/64 dev bench0 nodad",
        "ip link set bench0 up",
        &format!("ip -n mlb-{ROUTER} -6 addr add fd00:99::2/64 dev eth0 nodad"),
        &format!("ip -n mlb-{ROUTER} link set eth0 up"),
        &format!("ip -n mlb-{ROUTER} link set lo up"),
    ] {
        run(line)?;
    }
    for router in scene::routers(cli.peers) {
        run(&format!("ip -n mlb-{ROUTER} addr add {router}/16 dev eth0"))?;
    }
    let mut rows = Vec::new();
    for family in &cli.families {
        let scene = Scene::start(*family, cli.peers, cli.statuses).await?;
        let mut made = 0;
        for count in &cli.routes {
            scene.services(made..*count).await?;
            made = *count;
            for _ in 0..cli.runs {
                Bench::start(cli, &scene, *count)?.run(&mut rows).await?;
            }
        }
    }
    println!("{}", shown(&rows));
    if cli.peers == 1 && cli.received == 0 {
        judge(&GOALS, &figures(&rows))?;
    }
    Ok(())
}

fn figures(rows: &[Row]) -> Table {
    let mut table = Table::new();
    for row in rows {
        let case = format!("{} IPv{}", row.routes, row.family);
        for (unit, value) in [
            ("ms", row.took.as_secs_f64() * 1000.0),
            ("CPU s", row.cpu),
            ("RSS MiB", row.rss as f64 / 1024.0),
        ] {
            table.entry((case.clone(), format!("{}: {unit}", row.what))).or_default().push(value);
        }
    }
    table
}

/// One measurement.
struct Row {
    what: &'static str,
    family: u8,
    routes: usize,
    peers: u8,
    took: Duration,
    /// CPU of the speaker in this time, in seconds.
    cpu: f64,
    /// Resident set, in KiB.
    rss: u64,
    /// UPDATE messages sent in this time.
    updates: u64,
    /// Octets sent to the routers in this time.
    octets: u64,
}

fn shown(rows: &[Row]) -> String {
    let head = ["family", "peers", "routes", "measurement", "ms", "CPU s", "RSS MiB", "UPDATEs", "octets"];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            format!("IPv{}", row.family),
            row.peers.to_string(),
            row.routes.to_string(),
            row.what.to_owned(),
            row.took.as_millis().to_string(),
            format!("{:.2}", row.cpu),
            format!("{:.1}", row.rss as f64 / 1024.0),
            row.updates.to_string(),
            row.octets.to_string(),
        ]
    }));
    let widths: [usize; 9] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or_default());
    let shown = lines.iter().map(|line| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// A speaker, and a router that holds nothing yet.
struct Bench<'a> {
    scene: &'a Scene,
    count: usize,
    received: u32,
    bird: Bird,
    speaker: Subject,
    /// Port of the speaker's metrics.
    port: u16,
    started: Instant,
    /// What was used, and sent, until the last measurement.
    used: Usage,
    sent: (u64, u64),
    /// How much of the log of requests was read.
    read: usize,
}

impl<'a> Bench<'a> {
    fn start(cli: &Cli, scene: &'a Scene, count: usize) -> Result<Self> {
        let bird = Bird::start(ROUTER, &scene.bird(cli.received))?;
        let port = free_port()?;
        let program = format!("{} --node-name node1 --host {NODE} --port {port}", cli.speaker);
        let (_, read) = scene.plane.requests(0);
        let log = scene.plane.path("speaker.log");
        let started = Instant::now();
        let speaker = Subject::start(&program, &scene.plane.subject_config(), &log)?;
        let (used, sent) = (Usage::default(), (0, 0));
        Ok(Self { scene, count, received: cli.received, bird, speaker, port, started, used, sent, read })
    }

    async fn run(mut self, rows: &mut Vec<Row>) -> Result<()> {
        let count = self.count;
        rows.push(self.until(ALL_HELD, self.started, "", count).await?);
        if self.received > 0 {
            let all = u64::from(self.received) * u64::from(self.scene.peers);
            while self.sample("bgp_routes_received")? < all {
                if self.started.elapsed() > LIMIT {
                    bail!("{} of {all} routes received", self.sample("bgp_routes_received")?);
                }
                tokio::time::sleep(LOOK * 10).await;
            }
            rows.push(self.row("all received", self.started.elapsed())?);
        }
        if self.scene.statuses {
            let started = Instant::now();
            self.scene.until_told(count, LIMIT * 5).await.with_context(|| self.log())?;
            rows.push(self.row("all statuses written", started.elapsed())?);
        }
        // Not the one that is made next: a second change of a prefix waits.
        rows.push(self.first_changes(count + 1..count + 1 + CHANGES).await?);
        let started = Instant::now();
        self.scene.service(count).await?;
        rows.push(self.until(ONE_MORE, started, "", count + 1).await?);
        let started = Instant::now();
        self.scene.delete_service(count).await?;
        rows.push(self.until("one Service less", started, "", count).await?);
        let started = Instant::now();
        self.scene.advertise("64512:2").await?;
        let filter = "&& bgp_community ~ [(64512,2)]";
        rows.push(self.until("another community on all", started, filter, count).await?);
        let started = Instant::now();
        self.scene.advertise_nothing().await?;
        rows.push(self.until("all withdrawn", started, "", 0).await?);
        self.speaker.stop().await?;
        self.scene.advertise("64512:1").await
    }

    /// Times, one after another, how long it takes from the first endpoint of each of these Services to the routers'
    /// tables, the write to the API server included; says of which time 99 of 100 are no longer.
    async fn first_changes(&mut self, numbers: Range<usize>) -> Result<Row> {
        for number in numbers.clone() {
            self.scene.service_with(number, false).await?;
        }
        let mut times = Vec::new();
        for number in numbers.clone() {
            let question = format!("show route for {}", self.scene.address(number));
            let started = Instant::now();
            self.scene.serve(number).await?;
            while self.bird.ask(&question)?.matches("[router").count() < usize::from(self.scene.peers) {
                if started.elapsed() > LIMIT {
                    bail!("{question}: BIRD says {:?}\n{}", self.bird.ask(&question)?, self.log());
                }
                tokio::time::sleep(LOOK).await;
            }
            times.push(started.elapsed());
        }
        times.sort_unstable();
        let part = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        let milliseconds = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        println!(
            "{}",
            json!({
                "first_changes": times.len(), "median_ms": milliseconds(part(50)), "p90_ms": milliseconds(part(90)),
                "p99_ms": milliseconds(part(99)), "longest_ms": milliseconds(part(100)),
            })
        );
        let row = self.row(FIRST_CHANGE, part(99))?;
        for number in numbers {
            self.scene.delete_service(number).await?;
        }
        let count = self.count;
        self.until("as before", Instant::now(), "", count).await?;
        Ok(row)
    }

    /// Waits until each router holds `count` of the speaker's routes, and says how long that took and what it cost.
    async fn until(&mut self, what: &'static str, since: Instant, filter: &str, count: usize) -> Result<Row> {
        let table = if self.scene.family == 4 { "master4" } else { "master6" };
        // Not those that the routers have of their own.
        let question = format!("show route table {table} where source = RTS_BGP {filter} count");
        let count = (count * usize::from(self.scene.peers)).to_string();
        loop {
            let said = self.bird.ask(&question)?;
            let line = said.lines().find(|line| line.contains(" of ")).unwrap_or_default();
            if line.split_whitespace().next() == Some(&count) {
                break;
            }
            if since.elapsed() > LIMIT {
                bail!("{what}: BIRD says {said:?}, and not {count}\n{}", self.log());
            }
            tokio::time::sleep(LOOK).await;
        }
        self.row(what, since.elapsed())
    }

    fn row(&mut self, what: &'static str, took: Duration) -> Result<Row> {
        let used = self.speaker.usage()?;
        let (requests, read) = self.scene.plane.requests(self.read);
        let sent = (self.sample("bgp_updates_total")?, octets()?);
        let row = Row {
            what,
            family: self.scene.family,
            routes: self.count,
            peers: self.scene.peers,
            took,
            cpu: used.cpu - self.used.cpu,
            rss: used.rss,
            updates: sent.0 - self.sent.0,
            octets: sent.1 - self.sent.1,
        };
        println!(
            "{}",
            json!({
                "measurement": what, "family": row.family, "routes": row.routes, "peers": row.peers,
                "ms": u64::try_from(took.as_millis())?, "cpu_s": row.cpu, "cpu_s_so_far": used.cpu,
                "rss_kib": used.rss, "peak_rss_kib": used.peak_rss, "updates": row.updates, "octets": row.octets,
                "requests": requests,
            })
        );
        (self.used, self.sent, self.read) = (used, sent, read);
        Ok(row)
    }

    /// The sum of a metric over all peers, by the speaker's own word.
    fn sample(&self, metric: &str) -> Result<u64> {
        let mut curl = Command::new("curl");
        curl.args(["-sSfk", "-H", &format!("Authorization: Bearer {LOAD}")]);
        let text = output(curl.arg(format!("https://127.0.0.1:{}/metrics", self.port)))?;
        let start = format!("metallb_{metric}{{");
        let samples = text.lines().filter(|line| line.starts_with(&start));
        samples.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?)).sum()
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.scene.plane.path("speaker.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }
}

/// Octets of all sessions that were sent to the routers, by the kernel's word.
fn octets() -> Result<u64> {
    let said = output(Command::new("ss").args(["-tinH", "state", "established", "dport = :179"]))?;
    let words = said.split_whitespace().filter_map(|word| word.strip_prefix("bytes_sent:"));
    words.map(|number| Ok(number.parse::<u64>()?)).sum()
}
