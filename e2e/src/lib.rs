//! The real cluster, the demo, the end-to-end tests and the benchmarks.
