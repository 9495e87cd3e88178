//! The controller as a process of its own, with the rights of its account and no others, against a real etcd and API
//! server: what it does when things go wrong.
//!
//! The program is that of `METALLB_CONTROLLER`.

mod adoption;
mod announced;
mod answers;
mod extremes;
mod faults;
mod fixture;
mod rights;
