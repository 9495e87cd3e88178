use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::layer2::filter;

const LOCAL: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x01]);
const ASKER: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x99]);
const V4: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 101);
const V4_ASKER: Ipv4Addr = Ipv4Addr::new(172, 22, 0, 9);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x22, 0, 0, 0, 0, 0, 0x101);
const V6_ASKER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x22, 0, 0, 0, 0, 0, 9);

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

// Captured on a veth link between two network namespaces, Linux 6.18: the questions of arping 2.23 and ndisc6
// 1.0.5, the kernel's own Duplicate Address Detection, and the kernel's answers.
const ARP_REQUEST: &str = "ffffffffffff 020000000099 0806 0001 0800 06 04 0001
    020000000099 ac160009 000000000000 ac160065 00000000000000000000000000000000";
const ARP_REPLY: &str = "020000000099 020000000001 0806 0001 0800 06 04 0002
    020000000001 ac160065 020000000099 ac160009";
const ARP_PROBE: &str = "ffffffffffff 020000000099 0806 0001 0800 06 04 0001
    020000000099 00000000 000000000000 ac160065 00000000000000000000000000000000";
const ARP_PROBE_REPLY: &str = "020000000099 020000000001 0806 0001 0800 06 04 0002
    020000000001 ac160065 020000000099 00000000";
const SOLICITATION: &str = "3333ff000101 020000000099 86dd 60000000 0020 3a ff
    fd000022000000000000000000000009 ff0200000000000000000001ff000101
    8700 7ab5 00000000 fd000022000000000000000000000101 0101 020000000099";
const ADVERTISEMENT: &str = "020000000099 020000000001 86dd 60000000 0020 3a ff
    fd000022000000000000000000000101 fd000022000000000000000000000009
    8800 1a2f 60000000 fd000022000000000000000000000101 0201 020000000001";
/// Carries a Nonce option (RFC 7527) in place of a link-layer address.
const DUPLICATE_ADDRESS_DETECTION: &str = "3333ff000101 020000000099 86dd 60000000 0020 3a ff
    00000000000000000000000000000000 ff0200000000000000000001ff000101
    8700 2546 00000000 fd000022000000000000000000000101 0e01 4dea5992a0b7";
/// Answers a unicast question, without a link-layer address option.
const ADVERTISEMENT_WITHOUT_OPTION: &str = "020000000001 020000000099 86dd 60000000 0018 3a ff
    fd000022000000000000000000000009 fe80000000000000000000fffe000001
    8800 3fd3 40000000 fd000022000000000000000000000009";

#[test]
fn questions_are_decoded_and_answered_as_the_kernel_answers_them() {
    let none = Ipv4Addr::UNSPECIFIED;
    let request = Arp { sender_mac: ASKER, sender: V4_ASKER, target: V4 };
    assert_eq!(decode(LOCAL, &hex(ARP_REQUEST)), Ok(Frame::ArpRequest(request)));
    assert_eq!(arp_reply(LOCAL, V4, ASKER, V4_ASKER), hex(ARP_REPLY));

    let probe = Arp { sender: none, ..request };
    assert_eq!(decode(LOCAL, &hex(ARP_PROBE)), Ok(Frame::ArpRequest(probe)));
    assert_eq!(arp_reply(LOCAL, V4, ASKER, none), hex(ARP_PROBE_REPLY));

    let solicitation = Frame::NeighborSolicit {
        source_mac: ASKER,
        source_option: Some(ASKER),
        source: V6_ASKER,
        target: V6,
    };
    assert_eq!(decode(LOCAL, &hex(SOLICITATION)), Ok(solicitation));
    assert_eq!(neighbor_reply(LOCAL, V6, ASKER, V6_ASKER), hex(ADVERTISEMENT));
}

#[test]
fn our_questions_are_those_of_the_tools() {
    let unpadded = &hex(ARP_REQUEST)[..42];
    assert_eq!(arp_request(ASKER, V4_ASKER, V4), unpadded);
    assert_eq!(neighbor_solicit(ASKER, V6_ASKER, V6), hex(SOLICITATION));
}

#[test]
fn answers_of_others_are_claims() {
    let reply = Arp { sender_mac: LOCAL, sender: V4, target: V4_ASKER };
    assert_eq!(decode(ASKER, &hex(ARP_REPLY)), Ok(Frame::ArpReply(reply)));
    let advert = Frame::NeighborAdvert { mac: LOCAL, target: V6 };
    assert_eq!(decode(ASKER, &hex(ADVERTISEMENT)), Ok(advert));
    let without_option = Frame::NeighborAdvert { mac: ASKER, target: V6_ASKER };
    assert_eq!(decode(LOCAL, &hex(ADVERTISEMENT_WITHOUT_OPTION)), Ok(without_option));
}

#[test]
fn gratuitous_arp_is_a_request_and_a_reply_about_itself() {
    assert_eq!(
        unasked(LOCAL, V4.into()),
        vec![
            hex("ffffffffffff 020000000001 0806 0001 0800 06 04 0001
                 020000000001 ac160065 000000000000 ac160065"),
            hex("ffffffffffff 020000000001 0806 0001 0800 06 04 0002
                 020000000001 ac160065 ffffffffffff ac160065"),
        ]
    );
}

#[test]
fn unsolicited_advertisement_overrides_every_cache() {
    assert_eq!(
        unasked(LOCAL, V6.into()),
        vec![hex("333300000001 020000000001 86dd 60000000 0020 3a ff
                  fd000022000000000000000000000101 ff020000000000000000000000000001
                  8800 5857 20000000 fd000022000000000000000000000101 0201 020000000001")]
    );
}

#[test]
fn unicast_probe_without_source_option_is_answered_where_it_came_from() {
    // RFC 4861 §7.2.2 lets unicast probes leave the option out.
    let message = NdiscRepr::NeighborSolicit { target_addr: V6, lladdr: None };
    let probe = ndp(ASKER, LOCAL, V6_ASKER, V6, message);
    let want =
        Frame::NeighborSolicit { source_mac: ASKER, source_option: None, source: V6_ASKER, target: V6 };
    assert_eq!(decode(LOCAL, &probe), Ok(want));
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes_without_the_solicited_flag() {
    let none = Ipv6Addr::UNSPECIFIED;
    let want = Frame::NeighborSolicit { source_mac: ASKER, source_option: None, source: none, target: V6 };
    assert_eq!(decode(LOCAL, &hex(DUPLICATE_ADDRESS_DETECTION)), Ok(want));
    assert_eq!(vec![neighbor_reply(LOCAL, V6, ASKER, none)], unasked(LOCAL, V6.into()));
}

#[test]
fn groups_follow_the_low_24_bits() {
    let address: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
    let group = solicited_node_group(address);
    assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    assert_eq!(group_mac(group), MacAddress([0x33, 0x33, 0xff, 0x12, 0x34, 0x56]));
}

#[test]
fn bad_frames_are_rejected_for_the_right_reason() {
    let arp = hex(ARP_REQUEST);
    let nd = hex(SOLICITATION);
    let with = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut changed = frame.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let tagged = [&arp[..12], &[0x81, 0, 0, 10][..], &arp[12..]].concat();
    let service_tagged = [&nd[..12], &[0x88, 0xa8, 0, 10][..], &nd[12..]].concat();
    let cases: &[(&str, Vec<u8>, Rejected)] = &[
        ("empty", vec![], Rejected::Malformed),
        ("header only", arp[..14].to_vec(), Rejected::Malformed),
        ("truncated ARP", arp[..41].to_vec(), Rejected::Malformed),
        ("hardware length 8", with(&arp, 18, &[8]), Rejected::Malformed),
        ("protocol length 0", with(&arp, 19, &[0]), Rejected::Malformed),
        ("hardware type 802.3 (6)", with(&arp, 14, &[0, 6]), Rejected::Malformed),
        ("operation RARP request (3)", with(&arp, 20, &[0, 3]), Rejected::Malformed),
        ("from a group", with(&arp, 6, &[0x03, 0, 0, 0, 0, 1]), Rejected::Spoofed),
        ("from nobody", with(&arp, 6, &[0; 6]), Rejected::Spoofed),
        ("from ourselves", with(&arp, 6, LOCAL.as_bytes()), Rejected::Spoofed),
        ("sender address is a group", with(&arp, 22, &[0xff; 6]), Rejected::Spoofed),
        ("sender address is ours", with(&arp, 22, LOCAL.as_bytes()), Rejected::Spoofed),
        ("to another host", with(&arp, 0, &[2, 0, 0, 0, 0, 7]), Rejected::NotAddressed),
        ("802.1Q", tagged, Rejected::VlanTagged),
        ("802.1ad", service_tagged, Rejected::VlanTagged),
        ("IPv4", with(&arp, 12, &[8, 0]), Rejected::OtherProtocol),
        ("IPv6 version 4", with(&nd, 14, &[0x40]), Rejected::Malformed),
        ("TCP", with(&nd, 20, &[6]), Rejected::OtherProtocol),
        ("forwarded: hop limit 254", with(&nd, 21, &[254]), Rejected::Malformed),
        ("bad checksum", with(&nd, 56, &[0, 0]), Rejected::Malformed),
        ("payload longer than the frame", with(&nd, 18, &[0, 60]), Rejected::Malformed),
    ];
    for (name, frame, want) in cases {
        assert_eq!(decode(LOCAL, frame), Err(*want), "{name}");
    }
}

#[test]
fn neighbour_messages_that_the_rfc_forbids_are_malformed() {
    let solicit = |source, destination, target, lladdr: Option<MacAddress>| {
        let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: lladdr.map(Into::into) };
        ndp(ASKER, LOCAL, source, destination, message)
    };
    let advert = |destination, target, flags| {
        let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(ASKER.into()) };
        ndp(ASKER, LOCAL, V6_ASKER, destination, message)
    };
    let none = Ipv6Addr::UNSPECIFIED;
    let cases = [
        ("target is a group", solicit(V6_ASKER, V6, ALL_NODES, None), Rejected::Malformed),
        (
            "DAD with a source option",
            solicit(none, solicited_node_group(V6), V6, Some(ASKER)),
            Rejected::Malformed,
        ),
        ("DAD by unicast", solicit(none, V6, V6, None), Rejected::NotAddressed),
        ("to another address of ours", solicit(V6_ASKER, V6_ASKER, V6, None), Rejected::NotAddressed),
        (
            "source option is a group",
            solicit(V6_ASKER, V6, V6, Some(MacAddress::BROADCAST)),
            Rejected::Spoofed,
        ),
        ("source is a group", solicit(ALL_NODES, V6, V6, None), Rejected::Malformed),
        (
            "solicited advertisement to a group",
            advert(ALL_NODES, V6, NdiscNeighborFlags::SOLICITED),
            Rejected::Malformed,
        ),
        ("advertised group", advert(V6, ALL_NODES, NdiscNeighborFlags::empty()), Rejected::Malformed),
    ];
    for (name, frame, want) in cases {
        assert_eq!(decode(LOCAL, &frame), Err(want), "{name}");
    }
}

/// Every truncation and every change of one byte ends in a verdict, and none of a length field makes a frame longer
/// than it is.
#[test]
fn every_truncation_and_one_byte_change_returns() {
    let seeds = [
        hex(ARP_REQUEST),
        arp_reply(ASKER, V4, LOCAL, V4_ASKER),
        hex(SOLICITATION),
        unasked(ASKER, V6.into()).remove(0),
    ];
    for frame in seeds {
        let packet = if frame[13] == 0x06 { 42 } else { frame.len() };
        for length in 0..packet {
            let is_tagged = length == filter::TAGGED as usize;
            let reason = if is_tagged { Rejected::VlanTagged } else { Rejected::Malformed };
            assert_eq!(decode(LOCAL, &frame[..length]), Err(reason), "{length} of {frame:02x?}");
        }
        for at in 0..frame.len() {
            for value in 0..=255 {
                let mut changed = frame.clone();
                changed[at] = value;
                let verdict = decode(LOCAL, &changed);
                // Addresses, length and message of a neighbour packet are under its checksum; ARP has none.
                let covered = frame[12] == 0x86 && (at >= 22 || at == 18 || at == 19) && value != frame[at];
                assert!(!covered || verdict.is_err(), "byte {at} = {value}: {verdict:?}");
            }
        }
    }
}
