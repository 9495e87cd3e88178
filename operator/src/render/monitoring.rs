//! Objects of the Prometheus Operator, and the Services that ServiceMonitors need.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use metallb_api::{Monitors, names};
use serde_json::{Value, json};

use super::{Context, metadata, selector};
use crate::{
    install::Watched,
    kinds::{Kind, METRICS_TOKEN},
};

/// A rule file of Prometheus, tested by promtool.
const ALERTS: &str = include_str!("../../../config/monitoring/alerts.yaml");
const COMPONENTS: [&str; 3] = [names::CONTROLLER, names::SPEAKER, OPERATOR];
/// The operator itself, of whose metrics some alerts are.
const OPERATOR: &str = "operator";
/// The account that may read the metrics and nothing else; config/rbac has it, since the operator grants no rights.
const READER: &str = "metrics-reader";

/// Labels of the pods of a component; the operator's are those of its Deployment in config/manager.
fn pods(component: &str) -> BTreeMap<String, String> {
    if component == OPERATOR {
        return BTreeMap::from([("control-plane".to_owned(), "controller-manager".to_owned())]);
    }
    selector(component)
}

fn service_name(component: &str) -> String {
    format!("{component}-monitor-service")
}

pub(super) fn services(watched: Watched, context: Context<'_>) -> Vec<Service> {
    if watched.monitors != Monitors::ServiceMonitor {
        return Vec::new();
    }
    COMPONENTS.iter().map(|component| service(component, context)).collect()
}

/// A headless Service: every pod is asked.
fn service(component: &str, context: Context<'_>) -> Service {
    let name = service_name(component);
    let mut metadata = metadata(&name, Some(component), context);
    metadata.labels.get_or_insert_default().insert("name".to_owned(), name);
    Service {
        metadata,
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(pods(component)),
            ports: Some(vec![ServicePort {
                name: Some("metricshttps".to_owned()),
                port: i32::from(context.settings.ports.metrics),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("metricshttps".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

pub(super) fn monitors(watched: Watched, context: Context<'_>) -> Vec<(Kind, Value)> {
    let mut objects = Vec::new();
    if watched.monitors != Monitors::None {
        objects.push(token(context));
    }
    for component in COMPONENTS {
        match watched.monitors {
            Monitors::None => {}
            Monitors::ServiceMonitor => objects.push(service_monitor(component, context)),
            Monitors::PodMonitor => objects.push(pod_monitor(component, context)),
        }
    }
    if watched.alerts {
        objects.push(alerts(context));
    }
    objects
}

fn object(
    kind: Kind,
    name: &str,
    component: Option<&str>,
    spec: &Value,
    context: Context<'_>,
) -> (Kind, Value) {
    let resource = kind.api_resource();
    let metadata = metadata(name, component, context);
    (
        kind,
        json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}),
    )
}

/// Kubernetes fills in the token of the account. Monitors can name no token of a shorter life.
fn token(context: Context<'_>) -> (Kind, Value) {
    let mut metadata = metadata(METRICS_TOKEN, None, context);
    metadata.annotations =
        Some(BTreeMap::from([("kubernetes.io/service-account.name".to_owned(), READER.to_owned())]));
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata,
        "type": "kubernetes.io/service-account-token",
    });
    (Kind::MetricsToken, object)
}

/// How Prometheus asks an endpoint.
fn endpoint() -> Value {
    json!({
        "port": "metricshttps",
        "scheme": "https",
        "honorLabels": true,
        "authorization": {"type": "Bearer", "credentials": {"name": METRICS_TOKEN, "key": "token"}},
        // The certificate is self-signed; who asks is checked by the token.
        "tlsConfig": {"insecureSkipVerify": true},
    })
}

fn service_monitor(component: &str, context: Context<'_>) -> (Kind, Value) {
    let spec = json!({
        "jobLabel": "app.kubernetes.io/component",
        "namespaceSelector": {"matchNames": [context.settings.namespace]},
        "selector": {"matchLabels": {"name": service_name(component)}},
        "endpoints": [endpoint()],
    });
    object(Kind::ServiceMonitor, &format!("{component}-monitor"), Some(component), &spec, context)
}

fn pod_monitor(component: &str, context: Context<'_>) -> (Kind, Value) {
    let spec = json!({
        "jobLabel": "app.kubernetes.io/component",
        "namespaceSelector": {"matchNames": [context.settings.namespace]},
        "selector": {"matchLabels": pods(component)},
        "podMetricsEndpoints": [endpoint()],
    });
    object(Kind::PodMonitor, component, Some(component), &spec, context)
}

/// Alerts on what needs an administrator.
fn alerts(context: Context<'_>) -> (Kind, Value) {
    // That the file is YAML does not depend on any input: the golden files show it.
    let spec: Value = serde_saphyr::from_str(ALERTS).unwrap_or_default();
    object(Kind::PrometheusRule, "metallb-alerts", None, &spec, context)
}
