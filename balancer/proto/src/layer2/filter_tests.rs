use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::super::{MacAddress, frame};
use super::*;

const ASKER: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x99]);

/// The interface of the socket.
const OWN: u32 = 3;

/// What the kernel remembers of how a frame arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    Plain,
    Tag,
    OtherHost,
    /// For a VLAN interface on top of the one of the socket.
    Above,
}

fn arp(addresses: &BTreeSet<Ipv4Addr>, limit: usize) -> Vec<Instruction> {
    super::arp(OWN, addresses, limit)
}

fn ndp(addresses: &BTreeSet<Ipv6Addr>, limit: usize) -> Vec<Instruction> {
    super::ndp(OWN, addresses, limit)
}

fn udp(is_v4: bool, ports: &[u16]) -> Vec<Instruction> {
    super::udp(OWN, is_v4, ports)
}

/// Runs a program as the kernel does: how much of the frame passes. Any jump out of the program fails the test.
fn given(program: &[Instruction], frame: &[u8], trace: Trace) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    let number = |at: u32, length: usize| {
        frame
            .get(at as usize..at as usize + length)
            .map(|bytes| bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        at += 1;
        let mut branch = |holds| at += usize::from(if holds { jump_true } else { jump_false });
        match code {
            LOAD_WORD if operand == VLAN_TAG_PRESENT => accumulator = (trace == Trace::Tag).into(),
            LOAD_WORD if operand == INTERFACE => accumulator = OWN + u32::from(trace == Trace::Above),
            LOAD_LENGTH => accumulator = frame.len() as u32,
            LOAD_WORD if operand == PACKET_TYPE => {
                accumulator = if trace == Trace::OtherHost { 3 } else { 1 }
            }
            LOAD_WORD | LOAD_HALF | LOAD_BYTE => {
                let length = match code {
                    LOAD_WORD => 4,
                    LOAD_HALF => 2,
                    _ => 1,
                };
                match number(operand, length) {
                    Some(value) => accumulator = value,
                    None => return 0,
                }
            }
            JUMP => at += operand as usize,
            JUMP_EQUAL => branch(accumulator == operand),
            JUMP_SET => branch(accumulator & operand != 0),
            JUMP_GREATER => branch(accumulator > operand),
            JUMP_GREATER_EQUAL => branch(accumulator >= operand),
            RETURN => return operand,
            other => panic!("instruction {other:#x} is not part of any program here"),
        }
    }
}

/// Whether the frame passes whole.
fn passes(program: &[Instruction], frame: &[u8], trace: Trace) -> bool {
    given(program, frame, trace) == WHOLE_FRAME
}

fn request(target: Ipv4Addr) -> Vec<u8> {
    frame::arp_request(ASKER, Ipv4Addr::new(192, 0, 2, 9), target)
}

fn solicit(target: Ipv6Addr) -> Vec<u8> {
    frame::neighbor_solicit(ASKER, "fe80::9".parse().unwrap(), target)
}

#[test]
fn without_addresses_nothing_passes() {
    let target = Ipv4Addr::new(172, 22, 0, 101);
    let (arp, ndp) = (arp(&BTreeSet::new(), MAX_INSTRUCTIONS), ndp(&BTreeSet::new(), MAX_INSTRUCTIONS));
    for trace in [Trace::Plain, Trace::Tag, Trace::OtherHost] {
        assert_eq!(given(&arp, &request(target), trace), 0);
        assert_eq!(given(&ndp, &solicit(target.to_ipv6_mapped()), trace), 0);
    }
}

#[test]
fn only_our_arp_passes() {
    let ours: BTreeSet<Ipv4Addr> =
        ["172.22.0.101", "172.22.0.102", "172.22.0.200", "10.0.0.1"].map(|text| text.parse().unwrap()).into();
    let program = arp(&ours, MAX_INSTRUCTIONS);
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    let gratuitous = frame::unasked(ASKER, IpAddr::V4(address("172.22.0.200")));
    let reply = frame::arp_reply(ASKER, address("10.0.0.1"), MacAddress([2; 6]), address("10.0.0.7"));
    let mut to_another = request(address("10.0.0.1"));
    to_another[..6].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    let cases = [
        ("first of a range", request(address("172.22.0.101")), Trace::Plain, WHOLE_FRAME),
        ("last of a range", request(address("172.22.0.102")), Trace::Plain, WHOLE_FRAME),
        ("before a range", request(address("172.22.0.100")), Trace::Plain, 0),
        ("after a range", request(address("172.22.0.103")), Trace::Plain, 0),
        ("claim", gratuitous[0].clone(), Trace::Plain, WHOLE_FRAME),
        ("reply in our name", reply, Trace::Plain, WHOLE_FRAME),
        ("tagged", request(address("10.0.0.1")), Trace::Tag, TAGGED),
        ("tagged, about another's", request(address("10.0.0.2")), Trace::Tag, 0),
        ("on a VLAN without an interface", request(address("10.0.0.1")), Trace::OtherHost, TAGGED),
        ("on a VLAN with one", request(address("10.0.0.1")), Trace::Above, 0),
        ("to another host", to_another, Trace::OtherHost, 0),
        ("solicitation", solicit("fd00::1".parse().unwrap()), Trace::Plain, 0),
        ("truncated", request(address("10.0.0.2"))[..40].to_vec(), Trace::Plain, WHOLE_FRAME),
    ];
    for (name, frame, trace, want) in cases {
        assert_eq!(given(&program, &frame, trace), want, "{name}");
    }
}

#[test]
fn only_our_neighbour_messages_pass() {
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let ours = BTreeSet::from(["fd00:22::101", "fd00:22::102", "2001:db8::1"].map(address));
    let program = ndp(&ours, MAX_INSTRUCTIONS);
    let mut echo = solicit(address("fd00:22::101"));
    echo[54] = 128;
    let mut forwarded = solicit(address("fd00:22::101"));
    forwarded[21] = 64;
    let cases = [
        ("ours", solicit(address("fd00:22::102")), Trace::Plain, WHOLE_FRAME),
        ("ours in another prefix", solicit(address("2001:db8::1")), Trace::Plain, WHOLE_FRAME),
        ("same host part, another prefix", solicit(address("2001:db8::101")), Trace::Plain, 0),
        ("beside ours", solicit(address("fd00:22::103")), Trace::Plain, 0),
        ("claim", frame::unasked(ASKER, address("fd00:22::101").into()).remove(0), Trace::Plain, WHOLE_FRAME),
        ("echo request", echo, Trace::Plain, 0),
        ("hop limit 64", forwarded, Trace::Plain, 0),
        ("tagged", solicit(address("fd00:22::101")), Trace::Tag, TAGGED),
        ("on a VLAN without an interface", solicit(address("fd00:22::101")), Trace::OtherHost, TAGGED),
        ("on a VLAN with one", solicit(address("fd00:22::101")), Trace::Above, 0),
        ("truncated", solicit(address("fd00:22::103"))[..70].to_vec(), Trace::Plain, WHOLE_FRAME),
        ("ARP", request(Ipv4Addr::new(10, 0, 0, 1)), Trace::Plain, 0),
    ];
    for (name, frame, trace, want) in cases {
        assert_eq!(given(&program, &frame, trace), want, "{name}");
    }
}

#[test]
fn of_bfd_only_whole_packets_of_its_ports_pass() {
    use crate::bfd::echo::{Ends, encode};
    use crate::bfd::wire::ECHO_PORT;
    let ends = Ends { own: ASKER, router: MacAddress([2; 6]) };
    let (v4, v6) = (udp(true, &[3784, ECHO_PORT]), udp(false, &[3784, ECHO_PORT]));
    let echo = |own: &str| encode(ends, own.parse().unwrap(), &[0; 16]);
    let changed = |own: &str, at: usize, octet: u8| {
        let mut frame = echo(own);
        frame[at] = octet;
        frame
    };
    for (name, frame, trace, want) in [
        ("echo", echo("192.0.2.1"), Trace::Plain, [WHOLE_FRAME, 0]),
        ("echo", echo("2001:db8::1"), Trace::Plain, [0, WHOLE_FRAME]),
        ("control", changed("192.0.2.1", 37, 0xc8), Trace::Plain, [WHOLE_FRAME, 0]),
        ("control", changed("2001:db8::1", 57, 0xc8), Trace::Plain, [0, WHOLE_FRAME]),
        ("unfragmented", changed("192.0.2.1", 20, 0x40), Trace::Plain, [WHOLE_FRAME, 0]),
        ("tagged", echo("192.0.2.1"), Trace::Tag, [TAGGED, 0]),
        ("for another host", echo("192.0.2.1"), Trace::OtherHost, [0; 2]),
        ("on a VLAN with an interface", echo("192.0.2.1"), Trace::Above, [0; 2]),
        ("another port", changed("192.0.2.1", 37, 0), Trace::Plain, [0; 2]),
        ("another port", changed("2001:db8::1", 57, 0), Trace::Plain, [0; 2]),
        ("TCP", changed("192.0.2.1", 23, 6), Trace::Plain, [0; 2]),
        ("TCP", changed("2001:db8::1", 20, 6), Trace::Plain, [0; 2]),
        ("fragment", changed("192.0.2.1", 21, 1), Trace::Plain, [0; 2]),
        ("options", changed("192.0.2.1", 14, 0x46), Trace::Plain, [0; 2]),
        ("truncated", echo("192.0.2.1")[..30].to_vec(), Trace::Plain, [0; 2]),
    ] {
        assert_eq!([&v4, &v6].map(|program| given(program, &frame, trace)), want, "{name}");
    }
}

#[test]
fn a_thousand_scattered_addresses_fit_and_lose_nobody() {
    let ours4: BTreeSet<Ipv4Addr> = (0..1000_u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n * 7919)).collect();
    let ours6: BTreeSet<Ipv6Addr> = (0..1000_u128)
        .map(|n| Ipv6Addr::from((0xfd00_0022_u128 << 96) | ((n % 50) << 64) | (n * 7919)))
        .collect();
    for limit in [MAX_INSTRUCTIONS, 1000, 100] {
        let (four, six) = (arp(&ours4, limit), ndp(&ours6, limit));
        assert!(four.len() <= limit && six.len() <= limit, "{limit}: {} and {}", four.len(), six.len());
        assert!(ours4.iter().all(|address| passes(&four, &request(*address), Trace::Plain)));
        assert!(ours6.iter().all(|address| passes(&six, &solicit(*address), Trace::Plain)));
    }
}

#[test]
fn a_pool_of_five_thousand_neighbours_is_one_exact_range() {
    let ours: BTreeSet<Ipv4Addr> = (0..5000_u32).map(|n| Ipv4Addr::from(0x0a63_0000 + n)).collect();
    let program = arp(&ours, MAX_INSTRUCTIONS);
    assert!(program.len() < 30, "{} instructions", program.len());
    assert!(!passes(&program, &request(Ipv4Addr::from(0x0a63_0000 + 5000)), Trace::Plain));
}

proptest! {
    #[test]
    fn what_is_ours_passes_and_short_lists_are_exact(
        ours in prop::collection::btree_set(any::<u32>().prop_map(Ipv4Addr::from), 0..120),
        foreign in any::<u32>().prop_map(Ipv4Addr::from),
    ) {
        let program = arp(&ours, MAX_INSTRUCTIONS);
        for address in &ours {
            prop_assert!(passes(&program, &request(*address), Trace::Plain));
        }
        prop_assert_eq!(passes(&program, &request(foreign), Trace::Plain), ours.contains(&foreign));
    }

    #[test]
    fn what_is_ours_passes_in_ipv6_too(
        ours in prop::collection::btree_set((0..3_u128, any::<u32>()), 0..60),
        foreign in (0..3_u128, any::<u32>()),
    ) {
        let address = |(prefix, host): (u128, u32)| Ipv6Addr::from((0xfd_u128 << 120) | (prefix << 32) | u128::from(host));
        let set = ours.iter().copied().map(address).collect();
        let program = ndp(&set, MAX_INSTRUCTIONS);
        for address in &set {
            prop_assert!(passes(&program, &solicit(*address), Trace::Plain));
        }
        prop_assert_eq!(passes(&program, &solicit(address(foreign)), Trace::Plain), set.contains(&address(foreign)));
    }
}
