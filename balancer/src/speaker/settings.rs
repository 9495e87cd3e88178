//! Flags of the speaker, with the names of MetalLB's, and their environment variables.
//!
//! A DaemonSet that was written for MetalLB starts this program too: its flags that mean nothing here, and any that are
//! unknown, are named in the log and otherwise ignored.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use metallb_api::names::{
    MEMBERLIST_PORT, MEMBERLIST_SECRET_KEY, MEMBERLIST_SECRET_PREVIOUS_KEY, METRICS_PORT, PROBES_PORT,
};
use metallb_api::{ConflictPolicy, ConflictProbe, Detection, DrainPolicy, Failback, Fencing, WireCheck};
use metallb_core::config::duration;
use metallb_core::router_config::Dialect;
use metallb_proto::layer2::{MacAddress, conflict, gratuitous};
use metallb_proto::membership::{Secret, Secrets, Timing};
use metallb_runtime::logs::LogLevel;
use serde::de::DeserializeOwned;

use super::bgp;
use super::bgp::spec::Backend;
use crate::arguments::sort_out;

/// A node that was started so lately has forwarded nothing from before; a speaker that starts later follows another.
const BOOT: Duration = Duration::from_secs(300);

/// Time between two checks on the wire where nothing changed.
const ROUND: Duration = Duration::from_secs(10);

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
    /// How soon a dead node is noticed: Fast or Tolerant. By default Tolerant on nodes of vSphere, and else Fast.
    #[arg(long, value_parser = choice::<Detection>)]
    detection: Option<Detection>,
    /// Gratuitous announcements of an address that is taken over; 0 for none.
    #[arg(long, default_value_t = gratuitous::Settings::default().count)]
    gratuitous_count: u32,
    /// Time between two of them.
    #[arg(long, value_parser = duration::parse, default_value = "1100ms")]
    gratuitous_interval: Duration,
    /// Seconds between two gratuitous announcements of an address for as long as it is announced; 0 for none.
    #[arg(long, default_value_t = 0)]
    gratuitous_arp_interval: u32,
    /// Frames a second that an interface sends unasked, those of a take-over aside.
    #[arg(long, default_value_t = gratuitous::Settings::default().rate, value_parser = clap::value_parser!(u32).range(1..))]
    arp_rate_limit: u32,
    /// How other hosts are asked for an address before it is announced for the first time: Fast, RFC5227 or Off.
    #[arg(long, value_parser = choice::<ConflictProbe>, default_value = "Fast")]
    conflict_probe: ConflictProbe,
    /// What happens when another host has the address: Withhold or Announce.
    #[arg(long, value_parser = choice::<ConflictPolicy>, default_value = "Withhold")]
    conflict_policy: ConflictPolicy,
    /// MAC addresses that are no conflict.
    #[arg(long, value_parser = mac_address, value_delimiter = ',')]
    conflict_ignore_macs: Vec<MacAddress>,
    /// Whether an address returns to a node that is back: Hash or Never.
    #[arg(long, value_parser = choice::<Failback>, default_value = "Hash")]
    failback: Failback,
    /// Whether addresses move away from a cordoned node: Keep or Move.
    #[arg(long, value_parser = choice::<DrainPolicy>, default_value = "Keep")]
    drain_policy: DrainPolicy,
    /// What a node does that lost the majority of the others: Availability or Strict.
    #[arg(long, value_parser = choice::<Fencing>, default_value = "Availability")]
    fencing: Fencing,
    /// When it is checked on the wire that exactly the announcing node answers: OnChange, Continuous or Off.
    #[arg(long, value_parser = choice::<WireCheck>, default_value = "OnChange")]
    wire_check: WireCheck,
    /// HTTP port of /healthz and /readyz on the loopback address.
    #[arg(long, default_value_t = PROBES_PORT)]
    pub(super) health_probe_port: u16,
    /// HTTPS port of /metrics; 0 for none.
    #[arg(long, default_value_t = METRICS_PORT)]
    pub(super) port: u16,
    /// Folder with tls.crt and tls.key for the metrics; by default a certificate is made at start.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) metrics_cert_dir: String,
    /// Prints what the speaker of this node knows, and ends.
    #[arg(long)]
    pub(super) facts: bool,
    /// Prints what the routers need for the BGPPeers as they are, and ends: frr, bird, junos, eos or routeros.
    #[arg(long, value_name = "ROUTER")]
    pub(super) router_config: Option<Dialect>,
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

    /// Where the secret that the speakers share is read; `None` when there is none.
    pub(super) fn secret_folder(&self) -> Option<PathBuf> {
        if self.ml_secret_key_path.is_empty() {
            tracing::warn!("no --ml-secret-key-path: gossip is protected by no secret");
            return None;
        }
        Some(PathBuf::from(&self.ml_secret_key_path))
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

    /// How soon a silent speaker counts as gone; `None` where that depends on the node.
    pub(super) fn timing(&self) -> Option<Timing> {
        match (self.detection, self.ml_wan_config) {
            (Some(Detection::Fast), _) => Some(Timing::FAST),
            (Some(Detection::Tolerant), _) | (None, true) => Some(Timing::TOLERANT),
            (None, false) => None,
        }
    }

    /// How addresses are announced unasked.
    pub(super) fn gratuitous(&self) -> gratuitous::Settings {
        let seconds = u64::from(self.gratuitous_arp_interval);
        gratuitous::Settings {
            count: self.gratuitous_count,
            interval: self.gratuitous_interval,
            repeat: (seconds > 0).then(|| Duration::from_secs(seconds)),
            rate: self.arp_rate_limit,
        }
    }

    /// How other hosts are asked for an address before it is announced.
    pub(super) fn conflict(&self) -> conflict::Settings {
        conflict::Settings {
            probe: match self.conflict_probe {
                ConflictProbe::Fast => Some(conflict::Pace::FAST),
                ConflictProbe::RFC5227 => Some(conflict::Pace::RFC5227),
                ConflictProbe::Off => None,
            },
            withhold: self.conflict_policy == ConflictPolicy::Withhold,
        }
    }

    /// MAC addresses that are no conflict.
    pub(super) fn conflict_ignore_macs(&self) -> BTreeSet<MacAddress> {
        self.conflict_ignore_macs.iter().copied().collect()
    }

    /// Whether an address stays on the node that has it, also when one is back that the election prefers.
    pub(super) fn stays(&self) -> bool {
        self.failback == Failback::Never
    }

    /// Whether a node that lost the majority of the others stops announcing.
    pub(super) fn fences(&self) -> bool {
        self.fencing == Fencing::Strict
    }

    /// How often another node's announcement is checked where nothing changed; `None` for no check at all.
    pub(super) fn wire_check(&self) -> Option<Duration> {
        match self.wire_check {
            WireCheck::OnChange => Some(ROUND),
            WireCheck::Continuous => Some(Duration::ZERO),
            WireCheck::Off => None,
        }
    }

    /// Whether addresses move away from a cordoned node.
    pub(super) fn drains(&self) -> bool {
        self.drain_policy == DrainPolicy::Move
    }
}

/// Reads the secret that the speakers share, and the one that it replaces if there is such a file.
///
/// # Errors
/// When a file cannot be read, naming it.
pub(super) fn read_secrets(folder: &Path) -> anyhow::Result<Secrets> {
    let read = |name: &str| {
        let file = folder.join(name);
        std::fs::read(&file).map(Secret::new).with_context(|| file.display().to_string())
    };
    let current = read(MEMBERLIST_SECRET_KEY)?;
    let previous =
        folder.join(MEMBERLIST_SECRET_PREVIOUS_KEY).exists().then(|| read(MEMBERLIST_SECRET_PREVIOUS_KEY));
    // At rest both are the same.
    let previous = previous.transpose()?.filter(|previous| *previous != current);
    Ok(Secrets { current, previous })
}

/// One of the values of a field of the MetalLB resource, as it is spelled there.
fn choice<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn mac_address(text: &str) -> Result<MacAddress, String> {
    let octets: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|octet| {
            u8::from_str_radix(octet, 16).ok().filter(|_| octet.len() == 2 && !octet.starts_with('+'))
        })
        .collect();
    let octets: Option<[u8; 6]> = octets.and_then(|octets| octets.try_into().ok());
    octets.map(MacAddress).ok_or_else(|| format!("{text:?} is not a MAC address such as 00:00:5e:00:53:01"))
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
        assert_eq!((settings.port, settings.timing()), (7472, Some(Timing::TOLERANT)));
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
    fn every_option_of_the_metallb_resource_arrives() {
        let settings = settings(&[
            "--detection=Tolerant",
            "--conflict-probe=RFC5227",
            "--conflict-policy=Announce",
            "--conflict-ignore-macs=00:00:5e:00:53:01,00-00-5E-00-53-02",
            "--failback=Never",
            "--drain-policy=Move",
            "--fencing=Strict",
            "--wire-check=Continuous",
            "--arp-rate-limit=100",
            "--gratuitous-count=3",
            "--gratuitous-interval=500ms",
            "--gratuitous-arp-interval=60",
        ]);
        assert_eq!(settings.unused, Vec::<String>::new());
        assert_eq!(settings.timing(), Some(Timing::TOLERANT));
        let conflict = conflict::Settings { probe: Some(conflict::Pace::RFC5227), withhold: false };
        assert_eq!(settings.conflict(), conflict);
        let macs = [1, 2].map(|last| MacAddress([0, 0, 0x5e, 0, 0x53, last]));
        assert_eq!(settings.conflict_ignore_macs(), macs.into());
        assert!(settings.stays() && settings.drains() && settings.fences());
        assert_eq!(settings.wire_check(), Some(Duration::ZERO));
        let gratuitous = gratuitous::Settings {
            count: 3,
            interval: Duration::from_millis(500),
            repeat: Some(Duration::from_secs(60)),
            rate: 100,
        };
        assert_eq!(settings.gratuitous(), gratuitous);
    }

    #[test]
    fn defaults_are_those_of_the_metallb_resource() {
        let settings = settings(&[]);
        assert_eq!(settings.timing(), None);
        assert_eq!(settings.gratuitous(), gratuitous::Settings::default());
        let conflict = conflict::Settings { probe: Some(conflict::Pace::FAST), withhold: true };
        assert_eq!(settings.conflict(), conflict);
        assert!(!settings.stays() && !settings.drains() && !settings.fences());
        assert_eq!(settings.wire_check(), Some(ROUND));
    }

    #[test]
    fn values_that_are_none_are_refused_with_those_that_are() {
        assert_eq!(
            choice::<Detection>("fast"),
            Err("unknown variant `fast`, expected `Fast` or `Tolerant`".to_owned())
        );
        for text in
            ["00005e005301", "00:00:5e:00:53", "00:00:5e:00:53:01:02", "0:0:5e:0:53:1", "+1:00:5e:00:53:01"]
        {
            assert!(mac_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_that_is_missing_is_named() {
        let error = read_secrets(Path::new("/nowhere")).unwrap_err();
        assert_eq!(format!("{error:#}"), "/nowhere/secretkey: No such file or directory (os error 2)");
    }

    #[test]
    fn a_previous_secret_is_read_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secretkey"), "new").unwrap();
        let current = Secret::new("new");
        assert_eq!(read_secrets(folder.path()).unwrap(), current.clone().into());
        std::fs::write(folder.path().join("secretkey-previous"), "old").unwrap();
        let want = Secrets { current: current.clone(), previous: Some(Secret::new("old")) };
        assert_eq!(read_secrets(folder.path()).unwrap(), want);
        std::fs::write(folder.path().join("secretkey-previous"), "new").unwrap();
        assert_eq!(read_secrets(folder.path()).unwrap(), current.into(), "nothing is being replaced");
    }
}
