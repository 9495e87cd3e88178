//! What announcements depend on, and who says that it announces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use metallb_api::{
    BGPSessionState, ConfigurationState, ServiceBGPStatus, ServiceL2Status, names::MEMBERLIST_PORT,
};
use metallb_core::{
    announced::{Announcers, Sessions},
    config::parse,
    plan::{Service as Planned, World},
    range::AddressRange,
    service::ServiceKey,
    subnets,
};

use super::{Cluster, Configuration, Terms};
use crate::speaker::facts;

/// The facts from which speakers announce.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcing {
    /// The configuration.
    pub(crate) configuration: Configuration,
    /// All nodes.
    pub(crate) nodes: Vec<Node>,
    /// The pods of the speakers.
    pub(crate) speakers: Vec<Pod>,
    /// Endpoints.
    pub(crate) slices: Vec<EndpointSlice>,
    /// What speakers say about layer 2.
    pub(crate) layer2: Vec<ServiceL2Status>,
    /// What speakers say about BGP.
    pub(crate) bgp: Vec<ServiceBGPStatus>,
    /// What speakers say about their BGP sessions; `None` when they cannot be read.
    pub(crate) session_states: Option<Vec<BGPSessionState>>,
    /// Those of them that stand.
    pub(crate) sessions: Sessions,
    /// What the programs say of themselves.
    pub(crate) states: Vec<ConfigurationState>,
}

impl Announcing {
    /// Reads all of it, with the endpoints of `namespace` or of all.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub(crate) async fn read(cluster: &Cluster, namespace: Option<&str>) -> anyhow::Result<Self> {
        // These kinds need not be there beside the definitions of an older MetalLB.
        let sessions = cluster.own::<BGPSessionState>("").await.ok();
        let states = cluster.own("").await.unwrap_or_default();
        Ok(Self {
            configuration: cluster.configuration().await?,
            nodes: cluster.nodes().await?,
            speakers: cluster.speakers().await?,
            slices: cluster.within(namespace).await?,
            layer2: cluster.own("").await?,
            bgp: cluster.own("").await?,
            states,
            sessions: Sessions(
                sessions.as_ref().map(|all| all.iter().filter_map(Sessions::standing).collect()),
            ),
            session_states: sessions,
        })
    }

    /// What a speaker plans from. Of the speakers only those with a ready pod count: their gossip is not seen from here.
    pub(crate) fn world(&self, services: &[Service], terms: &Terms) -> World {
        let (config, _) = parse(&self.configuration.objects());
        let reduced = services.iter().map(|service| facts::service(service, terms.class.as_deref()));
        let mut services: BTreeMap<_, _> =
            reduced.filter_map(|found| Some((found.key, found.service?))).collect();
        for slice in self.slices.iter().map(facts::slice) {
            if let Some(service) = services.get_mut(&slice.service) {
                service.endpoints.join(&slice.endpoints);
            }
        }
        let ready = self.speakers.iter().filter_map(|pod| facts::speaker(pod, MEMBERLIST_PORT).1);
        World {
            config,
            services: Arc::new(services),
            nodes: self.nodes.iter().map(facts::node).collect(),
            speakers: Some(ready.filter(|seed| seed.ready).map(|seed| seed.node).collect()),
            ignore_exclude_label: terms.ignore_exclude_label,
            ..World::default()
        }
    }

    /// Who announces the Service.
    pub(crate) fn announcers(&self, key: &ServiceKey, service: &Planned) -> Announcers {
        let addresses: Vec<_> = service.addresses.iter().copied().map(AddressRange::from).collect();
        let bgp = self.bgp_nodes(key).into_iter();
        let announcing =
            bgp.filter(|(node, peers)| peers.iter().any(|peer| self.sessions.stands(node, peer)));
        Announcers {
            layer2: self.layer2_nodes(key),
            bgp: announcing.map(|(node, _)| node).collect(),
            outside: subnets::outside(&addresses, &self.subnets()),
        }
    }

    /// The subnets of the nodes that there are, as far as they are known.
    fn subnets(&self) -> Vec<IpNet> {
        let is_there =
            |name: &String| self.nodes.iter().any(|node| node.metadata.name.as_ref() == Some(name));
        let told =
            self.states.iter().filter_map(|state| subnets::told(&state.metadata, state.status.as_ref()));
        let told = told.filter(|(node, _)| is_there(node));
        let told = told.flat_map(|(_, subnets)| subnets);
        told.chain(subnets::subnets(self.nodes.iter())).collect()
    }

    /// The nodes that say they announce the Service on layer 2.
    pub(crate) fn layer2_nodes(&self, service: &ServiceKey) -> BTreeSet<String> {
        let of = |status: &&metallb_api::ServiceL2StatusStatus| {
            is(service, status.service_namespace.as_deref(), status.service_name.as_deref())
        };
        self.layer2
            .iter()
            .filter_map(|status| status.status.as_ref())
            .filter(of)
            .filter_map(|status| status.node.clone())
            .collect()
    }

    /// The nodes that say they announce the Service by BGP, and to which peers.
    pub(crate) fn bgp_nodes(&self, service: &ServiceKey) -> BTreeMap<String, Vec<String>> {
        let of = |status: &&metallb_api::ServiceBGPStatusStatus| {
            is(service, status.service_namespace.as_deref(), status.service_name.as_deref())
        };
        self.bgp
            .iter()
            .filter_map(|status| status.status.as_ref())
            .filter(of)
            .filter_map(|status| Some((status.node.clone()?, status.peers.clone())))
            .collect()
    }
}

fn is(service: &ServiceKey, namespace: Option<&str>, name: Option<&str>) -> bool {
    namespace == Some(service.namespace()) && name == Some(service.name())
}
