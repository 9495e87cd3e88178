//! The speaker: announces the addresses of Services from this node.
//!
//! Decisions are `metallb_core::plan`'s and `metallb_proto`'s; here are the tasks around them, each the one owner of its
//! state: the observer (API server in, plan out), the membership (UDP), the links (netlink), layer 2 (packet sockets),
//! BGP (TCP), BFD (UDP) and the reporters (API server out). What answers the network runs on threads of its own, so that
//! a large list from the API server delays no answer and no heartbeat.

mod about;
mod announcer;
mod bgp;
mod departure;
pub(crate) mod facts;
mod gossip;
mod informed;
pub mod layer2;
pub mod links;
pub mod metrics;
mod observer;
mod owners;
mod packet;
mod report;
mod settings;
mod state;
mod streams;
mod sys;
mod wire;
mod wires;
mod witness;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use kube::Client;
use metallb_core::plan::Plan;
use metallb_core::router_config::Dialect;
use metallb_proto::layer2::link::Exclude;
use metallb_proto::layer2::wire_check::Outcome;
use metallb_proto::membership::{self, Roster, Secret, Timing};
use metallb_runtime::listen::any;
use metallb_runtime::{logs, probes, shutdown};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::controller::state::installation;
use crate::inspect::Cluster;
pub(crate) use bgp::spec::{CANNOT_LISTEN, NOT_LISTENING};
use departure::Departure;
use gossip::{Own, Peers};
use metrics::Metrics;
use report::Announced;
pub use settings::Settings;
use wires::Wires;

/// Messages that wait between two tasks.
const BACKLOG: usize = 256;

/// Runs until the program is asked to end.
///
/// # Errors
/// When a setting cannot be used, a socket cannot be opened, or one of the tasks broke off.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    if settings.facts {
        return about::print(settings.health_probe_port).await;
    }
    if let Some(dialect) = settings.router_config {
        return print_router_config(dialect, settings.namespace).await;
    }
    logs::init(settings.log_level);
    settings.log_unused();
    let asked = shutdown::token()?;
    let cancel = CancellationToken::new();
    let client = Client::try_default().await.context("no access to a cluster")?;
    let metrics = Metrics::default();
    let wires = Wires::new();
    let network = Network::of(&settings, &wires, metrics.clone())?;

    let mut tasks = JoinSet::new();
    let readiness = probes::Readiness::new();
    let probes_at = SocketAddr::from(([127, 0, 0, 1], settings.health_probe_port));
    let page = wires.page(&settings)?;
    tasks.spawn(probes::serve_with(probes_at, readiness.clone(), Some(page.clone()), cancel.clone()));
    if settings.port > 0 {
        let endpoint = metallb_runtime::metrics::Endpoint {
            address: any(settings.port),
            certificates: Some(PathBuf::from(&settings.metrics_cert_dir))
                .filter(|path| !path.as_os_str().is_empty()),
        };
        let registry = metrics.registry(&settings.node_name, wires.bgp_told());
        let served = metallb_runtime::metrics::serve_with(
            endpoint,
            registry,
            Some(page),
            client.clone(),
            cancel.clone(),
        );
        tasks.spawn(served);
    }
    tasks.spawn(observer::run(client.clone(), observing(&settings)?, wires.observer(), cancel.clone()));
    let reported = report::Ports {
        announced: wires.announced.subscribe(),
        marks: wires.marks.subscribe(),
        informed: wires.informed.subscribe(),
        standing: wires.standing.subscribe(),
        metrics: metrics.clone(),
    };
    tasks.spawn(report::run(client.clone(), reporting(&settings), reported, cancel.clone()));
    let described =
        state::Settings { namespace: settings.namespace.clone(), node: settings.node_name.clone() };
    let told = state::Ports {
        states: wires.state.subscribe(),
        checks: wires.checks.subscribe(),
        links: wires.links.subscribe(),
    };
    tasks.spawn(state::run(client.clone(), described, told, cancel.clone()));
    let owner = installation(client.clone(), &settings.namespace);
    let (namespace, node) = (settings.namespace.clone(), settings.node_name.clone());
    let (recordings, stop) = (wires.recording.subscribe(), cancel.clone());
    let (recorder, with) = (client.clone(), owner.clone());
    tasks.spawn(async move { owners::run(recorder, &namespace, &node, recordings, with, stop).await });
    let (namespace, node) = (settings.namespace.clone(), settings.node_name.clone());
    let (wanted, until) = (wires.witness.subscribe(), wires.witnessed.clone());
    let (witness, stop) = (client.clone(), cancel.clone());
    tasks.spawn(async move { witness::run(witness, &namespace, &node, wanted, until, owner, stop).await });
    let (wanted, told) = (wires.doubts.subscribe(), wires.contact.clone());
    tasks.spawn(informed::run(client.clone(), wanted, told, cancel.clone()));
    tasks.spawn(departure::run(
        client.clone(),
        departure::Settings { namespace: settings.namespace.clone(), pod: settings.pod_name.clone() },
        wires.home.subscribe(),
        wires.departure.clone(),
        asked,
        cancel.clone(),
    ));
    let routing = thread("bgp", bgp::run(wires.bgp(&metrics, settings.bgp_listen), cancel.clone()))?;
    tasks.spawn(async move { routing.await.context("the BGP thread broke off")? });
    tasks.spawn(bgp::report::run(client, reporting(&settings), wires.bgp_told(), cancel.clone()));
    tasks.spawn(ready_when_announcing(wires.announced.subscribe(), readiness, cancel.clone()));
    let network = thread("network", network.run(cancel.clone()))?;
    tasks.spawn(async move { network.await.context("the network thread broke off")? });

    until_all_ended(tasks, cancel).await
}

/// Waits until all tasks have ended; one that ends before `cancel` ends the others.
///
/// The token is cancelled here, so whoever calls this inside a task of another such group hands over a child of that
/// group's token: else the outer one takes an end that nobody asked for as asked for.
///
/// # Errors
/// That of the task that ended first, when it ended before `cancel`.
async fn until_all_ended(
    mut tasks: JoinSet<anyhow::Result<()>>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut cause = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let is_first = !cancel.is_cancelled();
        cancel.cancel();
        let ended = ended.context("a task broke off").flatten();
        match ended {
            Ok(()) if is_first => cause = Err(anyhow::anyhow!("a task ended early")),
            Err(error) if is_first => cause = Err(error),
            Ok(()) => {}
            // Tasks that end take their channels along. Whoever misses them then ends as well, and must not cut short
            // those that take leave of routers and neighbors.
            Err(error) if cause.is_ok() => {
                tracing::debug!(error = format!("{error:#}"), "a task ended with an error");
            }
            // One that only misses a channel may be seen to end before the one that took it along.
            Err(error) => tracing::warn!(error = format!("{error:#}"), "a task ended with an error"),
        }
    }
    cause
}

/// Prints what the routers need for the BGPPeers as they are.
async fn print_router_config(dialect: Dialect, namespace: String) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("no access to a cluster")?;
    let text = crate::inspect::router_config(dialect, &Cluster { client, namespace }).await?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn observing(settings: &Settings) -> anyhow::Result<observer::Settings> {
    Ok(observer::Settings {
        namespace: settings.namespace.clone(),
        node: settings.node_name.clone(),
        class: settings.class(),
        speakers: settings.gossip()?.map(|(_, labels)| labels),
        port: settings.ml_bindport,
        ignore_exclude_label: settings.ignore_exclude_lb,
        drain: settings.drains(),
        never_fail_back: settings.stays(),
        bgp: settings.bgp(up_since()),
    })
}

fn reporting(settings: &Settings) -> report::Settings {
    report::Settings {
        namespace: settings.namespace.clone(),
        pod: settings.pod_name.clone(),
        node: settings.node_name.clone(),
    }
}

/// Time since the node was started.
fn up_since() -> Duration {
    // The clock is there on every Linux; without it the node counts as just started, which is the careful guess.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// Runs a future on a thread and a runtime of its own; the receiver tells how it ended.
fn thread<F>(name: &str, work: F) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = runtime.block_on(work);
        // Nobody listens when the program ends already.
        let _ = done.send(result);
    })?;
    Ok(ended)
}

/// Ready once the first plan was made: from then on this speaker stands in for its node.
async fn ready_when_announcing(
    mut announced: watch::Receiver<Option<Arc<Announced>>>,
    readiness: probes::Readiness,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        planned = announced.wait_for(Option::is_some) => drop(planned.context("the plans ended")?),
    }
    readiness.set(true);
    cancel.cancelled().await;
    Ok(())
}

/// What runs on the network thread.
struct Network {
    exclude: Exclude,
    layer2: layer2::Settings,
    membership: Option<membership::Settings>,
    secret_folder: Option<PathBuf>,
    timing: Option<Timing>,
    plan: watch::Receiver<Arc<Plan>>,
    peers: watch::Receiver<Option<Peers>>,
    own: watch::Receiver<Own>,
    hold: watch::Sender<Option<Instant>>,
    witness: watch::Sender<bool>,
    witnessed: watch::Receiver<Option<Instant>>,
    doubts: watch::Sender<bool>,
    informed: watch::Receiver<bool>,
    checks: watch::Sender<BTreeMap<IpAddr, Outcome>>,
    departure: watch::Receiver<Option<Departure>>,
    roster: watch::Sender<Option<Roster>>,
    standing: watch::Sender<layer2::Standing>,
    links: watch::Sender<links::Snapshot>,
    metrics: Metrics,
}

impl Network {
    fn of(settings: &Settings, wires: &Wires, metrics: Metrics) -> anyhow::Result<Self> {
        let gossip = settings.gossip()?;
        let gossip_on = gossip.is_some();
        if settings.fences() && !gossip_on {
            tracing::warn!(
                event = "notFenced",
                "--fencing=Strict has no effect: without --ml-bindaddr and --ml-labels there is no majority to ask"
            );
        }
        let secret_folder = gossip.as_ref().and_then(|_| settings.secret_folder());
        let membership = match gossip {
            None => None,
            Some((address, _)) => Some(membership::Settings {
                node: settings.node_name.clone(),
                address,
                epoch: epoch(),
                secrets: match &secret_folder {
                    Some(folder) => settings::read_secrets(folder)?,
                    None => Secret::new([]).into(),
                },
                seed: rand::random(),
                timing: Timing::FAST,
                fencing: settings.fences(),
            }),
        };
        Ok(Self {
            exclude: links::read_exclude(&settings.exclude_interfaces)?,
            layer2: layer2::Settings {
                gratuitous: settings.gratuitous(),
                conflict: settings.conflict(),
                ignored: settings.conflict_ignore_macs(),
                wire_check: settings.wire_check(),
                // Where the speakers do not know of each other there is no majority.
                fencing: settings.fences() && gossip_on,
            },
            membership,
            secret_folder,
            timing: settings.timing(),
            plan: wires.plan.subscribe(),
            peers: wires.peers.subscribe(),
            own: wires.own.subscribe(),
            hold: wires.hold.clone(),
            witness: wires.witness.clone(),
            witnessed: wires.witnessed.subscribe(),
            doubts: wires.doubts.clone(),
            informed: wires.informed.subscribe(),
            checks: wires.checks.clone(),
            departure: wires.departure.subscribe(),
            roster: wires.roster.clone(),
            standing: wires.standing.clone(),
            links: wires.links.clone(),
            metrics,
        })
    }

    async fn run(self, asked_to_end: CancellationToken) -> anyhow::Result<()> {
        let cancel = asked_to_end.child_token();
        let (ask, asked) = mpsc::channel(BACKLOG);
        let (answer, answered) = mpsc::channel(BACKLOG);
        let links = self.links;
        let own_links = links.subscribe();
        let layer2 = layer2::Ports {
            links: links.subscribe(),
            plan: self.plan,
            roster: self.roster.subscribe(),
            standing: self.standing.clone(),
            hold: self.hold.subscribe(),
            doubts: self.doubts,
            informed: self.informed.clone(),
            checks: self.checks,
            questions: asked,
            answers: answer,
        };
        let mut tasks = JoinSet::new();
        let stop = cancel.clone();
        let address = self.membership.as_ref().map(|settings| settings.address.ip());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                ended = links::follow(self.exclude, address, links) => ended,
            }
        });
        tasks.spawn(layer2::run(self.layer2, layer2, self.metrics.layer2.clone(), cancel.clone()));
        match self.membership {
            Some(settings) => {
                let own = gossip::Settings { timing: self.timing, secret_folder: self.secret_folder };
                let ports = gossip::Ports {
                    peers: self.peers,
                    own: self.own,
                    hold: self.hold,
                    witness: self.witness,
                    witnessed: self.witnessed,
                    departure: self.departure,
                    informed: self.informed,
                    answers: answered,
                    questions: ask,
                    roster: self.roster,
                    links: own_links,
                    standing: self.standing.subscribe(),
                };
                tasks.spawn(gossip::run(settings, own, ports, self.metrics, cancel.clone()));
            }
            None => {
                let stop = cancel.clone();
                tasks.spawn(async move {
                    stop.cancelled().await;
                    // Held until the end: layer 2 takes its end for the end of the membership.
                    drop((ask, answered));
                    Ok(())
                });
            }
        }
        until_all_ended(tasks, cancel).await
    }
}

/// Microseconds since 1970: grows from one start of the program to the next, or the membership sorts it out.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Sleeps until `deadline`, or for ever.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a task say farewell after `first` ended; tells how all ended, and whether the farewell was said.
    async fn ended(first: anyhow::Result<()>, is_asked: bool) -> (Result<(), String>, bool) {
        let cancel = CancellationToken::new();
        if is_asked {
            cancel.cancel();
        }
        let (said, farewell) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { first });
        let stop = cancel.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            tokio::task::yield_now().await;
            said.send_replace(true);
            Ok(())
        });
        let result = until_all_ended(tasks, cancel).await.map_err(|error| error.to_string());
        (result, *farewell.borrow())
    }

    #[tokio::test]
    async fn a_task_that_misses_another_one_at_the_end_cuts_no_farewell_short() {
        let missed = || Err(anyhow::anyhow!("the membership ended"));
        assert_eq!(ended(missed(), true).await, (Ok(()), true));
        assert_eq!(ended(missed(), false).await, (Err("the membership ended".to_owned()), true));
        assert_eq!(ended(Ok(()), false).await, (Err("a task ended early".to_owned()), true));
    }

    #[tokio::test]
    async fn the_error_of_a_group_inside_another_is_that_of_the_whole() {
        let cancel = CancellationToken::new();
        let (inner, outer) = (cancel.child_token(), cancel.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut group = JoinSet::new();
            group.spawn(async { Err(anyhow::anyhow!("gossip: cannot bind UDP 192.0.2.1:7946")) });
            until_all_ended(group, inner).await
        });
        tasks.spawn(async move {
            outer.cancelled().await;
            Ok(())
        });
        let result = until_all_ended(tasks, cancel).await.map_err(|error| error.to_string());
        assert_eq!(result, Err("gossip: cannot bind UDP 192.0.2.1:7946".to_owned()));
    }
}
