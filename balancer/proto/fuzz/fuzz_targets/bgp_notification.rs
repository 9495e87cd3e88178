//! Any bytes as the body of a BGP NOTIFICATION.
#![no_main]

#[path = "../../tests/support/routers.rs"]
mod routers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| routers::notification(bytes));
