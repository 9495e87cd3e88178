//! What is sent, in which order, and when.

use std::net::Ipv4Addr;

use super::super::open::Agreed;
use super::super::received::{self, Received};
use super::super::route::{Community, NextHops};
use super::super::settings::{Asn, RemoteAsn, RouterId, Settings};
use super::*;

const BUDGET: usize = 1 << 20;

/// A table, the session around it, and the time.
struct Table {
    now: Instant,
    rib: AdjRibOut,
    settings: Settings,
    agreed: Agreed,
    next_hops: NextHops,
}

impl Table {
    #[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
    fn new() -> Self {
        let id = RouterId(Ipv4Addr::new(192, 0, 2, 1));
        Self {
            now: Instant::now(),
            rib: AdjRibOut::default(),
            settings: Settings {
                local_asn: Asn(64512),
                remote_asn: RemoteAsn::External,
                router_id: id,
                hold_time: Duration::from_secs(90),
                keepalive: None,
                connect_retry: None,
                families: BTreeSet::from(Family::ALL),
                extended_next_hop: false,
                graceful_restart: None,
                passive: false,
                max_prefixes: None,
                drain: Duration::ZERO,
                seed: 0,
            },
            agreed: Agreed {
                remote_asn: Asn(64513),
                remote_id: id,
                internal: false,
                hold_time: Duration::from_secs(90),
                keepalive: Duration::from_secs(30),
                families: BTreeSet::from(Family::ALL),
                four_octet_asn: true,
                extended_messages: false,
                route_refresh: true,
                enhanced_route_refresh: true,
                extended_next_hop: false,
                graceful_restart: None,
            },
            next_hops: NextHops {
                v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
                v6: Some("2001:db8::1".parse().unwrap()),
                link_local: None,
            },
        }
    }

    fn round(&mut self, wanted: &Routes, budget: usize) -> Round {
        let encoder = Encoder {
            settings: &self.settings,
            agreed: &self.agreed,
            next_hops: &self.next_hops,
            graceful_shutdown: false,
        };
        self.rib.round(self.now, wanted, &encoder, budget)
    }

    /// Prefixes announced and withdrawn in one round, End-of-RIB aside.
    fn sent(&mut self, wanted: &Routes) -> (Vec<String>, Vec<String>) {
        let round = self.round(wanted, BUDGET);
        let mut sent = Received::default();
        for message in &round.messages {
            let got = received::read(&self.agreed, &message[19..]).unwrap();
            sent.announced.extend(got.announced);
            sent.withdrawn.extend(got.withdrawn);
        }
        let words = |prefixes: &[IpNet]| prefixes.iter().map(ToString::to_string).collect();
        (words(&sent.announced), words(&sent.withdrawn))
    }
}

fn wanted(routes: &[(&str, u32)]) -> Routes {
    let attributes = |med| Arc::new(Attributes { med: Some(med), ..Attributes::default() });
    routes.iter().map(|(prefix, med)| (prefix.parse().unwrap(), attributes(*med))).collect()
}

fn words(announced: &[&str], withdrawn: &[&str]) -> (Vec<String>, Vec<String>) {
    let words = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    (words(announced), words(withdrawn))
}

#[test]
fn equal_attributes_share_a_message_and_end_of_rib_comes_last_and_once() {
    let mut table = Table::new();
    let routes =
        wanted(&[("10.0.0.1/32", 1), ("10.0.0.2/32", 2), ("10.0.0.3/32", 1), ("2001:db8::1/128", 1)]);
    let round = table.round(&routes, BUDGET);
    let got: Vec<_> = round
        .messages
        .iter()
        .map(|message| received::read(&table.agreed, &message[19..]).unwrap().announced.len())
        .collect();
    assert_eq!(got, [2, 1, 1, 0, 0]);
    assert_eq!(round.messages[3..], Family::ALL.map(Encoder::end_of_rib));
    assert_eq!(table.round(&routes, BUDGET).messages, Vec::<Vec<u8>>::new());
    assert_eq!(table.rib.len(), 4);
}

#[test]
fn a_prefix_that_keeps_changing_waits_longer_and_longer() {
    let mut table = Table::new();
    let mut med = 0;
    let mut waits = vec![];
    for _ in 0..9 {
        med += 1;
        let routes = wanted(&[("10.0.0.1/32", med)]);
        if table.sent(&routes) == words(&["10.0.0.1/32"], &[]) {
            waits.push(0);
            continue;
        }
        let due = table.rib.deadline().unwrap();
        waits.push((due - table.now).as_secs());
        table.now = due;
        assert_eq!(table.sent(&routes), words(&["10.0.0.1/32"], &[]));
        assert_eq!(table.rib.deadline(), None);
    }
    assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 30, 30]);
    table.now += QUIET;
    assert_eq!(table.sent(&wanted(&[("10.0.0.1/32", 0)])), words(&["10.0.0.1/32"], &[]));
}

#[test]
fn a_withdrawal_never_waits_and_its_return_does() {
    let mut table = Table::new();
    let (none, one) = (Routes::new(), wanted(&[("10.0.0.1/32", 1)]));
    assert_eq!(table.sent(&one), words(&["10.0.0.1/32"], &[]));
    assert_eq!(table.sent(&none), words(&[], &["10.0.0.1/32"]));
    assert_eq!(table.sent(&one), words(&["10.0.0.1/32"], &[]));
    assert_eq!(table.sent(&none), words(&[], &["10.0.0.1/32"]));
    // Another prefix is not held up by this one.
    let both = wanted(&[("10.0.0.1/32", 1), ("10.0.0.2/32", 1)]);
    assert_eq!(table.sent(&both), words(&["10.0.0.2/32"], &[]));
    assert_eq!(table.rib.deadline(), Some(table.now + FIRST_WAIT));
}

#[test]
fn what_exceeds_the_budget_follows_in_the_next_round() {
    let mut table = Table::new();
    let routes: Routes = (0..40_000u32)
        .map(|n| (IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 32).unwrap(), Arc::default()))
        .collect();
    let first = table.round(&routes, 10);
    assert_eq!((first.unfinished, table.rib.len()), (true, CHUNK));
    let second = table.round(&routes, BUDGET);
    assert_eq!((second.unfinished, table.rib.len()), (false, 40_000));
    assert_eq!(second.messages.last(), Some(&Encoder::end_of_rib(Family::Ipv6)));
    let third = table.round(&Routes::new(), 10);
    assert_eq!((third.unfinished, table.rib.len()), (true, 40_000 - CHUNK));
}

#[test]
fn a_refresh_sends_the_family_again_at_once() {
    let mut table = Table::new();
    let routes = wanted(&[("10.0.0.1/32", 1), ("2001:db8::1/128", 1)]);
    table.sent(&routes);
    table.rib.refresh(Family::Ipv6);
    let round = table.round(&routes, BUDGET);
    assert_eq!((round.messages.len(), round.refreshed), (1, vec![Family::Ipv6]));
    // A route that goes while it was to be sent again is still withdrawn.
    table.rib.refresh(Family::Ipv4);
    assert_eq!(table.sent(&wanted(&[("2001:db8::1/128", 1)])), words(&[], &["10.0.0.1/32"]));
}

#[test]
fn a_refresh_that_is_asked_for_again_meanwhile_is_answered_once_more() {
    let mut table = Table::new();
    let routes = wanted(&[("10.0.0.1/32", 1), ("2001:db8::1/128", 1)]);
    table.sent(&routes);
    let begun: Vec<bool> = (0..3).map(|_| table.rib.refresh(Family::Ipv4)).collect();
    assert_eq!((begun, table.rib.refresh_again()), (vec![true, false, false], BTreeSet::new()));
    for again in [BTreeSet::from([Family::Ipv4]), BTreeSet::new()] {
        let round = table.round(&routes, BUDGET);
        assert_eq!((round.messages.len(), round.refreshed), (1, vec![Family::Ipv4]));
        assert_eq!(table.rib.refresh_again(), again);
    }
}

#[test]
fn routes_whose_next_hop_is_lost_are_withdrawn_and_come_back_with_it() {
    let mut table = Table::new();
    let routes = wanted(&[("10.0.0.1/32", 1), ("2001:db8::1/128", 1)]);
    table.sent(&routes);
    let v6 = table.next_hops.v6.take();
    assert_eq!(table.sent(&routes), words(&[], &["2001:db8::1/128"]));
    table.next_hops.v6 = v6;
    assert_eq!(table.sent(&routes), words(&["2001:db8::1/128"], &[]));
}

#[test]
fn routes_that_cannot_be_told_are_passed_over() {
    let mut table = Table::new();
    table.next_hops.v6 = None;
    let routes = wanted(&[("224.0.0.1/32", 1), ("10.0.0.1/32", 1), ("2001:db8::1/128", 1)]);
    assert_eq!(table.sent(&routes), words(&["10.0.0.1/32"], &[]));
    assert_eq!(table.rib.len(), 1);
}

#[test]
fn routes_that_cannot_be_told_are_counted_by_their_cause() {
    let mut table = Table::new();
    let mut routes = wanted(&[("10.0.0.1/32", 1), ("10.0.0.2/32", 1), ("2001:db8::1/128", 1)]);
    table.agreed.families.remove(&Family::Ipv6);
    table.sent(&routes);
    let one = |family| BTreeMap::from([(family, 1)]);
    assert_eq!(table.rib.unsent(), &Unsent { not_agreed: one(Family::Ipv6), ..Unsent::default() });
    assert_eq!(table.rib.unsent().to_string(), "1 IPv6 route, since the router does not take IPv6 unicast");

    table.agreed.families.insert(Family::Ipv6);
    table.next_hops.v6 = None;
    // 4 octets each: more than any message holds.
    let communities = (0..20_000).map(Community).collect();
    let large = Arc::new(Attributes { communities, ..Attributes::default() });
    routes.insert("10.0.0.3/32".parse().unwrap(), large);
    table.sent(&routes);
    let unsent = Unsent { no_next_hop: one(Family::Ipv6), too_large: 1, ..Unsent::default() };
    assert_eq!(table.rib.unsent(), &unsent);
    assert_eq!(
        table.rib.unsent().to_string(),
        "1 IPv6 route, since this node has no IPv6 address towards the router; 1 route, since the attributes fill a \
         whole message"
    );

    table.next_hops = Table::new().next_hops;
    routes.remove(&"10.0.0.3/32".parse().unwrap());
    table.sent(&routes);
    assert_eq!(table.rib.unsent(), &Unsent::default());
}

#[test]
fn a_route_that_no_longer_fits_is_withdrawn() {
    let mut table = Table::new();
    let mut routes = wanted(&[("10.0.0.1/32", 1), ("10.0.0.2/32", 1)]);
    table.sent(&routes);
    table.now += QUIET;
    let communities = (0..20_000).map(Community).collect();
    let large = Arc::new(Attributes { communities, ..Attributes::default() });
    for _ in 0..2 {
        // Also where it would only be told anew.
        table.rib.rewrite(Family::Ipv4);
        routes.insert("10.0.0.2/32".parse().unwrap(), Arc::clone(&large));
        assert_eq!(table.sent(&routes).1, words(&[], &["10.0.0.2/32"]).1);
        assert_eq!((table.rib.len(), table.rib.unsent().too_large), (1, 1));
        routes = wanted(&[("10.0.0.1/32", 1), ("10.0.0.2/32", 1)]);
        table.now += QUIET;
        assert_eq!(table.sent(&routes), words(&["10.0.0.2/32"], &[]));
        table.now += QUIET;
    }
}
