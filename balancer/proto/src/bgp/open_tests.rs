//! OPEN against bytes, by faults, and damaged in every place.

use super::super::settings::{GracefulRestart, RemoteAsn};
use super::*;

fn settings() -> Settings {
    Settings {
        local_asn: Asn(4_200_000_000),
        remote_asn: RemoteAsn::Exactly(Asn(64513)),
        router_id: RouterId(Ipv4Addr::new(192, 0, 2, 1)),
        hold_time: Duration::from_secs(90),
        keepalive: None,
        connect_retry: None,
        families: BTreeSet::from(Family::ALL),
        extended_next_hop: true,
        graceful_restart: Some(GracefulRestart {
            time: Duration::from_secs(120),
            restarting: true,
            preserved: true,
        }),
        passive: false,
        max_prefixes: None,
        drain: Duration::ZERO,
        seed: 0,
    }
}

/// Body of a router's OPEN with these optional parameters.
fn router(asn: u16, hold_time: u16, id: [u8; 4], parameters: &[u8]) -> Vec<u8> {
    let length = u8::try_from(parameters.len()).unwrap();
    [&[4][..], &asn.to_be_bytes(), &hold_time.to_be_bytes(), &id, &[length], parameters].concat()
}

const ID: [u8; 4] = [192, 0, 2, 9];

fn plain() -> Agreed {
    Agreed {
        remote_asn: Asn(64513),
        remote_id: RouterId(ID.into()),
        internal: false,
        hold_time: Duration::from_secs(90),
        keepalive: Duration::from_secs(30),
        families: BTreeSet::from([Family::Ipv4]),
        four_octet_asn: false,
        extended_messages: false,
        route_refresh: false,
        enhanced_route_refresh: false,
        extended_next_hop: false,
        graceful_restart: None,
    }
}

#[test]
fn the_offer_is_written_as_the_rfcs_want_it() {
    let want = [
        &[4, 0x5b, 0xa0, 0, 90, 192, 0, 2, 1][..],
        &[46, 2, 44],
        &[1, 4, 0, 1, 0, 1],
        &[1, 4, 0, 2, 0, 1],
        &[2, 0],
        &[70, 0],
        &[6, 0],
        &[65, 4, 0xfa, 0x56, 0xea, 0x00],
        &[5, 6, 0, 1, 0, 1, 0, 2],
        // R and N, 120 s, and F for both families.
        &[64, 10, 0xc0, 120, 0, 1, 1, 0x80, 0, 2, 1, 0x80],
    ]
    .concat();
    assert_eq!(encode(&settings(), true), want);
}

#[test]
fn two_ends_of_this_program_agree_on_everything() {
    let other = Settings {
        local_asn: Asn(64513),
        remote_asn: RemoteAsn::External,
        router_id: RouterId(ID.into()),
        hold_time: Duration::from_secs(30),
        keepalive: Some(Duration::from_secs(4)),
        ..settings()
    };
    let want = Agreed {
        hold_time: Duration::from_secs(30),
        keepalive: Duration::from_secs(10),
        families: BTreeSet::from(Family::ALL),
        four_octet_asn: true,
        extended_messages: true,
        route_refresh: true,
        enhanced_route_refresh: true,
        extended_next_hop: true,
        graceful_restart: Some(RouterRestart {
            restarting: false,
            time: Duration::from_secs(120),
            notifications: true,
            families: BTreeMap::from([(Family::Ipv4, true), (Family::Ipv6, true)]),
        }),
        ..plain()
    };
    assert_eq!(agree(&settings(), &encode(&other, false)), Ok(want));
    let seen = agree(&other, &encode(&settings(), false)).unwrap();
    assert_eq!((seen.remote_asn, seen.keepalive), (Asn(4_200_000_000), Duration::from_secs(4)));
}

#[test]
fn a_router_of_few_words_is_understood() {
    let wide = [&[255, 255, 0, 9][..], &[2, 0, 6, 1, 4, 0, 2, 0, 1]].concat();
    let wide = [&router(64513, 180, ID, &[])[..9], &wide].concat();
    // The length that is none any more may be anything but zero.
    let mut wide_by_its_type = wide.clone();
    wide_by_its_type[9] = 12;
    for (body, want) in [
        (wide_by_its_type, Agreed { families: BTreeSet::from([Family::Ipv6]), ..plain() }),
        (router(64513, 180, ID, &[]), plain()),
        (
            router(64513, 0, ID, &[]),
            Agreed { hold_time: Duration::ZERO, keepalive: Duration::ZERO, ..plain() },
        ),
        // A capability of its own, one with a wrong length, one of an unknown family, and AS 64513 in four octets.
        (
            router(
                23456,
                180,
                ID,
                &[2, 20, 250, 1, 7, 65, 1, 9, 1, 4, 0, 99, 0, 1, 65, 4, 0, 0, 0xfc, 1, 2, 0],
            ),
            Agreed { four_octet_asn: true, route_refresh: true, ..plain() },
        ),
        (wide, Agreed { families: BTreeSet::from([Family::Ipv6]), ..plain() }),
    ] {
        assert_eq!(agree(&settings(), &body), Ok(want), "{body:?}");
    }
}

#[test]
fn a_hold_time_is_never_without_keepalives() {
    for (keepalive, seconds) in [(None, 30), (Some(0), 30), (Some(7), 7), (Some(80), 30)] {
        let settings = Settings { keepalive: keepalive.map(Duration::from_secs), ..settings() };
        let time = super::keepalive(&settings, Duration::from_secs(90));
        assert_eq!(time, Duration::from_secs(seconds), "{keepalive:?}");
    }
}

#[test]
fn a_router_that_only_helps_others_to_restart_keeps_routes() {
    // No families, and one that is not exchanged with it.
    for (restart, families) in [
        (&[64, 2, 0, 120][..], BTreeMap::new()),
        (&[64, 6, 0, 120, 0, 2, 1, 0x80], BTreeMap::from([(Family::Ipv6, true)])),
        // Of several the last one counts (RFC 4724 §3).
        (&[64, 6, 0x80, 9, 0, 1, 1, 0x80, 64, 2, 0, 120], BTreeMap::new()),
    ] {
        let length = u8::try_from(6 + restart.len()).unwrap();
        let parameters = [&[2, length][..], &[1, 4, 0, 1, 0, 1], restart].concat();
        let body = router(64513, 180, ID, &parameters);
        let time = Duration::from_secs(120);
        let helps = RouterRestart { restarting: false, time, notifications: false, families };
        let want = Agreed { graceful_restart: Some(helps), ..plain() };
        assert_eq!(agree(&settings(), &body), Ok(want), "{restart:?}");
        let unasked = Settings { graceful_restart: None, ..settings() };
        assert_eq!(agree(&unasked, &body), Ok(plain()), "{restart:?}");
    }
}

#[test]
fn what_cannot_be_accepted_is_refused_with_its_code() {
    let within = Settings { local_asn: Asn(64513), remote_asn: RemoteAsn::Internal, ..settings() };
    let v6_only = Settings { families: BTreeSet::from([Family::Ipv6]), ..settings() };
    for (settings, body, subcode, data) in [
        (settings(), vec![], 0, vec![]),
        (settings(), vec![3; 10], 1, vec![0, 4]),
        (settings(), router(64514, 90, ID, &[]), 2, vec![]),
        (settings(), router(64513, 90, ID, &[2, 6, 65, 4, 0, 0, 0, 0]), 2, vec![]),
        (within.clone(), router(64514, 90, ID, &[]), 2, vec![]),
        (settings(), router(64513, 90, [0; 4], &[]), 3, vec![]),
        (within, router(64513, 90, [192, 0, 2, 1], &[]), 3, vec![]),
        (settings(), router(64513, 90, ID, &[1, 1, 0]), 4, vec![]),
        (settings(), router(64513, 2, ID, &[]), 6, vec![0, 2]),
        (v6_only, router(64513, 90, ID, &[]), 7, vec![1, 4, 0, 2, 0, 1]),
        (settings(), router(64513, 90, ID, &[2, 9, 1]), 0, vec![]),
        (settings(), router(64513, 90, ID, &[2, 3, 1, 4, 0]), 0, vec![]),
        (settings(), router(64513, 90, ID, &[2, 1, 1]), 0, vec![]),
    ] {
        assert_eq!(agree(&settings, &body), Err(Notification::new(OPEN, subcode, data)), "{body:?}");
    }
}

#[test]
fn a_dynamic_as_number_is_taken_from_the_router() {
    let dynamic = |remote_asn| Settings { remote_asn, ..settings() };
    let got = agree(&dynamic(RemoteAsn::External), &router(64999, 90, ID, &[]));
    assert_eq!(got.map(|agreed| agreed.remote_asn), Ok(Asn(64999)));
    let got = agree(&dynamic(RemoteAsn::Internal), &router(64999, 90, ID, &[]));
    assert_eq!(got, Err(Notification::new(OPEN, 2, [])));
}

#[test]
fn damage_anywhere_returns() {
    let other = Settings { local_asn: Asn(64513), remote_asn: RemoteAsn::External, ..settings() };
    let body = encode(&other, true);
    for end in 0..body.len() {
        assert!(agree(&settings(), &body[..end]).is_err(), "cut at {end}");
    }
    for at in 0..body.len() {
        for octet in 0..=255 {
            let mut body = body.clone();
            body[at] = octet;
            let _ = agree(&settings(), &body);
        }
    }
}
