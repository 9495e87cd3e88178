//! Pure decisions: configuration, requests, allocation, election, plan, status.
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

pub mod allocator;
pub mod announced;
pub mod assigner;
pub mod claim;
pub mod claims;
pub mod config;
pub mod decision;
pub mod election;
pub mod failback;
pub mod legacy;
pub mod plan;
pub mod preview;
pub mod range;
pub mod refusal;
pub mod report;
pub mod request;
pub mod router_config;
pub mod routes;
pub mod selector;
pub mod served;
pub mod service;
pub mod spread;
pub mod subnets;
pub mod uninformed;
pub mod validity;
