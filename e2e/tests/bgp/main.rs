//! BGP and BFD with real routers on the real cluster, with the operator deployed (`make e2e-bgp`). They run one after
//! another.
//!
//! ```text
//!  node1 .11   node2 .12   node3 .13       br0: 172.22.0.0/24, fd00:22::/64, AS 64512
//!                    router .1             FRR, BIRD or GoBGP, AS 64513
//!                    router .254           br1: 172.24.0.0/24, fd00:24::/64
//!                    remote .2             the client
//! ```

mod advice;
mod attributes;
mod bfd;
mod bird;
mod counted;
mod distance;
#[path = "../cluster/fixture.rs"]
mod fixture;
mod gobgp;
mod inside;
mod liveness;
mod others;
mod passive;
mod peers;
mod restart;
mod routes;
mod settings;
mod trouble;
mod wire;
