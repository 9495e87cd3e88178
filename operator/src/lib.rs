//! The operator: MetalLB and AddressPool resources become running workloads.
