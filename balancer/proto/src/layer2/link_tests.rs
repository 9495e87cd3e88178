use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressHeader;
use netlink_packet_route::link::{InfoKind, LinkHeader, LinkInfo};

use super::*;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

fn flags(extra: LinkFlags) -> LinkFlags {
    LinkFlags::Broadcast | LinkFlags::Multicast | extra
}

fn up() -> LinkFlags {
    flags(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp)
}

fn link(index: u32, name: &str, flags: LinkFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header =
        LinkHeader { index, flags, link_layer_type: LinkLayerType::Ether, ..LinkHeader::default() };
    message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Address(MAC.into())];
    message
}

fn with(mut message: LinkMessage, attribute: LinkAttribute) -> RouteNetlinkMessage {
    message.attributes.push(attribute);
    RouteNetlinkMessage::NewLink(message)
}

fn with_kind(mut message: LinkMessage, kind: InfoKind) -> LinkMessage {
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
    message
}

fn new(message: LinkMessage) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewLink(message)
}

fn address(index: u32, text: &str) -> AddressMessage {
    let net: IpNet = text.parse().unwrap();
    let mut message = AddressMessage::default();
    message.header = AddressHeader { index, prefix_len: net.prefix_len(), ..AddressHeader::default() };
    message.attributes = vec![AddressAttribute::Address(net.addr())];
    message
}

fn exclude() -> Exclude {
    Exclude::new(["^docker.*", "^lo$", "flannel.*"]).unwrap()
}

#[test]
fn every_kind_of_link_gets_its_verdict() {
    let eth0 = Interface { index: 2, name: "eth0".into(), mac: MacAddress(MAC), carrier: true, ipv6: false };
    let loopback = {
        let mut message = link(2, "lo0", LinkFlags::Up | LinkFlags::Loopback | LinkFlags::LowerUp);
        message.header.link_layer_type = LinkLayerType::Loopback;
        message
    };
    let tunnel = {
        let mut message = link(2, "gre1", up());
        message.header.link_layer_type = LinkLayerType::Ipgre;
        message
    };
    let no_address = {
        let mut message = link(2, "eth0", up());
        message.attributes = vec![LinkAttribute::IfName("eth0".into()), LinkAttribute::Address(vec![0; 6])];
        message
    };
    let cases = [
        ("ordinary", new(link(2, "eth0", up())), Ok(eth0.clone())),
        (
            "no carrier: it may announce, and elections see that it cannot",
            new(link(2, "eth0", flags(LinkFlags::Up))),
            Ok(Interface { carrier: false, ..eth0.clone() }),
        ),
        (
            "VLAN on eth0",
            with(with_kind(link(2, "eth0.100", up()), InfoKind::Vlan), LinkAttribute::Link(3)),
            Ok(Interface { name: "eth0.100".into(), ..eth0.clone() }),
        ),
        (
            "bond",
            new(with_kind(link(2, "bond0", up() | LinkFlags::Controller), InfoKind::Bond)),
            Ok(Interface { name: "bond0".into(), ..eth0.clone() }),
        ),
        (
            "port of a bond",
            with(link(2, "eth1", up() | LinkFlags::Port), LinkAttribute::Controller(5)),
            Err(Ineligible::Port),
        ),
        ("administratively down", new(link(2, "eth0", flags(LinkFlags::empty()))), Err(Ineligible::Down)),
        (
            "bridge port or bond port",
            with(link(2, "eth0", up()), LinkAttribute::Controller(7)),
            Err(Ineligible::Port),
        ),
        ("no master", with(link(2, "eth0", up()), LinkAttribute::Controller(0)), Ok(eth0.clone())),
        ("macvlan without ARP", new(link(2, "mac0", up() | LinkFlags::Noarp)), Err(Ineligible::NoArp)),
        ("loopback", new(loopback), Err(Ineligible::NoBroadcast)),
        ("tunnel", new(tunnel), Err(Ineligible::NotEthernet)),
        ("no link-layer address", new(no_address), Err(Ineligible::NotEthernet)),
        ("excluded from the start of its name", new(link(2, "docker0", up())), Err(Ineligible::Excluded)),
        ("excluded in the midst of its name", new(link(2, "my-flannel.1", up())), Err(Ineligible::Excluded)),
        (
            "bridge, not excluded by kind",
            new(link(2, "br-lan", up())),
            Ok(Interface { name: "br-lan".into(), ..eth0 }),
        ),
    ];
    for (name, message, want) in cases {
        let mut links = Links::default();
        assert!(links.apply(&message), "{name}");
        let exclude = exclude();
        let verdicts: Vec<_> = links.verdicts(&exclude).map(|(_, _, verdict)| verdict).collect();
        assert_eq!(verdicts, vec![want], "{name}");
    }
}

/// The messages of a line of the recording, in hexadecimal.
fn recorded(line: &str) -> RouteNetlinkMessage {
    let byte = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect();
    match NetlinkMessage::deserialize(&bytes).unwrap().payload {
        NetlinkPayload::InnerMessage(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn vlans_and_bonds_are_read_from_what_a_kernel_said() {
    let (mut links, mut seen) = (Links::default(), Vec::new());
    let look = |links: &Links| -> String {
        let exclude = exclude();
        let words = links.verdicts(&exclude).map(|(_, name, verdict)| match verdict {
            Ok(interface) if interface.carrier => format!("{name} yes"),
            Ok(_) => format!("{name} without carrier"),
            Err(why) => format!("{name} {why}"),
        });
        words.collect::<Vec<_>>().join(", ")
    };
    for line in include_str!("recorded_links.txt").lines().filter(|line| !line.starts_with('#')) {
        match line.strip_prefix("step ") {
            Some(step) => seen.push((step, String::new())),
            None => {
                links.apply(&recorded(line));
                seen.last_mut().unwrap().1 = look(&links);
            }
        }
    }
    let seen: Vec<_> = seen.iter().map(|(step, links)| (*step, links.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("ip link set eth0 up", "eth0 yes"),
            ("ip link add link eth0 name eth0.100 type vlan id 100", "eth0 yes, eth0.100 down"),
            ("ip link set eth0.100 up", "eth0 yes, bond0 down, eth0.100 yes"),
            ("ip link set bond0 up", "eth0 yes, bond0 without carrier, eth0.100 yes"),
            (
                "eth1 becomes a port of bond0",
                "eth0 yes, eth1 port of another interface, bond0 yes, eth0.100 yes"
            ),
            ("ip link set eth1 down", "eth0 yes, eth1 down, bond0 without carrier, eth0.100 yes"),
            ("ip link set eth1 up", "eth0 yes, eth1 port of another interface, bond0 yes, eth0.100 yes"),
            ("ip link set eth0 down", "eth0 down, eth1 port of another interface, bond0 yes, eth0.100 down"),
            ("ip link del eth0.100", "eth0 down, eth1 port of another interface, bond0 yes"),
            ("eth1 leaves bond0", "eth0 down, eth1 down, bond0 without carrier"),
        ]
    );
}

#[test]
fn ipv6_needs_a_link_local_address() {
    let mut links = Links::default();
    links.apply(&new(link(2, "eth0", up())));
    let ipv6 = |links: &Links| links.eligible(&exclude())[&2].ipv6;
    assert!(links.apply(&RouteNetlinkMessage::NewAddress(address(2, "fd00:22::11/64"))));
    assert!(!ipv6(&links));
    assert!(links.apply(&RouteNetlinkMessage::NewAddress(address(2, "fe80::1/64"))));
    assert!(ipv6(&links));
    assert!(links.apply(&RouteNetlinkMessage::DelAddress(address(2, "fe80::1/64"))));
    assert!(!ipv6(&links));
}

#[test]
fn what_says_nothing_new_changes_nothing() {
    let mut links = Links::default();
    assert!(links.apply(&new(link(2, "eth0", up()))));
    assert!(!links.apply(&new(link(2, "eth0", up()))));
    assert!(links.apply(&RouteNetlinkMessage::NewAddress(address(2, "172.22.0.11/24"))));
    assert!(!links.apply(&RouteNetlinkMessage::NewAddress(address(2, "172.22.0.11/24"))));
    assert!(!links.apply(&RouteNetlinkMessage::DelAddress(address(2, "172.22.0.12/24"))));
}

#[test]
fn an_interface_is_found_by_its_address_and_tells_its_carrier() {
    let mut links = Links::default();
    let ours: IpAddr = "172.22.0.11".parse().unwrap();
    assert_eq!(links.interface_with(ours), None);
    links.apply(&RouteNetlinkMessage::NewAddress(address(2, "172.22.0.11/24")));
    assert_eq!((links.interface_with(ours), links.has_carrier(2)), (Some(2), false), "it is not there yet");
    for (flags, want) in [(up(), true), (flags(LinkFlags::Up), false), (flags(LinkFlags::LowerUp), false)] {
        links.apply(&new(link(2, "eth0", flags)));
        assert_eq!(links.has_carrier(2), want, "{flags:?}");
    }
    assert_eq!(links.interface_with("172.22.0.12".parse().unwrap()), None, "in the network, and not ours");
}

#[test]
fn leaving_a_bridge_is_no_end_of_the_link() {
    let mut links = Links::default();
    links.apply(&with(link(2, "eth0", up()), LinkAttribute::Controller(7)));
    let mut left = link(2, "eth0", up());
    left.header.interface_family = AddressFamily::Bridge;
    assert!(!links.apply(&RouteNetlinkMessage::DelLink(left)));
    assert!(links.apply(&new(link(2, "eth0", up()))));
    assert_eq!(links.eligible(&exclude()).len(), 1);
}

#[test]
fn a_removed_link_takes_its_addresses_along() {
    let mut links = Links::default();
    links.apply(&new(link(2, "eth0", up())));
    links.apply(&RouteNetlinkMessage::NewAddress(address(2, "fe80::1/64")));
    assert!(links.apply(&RouteNetlinkMessage::DelLink(link(2, "eth0", up()))));
    assert_eq!(links, Links::default());
}
