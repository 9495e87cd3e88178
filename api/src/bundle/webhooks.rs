//! Webhooks as a bundle states them. OLM makes their configurations and Services, and a certificate that it mounts into
//! the Deployment at /tmp/k8s-webhook-server/serving-certs
//! (<https://olm.operatorframework.io/docs/advanced-tasks/adding-admission-and-conversion-webhooks/>).

use serde_json::{Map, Value, json};

use super::Problem;
use super::objects::{Rendered, id, items, kind, name};

/// Fields that a webhook and its description have in common. OLM does not know `matchConditions`: without them a webhook
/// is asked about more objects, and must answer the same.
const SHARED: [&str; 8] = [
    "rules",
    "failurePolicy",
    "matchPolicy",
    "objectSelector",
    "sideEffects",
    "timeoutSeconds",
    "admissionReviewVersions",
    "reinvocationPolicy",
];

/// The `webhookdefinitions`.
///
/// # Errors
/// When a webhook is not served by a rendered Service with a target port, or selects namespaces, which OLM
/// does by itself.
pub(super) fn of(rendered: &Rendered) -> Result<Vec<Value>, Problem> {
    let mut definitions = Vec::new();
    for configuration in &rendered.webhooks {
        let of_type = match kind(configuration) {
            "MutatingWebhookConfiguration" => "MutatingAdmissionWebhook",
            _ => "ValidatingAdmissionWebhook",
        };
        for webhook in items(&configuration["webhooks"]) {
            if webhook["namespaceSelector"].is_object() {
                let message = format!("webhook {}: namespaceSelector: OLM sets it itself", webhook["name"]);
                return Err(Problem::new(id(configuration), message));
            }
            let mut definition = description(rendered, configuration, &webhook["clientConfig"])?;
            definition.insert("type".into(), json!(of_type));
            definition.insert("generateName".into(), webhook["name"].clone());
            for field in SHARED {
                if let Some(value) = webhook.get(field) {
                    definition.insert(field.into(), value.clone());
                }
            }
            definitions.push(Value::Object(definition));
        }
    }
    for object in &rendered.definitions {
        let conversion = &object["spec"]["conversion"];
        if conversion["strategy"] == "Webhook" {
            let webhook = &conversion["webhook"];
            let mut definition = description(rendered, object, &webhook["clientConfig"])?;
            let generated = format!("c{}", name(object));
            definition.insert("type".into(), json!("ConversionWebhook"));
            definition.insert("generateName".into(), json!(generated));
            definition.insert("conversionCRDs".into(), json!([name(object)]));
            definition.insert("sideEffects".into(), json!("None"));
            definition.insert("admissionReviewVersions".into(), webhook["conversionReviewVersions"].clone());
            definitions.push(Value::Object(definition));
        }
    }
    Ok(definitions)
}

/// Where the webhook is served.
fn description(rendered: &Rendered, owner: &Value, client: &Value) -> Result<Map<String, Value>, Problem> {
    let reference = &client["service"];
    let service = rendered.services.iter().find(|service| reference["name"] == name(service));
    let service = service.ok_or_else(|| {
        Problem::new(id(owner), format!("clientConfig.service: no Service {} is rendered", reference["name"]))
    })?;
    let wanted = reference["port"].as_i64().unwrap_or(443);
    let port = items(&service["spec"]["ports"]).find(|port| port["port"] == wanted);
    let target = port.map(|port| &port["targetPort"]).filter(|target| !target.is_null());
    let target = target
        .ok_or_else(|| Problem::new(id(service), format!("spec.ports: port {wanted} needs a targetPort")))?;
    let mut description = Map::new();
    description.insert("deploymentName".into(), json!(name(&rendered.deployment)));
    description.insert("containerPort".into(), json!(wanted));
    description.insert("targetPort".into(), target.clone());
    if let Some(path) = reference.get("path") {
        description.insert("webhookPath".into(), path.clone());
    }
    Ok(description)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration that is rendered with one webhook of each kind, before `change`.
    fn of_changed(from: &str, to: &str) -> Result<Vec<Value>, String> {
        let yaml = "\
apiVersion: operators.coreos.com/v1alpha1
kind: ClusterServiceVersion
metadata: {name: p}
---
apiVersion: scorecard.operatorframework.io/v1alpha3
kind: Configuration
metadata: {name: config}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: manager, namespace: ns}
---
apiVersion: v1
kind: Service
metadata: {name: hook, namespace: ns}
spec: {ports: [{port: 443, targetPort: 9443}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: v}
webhooks:
- name: pools.metallb.io
  clientConfig: {service: {name: hook, namespace: ns, path: /validate}}
  rules: [{apiGroups: [metallb.io], apiVersions: [v1beta1], operations: [CREATE], resources: [addresspools]}]
  sideEffects: None
  failurePolicy: Fail
  admissionReviewVersions: [v1]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: addresspools.metallb.io}
spec:
  conversion:
    strategy: Webhook
    webhook:
      clientConfig: {service: {name: hook, namespace: ns, path: /convert}}
      conversionReviewVersions: [v1]
";
        assert!(yaml.contains(from), "{from}");
        let rendered = Rendered::read(&yaml.replace(from, to)).map_err(|problem| problem.to_string())?;
        of(&rendered).map_err(|problem| problem.to_string())
    }

    #[test]
    fn each_webhook_is_described() {
        assert_eq!(
            of_changed("", ""),
            Ok(vec![
                json!({
                    "type": "ValidatingAdmissionWebhook",
                    "generateName": "pools.metallb.io",
                    "deploymentName": "manager",
                    "containerPort": 443,
                    "targetPort": 9443,
                    "webhookPath": "/validate",
                    "rules": [{ "apiGroups": ["metallb.io"], "apiVersions": ["v1beta1"], "operations": ["CREATE"],
                        "resources": ["addresspools"] }],
                    "sideEffects": "None",
                    "failurePolicy": "Fail",
                    "admissionReviewVersions": ["v1"],
                }),
                json!({
                    "type": "ConversionWebhook",
                    "generateName": "caddresspools.metallb.io",
                    "deploymentName": "manager",
                    "containerPort": 443,
                    "targetPort": 9443,
                    "webhookPath": "/convert",
                    "conversionCRDs": ["addresspools.metallb.io"],
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                }),
            ])
        );
    }

    #[test]
    fn what_olm_cannot_express_is_refused() {
        for (from, to, want) in [
            (
                "port: 443, targetPort: 9443",
                "port: 8443, targetPort: 9443",
                "Service hook: spec.ports: port 443 needs a targetPort",
            ),
            (
                "  sideEffects: None\n",
                "  sideEffects: None\n  namespaceSelector: {}\n",
                "ValidatingWebhookConfiguration v: webhook \"pools.metallb.io\": namespaceSelector: OLM sets it itself",
            ),
            (
                "{name: hook, namespace: ns, path: /convert}",
                "{name: other, namespace: ns}",
                "CustomResourceDefinition addresspools.metallb.io: clientConfig.service: no Service \"other\" is rendered",
            ),
            (
                "kind: Deployment",
                "kind: StatefulSet",
                "StatefulSet manager: an OLM bundle may not hold this kind",
            ),
            ("kind: Deployment", "kind: Secret", "Secret manager: an OLM bundle may not hold this kind"),
        ] {
            assert_eq!(of_changed(from, to), Err(want.to_owned()));
        }
    }
}
