//! L2Advertisement: which addresses are announced by ARP and NDP, and where.

use metallb_api::{self as api, ElectionPolicy};

use super::interfaces::InterfaceSelection;
use super::pool::PoolSelection;
use super::problem::Findings;
use crate::selector::{AnyOf, Labels, Selector};

/// An announcement on layer 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct L2Advertisement {
    /// Name of the L2Advertisement.
    pub name: String,
    /// Pools whose addresses are announced.
    pub pools: PoolSelection,
    /// Nodes that may announce.
    pub nodes: AnyOf,
    /// Interfaces to announce on.
    pub interfaces: InterfaceSelection,
    /// Services that are announced.
    pub services: AnyOf,
    /// Preferences among the nodes that may announce.
    pub preferences: Vec<Preference>,
    /// How the owner is chosen among the most preferred of them.
    pub election: ElectionPolicy,
}

/// A weight for the nodes that match a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// 1 to 100.
    pub weight: u8,
    /// Nodes that get the weight.
    pub nodes: Selector,
}

impl L2Advertisement {
    /// Sum of the weights of a node with these labels.
    pub fn preference(&self, node_labels: &Labels) -> u64 {
        let matching = self.preferences.iter().filter(|preference| preference.nodes.matches(node_labels));
        matching.map(|preference| u64::from(preference.weight)).sum()
    }
}

pub(super) fn parse(object: &api::L2Advertisement, findings: &mut Findings) -> L2Advertisement {
    let spec = &object.spec;
    let mut preferences = Vec::new();
    for (index, term) in spec.preferred_node_selectors.iter().enumerate() {
        let field = format!("spec.preferredNodeSelectors[{index}]");
        let nodes = findings.selector(&format!("{field}.preference"), &term.preference);
        match u8::try_from(term.weight) {
            Ok(weight @ 1..=100) => preferences.push(Preference { weight, nodes }),
            _ => findings
                .add(format!("{field}.weight"), format_args!("{} is not in the range 1 to 100", term.weight)),
        }
    }
    let mut interfaces = InterfaceSelection::default();
    for (index, entry) in spec.interfaces.iter().enumerate() {
        if let Err(message) = interfaces.add(entry) {
            findings.add(format!("spec.interfaces[{index}]"), message);
        }
    }
    L2Advertisement {
        name: findings.name().to_owned(),
        pools: PoolSelection::parse((&spec.ip_address_pools, &spec.ip_address_pool_selectors), findings),
        nodes: findings.any_of("spec.nodeSelectors", &spec.node_selectors),
        interfaces,
        services: findings.any_of("spec.serviceSelectors", &spec.service_selectors),
        preferences,
        election: spec.election_policy.unwrap_or_default(),
    }
}
