//! CRD types of metallb.io and the generator of config/crd.
