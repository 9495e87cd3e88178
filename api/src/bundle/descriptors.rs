//! Descriptors of fields, by which a console shows and edits resources.
//!
//! They are made from the schema, so that they name every field and none that does not exist. The capabilities are
//! those of the OpenShift console's `descriptors/reference/reference.md`
//! (packages/operator-lifecycle-manager/src/components/descriptors in openshift/console).

use serde_json::{Map, Value, json};

const UI: &str = "urn:alm:descriptor:com.tectonic.ui";

/// Words of field names that are written otherwise than with a capital first letter.
const WORDS: [(&str, &str); 16] = [
    ("Arp", "ARP"),
    ("As", "AS"),
    ("Asn", "ASN"),
    ("Bfd", "BFD"),
    ("Bgp", "BGP"),
    ("Ebgp", "eBGP"),
    ("Frrk8s", "FRR-K8s"),
    ("Id", "ID"),
    ("Ip", "IP"),
    ("Ipv4", "IPv4"),
    ("Ipv6", "IPv6"),
    ("Med", "MED"),
    ("Mp", "MP"),
    ("Ttl", "TTL"),
    ("Vrf", "VRF"),
    ("V6", "IPv6"),
];

/// Objects that a console edits as a whole.
const WHOLE: [(&str, &str); 4] = [
    ("resources", "resourceRequirements"),
    ("nodeAffinity", "nodeAffinity"),
    ("podAffinity", "podAffinity"),
    ("podAntiAffinity", "podAntiAffinity"),
];

/// Fields, by what their paths end in, for which the console has something better than what their types suggest.
const KNOWN: [(&str, &str); 3] = [
    ("passwordSecret.name", "urn:alm:descriptor:io.kubernetes:Secret"),
    ("controllerConfig.replicas", "urn:alm:descriptor:com.tectonic.ui:podCount"),
    ("password", "urn:alm:descriptor:com.tectonic.ui:password"),
];

/// Parts of a spec that most users never touch. The console folds them away.
const ADVANCED: [&str; 6] =
    ["controllerConfig.", "frrk8sConfig.", "layer2.", "networkPolicies.", "speakerConfig.", "upgradePolicy."];

/// Descriptors of the fields of a spec.
pub(super) fn of_spec(schema: &Value) -> Vec<Value> {
    let mut descriptors = Vec::new();
    describe(schema, "", &capabilities_of_spec, &mut descriptors);
    descriptors
}

/// Descriptors of the fields of a status.
pub(super) fn of_status(schema: &Value) -> Vec<Value> {
    let mut descriptors = Vec::new();
    describe(schema, "", &capabilities_of_status, &mut descriptors);
    descriptors
}

/// What a console can do with the field at a path.
type Capabilities = dyn Fn(&str, &Value) -> Vec<String>;

/// Adds a descriptor for each field of `schema`, and for the fields of those that are objects with named fields.
fn describe(schema: &Value, prefix: &str, capabilities: &Capabilities, descriptors: &mut Vec<Value>) {
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{field}");
        let whole = WHOLE.iter().any(|(name, _)| name == field);
        if property["properties"].is_object() && !whole {
            describe(property, &format!("{path}."), capabilities, descriptors);
            continue;
        }
        let mut descriptor = Map::new();
        descriptor.insert("path".into(), json!(path));
        descriptor.insert("displayName".into(), json!(display_name(&path)));
        if let Some(description) = property["description"].as_str() {
            descriptor.insert("description".into(), json!(description));
        }
        let capabilities = capabilities(&path, property);
        if !capabilities.is_empty() {
            descriptor.insert("x-descriptors".into(), json!(capabilities));
        }
        descriptors.push(Value::Object(descriptor));
    }
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn capabilities_of_spec(path: &str, property: &Value) -> Vec<String> {
    let mut capabilities = own_of_spec(path, property);
    if ADVANCED.iter().any(|part| path.starts_with(part)) {
        capabilities.push(format!("{UI}:advanced"));
    }
    capabilities
}

fn own_of_spec(path: &str, property: &Value) -> Vec<String> {
    if let Some((_, capability)) = WHOLE.iter().find(|(name, _)| *name == last(path)) {
        return vec![format!("{UI}:{capability}")];
    }
    let ends = |known: &str| path == known || path.ends_with(&format!(".{known}"));
    if let Some((_, capability)) = KNOWN.iter().find(|(known, _)| ends(known)) {
        return vec![(*capability).to_owned()];
    }
    let choices = property["enum"].as_array();
    match (property["type"].as_str(), choices) {
        (_, Some(choices)) => {
            choices.iter().filter_map(Value::as_str).map(|choice| format!("{UI}:select:{choice}")).collect()
        }
        (Some("boolean"), _) => vec![format!("{UI}:booleanSwitch")],
        (Some("integer"), _) => vec![format!("{UI}:number")],
        (Some("string"), _) => vec![format!("{UI}:text")],
        // The console has no control for lists and maps, but its own form for their schemas.
        _ => Vec::new(),
    }
}

fn capabilities_of_status(path: &str, property: &Value) -> Vec<String> {
    match property["type"].as_str() {
        Some("array") if last(path) == "conditions" => {
            vec!["urn:alm:descriptor:io.kubernetes.conditions".to_owned()]
        }
        Some("string" | "integer" | "boolean") => vec!["urn:alm:descriptor:text".to_owned()],
        _ => Vec::new(),
    }
}

/// Words for a path: `controllerConfig.priorityClassName` is "Controller Config Priority Class Name".
fn display_name(path: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut before: Option<char> = None;
    for letter in path.chars() {
        // A capital begins a word, unless it stands in a row of them as in `myASN`.
        let starts = match before {
            None | Some('.') => true,
            Some(before) => letter.is_uppercase() && !before.is_uppercase(),
        };
        if letter != '.' {
            if starts {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                if starts { word.extend(letter.to_uppercase()) } else { word.push(letter) }
            }
        }
        before = Some(letter);
    }
    let spelled = words.iter().map(|word| {
        WORDS.iter().find(|(plain, _)| plain == word).map_or(word.as_str(), |(_, spelled)| spelled)
    });
    spelled.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        for (path, want) in [
            ("addresses", "Addresses"),
            ("autoAssign", "Auto Assign"),
            ("avoidBuggyIPs", "Avoid Buggy IPs"),
            ("myASN", "My ASN"),
            ("dynamicASN", "Dynamic ASN"),
            ("ebgpMultiHop", "eBGP Multi Hop"),
            ("aggregationLengthV6", "Aggregation Length IPv6"),
            ("bfdProfile", "BFD Profile"),
            ("routerID", "Router ID"),
            ("controllerConfig.priorityClassName", "Controller Config Priority Class Name"),
            ("frrk8sConfig.alwaysBlock", "FRR-K8s Config Always Block"),
            ("capacity.ipv4", "Capacity IPv4"),
            ("assignedIPv6", "Assigned IPv6"),
            ("layer2.arpRateLimit", "Layer2 ARP Rate Limit"),
        ] {
            assert_eq!(display_name(path), want, "{path}");
        }
    }

    #[test]
    fn each_type_has_its_control() {
        let schema = json!({ "properties": {
            "a": { "type": "boolean", "description": "Whether." },
            "b": { "type": "object", "properties": { "c": { "type": "integer" }, "resources": { "properties": {} } } },
            "d": { "type": "string", "enum": ["x", "y"] },
            "e": { "type": "array", "items": { "type": "string" } },
            "layer2": { "properties": { "count": { "type": "integer" } } },
            "password": { "type": "string" },
            "passwordSecret": { "properties": { "name": { "type": "string" } } },
        } });
        let ui = |capability: &str| format!("urn:alm:descriptor:com.tectonic.ui:{capability}");
        assert_eq!(
            of_spec(&schema),
            [
                json!({ "path": "a", "displayName": "A", "description": "Whether.", "x-descriptors": [ui("booleanSwitch")] }),
                json!({ "path": "b.c", "displayName": "B C", "x-descriptors": [ui("number")] }),
                json!({ "path": "b.resources", "displayName": "B Resources", "x-descriptors": [ui("resourceRequirements")] }),
                json!({ "path": "d", "displayName": "D", "x-descriptors": [ui("select:x"), ui("select:y")] }),
                json!({ "path": "e", "displayName": "E" }),
                json!({ "path": "layer2.count", "displayName": "Layer2 Count",
                    "x-descriptors": [ui("number"), ui("advanced")] }),
                json!({ "path": "password", "displayName": "Password", "x-descriptors": [ui("password")] }),
                json!({ "path": "passwordSecret.name", "displayName": "Password Secret Name",
                    "x-descriptors": ["urn:alm:descriptor:io.kubernetes:Secret"] }),
            ]
        );
        let status =
            json!({ "properties": { "conditions": { "type": "array" }, "node": { "type": "string" } } });
        assert_eq!(
            of_status(&status),
            [
                json!({ "path": "conditions", "displayName": "Conditions",
                    "x-descriptors": ["urn:alm:descriptor:io.kubernetes.conditions"] }),
                json!({ "path": "node", "displayName": "Node", "x-descriptors": ["urn:alm:descriptor:text"] }),
            ]
        );
    }
}
