//! Layer 2: brings the plan to the interfaces, and what the interfaces see to whom it concerns.

mod asking;
mod broken;

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

use super::announcer::{Announcer, Assignment, Elsewhere, Fence, LATE, Order, Sighting};
use super::links::Snapshot;
use super::metrics::Layer2Metrics;
use super::{sleep_until, wire};
pub(super) use asking::unspecified;
use broken::Broken;

/// Messages that wait between two tasks.
const BACKLOG: usize = 256;
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
    /// Those of the plan that are left to other nodes, which announce them too and may know better.
    pub yielded: BTreeSet<IpAddr>,
    /// Interfaces whose sockets cannot be opened or do not hold: this node cannot announce on them.
    pub broken: BTreeSet<String>,
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
    /// Whether it is of interest if this node knows what happens in the cluster: another node announces what it does.
    pub doubts: watch::Sender<bool>,
    /// Whether it does, as far as is known.
    pub informed: watch::Receiver<bool>,
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
    /// This node is in no network with a host, and cannot ask it.
    OutOfReach(IpAddr),
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
        counted: BTreeSet::new(),
        fence: Fence(settings.fencing.then(|| ports.hold.clone())),
        fenced: settings.fencing,
        yielded: BTreeSet::new(),
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
        layer2.settle_disputes(&plan, ports.roster.borrow().as_ref());
        layer2.assign(&links, &plan, ports.roster.borrow().as_ref());
        layer2
            .questions
            .checker
            .assign(Instant::now(), wire::subjects(&plan, ports.roster.borrow().as_ref()));
        let (mut changed, mut deadline, mut retry) = (true, None, None);
        // Until what is announced changes, everything else is passed through.
        loop {
            // All addresses are looked at only where something may have changed, not for each frame that is heard.
            if std::mem::replace(&mut changed, true) {
                layer2.poll(&links, &plan, &ports.checks);
                let is_informed = *ports.informed.borrow_and_update();
                layer2.judge_disputes(&plan, &ports.doubts, is_informed);
                if layer2.tell(&links, &plan, &ports.standing) {
                    break;
                }
                retry = layer2.retry();
                deadline = layer2.deadline().into_iter().chain(retry).min();
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
                    layer2.settle_disputes(&plan, roster.as_ref());
                }
                told = ports.informed.changed() => told.context("the speaker ends")?,
                told = ports.links.changed() => break told.context("the links ended")?,
                told = ports.plan.changed() => break told.context("the plans ended")?,
                question = ports.questions.recv() => {
                    let question = question.context("the membership ended")?;
                    if !layer2.ask(&links, &plan, &question) {
                        let _ = ports.answers.try_send(Answer::OutOfReach(question.address));
                    }
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
                () = sleep_until(deadline) => if retry.is_some_and(|retry| retry <= Instant::now()) {
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
    /// Addresses that were announced here, and that somebody still announces.
    counted: BTreeSet<IpAddr>,
    fence: Fence,
    fenced: bool,
    /// Addresses of the plan that are left to another node, which announces them by what this one cannot know.
    yielded: BTreeSet<IpAddr>,
    metrics: Layer2Metrics,
    sightings: mpsc::Sender<Sighting>,
    announcers: BTreeMap<u32, Running>,
    /// Interfaces whose sockets broke, until they hold again.
    broken: BTreeMap<u32, Broken>,
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
    fn assign(&mut self, links: &Snapshot, plan: &Plan, roster: Option<&Roster>) {
        self.announcers.retain(|index, running| {
            // A link that is renamed is another one to plans.
            let is_same =
                |interface: &Interface| interface.mac == running.mac && interface.name == running.name;
            let kept = links.eligible.get(index).is_some_and(is_same);
            if !kept {
                running.task.abort();
            }
            kept
        });
        let now = Instant::now();
        let (eligible, open) = (&links.eligible, &self.announcers);
        self.broken.retain(|index, broken| {
            eligible.contains_key(index) && !(open.contains_key(index) && broken.is_mended(now))
        });
        // One that is back after a split announces what it takes already, and says no more of it.
        let is_patient = self.settings.gratuitous.count > 0
            && self.met.is_none_or(|met| now.saturating_duration_since(met) >= LATE);
        self.counted.extend(plan.announcements.keys());
        let metrics = &self.metrics;
        self.counted.retain(|address| {
            let is_there = plan.announcements.contains_key(address) || plan.elsewhere.contains_key(address);
            if !is_there {
                metrics.forget(*address);
            }
            is_there
        });
        let wanted = plan.announcements.keys();
        let wanted = wanted.map(|address| (*address, plan.fresh.contains(address))).collect();
        self.questions.guard.assign(now, &wanted);
        let elsewhere = Arc::new(elsewhere(plan, roster));
        for interface in links.eligible.values() {
            let is_open = self.announcers.contains_key(&interface.index);
            if !is_open && self.broken.get(&interface.index).is_some_and(|broken| broken.retry > now) {
                continue;
            }
            let wanted =
                plan.announcements.iter().filter(|(_, interfaces)| interfaces.contains(&interface.name));
            let addresses: BTreeSet<IpAddr> =
                wanted.map(|(address, _)| *address).filter(|address| self.may_announce(*address)).collect();
            let (interface_now, elsewhere) = (interface.clone(), elsewhere.clone());
            let assignment = Assignment { interface: interface_now, addresses, elsewhere, is_patient };
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
                self.breaks(interface.index);
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
                self.breaks(index);
                if let Err(error) = result {
                    tracing::warn!(interface = index, %error, "interface lost");
                }
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn breaks(&mut self, index: u32) {
        let former = self.broken.get(&index).copied();
        self.broken.insert(index, Broken::again(former, Instant::now()));
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
        !self.fenced && !self.yielded.contains(&address) && !self.questions.guard.withholds(address)
    }

    /// When something is to be done though nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let fence = self.fence.closes().filter(|_| !self.fenced);
        let questions = self.questions.deadline(Instant::now());
        questions.into_iter().chain(fence).min()
    }

    /// When an interface that broke is opened again, counts as lost, or counts as mended.
    fn retry(&self) -> Option<Instant> {
        let now = Instant::now();
        let next =
            |(index, broken): (&u32, &Broken)| broken.deadline(now, self.announcers.contains_key(index));
        self.broken.iter().map(next).min()
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
            yielded: self.yielded.clone(),
            broken: self.given_up(links),
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

    /// The names of the interfaces on which this node cannot announce.
    fn given_up(&self, links: &Snapshot) -> BTreeSet<String> {
        let now = Instant::now();
        let broken = self.broken.iter().filter(|(_, broken)| broken.is_given_up(now));
        broken.filter_map(|(index, _)| Some(links.eligible.get(index)?.name.clone())).collect()
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

/// The addresses of other nodes, with the link-layer addresses that those told.
fn elsewhere(plan: &Plan, roster: Option<&Roster>) -> Elsewhere {
    let members = roster.into_iter().flat_map(|roster| &roster.members);
    let told = members.filter_map(|(node, facts)| Some((node, Arc::new(facts.as_ref()?.macs.clone()))));
    let told: BTreeMap<&String, Arc<BTreeSet<MacAddress>>> = told.collect();
    let macs = |node| told.get(node).cloned().unwrap_or_default();
    plan.elsewhere.iter().map(|(address, node)| (*address, macs(node))).collect()
}
