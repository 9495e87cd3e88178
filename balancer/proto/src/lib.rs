//! Pure sessions and frames: ARP and NDP responder, membership, link eligibility.
//!
//! Knows no socket, no clock and no API client: time and randomness come in as arguments.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )
)]

pub mod bfd;
pub mod bgp;
pub mod layer2;
pub mod membership;
