//! Any bytes as a BFD packet, behind an octet with its TTL.
#![no_main]

#[path = "../../tests/support/routers.rs"]
mod routers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| routers::bfd(bytes));
