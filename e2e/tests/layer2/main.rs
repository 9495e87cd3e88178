//! Layer 2 in full, on the real cluster with the operator deployed (`make e2e-layer2`). They run one
//! after another.

#[path = "../cluster/fixture.rs"]
mod fixture;

mod many;
mod options;
mod owners;
