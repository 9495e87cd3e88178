use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

const LOCAL: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x01]);
const OTHER: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x99]);
const OURS4: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 101);
const FREE4: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 102);
const ASKER4: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 9);
const OURS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x22, 0, 0, 0, 0, 0, 0x101);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x22, 0, 0, 0, 0, 0, 9);

fn responder() -> Responder {
    let mut responder = Responder::new(LOCAL);
    assert!(responder.set(OURS4.into(), true));
    assert!(responder.set(OURS6.into(), true));
    responder
}

#[test]
fn answers_for_its_addresses_and_for_no_other() {
    let reply = |address: IpAddr, frame| Verdict::Reply { address, frame };
    let none4 = Ipv4Addr::UNSPECIFIED;
    let cases = [
        (
            "request",
            frame::arp_request(OTHER, ASKER4, OURS4),
            reply(OURS4.into(), frame::arp_reply(LOCAL, OURS4, OTHER, ASKER4)),
        ),
        (
            "probe of a host that wants the address (RFC 5227)",
            frame::arp_request(OTHER, none4, OURS4),
            reply(OURS4.into(), frame::arp_reply(LOCAL, OURS4, OTHER, none4)),
        ),
        ("request for a free address", frame::arp_request(OTHER, ASKER4, FREE4), Verdict::NotOurs),
        (
            "solicitation",
            frame::neighbor_solicit(OTHER, ASKER6, OURS6),
            reply(OURS6.into(), frame::neighbor_reply(LOCAL, OURS6, OTHER, ASKER6)),
        ),
        (
            "duplicate address detection",
            frame::neighbor_solicit(OTHER, Ipv6Addr::UNSPECIFIED, OURS6),
            reply(OURS6.into(), frame::neighbor_reply(LOCAL, OURS6, OTHER, Ipv6Addr::UNSPECIFIED)),
        ),
        ("solicitation for another", frame::neighbor_solicit(OTHER, OURS6, ASKER6), Verdict::NotOurs),
        ("garbage", vec![0xff; 64], Verdict::Rejected(Rejected::Spoofed)),
    ];
    for (name, received, want) in cases {
        assert_eq!(responder().handle(&received), want, "{name}");
    }
}

#[test]
fn rivals_are_told_and_never_answered() {
    let claim = |address: IpAddr| Verdict::Claim(Claim { address, mac: OTHER });
    let gratuitous = frame::unasked(OTHER, OURS4.into());
    let cases = [
        ("gratuitous request", gratuitous[0].clone(), claim(OURS4.into())),
        ("reply to us", frame::arp_reply(OTHER, OURS4, LOCAL, ASKER4), claim(OURS4.into())),
        ("question in our name", frame::arp_request(OTHER, OURS4, ASKER4), claim(OURS4.into())),
        ("unsolicited advertisement", frame::unasked(OTHER, OURS6.into()).remove(0), claim(OURS6.into())),
        (
            "answer to a probe for an address not announced yet",
            frame::arp_reply(OTHER, FREE4, LOCAL, FREE4),
            claim(FREE4.into()),
        ),
    ];
    for (name, received, want) in cases {
        assert_eq!(responder().handle(&received), want, "{name}");
    }
}

#[test]
fn an_address_given_up_is_silent_at_once() {
    let mut responder = responder();
    assert!(responder.set(OURS4.into(), false));
    assert!(!responder.set(OURS4.into(), false));
    assert_eq!(responder.handle(&frame::arp_request(OTHER, ASKER4, OURS4)), Verdict::NotOurs);
    assert_eq!(responder.addresses().collect::<Vec<_>>(), vec![IpAddr::from(OURS6)]);
}

#[test]
fn every_sign_of_another_host_is_told_of_an_address_that_is_asked_for() {
    let (free6, none4, none6) =
        (Ipv6Addr::new(0xfd00, 0x22, 0, 0, 0, 0, 0, 0x102), Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let mut responder = responder();
    responder.want([FREE4.into(), free6.into()].into());
    let claim = |address: IpAddr| Claim { address, mac: OTHER };
    let cases = [
        (
            "a question of the host that has it",
            frame::arp_request(OTHER, FREE4, ASKER4),
            Verdict::Claim(claim(FREE4.into())),
        ),
        (
            "its question for an announced address is answered",
            frame::arp_request(OTHER, FREE4, OURS4),
            Verdict::Reply { address: OURS4.into(), frame: frame::arp_reply(LOCAL, OURS4, OTHER, FREE4) },
        ),
        ("a probe", frame::arp_request(OTHER, none4, FREE4), Verdict::Probe(claim(FREE4.into()))),
        ("a question of a third host", frame::arp_request(OTHER, ASKER4, FREE4), Verdict::NotOurs),
        (
            "duplicate address detection",
            frame::neighbor_solicit(OTHER, none6, free6),
            Verdict::Probe(claim(free6.into())),
        ),
        ("a solicitation of a third host", frame::neighbor_solicit(OTHER, ASKER6, free6), Verdict::NotOurs),
    ];
    for (name, received, want) in cases {
        assert_eq!(responder.handle(&received), want, "{name}");
    }
    responder.want([].into());
    assert_eq!(responder.handle(&frame::arp_request(OTHER, none4, FREE4)), Verdict::NotOurs);
}
