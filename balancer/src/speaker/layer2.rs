//! Layer 2: brings the plan to the interfaces, and what the interfaces see to whom it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_core::plan::Plan;
use metallb_proto::layer2::MacAddress;
use metallb_proto::layer2::gratuitous::Settings;
use metallb_proto::layer2::link::Interface;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::announcer::{Announcer, Assignment, Probe, Sighting};
use super::links::Snapshot;
use super::metrics::Layer2Metrics;
use super::sleep_until;

/// Messages that wait between two tasks.
const BACKLOG: usize = 256;
/// Pause before an interface whose sockets broke is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// What connects layer 2 to the rest of the speaker.
pub struct Ports {
    /// The links of the node.
    pub links: watch::Receiver<Snapshot>,
    /// What to announce.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// Nodes to be asked whether they live.
    pub questions: mpsc::Receiver<Question>,
    /// Who answered.
    pub answers: mpsc::Sender<Answer>,
}

/// A node to be asked for its own address, and its speaker for one that it announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Name of the node.
    pub node: String,
    /// The node's own address.
    pub address: IpAddr,
}

/// An answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A host answered for its own address.
    Host(IpAddr),
    /// The speaker of a node answered for an address that it announces.
    Speaker(String),
}

/// Announces what the plan says until `cancel`.
///
/// # Errors
/// When one of the tasks that it depends on ended.
pub async fn run(
    settings: Settings,
    mut ports: Ports,
    metrics: Layer2Metrics,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (sightings, mut seen) = mpsc::channel(BACKLOG);
    let mut layer2 = Layer2 {
        settings,
        metrics,
        sightings,
        announcers: BTreeMap::new(),
        broken: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    loop {
        let links = ports.links.borrow_and_update().clone();
        let plan = ports.plan.borrow_and_update().clone();
        layer2.assign(&links, &plan);
        // Until the plan or the links change, everything else is passed through.
        loop {
            let retry = layer2.retry();
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = ports.links.changed() => break changed.context("the links ended")?,
                changed = ports.plan.changed() => break changed.context("the plans ended")?,
                question = ports.questions.recv() => {
                    layer2.ask(&links, &plan, &question.context("the membership ended")?);
                }
                Some(Sighting { claim, .. }) = seen.recv() => {
                    let answer = match plan.elsewhere.get(&claim.address) {
                        Some(node) => Answer::Speaker(node.clone()),
                        None => Answer::Host(claim.address),
                    };
                    // Full when the membership is busy: it asks again.
                    let _ = ports.answers.try_send(answer);
                }
                Some(ended) = layer2.tasks.join_next() => layer2.ended(ended),
                () = sleep_until(retry) => break,
            }
        }
    }
}

struct Layer2 {
    settings: Settings,
    metrics: Layer2Metrics,
    sightings: mpsc::Sender<Sighting>,
    announcers: BTreeMap<u32, Running>,
    /// Interfaces whose sockets broke, and when they are opened again.
    broken: BTreeMap<u32, Instant>,
    tasks: JoinSet<(u32, io::Result<()>)>,
}

/// An announcer that runs as a task of its own.
struct Running {
    mac: MacAddress,
    assignment: watch::Sender<Assignment>,
    probes: mpsc::Sender<Probe>,
    task: AbortHandle,
}

impl Layer2 {
    fn assign(&mut self, links: &Snapshot, plan: &Plan) {
        self.announcers.retain(|index, running| {
            let kept = links.eligible.get(index).is_some_and(|interface| interface.mac == running.mac);
            if !kept {
                running.task.abort();
            }
            kept
        });
        let now = Instant::now();
        self.broken.retain(|_, retry| *retry > now);
        for interface in links.eligible.values() {
            if self.broken.contains_key(&interface.index) {
                continue;
            }
            let addresses: BTreeSet<IpAddr> = plan
                .announcements
                .iter()
                .filter(|(_, interfaces)| interfaces.contains(&interface.name))
                .map(|(address, _)| *address)
                .collect();
            let elsewhere = plan.elsewhere.keys().copied().collect();
            let assignment = Assignment { interface: interface.clone(), addresses, elsewhere };
            match self.announcers.get(&interface.index) {
                Some(running) => {
                    running.assignment.send_if_modified(|former| {
                        let changed = *former != assignment;
                        if changed {
                            *former = assignment;
                        }
                        changed
                    });
                }
                None => self.start(interface, assignment),
            }
        }
    }

    fn start(&mut self, interface: &Interface, assignment: Assignment) {
        let opened =
            Announcer::open(interface.clone(), self.settings, self.sightings.clone(), self.metrics.clone());
        let announcer = match opened {
            Ok(announcer) => announcer,
            Err(error) => {
                tracing::error!(interface = interface.name, %error, "cannot announce on this interface");
                self.broken.insert(interface.index, Instant::now() + REOPEN);
                return;
            }
        };
        tracing::info!(event = "createAnnouncer", interface = interface.name, "announcing on this interface");
        let (assignment, assigned) = watch::channel(assignment);
        let (probes, asked) = mpsc::channel(BACKLOG);
        let index = interface.index;
        let task = self.tasks.spawn(async move { (index, announcer.run(assigned, asked).await) });
        self.announcers.insert(index, Running { mac: interface.mac, assignment, probes, task });
    }

    fn ended(&mut self, ended: Result<(u32, io::Result<()>), tokio::task::JoinError>) {
        match ended {
            Ok((index, result)) => {
                self.announcers.remove(&index);
                self.broken.insert(index, Instant::now() + REOPEN);
                if let Err(error) = result {
                    tracing::warn!(interface = index, %error, "interface lost");
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// When an interface that broke is opened again.
    fn retry(&self) -> Option<Instant> {
        self.broken.values().min().copied()
    }

    /// Asks a node on each interface that has an address in a network with it, and its speaker on every interface.
    fn ask(&self, links: &Snapshot, plan: &Plan, question: &Question) {
        let announced = plan.elsewhere.iter().find(|(_, node)| **node == question.node);
        for (index, running) in &self.announcers {
            let from = links.links.addresses(*index).find(|net| net.contains(&question.address));
            if let Some(from) = from.map(|net| net.addr()) {
                // Full when the interface is busy: the question comes again.
                let _ = running.probes.try_send(Probe { target: question.address, from });
            }
            if let Some((target, _)) = announced {
                let _ = running.probes.try_send(Probe { target: *target, from: unspecified(*target) });
            }
        }
    }
}

fn unspecified(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
