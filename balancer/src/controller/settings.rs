//! Flags of the controller, with the names of MetalLB's, and their environment variables.
//!
//! A Deployment that was written for MetalLB starts this program too: its flags that mean nothing here, and any that
//! are unknown, are named in the log and otherwise ignored.

use std::{ffi::OsString, path::PathBuf};

use clap::{CommandFactory, Parser};
use metallb_api::names::{METRICS_PORT, PROBES_PORT};
use metallb_core::allocator::PoolEditPolicy;
use metallb_runtime::{listen::any, logs::LogLevel, metrics::Endpoint};

use crate::arguments::sort_out;

/// Where the kubelet puts the name of the pod's own namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// Where the kernel tells the name of the host, which in a pod is the pod's.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";
/// Where everything of this project runs unless something else is said.
const DEFAULT_NAMESPACE: &str = "metallb-system";

/// Gives Services of type LoadBalancer their addresses.
#[derive(Clone, Debug, Parser)]
#[command(name = "controller", version)]
pub struct Settings {
    /// Namespace of the IPAddressPools and the Lease; by default that of the pod.
    #[arg(long, env = "METALLB_NAMESPACE", default_value = "", hide_default_value = true)]
    namespace: String,
    /// Name of the pod, under which the Lease is held; by default the name of the host.
    #[arg(long, env = "METALLB_POD_NAME", default_value = "", hide_default_value = true)]
    pod_name: String,
    /// How much is logged: all, debug, info, warn, error or none.
    #[arg(long, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
    /// Only Services of this loadBalancerClass are served; by default only those without a class.
    #[arg(long, env = "METALLB_LB_CLASS", default_value = "", hide_default_value = true)]
    lb_class: String,
    /// What happens to an address whose pool is deleted or edited: Reference (it is replaced) or KeepInUse.
    #[arg(long, env = "METALLB_POOL_EDIT_POLICY", default_value = "Reference", value_parser = pool_edit_policy)]
    pub pool_edit_policy: PoolEditPolicy,
    /// Expects announcements from nodes with label node.kubernetes.io/exclude-from-external-load-balancers too.
    #[arg(
        long,
        env = "METALLB_IGNORE_EXCLUDE_LB",
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true"
    )]
    pub ignore_exclude_lb: bool,
    /// HTTP port of /healthz and /readyz.
    #[arg(long, default_value_t = PROBES_PORT)]
    pub health_probe_port: u16,
    /// HTTPS port of /metrics; 0 for none.
    #[arg(long, default_value_t = METRICS_PORT)]
    pub port: u16,
    /// Folder with tls.crt and tls.key for the metrics; by default a certificate is made at start.
    #[arg(long)]
    metrics_cert_dir: Option<PathBuf>,
    /// Tell all about the address of this Service, NAMESPACE/NAME, and end.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub explain: Option<String>,
    /// Judge the configuration in the files given by -f without a cluster, and end; status 1 when something is wrong.
    #[arg(long, requires = "file")]
    pub check: bool,
    /// List the Services whose address would change in the cluster if the files given by -f were applied, and end.
    #[arg(long, requires = "file")]
    pub diff: bool,
    /// A file or folder of YAML, for --check and --diff.
    #[arg(short, long)]
    pub file: Option<PathBuf>,
    /// What was given besides and is not used.
    #[arg(skip)]
    unused: Vec<String>,
}

fn pool_edit_policy(text: &str) -> Result<PoolEditPolicy, String> {
    match text {
        "Reference" | "" => Ok(PoolEditPolicy::Reference),
        "KeepInUse" => Ok(PoolEditPolicy::KeepInUse),
        other => Err(format!("{other:?} is neither Reference nor KeepInUse")),
    }
}

impl Settings {
    /// Reads the arguments, the first of which is the program's name. Ends the program where one of its own flags has
    /// a value that cannot be read, or when help is asked for.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Self {
        let (known, unused) = sort_out(&Self::command(), args);
        Self { unused, ..Self::parse_from(known) }
    }

    /// Says in the log which arguments are ignored.
    pub fn log_unused(&self) {
        for argument in &self.unused {
            tracing::warn!(argument, "argument has no effect");
        }
    }

    /// Where the metrics are served, if anywhere.
    #[must_use]
    pub fn metrics(&self) -> Option<Endpoint> {
        let address = any(self.port);
        let certificates = self.metrics_cert_dir.clone().filter(|folder| !folder.as_os_str().is_empty());
        (self.port != 0).then_some(Endpoint { address, certificates })
    }

    /// The namespace of the pools and the Lease.
    #[must_use]
    pub fn namespace(&self) -> String {
        let own = || std::fs::read_to_string(NAMESPACE_FILE).ok().map(|name| name.trim().to_owned());
        let given = Some(self.namespace.clone()).filter(|name| !name.is_empty());
        given.or_else(own).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
    }

    /// The name under which the Lease is held.
    #[must_use]
    pub fn identity(&self) -> String {
        let host = || std::fs::read_to_string(HOSTNAME_FILE).ok().map(|name| name.trim().to_owned());
        let given = Some(self.pod_name.clone()).filter(|name| !name.is_empty());
        given.or_else(host).unwrap_or_else(|| format!("controller-{}", std::process::id()))
    }

    /// The class of the Services that are served; `None` for those without one.
    #[must_use]
    pub fn class(&self) -> Option<String> {
        Some(self.lb_class.clone()).filter(|class| !class.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_written_for_metallb_are_taken() {
        let args = [
            "/controller",
            "--port=7472",
            "--log-level=debug",
            "-lb-class",
            "example.com/lb",
            "--webhook-mode=disabled",
            "--tls-min-version=VersionTLS13",
            "--cert-dir",
            "/tmp/certs",
            "--disable-cert-rotation",
            "--health-probe-port",
            "17473",
        ];
        let settings = Settings::from_args(args.map(OsString::from));
        assert_eq!((settings.port, settings.health_probe_port), (7472, 17473));
        assert_eq!(settings.log_level, LogLevel::Debug);
        assert_eq!(settings.class().as_deref(), Some("example.com/lb"));
        assert_eq!(
            settings.unused,
            [
                "--webhook-mode=disabled",
                "--tls-min-version=VersionTLS13",
                "--cert-dir",
                "--disable-cert-rotation"
            ]
        );
    }
}
