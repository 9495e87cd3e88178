//! End-to-end tests on the real cluster, with the operator deployed (`make e2e`). They run one after another.

mod adoption;
mod allocation;
mod external;
mod failover;
mod fixture;
mod ipfailover;
mod layer2;
mod path;
mod plugin;
mod quiet;
mod refusals;
mod repair;
mod robustness;
mod starts;
mod upgrade;
