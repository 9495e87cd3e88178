//! The operator as a process of its own against a real etcd and API server: what it does when things go wrong, when somebody
//! changes what it made, when rights are missing, when pods do not start, and with what older installers left.
//!
//! The program is that of `METALLB_OPERATOR`.

mod adopt;
mod faults;
mod fixture;
mod gate;
mod heal;
mod needs;
mod pods;
