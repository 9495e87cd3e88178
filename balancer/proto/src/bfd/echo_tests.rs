use super::*;

const KEY: u64 = 0x0123_4567_89ab_cdef;
const ENDS: Ends =
    Ends { own: MacAddress([0x02, 0, 0, 0, 0, 0x11]), router: MacAddress([0x02, 0, 0, 0, 0, 0x01]) };

#[allow(clippy::disallowed_methods, reason = "the origin of a virtual clock: only differences count")]
fn origin() -> Instant {
    Instant::now()
}

#[test]
fn only_what_this_session_sent_of_late_counts() {
    let now = origin();
    let interval = Duration::from_millis(50);
    let mut echo = Echo::new(7, KEY);
    let packets: Vec<_> = (0..300).map(|_| echo.next(now, interval, 1.0, 3)).collect();
    for (bytes, counts) in [
        (payload(8, 300, KEY), false),
        (payload(7, 300, KEY + 1), false),
        (packets[299][..15].to_vec(), false),
        ([&packets[299][..], &[0]].concat(), false),
        (packets[296].clone(), false),
        (payload(7, 301, KEY), false),
        (packets[297].clone(), true),
    ] {
        echo.stop();
        echo.returned(now, &bytes, 3);
        assert_eq!(echo.is_active(), counts, "{bytes:02x?}");
    }
}

#[test]
fn only_packets_that_were_sent_and_had_their_time_tell_of_a_broken_path() {
    let (origin, interval) = (origin(), Duration::from_millis(50));
    let at = |milliseconds| origin + Duration::from_millis(milliseconds);
    let mut echo = Echo::new(7, KEY);
    let first = echo.next(at(0), interval, 1.0, 3);
    echo.returned(at(1), &first, 3);
    // The program stands still: nothing is sent, and nothing is said of the path.
    assert!(!echo.has_failed(at(5000)));
    let sent: Vec<_> = [5000, 5050, 5100].map(|time| echo.next(at(time), interval, 1.0, 3)).into();
    assert_eq!((echo.has_failed(at(5149)), echo.has_failed(at(5150))), (false, true));
    echo.returned(at(5149), &sent[0], 3);
    assert!(!echo.has_failed(at(5150)), "one of the three came back");
}

/// As `tcpdump` of the other end reads it, with its checksums.
#[test]
fn an_echo_packet_is_addressed_to_its_sender_by_way_of_the_router() {
    #[rustfmt::skip]
    let v4 = [
        0x02, 0, 0, 0, 0, 0x01, 0x02, 0, 0, 0, 0, 0x11, 0x08, 0x00,
        0x45, 0xc0, 0, 44, 0, 0, 0, 0, 255, 17, 0x62, 0xbe, 172, 22, 0, 11, 172, 22, 0, 11,
        0x0e, 0xc9, 0x0e, 0xc9, 0, 24, 0xeb, 0xbb,
        0, 0, 0, 7, 0, 0, 0, 1, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
    ];
    let payload = Echo::new(7, KEY).next(origin(), Duration::ZERO, 1.0, 3);
    assert_eq!(encode(ENDS, "172.22.0.11".parse().unwrap(), &payload), v4);
    for own in ["172.22.0.11", "fd00:22::11"] {
        let own: IpAddr = own.parse().unwrap();
        let frame = encode(ENDS, own, &payload);
        assert_eq!(decode(&frame), Some(Frame::Echo { own, payload: payload.clone() }));
    }
    assert_eq!(discriminator(&payload), Some(7));
}

#[test]
fn a_router_is_asked_for_and_its_word_is_heard_in_both_families() {
    for (own, router) in [("172.22.0.11", "172.22.0.1"), ("fd00:22::11", "fd00:22::1")] {
        let (own, address): (IpAddr, IpAddr) = (own.parse().unwrap(), router.parse().unwrap());
        let asked = question(ENDS, own, address).unwrap();
        let answer = match (frame::decode(ENDS.router, &asked).unwrap(), address) {
            (frame::Frame::ArpRequest(arp), IpAddr::V4(router)) if arp.target == router => {
                frame::arp_reply(ENDS.router, router, arp.sender_mac, arp.sender)
            }
            (frame::Frame::NeighborSolicit { source, target, source_mac, .. }, IpAddr::V6(router))
                if target == router =>
            {
                frame::neighbor_reply(ENDS.router, router, source_mac, source)
            }
            (other, _) => panic!("{other:?}"),
        };
        let heard = Frame::Neighbor { address, mac: ENDS.router };
        assert_eq!(decode_neighbor(ENDS.own, &answer), Some(heard));
        assert_eq!(decode_neighbor(ENDS.own, &answer[..20]), None);
    }
    // A router that asks where this node is says where it is itself.
    let asks = frame::arp_request(ENDS.router, [172, 22, 0, 1].into(), [172, 22, 0, 11].into());
    let heard = Frame::Neighbor { address: [172, 22, 0, 1].into(), mac: ENDS.router };
    assert_eq!(decode_neighbor(ENDS.own, &asks), Some(heard));
    assert_eq!(question(ENDS, [172, 22, 0, 11].into(), "fd00:22::1".parse().unwrap()), None);
}

#[test]
fn a_control_packet_shows_where_the_router_is_and_anything_else_shows_nothing() {
    let own: IpAddr = "172.22.0.11".parse().unwrap();
    let router: IpAddr = "172.22.0.1".parse().unwrap();
    // An echo packet made into a control packet of the router: its checksum is of no matter.
    let packet = Packet {
        diagnostic: crate::bfd::Diagnostic::NONE,
        state: crate::bfd::State::Up,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 7,
        desired_min_tx: Duration::from_secs(1),
        required_min_rx: Duration::from_secs(1),
        required_min_echo_rx: Duration::ZERO,
    };
    let mut control = encode(Ends { own: ENDS.router, router: ENDS.own }, own, &packet.encode());
    let (mut packet_bytes, head) = (control.split_off(ETHERNET), control);
    let frame = |packet: &[u8]| [&head[..], packet].concat();
    {
        let mut packet = Ipv4Packet::new_unchecked(&mut packet_bytes[..]);
        packet.set_src_addr("172.22.0.1".parse().unwrap());
        packet.fill_checksum();
        UdpPacket::new_unchecked(packet.payload_mut()).set_dst_port(SINGLE_HOP_PORT);
    }
    let shown = Frame::Control { router, own, discriminator: 7, ends: ENDS };
    assert_eq!(decode(&frame(&packet_bytes)), Some(shown));
    let mut to_all = frame(&packet_bytes);
    to_all[..6].fill(0xff);
    assert_eq!(decode(&to_all), None);
    let changed = |change: &dyn Fn(&mut Ipv4Packet<&mut [u8]>)| {
        let mut bytes = packet_bytes.clone();
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        change(&mut packet);
        packet.fill_checksum();
        frame(&bytes)
    };
    for bytes in [
        changed(&|packet| packet.set_hop_limit(254)),
        changed(&|packet| packet.set_next_header(IpProtocol::Tcp)),
        changed(&|packet| packet.set_frag_offset(8)),
        changed(&|packet| packet.set_more_frags(true)),
        changed(&|packet| UdpPacket::new_unchecked(packet.payload_mut()).set_dst_port(ECHO_PORT)),
        changed(&|packet| packet.set_src_addr("172.22.0.11".parse().unwrap())),
        frame(&packet_bytes[..30]),
        vec![],
    ] {
        assert_eq!(decode(&bytes), None, "{bytes:02x?}");
    }
}
