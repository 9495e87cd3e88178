//! The operator's environment, read once: every mistake in it is named, not only the first.

use std::{collections::BTreeMap, fmt, time::Duration};

use metallb_api::{Monitors, names};

/// What the operator was told by its Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The operator's namespace, where the load balancer is installed.
    pub namespace: String,
    /// Name of the operator's pod: its identity as a leader.
    pub pod_name: String,
    /// Image of the controller, used as it stands.
    pub controller_image: String,
    /// Image of the speaker, used as it stands.
    pub speaker_image: String,
    /// Version of the operands, for status and labels.
    pub version: String,
    /// Ports of the operands.
    pub ports: Ports,
    /// What a MetalLB resource leaves open.
    pub defaults: Defaults,
    /// Whether a MetalLB resource is made, once, when there is none.
    pub create_metallb: bool,
    /// The OperatorCondition by which OLM asks whether the operator may be upgraded, if OLM installed it.
    pub operator_condition: Option<String>,
}

/// What is done where a MetalLB resource says nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Whether there are NetworkPolicies.
    pub network_policies: bool,
    /// How metrics are found.
    pub monitors: Monitors,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { network_policies: true, monitors: Monitors::None }
    }
}

/// Ports that the operands open on the pod or, for the speaker, on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Metrics over HTTPS.
    pub metrics: u16,
    /// Probes over HTTP.
    pub probes: u16,
    /// Gossip of the speakers.
    pub memberlist: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { metrics: names::METRICS_PORT, probes: names::PROBES_PORT, memberlist: names::MEMBERLIST_PORT }
    }
}

/// How long a request to the API server may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is wrong with one environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the variable.
    pub variable: &'static str,
    /// What is wrong with its value.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.message)
    }
}

/// All that is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment is not usable: {}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "))]
pub struct Problems(pub Vec<Problem>);

impl Settings {
    /// Reads the settings through `lookup`, which gives the value of a variable.
    ///
    /// # Errors
    /// Every variable that is missing or has a value that cannot be used.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let mut environment = Environment { lookup, problems: Vec::new() };
        let ports = Ports {
            metrics: environment.port("METRICS_PORT", names::METRICS_PORT),
            probes: environment.port("OPERAND_LIVENESS_PORT", names::PROBES_PORT),
            memberlist: environment.port("MEMBER_LIST_BIND_PORT", names::MEMBERLIST_PORT),
        };
        environment.distinct([
            ("METRICS_PORT", ports.metrics),
            ("OPERAND_LIVENESS_PORT", ports.probes),
            ("MEMBER_LIST_BIND_PORT", ports.memberlist),
        ]);
        let defaults = Defaults {
            network_policies: !environment.flag("DISABLE_NETWORK_POLICIES"),
            monitors: environment.monitors(),
        };
        let settings = Self {
            namespace: environment.required("OPERATOR_NAMESPACE"),
            pod_name: environment.required("POD_NAME"),
            controller_image: environment.image("CONTROLLER_IMAGE"),
            speaker_image: environment.image("SPEAKER_IMAGE"),
            version: environment.text("OPERAND_VERSION", env!("CARGO_PKG_VERSION")),
            ports,
            defaults,
            create_metallb: environment.flag("CREATE_METALLB"),
            operator_condition: (environment.lookup)("OPERATOR_CONDITION_NAME")
                .filter(|name| !name.is_empty()),
        };
        if environment.problems.is_empty() { Ok(settings) } else { Err(Problems(environment.problems)) }
    }
}

struct Environment<L> {
    lookup: L,
    problems: Vec<Problem>,
}

impl<L: Fn(&str) -> Option<String>> Environment<L> {
    fn problem(&mut self, variable: &'static str, message: impl Into<String>) {
        self.problems.push(Problem { variable, message: message.into() });
    }

    fn required(&mut self, variable: &'static str) -> String {
        let value = (self.lookup)(variable).unwrap_or_default();
        if value.is_empty() {
            self.problem(variable, "is not set");
        }
        value
    }

    fn text(&self, variable: &str, default: &str) -> String {
        (self.lookup)(variable).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
    }

    /// A container image. Its tag and digest are the container runtime's to judge; what no runtime could take as
    /// one word is refused here.
    fn image(&mut self, variable: &'static str) -> String {
        let value = self.required(variable);
        if value.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
            self.problem(variable, format!("{value:?} is not an image: it holds white space"));
        }
        value
    }

    fn port(&mut self, variable: &'static str, default: u16) -> u16 {
        let Some(value) = (self.lookup)(variable).filter(|value| !value.is_empty()) else { return default };
        match value.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => {
                self.problem(variable, format!("{value:?} is not a port: it must be 1 to 65535"));
                default
            }
        }
    }

    /// Whether a variable is true; it is not when it is not set.
    fn flag(&mut self, variable: &'static str) -> bool {
        let value = (self.lookup)(variable).unwrap_or_default();
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" | "" => false,
            _ => {
                self.problem(variable, format!("{value:?} is neither true nor false"));
                false
            }
        }
    }

    fn monitors(&mut self) -> Monitors {
        match (self.flag("DEPLOY_SERVICEMONITORS"), self.flag("DEPLOY_PODMONITORS")) {
            (true, true) => {
                self.problem(
                    "DEPLOY_PODMONITORS",
                    "excludes DEPLOY_SERVICEMONITORS: metrics would be read twice",
                );
                Monitors::None
            }
            (true, false) => Monitors::ServiceMonitor,
            (false, true) => Monitors::PodMonitor,
            (false, false) => Monitors::None,
        }
    }

    fn distinct<const N: usize>(&mut self, ports: [(&'static str, u16); N]) {
        let mut taken = BTreeMap::new();
        for (variable, port) in ports {
            if let Some(other) = taken.insert(port, variable) {
                self.problem(variable, format!("port {port} is that of {other} too"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Settings::read(|name| variables.get(name).map(|&value| value.to_owned()))
            .map_err(|problems| problems.to_string())
    }

    const REQUIRED: [(&str, &str); 4] = [
        ("OPERATOR_NAMESPACE", "metallb-system"),
        ("POD_NAME", "metallb-operator-1"),
        ("CONTROLLER_IMAGE", "registry.example:5000/metallb/controller:v1@sha256:0123"),
        ("SPEAKER_IMAGE", "localhost/metallb/speaker:0.1.0"),
    ];

    #[test]
    fn images_are_used_as_they_stand_and_ports_have_defaults() {
        assert_eq!(
            read(&REQUIRED),
            Ok(Settings {
                namespace: "metallb-system".to_owned(),
                pod_name: "metallb-operator-1".to_owned(),
                controller_image: "registry.example:5000/metallb/controller:v1@sha256:0123".to_owned(),
                speaker_image: "localhost/metallb/speaker:0.1.0".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ports: Ports { metrics: 9120, probes: 17472, memberlist: 7946 },
                defaults: Defaults { network_policies: true, monitors: Monitors::None },
                create_metallb: false,
                operator_condition: None,
            })
        );
    }

    #[test]
    fn variables_of_the_go_operator_that_mean_nothing_here_are_no_problem() {
        let mut variables = REQUIRED.to_vec();
        let without_them = read(&variables);
        variables.extend([
            ("FRR_IMAGE", ""),
            ("FRRK8S_IMAGE", "quay.io/frr:1"),
            ("DEPLOY_FRRK8S_FROM_CNO", "true"),
            ("CNO_MIN_FRRK8S_VERSION", ""),
            ("FRR_METRICS_PORT", "9120"),
            ("ENABLE_OPERATOR_WEBHOOK", "perhaps"),
            ("HTTPS_METRICS_PORT", "0"),
        ]);
        assert_eq!(read(&variables), without_them);
    }

    #[test]
    fn every_problem_is_named() {
        let wrong = [
            ("OPERATOR_NAMESPACE", "metallb-system"),
            ("CONTROLLER_IMAGE", "two words"),
            ("METRICS_PORT", "65536"),
            ("OPERAND_LIVENESS_PORT", "7946"),
            ("MEMBER_LIST_BIND_PORT", ""),
            ("DISABLE_NETWORK_POLICIES", "yes please"),
            ("CREATE_METALLB", "maybe"),
            ("DEPLOY_SERVICEMONITORS", "true"),
            ("DEPLOY_PODMONITORS", "True"),
        ];
        assert_eq!(
            read(&wrong),
            Err("the environment is not usable: \
                 METRICS_PORT: \"65536\" is not a port: it must be 1 to 65535; \
                 MEMBER_LIST_BIND_PORT: port 7946 is that of OPERAND_LIVENESS_PORT too; \
                 DISABLE_NETWORK_POLICIES: \"yes please\" is neither true nor false; \
                 DEPLOY_PODMONITORS: excludes DEPLOY_SERVICEMONITORS: metrics would be read twice; \
                 POD_NAME: is not set; \
                 CONTROLLER_IMAGE: \"two words\" is not an image: it holds white space; \
                 SPEAKER_IMAGE: is not set; \
                 CREATE_METALLB: \"maybe\" is neither true nor false"
                .to_owned())
        );
    }

    #[test]
    fn zero_negative_and_words_are_not_ports() {
        for value in ["0", "-1", "http", "9120 "] {
            let mut variables = REQUIRED.to_vec();
            variables.push(("METRICS_PORT", value));
            assert_eq!(
                read(&variables),
                Err(format!(
                    "the environment is not usable: METRICS_PORT: {value:?} is not a port: it must be 1 to 65535"
                ))
            );
        }
    }
}
