//! The assigner against a small API server in memory: Services and pools come, change and go, writes are refused,
//! lost or answered late, and the program is killed anywhere. At every moment no address is shown by two Services that
//! may not share it, an address that nobody touched stays, and when all is quiet a restart writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{LoadBalancerStatus, Service},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use metallb_api::IPAddressPool;
use metallb_core::{
    allocator::{PoolEditPolicy, Rest},
    assigner::{Assigner, Outcome, Write},
    claim::{ADDRESS_ASSIGNED, Claim, ServiceFacts},
    config::Pool,
    report::{Mark, Tell},
    selector::Labels,
    served::serve,
    service::ServiceKey,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// How the API server and the network treat a write.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is written and answered.
    Written,
    /// It is written, but the answer is lost.
    AnswerLost,
    /// It never arrives.
    Lost,
    /// It is answered only after other things have happened.
    Late,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A Service of this number is created, or changed to ask for something else.
    Ask {
        service: u8,
        wish: u8,
    },
    Delete(u8),
    /// It becomes a ClusterIP Service.
    Retire(u8),
    /// The pools become those of this variant.
    Pools(u8),
    /// The controller hears what has happened since it last listened.
    Hear,
    /// It makes one write.
    Write(Fate),
    /// The oldest late write arrives.
    Arrive,
    /// The controller dies and starts again.
    Kill,
    /// So many seconds pass.
    Wait(u8),
}

fn key(number: u8) -> ServiceKey {
    ServiceKey::new("ns", &format!("s{number}"))
}

fn pools(variant: u8) -> BTreeMap<String, Pool> {
    let specs = match variant {
        0 => json!({ "a": { "addresses": ["192.0.2.0/30", "2001:db8::/126"] } }),
        1 => json!({
            "a": { "addresses": ["192.0.2.0/31"] },
            "b": { "addresses": ["192.0.2.4/30", "2001:db8::/126"], "autoAssign": false },
        }),
        2 => json!({ "renamed": { "addresses": ["192.0.2.0/29", "2001:db8::/125"] } }),
        3 => json!({ "a": { "addresses": ["192.0.2.0/31", "2001:db8::/127"], "cooldown": "8s" } }),
        // One more than the first has.
        5 => json!({
            "a": { "addresses": ["192.0.2.0/30", "2001:db8::/126"] },
            "b": { "addresses": ["192.0.2.4/30"] },
        }),
        _ => json!({}),
    };
    pools_of(&specs)
}

fn pools_of(specs: &Value) -> BTreeMap<String, Pool> {
    let pools: Vec<IPAddressPool> = specs
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, spec)| {
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap()
        })
        .collect();
    serve(&pools.iter().collect::<Vec<_>>(), &BTreeMap::new()).0
}

/// The objects as the API server has them.
#[derive(Default)]
struct Server {
    services: BTreeMap<ServiceKey, Service>,
    version: u64,
    /// What the controller has not heard yet.
    news: VecDeque<(ServiceKey, Option<Service>)>,
    created: u64,
}

impl Server {
    fn put(&mut self, key: &ServiceKey, mut service: Service) {
        self.version += 1;
        service.metadata.resource_version = Some(self.version.to_string());
        self.services.insert(key.clone(), service.clone());
        self.news.push_back((key.clone(), Some(service)));
    }

    fn ask(&mut self, number: u8, wish: u8) {
        let key = key(number);
        let before = self.services.get(&key).cloned();
        let created = before.as_ref().map_or_else(
            || {
                self.created += 1;
                Timestamp::from_second(i64::try_from(self.created).unwrap()).unwrap()
            },
            |before| before.metadata.creation_timestamp.clone().unwrap().0,
        );
        // The terms on which a Service shares never change, so that they tell at any time who may share with whom.
        let mut annotations = json!({});
        if !number.is_multiple_of(3) {
            annotations["metallb.io/allow-shared-ip"] = json!(format!("key{}", number % 2));
        }
        let mut cluster_ips = json!(["10.96.0.1"]);
        let mut policy = "SingleStack";
        match wish {
            0 => {}
            1 => annotations["metallb.io/address-pool"] = json!("b"),
            2 => annotations["metallb.io/loadBalancerIPs"] = json!("192.0.2.1"),
            3 => annotations["metallb.io/keep-address"] = json!("true"),
            4 => annotations["metallb.io/address-pool"] = json!("nowhere"),
            5 => cluster_ips = json!(["fd00:96::1"]),
            6 => (cluster_ips, policy) = (json!(["10.96.0.1", "fd00:96::1"]), "PreferDualStack"),
            _ => (cluster_ips, policy) = (json!(["10.96.0.1", "fd00:96::1"]), "RequireDualStack"),
        }
        if let Some(pool) = before
            .as_ref()
            .and_then(|before| before.metadata.annotations.as_ref()?.get("metallb.io/ip-allocated-from-pool"))
        {
            annotations["metallb.io/ip-allocated-from-pool"] = json!(pool);
        }
        let uid = before
            .as_ref()
            .map_or_else(|| created.to_string(), |before| before.metadata.uid.clone().unwrap());
        let service: Service = serde_json::from_value(json!({
            "metadata": {
                "namespace": key.namespace(), "name": key.name(), "uid": uid, "creationTimestamp": Time(created),
                "annotations": annotations,
            },
            "spec": {
                "type": "LoadBalancer", "clusterIPs": cluster_ips, "ipFamilyPolicy": policy,
                "ports": [{ "port": 80 + u16::from(number / 4) }],
            },
            "status": before.and_then(|before| before.status),
        }))
        .unwrap();
        self.put(&key, service);
    }

    fn retire(&mut self, number: u8) {
        if let Some(mut service) = self.services.get(&key(number)).cloned() {
            service.spec.as_mut().unwrap().type_ = Some("ClusterIP".to_owned());
            // The API server itself takes the addresses out of the status then.
            service.status.get_or_insert_default().load_balancer = None;
            self.put(&key(number), service);
        }
    }

    fn delete(&mut self, number: u8) {
        if self.services.remove(&key(number)).is_some() {
            self.news.push_back((key(number), None));
        }
    }

    /// Carries a write out as the API server would.
    fn write(&mut self, write: &Write) -> Outcome {
        let key = &write.facts.key;
        let Some(mut service) = self.services.get(key).cloned() else { return Outcome::Gone };
        if service.metadata.resource_version.as_ref() != Some(&write.facts.resource_version) {
            return Outcome::Stale(ServiceFacts::of(&service, None).into());
        }
        let annotations = service.metadata.annotations.get_or_insert_default();
        match &write.report.mark {
            Mark::Unchanged => {}
            Mark::Set(pool) => {
                annotations.insert("metallb.io/ip-allocated-from-pool".to_owned(), pool.clone());
            }
            Mark::Remove => {
                annotations.remove("metallb.io/ip-allocated-from-pool");
            }
        }
        let status = service.status.get_or_insert_default();
        if let Some(ingress) = &write.report.ingress {
            status.load_balancer = Some(LoadBalancerStatus { ingress: Some(ingress.clone()) });
        }
        let conditions = status.conditions.get_or_insert_default();
        if write.report.condition != Tell::Unchanged {
            conditions.retain(|condition| condition.type_ != ADDRESS_ASSIGNED);
        }
        if let Tell::Set(finding) = &write.report.condition {
            conditions.push(Condition {
                type_: ADDRESS_ASSIGNED.to_owned(),
                status: if finding.holds { "True" } else { "False" }.to_owned(),
                reason: finding.reason.to_owned(),
                message: finding.message.clone(),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
                observed_generation: None,
            });
        }
        self.put(key, service);
        Outcome::Written(ServiceFacts::of(&self.services[key], None).into())
    }

    fn shown(&self) -> BTreeMap<ServiceKey, Vec<IpAddr>> {
        let facts = self.services.iter().map(|(key, service)| (key.clone(), ServiceFacts::of(service, None)));
        facts.map(|(key, facts)| (key, facts.shown())).filter(|(_, shown)| !shown.is_empty()).collect()
    }

    /// An address that two Services show though their terms forbid it.
    fn given_twice(&self) -> Option<(ServiceKey, ServiceKey, IpAddr)> {
        let facts: Vec<_> = self.services.values().map(|service| ServiceFacts::of(service, None)).collect();
        facts.iter().enumerate().find_map(|(index, a)| {
            facts[index + 1..].iter().find_map(|b| {
                let both = a.shown().into_iter().find(|address| b.shown().contains(address))?;
                let (Claim::Wants { tenant: x, .. }, Claim::Wants { tenant: y, .. }) = (&a.claim, &b.claim)
                else {
                    return None;
                };
                let fits = x.sharing.is_some()
                    && x.sharing == y.sharing
                    && x.ports.iter().all(|port| !y.ports.contains(port));
                (!fits).then(|| (a.key.clone(), b.key.clone(), both))
            })
        })
    }
}

struct World {
    server: Server,
    assigner: Assigner,
    variant: u8,
    late: VecDeque<Write>,
    now: Duration,
    /// The addresses of nodes.
    reserved: BTreeSet<IpAddr>,
    /// What the pools' statuses say of resting addresses, which is as old as their last write.
    noted: Vec<(IpAddr, Rest)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            server: Server::default(),
            assigner: Assigner::default(),
            variant: 0,
            late: VecDeque::new(),
            now: Duration::ZERO,
            reserved: BTreeSet::new(),
            noted: Vec::new(),
        };
        world.start();
        world
    }

    /// A new process, which knows only what the API server tells it. What the old one had sent has arrived or never
    /// will: the Lease sees to that.
    fn start(&mut self) {
        self.late.clear();
        self.server.news.clear();
        self.assigner = Assigner::new(PoolEditPolicy::Reference);
        self.assigner.set_pools(pools(self.variant), self.now);
        self.assigner.reserve(self.reserved.clone(), self.now);
        self.assigner.set_namespaces(BTreeMap::new());
        let all = self.server.services.values().map(|service| ServiceFacts::of(service, None)).collect();
        let conflicts = self.assigner.load(all, self.now);
        self.assigner.rest(self.noted.clone());
        assert_eq!(conflicts, [], "two Services showed one address");
    }

    fn hear(&mut self) {
        while let Some((key, service)) = self.server.news.pop_front() {
            match service {
                Some(service) => self.assigner.apply(ServiceFacts::of(&service, None), self.now),
                None => self.assigner.delete(&key, self.now),
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask { service, wish } => self.server.ask(service, wish),
            Step::Delete(service) => self.server.delete(service),
            Step::Retire(service) => self.server.retire(service),
            Step::Pools(variant) => {
                self.variant = variant;
                self.assigner.set_pools(pools(variant), self.now);
            }
            Step::Hear => {
                self.hear();
                let ledger = self.assigner.allocator().ledger();
                let resting =
                    self.assigner.allocator().pools().keys().flat_map(|pool| ledger.resting_in(pool));
                self.noted = resting.map(|(address, rest)| (address, rest.clone())).collect();
            }
            Step::Write(fate) => {
                let Some(write) = self.assigner.next(self.now) else { return };
                match fate {
                    Fate::Written => {
                        let outcome = self.server.write(&write);
                        self.assigner.finished(write, outcome, self.now);
                    }
                    Fate::AnswerLost => {
                        self.server.write(&write);
                        self.assigner.finished(write, Outcome::Unanswered, self.now);
                    }
                    Fate::Lost => self.assigner.finished(write, Outcome::Refused, self.now),
                    Fate::Late => self.late.push_back(write),
                }
            }
            Step::Arrive => {
                if let Some(write) = self.late.pop_front() {
                    let outcome = self.server.write(&write);
                    self.assigner.finished(write, outcome, self.now);
                }
            }
            Step::Kill => self.start(),
            Step::Wait(seconds) => self.now += Duration::from_secs(seconds.into()),
        }
    }

    /// Lets everything come to rest, and returns what was written for that.
    fn settle(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        while !self.late.is_empty() {
            self.step(Step::Arrive);
        }
        // Longer than any retry or grace; more rounds than any chain of moves needs.
        for _ in 0..10 {
            self.now += Duration::from_secs(60);
            self.hear();
            while let Some(write) = self.assigner.next(self.now) {
                let outcome = self.server.write(&write);
                self.assigner.finished(write.clone(), outcome, self.now);
                self.hear();
                writes.push(write);
                assert!(writes.len() < 10_000, "writes never end: {:?}", writes.last());
            }
        }
        writes
    }
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        6 => Just(Fate::Written), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::Lost), 2 => Just(Fate::Late),
    ];
    prop_oneof![
        6 => (0u8..9, 0u8..8).prop_map(|(service, wish)| Step::Ask { service, wish }),
        1 => (0u8..9).prop_map(Step::Delete),
        1 => (0u8..9).prop_map(Step::Retire),
        1 => (0u8..6).prop_map(Step::Pools),
        6 => Just(Step::Hear),
        12 => fate.prop_map(Step::Write),
        3 => Just(Step::Arrive),
        1 => Just(Step::Kill),
        2 => (0u8..12).prop_map(Step::Wait),
    ]
}

proptest! {


    #[test]
    fn no_address_is_ever_shown_twice_and_all_comes_to_rest(steps in prop::collection::vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            prop_assert_eq!(world.server.given_twice(), None);
        }
        world.settle();
        prop_assert_eq!(world.server.given_twice(), None);

        let shown = world.server.shown();
        let held: BTreeMap<_, _> = world
            .assigner
            .allocator()
            .ledger()
            .holdings()
            .map(|(key, held)| (key.clone(), held.addresses.clone()))
            .collect();
        prop_assert_eq!(&held, &shown, "the ledger says what the Services show");
        for (key, service) in &world.server.services {
            let facts = ServiceFacts::of(service, None);
            let told = facts.condition.as_ref().is_some_and(|condition| !condition.holds);
            let wants = matches!(facts.claim, Claim::Wants { .. });
            prop_assert!(!wants || told || shown.contains_key(key), "{} waits and is not told why", key);
        }

        world.start();
        prop_assert_eq!(world.settle(), vec![], "a restart writes nothing");
        prop_assert_eq!(world.server.shown(), shown, "and moves nothing");
    }

    #[test]
    fn an_address_that_nobody_touched_stays(
        steps in prop::collection::vec(step(), 0..60),
        keep in 0u8..9,
    ) {
        let mut world = World::new();
        world.server.ask(keep, 0);
        world.settle();
        let before = world.server.shown();
        for step in steps {
            match step {
                Step::Ask { service, .. } | Step::Delete(service) | Step::Retire(service) if service == keep => {}
                Step::Pools(_) => {}
                step => world.step(step),
            }
            let shown = world.server.shown();
            prop_assert_eq!(shown.get(&key(keep)), before.get(&key(keep)));
        }
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn a_leader_killed_at_any_of_200_points_loses_no_address_and_gives_none_twice() {
    const STEPS: u64 = 150;
    for seed in 1..=200 {
        let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let kill = numbers.below(STEPS);
        let mut world = World::new();
        // What a Service shows once it shows as long as it is there: none of them is ever asked to change.
        let mut given: BTreeMap<ServiceKey, Vec<IpAddr>> = BTreeMap::new();
        for point in 0..STEPS {
            let service = u8::try_from(numbers.below(9)).unwrap();
            let step = match numbers.below(12) {
                _ if point == kill => Step::Kill,
                0..=2 if !world.server.services.contains_key(&key(service)) => {
                    Step::Ask { service, wish: [0, 2, 5, 6, 7][usize::try_from(numbers.below(5)).unwrap()] }
                }
                3 => Step::Delete(service),
                4 => Step::Wait(3),
                5 => Step::Write(Fate::Late),
                6 => Step::Write(Fate::AnswerLost),
                7 => Step::Write(Fate::Lost),
                8 => Step::Arrive,
                9 => Step::Write(Fate::Written),
                _ => Step::Hear,
            };
            if let Step::Delete(service) = step {
                given.remove(&key(service));
            }
            world.step(step);
            let shown = world.server.shown();
            assert_eq!(world.server.given_twice(), None, "seed {seed}, step {point}, killed at {kill}");
            for (service, addresses) in &given {
                let now = shown.get(service).cloned().unwrap_or_default();
                assert!(
                    addresses.iter().all(|address| now.contains(address)),
                    "seed {seed}, step {point}, killed at {kill}: {service} showed {addresses:?}, now {now:?}"
                );
            }
            given.extend(shown);
        }
    }
}

#[test]
fn pools_that_appear_30_s_after_a_start_change_no_address() {
    let mut world = World::new();
    for service in 0..4 {
        world.server.ask(service, 0);
    }
    world.settle();
    let shown = world.server.shown();
    assert_eq!(shown.len(), 4);

    world.variant = 4;
    world.start();
    let reasons = |world: &World| -> Vec<_> {
        let facts = world.server.services.values().map(|service| ServiceFacts::of(service, None));
        facts.map(|facts| facts.condition.map(|condition| condition.reason)).collect()
    };
    world.settle();
    assert_eq!(world.server.shown(), shown);
    assert_eq!(reasons(&world), vec![Some("PoolMissing".into()); 4]);

    world.step(Step::Wait(30));
    world.step(Step::Pools(0));
    world.settle();
    assert_eq!(world.server.shown(), shown);
    assert_eq!(reasons(&world), vec![Some("Assigned".into()); 4]);
}

#[test]
fn a_nodes_address_that_a_service_holds_stays_over_a_restart() {
    let mut world = World::new();
    world.server.ask(0, 0);
    world.settle();
    let shown = world.server.shown();
    world.reserved = shown.values().flatten().copied().collect();
    assert_ne!(world.reserved, BTreeSet::new());
    world.start();
    assert_eq!((world.settle(), world.server.shown()), (vec![], shown));
}

#[test]
fn while_pools_cannot_be_read_no_grace_ends_and_afterwards_it_begins_anew() {
    let mut world = World::new();
    world.server.ask(0, 0);
    world.settle();
    let shown = world.server.shown();
    // The definition of the kind is deleted: each pool is seen to go, and then none can be listed.
    world.step(Step::Pools(4));
    world.assigner.doubt_pools(true, world.now);
    world.step(Step::Wait(120));
    assert_eq!(world.assigner.deadline(), None);
    assert_eq!(world.assigner.next(world.now), None);
    // The kind is back, and its objects come a moment later.
    world.assigner.doubt_pools(false, world.now);
    world.step(Step::Wait(9));
    assert_eq!(world.assigner.next(world.now), None);
    world.step(Step::Pools(0));
    assert_eq!((world.settle(), world.server.shown()), (vec![], shown));

    world.step(Step::Pools(4));
    world.settle();
    assert_eq!(
        world.server.shown(),
        BTreeMap::new(),
        "a pool that is seen to go takes its addresses with it"
    );
}

#[test]
fn a_pool_for_namespaces_with_a_label_follows_the_label() {
    let mut world = World::new();
    let blue = json!([{ "matchLabels": { "team": "blue" } }]);
    let specs = json!({
        "blue": { "addresses": ["198.51.100.0/30"], "serviceAllocation": { "namespaceSelectors": blue } },
        "general": { "addresses": ["192.0.2.0/30"] },
    });
    let labelled: Labels = [("team", "blue")].into_iter().collect();
    world.assigner.set_pools(pools_of(&specs), world.now);
    world.assigner.set_namespaces(BTreeMap::from([("ns".to_owned(), labelled.clone())]));
    world.server.ask(0, 0);
    world.settle();
    let shown = |world: &World| world.server.shown()[&key(0)].clone();
    let [blue, general]: [IpAddr; 2] = ["198.51.100.0", "192.0.2.0"].map(|text| text.parse().unwrap());
    assert_eq!(shown(&world), [blue]);
    world.assigner.set_namespace("ns", Labels::new());
    world.settle();
    assert_eq!(shown(&world), [general], "the pool is not for it any more");
    world.assigner.set_namespace("ns", labelled);
    world.settle();
    assert_eq!(shown(&world), [general], "a better pool is no reason to move");
}

#[test]
fn those_that_wait_are_served_oldest_first() {
    let mut world = World::new();
    // IPv6 addresses: there are four, and nobody shares one with another number modulo six here.
    for service in [0, 3, 6] {
        world.server.ask(service, 5);
    }
    world.settle();
    world.step(Step::Pools(3));
    world.settle();
    let holders = |world: &World| world.server.shown().into_keys().collect::<Vec<_>>();
    assert_eq!(holders(&world), [key(0), key(3)], "two addresses are left, and the oldest keep theirs");
    world.server.ask(8, 5);
    world.server.delete(0);
    world.settle();
    assert_eq!(holders(&world), [key(3), key(6)], "6 is older than 8");
}
