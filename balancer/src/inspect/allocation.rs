//! What addresses are given from, and who has them.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Service};
use metallb_api::IPAddressPool;
use metallb_core::{
    allocator::Allocator, claim::ServiceFacts, config::Problem, preview::Present, selector::Labels,
    served::serve,
};

use super::{Cluster, Terms};

/// The facts from which the controller gives addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Allocation {
    /// All pools.
    pub(crate) pools: Vec<IPAddressPool>,
    /// All Services.
    pub(crate) services: Vec<Service>,
    /// Labels of all namespaces.
    pub(crate) namespaces: BTreeMap<String, Labels>,
    /// What the controller was told.
    pub(crate) terms: Terms,
}

/// The allocator as a controller has it once it has started.
pub(crate) struct Started {
    /// With all Services adopted that show an address.
    pub(crate) allocator: Allocator,
    /// The Services, oldest first.
    pub(crate) services: Vec<ServiceFacts>,
    /// What is wrong with the pools.
    pub(crate) problems: Vec<Problem>,
    /// Services that show an address of another, each in a sentence.
    pub(crate) conflicts: Vec<String>,
}

impl Allocation {
    /// Reads all of it.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub(crate) async fn read(cluster: &Cluster, terms: Terms) -> anyhow::Result<Self> {
        Ok(Self {
            pools: cluster.own("").await?,
            services: cluster.within(None).await?,
            namespaces: cluster.labels::<Namespace>().await?.into_iter().collect(),
            terms,
        })
    }

    /// The Services as the controller sees them, oldest first.
    pub(crate) fn facts(&self) -> Vec<ServiceFacts> {
        let class = self.terms.class.as_deref();
        let mut facts: Vec<_> =
            self.services.iter().map(|service| ServiceFacts::of(service, class)).collect();
        facts.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        facts
    }

    /// What a controller that starts now knows.
    pub(crate) fn started(&self) -> Started {
        let (pools, problems) = serve(&self.pools.iter().collect::<Vec<_>>(), &BTreeMap::new());
        let mut allocator = Allocator::new(self.terms.policy);
        allocator.set_pools(pools, Duration::ZERO);
        allocator.set_namespaces(self.namespaces.clone());
        let services = self.facts();
        let adopt = |facts: &ServiceFacts| {
            let conflict = allocator.adopt(facts).err()?;
            Some(format!("{} shows an address that is another's: {conflict}", facts.key))
        };
        let conflicts = services.iter().filter_map(adopt).collect();
        Started { allocator, services, problems, conflicts }
    }

    /// The same, as what a change of the pools is compared with.
    pub(crate) fn present(&self) -> Present {
        let (pools, _) = serve(&self.pools.iter().collect::<Vec<_>>(), &BTreeMap::new());
        Present {
            services: self.facts(),
            namespaces: self.namespaces.clone(),
            pools,
            policy: self.terms.policy,
        }
    }
}
