//! Kubernetes objects as they stand in YAML, sorted by what a bundle makes of them.

use serde_json::Value;

use super::Problem;

/// The objects of a rendered configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The part of the ClusterServiceVersion that a person wrote.
    pub base: Value,
    /// CustomResourceDefinitions.
    pub definitions: Vec<Value>,
    /// The operator's Deployment.
    pub deployment: Value,
    /// Roles, ClusterRoles and their bindings.
    pub rights: Vec<Value>,
    /// ValidatingWebhookConfigurations and MutatingWebhookConfigurations.
    pub webhooks: Vec<Value>,
    /// Services of the webhooks, of which OLM makes its own; they tell the port.
    pub services: Vec<Value>,
    /// Objects of the defined kinds.
    pub examples: Vec<Value>,
    /// Configuration of the scorecard's tests.
    pub scorecard: Value,
    /// Objects that OLM applies as they are, without their namespace.
    pub plain: Vec<Value>,
}

impl Rendered {
    /// Reads YAML documents.
    ///
    /// # Errors
    /// When they are no YAML, when an object is of a kind that a bundle may not hold, or when the
    /// ClusterServiceVersion, the Deployment or the scorecard's configuration is not there exactly once.
    pub fn read(yaml: &str) -> Result<Self, Problem> {
        let mut bases = Vec::new();
        let mut deployments = Vec::new();
        let mut scorecards = Vec::new();
        let mut rendered = Self {
            base: Value::Null,
            definitions: Vec::new(),
            deployment: Value::Null,
            rights: Vec::new(),
            webhooks: Vec::new(),
            services: Vec::new(),
            examples: Vec::new(),
            scorecard: Value::Null,
            plain: Vec::new(),
        };
        let mut objects = read(yaml)?;
        // The files must not depend on the order in which the objects were rendered.
        objects.sort_by(|a, b| (kind(a), version(a), name(a)).cmp(&(kind(b), version(b), name(b))));
        for object in objects {
            let list = match (kind(&object), group(&object)) {
                ("ClusterServiceVersion", _) => &mut bases,
                ("CustomResourceDefinition", _) => &mut rendered.definitions,
                ("Deployment", _) => &mut deployments,
                ("Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding", _) => &mut rendered.rights,
                ("ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration", _) => {
                    &mut rendered.webhooks
                }
                ("Service", _) => &mut rendered.services,
                ("Configuration", "scorecard.operatorframework.io") => &mut scorecards,
                (_, "metallb.io") => &mut rendered.examples,
                // Applied by OLM as they are: the kinds that operator-registry's pkg/lib/bundle lists and that make
                // sense beside the operator.
                ("ConfigMap" | "NetworkPolicy" | "PodDisruptionBudget" | "PrometheusRule", _)
                | ("ServiceMonitor" | "PodMonitor" | "PriorityClass", _) => &mut rendered.plain,
                // The administrator makes the namespace, and OLM makes the accounts that have rights.
                ("Namespace" | "ServiceAccount", _) => continue,
                _ => return Err(Problem::new(id(&object), "an OLM bundle may not hold this kind")),
            };
            list.push(object);
        }
        rendered.base = one(bases, "ClusterServiceVersion")?;
        rendered.deployment = one(deployments, "Deployment")?;
        rendered.scorecard = one(scorecards, "Configuration of the scorecard")?;
        let (serving, plain): (Vec<_>, Vec<_>) = std::mem::take(&mut rendered.services)
            .into_iter()
            .partition(|service| rendered.is_webhook(service));
        rendered.services = serving;
        rendered.plain.extend(plain);
        rendered.plain.iter_mut().for_each(drop_namespace);
        Ok(rendered)
    }

    /// Whether a webhook is served through `service`.
    fn is_webhook(&self, service: &Value) -> bool {
        let admission = self.webhooks.iter().flat_map(|object| items(&object["webhooks"]));
        let conversion = self.definitions.iter().map(|object| &object["spec"]["conversion"]["webhook"]);
        admission.chain(conversion).any(|webhook| webhook["clientConfig"]["service"]["name"] == name(service))
    }

    /// The namespace that the configuration was written for.
    pub fn namespace(&self) -> &str {
        self.deployment["metadata"]["namespace"].as_str().unwrap_or_default()
    }
}

fn one(mut objects: Vec<Value>, what: &str) -> Result<Value, Problem> {
    match objects.pop() {
        Some(object) if objects.is_empty() => Ok(object),
        found => {
            let count = objects.len() + usize::from(found.is_some());
            Err(Problem::new("the rendered configuration", format!("needs one {what}, and has {count}")))
        }
    }
}

/// Reads YAML documents; empty ones are left out.
///
/// # Errors
/// When the text is no YAML.
pub fn read(yaml: &str) -> Result<Vec<Value>, Problem> {
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| Problem::new("the YAML", error.to_string()))?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

/// Writes one YAML document.
///
/// # Errors
/// When the serialiser refuses the value.
pub fn write(object: &Value) -> Result<String, Problem> {
    serde_saphyr::to_string(object).map_err(|error| Problem::new(id(object), error.to_string()))
}

/// The operator's own image and those that it is told to run by variables that end in `_IMAGE`, by the names of container
/// and programs, from its Deployment.
pub fn images(deployment: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut images = Vec::new();
    for container in items(&deployment["spec"]["template"]["spec"]["containers"]) {
        images.push((text(&container["name"]), text(&container["image"])));
        for variable in items(&container["env"]) {
            let operand = variable["name"].as_str().and_then(|name| name.strip_suffix("_IMAGE"));
            if let Some(operand) = operand {
                images.push((operand.to_lowercase(), text(&variable["value"])));
            }
        }
    }
    images
}

/// The kind, empty when there is none.
pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// The name, empty when there is none.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// The API group, empty for the core group.
pub fn group(object: &Value) -> &str {
    object["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group)
}

/// The version without its group.
pub fn version(object: &Value) -> &str {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    version.split_once('/').map_or(version, |(_, version)| version)
}

/// Kind and name, for messages.
pub fn id(object: &Value) -> String {
    format!("{} {}", kind(object), name(object))
}

/// The elements of a list, none when `value` is no list.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Removes the namespace: OLM puts objects into the one where the operator is installed.
pub(crate) fn drop_namespace(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("namespace");
    }
}
