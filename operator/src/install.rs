//! From the spec of a MetalLB resource to an installation that can be rendered, or every problem in it.
//!
//! Pure. The API server would refuse most of what is refused here too, but one object at a time and only when it is
//! applied; here every problem is named before anything is changed.

mod options;
mod pod;
mod quantity;
mod syntax;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::core::v1::{Affinity, ResourceRequirements, Toleration},
    apimachinery::pkg::util::intstr::IntOrString,
};
use metallb_api::{LogLevel, MetalLB, PoolEditPolicy, WorkloadConfig};

pub use options::{Network, Upgrade, Watched};

use crate::settings::Defaults;

/// Annotation by which an administrator accepts that BGP sessions which others rely on end.
pub const ACCEPT_BGP_LOSS: &str = "metallb.io/accept-bgp-loss";

/// An installation whose every part can be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Install {
    /// How much the programs log.
    pub log_level: LogLevel,
    /// Class of the Services that are served; without it, those without a class.
    pub load_balancer_class: Option<String>,
    /// Who the administrator expects to speak BGP.
    pub bgp_backend: BgpBackend,
    /// The controller's pod.
    pub controller: Workload,
    /// How many controllers run, one of which is at work.
    pub replicas: i32,
    /// What happens to an address that its pool loses.
    pub pool_edit_policy: Option<PoolEditPolicy>,
    /// The speakers' pods.
    pub speaker: Workload,
    /// How many speakers may be replaced at a time.
    pub max_unavailable: IntOrString,
    /// Whether the speakers listen for BGP.
    pub bgp_listen: bool,
    /// Whether nodes announce that are labelled to take no load-balancer traffic.
    pub ignore_exclude_lb: bool,
    /// Patterns of interfaces that never announce; `None` for the default list.
    pub excluded_interfaces: Option<Vec<String>>,
    /// Flags of the speaker for layer 2.
    pub layer2: Vec<String>,
    /// Names of Secrets with which images are pulled.
    pub image_pull_secrets: Vec<String>,
    /// What the pods may reach; `None` for no NetworkPolicies.
    pub network: Option<Network>,
    /// Objects of the Prometheus Operator.
    pub monitoring: Watched,
    /// How a new version is rolled out.
    pub upgrade: Upgrade,
}

/// Values of `spec.bgpBackend`. All of them are served by the speaker itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BgpBackend {
    /// The speaker's own.
    #[default]
    Native,
    /// FRR beside the speaker.
    Frr,
    /// FRR in a DaemonSet of its own.
    FrrK8s,
    /// FRR in a DaemonSet that somebody else installed.
    FrrK8sExternal,
}

impl BgpBackend {
    /// As it is written in the resource.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Frr => "frr",
            Self::FrrK8s => "frr-k8s",
            Self::FrrK8sExternal => "frr-k8s-external",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Native, Self::Frr, Self::FrrK8s, Self::FrrK8sExternal]
            .into_iter()
            .find(|backend| backend.as_str() == text)
    }
}

/// What an administrator chooses of a workload's pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// Labels of the nodes, in addition to the operating system's.
    pub node_selector: BTreeMap<String, String>,
    /// In addition to the built-in ones.
    pub tolerations: Vec<Toleration>,
    /// Name of a PriorityClass.
    pub priority_class_name: Option<String>,
    /// Name of a RuntimeClass.
    pub runtime_class_name: Option<String>,
    /// Annotations of the pods.
    pub annotations: BTreeMap<String, String>,
    /// Affinity of the pods.
    pub affinity: Option<Affinity>,
    /// Requests and limits of the container, in canonical form.
    pub resources: Option<ResourceRequirements>,
}

/// What is wrong with one field of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.speakerTolerations[0].effect`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Collects problems while a resource is read.
#[derive(Debug, Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { field: field.into(), message: message.into() });
    }

    /// Adds what `judged` says about `value`.
    fn check(&mut self, field: impl Into<String>, value: &str, judged: Result<(), String>) {
        if let Err(problem) = judged {
            self.add(field, format!("{value:?} {problem}"));
        }
    }
}

/// Reads `resource`. What it leaves open is as in `defaults`.
///
/// # Errors
/// Every problem of its spec.
pub fn parse(resource: &MetalLB, defaults: Defaults) -> Result<Install, Vec<Problem>> {
    let mut problems = Problems::default();
    let spec = &resource.spec;
    let replicas = spec.controller_config.as_ref().and_then(|config| config.replicas).unwrap_or(1);
    if !(1..=10).contains(&replicas) {
        problems.add("spec.controllerConfig.replicas", format!("{replicas} is not between 1 and 10"));
    }
    let install = Install {
        log_level: spec.log_level.unwrap_or(LogLevel::Info),
        load_balancer_class: load_balancer_class(spec.load_balancer_class.as_deref(), &mut problems),
        bgp_backend: bgp_backend(resource, &mut problems),
        controller: workload(
            ("spec.controllerNodeSelector", &spec.controller_node_selector),
            ("spec.controllerTolerations", &spec.controller_tolerations),
            ("spec.controllerConfig", spec.controller_config.as_ref().map(|config| &config.pod)),
            &mut problems,
        ),
        speaker: workload(
            ("spec.nodeSelector", &spec.node_selector),
            ("spec.speakerTolerations", &spec.speaker_tolerations),
            ("spec.speakerConfig", spec.speaker_config.as_ref().map(|config| &config.pod)),
            &mut problems,
        ),
        replicas,
        pool_edit_policy: spec.pool_edit_policy,
        max_unavailable: options::max_unavailable(spec.speaker_config.as_ref(), &mut problems),
        bgp_listen: spec.speaker_config.as_ref().and_then(|config| config.bgp_listen).unwrap_or(false),
        ignore_exclude_lb: spec.ignore_exclude_lb.unwrap_or(false),
        excluded_interfaces: options::excluded_interfaces(spec, &mut problems),
        layer2: options::layer2(spec, &mut problems),
        image_pull_secrets: options::image_pull_secrets(spec, &mut problems),
        network: options::network(spec.network_policies.as_ref(), defaults.network_policies, &mut problems),
        monitoring: options::monitoring(spec.monitoring.as_ref(), defaults.monitors),
        upgrade: options::upgrade(spec.upgrade_policy.as_ref(), &mut problems),
    };
    if problems.0.is_empty() { Ok(install) } else { Err(problems.0) }
}

/// What is wrong with values that are for FRR, which nothing here reads: they are refused where they come in, and stop
/// no installation.
#[must_use]
pub fn unread(resource: &MetalLB) -> Vec<Problem> {
    let mut problems = Problems::default();
    let frr = resource.spec.frrk8s_config.as_ref();
    for (at, prefix) in frr.iter().flat_map(|config| &config.always_block).enumerate() {
        if prefix.trim().parse::<ipnet::IpNet>().is_err() {
            let field = format!("spec.frrk8sConfig.alwaysBlock[{at}]");
            problems.add(field, format!("{prefix:?} is not a CIDR prefix such as 192.0.2.0/24"));
        }
    }
    if let Some(namespace) = frr.and_then(|config| config.namespace.as_deref()) {
        problems.check("spec.frrk8sConfig.namespace", namespace, syntax::subdomain(namespace));
    }
    problems.0
}

fn load_balancer_class(class: Option<&str>, problems: &mut Problems) -> Option<String> {
    let class = class.filter(|class| !class.is_empty())?;
    problems.check("spec.loadBalancerClass", class, syntax::qualified_name(class));
    Some(class.to_owned())
}

fn bgp_backend(resource: &MetalLB, problems: &mut Problems) -> BgpBackend {
    let spec = &resource.spec;
    let Some(text) = spec.bgp_backend.as_deref().filter(|text| !text.is_empty()) else {
        return BgpBackend::default();
    };
    let Some(backend) = BgpBackend::parse(text) else {
        problems
            .add("spec.bgpBackend", format!("{text:?} is not one of native, frr, frr-k8s, frr-k8s-external"));
        return BgpBackend::default();
    };
    let accepted = resource.metadata.annotations.as_ref().and_then(|all| all.get(ACCEPT_BGP_LOSS));
    if backend == BgpBackend::FrrK8sExternal && accepted.is_none_or(|value| value != "true") {
        problems.add(
            "spec.bgpBackend",
            format!(
                "with frr-k8s-external the BGP sessions belong to an frr-k8s that others installed and may use; \
                 the speaker would open its own in their place. Remove the field, or set annotation \
                 {ACCEPT_BGP_LOSS}: \"true\" to have it so"
            ),
        );
    }
    backend
}

fn workload(
    (selector_field, node_selector): (&str, &BTreeMap<String, String>),
    (tolerations_field, tolerations): (&str, &[Toleration]),
    (config_field, config): (&str, Option<&WorkloadConfig>),
    problems: &mut Problems,
) -> Workload {
    pod::check_node_selector(selector_field, node_selector, problems);
    pod::check_tolerations(tolerations_field, tolerations, problems);
    let mut workload = Workload {
        node_selector: node_selector.clone(),
        tolerations: tolerations.to_vec(),
        ..Workload::default()
    };
    let Some(config) = config else { return workload };
    let class = |field: &str, name: &Option<String>, problems: &mut Problems| {
        let name = name.as_deref().filter(|name| !name.is_empty())?;
        problems.check(format!("{config_field}.{field}"), name, syntax::subdomain(name));
        Some(name.to_owned())
    };
    workload.priority_class_name = class("priorityClassName", &config.priority_class_name, problems);
    workload.runtime_class_name = class("runtimeClassName", &config.runtime_class_name, problems);
    for key in config.annotations.keys() {
        let judged = syntax::qualified_name(&key.to_ascii_lowercase());
        problems.check(format!("{config_field}.annotations"), key, judged);
    }
    workload.annotations = config.annotations.clone();
    if let Some(affinity) = &config.affinity {
        pod::check_affinity(&format!("{config_field}.affinity"), affinity, problems);
    }
    workload.affinity = config.affinity.clone();
    workload.resources = config
        .resources
        .as_ref()
        .map(|resources| pod::canonical_resources(&format!("{config_field}.resources"), resources, problems));
    workload
}

#[cfg(test)]
mod tests;
