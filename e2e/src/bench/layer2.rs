//! Measures fail-over on layer 2 on the cluster that is up, with the operator deployed: each case many times, by clients
//! that connect, that only ask by ARP, that ignore gratuitous ARP, and that hold connections.
//!
//! Prints one JSON line a run, then a table of least, median and greatest, and then what is asked of these figures and
//! whether it is so. Fails at the end when something happened that never may: an address moved or a connection broke
//! though only a speaker was lost, a node was taken for dead that was not, two nodes answered for long, or none did.

mod created;
mod goals;
mod steady;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use metallb_e2e::{
    deploy::NAMESPACE,
    exec::{run_on, wait_until},
    held::Held,
    layout::router,
    observe::{address, apply, fetch, kube, owner},
    outage::Client,
    power::{self, Mode},
    web,
    wire::{self, Watch},
};
use nix::sys::signal::Signal;
use serde_json::json;

use goals::{Goal, Of, Table, judge};

const METALLB: &str = include_str!("../../demo/metallb.yaml");
/// Namespace, pool and what else the benchmark makes.
const NAME: &str = "bench";
/// Pool of one address, for the Service of the cases that create one.
const FRESH: &str = "bench-fresh";
/// Port of the server that sends back what it is sent.
const ECHO: u16 = 7777;
/// That server.
const ECHO_SERVER: &str = "busybox nc -ll -p 7777 -e busybox cat";
/// A held connection that is silent for longer is broken: as long as retransmission bridges an outage of a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after the last change in which nothing more may move.
const CALM: Duration = Duration::from_secs(2);

/// Measure fail-over on layer 2.
#[derive(Parser)]
struct Cli {
    /// How often each case is run.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Cases; all by default. Of created and created-unprobed each run is a new Service.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Connections that are held open.
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Minutes of each of the cases in which nothing may move: loss, throttled, no-udp, stalls.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

/// The case in which nothing happens.
const REST: &str = "rest";
/// How long that is watched.
const REST_TIME: Duration = Duration::from_secs(60);
/// A node is lost.
const LOST: &[&str] = &["power-off-dark", "power-off-link"];
/// A speaker is lost, and its node goes on.
const STAYS: &[&str] = &["speaker-sigkill", "speaker-sigterm", "rollout"];
/// Two nodes could believe that an address is theirs.
const MEETS: &[&str] = &["power-off-dark", "power-off-link", "partition"];

const GOALS: [Goal; 16] = [
    goal(&[], "false take-overs", Of::Greatest, 0.0, true),
    goal(STAYS, "owners moved to", Of::Greatest, 0.0, true),
    goal(STAYS, "failed connects", Of::Greatest, 0.0, true),
    goal(STAYS, "reset connections", Of::Greatest, 0.0, true),
    goal(STAYS, "arp silence ms", Of::Greatest, 2000.0, true),
    goal(MEETS, "two owners on return ms", Of::Greatest, 1000.0, true),
    goal(MEETS, "arp silence on return ms", Of::Greatest, 1000.0, false),
    goal(&[], "two owners ms", Of::Greatest, 1000.0, true),
    goal(LOST, "outage ms", Of::Median, 600.0, false),
    goal(LOST, "outage ms", Of::Greatest, 1000.0, false),
    goal(LOST, "outage deaf client ms", Of::Median, 600.0, false),
    goal(&["created"], "first answer ms", Of::Median, 160.0, false),
    goal(&["created-unprobed"], "first answer ms", Of::Median, 30.0, false),
    goal(&[REST], "cpu percent", Of::Greatest, 0.1, false),
    goal(&[REST], "rss MiB", Of::Greatest, 15.0, false),
    goal(&["no-udp", "throttled"], "outages of a client", Of::Greatest, 0.0, false),
];

const fn goal(
    cases: &'static [&'static str],
    figure: &'static str,
    of: Of,
    at_most: f64,
    must: bool,
) -> Goal {
    Goal { cases, figure, of, at_most, must }
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
    let wanted = |name: &str| cli.cases.is_empty() || cli.cases.iter().any(|case| case == name);
    let known = || {
        let steady = steady::CASES.iter().map(|(name, _)| *name);
        CASES.iter().map(|(name, _)| *name).chain(created::CASES).chain(steady).chain([REST])
    };
    if let Some(unknown) = cli.cases.iter().find(|case| !known().any(|name| name == case.as_str())) {
        bail!("no case {unknown:?}; there are {}", known().collect::<Vec<_>>().join(", "));
    }
    let address = set_up()?;
    let mut table = Table::new();
    for (name, case) in CASES.into_iter().filter(|(name, _)| wanted(name)) {
        for number in 1..=cli.runs {
            let figures =
                run(case, address, cli.connections).with_context(|| format!("{name}, run {number}"))?;
            println!("{}", json!({ "case": name, "run": number, "figures": figures }));
            for (what, value) in figures {
                table.entry((name.to_owned(), what.to_owned())).or_default().push(value);
            }
        }
    }
    for name in created::CASES.into_iter().filter(|name| wanted(name)) {
        let times = created::run(name, cli.runs)?;
        println!("{}", json!({ "case": name, "first answer ms": times }));
        table.insert((name.to_owned(), "first answer ms".to_owned()), times);
    }
    for (name, case) in steady::CASES.into_iter().filter(|(name, _)| wanted(name)) {
        settled(address)?;
        let figures = steady::run(case, address, Duration::from_secs_f64(cli.minutes * 60.0))?;
        println!("{}", json!({ "case": name, "minutes": cli.minutes, "figures": figures }));
        for (what, value) in figures {
            table.entry((name.to_owned(), what.to_owned())).or_default().push(value);
        }
    }
    if wanted(REST) {
        settled(address)?;
        let figures = steady::rest(REST_TIME)?;
        println!("{}", json!({ "case": REST, "figures": figures }));
        for (what, values) in figures {
            table.insert((REST.to_owned(), what.to_owned()), values);
        }
    }
    kube(&format!("delete namespace {NAME}"))?;
    kube(&format!("-n {NAMESPACE} delete addresspool {NAME} {FRESH}"))?;
    println!("\n{:<18} {:<24} {:>8} {:>8} {:>8}", "case", "figure", "min", "median", "max");
    for ((case, what), values) in &table {
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(median), Some(most)) =
            (values.first(), values.get(values.len() / 2), values.last())
        else {
            continue;
        };
        println!("{case:<18} {what:<24} {least:>8.0} {median:>8.0} {most:>8.0}");
    }
    judge(&GOALS, &table)
}

/// A Service of three pods, reached from every node.
fn set_up() -> Result<IpAddr> {
    apply(METALLB)?;
    kube(&format!("-n {NAMESPACE} wait metallb/metallb --for=condition=Available --timeout=60s"))?;
    apply(&format!(
        "apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: {NAME}, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [172.22.0.234/32], autoAssign: false}}\n---\n\
         apiVersion: metallb.io/v1beta1\nkind: AddressPool\nmetadata: {{name: {FRESH}, namespace: {NAMESPACE}}}\n\
         spec: {{protocol: layer2, addresses: [{address}/32], autoAssign: false}}\n",
        address = created::ADDRESS,
    ))?;
    // Beside the web server one that sends back what it is sent.
    let workload = web::workload(NAME);
    let both = workload.replace("exec busybox httpd", &format!("{ECHO_SERVER} & exec busybox httpd"));
    ensure!(both != workload, "the demo's web server is started otherwise");
    apply(&both)?;
    apply(&format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: web, namespace: {NAME}, annotations: {{metallb.io/address-pool: {NAME}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}, \
         {{name: echo, port: {ECHO}, targetPort: {ECHO}}}]}}\n"
    ))?;
    kube(&format!("-n {NAME} rollout status deployment/web --timeout=60s"))?;
    web::make_room(NAME)?;
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

/// Mends the cluster whatever happened.
struct Mended(String);

impl Drop for Mended {
    fn drop(&mut self) {
        let _ = power::on(&self.0);
        let _ = power::meet();
    }
}

fn run(case: Case, address: IpAddr, connections: usize) -> Result<BTreeMap<&'static str, f64>> {
    let mut before = settled(address)?;
    // Where only the speaker goes, the node goes on forwarding: no packet may be lost.
    let stays = matches!(case, Case::SpeakerKilled | Case::SpeakerTerminated | Case::Rollout);
    if stays {
        // A container that ended before is started again only after a pause, which grows: each run has pods of its own. They
        // remember no moves of the address, by which it could rest at a node that is not its own, and go home with the rollout.
        kube(&format!("-n {NAMESPACE} delete pod -l app=metallb,component=speaker"))?;
        before = settled(address)?;
    }
    let deaf = Deaf::new()?;
    let connecting = if stays { Client::patient(address) } else { Client::start(address) };
    let (watch, stubborn) = (Watch::start(address)?, Client::start_on(&router(), address));
    let held = Held::open(address, ECHO, connections, PATIENCE)?;
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
            power::part(&before)?;
            // The client hears both halves, so that two answer until they meet again.
            wait_until("the other half to take over", Duration::from_secs(15), || {
                let other = watch.answers()?.into_iter().any(|answer| answer.node != before);
                Ok((!other).then(|| before.clone()))
            })?;
        }
    }
    if stays {
        kube(&format!("-n {NAMESPACE} rollout status daemonset/speaker --timeout=90s"))?;
    }
    if case != Case::Partition {
        calm(&watch)?;
    }
    let gone = watch.answers()?;
    let broken = if stays { "reset connections" } else { "broken connections" };
    figures.insert(broken, count(held.close()?.1.len()));
    let mark = wire::now();
    drop(mended);
    calm(&watch)?;
    let after = watch.answers()?;
    let account = wire::account(&gone);
    figures.insert("arp silence ms", ms(account.silence));
    if stays {
        figures.insert("owners moved to", count(account.owners.len().saturating_sub(1)));
    }
    if case != Case::Partition {
        figures.insert("two owners ms", ms(account.contested));
    }
    if matches!(case, Case::PowerOffDark | Case::PowerOffLink | Case::Partition) {
        figures.insert("two owners on return ms", ms(wire::two_owners_after(&after, mark)));
        let since: Vec<_> = after.into_iter().filter(|answer| answer.at >= mark).collect();
        figures.insert("arp silence on return ms", ms(wire::account(&since).silence));
    }
    let outages = connecting.outages()?;
    if stays {
        figures.insert("failed connects", count(outages.len()));
    } else {
        figures.insert("outage ms", ms(outages.first().copied().unwrap_or_default()));
    }
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

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
