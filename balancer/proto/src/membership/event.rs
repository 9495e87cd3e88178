//! What happens to a member, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::seal::Secrets;
use crate::layer2::MacAddress;

/// A node that should have a speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Name of the node.
    pub node: String,
    /// Where its speaker receives datagrams.
    pub address: SocketAddr,
    /// Whether the API says that its speaker is ready.
    pub ready: bool,
}

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A datagram arrived.
    Datagram {
        /// Its sender.
        from: SocketAddr,
        /// Its payload.
        bytes: &'a [u8],
        /// How it came.
        via: Via,
    },
    /// The nodes, this one aside, that should have a speaker: the whole list.
    Seeds(Vec<Seed>),
    /// The deadline has come.
    Timeout,
    /// A host answered at link level for its own address, after [`Action::AskHost`].
    HostAnswered(IpAddr),
    /// The host cannot be asked from here: this node is in no network with it, after [`Action::AskHost`].
    HostOutOfReach(IpAddr),
    /// The speaker of a node answered for an address that it announces, after [`Action::AskHost`].
    SpeakerAnswered(&'a str),
    /// What this node is able to do changed.
    Facts(Facts),
    /// The link that datagrams go through gained or lost its carrier.
    Carrier(bool),
    /// The secrets of the members changed.
    Secrets(Secrets),
    /// The nodes that should have a speaker, this one included, as [`Event::Seeds`] or without an address yet.
    Expected(BTreeSet<String>),
    /// The API server lets this node alone go on until then.
    Witnessed(Instant),
    /// This speaker ends and its successor on this node follows.
    Restarting,
    /// This node gives up its part for good. Nothing is done after that.
    Leave,
}

/// What a member wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a datagram.
    Send {
        /// Receiver.
        to: SocketAddr,
        /// Payload.
        bytes: Vec<u8>,
        /// How it is to go.
        via: Via,
    },
    /// Ask a node by ARP or NDP for its own address, and its speaker for one that it announces.
    AskHost {
        /// Name of the node.
        node: String,
        /// The node's own address.
        address: IpAddr,
    },
    /// The members changed.
    Roster(Roster),
    /// With [`super::Settings::fencing`]: nothing may be announced from this time on, unless another is told before.
    Hold(Instant),
    /// With [`super::Settings::fencing`]: whether this member needs the word of the API server to go on, since it has
    /// lost the only other.
    Witness(bool),
}

/// The way of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// UDP.
    Datagram,
    /// TCP, where UDP is lost: each datagram behind its length. The port of the sender says nothing.
    Stream,
}

/// What a node is able to do, by the word of its own speaker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Names of the interfaces that may announce and have carrier.
    pub interfaces: BTreeSet<String>,
    /// Those of them that cannot announce IPv6.
    pub no_ipv6: BTreeSet<String>,
    /// Those of them that default routes of IPv4 go through.
    pub default_v4: BTreeSet<String>,
    /// Those of them that default routes of IPv6 go through.
    pub default_v6: BTreeSet<String>,
    /// Link-layer addresses of the node: what they say is no conflict.
    pub macs: BTreeSet<MacAddress>,
    /// Addresses that the speaker announces and keeps, whatever the election prefers.
    pub kept: BTreeSet<IpAddr>,
    /// What the speaker claims of addresses that are spread evenly: an epoch, and whether it holds or released it.
    pub claims: BTreeMap<IpAddr, (u32, bool)>,
    /// Addresses that moved too often by what this speaker saw, and the nodes that they stay on.
    pub stays: BTreeMap<IpAddr, String>,
    /// Whether the speaker does not know all that the API server has, which did not answer it.
    pub uninformed: bool,
}

/// Who takes part in elections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// Whether this member knows enough to take part itself: it has heard every other, or waited for it.
    pub settled: bool,
    /// What is known of the link that datagrams go through.
    pub link: Link,
    /// Nodes with a living speaker, this one included until it leaves, and what is known of them.
    pub members: BTreeMap<String, Option<Facts>>,
    /// The own address of each of these nodes, this one aside.
    pub hosts: BTreeMap<String, IpAddr>,
    /// Nodes whose speaker is ready by the API's word and was never heard: they stay candidates, unless their hosts were
    /// asked and do not answer.
    pub unheard: BTreeSet<String>,
    /// Those of the latter kind.
    pub silent: BTreeSet<String>,
    /// Nodes that were ever heard, or heard of, alive or dead; this one aside.
    pub known: BTreeSet<String>,
    /// Link-layer addresses of every node that was heard, of dead ones too, until an hour after their end.
    pub macs: BTreeSet<MacAddress>,
}

/// State of the link that datagrams go through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Link {
    /// It had carrier from the start, or the other members were heard, or waited for, since it is back.
    #[default]
    Works,
    /// It has no carrier.
    Dead,
    /// It has carrier again, and others are waited for: what this node announced may be another's.
    Back,
}

impl Roster {
    /// The nodes that elections choose from.
    pub fn candidates(&self) -> impl Iterator<Item = &str> {
        self.members.keys().chain(&self.unheard).map(String::as_str)
    }
}

/// Datagrams counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent.
    pub sent: u64,
    /// Bytes of payload sent.
    pub sent_bytes: u64,
    /// Received and acted on.
    pub received: u64,
    /// Not sealed with this secret for this member.
    pub foreign: u64,
    /// Sealed rightly, and seen before.
    pub replayed: u64,
    /// From a session that had not proved yet that it is alive.
    pub unproven: u64,
    /// Sealed rightly, and without sense.
    pub malformed: u64,
}
