//! What members say to each other, inside the seal.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::seal::SessionId;

/// One message; postcard is its wire format, so variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// A packet of the SWIM protocol.
    Swim(Vec<u8>),
    /// Show that the owner of this session is alive: send the token back.
    Challenge { session: SessionId, token: u64 },
    /// The token, and whose session this is.
    Proof { token: u64, node: String },
    /// The sender is alive and will say so again until it says otherwise: the receiver watches it. With the version of
    /// its facts; 0 for none.
    Heartbeat { facts: u32 },
    /// The sender goes on living without heartbeats to the receiver.
    Unwatch,
    /// Are you alive?
    Probe,
    /// Yes; `watched` tells whether the sender sends heartbeats to the receiver.
    Alive { watched: bool },
    /// Have you heard from this node lately?
    Ask { node: String },
    /// Yes, so many milliseconds ago.
    Vouch { node: String, age: u32 },
    /// The receiver's identity with this epoch is not accepted any more: take a later one.
    Stale { epoch: u64 },
    /// These nodes, with the epochs of their last lives, are known to be down.
    Down { nodes: Vec<(String, std::net::SocketAddr, u64)> },
    /// The speaker ends and its successor on the same node follows.
    Restarting,
    /// What the sender's node is able to do.
    Facts {
        version: u32,
        interfaces: Vec<String>,
        macs: Vec<[u8; 6]>,
        kept: Vec<IpAddr>,
        default_v4: Vec<String>,
        default_v6: Vec<String>,
        claims: Vec<(IpAddr, u32, bool)>,
        no_ipv6: Vec<String>,
        stays: Vec<(IpAddr, String)>,
        uninformed: bool,
    },
    /// Tell me your facts: I have none, or others.
    FactsWanted,
    /// The sender gives up its part for good.
    Leaving,
    /// Do you count me as a member? The token comes back.
    Poll { token: u64 },
    /// I do.
    Vote { token: u64 },
    /// The sender has the receiver's facts of this version.
    Known { facts: u32 },
    /// Does the host of this node answer at link level? The sender cannot ask it.
    AskHost { node: String },
    /// The sender asked, and this is whether it did.
    HostAnswers { node: String, answers: bool },
}
