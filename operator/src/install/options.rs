//! The fields that upstream's MetalLB resource does not have.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use metallb_api::{
    Approval, Gratuitous, Layer2, MetalLBSpec, Monitoring, Monitors, NetworkPolicies, OnFailure,
    SpeakerConfig, UpgradePolicy,
};

use metallb_core::config::duration;

use super::{Problems, syntax};

/// How a new version is rolled out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// What happens when it makes no progress.
    pub on_failure: OnFailure,
    /// For how long it may make none.
    pub progress_deadline: Duration,
    /// The version that it waits for an administrator to name; `None` when it does not wait.
    pub waits_for: Option<String>,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self { on_failure: OnFailure::Pause, progress_deadline: Duration::from_secs(600), waits_for: None }
    }
}

/// What MetalLB's own pods may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Port of the API server.
    pub api_port: u16,
    /// Whether DNS may be asked.
    pub dns: bool,
}

/// Objects of the Prometheus Operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// How metrics are found.
    pub monitors: Monitors,
    /// Whether alerts are defined.
    pub alerts: bool,
}

pub(super) fn upgrade(policy: Option<&UpgradePolicy>, problems: &mut Problems) -> Upgrade {
    let default = Upgrade::default();
    let Some(policy) = policy else { return default };
    let field = "spec.upgradePolicy.progressDeadline";
    let progress_deadline =
        policy.progress_deadline.as_deref().and_then(|text| duration(field, text, problems));
    let approved = policy.approved_version.clone().unwrap_or_default();
    Upgrade {
        on_failure: policy.on_failure.unwrap_or_default(),
        progress_deadline: progress_deadline.unwrap_or(default.progress_deadline),
        waits_for: (policy.approval == Some(Approval::Manual)).then_some(approved),
    }
}

/// A duration above zero, as Go writes it.
fn duration(field: &str, text: &str, problems: &mut Problems) -> Option<Duration> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => problems.add(field, format!("{text:?} is no time at all")),
        Ok(duration) => return Some(duration),
        Err(error) => problems.add(field, error.to_string()),
    }
    None
}

pub(super) fn max_unavailable(config: Option<&SpeakerConfig>, problems: &mut Problems) -> IntOrString {
    let chosen = config.and_then(|config| config.max_unavailable.clone()).unwrap_or(IntOrString::Int(1));
    let number = match &chosen {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => match text.strip_suffix('%').and_then(|text| text.parse::<u8>().ok()) {
            Some(percentage) if percentage <= 100 => i64::from(percentage),
            _ => -1,
        },
    };
    if number < 1 {
        let shown = match &chosen {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => format!("{text:?}"),
        };
        let message =
            format!("{shown} is neither a number of pods above zero nor a percentage from 1% to 100%");
        problems.add("spec.speakerConfig.maxUnavailable", message);
    }
    chosen
}

pub(super) fn image_pull_secrets(spec: &MetalLBSpec, problems: &mut Problems) -> Vec<String> {
    let mut names = Vec::new();
    for (at, reference) in spec.image_pull_secrets.iter().enumerate() {
        let judged = syntax::subdomain(&reference.name);
        problems.check(format!("spec.imagePullSecrets[{at}].name"), &reference.name, judged);
        names.push(reference.name.clone());
    }
    names
}

/// `None` when the default list is meant.
pub(super) fn excluded_interfaces(spec: &MetalLBSpec, problems: &mut Problems) -> Option<Vec<String>> {
    let patterns = spec.excluded_interfaces.as_ref()?;
    for (at, pattern) in patterns.iter().enumerate() {
        if let Err(error) = regex::Regex::new(pattern) {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            problems.add(
                format!("spec.excludedInterfaces[{at}]"),
                format!("{pattern:?} is not a regular expression: {reason}"),
            );
        }
    }
    Some(patterns.clone())
}

/// `None` when there are to be no policies; `by_default` is what the operator's environment says.
pub(super) fn network(
    policies: Option<&NetworkPolicies>,
    by_default: bool,
    problems: &mut Problems,
) -> Option<Network> {
    let enabled = policies.and_then(|policies| policies.enabled).unwrap_or(by_default);
    let api_port = policies.and_then(|policies| policies.api_port).unwrap_or(6443);
    if api_port == 0 {
        problems.add("spec.networkPolicies.apiPort", "0 is not a port: it must be 1 to 65535");
    }
    let dns = policies.and_then(|policies| policies.dns).unwrap_or(true);
    enabled.then_some(Network { api_port, dns })
}

pub(super) fn monitoring(monitoring: Option<&Monitoring>, by_default: Monitors) -> Watched {
    let monitors = monitoring.and_then(|monitoring| monitoring.monitors).unwrap_or(by_default);
    let alerts = monitoring.and_then(|monitoring| monitoring.alerts);
    Watched { monitors, alerts: alerts.unwrap_or(monitors != Monitors::None) }
}

/// Flags of the speaker.
pub(super) fn layer2(spec: &MetalLBSpec, problems: &mut Problems) -> Vec<String> {
    let gratuitous = spec.layer2.as_ref().and_then(|layer2| layer2.gratuitous.as_ref());
    let mut flags = spec.layer2.as_ref().map(|layer2| choices(layer2, problems)).unwrap_or_default();
    flags.extend(gratuitous.map(|gratuitous| gratuitous_flags(gratuitous, problems)).unwrap_or_default());
    let is_repeated = gratuitous.is_some_and(|gratuitous| gratuitous.repeat.is_some());
    // Goes by another name where the Go operator is configured. There, 0 means never.
    if let Some(text) = spec.speaker_gratuitous_arp_interval.as_deref().filter(|_| !is_repeated) {
        match duration::parse(text) {
            Ok(Duration::ZERO) => {}
            Ok(interval) => flags.push(repeated(interval)),
            Err(error) => problems.add("spec.speakerGratuitousARPInterval", error.to_string()),
        }
    }
    flags
}

/// Whole seconds, as upstream's flag of this name has them.
fn repeated(interval: Duration) -> String {
    format!("--gratuitous-arp-interval={}", interval.as_secs().max(1))
}

fn choices(layer2: &Layer2, problems: &mut Problems) -> Vec<String> {
    let mut flags = Vec::new();
    let mut choice = |flag: &str, value: Option<&str>| {
        flags.extend(value.map(|value| format!("--{flag}={value}")));
    };
    choice("detection", layer2.detection.map(|value| value.as_str()));
    choice("conflict-probe", layer2.conflict_probe.map(|value| value.as_str()));
    choice("conflict-policy", layer2.conflict_policy.map(|value| value.as_str()));
    choice("fencing", layer2.fencing.map(|value| value.as_str()));
    choice("failback", layer2.failback.map(|value| value.as_str()));
    choice("drain-policy", layer2.drain_policy.map(|value| value.as_str()));
    choice("wire-check", layer2.wire_check.map(|value| value.as_str()));
    flags.extend(layer2.arp_rate_limit.map(|limit| format!("--arp-rate-limit={limit}")));
    for (at, address) in layer2.conflict_ignore_macs.iter().enumerate() {
        if !is_mac_address(address) {
            let message = format!("{address:?} is not a MAC address such as 00:00:5e:00:53:01");
            problems.add(format!("spec.layer2.conflictIgnoreMACs[{at}]"), message);
        }
    }
    if !layer2.conflict_ignore_macs.is_empty() {
        flags.push(format!("--conflict-ignore-macs={}", layer2.conflict_ignore_macs.join(",")));
    }
    flags
}

fn gratuitous_flags(gratuitous: &Gratuitous, problems: &mut Problems) -> Vec<String> {
    let mut flags = Vec::new();
    flags.extend(gratuitous.count.map(|count| format!("--gratuitous-count={count}")));
    if let Some(text) = &gratuitous.interval {
        let interval = duration("spec.layer2.gratuitous.interval", text, problems);
        flags.extend(interval.map(|interval| format!("--gratuitous-interval={}ms", interval.as_millis())));
    }
    if let Some(text) = &gratuitous.repeat {
        let repeat = duration("spec.layer2.gratuitous.repeat", text, problems);
        flags.extend(repeat.map(repeated));
    }
    flags
}

fn is_mac_address(text: &str) -> bool {
    let octets: Vec<_> = text.split([':', '-']).collect();
    let is_octet = |octet: &&str| octet.len() == 2 && octet.chars().all(|digit| digit.is_ascii_hexdigit());
    octets.len() == 6 && octets.iter().all(is_octet)
}
