//! The observer: watches the cluster, keeps the world, and publishes a plan whenever it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use metallb_api::{IPAddressPool, L2Advertisement};
use metallb_core::config::{self, Config, Objects, Problem};
use metallb_core::plan::{self, Endpoints, Plan, World};
use metallb_core::service::ServiceKey;
use metallb_proto::membership::{Roster, Seed};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bgp;
use super::facts::{self, ServiceFacts, SliceFacts};
use super::metrics::Metrics;
use super::report::Announced;
use crate::watch::{Change, changes};

/// Selects Services of type LoadBalancer.
const LOAD_BALANCERS: &str = "spec.type=LoadBalancer";
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
    /// What holds for all BGP sessions.
    pub(super) bgp: bgp::spec::Node,
}

/// What connects the observer to the rest of the speaker.
pub(super) struct Ports {
    pub(super) roster: watch::Receiver<Option<Roster>>,
    pub(super) seeds: watch::Sender<Option<Vec<Seed>>>,
    pub(super) plan: watch::Sender<Arc<Plan>>,
    /// What there is to tell of this node's announcements.
    pub(super) announced: watch::Sender<Option<Arc<Announced>>>,
    /// What is to be announced by BGP.
    pub(super) wanted: watch::Sender<Option<Arc<bgp::spec::Wanted>>>,
    pub(super) metrics: Metrics,
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
        }
        observer.publish(&ports);
    }
}

/// What the watches bring.
enum Input {
    Services(Change<ServiceFacts>),
    Slices(Change<SliceFacts>),
    Nodes(Change<(String, plan::Node)>),
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
    let nodes = changes("Node", watcher(node, all()), |object| facts::node(&object));
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
    nodes: BTreeMap<String, plan::Node>,
    pools: BTreeMap<String, IPAddressPool>,
    advertisements: BTreeMap<String, L2Advertisement>,
    speakers: BTreeMap<String, Option<Seed>>,
    bgp: bgp::inputs::Inputs,
    config: Config,
    problems: Vec<Problem>,
    seen: Seen,
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
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Services(change) => {
                self.seen.services = true;
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

    fn configure(&mut self) {
        let objects = self.bgp.objects(Objects {
            pools: self.pools.values().collect(),
            l2_advertisements: self.advertisements.values().collect(),
            ..Objects::default()
        });
        let (config, problems) = config::parse(&objects);
        for problem in problems.iter().filter(|problem| !self.problems.contains(problem)) {
            tracing::error!(event = "configInvalid", error = %problem, "part of the configuration is not served");
        }
        self.config = config;
        self.problems = problems;
    }

    fn publish(&self, ports: &Ports) {
        if self.seen.speakers {
            let seeds = Some(self.speakers.values().flatten().cloned().collect());
            ports.seeds.send_if_modified(|former| {
                let changed = *former != seeds;
                if changed {
                    *former = seeds;
                }
                changed
            });
        }
        let Some(mut world) = self.world() else { return };
        self.bgp.publish(&world, &self.settings.node, &ports.wanted);
        // Sessions with routers do not wait for the speakers to know of each other.
        match self.alive() {
            Some(speakers) => world.speakers = speakers,
            None => return,
        }
        let plan = plan::plan(&world, &self.settings.node);
        let announced = Announced::of(&plan, &self.services);
        ports.plan.send_if_modified(|former| {
            let changed = **former != plan;
            if changed {
                *former = Arc::new(plan);
            }
            changed
        });
        ports.announced.send_if_modified(|former| {
            let changed = former.as_deref() != Some(&announced);
            if changed {
                let addresses = announced.services().flat_map(|key| {
                    let service = self.services.get(key).and_then(|facts| facts.service.as_ref());
                    service
                        .into_iter()
                        .flat_map(move |service| service.addresses.iter().map(move |ip| (key, *ip)))
                });
                ports.metrics.announced(&self.settings.node, addresses);
                *former = Some(Arc::new(announced));
            }
            changed
        });
    }

    /// The world but for its speakers, once it is known whole: a plan from half of it would withdraw what is announced rightly.
    fn world(&self) -> Option<World> {
        let Seen { services, slices, nodes, pools, advertisements, .. } = self.seen;
        if !(services && slices && nodes && pools && advertisements) {
            return None;
        }
        let services = self.services.iter().filter_map(|(key, facts)| {
            let service = facts.service.clone()?;
            Some((key.clone(), plan::Service { endpoints: self.endpoints_of(key), ..service }))
        });
        Some(World {
            config: self.config.clone(),
            services: services.collect(),
            nodes: self.nodes.iter().map(|(name, node)| (name.clone(), self.linked(name, node))).collect(),
            speakers: None,
            ignore_exclude_label: self.settings.ignore_exclude_label,
        })
    }

    /// Nodes with a living speaker, which are all where the speakers do not know of each other; `None` until it is
    /// settled.
    fn alive(&self) -> Option<Option<BTreeSet<String>>> {
        if self.settings.speakers.is_none() {
            return Some(None);
        }
        let roster = self.roster.as_ref().filter(|roster| roster.settled)?;
        Some(Some(roster.candidates().map(str::to_owned).collect()))
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
