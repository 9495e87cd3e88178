//! Flags of the speaker, with the names of MetalLB's, and their environment variables.
//!
//! A DaemonSet that was written for MetalLB starts this program too: its flags that mean nothing here, and any that are
//! unknown, are named in the log and otherwise ignored.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use metallb_api::names::{MEMBERLIST_PORT, MEMBERLIST_SECRET_KEY, METRICS_PORT, PROBES_PORT};
use metallb_proto::layer2::gratuitous;
use metallb_proto::membership::{Secret, Timing};
use metallb_runtime::logs::LogLevel;

use super::bgp;
use super::bgp::spec::Backend;
use crate::arguments::sort_out;

/// A node that was started so lately has forwarded nothing from before; a speaker that starts later follows another.
const BOOT: Duration = Duration::from_secs(300);

/// Announces the addresses of Services on layer 2.
#[derive(Clone, Debug, Parser)]
#[command(name = "speaker", version)]
pub struct Settings {
    /// Namespace of the configuration and of the speakers.
    #[arg(long, env = "METALLB_NAMESPACE", default_value = "metallb-system")]
    pub(super) namespace: String,
    /// Name of the node that this speaker runs on.
    #[arg(long, env = "METALLB_NODE_NAME")]
    pub(super) node_name: String,
    /// Name of this pod.
    #[arg(long, env = "METALLB_POD_NAME", default_value = "", hide_default_value = true)]
    pub(super) pod_name: String,
    /// Address of the speakers' gossip; empty for none.
    #[arg(long, env = "METALLB_ML_BIND_ADDR", default_value = "", hide_default_value = true)]
    ml_bindaddr: String,
    /// UDP port of the speakers' gossip.
    #[arg(long, env = "METALLB_ML_BIND_PORT", default_value_t = MEMBERLIST_PORT)]
    pub(super) ml_bindport: u16,
    /// Labels of the speakers' pods; empty for no gossip.
    #[arg(long, env = "METALLB_ML_LABELS", default_value = "", hide_default_value = true)]
    ml_labels: String,
    /// Folder with file `secretkey`, the secret that the speakers share.
    #[arg(long, env = "METALLB_ML_SECRET_KEY_PATH", default_value = "", hide_default_value = true)]
    ml_secret_key_path: String,
    /// Waits as long as MetalLB does before a silent speaker counts as gone.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    ml_wan_config: bool,
    /// Address of this node: its BGP Identifier where it is one of IPv4.
    #[arg(long, env = "METALLB_HOST", default_value = "", hide_default_value = true)]
    host: String,
    /// Whose habits BGP sessions have.
    #[arg(long, env = "METALLB_BGP_TYPE", value_enum, default_value_t = Backend::Native)]
    bgp_type: Backend,
    /// Lets routers connect to this node, on port 179.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(super) bgp_listen: bool,
    /// How much is logged: all, debug, info, warn, error or none.
    #[arg(long, default_value_t = LogLevel::Info)]
    pub(super) log_level: LogLevel,
    /// Only Services of this loadBalancerClass are announced; by default only those without a class.
    #[arg(long, default_value = "", hide_default_value = true)]
    lb_class: String,
    /// Announces from nodes with label node.kubernetes.io/exclude-from-external-load-balancers too.
    #[arg(long, num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(super) ignore_exclude_lb: bool,
    /// File with the interfaces that never announce.
    #[arg(long, default_value = "/etc/metallb/excludel2.yaml")]
    pub(super) exclude_interfaces: String,
    /// Seconds between two gratuitous announcements of an address for as long as it is announced; 0 for none.
    #[arg(long, default_value_t = 0)]
    gratuitous_arp_interval: u32,
    /// HTTP port of /healthz and /readyz on the loopback address.
    #[arg(long, default_value_t = PROBES_PORT)]
    pub(super) health_probe_port: u16,
    /// HTTPS port of /metrics; 0 for none.
    #[arg(long, default_value_t = METRICS_PORT)]
    pub(super) port: u16,
    /// Folder with tls.crt and tls.key for the metrics; by default a certificate is made at start.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) metrics_cert_dir: String,
    /// What was given besides and is not used.
    #[arg(skip)]
    unused: Vec<String>,
}

impl Settings {
    /// Reads the arguments, the first of which is the program's name. Ends the program where one of its own flags has
    /// a value that cannot be read, or when help is asked for.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Self {
        let (known, unused) = sort_out(&Self::command(), args);
        Self { unused, ..Self::parse_from(known) }
    }

    /// Says in the log which arguments are ignored.
    pub(super) fn log_unused(&self) {
        for argument in &self.unused {
            tracing::warn!(argument, "argument has no effect");
        }
    }

    /// The class of the Services that are announced; `None` for those without one.
    pub(super) fn class(&self) -> Option<String> {
        Some(self.lb_class.clone()).filter(|class| !class.is_empty())
    }

    /// Where this speaker gossips, and the labels of its peers' pods; `None` when the speakers are not to know of each
    /// other, and every node counts as having one.
    ///
    /// # Errors
    /// When the address is none.
    pub(super) fn gossip(&self) -> anyhow::Result<Option<(SocketAddr, String)>> {
        if self.ml_bindaddr.is_empty() || self.ml_labels.is_empty() {
            return Ok(None);
        }
        let ip: IpAddr =
            self.ml_bindaddr.parse().with_context(|| format!("--ml-bindaddr {:?}", self.ml_bindaddr))?;
        Ok(Some((SocketAddr::new(ip, self.ml_bindport), self.ml_labels.clone())))
    }

    /// The secret that the speakers share; an empty one where no folder was given.
    ///
    /// # Errors
    /// When the file cannot be read, naming it.
    pub(super) fn secret(&self) -> anyhow::Result<Secret> {
        if self.ml_secret_key_path.is_empty() {
            tracing::warn!("no --ml-secret-key-path: gossip is protected by no secret");
            return Ok(Secret::new([]));
        }
        let file = Path::new(&self.ml_secret_key_path).join(MEMBERLIST_SECRET_KEY);
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        Ok(Secret::new(bytes))
    }

    /// What holds for all BGP sessions. `up` is the time since the node was started.
    pub(super) fn bgp(&self, up: Duration) -> bgp::spec::Node {
        bgp::spec::Node {
            router_id: bgp::spec::router_id(self.host.parse().ok(), &self.node_name),
            backend: self.bgp_type,
            listens: self.bgp_listen,
            preserved: up >= BOOT,
        }
    }

    /// How soon a silent speaker counts as gone.
    pub(super) fn timing(&self) -> Timing {
        if self.ml_wan_config { Timing::TOLERANT } else { Timing::FAST }
    }

    /// How addresses are announced unasked.
    pub(super) fn gratuitous(&self) -> gratuitous::Settings {
        let seconds = u64::from(self.gratuitous_arp_interval);
        let repeat = (seconds > 0).then(|| Duration::from_secs(seconds));
        gratuitous::Settings { repeat, ..gratuitous::Settings::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Settings {
        Settings::from_args(["/speaker", "--node-name=node1"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn arguments_written_for_metallb_are_taken() {
        let settings = settings(&[
            "--port=7472",
            "--log-level=debug",
            "--lb-class=example.com/lb",
            "--ml-wan-config=true",
            "--ml-bindaddr",
            "172.22.0.11",
            "--ml-labels=app=metallb,component=speaker",
            "--bgp-debounce-timeout=3s",
            "--frrk8s-namespace",
            "frr",
            "--ignore-exclude-lb",
        ]);
        assert_eq!((settings.port, settings.timing()), (7472, Timing::TOLERANT));
        assert_eq!(settings.class().as_deref(), Some("example.com/lb"));
        assert!(settings.ignore_exclude_lb);
        let labels = "app=metallb,component=speaker".to_owned();
        assert_eq!(settings.gossip().unwrap(), Some(("172.22.0.11:7946".parse().unwrap(), labels)));
        assert_eq!(settings.unused, ["--bgp-debounce-timeout=3s", "--frrk8s-namespace"]);
    }

    #[test]
    fn gossip_is_off_without_an_address_or_labels_and_refuses_what_is_none() {
        assert_eq!(settings(&["--ml-bindaddr=", "--ml-labels=a=b"]).gossip().unwrap(), None);
        assert_eq!(settings(&["--ml-bindaddr=::1", "--ml-labels="]).gossip().unwrap(), None);
        let error = settings(&["--ml-bindaddr=x", "--ml-labels=a=b"]).gossip().unwrap_err();
        assert_eq!(format!("{error:#}"), "--ml-bindaddr \"x\": invalid IP address syntax");
    }

    #[test]
    fn a_secret_that_is_missing_is_named() {
        let error = settings(&["--ml-secret-key-path=/nowhere"]).secret().unwrap_err();
        assert_eq!(format!("{error:#}"), "/nowhere/secretkey: No such file or directory (os error 2)");
    }
}
