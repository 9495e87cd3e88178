//! What is told of a peer's session.

use std::collections::BTreeMap;

use jiff::Timestamp;
use metallb_proto::bfd;
use metallb_proto::bgp::{Agreed, State};

/// State of a peer's session, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// Since when the session stands, or does not.
    pub(crate) since: Timestamp,
    /// Why the last session or attempt ended.
    pub(crate) last_error: Option<String>,
    /// Why the last session was ended by this end as somebody wanted it, where that is so.
    pub(crate) stopped: Option<String>,
    /// Why the router cannot connect though this end waits for it.
    pub(crate) unheard: Option<String>,
    /// What the two ends agreed on, while the session stands.
    pub(crate) agreed: Option<Agreed>,
    /// Prefixes that the router holds.
    pub(crate) prefixes: usize,
    /// Routes that the router cannot be told, and why.
    pub(crate) unsent: Option<String>,
    /// State of the BFD session, where there is one.
    pub(crate) bfd: Option<bfd::State>,
    /// Why there is none in spite of a BFDProfile.
    pub(crate) bfd_error: Option<String>,
}

impl Status {
    /// A peer that has no session yet, and why.
    pub(super) fn idle(last_error: Option<String>) -> Self {
        Self {
            state: State::Idle,
            since: Timestamp::now(),
            last_error,
            stopped: None,
            unheard: None,
            agreed: None,
            prefixes: 0,
            unsent: None,
            bfd: None,
            bfd_error: None,
        }
    }
}

/// By name of the BGPPeer.
pub(crate) type Statuses = BTreeMap<String, Status>;
