//! Any bytes from the first of a BGP connection on.
#![no_main]

#[path = "../../tests/support/routers.rs"]
mod routers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| routers::stream(bytes));
