//! The name under which a member takes part in SWIM.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One life of a speaker on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) node: String,
    pub(super) address: SocketAddr,
    /// Of two lives on one node, the greater is the later.
    pub(super) epoch: u64,
}

impl foca::Identity for Identity {
    type Addr = String;

    fn renew(&self) -> Option<Self> {
        Some(Self { epoch: self.epoch.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> String {
        self.node.clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.epoch, self.address) > (adversary.epoch, adversary.address)
    }
}
