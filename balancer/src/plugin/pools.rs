//! How full the pools are, and who advertises them.

use std::collections::BTreeMap;

use kube::ResourceExt;
use metallb_core::{
    allocator::{Counters, PerFamily},
    config::{Config, Pool, parse},
    range::AddressCount,
};
use serde::Serialize;

use super::output::{Style, Table, Tone, judged, list, plain};
use crate::inspect::{Allocation, Announcing};

/// All pools.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Pools(Vec<Line>);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    name: String,
    addresses: Vec<String>,
    auto_assign: bool,
    /// What is wrong with it; one that is not served has nothing else to show.
    problems: Vec<String>,
    ipv4: Usage,
    ipv6: Usage,
    services: usize,
    /// Advertisements that select it, as kind and name.
    advertised_by: Vec<String>,
}

/// Addresses of one family. Numbers are decimal in text: those of IPv6 exceed what JSON's readers hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Usage {
    total: String,
    used: String,
    free: String,
}

impl Pools {
    /// Counts as the controller does.
    pub(super) fn of(allocation: &Allocation, announcing: &Announcing) -> Self {
        let started = allocation.started();
        let (config, _) = parse(&announcing.configuration.objects());
        let mut problems: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for problem in &started.problems {
            problems
                .entry(&problem.name)
                .or_default()
                .push(format!("{}: {}", problem.field, problem.message));
        }
        let line = |pool: &metallb_api::IPAddressPool| {
            let name = pool.name_any();
            let counters = started.allocator.ledger().counters(&name).unwrap_or_default();
            let served = started.allocator.pools().get(&name);
            Line {
                addresses: pool.spec.addresses.clone(),
                auto_assign: pool.spec.auto_assign,
                problems: problems.remove(name.as_str()).unwrap_or_default(),
                ipv4: usage(&counters, |family| family.ipv4),
                ipv6: usage(&counters, |family| family.ipv6),
                services: counters.services,
                advertised_by: served.map(|pool| advertised_by(&config, pool)).unwrap_or_default(),
                name,
            }
        };
        Self(allocation.pools.iter().map(line).collect())
    }

    /// Whether all of them are served.
    pub(super) fn is_good(&self) -> bool {
        self.0.iter().all(|line| line.problems.is_empty())
    }

    /// For people.
    pub(super) fn text(&self, style: Style) -> String {
        let head = ["POOL", "ADDRESSES", "AUTO", "IPV4 USED", "IPV6 USED", "SERVICES", "ADVERTISED BY"];
        let mut table = Table::new(&head);
        for line in &self.0 {
            let advertised = if line.advertised_by.is_empty() {
                judged("nobody", false)
            } else {
                plain(line.advertised_by.join(", "))
            };
            table.row([
                judged(&line.name, line.problems.is_empty()),
                plain(line.addresses.join(", ")),
                plain(if line.auto_assign { "yes" } else { "no" }),
                plain(line.ipv4.short()),
                plain(line.ipv6.short()),
                plain(line.services.to_string()),
                advertised,
            ]);
        }
        let mut text = table.text(style);
        let problems: Vec<String> = self
            .0
            .iter()
            .flat_map(|line| line.problems.iter().map(|problem| format!("{}: {problem}", line.name)))
            .collect();
        list(&mut text, "Wrong", &problems, Tone::Bad, style);
        text
    }
}

impl Usage {
    fn short(&self) -> String {
        if self.total == "0" { String::new() } else { format!("{}/{}", self.used, self.total) }
    }
}

fn usage(counters: &Counters, family: impl Fn(PerFamily<AddressCount>) -> AddressCount) -> Usage {
    Usage {
        total: family(counters.total).to_string(),
        used: family(counters.assigned).to_string(),
        free: family(counters.available).to_string(),
    }
}

fn advertised_by(config: &Config, pool: &Pool) -> Vec<String> {
    let layer2 = config.l2_advertisements.values().filter(|advertisement| advertisement.pools.matches(pool));
    let bgp =
        config.bgp_advertisements.values().filter(|advertisement| advertisement.pools.contains(&pool.name));
    layer2
        .map(|advertisement| format!("L2Advertisement/{}", advertisement.name))
        .chain(bgp.map(|advertisement| format!("BGPAdvertisement/{}", advertisement.name)))
        .collect()
}
