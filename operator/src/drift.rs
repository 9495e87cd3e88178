//! Whether a live object still says what was applied to it.
//!
//! Pure. The API server records in `metadata.managedFields` which fields an applier owns
//! (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>). What this project wants is
//! compared along that record, so that defaults filled in by the server and fields that others own never look like
//! drift, while a field that was changed, taken over or is no longer wanted does.

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The first field in which a live object differs from what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Path of the field, such as `spec.template.spec.containers[name=speaker].image`.
    pub field: String,
    /// What is wanted; `None` for a field that is applied no longer.
    pub wanted: Option<Value>,
    /// What is there.
    pub found: Option<Value>,
    /// Who else owns the field now.
    pub owner: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| {
            let text = value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
            if text.len() > 200 { format!("{}…", text.chars().take(200).collect::<String>()) } else { text }
        };
        write!(f, "{} is {} instead of {}", self.field, text(&self.found), text(&self.wanted))?;
        if let Some(owner) = &self.owner {
            write!(f, ", set by {owner}")?;
        }
        Ok(())
    }
}

impl Difference {
    /// The same without the values, which are secret: a digest tells them apart.
    #[must_use]
    pub fn concealed(self) -> Self {
        let digest = |value: Value| {
            let digest = Sha256::digest(value.to_string());
            let start: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            Value::from(format!("sha256:{start}…"))
        };
        Self { wanted: self.wanted.map(digest), found: self.found.map(digest), ..self }
    }
}

/// Compares `live`, as the API server returned it, with `wanted`, as field manager `manager` applies it.
///
/// `None` when an apply would change nothing. A `wanted` field must be written as the server stores it: values that
/// the server normalises (quantities) and defaults within atomic structures (`fieldRef.apiVersion`) included.
#[must_use]
pub fn difference(wanted: &Value, live: &Value, manager: &str) -> Option<Difference> {
    let owned = owned_fields(live, manager);
    let mut path = Vec::new();
    let (wanted, found) = compare_objects(wanted.as_object()?, live.as_object()?, &owned, &mut path)?;
    Some(Difference { field: display(&path), wanted, found, owner: other_owner(live, manager, &path) })
}

/// Fields that `manager` owns by having applied them or, where it must not overwrite what somebody else makes at the
/// same moment, by having created the object; as a FieldsV1 tree.
fn owned_fields(live: &Value, manager: &str) -> Map<String, Value> {
    let mut owned = Map::new();
    for entry in entries(live) {
        let mine = entry["manager"] == manager && entry["subresource"].is_null();
        if let (true, Some(fields)) = (mine, entry["fieldsV1"].as_object()) {
            merge(&mut owned, fields);
        }
    }
    owned
}

fn entries(live: &Value) -> impl Iterator<Item = &Value> {
    live["metadata"]["managedFields"].as_array().into_iter().flatten()
}

pub(crate) fn merge(into: &mut Map<String, Value>, fields: &Map<String, Value>) {
    for (key, below) in fields {
        match (into.get_mut(key), below) {
            (Some(Value::Object(into)), Value::Object(below)) => merge(into, below),
            _ => {
                into.insert(key.clone(), below.clone());
            }
        }
    }
}

/// What names an object rather than being applied to it; the server keeps no owner of these.
fn is_identity(path: &[String], key: &str) -> bool {
    match path {
        [] => matches!(key, "apiVersion" | "kind"),
        [metadata] if metadata == "f:metadata" => {
            matches!(key, "name" | "namespace" | "uid" | "resourceVersion")
        }
        _ => false,
    }
}

fn is_metadata(path: &[String]) -> bool {
    matches!(path, [metadata] if metadata == "f:metadata")
}

type Values = (Option<Value>, Option<Value>);

fn compare_objects(
    wanted: &Map<String, Value>,
    live: &Map<String, Value>,
    owned: &Map<String, Value>,
    path: &mut Vec<String>,
) -> Option<Values> {
    for (key, value) in wanted {
        if is_identity(path, key) {
            continue;
        }
        // Of metadata that only name the object, nothing is recorded.
        let nothing = (path.is_empty() && key == "metadata").then(|| Value::Object(Map::new()));
        path.push(format!("f:{key}"));
        let below = owned.get(&format!("f:{key}")).or(nothing.as_ref());
        let (Some(below), Some(found)) = (below.and_then(Value::as_object), live.get(key)) else {
            return Some((Some(value.clone()), live.get(key).cloned()));
        };
        let difference = compare(value, found, below, path);
        if difference.is_some() {
            return difference;
        }
        path.pop();
    }
    for key in owned.keys() {
        let Some(name) = key.strip_prefix("f:") else { continue };
        if !wanted.contains_key(name) {
            path.push(key.clone());
            return Some((None, live.get(name).cloned()));
        }
    }
    None
}

fn compare(
    wanted: &Value,
    found: &Value,
    owned: &Map<String, Value>,
    path: &mut Vec<String>,
) -> Option<Values> {
    let differs = || Some((Some(wanted.clone()), Some(found.clone())));
    let has_parts = owned.keys().any(|key| key != ".");
    match (wanted, found) {
        // An empty structure says only that it is there, and the server may have filled it.
        (Value::Object(fields), Value::Object(_)) if fields.is_empty() && !has_parts => None,
        (Value::Object(fields), Value::Object(live)) if is_metadata(path) => {
            compare_objects(fields, live, owned, path)
        }
        _ if !has_parts => {
            if wanted == found {
                None
            } else {
                differs()
            }
        }
        (Value::Object(fields), Value::Object(live)) => compare_objects(fields, live, owned, path),
        (Value::Array(items), Value::Array(live)) => compare_lists(items, live, owned, path),
        _ => differs(),
    }
}

/// Lists whose items are known by a key or are a set: their order does not matter.
fn compare_lists(
    wanted: &[Value],
    live: &[Value],
    owned: &Map<String, Value>,
    path: &mut Vec<String>,
) -> Option<Values> {
    let mut matched = 0;
    for (key, below) in owned {
        let Some(is_item) = item(key) else { continue };
        path.push(key.clone());
        let of = |list: &'_ [Value]| list.iter().find(|value| is_item(value)).cloned();
        let (Some(value), Some(found)) = (of(wanted), of(live)) else {
            return Some((of(wanted), of(live)));
        };
        matched += 1;
        let difference = compare(&value, &found, below.as_object()?, path);
        if difference.is_some() {
            return difference;
        }
        path.pop();
    }
    if matched == wanted.len() { None } else { Some((Some(wanted.into()), Some(live.into()))) }
}

type IsItem = Box<dyn Fn(&Value) -> bool>;

/// Recognises the list item that a FieldsV1 key such as `k:{"name":"speaker"}` or `v:"a"` speaks of.
fn item(key: &str) -> Option<IsItem> {
    if let Some(keys) = key.strip_prefix("k:") {
        let keys: Map<String, Value> = serde_json::from_str(keys).ok()?;
        return Some(Box::new(move |value| keys.iter().all(|(name, key)| value.get(name) == Some(key))));
    }
    let set_member: Value = serde_json::from_str(key.strip_prefix("v:")?).ok()?;
    Some(Box::new(move |value| *value == set_member))
}

fn other_owner(live: &Value, manager: &str, path: &[String]) -> Option<String> {
    let others = entries(live).filter(|entry| entry["manager"] != manager);
    let mut owners = others.filter(|entry| {
        let mut below = Some(&entry["fieldsV1"]);
        for key in path {
            below = below.and_then(|fields| fields.get(key));
        }
        below.is_some()
    });
    owners.next().and_then(|entry| entry["manager"].as_str()).map(str::to_owned)
}

fn display(path: &[String]) -> String {
    let mut text = String::new();
    for key in path {
        if let Some(name) = key.strip_prefix("f:") {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(name);
        } else if let Some(keys) = key.strip_prefix("k:") {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let text_of = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={}", text_of(value))).collect();
            text.push_str(&format!("[{}]", keys.join(",")));
        } else if let Some(value) = key.strip_prefix("v:") {
            text.push_str(&format!("[{value}]"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
