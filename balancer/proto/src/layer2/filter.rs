//! Classic BPF programs for the packet sockets: frames about other hosts' addresses do not wake the speaker, unless they are
//! too short to tell.
//!
//! A program looks an address up by binary search over ranges. It is exact while the ranges fit into the
//! instruction limit; else neighbouring ranges are joined across the smallest gaps, and the exact lookup of the
//! responder decides. Offsets are those of an Ethernet frame as a raw packet socket sees it; a VLAN tag has then
//! been taken off by the kernel, and traces of it are looked for in the ancillary area (`linux/filter.h`). Of a tagged
//! frame about an address no more is handed on than is needed to count it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest program that Linux takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction, with the layout of `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_LENGTH: u16 = 0x80;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: whom the kernel takes a frame to be for. The offset counts from minus 0x1000.
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// `PACKET_OTHERHOST`: for another host, or on a VLAN that this host has no interface for.
const OTHER_HOST: u32 = 3;
/// `SKF_AD_OFF + SKF_AD_IFINDEX`: the interface that a frame is for. A socket on an interface is given those of its VLAN
/// interfaces too, without their tags.
const INTERFACE: u32 = 0xffff_f000 + 8;
/// `SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT`: whether a tag was taken off that the kernel still remembers.
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
/// How much of an accepted frame is handed on: all of it.
const WHOLE_FRAME: u32 = 0x0004_0000;
/// How much of a tagged frame is handed on: less than any frame is long.
pub(super) const TAGGED: u32 = 12;

const ETHERTYPE_AT: u32 = 12;
const ETHERTYPE_ARP: u32 = 0x0806;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const ARP_LENGTH: u32 = 42;
const ARP_SENDER_AT: u32 = 28;
const ARP_TARGET_AT: u32 = 38;
const IPV6_NEXT_HEADER_AT: u32 = 20;
const IPV6_HOP_LIMIT_AT: u32 = 21;
const ICMPV6: u32 = 58;
const ICMPV6_TYPE_AT: u32 = 54;
const NEIGHBOR_SOLICIT: u32 = 135;
const NEIGHBOR_ADVERT: u32 = 136;
const NDP_TARGET_AT: u32 = 62;
/// Without options.
const NDP_LENGTH: u32 = 78;
const ETHERTYPE_IPV4: u32 = 0x0800;
const UDP: u32 = 17;
const IPV4_VERSION_AT: u32 = 14;
/// Version 4, and a header without options.
const IPV4_PLAIN: u32 = 0x45;
const IPV4_FRAGMENT_AT: u32 = 20;
const IPV4_DONT_FRAGMENT: u32 = 0x4000;
const IPV4_PROTOCOL_AT: u32 = 23;
const IPV4_UDP_PORT_AT: u32 = 36;
const IPV6_UDP_PORT_AT: u32 = 56;

/// Passes ARP packets to `interface` whose target or sender address is one of `addresses`, and those that end before these
/// fields do, in at most `limit` instructions.
///
/// With no address, nothing passes.
pub fn arp(interface: u32, addresses: &BTreeSet<Ipv4Addr>, limit: usize) -> Vec<Instruction> {
    if addresses.is_empty() {
        return vec![give(0)];
    }
    let exact = ranges(addresses.iter().map(|&address| u32::from(address)));
    let mut program = vec![];
    fit(exact, limit, |ranges| {
        program = begin(interface, ETHERTYPE_ARP);
        program.extend(too_short(ARP_LENGTH));
        for field in [ARP_TARGET_AT, ARP_SENDER_AT] {
            program.push(load(LOAD_WORD, field));
            program.extend(search(ranges));
        }
        end(&mut program);
        program.len()
    });
    program
}

/// Passes Neighbor Solicitations and Advertisements to `interface` whose target is one of `addresses`, and those that end
/// before this field does, in at most `limit` instructions.
///
/// With no address, nothing passes.
///
/// Joined ranges never span two /96 prefixes, unless there are more prefixes than fit: then every neighbour message
/// passes.
pub fn ndp(interface: u32, addresses: &BTreeSet<Ipv6Addr>, limit: usize) -> Vec<Instruction> {
    if addresses.is_empty() {
        return vec![give(0)];
    }
    let mut prefixes: BTreeMap<[u32; 3], Vec<u32>> = BTreeMap::new();
    for address in addresses {
        let (prefix, host) = words(*address);
        prefixes.entry(prefix).or_default().push(host);
    }
    let prefixes: Vec<_> = prefixes.into_iter().map(|(prefix, hosts)| (prefix, ranges(hosts))).collect();
    let begin = ndp_begin(interface);
    let mut budget = limit.saturating_sub(begin.len() + END);
    loop {
        let program = ndp_program(&begin, &prefixes, budget);
        if program.len() <= limit {
            return program;
        }
        if budget == 0 {
            let mut program = begin;
            program.push(give(WHOLE_FRAME));
            end(&mut program);
            return program;
        }
        budget /= 2;
    }
}

/// Passes UDP packets of a family to `interface` and `ports` that are no fragments and have no IP options.
pub fn udp(interface: u32, is_v4: bool, ports: &[u16]) -> Vec<Instruction> {
    let mut program = begin(interface, if is_v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 });
    if is_v4 {
        program.extend([
            load(LOAD_BYTE, IPV4_VERSION_AT),
            jump(JUMP_EQUAL, IPV4_PLAIN, 1, 0),
            give(0),
            load(LOAD_HALF, IPV4_FRAGMENT_AT),
            jump(JUMP_EQUAL, 0, 2, 0),
            jump(JUMP_EQUAL, IPV4_DONT_FRAGMENT, 1, 0),
            give(0),
            load(LOAD_BYTE, IPV4_PROTOCOL_AT),
            jump(JUMP_EQUAL, UDP, 1, 0),
            give(0),
            load(LOAD_HALF, IPV4_UDP_PORT_AT),
        ]);
    } else {
        program.extend([
            load(LOAD_BYTE, IPV6_NEXT_HEADER_AT),
            jump(JUMP_EQUAL, UDP, 1, 0),
            give(0),
            load(LOAD_HALF, IPV6_UDP_PORT_AT),
        ]);
    }
    for port in ports {
        program.extend([jump(JUMP_EQUAL, u32::from(*port), 0, 1), give(WHOLE_FRAME)]);
    }
    end(&mut program);
    program
}

/// Passes what is for the interface and belongs to the EtherType; the rest of a program follows.
fn begin(interface: u32, ethertype: u32) -> Vec<Instruction> {
    vec![
        load(LOAD_WORD, INTERFACE),
        jump(JUMP_EQUAL, interface, 1, 0),
        give(0),
        load(LOAD_HALF, ETHERTYPE_AT),
        jump(JUMP_EQUAL, ethertype, 1, 0),
        give(0),
    ]
}

fn ndp_begin(interface: u32) -> Vec<Instruction> {
    let mut program = begin(interface, ETHERTYPE_IPV6);
    program.extend([
        load(LOAD_BYTE, IPV6_NEXT_HEADER_AT),
        jump(JUMP_EQUAL, ICMPV6, 1, 0),
        give(0),
        load(LOAD_BYTE, IPV6_HOP_LIMIT_AT),
        jump(JUMP_EQUAL, 255, 1, 0),
        give(0),
        load(LOAD_BYTE, ICMPV6_TYPE_AT),
        jump(JUMP_EQUAL, NEIGHBOR_SOLICIT, 2, 0),
        jump(JUMP_EQUAL, NEIGHBOR_ADVERT, 1, 0),
        give(0),
    ]);
    program.extend(too_short(NDP_LENGTH));
    program
}

/// Hands on frames that are shorter than their fields need: they are counted.
fn too_short(length: u32) -> [Instruction; 3] {
    [load(LOAD_LENGTH, 0), jump(JUMP_GREATER_EQUAL, length, 1, 0), give(WHOLE_FRAME)]
}

/// Instructions that [`end`] adds.
const END: usize = 10;

/// Ends a program: nothing passes but what it gives, of tagged frames [`TAGGED`] bytes. On a VLAN without an interface the
/// kernel has forgotten the tag by the time the program runs, and left a frame for another host, which a group address
/// is not; of unicast ones it cannot be told whether they were tagged or seen in promiscuous mode, and they are dropped.
fn end(program: &mut Vec<Instruction>) {
    program.push(give(0));
    let length = program.len();
    for (at, instruction) in program.iter_mut().enumerate() {
        if *instruction == give(WHOLE_FRAME) {
            *instruction = skip(u32::try_from(length - at - 1).unwrap_or(u32::MAX));
        }
    }
    program.extend([
        load(LOAD_WORD, PACKET_TYPE),
        jump(JUMP_EQUAL, OTHER_HOST, 0, 3),
        load(LOAD_BYTE, 0),
        jump(JUMP_SET, 1, 3, 0),
        give(0),
        load(LOAD_WORD, VLAN_TAG_PRESENT),
        jump(JUMP_EQUAL, 0, 1, 0),
        give(TAGGED),
        give(WHOLE_FRAME),
    ]);
}

/// One search a prefix; `budget` bounds the instructions of all searches together.
fn ndp_program(
    begin: &[Instruction],
    prefixes: &[([u32; 3], Vec<Range>)],
    budget: usize,
) -> Vec<Instruction> {
    let mut program = begin.to_vec();
    let share = budget.checked_div(prefixes.len()).unwrap_or(0);
    for (prefix, exact) in prefixes {
        let mut tree = vec![];
        fit(exact.clone(), share, |ranges| {
            tree = search(ranges);
            tree.len() + 10
        });
        let miss = u32::try_from(tree.len()).unwrap_or(u32::MAX);
        // Each of the three words, when it differs, jumps past the search; the distance may exceed a byte.
        for (number, word) in (0u32..).zip(prefix) {
            let rest = 3 * (2 - number) + 1 + miss;
            program.push(load(LOAD_WORD, NDP_TARGET_AT + 4 * number));
            program.push(jump(JUMP_EQUAL, *word, 1, 0));
            program.push(skip(rest));
        }
        program.push(load(LOAD_WORD, NDP_TARGET_AT + 12));
        program.extend(tree);
    }
    end(&mut program);
    program
}

/// First and last of a run of addresses, as numbers.
type Range = (u32, u32);

/// The shortest list of ranges that holds exactly `sorted`, which ascends.
fn ranges(sorted: impl IntoIterator<Item = u32>) -> Vec<Range> {
    let mut ranges: Vec<Range> = vec![];
    for value in sorted {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(value) => *last = value,
            _ => ranges.push((value, value)),
        }
    }
    ranges
}

/// Calls `measure` with fewer and fewer ranges until the length that it returns is within `limit`.
fn fit(mut ranges: Vec<Range>, limit: usize, mut measure: impl FnMut(&[Range]) -> usize) {
    while measure(&ranges) > limit && ranges.len() > 1 {
        ranges = join_closest(&ranges, ranges.len() / 2);
    }
}

/// Joins neighbours across the smallest gaps until `count` ranges are left.
fn join_closest(ranges: &[Range], count: usize) -> Vec<Range> {
    let mut gaps: Vec<(u32, usize)> = ranges
        .windows(2)
        .enumerate()
        .filter_map(|(index, pair)| match pair {
            [(_, end), (start, _)] => Some((start - end, index + 1)),
            _ => None,
        })
        .collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    let kept: BTreeSet<usize> =
        gaps.into_iter().take(count.saturating_sub(1)).map(|(_, index)| index).collect();
    let mut joined: Vec<Range> = vec![];
    for (index, &(first, last)) in ranges.iter().enumerate() {
        match joined.last_mut() {
            Some((_, end)) if !kept.contains(&index) => *end = last,
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// A binary search for the accumulator: a hit returns the frame, a miss goes on behind the code.
fn search(ranges: &[Range]) -> Vec<Instruction> {
    let mut code = tree(ranges);
    let length = code.len();
    for (at, instruction) in code.iter_mut().enumerate() {
        if *instruction == MISS {
            *instruction = skip(u32::try_from(length - at - 1).unwrap_or(u32::MAX));
        }
    }
    code
}

/// Stands for a jump behind the search until its length is known: no search skips this many instructions.
const MISS: Instruction = Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: u32::MAX };

fn tree(ranges: &[Range]) -> Vec<Instruction> {
    match ranges {
        [] => vec![MISS],
        [(only, last)] if only == last => {
            vec![jump(JUMP_EQUAL, *only, 0, 1), give(WHOLE_FRAME), MISS]
        }
        [(first, last)] => vec![
            jump(JUMP_GREATER_EQUAL, *first, 0, 2),
            jump(JUMP_GREATER, *last, 1, 0),
            give(WHOLE_FRAME),
            MISS,
        ],
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let pivot = upper.first().map_or(0, |(first, _)| *first);
            let (lower, upper) = (tree(lower), tree(upper));
            let mut code = match u8::try_from(lower.len()) {
                Ok(distance) => vec![jump(JUMP_GREATER_EQUAL, pivot, distance, 0)],
                Err(_) => vec![
                    jump(JUMP_GREATER_EQUAL, pivot, 0, 1),
                    skip(u32::try_from(lower.len()).unwrap_or(u32::MAX)),
                ],
            };
            code.extend(lower);
            code.extend(upper);
            code
        }
    }
}

fn words(address: Ipv6Addr) -> ([u32; 3], u32) {
    let [a, b, c, d, e, f, g, h] = address.segments().map(u32::from);
    ([a << 16 | b, c << 16 | d, e << 16 | f], g << 16 | h)
}

const fn load(code: u16, at: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand: at }
}

const fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

const fn skip(distance: u32) -> Instruction {
    Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: distance }
}

const fn give(length: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: length }
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
