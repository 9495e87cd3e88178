//! The API server's audit log: who wrote what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
};

use anyhow::Result;
use serde_json::Value;

use crate::layout::audit_log;

/// A place in the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

/// Its end now.
///
/// # Errors
/// When there is no cluster.
pub fn mark() -> Result<Mark> {
    Ok(Mark(File::open(audit_log())?.metadata()?.len()))
}

/// Its start: everything since the cluster was made.
#[must_use]
pub fn start() -> Mark {
    Mark(0)
}

/// A call of the API, as RBAC names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Such as `list nodes` or `patch metallbs/status`.
    pub right: String,
    /// Such as `metallb.io`; empty for the core group.
    pub group: String,
    /// Empty for objects of all namespaces, and of none.
    pub namespace: String,
}

/// All calls since `mark` of the ServiceAccount `account` of the installation.
///
/// # Errors
/// When the log cannot be read.
pub fn calls_since(mark: Mark, account: &str) -> Result<BTreeSet<Call>> {
    let user = format!("system:serviceaccount:{}:{account}", crate::deploy::NAMESPACE);
    let mut calls = BTreeSet::new();
    for entry in entries(mark)? {
        let entry = entry?;
        let object = &entry["objectRef"];
        if entry["user"]["username"] == user.as_str() && object.is_object() {
            let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
            let (group, namespace) = (text("apiGroup"), text("namespace"));
            calls.insert(Call { right: called(&entry), group, namespace });
        }
    }
    Ok(calls)
}

/// The entries since `mark`, one after another: the log is long.
fn entries(mark: Mark) -> Result<impl Iterator<Item = Result<Value>>> {
    let mut file = File::open(audit_log())?;
    file.seek(SeekFrom::Start(mark.0))?;
    Ok(BufReader::new(file).lines().filter_map(|line| match line {
        // The last line may be written at this moment.
        Ok(line) => serde_json::from_str(&line).ok().map(Ok),
        Err(error) => Some(Err(error.into())),
    }))
}

/// When `call` (`patch pods/status`) was asked for the object `name` since `mark`, by whomever: in RFC 3339 with
/// microseconds, earliest first.
///
/// # Errors
/// When the log cannot be read.
pub fn times_since(mark: Mark, call: &str, name: &str) -> Result<Vec<String>> {
    let mut times = Vec::new();
    for entry in entries(mark)? {
        let entry = entry?;
        if called(&entry) == call && entry["objectRef"]["name"] == name {
            times.extend(entry["requestReceivedTimestamp"].as_str().map(str::to_owned));
        }
    }
    times.sort();
    Ok(times)
}

/// `verb resource/subresource` of an entry.
fn called(entry: &Value) -> String {
    let object = &entry["objectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let what = format!("{} {}", text(&entry["verb"]), text(&object["resource"]));
    match object["subresource"].as_str() {
        Some(subresource) => format!("{what}/{subresource}"),
        None => what,
    }
}

/// Writes since `mark` of the ServiceAccount `account` of the installation: `verb resource/subresource` and how often.
///
/// # Errors
/// When the log cannot be read.
pub fn writes_since(mark: Mark, account: &str) -> Result<BTreeMap<String, usize>> {
    let user = format!("system:serviceaccount:{}:{account}", crate::deploy::NAMESPACE);
    let mut writes = BTreeMap::new();
    for entry in entries(mark)? {
        let entry = entry?;
        let verb = entry["verb"].as_str().unwrap_or_default();
        if entry["user"]["username"] != user.as_str() || matches!(verb, "get" | "list" | "watch") {
            continue;
        }
        // Questions that are asked by creating an object which is never stored.
        if entry["objectRef"]["resource"].as_str().is_some_and(|resource| resource.ends_with("reviews")) {
            continue;
        }
        *writes.entry(called(&entry)).or_default() += 1;
    }
    Ok(writes)
}

/// Calls since `mark` that an account of the installation was refused for want of rights: `account verb resource`.
///
/// # Errors
/// When the log cannot be read.
pub fn refused_since(mark: Mark) -> Result<BTreeSet<String>> {
    let prefix = format!("system:serviceaccount:{}:", crate::deploy::NAMESPACE);
    let mut refused = BTreeSet::new();
    for entry in entries(mark)? {
        let entry = entry?;
        let account = entry["user"]["username"].as_str().and_then(|user| user.strip_prefix(&prefix));
        let Some(account) = account.filter(|_| entry["responseStatus"]["code"] == 403) else { continue };
        let object = &entry["objectRef"];
        let part = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let verb = entry["verb"].as_str().unwrap_or_default();
        let mut resource = part("resource");
        if object["subresource"].is_string() {
            resource = format!("{resource}/{}", part("subresource"));
        }
        refused.insert(format!("{account} {verb} {resource} in {:?}", part("namespace")));
    }
    Ok(refused)
}
