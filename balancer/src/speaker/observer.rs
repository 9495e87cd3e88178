//! The observer: watches the cluster, keeps the world, and publishes a plan whenever it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use metallb_api::names::EXCLUDE_LB_LABEL;
use metallb_api::{IPAddressPool, L2Advertisement};
use metallb_core::config::{self, Config, Objects};
use metallb_core::failback::Failback;
use metallb_core::plan::{self, Endpoints, Plan, World};
use metallb_core::range::AddressRange;
use metallb_core::service::ServiceKey;
use metallb_proto::membership::{Roster, Seed};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bgp;
use super::departure::Home;
use super::facts::{self, NodeFacts, ServiceFacts, SliceFacts};
use super::gossip::Peers;
use super::report::{Announced, Mark, Marks};
use super::sleep_until;
use super::state::State;
use crate::watch::{Change, changes};

/// Selects Services of type LoadBalancer.
const LOAD_BALANCERS: &str = "spec.type=LoadBalancer";
/// How long a node that announced something, by the record, counts as a candidate without having been heard: of speakers
/// that start together the first must not take over from the last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Changes taken in before the next plan is made.
const BATCH: usize = 256;

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
    /// What this node keeps, whatever the election prefers.
    pub(super) kept: watch::Sender<BTreeSet<IpAddr>>,
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
    let (bgp, bgp_inputs) = bgp::inputs::Inputs::new(&client, &settings.namespace, settings.bgp);
    let inputs = inputs(&client, &settings, services);
    let mut inputs = futures::stream::select(inputs, bgp_inputs.map(Input::Bgp)).ready_chunks(BATCH);
    let mut observer = Observer::new(settings, bgp);
    loop {
        let now = Instant::now();
        let patience = observer.settled.map(|at| at + PATIENCE).filter(|end| *end > now);
        let due = observer.failback.deadline(now).into_iter().chain(patience).min();
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            batch = inputs.next() => {
                for input in batch.context("the watches ended")? {
                    observer.take(input);
                }
            }
            changed = ports.roster.changed() => {
                changed.context("the membership ended")?;
                observer.roster.clone_from(&ports.roster.borrow_and_update());
            }
            () = sleep_until(due) => {}
        }
        observer.publish(&ports);
    }
}

/// What the watches bring.
enum Input {
    Services(Change<ServiceFacts>),
    Slices(Change<SliceFacts>),
    Nodes(Change<(String, NodeFacts)>),
    Pools(Change<IPAddressPool>),
    Advertisements(Change<L2Advertisement>),
    Speakers(Change<(String, Option<Seed>)>),
    Bgp(bgp::inputs::Input),
}

fn inputs(
    client: &Client,
    settings: &Settings,
    services: watcher::Config,
) -> impl Stream<Item = Input> + use<> {
    let class = settings.class.clone();
    let port = settings.port;
    let all = watcher::Config::default;
    let service = Api::<Service>::all(client.clone());
    let slice = Api::<EndpointSlice>::all(client.clone());
    let node = Api::<Node>::all(client.clone());
    let pool = Api::<IPAddressPool>::namespaced(client.clone(), &settings.namespace);
    let advertisement = Api::<L2Advertisement>::namespaced(client.clone(), &settings.namespace);
    let services = changes("Service", watcher(service, services), move |object| {
        facts::service(&object, class.as_deref())
    });
    let slices = changes("EndpointSlice", watcher(slice, all()), |object| facts::slice(&object));
    let nodes = changes("Node", watcher(node, all()), |object| facts::node_facts(&object));
    let pools = changes("IPAddressPool", watcher(pool, all()), stripped);
    let advertisements = changes("L2Advertisement", watcher(advertisement, all()), stripped);
    let mut inputs: Vec<BoxStream<'static, Input>> = vec![
        services.map(Input::Services).boxed(),
        slices.map(Input::Slices).boxed(),
        nodes.map(Input::Nodes).boxed(),
        pools.map(Input::Pools).boxed(),
        advertisements.map(Input::Advertisements).boxed(),
    ];
    if let Some(labels) = &settings.speakers {
        let pod = Api::<Pod>::namespaced(client.clone(), &settings.namespace);
        let speakers =
            changes("Pod", watcher(pod, all().labels(labels)), move |object| facts::speaker(&object, port));
        inputs.push(speakers.map(Input::Speakers).boxed());
    }
    futures::stream::select_all(inputs)
}

/// Asks only for Services of type LoadBalancer where the API server can select by it: it is the difference between a
/// handful and all of a large cluster's.
async fn load_balancers(client: &Client) -> watcher::Config {
    let services = Api::<PartialObjectMeta<Service>>::all(client.clone());
    let first = ListParams::default().fields(LOAD_BALANCERS).limit(1);
    match services.list_metadata(&first).await {
        Err(kube::Error::Api(status)) if status.code == 400 => {
            tracing::info!("the API server does not select Services by type: watching all of them");
            watcher::Config::default()
        }
        _ => watcher::Config::default().fields(LOAD_BALANCERS),
    }
}

/// An object without the record of who wrote which field.
pub(super) fn stripped<K: kube::Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// All that is known of the cluster.
struct Observer {
    settings: Settings,
    roster: Option<Roster>,
    services: BTreeMap<ServiceKey, ServiceFacts>,
    /// By Service, then by slice.
    endpoints: BTreeMap<ServiceKey, BTreeMap<ServiceKey, Endpoints>>,
    nodes: BTreeMap<String, NodeFacts>,
    pools: BTreeMap<String, IPAddressPool>,
    advertisements: BTreeMap<String, L2Advertisement>,
    speakers: BTreeMap<String, Option<Seed>>,
    bgp: bgp::inputs::Inputs,
    config: Config,
    /// What is wrong with the configuration.
    problems: Vec<String>,
    seen: Seen,
    /// Addresses that were given to a Service since this speaker looks, and that no record says were announced.
    fresh: BTreeSet<IpAddr>,
    failback: Failback,
    /// Since when this speaker takes part.
    settled: Option<Instant>,
    /// The last plan.
    plan: Arc<Plan>,
}

/// Which lists are complete.
#[derive(Clone, Copy, Default)]
struct Seen {
    services: bool,
    slices: bool,
    nodes: bool,
    pools: bool,
    advertisements: bool,
    speakers: bool,
}

impl Observer {
    fn new(settings: Settings, bgp: bgp::inputs::Inputs) -> Self {
        Self {
            failback: Failback::new(settings.never_fail_back),
            settings,
            roster: None,
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            advertisements: BTreeMap::new(),
            speakers: BTreeMap::new(),
            bgp,
            config: Config::default(),
            problems: Vec::new(),
            seen: Seen::default(),
            fresh: BTreeSet::new(),
            settled: None,
            plan: Arc::default(),
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Services(change) => {
                self.seen.services = true;
                self.note_fresh(&change);
                take(&mut self.services, change, |facts| (facts.key.clone(), facts));
            }
            Input::Slices(change) => {
                self.seen.slices = true;
                self.take_slices(change);
            }
            Input::Nodes(change) => {
                self.seen.nodes = true;
                take(&mut self.nodes, change, |node| node);
            }
            Input::Pools(change) => {
                self.seen.pools = true;
                take(&mut self.pools, change, named);
                self.configure();
            }
            Input::Advertisements(change) => {
                self.seen.advertisements = true;
                take(&mut self.advertisements, change, named);
                self.configure();
            }
            Input::Speakers(change) => {
                self.seen.speakers = true;
                take(&mut self.speakers, change, |speaker| speaker);
            }
            Input::Bgp(input) => {
                self.bgp.take(input);
                self.configure();
            }
        }
    }

    fn take_slices(&mut self, change: Change<SliceFacts>) {
        match change {
            Change::All(all) => {
                self.endpoints.clear();
                all.into_iter().for_each(|facts| self.set_slice(facts));
            }
            Change::Set(facts) => self.set_slice(facts),
            Change::Gone(facts) => {
                if let Some(slices) = self.endpoints.get_mut(&facts.service) {
                    slices.remove(&facts.key);
                    if slices.is_empty() {
                        self.endpoints.remove(&facts.service);
                    }
                }
            }
        }
    }

    fn set_slice(&mut self, facts: SliceFacts) {
        self.endpoints.entry(facts.service).or_default().insert(facts.key, facts.endpoints);
    }

    /// An address that a single change brings was given just now. One that is on a list may have been announced before.
    fn note_fresh(&mut self, change: &Change<ServiceFacts>) {
        let Change::Set(facts) = change else { return };
        let addresses = facts.service.iter().flat_map(|service| service.addresses.iter().copied());
        let held = |address: &IpAddr| {
            let services = self.services.values().filter_map(|known| known.service.as_ref());
            services.flat_map(|service| &service.addresses).any(|known| known == address)
        };
        if facts.record.is_some() {
            let announced: Vec<IpAddr> = addresses.collect();
            self.fresh.retain(|address| !announced.contains(address));
        } else if self.services.get(&facts.key).and_then(|known| known.service.as_ref())
            != facts.service.as_ref()
        {
            let new: Vec<IpAddr> = addresses.filter(|address| !held(address)).collect();
            self.fresh.extend(new);
        }
    }

    fn configure(&mut self) {
        let objects = self.bgp.objects(Objects {
            pools: self.pools.values().collect(),
            l2_advertisements: self.advertisements.values().collect(),
            ..Objects::default()
        });
        let (config, problems) = config::parse(&objects);
        for problem in problems.iter().filter(|problem| !self.problems.contains(&problem.to_string())) {
            tracing::error!(event = "configInvalid", error = %problem, "part of the configuration is not served");
        }
        self.config = config;
        self.problems = problems.iter().map(ToString::to_string).collect();
    }

    fn publish(&mut self, ports: &Ports) {
        // Whoever takes part in the gossip is elected: not before it can announce.
        if self.seen.speakers && self.seen.world() {
            let seeds = self.speakers.values().flatten().cloned().collect();
            replace(&ports.peers, Some(Peers { seeds, stalls: self.nodes.values().any(|node| node.stalls) }));
        }
        replace(&ports.home, self.home());
        if self.settled.is_none() && self.roster.as_ref().is_some_and(|roster| roster.settled) {
            self.settled = Some(Instant::now());
        }
        let Some(mut world) = self.world() else { return };
        self.bgp.publish(&world, &self.settings.node, &ports.wanted);
        // Sessions with routers do not wait for the speakers to know of each other.
        match self.alive() {
            Some(speakers) => world.speakers = speakers,
            None => return,
        }
        replace(&ports.state, Some(self.state()));
        let ranges = self.config.pools.iter().map(|(name, pool)| (name.clone(), pool.ranges.clone()));
        replace(&ports.pools, ranges.collect());
        let plan = plan::plan(&world, &self.settings.node);
        let now = Instant::now();
        self.failback.observe(now, &world, &self.settings.node, &self.plan, &plan);
        replace(&ports.kept, self.failback.kept(now, &plan));
        let announced = Announced::of(&plan, &self.services, &self.settings.node, &self.own_interfaces());
        if *self.plan != plan {
            self.plan = Arc::new(plan);
            ports.plan.send_replace(self.plan.clone());
        }
        let facts = announced.services().filter_map(|key| self.services.get(key));
        replace(&ports.marks, facts.map(|facts| (facts.key.clone(), Mark::of(facts))).collect());
        replace(&ports.announced, Some(Arc::new(announced)));
    }

    /// The world but for its speakers, once it is known whole: a plan from half of it would withdraw what is announced
    /// rightly.
    fn world(&self) -> Option<World> {
        if !self.seen.world() {
            return None;
        }
        let services = self.services.iter().filter_map(|(key, facts)| {
            let service = facts.service.clone()?;
            Some((key.clone(), plan::Service { endpoints: self.endpoints_of(key), ..service }))
        });
        let withheld = self.services.values().filter(|facts| facts.is_withheld());
        let withheld =
            withheld.filter_map(|facts| facts.service.as_ref()).flat_map(|service| &service.addresses);
        Some(World {
            config: self.config.clone(),
            services: services.collect(),
            nodes: self
                .nodes
                .iter()
                .map(|(name, facts)| (name.clone(), self.linked(name, &facts.node)))
                .collect(),
            speakers: None,
            ignore_exclude_label: self.settings.ignore_exclude_label,
            drain: self.settings.drain,
            kept: self.kept(),
            recorded: self.recorded(),
            fresh: self.fresh.iter().chain(withheld).copied().collect(),
        })
    }

    /// Nodes with a living speaker, which are all where the speakers do not know of each other; `None` until it is
    /// settled.
    fn alive(&self) -> Option<Option<BTreeSet<String>>> {
        if self.settings.speakers.is_none() {
            return Some(None);
        }
        let roster = self.roster.as_ref().filter(|roster| roster.settled)?;
        let expected = self.expected(roster).map(str::to_owned);
        Some(Some(roster.candidates().map(str::to_owned).chain(expected).collect()))
    }

    /// Nodes that announced something by the record, and that have had no time yet to be heard.
    fn expected<'a>(&'a self, roster: &'a Roster) -> impl Iterator<Item = &'a str> {
        let waiting = self.settled.is_none_or(|at| at.elapsed() < PATIENCE);
        let records = self.services.values().filter_map(|facts| facts.record.as_ref());
        let unknown = records.map(|(node, _)| node.as_str()).filter(|node| !roster.known.contains(*node));
        unknown.filter(move |_| waiting)
    }

    /// What each speaker says that it keeps.
    fn kept(&self) -> BTreeMap<IpAddr, BTreeSet<String>> {
        let mut kept: BTreeMap<IpAddr, BTreeSet<String>> = BTreeMap::new();
        let members = self.roster.iter().flat_map(|roster| &roster.members);
        for (node, facts) in members {
            for address in facts.iter().flat_map(|facts| &facts.kept) {
                kept.entry(*address).or_default().insert(node.clone());
            }
        }
        kept
    }

    /// Where each Service was announced last, for speakers that have nobody to ask.
    fn recorded(&self) -> BTreeMap<ServiceKey, String> {
        if !self.failback.is_never() {
            return BTreeMap::new();
        }
        let record = |(key, facts): (&ServiceKey, &ServiceFacts)| {
            facts.record.as_ref().map(|(node, _)| (key.clone(), node.clone()))
        };
        self.services.iter().filter_map(record).collect()
    }

    fn home(&self) -> Home {
        let Some(facts) = self.nodes.get(&self.settings.node) else {
            // It is deleted, or the list is not there yet.
            return Home { going: self.seen.nodes, ..Home::default() };
        };
        let labels = facts.node.labels.clone();
        let excluded = !self.settings.ignore_exclude_label && labels.contains_key(EXCLUDE_LB_LABEL);
        Home { going: facts.node.going || excluded, labels }
    }

    fn state(&self) -> State {
        State {
            problems: self.problems.clone(),
            unheard: self.roster.as_ref().map(|roster| roster.unheard.clone()).unwrap_or_default(),
            port: self.settings.port,
        }
    }

    fn own_interfaces(&self) -> BTreeSet<String> {
        let facts = self.roster.as_ref().and_then(|roster| roster.members.get(&self.settings.node)?.as_ref());
        facts.map(|facts| facts.interfaces.clone()).unwrap_or_default()
    }

    /// A node with what its speaker says of its interfaces.
    fn linked(&self, name: &str, node: &plan::Node) -> plan::Node {
        let facts = self.roster.as_ref().and_then(|roster| roster.members.get(name).cloned().flatten());
        plan::Node { interfaces: facts.map(|facts| facts.interfaces), ..node.clone() }
    }

    fn endpoints_of(&self, service: &ServiceKey) -> Endpoints {
        let mut joined = Endpoints::default();
        for endpoints in self.endpoints.get(service).into_iter().flat_map(BTreeMap::values) {
            joined.any |= endpoints.any;
            joined.nodes.extend(endpoints.nodes.iter().cloned());
        }
        joined
    }
}

impl Seen {
    /// Whether all is seen that a plan is made from.
    fn world(self) -> bool {
        self.services && self.slices && self.nodes && self.pools && self.advertisements
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

pub(super) fn named<K: kube::ResourceExt>(object: K) -> (String, K) {
    (object.name_any(), object)
}

pub(super) fn take<K: Ord, T, V>(map: &mut BTreeMap<K, V>, change: Change<T>, entry: impl Fn(T) -> (K, V)) {
    match change {
        Change::All(all) => *map = all.into_iter().map(entry).collect(),
        Change::Set(one) => {
            let (key, value) = entry(one);
            map.insert(key, value);
        }
        Change::Gone(one) => {
            map.remove(&entry(one).0);
        }
    }
}
