//! The part of OpenAPI v3 schemas that the definitions use: whether an object fits, and whether a path exists.
//!
//! `pattern`, `format` and the rules in CEL are left to the API server.

use serde_json::Value;

/// Whether `path` names a field of `schema`: fields joined by dots, with `[0]` for an element of a list.
pub fn has_path(schema: &Value, path: &str) -> bool {
    let found = path.split('.').try_fold(schema, |schema, part| {
        let (field, elements) =
            part.split_once('[').map_or((part, 0), |(field, rest)| (field, 1 + rest.matches('[').count()));
        let property = schema["properties"].get(field)?;
        (0..elements).try_fold(property, |schema, _| schema.get("items"))
    });
    found.is_some()
}

/// Each part of `value` that does not fit `schema`, as `path: why`.
pub fn misfits(schema: &Value, value: &Value) -> Vec<String> {
    let mut misfits = Vec::new();
    visit(schema, value, "", &mut misfits);
    misfits
}

fn visit(schema: &Value, value: &Value, path: &str, misfits: &mut Vec<String>) {
    let mut misfit = |message: String| misfits.push(format!("{}: {message}", path.trim_start_matches('.')));
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        misfit(format!("{value} is none of {}", schema["enum"]));
    }
    let number = value.as_f64();
    if let (Some(number), Some(least)) = (number, schema["minimum"].as_f64())
        && number < least
    {
        misfit(format!("{number} is less than {least}"));
    }
    if let (Some(number), Some(most)) = (number, schema["maximum"].as_f64())
        && number > most
    {
        misfit(format!("{number} is more than {most}"));
    }
    if !has_type(schema, value) {
        misfit(format!("{value} is no {}", schema["type"].as_str().unwrap_or("integer or string")));
        return;
    }
    match value {
        Value::Object(fields) => {
            for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !fields.contains_key(required) {
                    misfit(format!("{required} is missing"));
                }
            }
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                let additional = schema.get("additionalProperties");
                match schema["properties"].get(name).or(additional) {
                    Some(schema) => visit(schema, field, &path, misfits),
                    None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                    None => misfits.push(format!("{}: no such field", path.trim_start_matches('.'))),
                }
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                visit(&schema["items"], element, &format!("{path}[{index}]"), misfits);
            }
        }
        _ => {}
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({ "type": "object", "required": ["name"], "properties": {
            "name": { "type": "string", "enum": ["a", "b"] },
            "size": { "type": "integer", "minimum": 0, "maximum": 10 },
            "limits": { "type": "object", "additionalProperties": { "x-kubernetes-int-or-string": true } },
            "list": { "type": "array", "items": { "type": "object", "properties": { "on": { "type": "boolean" } } } },
        } })
    }

    #[test]
    fn what_fits_has_no_misfits() {
        let value = json!({ "name": "a", "size": 10, "limits": { "cpu": 1, "memory": "1Mi" }, "list": [{ "on": true }] });
        assert_eq!(misfits(&schema(), &value), Vec::<String>::new());
    }

    #[test]
    fn every_misfit_is_named() {
        let value =
            json!({ "size": -1, "limits": { "cpu": true }, "list": [{ "on": "yes" }, {}, 3], "more": 1 });
        assert_eq!(
            misfits(&schema(), &value),
            [
                ": name is missing",
                "limits.cpu: true is no integer or string",
                "list[0].on: \"yes\" is no boolean",
                "list[2]: 3 is no object",
                "more: no such field",
                "size: -1 is less than 0",
            ]
        );
        assert_eq!(
            misfits(&schema(), &json!({ "name": "c", "size": 11 })),
            ["name: \"c\" is none of [\"a\",\"b\"]", "size: 11 is more than 10"]
        );
    }

    #[test]
    fn paths_lead_through_objects_and_lists() {
        for (path, want) in [
            ("name", true),
            ("list[0].on", true),
            ("list.on", false),
            ("list[0].off", false),
            ("name[0]", false),
            ("", false),
            ("size.", false),
        ] {
            assert_eq!(has_path(&schema(), path), want, "{path}");
        }
    }
}
