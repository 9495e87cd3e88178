//! What OLM makes for admission webhooks: Service, certificate, configurations, and the mounts of the Deployment
//! (`certresources.go` and `webhook.go` in operator-lifecycle-manager, pkg/controller/install).

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use metallb_api::bundle::objects::items;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

/// Fields that the description of a webhook and the webhook have in common.
const SHARED: [&str; 7] = [
    "rules",
    "failurePolicy",
    "matchPolicy",
    "objectSelector",
    "sideEffects",
    "timeoutSeconds",
    "admissionReviewVersions",
];

/// Makes the objects for the webhooks of `deployment`, to which the certificate is mounted. None when it has no webhook.
///
/// # Errors
/// When a webhook is not a validating one, or no certificate can be made.
pub(super) fn objects(csv: &Value, deployment: &mut Value, namespace: &str) -> Result<Vec<Value>> {
    let of = deployment["metadata"]["name"].as_str().context("a Deployment without a name")?.to_owned();
    let webhooks: Vec<&Value> = items(&csv["spec"]["webhookdefinitions"])
        .filter(|webhook| webhook["deploymentName"] == of.as_str())
        .collect();
    let Some(first) = webhooks.first() else { return Ok(Vec::new()) };
    let service = format!("{of}-service");
    let secret = format!("{service}-cert");
    let certificate = Certificate::new(&service, namespace)?;
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": service, "namespace": namespace },
            "spec": {
                "selector": deployment["spec"]["selector"]["matchLabels"],
                "ports": [{
                    "name": first["containerPort"].to_string(),
                    "port": first["containerPort"],
                    "targetPort": first["targetPort"],
                }],
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": secret, "namespace": namespace },
            "stringData": {
                "tls.crt": certificate.chain, "tls.key": certificate.key, "olmCAKey": certificate.authority,
            },
        }),
    ];
    for webhook in webhooks {
        let called = webhook["generateName"].as_str().context("a webhook without a name")?;
        ensure!(
            webhook["type"] == "ValidatingAdmissionWebhook",
            "{called}: only validating webhooks are known"
        );
        let mut described = json!({
            "name": called,
            "clientConfig": {
                "service": {
                    "name": service, "namespace": namespace,
                    "path": webhook["webhookPath"], "port": webhook["containerPort"],
                },
                "caBundle": ByteString(certificate.authority.clone().into_bytes()),
            },
        });
        for field in SHARED {
            if let Some(value) = webhook.get(field) {
                described[field] = value.clone();
            }
        }
        objects.push(json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": format!("{called}-olm") },
            "webhooks": [described],
        }));
    }
    mount(deployment, &secret);
    Ok(objects)
}

/// Mounts the certificate where programs look for it: as kubebuilder names it, and as aggregated API servers do.
fn mount(deployment: &mut Value, secret: &str) {
    let places = [
        ("apiservice-cert", "/apiserver.local.config/certificates", "apiserver"),
        ("webhook-cert", "/tmp/k8s-webhook-server/serving-certs", "tls"),
    ];
    let pod = &mut deployment["spec"]["template"]["spec"];
    for (volume, path, file) in places {
        let files = [("tls.crt", "crt"), ("tls.key", "key")]
            .map(|(key, extension)| json!({ "key": key, "path": format!("{file}.{extension}") }));
        let source = json!({ "name": volume, "secret": { "secretName": secret, "items": files } });
        append(&mut pod["volumes"], source);
        for container in pod.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
            append(&mut container["volumeMounts"], json!({ "name": volume, "mountPath": path }));
        }
    }
}

fn append(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

/// A certificate for a Service, and the authority that signed it, in PEM.
struct Certificate {
    authority: String,
    chain: String,
    key: String,
}

impl Certificate {
    fn new(service: &str, namespace: &str) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let name = format!("{service}.{namespace}");
        let names = [name.clone(), format!("{name}.svc"), format!("{name}.svc.cluster.local")];
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names.to_vec())?.signed_by(&key, &authority)?;
        Ok(Self { authority: authority.pem(), chain: certificate.pem(), key: key.serialize_pem() })
    }
}
