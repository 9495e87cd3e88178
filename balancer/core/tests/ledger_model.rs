//! The ledger against a model that knows nothing but lists of who holds what and of what rests: after any sequence of
//! operations the two agree, and no address is held twice but by Services whose terms allow it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use metallb_core::{
    allocator::{Ledger, PoolSpec, Rest},
    range::{AddressRange, Family},
    service::{Port, Protocol, ServiceKey, Sharing, Tenant},
};
use proptest::prelude::*;

/// One Service as the model knows it.
#[derive(Clone, Debug, Default)]
struct Held {
    addresses: Vec<IpAddr>,
    leaving: Vec<IpAddr>,
    /// The terms on which each address is held, those that are leaving too.
    terms: BTreeMap<IpAddr, Tenant>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Ask a pool for an address, of both families or of IPv4 alone, and hold what comes.
    Allocate { service: u8, pool: &'static str, dual: bool, tenant: Tenant },
    /// Ask for this very address.
    Request { service: u8, host: u8, tenant: Tenant },
    /// Give all up.
    Leave(u8),
    /// The status is written.
    Settle(u8),
    /// The Service is gone.
    Release(u8),
    /// Replace the pools by the variant of this number.
    Pools(u8),
    /// Let an address rest for a Service, for so many seconds, as a note from before a restart says.
    Note { service: u8, host: u8, seconds: u8 },
    /// So many seconds pass.
    Pass(u8),
}

fn four(host: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, host).into()
}

fn six(host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into()
}

fn key(number: u8) -> ServiceKey {
    ServiceKey::new("ns", &format!("s{number}"))
}

fn pools(variant: u8) -> BTreeMap<String, PoolSpec> {
    let spec = |ranges: &[&str], avoid_buggy_ips, cooldown| PoolSpec {
        ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        avoid_buggy_ips,
        cooldown: Duration::from_secs(cooldown),
    };
    let list = match variant {
        0 => vec![("a", spec(&["192.0.2.4/31", "192.0.2.0/31", "2001:db8::/127"], false, 0))],
        1 => vec![("a", spec(&["192.0.2.0/29", "2001:db8::/126"], true, 5))],
        2 => vec![
            ("a", spec(&["192.0.2.0/30"], false, 0)),
            ("b", spec(&["192.0.2.4/30", "2001:db8::/126"], false, 20)),
        ],
        _ => vec![],
    };
    list.into_iter().map(|(name, spec)| (name.to_owned(), spec)).collect()
}

/// The addresses of a pool in the order in which they are given out.
fn listed(spec: &PoolSpec, family: Family) -> Vec<IpAddr> {
    let all: Vec<_> = (0..=255).map(four).chain((0..64).map(six)).collect();
    let within =
        |range: &AddressRange| all.iter().copied().filter(|ip| range.contains(*ip)).collect::<Vec<_>>();
    let buggy = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if matches!(ip.octets()[3], 0 | 255));
    spec.ranges
        .iter()
        .flat_map(within)
        .filter(|ip| Family::of(*ip) == family && !(spec.avoid_buggy_ips && buggy(ip)))
        .collect()
}

#[derive(Default)]
struct Model {
    held: BTreeMap<ServiceKey, Held>,
    rests: BTreeMap<IpAddr, Rest>,
}

impl Model {
    fn holders(&self, ip: IpAddr) -> Vec<(&ServiceKey, &Tenant)> {
        self.held.iter().filter_map(|(key, held)| Some((key, held.terms.get(&ip)?))).collect()
    }

    fn admits(&self, ip: IpAddr, service: &ServiceKey, tenant: &Tenant) -> bool {
        let mut others = self.holders(ip).into_iter().filter(|(key, _)| *key != service);
        let rests = self.rests.get(&ip).is_some_and(|rest| rest.service != *service);
        !rests
            && others.all(|(_, other)| {
                tenant.sharing.is_some()
                    && tenant.sharing == other.sharing
                    && tenant.ports.iter().all(|port| !other.ports.contains(port))
            })
    }

    fn candidate(
        &self,
        spec: &PoolSpec,
        family: Family,
        service: &ServiceKey,
        tenant: &Tenant,
    ) -> Option<IpAddr> {
        let listed = listed(spec, family);
        let back = self.rests.iter().find(|(ip, rest)| rest.service == *service && listed.contains(ip));
        if let Some((back, _)) = back {
            return Some(*back);
        }
        let shared = listed.iter().find(|ip| {
            let holders = self.holders(**ip);
            let mine = holders.iter().any(|(key, _)| *key == service);
            !holders.is_empty() && !mine && self.admits(**ip, service, tenant)
        });
        shared.or_else(|| listed.iter().find(|ip| self.is_free(**ip))).copied()
    }

    fn is_free(&self, ip: IpAddr) -> bool {
        self.holders(ip).is_empty() && !self.rests.contains_key(&ip)
    }

    fn hold(&mut self, service: &ServiceKey, addresses: &[IpAddr], tenant: &Tenant) {
        self.rests.retain(|ip, _| !addresses.contains(ip));
        let held = self.held.entry(service.clone()).or_default();
        held.leaving.append(&mut held.addresses);
        held.leaving.retain(|ip| !addresses.contains(ip));
        held.addresses = addresses.to_vec();
        held.terms.extend(addresses.iter().map(|ip| (*ip, tenant.clone())));
    }

    fn leave(&mut self, service: &ServiceKey) {
        if let Some(held) = self.held.get_mut(service) {
            held.leaving.append(&mut held.addresses);
        }
    }

    fn settle(&mut self, service: &ServiceKey, specs: &BTreeMap<String, PoolSpec>, now: Duration) {
        let Some(held) = self.held.get_mut(service) else { return };
        let left = std::mem::take(&mut held.leaving);
        held.terms.retain(|ip, _| !left.contains(ip));
        if held.addresses.is_empty() {
            self.held.remove(service);
        }
        for ip in left.into_iter().filter(|ip| self.holders(*ip).is_empty()).collect::<Vec<_>>() {
            let pool = specs.values().find(|spec| listed(spec, Family::of(ip)).contains(&ip));
            let cooldown = pool.map(|spec| spec.cooldown).unwrap_or_default();
            if !cooldown.is_zero() {
                self.rests.insert(ip, Rest { service: service.clone(), until: now + cooldown });
            }
        }
    }
}

fn tenant() -> impl Strategy<Value = Tenant> {
    let terms = ("[kl]", prop_oneof![Just(String::new()), Just("app=web".to_owned())])
        .prop_map(|(key, backend)| Sharing { key, backend });
    let port = (80u16..84).prop_map(|number| Port { protocol: Protocol::Tcp, number });
    (prop::option::of(terms), prop::collection::btree_set(port, 0..3))
        .prop_map(|(sharing, ports)| Tenant { sharing, ports: ports.into_iter().collect() })
}

fn step() -> impl Strategy<Value = Step> {
    let pool = prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        4 => (0u8..8, pool, any::<bool>(), tenant())
            .prop_map(|(service, pool, dual, tenant)| Step::Allocate { service, pool, dual, tenant }),
        3 => (0u8..8, 0u8..10, tenant())
            .prop_map(|(service, host, tenant)| Step::Request { service, host, tenant }),
        1 => (0u8..8).prop_map(Step::Leave),
        2 => (0u8..8).prop_map(Step::Settle),
        2 => (0u8..8).prop_map(Step::Release),
        1 => (0u8..4).prop_map(Step::Pools),
        1 => (0u8..8, 0u8..10, 0u8..20)
            .prop_map(|(service, host, seconds)| Step::Note { service, host, seconds }),
        2 => (0u8..8).prop_map(Step::Pass),
    ]
}

/// Who holds what, and what is leaving.
type View = Vec<(ServiceKey, Vec<IpAddr>, Vec<IpAddr>)>;

fn ledger_view(ledger: &Ledger) -> View {
    ledger.holdings().map(|(key, held)| (key.clone(), held.addresses.clone(), held.leaving.clone())).collect()
}

fn model_view(model: &Model) -> View {
    model.held.iter().map(|(key, held)| (key.clone(), held.addresses.clone(), held.leaving.clone())).collect()
}

/// Every address that is held, with the terms of each holder, is held by compatible Services.
fn nothing_is_given_twice(model: &Model) -> bool {
    (0..=255).map(four).chain((0..64).map(six)).all(|ip| {
        model
            .holders(ip)
            .into_iter()
            .all(|(service, tenant)| model.holders(ip).len() < 2 || model.admits(ip, service, tenant))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_ledger_equals_the_model(steps in prop::collection::vec(step(), 0..60)) {
        let mut specs = pools(0);
        let mut ledger = Ledger::default();
        ledger.set_pools(specs.clone());
        let mut model = Model::default();
        let mut now = Duration::from_secs(1000);
        for step in steps {
            match step {
                Step::Allocate { service, pool, dual, tenant } => {
                    let service = key(service);
                    let families: &[Family] = if dual { &[Family::V4, Family::V6] } else { &[Family::V4] };
                    let mut addresses = Vec::new();
                    for family in families {
                        let want = specs.get(pool).and_then(|spec| model.candidate(spec, *family, &service, &tenant));
                        prop_assert_eq!(ledger.candidate(pool, *family, &service, &tenant), want);
                        addresses.extend(want);
                    }
                    if !addresses.is_empty() {
                        prop_assert_eq!(ledger.hold(&service, &addresses, &tenant), Ok(()));
                        model.hold(&service, &addresses, &tenant);
                    }
                }
                Step::Request { service, host, tenant } => {
                    let (service, address) = (key(service), four(host));
                    let admitted = model.admits(address, &service, &tenant);
                    prop_assert_eq!(ledger.hold(&service, &[address], &tenant).is_ok(), admitted);
                    if admitted {
                        model.hold(&service, &[address], &tenant);
                    }
                }
                Step::Leave(service) => {
                    ledger.leave(&key(service));
                    model.leave(&key(service));
                }
                Step::Settle(service) => {
                    ledger.settle(&key(service), now);
                    model.settle(&key(service), &specs, now);
                }
                Step::Release(service) => {
                    ledger.release(&key(service), now);
                    model.leave(&key(service));
                    model.settle(&key(service), &specs, now);
                }
                Step::Note { service, host, seconds } => {
                    let until = now + Duration::from_secs(seconds.into());
                    let rest = Rest { service: key(service), until };
                    ledger.rest(four(host), rest.clone());
                    if model.holders(four(host)).is_empty() {
                        model.rests.insert(four(host), rest);
                    }
                }
                Step::Pass(seconds) => {
                    now += Duration::from_secs(seconds.into());
                    let before = model.rests.len();
                    model.rests.retain(|_, rest| rest.until > now);
                    prop_assert_eq!(ledger.wake(now), model.rests.len() < before);
                    prop_assert_eq!(ledger.deadline(), model.rests.values().map(|rest| rest.until).min());
                }
                Step::Pools(variant) => {
                    specs = pools(variant);
                    ledger.set_pools(specs.clone());
                }
            }

            prop_assert_eq!(ledger_view(&ledger), model_view(&model));
            prop_assert!(nothing_is_given_twice(&model));
            for (name, spec) in &specs {
                let counters = ledger.counters(name).unwrap();
                let mut services = BTreeSet::new();
                for family in [Family::V4, Family::V6] {
                    let listed = listed(spec, family);
                    let taken = listed.iter().filter(|ip| !model.holders(**ip).is_empty()).count();
                    let free = listed.iter().filter(|ip| model.is_free(**ip)).count();
                    services.extend(listed.iter().flat_map(|ip| model.holders(*ip)).map(|(key, _)| key));
                    prop_assert_eq!(counters.assigned.of(family).to_string(), taken.to_string());
                    prop_assert_eq!(counters.available.of(family).to_string(), free.to_string());
                    prop_assert!(listed.iter().all(|ip| ledger.pool_of(*ip) == Some(name)));
                }
                prop_assert_eq!(counters.services, services.len());
            }
        }
    }
}
