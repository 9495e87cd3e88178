//! Measures fail-over on layer 2 on the cluster that is up, with the operator deployed: each case many times, by clients
//! that connect, that only ask by ARP, that ignore gratuitous ARP, and that hold connections.
//!
//! Prints one JSON line a run, then a table of least, median and greatest.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{run_on, wait_until},
    layout::{client, node, router},
    observe::{address, apply, fetch, kube, owner},
    outage::{self, Client},
    power::{self, Mode},
    wire::{self, Watch},
};
use nix::sys::signal::Signal;
use serde_json::json;

const WEB: &str = include_str!("../../demo/web.yaml");
const METALLB: &str = include_str!("../../demo/metallb.yaml");
/// Namespace, pool and what else the benchmark makes.
const NAME: &str = "bench";
/// Time after the last change in which nothing more may move.
const CALM: Duration = Duration::from_secs(2);

/// Measure fail-over on layer 2.
#[derive(Parser)]
struct Cli {
    /// How often each case is run.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Cases; all by default.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Connections that are held open.
    #[arg(long, default_value_t = 200)]
    connections: usize,
}

/// What happens to the announcing node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    PowerOffDark,
    PowerOffLink,
    SpeakerKilled,
    SpeakerTerminated,
    Rollout,
    Partition,
}

const CASES: [(&str, Case); 6] = [
    ("power-off-dark", Case::PowerOffDark),
    ("power-off-link", Case::PowerOffLink),
    ("speaker-sigkill", Case::SpeakerKilled),
    ("speaker-sigterm", Case::SpeakerTerminated),
    ("rollout", Case::Rollout),
    ("partition", Case::Partition),
];

fn main() -> Result<()> {
    let cli = Cli::parse();
    let chosen: Vec<(&str, Case)> = if cli.cases.is_empty() {
        CASES.to_vec()
    } else {
        let find = |name: &String| CASES.into_iter().find(|(known, _)| known == name);
        cli.cases
            .iter()
            .map(|name| find(name).with_context(|| format!("no case {name:?}")))
            .collect::<Result<_>>()?
    };
    let address = set_up()?;
    let mut table: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for (name, case) in chosen {
        for number in 1..=cli.runs {
            let figures =
                run(case, address, cli.connections).with_context(|| format!("{name}, run {number}"))?;
            println!("{}", json!({ "case": name, "run": number, "figures": figures }));
            for (what, value) in figures {
                table.entry((name, what)).or_default().push(value);
            }
        }
    }
    kube(&format!("delete namespace {NAME}"))?;
    kube(&format!("-n {NAMESPACE} delete addresspool {NAME}"))?;
    println!("\n{:<18} {:<24} {:>8} {:>8} {:>8}", "case", "figure", "min", "median", "max");
    for ((case, what), mut values) in table {
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(median), Some(most)) =
            (values.first(), values.get(values.len() / 2), values.last())
        else {
            continue;
        };
        println!("{case:<18} {what:<24} {least:>8.0} {median:>8.0} {most:>8.0}");
    }
    Ok(())
}

/// A Service of three pods, reached from every node.
fn set_up() -> Result<IpAddr> {
    apply(METALLB)?;
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s"))?;
    apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: {NAME}, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [172.22.0.234/32], autoAssign: false}}\n"
    ))?;
    let workload = WEB.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
    apply(&workload.replace("name: demo", "name: bench").replace("namespace: demo", "namespace: bench"))?;
    apply(&format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: web, namespace: {NAME}, annotations: {{metallb.io/address-pool: {NAME}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    ))?;
    kube(&format!("-n {NAME} rollout status deployment/web --timeout=60s"))?;
    let address = address(NAME, "web")?;
    wait_until("an answer", Duration::from_secs(20), || fetch(address).map(|_| None))?;
    Ok(address)
}

/// Makes host router deaf to gratuitous ARP, as some routers are; undone when it goes.
struct Deaf;

impl Deaf {
    fn new() -> Result<Self> {
        for rule in [
            "add table arp deaf",
            "add chain arp deaf in { type filter hook input priority 0; }",
            "add rule arp deaf in arp operation reply arp daddr ether ff:ff:ff:ff:ff:ff drop",
            // A gratuitous request names the address as its sender's; questions of others for it do not.
            "add rule arp deaf in arp operation request arp saddr ip 172.22.0.234 drop",
        ] {
            run_on("router", &format!("nft {rule}"))?;
        }
        Ok(Self)
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        let _ = run_on("router", "nft delete table arp deaf");
    }
}

/// Connections that were made before, and are used after.
struct Held(Vec<TcpStream>);

impl Held {
    fn open(address: IpAddr, count: usize) -> Result<Self> {
        let open = move || -> Result<Vec<TcpStream>> {
            outage::enter(&client())?;
            let target = SocketAddr::new(address, 80);
            (0..count).map(|_| Ok(TcpStream::connect_timeout(&target, Duration::from_secs(2))?)).collect()
        };
        Ok(Self(std::thread::spawn(open).join().ok().context("the thread of the connections ended")??))
    }

    /// How many of them do not answer any more.
    fn broken(self) -> usize {
        let ask = |mut stream: TcpStream| -> std::io::Result<bool> {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer.starts_with(b"HTTP/1."))
        };
        let threads: Vec<_> =
            self.0.into_iter().map(|stream| std::thread::spawn(move || ask(stream))).collect();
        threads
            .into_iter()
            .map(std::thread::JoinHandle::join)
            .filter(|answer| !matches!(answer, Ok(Ok(true))))
            .count()
    }
}

/// Mends the cluster whatever happened.
struct Mended(String);

impl Drop for Mended {
    fn drop(&mut self) {
        let _ = power::on(&self.0);
        let _ = run_on("lan", "nft delete table bridge halves");
    }
}

fn run(case: Case, address: IpAddr, connections: usize) -> Result<BTreeMap<&'static str, f64>> {
    let before = settled(address)?;
    let deaf = Deaf::new()?;
    let (watch, connecting, stubborn) =
        (Watch::start(address)?, Client::start(address), Client::start_on(&router(), address));
    let held = Held::open(address, connections)?;
    let mended = Mended(before.clone());
    let mut figures = BTreeMap::new();
    match case {
        Case::PowerOffDark | Case::PowerOffLink => {
            power::off(&before, if case == Case::PowerOffDark { Mode::Dark } else { Mode::Link })?;
            wait_until("another owner", Duration::from_secs(15), || {
                Ok((owner(address)? == before).then(|| before.clone()))
            })?;
        }
        Case::SpeakerKilled => power::signal(&before, "speaker", Signal::SIGKILL)?,
        Case::SpeakerTerminated => power::signal(&before, "speaker", Signal::SIGTERM)?,
        Case::Rollout => {
            kube(&format!("-n {NAMESPACE} rollout restart daemonset/speaker"))?;
        }
        Case::Partition => {
            part(&before)?;
            // The client hears both halves, so that two answer until they meet again.
            wait_until("the other half to take over", Duration::from_secs(15), || {
                let other = watch.answers()?.into_iter().any(|answer| answer.node != before);
                Ok((!other).then(|| before.clone()))
            })?;
        }
    }
    if matches!(case, Case::SpeakerKilled | Case::SpeakerTerminated | Case::Rollout) {
        kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s"))?;
    }
    if case != Case::Partition {
        calm(&watch)?;
    }
    let gone = watch.answers()?;
    figures.insert("broken connections", count(held.broken()));
    let mark = wire::now();
    drop(mended);
    calm(&watch)?;
    let after = watch.answers()?;
    let account = wire::account(&gone);
    figures.insert("arp silence ms", ms(account.silence));
    figures.insert("owners", count(account.owners.len()));
    if !matches!(case, Case::Partition) {
        figures.insert("two owners ms", ms(account.contested));
    }
    if matches!(case, Case::PowerOffDark | Case::PowerOffLink | Case::Partition) {
        figures.insert("two owners on return ms", ms(wire::two_owners_after(&after, mark)));
    }
    figures.insert("outage ms", ms(connecting.outages()?.first().copied().unwrap_or_default()));
    figures.insert("outage deaf client ms", ms(stubborn.outages()?.first().copied().unwrap_or_default()));
    drop(deaf);
    Ok(figures)
}

/// Waits until the node that answers is Ready, everything runs, and nothing has moved for a moment; returns that node.
fn settled(address: IpAddr) -> Result<String> {
    kube("wait node --all --for=condition=Ready --timeout=90s")?;
    kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s"))?;
    kube(&format!("-n {NAME} rollout status deployment/web --timeout=90s"))?;
    let mut since: Option<(String, Instant)> = None;
    wait_until("one owner for some time", Duration::from_secs(60), || {
        let now = owner(address)?;
        fetch(address)?;
        let (node, at) = since.get_or_insert_with(|| (now.clone(), Instant::now()));
        if *node != now {
            (*node, *at) = (now, Instant::now());
        }
        Ok((at.elapsed() < CALM).then(|| format!("{node} for {:?}", at.elapsed())))
    })?;
    since.map(|(node, _)| node).context("an owner")
}

/// Waits until one node alone has answered for a moment.
fn calm(watch: &Watch) -> Result<()> {
    wait_until("one owner on the wire", Duration::from_secs(60), || {
        let answers = watch.answers()?;
        let Some(last) = answers.last() else { return Ok(Some("no answer".to_owned())) };
        let recent = || answers.iter().rev().take_while(|answer| answer.at > last.at - CALM.as_secs_f64());
        let alone = recent().all(|answer| answer.node == last.node);
        let long = answers.first().is_some_and(|first| last.at - first.at > CALM.as_secs_f64());
        let fresh = wire::now() - last.at < 0.5;
        Ok((!(alone && long && fresh && recent().count() > 10)).then(|| format!("{last:?}")))
    })
}

/// Cuts `name` off from the other nodes, and not from the client and the control plane.
fn part(name: &str) -> Result<()> {
    let index: u8 = name.trim_start_matches("node").parse()?;
    let port = node(index).switch_port();
    let others: Vec<String> = (1..=metallb_e2e::cluster::nodes()?)
        .filter(|other| *other != index)
        .map(|other| node(other).switch_port())
        .collect();
    ensure!(!others.is_empty(), "one node cannot be parted");
    run_on("lan", "nft add table bridge halves")?;
    run_on("lan", "nft add chain bridge halves forward { type filter hook forward priority 0; }")?;
    for other in others {
        run_on("lan", &format!("nft add rule bridge halves forward iifname {port} oifname {other} drop"))?;
        run_on("lan", &format!("nft add rule bridge halves forward iifname {other} oifname {port} drop"))?;
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
