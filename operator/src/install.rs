//! From the spec of a MetalLB resource to an installation that can be rendered, or every problem in it.
//!
//! Pure. The API server would refuse most of what is refused here too, but one object at a time and only when it is
//! applied; here every problem is named before anything is changed.

mod pod;
mod quantity;
mod syntax;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use metallb_api::{LogLevel, MetalLB, WorkloadConfig};

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
    /// The speakers' pods.
    pub speaker: Workload,
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

/// Reads `resource`.
///
/// # Errors
/// Every problem of its spec.
pub fn parse(resource: &MetalLB) -> Result<Install, Vec<Problem>> {
    let mut problems = Problems::default();
    let spec = &resource.spec;
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
    };
    if problems.0.is_empty() { Ok(install) } else { Err(problems.0) }
}

fn load_balancer_class(class: Option<&str>, problems: &mut Problems) -> Option<String> {
    let class = class.filter(|class| !class.is_empty())?;
    problems.check("spec.loadBalancerClass", class, syntax::qualified_name(class));
    Some(class.to_owned())
}

fn bgp_backend(resource: &MetalLB, problems: &mut Problems) -> BgpBackend {
    let spec = &resource.spec;
    let frr = spec.frrk8s_config.as_ref();
    for (at, prefix) in frr.iter().flat_map(|config| &config.always_block).enumerate() {
        if prefix.trim().parse::<ipnet::IpNet>().is_err() {
            let field = format!("spec.frrk8sConfig.alwaysBlock[{at}]");
            problems.add(field, format!("{prefix:?} is not a CIDR prefix such as 192.0.2.0/24"));
        }
    }
    if let Some(namespace) = frr.and_then(|config| config.namespace.as_deref()) {
        problems.check("spec.frrk8sConfig.namespace", namespace, syntax::subdomain(namespace));
    }
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
mod tests {
    use super::*;

    fn parse_yaml(yaml: &str) -> Result<Install, Vec<String>> {
        let resource: MetalLB = serde_saphyr::from_str(yaml).unwrap();
        parse(&resource).map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    const EMPTY: &str =
        "{apiVersion: metallb.io/v1beta1, kind: MetalLB, metadata: {name: metallb}, spec: {}}";

    fn with_spec(spec: &str) -> Result<Install, Vec<String>> {
        parse_yaml(&EMPTY.replace("spec: {}", &format!("spec: {{{spec}}}")))
    }

    #[test]
    fn an_empty_spec_is_an_installation() {
        let want = Install {
            log_level: LogLevel::Info,
            load_balancer_class: None,
            bgp_backend: BgpBackend::Native,
            controller: Workload::default(),
            speaker: Workload::default(),
        };
        assert_eq!(parse_yaml(EMPTY), Ok(want.clone()));
        let without_words =
            "bgpBackend: '', loadBalancerClass: '', image: gone, speakerConfig: {priorityClassName: ''}";
        assert_eq!(with_spec(without_words), Ok(want));
    }

    #[test]
    fn every_problem_of_a_spec_is_named() {
        let problems = with_spec(
            "nodeSelector: {'a b': c, d: 'e f'}, \
             speakerTolerations: [{key: a, operator: Exist}, {effect: NoExecutes, operator: Exists}], \
             controllerTolerations: [{key: a, operator: Exists, value: b, tolerationSeconds: 0}, {value: c}], \
             bgpBackend: bird, loadBalancerClass: 'a//b', \
             frrk8sConfig: {alwaysBlock: [' 192.0.2.0/24 ', 192.0.2.1], namespace: \"a\\nhostPID: true\"}, \
             speakerConfig: {runtimeClassName: \"a\\nb\", annotations: {'': x}}",
        );
        assert_eq!(
            problems,
            Err([
                "spec.loadBalancerClass: \"a//b\" must consist of letters, digits, '-', '_' and '.', and begin and \
                 end with a letter or digit",
                "spec.frrk8sConfig.alwaysBlock[1]: \"192.0.2.1\" is not a CIDR prefix such as 192.0.2.0/24",
                "spec.frrk8sConfig.namespace: \"a\\nhostPID: true\" must consist of lower case letters, digits, '-' \
                 and '.', and begin and end each part with a letter or digit",
                "spec.bgpBackend: \"bird\" is not one of native, frr, frr-k8s, frr-k8s-external",
                "spec.controllerTolerations[0].value: must be empty with operator Exists",
                "spec.controllerTolerations[0].effect: must be NoExecute where tolerationSeconds is set",
                "spec.controllerTolerations[1].operator: must be Exists where key is empty",
                "spec.nodeSelector: \"a b\" must consist of letters, digits, '-', '_' and '.', and begin and end \
                 with a letter or digit",
                "spec.nodeSelector[d]: \"e f\" must consist of letters, digits, '-', '_' and '.', and begin and end \
                 with a letter or digit",
                "spec.speakerTolerations[0].operator: \"Exist\" is not one of Equal, Exists",
                "spec.speakerTolerations[1].effect: \"NoExecutes\" is not one of NoSchedule, PreferNoSchedule, \
                 NoExecute",
                "spec.speakerConfig.runtimeClassName: \"a\\nb\" must consist of lower case letters, digits, '-' and \
                 '.', and begin and end each part with a letter or digit",
                "spec.speakerConfig.annotations: \"\" must consist of letters, digits, '-', '_' and '.', and begin \
                 and end with a letter or digit",
            ]
            .map(str::to_owned)
            .to_vec())
        );
    }

    #[test]
    fn bgp_that_others_use_is_given_up_only_by_annotation() {
        let external = "bgpBackend: frr-k8s-external";
        let problems = with_spec(external).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("spec.bgpBackend: with frr-k8s-external"), "{problems:?}");
        let annotated = EMPTY
            .replace("name: metallb", "name: metallb, annotations: {metallb.io/accept-bgp-loss: 'true'}")
            .replace("spec: {}", &format!("spec: {{{external}}}"));
        assert_eq!(parse_yaml(&annotated).map(|install| install.bgp_backend), Ok(BgpBackend::FrrK8sExternal));
    }

    #[test]
    fn affinity_is_judged_whole() {
        let problems = with_spec(
            "speakerConfig: {affinity: {\
               nodeAffinity: {\
                 requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}, \
                 preferredDuringSchedulingIgnoredDuringExecution: [\
                   {weight: 0, preference: {matchExpressions: [{key: a, operator: Near}]}}]}, \
               podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [\
                   {topologyKey: '', labelSelector: {matchExpressions: [{key: a, operator: In}]}}]}, \
               podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [\
                   {weight: 101, podAffinityTerm: {topologyKey: kubernetes.io/hostname}}]}}}",
        );
        let at = "spec.speakerConfig.affinity";
        assert_eq!(
            problems,
            Err([
                ".nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: must not be empty",
                ".nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: 0 is not between 1 and 100",
                ".nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]\
                 .operator: \"Near\" is not one of In, NotIn, Exists, DoesNotExist, Gt, Lt",
                ".podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: must not be empty",
                ".podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector.matchExpressions[0]\
                 .values: must not be empty with operator In",
                ".podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: 101 is not between 1 \
                 and 100",
            ]
            .map(|problem| format!("{at}{problem}"))
            .to_vec())
        );
    }

    #[test]
    fn resources_take_their_canonical_form() {
        let install = with_spec(
            "speakerConfig: {resources: {requests: {cpu: 0.5, memory: 1024Mi}, limits: {cpu: '1'}}}",
        )
        .unwrap();
        let resources = serde_json::to_value(install.speaker.resources).unwrap();
        assert_eq!(
            resources,
            serde_json::json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}})
        );
        assert_eq!(
            with_spec(
                "controllerConfig: {resources: {claims: [{name: gpu}], requests: {cpu: -1, memory: 2Gi, 'a b': 1}, \
                 limits: {memory: 1Gi, cpu: lots}}}"
            ),
            Err([
                "claims: the pod has no resource claims to name",
                "limits[cpu]: \"lots\" is not a quantity such as 250m or 64Mi",
                "requests[a b]: \"a b\" must consist of letters, digits, '-', '_' and '.', and begin and end with a \
                 letter or digit",
                "requests[cpu]: -1 is less than nothing",
                "requests[memory]: 2Gi is more than the limit of 1Gi",
            ]
            .map(|problem| format!("spec.controllerConfig.resources.{problem}"))
            .to_vec())
        );
    }
}
