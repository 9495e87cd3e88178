//! UPDATEs of routers: what they say, what is wrong with them, and what that costs (RFC 7606).

use std::time::Duration;

use proptest::prelude::*;

use super::super::settings::{Asn, RouterId};
use super::*;

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

fn body(withdrawn: &[u8], attributes: &[&[u8]], nlri: &[u8]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&length(withdrawn)[..], withdrawn, &length(&attributes), &attributes, nlri].concat()
}

const IGP: &[u8] = &[0x40, 1, 1, 0];
const PATH: &[u8] = &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 1];
const HOP: &[u8] = &[0x40, 3, 4, 192, 0, 2, 9];
const HOST: &[u8] = &[32, 198, 51, 100, 1];
const V6_HOP: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn reach(family: [u8; 3], next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = u8::try_from(5 + next_hop.len() + nlri.len()).unwrap();
    let hop_length = u8::try_from(next_hop.len()).unwrap();
    [&[0x80, 14, length][..], &family, &[hop_length], next_hop, &[0], nlri].concat()
}

/// One host route with these attributes, announced or withdrawn, and with a complaint or none.
fn host(withdrawn: bool, malformed: Option<&str>) -> Received {
    let host = nets(&["198.51.100.1/32"]);
    let (announced, withdrawn) = if withdrawn { (vec![], host) } else { (host, vec![]) };
    Received { announced, withdrawn, malformed: malformed.map(ToOwned::to_owned) }
}

#[test]
fn routes_are_counted_by_family() {
    let unreach = [0x80, 15, 5, 0, 2, 1, 8, 0x20];
    let v6 = reach([0, 2, 1], &V6_HOP, &[16, 0x20, 1]);
    // A route of a family that was not agreed on.
    let vpn = reach([0, 1, 128], &[0; 12], &[1, 2, 3]);
    for (bytes, announced, withdrawn) in [
        (body(&[], &[], &[]), vec![], vec![]),
        (body(&[24, 203, 0, 113], &[], &[]), vec![], nets(&["203.0.113.0/24"])),
        (body(&[], &[IGP, PATH, HOP], HOST), nets(&["198.51.100.1/32"]), vec![]),
        (body(&[], &[&v6, IGP, PATH], &[]), nets(&["2001::/16"]), vec![]),
        (body(&[], &[&unreach], &[]), vec![], nets(&["2000::/8"])),
        (body(&[], &[&vpn, IGP, PATH], &[]), vec![], vec![]),
        // Bits beyond the length mean nothing.
        (body(&[12, 10, 0xff], &[], &[]), vec![], nets(&["10.240.0.0/12"])),
    ] {
        assert_eq!(
            read(&agreed(), &bytes),
            Ok(Received { announced, withdrawn, malformed: None }),
            "{bytes:?}"
        );
    }
}

#[test]
fn a_bad_attribute_costs_the_route_and_not_the_session() {
    let ibgp = Agreed { internal: true, ..agreed() };
    for (agreed, attributes, want) in [
        (agreed(), vec![IGP, PATH], host(true, Some("mandatory attribute 3 is missing"))),
        (agreed(), vec![PATH, HOP], host(true, Some("mandatory attribute 1 is missing"))),
        (ibgp, vec![IGP, PATH, HOP], host(true, Some("mandatory attribute 5 is missing"))),
        (agreed(), vec![IGP, PATH, HOP, &[0x40, 99, 0]], host(true, Some("unknown well-known attribute 99"))),
        (
            agreed(),
            vec![IGP, PATH, HOP, &[0xc0, 8, 9, 0]],
            host(true, Some("an attribute reaches beyond the attributes")),
        ),
        (agreed(), vec![IGP, PATH, HOP, HOP], host(false, Some("attribute 3 stands twice"))),
        // LOCAL_PREF from another AS, and an unknown optional attribute, are passed over.
        (agreed(), vec![IGP, PATH, HOP, &[0x40, 5, 1, 0]], host(false, None)),
        (agreed(), vec![IGP, PATH, HOP, &[0xc0, 99, 1, 0]], host(false, None)),
    ] {
        assert_eq!(read(&agreed, &body(&[], &attributes, HOST)), Ok(want), "{attributes:?}");
    }
    let flagged = |flags: u8, kind: u8| {
        let mut attribute = if kind == 14 {
            reach([0, 2, 1], &V6_HOP, &[16, 0x20, 1])
        } else {
            vec![0, kind, 5, 0, 2, 1, 16, 0x20, 1]
        };
        if kind == 15 {
            attribute[2] = 6;
        }
        attribute[0] = flags;
        attribute
    };
    for (flags, kind) in [(0xc0, 14), (0x40, 14), (0xc0, 15)] {
        let want = Received {
            withdrawn: nets(&["2001::/16"]),
            malformed: Some(format!("attribute {kind} has wrong flags")),
            ..Received::default()
        };
        let bytes = body(&[], &[&flagged(flags, kind), IGP, PATH], &[]);
        assert_eq!(read(&agreed(), &bytes), Ok(want), "{flags:x} {kind}");
    }
    // What the library says of a bad value is its own.
    for (attributes, withdrawn) in [
        (vec![&[0x40, 1, 1, 7][..], PATH, HOP], true),
        (vec![IGP, &[0x40, 2, 6, 9, 1, 0, 0, 0xfc, 1], HOP], true),
        (vec![IGP, &[0x40, 2, 2, 2, 0], HOP], true),
        (vec![IGP, PATH, &[0x40, 3, 3, 1, 2, 3]], true),
        (vec![&[0x80, 1, 1, 0], PATH, HOP], true),
        (vec![IGP, PATH, HOP, &[0x80, 4, 3, 1, 2, 3]], true),
        (vec![IGP, PATH, HOP, &[0xc0, 8, 3, 1, 2, 3]], true),
        (vec![IGP, PATH, HOP, &[0xc0, 32, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]], true),
        (vec![IGP, PATH, HOP, &[0x40, 6, 1, 0]], false),
        (vec![IGP, PATH, HOP, &[0xc0, 7, 3, 1, 2, 3]], false),
    ] {
        let got = read(&agreed(), &body(&[], &attributes, HOST)).unwrap();
        assert!(got.malformed.is_some(), "{attributes:?}");
        assert_eq!(
            got,
            Received { malformed: got.malformed.clone(), ..host(withdrawn, None) },
            "{attributes:?}"
        );
    }
}

#[test]
fn where_the_prefixes_are_in_doubt_the_session_ends() {
    let v6 = reach([0, 2, 1], &V6_HOP, &[16, 0x20, 1]);
    for (bytes, subcode) in [
        (vec![], 1),
        (vec![0, 0, 0], 1),
        (vec![0, 1, 0, 0], 1),
        (vec![0, 0, 0, 1], 1),
        (body(&[33, 1, 2, 3, 4, 5], &[], &[]), 10),
        (body(&[24, 1, 2], &[], &[]), 10),
        (body(&[], &[IGP, PATH, HOP], &[33, 1, 2, 3, 4, 5]), 10),
        (body(&[], &[&v6, &v6, IGP, PATH], &[]), 1),
        (body(&[], &[&reach([0, 2, 1], &[1, 2, 3], &[])], &[]), 9),
        (body(&[], &[&reach([0, 1, 1], &V6_HOP, &[])], &[]), 9),
        (body(&[], &[&reach([0, 2, 1], &V6_HOP, &[129, 1])], &[]), 9),
        (body(&[], &[&[0x80, 14, 2, 0, 2]], &[]), 9),
        (body(&[], &[&[0x80, 15, 2, 0, 2]], &[]), 9),
        (body(&[], &[&[0x80, 15, 5, 0, 2, 1, 64, 1]], &[]), 9),
    ] {
        assert_eq!(read(&agreed(), &bytes), Err(Notification::new(UPDATE, subcode, [])), "{bytes:?}");
    }
}

#[test]
fn an_ipv6_next_hop_of_an_ipv4_route_needs_agreement() {
    let extended = Agreed { extended_next_hop: true, ..agreed() };
    let bytes = body(&[], &[&reach([0, 1, 1], &V6_HOP, HOST), IGP, PATH], &[]);
    assert_eq!(read(&extended, &bytes), Ok(host(false, None)));
}

fn everything() -> Vec<u8> {
    let unreach = [0x80, 15, 5, 0, 2, 1, 8, 0x20];
    let v6 = reach([0, 2, 1], &V6_HOP, &[16, 0x20, 1]);
    let aggregator = [0xc0, 7, 8, 0, 0, 0xfc, 1, 192, 0, 2, 9];
    let communities = [0xc0, 8, 4, 0xfc, 1, 0, 1];
    let extended = [0xc0, 16, 8, 0, 2, 0xfc, 1, 0, 0, 0, 1];
    let large = [0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    let med = [0x80, 4, 4, 0, 0, 0, 7];
    let attributes = [
        &v6[..],
        &unreach,
        IGP,
        PATH,
        HOP,
        &med,
        &[0x40, 6, 0],
        &aggregator,
        &communities,
        &extended,
        &large,
    ];
    body(&[24, 203, 0, 113], &attributes, HOST)
}

#[test]
fn damage_anywhere_returns() {
    let bytes = everything();
    assert_eq!(read(&agreed(), &bytes).map(|got| (got.announced.len(), got.malformed)), Ok((2, None)));
    for end in 0..bytes.len() {
        let _ = read(&agreed(), &bytes[..end]);
    }
    for at in 0..bytes.len() {
        for octet in 0..=255 {
            let mut bytes = bytes.clone();
            bytes[at] = octet;
            let _ = read(&agreed(), &bytes);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&agreed(), &bytes);
    }

    #[test]
    fn no_attribute_panics(
        flags: u8,
        kind: u8,
        value in proptest::collection::vec(any::<u8>(), 0..120),
        internal: bool,
        four_octet_asn: bool,
    ) {
        let length = u8::try_from(value.len()).unwrap();
        let attribute = [&[flags & !0x10, kind, length][..], &value].concat();
        let agreed = Agreed { internal, four_octet_asn, ..agreed() };
        let _ = read(&agreed, &body(&[], &[IGP, &attribute], HOST));
    }
}
