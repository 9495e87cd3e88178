//! The neighbors in the language of a router. Each takes the nodes' routes and tells them none.

use std::fmt::Write;

use super::{Dialect, Neighbors};
use crate::config::{Distance, Endpoint};
use crate::range::Family;

/// Port on which routers listen unless told otherwise (RFC 4271 §8.2.1).
const BGP: u16 = 179;
/// Neighbors of listen ranges that FRR takes unless told otherwise.
const LISTEN_LIMIT: usize = 100;
/// The most next hops of one route that FRR can be told of.
const MOST_PATHS: usize = 256;
/// TTL of BFD packets that BIRD sends across routers: the kernel's.
const BIRD_TTL: u8 = 64;
/// Stands for what only the router's administrator knows.
const ASN: &str = "ASN-OF-THE-ROUTER";
/// The same for the interface of the router that leads to the nodes.
const INTERFACE: &str = "INTERFACE-TO-THE-NODE";

/// The configuration of the routers, one paragraph for each BGPPeer.
#[must_use]
pub fn render(dialect: Dialect, neighbors: &[Neighbors]) -> String {
    let (mark, lines): (&str, fn(&Neighbors, &mut Lines)) = match dialect {
        Dialect::Frr => ("!", frr),
        Dialect::Bird => ("#", bird),
        Dialect::Junos => ("#", junos),
        Dialect::Eos => ("!", eos),
        Dialect::RouterOs => ("#", routeros),
    };
    let sessions = neighbors.iter().map(|neighbors| neighbors.nodes.len()).sum();
    let paragraphs = neighbors.iter().map(|neighbors| {
        let mut paragraph = Lines { mark, text: String::new(), sessions };
        paragraph.head(neighbors);
        lines(neighbors, &mut paragraph);
        paragraph.text
    });
    paragraphs.collect::<Vec<_>>().join("\n")
}

/// Lines of one paragraph.
struct Lines {
    /// What a comment begins with.
    mark: &'static str,
    text: String,
    /// Sessions of all neighbors together, which may be with one router.
    sessions: usize,
}

impl Lines {
    fn add(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn note(&mut self, note: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{} {}", self.mark, note.as_ref());
    }

    fn head(&mut self, of: &Neighbors) {
        let router = match &of.router {
            Endpoint::Address(address) => format!("the router at {address}"),
            Endpoint::Interface(name) => format!("the router at the nodes' interface {name}"),
        };
        self.note(format!("BGPPeer {}: {router}", of.name));
        for (node, address) in &of.nodes {
            let address =
                address.map_or_else(|| "no address is known".to_owned(), |address| address.to_string());
            self.note(format!("  {node}: {address}"));
        }
        if of.port != BGP {
            self.note(format!("The router must listen on port {}.", of.port));
        }
        if of.router_asn.is_none() {
            self.note(format!("Any AS number but {} will do for the router.", of.node_asn));
        }
    }
}

fn asn(of: &Neighbors) -> String {
    of.router_asn.map_or_else(|| ASN.to_owned(), |asn| asn.to_string())
}

/// What a filter does where the router has no setting for GTSM of its own (RFC 5082 §3).
fn least_ttl(hops: u8) -> String {
    format!("A filter should drop BGP packets with a TTL of less than {}.", u8::MAX - hops + 1)
}

/// Says of a router without the echo function what its neighbors make of that.
fn without_echo(why: &str, of: &Neighbors, lines: &mut Lines) {
    if of.echo().is_some() {
        lines.note(format!("{why}: control packets watch the path."));
    }
}

/// The AFI names of a dialect.
fn afis<'a>(of: &Neighbors, four: &'a str, six: &'a str) -> Vec<&'a str> {
    of.families.iter().map(|family| if *family == Family::V4 { four } else { six }).collect()
}

fn frr(of: &Neighbors, lines: &mut Lines) {
    let name = &of.name;
    lines.add(format!("route-map {name}-in permit 10\nroute-map {name}-out deny 10"));
    if let (Some(bfd), Some(echo)) = (&of.bfd, of.echo()) {
        let (receive, transmit) = (bfd.receive_interval.as_millis(), bfd.transmit_interval.as_millis());
        let echo = echo.as_millis();
        lines.add(format!("bfd\n profile {name}\n  detect-multiplier {}", bfd.detect_multiplier));
        lines.add(format!("  receive-interval {transmit}\n  transmit-interval {receive}"));
        lines.add(format!(
            "  echo receive-interval {echo}\n  echo transmit-interval {echo}\n  echo-mode\n exit\nexit"
        ));
    }
    lines.add(format!("router bgp {}", asn(of)));
    if of.graceful_restart {
        lines.add(" bgp graceful-restart");
    }
    lines.add(format!(" neighbor {name} peer-group\n neighbor {name} remote-as {}", of.node_asn));
    if let Some(password) = &of.password {
        lines.note(format!("{password}:\n!neighbor {name} password "));
    }
    match (of.ttl_security_hops, of.distance) {
        (Some(hops), _) => lines.add(format!(" neighbor {name} ttl-security hops {hops}")),
        (None, Distance::ManyHops) => lines.add(format!(" neighbor {name} ebgp-multihop 255")),
        (None, Distance::OneHop | Distance::AsFound) => {}
    }
    if let Some(bfd) = &of.bfd {
        let (receive, transmit) = (bfd.receive_interval.as_millis(), bfd.transmit_interval.as_millis());
        lines.add(format!(" neighbor {name} bfd"));
        if of.echo().is_some() {
            lines.add(format!(" neighbor {name} bfd profile {name}"));
        } else {
            // What one end sends at is what the other receives at.
            lines.add(format!(" neighbor {name} bfd {} {transmit} {receive}", bfd.detect_multiplier));
        }
        if of.graceful_restart {
            lines.add(format!(" neighbor {name} bfd check-control-plane-failure"));
        }
    }
    match &of.router {
        Endpoint::Interface(_) => {
            lines.add(format!(" neighbor {INTERFACE} interface v6only peer-group {name}"));
        }
        Endpoint::Address(_) if of.router_connects => {
            for address in of.addresses() {
                lines.add(format!(" neighbor {address} peer-group {name}"));
            }
        }
        Endpoint::Address(_) => {
            if let Some(range) = of.range() {
                if lines.sessions > LISTEN_LIMIT {
                    lines.add(format!(" bgp listen limit {}", lines.sessions.next_power_of_two()));
                }
                lines.add(format!(" bgp listen range {range} peer-group {name}"));
            }
        }
    }
    let paths = if of.is_internal() { "maximum-paths ibgp" } else { "maximum-paths" };
    for family in afis(of, "ipv4", "ipv6") {
        lines.add(format!(" address-family {family} unicast"));
        lines.add(format!("  neighbor {name} activate"));
        lines.add(format!(
            "  neighbor {name} route-map {name}-in in\n  neighbor {name} route-map {name}-out out"
        ));
        let ways = of.nodes.len().min(MOST_PATHS);
        lines.add(format!("  {paths} {ways}\n exit-address-family"));
    }
}

fn bird(of: &Neighbors, lines: &mut Lines) {
    lines.note("To use all nodes at once, protocol kernel needs \"merge paths on\".");
    let session = |protocol: &str, neighbor: &str, lines: &mut Lines| {
        lines.add(format!("protocol bgp '{protocol}' {{"));
        match &of.router {
            Endpoint::Address(address) => {
                lines.add(format!("  local {address} port {} as {};", of.port, asn(of)));
            }
            Endpoint::Interface(_) => {
                lines.add(format!("  local as {};\n  interface \"{INTERFACE}\";", asn(of)));
            }
        }
        lines.add(format!("  neighbor {neighbor} as {};", of.node_asn));
        if let Some(password) = &of.password {
            lines.note(format!("{password}:\n# password \"\";"));
        }
        match (of.ttl_security_hops, of.distance) {
            (Some(1), _) => lines.add("  ttl security on;"),
            (Some(hops), _) => lines.add(format!("  multihop {hops};\n  ttl security on;")),
            (None, Distance::ManyHops) => lines.add("  multihop;"),
            // BIRD takes any distance within an AS for multihop, and BFD with it.
            (None, Distance::AsFound) if of.bfd.is_some() && !of.is_unnumbered() => {
                lines.note("\"direct\" is for nodes on a link of the router; for others it is \"multihop\".");
                lines.add("  direct;");
            }
            (None, Distance::OneHop | Distance::AsFound) => {}
        }
        if let Some(bfd) = &of.bfd {
            let (receive, transmit) = (bfd.receive_interval.as_millis(), bfd.transmit_interval.as_millis());
            let timers = format!(
                "min rx interval {transmit} ms; min tx interval {receive} ms; multiplier {};",
                bfd.detect_multiplier
            );
            without_echo("BIRD has no BFD echo packets", of, lines);
            let takes_fewer = bfd.minimum_ttl.is_some_and(|ttl| ttl < BIRD_TTL);
            if of.distance != Distance::OneHop && !of.is_unnumbered() && !takes_fewer {
                lines.note(format!(
                    "Across other routers BIRD sends BFD packets with a TTL of {BIRD_TTL}: the BFDProfile needs a \
                     minimumTtl of {BIRD_TTL} less the hops."
                ));
            }
            if of.graceful_restart {
                lines.note(format!("protocol bfd must be there, with: interface \"*\" {{ {timers} }};"));
                lines.add("  bfd graceful;");
            } else {
                lines.note("protocol bfd must be there.");
                lines.add(format!("  bfd {{ {timers} }};"));
            }
        }
        if of.graceful_restart {
            lines.add("  graceful restart on;");
        }
        for family in afis(of, "ipv4", "ipv6") {
            let more = if of.is_unnumbered() && family == "ipv4" { " extended next hop on;" } else { "" };
            lines.add(format!("  {family} {{ import all; export none;{more} }};"));
        }
        lines.add("}");
    };
    if of.router_connects {
        for (node, address) in &of.nodes {
            if let Some(address) = address {
                session(&format!("{}-{node}", of.name), &address.to_string(), lines);
            }
        }
        return;
    }
    let range = match of.router {
        Endpoint::Interface(_) => Some("fe80::/10".to_owned()),
        Endpoint::Address(_) => of.range().map(|range| range.to_string()),
    };
    if let Some(range) = range {
        session(&of.name, &format!("range {range}"), lines);
    }
}

fn junos(of: &Neighbors, lines: &mut Lines) {
    let group = format!("set protocols bgp group {}", of.name);
    if of.graceful_restart {
        lines.add("set routing-options graceful-restart");
    }
    lines.add(format!("{group} type {}", if of.is_internal() { "internal" } else { "external" }));
    lines.add(format!("{group} local-as {}", asn(of)));
    match (of.is_unnumbered(), of.is_internal()) {
        (true, true) => lines.note("Junos finds neighbors of another AS only."),
        (true, false) => {
            let list = format!("{}-nodes", of.name);
            lines.add(format!("set policy-options as-list {list} members {}", of.node_asn));
            lines.add(format!("{group} peer-as-list {list}"));
        }
        (false, true) => {}
        (false, false) => lines.add(format!("{group} peer-as {}", of.node_asn)),
    }
    lines.add(format!("{group} multipath"));
    for family in afis(of, "inet", "inet6") {
        let more = if of.is_unnumbered() && family == "inet" { " extended-nexthop" } else { "" };
        lines.add(format!("{group} family {family} unicast{more}"));
    }
    if let Some(password) = &of.password {
        lines.note(format!("{password}:\n# {group} authentication-key "));
    }
    match (of.ttl_security_hops, of.distance) {
        (Some(hops), _) => {
            lines.add(format!("{group} ttl 255"));
            lines.note(least_ttl(hops));
        }
        (None, Distance::ManyHops) => lines.add(format!("{group} multihop ttl 255")),
        (None, Distance::OneHop | Distance::AsFound) => {}
    }
    if let Some(bfd) = &of.bfd {
        // BFD across routers needs to know where packets are sent from.
        if let (Endpoint::Address(address), true) = (&of.router, of.distance != Distance::OneHop) {
            lines.add(format!("{group} local-address {address}"));
        }
        let bfd_group = format!("{group} bfd-liveness-detection");
        lines.add(format!("{bfd_group} minimum-receive-interval {}", bfd.transmit_interval.as_millis()));
        lines.add(format!(
            "{bfd_group} transmit-interval minimum-interval {}",
            bfd.receive_interval.as_millis()
        ));
        lines.add(format!("{bfd_group} multiplier {}", bfd.detect_multiplier));
        without_echo("No setting for BFD echo packets of BGP neighbors is known of Junos", of, lines);
    }
    lines.add(format!(
        "set policy-options policy-statement {}-none then reject\n{group} export {}-none",
        of.name, of.name
    ));
    match &of.router {
        Endpoint::Interface(_) => {
            lines.add(format!("set protocols router-advertisement interface {INTERFACE}"));
            lines.note(format!("{INTERFACE} needs \"family inet\" and \"family inet6\"."));
            let found = format!("{group} dynamic-neighbor {} peer-auto-discovery", of.name);
            lines.add(format!("{found} family inet6 ipv6-nd\n{found} interface {INTERFACE}"));
        }
        Endpoint::Address(_) if of.router_connects => {
            for address in of.addresses() {
                lines.add(format!("{group} neighbor {address}"));
            }
        }
        Endpoint::Address(_) => {
            if let Some(range) = of.range() {
                lines.add(format!("{group} allow {range}"));
            }
        }
    }
}

fn eos(of: &Neighbors, lines: &mut Lines) {
    let name = &of.name;
    if of.is_unnumbered() {
        lines.add(format!(
            "ip routing ipv6 interfaces\nipv6 unicast-routing\ninterface {INTERFACE}\n   ipv6 enable\n!"
        ));
    }
    lines.add(format!("route-map {name}-out deny 10\n!\nrouter bgp {}", asn(of)));
    if of.graceful_restart {
        lines.add("   graceful-restart-helper");
    }
    lines.add(format!("   maximum-paths {}", of.nodes.len()));
    lines.add(format!("   neighbor {name} peer group\n   neighbor {name} remote-as {}", of.node_asn));
    lines.add(format!("   neighbor {name} route-map {name}-out out"));
    if let Some(password) = &of.password {
        lines.note(format!("{password}:\n!  neighbor {name} password "));
    }
    match (of.ttl_security_hops, of.distance) {
        (Some(hops), _) => lines.add(format!("   neighbor {name} ttl maximum-hops {hops}")),
        (None, Distance::ManyHops) => lines.add(format!("   neighbor {name} ebgp-multihop 255")),
        (None, Distance::OneHop | Distance::AsFound) => {}
    }
    if let Some(bfd) = &of.bfd {
        let (receive, transmit) = (bfd.receive_interval.as_millis(), bfd.transmit_interval.as_millis());
        lines.add(format!("   neighbor {name} bfd"));
        lines.add(format!(
            "   neighbor {name} bfd interval {receive} min-rx {transmit} multiplier {}",
            bfd.detect_multiplier
        ));
        if of.echo().is_some() {
            lines.note("BFD echo packets are a setting of the interface that leads to the nodes: bfd echo");
        }
    }
    match &of.router {
        Endpoint::Interface(_) => {
            lines.add(format!(
                "   neighbor interface {INTERFACE} peer-group {name} remote-as {}",
                of.node_asn
            ));
        }
        Endpoint::Address(_) if of.router_connects => {
            for address in of.addresses() {
                lines.add(format!("   neighbor {address} peer group {name}"));
            }
        }
        Endpoint::Address(_) => {
            if let Some(range) = of.range() {
                lines.add(format!("   bgp listen range {range} peer-group {name} remote-as {}", of.node_asn));
            }
        }
    }
    for family in afis(of, "ipv4", "ipv6") {
        lines.add(format!("   address-family {family}\n      neighbor {name} activate"));
        if of.is_unnumbered() && family == "ipv4" {
            lines.add(format!("      neighbor {name} next-hop address-family ipv6 originate"));
        }
    }
}

fn routeros(of: &Neighbors, lines: &mut Lines) {
    lines.add(format!("/routing/filter/rule/add chain={}-out rule=\"reject\"", of.name));
    if let Some(password) = &of.password {
        lines.note(format!("tcp-md5-key: {password}"));
    }
    let connection = |name: &str, remote: &str, lines: &mut Lines| {
        let role = if of.is_internal() { "ibgp" } else { "ebgp" };
        let mut command = format!(
            "/routing/bgp/connection/add name={name} as={} remote.address={remote} remote.as={} local.role={role} \
             afi={} output.filter-chain={}-out",
            asn(of),
            of.node_asn,
            afis(of, "ip", "ipv6").join(","),
            of.name,
        );
        // Connections are opened by one end.
        let (connects, listens) = if of.router_connects { ("yes", "no") } else { ("no", "yes") };
        let _ = write!(command, " connect={connects} listen={listens}");
        if of.port != BGP {
            let _ = write!(command, " local.port={}", of.port);
        }
        if of.password.is_some() {
            command.push_str(" tcp-md5-key=\"\"");
        }
        match (of.ttl_security_hops, of.distance) {
            (Some(hops), _) => {
                command.push_str(" local.ttl=255");
                lines.note(least_ttl(hops));
            }
            (None, Distance::ManyHops) => command.push_str(" multihop=yes"),
            (None, Distance::OneHop | Distance::AsFound) => {}
        }
        if of.bfd.is_some() {
            command.push_str(" use-bfd=yes");
        }
        lines.add(command);
    };
    if let Some(bfd) = &of.bfd {
        lines.add(format!(
            "/routing/bfd/configuration/add interfaces=all min-rx={}ms min-tx={}ms multiplier={}",
            bfd.transmit_interval.as_millis(),
            bfd.receive_interval.as_millis(),
            bfd.detect_multiplier
        ));
        without_echo("RouterOS has no BFD echo packets", of, lines);
    }
    if of.router_connects {
        for (node, address) in &of.nodes {
            if let Some(address) = address {
                connection(&format!("{}-{node}", of.name), &address.to_string(), lines);
            }
        }
        return;
    }
    match &of.router {
        Endpoint::Interface(_) => {
            lines.note(
                "Put the node's link-local address and this router's interface in the place of fe80::.",
            );
            lines.note("Whether RouterOS takes IPv4 routes with IPv6 next hops (RFC 8950) is not known.");
            connection(&of.name, &format!("fe80::%{INTERFACE}"), lines);
        }
        Endpoint::Address(_) => {
            if let Some(range) = of.range() {
                connection(&of.name, &range.to_string(), lines);
            }
        }
    }
}
