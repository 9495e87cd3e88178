//! Measures the speaker's BGP: how long until a router holds all routes, and what that costs.
//!
//! etcd, the API server and BIRD are real; the speaker is a process of its own. They share a network namespace that is
//! this program's own, but for BIRD, which has another at the end of a cable. Prints one JSON line a measurement.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use metallb_e2e::{
    exec::run,
    plane::{NAMESPACE, Plane, subject::Subject},
    router::Bird,
};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

/// Namespace of the Services.
const SERVICES: &str = "default";
/// No measurement takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Requests of the generator that are under way at one time.
const PARALLEL: usize = 16;
/// Host of BIRD, and its end of the cable.
const ROUTER: &str = "bench";
const BIRD: &str = "router id 10.99.0.2;
protocol device {}
template bgp speaker {
  local 10.99.0.2 as 64513;
  ipv4 { import all; export none; };
  ipv6 { import all; export none; };
}
protocol bgp node from speaker { neighbor 10.99.0.1 as 64512; }
";

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
}

fn main() -> Result<()> {
    let cli = Cli::parse();
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
        "ip addr add 10.99.0.1/24 dev bench0",
        "ip -6 addr add fd00:99::1/64 dev bench0 nodad",
        "ip link set bench0 up",
        &format!("ip -n mlb-{ROUTER} addr add 10.99.0.2/24 dev eth0"),
        &format!("ip -n mlb-{ROUTER} -6 addr add fd00:99::2/64 dev eth0 nodad"),
        &format!("ip -n mlb-{ROUTER} link set eth0 up"),
        &format!("ip -n mlb-{ROUTER} link set lo up"),
    ] {
        run(line)?;
    }
    for family in &cli.families {
        for count in &cli.routes {
            Bench::start(&cli.speaker, *family, *count).await?.run().await?;
        }
    }
    Ok(())
}

struct Bench {
    speaker: String,
    family: u8,
    count: usize,
    plane: Plane,
    client: Client,
    bird: Bird,
    read: usize,
}

impl Bench {
    async fn start(speaker: &str, family: u8, count: usize) -> Result<Self> {
        let plane = Plane::start().await?;
        plane.install().await?;
        let client = plane.client().await?;
        let bench = Self {
            speaker: speaker.to_owned(),
            family,
            count,
            plane,
            client,
            bird: Bird::start(ROUTER, BIRD)?,
            read: 0,
        };
        bench.create("Node", "", "v1", None, json!({ "metadata": { "name": "node1" } })).await?;
        let pool = json!({ "addresses": ["198.18.0.0/15", "2001:db8::/64"] });
        bench.metallb("IPAddressPool", "v1beta1", pool).await?;
        bench.metallb("BGPAdvertisement", "v1beta1", json!({ "communities": ["64512:1"] })).await?;
        let peer = json!({
            "myASN": 64512, "peerASN": 64513, "peerAddress": "10.99.0.2", "dualStackAddressFamily": true,
        });
        bench.metallb("BGPPeer", "v1beta2", peer).await?;
        stream::iter(0..count)
            .map(|number| bench.service(number))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        Ok(bench)
    }

    async fn run(&mut self) -> Result<()> {
        let program = format!("{} --node-name node1 --host 10.99.0.1 --port 0", self.speaker);
        let started = Instant::now();
        let speaker =
            Subject::start(&program, &self.plane.subject_config(), &self.plane.path("speaker.log"))?;
        let count = self.count;
        self.until("all held", started, &speaker, "", count).await?;
        let started = Instant::now();
        self.service(count).await?;
        self.until("one Service more", started, &speaker, "", count + 1).await?;
        let started = Instant::now();
        let services: Api<k8s_openapi::api::core::v1::Service> =
            Api::namespaced(self.client.clone(), SERVICES);
        services.delete(&format!("web-{count}"), &DeleteParams::default()).await?;
        self.until("one Service less", started, &speaker, "", count).await?;
        let started = Instant::now();
        self.metallb("BGPAdvertisement", "v1beta1", json!({ "communities": ["64512:2"] })).await?;
        self.until("another community on all", started, &speaker, "where bgp_community ~ [(64512,2)]", count)
            .await?;
        let started = Instant::now();
        self.api("BGPAdvertisement", "metallb.io", "v1beta1", Some(NAMESPACE))
            .delete("bench", &DeleteParams::default())
            .await?;
        self.until("all withdrawn", started, &speaker, "", 0).await?;
        speaker.stop().await
    }

    /// Waits until BIRD holds `count` routes, and prints how long that took and what it cost.
    async fn until(
        &mut self,
        what: &str,
        since: Instant,
        speaker: &Subject,
        filter: &str,
        count: usize,
    ) -> Result<()> {
        let table = if self.family == 4 { "master4" } else { "master6" };
        let question = format!("show route table {table} {filter} count");
        loop {
            let said = self.bird.ask(&question)?;
            let line = said.lines().find(|line| line.contains(" of ")).unwrap_or_default();
            if line.split_whitespace().next() == Some(&count.to_string()) {
                break;
            }
            if since.elapsed() > LIMIT {
                bail!("{what}: BIRD says {said:?}, and not {count}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = since.elapsed();
        let usage = speaker.usage()?;
        let (requests, read) = self.plane.requests(self.read);
        self.read = read;
        let protocol = self.bird.ask("show protocols all node")?;
        let updates = protocol.lines().filter(|line| line.trim_start().starts_with("Import updates:"));
        let updates: Vec<_> = updates.filter_map(|line| line.split_whitespace().nth(2)).collect();
        let row = json!({
            "measurement": what, "family": self.family, "routes": self.count,
            "ms": u64::try_from(took.as_millis())?, "cpu_s_so_far": usage.cpu, "rss_mib": usage.rss / 1024,
            "peak_rss_mib": usage.peak_rss / 1024, "prefixes_received": updates, "requests": requests,
        });
        println!("{row}");
        Ok(())
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.plane.path("speaker.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    fn api(&self, kind: &str, group: &str, version: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            None => Api::all_with(self.client.clone(), &kind),
        }
    }

    async fn create(
        &self,
        kind: &str,
        group: &str,
        version: &str,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object)?;
        self.api(kind, group, version, namespace).create(&PostParams::default(), &object).await?;
        Ok(())
    }

    async fn metallb(&self, kind: &str, version: &str, spec: Value) -> Result<()> {
        let object = json!({
            "apiVersion": format!("metallb.io/{version}"), "kind": kind, "metadata": { "name": "bench" }, "spec": spec,
        });
        let api = self.api(kind, "metallb.io", version, Some(NAMESPACE));
        api.patch("bench", &PatchParams::apply("bench").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// A Service with an address and an endpoint that serves.
    async fn service(&self, number: usize) -> Result<()> {
        let name = format!("web-{number}");
        let (high, low) = (number / 256, number % 256);
        let (address, family) = match self.family {
            4 => (format!("198.18.{high}.{low}"), "IPv4"),
            _ => (format!("2001:db8::{high:x}:{low:x}"), "IPv6"),
        };
        let slice = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": family, "ports": [],
            "endpoints": [{
                "addresses": [if self.family == 4 { "10.0.0.1" } else { "fd00::1" }], "nodeName": "node1",
                "conditions": { "ready": true },
            }],
        });
        self.create("EndpointSlice", "discovery.k8s.io", "v1", Some(SERVICES), slice).await?;
        let service = json!({
            "metadata": { "name": name },
            "spec": {
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ipFamilies": [family],
                "ipFamilyPolicy": "SingleStack", "ports": [{ "port": 80 }],
            },
        });
        self.create("Service", "", "v1", Some(SERVICES), service).await?;
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } });
        let api = self.api("Service", "", "v1", Some(SERVICES));
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }
}
