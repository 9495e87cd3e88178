//! Free addresses that a neighbour is tried with: whoever answers for them too is a proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address that is probably free: another one of `network`, or of those around `address` where that is in no network
/// of this node.
pub fn decoy(address: IpAddr, network: Option<IpNet>, random: u128) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let prefix = network.map_or(24, |network| network.prefix_len()).clamp(1, 30);
            let hosts = u32::MAX >> prefix;
            // Neither the network's own address nor the broadcast address.
            let host = u32::try_from(random % u128::from(hosts - 1)).unwrap_or(0) + 1;
            let host = if host == u32::from(address) & hosts { host % (hosts - 1) + 1 } else { host };
            Ipv4Addr::from(u32::from(address) & !hosts | host).into()
        }
        IpAddr::V6(address) => {
            let low = u128::from(u64::MAX);
            let host = if (u128::from(address) ^ random) & low == 0 { !random } else { random };
            Ipv6Addr::from(u128::from(address) & !low | host & low).into()
        }
    }
}
