//! A real Kubernetes cluster on one machine, and what is tested, shown and measured on it.
//!
//! Each host is a network namespace; all are joined to one bridge. Nothing is placed in the root namespace. Only
//! real parts run: etcd, the Kubernetes control plane, and per node containerd, kubelet and kube-proxy.

pub mod audit;
pub mod cert_manager;
pub mod cluster;
pub mod demo;
pub mod deploy;
pub mod deps;
pub mod elf;
pub mod exec;
pub mod held;
pub mod layout;
pub mod observe;
pub mod olm;
pub mod options;
pub mod outage;
pub mod pages;
pub mod plane;
pub mod power;
pub mod published;
pub mod registry;
pub mod router;
pub mod tools;
pub mod vm;
pub mod web;
pub mod wire;

mod control_plane;
mod network;
mod node;
mod oci;
mod pki;
mod processes;
