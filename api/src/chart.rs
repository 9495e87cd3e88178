//! The parts of the Helm chart that follow from config/: definitions, rights, the operator's Deployment with the chart's
//! values in it, and the chart's name. The rest of config/chart is written by hand.

use std::collections::BTreeMap;
use std::error::Error;

use serde_json::{Value, json};

use crate::bundle::objects::{drop_namespace, id, images, items, kind, read, write};
use crate::crd;

/// The namespace that config/ installs into.
const INSTALLED: &str = "metallb-system";
/// Stands for `{{ .Release.Namespace }}` until the YAML is written.
const NAMESPACE: &str = "TEMPLATE_NAMESPACE";

/// Fields of the operator's pod that a value replaces: field, value, and what holds when config/ has none.
const POD_FIELDS: [(&str, &str, &str); 5] = [
    ("affinity", ".Values.operator.affinity", "{}"),
    ("imagePullSecrets", ".Values.imagePullSecrets", "[]"),
    ("nodeSelector", ".Values.operator.nodeSelector", "{}"),
    ("priorityClassName", ".Values.operator.priorityClassName", "\"\""),
    ("tolerations", ".Values.operator.tolerations", "[]"),
];

const HEADER: &str =
    "{{- /* Written by `make chart` from config/. */ -}}\n{{- $_ := include \"metallb.unfold\" . -}}\n";

/// The files by their paths from config/chart, from what `kubectl kustomize config/default` renders.
///
/// # Errors
/// When the YAML cannot be read, holds a kind that the chart does not know, or has no Deployment as expected.
pub fn files(rendered: &str) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let mut rights = Vec::new();
    let mut operator = Vec::new();
    for mut object in read(rendered)? {
        match kind(&object) {
            // Helm makes the namespace, and takes the definitions from a folder of their own.
            "Namespace" | "CustomResourceDefinition" => {}
            "ServiceAccount" | "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding" => {
                place(&mut object);
                rights.push(write(&object)?);
            }
            "Deployment" => {
                place(&mut object);
                operator.push(deployment(&mut object)?);
            }
            "ConfigMap"
            | "NetworkPolicy"
            | "Service"
            | "MutatingWebhookConfiguration"
            | "ValidatingWebhookConfiguration" => {
                place(&mut object);
                operator.push(write(&object)?);
            }
            _ => return Err(format!("{}: the chart does not know this kind", id(&object)).into()),
        }
    }
    let mut files = BTreeMap::new();
    for (name, documents) in [("rights", rights), ("operator", operator)] {
        let text = documents.join("---\n").replace(NAMESPACE, "{{ .Release.Namespace }}");
        files.insert(format!("templates/{name}.yaml"), format!("{HEADER}{text}"));
    }
    for (name, text) in crd::files()? {
        if name != "kustomization.yaml" {
            files.insert(format!("crds/{name}"), text);
        }
    }
    Ok(files)
}

/// `chart`, the text of Chart.yaml, under the name `package`.
///
/// # Errors
/// When no line of it says the name.
pub fn named(chart: &str, package: &str) -> Result<String, Box<dyn Error>> {
    let old = chart
        .lines()
        .find(|line| line.starts_with("name: "))
        .ok_or("Chart.yaml: no line begins with name:")?;
    let new = format!("name: {package}");
    let lines = chart.split_inclusive('\n');
    Ok(lines
        .map(|line| if line.trim_end() == old { line.replace(old, &new) } else { line.to_owned() })
        .collect())
}

/// `values`, the text of values.yaml, with the repositories of the images that the operator of `rendered` is told to run.
///
/// # Errors
/// When one of the two does not name an image.
pub fn with_repositories(values: &str, rendered: &str) -> Result<String, Box<dyn Error>> {
    let mut values = values.to_owned();
    let objects = read(rendered)?;
    let deployments = objects.iter().filter(|object| kind(object) == "Deployment");
    let told: BTreeMap<String, String> = deployments.flat_map(images).collect();
    for program in ["controller", "speaker"] {
        let variable = format!("{}_IMAGE", program.to_uppercase());
        let image = told.get(program).ok_or_else(|| format!("no value of {variable}"))?;
        // A colon before a slash is that of a port.
        let tagged = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let repository = tagged.map_or(image.as_str(), |(repository, _)| repository);
        let section = format!("\n{program}:\n");
        let parts = values.split_once(&section).and_then(|(before, rest)| {
            let (inner, rest) = rest.split_once("    repository: ")?;
            Some((before, inner, rest.split_once('\n')?.1))
        });
        let (before, inner, after) =
            parts.ok_or_else(|| format!("values.yaml: no {program}.image.repository"))?;
        values = format!("{before}{section}{inner}    repository: {repository}\n{after}");
    }
    Ok(values)
}

/// Puts the object, and the accounts and Services that it names, into the namespace of the release. Accounts of others,
/// such as Prometheus' own, stay where they are.
fn place(object: &mut Value) {
    let is_namespaced = object["metadata"]["namespace"].is_string();
    drop_namespace(object);
    if is_namespaced {
        object["metadata"]["namespace"] = json!(NAMESPACE);
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if subject["namespace"] == INSTALLED {
            subject["namespace"] = json!(NAMESPACE);
        }
    }
    for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(service) = webhook.pointer_mut("/clientConfig/service") {
            service["namespace"] = json!(NAMESPACE);
        }
        // Helm makes the chart's own resource at once, before the operator can answer for it.
        let is_of_metallb = items(&webhook["rules"]).any(|rule| rule["resources"] == json!(["metallbs"]));
        if is_of_metallb {
            webhook["objectSelector"] =
                json!({ "matchExpressions": [{ "key": "helm.sh/chart", "operator": "DoesNotExist" }] });
        }
    }
}

/// The Deployment with the chart's values in it.
fn deployment(object: &mut Value) -> Result<String, Box<dyn Error>> {
    let of = id(object);
    let mut templates: Vec<(String, String)> = Vec::new();
    let mut hold = |name: &str, template: String| {
        let token = format!("TEMPLATE_{name}");
        templates.push((token.clone(), template));
        json!(token)
    };
    let pod = object.pointer_mut("/spec/template/spec").ok_or_else(|| format!("{of}: has no pod"))?;
    for (field, value, otherwise) in POD_FIELDS {
        let default = pod.get(field).map_or_else(|| otherwise.to_owned(), ToString::to_string);
        pod[field] = hold(&field.to_uppercase(), or_default(value, &default));
    }
    let container = pod.pointer_mut("/containers/0").ok_or_else(|| format!("{of}: has no container"))?;
    container["image"] = hold("IMAGE_OF_OPERATOR", image("operator"));
    let default = container["resources"].to_string();
    container["resources"] = hold("RESOURCES", or_default(".Values.operator.resources", &default));
    container["imagePullPolicy"] =
        hold("PULL_POLICY", "{{ .Values.operator.image.pullPolicy | default \"IfNotPresent\" }}".to_owned());
    for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
        let operand = variable["name"].as_str().and_then(|name| name.strip_suffix("_IMAGE"));
        if let Some(operand) = operand.map(str::to_lowercase) {
            variable["value"] = hold(&format!("IMAGE_OF_{}", operand.to_uppercase()), image(&operand));
        }
    }
    let mut levels = 0;
    for argument in container.get_mut("args").and_then(Value::as_array_mut).into_iter().flatten() {
        if argument.as_str().is_some_and(|argument| argument.starts_with("--log-level=")) {
            *argument = hold("LOG_LEVEL", "--log-level={{ .Values.operator.logLevel }}".to_owned());
            levels += 1;
        }
    }
    if levels != 1 || items(&object["spec"]["template"]["spec"]["containers"]).count() != 1 {
        return Err(format!("{of}: needs one container, with the argument --log-level").into());
    }
    let text = write(object)?;
    // Longer tokens first: one may begin like another.
    templates.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
    Ok(templates.iter().fold(text, |text, (token, template)| text.replace(token, template)))
}

/// The value, or the JSON `default` when it is empty.
fn or_default(value: &str, default: &str) -> String {
    format!("{{{{ with {value} }}}}{{{{ toJson . }}}}{{{{ else }}}}{default}{{{{ end }}}}")
}

fn image(component: &str) -> String {
    format!("{{{{ include \"metallb.image\" (list $ \"{component}\") }}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_replace_what_config_says() {
        let rendered = "\
{apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: speaker, namespace: metallb-system}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: manager, namespace: metallb-system}
spec:
  template:
    spec:
      nodeSelector: {kubernetes.io/os: linux}
      containers:
      - args: [--log-level=info]
        env: [{name: SPEAKER_IMAGE, value: localhost/metallb/speaker:0.1.0}]
        image: localhost/metallb/operator:0.1.0
        resources: {requests: {cpu: 50m}}
";
        let files = files(rendered).unwrap();
        assert_eq!(
            files["templates/rights.yaml"],
            "{{- /* Written by `make chart` from config/. */ -}}
{{- $_ := include \"metallb.unfold\" . -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: speaker
  namespace: {{ .Release.Namespace }}
"
        );
        assert_eq!(
            files["templates/operator.yaml"],
            r#"{{- /* Written by `make chart` from config/. */ -}}
{{- $_ := include "metallb.unfold" . -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: manager
  namespace: {{ .Release.Namespace }}
spec:
  template:
    spec:
      affinity: {{ with .Values.operator.affinity }}{{ toJson . }}{{ else }}{}{{ end }}
      containers:
      - args:
        - --log-level={{ .Values.operator.logLevel }}
        env:
        - name: SPEAKER_IMAGE
          value: {{ include "metallb.image" (list $ "speaker") }}
        image: {{ include "metallb.image" (list $ "operator") }}
        imagePullPolicy: {{ .Values.operator.image.pullPolicy | default "IfNotPresent" }}
        resources: {{ with .Values.operator.resources }}{{ toJson . }}{{ else }}{"requests":{"cpu":"50m"}}{{ end }}
      imagePullSecrets: {{ with .Values.imagePullSecrets }}{{ toJson . }}{{ else }}[]{{ end }}
      nodeSelector: {{ with .Values.operator.nodeSelector }}{{ toJson . }}{{ else }}{"kubernetes.io/os":"linux"}{{ end }}
      priorityClassName: {{ with .Values.operator.priorityClassName }}{{ toJson . }}{{ else }}""{{ end }}
      tolerations: {{ with .Values.operator.tolerations }}{{ toJson . }}{{ else }}[]{{ end }}
"#
        );
        let definitions =
            files.keys().filter(|path| path.starts_with("crds/") && path.contains("metallb.io_")).count();
        assert_eq!(definitions, crd::all().unwrap().len());
    }

    #[test]
    fn accounts_go_with_the_release_but_for_those_of_others() {
        let rendered = "\
kind: RoleBinding
metadata: {name: r, namespace: metallb-system}
subjects:
- {kind: ServiceAccount, name: own, namespace: metallb-system}
- {kind: ServiceAccount, name: prometheus-k8s, namespace: monitoring}
";
        let rights = &files(rendered).unwrap()["templates/rights.yaml"];
        let subjects = rights.split_once("subjects:\n").unwrap().1;
        assert_eq!(
            subjects,
            "- kind: ServiceAccount
  name: own
  namespace: {{ .Release.Namespace }}
- kind: ServiceAccount
  name: prometheus-k8s
  namespace: monitoring
"
        );
    }

    #[test]
    fn only_the_charts_own_resource_is_not_asked_about() {
        let rendered = "\
kind: ValidatingWebhookConfiguration
metadata: {name: v}
webhooks:
- clientConfig: {service: {name: hook, namespace: metallb-system}}
  rules: [{resources: [metallbs]}]
- clientConfig: {service: {name: hook, namespace: metallb-system}}
  rules: [{resources: [addresspools]}]
";
        assert_eq!(
            files(rendered).unwrap()["templates/operator.yaml"],
            "{{- /* Written by `make chart` from config/. */ -}}
{{- $_ := include \"metallb.unfold\" . -}}
kind: ValidatingWebhookConfiguration
metadata:
  name: v
webhooks:
- clientConfig:
    service:
      name: hook
      namespace: {{ .Release.Namespace }}
  objectSelector:
    matchExpressions:
    - key: helm.sh/chart
      operator: DoesNotExist
  rules:
  - resources:
    - metallbs
- clientConfig:
    service:
      name: hook
      namespace: {{ .Release.Namespace }}
  rules:
  - resources:
    - addresspools
"
        );
    }

    #[test]
    fn the_chart_has_the_name_of_the_package_and_is_else_left_alone() {
        let before =
            "apiVersion: v2\n# The name: of the package.\nname: before\nversion: 0.1.0 # name: before\n";
        let after =
            "apiVersion: v2\n# The name: of the package.\nname: after\nversion: 0.1.0 # name: before\n";
        assert_eq!(named(before, "after").unwrap(), after);
        assert_eq!(named(after, "after").unwrap(), after);
        let problem = named("version: 0.1.0\n", "after").map_err(|error| error.to_string());
        assert_eq!(problem, Err("Chart.yaml: no line begins with name:".to_owned()));
    }

    #[test]
    fn the_values_name_the_images_that_the_operator_is_told_to_run() {
        let values = |prefix: &str| {
            format!(
                "operator:\n  image:\n    repository: ''\n\ncontroller:\n  image:\n    repository: {prefix}/controller\n    tag: ''\n\
                 \nspeaker:\n  image:\n    repository: {prefix}/speaker\n"
            )
        };
        let told = "{name: CONTROLLER_IMAGE, value: 'registry.example:5000/a/controller:1.2.3'}, \
                    {name: SPEAKER_IMAGE, value: 'registry.example:5000/a/speaker'}";
        let operator = |env: &str| {
            format!(
                "{{kind: Deployment, spec: {{template: {{spec: {{containers: [{{name: manager, env: [{env}]}}]}}}}}}}}"
            )
        };
        let rendered = &operator(told);
        assert_eq!(
            with_repositories(&values("before"), rendered).unwrap(),
            values("registry.example:5000/a")
        );
        let problem = |values: &str, rendered: &str| {
            with_repositories(values, rendered).map_err(|error| error.to_string())
        };
        assert_eq!(problem(&values("a"), &operator("")), Err("no value of CONTROLLER_IMAGE".to_owned()));
        assert_eq!(
            problem("a: b\n", rendered),
            Err("values.yaml: no controller.image.repository".to_owned())
        );
    }

    #[test]
    fn what_the_chart_does_not_know_is_refused() {
        let problem = files("{kind: Job, metadata: {name: a}}").map_err(|error| error.to_string());
        assert_eq!(problem, Err("Job a: the chart does not know this kind".to_owned()));
    }
}
