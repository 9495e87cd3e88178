//! UPDATEs against bytes, and packing against the decoder of the library.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;

use super::super::route::LargeCommunity;
use super::super::settings::{RemoteAsn, RouterId};
use super::*;

fn settings() -> Settings {
    Settings {
        local_asn: Asn(4_200_000_000),
        remote_asn: RemoteAsn::External,
        router_id: RouterId(Ipv4Addr::new(192, 0, 2, 1)),
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
    }
}

fn agreed() -> Agreed {
    Agreed {
        remote_asn: Asn(64513),
        remote_id: RouterId(Ipv4Addr::new(192, 0, 2, 9)),
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
    }
}

fn next_hops() -> NextHops {
    NextHops {
        v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        v6: Some("2001:db8::1".parse().unwrap()),
        link_local: Some("fe80::1".parse().unwrap()),
    }
}

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Bodies of messages, whose headers are right.
fn bodies(messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let body = |message: Vec<u8>| {
        let length = u16::from_be_bytes([message[16], message[17]]);
        assert_eq!((usize::from(length), message[18]), (message.len(), 2));
        message[19..].to_vec()
    };
    messages.into_iter().map(body).collect()
}

fn announce(agreed: &Agreed, next_hops: &NextHops, attributes: &Attributes, texts: &[&str]) -> Vec<Vec<u8>> {
    let prefixes = prefixes(texts);
    let encoder = Encoder { settings: &settings(), agreed, next_hops, graceful_shutdown: false };
    bodies(encoder.announce(Family::of(&prefixes[0]), attributes, &prefixes))
}

/// An UPDATE of these attributes and IPv4 prefixes.
fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length(withdrawn)[..], withdrawn, &length(&attributes), &attributes, nlri].concat()
}

const IGP: &[u8] = &[0x40, 1, 1, 0];
/// AS 4200000000 in four octets.
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0xfa, 0x56, 0xea, 0];
const NEXT_HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 1];

fn full() -> Attributes {
    Attributes {
        local_pref: Some(300),
        med: Some(7),
        prepend: 1,
        communities: BTreeSet::from([Community(0xfc00_0001), Community(0xfc00_0002)]),
        large_communities: BTreeSet::from([LargeCommunity(1, 2, 3)]),
    }
}

#[test]
fn ipv4_routes_to_another_as() {
    let want = body(&[], &[IGP, PATH, NEXT_HOP], &[32, 198, 51, 100, 1, 24, 203, 0, 113]);
    let texts = ["198.51.100.1/32", "203.0.113.0/24"];
    assert_eq!(announce(&agreed(), &next_hops(), &Attributes::default(), &texts), [want]);

    let path = [0x40, 2, 10, 2, 2, 0xfa, 0x56, 0xea, 0, 0xfa, 0x56, 0xea, 0];
    let communities = [0xc0, 8, 8, 0xfc, 0, 0, 1, 0xfc, 0, 0, 2];
    let large = [0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    let med = [0x80, 4, 4, 0, 0, 0, 7];
    let want = body(&[], &[IGP, &path, NEXT_HOP, &med, &communities, &large], &[0]);
    assert_eq!(announce(&agreed(), &next_hops(), &full(), &["0.0.0.0/0"]), [want]);
}

#[test]
fn ipv4_routes_within_the_as() {
    let within = Agreed { internal: true, ..agreed() };
    let empty_path = [0x40, 2, 0];
    for (local_pref, octets) in [(None, [0, 0, 0, 100]), (Some(300), [0, 0, 1, 44])] {
        let local_pref_octets = [&[0x40, 5, 4][..], &octets].concat();
        let want = body(&[], &[IGP, &empty_path, NEXT_HOP, &local_pref_octets], &[32, 198, 51, 100, 1]);
        let attributes = Attributes { local_pref, prepend: 3, ..Attributes::default() };
        assert_eq!(announce(&within, &next_hops(), &attributes, &["198.51.100.1/32"]), [want]);
    }
}

#[test]
fn a_router_of_two_octets_learns_the_rest_beside() {
    let old = Agreed { four_octet_asn: false, ..agreed() };
    let path = [0x40, 2, 4, 2, 1, 0x5b, 0xa0];
    let as4_path = [0xc0, 17, 6, 2, 1, 0xfa, 0x56, 0xea, 0];
    let want = body(&[], &[IGP, &path, NEXT_HOP, &as4_path], &[32, 198, 51, 100, 1]);
    assert_eq!(announce(&old, &next_hops(), &Attributes::default(), &["198.51.100.1/32"]), [want]);
}

#[test]
fn ipv6_routes_carry_both_next_hops() {
    let global = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let nlri = [48, 0x20, 1, 0x0d, 0xb8, 0, 9];
    let both = [&[0x80, 14, 44, 0, 2, 1, 32][..], &global, &link_local, &[0], &nlri].concat();
    let alone = [&[0x80, 14, 28, 0, 2, 1, 16][..], &global, &[0], &nlri].concat();
    let local = [&[0x80, 14, 44, 0, 2, 1, 32][..], &link_local, &link_local, &[0], &nlri].concat();
    for (hops, reach) in [
        (next_hops(), both),
        (NextHops { link_local: None, ..next_hops() }, alone),
        (NextHops { v6: None, ..next_hops() }, local),
    ] {
        let want = body(&[], &[&reach, IGP, PATH], &[]);
        assert_eq!(announce(&agreed(), &hops, &Attributes::default(), &["2001:db8:9::/48"]), [want]);
    }
}

#[test]
fn ipv4_routes_over_an_interface_have_an_ipv6_next_hop() {
    let unnumbered = Agreed { extended_next_hop: true, ..agreed() };
    let hops = NextHops { v6: None, ..next_hops() };
    let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let reach =
        [&[0x80, 14, 42, 0, 1, 1, 32][..], &link_local, &link_local, &[0], &[32, 198, 51, 100, 1]].concat();
    let want = body(&[], &[&reach, IGP, PATH], &[]);
    assert_eq!(announce(&unnumbered, &hops, &Attributes::default(), &["198.51.100.1/32"]), [want]);
}

#[test]
fn without_a_next_hop_nothing_is_said() {
    let none = NextHops::default();
    assert_eq!(announce(&agreed(), &none, &full(), &["198.51.100.1/32"]), Vec::<Vec<u8>>::new());
    assert_eq!(announce(&agreed(), &none, &full(), &["2001:db8::/64"]), Vec::<Vec<u8>>::new());
    let encoder =
        Encoder { settings: &settings(), agreed: &agreed(), next_hops: &none, graceful_shutdown: false };
    assert_eq!(Family::ALL.map(|family| encoder.can_announce(family)), [false, false]);
}

#[test]
fn withdrawals_and_end_of_rib() {
    let agreed = agreed();
    let hops = next_hops();
    let encoder =
        Encoder { settings: &settings(), agreed: &agreed, next_hops: &hops, graceful_shutdown: false };
    let gone = encoder.withdraw(Family::Ipv4, &prefixes(&["198.51.100.1/32", "203.0.113.0/24"]));
    assert_eq!(bodies(gone), [body(&[32, 198, 51, 100, 1, 24, 203, 0, 113], &[], &[])]);
    let gone = encoder.withdraw(Family::Ipv6, &prefixes(&["2001:db8:9::/48"]));
    let unreach = [0x80, 15, 10, 0, 2, 1, 48, 0x20, 1, 0x0d, 0xb8, 0, 9];
    assert_eq!(bodies(gone), [body(&[], &[&unreach], &[])]);
    assert_eq!(bodies(vec![Encoder::end_of_rib(Family::Ipv4)]), [vec![0; 4]]);
    let unreach = [0x80, 15, 3, 0, 2, 1];
    assert_eq!(bodies(vec![Encoder::end_of_rib(Family::Ipv6)]), [body(&[], &[&unreach], &[])]);
}

#[test]
fn graceful_shutdown_is_a_community_and_the_least_preference() {
    let within = Agreed { internal: true, ..agreed() };
    let hops = next_hops();
    let encoder =
        Encoder { settings: &settings(), agreed: &within, next_hops: &hops, graceful_shutdown: true };
    let got = encoder.announce(Family::Ipv4, &Attributes::default(), &prefixes(&["198.51.100.1/32"]));
    let local_pref = [0x40, 5, 4, 0, 0, 0, 0];
    let community = [0xc0, 8, 4, 0xff, 0xff, 0, 0];
    let want = body(&[], &[IGP, &[0x40, 2, 0], NEXT_HOP, &local_pref, &community], &[32, 198, 51, 100, 1]);
    assert_eq!(bodies(got), [want]);
}

#[test]
fn attributes_that_fill_a_message_alone_are_not_sent() {
    let communities = (0..1100).map(Community).collect();
    let attributes = Attributes { communities, ..Attributes::default() };
    assert_eq!(announce(&agreed(), &next_hops(), &attributes, &["198.51.100.1/32"]), Vec::<Vec<u8>>::new());
    let extended = Agreed { extended_messages: true, ..agreed() };
    assert_eq!(announce(&extended, &next_hops(), &attributes, &["198.51.100.1/32"]).len(), 1);
}

/// Every prefix of a message, as the library reads it.
fn decoded(message: &[u8]) -> (Vec<IpNet>, Vec<IpNet>) {
    let mut context = BgpParsingContext::new(true, HashMap::new(), HashMap::new(), true, true, true, true);
    let parsed = BgpMessage::parse(&mut SliceReader::new(message), &mut context).unwrap();
    let BgpMessage::Update(update) = parsed else { panic!("no UPDATE") };
    let v4 = |nlri: &[Ipv4UnicastAddress]| -> Vec<IpNet> {
        nlri.iter().map(|address| address.network().address().into()).collect()
    };
    let v6 = |nlri: &[Ipv6UnicastAddress]| -> Vec<IpNet> {
        nlri.iter().map(|address| address.network().address().into()).collect()
    };
    let (mut announced, mut withdrawn) = (v4(update.nlri()), v4(update.withdraw_routes()));
    for attribute in update.path_attributes() {
        match attribute.value() {
            PathAttributeValue::MpReach(MpReach::Ipv6Unicast { nlri, .. }) => announced.extend(v6(nlri)),
            PathAttributeValue::MpUnreach(MpUnreach::Ipv6Unicast { nlri }) => withdrawn.extend(v6(nlri)),
            _ => {}
        }
    }
    (announced, withdrawn)
}

#[test]
fn ten_thousand_routes_take_as_few_messages_as_they_can() {
    let v4: Vec<IpNet> = (0..10_000u32)
        .map(|n| IpNet::new(Ipv4Addr::from_bits(0x0a63_0000 + n).into(), 32).unwrap())
        .collect();
    let v6: Vec<IpNet> = (0..10_000u128)
        .map(|n| IpNet::new(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n).into(), 128).unwrap())
        .collect();
    let hops = next_hops();
    for (extended, want) in [(false, [13, 13, 43, 42]), (true, [1, 1, 3, 3])] {
        let agreed = Agreed { extended_messages: extended, ..agreed() };
        let encoder =
            Encoder { settings: &settings(), agreed: &agreed, next_hops: &hops, graceful_shutdown: false };
        let attributes = Attributes::default();
        let messages = [
            encoder.announce(Family::Ipv4, &attributes, &v4),
            encoder.withdraw(Family::Ipv4, &v4),
            encoder.announce(Family::Ipv6, &attributes, &v6),
            encoder.withdraw(Family::Ipv6, &v6),
        ];
        assert_eq!(messages.each_ref().map(Vec::len), want, "extended messages: {extended}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_packed_arrives_whole_and_in_order(
        count in 0usize..3000,
        communities in 0u32..900,
        extended: bool,
        v6: bool,
        lengths in proptest::collection::vec(0u8..=32, 1..20),
    ) {
        let family = if v6 { Family::Ipv6 } else { Family::Ipv4 };
        let prefixes: Vec<IpNet> = (0..count)
            .map(|n| {
                let length = lengths[n % lengths.len()];
                let bits = u32::try_from(n).unwrap() << 8;
                match family {
                    Family::Ipv4 => IpNet::new(Ipv4Addr::from_bits(bits).into(), length),
                    Family::Ipv6 => IpNet::new(Ipv6Addr::from_bits(u128::from(bits) << 64).into(), length * 4),
                }
                .unwrap()
                .trunc()
            })
            .collect();
        let agreed = Agreed { extended_messages: extended, ..agreed() };
        let hops = next_hops();
        let encoder =
            Encoder { settings: &settings(), agreed: &agreed, next_hops: &hops, graceful_shutdown: false };
        let attributes =
            Attributes { communities: (0..communities).map(Community).collect(), ..Attributes::default() };
        let limit = if extended { 65535 } else { 4096 };
        let announced = encoder.announce(family, &attributes, &prefixes);
        let withdrawn = encoder.withdraw(family, &prefixes);
        prop_assert!(announced.iter().chain(&withdrawn).all(|message| message.len() <= limit));
        let got: Vec<IpNet> = announced.iter().flat_map(|message| decoded(message).0).collect();
        prop_assert_eq!(&got, &prefixes);
        let got: Vec<IpNet> = withdrawn.iter().flat_map(|message| decoded(message).1).collect();
        prop_assert_eq!(&got, &prefixes);
    }
}
