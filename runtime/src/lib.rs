//! What every program needs: logs, signals, probes, metrics endpoint, Lease. No domain knowledge.
