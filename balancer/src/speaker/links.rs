//! The node's links and addresses, as the kernel tells them: one list at start, then every change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use metallb_proto::layer2::MacAddress;
use metallb_proto::layer2::link::{Exclude, Interface, Links};
use metallb_proto::membership::Facts;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NLM_F_REPLACE, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use serde::Deserialize;
use tokio::sync::watch;

/// Interfaces that may announce, by index.
pub type Interfaces = BTreeMap<u32, Interface>;

/// What is published about the links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All links.
    pub links: Links,
    /// Those that may announce.
    pub eligible: Interfaces,
    /// Link-layer addresses under which this node may answer.
    pub macs: BTreeSet<MacAddress>,
    /// Whether the link through which speakers hear each other is dead.
    pub is_cut: bool,
}

impl Snapshot {
    /// What the node is able to do but for its `broken` interfaces; `None` before its links are known.
    pub(super) fn facts(&self, broken: &BTreeSet<String>) -> Option<Facts> {
        if *self == Self::default() {
            return None;
        }
        let names = |chosen: &dyn Fn(&u32) -> bool| -> BTreeSet<String> {
            let works = |interface: &Interface| interface.carrier && !broken.contains(&interface.name);
            let linked = self.eligible.iter().filter(|(_, interface)| works(interface));
            linked.filter(|(index, _)| chosen(index)).map(|(_, interface)| interface.name.clone()).collect()
        };
        let on_default_route = |family: IpAddr| {
            let indexes = self.links.default_route(family);
            names(&|index| indexes.contains(index))
        };
        Some(Facts {
            interfaces: names(&|_| true),
            no_ipv6: names(&|index| self.eligible.get(index).is_some_and(|interface| !interface.ipv6)),
            default_v4: on_default_route(Ipv4Addr::UNSPECIFIED.into()),
            default_v6: on_default_route(Ipv6Addr::UNSPECIFIED.into()),
            macs: self.macs.clone(),
            ..Facts::default()
        })
    }
}

/// The interface with the address that speakers hear this one at.
struct Home {
    /// `None` where speakers do not know of each other.
    address: Option<IpAddr>,
    /// It counts, too, while the address is gone, as some network managers take it away with the carrier.
    index: Option<u32>,
}

impl Home {
    /// Whether it is known, and cannot send and receive.
    fn is_cut(&mut self, links: &Links) -> bool {
        self.index = self.address.and_then(|address| links.interface_with(address)).or(self.index);
        self.index.is_some_and(|index| !links.has_carrier(index))
    }
}

/// Follows the links until the netlink socket breaks. `address` is the one that speakers hear this one at.
///
/// # Errors
/// When the kernel does not answer, or the connection to it ends.
pub async fn follow(
    exclude: Exclude,
    address: Option<IpAddr>,
    publish: watch::Sender<Snapshot>,
) -> anyhow::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).context("netlink socket")?;
    let _connection = tokio::spawn(connection);
    let mut links = list(&handle).await?;
    let mut home = Home { address, index: None };
    loop {
        publish.send_if_modified(|snapshot| {
            let changed = snapshot.links != links;
            if changed {
                let (eligible, macs) = (links.eligible(&exclude), links.macs(&exclude));
                let is_cut = home.is_cut(&links);
                *snapshot = Snapshot { links: links.clone(), eligible, macs, is_cut };
            }
            changed
        });
        let (message, _) = messages.next().await.context("the netlink socket was closed")?;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => {
                if message.header.flags & NLM_F_REPLACE == 0 {
                    links.apply(&inner);
                } else {
                    links.replace(&inner);
                }
            }
            // The kernel dropped messages: nothing is known for sure any more.
            NetlinkPayload::Overrun(_) => links = list(&handle).await?,
            _ => {}
        }
    }
}

async fn list(handle: &Handle) -> anyhow::Result<Links> {
    let mut links = Links::default();
    let mut found = handle.link().get().execute();
    while let Some(link) = found.try_next().await.context("list of links")? {
        links.apply(&RouteNetlinkMessage::NewLink(link));
    }
    let mut found = handle.address().get().execute();
    while let Some(address) = found.try_next().await.context("list of addresses")? {
        links.apply(&RouteNetlinkMessage::NewAddress(address));
    }
    let routes =
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    for family in routes {
        let mut found = handle.route().get(family).execute();
        while let Some(route) = found.try_next().await.context("list of routes")? {
            links.apply(&RouteNetlinkMessage::NewRoute(route));
        }
    }
    Ok(links)
}

/// The file that ConfigMap `metallb-excludel2` becomes.
#[derive(Debug, Default, Deserialize)]
struct ExcludeFile {
    /// Regular expressions of interface names.
    #[serde(default, rename = "announcedInterfacesToExclude")]
    interfaces: Vec<String>,
}

/// Reads the names of interfaces that never announce. A file that is missing excludes nothing.
///
/// # Errors
/// When the file is no YAML or holds something that is no regular expression, naming it.
pub fn read_exclude(path: &str) -> anyhow::Result<Exclude> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(path.to_owned()),
    };
    let file: ExcludeFile = if text.trim().is_empty() {
        ExcludeFile::default()
    } else {
        serde_saphyr::from_str(&text).with_context(|| path.to_owned())?
    };
    Exclude::new(&file.interfaces).with_context(|| format!("{path}: announcedInterfacesToExclude"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_a_link_local_address_is_told_to_have_no_ipv6() {
        let interface = |index, name: &str, carrier, ipv6| {
            let mac = MacAddress([2, 0, 0, 0, 0, index]);
            let index = u32::from(index);
            (index, Interface { index, name: name.to_owned(), mac, carrier, ipv6 })
        };
        let eligible = [
            interface(1, "eth0", true, true),
            interface(2, "eth1", true, false),
            interface(3, "eth2", false, false),
        ];
        let links = Snapshot { eligible: eligible.into(), ..Snapshot::default() };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let facts = links.facts(&BTreeSet::new()).unwrap();
        assert_eq!((facts.interfaces, facts.no_ipv6), (names(&["eth0", "eth1"]), names(&["eth1"])));
        let facts = links.facts(&names(&["eth1"])).unwrap();
        assert_eq!(
            (facts.interfaces, facts.no_ipv6),
            (names(&["eth0"]), names(&[])),
            "its sockets are broken"
        );
    }

    #[test]
    fn the_link_of_the_speakers_counts_while_its_address_is_gone() {
        use netlink_packet_route::address::{AddressAttribute, AddressMessage};
        use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

        let ours: IpAddr = "172.22.0.11".parse().unwrap();
        let mut address = AddressMessage::default();
        address.header.index = 2;
        address.header.prefix_len = 24;
        address.attributes = vec![AddressAttribute::Local(ours), AddressAttribute::Address(ours)];
        let link = |flags| {
            let mut link = LinkMessage::default();
            link.header.index = 2;
            link.header.flags = flags;
            link.attributes = vec![LinkAttribute::IfName("eth0".to_owned())];
            RouteNetlinkMessage::NewLink(link)
        };
        let up = LinkFlags::Up | LinkFlags::LowerUp;
        let mut links = Links::default();
        let mut home = Home { address: Some(ours), index: None };
        assert!(!home.is_cut(&links), "nothing is known of it");
        let mut after = |message| {
            links.apply(&message);
            home.is_cut(&links)
        };
        assert!(!after(link(up)));
        assert!(!after(RouteNetlinkMessage::NewAddress(address.clone())));
        assert!(after(link(LinkFlags::Up)));
        assert!(after(RouteNetlinkMessage::DelAddress(address.clone())));
        assert!(!after(link(up)));
        assert!(!after(RouteNetlinkMessage::NewAddress(address)));
    }

    #[test]
    fn the_file_of_the_config_map_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("excludel2.yaml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_exclude(path.to_str().unwrap()).map_err(|error| format!("{error:#}"))
        };
        let exclude = read("announcedInterfacesToExclude: [\"^docker.*\", \"^lo$\"]\n").unwrap();
        assert!(exclude.matches("docker0") && exclude.matches("lo") && !exclude.matches("eth0"));
        assert!(!read("").unwrap().matches("docker0"));
        assert!(!read_exclude("/nowhere/excludel2.yaml").unwrap().matches("docker0"));
        let refused = read("announcedInterfacesToExclude: ['(']\n").unwrap_err();
        assert!(refused.contains("excludel2.yaml: announcedInterfacesToExclude"), "{refused}");
    }
}
