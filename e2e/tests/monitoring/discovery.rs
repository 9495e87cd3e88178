//! What Prometheus finds by asking Kubernetes, which Debian's was built without: targets with the labels of
//! `kubernetes_sd_config`, as far as the Prometheus Operator looks at them. Which of them are asked, and how, is left to
//! the configuration.
//!
//! <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config>

use std::collections::BTreeMap;

use metallb_api::bundle::objects::{items, name};
use serde_json::{Value, json};

/// The kinds of targets, as the configuration names them.
pub(crate) const ROLES: [&str; 2] = ["pod", "endpointslice"];

/// What there is in the namespace of the installation.
pub(crate) struct Seen {
    pub(crate) pods: Vec<Value>,
    pub(crate) services: Vec<Value>,
    pub(crate) slices: Vec<Value>,
}

type Labels = BTreeMap<String, String>;

impl Seen {
    /// The targets of a role, as `file_sd_config` reads them.
    pub(crate) fn targets(&self, role: &str) -> Value {
        let targets = if role == "pod" { self.of_pods() } else { self.of_slices() };
        let written =
            targets.into_iter().map(|(address, labels)| json!({ "targets": [address], "labels": labels }));
        written.collect()
    }

    /// Each port of each pod. A pod that is going is left out, so that none is asked in vain.
    fn of_pods(&self) -> Vec<(String, Labels)> {
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let asked = self.pods.iter().filter(stays).filter(|pod| pod["status"]["podIP"].is_string());
        let ports = asked.flat_map(|pod| {
            items(&pod["spec"]["containers"]).flat_map(move |container| {
                items(&container["ports"]).map(move |port| {
                    let address = format!("{}:{}", text(&pod["status"]["podIP"]), port["containerPort"]);
                    (address, of_pod(pod, Some((container, port))))
                })
            })
        });
        ports.collect()
    }

    /// Each port of each endpoint of the Services.
    fn of_slices(&self) -> Vec<(String, Labels)> {
        let mut targets = Vec::new();
        for slice in &self.slices {
            let service = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
            let service = self.services.iter().find(|object| object["metadata"]["name"] == *service);
            for endpoint in items(&slice["endpoints"]) {
                let target = &endpoint["targetRef"];
                let pod = self
                    .pods
                    .iter()
                    .find(|pod| target["kind"] == "Pod" && target["name"] == pod["metadata"]["name"]);
                if pod.is_some_and(|pod| !pod["metadata"]["deletionTimestamp"].is_null()) {
                    continue;
                }
                for port in items(&slice["ports"]) {
                    let mut labels = pod.map(|pod| of_pod(pod, serving(pod, port))).unwrap_or_default();
                    let mut say = |label: &str, value: &str| {
                        labels.insert(format!("__meta_kubernetes_{label}"), value.to_owned());
                    };
                    say("namespace", text(&slice["metadata"]["namespace"]));
                    say("endpointslice_name", name(slice));
                    say("endpointslice_port_name", text(&port["name"]));
                    say("endpointslice_address_target_kind", text(&target["kind"]));
                    say("endpointslice_address_target_name", text(&target["name"]));
                    if let Some(service) = service {
                        say("service_name", name(service));
                        labels.extend(own_labels(service, "service"));
                    }
                    let addresses = items(&endpoint["addresses"]);
                    targets.extend(
                        addresses
                            .map(|address| (format!("{}:{}", text(address), port["port"]), labels.clone())),
                    );
                }
            }
        }
        targets
    }
}

/// The container of the pod that serves the port of a slice.
fn serving<'a>(pod: &'a Value, port: &Value) -> Option<(&'a Value, &'a Value)> {
    items(&pod["spec"]["containers"]).find_map(|container| {
        let serves = items(&container["ports"]).find(|own| own["containerPort"] == port["port"])?;
        Some((container, serves))
    })
}

fn of_pod(pod: &Value, container: Option<(&Value, &Value)>) -> Labels {
    let mut labels = own_labels(pod, "pod");
    let mut say = |label: &str, value: String| labels.insert(format!("__meta_kubernetes_{label}"), value);
    say("namespace", text(&pod["metadata"]["namespace"]).to_owned());
    say("pod_name", name(pod).to_owned());
    say("pod_ip", text(&pod["status"]["podIP"]).to_owned());
    say("pod_phase", text(&pod["status"]["phase"]).to_owned());
    say("pod_node_name", text(&pod["spec"]["nodeName"]).to_owned());
    if let Some((container, port)) = container {
        say("pod_container_name", name_of(container));
        say("pod_container_port_name", name_of(port));
        say("pod_container_port_number", port["containerPort"].to_string());
    }
    labels
}

fn name_of(value: &Value) -> String {
    text(&value["name"]).to_owned()
}

/// The labels of an object: each with its value, and that it is there.
fn own_labels(object: &Value, role: &str) -> Labels {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let said = labels.flat_map(|(label, value)| {
        let label: String =
            label.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
        [
            (format!("__meta_kubernetes_{role}_label_{label}"), text(value).to_owned()),
            (format!("__meta_kubernetes_{role}_labelpresent_{label}"), "true".to_owned()),
        ]
    });
    said.collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
