//! The observer: watches the cluster, keeps the world, and publishes a plan whenever it changes.

mod abreast;
mod inputs;
mod known;
mod pools;
mod problems;
mod relinked;
mod services;
mod speakers;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{Stream, StreamExt};
use kube::Client;
use metallb_api::names::EXCLUDE_LB_LABEL;
use metallb_core::claims::{self, OwnClaims};
use metallb_core::config::Problem;
use metallb_core::failback::Failback;
use metallb_core::plan::{self, Plan};
use metallb_core::range::AddressRange;
use metallb_core::uninformed::Uninformed;
use metallb_proto::membership::{Facts, Roster};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bgp;
use super::departure::Home;
use super::gossip::{Own, Peers};
use super::informed::Contact;
use super::layer2::Standing;
use super::links::Snapshot;
use super::owners::Recording;
use super::report::{Announced, Mark, Marks};
use super::sleep_until;
use super::state::State;
use abreast::Abreast;
use inputs::{Input, inputs, load_balancers};
pub(super) use inputs::{named, stripped, take};
use known::Known;
use problems::problems;
use relinked::Relinked;

/// How long a node that announced something, by the record, counts as a candidate without having been heard: of speakers
/// that start together the first must not take over from the last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Changes taken in at once.
const BATCH: usize = 256;
/// After a plan the observer rests for this part of the time that it took, and takes further changes in: else each of a
/// burst would cost a plan of its own, and those behind wait for all of them.
const REST: u32 = 4;

/// Where the observer looks, and what for.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Namespace of the configuration and of the speakers' pods.
    pub(super) namespace: String,
    /// Name of this node.
    pub(super) node: String,
    /// `loadBalancerClass` that is served.
    pub(super) class: Option<String>,
    /// Labels of the speakers' pods; `None` when the speakers do not know of each other.
    pub(super) speakers: Option<String>,
    /// Port of the speakers' gossip.
    pub(super) port: u16,
    /// Whether the exclude label of nodes is ignored.
    pub(super) ignore_exclude_label: bool,
    /// Whether addresses move away from cordoned nodes.
    pub(super) drain: bool,
    /// Whether an address never leaves a node that can go on announcing it.
    pub(super) never_fail_back: bool,
    /// What holds for all BGP sessions.
    pub(super) bgp: bgp::spec::Node,
}

/// What connects the observer to the rest of the speaker.
pub(super) struct Ports {
    pub(super) roster: watch::Receiver<Option<Roster>>,
    pub(super) peers: watch::Sender<Option<Peers>>,
    /// Whether the API server answers.
    pub(super) contact: watch::Receiver<Contact>,
    /// Whether this speaker knows all that it has.
    pub(super) informed: watch::Sender<bool>,
    pub(super) links: watch::Receiver<Snapshot>,
    /// What became of the plan on them.
    pub(super) standing: watch::Receiver<Standing>,
    /// What the others are told of this node's addresses.
    pub(super) own: watch::Sender<Own>,
    /// What is to be written down about addresses that are spread evenly.
    pub(super) recording: watch::Sender<Option<Recording>>,
    pub(super) home: watch::Sender<Home>,
    /// What is told of this speaker itself.
    pub(super) state: watch::Sender<Option<State>>,
    pub(super) pools: watch::Sender<BTreeMap<String, Vec<AddressRange>>>,
    pub(super) plan: watch::Sender<Arc<Plan>>,
    /// What there is to tell of this node's announcements.
    pub(super) announced: watch::Sender<Option<Arc<Announced>>>,
    pub(super) marks: watch::Sender<Marks>,
    /// What is to be announced by BGP.
    pub(super) wanted: watch::Sender<Option<Arc<bgp::spec::Wanted>>>,
}

/// Watches and plans until `cancel`.
///
/// # Errors
/// When a watch or one of the tasks that it depends on ended.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    mut ports: Ports,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let services = load_balancers(&client).await;
    let (bgp, secrets) = bgp::inputs::Inputs::new(&client, &settings.namespace, settings.bgp);
    let mut watched = inputs(&client, &settings, services.clone());
    let mut secrets = secrets.map(Input::Bgp);
    let mut observer = Observer::new(settings, bgp);
    let (mut is_due, mut rested) = (false, Instant::now());
    loop {
        let now = Instant::now();
        let patience = observer.settled.map(|at| at + PATIENCE).filter(|end| *end > now);
        let own = [
            observer.failback.deadline(now),
            observer.known.deadline(),
            observer.uninformed.deadline(now),
            patience,
        ];
        let due = own.into_iter().flatten().min().filter(|_| !is_due);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            batch = next(&mut watched, &mut secrets) => {
                let now = Instant::now();
                for input in batch.context("the watches ended")? {
                    is_due |= observer.known.take(input, now);
                }
            }
            changed = ports.contact.changed() => {
                changed.context("the API server is asked no more")?;
                let contact = *ports.contact.borrow_and_update();
                if observer.abreast.meet(contact, Instant::now()) {
                    watched = inputs(&client, &observer.settings, services.clone());
                    observer.known.look_again();
                }
                if contact != Contact::Answers {
                    replace(&ports.informed, false);
                }
            }
            changed = ports.roster.changed() => {
                changed.context("the membership ended")?;
                observer.roster.clone_from(&ports.roster.borrow_and_update());
                observer.note_uninformed();
                observer.is_able(&ports);
                is_due = true;
            }
            changed = ports.links.changed() => {
                changed.context("the links ended")?;
                ports.links.borrow_and_update();
                is_due |= observer.is_able(&ports);
            }
            changed = ports.standing.changed() => {
                changed.context("layer 2 ended")?;
                ports.standing.borrow_and_update();
                is_due |= observer.is_able(&ports);
            }
            () = sleep_until(due) => {
                observer.known.pass(Instant::now());
                is_due = true;
            }
            () = sleep_until(Some(rested)), if is_due => {}
        }
        let now = Instant::now();
        if is_due && rested <= now {
            observer.publish(&ports);
            is_due = false;
            rested = Instant::now() + now.elapsed() / REST;
        }
        if !is_due && observer.abreast.is_informed(observer.known.is_current()) {
            replace(&ports.informed, true);
        }
    }
}

/// What the watches bring next, all at once that is there.
async fn next(
    watched: impl Stream<Item = Input> + Unpin,
    secrets: impl Stream<Item = Input> + Unpin,
) -> Option<Vec<Input>> {
    futures::stream::select(watched, secrets).ready_chunks(BATCH).next().await
}

/// What is known, and what was made of it.
struct Observer {
    settings: Settings,
    roster: Option<Roster>,
    /// What this node is able to do, once its links are known.
    own: Option<Facts>,
    relinked: Relinked,
    known: Known,
    failback: Failback,
    abreast: Abreast,
    uninformed: Uninformed,
    claims: OwnClaims,
    /// Since when this speaker takes part.
    settled: Option<Instant>,
    /// The last plan.
    plan: Arc<Plan>,
}

impl Observer {
    fn new(settings: Settings, bgp: bgp::inputs::Inputs) -> Self {
        Self {
            failback: Failback::new(settings.never_fail_back),
            settings,
            abreast: Abreast::default(),
            uninformed: Uninformed::default(),
            roster: None,
            own: None,
            relinked: Relinked::default(),
            known: Known::new(bgp, Instant::now()),
            claims: OwnClaims::default(),
            settled: None,
            plan: Arc::default(),
        }
    }

    /// Takes note of what this node is able to do; whether that is something else than before.
    fn is_able(&mut self, ports: &Ports) -> bool {
        let links = ports.links.borrow();
        let link = self.roster.as_ref().map(|roster| roster.link).unwrap_or_default();
        let mut unable = ports.standing.borrow().broken.clone();
        unable.extend(self.relinked.observe(&links, link));
        let own = links.facts(&unable);
        let changed = self.own != own;
        self.own = own;
        changed
    }

    /// Takes note of who says that it is uninformed, once all had time to say it.
    fn note_uninformed(&mut self) {
        if self.roster.as_ref().is_some_and(|roster| roster.settled) {
            let said = self.told().filter_map(|(node, facts)| Some((node.clone(), facts?.uninformed)));
            let said = said.collect();
            self.uninformed.observe(Instant::now(), &said);
        }
    }

    fn publish(&mut self, ports: &Ports) {
        // Whoever takes part in the gossip is elected: not before it can announce.
        if let Some(peers) = self.known.peers().filter(|_| self.known.is_whole()) {
            replace(&ports.peers, Some(peers));
        }
        replace(&ports.home, self.home());
        if self.settled.is_none() && self.roster.as_ref().is_some_and(|roster| roster.settled) {
            self.settled = Some(Instant::now());
        }
        if !self.known.is_whole() {
            return;
        }
        let mut world = self.world();
        self.known.bgp.publish(&world, &self.settings.node, &ports.wanted);
        let contradictions = ports.wanted.borrow().as_ref().map(|wanted| wanted.problems.clone());
        // Sessions with routers do not wait for the speakers to know of each other.
        match self.alive() {
            Some(speakers) => world.speakers = speakers,
            None => return self.plan_is(plan::resumed(&world, &self.records(), &self.settings.node), ports),
        }
        replace(&ports.pools, self.known.pools());
        let me = &self.settings.node;
        let plan = plan::plan(&world, me);
        let now = Instant::now();
        self.failback.observe(now, &world, me, &self.plan, &plan);
        self.claims.follow(&world, &plan, me);
        let claims = self.claims.told();
        let claims = claims.iter().map(|(address, claim)| (*address, (claim.epoch, claim.held))).collect();
        let stays = self.failback.stays(now, &plan, me);
        replace(&ports.own, Own { kept: self.failback.kept(now, &plan), claims, stays });
        replace(&ports.recording, self.recording(&plan));
        replace(&ports.state, Some(self.state(&plan, &contradictions.unwrap_or_default())));
        let announced = Announced::of(&plan, self.known.services.facts(), me, &self.own_interfaces());
        self.plan_is(plan, ports);
        let facts = announced.services().filter_map(|key| self.known.services.facts().get(key));
        replace(&ports.marks, facts.map(|facts| (facts.key.clone(), Mark::of(facts))).collect());
        replace(&ports.announced, Some(Arc::new(announced)));
    }

    fn plan_is(&mut self, plan: Plan, ports: &Ports) {
        if *self.plan != plan {
            self.plan = Arc::new(plan);
            ports.plan.send_replace(self.plan.clone());
        }
    }

    /// What this speaker is to write down about the addresses that are spread evenly; the first of all does it.
    fn recording(&self, plan: &Plan) -> Option<Recording> {
        let first = self.told().next().map(|(node, _)| node);
        if first != Some(&self.settings.node) {
            return None;
        }
        let wanted = claims::record(&self.claimed(), &self.written(), plan);
        let uids = wanted.keys().filter_map(|name| Some((name.clone(), self.known.uid(name)?))).collect();
        Some(Recording { wanted, written: self.known.written(), uids })
    }

    fn home(&self) -> Home {
        let Some(facts) = self.known.nodes.get(&self.settings.node) else {
            // It is deleted, or the list is not there yet.
            return Home { going: self.known.knows_nodes(), ..Home::default() };
        };
        let labels = facts.node.labels.clone();
        let excluded = !self.settings.ignore_exclude_label && labels.contains_key(EXCLUDE_LB_LABEL);
        Home { going: facts.node.going || excluded, labels, kubelet: facts.kubelet.clone() }
    }

    fn state(&self, plan: &Plan, contradictions: &[Problem]) -> State {
        let known = self.known.problems.iter().cloned();
        let roster = self.roster.as_ref();
        let own = roster.and_then(|roster| roster.members.get(&self.settings.node)?.as_ref());
        State {
            problems: known
                .chain(contradictions.iter().map(Problem::to_string))
                .chain(problems(plan, own))
                .collect(),
            unheard: roster.map(|roster| roster.unheard.clone()).unwrap_or_default(),
            port: self.settings.port,
        }
    }
}

/// Publishes a value unless it is the same as before.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|former| {
        let changed = *former != value;
        if changed {
            *former = value;
        }
        changed
    });
}
