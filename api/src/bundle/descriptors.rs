//! Descriptors of fields, by which a console shows and edits resources.
//!
//! They are made from the schema, so that they name every field and none that does not exist. The capabilities are
//! those of the OpenShift console's `descriptors/reference/reference.md`
//! (packages/operator-lifecycle-manager/src/components/descriptors in openshift/console).

use serde_json::{Map, Value, json};

const UI: &str = "urn:alm:descriptor:com.tectonic.ui";

/// Words of field names that are written otherwise than with a capital first letter.
const WORDS: [(&str, &str); 12] = [
    ("As", "AS"),
    ("Asn", "ASN"),
    ("Bfd", "BFD"),
    ("Bgp", "BGP"),
    ("Ebgp", "eBGP"),
    ("Frrk8s", "FRR-K8s"),
    ("Id", "ID"),
    ("Ip", "IP"),
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
        let capabilities = capabilities(field, property);
        if !capabilities.is_empty() {
            descriptor.insert("x-descriptors".into(), json!(capabilities));
        }
        descriptors.push(Value::Object(descriptor));
    }
}

fn capabilities_of_spec(field: &str, property: &Value) -> Vec<String> {
    if let Some((_, capability)) = WHOLE.iter().find(|(name, _)| *name == field) {
        return vec![format!("{UI}:{capability}")];
    }
    let choices = property["enum"].as_array();
    match (property["type"].as_str(), choices) {
        (_, Some(choices)) => {
            choices.iter().filter_map(Value::as_str).map(|choice| format!("{UI}:select:{choice}")).collect()
        }
        (Some("boolean"), _) => vec![format!("{UI}:booleanSwitch")],
        (Some("integer"), _) => vec![format!("{UI}:number")],
        (Some("string"), _) if field == "password" => vec![format!("{UI}:password")],
        (Some("string"), _) => vec![format!("{UI}:text")],
        _ => Vec::new(),
    }
}

fn capabilities_of_status(field: &str, property: &Value) -> Vec<String> {
    match property["type"].as_str() {
        Some("array") if field == "conditions" => {
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
            "password": { "type": "string" },
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
                json!({ "path": "password", "displayName": "Password", "x-descriptors": [ui("password")] }),
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
