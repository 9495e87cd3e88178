//! What is to happen to one Service, as a value.

use std::net::IpAddr;

use crate::{
    allocator::Conflict,
    refusal::{Lack, Refusal},
};

/// What is to happen to one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: the Service is none of ours.
    Leave,
    /// It has what it should have.
    Keep {
        /// What it holds.
        addresses: Vec<IpAddr>,
        /// The pool that they are of, if any.
        pool: Option<String>,
        /// What is not as the Service or the pools ask for.
        concern: Option<Concern>,
    },
    /// It gets these addresses, in place of any that it holds.
    Assign {
        /// One or two addresses.
        addresses: Vec<IpAddr>,
        /// The pool that they are of.
        pool: Option<String>,
        /// How they differ from what it held.
        change: Change,
        /// Why it is one address where two are preferred.
        lack: Option<Lack>,
    },
    /// It loses its addresses.
    Clear {
        /// Why.
        loss: Loss,
        /// Why it gets no other; `None` when it wants none.
        refusal: Option<Refusal>,
    },
    /// It holds nothing and gets nothing.
    Refuse(Refusal),
}

/// Why a kept address is not all that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// What is newly asked for cannot be given, so what was given before stays.
    Unmet(Refusal),
    /// No pool holds these of its addresses; they are kept.
    PoolMissing(Vec<IpAddr>),
    /// No pool holds one of them since a moment ago; perhaps the pool comes back.
    Grace,
    /// It is one address where two are preferred (`PreferDualStack`): the pool lacks the other.
    OneFamily(Lack),
}

impl Concern {
    /// Why there is one address where two are preferred.
    pub(crate) fn lack(&self) -> Option<Lack> {
        match self {
            Self::OneFamily(lack) => Some(*lack),
            Self::Unmet(_) | Self::PoolMissing(_) | Self::Grace => None,
        }
    }
}

/// How newly assigned addresses differ from what was held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing was held.
    New,
    /// What was held stays, and this comes with it.
    Added(IpAddr),
    /// Some of what was held goes, since the Service wants it no more.
    Reduced,
    /// The Service asked for something else, and it was there.
    Requested,
    /// What was held could not stay.
    Lost(Loss),
}

/// Why a held address cannot stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The Service is not of type LoadBalancer any more.
    NotLoadBalancer,
    /// The pool that it was of is gone or was edited.
    NotInPools(Vec<IpAddr>),
    /// Another Service holds it too, on terms that do not fit.
    Conflict(Conflict),
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLoadBalancer => f.write_str("not a LoadBalancer"),
            Self::NotInPools(addresses) => Refusal::NotInPools(addresses.clone()).fmt(f),
            Self::Conflict(conflict) => conflict.fmt(f),
        }
    }
}
