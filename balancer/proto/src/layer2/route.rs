//! Which interfaces the default routes go through, by netlink messages.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

/// The default routes of the main table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DefaultRoutes {
    /// By whether they are of IPv6, and by metric: the indexes of their interfaces.
    routes: BTreeMap<(bool, u32), BTreeSet<u32>>,
}

impl DefaultRoutes {
    /// Takes a new route in. Of IPv4 one of the same metric is replaced, which the kernel says of IPv6 by itself: there
    /// routes of the same metric stand beside each other, such as those of two routers. Returns whether that changed
    /// anything.
    pub(super) fn add(&mut self, route: &RouteMessage, replaces: bool) -> bool {
        let Some((key, interfaces)) = read(route) else { return false };
        let (ipv6, _) = key;
        let beside = self.routes.get(&key).filter(|_| ipv6 && !replaces);
        let all: BTreeSet<u32> = beside.into_iter().flatten().chain(&interfaces).copied().collect();
        self.routes.insert(key, all.clone()) != Some(all)
    }

    /// Takes note of a route that is gone.
    pub(super) fn remove(&mut self, route: &RouteMessage) -> bool {
        let Some((key, interfaces)) = read(route) else { return false };
        // A route of the same metric may have taken its place before.
        let left = self.routes.get_mut(&key);
        let changed = left.is_some_and(|left| {
            let before = left.len();
            left.retain(|interface| !interfaces.contains(interface));
            left.len() != before
        });
        self.routes.retain(|_, interfaces| !interfaces.is_empty());
        changed
    }

    /// Takes note that an interface is down or gone.
    pub(super) fn drop_link(&mut self, index: u32) -> bool {
        let before = self.routes.clone();
        for interfaces in self.routes.values_mut() {
            interfaces.remove(&index);
        }
        self.routes.retain(|_, interfaces| !interfaces.is_empty());
        before != self.routes
    }

    pub(super) fn interfaces(&self, ipv6: bool) -> BTreeSet<u32> {
        let mut of_family = self.routes.range((ipv6, 0)..=(ipv6, u32::MAX));
        of_family.next().map(|(_, interfaces)| interfaces.clone()).unwrap_or_default()
    }
}

/// Family and metric of a default route of the main table, and its interfaces.
fn read(route: &RouteMessage) -> Option<((bool, u32), BTreeSet<u32>)> {
    let header = &route.header;
    let ipv6 = match header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    let (mut table, mut metric, mut interfaces) = (u32::from(header.table), 0, BTreeSet::new());
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => interfaces.extend([*index]),
            RouteAttribute::MultiPath(hops) => interfaces.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    let is_default = header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    (is_default && !interfaces.is_empty()).then_some(((ipv6, metric), interfaces))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    fn route(family: AddressFamily, prefix: u8, attributes: &[RouteAttribute]) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family,
            destination_prefix_length: prefix,
            table: RouteHeader::RT_TABLE_MAIN,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = attributes.to_vec();
        message
    }

    fn default(index: u32, metric: u32) -> RouteMessage {
        route(AddressFamily::Inet, 0, &[RouteAttribute::Oif(index), RouteAttribute::Priority(metric)])
    }

    #[test]
    fn the_default_route_with_the_least_metric_counts_for_its_family() {
        let mut routes = DefaultRoutes::default();
        assert!(routes.add(&default(3, 200), false));
        assert!(!routes.add(&default(3, 200), false));
        assert!(routes.add(&default(2, 100), false));
        assert_eq!(routes.interfaces(false), [2].into());
        assert_eq!(routes.interfaces(true), [].into());
        assert!(routes.remove(&default(2, 100)));
        assert!(!routes.remove(&default(2, 100)));
        assert_eq!(routes.interfaces(false), [3].into());
    }

    #[test]
    fn a_route_replaces_one_of_the_same_metric_whose_end_comes_late() {
        let mut routes = DefaultRoutes::default();
        routes.add(&default(2, 0), false);
        routes.add(&default(4, 0), false);
        assert!(!routes.remove(&default(2, 0)));
        assert_eq!(routes.interfaces(false), [4].into());
        assert!(routes.drop_link(4));
        assert!(!routes.drop_link(4));
        assert_eq!(routes.interfaces(false), [].into());
    }

    #[test]
    fn routes_of_two_routers_of_ipv6_stand_beside_each_other() {
        let by = |index: u32| {
            route(AddressFamily::Inet6, 0, &[RouteAttribute::Oif(index), RouteAttribute::Priority(1024)])
        };
        let mut routes = DefaultRoutes::default();
        assert!(routes.add(&by(2), false) && routes.add(&by(3), false));
        assert!(!routes.add(&by(2), false));
        assert_eq!(routes.interfaces(true), [2, 3].into());
        assert!(routes.remove(&by(3)));
        assert_eq!(routes.interfaces(true), [2].into());
        assert!(routes.add(&by(4), true));
        assert_eq!(routes.interfaces(true), [4].into(), "replaced, by the word of the kernel");
    }

    #[test]
    fn several_hops_count_and_other_routes_do_not() {
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        let mut routes = DefaultRoutes::default();
        let both = route(AddressFamily::Inet6, 0, &[RouteAttribute::MultiPath(vec![hop(2), hop(3)])]);
        assert!(routes.add(&both, false));
        assert_eq!(routes.interfaces(true), [2, 3].into());
        for other in [
            route(AddressFamily::Inet, 24, &[RouteAttribute::Oif(2)]),
            route(AddressFamily::Inet, 0, &[RouteAttribute::Oif(2), RouteAttribute::Table(100)]),
            route(AddressFamily::Inet, 0, &[]),
        ] {
            assert!(!routes.add(&other, false), "{other:?}");
        }
    }
}
