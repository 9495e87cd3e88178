//! Layer 2: brings the plan to the interfaces, and what the interfaces see to whom it concerns.

mod asking;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use metallb_core::plan::Plan;
use metallb_proto::layer2::conflict::{self, Conflict, Guard};
use metallb_proto::layer2::link::Interface;
use metallb_proto::layer2::questions::Questions;
use metallb_proto::layer2::wire_check::{Checker, Outcome};
use metallb_proto::layer2::{MacAddress, gratuitous};
use metallb_proto::membership::Roster;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::announcer::{Announcer, Assignment, Fence, LATE, Order, Sighting};
use super::links::Snapshot;
use super::metrics::Layer2Metrics;
use super::{sleep_until, wire};
pub(super) use asking::unspecified;

/// Messages that wait between two tasks.
const BACKLOG: usize = 256;
/// Pause before an interface whose sockets broke is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// How layer 2 announces.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is said unasked.
    pub gratuitous: gratuitous::Settings,
    /// How other hosts are asked for an address.
    pub conflict: conflict::Settings,
    /// Link-layer addresses that are no conflict.
    pub ignored: BTreeSet<MacAddress>,
    /// How often another node's announcement is checked where nothing changed; `None` for no checks.
    pub wire_check: Option<Duration>,
    /// Whether announcing depends on [`Ports::hold`].
    pub fencing: bool,
}

/// What became of the plan on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The addresses that are announced.
    pub announced: BTreeSet<IpAddr>,
    /// Those of the plan that another host has.
    pub conflicts: BTreeMap<IpAddr, Conflict>,
    /// Those of the plan for which this node has no interface.
    pub failed: BTreeSet<IpAddr>,
}

/// What connects layer 2 to the rest of the speaker.
pub struct Ports {
    /// The links of the node.
    pub links: watch::Receiver<Snapshot>,
    /// What to announce.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// The other speakers, whose link-layer addresses are no conflict.
    pub roster: watch::Receiver<Option<Roster>>,
    /// What is announced.
    pub standing: watch::Sender<Standing>,
    /// Until when anything may be announced, with [`Settings::fencing`]; nothing before it is told.
    pub hold: watch::Receiver<Option<Instant>>,
    /// What was seen of addresses that other nodes announce.
    pub checks: watch::Sender<BTreeMap<IpAddr, Outcome>>,
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
    let rate = settings.gratuitous.rate;
    let guard = Guard::new(settings.conflict, rand::random());
    let mut layer2 = Layer2 {
        questions: Questions::new(guard, Checker::new(settings.wire_check, rate), rate),
        members: None,
        met: None,
        overdue: 0,
        fence: Fence(settings.fencing.then(|| ports.hold.clone())),
        fenced: settings.fencing,
        settings,
        metrics,
        sightings,
        announcers: BTreeMap::new(),
        broken: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    layer2.metrics.fenced(layer2.fenced);
    loop {
        let links = ports.links.borrow_and_update().clone();
        let plan = ports.plan.borrow_and_update().clone();
        layer2.meet(ports.roster.borrow().as_ref());
        layer2.assign(&links, &plan);
        layer2
            .questions
            .checker
            .assign(Instant::now(), wire::subjects(&plan, ports.roster.borrow().as_ref()));
        let (mut changed, mut deadline) = (true, None);
        // Until what is announced changes, everything else is passed through.
        loop {
            // All addresses are looked at only where something may have changed, not for each frame that is heard.
            if std::mem::replace(&mut changed, true) {
                layer2.poll(&links, &plan, &ports.checks);
                if layer2.tell(&links, &plan, &ports.standing) {
                    break;
                }
                deadline = layer2.deadline();
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                told = ports.hold.changed(), if layer2.settings.fencing => told.context("the membership ended")?,
                told = ports.roster.changed() => {
                    told.context("the membership ended")?;
                    let roster = ports.roster.borrow_and_update();
                    let subjects = wire::subjects(&plan, roster.as_ref());
                    layer2.questions.checker.assign(Instant::now(), subjects);
                    layer2.meet(roster.as_ref());
                }
                told = ports.links.changed() => break told.context("the links ended")?,
                told = ports.plan.changed() => break told.context("the plans ended")?,
                question = ports.questions.recv() => {
                    layer2.ask(&links, &plan, &question.context("the membership ended")?);
                    changed = false;
                }
                Some(sighting) = seen.recv() => {
                    let answer;
                    (changed, answer) = layer2.saw(&links, &plan, ports.roster.borrow().as_ref(), sighting);
                    if let Some(answer) = answer {
                        // Full when the membership is busy: it asks again.
                        let _ = ports.answers.try_send(answer);
                    }
                }
                Some(ended) = layer2.tasks.join_next() => layer2.ended(ended),
                () = sleep_until(deadline) => if layer2.retry().is_some_and(|retry| retry <= Instant::now()) {
                    break;
                },
            }
        }
    }
}

struct Layer2 {
    settings: Settings,
    questions: Questions,
    /// The nodes with a living speaker, once there is word of them.
    members: Option<BTreeSet<String>>,
    /// When one came that was none before.
    met: Option<Instant>,
    /// Addresses that are announced though other hosts are still to be asked for them.
    overdue: usize,
    fence: Fence,
    fenced: bool,
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
    orders: mpsc::Sender<Order>,
    /// Names the interface in plans.
    name: String,
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
        // One that is back after a split announces what it takes already, and says no more of it.
        let is_patient = self.settings.gratuitous.count > 0
            && self.met.is_none_or(|met| now.saturating_duration_since(met) >= LATE);
        let wanted = plan.announcements.keys();
        let wanted = wanted.map(|address| (*address, plan.fresh.contains(address))).collect();
        self.questions.guard.assign(now, &wanted);
        for interface in links.eligible.values() {
            if self.broken.contains_key(&interface.index) {
                continue;
            }
            let wanted =
                plan.announcements.iter().filter(|(_, interfaces)| interfaces.contains(&interface.name));
            let addresses: BTreeSet<IpAddr> =
                wanted.map(|(address, _)| *address).filter(|address| self.may_announce(*address)).collect();
            let elsewhere = plan.elsewhere.keys().copied().collect();
            let assignment = Assignment { interface: interface.clone(), addresses, elsewhere, is_patient };
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
        let opened = Announcer::open(
            interface.clone(),
            self.settings.gratuitous,
            self.fence.clone(),
            self.sightings.clone(),
            self.metrics.clone(),
        );
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
        let (orders, ordered) = mpsc::channel(BACKLOG);
        let index = interface.index;
        let task = self.tasks.spawn(async move { (index, announcer.run(assigned, ordered).await) });
        let (mac, name) = (interface.mac, interface.name.clone());
        self.announcers.insert(index, Running { mac, assignment, orders, name, task });
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

    /// Takes note of who takes part. A node that is back after a split announced what this one does: neighbours that
    /// believe it are told who stayed.
    fn meet(&mut self, roster: Option<&Roster>) {
        let Some(roster) = roster else { return };
        let members: BTreeSet<String> = roster.members.keys().cloned().collect();
        let came = self.members.as_ref().is_some_and(|before| !members.is_subset(before));
        self.members = Some(members);
        if came {
            self.met = Some(Instant::now());
            for running in self.announcers.values() {
                // Full when the interface is busy: a claim that is heard leads to the same.
                let _ = running.orders.try_send(Order::AgainAll);
            }
        }
    }

    /// Whether an address of the plan is announced now.
    fn may_announce(&self, address: IpAddr) -> bool {
        !self.fenced && !self.questions.guard.withholds(address)
    }

    /// When something is to be done though nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let fence = self.fence.closes().filter(|_| !self.fenced);
        let questions = self.questions.deadline(Instant::now());
        questions.into_iter().chain(self.retry()).chain(fence).min()
    }

    /// When an interface that broke is opened again.
    fn retry(&self) -> Option<Instant> {
        self.broken.values().min().copied()
    }

    /// Tells what is announced. Returns whether that is something else than before.
    fn tell(&mut self, links: &Snapshot, plan: &Plan, standing: &watch::Sender<Standing>) -> bool {
        let fenced = !self.fence.is_open(Instant::now());
        if self.fenced != fenced {
            self.fenced = fenced;
            self.metrics.fenced(fenced);
            tracing::warn!(
                event = "fencing",
                fenced,
                "without a majority of the speakers nothing is announced"
            );
        }
        let (has_interface, failed): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
            plan.announcements.keys().partition(|address| self.has_interface(links, plan, **address));
        let now = Standing {
            announced: has_interface.into_iter().filter(|address| self.may_announce(*address)).collect(),
            conflicts: self.questions.guard.conflicts(),
            failed,
        };
        let mut moved = false;
        standing.send_if_modified(|former| {
            let changed = *former != now;
            if changed {
                moved = former.announced != now.announced;
                self.metrics.conflicts(&now.conflicts);
                *former = now;
            }
            changed
        });
        moved
    }

    /// Whether an address of the plan can be announced on some interface.
    fn has_interface(&self, links: &Snapshot, plan: &Plan, address: IpAddr) -> bool {
        let usable = |(index, running): (&u32, &Running)| {
            let interface = links.eligible.get(index);
            let wanted = plan.announcements.get(&address);
            interface.is_some_and(|interface| interface.carrier && (address.is_ipv4() || interface.ipv6))
                && wanted.is_some_and(|interfaces| interfaces.contains(&running.name))
        };
        self.announcers.iter().any(usable)
    }
}
