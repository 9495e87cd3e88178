//! A leader that is stopped past its Lease, and continued: no write of it may land.
//!
//! Two operators share a namespace. The one that leads is stopped by SIGSTOP at a random moment while there is always
//! something to write, the other takes over, and the first is continued. The API server's own record says who wrote
//! what, and when.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use metallb_e2e::plane::{
    Plane,
    objects::{api, create},
    subject::operator_command,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::RngExt;
use serde_json::{Value, json};

const LEASE: &str = "metallb.io.metallboperator";
/// A Lease runs out in 10 s; the other operator looks every second.
const TAKEN_OVER: Duration = Duration::from_secs(40);
/// After it was continued, a leader that lost its Lease ends by itself.
const ENDED: Duration = Duration::from_secs(30);

/// Stops leaders `stops` times, among `pairs` pairs at the same time.
pub(crate) async fn run(program: &str, stops: usize, pairs: usize) -> Result<()> {
    let pairs = pairs.clamp(1, stops);
    let users: Vec<String> =
        (0..pairs).flat_map(|pair| ["a", "b"].map(|side| format!("{side}{pair}"))).collect();
    let plane = Plane::start_for(&users).await?;
    let client = plane.client().await?;
    let rounds = stops.div_ceil(pairs);
    let began = Instant::now();
    let seen = try_join_all((0..pairs).map(|pair| Pair::run(program, &plane, &client, pair, rounds))).await?;
    let (lapses, late): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let late: Vec<String> = late.into_iter().flatten().collect();
    println!(
        "{}",
        json!({"measurement": "leaders stopped past their Lease", "stops": lapses.iter().sum::<usize>(), "writes_that_landed": late,
               "seconds": began.elapsed().as_secs()})
    );
    ensure!(late.is_empty(), "{} writes landed", late.len());
    Ok(())
}

struct Pair<'a> {
    program: &'a str,
    plane: &'a Plane,
    number: usize,
    namespace: String,
}

impl<'a> Pair<'a> {
    /// How often the leader was stopped, and the writes that landed.
    async fn run(
        program: &'a str,
        plane: &'a Plane,
        client: &Client,
        number: usize,
        rounds: usize,
    ) -> Result<(usize, Vec<String>)> {
        let namespace = format!("pair{number}");
        let pair = Self { program, plane, number, namespace: namespace.clone() };
        create(client, "v1", "Namespace", "", json!({"metadata": {"name": namespace}})).await?;
        let spec = json!({"protocol": "layer2", "addresses": ["192.0.2.0/28"]});
        create(
            client,
            "metallb.io/v1beta1",
            "AddressPool",
            &namespace,
            json!({"metadata": {"name": "p"}, "spec": spec}),
        )
        .await?;
        let mut sides = [pair.start("a")?, pair.start("b")?];
        let work = async {
            let mut late = Vec::new();
            for _ in 0..rounds {
                late.extend(pair.stop_leader(client, &mut sides).await?);
            }
            anyhow::Ok((rounds, late))
        };
        // Something to write, always: what is wished changes.
        let wishes = async {
            let pools = api(client, "metallb.io/v1beta1", "AddressPool", &namespace);
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            for turn in 0_u64.. {
                pace.tick().await;
                let addresses = format!("192.0.2.{}/28", (turn % 16) * 16);
                let patch = json!({"spec": {"addresses": [addresses]}});
                pools.patch("p", &PatchParams::default(), &Patch::Merge(&patch)).await?;
            }
            anyhow::Ok((0, Vec::new()))
        };
        let result = tokio::select! { result = work => result, result = wishes => result };
        for side in &mut sides {
            // They are in no condition to be asked.
            let _ = side.kill();
            let _ = side.wait();
        }
        result
    }

    fn user(&self, side: &str) -> String {
        format!("{side}{}", self.number)
    }

    fn start(&self, side: &str) -> Result<Child> {
        let user = self.user(side);
        let at = u16::try_from(self.number * 4 + usize::from(side == "b") * 2)?;
        let line = operator_command(self.program, &self.namespace, &user, 20_000 + at, 20_001 + at);
        let mut words = line.split_whitespace();
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.plane.path(&format!("{user}.log")))?;
        Command::new(words.next().context("an empty command")?)
            .args(words)
            .env("KUBECONFIG", self.plane.path(&user))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the operator cannot be started")
    }

    async fn stop_leader(&self, client: &Client, sides: &mut [Child; 2]) -> Result<Vec<String>> {
        let (leader, index, side) = loop {
            let leader = self.holder(client, sides, |_| true).await?;
            let (index, side) = if leader == self.user("a") { (0, "a") } else { (1, "b") };
            tokio::time::sleep(Duration::from_millis(rand::rng().random_range(500..3500))).await;
            if sides[index].try_wait()?.is_none() {
                break (leader, index, side);
            }
        };
        let pid = Pid::from_raw(i32::try_from(sides[index].id())?);
        kill(pid, Signal::SIGSTOP)?;
        self.holder(client, sides, |holder| holder != leader).await?;
        let log = self.plane.path("audit.log");
        let (from, taken_over) = (fs::metadata(&log)?.len(), Timestamp::now());
        kill(pid, Signal::SIGCONT)?;
        let began = Instant::now();
        while sides[index].try_wait()?.is_none() {
            if began.elapsed() > ENDED {
                bail!("{leader} did not end after it lost its Lease");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let late = writes_after(&log, from, &leader, taken_over)?;
        sides[index] = self.start(side)?;
        Ok(late)
    }

    /// Waits until somebody holds the Lease who `is_wanted`.
    async fn holder(
        &self,
        client: &Client,
        sides: &mut [Child; 2],
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let leases = api(client, "coordination.k8s.io/v1", "Lease", &self.namespace);
        let began = Instant::now();
        loop {
            // One that could not renew in time, on a busy machine, ends and is started again, as a kubelet does.
            for (process, side) in sides.iter_mut().zip(["a", "b"]) {
                if process.try_wait()?.is_some() {
                    *process = self.start(side)?;
                }
            }
            let lease = leases.get_opt(LEASE).await?;
            let holder = lease.as_ref().and_then(|lease| lease.data["spec"]["holderIdentity"].as_str());
            if let Some(holder) = holder.filter(|holder| !holder.is_empty() && is_wanted(holder)) {
                return Ok(holder.to_owned());
            }
            if began.elapsed() > TAKEN_OVER {
                bail!("nobody took the Lease over: {holder:?} holds it");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Writes of `user` that the API server received after `since` and carried out, noted behind byte `from` of its log.
fn writes_after(log: &Path, from: u64, user: &str, since: Timestamp) -> Result<Vec<String>> {
    let mut file = fs::File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    let mut log = Vec::new();
    file.read_to_end(&mut log)?;
    let mut late = Vec::new();
    for line in log.split(|byte| *byte == b'\n') {
        let Ok(entry) = serde_json::from_slice::<Value>(line) else { continue };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let received: Option<Timestamp> = text(&entry["requestReceivedTimestamp"]).parse().ok();
        let done = entry["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
        let is_write = !matches!(text(&entry["verb"]).as_str(), "get" | "list" | "watch");
        let resource = text(&entry["objectRef"]["resource"]);
        if text(&entry["user"]["username"]) == user
            && is_write
            && done
            && !resource.ends_with("reviews")
            && received.is_some_and(|received| received > since)
        {
            late.push(format!("{user} {} {resource} at {received:?}", text(&entry["verb"])));
        }
    }
    Ok(late)
}
